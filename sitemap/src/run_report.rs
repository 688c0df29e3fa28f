//! The history of a sitemap's runs, as JSON and as one page to look at.
//!
//! Promises: at most [`RUNS_MAX`] runs are kept; the page needs nothing from outside, no script, no font, no picture, and
//! shows only what is in the JSON. What comes from page lists is escaped.

use crate::guard::Accepted;
use crate::keys;
use crate::manifest::Manifest;
use crate::publish::Published;
use crate::report::{Outcome, Report, Sample};
use aws_sdk_s3::Client;
use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::primitives::ByteStream;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

mod page;

/// The version of the history's form.
pub const HISTORY_VERSION: u32 = 1;
/// Runs that are kept; the oldest go.
pub const RUNS_MAX: usize = 200;

/// One run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// The run's ID.
    pub run: String,
    /// When it began, in milliseconds since the epoch.
    pub at_ms: i64,
    /// How long it took, in milliseconds.
    pub took_ms: i64,
    /// URLs in the sitemap after it.
    pub urls: u64,
    /// Shards in the sitemap after it.
    pub shards: u64,
    /// Files that were not there before.
    pub files_new: u64,
    /// Files whose content changed.
    pub files_rewritten: u64,
    /// Files that were removed.
    pub files_removed: u64,
    /// Rows read.
    pub input: u64,
    /// Rows whose loc another row has too.
    pub duplicates: u64,
    /// Rows left out because they say so, by reason.
    pub excluded: BTreeMap<String, u64>,
    /// Rows that cannot be in the sitemap, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Fields left out of rows that stayed, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Things to look at, by reason.
    pub flagged: BTreeMap<String, u64>,
    /// A drop that was allowed in this run: by whom, and what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Accepted>,
}

impl Entry {
    /// The entry of a run that began at `at_ms`, ended at `now_ms` and made `manifest`.
    #[must_use]
    pub fn new(
        run: &str,
        (at_ms, now_ms): (i64, i64),
        manifest: &Manifest,
        published: &Published,
        report: &Report,
    ) -> Self {
        Self {
            run: run.to_owned(),
            at_ms,
            took_ms: now_ms.saturating_sub(at_ms),
            urls: manifest.urls(),
            shards: manifest.shards.len() as u64,
            files_new: published.files_new.len() as u64,
            files_rewritten: published.files_rewritten.len() as u64,
            files_removed: published.files_removed.len() as u64,
            input: report.input,
            duplicates: report.duplicates,
            excluded: report.excluded.clone(),
            rejected: report.rejected.clone(),
            dropped: report.dropped.clone(),
            flagged: report.flagged.clone(),
            accepted: manifest.accepted.clone().filter(|_| manifest.run == run),
        }
    }
}

/// All runs that are remembered, and examples of what the last one left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// [`HISTORY_VERSION`].
    pub version: u32,
    /// The sitemap, for the page's title.
    pub sitemap: String,
    /// The runs, oldest first.
    pub runs: Vec<Entry>,
    /// A few rows or fields of the last run that were left out.
    #[serde(default)]
    pub samples: Vec<Sample>,
}

impl History {
    /// The history of `sitemap` before its first run.
    #[must_use]
    pub fn empty(sitemap: &str) -> Self {
        Self { version: HISTORY_VERSION, sitemap: sitemap.to_owned(), runs: Vec::new(), samples: Vec::new() }
    }

    /// What stands in `json`. A history is no state: one that cannot be read begins anew.
    #[must_use]
    pub fn from_json(json: &[u8], sitemap: &str) -> Self {
        let read: Option<Self> = serde_json::from_slice(json).ok();
        read.filter(|history| history.version == HISTORY_VERSION).unwrap_or_else(|| Self::empty(sitemap))
    }

    /// As JSON.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec_pretty(self)
    }

    /// Adds a run; one that is there already (a repeated trigger) takes its own place.
    pub fn add(&mut self, entry: Entry, report: &Report) {
        self.runs.retain(|run| run.run != entry.run);
        self.runs.push(entry);
        let over = self.runs.len().saturating_sub(RUNS_MAX);
        self.runs.drain(..over);
        let shown = |sample: &&Sample| sample.outcome != Outcome::Excluded;
        self.samples = report.samples.iter().filter(shown).cloned().collect();
    }

    /// The page: one HTML document, complete in itself.
    #[must_use]
    pub fn page(&self) -> String {
        page::render(self)
    }
}

