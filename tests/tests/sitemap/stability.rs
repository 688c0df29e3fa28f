//! Pages stay in their files, and files stay as they are, however a page list changes.
//!
//! Every test draws from a seed that a failure names; `STABILITY_SEED` runs it with another.

use super::{DAY_MS, Fixture, csv, elements};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const PAGES: u32 = 3_000;

/// A small generator of numbers (xorshift), so that a failing run can be repeated.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 % u64::from(bound)).unwrap()
    }
}

/// A page list under change, with the sitemap that is built of it.
struct Site {
    fixture: Fixture,
    numbers: Numbers,
    seed: u64,
    round: u32,
    /// Number of the page, and when it last changed.
    pages: BTreeMap<u32, u32>,
    before: Option<Seen>,
}

/// What stands in the directory.
#[derive(Clone)]
struct Seen {
    /// Which file every page is in, with its lastmod.
    shelves: BTreeMap<String, BTreeMap<String, String>>,
    /// Bytes, and time of the last write: a file that is written again with the same bytes shows.
    files: BTreeMap<String, (Vec<u8>, SystemTime)>,
    /// The lastmod of every file in the index.
    told: BTreeMap<String, String>,
    /// What the manifest has of every file: its rows' hash, its own hash, its stamp and when it changed.
    noted: BTreeMap<String, [String; 4]>,
}

impl Site {
    /// A site with a page at every hundredth number, built once.
    async fn new() -> Self {
        let seed = std::env::var("STABILITY_SEED").map_or(SEED, |text| text.parse().unwrap());
        let fixture = Fixture { drop_percent_max: 100, ..Fixture::new() };
        let pages = (0..PAGES).map(|n| (n * 100, 1)).collect();
        let mut site = Self { fixture, numbers: Numbers(seed), seed, round: 1, pages, before: None };
        site.build().await;
        site
    }

    /// Inserts, deletes and edits, one part in a hundred of the pages together.
    fn change_a_little(&mut self) {
        let highest = self.pages.keys().next_back().copied().unwrap_or(1) + 200;
        for _ in 0..self.pages.len().div_ceil(100) {
            let page = self.numbers.below(highest);
            match self.numbers.below(3) {
                0 => drop(self.pages.insert(page, self.round)),
                1 => {
                    let next = self.pages.range(page..).next().map(|(page, _)| *page);
                    next.map(|page| self.pages.remove(&page));
                }
                _ => {
                    if let Some((_, changed)) = self.pages.range_mut(page..).next() {
                        *changed = self.round;
                    }
                }
            }
        }
    }

    /// Builds a day later and compares with the day before. Gives how many files were written, and how many there are.
    async fn build(&mut self) -> (usize, usize) {
        self.round += 1;
        self.fixture.now_ms += DAY_MS;
        let date = |day: u32| format!("2025-{:02}-{:02}", day / 28 % 12 + 1, day % 28 + 1);
        let rows: Vec<_> = self.pages.iter().map(|(page, day)| (format!("/p/{page:08}"), date(*day))).collect();
        let input = self.fixture.write("pages.csv", &csv(&rows));
        let outcome = self.fixture.build(&input).await.unwrap();
        let noted = outcome.manifest.shards.iter().map(|shard| {
            let of = [&shard.rows_hash, &shard.file_hash, shard.stamp.as_ref().unwrap(), &shard.changed_at];
            (shard.file.clone(), of.map(String::clone))
        });
        let noted = noted.collect();
        let out = self.fixture.out();
        let seen = Seen { shelves: shelves(&out), files: self.fixture.files(), told: index(&out), noted };
        assert_eq!(seen.shelves.values().map(BTreeMap::len).sum::<usize>(), self.pages.len());
        assert!(seen.shelves.values().all(|pages| (1..=500).contains(&pages.len())));
        let count = seen.shelves.len();
        if let Some(before) = self.before.replace(seen.clone()) {
            compare(&format!("seed {}, round {}", self.seed, self.round), &before, &seen);
        }
        (outcome.published.files_new.len() + outcome.published.files_rewritten.len(), count)
    }
}

