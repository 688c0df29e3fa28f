//! Which index names which shard, where shards are too many for one.
//!
//! Promises: a shard that an index names stays in that index; a new one goes into the index in which its pages were (or,
//! past the last, its neighbour is), else into the first one that has room, else into a new one. No index ever names more
//! than it may, what goes and what comes together: what counts is what it names at the place, so also what a killed run
//! left there. A run that is repeated after a kill assigns like one that was not killed: what was written is found named,
//! and took the same room in both.

use super::{Lease, Manner, Place, PlaceError};
use crate::keys;
use crate::manifest::{Manifest, Shard};
use crate::xml::{self, Entry};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::iter;

/// An index at the place.
#[derive(Debug, Default)]
struct Index {
    /// As it stands; nothing where it is not there.
    bytes: Option<Vec<u8>>,
    /// The entries that it keeps until the last step.
    kept: Vec<Entry>,
}

/// The indexes at the place, by number.
#[derive(Debug)]
pub(super) struct Indexes<'a> {
    manner: &'a Manner,
    all: BTreeMap<u32, Index>,
    /// Numbers of files that are called like an index of ours and are none.
    foreign: BTreeSet<u32>,
    /// The index that each named file belongs to.
    keepers: HashMap<String, u32>,
    /// The numbers of those that were written.
    written: BTreeSet<u32>,
}

impl<'a> Indexes<'a> {
    /// Reads what stands at the place, on the way from `previous` to `manifest`.
    pub(super) async fn read<P: Place>(
        place: &P,
        previous: &Manifest,
        manifest: &Manifest,
        manner: &'a Manner,
    ) -> Result<Self, PlaceError> {
        let retired = manifest.retired.iter().filter_map(|old| keys::index_number(&old.file));
        let known: BTreeSet<u32> = previous.indexes().into_iter().chain(retired).chain([1]).collect();
        let (mut all, mut foreign) = (BTreeMap::from([(1, Index::default())]), BTreeSet::new());
        for (number, bytes) in place.indexes().await? {
            if known.contains(&number) || xml::is_our_index(&bytes, &manner.files_url) {
                let kept = xml::index_entries(&bytes, &manner.files_url);
                all.insert(number, Index { bytes: Some(bytes), kept });
            } else {
                foreign.insert(number);
            }
        }
        let keepers = keepers(&all, previous);
        for (number, index) in &mut all {
            // What two name, one of them need not.
            index.kept.retain(|entry| keepers.get(&entry.file) == Some(number));
        }
        Ok(Self { manner, all, foreign, keepers, written: BTreeSet::new() })
    }

    /// Whether any of them names `file`.
    pub(super) fn names(&self, file: &str) -> bool {
        self.keepers.contains_key(file)
    }

    /// Whether they name nothing, as before the first run.
    pub(super) fn is_empty(&self) -> bool {
        self.keepers.is_empty()
    }

    /// Whether there is any, be it somebody else's.
    pub(super) fn stand(&self) -> bool {
        self.all.values().any(|index| index.bytes.is_some())
    }

    /// Whether one of them names a file that is none of `shards`.
    pub(super) fn name_others_than(&self, shards: &[Shard]) -> bool {
        let files: HashSet<&str> = shards.iter().map(|shard| shard.file.as_str()).collect();
        self.keepers.keys().any(|file| !files.contains(file.as_str()))
    }

    /// Whether they are just those of `manifest`.
    pub(super) fn are_of(&self, manifest: &Manifest) -> bool {
        let numbers: BTreeSet<u32> = manifest.indexes().into_iter().chain(self.all.keys().copied()).collect();
        let expected = |number: u32| xml::index_of(number, &manifest.shards, &self.manner.files_url);
        let stands = |number: u32| self.all.get(&number).and_then(|index| index.bytes.as_deref());
        numbers.into_iter().all(|number| stands(number) == Some(expected(number).as_slice()))
    }

    /// Gives every shard its index, on the way from `previous`.
    pub(super) fn assign(&self, shards: &mut [Shard], previous: &Manifest) {
        let said = by_file(previous);
        let mut rooms: BTreeMap<u32, Room> = BTreeMap::new();
        for (number, index) in &self.all {
            let room = rooms.entry(*number).or_default();
            index.kept.iter().for_each(|entry| room.take(entry, self.manner));
        }
        for shard in shards {
            if let Some(keeper) = self.keepers.get(&shard.file) {
                shard.index = *keeper;
                continue;
            }
            let entry = Entry::of(shard);
            let wish = said.get(shard.file.as_str()).copied().unwrap_or_else(|| beside(&shard.lower, previous));
            let has_room = |number: &u32| rooms.get(number).copied().unwrap_or_default().fits(&entry, self.manner);
            let next = || rooms.keys().chain(&self.foreign).max().map_or(1, |last| last + 1);
            shard.index = iter::once(wish).chain(rooms.keys().copied()).find(has_room).unwrap_or_else(next);
            rooms.entry(shard.index).or_default().take(&entry, self.manner);
        }
    }

