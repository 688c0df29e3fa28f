//! Makes the files of shards in the staging directory, where their rows changed.

use super::uncached::{self, Room};
use super::{Assembly, BuildError, Built, Change, Options, Standing, Stray, hex, index_time, io_error};
use crate::cut::{Piece, Take};
use crate::keys;
use crate::manifest::{Manifest, Shard};
use crate::report::Report;
use crate::row::ROW_FORMAT;
use crate::xml::Draft;
use libdeflater::{CompressionLvl, Compressor};
use std::io;
use std::path::PathBuf;
use twox_hash::XxHash3_128;

/// What shards are written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packing {
    /// `.xml.gz`, as search engines fetch them.
    #[default]
    Gzip,
    /// `.xml`, for a server that compresses by itself.
    Plain,
    /// `.xml`, packed already, to be served with `Content-Encoding: gzip`.
    Encoded,
}

impl Packing {
    fn file(self, number: u64) -> String {
        match self {
            Self::Gzip => keys::shard_file(number),
            Self::Plain | Self::Encoded => keys::plain_shard_file(number),
        }
    }

    fn wrote(self, file: &str) -> bool {
        file.ends_with(".gz") == (self == Self::Gzip)
    }
}

/// Makes files of pieces, where they changed.
pub(super) struct Stage<'a> {
    pub(super) previous: Manifest,
    /// As in [`Assembly`].
    cut_anew: Option<Manifest>,
    pub(super) staging: PathBuf,
    changed_at: String,
    packer: Packer,
    /// Room for a part of a file.
    part: Room,
    standing: Standing<'a>,
    shards: Vec<Shard>,
    changes: Vec<Change>,
    next_number: u64,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        previous: Manifest,
        cut_anew: Option<Manifest>,
        staging: PathBuf,
        options: &Options,
        standing: Standing<'a>,
    ) -> Result<Self, BuildError> {
        let level = CompressionLvl::new(options.level).map_err(|_| BuildError::Level(options.level))?;
        let changed_at = index_time(options.changed_ms);
        Ok(Self {
            next_number: previous.next_number,
            previous,
            cut_anew,
            staging,
            changed_at,
            packer: Packer {
                packing: options.packing,
                compressor: Compressor::new(level),
                draft: Draft::new(uncached::ALIGNMENT),
                gzip: Room::new(),
            },
            part: Room::new(),
            standing,
            shards: Vec::new(),
            changes: Vec::new(),
        })
    }

    pub(super) fn finish(self, report: Report, options: &Options) -> Result<Built, BuildError> {
        let Self { previous, cut_anew, shards, changes, next_number, standing, .. } = self;
        Assembly { previous, cut_anew, shards, changes, strays: standing.strays, report, next_number, options }.finish()
    }
}

/// Makes the bytes of files.
struct Packer {
    packing: Packing,
    compressor: Compressor,
    /// The XML of the piece in hand.
    draft: Draft,
    gzip: Room,
}

impl Packer {
    /// The file of `piece`, whose first rows may be in the draft already.
    fn pack(&mut self, piece: &Piece<'_>) -> io::Result<&[u8]> {
        self.draft.append(piece.rows);
        let xml = self.draft.finish(piece.spaces);
        assert_eq!(xml.len() as u64, piece.xml_bytes, "the size of a shard is known before it is made");
        if self.packing == Packing::Plain {
            return Ok(xml);
        }
        let gzip = self.gzip.first(self.compressor.gzip_compress_bound(xml.len()));
        let size = self.compressor.gzip_compress(xml, gzip).map_err(io::Error::other)?;
        Ok(&gzip[..size])
    }
}

/// The name of a new file with this hash: that of a killed run's file where the bytes are the same (so a run that is
/// repeated ends like one that was never killed), else the next number that no such file has.
pub(crate) fn new_file(packing: Packing, strays: &[Stray], next_number: &mut u64, hash: &str) -> String {
    loop {
        let file = packing.file(*next_number);
        *next_number += 1;
        if strays.iter().all(|stray| stray.file != file || stray.hash == hash) {
            return file;
        }
    }
}

impl Take for Stage<'_> {
    type Error = BuildError;

    fn ahead(&mut self, rows: &[u8]) {
        self.packer.draft.append(rows);
    }

    fn take(&mut self, piece: &Piece<'_>) -> Result<(), BuildError> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let rows_hash = hex(piece.rows_hash);
        let packing = self.packer.packing;
        let old = piece.old.map(|at| self.previous.shards[at].clone()).filter(|old| packing.wrote(&old.file));
        let same = |old: &Shard| old.rows_hash == rows_hash && self.previous.row_format == ROW_FORMAT;
        let (lower, last) = (text(piece.lower), text(piece.last));
        if let Some(old) = old.as_ref().filter(|old| same(old) && (self.standing.intact)(old)) {
            self.shards.push(Shard { lower, last, ..old.clone() });
            return Ok(());
        }
        // Equal rows in a damaged file: it is made again, and nothing is said to have changed.
        let changed_at = old.as_ref().filter(|old| same(old)).map_or(&self.changed_at, |old| &old.changed_at).clone();
        let bytes = self.packer.pack(piece).map_err(io_error(&self.staging))?;
        let (file_bytes, file_hash) = (bytes.len() as u64, hex(XxHash3_128::oneshot(bytes)));
        let same_file = |old: &&Shard| old.file_hash == file_hash && (self.standing.intact)(old);
        if let Some(old) = old.as_ref().filter(same_file) {
            // The form of the rows changed, but not what they say.
            self.shards.push(Shard { lower, last, rows_hash, ..old.clone() });
            return Ok(());
        }
        let file = old.as_ref().map_or_else(
            || new_file(packing, self.standing.strays, &mut self.next_number, &file_hash),
            |old| old.file.clone(),
        );
        let staged = self.staging.join(&file);
        uncached::write(&staged, bytes, &mut self.part).map_err(io_error(&staged))?;
        let (urls, xml_bytes) = (piece.urls, piece.xml_bytes);
        self.changes.push(Change { file: file.clone(), staged, bytes: file_bytes });
        let (stamp, version) = (None, None);
        // A new one is given its index when it is published.
        let index = old.as_ref().map_or(1, |old| old.index);
        self.shards.push(Shard {
            file,
            lower,
            last,
            urls,
            xml_bytes,
            rows_hash,
            file_bytes,
            file_hash,
            stamp,
            version,
            changed_at,
            index,
        });
        Ok(())
    }
}
