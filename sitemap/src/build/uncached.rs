//! Files that are written past the system's page cache, where the file system can do that.
//!
//! A shard is read by nobody soon. In the page cache it would push out what is used, and fresh pages and the copy into
//! them cost more than all the rest of writing it; and it has to reach the disk before an index names it in any case.

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// What addresses and lengths of such a write are multiples of, in bytes: the page size, which is enough for any disk
/// (open(2), `O_DIRECT`).
const ALIGNMENT: usize = 4096;
/// How much is written at a time, in bytes.
const WRITE_BYTES: usize = 1 << 20;

#[cfg(target_os = "linux")]
const UNCACHED: OFlags = OFlags::DIRECT;
#[cfg(not(target_os = "linux"))]
const UNCACHED: OFlags = OFlags::empty();

/// Room for a part, for one file after the other.
pub(super) struct Room {
    bytes: Vec<u8>,
    /// Where the part begins in it.
    start: usize,
}

impl Room {
    pub(super) fn new() -> Self {
        let bytes = vec![0; WRITE_BYTES + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        Self { bytes, start }
    }

    /// Creates the file at `path`, or empties it.
    pub(super) fn create(&mut self, path: &Path) -> io::Result<Uncached<'_>> {
        let open = |flags: OFlags| {
            let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
            OpenOptions::new().write(true).create(true).truncate(true).custom_flags(flags).open(path)
        };
        let file = match open(UNCACHED) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => open(OFlags::empty()),
            opened => opened,
        }?;
        Ok(Uncached { file, part: &mut self.bytes[self.start..][..WRITE_BYTES], filled: 0, written: 0 })
    }
}

/// A file that is being written. What is not [`Uncached::finish`]ed lacks its end.
pub(super) struct Uncached<'a> {
    file: File,
    part: &'a mut [u8],
    filled: usize,
    /// How much of the file is written.
    written: u64,
}

impl Uncached<'_> {
    pub(super) fn write(&mut self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(WRITE_BYTES - self.filled));
            self.part[self.filled..][..now.len()].copy_from_slice(now);
            (self.filled, rest) = (self.filled + now.len(), later);
            if self.filled == WRITE_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes what is left, and gives the file's size.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        let bytes = self.written + self.filled as u64;
        let padded = self.filled.next_multiple_of(ALIGNMENT);
        self.part[self.filled..padded].fill(0);
        self.filled = padded;
        self.flush()?;
        self.file.set_len(bytes)?;
        Ok(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let part = &self.part[..self.filled];
        // By its place in the file, so that a try that got half way does no harm.
        let write = || self.file.write_all_at(part, self.written);
        match write() {
            // This file system wants other multiples.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                fcntl_setfl(&self.file, fcntl_getfl(&self.file)? - UNCACHED)?;
                write()
            }
            outcome => outcome,
        }?;
        (self.written, self.filled) = (self.written + self.filled as u64, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_is_what_was_written_to_the_byte_and_nothing_of_the_one_before() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("file");
        let mut room = Room::new();
        for size in [2 * WRITE_BYTES + 5, WRITE_BYTES, ALIGNMENT, ALIGNMENT + 1, 700, 1, 0] {
            let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            for step in [size.max(1), 1000, 70_000] {
                let mut file = room.create(&path).unwrap();
                bytes.chunks(step).for_each(|chunk| file.write(chunk).unwrap());
                assert_eq!(file.finish().unwrap(), size as u64);
                assert!(fs::read(&path).unwrap() == bytes, "{size} bytes, {step} at a time");
            }
        }
    }

    #[test]
    fn what_cannot_be_written_past_the_cache_is_written_through_it() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("file");
        let mut room = Room::new();
        // As a file system answers that wants other multiples.
        room.start += 1;
        let mut file = room.create(&path).unwrap();
        file.write(b"<urlset>").unwrap();
        file.finish().unwrap();
        assert!(fs::read(&path).unwrap() == b"<urlset>");
    }
}
