//! CSV as RFC 4180 has it: quotes, doubled quotes, line ends inside quotes, LF or CRLF, a byte order mark, blank lines.
//!
//! One search for delimiter, line end or quote at a time finds every field; fields are slices of the read buffer, and
//! only a field with doubled quotes is copied.

use super::{CHUNK_BYTES, ROW_BYTES_MAX, Sink, SourceError, unreadable};
use crate::columns::Columns;
use crate::pages::RawPage;
use memchr::{memchr, memchr_iter, memchr3};
use std::io::Read;
use std::path::Path;

const BOM: &[u8] = "\u{feff}".as_bytes();
const UTF_16_BOMS: [&[u8]; 2] = [&[0xff, 0xfe], &[0xfe, 0xff]];
const CR_ALONE: &str = "lines end in CR alone, so the file is one line: save it with LF or CR LF";
const TOO_LONG: &str = "the row is longer than 4 MiB: close the quote that was opened here";

/// A field: where it stands in the buffer, or in the copies where quotes were doubled.
#[derive(Clone, Copy, Debug, Default)]
struct Field {
    start: usize,
    end: usize,
    copied: bool,
}

/// How a record ended.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// At this offset in the buffer (past its line end).
    Record(usize),
    /// Not yet: more bytes are needed; inside quotes or not.
    Short { in_quotes: bool },
    /// Text follows a closing quote; the record's line goes on to this offset.
    Garbled(usize),
}

/// What the first line says.
struct Header {
    /// The columns that are there, each with the place of its field.
    columns: Vec<(usize, usize)>,
    /// How many fields a row has.
    width: usize,
}

struct Parser {
    delimiter: u8,
    fields: Vec<Field>,
    copies: Vec<u8>,
    /// Whether the record has a quoted field, and so perhaps more than one line.
    any_quoted: bool,
}

pub(super) fn read<T: Sink>(
    path: &Path,
    reader: &mut dyn Read,
    delimiter: u8,
    sink: &mut T,
) -> Result<(), SourceError<T::Stop>> {
    let broken = |line, problem| SourceError::Broken { path: path.to_owned(), line, problem };
    let mut parser = Parser { delimiter, fields: Vec::new(), copies: Vec::new(), any_quoted: false };
    let mut header: Option<Header> = None;
    let mut buffer = vec![0; CHUNK_BYTES];
    let (mut start, mut end, mut at_end, mut line) = (0, 0, false, 1_u64);
    while end < BOM.len() && !at_end {
        let count = reader.read(&mut buffer[end..]);
        let count = count.map_err(|error| broken(line, unreadable(&error)))?;
        (end, at_end) = (end + count, count == 0);
    }
    if buffer[..end].starts_with(BOM) {
        start = BOM.len();
    } else if UTF_16_BOMS.iter().any(|bom| buffer[..end].starts_with(bom)) {
        return Err(broken(line, "the file is UTF-16: save it as UTF-8".to_owned()));
    }
    loop {
        let parsed = parser.record(&buffer[start..end], at_end);
        let (record_end, garbled) = match parsed {
            Parsed::Record(record_end) => (record_end, false),
            Parsed::Garbled(record_end) => (record_end, true),
            Parsed::Short { in_quotes } if !at_end => {
                if end - start > ROW_BYTES_MAX {
                    let is_one_line = header.is_none() && !in_quotes && has_lone_cr(&buffer[start..end]);
                    let problem = if is_one_line { CR_ALONE } else { TOO_LONG };
                    return Err(broken(line, problem.to_owned()));
                }
                buffer.copy_within(start..end, 0);
                (start, end) = (0, end - start);
                if end == buffer.len() {
                    buffer.resize(end * 2, 0);
                }
                let count = reader.read(&mut buffer[end..]);
                let count = count.map_err(|error| broken(line, unreadable(&error)))?;
                end += count;
                at_end = count == 0;
                continue;
            }
            Parsed::Short { in_quotes: true } => {
                return Err(broken(line, "a quote is opened in this row and never closed: close or remove it".into()));
            }
            Parsed::Short { in_quotes: false } => break,
        };
        let record = &buffer[start..start + record_end];
        let Some(header) = &header else {
            let found = parser.header(record, &sink.columns());
            header = Some(found.map_err(|problem| SourceError::Header { path: path.to_owned(), problem })?);
            line += count_lines(record);
            start += record_end;
            continue;
        };
        give(&parser, record, line, garbled, header, sink).map_err(SourceError::Stopped)?;
        line += if parser.any_quoted { count_lines(record) } else { 1 };
        start += record_end;
    }
    match header {
        Some(_) => Ok(()),
        None => Err(SourceError::Header {
            path: path.to_owned(),
            problem: "the file is empty: its first line must name the columns, loc among them".to_owned(),
        }),
    }
}

/// Whether a CR stands in `record` that neither LF nor CR follows: some writers end a line in CR CR LF.
fn has_lone_cr(record: &[u8]) -> bool {
    memchr_iter(b'\r', record).any(|at| record.get(at + 1).is_some_and(|next| !matches!(next, b'\r' | b'\n')))
}

