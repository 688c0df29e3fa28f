//! Every way a run can be killed, against a place in memory that is looked at after every single write.

use super::*;
use crate::build::{Build, Options, Order, Standing, Stray, hex};
use crate::cut::Limits;
use crate::loc::BaseUrl;
use crate::manifest::Shard;
use crate::pages::{Policy, RawPage};
use crate::source::Sink;
use crate::xml;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use twox_hash::XxHash3_128;

const BASE: &str = "https://a.example";
const NOW_MS: i64 = 1_763_800_000_000;
const LIMITS: Limits = Limits {
    urls_target: 40,
    urls_max: 50,
    bytes_max: xml::BYTES_MAX,
    news_max: xml::NEWS_MAX,
    index: IndexLimits { shards_max: xml::SHARDS_MAX, bytes_max: xml::BYTES_MAX },
};
/// An index that is soon full.
const SMALL: IndexLimits = IndexLimits { shards_max: 2, bytes_max: xml::BYTES_MAX };

type Input = BTreeMap<u32, u32>;

/// What outlives a killed run: the files, the committed manifest and the intent.
#[derive(Clone, Debug, PartialEq)]
struct World {
    files: BTreeMap<String, Vec<u8>>,
    manifest: Manifest,
    intent: Vec<String>,
    index: IndexLimits,
}

/// The files of a world, with a fuse that burns at every write and a look at every state.
struct Memory {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Writes until the run is killed, in halves: before a write, or after it with its answer lost.
    fuse: Mutex<usize>,
    /// Pages that must be in an indexed shard at every instant.
    must: BTreeSet<u32>,
    index: IndexLimits,
}

impl Memory {
    fn write(&self, file: &str, bytes: Option<Vec<u8>>) -> Result<(), PlaceError> {
        let mut fuse = self.fuse.lock().unwrap();
        let killed = || PlaceError { operation: "writing", file: file.to_owned(), message: "killed".to_owned() };
        if *fuse == 0 {
            return Err(killed());
        }
        {
            let mut files = self.files.lock().unwrap();
            match bytes {
                Some(bytes) => files.insert(file.to_owned(), bytes),
                None => files.remove(file),
            };
            let seen = crawl(&files, self.index).expect("indexes name valid shards only, and no more than they may");
            let missing: Vec<_> = self.must.iter().filter(|page| !seen.contains_key(page)).collect();
            assert!(missing.is_empty(), "after writing {file} no indexed shard holds {missing:?}");
        }
        if *fuse == 1 {
            *fuse = 0;
            return Err(killed());
        }
        *fuse -= 2;
        Ok(())
    }
}

impl Place for Memory {
    async fn put_shard(&self, file: &str, staged: &Path) -> Result<String, PlaceError> {
        let bytes = std::fs::read(staged).unwrap();
        let stamp = hex(XxHash3_128::oneshot(&bytes));
        self.write(file, Some(bytes)).map(|()| stamp)
    }
    async fn put_index(&self, file: &str, bytes: &[u8]) -> Result<(), PlaceError> {
        self.write(file, Some(bytes.to_vec()))
    }
    async fn indexes(&self) -> Result<Vec<(u32, Vec<u8>)>, PlaceError> {
        let files = self.files.lock().unwrap();
        let indexes = files.iter().filter_map(|(file, bytes)| Some((keys::index_number(file)?, bytes.clone())));
        Ok(indexes.collect())
    }
    async fn remove(&self, file: &str) -> Result<(), PlaceError> {
        self.write(file, None)
    }
}

/// The files that an index names, lent ones too.
fn named(index: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(index);
    let loc = |rest: &str| rest.split("</loc>").next().unwrap().rsplit('/').next().unwrap().to_owned();
    text.split("<loc>").skip(1).map(loc).collect()
}

