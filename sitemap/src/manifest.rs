//! The shard manifest: which shards a sitemap has, what each holds, and what its file looked like when last written.
//!
//! It is the memory between runs. From it come stable file names, the key ranges that keep a URL in its shard, and the
//! knowledge that a shard need not be made again. JSON, version 1; every manifest is written once and never changed.

use crate::guard::Accepted;
use crate::pages::BY_ADDRESS;
use crate::row::ROW_FORMAT;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The version of the manifest's form.
pub const MANIFEST_VERSION: u32 = 1;

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Its file's name. It never changes while the shard lives.
    pub file: String,
    /// Where its key range begins; it ends where the next one begins. Empty for the first.
    pub lower: String,
    /// The last key it holds.
    pub last: String,
    /// How many URLs it holds.
    pub urls: u32,
    /// How big its XML is, in bytes.
    pub xml_bytes: u64,
    /// XXH3-128 of its canonical rows, in hexadecimal.
    pub rows_hash: String,
    /// How big its file is, in bytes.
    pub file_bytes: u64,
    /// XXH3-128 of its file, in hexadecimal.
    pub file_hash: String,
    /// What the place where the file lies says of it (an ETag; for a directory size and time), if it was asked.
    pub stamp: Option<String>,
    /// Which version of its object that is, where the bucket keeps versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When its rows last changed: the time of that run, as the index shows it.
    pub changed_at: String,
    /// The number of the index that names it, from 1, by [`crate::keys::index_file`]. It is given when the
    /// shard is published first, and stays.
    #[serde(default = "first", skip_serializing_if = "is_first")]
    pub index: u32,
}

fn first() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks with")]
fn is_first(index: &u32) -> bool {
    *index == first()
}

