//! Several page lists, each in order, as one in order.
//!
//! Every file is read by a thread of its own, which hands over batches of rows with their keys; rows come out by key,
//! and of equal keys by file. A file that is not in order inside is not noticed here: its rows come out of order, and
//! whoever takes them must look. Memory is two batches a file and what the format's reader needs.

use super::{List, Sink, SourceError};
use crate::columns::{COLUMNS, Columns};
use crate::pages::RawPage;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Files merged at once; each has a thread. More are to be sorted instead.
pub const FILES_MAX: usize = 256;
/// A batch is handed over at this size, in bytes.
const BATCH_BYTES: usize = 64 << 10;
/// Texts of a row: its key, then its fields; of a row that could not be read, problem, value and detail.
const TEXTS: usize = 1 + COLUMNS.len();

/// Makes the key of a loc; false where it has none.
pub type Key<'a> = dyn Fn(&[u8], &mut Vec<u8>) -> bool + Sync + 'a;

/// What a file's thread hands over.
type Handed<S> = Result<Batch, SourceError<S>>;

/// Gives the rows of all `paths` to `sink`, in the order of their keys; what has no key comes as soon as it is met. Works
/// in `work_dir` where it has to. Returns how many there were.
///
/// # Errors
/// The first [`SourceError`] met.
///
/// # Panics
/// Never: there are at most [`FILES_MAX`] paths, which the caller keeps.
pub fn read_merged<T: Sink>(
    paths: &[PathBuf],
    work_dir: &Path,
    key: &Key<'_>,
    sink: &mut T,
) -> Result<u64, SourceError<T::Stop>>
where
    T::Stop: Send,
{
    assert!(paths.len() <= FILES_MAX, "the caller sorts where there are more files");
    let prepare = |path| List::prepare(path, paths.len(), work_dir, sink.columns());
    let lists = paths.iter().map(|path| prepare(path)).collect::<Result<Vec<_>, _>>()?;
    std::thread::scope(|scope| {
        let mut files = Vec::with_capacity(paths.len());
        for list in lists {
            let path = list.path;
            let (send, receive) = sync_channel(1);
            let builder = std::thread::Builder::new().name("page-list".to_owned());
            let columns = sink.columns();
            let started = builder.spawn_scoped(scope, move || hand_over::<T::Stop>(list, columns, key, &send));
            started.map_err(|source| SourceError::Open { path: path.to_owned(), source })?;
            files.push(receive);
        }
        merge(&files, sink)
    })
}

fn merge<T: Sink>(files: &[Receiver<Handed<T::Stop>>], sink: &mut T) -> Result<u64, SourceError<T::Stop>> {
    let mut heads = BinaryHeap::with_capacity(files.len());
    for (file, batches) in files.iter().enumerate() {
        if let Ok(batch) = batches.recv() {
            heads.push(Reverse(Head { batch: batch?, at: 0, file }));
        }
    }
    let mut rows = 0;
    while let Some(mut head) = heads.peek_mut() {
        let Reverse(Head { batch, at, file }) = &mut *head;
        batch.give(*at, sink).map_err(SourceError::Stopped)?;
        rows += 1;
        *at += 1;
        if *at == batch.rows.len() {
            match files[*file].recv() {
                Ok(Ok(next)) => (*batch, *at) = (next, 0),
                Ok(Err(error)) => {
                    // A head without a row must not stay to be compared.
                    drop(PeekMut::pop(head));
                    return Err(error);
                }
                Err(_) => drop(PeekMut::pop(head)),
            }
        }
    }
    Ok(rows)
}

/// Reads a file into batches until its end, or until nobody takes them any more.
fn hand_over<S>(list: List<'_>, columns: Columns, key: &Key<'_>, send: &SyncSender<Handed<S>>) {
    let mut batches = Batches { batch: Batch::default(), columns, key, send };
    match list.read(&mut batches) {
        Ok(()) => {
            let _ = batches.flush();
        }
        Err(error) => {
            if let Some(error) = error.unstopped() {
                let _ = batches.flush();
                let _ = send.send(Err(error));
            }
        }
    }
}

/// Nobody takes the rows any more.
#[derive(Debug)]
struct Gone;

/// Rows end to end.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    rows: Vec<BatchRow>,
}

#[derive(Debug)]
struct BatchRow {
    line: u64,
    start: u32,
    /// Where each text ends, from the start of the row.
    ends: [u32; TEXTS],
    refused: bool,
}

impl Batch {
    fn text(&self, row: &BatchRow, at: usize) -> &[u8] {
        let begin = if at == 0 { 0 } else { row.ends[at - 1] };
        &self.bytes[(row.start + begin) as usize..(row.start + row.ends[at]) as usize]
    }

    fn key(&self, at: usize) -> &[u8] {
        self.text(&self.rows[at], 0)
    }

    fn give<T: Sink>(&self, at: usize, sink: &mut T) -> Result<(), T::Stop> {
        let row = &self.rows[at];
        if row.refused {
            let text = |at| String::from_utf8_lossy(self.text(row, at));
            return sink.refuse(row.line, &text(1), self.text(row, 2), &text(3));
        }
        sink.page(&RawPage { fields: std::array::from_fn(|field| self.text(row, field + 1)), line: row.line })
    }