/// The pages that a crawler finds by all indexes, with their lastmod's day; `None` where one names nothing, more than it
/// may, or a file that is not there. Where no index is yet, nothing is.
fn crawl(files: &BTreeMap<String, Vec<u8>>, limits: IndexLimits) -> Option<Input> {
    let mut pages = Input::new();
    for (_, index) in files.iter().filter(|(file, _)| keys::index_number(file).is_some()) {
        let named = named(index);
        if named.is_empty() || named.len() > limits.shards_max || index.len() as u64 > limits.bytes_max {
            return None;
        }
        for file in named {
            let mut text = String::new();
            flate2::read::GzDecoder::new(files.get(&file)?.as_slice()).read_to_string(&mut text).ok()?;
            for line in text.lines().filter_map(|line| line.strip_prefix("<url><loc>https://a.example/")) {
                pages.insert(line[..6].parse().ok()?, line[29..31].parse().ok()?);
            }
        }
    }
    Some(pages)
}

fn built(world: &World, input: &Input, work_dir: &Path) -> Built {
    let policy = Policy::new(BaseUrl::parse(BASE).unwrap(), NOW_MS);
    let options = Options { limits: LIMITS, level: 1, drop_percent_max: 100, ..Options::new(policy, "run") };
    let hash = |file: &str| world.files.get(file).map(|bytes| hex(XxHash3_128::oneshot(bytes)));
    let intact = |shard: &Shard| hash(&shard.file).as_deref() == Some(&shard.file_hash);
    let stray = |file: &String| Some(Stray { file: file.clone(), hash: hash(file)? });
    let strays: Vec<Stray> = world.intent.iter().filter_map(stray).collect();
    let standing = Standing { intact: &intact, strays: &strays };
    let mut build = Build::new(world.manifest.clone(), work_dir, &options, Order::Given, standing).unwrap();
    for (page, day) in input {
        let (loc, lastmod) = (format!("/{page:06}"), format!("2025-01-{day:02}"));
        let mut raw = RawPage::default();
        (raw.fields[0], raw.fields[1]) = (loc.as_bytes(), lastmod.as_bytes());
        build.page(&raw).unwrap();
    }
    build.finish().unwrap()
}

fn manner(index: IndexLimits, grace_ms: i64) -> Manner {
    Manner {
        files_url: BASE.to_owned(),
        index,
        edge_ttl: Duration::ZERO,
        grace_ms,
        now_ms: NOW_MS,
        clock: Clock::simulated(NOW_MS),
    }
}

/// One run on `input` that is killed when the fuse has burnt; true where it ended by itself and committed.
fn run(world: &mut World, input: &Input, fuse: usize, must: &BTreeSet<u32>, grace_ms: i64) -> bool {
    let work_dir = tempfile::tempdir().unwrap();
    let built = built(world, input, work_dir.path());
    world.intent = built.intent();
    let memory = Memory {
        files: Mutex::new(world.files.clone()),
        fuse: Mutex::new(fuse),
        must: must.clone(),
        index: world.index,
    };
    let manner = manner(world.index, grace_ms);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let outcome = runtime.block_on(publish(&memory, built, &manner, &mut Locked));
    world.files = memory.files.into_inner().unwrap();
    let Ok((manifest, _)) = outcome else { return false };
    world.manifest = Manifest::from_json(&manifest.to_json().unwrap()).unwrap();
    world.intent = Vec::new();
    assert_eq!(crawl(&world.files, world.index).as_ref(), Some(input), "a run that ends leaves exactly its pages");
    assert_indexes_are_of_the_manifest(world);
    true
}

/// Every index of the manifest stands as it says, and every other one is to go.
fn assert_indexes_are_of_the_manifest(world: &World) {
    let used = world.manifest.indexes();
    for number in &used {
        let stands = &world.files[&keys::index_file(*number)];
        assert_eq!(stands, &xml::index_of(*number, &world.manifest.shards, BASE), "index {number}");
    }
    for number in world.files.keys().filter_map(|file| keys::index_number(file)).filter(|n| !used.contains(n)) {
        let is_to_go = world.manifest.retired.iter().any(|old| old.file == keys::index_file(number));
        assert!(is_to_go, "nobody knows index {number}");
    }
}

