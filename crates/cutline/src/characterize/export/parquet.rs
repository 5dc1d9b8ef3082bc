//! A table as a Parquet file: one row group, 64-bit integers and UTF-8 strings, uncompressed.

use std::sync::Arc;

use parquet::{
    basic::{LogicalType, Repetition, Type as PhysicalType},
    data_type::{ByteArray, ByteArrayType, Int64Type},
    file::{
        properties::WriterProperties,
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::types::Type,
};
use rusqlite::types::Value;

use super::super::database::{Column, Table};

/// The file's bytes.
pub(super) fn encode(table: &Table) -> anyhow::Result<Vec<u8>> {
    let fields = table.columns.iter().map(field).collect::<Result<Vec<_>, _>>()?;
    let schema = Arc::new(Type::group_type_builder("cells").with_fields(fields).build()?);
    let mut bytes = Vec::new();
    let properties = Arc::new(WriterProperties::builder().build());
    let mut file = SerializedFileWriter::new(&mut bytes, schema, properties)?;
    let mut group = file.next_row_group()?;
    for (at, column) in table.columns.iter().enumerate() {
        write(&mut group, column, table.rows.iter().map(|row| &row[at]))?;
    }
    group.close()?;
    file.close()?;
    Ok(bytes)
}

fn field(column: &Column) -> Result<Arc<Type>, parquet::errors::ParquetError> {
    let (physical, logical) = match column.is_text {
        true => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
        false => (PhysicalType::INT64, None),
    };
    let field = Type::primitive_type_builder(&column.name, physical)
        .with_logical_type(logical)
        .with_repetition(Repetition::OPTIONAL)
        .build()?;
    Ok(Arc::new(field))
}

/// Values that are there, and for each row whether one is.
fn write<'a, W: std::io::Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    column: &Column,
    values: impl Iterator<Item = &'a Value>,
) -> anyhow::Result<()> {
    let (mut texts, mut numbers, mut there) = (Vec::new(), Vec::new(), Vec::new());
    for value in values {
        there.push(i16::from(*value != Value::Null));
        match value {
            Value::Text(text) => texts.push(ByteArray::from(text.as_str())),
            Value::Integer(number) => numbers.push(*number),
            _ => {}
        }
    }
    let Some(mut writer) = group.next_column()? else {
        anyhow::bail!("no column for `{}`", column.name);
    };
    match column.is_text {
        true => {
            writer.typed::<ByteArrayType>().write_batch(&texts, Some(&there), None)?;
        }
        false => {
            writer.typed::<Int64Type>().write_batch(&numbers, Some(&there), None)?;
        }
    }
    writer.close()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use parquet::{
        file::reader::{FileReader, SerializedFileReader},
        record::RowAccessor,
    };

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let column = |name: &str, is_text| Column { name: name.to_owned(), is_text };
        let table = Table {
            columns: vec![
                column("network", true),
                column("median_ns", false),
                column("error", true),
            ],
            rows: vec![
                vec![Value::Text("lenet5".to_owned()), Value::Integer(42), Value::Null],
                vec![Value::Text("ö".to_owned()), Value::Null, Value::Text("why".to_owned())],
            ],
        };
        let bytes = Bytes::from(encode(&table).unwrap());
        let reader = SerializedFileReader::new(bytes).unwrap();
        let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].get_string(0).unwrap(), "lenet5");
        assert_eq!(rows[0].get_long(1).unwrap(), 42);
        assert!(rows[0].get_string(2).is_err(), "absent");
        assert!(rows[1].get_long(1).is_err(), "absent");
        assert_eq!(
            (rows[1].get_string(0).unwrap(), rows[1].get_string(2).unwrap()),
            (&"ö".to_owned(), &"why".to_owned())
        );
    }

    #[test]
    fn a_table_without_rows_is_a_file_too() {
        let columns = vec![Column { name: "id".to_owned(), is_text: true }];
        let bytes = Bytes::from(encode(&Table { columns, rows: Vec::new() }).unwrap());
        let reader = SerializedFileReader::new(bytes).unwrap();
        assert_eq!(reader.get_row_iter(None).unwrap().count(), 0);
    }
}
