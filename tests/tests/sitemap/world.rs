//! One site in the model of S3, and runs of the real refresh over it that a test drives call by call.

use crate::edge::{Edge, FILES_URL, Pages, crawl, index_entries, is_index, shard_pages};
use crate::store::{Answer, Call, Objects, PUBLIC, STATE, Store, Table};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tidemark_runtime::clock::{Clock, Time};
use tidemark_runtime::state::Document;
use tidemark_sitemap::import::{self, Found, TakenOver, Takeover};
use tidemark_sitemap::manifest::Manifest;
use tidemark_sitemap::plan;
use tidemark_sitemap::refresh::{self, Committed, RefreshError, Run, Surroundings};
use tidemark_sitemap::rollback::{self, Rollback};

/// 22 November 2025.
pub(crate) const NOW_MS: i64 = 1_763_800_000_000;
/// Longer than any lease of a refresh.
pub(crate) const AFTER_LEASE_MS: i64 = 20 * 60 * 1000;
/// How long caches serve what they have.
const TTL_MS: i64 = 60_000;
/// How often a run is polled until it waits for a call or ends.
const POLLS_MAX: usize = 100_000;
const SITE: &str = "shop";
/// The day of a page's lastmod on which its sort key is another.
pub(crate) const KEY_CHANGES_ON: u32 = 9;
const STATE_KEY: &str = "sitemaps/shop/state.json";
const REPORT_KEY: &str = "sitemaps/shop/report.json";

/// The pages of a list by number, each with the day of its lastmod.
pub(crate) type Input = BTreeMap<u32, u32>;

pub(crate) fn pages(pages: impl IntoIterator<Item = u32>) -> Input {
    pages.into_iter().map(|page| (page, 1)).collect()
}

fn address(page: u32) -> String {
    format!("{FILES_URL}/p/{page:06}")
}

/// What a page is sorted by where sites ask for it: another order than that of addresses, and another key on some days.
fn sort_key(page: u32, day: u32) -> u32 {
    (page * 7919 + if day == KEY_CHANGES_ON { 5000 } else { 0 }) % 10_007
}

/// What a crawler must find of `input`.
pub(crate) fn wanted(input: &Input) -> Pages {
    input.iter().map(|(page, day)| (address(*page), format!("2025-01-{:02}", day % 28 + 1))).collect()
}

/// Pages that are in all of `inputs`.
pub(crate) fn common(inputs: &[&Input]) -> BTreeSet<String> {
    let everywhere = |page: &&u32| inputs.iter().all(|input| input.contains_key(page));
    inputs[0].keys().filter(everywhere).map(|page| address(*page)).collect()
}

/// A run to come.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) id: &'static str,
    pub(crate) attempt: u32,
    pub(crate) now_ms: i64,
    pub(crate) work: Work,
}

