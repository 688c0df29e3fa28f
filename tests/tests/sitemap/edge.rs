//! What crawlers see of a sitemap, at the origin and through a cache that may serve a file for a while without asking.
//! It looks after every single write and fails the test at the first moment in which a page is lost.

use crate::store::Objects;
use crate::{elements, store};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Where the files of the tests lie.
pub(crate) const FILES_URL: &str = "https://a.example";

/// Pages with their lastmod.
pub(crate) type Pages = BTreeMap<String, String>;

/// A file over time: since when it was what; `None` where it was not there.
type History<T> = Vec<(i64, Option<T>)>;

/// The watcher.
#[derive(Clone)]
pub(crate) struct Edge {
    pub(crate) now_ms: Arc<AtomicI64>,
    /// How long a cache serves what it has; 0 where only the origin is looked at.
    pub(crate) ttl_ms: i64,
    /// Pages that must be found at every instant.
    pub(crate) must: BTreeSet<String>,
    /// Entries that an index may have.
    pub(crate) per_index: usize,
    indexes: BTreeMap<String, History<Vec<(String, String)>>>,
    files: BTreeMap<String, History<Arc<Pages>>>,
}

impl Edge {
    pub(crate) fn new(now_ms: Arc<AtomicI64>, ttl_ms: i64) -> Self {
        let (indexes, files) = (BTreeMap::new(), BTreeMap::new());
        Self { now_ms, ttl_ms, must: BTreeSet::new(), per_index: 50_000, indexes, files }
    }

    /// The same, with a time of its own.
    pub(crate) fn copy(&self, now_ms: Arc<AtomicI64>) -> Self {
        Self { now_ms, ..self.clone() }
    }

    pub(crate) fn wrote(&mut self, key: &str, bytes: Option<Arc<Vec<u8>>>, objects: &Objects) {
        let now_ms = self.now_ms.load(Ordering::Relaxed);
        if is_index(key) {
            let entries = bytes.as_deref().map(|bytes| index_entries(bytes));
            if let Some(entries) = &entries {
                let number = entries.len();
                assert!((1..=self.per_index).contains(&number), "{key} names {number} of {}", self.per_index);
                self.assert_honest(key, entries);
            }
            let history = self.indexes.entry(key.to_owned()).or_insert_with(|| vec![(i64::MIN, None)]);
            history.push((now_ms, entries));
        } else {
            let pages = bytes.as_deref().map(|bytes| Arc::new(shard_pages(key, bytes)));
            let history = self.files.entry(key.to_owned()).or_insert_with(|| vec![(i64::MIN, None)]);
            history.push((now_ms, pages));
        }
        let found = crawl(objects);
        let lost: Vec<_> = self.must.iter().filter(|page| !found.contains_key(*page)).take(5).collect();
        assert!(lost.is_empty(), "after the write of {key} no indexed shard holds {lost:?}");
        self.assert_found_through_caches(key);
    }

    /// Whatever mixture of old and new files caches serve, every page is in a shard that is named and valid. What one index
    /// may hide must be found by another, whichever of its versions is served.
    fn assert_found_through_caches(&self, key: &str) {
        let mut found = BTreeSet::new();
        for index in self.indexes.values() {
            let mut versions = self.visible(index).into_iter().map(|entries| self.found_by(entries.as_deref()));
            let first = versions.next().expect("a current version");
            found.extend(versions.fold(first, |found, other| found.intersection(&other).copied().collect()));
        }
        let lost: Vec<_> = self.must.iter().filter(|page| !found.contains(page)).take(5).collect();
        assert!(lost.is_empty(), "after the write of {key} caches may hide {lost:?}");
    }

    /// The pages that are found by an index of these entries, whichever versions of its files are served.
    fn found_by(&self, entries: Option<&[(String, String)]>) -> BTreeSet<&String> {
        let mut found = BTreeSet::new();
        for (file, _) in entries.into_iter().flatten() {
            let versions: Vec<_> = self.files.get(file).map(|file| self.visible(file)).unwrap_or_default();
            let Some(Some(first)) = versions.first() else { continue };
            let everywhere = |page: &&String| {
                versions.iter().filter_map(|version| version.as_ref()).all(|pages| pages.contains_key(*page))
            };
            if versions.iter().all(|version| version.is_some()) {
                found.extend(first.keys().filter(everywhere));
            }
        }
        found
    }

    /// An index says that a file changed only when no cache serves what it was before.
    fn assert_honest(&self, index: &str, entries: &[(String, String)]) {
        let Some((_, Some(before))) = self.indexes.get(index).and_then(|index| index.last()) else { return };
        let before: BTreeMap<_, _> = before.iter().cloned().collect();
        for (file, lastmod) in entries.iter().filter(|(file, lastmod)| before.get(file) != Some(lastmod)) {
            let versions = self.visible(&self.files[file]);
            let current = versions.last().expect("a current version");
            let stale = versions.iter().any(|version| version != current);
            assert!(!stale, "{index} says that {file} changed at {lastmod}, and caches may still serve it as it was");
        }
    }

    /// What may be served of a file now: what it is, and what it was a moment ago.
    fn visible<'h, T>(&self, history: &'h History<T>) -> Vec<&'h Option<T>> {
        let since_ms = self.now_ms.load(Ordering::Relaxed) - self.ttl_ms;
        let first = history.iter().rposition(|(at_ms, _)| *at_ms <= since_ms).unwrap_or(0);
        history[first..].iter().map(|(_, version)| version).collect()
    }
}

/// The files that an index names, with their lastmod.
pub(crate) fn index_entries(bytes: &[u8]) -> Vec<(String, String)> {
    let entries = elements(bytes, "sitemapindex", "sitemap", &["loc", "lastmod"]);
    let file = |loc: &str| loc.strip_prefix(FILES_URL).unwrap().rsplit('/').next().unwrap().to_owned();
    entries.into_iter().map(|entry| (file(&entry["loc"]), entry["lastmod"].clone())).collect()
}

/// The pages of a shard; fails where it is no valid one.
pub(crate) fn shard_pages(file: &str, bytes: &[u8]) -> Pages {
    let mut xml = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut xml).unwrap_or_else(|error| panic!("{file}: {error}"));
    let urls = elements(&xml, "urlset", "url", &["loc", "lastmod", "changefreq", "priority"]);
    assert!(!urls.is_empty(), "{file} is empty");
    let page =
        |mut url: BTreeMap<String, String>| (url.remove("loc").unwrap(), url.remove("lastmod").unwrap_or_default());
    urls.into_iter().map(page).collect()
}

/// Whether a file is called like an index.
pub(crate) fn is_index(file: &str) -> bool {
    file.starts_with("sitemap-index") && file.ends_with(".xml")
}

/// What a crawler finds at the origin, now, by all indexes. Every file that one names must be there and valid.
pub(crate) fn crawl(objects: &Objects) -> Pages {
    let mut pages = Pages::new();
    for (name, index) in objects.all(store::PUBLIC).iter().filter(|(file, _)| is_index(file)) {
        for (file, _) in index_entries(&index.bytes) {
            let shard =
                objects.get(store::PUBLIC, &file).unwrap_or_else(|| panic!("{name} names {file}: it is not there"));
            pages.extend(shard_pages(&file, &shard.bytes));
        }
    }
    pages
}
