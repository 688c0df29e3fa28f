//! Parquet, by columns: only those that are wanted are read, a batch of rows at a time.

use super::nested::{Nested, check};
use super::value::{check_decimal, meaning, write_bytes, write_int96, write_number};
use super::{Sink, SourceError};
use crate::columns::{COLUMNS, Column, Columns, Places};
use crate::pages::RawPage;
use parquet::basic::{Compression, Repetition};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};
use std::fs::File;
use std::path::Path;

/// Rows read at once.
const BATCH_ROWS: usize = 4096;
/// A column of a row group that is not larger than this is held whole, whatever its pages are, in bytes.
const SMALL_COLUMN_BYTES: u64 = 256 << 10;
/// The texts of one column of a batch, end to end.
#[derive(Debug, Default)]
struct Texts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Texts {
    /// The text of row `at`; a column that is read a row at a time has only the one that is in hand, and one that
    /// is not there has none.
    fn get(&self, at: usize) -> &[u8] {
        if self.ends.is_empty() {
            return &self.bytes;
        }
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start..self.ends[at]]
    }

    /// Holds `text` alone.
    fn replace(&mut self, text: &str) {
        self.bytes.clear();
        self.bytes.extend_from_slice(text.as_bytes());
    }
}

pub(super) fn read<T: Sink>(path: &Path, file: File, sink: &mut T) -> Result<(), SourceError<T::Stop>> {
    let broken = |row, error| broken(path, row, error);
    let reader = SerializedFileReader::new(file).map_err(|error| broken(0, error))?;
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let roots = schema.root_schema().get_fields();
    let places = sink.columns().places(roots.iter().map(|root| root.name()));
    let places = places.map_err(|problem| SourceError::Header { path: path.to_owned(), problem })?;
    let (flat, nested) = wanted(&schema, &places).map_err(|error| broken(0, error))?;
    let mut row = 0_u64;
    for group_at in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group_at).map_err(|error| broken(row, error))?;
        let mut left = usize::try_from(group.metadata().num_rows()).unwrap_or_default();
        let mut readers = Vec::new();
        for (column, leaf) in &flat {
            check_packing(group.metadata().column(*leaf).compression()).map_err(|error| broken(row, error))?;
            let opened = group.get_column_reader(*leaf).map_err(|error| broken(row, error))?;
            readers.push((*column, opened, schema.columns()[*leaf].as_ref()));
        }
        let nested = Nested::open(group.as_ref(), &schema, &nested);
        let mut nested = nested.map_err(|error| broken(row, error))?;
        while left > 0 {
            let count = left.min(BATCH_ROWS);
            let mut texts: [Texts; COLUMNS.len()] = Default::default();
            for (column, reader, descriptor) in &mut readers {
                read_texts(reader, descriptor, count, &mut texts[*column]).map_err(|error| broken(row + 1, error))?;
            }
            for at in 0..count {
                row += 1;
                if let Some(nested) = &mut nested {
                    let kept = nested.next(|column, json| texts[column].replace(json));
                    kept.map_err(|error| broken(row, error))?;
                }
                let page = RawPage { fields: texts.each_ref().map(|texts| texts.get(at)), line: row };
                sink.page(&page).map_err(SourceError::Stopped)?;
            }
            left -= count;
        }
    }
    Ok(())
}

fn broken<S>(path: &Path, row: u64, error: ParquetError) -> SourceError<S> {
    let problem = format!("cannot be read as Parquet: {error}");
    SourceError::Broken { path: path.to_owned(), line: row, problem }
}

/// Whether a column with this packing can be read; what nearly no writer uses has no library here.
fn check_packing(packing: Compression) -> Result<(), ParquetError> {
    let name = match packing {
        Compression::BROTLI(_) => "Brotli",
        Compression::LZO => "LZO",
        _ => return Ok(()),
    };
    Err(ParquetError::General(format!("it is packed with {name}: write it with Zstandard, Snappy, gzip or LZ4")))
}