    /// Of `shards`, those that their index does not name yet, by index.
    pub(super) fn gains(&self, shards: &[Shard]) -> BTreeMap<u32, Vec<Entry>> {
        let mut gains: BTreeMap<u32, Vec<Entry>> = BTreeMap::new();
        for shard in shards.iter().filter(|shard| !self.names(&shard.file)) {
            gains.entry(shard.index).or_default().push(Entry::of(shard));
        }
        gains
    }

    /// Has the index `number` name `more` beside what it names already.
    pub(super) async fn extend<P: Place, L: Lease>(
        &mut self,
        number: u32,
        more: Vec<Entry>,
        place: &P,
        lease: &mut L,
    ) -> Result<(), PlaceError> {
        let kept = self.all.get(&number).map(|index| index.kept.clone()).unwrap_or_default();
        let both: Vec<Entry> = kept.into_iter().chain(more).collect();
        self.write(number, xml::index(&both, &self.manner.files_url), place, lease).await
    }

    /// Makes them the indexes of `manifest`, and gives the numbers of those that it has no use for.
    pub(super) async fn finish<P: Place, L: Lease>(
        &mut self,
        manifest: &Manifest,
        place: &P,
        lease: &mut L,
    ) -> Result<BTreeSet<u32>, PlaceError> {
        let used = manifest.indexes();
        // An index of nothing is not valid: a sitemap of recent pages that never had one has none.
        if manifest.shards.is_empty() {
            return Ok(BTreeSet::new());
        }
        let standing: BTreeSet<u32> = self.all.keys().chain(&used).copied().collect();
        for number in &standing {
            let bytes = xml::index_of(*number, &manifest.shards, &self.manner.files_url);
            self.write(*number, bytes, place, lease).await?;
        }
        Ok(standing.difference(&used).copied().collect())
    }

    /// The files that were written.
    pub(super) fn written(&self) -> Vec<String> {
        self.written.iter().map(|number| keys::index_file(*number)).collect()
    }

    /// Writes the index `number` unless it stands there just so.
    async fn write<P: Place, L: Lease>(
        &mut self,
        number: u32,
        bytes: Vec<u8>,
        place: &P,
        lease: &mut L,
    ) -> Result<(), PlaceError> {
        let index = self.all.entry(number).or_default();
        if index.bytes.as_ref() == Some(&bytes) {
            return Ok(());
        }
        lease.renew().await?;
        place.put_index(&keys::index_file(number), &bytes).await?;
        index.bytes = Some(bytes);
        self.written.insert(number);
        Ok(())
    }
}

/// The index that each named file belongs to. Where several name it, as after a killed run, that is the one that the
/// committed manifest says, else the first.
fn keepers(all: &BTreeMap<u32, Index>, previous: &Manifest) -> HashMap<String, u32> {
    let mut namers: HashMap<&str, BTreeSet<u32>> = HashMap::new();
    for (number, index) in all {
        index.kept.iter().for_each(|entry| _ = namers.entry(&entry.file).or_default().insert(*number));
    }
    let said = by_file(previous);
    let keeper = |(file, namers): (&str, BTreeSet<u32>)| {
        let keeper = said.get(file).filter(|number| namers.contains(number)).or(namers.first())?;
        Some((file.to_owned(), *keeper))
    };
    namers.into_iter().filter_map(keeper).collect()
}

fn by_file(manifest: &Manifest) -> HashMap<&str, u32> {
    manifest.shards.iter().map(|shard| (shard.file.as_str(), shard.index)).collect()
}

/// The index of the shard of `previous` whose range `key` lies in, or of the one before.
fn beside(key: &str, previous: &Manifest) -> u32 {
    let at = previous.shards.partition_point(|shard| shard.lower.as_str() <= key);
    previous.shards.get(at.saturating_sub(1)).map_or(1, |shard| shard.index)
}

/// What an index holds.
#[derive(Clone, Copy, Debug)]
struct Room {
    shards: usize,
    bytes: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self { shards: 0, bytes: xml::INDEX_FRAME_BYTES }
    }
}

impl Room {
    fn fits(self, entry: &Entry, manner: &Manner) -> bool {
        self.shards < manner.index.shards_max
            && self.bytes + xml::entry_bytes(entry, &manner.files_url) <= manner.index.bytes_max
    }

    fn take(&mut self, entry: &Entry, manner: &Manner) {
        self.shards += 1;
        self.bytes += xml::entry_bytes(entry, &manner.files_url);
    }
}
