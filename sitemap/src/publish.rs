//! Puts what a pass made in its place, in an order that never leaves a page without a valid, indexed shard.
//!
//! A URL moves only from a file that stays to a new one (split), or from a file that goes to one that stays (merge). So
//! the order is:
//!
//! 1. files that the index does not name, so that nobody sees them yet;
//! 2. an index that names them beside all that it named before;
//! 3. rewritten files;
//! 4. the final index;
//! 5. after a grace period, files that no index names any more are removed.
//!
//! What the index names is read from the index itself, not from memory, so this holds after a run that was killed
//! anywhere, too. The lease is renewed before the first file, before every index and before files are removed, so that a
//! run that lost it stops; what slips through between renewal and write, the place's own conditions catch. Before the first write the caller stores the names of the files to come ([`Built::intent`]): what a
//! killed run leaves is then known to the next one, which takes it over or clears it away. Nothing that did not change
//! is written, the index included.

use crate::build::Built;
use crate::manifest::{Manifest, Retired};
use crate::xml::{self, Entry};
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::path::Path;
use std::time::Duration;
use tidemark_runtime::clock::Clock;

/// Why a place could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{operation} of {file} failed: {message}")]
pub struct PlaceError {
    /// What was tried.
    pub operation: &'static str,
    /// With which file.
    pub file: String,
    /// What the system or the service said, and what to do where that is known.
    pub message: String,
}

/// Where a sitemap lies: a directory, or a prefix of a bucket.
pub trait Place: Sync {
    /// Makes the staged file the file called `file`, at once and whole, and gives its stamp.
    fn put_shard(&self, file: &str, staged: &Path) -> impl Future<Output = Result<String, PlaceError>> + Send;
    /// Makes `bytes` the index, at once and whole.
    fn put_index(&self, bytes: &[u8]) -> impl Future<Output = Result<(), PlaceError>> + Send;
    /// The index as it is, if there is one.
    fn index(&self) -> impl Future<Output = Result<Option<Vec<u8>>, PlaceError>> + Send;
    /// Removes a file; one that is not there is removed already.
    fn remove(&self, file: &str) -> impl Future<Output = Result<(), PlaceError>> + Send;
}

/// The right to write to a place.
pub trait Lease: Send {
    /// Fails where somebody else has taken it; prolongs it otherwise.
    fn renew(&mut self) -> impl Future<Output = Result<(), PlaceError>> + Send;
}

/// The lease of a place that nobody else can write to, because it is locked.
#[derive(Clone, Copy, Debug)]
pub struct Locked;

impl Lease for Locked {
    async fn renew(&mut self) -> Result<(), PlaceError> {
        Ok(())
    }
}

/// How to publish.
#[derive(Clone, Debug)]
pub struct Manner {
    /// The address under which crawlers find the files, without a last slash.
    pub files_url: String,
    /// How long caches may serve an old file: what is waited between files and an index.
    pub edge_ttl: Duration,
    /// How long a file that no index names stays, in milliseconds.
    pub grace_ms: i64,
    /// The time of the run, in milliseconds since the epoch.
    pub now_ms: i64,
    /// What waits.
    pub clock: Clock,
}

/// What publishing did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Published {
    /// Files that were not there before.
    pub files_new: Vec<String>,
    /// Files whose content changed.
    pub files_rewritten: Vec<String>,
    /// Files that were removed.
    pub files_removed: Vec<String>,
    /// Shards that stayed as they were.
    pub shards_unchanged: usize,
    /// Whether the index was written.
    pub index_written: bool,
}

impl Published {
    /// Whether anything that crawlers see was written.
    #[must_use]
    pub fn touched(&self) -> bool {
        self.index_written || !(self.files_new.is_empty() && self.files_rewritten.is_empty())
    }
}

impl Built {
    /// The files that may stand at the place without being in the old manifest once publishing has begun. To be stored
    /// before [`publish`] is called, and forgotten when the manifest is committed.
    #[must_use]
    pub fn intent(&self) -> Vec<String> {
        let known: HashSet<&str> = self.previous.shards.iter().map(|shard| shard.file.as_str()).collect();
        let new = self.changes.iter().map(|change| &change.file).filter(|file| !known.contains(file.as_str()));
        let mut files: Vec<String> = new.chain(&self.strays).cloned().collect();
        files.sort();
        files.dedup();
        files
    }
}