/// What [`read`] holds of the file at once, roughly, in bytes: of every column that is read its largest page and its
/// dictionary, uncompressed. Usual writers end a page at a MiB; some make one of a whole row group.
pub(super) fn held_bytes<S>(path: &Path, file: File, columns: &Columns) -> Result<u64, SourceError<S>> {
    let broken = |error| broken(path, 0, error);
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let roots = reader.metadata().file_metadata().schema_descr().root_schema().get_fields();
    let read: Vec<bool> = roots.iter().map(|root| columns.find(root.name()).is_some()).collect();
    let mut held = 0;
    for group_at in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group_at).map_err(broken)?;
        let schema = reader.metadata().file_metadata().schema_descr();
        let mut of_group = 0;
        for leaf in (0..schema.num_columns()).filter(|leaf| read[schema.get_column_root_idx(*leaf)]) {
            of_group += held_of_column(group.as_ref(), leaf);
        }
        held = held.max(of_group);
    }
    Ok(held)
}

/// The same of one column of a row group. Pages tell only how many values they have, so their sizes are reckoned from
/// the column's.
fn held_of_column(group: &dyn RowGroupReader, leaf: usize) -> u64 {
    let column = group.metadata().column(leaf);
    let number = |value: i64| u64::try_from(value).unwrap_or_default();
    let (bytes, packed) = (number(column.uncompressed_size()), number(column.compressed_size()));
    if bytes <= SMALL_COLUMN_BYTES {
        return bytes;
    }
    let dictionary = column.dictionary_page_offset().map_or(0, |at| number(column.data_page_offset() - at));
    let dictionary = bytes.saturating_mul(dictionary) / packed.max(1);
    let values = number(column.num_values()).max(1);
    // Where the headers cannot be followed the whole column counts; what is wrong is told when it is read.
    let largest = largest_page(group, leaf).unwrap_or(values);
    dictionary + bytes.saturating_sub(dictionary).saturating_mul(largest) / values
}

/// How many values the largest page of a column has.
fn largest_page(group: &dyn RowGroupReader, leaf: usize) -> Option<u64> {
    let mut pages = group.get_column_page_reader(leaf).ok()?;
    let mut largest = 0;
    while let Some(page) = pages.peek_next_page().ok()? {
        if !page.is_dict {
            largest = largest.max(page.num_levels? as u64);
        }
        pages.skip_next_page().ok()?;
    }
    Some(largest)
}

/// Flat columns with the leaf that holds each, and nested ones with the place of their root, in its order.
type Wanted = (Vec<(usize, usize)>, Vec<(usize, usize)>);

fn wanted(schema: &SchemaDescriptor, places: &Places) -> Result<Wanted, ParquetError> {
    let (mut flat, mut nested) = (Vec::new(), Vec::new());
    for (column, place) in places.iter().enumerate() {
        let Some(at) = *place else { continue };
        let root = &schema.root_schema().get_fields()[at];
        if root.is_primitive() && root.get_basic_info().repetition() != Repetition::REPEATED {
            // By its place: a field of a struct may have the same name and type.
            let leaf = (0..schema.num_columns()).find(|leaf| schema.get_column_root_idx(*leaf) == at);
            check_decimal(root, root.name())?;
            flat.push((column, leaf.ok_or_else(|| ParquetError::General(format!("{} has no values", root.name())))?));
        } else if column >= Column::Alternates as usize {
            check(root, root.name())?;
            nested.push((column, at));
        } else {
            return Err(ParquetError::General(format!("column {} is a list: give one value a row", root.name())));
        }
    }
    nested.sort_by_key(|(_, at)| *at);
    Ok((flat, nested))
}

