//! A refresh that is killed for good: the release binary of the jobs' function, run as Lambda runs it, ended by SIGKILL at a
//! request to the local cloud's S3, before or after the request was carried out, and then triggered again.
//!
//! `SEEDS=100 cargo test … killed` runs more seeds, `SEED=7` one again.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;
use tidemark_local::{Binaries, CloudOptions, HUB, LocalCloud, ProcessGroup, sdk_config};
use tidemark_runtime::clock::Clock;
use tidemark_tests::crawler::{Crawled, crawl};
use tidemark_tests::random::Random;
use tidemark_tests::web_server::{Asked, Reply, WebServer};

const STATE: &str = "state";
const PUBLIC: &str = "maps";
const INDEX: &str = "sitemap-index.xml";
const SEEDS: u64 = 3;
/// What an invocation may take here, on a machine that does other work too.
const INVOCATION_MAX: Duration = Duration::from_secs(120);

/// Pages by number, each with the day of its lastmod.
type Pages = BTreeMap<u64, u64>;

/// Where a process is killed: at the nth request to S3, before or after it was carried out.
#[derive(Clone, Copy, Debug)]
struct Kill {
    at: usize,
    done: bool,
}

/// How an invocation ended.
#[derive(Debug, PartialEq)]
enum End {
    Answered,
    Failed(String),
    Killed,
}

/// What the server before S3 works on.
#[derive(Default)]
struct Watch {
    process: Option<ProcessGroup>,
    ended: Option<mpsc::Sender<End>>,
    kill: Option<Kill>,
    requests: usize,
    /// What a process that is no more still had under way does not arrive.
    is_over: bool,
    /// Where a crawler looks after every request that changes something, and what it must find.
    folder: String,
    must: BTreeSet<String>,
    lost: Vec<String>,
}

impl Watch {
    /// Passes a request on, unless the process is killed before.
    fn request(&mut self, cloud: &str, asked: &Asked) -> Reply {
        if self.is_over {
            return Reply::status(503);
        }
        self.requests += 1;
        let kill = self.kill.filter(|kill| kill.at == self.requests);
        if kill.is_some_and(|kill| !kill.done) {
            self.end(End::Killed);
            return Reply::status(503);
        }
        let reply = asked.forward(cloud);
        if kill.is_some() {
            self.end(End::Killed);
        }
        if matches!(asked.method.as_str(), "PUT" | "DELETE") && asked.path.starts_with(&format!("/{PUBLIC}/")) {
            self.look(&format!("{} {}", asked.method, asked.path));
        }
        reply
    }

    fn look(&mut self, after: &str) {
        match crawl(&self.folder, INDEX) {
            Ok(found) => {
                let found: BTreeSet<&str> = found.locs().collect();
                let lost: Vec<_> = self.must.iter().filter(|loc| !found.contains(loc.as_str())).take(3).collect();
                if !lost.is_empty() {
                    self.lost.push(format!("after {after} no indexed shard holds {lost:?}"));
                }
            }
            Err(error) => self.lost.push(format!("after {after} the sitemap is not valid: {error:#}")),
        }
    }

    /// Ends the process by SIGKILL, where it is there still.
    fn end(&mut self, end: End) {
        self.is_over = true;
        drop(self.process.take());
        if let Some(ended) = self.ended.take() {
            ended.send(end).ok();
        }
    }
}

/// The local cloud with a server before its S3.
struct Stage {
    cloud: LocalCloud,
    s3: aws_sdk_s3::Client,
    before_s3: WebServer,
    watch: Arc<Mutex<Watch>>,
    binaries: Binaries,
}

