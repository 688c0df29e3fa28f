//! Plans: what they say, that a run by plan does exactly that, and that it is refused where anything has changed.

use crate::athena::{PUBLIC, STATE, Stage};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tidemark_runtime::clock::Clock;
use tidemark_sitemap::plan::{self, Plan, PlannedFile};
use tidemark_sitemap::refresh::{self, Refreshed, Run};
use twox_hash::XxHash3_128;

/// Pages of the table, each with the day of its lastmod.
type Table = BTreeMap<u32, u32>;

fn rows(table: &Table) -> Value {
    table
        .iter()
        .map(|(page, day)| json!([format!("/p/{page:06}"), format!("2025-10-{day:02}"), "2025-01-01"]))
        .collect()
}

fn settings(fetch: &str, more: &str) -> String {
    format!(
        "base_url = \"https://a.example\"\nlastmod_zone = \"UTC\"\n[query]\nsql = \"SELECT loc, lastmod FROM pages ORDER BY loc\"\n\
         database = \"d\"\noutput = \"s3://{STATE}/athena/\"\nfetch = \"{fetch}\"\n[publish]\nbucket = \"{PUBLIC}\"\n\
         edge_ttl_seconds = 0\n[shards]\ntarget_urls = 100\nmax_urls = 120\n{more}"
    )
}

/// Plans, or runs by `plan`, as the run `id`.
struct Runs<'a>(&'a Stage);

impl Runs<'_> {
    async fn plan(&self, id: &str) -> Result<Plan, String> {
        let (dir, parameters) = (tempfile::tempdir().unwrap(), BTreeMap::new());
        let planned = plan::plan(&self.0.around, run((id, None), &parameters, dir.path())).await;
        planned.map_err(|error| error.to_string())
    }

    /// Plans to cut the sitemap anew.
    async fn plan_anew(&self, id: &str) -> Result<Plan, String> {
        let (dir, parameters) = (tempfile::tempdir().unwrap(), BTreeMap::new());
        let run = Run { reshard: true, ..run((id, None), &parameters, dir.path()) };
        plan::plan(&self.0.around, run).await.map_err(|error| error.to_string())
    }

    async fn by_plan(&self, id: &str, plan: &str) -> Result<Refreshed, String> {
        let (dir, parameters) = (tempfile::tempdir().unwrap(), BTreeMap::new());
        let done = refresh::refresh(&self.0.around, run((id, Some(plan)), &parameters, dir.path())).await;
        done.map(|mut sitemaps| sitemaps.remove(0)).map_err(|error| error.to_string())
    }
}

fn run<'a>(
    (id, plan): (&'a str, Option<&'a str>),
    parameters: &'a BTreeMap<String, String>,
    work_dir: &'a Path,
) -> Run<'a> {
    let query_longest = Duration::from_secs(600);
    Run { site: "s", sitemap: None, id, parameters, accept_drop: None, reshard: false, plan, query_longest, work_dir }
}