fn give<T: Sink>(
    parser: &Parser,
    record: &[u8],
    line: u64,
    garbled: bool,
    header: &Header,
    sink: &mut T,
) -> Result<(), T::Stop> {
    if garbled {
        return sink.refuse(line, "text follows a closing quote", record.trim_ascii_end(), "");
    }
    if parser.fields.len() == 1 && !parser.any_quoted && parser.field(record, 0).is_empty() {
        return Ok(());
    }
    if parser.fields.len() != header.width {
        let detail = format!("{} fields, the first line has {}", parser.fields.len(), header.width);
        return sink.refuse(line, "row has another number of fields", record.trim_ascii_end(), &detail);
    }
    let mut page = RawPage { line, ..RawPage::default() };
    for (column, at) in &header.columns {
        page.fields[*column] = parser.field(record, *at);
    }
    sink.page(&page)
}

fn count_lines(record: &[u8]) -> u64 {
    memchr_iter(b'\n', record).count() as u64
}

impl Parser {
    /// Finds the fields of the record at the front of `bytes`.
    fn record(&mut self, bytes: &[u8], at_end: bool) -> Parsed {
        self.fields.clear();
        self.copies.clear();
        self.any_quoted = false;
        if bytes.is_empty() {
            return Parsed::Short { in_quotes: false };
        }
        let (mut field_start, mut from) = (0, 0);
        loop {
            let Some(found) = memchr3(self.delimiter, b'\n', b'"', &bytes[from..]) else {
                if !at_end {
                    return Parsed::Short { in_quotes: false };
                }
                self.push_plain(bytes, field_start, bytes.len());
                return Parsed::Record(bytes.len());
            };
            let at = from + found;
            match bytes[at] {
                b'"' if at == field_start => match self.quoted(bytes, at + 1, at_end) {
                    Ok(next) if bytes.get(next - 1) == Some(&self.delimiter) && next <= bytes.len() => {
                        (field_start, from) = (next, next);
                    }
                    Ok(next) => return Parsed::Record(next.min(bytes.len())),
                    Err(parsed) => return parsed,
                },
                b'"' => from = at + 1,
                b'\n' => {
                    self.push_plain(bytes, field_start, at);
                    return Parsed::Record(at + 1);
                }
                _ => {
                    self.fields.push(Field { start: field_start, end: at, copied: false });
                    (field_start, from) = (at + 1, at + 1);
                }
            }
        }
    }

    /// The last field of a record, without the CR of a CRLF.
    fn push_plain(&mut self, bytes: &[u8], start: usize, end: usize) {
        let end = if end > start && bytes[end - 1] == b'\r' { end - 1 } else { end };
        self.fields.push(Field { start, end, copied: false });
    }

    /// A quoted field whose text starts at `start`: the offset past the delimiter or line end that follows it.
    fn quoted(&mut self, bytes: &[u8], start: usize, at_end: bool) -> Result<usize, Parsed> {
        self.any_quoted = true;
        let (mut from, copy_start) = (start, self.copies.len());
        let mut copied = false;
        let close = loop {
            let close = from + memchr(b'"', &bytes[from..]).ok_or(Parsed::Short { in_quotes: true })?;
            match bytes.get(close + 1) {
                Some(b'"') => {
                    self.copies.extend_from_slice(&bytes[from..=close]);
                    (copied, from) = (true, close + 2);
                }
                None if !at_end => return Err(Parsed::Short { in_quotes: true }),
                _ => break close,
            }
        };
        if copied {
            self.copies.extend_from_slice(&bytes[from..close]);
            self.fields.push(Field { start: copy_start, end: self.copies.len(), copied });
        } else {
            self.fields.push(Field { start, end: close, copied });
        }
        match &bytes[close + 1..] {
            [] => Ok(close + 1),
            [first, ..] if *first == self.delimiter || *first == b'\n' => Ok(close + 2),
            [b'\r', b'\n', ..] => Ok(close + 3),
            [b'\r'] if at_end => Ok(close + 2),
            [b'\r'] => Err(Parsed::Short { in_quotes: true }),
            rest => match memchr(b'\n', rest) {
                Some(line_end) => Err(Parsed::Garbled(close + 1 + line_end + 1)),
                None if at_end => Err(Parsed::Garbled(bytes.len())),
                None => Err(Parsed::Short { in_quotes: false }),
            },
        }
    }

    fn field<'a>(&'a self, record: &'a [u8], at: usize) -> &'a [u8] {
        match self.fields.get(at) {
            Some(field) if field.copied => &self.copies[field.start..field.end],
            Some(field) => &record[field.start..field.end],
            None => b"",
        }
    }

