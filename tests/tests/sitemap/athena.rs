//! The job's rows by UNLOAD, against a model of Athena that writes Parquet by DuckDB into the local cloud's S3, with the
//! faults that the real one has; by SELECT from the same model; and from page lists in S3.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tidemark_local::{CloudOptions, HUB, LocalCloud, sdk_config};
use tidemark_runtime::clock::Clock;
use tidemark_sitemap::parts::{self, StartPart};
use tidemark_sitemap::refresh::{self, RefreshError, Refreshed, Run, Surroundings};
use tidemark_tests::athena::ModelAthena;

pub(crate) const STATE: &str = "state";
pub(crate) const PUBLIC: &str = "maps";
pub(crate) const ROWS: usize = 9_000;
/// 22 November 2025.
pub(crate) const NOW_MS: i64 = 1_763_800_000_000;

/// One site on the local cloud's S3 and the model of Athena.
pub(crate) struct Stage {
    model: ModelAthena,
    pub(crate) cloud: LocalCloud,
    pub(crate) around: Surroundings,
    runs: u32,
}

fn rows(count: usize) -> Vec<Value> {
    let mut rows: Vec<Value> = (0..count)
        .map(|n| {
            let loc = if n % 3 == 0 { format!("https://a.example/p/{n:06}") } else { format!("/p/{n:06}&x'é") };
            let lastmod = (n % 4 != 0).then(|| format!("2025-10-{:02}T10:{:02}:00", n % 30 + 1, n % 60));
            json!([loc, lastmod, format!("2025-{:02}-01", n % 11 + 1)])
        })
        .collect();
    // As a table lies there: in no order.
    rows.sort_by_key(|row| row[0].as_str().map(|loc| loc.bytes().rev().collect::<Vec<u8>>()));
    rows
}

fn settings(query: &str) -> String {
    format!(
        "base_url = \"https://a.example\"\nlastmod_zone = \"Asia/Seoul\"\n{query}\n[publish]\nbucket = \"{PUBLIC}\"\n\
         edge_ttl_seconds = 0\n[shards]\ntarget_urls = 1000\n"
    )
}

pub(crate) fn query(fetch: &str, sql: &str) -> String {
    settings(&format!(
        "[query]\nsql = \"\"\"{sql}\"\"\"\ndatabase = \"d\"\noutput = \"s3://{STATE}/athena/\"\nfetch = \"{fetch}\"\n"
    ))
}

const ALL: &str =
    "SELECT loc, lastmod FROM pages ORDER BY (CASE WHEN loc LIKE '/%' THEN 'https://a.example' ELSE '' END) || loc";

impl Stage {
    pub(crate) async fn start() -> Self {
        let cloud = LocalCloud::start(&CloudOptions::of_this_clone()).unwrap();
        let model = ModelAthena::start(&cloud).unwrap();
        let config = sdk_config(&cloud, HUB);
        let s3 =
            aws_sdk_s3::Client::from_conf(aws_sdk_s3::config::Builder::from(&config).force_path_style(true).build());
        for bucket in [STATE, PUBLIC] {
            s3.create_bucket().bucket(bucket).send().await.unwrap();
        }
        let athena = model.client(&config);
        // Pauses take no time on this clock.
        let clock = Clock::simulated(NOW_MS);
        let around = Surroundings { athena, s3, state_bucket: STATE.into(), clock, parts: None, edge: None };
        let mut stage = Self { model, cloud, around, runs: 0 };
        stage.tell(json!({ "rows": rows(ROWS) }));
        stage
    }

    pub(crate) fn tell(&mut self, command: Value) {
        self.model.tell(&command).unwrap();
    }

    pub(crate) async fn put(&self, key: &str, body: impl Into<Vec<u8>>) {
        let body = aws_sdk_s3::primitives::ByteStream::from(body.into());
        self.around.s3.put_object().bucket(STATE).key(key).body(body).send().await.unwrap();
    }

