//! Lists and structs of a Parquet file, as the JSON text that the columns `alternates`, `images`, `videos` and `news`
//! have in every other format. Read a row at a time beside the flat columns.

use super::value::{Meaning, check_decimal, meaning, write_decimal, write_number};
use parquet::basic::{ConvertedType, Repetition};
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::RowGroupReader;
use parquet::record::reader::{Reader, ReaderIter, TreeBuilder};
use parquet::record::{Field, Row};
use parquet::schema::types::{SchemaDescriptor, Type};
use std::sync::Arc;

/// Reads some nested columns of one row group.
pub(super) struct Nested {
    rows: ReaderIter,
    /// The columns with what their values are made of, in the order of the rows' fields.
    columns: Vec<(usize, Shape)>,
}

/// What a value is made of. Values themselves do not tell whether a time has a zone.
enum Shape {
    Leaf(Meaning),
    Struct(Vec<Shape>),
    List(Box<Shape>),
    Map(Box<(Shape, Shape)>),
}

impl Shape {
    fn of(reader: &Reader) -> Self {
        match reader {
            Reader::PrimitiveReader(leaf, _) => Self::Leaf(meaning(leaf)),
            Reader::OptionReader(_, inner) => Self::of(inner),
            Reader::GroupReader(_, _, fields) => Self::Struct(fields.iter().map(Self::of).collect()),
            Reader::RepeatedReader(.., element) => Self::List(Box::new(Self::of(element))),
            Reader::KeyValueReader(.., key, value) => Self::Map(Box::new((Self::of(key), Self::of(value)))),
        }
    }
}

impl Nested {
    /// Reads `columns`, each with the place of its root in the file's schema, in that order; nothing where there are
    /// none.
    pub(super) fn open(
        group: &dyn RowGroupReader,
        schema: &SchemaDescriptor,
        columns: &[(usize, usize)],
    ) -> Result<Option<Self>> {
        if columns.is_empty() {
            return Ok(None);
        }
        let roots = columns.iter().map(|(_, at)| schema.root_schema().get_fields()[*at].clone()).collect();
        let wanted = Type::group_type_builder(schema.root_schema().name()).with_fields(roots).build()?;
        let wanted = Arc::new(SchemaDescriptor::new(Arc::new(wanted)));
        let Shape::Struct(shapes) = Shape::of(&TreeBuilder::new().build(wanted.clone(), group)?) else {
            return Ok(None);
        };
        let columns = columns.iter().map(|(column, _)| *column).zip(shapes).collect();
        Ok(Some(Self { rows: TreeBuilder::new().as_iter(wanted, group)?, columns }))
    }

    /// Reads the next row, and gives each column with its JSON to `take`.
    pub(super) fn next(&mut self, mut take: impl FnMut(usize, &str)) -> Result<()> {
        let row = self.rows.next().ok_or_else(|| ParquetError::EOF("the nested columns end early".to_owned()))??;
        let mut text = String::new();
        for ((column, shape), (_, field)) in self.columns.iter().zip(row.into_columns()) {
            text.clear();
            if field != Field::Null {
                write_json(&field, shape, &mut text);
            }
            take(*column, &text);
        }
        Ok(())
    }
}

/// # Errors
/// Where a part of a column, which lies at `path`, is of a type that is not read. The library would panic at it.
pub(super) fn check(part: &Type, path: &str) -> Result<()> {
    let info = part.get_basic_info();
    let kind = info.converted_type();
    let repeated = |field: &Type| {
        let info = field.get_basic_info();
        info.has_repetition() && info.repetition() == Repetition::REPEATED
    };
    let (good, inside) = match part {
        Type::PrimitiveType { .. } => {
            check_decimal(part, path)?;
            (kind != ConvertedType::INTERVAL, [].as_slice())
        }
        Type::GroupType { fields, .. } => match (kind, fields.as_slice()) {
            (ConvertedType::LIST, [element]) => (repeated(element), fields.as_slice()),
            (ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE, [entry]) if entry.is_group() => {
                // What an entry is marked as means nothing.
                let pair = entry.get_fields();
                (repeated(entry) && matches!(pair.len(), 1 | 2), pair)
            }
            (ConvertedType::LIST | ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE, _) => (false, [].as_slice()),
            (_, fields) => (!fields.is_empty(), fields),
        },
    };
    if !good || !info.has_repetition() {
        return Err(ParquetError::General(format!("column {path} is of a type that is not read ({kind})")));
    }
    inside.iter().try_for_each(|field| check(field, &format!("{path}.{}", field.name())))
}

fn write_json(field: &Field, shape: &Shape, out: &mut String) {
    match (field, shape) {
        (Field::Group(row), Shape::Struct(shapes)) => write_struct(row, shapes, out),
        (Field::ListInternal(list), Shape::List(shape)) => {
            out.push('[');
            for (at, element) in list.elements().iter().enumerate() {
                separate(at, out);
                write_json(element, shape, out);
            }
            out.push(']');
        }
        (Field::MapInternal(map), Shape::Map(shapes)) => {
            out.push('{');
            for (at, (key, value)) in map.entries().iter().enumerate() {
                separate(at, out);
                let mut name = String::new();
                write_json(key, &shapes.0, &mut name);
                if name.starts_with('"') {
                    out.push_str(&name)
                } else {
                    write_text(&name, out)
                }
                out.push(':');
                write_json(value, &shapes.1, out);
            }
            out.push('}');
        }
        (value, Shape::Leaf(meaning)) => write_leaf(value, *meaning, out),
        _ => out.push_str("null"),
    }
}

fn write_leaf(field: &Field, meaning: Meaning, out: &mut String) {
    match field {
        Field::Bool(value) => out.push_str(&value.to_string()),
        Field::Byte(value) => out.push_str(&value.to_string()),
        Field::Short(value) => out.push_str(&value.to_string()),
        Field::Int(value) => out.push_str(&value.to_string()),
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
        Field::Long(value) if meaning == Meaning::Plain => out.push_str(&value.to_string()),
        Field::Date(days) => write_time(i64::from(*days), meaning, out),
        Field::Long(value) | Field::TimestampMillis(value) | Field::TimestampMicros(value) => {
            write_time(*value, meaning, out)
        }
        _ => out.push_str("null"),
    }
}

fn write_struct(row: &Row, shapes: &[Shape], out: &mut String) {
    out.push('{');
    for (at, ((name, value), shape)) in row.get_column_iter().zip(shapes).enumerate() {
        separate(at, out);
        write_text(name, out);
        out.push(':');
        write_json(value, shape, out);
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

fn write_time(value: i64, meaning: Meaning, out: &mut String) {
    let mut text = Vec::new();
    write_number(value, meaning, &mut text);
    write_text(&String::from_utf8_lossy(&text), out);
}