fn locked(watch: &Mutex<Watch>) -> MutexGuard<'_, Watch> {
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stage {
    async fn start() -> Result<Self> {
        let cloud = LocalCloud::start(&CloudOptions::of_this_clone())?;
        let s3 = tidemark_runtime::clients::s3(&sdk_config(&cloud, HUB));
        for bucket in [STATE, PUBLIC] {
            s3.create_bucket().bucket(bucket).send().await?;
        }
        let (watch, endpoint) = (Arc::<Mutex<Watch>>::default(), cloud.endpoint());
        let watched = Arc::clone(&watch);
        let before_s3 = WebServer::start(move |asked| locked(&watched).request(&endpoint, asked))?;
        Ok(Self { cloud, s3, before_s3, watch, binaries: Binaries::beside_this_program()? })
    }

    fn folder(&self, site: &str) -> String {
        self.cloud.object_url(PUBLIC, &format!("{site}/"))
    }

    async fn put(&self, key: &str, text: String) -> Result<()> {
        self.s3.put_object().bucket(STATE).key(key).body(text.into_bytes().into()).send().await?;
        Ok(())
    }

    async fn begin(&self, site: &str) -> Result<()> {
        let settings = format!(
            "base_url = \"https://shop.example\"\n[input]\nobjects = \"s3://{STATE}/lists/{site}/\"\n\
             [publish]\nbucket = \"{PUBLIC}\"\nprefix = \"{site}\"\nedge_ttl_seconds = 0\n\
             [shards]\ntarget_urls = 40\nmax_urls = 50\nlevel = 1\n[guard]\ndrop_percent_max = 100\n"
        );
        self.put(&format!("sites/{site}.toml"), settings).await
    }

    async fn list(&self, site: &str, pages: &Pages) -> Result<()> {
        let mut csv = "loc,lastmod\n".to_owned();
        for (page, day) in pages {
            writeln!(csv, "/p/{page:06},2025-01-{:02}", day % 28 + 1)?;
        }
        self.put(&format!("lists/{site}/pages.csv"), csv).await
    }

    /// Runs the job of `site` as the run `run` in a process of its own, and says how it ended and how many requests to S3
    /// it made.
    fn run(&self, site: &str, run: &str, kill: Option<Kill>, must: &BTreeSet<String>) -> Result<(End, usize)> {
        let trigger = json!({ "job": "sitemap", "run": run, "args": { "site": site } });
        let (sender, ended) = mpsc::channel();
        {
            let mut watch = locked(&self.watch);
            let (folder, must) = (self.folder(site), must.clone());
            *watch = Watch { ended: Some(sender), kill, folder, must, ..Watch::default() };
        }
        let watch = Arc::clone(&self.watch);
        let lambda = WebServer::start(move |asked| runtime(asked, &trigger, &watch))?;
        let process = ProcessGroup::spawn(self.command(&lambda)?)?;
        locked(&self.watch).process = Some(process);
        let end = ended.recv_timeout(INVOCATION_MAX).context("the invocation did not end")?;
        let mut watch = locked(&self.watch);
        watch.end(End::Killed);
        ensure!(watch.lost.is_empty(), "{run} {kill:?}: {:?}", watch.lost);
        Ok((end, watch.requests))
    }

    fn command(&self, lambda: &WebServer) -> Result<Command> {
        let mut command = Command::new(self.binaries.path("cron")?);
        command.env_clear().envs([
            ("AWS_LAMBDA_RUNTIME_API", lambda.origin().replace("http://", "")),
            ("AWS_ENDPOINT_URL", self.cloud.endpoint()),
            ("AWS_ENDPOINT_URL_S3", self.before_s3.origin()),
            ("TIDEMARK_REGIONS", format!("{HUB}={STATE}")),
        ]);
        command.envs([
            ("AWS_LAMBDA_FUNCTION_NAME", "tidemark-cron"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1024"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "cron"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "cron"),
            ("AWS_REGION", HUB),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("TIDEMARK_STREAM", "none"),
            ("TIDEMARK_LANES", "64"),
            ("TIDEMARK_BUCKET", STATE),
        ]);
        // What a run says for people is in its record, too.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command)
    }

    async fn record(&self, run: &str) -> Result<Value> {
        let object = self.s3.get_object().bucket(STATE).key(format!("jobs/runs/{run}.json")).send().await?;
        Ok(serde_json::from_slice(&object.body.collect().await?.into_bytes())?)
    }

    /// What lies under the site's prefix although nothing speaks of it: neither the index nor the manifest's list of
    /// files that wait to be removed.
    async fn forgotten(&self, site: &str, crawled: &Crawled) -> Result<Vec<String>> {
        let state = self.s3.get_object().bucket(STATE).key(format!("sitemaps/{site}/state.json")).send().await?;
        let state: Value = serde_json::from_slice(&state.body.collect().await?.into_bytes())?;
        let key = state["state"]["manifest"].as_str().context("nothing is committed")?;
        let manifest = self.s3.get_object().bucket(STATE).key(key).send().await?;
        let manifest: Value = serde_json::from_slice(&manifest.body.collect().await?.into_bytes())?;
        let retired = manifest["retired"].as_array().context("retired")?;
        let list = self.s3.list_objects_v2().bucket(PUBLIC).prefix(format!("{site}/")).send().await?;
        let files = list.contents().iter().filter_map(|object| object.key()?.rsplit('/').next().map(str::to_owned));
        let known = |file: &String| {
            file == INDEX || crawled.files.contains_key(file) || retired.iter().any(|old| old["file"] == file.as_str())
        };
        Ok(files.filter(|file| !known(file)).collect())
    }
}

/// Lambda's runtime API for one invocation: <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>.
fn runtime(asked: &Asked, trigger: &Value, watch: &Mutex<Watch>) -> Reply {
    if asked.method == "GET" {
        let deadline_ms = Clock::system().now_ms() + i64::try_from(INVOCATION_MAX.as_millis()).unwrap_or(0);
        let next = Reply::ok("application/json", trigger.to_string());
        return next
            .with("Lambda-Runtime-Aws-Request-Id", "1")
            .with("Lambda-Runtime-Deadline-Ms", &deadline_ms.to_string())
            .with(
                "Lambda-Runtime-Invoked-Function-Arn",
                "arn:aws:lambda:us-east-1:000000000000:function:tidemark-cron",
            );
    }
    let failed = asked.path.ends_with("/error");
    let said = String::from_utf8_lossy(&asked.body).into_owned();
    locked(watch).end(if failed { End::Failed(said) } else { End::Answered });
    Reply::status(202)
}

fn address(page: u64) -> String {
    format!("https://shop.example/p/{page:06}")
}

/// What a run makes of a list: some edits, a range that goes, another that grows, and more at the end.
fn changed(random: &mut Random, pages: &Pages) -> Pages {
    let mut next = pages.clone();
    for _ in 0..3 {
        let (page, day) = (random.below(3_000), random.below(28));
        next.entry(page).and_modify(|old| *old = day);
    }
    let (from, to) = (random.below(2_500), 100 + random.below(500));
    next.retain(|page, _| !(from..from + to).contains(page));
    let start = random.below(3_000);
    next.extend((0..60).map(|page| (start + page, 3)));
    let end = pages.last_key_value().map_or(0, |(page, _)| *page) + 1;
    next.extend((0..random.below(60)).map(|page| (end + page, 4)));
    next
}

/// Two sites with equal lists: one whose run nobody disturbs, and one whose run is killed, now and then twice.
async fn killed(stage: &Stage, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let (calm, hurt) = (format!("calm-{seed}"), format!("hurt-{seed}"));
    let first: Pages = (0..150).map(|page| (page * 20, 1)).collect();
    let second = changed(&mut random, &first);
    let none = BTreeSet::new();
    for site in [&calm, &hurt] {
        stage.begin(site).await?;
        stage.list(site, &first).await?;
        let (end, _) = stage.run(site, &format!("{site}-first"), None, &none)?;
        ensure!(end == End::Answered, "{end:?}");
        stage.list(site, &second).await?;
    }
    let must: BTreeSet<String> = second.keys().filter(|page| first.contains_key(page)).map(|p| address(*p)).collect();
    let (end, requests) = stage.run(&calm, &format!("{calm}-second"), None, &must)?;
    ensure!(end == End::Answered && requests > 15, "{end:?} after {requests} requests");
    let run = format!("{hurt}-second");
    let mut said = Vec::new();
    while said.len() < 1 + usize::from(seed.is_multiple_of(2)) {
        let at = 1 + usize::try_from(random.below(requests as u64))?;
        let kill = Kill { at, done: random.once_in(2) };
        let (end, _) = stage.run(&hurt, &run, Some(kill), &must)?;
        said.push((kill, end));
    }
    ensure!(said[0].1 == End::Killed, "{said:?} of {requests} requests");
    let (end, _) = stage.run(&hurt, &run, None, &must)?;
    let record = stage.record(&run).await?;
    ensure!(end == End::Answered && record["standing"] == "done", "{said:?}, then {end:?}: {record}");
    let (calm, found) = (crawl(&stage.folder(&calm), INDEX)?, crawl(&stage.folder(&hurt), INDEX)?);
    let wanted: Vec<_> = second.iter().map(|(p, day)| (address(*p), format!("2025-01-{:02}", day % 28 + 1))).collect();
    ensure!(found.pages == wanted, "{said:?}: the sitemap is not the list");
    let names = |crawled: &Crawled| crawled.files.keys().cloned().collect::<Vec<_>>();
    ensure!(found.files == calm.files, "{said:?}: {:?}, undisturbed {:?}", names(&found), names(&calm));
    // An index tells when a file changed, which is not the same second in both; but it is of the files that changed alone.
    let forgotten = stage.forgotten(&hurt, &found).await?;
    ensure!(forgotten.is_empty(), "{said:?}: {forgotten:?} lie there forgotten");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_at_any_request_to_s3_loses_no_page_and_ends_with_the_same_bytes() -> Result<()> {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>()).transpose();
    let seeds = match (number("SEED")?, number("SEEDS")?) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(SEEDS),
    };
    let stage = Stage::start().await?;
    for seed in seeds {
        if let Err(error) = killed(&stage, seed).await {
            bail!("SEED={seed} replays this: {error:#}\n{}", stage.cloud.log_tail());
        }
    }
    Ok(())
}
