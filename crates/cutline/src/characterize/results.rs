//! Results of a sweep, read back: from its SQLite file, or from CSV as it was exported or written by
//! others.

use std::{fs::File, io::Read, path::Path};

use anyhow::{Context, anyhow, bail};
use rusqlite::types::Value;

use super::Database;

/// How a file of SQLite begins.
const MAGIC: &[u8] = b"SQLite format 3\0";
/// Longest CSV file, in bytes.
const MOST_BYTES: u64 = 64 << 20;

/// A table of text; every row has as many fields as there are columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Results {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Results {
    /// Reads a file of `cutline characterize`, or CSV with a heading.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let unusable = || format!("cannot use `{}`", path.display());
        let file = File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let mut bytes = Vec::new();
        (&file).take(MAGIC.len() as u64).read_to_end(&mut bytes).with_context(unusable)?;
        if bytes == MAGIC {
            return Self::of_database(path).with_context(unusable);
        }
        file.take(MOST_BYTES).read_to_end(&mut bytes).with_context(unusable)?;
        if bytes.len() as u64 >= MOST_BYTES {
            bail!(
                "`{}` is longer than {} MiB; give a part of it",
                path.display(),
                MOST_BYTES >> 20
            );
        }
        let text = String::from_utf8(bytes)
            .ok()
            .with_context(|| format!("`{}` is neither a sweep nor text", path.display()))?;
        Self::parse(&text).with_context(unusable)
    }

    fn of_database(path: &Path) -> anyhow::Result<Self> {
        let table = Database::read(path)?.table()?;
        let columns = table.columns.into_iter().map(|column| column.name).collect();
        let field = |value| match value {
            Value::Null | Value::Blob(_) => String::new(),
            Value::Integer(number) => number.to_string(),
            Value::Real(number) => number.to_string(),
            Value::Text(text) => text,
        };
        let rows = table.rows.into_iter().map(|row| row.into_iter().map(field).collect());
        Ok(Self { columns, rows: rows.collect() })
    }

    /// CSV (RFC 4180): fields in quotes may hold commas, quotes and line ends.
    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut reader = csv::Reader::from_reader(text.trim_start_matches('\u{feff}').as_bytes());
        let columns: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
        if columns.is_empty() {
            bail!("the file is empty; it needs a line that names its columns");
        }
        let rows = reader.records().map(|record| {
            let record = record.map_err(|error| match error.kind() {
                csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
                    let line = pos.as_ref().map_or(0, csv::Position::line);
                    anyhow!("line {line} has {len} fields where the heading has {expected_len}")
                }
                _ => error.into(),
            })?;
            Ok(record.iter().map(str::to_owned).collect())
        });
        Ok(Self { columns, rows: rows.collect::<anyhow::Result<_>>()? })
    }

    /// The place of a column.
    pub(crate) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_may_hold_what_divides_them() {
        let text = "network,n\r\n\"a, \"\"b\"\"\nc\",1\n\nd,\n";
        let found = Results::parse(text).unwrap();
        assert_eq!(found.columns, ["network", "n"]);
        assert_eq!(found.rows, [["a, \"b\"\nc", "1"], ["d", ""]]);
        assert_eq!((found.column("n"), found.column("m")), (Some(1), None));
    }

    #[test]
    fn what_is_no_table_is_refused() {
        for (text, expected) in [
            ("", "names its columns"),
            ("a,b\n1", "line 2 has 1 fields"),
            ("a,b\n\"1,2", "has 1 fields"),
        ] {
            let error = Results::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