/// What a run does.
#[derive(Clone)]
pub(crate) enum Work {
    /// Publishes these pages.
    Refresh(Input),
    /// Plans the same.
    Plan(Input),
    /// Carries out this plan, whose pages are these.
    Planned(&'static str, Input),
    /// Takes over the sitemap of another tool whose indexes lie under these keys of the public bucket, and compares it with
    /// these pages.
    Import { indexes: Vec<&'static str>, input: Input, switch: bool },
    /// Restores what this run published.
    RollBack { to: Option<&'static str>, hold: bool },
}

impl Job {
    pub(crate) fn new(id: &'static str, input: &Input) -> Self {
        Self { id, attempt: 1, now_ms: NOW_MS, work: Work::Refresh(input.clone()) }
    }

    pub(crate) fn rollback(id: &'static str, to: Option<&'static str>) -> Self {
        Self { id, attempt: 1, now_ms: NOW_MS, work: Work::RollBack { to, hold: false } }
    }

    pub(crate) fn import(id: &'static str, indexes: &[&'static str], input: &Input) -> Self {
        let work = Work::Import { indexes: indexes.to_vec(), input: input.clone(), switch: true };
        Self { id, attempt: 1, now_ms: NOW_MS, work }
    }

    pub(crate) fn again(&self) -> Self {
        Self { attempt: self.attempt + 1, ..self.clone() }
    }

    pub(crate) fn later(&self, by_ms: i64) -> Self {
        Self { now_ms: self.now_ms + by_ms, ..self.clone() }
    }
}

/// The buckets and the time.
pub(crate) struct World {
    pub(crate) store: Store,
    /// Files that the web shows otherwise than the bucket holds them.
    pub(crate) web: BTreeMap<String, Vec<u8>>,
    time_ms: Arc<AtomicI64>,
}

/// How shards are cut and files removed.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) target: u32,
    pub(crate) max: u32,
    pub(crate) grace_hours: u32,
    /// Shards that an index names.
    pub(crate) per_index: usize,
}

impl World {
    /// A site without a sitemap; `cached`: crawlers see it through caches.
    pub(crate) fn new(rules: Rules, cached: bool) -> Self {
        let settings = format!(
            "base_url = \"{FILES_URL}\"\n[query]\nsql = \"SELECT loc, lastmod FROM pages\"\ndatabase = \"shop\"\nfetch = \"select\"\n\
             [publish]\nbucket = \"{PUBLIC}\"\nedge_ttl_seconds = {}\ngrace_hours = {}\n\
             [shards]\ntarget_urls = {}\nmax_urls = {}\nmax_per_index = {}\nlevel = 1\n[guard]\ndrop_percent_max = 100\n",
            TTL_MS / 1000,
            rules.grace_hours,
            rules.target,
            rules.max,
            rules.per_index,
        );
        let time_ms = Arc::new(AtomicI64::new(0));
        let mut edge = Edge::new(Arc::clone(&time_ms), if cached { TTL_MS } else { 0 });
        edge.per_index = rules.per_index;
        let mut objects = Objects::default();
        objects.edge = Some(edge);
        objects.put(STATE, "sites/shop.toml", settings.into_bytes(), BTreeMap::new());
        Self { store: Store::of(objects), web: BTreeMap::new(), time_ms }
    }

    /// Sets a setting of the section `[publish]`.
    pub(crate) fn set(&self, name: &str, value: &str) {
        let mut objects = self.store.objects();
        let text = String::from_utf8(objects.get(STATE, "sites/shop.toml").unwrap().bytes.to_vec()).unwrap();
        let text = text.replace("[publish]\n", &format!("[publish]\n{name} = {value}\n"));
        objects.put(STATE, "sites/shop.toml", text.into_bytes(), BTreeMap::new());
    }

    /// Has rows sorted by their key from now on, or by their address.
    pub(crate) fn sort_by_key(&self, by_key: bool) {
        let mut objects = self.store.objects();
        let text = String::from_utf8(objects.get(STATE, "sites/shop.toml").unwrap().bytes.to_vec()).unwrap();
        let text = text.replace("[rows]\nsort_key = true\n", "");
        let rows = if by_key { "[rows]\nsort_key = true\n" } else { "" };
        let text = text.replace("[publish]\n", &format!("{rows}[publish]\n"));
        objects.put(STATE, "sites/shop.toml", text.into_bytes(), BTreeMap::new());
    }

    /// A world that is the same now and goes on by itself.
    pub(crate) fn copy(&self) -> Self {
        let time_ms = Arc::new(AtomicI64::new(self.time_ms.load(Ordering::Relaxed)));
        let mut objects = self.store.objects().clone();
        objects.edge = objects.edge.map(|edge| edge.copy(Arc::clone(&time_ms)));
        objects.public_writes.clear();
        Self { store: Store::of(objects), web: self.web.clone(), time_ms }
    }

    /// From now on `must` has to be found at every instant.
    pub(crate) fn must_keep(&self, must: BTreeSet<String>) {
        self.store.objects().edge.as_mut().unwrap().must = must;
    }