fn read_texts(
    reader: &mut ColumnReader,
    column: &ColumnDescriptor,
    count: usize,
    texts: &mut Texts,
) -> Result<(), ParquetError> {
    let meaning = meaning(column.self_type());
    match reader {
        ColumnReader::ByteArrayColumnReader(reader) => {
            each(reader, column, count, texts, |value: &ByteArray, out| write_bytes(value.data(), meaning, out))
        }
        ColumnReader::FixedLenByteArrayColumnReader(reader) => {
            each(reader, column, count, texts, |value, out| write_bytes(value.data(), meaning, out))
        }
        ColumnReader::BoolColumnReader(reader) => {
            each(reader, column, count, texts, |value, out| out.extend_from_slice(value.to_string().as_bytes()))
        }
        ColumnReader::Int32ColumnReader(reader) => {
            each(reader, column, count, texts, |value, out| write_number(i64::from(*value), meaning, out))
        }
        ColumnReader::Int64ColumnReader(reader) => {
            each(reader, column, count, texts, |value, out| write_number(*value, meaning, out))
        }
        ColumnReader::Int96ColumnReader(reader) => each(reader, column, count, texts, write_int96),
        ColumnReader::FloatColumnReader(reader) => {
            each(reader, column, count, texts, |value, out| out.extend_from_slice(value.to_string().as_bytes()))
        }
        ColumnReader::DoubleColumnReader(reader) => {
            each(reader, column, count, texts, |value, out| out.extend_from_slice(value.to_string().as_bytes()))
        }
    }
}

