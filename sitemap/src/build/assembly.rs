//! What a pass made, or the parts of one, becomes a whole: held against guards and windows, with its manifest and what goes.

use super::{BuildError, Built, COMPRESSOR, Change, NOTHING_NEW, Options, Stray};
use crate::guard;
use crate::keys;
use crate::manifest::{MANIFEST_VERSION, Manifest, Retired, Shard};
use crate::report::Report;
use crate::row::ROW_FORMAT;
use std::collections::HashSet;

/// What a pass made, or the parts of one, on its way to be a whole.
pub(crate) struct Assembly<'a> {
    pub(crate) previous: Manifest,
    /// The manifest before that, where the sitemap is cut anew.
    pub(crate) cut_anew: Option<Manifest>,
    pub(crate) shards: Vec<Shard>,
    pub(crate) changes: Vec<Change>,
    pub(crate) strays: &'a [Stray],
    pub(crate) report: Report,
    pub(crate) next_number: u64,
    pub(crate) options: &'a Options,
}

impl Assembly<'_> {
    /// Holds the whole against the guards and makes its manifest.
    pub(crate) fn finish(self) -> Result<Built, BuildError> {
        let Self { previous, cut_anew, mut shards, options, mut report, .. } = self;
        // That nothing is new is a state of the world; a list of which nothing could be read is none. An empty sitemap is
        // not valid, and one that is gone is an error to every crawler, so the last one stays.
        // Where files are to go that are no shards, it only stays whole while nothing is written.
        let is_empty = report.emitted == 0 && report.excluded_total() > 0;
        let is_window = options.policy.select.is_window() && !options.is_part;
        let stays = is_empty && is_window && previous.outgoing.is_empty();
        if report.emitted == 0 && !stays {
            return Err(BuildError::Empty(Box::new(report)));
        }
        let mut kinds = report.kinds.clone();
        let mut accepted = None;
        if stays {
            report.flag(NOTHING_NEW, 1);
            (shards, kinds) = (previous.shards.clone(), previous.kinds.clone());
        } else if !options.is_part {
            accepted = guard::check(options, cut_anew.as_ref().unwrap_or(&previous), &mut report)?;
        }
        kinds.retain(|_, rows| *rows > 0);
        let mut retired = previous.retired.clone();
        let kept: HashSet<&str> = shards.iter().map(|shard| shard.file.as_str()).collect();
        let gone = previous.shards.iter().filter(|shard| !kept.contains(shard.file.as_str()));
        let strays = self.strays.iter().map(|stray| stray.file.as_str());
        let strays: Vec<String> = strays.filter(|file| !kept.contains(file)).map(str::to_owned).collect();
        let known: HashSet<String> = retired.iter().map(|old| old.file.clone()).collect();
        let going = gone.map(|shard| &shard.file).chain(&previous.outgoing).chain(&strays).cloned();
        let since_ms = options.changed_ms;
        retired.extend(going.filter(|file| !known.contains(file)).map(|file| Retired { file, since_ms }));
        // A name that goes is never given anew: it would stand in the manifest twice.
        let next_number = strays.iter().map(|file| keys::number_after(file)).fold(self.next_number, u64::max);
        let manifest = Manifest {
            version: MANIFEST_VERSION,
            row_format: ROW_FORMAT,
            base_url: previous.base_url.clone(),
            sort_key: previous.sort_key.clone(),
            compressor: COMPRESSOR.to_owned(),
            level: options.level,
            run: options.run.clone(),
            restores: None,
            previous: None,
            next_number,
            shards,
            retired,
            outgoing: Vec::new(),
            kinds,
            accepted,
        };
        Ok(Built { manifest, previous, cut_anew, changes: self.changes, strays, report })
    }
}