    pub(crate) async fn run(&mut self, site: &str) -> Result<Refreshed, String> {
        self.run_with(site, &[]).await
    }

    async fn run_with(&mut self, site: &str, parameters: &[(&str, &str)]) -> Result<Refreshed, String> {
        let parameters: BTreeMap<String, String> =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let refreshed = self.refresh(site, None, &parameters, None).await;
        refreshed.map(|mut sitemaps| sitemaps.remove(0)).map_err(|error| error.to_string())
    }

    /// All sitemaps of a site, or one.
    pub(crate) async fn run_all(&mut self, site: &str, sitemap: Option<&str>) -> Result<Vec<Refreshed>, RefreshError> {
        self.refresh(site, sitemap, &BTreeMap::new(), None).await
    }

    /// All, whatever they lose.
    pub(crate) async fn run_accepting(&mut self, site: &str, by: &str) -> Result<Vec<Refreshed>, RefreshError> {
        self.refresh(site, None, &BTreeMap::new(), Some(by)).await
    }

    async fn refresh(
        &mut self,
        site: &str,
        sitemap: Option<&str>,
        parameters: &BTreeMap<String, String>,
        accept_drop: Option<&str>,
    ) -> Result<Vec<Refreshed>, RefreshError> {
        self.runs += 1;
        let id = format!("run-{}", self.runs);
        let dir = tempfile::tempdir().unwrap();
        let query_longest = Duration::from_secs(600);
        let (plan, work_dir) = (None, dir.path());
        let run =
            Run { site, sitemap, id: &id, parameters, accept_drop, reshard: false, plan, query_longest, work_dir };
        let refreshed = refresh::refresh(&self.around, run).await;
        assert_eq!(self.keys(STATE, "athena/unload/").await, Vec::<String>::new(), "an UNLOAD's files stayed");
        refreshed
    }

    pub(crate) async fn keys(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let list = self.around.s3.list_objects_v2().bucket(bucket).prefix(prefix).send().await.unwrap();
        list.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect()
    }

    /// An object of the state bucket.
    pub(crate) async fn get(&self, key: &str) -> Vec<u8> {
        let object = self.around.s3.get_object().bucket(STATE).key(key).send().await.unwrap();
        object.body.collect().await.unwrap().to_vec()
    }

    /// Every shard with its bytes. The index tells the time of the run besides, which waiting moves on this clock.
    async fn shards(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = self.files().await;
        assert!(files.remove("sitemap-index.xml").is_some());
        files
    }

