//! `make scale`: a sitemap of millions of made-up pages, by the release binary as a Lambda function of the local cloud, in
//! one piece or in parts. Tells what every process took. The model of Athena writes the rows; it is part of the wall time
//! and of nothing else.

use anyhow::{Context as _, Result, ensure};
use aws_sdk_s3::primitives::ByteStream;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tidemark_local::{Deployment, DeploymentOptions, SITEMAP_BUCKET};
use tidemark_tests::athena::ModelAthena;
use tidemark_tests::crawler;

const BASE: &str = "https://shop.example";
/// How often processes are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Clock ticks a second in /proc (USER_HZ, the same on every Linux that this runs on).
const TICKS: f64 = 100.0;

/// What a process of the jobs' function took so far.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    cpu_s: f64,
    peak_mib: f64,
}

fn say(line: &str) {
    writeln!(std::io::stdout().lock(), "{line}").ok();
}

/// Arguments: how many pages, in how many parts.
#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let pages = arguments.next().transpose()?.unwrap_or(20_000_000);
    let parts = arguments.next().transpose()?.unwrap_or(4);
    let deployment = Deployment::start(&DeploymentOptions::of_this_clone()?).await?;
    let mut model = ModelAthena::start(deployment.cloud())?;
    deployment.set_cron_environment(&[("AWS_ENDPOINT_URL_ATHENA", model.endpoint().to_owned())]).await?;
    let began = Instant::now();
    model.tell(&json!({ "generate": pages, "base": BASE, "next": {} }))?;
    say(&format!("{pages} pages made up in {:.0} s", began.elapsed().as_secs_f64()));
    put_settings(&deployment, pages, parts).await?;
    let watch = Watch::start(deployment.cloud().process_id());
    let output = deployment.tidemark()?.args(["jobs", "run", "sitemap", "--json", "--arg", "site=scale"]).output();
    let output = output.await?;
    let taken = watch.end();
    let record: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{}\n{}", String::from_utf8_lossy(&output.stderr), deployment.cloud().log_tail()))?;
    ensure!(record["standing"] == "done", "{record}\n{}", deployment.cloud().log_tail());
    tell(&deployment, &record, &taken).await?;
    let folder = deployment.cloud().object_url(SITEMAP_BUCKET, "");
    let (files, found) = crawler::count(&folder, "sitemap-index.xml")?;
    say(&format!("crawled: {files} files, {found} pages"));
    ensure!(found == pages, "{pages} pages were wanted");
    Ok(())
}

async fn put_settings(deployment: &Deployment, pages: usize, parts: usize) -> Result<()> {
    let hub = deployment.hub();
    let settings = format!(
        "base_url = \"{BASE}\"\nlastmod_zone = \"UTC\"\n[query]\nsql = \"SELECT loc, lastmod FROM pages ORDER BY loc\"\n\
         database = \"d\"\noutput = \"s3://{}/athena/\"\n[scale]\nparts = {parts}\npages = {pages}\n\
         [publish]\nbucket = \"{SITEMAP_BUCKET}\"\nedge_ttl_seconds = 0\n",
        hub.bucket
    );
    let put = hub.clients.s3.put_object().bucket(&hub.bucket).key("sites/scale.toml");
    put.body(ByteStream::from(settings.into_bytes())).send().await?;
    Ok(())
}

/// Says what the run and its processes took.
async fn tell(deployment: &Deployment, record: &Value, taken: &BTreeMap<u32, Taken>) -> Result<()> {
    let ms = |record: &Value, field: &str| record[field].as_i64().unwrap_or_default();
    let seconds = |from: i64, to: i64| (to - from) as f64 / 1000.0;
    let (began, ended) = (ms(record, "began_ms"), ms(record, "updated_ms"));
    let summary = &record["summary"]["sitemaps"][0];
    say(&format!("run: {} urls in {} shards, {:.0} s", summary["urls"], summary["shards"], seconds(began, ended)));
    let hub = deployment.hub();
    let list = hub.clients.s3.list_objects_v2().bucket(&hub.bucket).prefix("jobs/runs/sitemap_part-").send().await?;
    let mut last = began;
    for key in list.contents().iter().filter_map(|object| object.key()) {
        let object = hub.clients.s3.get_object().bucket(&hub.bucket).key(key).send().await?;
        let part: Value = serde_json::from_slice(&object.body.collect().await?.into_bytes())?;
        let (from, to) = (ms(&part, "began_ms"), ms(&part, "updated_ms"));
        last = last.max(to);
        let (number, after) = (&part["args"]["part"], seconds(began, from));
        say(&format!("part {number}: began after {after:.0} s, took {:.0} s", seconds(from, to)));
    }
    if last > began {
        say(&format!("the last step, from the last part's end on: {:.0} s", seconds(last, ended)));
    }
    for Taken { cpu_s, peak_mib } in taken.values() {
        say(&format!("process: {cpu_s:.1} s of CPU, {peak_mib:.0} MiB at most"));
    }
    let all: f64 = taken.values().map(|taken| taken.cpu_s).sum();
    say(&format!("all processes of the function: {all:.1} s of CPU"));
    Ok(())
}

/// Looks at the functions' processes, children of the emulator, until it is told to end.
struct Watch {
    ends: Arc<AtomicBool>,
    taken: Arc<Mutex<BTreeMap<u32, Taken>>>,
    thread: thread::JoinHandle<()>,
}

impl Watch {
    fn start(emulator: u32) -> Self {
        let (ends, taken) = (Arc::<AtomicBool>::default(), Arc::<Mutex<BTreeMap<u32, Taken>>>::default());
        let (ended, seen) = (Arc::clone(&ends), Arc::clone(&taken));
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let now = functions_of(emulator);
                seen.lock().unwrap_or_else(PoisonError::into_inner).extend(now);
                thread::sleep(LOOK);
            }
        });
        Self { ends, taken, thread }
    }

    fn end(self) -> BTreeMap<u32, Taken> {
        self.ends.store(true, Ordering::Relaxed);
        drop(self.thread.join());
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        // What did nothing worth a line is another function that waits.
        taken.iter().filter(|(_, taken)| taken.cpu_s >= 0.1).map(|(process, taken)| (*process, *taken)).collect()
    }
}

fn functions_of(emulator: u32) -> BTreeMap<u32, Taken> {
    let Ok(processes) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let numbers = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter_map(|process| Some((process, function(process, emulator)?))).collect()
}

/// See proc(5): the fields behind the name, which may hold anything.
fn function(process: u32, emulator: u32) -> Option<Taken> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    if name != "bootstrap" || fields.get(1)?.parse() != Ok(emulator) {
        return None;
    }
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().trim_end_matches(" kB");
    Some(Taken { cpu_s: ticks / TICKS, peak_mib: peak.parse::<f64>().ok()? / 1024.0 })
}
