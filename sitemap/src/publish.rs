//! Puts what a pass made in its place, in an order that never leaves a page without a valid, indexed shard.
//!
//! A URL moves only from a file that stays to a new one (split), or from a file that goes to one that stays (merge). So
//! the order is:
//!
//! 1. files that no index names, so that nobody sees them yet;
//! 2. every index that gains some, which then names them beside all that it named before;
//! 3. rewritten files;
//! 4. the final indexes;
//! 5. after a grace period, files that no index names any more are removed, and indexes that are left without a shard.
//!
//! Files of one step go side by side (`calls.rs`); the steps wait for each other.
//!
//! Which index names what is read from the indexes themselves, not from memory, so this holds after a run that was killed
//! anywhere, too. The lease is renewed before the first file, before every index, before files are removed, and within a
//! step that takes long, so that a run that lost it stops; what slips through between renewal and write, the place's own
//! conditions catch. Before the first write the caller stores the names of the files to come ([`Built::intent`]): what a
//! killed run leaves is then known to the next one, which takes it over or clears it away. Nothing that did not change
//! is written, the indexes included.

mod indexes;

use crate::build::{Built, Change};
use crate::calls::side_by_side_with;
use crate::cut::IndexLimits;
use crate::keys;
use crate::manifest::{Manifest, Retired};
use indexes::Indexes;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::path::Path;
use std::time::Duration;
use tidemark_runtime::clock::Clock;

/// What is told of a new index.
pub const INDEX_NEW: &str = "a new index, which robots.txt has to name: see tidemark sitemap robots";

/// How long a step goes on before the lease is renewed again: far less than the shortest lease.
const RENEW_EVERY_MS: i64 = 2 * 60 * 1000;

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
    /// Makes the staged file the file called `file`, at once and whole, and gives its stamp. May hold it in memory.
    fn put_shard(&self, file: &str, staged: &Path) -> impl Future<Output = Result<String, PlaceError>> + Send;
    /// Makes `bytes` the index called `file`, at once and whole.
    fn put_index(&self, file: &str, bytes: &[u8]) -> impl Future<Output = Result<(), PlaceError>> + Send;
    /// Every file that is called like an index, by [`crate::keys::index_number`], as it is.
    fn indexes(&self) -> impl Future<Output = Result<Vec<(u32, Vec<u8>)>, PlaceError>> + Send;
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

/// A lease that is renewed where a step takes long.
struct Steady<'l, L> {
    lease: &'l mut L,
    clock: &'l Clock,
    renewed_ms: i64,
}

impl<L: Lease> Lease for Steady<'_, L> {
    async fn renew(&mut self) -> Result<(), PlaceError> {
        self.renewed_ms = self.clock.now_ms();
        self.lease.renew().await
    }
}

impl<L: Lease> Steady<'_, L> {
    /// Renews it when it is time.
    async fn keep(&mut self) -> Result<(), PlaceError> {
        if self.clock.now_ms() - self.renewed_ms >= RENEW_EVERY_MS { self.renew().await } else { Ok(()) }
    }
}

/// How to publish.
#[derive(Clone, Debug)]
pub struct Manner {
    /// The address under which crawlers find the files, without a last slash.
    pub files_url: String,
    /// How much an index may hold.
    pub index: IndexLimits,
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
    /// Indexes that were written.
    pub indexes_written: Vec<String>,
    /// Those of the sitemap, all of which robots.txt has to name.
    pub indexes: Vec<String>,
    /// Those among them that the run before did not have, where it had any: robots.txt does not name them yet.
    pub indexes_new: Vec<String>,
}

impl Published {
    /// Whether anything that crawlers see was written.
    #[must_use]
    pub fn touched(&self) -> bool {
        !(self.indexes_written.is_empty() && self.files_new.is_empty() && self.files_rewritten.is_empty())
    }