const UNHURT: usize = usize::MAX;

fn start(input: &Input, index: IndexLimits) -> World {
    let manifest = Manifest::empty(BASE);
    let mut world = World { files: BTreeMap::new(), manifest, intent: Vec::new(), index };
    assert!(run(&mut world, input, UNHURT, &BTreeSet::new(), 0));
    world
}

fn common(inputs: &[&Input]) -> BTreeSet<u32> {
    let mut pages: BTreeSet<u32> = inputs[0].keys().copied().collect();
    inputs.iter().for_each(|input| pages.retain(|page| input.contains_key(page)));
    pages
}

/// Kills the run from `first` to `second` at every write, before it and after it, and lets runs on `second` and on
/// `third` follow. Returns how many ways there were.
fn kill_everywhere([first, second, third]: [&Input; 3], grace_ms: i64, index: IndexLimits) -> usize {
    let before = start(first, index);
    let mut unhurt = before.clone();
    assert!(run(&mut unhurt, second, UNHURT, &common(&[first, second]), grace_ms));
    for fuse in 0.. {
        let mut world = before.clone();
        if run(&mut world, second, fuse, &common(&[first, second]), grace_ms) {
            assert_eq!(world, unhurt);
            return fuse;
        }
        let mut resumed = world.clone();
        assert!(run(&mut resumed, second, UNHURT, &common(&[first, second]), grace_ms));
        assert_eq!(resumed, unhurt, "a run killed at {fuse} and repeated ends byte for byte like one that was not");
        let mut other = world.clone();
        assert!(run(&mut other, third, UNHURT, &common(&[first, second, third]), grace_ms));
        let mut twice = world;
        run(&mut twice, third, fuse, &common(&[first, second, third]), grace_ms);
        assert!(run(&mut twice, first, UNHURT, &common(&[first, second, third]), grace_ms));
    }
    unreachable!("some fuse is long enough")
}

fn pages(pages: impl Iterator<Item = u32>) -> Input {
    pages.map(|page| (page, 1)).collect()
}

#[test]
fn a_run_killed_at_any_write_loses_no_page_and_is_mended() {
    // The first shard splits, the second changes, the third nearly empties and joins the fourth, the edge grows.
    let first = pages((0..200).map(|n| n * 10));
    let mut second = first.clone();
    second.extend((0..60).map(|n| (n * 5 + 1, 2)));
    second.insert(500, 3);
    second.retain(|page, _| !(800..1180).contains(page));
    second.extend((0..70).map(|n| (3000 + n, 4)));
    let mut third = pages((0..300).map(|n| n * 7));
    third.extend((0..90).map(|n| (n * 10, 5)));
    for index in [LIMITS.index, SMALL] {
        let ways = kill_everywhere([&first, &second, &third], 0, index);
        assert!(ways > 12, "{ways} ways only");
        kill_everywhere([&first, &second, &third], i64::MAX, index);
        kill_everywhere([&second, &first, &third], 0, index);
    }
}

/// The numbers of the shards' indexes, by key range.
fn indexes(world: &World) -> Vec<u32> {
    world.manifest.shards.iter().map(|shard| shard.index).collect()
}

