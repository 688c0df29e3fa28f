//! A world: the schedule of one seed from its first change to the comparison.

mod compare;
mod faults;
mod incidents;
mod rest;

use super::calls::{Calls, Fate, Hop, Waiting};
use super::changes::{Changes, NEAR_MS};
use super::cloud::{Cloud, Objects};
use super::foreign::Foreign;
use super::kinesis::Stream;
use super::mapping::{Begin, Ended, Mapping, kill_one};
use super::reference::Eviction;
use super::region::{Backup, SimRegion};
use super::services::{Process, Service, start_publisher};
use super::time::{START_MS, WorldTime};
use super::{Bench, REGIONS, Summary, Variant};
use crate::random::Random;
use faults::Faults;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidemark_cache_sync::lane::Lanes;
use tidemark_cache_sync::publish::Publisher;
use tokio::task::JoinHandle;

const LANES: u16 = 4;
const STEPS_MIN: u64 = 300;
const STEPS_MORE: u64 = 300;
/// So many calls see an invocation killed.
const KILLED_ONCE_IN: u64 = 150;
const TRACE_LINES_MAX: usize = 2_000;
const HOUR_MS: i64 = 3_600_000;
/// After the last change every near expiry has come within this time.
const NEAR_IS_PAST_MS: i64 = 2 * NEAR_MS.cast_signed();

struct World {
    seed: u64,
    variant: Variant,
    lanes: Lanes,
    faults: Faults,
    random: Random,
    changes: Changes,
    calls: Calls,
    time: WorldTime,
    cloud: Cloud,
    regions: Vec<Arc<SimRegion>>,
    backups: Vec<Vec<Backup>>,
    evictions: Vec<Vec<Eviction>>,
    mappings: Vec<Mapping>,
    generation: u64,
    services: Vec<Service>,
    foreign: Vec<Foreign>,
    heartbeats: Heartbeats,
    /// Streams that were deleted.
    old_streams: Vec<Stream>,
    /// Regions in which a lane was said to need a resync, with the words.
    needs_resync: BTreeMap<&'static str, BTreeMap<u16, String>>,
    steps: u64,
    trace: Vec<String>,
}

/// The heartbeat job.
struct Heartbeats {
    publisher: Arc<Publisher>,
    number: u64,
    task: Option<JoinHandle<()>>,
    published: Arc<Mutex<bool>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the world of `seed` on the servers of `bench`.
pub(super) async fn run(seed: u64, variant: Variant, bench: &Bench) -> Result<Summary, String> {
    let mut world = World::new(seed, variant, bench).await.map_err(|error| format!("{error:#}"))?;
    match world.live().await {
        Ok(faults) if faults.is_empty() => {
            let records = lock(&world.cloud.stream).shards.iter().map(|shard| shard.records.len() as u64).sum();
            Ok(Summary { steps: world.steps, records, trace: world.trace })
        }
        Ok(faults) => Err(world.report(&faults)),
        Err(error) => Err(world.report(&[format!("{error:#}")])),
    }
}

impl World {
    async fn new(seed: u64, variant: Variant, bench: &Bench) -> anyhow::Result<Self> {
        let mut random = Random::new(seed);
        let faults = Faults::draw(&mut random, variant);
        let lanes = Lanes::new(LANES)?;
        let calls = Calls::default();
        let time = WorldTime::new(&calls, &bench.clock);
        let strips = variant == Variant::NoProducerSeq;
        let objects = Objects::default();
        let stream = Stream::new(random.bits(), START_MS, 1 + u128::from(random.below(2)), strips, &objects);
        let cloud = Cloud::new(&calls, &time, stream, objects);
        let mut regions = Vec::new();
        for number in 0..REGIONS.len() {
            let region = SimRegion::start(number, bench, &cloud, lanes, variant, random.bits()).await?;
            regions.push(Arc::new(region));
        }
        let publisher = start(&cloud, Process::heartbeats(lanes, random.bits())).await?;
        let heartbeats = Heartbeats { publisher, number: 1, task: None, published: Arc::default() };
        let mut world = Self {
            seed,
            variant,
            lanes,
            faults,
            changes: Changes::new(lanes, faults.near),
            random,
            calls,
            time,
            cloud,
            backups: vec![Vec::new(); regions.len()],
            evictions: vec![Vec::new(); regions.len()],
            regions,
            mappings: Vec::new(),
            generation: 1,
            services: Vec::new(),
            foreign: Vec::new(),
            heartbeats,
            old_streams: Vec::new(),
            needs_resync: BTreeMap::new(),
            steps: 0,
            trace: Vec::new(),
        };
        world.populate().await?;
        Ok(world)
    }

    async fn populate(&mut self) -> anyhow::Result<()> {
        for region in self.regions.clone() {
            let stream = lock(&self.cloud.stream);
            self.mappings.push(Mapping::new(&self.cloud, &region, 1, Begin::TrimHorizon, &stream));
        }
        for _ in 0..2 {
            self.start_service(None).await?;
        }
        for number in 0..3 {
            let skew_ms = self.skew_ms();
            let id = (number > 0).then(|| format!("foreign-{number}"));
            self.foreign.push(Foreign::new(id, skew_ms, self.variant, &self.cloud.objects));
        }
        Ok(())
    }

    /// A service's process, in the place of one that ended.
    async fn start_service(&mut self, after: Option<usize>) -> anyhow::Result<()> {
        let (number, skew_ms) = (self.services.len(), self.skew_ms());
        let mut process = Process::service(number, self.lanes, skew_ms, self.variant, &mut self.random);
        if let Some(before) = after.filter(|_| self.variant == Variant::ProducerIdReused) {
            process.seed = self.services[before].seed();
        }
        let publisher = start(&self.cloud, process.clone()).await?;
        self.services.push(Service::new(process, publisher));
        Ok(())
    }

