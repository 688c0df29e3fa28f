//! Every file name and object key of a sitemap, in one place.

/// The index, beside its shards.
pub const INDEX: &str = "sitemap-index.xml";
/// Where a local sitemap keeps its state, inside its directory.
pub const STATE_DIR: &str = ".tidemark";
/// The shard manifest, in the state directory.
pub const MANIFEST: &str = "manifest.json";
/// The names of files that a run is about to write, in the state directory.
pub const INTENT: &str = "intent.json";
/// The input of the last run and its account, in the state directory.
pub const INPUT: &str = "input.json";
/// Rejected rows and dropped fields, in the state directory.
pub const REJECTS: &str = "rejects.ndjson";
/// Files that are ready and not yet published, in the state directory.
pub const STAGING_DIR: &str = "staging";
/// The history of runs, in the state directory.
pub const RUN_REPORT: &str = "report.json";
/// The same as a page to look at, in the state directory.
pub const RUN_REPORT_PAGE: &str = "report.html";
/// What one run at a time holds, in the state directory.
pub const LOCK: &str = "lock";

/// The file of the shard with this number.
#[must_use]
pub fn shard_file(number: u64) -> String {
    format!("sitemap-{number:05}.xml.gz")
}

/// The file of the shard with this number where it is not compressed.
#[must_use]
pub fn plain_shard_file(number: u64) -> String {
    format!("sitemap-{number:05}.xml")
}

/// The index with this number, from 1: the first is [`INDEX`]; more are there only where shards are too many for one.
#[must_use]
pub fn index_file(number: usize) -> String {
    if number <= 1 { INDEX.to_owned() } else { format!("sitemap-index-{number}.xml") }
}

/// The settings of `site`, in the state bucket.
#[must_use]
pub fn site(site: &str) -> String {
    format!("sites/{site}.toml")
}

/// The state object of `site`, in the state bucket.
#[must_use]
pub fn state(site: &str) -> String {
    format!("sitemaps/{site}/state.json")
}

/// The shard manifest that `run` wrote under fencing token `token`, in the state bucket.
#[must_use]
pub fn manifest(site: &str, token: u64, run: &str) -> String {
    format!("sitemaps/{site}/manifests/{token:010}-{}.json", safe(run))
}

/// The rejects of `run`, in the state bucket.
#[must_use]
pub fn rejects(site: &str, run: &str) -> String {
    format!("sitemaps/{site}/rejects/{}.ndjson", safe(run))
}

/// Where changes of `site` wait for IndexNow, in the state bucket.
#[must_use]
pub fn indexnow(site: &str) -> String {
    format!("sitemaps/{site}/indexnow/")
}

/// A part of the changes of the run with fencing token `token`, in the state bucket; older ones come first.
#[must_use]
pub fn indexnow_part(site: &str, token: u64, run: &str, number: usize) -> String {
    format!("{}{token:010}-{}-{number:06}.txt", indexnow(site), safe(run))
}

/// The history of the runs of `site`, in the state bucket.
#[must_use]
pub fn run_report(site: &str) -> String {
    format!("sitemaps/{site}/report.json")
}

/// The same as a page to look at.
#[must_use]
pub fn run_report_page(site: &str) -> String {
    format!("sitemaps/{site}/report.html")
}

/// A run ID as part of a key: what is not plain becomes `-`.
fn safe(run: &str) -> String {
    run.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fixed() {
        assert_eq!(shard_file(7), "sitemap-00007.xml.gz");
        assert_eq!([1, 2].map(index_file), ["sitemap-index.xml", "sitemap-index-2.xml"]);
        assert_eq!(shard_file(123_456), "sitemap-123456.xml.gz");
        assert_eq!(manifest("demo", 3, "a/b:c"), "sitemaps/demo/manifests/0000000003-a-b-c.json");
    }
}