    /// Appends a row; the bound on batches keeps offsets far below 4 GiB.
    fn push<'a>(&mut self, line: u64, refused: bool, key: &Key<'_>, texts: impl Iterator<Item = &'a [u8]>) {
        let offset = |bytes: &Vec<u8>| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let start = offset(&self.bytes);
        let mut ends = [0; TEXTS];
        for (at, text) in texts.enumerate() {
            if at == 0 && !refused {
                let before = self.bytes.len();
                if !key(text, &mut self.bytes) {
                    self.bytes.truncate(before);
                }
                ends[0] = offset(&self.bytes) - start;
            }
            self.bytes.extend_from_slice(text);
            ends[at + 1] = offset(&self.bytes) - start;
        }
        self.rows.push(BatchRow { line, start, ends, refused });
    }
}

/// Gathers rows and hands them over.
struct Batches<'a, S> {
    batch: Batch,
    columns: Columns,
    key: &'a Key<'a>,
    send: &'a SyncSender<Handed<S>>,
}

impl<S> Batches<'_, S> {
    fn flush(&mut self) -> Result<(), Gone> {
        if self.batch.rows.is_empty() {
            return Ok(());
        }
        let capacity = self.batch.bytes.len();
        let full = std::mem::take(&mut self.batch);
        self.batch.bytes.reserve(capacity.min(BATCH_BYTES));
        self.send.send(Ok(full)).map_err(|_| Gone)
    }

    fn flush_where_full(&mut self) -> Result<(), Gone> {
        if self.batch.bytes.len() >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }
}

impl<S> Sink for Batches<'_, S> {
    type Stop = Gone;

    fn columns(&self) -> Columns {
        self.columns.clone()
    }

    fn page(&mut self, page: &RawPage<'_>) -> Result<(), Gone> {
        self.batch.push(page.line, false, self.key, page.fields.into_iter());
        self.flush_where_full()
    }

    fn refuse(&mut self, line: u64, problem: &str, value: &[u8], detail: &str) -> Result<(), Gone> {
        self.batch.push(line, true, self.key, [problem.as_bytes(), value, detail.as_bytes()].into_iter());
        self.flush_where_full()
    }
}

/// The front row of a file, ordered by key and then by file.
struct Head {
    batch: Batch,
    at: usize,
    file: usize,
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Head {}
impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.batch.key(self.at).cmp(other.batch.key(other.at)).then(self.file.cmp(&other.file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::Kept;
    use proptest::prelude::*;

    fn key(loc: &[u8], out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(b"https://a.example");
        out.extend_from_slice(loc);
        !loc.is_empty()
    }

    fn lists(lists: &[Vec<String>]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        for (at, list) in lists.iter().enumerate() {
            let path = dir.path().join(format!("{at}.csv"));
            std::fs::write(&path, format!("loc,lastmod\n{}", list.concat())).unwrap();
            paths.push(path);
        }
        (dir, paths)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn sorted_files_come_out_as_one_sorted_list(
            locs in proptest::collection::vec(("/[a-c]{0,5}", 0_usize..6), 0..300), long in 0_usize..3,
        ) {
            let mut files = vec![Vec::new(); 6];
            let mut sorted = locs.clone();
            sorted.sort();
            for (loc, file) in &sorted {
                files[*file].push(format!("{loc},{file}{}\n", "x".repeat(long * 5_000)));
            }
            let (_dir, paths) = lists(&files);
            let mut kept = Kept::default();
            prop_assert_eq!(read_merged(&paths, Path::new("/nowhere"), &key, &mut kept).unwrap(), locs.len() as u64);
            let out: Vec<(String, usize)> =
                kept.pages.iter().map(|(_, fields)| (fields[0].clone(), fields[1][..1].parse().unwrap())).collect();
            prop_assert_eq!(out, sorted);
        }
    }

    #[test]
    fn what_cannot_be_read_and_what_has_no_key_comes_with_its_line() {
        let (_dir, paths) = lists(&[vec!["/b,\n".into(), "/c,1,2\n".into(), ",x\n".into(), "/d,\n".into()]]);
        let mut kept = Kept::default();
        assert_eq!(read_merged(&paths, Path::new("/nowhere"), &key, &mut kept).unwrap(), 4);
        assert_eq!(kept.refused[0].0, 3);
        assert!(kept.refused[0].1.contains("number of fields") && kept.refused[0].1.contains("3 fields"));
        assert_eq!(kept.pages.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 4, 5]);
    }

    #[test]
    fn an_error_in_any_file_ends_the_reading_and_names_the_file() {
        let (_dir, mut paths) = lists(&[vec!["/b,\n".into()], vec!["/a,\n".into(), "\"/c,\n".into()]]);
        let error = read_merged(&paths, Path::new("/nowhere"), &key, &mut Kept::default()).unwrap_err().to_string();
        assert!(error.contains("1.csv, line 3"), "{error}");
        paths[1] = "/nowhere/at.csv".into();
        assert!(
            read_merged(&paths, Path::new("/nowhere"), &key, &mut Kept::default())
                .unwrap_err()
                .to_string()
                .contains("/nowhere/at.csv")
        );
    }

    #[test]
    fn a_taker_that_stops_ends_every_thread() {
        struct One(u64);
        impl Sink for One {
            type Stop = &'static str;
            fn page(&mut self, _: &RawPage<'_>) -> Result<(), &'static str> {
                self.0 += 1;
                if self.0 == 3 { Err("enough") } else { Ok(()) }
            }
            fn refuse(&mut self, _: u64, _: &str, _: &[u8], _: &str) -> Result<(), &'static str> {
                Ok(())
            }
        }
        let many: Vec<String> = (0..50_000).map(|n| format!("/{n:06},2025-11-22\n")).collect();
        let (_dir, paths) = lists(&[many.clone(), many]);
        let stopped = read_merged(&paths, Path::new("/nowhere"), &key, &mut One(0));
        assert!(matches!(stopped, Err(SourceError::Stopped("enough"))));
    }
}
