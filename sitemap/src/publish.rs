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
//! anywhere, too. Before the first write the caller stores the names of the files to come ([`Built::intent`]): what a
//! killed run leaves is then known to the next one, which takes it over or clears it away. Nothing that did not change
//! is written, the index included.

use crate::build::Built;
use crate::manifest::Manifest;
use crate::xml::{self, Entry};
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::path::Path;
use std::time::Duration;

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
pub async fn publish<P: Place>(place: &P, built: Built, manner: &Manner) -> Result<(Manifest, Published), PlaceError> {
    let Built { mut manifest, previous, changes, .. } = built;
    let mut done = Published { shards_unchanged: manifest.shards.len() - changes.len(), ..Published::default() };
    let mut index = place.index().await?;
    let named = index.as_deref().map(|bytes| xml::index_entries(bytes, &manner.files_url)).unwrap_or_default();
    let is_named = |file: &str| named.iter().any(|entry| entry.file == file);
    let known: HashSet<&str> = previous.shards.iter().map(|shard| shard.file.as_str()).collect();
    let mut stamps = HashMap::new();
    let (rewritten, unseen): (Vec<_>, Vec<_>) = changes.into_iter().partition(|change| is_named(&change.file));
    for change in &unseen {
        stamps.insert(change.file.clone(), place.put_shard(&change.file, &change.staged).await?);
    }
    let goes = |entry: &Entry| !manifest.shards.iter().any(|shard| shard.file == entry.file);
    if !unseen.is_empty() && !named.is_empty() && (!rewritten.is_empty() || named.iter().any(goes)) {
        settle(manner).await;
        let new = manifest.shards.iter().filter(|shard| stamps.contains_key(&shard.file)).map(Entry::of);
        let both: Vec<Entry> = named.iter().cloned().chain(new).collect();
        write_index(place, &both, manner, &mut index).await?;
        settle(manner).await;
    }
    for change in &rewritten {
        stamps.insert(change.file.clone(), place.put_shard(&change.file, &change.staged).await?);
    }
    if !named.is_empty() && !stamps.is_empty() {
        settle(manner).await;
    }
    let entries: Vec<Entry> = manifest.shards.iter().map(Entry::of).collect();
    done.index_written = write_index(place, &entries, manner, &mut index).await?;
    let written = unseen.into_iter().chain(rewritten).map(|change| change.file);
    (done.files_rewritten, done.files_new) = written.partition(|file| known.contains(file.as_str()));
    for shard in &mut manifest.shards {
        if let Some(stamp) = stamps.remove(&shard.file) {
            shard.stamp = Some(stamp);
        }
    }
    let (due, waiting) = manifest.retired.into_iter().partition(|old| manner.now_ms - old.since_ms >= manner.grace_ms);
    manifest.retired = waiting;
    for old in due {
        place.remove(&old.file).await?;
        done.files_removed.push(old.file);
    }
    Ok((manifest, done))
}

/// Writes the index of `entries` unless `current` is just that.
async fn write_index<P: Place>(
    place: &P,
    entries: &[Entry],
    manner: &Manner,
    current: &mut Option<Vec<u8>>,
) -> Result<bool, PlaceError> {
    let bytes = xml::index(entries, &manner.files_url);
    if current.as_ref() == Some(&bytes) {
        return Ok(false);
    }
    place.put_index(&bytes).await?;
    *current = Some(bytes);
    Ok(true)
}

/// Waits until no cache serves what was there before.
async fn settle(manner: &Manner) {
    if !manner.edge_ttl.is_zero() {
        tokio::time::sleep(manner.edge_ttl).await;
    }
}

#[cfg(test)]
mod tests;
