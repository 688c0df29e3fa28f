//! Lists and structs of a Parquet file, as the JSON text that the columns `alternates`, `images`, `videos` and `news`
//! have in every other format. Read a row at a time beside the flat columns.

use super::parquet::{check_decimal, write_decimal};
use crate::lastmod;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::RowGroupReader;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::{SchemaDescriptor, Type, TypePtr};

/// Reads some nested columns of one row group.
pub(super) struct Nested<'g> {
    rows: RowIter<'g>,
    /// The columns, in the order of the rows' fields.
    columns: Vec<usize>,
}

impl<'g> Nested<'g> {
    /// Reads `columns`, each with its root in the file's schema; nothing where there are none.
    pub(super) fn open(
        group: &'g dyn RowGroupReader,
        schema: &SchemaDescriptor,
        mut columns: Vec<(usize, TypePtr)>,
    ) -> Result<Option<Self>> {
        if columns.is_empty() {
            return Ok(None);
        }
        let place = |root: &TypePtr| schema.root_schema().get_fields().iter().position(|field| field == root);
        columns.sort_by_key(|(_, root)| place(root));
        let (columns, roots) = columns.into_iter().unzip();
        let wanted = Type::group_type_builder(schema.root_schema().name()).with_fields(roots).build()?;
        Ok(Some(Self { rows: group.get_row_iter(Some(wanted))?, columns }))
    }

    /// Reads the next row, and gives each column with its JSON to `take`.
    pub(super) fn next(&mut self, mut take: impl FnMut(usize, &str)) -> Result<()> {
        let row = self.rows.next().ok_or_else(|| ParquetError::EOF("the nested columns end early".to_owned()))??;
        let mut text = String::new();
        for (column, (_, field)) in self.columns.iter().zip(row.into_columns()) {
            text.clear();
            if field != Field::Null {
                write_json(&field, &mut text);
            }
            take(*column, &text);
        }
        Ok(())
    }
}

/// # Errors
/// Where a part of a column, which lies at `path`, is of a type that is not read.
pub(super) fn check(part: &Type, path: &str) -> Result<()> {
    match part {
        Type::PrimitiveType { .. } => check_decimal(part, path),
        Type::GroupType { fields, .. } => {
            fields.iter().try_for_each(|field| check(field, &format!("{path}.{}", field.name())))
        }
    }
}

fn write_json(field: &Field, out: &mut String) {
    match field {
        Field::Bool(value) => out.push_str(&value.to_string()),
        Field::Byte(value) => out.push_str(&value.to_string()),
        Field::Short(value) => out.push_str(&value.to_string()),
        Field::Int(value) => out.push_str(&value.to_string()),
        Field::Long(value) => out.push_str(&value.to_string()),
        Field::UByte(value) => out.push_str(&value.to_string()),
        Field::UShort(value) => out.push_str(&value.to_string()),
        Field::UInt(value) => out.push_str(&value.to_string()),
        Field::ULong(value) => out.push_str(&value.to_string()),
        Field::Float(value) if value.is_finite() => out.push_str(&value.to_string()),
        Field::Double(value) if value.is_finite() => out.push_str(&value.to_string()),
        Field::Decimal(value) => {
            let mut text = Vec::new();
            write_decimal(value.data(), value.scale().unsigned_abs() as usize, &mut text);
            out.push_str(&String::from_utf8_lossy(&text));
        }
        Field::Str(text) => write_text(text, out),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => write_text(text, out),
            Err(_) => out.push_str("null"),
        },
        Field::Date(days) => write_time(i64::from(*days).saturating_mul(86_400_000_000), Some(10), out),
        Field::TimestampMillis(millis) => write_time(millis.saturating_mul(1000), None, out),
        Field::TimestampMicros(micros) => write_time(*micros, None, out),
        Field::Group(row) => write_struct(row, out),
        Field::ListInternal(list) => {
            out.push('[');
            for (at, element) in list.elements().iter().enumerate() {
                separate(at, out);
                write_json(element, out);
            }
            out.push(']');
        }
        Field::MapInternal(map) => {
            out.push('{');
            for (at, (key, value)) in map.entries().iter().enumerate() {
                separate(at, out);
                let mut name = String::new();
                write_json(key, &mut name);
                if name.starts_with('"') {
                    out.push_str(&name)
                } else {
                    write_text(&name, out)
                }
                out.push(':');
                write_json(value, out);
            }
            out.push('}');
        }
        _ => out.push_str("null"),
    }
}

fn write_struct(row: &Row, out: &mut String) {
    out.push('{');
    for (at, (name, value)) in row.get_column_iter().enumerate() {
        separate(at, out);
        write_text(name, out);
        out.push(':');
        write_json(value, out);
    }
    out.push('}');
}

fn separate(at: usize, out: &mut String) {
    if at > 0 {
        out.push(',');
    }
}

fn write_text(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

/// A time in UTC, or its first `keep` characters; null where no calendar has it.
fn write_time(micros: i64, keep: Option<usize>, out: &mut String) {
    let mut text = Vec::new();
    match lastmod::from_instant(micros, &mut text) {
        Ok(()) => write_text(&String::from_utf8_lossy(&text[..keep.unwrap_or(text.len())]), out),
        Err(_) => out.push_str("null"),
    }
}