    /// All that caches hold has run out.
    pub(crate) fn pass(&self) {
        self.time_ms.fetch_add(TTL_MS, Ordering::Relaxed);
    }

    pub(crate) fn start(&self, actor: usize, job: &Job) -> Running {
        let work_dir = tempfile::tempdir().unwrap();
        let none = Input::new();
        let input = match &job.work {
            Work::Refresh(input) | Work::Plan(input) | Work::Planned(_, input) => input,
            Work::Import { input, .. } => input,
            Work::RollBack { .. } => &none,
        };
        let found = match &job.work {
            Work::Import { indexes, .. } => Some(self.found(indexes, &work_dir.path().join("web"))),
            _ => None,
        };
        let row = |(page, day): (&u32, &u32)| {
            [format!("/p/{page:06}"), format!("2025-01-{:02}", day % 28 + 1), sort_key(*page, *day).to_string()]
        };
        let rows = input.iter().map(row);
        let around = Surroundings {
            athena: Table(Arc::new(rows.collect())).client(),
            s3: self.store.client(actor),
            state_bucket: STATE.to_owned(),
            parts: None,
            edge: None,
            clock: Clock::of(Watch { now_ms: job.now_ms, time_ms: Arc::clone(&self.time_ms) }),
        };
        let (id, work) = (job.id, job.work.clone());
        let taken_over = Arc::new(Mutex::new(None));
        let told = Arc::clone(&taken_over);
        let future = Box::pin(async move {
            let work_dir = work_dir.path();
            let query_longest = Duration::from_secs(60);
            let parameters = BTreeMap::new();
            let run = Run {
                site: SITE,
                sitemap: None,
                id,
                parameters: &parameters,
                accept_drop: None,
                reshard: true,
                plan: None,
                query_longest,
                work_dir,
            };
            match work {
                Work::Refresh(_) => refresh::refresh(&around, run).await.map(drop),
                Work::Plan(_) => plan::plan(&around, run).await.map(drop),
                Work::Planned(plan, _) => refresh::refresh(&around, Run { plan: Some(plan), ..run }).await.map(drop),
                Work::Import { switch, .. } => {
                    let (site, sitemap, lists, parameters) = (SITE, None, None, &parameters);
                    let run = Takeover { site, sitemap, id, lists, parameters, switch, query_longest, work_dir };
                    let taken = import::take_over(&around, run, found.unwrap()).await?;
                    told.lock().unwrap().replace(taken);
                    Ok(())
                }
                Work::RollBack { to, hold } => {
                    let run = Rollback { site: SITE, sitemap: None, id, to, dry_run: false, hold, work_dir };
                    rollback::rollback(&around, run).await.map(drop)
                }
            }
        });
        Running { actor, future, outcome: None, taken_over }
    }

    /// The sitemap whose indexes have these keys, as the web shows it.
    fn found(&self, indexes: &[&str], dir: &Path) -> Found {
        fs::create_dir_all(dir).unwrap();
        for (key, object) in self.store.objects().all(PUBLIC) {
            fs::write(dir.join(&key), self.web.get(&key).unwrap_or(&object.bytes)).unwrap();
        }
        let paths: Vec<_> = indexes.iter().map(|index| dir.join(index)).collect();
        let mut found = import::local(&paths).unwrap();
        for (top, index) in found.tops.iter_mut().zip(indexes) {
            top.0 = format!("{FILES_URL}/{index}");
        }
        found
    }

    /// Runs `job` to its end, unhurt; returns how many calls it made.
    pub(crate) fn run(&self, job: &Job) -> usize {
        let mut running = self.start(0, job);
        let mut calls = 0;
        while running.advance(&self.store) {
            calls += 1;
            running.step(&self.store);
        }
        if let Some(Err(error)) = running.outcome {
            panic!("run {} of {}: {error:?}", job.attempt, job.id);
        }
        assert_eq!(self.store.objects().breaches, Vec::<String>::new());
        calls
    }

