//! Rows in the order of their keys, whatever order they came in, with bounded memory.
//!
//! Rows are gathered up to a bound, sorted and written to a file as one run; the runs are merged at the end. What
//! fits the bound never touches the disk. A run is canonical rows one after the other, in a file without a name that
//! goes when the process does.

use crate::row::Row;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::PathBuf;

/// Rows held in memory before they are written out, in bytes.
pub const MEMORY_BYTES: usize = 24 << 20;
/// Runs merged at once: each holds a file handle and a buffer.
const RUNS_MAX: usize = 128;
/// What is read of a run at once, in bytes.
const RUN_BUFFER_BYTES: usize = 64 << 10;

/// Why rows could not be sorted.
#[derive(Debug, thiserror::Error)]
#[error("cannot sort on disk in {dir}: free space there, or sort the input by loc")]
pub struct SortError {
    dir: PathBuf,
    source: io::Error,
}

/// Takes rows in any order and gives them back sorted by loc.
#[derive(Debug)]
pub struct Sorter {
    of: Of,
    dir: PathBuf,
    memory_bytes: usize,
    rows: Vec<u8>,
    starts: Vec<u32>,
    runs: Vec<File>,
}

impl Sorter {
    /// A sorter that holds up to `memory_bytes` of rows (at most 1 GiB) and writes the rest to `dir`.
    #[must_use]
    pub fn new(dir: PathBuf, memory_bytes: usize) -> Self {
        let (rows, starts, runs) = (Vec::new(), Vec::new(), Vec::new());
        Self { of: loc, dir, memory_bytes: memory_bytes.min(1 << 30), rows, starts, runs }
    }

    /// The same, that gives rows back sorted by their key.
    #[must_use]
    pub(crate) fn by_key(dir: PathBuf, memory_bytes: usize) -> Self {
        Self { of: key, ..Self::new(dir, memory_bytes) }
    }

    /// Takes a row.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn push(&mut self, row: &[u8]) -> Result<(), SortError> {
        let start_bytes = (self.starts.len() + 1) * size_of::<u32>();
        if !self.starts.is_empty() && self.rows.len() + row.len() + start_bytes > self.memory_bytes {
            self.spill()?;
        }
        // The bound above keeps offsets far below 4 GiB.
        self.starts.push(u32::try_from(self.rows.len()).unwrap_or(u32::MAX));
        self.rows.extend_from_slice(row);
        Ok(())
    }

    /// Gives every row, in order, to `take`, and stops at its first error.
    ///
    /// # Errors
    /// What `take` says, or a [`SortError`] made into it.
    pub fn drain<E: From<SortError>>(mut self, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        if self.runs.is_empty() {
            self.sort();
            return self.starts.iter().try_for_each(|start| take(row_at(&self.rows, *start)));
        }
        self.spill()?;
        (self.rows, self.starts) = (Vec::new(), Vec::new());
        while self.runs.len() > RUNS_MAX {
            let some = self.runs.drain(..RUNS_MAX).collect();
            let merged = self.write_run(|out| merge(self.of, some, |row| out.write_all(row)))?;
            self.runs.push(merged);
        }
        let runs = std::mem::take(&mut self.runs);
        let mut failed = None;
        let merged = merge(self.of, runs, |row| {
            take(row).map_err(|error| {
                failed = Some(error);
                io::Error::other("stopped")
            })
        });
        match (failed, merged) {
            (Some(error), _) => Err(error),
            (None, merged) => merged.map_err(|source| self.error(source).into()),
        }
    }

    fn sort(&mut self) {
        let (rows, of) = (&self.rows, self.of);
        self.starts.sort_unstable_by(|a, b| {
            let (a, b) = (row_at(rows, *a), row_at(rows, *b));
            of(a).cmp(of(b)).then_with(|| a.cmp(b))
        });
    }

    fn spill(&mut self) -> Result<(), SortError> {
        self.sort();
        let run = self.write_run(|out| self.starts.iter().try_for_each(|at| out.write_all(row_at(&self.rows, *at))))?;
        self.runs.push(run);
        self.rows.clear();
        self.starts.clear();
        Ok(())
    }

    fn write_run(&self, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<File, SortError> {
        let written = || -> io::Result<File> {
            let mut out = BufWriter::with_capacity(RUN_BUFFER_BYTES, tempfile::tempfile_in(&self.dir)?);
            write(&mut out)?;
            let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.rewind()?;
            Ok(file)
        };
        written().map_err(|source| self.error(source))
    }

    fn error(&self, source: io::Error) -> SortError {
        SortError { dir: self.dir.clone(), source }
    }
}

