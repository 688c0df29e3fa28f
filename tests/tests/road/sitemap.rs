//! Whole sitemap jobs on the local cloud: the release binary as a Lambda function that invokes itself for the parts of a
//! sitemap, real S3 calls, and the model of Athena in place of the local cloud's, which knows no UNLOAD.

use anyhow::{Context as _, Result, ensure};
use aws_sdk_s3::primitives::ByteStream;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tidemark_local::{ARRIVAL_TIMEOUT, CRON_FUNCTION, Deployment, DeploymentOptions, SITEMAP_BUCKET, until};
use tidemark_tests::athena::ModelAthena;
use tidemark_tests::crawler::{Crawled, crawl};
use tidemark_tests::indexnow::{Engine, KEY};
use tidemark_tests::web_server::{Asked, Reply, WebServer};

const INDEX: &str = "sitemap-index.xml";
const ROWS: usize = 3_000;

/// A deployment whose jobs ask the model of Athena.
struct Jobs {
    deployment: Deployment,
    model: ModelAthena,
    /// Where the jobs' function finds single services, if not at the cloud.
    environment: Vec<(&'static str, String)>,
}

fn rows(base: &str, count: usize) -> Vec<Value> {
    (0..count).map(|n| json!([format!("{base}/p/{n:06}"), "2025-10-01T10:00:00", "2025-01-01"])).collect()
}

impl Jobs {
    async fn start() -> Result<Self> {
        let deployment = Deployment::start(&DeploymentOptions::of_this_clone()?).await?;
        let model = ModelAthena::start(deployment.cloud())?;
        let environment = vec![("AWS_ENDPOINT_URL_ATHENA", model.endpoint().to_owned())];
        deployment.set_cron_environment(&environment).await?;
        Ok(Self { deployment, model, environment })
    }

    /// Puts a server before one service of the cloud, as the jobs' function sees it.
    async fn put_before(&mut self, service: &'static str, server: &WebServer) -> Result<()> {
        self.environment.push((service, server.origin()));
        Ok(self.deployment.set_cron_environment(&self.environment).await?)
    }

    fn has(&mut self, rows: &[Value]) -> Result<()> {
        self.model.tell(&json!({ "rows": rows }))?;
        Ok(())
    }

    async fn settings(&self, site: &str, base: &str, parts: usize, more: &str) -> Result<()> {
        let bucket = &self.deployment.hub().bucket;
        let settings = format!(
            "base_url = \"{base}\"\nlastmod_zone = \"UTC\"\n[query]\nsql = \"SELECT loc, lastmod FROM pages ORDER BY loc\"\n\
             database = \"d\"\noutput = \"s3://{bucket}/athena/\"\n\
             [scale]\nparts = {parts}\npages = {ROWS}\n[publish]\nbucket = \"{SITEMAP_BUCKET}\"\nprefix = \"{site}\"\n\
             edge_ttl_seconds = 0\n[shards]\ntarget_urls = 400\n{more}"
        );
        let put = self.deployment.hub().clients.s3.put_object().bucket(bucket).key(format!("sites/{site}.toml"));
        put.body(ByteStream::from(settings.into_bytes())).send().await?;
        Ok(())
    }

    /// Runs the job of `site` by the operators' command, and returns the run's record.
    async fn run(&self, site: &str) -> Result<Value> {
        self.run_with(site, &[]).await
    }

    /// The same with further arguments.
    async fn run_with(&self, site: &str, arguments: &[&str]) -> Result<Value> {
        let site = format!("site={site}");
        let more = arguments.iter().flat_map(|argument| ["--arg", argument]);
        self.tidemark(&["jobs", "run", "sitemap", "--arg", &site].into_iter().chain(more).collect::<Vec<_>>()).await
    }

