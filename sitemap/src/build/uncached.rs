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
pub(super) const ALIGNMENT: usize = 4096;
/// How much is copied and written at a time where it does not lie so, in bytes.
const ROOM_BYTES: usize = 1 << 20;

#[cfg(target_os = "linux")]
const UNCACHED: OFlags = OFlags::DIRECT;
#[cfg(not(target_os = "linux"))]
const UNCACHED: OFlags = OFlags::empty();

/// Room whose address is such a multiple.
pub(super) struct Room {
    bytes: Vec<u8>,
    /// Where it begins in them.
    start: usize,
}

impl Room {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), start: 0 }
    }

    /// Its first `len` bytes, whatever they hold.
    pub(super) fn first(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.len() < self.start + len {
            // What is there is not kept, and so not copied either.
            self.bytes = vec![0; len + ALIGNMENT];
            self.start = self.bytes.as_ptr().align_offset(ALIGNMENT);
        }
        &mut self.bytes[self.start..][..len]
    }
}

/// Writes `bytes` to the file at `path`, in place of what it may hold: straight from where they lie, where that is a
/// multiple of [`ALIGNMENT`], else by way of `room`.
pub(super) fn write(path: &Path, bytes: &[u8], room: &mut Room) -> io::Result<()> {
    let open = |flags: OFlags| {
        let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
        OpenOptions::new().write(true).create(true).truncate(true).custom_flags(flags).open(path)
    };
    let file = match open(UNCACHED) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => open(OFlags::empty()),
        opened => opened,
    }?;
    let is_aligned = bytes.as_ptr().align_offset(ALIGNMENT) == 0;
    let (straight, rest) = bytes.split_at(if is_aligned { bytes.len() / ALIGNMENT * ALIGNMENT } else { 0 });
    // At once: the disk is asked in the largest pieces that it takes.
    write_part(&file, straight, 0)?;
    let mut at = straight.len() as u64;
    for part in rest.chunks(ROOM_BYTES) {
        let padded = room.first(part.len().next_multiple_of(ALIGNMENT));
        padded[..part.len()].copy_from_slice(part);
        padded[part.len()..].fill(0);
        write_part(&file, padded, at)?;
        at += part.len() as u64;
    }
    file.set_len(at)
}

fn write_part(file: &File, part: &[u8], at: u64) -> io::Result<()> {
    // By its place in the file, so that a try that got half way does no harm.
    let write = || file.write_all_at(part, at);
    match write() {
        // This file system wants other multiples.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            fcntl_setfl(file, fcntl_getfl(file)? - UNCACHED)?;
            write()
        }
        outcome => outcome,
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
        let (mut aligned, mut room) = (Room::new(), Room::new());
        for size in [2 * ROOM_BYTES + 5, ROOM_BYTES, ALIGNMENT, ALIGNMENT + 1, 700, 1, 0] {
            let bytes = aligned.first(size + 1);
            bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at % 251) as u8);
            // From where it can be written at once, and from where it cannot.
            for bytes in [&bytes[..size], &bytes[1..]] {
                write(&path, bytes, &mut room).unwrap();
                assert!(fs::read(&path).unwrap() == bytes, "{size} bytes");
            }
        }
    }

    #[test]
    fn what_cannot_be_written_past_the_cache_is_written_through_it() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("file");
        let mut room = Room::new();
        // As a file system answers that wants other multiples.
        room.first(ALIGNMENT);
        room.start += 1;
        write(&path, b"<urlset>", &mut room).unwrap();
        assert!(fs::read(&path).unwrap() == b"<urlset>");
    }
}