/// The row of `rows` that starts at `start`.
fn row_at(rows: &[u8], start: u32) -> &[u8] {
    let rest = &rows[start as usize..];
    Row::first(rest).map_or(rest, |row| row.as_bytes())
}

/// What of a row it is sorted by.
type Of = fn(&[u8]) -> &[u8];

fn loc(row: &[u8]) -> &[u8] {
    Row::first(row).map_or(row, |row| row.loc())
}

fn key(row: &[u8]) -> &[u8] {
    Row::first(row).map_or(row, |row| row.key())
}

/// The front row of a run, ordered by what rows are sorted by and then by all its bytes.
struct Head {
    of: Of,
    row: Vec<u8>,
    run: usize,
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
        (self.of)(&self.row)
            .cmp((self.of)(&other.row))
            .then_with(|| self.row.cmp(&other.row))
            .then(self.run.cmp(&other.run))
    }
}

fn merge(of: Of, runs: Vec<File>, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut readers: Vec<_> = runs.into_iter().map(|run| BufReader::with_capacity(RUN_BUFFER_BYTES, run)).collect();
    let mut heads = BinaryHeap::with_capacity(readers.len());
    for (run, reader) in readers.iter_mut().enumerate() {
        let mut row = Vec::new();
        if read_row(reader, &mut row)? {
            heads.push(Reverse(Head { of, row, run }));
        }
    }
    while let Some(mut head) = heads.peek_mut() {
        take(&head.0.row)?;
        let run = head.0.run;
        if !read_row(&mut readers[run], &mut head.0.row)? {
            std::collections::binary_heap::PeekMut::pop(head);
        }
    }
    Ok(())
}

/// Reads the next row of a run into `row`; false at its end.
fn read_row(reader: &mut impl Read, row: &mut Vec<u8>) -> io::Result<bool> {
    row.resize(crate::row::HEADER_BYTES, 0);
    match reader.read_exact(row) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    }
    let texts = crate::row::texts_bytes(row);
    row.resize(crate::row::HEADER_BYTES + texts, 0);
    reader.read_exact(&mut row[crate::row::HEADER_BYTES..])?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::tests::row;
    use proptest::prelude::*;

    fn sorted(rows: &[Vec<u8>], memory_bytes: usize) -> Vec<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::new(dir.path().to_owned(), memory_bytes);
        for row in rows {
            sorter.push(row).unwrap();
        }
        let mut out = Vec::new();
        sorter
            .drain(|row| {
                out.push(row.to_vec());
                Ok::<(), SortError>(())
            })
            .unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no file stays");
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn disk_and_memory_give_the_same_order(
            locs in proptest::collection::vec("https://a\\.example/[a-c%]{0,6}", 0..400), memory_bytes in 40_usize..2000,
        ) {
            let rows: Vec<_> = locs.iter().map(|loc| row(loc, "2025-11-22", "", "")).collect();
            let mut wanted = rows.clone();
            wanted.sort_by(|a, b| loc(a).cmp(loc(b)).then(a.cmp(b)));
            prop_assert_eq!(&sorted(&rows, memory_bytes), &wanted);
            prop_assert_eq!(&sorted(&rows, MEMORY_BYTES), &wanted);
        }
    }

    #[test]
    fn more_runs_than_can_be_open_are_merged_in_turns() {
        let rows: Vec<_> = (0..600).rev().map(|n| row(&format!("https://a.example/{n:05}"), "", "", "")).collect();
        let out = sorted(&rows, 1);
        assert!(out.is_sorted() && out.len() == 600);
    }

    #[test]
    fn a_full_or_missing_disk_is_named() {
        let mut sorter = Sorter::new("/nowhere/at/all".into(), 1);
        let bytes = row("https://a.example/", "", "", "");
        sorter.push(&bytes).unwrap();
        assert!(sorter.push(&bytes).unwrap_err().to_string().contains("/nowhere/at/all"));
    }
}
