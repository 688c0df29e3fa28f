//! Puts what a pass made in its place, in an order that never leaves a page without a valid, indexed shard.
//!
//! A URL moves only from a file that stays to a new one (split), or from a file that goes to one that stays (merge). So
//! the order is: new files; an index that names them beside the old ones; rewritten files; the final index; and last,
//! after a grace period, files that no index names. Killed anywhere, a page of both the old and the new input is in a
//! valid shard that the index names. Nothing that did not change is written, the index included.

use crate::build::Built;
use crate::manifest::{Manifest, Shard};
use crate::xml;
use std::collections::HashMap;
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

/// Publishes what `built` holds. The manifest comes back with the stamps of the written files, to be committed by the
/// caller; until then, the next run starts from the old one and mends what this run left.
///
/// # Errors
/// The first [`PlaceError`]; running again goes on from there.
pub async fn publish<P: Place>(place: &P, built: Built, manner: &Manner) -> Result<(Manifest, Published), PlaceError> {
    let Built { mut manifest, previous, changes, .. } = built;
    let mut done = Published { shards_unchanged: manifest.shards.len() - changes.len(), ..Published::default() };
    let mut stamps = HashMap::new();
    let (rewritten, new): (Vec<_>, Vec<_>) = changes.into_iter().partition(|change| change.replaces.is_some());
    for change in new {
        stamps.insert(change.file.clone(), place.put_shard(&change.file, &change.staged).await?);
        done.files_new.push(change.file);
    }
    let moves = !rewritten.is_empty() || manifest.retired.len() > previous.retired.len();
    if !done.files_new.is_empty() && !previous.shards.is_empty() && moves {
        settle(manner).await;
        let new = manifest.shards.iter().filter(|shard| stamps.contains_key(&shard.file));
        write_index(place, previous.shards.iter().chain(new), manner).await?;
        settle(manner).await;
    }
    for change in rewritten {
        stamps.insert(change.file.clone(), place.put_shard(&change.file, &change.staged).await?);
        done.files_rewritten.push(change.file);
    }
    if !previous.shards.is_empty() && !stamps.is_empty() {
        settle(manner).await;
    }
    done.index_written = write_index(place, manifest.shards.iter(), manner).await?;
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

/// Writes the index of `shards` unless it stands there already.
async fn write_index<'a, P: Place>(
    place: &P,
    shards: impl Iterator<Item = &'a Shard>,
    manner: &Manner,
) -> Result<bool, PlaceError> {
    let bytes = xml::index(shards, &manner.files_url);
    if place.index().await?.as_deref() == Some(&bytes) {
        return Ok(false);
    }
    place.put_index(&bytes).await?;
    Ok(true)
}

/// Waits until no cache serves what was there before.
async fn settle(manner: &Manner) {
    if !manner.edge_ttl.is_zero() {
        tokio::time::sleep(manner.edge_ttl).await;
    }
}