/// A file that the index names no more, and that goes after a grace period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// Its name.
    pub file: String,
    /// Since when, in milliseconds since the epoch.
    pub since_ms: i64,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`].
    pub version: u32,
    /// [`ROW_FORMAT`] of the row hashes.
    pub row_format: u32,
    /// The site.
    pub base_url: String,
    /// What rows are sorted by, by [`crate::pages::Policy::sorted_by`].
    pub sort_key: String,
    /// The compression library that made the files of the last run.
    pub compressor: String,
    /// Its level.
    pub level: i32,
    /// The run that made it.
    pub run: String,
    /// The run whose sitemap it restores, where it is a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restores: Option<String>,
    /// The key of the manifest that was committed before it, in the state bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// The number of the next new file.
    pub next_number: u64,
    /// The shards, by key range.
    pub shards: Vec<Shard>,
    /// Files that wait to be removed.
    pub retired: Vec<Retired>,
    /// Files that an index names and that hold no shard: those of a sitemap that was taken over and that could not be kept.
    /// The next run publishes their pages and retires them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outgoing: Vec<String>,
    /// How many rows of each kind passed, where the input tells kinds: what the next run's guards begin from.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kinds: BTreeMap<String, u64>,
    /// A drop that was allowed in its run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Accepted>,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not JSON of the known form.
    #[error("it does not parse")]
    Parse(#[from] serde_json::Error),
    /// It was written by another version, or by hand.
    #[error("{0}")]
    Invalid(String),
}

impl Manifest {
    /// The manifest of a sitemap that has never been built.
    #[must_use]
    pub fn empty(base_url: &str) -> Self {
        Self {
            version: MANIFEST_VERSION,
            row_format: ROW_FORMAT,
            base_url: base_url.to_owned(),
            sort_key: BY_ADDRESS.to_owned(),
            compressor: String::new(),
            level: 0,
            run: String::new(),
            restores: None,
            previous: None,
            next_number: 1,
            shards: Vec::new(),
            retired: Vec::new(),
            outgoing: Vec::new(),
            kinds: BTreeMap::new(),
            accepted: None,
        }
    }

    /// Reads a manifest and checks it.
    ///
    /// # Errors
    /// A [`ManifestError`] that says what is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(bytes)?;
        manifest.check().map_err(ManifestError::Invalid)?;
        Ok(manifest)
    }

    /// As JSON, for people to read too.
    ///
    /// # Errors
    /// Never for a manifest that passes its check; the serializer's own otherwise.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// How many URLs the sitemap has.
    #[must_use]
    pub fn urls(&self) -> u64 {
        self.shards.iter().map(|shard| u64::from(shard.urls)).sum()
    }

    /// The numbers of its indexes, all of which robots.txt has to name. The first one stays as long as there is a shard.
    #[must_use]
    pub fn indexes(&self) -> BTreeSet<u32> {
        let first = (!self.shards.is_empty()).then_some(first());
        self.shards.iter().map(|shard| shard.index).chain(first).collect()
    }

    /// The manifest from which the same pages are cut anew, sorted by `sort_key`: its files stay until new ones hold their
    /// pages.
    #[must_use]
    pub(crate) fn anew(self, sort_key: &str) -> Self {
        let files = self.shards.iter().map(|shard| shard.file.clone());
        let outgoing = files.chain(self.outgoing.iter().cloned()).collect();
        Self { sort_key: sort_key.to_owned(), shards: Vec::new(), outgoing, ..self }
    }

    /// Every file that it knows.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let shards = self.shards.iter().map(|shard| &shard.file);
        let others = self.retired.iter().map(|retired| &retired.file).chain(&self.outgoing);
        shards.chain(others).map(String::as_str)
    }

    /// Whether some of its files are another tool's still: what they hold is known by its range alone.
    #[must_use]
    pub fn is_imported(&self) -> bool {
        self.shards.iter().any(|shard| shard.rows_hash.is_empty())
    }

    /// What a shard of these shards' order and ranges must hold true.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.version != MANIFEST_VERSION {
            return Err(format!("its version is {}, this build knows {MANIFEST_VERSION}", self.version));
        }
        if self.shards.first().is_some_and(|shard| !shard.lower.is_empty()) {
            return Err("its first shard does not begin at the first key".to_owned());
        }
        if let Some(pair) = self.shards.windows(2).find(|pair| pair[0].last >= pair[1].lower) {
            return Err(format!("the key ranges of {} and {} overlap", pair[0].file, pair[1].file));
        }
        if let Some(bad) = self.shards.iter().find(|shard| shard.last < shard.lower || shard.urls == 0) {
            return Err(format!("the key range of {} is empty", bad.file));
        }
        if let Some(bad) = self.shards.iter().find(|shard| shard.index == 0) {
            return Err(format!("{} is in the index 0, and indexes count from 1", bad.file));
        }
        let mut names = HashSet::new();
        for name in self.files() {
            if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
                return Err(format!("{name:?} is no file name"));
            }
            if !names.insert(name) {
                return Err(format!("{name} stands in it twice"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::guard::Drop;
    use proptest::prelude::*;

    pub(crate) fn shard(file: &str, lower: &str, last: &str) -> Shard {
        Shard {
            file: file.to_owned(),
            lower: lower.to_owned(),
            last: last.to_owned(),
            urls: 2,
            xml_bytes: 300,
            rows_hash: "00".repeat(16),
            file_bytes: 100,
            file_hash: "ff".repeat(16),
            stamp: Some("\"etag\"".to_owned()),
            version: None,
            changed_at: "2025-11-22T08:26:40Z".to_owned(),
            index: 1,
        }
    }

    #[test]
    fn the_form_of_version_1_is_fixed() {
        let manifest =
            Manifest { shards: vec![shard("sitemap-00001.xml.gz", "", "b")], ..Manifest::empty("https://a.example") };
        let golden = r#"{"version":1,"row_format":2,"base_url":"https://a.example","sort_key":"loc","compressor":"","level":0,"run":"","next_number":1,"shards":[{"file":"sitemap-00001.xml.gz","lower":"","last":"b","urls":2,"xml_bytes":300,"rows_hash":"00000000000000000000000000000000","file_bytes":100,"file_hash":"ffffffffffffffffffffffffffffffff","stamp":"\"etag\"","changed_at":"2025-11-22T08:26:40Z"}],"retired":[]}"#;
        assert_eq!(serde_json::to_string(&manifest).unwrap(), golden);
        assert_eq!(Manifest::from_json(golden.as_bytes()).unwrap(), manifest);
        let mut manifest = manifest;
        manifest.shards[0].index = 2;
        let golden = golden.replace("26:40Z\"", "26:40Z\",\"index\":2");
        assert_eq!(serde_json::to_string(&manifest).unwrap(), golden);
        assert_eq!(Manifest::from_json(golden.as_bytes()).unwrap(), manifest);
        assert_eq!(manifest.indexes(), BTreeSet::from([1, 2]));
    }

    #[test]
    fn a_damaged_manifest_is_refused_with_what_is_wrong() {
        let good = Manifest {
            shards: vec![shard("a", "", "b"), shard("b", "c", "d")],
            ..Manifest::empty("https://a.example")
        };
        let refused = |change: fn(&mut Manifest)| {
            let mut bad = good.clone();
            change(&mut bad);
            Manifest::from_json(&bad.to_json().unwrap()).unwrap_err().to_string()
        };
        assert!(refused(|m| m.version = 2).contains("version is 2"));
        assert!(refused(|m| m.shards[0].lower = "a".into()).contains("first key"));
        assert!(refused(|m| m.shards[0].last = "c".into()).contains("overlap"));
        assert!(refused(|m| m.shards[1].urls = 0).contains("empty"));
        assert!(refused(|m| m.shards[1].file = "../b".into()).contains("no file name"));
        assert!(refused(|m| m.shards[1].file = "a".into()).contains("twice"));
        assert!(refused(|m| m.shards[1].index = 0).contains("index 0"));
        assert!(refused(|m| m.outgoing.push("b".into())).contains("twice"));
        assert!(Manifest::from_json(b"{").unwrap_err().to_string().contains("parse"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            keys in proptest::collection::btree_set("[a-z0-9%/.]{1,8}", 0..12), index in 1_u32..9, urls in 1_u32..50_000, kinds in proptest::collection::btree_map("\\PC{1,9}", 0_u64..9, 0..3),
            run in "\\PC{0,9}", stamp in "\\PC{0,9}",
        ) {
            let mut lower = String::new();
            let mut shards = Vec::new();
            for (n, key) in keys.into_iter().enumerate() {
                let last = format!("{key}!");
                if key >= lower {
                    shards.push(Shard { urls, index, stamp: Some(stamp.clone()), ..shard(&format!("f{n}"), &lower, &key) });
                    lower = last;
                }
            }
            let drops = vec![Drop { kind: Some(run.clone()), before: 9, after: 1, percent_max: 5 }];
            let accepted = (urls % 2 == 0).then(|| Accepted { by: run.clone(), at_ms: 1, drops });
            let manifest = Manifest { shards, run, kinds, accepted, ..Manifest::empty("https://a.example") };
            prop_assert_eq!(Manifest::from_json(&manifest.to_json().unwrap()).unwrap(), manifest);
        }
    }
}