    fn tell_indexes(&mut self, indexes: &Indexes<'_>, before: &BTreeSet<u32>, after: &BTreeSet<u32>) {
        self.indexes_written = indexes.written();
        self.indexes = after.iter().copied().map(keys::index_file).collect();
        if !before.is_empty() {
            self.indexes_new = after.difference(before).copied().map(keys::index_file).collect();
        }
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
    let indexes_before = built.before().indexes();
    let Built { mut manifest, previous, changes, .. } = built;
    let lease = &mut Steady { lease, clock: &manner.clock, renewed_ms: manner.clock.now_ms() };
    let mut done = Published { shards_unchanged: manifest.shards.len() - changes.len(), ..Published::default() };
    let mut indexes = Indexes::read(place, &previous, &manifest, manner).await?;
    indexes.assign(&mut manifest.shards, &previous);
    let (rewritten, unseen): (Vec<_>, Vec<_>) = changes.into_iter().partition(|change| indexes.names(&change.file));
    if !unseen.is_empty() || !rewritten.is_empty() {
        lease.renew().await?;
    }
    let mut stamps = put_files(place, &unseen, lease).await?;
    // Also what did not change is unnamed where a run was killed that had merged it away.
    let gains = indexes.gains(&manifest.shards);
    let is_first = indexes.is_empty();
    if !gains.is_empty() && !is_first && (!rewritten.is_empty() || indexes.name_others_than(&manifest.shards)) {
        settle(manner).await;
        for (number, more) in gains {
            indexes.extend(number, more, place, lease).await?;
        }
        settle(manner).await;
        lease.renew().await?;
    } else if !rewritten.is_empty() && !indexes.are_of(&previous) {
        // A killed run wrote these indexes, perhaps a moment ago: caches may still have those before.
        settle(manner).await;
        lease.renew().await?;
    }
    stamps.extend(put_files(place, &rewritten, lease).await?);
    // Also behind another tool's index, of which nothing is read: crawlers are here already.
    if indexes.stand() && !stamps.is_empty() {
        settle(manner).await;
    }
    let unused = indexes.finish(&manifest, place, lease).await?;
    done.tell_indexes(&indexes, &indexes_before, &manifest.indexes());
    let known: HashSet<&str> = previous.shards.iter().map(|shard| shard.file.as_str()).collect();
    let written = unseen.into_iter().chain(rewritten).map(|change| change.file);
    (done.files_rewritten, done.files_new) = written.partition(|file| known.contains(file.as_str()));
    for shard in &mut manifest.shards {
        if let Some(stamp) = stamps.remove(&shard.file) {
            shard.stamp = Some(stamp);
        }
    }
    retire_indexes(&mut manifest, unused.into_iter().map(keys::index_file), manner.now_ms);
    let (due, waiting) = manifest.retired.into_iter().partition(|old| manner.now_ms - old.since_ms >= manner.grace_ms);
    manifest.retired = waiting;
    done.files_removed = remove(place, due, manner, lease, !done.indexes_written.is_empty()).await?;
    Ok((manifest, done))
}

/// Puts the files of one step in their place, and gives the stamp of each.
async fn put_files<P: Place, L: Lease>(
    place: &P,
    changes: &[Change],
    lease: &mut Steady<'_, L>,
) -> Result<HashMap<String, String>, PlaceError> {
    let put = async |change: &Change| Ok((change.file.clone(), place.put_shard(&change.file, &change.staged).await?));
    let sized: Vec<_> = changes.iter().map(|change| (change, change.bytes)).collect();
    let stamps = side_by_side_with(sized, put, async || lease.keep().await).await?;
    Ok(stamps.into_iter().collect())
}

/// Has indexes without a shard go like files do; one that was to go may have shards again.
fn retire_indexes(manifest: &mut Manifest, unused: impl Iterator<Item = String>, since_ms: i64) {
    let used: HashSet<String> = manifest.indexes().into_iter().map(keys::index_file).collect();
    manifest.retired.retain(|old| !used.contains(&old.file));
    let known: HashSet<String> = manifest.retired.iter().map(|old| old.file.clone()).collect();
    let going = unused.filter(|file| !known.contains(file));
    manifest.retired.extend(going.map(|file| Retired { file, since_ms }));
}

/// Removes the files that are `due`, not before caches have forgotten an index that may have named them.
async fn remove<P: Place, L: Lease>(
    place: &P,
    due: Vec<Retired>,
    manner: &Manner,
    lease: &mut Steady<'_, L>,
    index_written: bool,
) -> Result<Vec<String>, PlaceError> {
    if due.is_empty() {
        return Ok(Vec::new());
    }
    if index_written {
        settle(manner).await;
    }
    lease.renew().await?;
    let remove = async |old: Retired| place.remove(&old.file).await.map(|()| old.file);
    side_by_side_with(due.into_iter().map(|old| (old, 0)), remove, async || lease.keep().await).await
}

/// Waits until no cache serves what was there before.
async fn settle(manner: &Manner) {
    if !manner.edge_ttl.is_zero() {
        manner.clock.sleep(manner.edge_ttl).await;
    }
}

#[cfg(test)]
mod tests;