    /// What the command says of the run that it starts and follows.
    async fn tidemark(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.deployment.tidemark()?.args(arguments).arg("--json").output().await?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            let said = String::from_utf8_lossy(&output.stderr);
            format!("{said}\n{}", self.deployment.cloud().log_tail())
        })
    }

    /// What became of the site's one sitemap, in a run that has to succeed.
    async fn done(&self, site: &str) -> Result<Value> {
        let mut record = self.run(site).await?;
        ensure!(record["standing"] == "done", "{site}: {record}\n{}", self.deployment.cloud().log_tail());
        Ok(record["summary"]["sitemaps"][0].take())
    }

    fn crawl(&self, site: &str) -> Result<Crawled> {
        crawl(&self.deployment.cloud().object_url(SITEMAP_BUCKET, &format!("{site}/")), INDEX)
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let hub = self.deployment.hub();
        let list = hub.clients.s3.list_objects_v2().bucket(&hub.bucket).prefix(prefix).send().await?;
        Ok(list.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect())
    }

    async fn object(&self, key: &str) -> Result<String> {
        let hub = self.deployment.hub();
        let object = hub.clients.s3.get_object().bucket(&hub.bucket).key(key).send().await?;
        Ok(String::from_utf8(object.body.collect().await?.to_vec())?)
    }

    /// How often the lease of the site's one sitemap was taken: once by every try of a run.
    async fn tries(&self, site: &str) -> Result<u64> {
        let state: Value = serde_json::from_str(&self.object(&format!("sitemaps/{site}/state.json")).await?)?;
        state["token"].as_u64().context("token")
    }

    /// The records of the parts that were invoked for `site`, by run.
    async fn parts_of(&self, site: &str) -> Result<Vec<Value>> {
        let mut records = Vec::new();
        for key in self.keys("jobs/runs/sitemap_part-").await? {
            let record: Value = serde_json::from_str(&self.object(&key).await?)?;
            if record["args"]["site"] == site {
                records.push(record);
            }
        }
        Ok(records)
    }
}