pub(crate) fn shelves(out: &Path) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut shelves = BTreeMap::new();
    let entries = fs::read_dir(out).unwrap().map(Result::unwrap);
    for entry in entries.filter(|entry| entry.path().extension() == Some("gz".as_ref())) {
        let mut xml = Vec::new();
        flate2::read::GzDecoder::new(fs::read(entry.path()).unwrap().as_slice()).read_to_end(&mut xml).unwrap();
        let urls = elements(&xml, "urlset", "url", &["loc", "lastmod"]);
        let pages =
            urls.into_iter().map(|mut url| (url.remove("loc").unwrap(), url.remove("lastmod").unwrap_or_default()));
        shelves.insert(entry.file_name().into_string().unwrap(), pages.collect());
    }
    shelves
}

fn index(out: &Path) -> BTreeMap<String, String> {
    let bytes = fs::read(out.join("sitemap-index.xml")).unwrap();
    let entries = elements(&bytes, "sitemapindex", "sitemap", &["loc", "lastmod"]);
    entries
        .into_iter()
        .map(|entry| (entry["loc"].rsplit_once('/').unwrap().1.to_owned(), entry["lastmod"].clone()))
        .collect()
}

/// No page goes from a file that stays to another that was there; equal pages mean an untouched file, of which the
/// index and the manifest say what they said.
fn compare(place: &str, old: &Seen, new: &Seen) {
    let home: BTreeMap<&String, &String> =
        new.shelves.iter().flat_map(|(file, pages)| pages.keys().map(move |page| (page, file))).collect();
    for (file, pages) in &old.shelves {
        if new.shelves.get(file) == Some(pages) {
            assert_eq!(old.files[file], new.files[file], "{place}: {file} was touched");
            assert_eq!(old.told[file], new.told[file], "{place}: {file} is said to have changed");
            assert_eq!(old.noted[file], new.noted[file], "{place}: {file} is noted differently");
        } else if new.shelves.contains_key(file) {
            assert!(old.told[file] < new.told[file], "{place}: {file} changed and nobody is told");
        }
        for page in pages.keys() {
            let Some(now) = home.get(page) else { continue };
            let moved = *now != file && new.shelves.contains_key(file) && old.shelves.contains_key(*now);
            assert!(!moved, "{place}: {page} went from {file} to {now}");
        }
    }
}

#[tokio::test]
async fn fifty_rounds_of_small_changes_move_nothing_and_rewrite_only_what_changed() {
    let mut site = Site::new().await;
    for _ in 0..50 {
        site.change_a_little();
        site.build().await;
    }
}

#[tokio::test]
async fn a_tenfold_bulk_insert_into_one_range_splits_that_range_alone() {
    let mut site = Site::new().await;
    let (round, files) = (site.round, site.before.clone().unwrap().shelves.len());
    site.pages.extend((120_001..147_001).map(|page| (page, round)));
    let (written, count) = site.build().await;
    assert!(count > files + 50, "{count}");
    let after = site.before.clone().unwrap();
    let touched = after.told.values().filter(|told| **told == *after.told.values().max().unwrap()).count();
    // The range lies in one or two of the old files; all other files written are new.
    assert!(written == touched && written <= count - files + 2, "{written} of {count}, {files} before");
    for _ in 0..5 {
        site.change_a_little();
        site.build().await;
    }
}

#[tokio::test]
async fn growth_at_one_end_opens_new_files_and_leaves_the_old_ones() {
    let mut site = Site::new().await;
    let mut end = PAGES * 100;
    for _ in 0..12 {
        let round = site.round;
        site.pages.extend((end..end + 350).map(|page| (page, round)));
        end += 350;
        let old = site.before.clone().unwrap();
        site.build().await;
        let new = site.before.clone().unwrap();
        let changed = old.files.keys().filter(|file| old.files[*file] != new.files[*file]).count();
        assert!(changed <= 2, "the index, and the last file at most: {changed}");
    }
}

#[tokio::test]
async fn growth_at_the_left_end_and_ninety_percent_deleted_keep_to_the_rules() {
    let mut site = Site::new().await;
    site.pages = site.pages.iter().map(|(page, round)| (page + 100_000, *round)).collect();
    site.build().await;
    for turn in 0..6 {
        let round = site.round;
        site.pages.extend((0..400).map(|n| (99_999 - turn * 400 - n, round)));
        site.build().await;
    }
    let keep: Vec<u32> = site.pages.keys().copied().filter(|_| site.numbers.below(10) == 0).collect();
    site.pages.retain(|page, _| keep.binary_search(page).is_ok());
    let (_, count) = site.build().await;
    assert!(count >= 1);
    site.pages.retain(|page, _| page % 7 == 0);
    for _ in 0..5 {
        site.change_a_little();
        site.build().await;
    }
}