/// Publishes what `built` holds. The manifest comes back with the stamps of the written files, to be committed by the
/// caller; until then, the next run starts from the old one and mends what this run left.
///
/// # Errors
/// The first [`PlaceError`]; running again goes on from there.
pub async fn publish<P: Place, L: Lease>(
    place: &P,
    built: Built,
    manner: &Manner,
    lease: &mut L,
) -> Result<(Manifest, Published), PlaceError> {
    let Built { mut manifest, previous, changes, .. } = built;
    let mut done = Published { shards_unchanged: manifest.shards.len() - changes.len(), ..Published::default() };
    let mut index = place.index().await?;
    let named = index.as_deref().map(|bytes| xml::index_entries(bytes, &manner.files_url)).unwrap_or_default();
    let is_named = |file: &str| named.iter().any(|entry| entry.file == file);
    let known: HashSet<&str> = previous.shards.iter().map(|shard| shard.file.as_str()).collect();
    let mut stamps = HashMap::new();
    let (rewritten, unseen): (Vec<_>, Vec<_>) = changes.into_iter().partition(|change| is_named(&change.file));
    if !unseen.is_empty() || !rewritten.is_empty() {
        lease.renew().await?;
    }
    for change in &unseen {
        stamps.insert(change.file.clone(), place.put_shard(&change.file, &change.staged).await?);
    }
    let goes = |entry: &Entry| !manifest.shards.iter().any(|shard| shard.file == entry.file);
    // Also what did not change is unnamed where a run was killed that had merged it away.
    let unnamed: Vec<Entry> = manifest.shards.iter().filter(|s| !is_named(&s.file)).map(Entry::of).collect();
    if !unnamed.is_empty() && !named.is_empty() && (!rewritten.is_empty() || named.iter().any(goes)) {
        settle(manner).await;
        let both: Vec<Entry> = named.iter().cloned().chain(unnamed).collect();
        write_index(place, &both, manner, lease, &mut index).await?;
        settle(manner).await;
        lease.renew().await?;
    } else if !rewritten.is_empty() && !is_index_of(&previous, &named) {
        // A killed run wrote this index, perhaps a moment ago: caches may still have the one before.
        settle(manner).await;
        lease.renew().await?;
    }
    for change in &rewritten {
        stamps.insert(change.file.clone(), place.put_shard(&change.file, &change.staged).await?);
    }
    if !named.is_empty() && !stamps.is_empty() {
        settle(manner).await;
    }
    let entries: Vec<Entry> = manifest.shards.iter().map(Entry::of).collect();
    done.index_written = write_index(place, &entries, manner, lease, &mut index).await?;
    let written = unseen.into_iter().chain(rewritten).map(|change| change.file);
    (done.files_rewritten, done.files_new) = written.partition(|file| known.contains(file.as_str()));
    for shard in &mut manifest.shards {
        if let Some(stamp) = stamps.remove(&shard.file) {
            shard.stamp = Some(stamp);
        }
    }
    let (due, waiting) = manifest.retired.into_iter().partition(|old| manner.now_ms - old.since_ms >= manner.grace_ms);
    manifest.retired = waiting;
    done.files_removed = remove(place, due, manner, lease, done.index_written).await?;
    Ok((manifest, done))
}

/// Removes the files that are `due`, not before caches have forgotten an index that may have named them.
async fn remove<P: Place, L: Lease>(
    place: &P,
    due: Vec<Retired>,
    manner: &Manner,
    lease: &mut L,
    index_written: bool,
) -> Result<Vec<String>, PlaceError> {
    if due.is_empty() {
        return Ok(Vec::new());
    }
    if index_written {
        settle(manner).await;
    }
    lease.renew().await?;
    let mut removed = Vec::new();
    for old in due {
        place.remove(&old.file).await?;
        removed.push(old.file);
    }
    Ok(removed)
}

fn is_index_of(manifest: &Manifest, named: &[Entry]) -> bool {
    named.iter().eq(manifest.shards.iter().map(Entry::of).collect::<Vec<_>>().iter())
}

/// Writes the index of `entries` unless `current` is just that.
async fn write_index<P: Place, L: Lease>(
    place: &P,
    entries: &[Entry],
    manner: &Manner,
    lease: &mut L,
    current: &mut Option<Vec<u8>>,
) -> Result<bool, PlaceError> {
    let bytes = xml::index(entries, &manner.files_url);
    // An index of nothing is not valid: a sitemap of recent pages that never had one has none.
    if entries.is_empty() || current.as_ref() == Some(&bytes) {
        return Ok(false);
    }
    lease.renew().await?;
    place.put_index(&bytes).await?;
    *current = Some(bytes);
    Ok(true)
}

/// Waits until no cache serves what was there before.
async fn settle(manner: &Manner) {
    if !manner.edge_ttl.is_zero() {
        manner.clock.sleep(manner.edge_ttl).await;
    }
}

#[cfg(test)]
mod tests;