/// Reads `count` values of a flat column and writes each, or nothing for a null.
fn each<D: DataType>(
    reader: &mut ColumnReaderImpl<D>,
    column: &ColumnDescriptor,
    count: usize,
    texts: &mut Texts,
    write: impl Fn(&D::T, &mut Vec<u8>),
) -> Result<(), ParquetError> {
    let nullable =
        column.max_def_level() > 0 || column.self_type().get_basic_info().repetition() == Repetition::OPTIONAL;
    let (mut values, mut levels) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let mut read = 0;
    while read < count {
        let levels = nullable.then_some(&mut levels);
        let (records, _, _) = reader.read_records(count - read, levels, None, &mut values)?;
        if records == 0 {
            return Err(ParquetError::EOF(format!("column {} ends early", column.name())));
        }
        read += records;
    }
    let mut values = values.iter();
    for at in 0..count {
        let present = levels.get(at).is_none_or(|level| *level == column.max_def_level());
        if present && let Some(value) = values.next() {
            write(value, &mut texts.bytes);
        }
        texts.ends.push(texts.bytes.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::List;
    use crate::source::tests::Kept;
    use crate::source::value::Meaning;
    use parquet::data_type::{ByteArrayType, FixedLenByteArrayType, Int32Type, Int64Type, Int96, Int96Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
    use parquet::schema::parser::parse_message_type;
    use std::sync::Arc;

    const SCHEMA: &str = "message pages {
        required binary loc (UTF8);
        optional int64 lastmod (TIMESTAMP(MILLIS,true));
        optional int32 status;
        optional int96 unused;
    }";

    fn write(path: &Path, schema: &str, rows: usize, time: i64) {
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = Arc::new(WriterProperties::builder().build());
        let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
        for group_at in 0..2 {
            let mut group = writer.next_row_group().unwrap();
            while let Some(mut column) = group.next_column().unwrap() {
                let levels: Vec<i16> = (0..rows).map(|at| i16::from(at % 2 == 0)).collect();
                let half = rows.div_ceil(2);
                match column.untyped() {
                    parquet::column::writer::ColumnWriter::ByteArrayColumnWriter(_) => {
                        let values: Vec<ByteArray> =
                            (0..rows).map(|at| format!("/p/{group_at}/{at:06}").as_str().into()).collect();
                        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
                    }
                    parquet::column::writer::ColumnWriter::Int64ColumnWriter(_) => {
                        column.typed::<Int64Type>().write_batch(&vec![time; half], Some(&levels), None).unwrap();
                    }
                    parquet::column::writer::ColumnWriter::Int32ColumnWriter(_) => {
                        column.typed::<Int32Type>().write_batch(&vec![404; half], Some(&levels), None).unwrap();
                    }
                    _ => {
                        let mut value = Int96::new();
                        value.set_data(3_600_000_000_000_u64 as u32, (3_600_000_000_000_u64 >> 32) as u32, 2_461_002);
                        column.typed::<Int96Type>().write_batch(&vec![value; half], Some(&levels), None).unwrap();
                    }
                }
                column.close().unwrap();
            }
            group.close().unwrap();
        }
        writer.close().unwrap();
    }

    fn parse(schema: &str, rows: usize, time: i64) -> Kept {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages.parquet");
        write(&path, schema, rows, time);
        let mut kept = Kept::default();
        read(&path, File::open(&path).unwrap(), &mut kept).unwrap();
        kept
    }

    #[test]
    fn rows_of_all_groups_and_batches_are_read_with_their_nulls() {
        let kept = parse(SCHEMA, BATCH_ROWS + 3, 1_763_800_000_000);
        assert_eq!(kept.pages.len(), 2 * (BATCH_ROWS + 3));
        assert_eq!(
            (kept.pages[0].0, kept.pages[0].1[..6].to_vec()),
            (1, ["/p/0/000000", "2025-11-22T08:26:40Z", "", "", "", "404"].map(String::from).to_vec())
        );
        assert!(kept.pages[1].1[1..].iter().all(String::is_empty));
        let (line, fields) = kept.pages.last().unwrap();
        assert_eq!((*line, fields[0].as_str()), (2 * (BATCH_ROWS as u64 + 3), "/p/1/004098"));
    }

    /// Writes `locs` with a page for as many values as a page of `page_bytes` takes, or one for all where there is room.
    fn write_locs(path: &Path, locs: &[String], page_bytes: usize, dictionary: bool) {
        write_packed(path, locs, page_bytes, dictionary, Compression::SNAPPY);
    }

    fn write_packed(path: &Path, locs: &[String], page_bytes: usize, dictionary: bool, packing: Compression) {
        let schema = Arc::new(parse_message_type("message pages { required binary loc (UTF8); }").unwrap());
        let properties = WriterProperties::builder()
            .set_data_page_size_limit(page_bytes)
            .set_data_page_row_count_limit(usize::MAX)
            .set_write_batch_size(256)
            .set_dictionary_enabled(dictionary)
            .set_dictionary_page_size_limit(usize::MAX)
            .set_compression(packing);
        let file = File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties.build())).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = locs.iter().map(|loc| loc.as_str().into()).collect();
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn every_packing_that_a_usual_writer_has_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages.parquet");
        let locs: Vec<String> = (0..3_000).map(|at| format!("/{at:0>99}")).collect();
        let (gzip, zstd) = (Compression::GZIP(Default::default()), Compression::ZSTD(Default::default()));
        for packing in
            [Compression::UNCOMPRESSED, Compression::SNAPPY, gzip, zstd, Compression::LZ4, Compression::LZ4_RAW]
        {
            write_packed(&path, &locs, 1 << 16, true, packing);
            let mut kept = Kept::default();
            read(&path, File::open(&path).unwrap(), &mut kept).unwrap();
            assert!(kept.pages.iter().map(|(_, fields)| &fields[0]).eq(&locs), "{packing:?}");
        }
    }

    #[test]
    fn a_packing_that_is_not_read_is_told_with_those_that_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages.parquet");
        write_packed(&path, &["/a".to_owned()], 1 << 16, false, Compression::UNCOMPRESSED);
        // No writer here has one: what the footer says of the column's codec is made another, in Thrift's compact protocol.
        let mut bytes = std::fs::read(&path).unwrap();
        let codec = bytes.windows(5).rposition(|window| window == b"loc\x15\x00").unwrap() + 4;
        for (number, name) in [(4, "Brotli"), (3, "LZO")] {
            bytes[codec] = number << 1;
            std::fs::write(&path, &bytes).unwrap();
            let error = read(&path, File::open(&path).unwrap(), &mut Kept::default()).unwrap_err().to_string();
            assert!(error.contains(&format!("packed with {name}: write it with Zstandard")), "{error}");
        }
    }

    #[test]
    fn what_is_held_is_the_largest_page_and_the_dictionary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages.parquet");
        let locs: Vec<String> = (0..40_000).map(|at| format!("/{at:0>199}")).collect();
        let held = |page_bytes, dictionary, columns: &Columns| {
            write_locs(&path, &locs, page_bytes, dictionary);
            held_bytes::<()>(&path, File::open(&path).unwrap(), columns).unwrap()
        };
        let all = 40_000 * 204;
        let near = |held: u64, wanted: u64| held >= wanted && held < wanted + wanted / 8;
        assert!(near(held(usize::MAX, false, &Columns::default()), all));
        assert!(near(held(1 << 20, false, &Columns::default()), 1 << 20));
        assert!(near(held(1 << 20, true, &Columns::default()), all));
        let mut others = Columns::default();
        others.rename("loc", "url").unwrap();
        assert_eq!(held(usize::MAX, false, &others), 0);
    }

    #[test]
    fn a_list_that_would_hold_more_than_its_share_is_spooled_and_gives_the_same_rows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages.parquet");
        let locs: Vec<String> = (0..40_000).map(|at| format!("/{at:0>199}")).collect();
        let prepare = |count| List::prepare::<()>(&path, count, dir.path(), Columns::default()).unwrap();
        for (page_bytes, count, spooled) in
            [(usize::MAX, 2, false), (usize::MAX, 3, true), (usize::MAX, 100, true), (1 << 20, 100, false)]
        {
            write_locs(&path, &locs, page_bytes, false);
            let list = prepare(count);
            assert_eq!(list.is_spooled(), spooled, "{page_bytes} {count}");
            let (mut plain, mut kept) = (Kept::default(), Kept::default());
            read(&path, File::open(&path).unwrap(), &mut plain).unwrap();
            list.read(&mut kept).unwrap();
            assert_eq!(kept.pages, plain.pages);
        }
        let none = Path::new("/nowhere");
        write_locs(&path, &locs, usize::MAX, false);
        let error = List::prepare::<()>(&path, 9, none, Columns::default()).map(drop).unwrap_err().to_string();
        assert!(error.contains("pages.parquet to /nowhere") && error.contains("free space"), "{error}");
    }

    #[test]
    fn times_come_out_as_what_the_column_says_they_are() {
        let lastmod = |column: &str, time| {
            let schema = format!("message pages {{ required binary loc (UTF8); optional {column}; }}");
            parse(&schema, 1, time).pages[0].1[1].clone()
        };
        assert_eq!(lastmod("int64 lastmod (TIMESTAMP(MICROS,false))", 1_763_800_000_500_000), "2025-11-22T08:26:40.5");
        assert_eq!(lastmod("int64 lastmod (TIMESTAMP(NANOS,true))", 1_763_800_000_000_000_000), "2025-11-22T08:26:40Z");
        assert_eq!(lastmod("int64 lastmod (TIMESTAMP_MILLIS)", 1_763_800_000_000), "2025-11-22T08:26:40Z");
        assert_eq!(lastmod("int96 lastmod", 0), "2025-11-22T01:00:00");
        let mut date = Vec::new();
        write_number(20_414, Meaning::Days, &mut date);
        assert_eq!(date, b"2025-11-22");
    }

    /// Writes the one value of a leaf.
    type Put = Box<dyn Fn(&mut SerializedColumnWriter<'_>)>;

    fn put<D: DataType>(value: impl Into<D::T>) -> Put {
        let value = [value.into()];
        Box::new(move |column| {
            let column = column.typed::<D>();
            let level = column.get_descriptor().max_def_level();
            column.write_batch(&value, Some(&[level]), Some(&[0])).unwrap();
        })
    }

    /// Reads a file of one row, whose leaves are `puts`.
    fn read_row(fields: &str, puts: &[Put]) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages.parquet");
        let schema = Arc::new(parse_message_type(&format!("message pages {{ {fields} }}")).unwrap());
        let mut writer = SerializedFileWriter::new(File::create(&path).unwrap(), schema, Arc::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for put in puts {
            let mut column = group.next_column().unwrap().unwrap();
            put(&mut column);
            column.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
        let mut kept = Kept::default();
        read(&path, File::open(&path).unwrap(), &mut kept).map_err(|error| error.to_string())?;
        Ok(kept.pages.remove(0).1)
    }

    /// Reads the one value of a column beside loc.
    fn read_value(column: Column, field: &str, value: Put) -> Result<String, String> {
        let row = read_row(&format!("required binary loc (UTF8); {field}"), &[put::<ByteArrayType>("/a"), value]);
        row.map(|mut row| row.swap_remove(column as usize))
    }

    #[test]
    fn a_field_of_a_struct_is_no_column_whatever_its_name() {
        let fields =
            "required group meta { required binary loc (UTF8); optional int64 lastmod (TIMESTAMP(MILLIS,true)); }
            required binary loc (UTF8);
            optional int64 lastmod (TIMESTAMP(MILLIS,true));";
        let (time, text) = (put::<Int64Type>, put::<ByteArrayType>);
        let row = read_row(fields, &[text("/wrong"), time(0), text("/right"), time(1_763_800_000_000_i64)]).unwrap();
        assert_eq!(row[..2], ["/right", "2025-11-22T08:26:40Z"]);
    }

    #[test]
    fn decimals_have_their_point_where_the_column_says() {
        let priority = |form: &str, value| read_value(Column::Priority, &form.replace('@', "priority"), value).unwrap();
        let bytes = |value: i128, count: usize| value.to_be_bytes()[16 - count..].to_vec();
        assert_eq!(priority("optional int32 @ (DECIMAL(1,1));", put::<Int32Type>(1)), "0.1");
        assert_eq!(priority("optional int32 @ (DECIMAL(3,3));", put::<Int32Type>(-7)), "-0.007");
        assert_eq!(priority("optional int64 @ (DECIMAL(18,2));", put::<Int64Type>(-1250)), "-12.5");
        assert_eq!(priority("optional int64 @ (DECIMAL(18,0));", put::<Int64Type>(100)), "100");
        assert_eq!(priority("optional int64 @ (DECIMAL(18,2));", put::<Int64Type>(0)), "0");
        let fixed = put::<FixedLenByteArrayType>(bytes(-1255, 3));
        assert_eq!(priority("optional fixed_len_byte_array(3) @ (DECIMAL(5,2));", fixed), "-12.55");
        let most = i128::pow(10, 38) - 1;
        let fixed = put::<FixedLenByteArrayType>(bytes(-most, 16));
        let nines = format!("-9.{}", "9".repeat(37));
        assert_eq!(priority("optional fixed_len_byte_array(16) @ (DECIMAL(38,37));", fixed), nines);
        let binary = put::<ByteArrayType>(bytes(200, 2));
        assert_eq!(priority("optional binary @ (DECIMAL(9,2));", binary), "2");
        let rating = "optional group videos { optional int32 rating (DECIMAL(2,1)); }";
        assert_eq!(read_value(Column::Videos, rating, put::<Int32Type>(45)).unwrap(), r#"{"rating":4.5}"#);
        let wide = "optional binary priority (DECIMAL(39,0));";
        let nested = format!("optional group videos {{ {wide} }}");
        for (column, field) in [(Column::Priority, wide), (Column::Videos, nested.as_str())] {
            let error = read_value(column, field, put::<ByteArrayType>(bytes(1, 16))).unwrap_err();
            assert!(error.contains("priority") && error.contains("38 digits"), "{error}");
        }
    }

    #[test]
    fn times_in_lists_and_structs_have_a_zone_only_where_the_file_says_so() {
        let news = |field: &str, value| {
            let field = format!("optional group news {{ optional {field}; }}");
            read_value(Column::News, &field, value).unwrap()
        };
        let date = |time: &str| format!(r#"{{"publication_date":"{time}"}}"#);
        let (micros, nanos) = (1_763_800_000_500_000_i64, 1_763_800_000_500_000_000_i64);
        let name = "int64 publication_date";
        for (unit, value) in [("MILLIS", micros / 1000), ("MICROS", micros), ("NANOS", nanos)] {
            let local = news(&format!("{name} (TIMESTAMP({unit},false))"), put::<Int64Type>(value));
            assert_eq!(local, date("2025-11-22T08:26:40.5"), "{unit}");
            let utc = news(&format!("{name} (TIMESTAMP({unit},true))"), put::<Int64Type>(value));
            assert_eq!(utc, date("2025-11-22T08:26:40.5Z"), "{unit}");
        }
        assert_eq!(news(&format!("{name} (TIMESTAMP_MILLIS)"), put::<Int64Type>(0)), date("1970-01-01T00:00:00Z"));
        assert_eq!(news("int32 publication_date (DATE)", put::<Int32Type>(20_414)), date("2025-11-22"));
        let hour = 3_600_000_000_000_u64;
        let old = Int96::from(vec![hour as u32, (hour >> 32) as u32, 2_461_002]);
        assert_eq!(news("int96 publication_date", put::<Int96Type>(old)), date("2025-11-22T01:00:00"));
        let lists = "optional group videos (LIST) { repeated group list { optional group element {
            optional group dates (MAP) { repeated group map (MAP_KEY_VALUE) {
                required int32 key; optional int96 value; } } } } }";
        let row = [put::<ByteArrayType>("/a"), put::<Int32Type>(1), put::<Int96Type>(old)];
        let row = read_row(&format!("required binary loc (UTF8); {lists}"), &row).unwrap();
        assert_eq!(row[Column::Videos as usize], r#"[{"dates":{"1":"2025-11-22T01:00:00"}}]"#);
    }

    #[test]
    fn a_struct_that_cannot_be_read_says_where_it_is() {
        let fixed = || put::<FixedLenByteArrayType>(vec![0; 12]);
        let interval = "optional group news { optional fixed_len_byte_array(12) length (INTERVAL); }";
        let error = read_value(Column::News, interval, fixed()).unwrap_err();
        assert!(
            error.contains("pages.parquet") && error.contains("news.length") && error.contains("INTERVAL"),
            "{error}"
        );
        for images in [
            "optional group images (LIST) { optional binary a (UTF8); }",
            "optional group images (MAP) { repeated binary a (UTF8); }",
        ] {
            let error = read_value(Column::Images, images, put::<ByteArrayType>("/a.jpg")).unwrap_err();
            assert!(error.contains("pages.parquet") && error.contains("images"), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_no_parquet_or_has_no_loc_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages.parquet");
        std::fs::write(&path, "loc\n/a\n").unwrap();
        let error = read(&path, File::open(&path).unwrap(), &mut Kept::default()).unwrap_err().to_string();
        assert!(error.contains("pages.parquet") && error.contains("Parquet"), "{error}");
        write(&path, "message pages { required binary url (UTF8); }", 1, 0);
        let error = read(&path, File::open(&path).unwrap(), &mut Kept::default()).unwrap_err().to_string();
        assert!(error.contains("no column is named loc"), "{error}");
    }
}
