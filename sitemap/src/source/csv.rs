//! CSV as RFC 4180 has it: quotes, doubled quotes, line ends inside quotes, LF or CRLF, a byte order mark, blank lines.
//!
//! One look at every byte finds delimiters, line ends and quotes, and tells which addresses can stand as they are; fields
//! are slices of the read buffer, and only a field with doubled quotes is copied.

use super::{CHUNK_BYTES, ROW_BYTES_MAX, Sink, SourceError, unreadable};
use crate::columns::{Column, Columns};
use crate::loc;
use crate::pages::RawPage;
use memchr::{memchr, memchr_iter, memchr2};
use std::io::Read;
use std::ops::Range;
use std::path::Path;

const BOM: &[u8] = "\u{feff}".as_bytes();
const UTF_16_BOMS: [&[u8]; 2] = [&[0xff, 0xfe], &[0xfe, 0xff]];
const CR_ALONE: &str = "lines end in CR alone, so the file is one line: save it with LF or CR LF";
const GARBLED: &str = "text follows a closing quote";
const TOO_LONG: &str = "the row is longer than 4 MiB: close the quote that was opened here";

/// A field: where it stands in the buffer, or in the copies where quotes were doubled.
#[derive(Clone, Copy, Debug, Default)]
struct Field {
    start: usize,
    end: usize,
    copied: bool,
    /// Whether nothing unusual is in it ([`loc::unusual`]).
    is_plain: bool,
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
    /// Where loc and lastmod are, where no other column that is known is there.
    plain: Option<(usize, usize)>,
    /// How many fields a row has.
    width: usize,
}

/// Finds the unusual bytes of a buffer one after the other ([`loc::unusual`]): delimiter, line end and quote have to be such,
/// and in most lists nothing else is. It reads blocks, so behind what is filled the buffer has room for one.
#[derive(Default)]
struct Marks {
    /// Where the block in hand begins.
    block: usize,
    /// Those of its bytes that were not found yet.
    left: u64,
}

impl Marks {
    /// Goes to `at`.
    fn seek(&mut self, buffer: &[u8], at: usize) {
        *self = Self { block: at, left: marks_at(buffer, at) };
    }

    /// Goes on to `at`, which lies behind what was found last.
    #[inline(always)]
    fn skip_to(&mut self, buffer: &[u8], at: usize) {
        match at - self.block {
            within @ 0..loc::UNUSUAL_BYTES => self.left &= u64::MAX << within,
            _ => self.seek(buffer, at),
        }
    }

    /// The next one before `end`; after the last one seek before asking again.
    #[inline(always)]
    fn next(&mut self, buffer: &[u8], end: usize) -> Option<usize> {
        while self.left == 0 {
            self.block += loc::UNUSUAL_BYTES;
            if self.block >= end {
                return None;
            }
            self.left = marks_at(buffer, self.block);
        }
        let at = self.block + self.left.trailing_zeros() as usize;
        self.left &= self.left - 1;
        (at < end).then_some(at)
    }
}

/// Those of the block that begins at `at`.
#[inline(always)]
fn marks_at(buffer: &[u8], at: usize) -> u64 {
    let block = buffer[at..].first_chunk();
    debug_assert!(block.is_some(), "the buffer has room for a block");
    block.map_or(0, loc::unusual)
}