#[test]
fn a_shard_keeps_its_index_and_a_new_one_goes_where_there_is_room() {
    let mut input = pages((0..200).map(|page| page * 10));
    let mut world = start(&input, IndexLimits { shards_max: 3, ..SMALL });
    assert_eq!(indexes(&world), [1, 1, 1, 2, 2]);
    let mut step = |input: &Input| {
        assert!(run(&mut world, input, UNHURT, &BTreeSet::new(), 0));
        indexes(&world)
    };
    // The last shard splits, in whose index there is room.
    input.extend(pages((0..20).map(|page| 1_600 + page * 2 + 1)));
    assert_eq!(step(&input), [1, 1, 1, 2, 2, 2]);
    // Then the first, and every index is full.
    input.extend(pages((0..20).map(|page| page * 2 + 1)));
    assert_eq!(step(&input), [1, 3, 1, 1, 2, 2, 2]);
    // What is lost in the middle, the next new shards take.
    input.retain(|page, _| !(400..1_200).contains(page));
    assert_eq!(step(&input), [1, 3, 2, 2, 2]);
    input.extend(pages((0..60).map(|page| 5_000 + page)));
    assert_eq!(step(&input), [1, 3, 2, 2, 2, 1, 1]);
}

#[test]
fn the_bytes_of_an_index_are_held_too() {
    let entry = xml::entry_bytes(
        &xml::Entry { file: crate::keys::shard_file(1), changed_at: "2025-11-22T08:26:40Z".into() },
        BASE,
    );
    let exact = IndexLimits { bytes_max: xml::INDEX_FRAME_BYTES + 3 * entry, ..LIMITS.index };
    assert_eq!(indexes(&start(&pages(0..200), exact)), [1, 1, 1, 2, 2]);
    let less = IndexLimits { bytes_max: exact.bytes_max - 1, ..exact };
    assert_eq!(indexes(&start(&pages(0..200), less)), [1, 1, 2, 2, 3]);
}

#[test]
fn an_index_without_shards_stays_valid_until_it_goes_and_the_first_one_stays() {
    let mut world = start(&pages(0..200), SMALL);
    assert_eq!(indexes(&world), [1, 1, 2, 2, 3]);
    let step = |world: &mut World, input: &Input, grace_ms| {
        assert!(run(world, input, UNHURT, &BTreeSet::new(), grace_ms));
        let files: BTreeSet<u32> = world.files.keys().filter_map(|file| keys::index_number(file)).collect();
        (indexes(world), files.into_iter().collect())
    };
    // Nothing of the first index is left, nor of the last.
    assert_eq!(step(&mut world, &pages(80..160), i64::MAX), (vec![2, 2], vec![1, 2, 3]));
    assert_eq!(world.manifest.indexes(), BTreeSet::from([1, 2]));
    assert!(world.manifest.retired.iter().any(|old| old.file == "sitemap-index-3.xml"));
    // It would go next; but a new shard finds the first index empty, and the one after that takes it.
    assert_eq!(step(&mut world, &pages(80..280), i64::MAX), (vec![2, 2, 1, 1, 3], vec![1, 2, 3]));
    assert!(world.manifest.retired.iter().all(|old| old.file != "sitemap-index-3.xml"));
    assert_eq!(step(&mut world, &pages(80..160), 0), (vec![2, 2], vec![1, 2]));
}

#[test]
fn somebody_elses_file_with_the_name_of_an_index_stays() {
    let mut world = start(&pages(0..80), SMALL);
    let theirs =
        b"<sitemapindex><sitemap><loc>https://a.example/sitemap-00001.xml.gz</loc></sitemap></sitemapindex>".to_vec();
    world.files.insert("sitemap-index-2.xml".to_owned(), theirs.clone());
    let input = pages(0..200);
    let work_dir = tempfile::tempdir().unwrap();
    let built = built(&world, &input, work_dir.path());
    let memory =
        Memory { files: Mutex::new(world.files), fuse: Mutex::new(UNHURT), must: BTreeSet::new(), index: SMALL };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (manifest, _) = runtime.block_on(publish(&memory, built, &manner(SMALL, 0), &mut Locked)).unwrap();
    assert_eq!(manifest.indexes(), BTreeSet::from([1, 3, 4]));
    assert_eq!(memory.files.lock().unwrap()["sitemap-index-2.xml"], theirs);
}

