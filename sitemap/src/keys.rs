//! Every file name and object key of a sitemap, in one place.

use crate::source;

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
/// Files of the input, in a run's working directory.
pub const INPUT_DIR: &str = "input";
/// Public files as they are, in a run's working directory.
pub const PUBLIC_DIR: &str = "public";
/// The rows of a query's result, among the files of the input.
pub const RESULT_ROWS: &str = "rows.ndjson";
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

/// Above every number of a file of ours, and so that counting on never overflows.
const NUMBERS_END: u64 = 1 << 60;

/// A number that is higher than any in the name `file` that a file of ours could have.
#[must_use]
pub fn number_after(file: &str) -> u64 {
    let numbers = file.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse::<u64>().ok());
    numbers.filter(|number| *number < NUMBERS_END).max().unwrap_or(0) + 1
}

/// What every file of ours begins with.
pub const FILE_STEM: &str = "sitemap-";

/// What `file` has in common with others of its kind: all before its first digit, or the whole name.
#[must_use]
pub fn stem(file: &str) -> &str {
    match file.find(|c: char| c.is_ascii_digit()) {
        Some(0) | None => file,
        Some(at) => &file[..at],
    }
}

/// The index with this number, from 1: the first is [`INDEX`]; more are there only where shards are too many for one.
#[must_use]
pub fn index_file(number: u32) -> String {
    if number <= 1 { INDEX.to_owned() } else { format!("sitemap-index-{number}.xml") }
}

/// The number of the index called `file`, where that is the name of one.
#[must_use]
pub fn index_number(file: &str) -> Option<u32> {
    let number = match file {
        INDEX => 1,
        _ => file.strip_prefix("sitemap-index-")?.strip_suffix(".xml")?.parse().ok()?,
    };
    (number > 0 && index_file(number) == file).then_some(number)
}

/// What stands for the sitemap `name` of `site` in the keys below: the site itself where the sitemap has no name. No
/// site's name holds a dot.
#[must_use]
pub fn sitemap(site: &str, name: &str) -> String {
    if name.is_empty() { site.to_owned() } else { format!("{site}.{name}") }
}

/// The directory of the sitemap `name`, below that of the one without a name: nothing, or a path that ends in `/`.
#[must_use]
pub fn sitemap_dir(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!("{name}/") }
}

/// Where one sitemap's files are made, in a run's working directory.
#[must_use]
pub fn sitemap_work(name: &str) -> String {
    format!("sitemap-{name}")
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

/// A file beside the settings of a site, in the state bucket: its query.
#[must_use]
pub fn site_file(name: &str) -> String {
    format!("sites/{name}")
}

/// The prefix below which every attempt of `run` has Athena write, in the state bucket. The bucket's own rule removes
/// what stays below `athena/`.
#[must_use]
pub fn unload_run(site: &str, run: &str) -> String {
    format!("athena/unload/{site}/{}/", safe(run))
}

/// The prefix below which Athena writes the rows of one attempt of `run`.
#[must_use]
pub fn unload_attempt(site: &str, run: &str, attempt: u64) -> String {
    format!("{}{attempt:010}/", unload_run(site, run))
}

/// The prefix of what the plan `id` keeps, in the state bucket; the bucket's own rule for `athena/` removes it.
fn plan_folder(site: &str, id: &str) -> String {
    format!("athena/plans/{site}/{}/", safe(id))
}

/// The plan `id`.
#[must_use]
pub fn plan(site: &str, id: &str) -> String {
    format!("{}plan.json", plan_folder(site, id))
}

/// The prefix below which Athena writes the rows of attempt `attempt` of the plan `id`; they stay.
#[must_use]
pub fn plan_rows(site: &str, id: &str, attempt: u64) -> String {
    format!("{}rows/{attempt}/", plan_folder(site, id))
}

/// The prefix of what the parts of a run under fencing token `token` store, in the state bucket. It lies below
/// `athena/` too, for the same rule to remove what stays.
#[must_use]
pub fn parts(site: &str, run: &str, token: u64) -> String {
    format!("athena/parts/{site}/{}/{token:010}/", safe(run))
}

/// What the parts whose prefix is `folder` are told.
#[must_use]
pub fn parts_plan(folder: &str) -> String {
    format!("{folder}plan.json")
}

/// The prefix of the parts' outcomes.
#[must_use]
pub fn part_outcomes(folder: &str) -> String {
    format!("{folder}outcomes/")
}

/// The outcome of part `part`.
#[must_use]
pub fn part_outcome(folder: &str, part: usize) -> String {
    format!("{}{part:03}.json", part_outcomes(folder))
}

/// The prefix of the files that part `part` made.
#[must_use]
pub fn part_files(folder: &str, part: usize) -> String {
    format!("{folder}files/{part:03}/")
}

/// The working copy of the `at`th object of an input. The end of its key tells the format; what UNLOAD writes has no
/// such end and is Parquet.
#[must_use]
pub fn input_file(at: usize, key: &str) -> String {
    let name = key.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    match source::is_page_list(&name) && !key.starts_with("athena/") {
        true => format!("{at:05}-{}", safe(&name)),
        false => format!("{at:05}.parquet"),
    }
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
        assert_eq!(["sitemap-index.xml", "sitemap-index-12.xml"].map(index_number), [Some(1), Some(12)]);
        for other in ["sitemap-index-1.xml", "sitemap-index-02.xml", "sitemap-index-.xml", "sitemap-00002.xml"] {
            assert_eq!(index_number(other), None, "{other}");
        }
        assert_eq!(shard_file(123_456), "sitemap-123456.xml.gz");
        assert_eq!((sitemap("demo", ""), sitemap("demo", "news")), ("demo".into(), "demo.news".into()));
        assert_eq!(state(&sitemap("demo", "news")), "sitemaps/demo.news/state.json");
        assert_eq!([number_after("sitemap-00007.xml.gz"), number_after("news.xml")], [8, 1]);
        assert_eq!(number_after("sitemap-18446744073709551615.xml"), 1);
        assert_eq!(stem(&shard_file(7)), FILE_STEM);
        assert_eq!(["p/q-1.xml", "news.xml", "1.xml"].map(stem), ["p/q-", "news.xml", "1.xml"]);
        assert_eq!(manifest("demo", 3, "a/b:c"), "sitemaps/demo/manifests/0000000003-a-b-c.json");
        assert_eq!(unload_attempt("demo", "a/b:c", 3), "athena/unload/demo/a-b-c/0000000003/");
        assert_eq!(plan("demo", "a/b:c"), "athena/plans/demo/a-b-c/plan.json");
        assert_eq!(plan_rows("demo", "a/b:c", 3), "athena/plans/demo/a-b-c/rows/3/");
        let folder = parts("demo", "a/b:c", 3);
        assert_eq!(folder, "athena/parts/demo/a-b-c/0000000003/");
        assert_eq!(part_outcome(&folder, 7), "athena/parts/demo/a-b-c/0000000003/outcomes/007.json");
        assert_eq!(part_files(&folder, 7), "athena/parts/demo/a-b-c/0000000003/files/007/");
        assert_eq!(input_file(7, "lists/Päges.CSV.gz"), "00007-p-ges.csv.gz");
        assert_eq!(input_file(7, "athena/unload/x/1/2/2023_000_q.gz"), "00007.parquet");
        assert_eq!(input_file(7, "athena/plans/x/1/rows/2/2023_000_q.gz"), "00007.parquet");
    }
}
