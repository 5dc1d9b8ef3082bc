//! Results of a sweep, read back: from its SQLite file, or from CSV as it was exported or written by
//! others.

use std::{fs::File, io::Read, path::Path};

use anyhow::{Context, bail};
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
        let mut records = records(text)?.into_iter();
        let columns: Vec<String> =
            records.next().context("the file is empty; it needs a line that names its columns")?;
        let mut rows = Vec::new();
        for (number, row) in (2..).zip(records) {
            if row.len() != columns.len() {
                let (found, wanted) = (row.len(), columns.len());
                bail!("record {number} has {found} fields where the heading has {wanted}");
            }
            rows.push(row);
        }
        Ok(Self { columns, rows })
    }

    /// The place of a column.
    pub(crate) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column == name)
    }
}

/// The records of CSV; lines without anything are none.
fn records(text: &str) -> anyhow::Result<Vec<Vec<String>>> {
    let (mut records, mut record, mut field) = (Vec::new(), Vec::new(), String::new());
    let mut quoted = false;
    let mut characters = text.trim_start_matches('\u{feff}').chars().peekable();
    while let Some(character) = characters.next() {
        match (quoted, character) {
            (true, '"') if characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            (true, '"') => quoted = false,
            (true, other) => field.push(other),
            (false, '"') if field.is_empty() => quoted = true,
            (false, ',') => record.push(std::mem::take(&mut field)),
            (false, '\r') if characters.peek() == Some(&'\n') => {}
            (false, '\n') => end(&mut records, &mut record, &mut field),
            (false, other) => field.push(other),
        }
    }
    if quoted {
        bail!("a quoted field does not end");
    }
    end(&mut records, &mut record, &mut field);
    Ok(records)
}

fn end(records: &mut Vec<Vec<String>>, record: &mut Vec<String>, field: &mut String) {
    if record.is_empty() && field.is_empty() {
        return;
    }
    record.push(std::mem::take(field));
    records.push(std::mem::take(record));
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
        for (text, expected) in
            [("", "names its columns"), ("a,b\n1", "1 fields"), ("a\n\"b", "does not end")]
        {
            let error = Results::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