    pub(crate) fn state(&self) -> Document<Committed> {
        let objects = self.store.objects();
        let state = objects.get(STATE, STATE_KEY).expect("a state object");
        serde_json::from_slice(&state.bytes).unwrap()
    }

    pub(crate) fn manifest(&self) -> Option<Manifest> {
        let key = self.state().state.manifest?;
        let objects = self.store.objects();
        Some(Manifest::from_json(&objects.get(STATE, &key).expect("the committed manifest").bytes).unwrap())
    }

    /// The report of the runs, as JSON.
    pub(crate) fn report(&self) -> String {
        let objects = self.store.objects();
        String::from_utf8(objects.get(STATE, REPORT_KEY).expect("a report").bytes.to_vec()).unwrap()
    }

    /// What outlives a run and is seen by others.
    pub(crate) fn outcome(&self) -> Lasting {
        let state = self.state();
        assert!(state.lease.is_none(), "the lease was let go");
        let public = self.store.objects().all(PUBLIC);
        // Which version of an object a file is tells how often it was tried, not what it is.
        let manifest = self.manifest().map(|mut manifest| {
            manifest.shards.iter_mut().for_each(|shard| shard.version = None);
            manifest
        });
        Lasting { public, manifest, intent: state.state.intent }
    }

    pub(crate) fn crawl(&self) -> Pages {
        crawl(&self.store.objects())
    }

    /// What is wrong between the committed manifest and the public files, if anything.
    pub(crate) fn disagreement(&self) -> Option<String> {
        let (Some(manifest), objects) = (self.manifest(), self.store.objects()) else {
            return Some("nothing is committed".to_owned());
        };
        if let Some(wrong) = indexes_disagree(&objects, &manifest) {
            return Some(wrong);
        }
        for shard in &manifest.shards {
            let Some(object) = objects.get(PUBLIC, &shard.file) else { return Some(format!("no {}", shard.file)) };
            if Some(&object.etag) != shard.stamp.as_ref() {
                return Some(format!("{} has another ETag", shard.file));
            }
            assert_eq!(shard_pages(&shard.file, &object.bytes).len(), shard.urls as usize);
        }
        None
    }
}

/// What is wrong between the indexes and the manifest: each names its shards, one that has none another's, and one that the
/// manifest does not know is to go.
fn indexes_disagree(objects: &Objects, manifest: &Manifest) -> Option<String> {
    let name =
        |number: u32| if number == 1 { "sitemap-index.xml".to_owned() } else { format!("sitemap-index-{number}.xml") };
    let public = objects.all(PUBLIC);
    let unknown = |file: &&String| {
        is_index(file)
            && !manifest.indexes().into_iter().any(|number| name(number) == **file)
            && !manifest.retired.iter().any(|old| old.file == **file)
    };
    if let Some(file) = public.keys().find(unknown) {
        return Some(format!("nobody knows {file}"));
    }
    for number in manifest.indexes() {
        let Some(index) = public.get(&name(number)) else { return Some(format!("there is no index {number}")) };
        let named = index_entries(&index.bytes);
        let own = manifest.shards.iter().filter(|shard| shard.index == number);
        let mut shards: Vec<_> = own.map(|s| (s.file.clone(), s.changed_at.clone())).collect();
        if shards.is_empty() {
            shards.extend(manifest.shards.first().map(|s| (s.file.clone(), s.changed_at.clone())));
        }
        if named != shards {
            return Some(format!("the index {number} names {named:?}, the manifest {shards:?}"));
        }
    }
    None
}

/// See [`World::outcome`].
#[derive(Debug, PartialEq)]
pub(crate) struct Lasting {
    public: BTreeMap<String, crate::store::Object>,
    manifest: Option<Manifest>,
    intent: Vec<String>,
}

/// A run under way. Dropping it is the end of its process.
pub(crate) struct Running {
    pub(crate) actor: usize,
    future: Pin<Box<dyn Future<Output = Result<(), RefreshError>>>>,
    pub(crate) outcome: Option<Result<(), RefreshError>>,
    /// What an import told.
    pub(crate) taken_over: Arc<Mutex<Option<TakenOver>>>,
}

/// Whether there is more to do before the next answer.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Running {
    /// Goes on until the next call, which is given, or until the end.
    pub(crate) fn next_call(&mut self, store: &Store) -> Option<Call> {
        self.advance(store);
        store.next(self.actor)
    }