/// Ten shards; and the same with a page added at the end, three edited in two shards and one gone.
fn tables() -> (Table, Table) {
    let first: Table = (0..1000).map(|page| (page * 10, 1)).collect();
    let mut second = first.clone();
    second.extend([(10_000, 1), (10, 2), (20, 2), (5010, 2)]);
    second.remove(&5020);
    (first, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_by_plan_writes_byte_for_byte_what_the_plan_said_though_the_table_has_changed() {
    for (fetch, more) in [("unload", ""), ("select", ""), ("unload", "[scale]\nparts = 3\npages = 1000\n")] {
        let mut stage = Stage::start().await;
        let (first, second) = tables();
        if !more.is_empty() {
            // Parts take real time, and so must the waiting for them.
            stage.around.clock = Clock::system();
            stage.in_parts(None);
        }
        stage.put("sites/s.toml", settings(fetch, "")).await;
        stage.tell(json!({ "rows": rows(&first) }));
        stage.run("s").await.unwrap();
        stage.put("sites/s.toml", settings(fetch, more)).await;
        let before = stage.files().await;
        stage.tell(json!({ "rows": rows(&second) }));
        let planned = Runs(&stage).plan("plan-1").await.unwrap();
        assert!(stage.files().await == before, "a plan publishes nothing");
        let told = &planned.outlook;
        assert_eq!((told.urls_before, told.urls, told.added, told.edited, told.removed), (1000, 1000, 1, 3, 1));
        assert_eq!((told.files_new, told.files_rewritten, told.files_retired, told.files_unchanged), (1, 2, 0, 8));
        assert_eq!((told.shards, told.refused.as_ref(), told.cost_microusd > 0), (11, None, true));
        assert_eq!(Runs(&stage).plan("plan-1").await.unwrap(), planned, "one trigger more is the same plan");

        stage.tell(json!({ "rows": rows(&first) }));
        let done = Runs(&stage).by_plan("by-plan", "plan-1").await.unwrap();
        assert_eq!((done.urls, done.published.files_new.len(), done.published.files_rewritten.len()), (1000, 1, 2));
        let mut files = stage.files().await;
        files.remove("sitemap-index.xml");
        files.retain(|file, bytes| before.get(file) != Some(bytes));
        let written: Vec<PlannedFile> = files
            .iter()
            .map(|(file, bytes)| PlannedFile {
                file: file.clone(),
                hash: format!("{:032x}", XxHash3_128::oneshot(bytes)),
                bytes: bytes.len() as u64,
            })
            .collect();
        assert_eq!(written, planned.files, "{fetch} {more}");
        let again = Runs(&stage).by_plan("again", "plan-1").await.unwrap_err();
        assert!(again.contains("another run has committed"), "{again}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_void_once_settings_rows_files_or_the_manifest_are_others() {
    let mut stage = Stage::start().await;
    let (first, second) = tables();
    stage.put("sites/s.toml", settings("unload", "")).await;
    stage.tell(json!({ "rows": rows(&first) }));
    stage.run("s").await.unwrap();
    stage.tell(json!({ "rows": rows(&second) }));
    Runs(&stage).plan("plan-1").await.unwrap();
    let before = stage.files().await;
    let refused = async |what: &str| {
        let error = Runs(&stage).by_plan("by-plan", "plan-1").await.unwrap_err();
        assert!(error.contains(what), "{what}: {error}");
        assert!(stage.files().await == before, "{what}: nothing was written");
    };
    stage.put("sites/s.toml", settings("unload", "level = 5")).await;
    refused("settings").await;
    stage.put("sites/s.toml", settings("unload", "")).await;

    let s3 = &stage.around.s3;
    let body = |bytes: &[u8]| aws_sdk_s3::primitives::ByteStream::from(bytes.to_vec());
    let shard = "sitemap-00003.xml.gz";
    s3.put_object().bucket(PUBLIC).key(shard).body(body(b"other")).send().await.unwrap();
    let error = Runs(&stage).by_plan("by-plan", "plan-1").await.unwrap_err();
    assert!(error.contains("public files"), "{error}");
    assert!(Runs(&stage).plan("plan-2").await.unwrap_err().contains("not as its last run left it"));
    s3.put_object().bucket(PUBLIC).key(shard).body(body(&before[shard])).send().await.unwrap();

    let pinned = stage.keys(STATE, "athena/plans/s/plan-1/rows/").await;
    s3.put_object().bucket(STATE).key(&pinned[0]).body(body(b"other rows")).send().await.unwrap();
    refused("rows cannot be read as they were").await;
    let unknown = Runs(&stage).by_plan("by-plan", "plan-9").await.unwrap_err();
    assert!(unknown.contains("s has no plan plan-9"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_tells_that_a_guard_will_refuse_and_the_run_by_plan_is_refused_as_where_its_rows_are_gone() {
    for more in ["", "[scale]\nparts = 2\npages = 1000\n"] {
        let mut stage = Stage::start().await;
        stage.around.clock = Clock::system();
        stage.in_parts(None);
        let (first, _) = tables();
        stage.put("sites/s.toml", settings("unload", more)).await;
        stage.tell(json!({ "rows": rows(&first) }));
        stage.run("s").await.unwrap();
        let before = stage.files().await;
        stage.tell(json!({ "rows": rows(&first.range(..3000).map(|(page, day)| (*page, *day)).collect()) }));
        let told = Runs(&stage).plan("plan-1").await.unwrap().outlook;
        assert!(told.refused.as_ref().is_some_and(|why| why.contains("300 pages are left of 1000")), "{told:?}");
        assert_eq!((told.urls, told.removed), (300, 700));
        let error = Runs(&stage).by_plan("by-plan", "plan-1").await.unwrap_err();
        assert!(error.contains("300 pages are left of 1000"), "{error}");
        // Its rows are gone: no part begins.
        let pinned = stage.keys(STATE, "athena/plans/s/plan-1/rows/").await;
        stage.around.s3.delete_object().bucket(STATE).key(&pinned[0]).send().await.unwrap();
        let error = Runs(&stage).by_plan("by-plan-2", "plan-1").await.unwrap_err();
        assert!(error.contains("rows cannot be read as they were; make a new one"), "{more}: {error}");
        assert!(stage.files().await == before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_sitemap_is_cut_anew_plan_and_indexnow_tell_only_what_changes_for_readers() {
    let mut stage = Stage::start().await;
    let (first, second) = tables();
    let nobody = "[indexnow]\nkey = \"0123456789abcdef\"\nendpoints = [\"http://127.0.0.1:1/\"]\nfirst_run_max = 3\n";
    let by_address = settings("unload", nobody);
    stage.put("sites/s.toml", by_address.clone()).await;
    stage.tell(json!({ "rows": rows(&first) }));
    stage.run("s").await.unwrap();
    let before = stage.files().await;
    let by_key = by_address.replace("SELECT loc, lastmod", "SELECT loc, lastmod, reverse(loc) AS sort_key");
    stage.put("sites/s.toml", format!("{by_key}[rows]\nsort_key = true\n")).await;
    stage.tell(json!({ "rows": rows(&second) }));
    assert!(Runs(&stage).plan("plan-1").await.unwrap_err().contains("--reshard"));

    let planned = Runs(&stage).plan_anew("plan-2").await.unwrap();
    let told = &planned.outlook;
    assert_eq!((told.urls_before, told.urls, told.added, told.edited, told.removed), (1000, 1000, 1, 3, 1));
    assert_eq!((told.files_new, told.files_rewritten, told.files_retired, told.files_unchanged), (10, 0, 10, 0));
    assert!(stage.files().await == before, "a plan publishes nothing");

    let done = Runs(&stage).by_plan("by-plan", "plan-2").await.unwrap();
    assert_eq!((done.urls, done.published.files_new.len(), done.published.files_rewritten.len()), (1000, 10, 0));
    assert_eq!((done.published.indexes.len(), done.published.indexes_new.len()), (1, 0));
    let gathered = done.told.unwrap().gathered;
    assert_eq!((gathered.taken, gathered.left_out), (5, 0));
    let names: Vec<&String> = planned.files.iter().map(|planned| &planned.file).collect();
    let after = stage.files().await;
    assert!(names.iter().all(|name| after.contains_key(*name) && !before.contains_key(*name)), "{names:?}");
}