struct Parser {
    delimiter: u8,
    marks: Marks,
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
    let (marks, fields, copies) = (Marks::default(), Vec::new(), Vec::new());
    let mut parser = Parser { delimiter, marks, fields, copies, any_quoted: false };
    let mut header: Option<Header> = None;
    let mut buffer = vec![0; CHUNK_BYTES + loc::UNUSUAL_BYTES];
    let (mut start, mut end, mut at_end, mut line) = (0, 0, false, 1_u64);
    while end < BOM.len() && !at_end {
        let count = reader.read(&mut buffer[end..CHUNK_BYTES]);
        let count = count.map_err(|error| broken(line, unreadable(&error)))?;
        (end, at_end) = (end + count, count == 0);
    }
    if buffer[..end].starts_with(BOM) {
        start = BOM.len();
    } else if UTF_16_BOMS.iter().any(|bom| buffer[..end].starts_with(bom)) {
        return Err(broken(line, "the file is UTF-16: save it as UTF-8".to_owned()));
    }
    parser.marks.seek(&buffer, start);
    loop {
        let parsed = parser.record(&buffer, start..end, at_end);
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
                if end + loc::UNUSUAL_BYTES == buffer.len() {
                    buffer.resize(end * 2 + loc::UNUSUAL_BYTES, 0);
                }
                let room = end..buffer.len() - loc::UNUSUAL_BYTES;
                let count = reader.read(&mut buffer[room]);
                let count = count.map_err(|error| broken(line, unreadable(&error)))?;
                end += count;
                at_end = count == 0;
                parser.marks.seek(&buffer, start);
                continue;
            }
            Parsed::Short { in_quotes: true } => {
                return Err(broken(line, "a quote is opened in this row and never closed: close or remove it".into()));
            }
            Parsed::Short { in_quotes: false } => break,
        };
        let record = start..record_end;
        start = record_end;
        let Some(header) = &header else {
            if garbled {
                return Err(SourceError::Header { path: path.to_owned(), problem: format!("{GARBLED}: remove it") });
            }
            let found = parser.header(&buffer, record.clone(), &sink.columns());
            header = Some(found.map_err(|problem| SourceError::Header { path: path.to_owned(), problem })?);
            line += count_lines(&buffer[record]);
            continue;
        };
        give(&parser, &buffer, record.clone(), line, garbled, header, sink).map_err(SourceError::Stopped)?;
        line += if parser.any_quoted { count_lines(&buffer[record]) } else { 1 };
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
    bytes: &[u8],
    record: Range<usize>,
    line: u64,
    garbled: bool,
    header: &Header,
    sink: &mut T,
) -> Result<(), T::Stop> {
    if garbled {
        return sink.refuse(line, GARBLED, bytes[record].trim_ascii_end(), "");
    }
    if parser.fields.len() == 1 && !parser.any_quoted && parser.field(bytes, 0).is_empty() {
        return Ok(());
    }
    if parser.fields.len() != header.width {
        let detail = format!("{} fields, the first line has {}", parser.fields.len(), header.width);
        return sink.refuse(line, "row has another number of fields", bytes[record].trim_ascii_end(), &detail);
    }
    if let Some((loc, lastmod)) = header.plain
        && parser.fields[loc].is_plain
    {
        return sink.plain_page(parser.field(bytes, loc), parser.field(bytes, lastmod), line);
    }
    let mut page = RawPage { line, ..RawPage::default() };
    for (column, at) in &header.columns {
        page.fields[*column] = parser.field(bytes, *at);
    }
    sink.page(&page)
}

fn count_lines(record: &[u8]) -> u64 {
    memchr_iter(b'\n', record).count() as u64
}

impl Parser {
    /// Finds the fields of the record at the start of what is filled of the buffer, where the marks are.
    fn record(&mut self, buffer: &[u8], filled: Range<usize>, at_end: bool) -> Parsed {
        self.fields.clear();
        self.copies.clear();
        self.any_quoted = false;
        if filled.is_empty() {
            return Parsed::Short { in_quotes: false };
        }
        let bytes = &buffer[..filled.end];
        let (mut field_start, mut is_plain) = (filled.start, true);
        loop {
            let Some(at) = self.marks.next(buffer, bytes.len()) else {
                if !at_end {
                    return Parsed::Short { in_quotes: false };
                }
                self.push_last(bytes, field_start, bytes.len(), is_plain);
                return Parsed::Record(bytes.len());
            };
            match bytes[at] {
                b'"' if at == field_start => {
                    let next = match self.quoted(buffer, at + 1..filled.end, at_end) {
                        Ok(next) => next,
                        Err(Parsed::Garbled(next)) => {
                            self.marks.skip_to(buffer, next);
                            return Parsed::Garbled(next);
                        }
                        Err(short) => return short,
                    };
                    self.marks.skip_to(buffer, next);
                    if bytes[next - 1] != self.delimiter {
                        return Parsed::Record(next);
                    }
                    (field_start, is_plain) = (next, true);
                }
                b'\n' => {
                    self.push_last(bytes, field_start, at, is_plain);
                    return Parsed::Record(at + 1);
                }
                byte if byte == self.delimiter => {
                    self.fields.push(Field { start: field_start, end: at, copied: false, is_plain });
                    (field_start, is_plain) = (at + 1, true);
                }
                // The last field is cut off before it.
                b'\r' if bytes.get(at + 1) == Some(&b'\n') => {}
                _ => {
                    is_plain = false;
                    // What else is unusual in the field makes no difference any more.
                    let rest = &bytes[at + 1..];
                    let end = memchr2(self.delimiter, b'\n', rest).unwrap_or(rest.len());
                    self.marks.skip_to(buffer, at + 1 + end);
                }
            }
        }
    }

    /// The last field of a record, without the CR of a CRLF.
    fn push_last(&mut self, bytes: &[u8], start: usize, end: usize, is_plain: bool) {
        let end = if end > start && bytes[end - 1] == b'\r' { end - 1 } else { end };
        self.fields.push(Field { start, end, copied: false, is_plain });
    }