#[test]
fn nothing_changed_writes_nothing() {
    let input = pages(0..150);
    let mut world = start(&input, SMALL);
    let before = world.clone();
    assert!(run(&mut world, &input, 0, &common(&[&input]), 0), "not one write");
    assert_eq!(world, before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn random_changes_survive_every_kill(
        first in proptest::collection::btree_map(0_u32..400, 1_u32..28, 60..250),
        cuts in proptest::collection::vec((0_u32..400, 1_u32..120), 0..3),
        more in proptest::collection::btree_map(0_u32..500, 1_u32..28, 1..150),
        third in proptest::collection::btree_map(0_u32..500, 1_u32..28, 60..250),
        grace_ms in prop_oneof![Just(0), Just(i64::MAX)],
        index in prop_oneof![Just(LIMITS.index), Just(SMALL)],
    ) {
        let mut second = first.clone();
        second.retain(|page, _| !cuts.iter().any(|(from, count)| (*from..from + count).contains(page)));
        second.extend(more);
        kill_everywhere([&first, &second, &third], grace_ms, index);
    }
}

/// A place where every file takes a minute, and a lease that tells when it was renewed.
struct Slow {
    clock: Clock,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

impl Slow {
    async fn take(&self) {
        let under_way = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(under_way, Ordering::Relaxed);
        self.clock.sleep(Duration::from_secs(60)).await;
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Place for Slow {
    async fn put_shard(&self, file: &str, _: &Path) -> Result<String, PlaceError> {
        self.take().await;
        Ok(file.to_owned())
    }
    async fn put_index(&self, _: &str, _: &[u8]) -> Result<(), PlaceError> {
        assert_eq!(self.under_way.load(Ordering::Relaxed), 0, "a file is still under way");
        Ok(())
    }
    async fn indexes(&self) -> Result<Vec<(u32, Vec<u8>)>, PlaceError> {
        Ok(Vec::new())
    }
    async fn remove(&self, _: &str) -> Result<(), PlaceError> {
        self.take().await;
        Ok(())
    }
}

struct Renewals(Clock, Vec<i64>);

impl Lease for Renewals {
    async fn renew(&mut self) -> Result<(), PlaceError> {
        self.1.push(self.0.now_ms());
        Ok(())
    }
}

#[tokio::test]
async fn files_of_a_step_go_side_by_side_and_the_lease_is_renewed_meanwhile() {
    let input: Input = (0..4000).map(|page| (page, 1)).collect();
    let work_dir = tempfile::tempdir().unwrap();
    let retired = (0..100).map(|n| Retired { file: format!("old-{n}.xml.gz"), since_ms: 0 }).collect();
    let manifest = Manifest { retired, ..Manifest::empty(BASE) };
    let world = World { files: BTreeMap::new(), manifest, intent: Vec::new(), index: LIMITS.index };
    let built = built(&world, &input, work_dir.path());
    let clock = Clock::simulated(NOW_MS);
    let place = Slow { clock: clock.clone(), under_way: AtomicUsize::new(0), most: AtomicUsize::new(0) };
    let mut lease = Renewals(clock.clone(), vec![NOW_MS]);
    let manner = Manner { clock: clock.clone(), ..manner(LIMITS.index, 0) };
    let (manifest, done) = publish(&place, built, &manner, &mut lease).await.unwrap();
    assert_eq!((manifest.shards.len(), done.files_removed.len()), (100, 100));
    assert_eq!(place.most.into_inner(), crate::calls::CALLS_MAX);
    lease.1.push(clock.now_ms());
    let longest = lease.1.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    // Until one of those under way has come back.
    let bound = RENEW_EVERY_MS + i64::try_from(crate::calls::CALLS_MAX).unwrap() * 60_000;
    assert!(longest < bound, "{longest} ms without a renewal, of {}", clock.now_ms() - NOW_MS);
}