    /// Where the columns are by the first line, or what is wrong with it and what to do.
    fn header(&self, record: &[u8], columns: &Columns) -> Result<Header, String> {
        if !self.any_quoted && has_lone_cr(record) {
            return Err(CR_ALONE.to_owned());
        }
        let name = |at| String::from_utf8_lossy(self.field(record, at)).into_owned();
        let names: Vec<String> = (0..self.fields.len()).map(name).collect();
        let places = columns.places(names.iter().map(String::as_str))?;
        let columns = places.iter().enumerate().filter_map(|(column, at)| Some((column, (*at)?))).collect();
        Ok(Header { columns, width: names.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::Kept;
    use proptest::prelude::*;

    /// Gives its bytes a few at a time.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let count = self.1.min(self.0.len()).min(out.len());
            out[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn parse(text: &str, step: usize) -> Result<Kept, String> {
        let mut kept = Kept::default();
        read(Path::new("pages.csv"), &mut Dribble(text.as_bytes(), step), b',', &mut kept)
            .map_err(|e| e.to_string())?;
        Ok(kept)
    }

    fn locs(kept: &Kept) -> Vec<(u64, &str)> {
        kept.pages.iter().map(|(line, fields)| (*line, fields[0].as_str())).collect()
    }

    #[test]
    fn quotes_line_ends_and_blank_lines_are_read_as_meant() {
        let text = "\u{feff}lastmod, LOC ,x\r\n2025-01-01,/a,1\r\n\r\n,\"/b,\"\"c\"\"\n\",2\n,/d\"e,\"\"\n\"\",\"/f\",\"3\"\r\n,/g,";
        for step in [1, 2, 3, 7, 1000] {
            let kept = parse(text, step).unwrap();
            assert_eq!(locs(&kept), [(2, "/a"), (4, "/b,\"c\"\n"), (6, "/d\"e"), (7, "/f"), (8, "/g")], "step {step}");
            assert_eq!(kept.pages[0].1[1], "2025-01-01");
            assert!(kept.refused.is_empty());
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_name_and_utf_16_is_told() {
        for step in [1, 2, 1000] {
            assert_eq!(locs(&parse("\u{feff}\"loc\",\"lastmod\"\r\n\"/a\",\r\n", step).unwrap()), [(2, "/a")]);
            assert!(parse("\u{feff}", step).unwrap_err().contains("the file is empty"));
        }
        let mut kept = Kept::default();
        let utf_16 = read(Path::new("pages.csv"), &mut Dribble(b"\xff\xfel\0o\0c\0", 1), b',', &mut kept);
        assert!(utf_16.unwrap_err().to_string().contains("save it as UTF-8"));
    }

    #[test]
    fn lines_that_end_in_cr_alone_are_told_however_many_there_are() {
        for rows in [0, 1, 500_000] {
            let text = format!("loc,lastmod\r{}", "/a,2025-01-01\r".repeat(rows));
            let outcome = parse(&text, 1 << 20);
            assert_eq!(outcome.is_err(), rows > 0, "{rows}");
            assert!(outcome.map_or_else(|error| error.contains("CR alone"), |_| true), "{rows}");
        }
        let kept = parse("loc,lastmod\r\r\n/a,2025-01-01\r\r\n", 1000).unwrap();
        assert_eq!(kept.pages.len(), 1);
    }

    #[test]
    fn a_bad_row_is_refused_with_its_line_and_the_next_is_read() {
        for step in [1, 5, 1000] {
            let kept = parse("loc,lastmod\n/a\n/b,1,2\n\"/c\"x,1\n/d,\n", step).unwrap();
            assert_eq!(locs(&kept), [(5, "/d")]);
            assert_eq!(kept.refused.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 3, 4]);
            assert!(kept.refused[2].1.contains("closing quote"), "{:?}", kept.refused[2]);
        }
    }

    #[test]
    fn an_open_quote_is_an_error_that_names_the_row() {
        let error = parse("loc,x\n/a,1\n\"/b,2\n/c,3\n", 1000).unwrap_err();
        assert_eq!(error, "pages.csv, line 3: a quote is opened in this row and never closed: close or remove it");
    }

    #[test]
    fn a_header_without_loc_says_what_to_do() {
        let error = parse("url,lastmod\n/a,\n", 1000).unwrap_err();
        assert!(error.contains("pages.csv, line 1") && error.contains("found: url, lastmod"), "{error}");
        assert!(parse("", 10).unwrap_err().contains("the file is empty"));
        assert!(parse("loc,loc\n", 10).unwrap_err().contains("two columns"));
    }

    proptest! {
        #[test]
        fn what_another_writer_wrote_is_read_back(
            rows in proptest::collection::vec(("[^\\x00]{1,12}", "[a\",\r\n ]{0,6}"), 1..20), step in 1_usize..40, crlf in any::<bool>(),
        ) {
            let terminator = if crlf { ::csv::Terminator::CRLF } else { ::csv::Terminator::Any(b'\n') };
            let mut writer = ::csv::WriterBuilder::new().terminator(terminator).from_writer(Vec::new());
            writer.write_record(["loc", "lastmod"]).unwrap();
            for (loc, lastmod) in &rows {
                writer.write_record([loc, lastmod]).unwrap();
            }
            let text = String::from_utf8(writer.into_inner().unwrap()).unwrap();
            let kept = parse(&text, step).unwrap();
            let read: Vec<_> = kept.pages.iter().map(|(_, f)| (f[0].clone(), f[1].clone())).collect();
            prop_assert_eq!(read, rows);
        }
    }
}