/// The part that an invocation starts, if it is one of a part.
fn part_of(asked: &Asked) -> Option<Value> {
    let trigger: Value = serde_json::from_slice(&asked.body).ok()?;
    (asked.path.ends_with("/invocations") && trigger["job"] == "sitemap_part").then(|| trigger["args"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_invocations_of_the_function_and_give_the_rows_of_one_piece_although_each_comes_twice() -> Result<()>
{
    let mut jobs = Jobs::start().await?;
    let (cloud, base) = (jobs.deployment.cloud().endpoint(), "https://shop.example");
    // As Lambda may: every part is invoked once more.
    let twice = WebServer::start(move |asked| {
        if part_of(asked).is_some() {
            drop(asked.forward(&cloud));
        }
        asked.forward(&cloud)
    })?;
    jobs.put_before("AWS_ENDPOINT_URL_LAMBDA", &twice).await?;
    jobs.settings("parts", base, 4, "").await?;
    jobs.settings("whole", base, 1, "").await?;
    let mut rows = rows(base, ROWS);
    jobs.has(&rows)?;
    let built = jobs.done("parts").await?;
    assert_eq!((&built["urls"], &built["report"]["input"]), (&json!(ROWS), &json!(ROWS)), "{built}");
    jobs.done("whole").await?;
    let (parts, whole) = (jobs.crawl("parts")?, jobs.crawl("whole")?);
    assert_eq!(parts.pages, whole.pages);
    assert!(parts.pages.len() == ROWS && parts.files.len() >= whole.files.len());
    assert_eq!(jobs.keys("sitemaps/parts/manifests/").await?.len(), 1, "committed once");

    // From the same rows one edit: in parts and whole one file and the index.
    rows[1_234][1] = json!("2025-11-02T10:00:00");
    jobs.has(&rows)?;
    for site in ["parts", "whole"] {
        let edited = jobs.done(site).await?;
        let published = &edited["published"];
        assert_eq!(published["files_rewritten"].as_array().map(Vec::len), Some(1), "{edited}");
        assert_eq!(published["files_new"].as_array().map(Vec::len), Some(0), "{edited}");
    }
    assert_eq!(jobs.crawl("parts")?.pages, jobs.crawl("whole")?.pages);
    let invoked: BTreeSet<u64> =
        twice.asked().iter().filter_map(part_of).filter_map(|args| args["part"].as_u64()).collect();
    assert_eq!(invoked, (0..4).collect());
    // Every part of both runs is done in the end, each one run however often it came.
    let done = until("all parts to be done", ARRIVAL_TIMEOUT, async || {
        let parts = jobs.parts_of("parts").await?;
        let done = parts.iter().all(|record| record["standing"] == "done");
        anyhow::Ok((done && parts.len() == 8).then_some(()))
    });
    if let Err(error) = done.await {
        return Err(error.context(json!(jobs.parts_of("parts").await?)));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_fails_and_a_lease_that_is_lost_publish_nothing_and_the_next_run_does() -> Result<()> {
    let mut jobs = Jobs::start().await?;
    let (cloud, base) = (jobs.deployment.cloud().endpoint(), "https://shop.example");
    for site in ["broken", "robbed"] {
        jobs.settings(site, base, 3, "").await?;
    }
    jobs.has(&rows(base, ROWS))?;
    jobs.done("broken").await?;
    let before = jobs.crawl("broken")?;
    let rows = rows(base, ROWS + 5);
    jobs.has(&rows)?;
    // While the parts of a run are at work, somebody takes the lease of one site, and removes rows of another.
    let state = jobs.deployment.cloud().object_url(&jobs.deployment.hub().bucket, "");
    let folder = state.clone();
    let thief = WebServer::start(move |asked| {
        let done = match part_of(asked).filter(|args| args["part"] == 1) {
            Some(args) if args["site"] == "robbed" => rob(&format!("{folder}sitemaps/robbed/state.json")),
            Some(args) => remove_rows(&folder, &args),
            None => Ok(()),
        };
        done.map_or_else(|error| Reply::ok("text/plain", format!("{error:#}")), |()| asked.forward(&cloud))
    })?;
    jobs.put_before("AWS_ENDPOINT_URL_LAMBDA", &thief).await?;
    let (robbed, broken) = tokio::join!(jobs.run("robbed"), jobs.run("broken"));
    let (robbed, broken) = (robbed?, broken?);
    let error = robbed["error"].as_str().unwrap_or_default();
    assert!(robbed["standing"] == "failed" && error.contains("is leased by thief"), "{robbed}");
    assert_eq!(jobs.crawl("robbed")?, Crawled::default());
    assert_eq!(jobs.keys("sitemaps/robbed/manifests/").await?, Vec::<String>::new());
    let error = broken["error"].as_str().unwrap_or_default();
    assert!(broken["standing"] == "failed" && error.contains("part 1 failed: reading of s3://"), "{broken}");
    assert_eq!(jobs.crawl("broken")?, before);

    // Whoever has the lease lets it go; the next runs do what these were to do.
    let state = format!("{state}sitemaps/robbed/state.json");
    let mut document: Value = serde_json::from_str(&get(&state)?)?;
    document["lease"] = Value::Null;
    put(&state, &document)?;
    jobs.environment.pop();
    jobs.deployment.set_cron_environment(&jobs.environment).await?;
    for site in ["broken", "robbed"] {
        jobs.done(site).await?;
        assert_eq!(jobs.crawl(site)?.pages.len(), rows.len(), "{site}");
    }
    Ok(())
}

/// Removes the rows of the part that `args` start, in the bucket at `folder`.
fn remove_rows(folder: &str, args: &Value) -> Result<()> {
    let plan: Value = serde_json::from_str(&get(&format!("{folder}{}", args["plan"].as_str().context("plan")?))?)?;
    let part = usize::try_from(args["part"].as_u64().context("part")?)?;
    let key = plan["objects"][part][0]["key"].as_str().context("a part without rows")?;
    ureq::delete(format!("{folder}{key}")).config().proxy(None).build().call()?;
    Ok(())
}

/// Writes another holder's lease into the state object at `url`.
fn rob(url: &str) -> Result<()> {
    let mut document: Value = serde_json::from_str(&get(url)?)?;
    document["token"] = json!(document["token"].as_u64().context("token")? + 1);
    document["lease"]["holder"] = json!("thief");
    put(url, &document)
}

fn get(url: &str) -> Result<String> {
    Ok(ureq::get(url).config().proxy(None).build().call()?.body_mut().read_to_string()?)
}

fn put(url: &str, document: &Value) -> Result<()> {
    ureq::put(url).config().proxy(None).build().send(document.to_string())?;
    Ok(())
}

/// What happened, in order: writes to S3 by their path, and posts that an engine took.
#[derive(Clone, Default)]
struct Order(Arc<Mutex<Vec<String>>>);

impl Order {
    fn add(&self, event: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    /// What happened since it was last taken.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn position(events: &[String], word: &str) -> Result<usize> {
    events.iter().position(|event| event.contains(word)).with_context(|| format!("{word} is not in {events:?}"))
}

/// A site's own server, which has the key's file while the flag is set.
fn site_with_key() -> Result<(WebServer, Arc<AtomicBool>)> {
    let has_key = Arc::new(AtomicBool::new(true));
    let (there, path) = (Arc::clone(&has_key), format!("/{KEY}.txt"));
    let server = WebServer::start(move |asked| match asked.path == path && there.load(Ordering::Relaxed) {
        true => Reply::ok("text/plain", KEY),
        false => Reply::status(404),
    })?;
    Ok((server, has_key))
}

/// Settings by which `endpoints` are told, one after the other.
fn indexnow(base: &str, endpoints: &[&Engine]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|engine| format!("{:?}", engine.url())).collect();
    format!(
        "[indexnow]\nkey = \"{KEY}\"\nkey_location = \"{base}/{KEY}.txt\"\nfirst_run_max = 100\nendpoints = [{}]\n",
        endpoints.join(", ")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_stored_before_the_first_file_and_told_after_the_commit_in_one_piece_and_in_parts() -> Result<()> {
    let mut jobs = Jobs::start().await?;
    let (cloud, order) = (jobs.deployment.cloud().endpoint(), Order::default());
    let seen = order.clone();
    let before_s3 = WebServer::start(move |asked| {
        let reply = asked.forward(&cloud);
        if asked.method == "PUT" && reply.status == 200 {
            seen.add(format!("PUT {}", asked.path));
        }
        reply
    })?;
    jobs.put_before("AWS_ENDPOINT_URL_S3", &before_s3).await?;
    let (site, has_key) = site_with_key()?;
    let base = site.origin();
    let seen = order.clone();
    let busy = [Engine::start(&[429])?, Engine::start(&[503])?];
    let good = Engine::watched(&[202, 200], move |urls| seen.add(format!("told {}", urls.len())))?;

    // A first run is capped; every engine is busy, so all of it waits.
    let mut pages = rows(&base, ROWS);
    jobs.has(&pages)?;
    jobs.settings("told", &base, 1, &indexnow(&base, &[&busy[0], &busy[1]])).await?;
    let first = jobs.done("told").await?;
    let told = &first["told"];
    assert_eq!(told["gathered"], json!({ "taken": 100, "left_out": ROWS - 100 }), "{told}");
    assert!(told["drained"]["waiting"] == true && told["drained"]["told"] == 0, "{told}");
    assert_eq!((busy[0].asked(), busy[1].asked()), (1, 1));
    order.take();

    // The next, in parts: one page edited, one removed, more new ones than a post takes. What waits goes first, all by the
    // engine that is not busy.
    pages[17][1] = json!("2025-11-01T10:00:00");
    pages.remove(1_500);
    pages.extend((0..10_001).map(|n| json!([format!("{base}/q/{n:06}"), null, "2025-01-01"])));
    jobs.has(&pages)?;
    jobs.settings("told", &base, 3, &indexnow(&base, &[&busy[0], &good])).await?;
    let second = jobs.done("told").await?;
    assert_eq!(second["told"]["gathered"]["taken"], 10_003, "{second}");
    assert_eq!(second["told"]["drained"]["told"], 10_103, "{second}");
    let posts: Vec<usize> = good.taken().iter().map(Vec::len).collect();
    assert_eq!(posts, [100, 10_000, 3]);
    let told: BTreeSet<String> = good.taken().concat().into_iter().skip(100).collect();
    let mut wanted: BTreeSet<String> = (0..10_001).map(|n| format!("{base}/q/{n:06}")).collect();
    wanted.extend([17, 1_500].map(|n| format!("{base}/p/{n:06}")));
    assert!(told == wanted, "{:?}", told.symmetric_difference(&wanted).take(5).collect::<Vec<_>>());
    let events = order.take();
    let stored = position(&events, "/sitemaps/told/indexnow/")?;
    let public = position(&events, &format!("/{SITEMAP_BUCKET}/told/"))?;
    let committed = position(&events, "/sitemaps/told/manifests/")?;
    let first_told = position(&events, "told 100")?;
    assert!(stored < public && public < committed && committed < first_told, "{events:?}");
    let state = events[committed..first_told].iter().any(|event| event.contains("/sitemaps/told/state.json"));
    assert!(state, "told before the commit: {events:?}");

    // Nothing changed: nobody is asked.
    let asked = good.asked();
    assert_eq!(jobs.done("told").await?["told"]["gathered"]["taken"], 0);
    assert_eq!(good.asked(), asked);

    // The key's file is gone: the run is no worse for it, and once it is back the next run tells what waits.
    has_key.store(false, Ordering::Relaxed);
    pages[20][1] = json!("2025-11-03T10:00:00");
    jobs.has(&pages)?;
    let refused = jobs.done("told").await?;
    let problem = refused["told"]["drained"]["problem"].as_str().unwrap_or_default();
    assert!(problem.contains("403") && problem.contains("key is not valid"), "{refused}");
    has_key.store(true, Ordering::Relaxed);
    jobs.done("told").await?;
    assert_eq!(good.taken().last(), Some(&vec![format!("{base}/p/000020")]));
    assert_eq!(jobs.keys("sitemaps/told/indexnow/").await?, Vec::<String>::new());

    let after = (ROWS + 10_000) as u64;
    assert_reported(&jobs, [ROWS as u64, after, after, after, after]).await
}

/// The report of the site's runs says how many pages it had after each, for programs and for people.
async fn assert_reported(jobs: &Jobs, urls: [u64; 5]) -> Result<()> {
    let report: Value = serde_json::from_str(&jobs.object("sitemaps/told/report.json").await?)?;
    let runs = report["runs"].as_array().context("runs")?;
    assert!(runs.iter().filter_map(|run| run["urls"].as_u64()).eq(urls), "{report}");
    let page = jobs.object("sitemaps/told/report.html").await?;
    let last = runs[4]["run"].as_str().context("run")?;
    assert!(page.contains(last) && page.matches("<svg").count() >= 3, "{last} is not on the page, or no chart is");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_job_brings_every_sitemap_of_a_site_up_to_date_and_a_drop_only_where_it_is_accepted() -> Result<()> {
    let mut jobs = Jobs::start().await?;
    let base = "https://shop.example";
    let several = "[guard]\ndrop_percent_max = 10\n[[sitemaps]]\n[[sitemaps]]\nname = \"newest\"\nselect.newest = 20\n";
    jobs.settings("two", base, 1, several).await?;
    jobs.has(&rows(base, ROWS))?;
    jobs.done("two").await?;
    let urls =
        |jobs: &Jobs| Ok::<_, anyhow::Error>((jobs.crawl("two")?.pages.len(), jobs.crawl("two/newest")?.pages.len()));
    assert_eq!(urls(&jobs)?, (ROWS, 20));

    let mut pages = rows(base, ROWS / 2);
    pages[0][1] = json!("2025-11-01T10:00:00");
    jobs.has(&pages)?;
    let failed = jobs.run("two").await?;
    let said = failed.to_string();
    assert!(failed["standing"] != "done" && said.contains("1500 pages are left of 3000"), "{failed}");
    assert!(said.contains("up to date: two.newest"), "{failed}");
    assert_eq!(urls(&jobs)?, (ROWS, 20));
    assert!(jobs.crawl("two/newest")?.pages.iter().any(|(_, lastmod)| lastmod.starts_with("2025-11-01")));

    let accepted = jobs.run_with("two", &["accept_drop=ada, half of the shop moved"]).await?;
    assert_eq!(accepted["summary"]["sitemaps"][0]["accepted"]["by"], "ada, half of the shop moved", "{accepted}");
    assert_eq!(urls(&jobs)?, (ROWS / 2, 20));
    let report = jobs.object("sitemaps/two/report.html").await?;
    assert!(report.contains("ada, half of the shop moved") && report.contains("1500 pages are left of 3000"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_is_tried_again_and_what_is_refused_ends_the_run_at_once() -> Result<()> {
    let mut jobs = Jobs::start().await?;
    let base = "https://shop.example";
    jobs.settings("shop", base, 1, "").await?;
    jobs.has(&rows(base, ROWS))?;
    jobs.model.tell(&json!({ "next": { "fail": "no room for the query", "retryable": true } }))?;
    jobs.done("shop").await?;
    assert_eq!(jobs.tries("shop").await?, 2);

    jobs.has(&rows(base, ROWS / 10))?;
    let refused = [
        (jobs.run("shop").await?, "300 pages are left of 3000"),
        (jobs.run_with("shop", &["since=2025-01-01"]).await?, "there is no parameter since"),
        (jobs.run_with("shop", &["plan=none"]).await?, "shop has no plan none"),
    ];
    for (record, words) in &refused {
        let error = record["error"].as_str().unwrap_or_default();
        assert!(record["standing"] == "failed" && error.contains(words), "{words}: {record}");
    }
    assert_eq!(jobs.tries("shop").await?, 2 + refused.len() as u64);

    // A plan tells of the refusal, and who knows better says so.
    let planned = jobs.tidemark(&["sitemap", "plan", "shop"]).await?;
    let (plan, told) = (planned["summary"]["plan"].as_str().context("plan")?, &planned["summary"]["refused"]);
    assert!(told.as_str().is_some_and(|told| told.contains("--accept-drop")), "{planned}");
    let by_plan = ["sitemap", "run", "shop", "--plan", plan];
    assert_eq!(jobs.tidemark(&by_plan).await?["standing"], "failed");
    let accepted = jobs.tidemark(&[&by_plan[..], &["--accept-drop", "ada, half moved"]].concat()).await?;
    let done = &accepted["summary"]["sitemaps"][0];
    assert_eq!((&done["urls"], &done["accepted"]["by"]), (&json!(ROWS / 10), &json!("ada, half moved")), "{accepted}");
    let wanted = [(&planned, "\n  cost: $0.0"), (&accepted, "│ shop "), (&accepted, "\n  accepted.by: ada")];
    for (record, wanted) in wanted {
        let show = ["jobs", "show", record["run"].as_str().context("run")?];
        let shown = jobs.deployment.tidemark()?.args(show).output().await?;
        let shown = String::from_utf8(shown.stdout)?;
        assert!(shown.contains(" done in ") && shown.contains(wanted), "{wanted}: {shown}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_trigger_that_is_second_to_the_lease_leaves_the_record_of_the_run_alone() -> Result<()> {
    let mut jobs = Jobs::start().await?;
    let (cloud, base) = (jobs.deployment.cloud().endpoint(), "https://shop.example");
    jobs.settings("twin", base, 1, "").await?;
    jobs.has(&rows(base, 10))?;
    let trigger = json!({ "job": "sitemap", "args": { "site": "twin" }, "run": "twin-run" }).to_string();
    let url = format!("{cloud}/2015-03-31/functions/{CRON_FUNCTION}/invocations");
    let invoke = |url: &str, trigger: &str| {
        let agent = ureq::Agent::config_builder().timeout_global(Some(ARRIVAL_TIMEOUT)).proxy(None).build().new_agent();
        Ok::<_, anyhow::Error>(agent.post(url).send(trigger)?.body_mut().read_to_string()?)
    };
    // When the first execution is about to take the lease, a second one comes, and is done before it.
    let (second, answers) = (AtomicBool::new(false), Arc::<Mutex<Vec<u16>>>::default());
    let (seen, to, again) = (Arc::clone(&answers), url.clone(), trigger.clone());
    let between = WebServer::start(move |asked| {
        if asked.method != "PUT" || !asked.path.contains("/jobs/state/") {
            return asked.forward(&cloud);
        }
        let is_first = !second.swap(true, Ordering::Relaxed);
        if is_first && let Err(error) = invoke(&to, &again) {
            return Reply::ok("text/plain", format!("{error:#}"));
        }
        let reply = asked.forward(&cloud);
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(reply.status);
        reply
    })?;
    jobs.put_before("AWS_ENDPOINT_URL_S3", &between).await?;
    let told = tokio::task::spawn_blocking(move || invoke(&url, &trigger)).await??;
    let record: Value = serde_json::from_str(&jobs.object("jobs/runs/twin-run.json").await?)?;
    assert!(record["standing"] == "done" && record["error"].is_null(), "{record}, told {told}");
    let answers = answers.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(answers.last(), Some(&412), "the first execution was to lose: {answers:?}");
    assert_eq!(jobs.tries("twin").await?, 1);
    Ok(())
}