    /// A quoted field whose text begins `filled`: the offset past the delimiter or line end that follows it.
    fn quoted(&mut self, buffer: &[u8], filled: Range<usize>, at_end: bool) -> Result<usize, Parsed> {
        const OPEN: Parsed = Parsed::Short { in_quotes: true };
        self.any_quoted = true;
        let (bytes, start) = (&buffer[..filled.end], filled.start);
        let (mut from, copy_start) = (start, self.copies.len());
        let (mut copied, mut is_plain) = (false, true);
        let close = loop {
            let close = self.marks.next(buffer, filled.end).ok_or(OPEN)?;
            match (bytes[close], bytes.get(close + 1)) {
                (b'"', Some(b'"')) => {
                    self.copies.extend_from_slice(&bytes[from..=close]);
                    (copied, is_plain, from) = (true, false, close + 2);
                    self.marks.skip_to(buffer, from);
                }
                (b'"', None) if !at_end => return Err(OPEN),
                (b'"', _) => break close,
                // One by one, since JSON has many, with quotes between them.
                (byte, _) if byte == self.delimiter => is_plain = false,
                _ => {
                    is_plain = false;
                    let quote = memchr(b'"', &bytes[close + 1..]).ok_or(OPEN)?;
                    self.marks.skip_to(buffer, close + 1 + quote);
                }
            }
        };
        if copied {
            self.copies.extend_from_slice(&bytes[from..close]);
            self.fields.push(Field { start: copy_start, end: self.copies.len(), copied, is_plain });
        } else {
            self.fields.push(Field { start, end: close, copied, is_plain });
        }
        match &bytes[close + 1..] {
            [] => Ok(close + 1),
            [first, ..] if *first == self.delimiter || *first == b'\n' => Ok(close + 2),
            [b'\r', b'\n', ..] => Ok(close + 3),
            [b'\r'] if at_end => Ok(close + 2),
            [b'\r'] => Err(OPEN),
            rest => match memchr(b'\n', rest) {
                Some(line_end) => Err(Parsed::Garbled(close + 1 + line_end + 1)),
                None if at_end => Err(Parsed::Garbled(bytes.len())),
                None => Err(Parsed::Short { in_quotes: false }),
            },
        }
    }

    fn field<'a>(&'a self, bytes: &'a [u8], at: usize) -> &'a [u8] {
        match self.fields.get(at) {
            Some(field) if field.copied => &self.copies[field.start..field.end],
            Some(field) => &bytes[field.start..field.end],
            None => b"",
        }
    }

    /// Where the columns are by the first line, or what is wrong with it and what to do.
    fn header(&self, bytes: &[u8], record: Range<usize>, columns: &Columns) -> Result<Header, String> {
        if !self.any_quoted && has_lone_cr(&bytes[record]) {
            return Err(CR_ALONE.to_owned());
        }
        let name = |at| String::from_utf8_lossy(self.field(bytes, at)).into_owned();
        let names: Vec<String> = (0..self.fields.len()).map(name).collect();
        let places = columns.places(names.iter().map(String::as_str))?;
        let columns = places.iter().enumerate().filter_map(|(column, at)| Some((column, (*at)?))).collect();
        let (first, others) = places.split_at(Column::Lastmod as usize + 1);
        let plain = match first {
            [Some(loc), Some(lastmod)] if others.iter().all(Option::is_none) => Some((*loc, *lastmod)),
            _ => None,
        };
        Ok(Header { columns, plain, width: names.len() })
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
    fn rows_with_nothing_unusual_in_their_address_come_as_plain_ones() {
        let long = "a".repeat(200);
        let rows = [
            "/a,2025",
            "\"/b\",2025",
            "/ä,",
            "/c d,",
            "/e&f,",
            "/g,é",
            &format!("/{long},"),
            &format!("/{long}\"{long},"),
            "/h,\"1\"",
            "/i,1",
        ];
        for step in [1, 2, 3, 7, 1000] {
            let kept = parse(&format!("loc,lastmod\n{}", rows.join("\n")), step).unwrap();
            assert_eq!((kept.pages.len(), kept.plain.as_slice()), (10, [2, 3, 7, 8, 10, 11].as_slice()), "step {step}");
            // What else is in a row counts where it is known.
            assert_eq!(parse("lastmod,id,loc\n,&,/a\n", step).unwrap().plain, [2]);
            assert_eq!(parse("lastmod,loc\r\n,/a\r\n\"\",\"/b\"\r\n,/c\r", step).unwrap().plain, [2, 3]);
            assert_eq!(parse("loc,lastmod,kind\n/a,,\n", step).unwrap().plain, [0; 0]);
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
        assert!(parse("\"loc\" ,lastmod\n/a,\n", 10).unwrap_err().contains("line 1: text follows a closing quote"));
    }

    proptest! {
        #[test]
        fn rows_are_the_same_however_their_bytes_come(
            parts in proptest::collection::vec("a{0,3}|a{60,70}|,|\"|\"\"|\r?\n|é", 0..60), step in 1_usize..2000,
        ) {
            let text = format!("loc,x\n{}", parts.concat());
            let told = |step| parse(&text, step).map(|kept| (kept.pages, kept.refused, kept.plain));
            prop_assert_eq!(told(step), told(1 << 20));
        }

        #[test]
        fn what_another_writer_wrote_is_read_back(
            rows in proptest::collection::vec(("[^\\x00]{1,12}|[a-z]{60,90}", "[a\",\r\n ]{0,6}"), 1..20), step in 1_usize..2000, crlf in any::<bool>(),
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
