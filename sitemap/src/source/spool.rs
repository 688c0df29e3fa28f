//! Rows of one page list in a file without a name, as they were read, to be read again with little memory.
//!
//! It is for lists whose own format makes a reader hold much at once: spooled one after the other, they can then be read
//! side by side.

use super::Sink;
use crate::columns::{COLUMNS, Columns};
use crate::pages::RawPage;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

/// What is written or read at once, in bytes.
const BUFFER_BYTES: usize = 64 << 10;
/// Before each row: u64 line, u16 set of the fields that are not empty; then u32 length of each of them. Numbers are
/// little-endian.
const HEADER_BYTES: usize = size_of::<u64>() + size_of::<u16>();
const LENGTH_BYTES: usize = size_of::<u32>();

/// Takes rows and writes them.
#[derive(Debug)]
pub(super) struct Writer {
    out: BufWriter<File>,
    columns: Columns,
}

impl Writer {
    /// Writes to a file in `dir` that goes when the process does, what a reader finds in `columns`.
    ///
    /// # Errors
    /// Where `dir` takes no file.
    pub(super) fn create(dir: &Path, columns: Columns) -> io::Result<Self> {
        Ok(Self { out: BufWriter::with_capacity(BUFFER_BYTES, tempfile::tempfile_in(dir)?), columns })
    }

    /// Gives the rows that were written.
    ///
    /// # Errors
    /// Where the disk fails.
    pub(super) fn finish(self) -> io::Result<Spool> {
        let mut file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(Spool(file))
    }
}

impl Sink for Writer {
    type Stop = io::Error;

    fn columns(&self) -> Columns {
        self.columns.clone()
    }

    fn page(&mut self, page: &RawPage<'_>) -> io::Result<()> {
        let filled = page.fields.iter().enumerate().filter(|(_, field)| !field.is_empty());
        let set = filled.clone().fold(0_u16, |set, (at, _)| set | (1 << at));
        self.out.write_all(&page.line.to_le_bytes())?;
        self.out.write_all(&set.to_le_bytes())?;
        for (_, field) in filled.clone() {
            self.out.write_all(&u32::try_from(field.len()).map_err(io::Error::other)?.to_le_bytes())?;
        }
        for (_, field) in filled {
            self.out.write_all(field)?;
        }
        Ok(())
    }

    fn refuse(&mut self, line: u64, problem: &str, _: &[u8], _: &str) -> io::Result<()> {
        // Formats whose rows can be refused one by one are read as they are.
        Err(io::Error::other(format!("row {line}: {problem}")))
    }
}

/// The rows that a [`Writer`] wrote.
#[derive(Debug)]
pub(super) struct Spool(File);

/// Why a spool was not read to its end.
pub(super) enum Unread<S> {
    /// The disk failed.
    Io(io::Error),
    /// The taker of the rows wants no more.
    Stopped(S),
}

impl Spool {
    /// Gives every row to `sink`.
    pub(super) fn read<T: Sink>(self, sink: &mut T) -> Result<(), Unread<T::Stop>> {
        let mut input = BufReader::with_capacity(BUFFER_BYTES, self.0);
        let mut texts = Vec::new();
        while let Some((line, lengths)) = read_header(&mut input).map_err(Unread::Io)? {
            texts.resize(lengths.iter().sum(), 0);
            input.read_exact(&mut texts).map_err(Unread::Io)?;
            let mut page = RawPage { line, ..RawPage::default() };
            let mut rest = texts.as_slice();
            for (field, length) in page.fields.iter_mut().zip(lengths) {
                (*field, rest) = rest.split_at(length);
            }
            sink.page(&page).map_err(Unread::Stopped)?;
        }
        Ok(())
    }
}

/// The line of the next row and the length of each field; nothing at the end.
fn read_header(input: &mut impl BufRead) -> io::Result<Option<(u64, [usize; COLUMNS.len()])>> {
    if input.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut header = [0; HEADER_BYTES];
    input.read_exact(&mut header)?;
    let [line @ .., s0, s1] = header;
    let set = u16::from_le_bytes([s0, s1]);
    let mut lengths = [0; COLUMNS.len()];
    for (_, length) in lengths.iter_mut().enumerate().filter(|(at, _)| set & (1 << at) != 0) {
        let mut bytes = [0; LENGTH_BYTES];
        input.read_exact(&mut bytes)?;
        *length = u32::from_le_bytes(bytes) as usize;
    }
    Ok(Some((u64::from_le_bytes(line), lengths)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::Kept;
    use proptest::prelude::*;

    /// Short or none, and now and then more than is read at once.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof![40 => "[a-z]{0,3}", 1 => Just("x".repeat(BUFFER_BYTES + 1))]
    }

    #[test]
    fn a_spool_that_was_cut_anywhere_is_not_taken_for_a_whole_one() {
        let dir = tempfile::tempdir().unwrap();
        let spool = || {
            let mut writer = Writer::create(dir.path(), Columns::default()).unwrap();
            let mut page = RawPage { line: 7, ..RawPage::default() };
            page.fields[0] = b"/a";
            writer.page(&page).unwrap();
            writer.finish().unwrap()
        };
        let whole = spool().0.metadata().unwrap().len();
        for length in 1..whole {
            let cut = spool();
            cut.0.set_len(length).unwrap();
            assert!(matches!(cut.read(&mut Kept::default()), Err(Unread::Io(_))), "{length} of {whole} bytes");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn rows_come_back_as_they_were_written(
            rows in proptest::collection::vec((any::<u64>(), proptest::array::uniform14(text())), 0..12),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = Writer::create(dir.path(), Columns::default()).unwrap();
            for (line, fields) in &rows {
                writer.page(&RawPage { line: *line, fields: fields.each_ref().map(|field| field.as_bytes()) }).unwrap();
            }
            let mut kept = Kept::default();
            assert!(writer.finish().unwrap().read(&mut kept).is_ok());
            let rows: Vec<_> = rows.into_iter().map(|(line, fields)| (line, fields.to_vec())).collect();
            prop_assert_eq!(kept.pages, rows);
            prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }
}