    /// Every public file with its bytes.
    pub(crate) async fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for key in self.keys(PUBLIC, "").await {
            let object = self.around.s3.get_object().bucket(PUBLIC).key(&key).send().await.unwrap();
            files.insert(key, object.body.collect().await.unwrap().to_vec());
        }
        files
    }

    /// Forgets what was published, so that the next run begins anew.
    pub(crate) async fn wipe(&self, site: &str) {
        for key in self.keys(PUBLIC, "").await {
            self.around.s3.delete_object().bucket(PUBLIC).key(key).send().await.unwrap();
        }
        for key in self.keys(STATE, &format!("sitemaps/{site}")).await {
            self.around.s3.delete_object().bucket(STATE).key(key).send().await.unwrap();
        }
    }

    pub(crate) fn calls(&mut self, operation: &str) -> Vec<Value> {
        let journal = self.model.journal().unwrap();
        journal.into_iter().filter(|call| call["operation"] == operation).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unload_gives_byte_for_byte_what_select_gives_whatever_the_order_of_its_files() {
    let mut stage = Stage::start().await;
    stage.put("sites/s.toml", query("select", ALL)).await;
    let selected = stage.run("s").await.unwrap();
    assert_eq!((selected.urls, selected.shards, selected.report.adds_up()), (ROWS as u64, 9, true));
    let wanted = stage.shards().await;
    let unsorted = ALL.split(" ORDER BY").next().unwrap();
    for (what, sql, next) in [
        ("sorted files", ALL, json!({ "files": 7 })),
        ("one file", ALL, json!({ "files": 1 })),
        ("unsorted inside one of them", ALL, json!({ "files": 7, "unsorted": true })),
        ("no order at all", unsorted, json!({ "files": 7 })),
        ("a stray file that the list does not name", ALL, json!({ "stray": true })),
        (
            "queued again while it ran",
            ALL,
            json!({ "states": ["QUEUED", "RUNNING", "QUEUED", "RUNNING", "SUCCEEDED"] }),
        ),
    ] {
        stage.wipe("s").await;
        stage.put("sites/s.toml", query("unload", sql)).await;
        stage.tell(json!({ "next": next }));
        let unloaded = stage.run("s").await.unwrap();
        assert_eq!(unloaded.report.emitted, selected.report.emitted, "{what}");
        let files = stage.shards().await;
        assert!(files == wanted, "{what}: {:?} against {:?}", files.keys(), wanted.keys());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_athena_fails_at_publishes_nothing_and_leaves_nothing_and_the_next_attempt_asks_anew() {
    let mut stage = Stage::start().await;
    stage.put("sites/s.toml", query("unload", ALL)).await;
    stage.run("s").await.unwrap();
    let before = stage.files().await;
    stage.tell(json!({ "rows": rows(ROWS + 500) }));
    for (next, said) in [
        (
            json!({ "states": ["RUNNING", "FAILED"], "fail": "Query exhausted resources", "retryable": true }),
            "trying again",
        ),
        (json!({ "states": ["RUNNING", "CANCELLED"] }), "CANCELLED"),
        (json!({ "drop_file": 2 }), "is not there"),
        (json!({ "drop_bytes": 100 }), "Parquet"),
        (json!({ "miscount": 1 }), "truncated"),
        (json!({ "states": ["RUNNING"] }), "was still RUNNING after 600 s"),
    ] {
        stage.tell(json!({ "next": next.clone() }));
        stage.model.journal().unwrap();
        let error = stage.run("s").await.unwrap_err();
        assert!(error.contains(said), "{next}: {error}");
        assert!(stage.files().await == before, "{next}");
        let stopped = stage.calls("StopQueryExecution").len();
        assert_eq!(stopped, usize::from(said.starts_with("was still")), "{next}");
    }
    // The same run again: another attempt, so another token and another place.
    stage.tell(json!({ "next": { "states": ["FAILED"], "fail": "internal", "retryable": true } }));
    stage.model.journal().unwrap();
    stage.run("s").await.unwrap_err();
    stage.runs -= 1;
    assert_eq!(stage.run("s").await.unwrap().urls, ROWS as u64 + 500);
    let starts = stage.calls("StartQueryExecution");
    assert_ne!(starts[0]["ClientRequestToken"], starts[1]["ClientRequestToken"]);
    assert_ne!(starts[0]["QueryString"], starts[1]["QueryString"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn throttled_calls_are_tried_again_a_bounded_number_of_times_by_one_owner() {
    let mut stage = Stage::start().await;
    stage.put("sites/s.toml", query("unload", ALL)).await;
    stage.tell(json!({ "throttle": { "StartQueryExecution": 3, "GetQueryExecution": 5 } }));
    stage.run("s").await.unwrap();
    let journal = stage.model.journal().unwrap();
    let count = |operation: &str| journal.iter().filter(|call| call["operation"] == operation).count();
    assert_eq!((count("StartQueryExecution"), count("GetQueryExecution")), (4, 8));
    stage.tell(json!({ "throttle": { "StartQueryExecution": 1000 } }));
    let error = stage.run("s").await.unwrap_err();
    assert!(error.contains("StartQueryExecution") && error.contains("TooManyRequests"), "{error}");
    assert_eq!(stage.calls("StartQueryExecution").len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_answer_was_lost_is_asked_again_with_its_token_and_begins_no_second_query() {
    let mut stage = Stage::start().await;
    for fetch in ["unload", "select"] {
        stage.put("sites/s.toml", query(fetch, ALL)).await;
        let before = stage.model.tell(&json!({ "journal": true })).unwrap()["queries"].as_u64().unwrap();
        stage.tell(json!({ "lose": { "StartQueryExecution": 1, "GetQueryExecution": 1 } }));
        assert_eq!(stage.run("s").await.unwrap().urls, ROWS as u64);
        let mut after = stage.model.tell(&json!({ "journal": true })).unwrap();
        assert_eq!(after["queries"], before + 1, "{fetch}");
        let Value::Array(mut calls) = after["calls"].take() else { panic!("{after}") };
        calls.retain(|call| call["operation"] == "StartQueryExecution");
        assert_eq!((calls.len(), &calls[0]), (2, &calls[1]), "{fetch}: the same question with the same token");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn named_parameters_reach_the_query_as_values_and_never_as_text() {
    let mut stage = Stage::start().await;
    let sql = "SELECT loc, lastmod FROM pages WHERE day >= CAST(:since AS DATE) AND loc <> :evil -- :no\n";
    let evil = "x' OR ''='";
    stage.put("sites/queries.sql", sql).await;
    for fetch in ["unload", "select"] {
        let text = format!(
            "[query]\nsql_file = \"queries.sql\"\ndatabase = \"d\"\noutput = \"s3://{STATE}/athena/\"\nfetch = \"{fetch}\"\n\
             [query.parameters]\nsince = \"2025-07-01\"\nevil = \"{evil}\"\n"
        );
        stage.put("sites/s.toml", settings(&text)).await;
        let months = |first: usize| (0..ROWS).filter(|n| n % 11 + 1 >= first).count() as u64;
        assert_eq!(stage.run("s").await.unwrap().urls, months(7), "{fetch}");
        assert_eq!(stage.run_with("s", &[("since", "2025-09-01")]).await.unwrap().urls, months(9), "{fetch}");
        let starts = stage.calls("StartQueryExecution");
        assert_eq!(starts[1]["ExecutionParameters"], json!(["'2025-09-01'", "'x'' OR ''''='''"]));
        assert!(!starts[1]["QueryString"].as_str().unwrap().contains("2025-"), "{}", starts[1]);
        let error = stage.run_with("s", &[("sinse", "2025-09-01")]).await.unwrap_err();
        assert!(error.contains("no parameter sinse"), "{error}");
        stage.wipe("s").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_unload_is_refused_select_is_asked_only_where_the_site_says_so() {
    let mut stage = Stage::start().await;
    // DuckDB takes this as a SELECT and fails at it inside an UNLOAD, as an engine without UNLOAD would.
    let refused = json!({ "next": { "states": ["FAILED"], "fail": "mismatched input 'UNLOAD'" } });
    for (fetch, works) in [("auto", true), ("unload", false)] {
        stage.put("sites/s.toml", query(fetch, ALL)).await;
        stage.tell(refused.clone());
        assert_eq!(stage.run("s").await.is_ok(), works, "{fetch}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn page_lists_in_s3_are_read_and_an_equal_input_ends_the_run_at_once_with_everything_in_place() {
    let mut stage = Stage::start().await;
    let line = |n: usize| format!("/p/{n:06},2025-11-{:02}\n", n % 28 + 1);
    let list = |from: usize| format!("loc,lastmod\n{}", (from..ROWS).step_by(3).map(line).collect::<String>());
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zipped.write_all(list(1).as_bytes()).unwrap();
    let json: String = (2..ROWS)
        .step_by(3)
        .map(|n| format!("{{\"loc\":\"/p/{n:06}\",\"lastmod\":\"2025-11-{:02}\"}}\n", n % 28 + 1))
        .collect();
    stage.put("lists/today/a.csv", list(0)).await;
    stage.put("lists/today/b.csv.gz", zipped.finish().unwrap()).await;
    stage.put("lists/today/c.ndjson", json).await;
    stage.put("lists/today/_SUCCESS", "").await;
    stage.put("sites/s.toml", settings(&format!("[input]\nobjects = \"s3://{STATE}/lists/today/\""))).await;
    let first = stage.run("s").await.unwrap();
    assert_eq!((first.urls, first.input_unchanged), (ROWS as u64, false));
    let files = stage.files().await;

    let second = stage.run("s").await.unwrap();
    assert!(second.input_unchanged && second.urls == first.urls && second.published.indexes_written.is_empty());
    assert!(stage.files().await == files);

    // A damaged file is mended although the input is the same, and so is a damaged index.
    for file in ["sitemap-00003.xml.gz", "sitemap-index.xml"] {
        let body = aws_sdk_s3::primitives::ByteStream::from_static(b"overwritten");
        stage.around.s3.put_object().bucket(PUBLIC).key(file).body(body).send().await.unwrap();
        stage.run("s").await.unwrap();
        assert!(stage.files().await == files, "{file}");
    }
    // Other settings, or one changed row, and rows are read again.
    stage.put("sites/s.toml", settings(&format!("# \n[input]\nobjects = \"s3://{STATE}/lists/today/\""))).await;
    assert!(!stage.run("s").await.unwrap().input_unchanged);
    assert!(stage.run("s").await.unwrap().input_unchanged);
    stage.put("lists/today/a.csv", list(0).replace("/p/000300,2025-11-21", "/p/000300,2025-11-22")).await;
    let edited = stage.run("s").await.unwrap();
    assert_eq!((edited.input_unchanged, edited.published.files_rewritten.len()), (false, 1));
    let error = {
        stage.put("sites/s.toml", settings(&format!("[input]\nobjects = \"s3://{STATE}/lists/none/\""))).await;
        stage.run("s").await.unwrap_err()
    };
    assert!(error.contains("there is no object"), "{error}");
    stage.put("lists/none/pages.txt", "loc").await;
    let error = stage.run("s").await.unwrap_err();
    assert!(error.contains("lists/none/pages.txt") && error.contains("name it .csv"), "{error}");
    assert!(stage.cloud.endpoint().starts_with("http"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_equal_result_of_a_query_ends_the_run_at_once() {
    let mut stage = Stage::start().await;
    stage.put("sites/s.toml", query("unload", ALL)).await;
    assert!(!stage.run("s").await.unwrap().input_unchanged);
    assert!(stage.run("s").await.unwrap().input_unchanged);
    stage.tell(json!({ "rows": rows(ROWS + 1) }));
    let grown = stage.run("s").await.unwrap();
    assert_eq!((grown.input_unchanged, grown.urls), (false, ROWS as u64 + 1));
}

/// Starts parts as tasks of this process, each twice, as asynchronous invocations may be.
#[derive(Debug)]
pub(crate) struct Tasks {
    around: Surroundings,
    started: AtomicUsize,
    /// A part that is never started.
    lost: Option<usize>,
}

impl StartPart for Tasks {
    fn start(&self, _: &str, plan: &str, part: usize) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        self.started.fetch_add(1, Ordering::Relaxed);
        let lost = self.lost == Some(part);
        for _ in 0..if lost { 0 } else { 2 } {
            let (around, plan) = (self.around.clone(), plan.to_owned());
            tokio::spawn(async move {
                let dir = tempfile::tempdir().unwrap();
                parts::work(around.reach(), &plan, part, dir.path()).await
            });
        }
        Box::pin(async { Ok(()) })
    }
}

impl Stage {
    /// From here on sites in parts are built, by tasks.
    pub(crate) fn in_parts(&mut self, lost: Option<usize>) -> Arc<Tasks> {
        let around = Surroundings { parts: None, ..self.around.clone() };
        let tasks = Arc::new(Tasks { around, started: AtomicUsize::new(0), lost });
        self.around.parts = Some(Arc::clone(&tasks) as Arc<dyn StartPart>);
        tasks
    }
}

/// As many parts as wanted, of rows whose loc is their address.
fn scaled(parts: usize) -> String {
    let all = "SELECT loc, lastmod FROM pages ORDER BY loc";
    format!("{}[scale]\nparts = {parts}\npages = 20000\n", query("unload", all))
}

fn plain_rows(count: usize, lastmod: &str) -> Vec<Value> {
    (0..count).map(|n| json!([format!("https://a.example/p/{n:06}"), lastmod, "2025-01-01"])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sitemap_built_in_parts_has_every_page_once_and_then_changes_as_one_built_whole() {
    let mut stage = Stage::start().await;
    // Parts take real time, and so must the waiting for them.
    stage.around.clock = Clock::system();
    let tasks = stage.in_parts(None);
    stage.tell(json!({ "rows": plain_rows(ROWS, "2025-10-01T10:00:00") }));
    stage.put("sites/s.toml", scaled(4)).await;
    let first = stage.run("s").await.unwrap();
    assert_eq!((first.urls, first.report.input, first.report.adds_up()), (ROWS as u64, ROWS as u64, true));
    assert_eq!(tasks.started.swap(0, Ordering::Relaxed), 4);
    let before = stage.files().await;
    assert_eq!(before.len(), first.shards + 1);
    assert!(shards_of(&before, "").iter().all(|pages| (1..=1000).contains(&pages.len())));
    assert_eq!(pages_of(&before, ""), (0..ROWS).map(|n| format!("https://a.example/p/{n:06}")).collect::<Vec<_>>());

    // The same rows: nothing is built. One edited row: one shard and the index.
    assert!(stage.run("s").await.unwrap().input_unchanged);
    assert_eq!(tasks.started.load(Ordering::Relaxed), 0);
    let mut rows = plain_rows(ROWS, "2025-10-01T10:00:00");
    rows[4321][1] = json!("2025-10-02T10:00:00");
    stage.tell(json!({ "rows": rows }));
    let edited = stage.run("s").await.unwrap();
    assert_eq!((edited.published.files_rewritten.len(), edited.published.files_new.len()), (1, 0));
    assert!(edited.published.indexes_written == ["sitemap-index.xml"]);

    // From the same state, the same bytes whether in parts or whole.
    let mut grown = plain_rows(ROWS + 700, "2025-10-01T10:00:00");
    grown.drain(2_000..2_600);
    stage.tell(json!({ "rows": grown }));
    let state = stage.keys(STATE, "sitemaps/s/").await;
    stage.run("s").await.unwrap();
    let in_parts = stage.shards().await;
    stage.put("sites/s.toml", scaled(1)).await;
    let whole = stage.run("s").await.unwrap();
    assert_eq!((whole.published.files_new.len(), whole.published.files_rewritten.len()), (0, 0));
    assert!(stage.shards().await == in_parts && stage.keys(STATE, "sitemaps/s/").await.len() > state.len());
}

/// What the pages of an index or a shard are.
fn locs(xml: &[u8]) -> Vec<String> {
    let xml = String::from_utf8_lossy(xml);
    xml.split("<loc>").skip(1).map(|rest| rest.split('<').next().unwrap().to_owned()).collect()
}

/// The pages of each shard that the index in `folder` names.
fn shards_of(files: &BTreeMap<String, Vec<u8>>, folder: &str) -> Vec<Vec<String>> {
    let shard = |address: String| {
        let (_, file) = address.rsplit_once('/').unwrap();
        let mut xml = Vec::new();
        let mut packed = flate2::read::GzDecoder::new(files[&format!("{folder}{file}")].as_slice());
        std::io::Read::read_to_end(&mut packed, &mut xml).unwrap();
        locs(&xml)
    };
    locs(&files[&format!("{folder}sitemap-index.xml")]).into_iter().map(shard).collect()
}

/// All of them, by address.
fn pages_of(files: &BTreeMap<String, Vec<u8>>, folder: &str) -> Vec<String> {
    let mut pages = shards_of(files, folder).concat();
    pages.sort();
    pages
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_several_sitemaps_is_built_in_parts_and_the_newest_pages_in_one_piece() {
    let mut stage = Stage::start().await;
    stage.around.clock = Clock::system();
    let tasks = stage.in_parts(None);
    let more = "[[sitemaps]]\n[[sitemaps]]\nname = \"recent\"\nselect.within_hours = 24\n[[sitemaps]]\nname = \"newest\"\n\
                select.newest = 50\n";
    stage.put("sites/s.toml", scaled(3) + more).await;
    let hours_ago = |hours: i64| {
        let at = jiff::Timestamp::from_millisecond(Clock::system().now_ms() - hours * 3_600_000).unwrap();
        format!("{}", at.strftime("%Y-%m-%dT%H:%M:%SZ"))
    };
    let (now, old) = (hours_ago(1), hours_ago(1_000));
    let address = |page: usize| format!("https://a.example/p/{page:06}");
    // Recent pages lie in the last part, then in the first, then nowhere: the last ones stay.
    let thirds = [ROWS - 1_500..ROWS, 0..1_500, 0..0];
    let mut recent = 0..0;
    for (round, third) in thirds.into_iter().enumerate() {
        let rows: Vec<Value> = (0..ROWS)
            .map(|n| json!([address(n), if third.contains(&n) { &now } else { &old }, "2025-01-01"]))
            .collect();
        stage.tell(json!({ "rows": rows }));
        let done = stage.run_all("s", None).await.unwrap();
        assert_eq!(done.iter().map(|one| one.site.as_str()).collect::<Vec<_>>(), ["s", "s.recent", "s.newest"]);
        assert!(done.iter().all(|one| one.report.input == ROWS as u64 && one.report.adds_up()), "{round}");
        let parts = tasks.started.swap(0, Ordering::Relaxed);
        assert!((4..=6).contains(&parts), "{parts} parts of two sitemaps");
        recent = if third.is_empty() { recent } else { third };
        let files = stage.files().await;
        assert_eq!(pages_of(&files, ""), (0..ROWS).map(address).collect::<Vec<_>>(), "{round}");
        assert_eq!(pages_of(&files, "recent/"), recent.clone().map(address).collect::<Vec<_>>(), "{round}");
        assert_eq!(pages_of(&files, "newest/").len(), 50, "{round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_fails_or_never_comes_publishes_nothing() {
    let mut stage = Stage::start().await;
    stage.around.clock = Clock::system();
    stage.in_parts(None);
    stage.tell(json!({ "rows": plain_rows(ROWS, "2025-10-01T10:00:00") }));
    stage.put("sites/s.toml", scaled(3)).await;
    stage.run("s").await.unwrap();
    let before = stage.files().await;
    // A row whose address sorts elsewhere than what the query gives: the path is escaped.
    let mut rows = plain_rows(ROWS, "2025-11-01T10:00:00");
    rows.push(json!(["https://a.example/p/é", null, "2025-01-01"]));
    stage.tell(json!({ "rows": rows }));
    let error = stage.run("s").await.unwrap_err();
    assert!(error.contains("part 2 failed") && error.contains("/p/%C3%A9"), "{error}");
    assert!(stage.files().await == before);

    stage.tell(json!({ "rows": plain_rows(ROWS, "2025-11-01T10:00:00") }));
    stage.in_parts(Some(1));
    // Waiting ends at once where pauses take no time; parts that are at work then still finish, and harm nothing.
    stage.around.clock = Clock::simulated(Clock::system().now_ms() + 3_600_000);
    let error = stage.run("s").await.unwrap_err();
    assert!(error.contains("parts were not done after"), "{error}");
    assert!(stage.files().await == before);
    stage.put("sites/s.toml", scaled(3).replace("\"unload\"", "\"select\"")).await;
    assert!(stage.run("s").await.unwrap_err().contains("set query.fetch to unload"));
}