    /// How far a producer's clock is off.
    fn skew_ms(&mut self) -> i64 {
        let most = if self.faults.near { 500 } else { 600_000 };
        self.random.below(2 * most).cast_signed() - most.cast_signed()
    }

    fn note(&mut self, line: String) {
        self.trace.push(line);
    }

    fn report(&self, faults: &[String]) -> String {
        let skipped = self.trace.len().saturating_sub(TRACE_LINES_MAX);
        let trace = self.trace[skipped..].join("\n");
        format!(
            "seed {} ({:?}) ends wrong:\n{}\n\n{:?}\nschedule ({skipped} earlier lines left out):\n{trace}\n\n\
             seed {} again: {}",
            self.seed,
            self.variant,
            faults.join("\n"),
            self.faults,
            self.seed,
            faults.join("; ").chars().take(500).collect::<String>()
        )
    }

    /// The whole life; what is wrong at its end.
    async fn live(&mut self) -> anyhow::Result<Vec<String>> {
        let mut faults = Vec::new();
        if self.faults.settled {
            self.beat();
            faults.extend(self.drain().await);
        }
        let steps = STEPS_MIN + self.random.below(STEPS_MORE);
        for _ in 0..steps {
            self.calls.settle().await;
            self.collect(true);
            self.steps += 1;
            self.step().await?;
        }
        faults.extend(self.come_to_rest().await?);
        faults.extend(self.compare().await?);
        Ok(faults)
    }

    async fn step(&mut self) -> anyhow::Result<()> {
        let moment = self.random.below(40).cast_signed();
        self.time.advance(moment);
        let waiting = self.calls.waiting();
        let load = self.faults.load;
        match self.random.below(100) {
            roll if roll < load => {
                if let Some(at) = self.living_service() {
                    let line = self.services[at].publish(&self.cloud, &mut self.random, &mut self.changes);
                    self.note(line);
                }
            }
            roll if roll < load + load / 2 => self.produce(),
            95.. => self.incident().await?,
            81.. => self.deliver(),
            _ if waiting.is_empty() => self.deliver(),
            _ => self.decide(&waiting),
        }
        Ok(())
    }

    fn pick(&mut self, many: usize) -> usize {
        usize::try_from(self.random.below(many.max(1) as u64)).unwrap_or(0)
    }

    fn decide(&mut self, waiting: &[Waiting]) {
        // An invocation dies at a call of its own or of another; what is under way goes on without it.
        if self.faults.kills && self.random.once_in(KILLED_ONCE_IN) {
            let choice = self.random.bits();
            if let Some(what) = kill_one(&self.calls, choice) {
                self.note(format!("kill {what}"));
            }
        }
        let at = self.pick(waiting.len());
        let call = &waiting[at];
        let fate = self.faults.fate(&mut self.random, self.variant, call);
        self.note(format!(
            "{fate:?} {:?}{} #{} {}",
            call.hop,
            if call.late { " late" } else { "" },
            call.id,
            call.what
        ));
        self.calls.decide(call.id, fate);
    }

    fn produce(&mut self) {
        let (at, now_ms) = (self.pick(self.foreign.len()), self.time.now_ms());
        let line = {
            let mut stream = lock(&self.cloud.stream);
            self.foreign[at].produce(&mut stream, self.lanes, &mut self.random, &mut self.changes, now_ms)
        };
        self.note(line);
    }

    fn deliver(&mut self) {
        let at = self.pick(self.mappings.len());
        let records_max = 1 + self.pick(8);
        let budget = if self.random.once_in(6) { Duration::from_millis(5_400) } else { Duration::from_secs(60) };
        let line = {
            let stream = lock(&self.cloud.stream);
            let shards = self.mappings[at].deliverable(&stream);
            let Some(shard) = shards.get(self.random.below(shards.len().max(1) as u64) as usize) else { return };
            self.mappings[at].deliver(&stream, *shard, records_max, budget)
        };
        self.note(format!("deliver {line}"));
    }

    fn collect(&mut self, repeats: bool) -> Vec<(usize, usize, Ended)> {
        let mut all = Vec::new();
        for at in 0..self.mappings.len() {
            let random = &mut self.random;
            let ended = self.mappings[at].collect(|| repeats && random.once_in(15));
            let region = self.mappings[at].region.name;
            for (shard, ended) in ended {
                if let Ended::NeedsResync(lane, why) = &ended {
                    self.needs_resync.entry(region).or_default().insert(*lane, why.clone());
                }
                self.trace.push(format!("ended {region} g{} shard {shard}: {ended:?}", self.mappings[at].generation));
                all.push((at, shard, ended));
            }
        }
        self.mappings.retain(|mapping| mapping.enabled || !mapping.is_idle());
        if self.heartbeats.task.as_ref().is_some_and(JoinHandle::is_finished) {
            self.heartbeats.task = None;
            if std::mem::take(&mut *lock(&self.heartbeats.published)) {
                self.heartbeats.number += 1;
            }
        }
        all
    }
}

/// Starts a publisher; what it asks of the cloud meanwhile is answered.
async fn start(cloud: &Cloud, process: Process) -> anyhow::Result<Arc<Publisher>> {
    let whose = format!(" {:?}", process.owner);
    let starting = tokio::task::spawn_local(start_publisher(cloud.clone(), process));
    while !starting.is_finished() {
        cloud.calls.settle().await;
        for call in cloud.calls.waiting().iter().filter(|call| call.hop == Hop::Read && call.what.ends_with(&whose)) {
            cloud.calls.decide(call.id, Fate::Pass);
        }
    }
    Ok(Arc::new(starting.await??))
}
