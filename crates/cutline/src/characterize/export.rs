//! The results of a sweep's file as CSV (RFC 4180) and as Parquet, one row for each finished cell.

use std::path::Path;

use anyhow::Context;
use cutline_runtime::files::write_bytes;
use rusqlite::types::Value;

use super::{Database, database::Table};

#[cfg(feature = "parquet")]
mod parquet;

/// Whether this build writes Parquet.
pub(crate) const HAS_PARQUET: bool = cfg!(feature = "parquet");

/// Why a build does not.
const NO_PARQUET: &str =
    "this build writes no Parquet; build it with `--features parquet`, or take --csv";

/// Fails early where an export is asked for that this build has not.
pub(crate) fn check(parquet: Option<&Path>) -> anyhow::Result<()> {
    match parquet {
        Some(_) if !HAS_PARQUET => anyhow::bail!(NO_PARQUET),
        _ => Ok(()),
    }
}

/// Writes what is asked for.
pub(crate) fn write(
    database: &Path,
    csv: Option<&Path>,
    parquet: Option<&Path>,
) -> anyhow::Result<()> {
    if csv.is_none() && parquet.is_none() {
        return Ok(());
    }
    let table = Database::open(database)?.table()?;
    if let Some(path) = csv {
        write_bytes(path, text(&table).into_bytes())?;
    }
    if let Some(path) = parquet {
        let bytes = parquet_bytes(&table).context("cannot write Parquet")?;
        write_bytes(path, bytes)?;
    }
    Ok(())
}

#[cfg(feature = "parquet")]
fn parquet_bytes(table: &Table) -> anyhow::Result<Vec<u8>> {
    parquet::encode(table)
}

#[cfg(not(feature = "parquet"))]
fn parquet_bytes(_: &Table) -> anyhow::Result<Vec<u8>> {
    anyhow::bail!(NO_PARQUET)
}

fn text(table: &Table) -> String {
    let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    let mut csv = crate::report::CsvTable::new(&names);
    for row in &table.rows {
        csv.row(row.iter().map(|value| match value {
            Value::Null => String::new(),
            Value::Integer(number) => number.to_string(),
            Value::Real(number) => number.to_string(),
            Value::Text(text) => text.clone(),
            Value::Blob(bytes) => cutline_core::hex::hex(bytes),
        }));
    }
    csv.text
}