    /// Has the oldest call that waits done.
    pub(crate) fn step(&mut self, store: &Store) {
        self.step_at(store, 0);
    }

    /// Has the call done that waits behind `older` others, and gives what it was and what was answered.
    pub(crate) fn step_at(&mut self, store: &Store, older: usize) -> (String, String) {
        self.advance(store);
        let call = store.take(self.actor, older).expect("a call that waits");
        let answer = store.perform(&call.request);
        let told = (call.describe(), format!("{answer:?}"));
        call.answer(answer);
        told
    }

    /// Goes on as far as it can without an answer; false at the end.
    pub(crate) fn advance(&mut self, store: &Store) -> bool {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        for _ in 0..POLLS_MAX {
            if self.outcome.is_some() {
                return false;
            }
            if let Poll::Ready(outcome) = self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
                self.outcome = Some(outcome);
            } else if !woken.0.swap(false, Ordering::Relaxed) && !store.waiting(self.actor).is_empty() {
                return true;
            }
        }
        panic!("the run neither ends nor calls");
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Refused once, and S3 says to try again.
    Busy,
    /// Done, and the answer is lost; the next try gets through.
    LoseAnswer,
    /// Refused for good.
    Deny,
    /// Done, the answer is lost, and no later call gets through.
    CutOff,
    /// Not done, and the process ends.
    DieBefore,
    /// Done, and the process ends.
    DieAfter,
    /// Not done, all others under way are, and the process ends.
    DieAlone,
}

pub(crate) const FATES: [Fate; 7] =
    [Fate::Busy, Fate::LoseAnswer, Fate::Deny, Fate::CutOff, Fate::DieBefore, Fate::DieAfter, Fate::DieAlone];

impl World {
    /// Runs `job`, whose call number `at` (from 1) meets `fate`. `None` where its process ended; and that call.
    pub(crate) fn run_into(&self, job: &Job, at: usize, fate: Fate) -> (Option<Result<(), RefreshError>>, String) {
        let mut running = self.start(0, job);
        let (mut calls, mut hurt) = (0, String::new());
        while let Some(call) = running.next_call(&self.store) {
            calls += 1;
            if calls < at || (calls > at && fate != Fate::CutOff) {
                let answer = self.store.perform(&call.request);
                call.answer(answer);
                continue;
            }
            if calls > at {
                call.lose();
                continue;
            }
            hurt = call.describe();
            match fate {
                Fate::Busy => call.answer(Answer::error(503, "SlowDown")),
                Fate::Deny => call.answer(Answer::error(403, "AccessDenied")),
                Fate::LoseAnswer | Fate::CutOff => {
                    self.store.perform(&call.request);
                    call.lose();
                }
                Fate::DieBefore => return (None, hurt),
                Fate::DieAfter => {
                    self.store.perform(&call.request);
                    return (None, hurt);
                }
                Fate::DieAlone => {
                    while let Some(other) = self.store.next(running.actor) {
                        self.store.perform(&other.request);
                    }
                    return (None, hurt);
                }
            }
        }
        (running.outcome, hurt)
    }
}

/// Time that stands still for the run, and moves for caches where the run waits.
struct Watch {
    now_ms: i64,
    time_ms: Arc<AtomicI64>,
}

impl Time for Watch {
    fn now_ms(&self) -> i64 {
        self.now_ms
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.time_ms.fetch_add(i64::try_from(duration.as_millis()).unwrap(), Ordering::Relaxed);
        Box::pin(std::future::ready(()))
    }
}