/// Adds a run to the history in `state_dir`, and writes the page beside it.
///
/// # Errors
/// Where they cannot be written.
pub fn record(state_dir: &Path, sitemap: &str, entry: Entry, report: &Report) -> io::Result<()> {
    let (json, page) = (state_dir.join(keys::RUN_REPORT), state_dir.join(keys::RUN_REPORT_PAGE));
    let mut history = match fs::read(&json) {
        Ok(bytes) => History::from_json(&bytes, sitemap),
        Err(error) if error.kind() == io::ErrorKind::NotFound => History::empty(sitemap),
        Err(error) => return Err(error),
    };
    history.add(entry, report);
    let write = |path: &Path, bytes: &[u8]| {
        let new = path.with_extension("new");
        fs::write(&new, bytes).and_then(|()| fs::rename(&new, path))
    };
    write(&page, history.page().as_bytes())?;
    write(&json, &history.to_json().map_err(io::Error::other)?)
}

/// Adds a run to the history of `site` in the state bucket, and puts the page beside it. Call it under the site's lease,
/// so that no two runs write at once.
///
/// # Errors
/// What S3 said, in words.
pub async fn store(s3: &Client, bucket: &str, site: &str, entry: Entry, report: &Report) -> Result<(), String> {
    let (json, page) = (keys::run_report(site), keys::run_report_page(site));
    let mut history = match s3.get_object().bucket(bucket).key(&json).send().await {
        Ok(object) => {
            let bytes = object.body.collect().await.map_err(|error| error.to_string())?.to_vec();
            History::from_json(&bytes, site)
        }
        Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => History::empty(site),
        Err(error) => return Err(DisplayErrorContext(&error).to_string()),
    };
    history.add(entry, report);
    let text = history.to_json().map_err(|error| error.to_string())?;
    for (key, kind, bytes) in
        [(json, "application/json", text), (page, "text/html; charset=utf-8", history.page().into_bytes())]
    {
        let request = s3.put_object().bucket(bucket).key(key).content_type(kind).body(ByteStream::from(bytes));
        request.send().await.map_err(|error| DisplayErrorContext(&error).to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u64) -> Entry {
        let rejected = BTreeMap::from([("no <loc>".to_owned(), n)]);
        Entry { run: format!("run-{n}"), at_ms: 1_763_800_000_000, urls: n, shards: 1, rejected, ..Entry::default() }
    }

    fn history(runs: u64) -> History {
        let mut history = History::empty("https://a.example");
        (1..=runs).for_each(|n| history.add(entry(n), &Report::default()));
        history
    }

    #[test]
    fn only_so_many_runs_are_kept_and_a_repeated_one_counts_once() {
        let mut history = history(RUNS_MAX as u64 + 10);
        assert_eq!((history.runs.len(), history.runs[0].run.as_str()), (RUNS_MAX, "run-11"));
        history.add(Entry { urls: 7, ..entry(20) }, &Report::default());
        assert_eq!((history.runs.len(), history.runs.last().unwrap().urls), (RUNS_MAX, 7));
    }

    #[test]
    fn a_history_is_read_back_and_a_damaged_one_begins_anew() {
        let history = history(3);
        assert_eq!(History::from_json(&history.to_json().unwrap(), "x"), history);
        assert_eq!(History::from_json(b"{", "x"), History::empty("x"));
        let directory = tempfile::tempdir().unwrap();
        record(directory.path(), "x", entry(1), &Report::default()).unwrap();
        record(directory.path(), "x", entry(2), &Report::default()).unwrap();
        let read = fs::read(directory.path().join(keys::RUN_REPORT)).unwrap();
        assert_eq!(History::from_json(&read, "x").runs.len(), 2);
        assert!(fs::read_to_string(directory.path().join(keys::RUN_REPORT_PAGE)).unwrap().contains("run-2"));
    }

    #[test]
    fn the_page_asks_for_nothing_from_outside_and_escapes_what_it_shows() {
        for runs in [0, 1, 2, 200] {
            let mut history = history(runs);
            history.sitemap = "<script>alert(1)</script>".to_owned();
            let value = "\"><img src=x>".to_owned();
            history.samples = vec![Sample { outcome: Outcome::Rejected, reason: "r".into(), line: 3, value }];
            let page = history.page();
            for outside in ["<script", "<img", "src=", "href=", "url(", "@import", "http://", "https://"] {
                assert!(!page.contains(outside), "{outside} with {runs} runs");
            }
            assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
            assert!(!page.contains("NaN") && !page.contains("inf"), "{runs}");
        }
        assert!(history(2).page().contains("no &lt;loc&gt;"));
    }
}
