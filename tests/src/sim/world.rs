//! A world: the schedule of one seed from its first change to the comparison.

use super::calls::{Calls, Fate, Hop, Waiting};
use super::changes::Changes;
use super::cloud::Cloud;
use super::kinesis::{Owner, Stream};
use super::mapping::{Begin, Ended, Mapping, kill_one};
use super::producers::{Foreign, Service, start_publisher};
use super::reference::{self, Eviction, Held, Kind, LaneState, Place, Times};
use super::region::{Backup, SimRegion};
use super::time::WorldTime;
use super::{REGIONS, Summary, Variant};
use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidemark_cache_sync::lane::{Lane, Lanes};
use tidemark_cache_sync::publish::Publisher;
use tidemark_local::{Content, RedisServer};
use tidemark_runtime::clock::Clock;
use tokio::task::JoinHandle;

const LANES: u16 = 4;
const STEPS_MIN: u64 = 300;
const STEPS_MORE: u64 = 300;
/// Backups of a region that a failover may go back to.
const BACKUPS_MAX: usize = 4;
/// A shard that is thrown back so often, with no faults any more, does not get on.
const THROWN_BACK_MAX: u32 = 40;
/// Steps in which a world must come to rest.
const DRAIN_STEPS_MAX: u64 = 60_000;
const TRACE_LINES_MAX: usize = 2_000;
const HOUR_MS: i64 = 3_600_000;
/// After the last change every near expiry has come within this time.
const NEAR_IS_PAST: Duration = Duration::from_millis(150);

/// Which faults a world knows.
#[derive(Clone, Copy, Debug)]
struct Faults {
    failover: bool,
    flush: bool,
    kills: bool,
    late: bool,
    refusals: bool,
    reshard: bool,
    mappings: bool,
    evictions: bool,
    /// Keys that expire while the world runs; its time is then the machine's.
    near: bool,
    /// Hours pass at once, so that the retention does.
    retention: bool,
    /// The stream is made anew.
    anew: bool,
    /// Whether every lane is ready before the first fault.
    settled: bool,
    /// Producers' share of the steps, in percent; the rest lets regions follow.
    load: u64,
}

impl Faults {
    fn draw(random: &mut Random, variant: Variant) -> Self {
        let mut faults = Self {
            failover: !random.once_in(4),
            flush: random.once_in(5),
            kills: !random.once_in(4),
            late: !random.once_in(4),
            refusals: !random.once_in(3),
            reshard: random.once_in(2),
            mappings: random.once_in(3),
            evictions: random.once_in(4),
            near: random.once_in(4),
            retention: random.once_in(10),
            anew: random.once_in(12),
            settled: random.once_in(2),
            load: 3 + random.below(18),
        };
        if variant != Variant::Sound {
            (faults.failover, faults.kills, faults.late, faults.settled) = (true, true, true, true);
            faults.load = 3 + faults.load % 8;
            (faults.near, faults.retention, faults.anew, faults.evictions, faults.flush) =
                (false, false, false, false, false);
        }
        faults.retention &= !faults.near;
        faults
    }
}

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
    start_ms: i64,
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

/// Runs the world of `seed` on `servers`.
pub(super) async fn run(
    seed: u64,
    variant: Variant,
    servers: &[RedisServer],
    directory: &Path,
) -> Result<Summary, String> {
    let mut world = World::new(seed, variant, servers, directory).await.map_err(|error| format!("{error:#}"))?;
    match world.live().await {
        Ok(faults) if faults.is_empty() => {
            let records = lock(&world.cloud.stream).shards.iter().map(|shard| shard.records.len() as u64).sum();
            Ok(Summary { steps: world.steps, records })
        }
        Ok(faults) => Err(world.report(&faults)),
        Err(error) => Err(world.report(&[format!("{error:#}")])),
    }
}

impl World {
    async fn new(seed: u64, variant: Variant, servers: &[RedisServer], directory: &Path) -> anyhow::Result<Self> {
        let mut random = Random::new(seed);
        let faults = Faults::draw(&mut random, variant);
        let lanes = Lanes::new(LANES)?;
        let calls = Calls::default();
        let start_ms = Clock::system().now_ms();
        let time = WorldTime::new(&calls, (!faults.near).then_some(start_ms));
        let strips = variant == Variant::NoProducerSeq;
        let stream = Stream::new(random.bits(), start_ms, 1 + u128::from(random.below(2)), strips);
        let cloud = Cloud::new(&calls, &time, stream, format!("{variant:?}-{seed}-{start_ms}"));
        let mut regions = Vec::new();
        for (name, redis) in REGIONS.iter().zip(servers) {
            let region = SimRegion::start(name, &cloud, redis, directory, lanes, variant, random.bits()).await?;
            regions.push(Arc::new(region));
        }
        let publisher = start(&cloud, Owner::Heartbeats, lanes, 0, random.bits()).await?;
        let heartbeats = Heartbeats { publisher, number: 1, task: None, published: Arc::default() };
        let mut world = Self {
            seed,
            variant,
            lanes,
            faults,
            changes: Changes::new(lanes, start_ms, faults.near),
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
            start_ms,
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
            self.start_service().await?;
        }
        for number in 0..3 {
            let skew_ms = self.skew_ms();
            let id = (number > 0).then(|| format!("foreign-{number}"));
            self.foreign.push(Foreign::new(id, skew_ms, self.variant));
        }
        Ok(())
    }

    async fn start_service(&mut self) -> anyhow::Result<()> {
        let (number, skew_ms, seed) = (self.services.len(), self.skew_ms(), self.random.bits());
        let publisher = start(&self.cloud, Owner::Publisher(number), self.lanes, skew_ms, seed).await?;
        self.services.push(Service::new(number, publisher, skew_ms));
        Ok(())
    }

    /// How far a producer's clock is off.
    fn skew_ms(&mut self) -> i64 {
        let most = if self.faults.near { 20 } else { 600_000 };
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
        let at = self.pick(waiting.len());
        let call = &waiting[at];
        let fate = self.fate(call);
        self.note(format!(
            "{fate:?} {:?}{} #{} {}",
            call.hop,
            if call.late { " late" } else { "" },
            call.id,
            call.what
        ));
        self.calls.decide(call.id, fate);
    }

    fn fate(&mut self, call: &Waiting) -> Fate {
        let roll = self.random.below(100);
        let stored = self.random.bits();
        let partly = call.what.starts_with("PutRecords");
        if call.late {
            return if roll < 75 { Fate::Pass } else { Fate::Fail };
        }
        let fate = match (call.hop, roll) {
            (Hop::Put, 0..=11) if partly => Fate::Partly(stored),
            (Hop::Put, 0..=5) => Fate::Throttle,
            (Hop::Put, 12..=14) => Fate::Fail,
            (Hop::Put, 15..=22) => Fate::LoseAnswer,
            (Hop::Put, 23..=29) => Fate::Late,
            (Hop::Read, 0..=2) => Fate::Throttle,
            (Hop::Read, 3..=4) => Fate::Fail,
            (Hop::Invoke, 0..=2) => Fate::Throttle,
            (Hop::Invoke, 3..=4) => Fate::Fail,
            (Hop::Invoke, 5..=8) => Fate::LoseAnswer,
            (Hop::Invoke, 9..=11) => Fate::Late,
            (Hop::Object, 0..=4) => Fate::Fail,
            (Hop::Redis, 0..=1) => Fate::Fail,
            (Hop::Redis, 2..=3) => Fate::LoseAnswer,
            (Hop::Redis, 4..=7) => Fate::Late,
            (Hop::Redis, 8..=25) if self.variant == Variant::WatchPipelinedWithExec => Fate::Late,
            _ => Fate::Pass,
        };
        match fate {
            Fate::Late | Fate::LoseAnswer if !self.faults.late => Fate::Pass,
            Fate::Throttle | Fate::Fail | Fate::Partly(_) if !self.faults.refusals => Fate::Pass,
            fate => fate,
        }
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

    /// What happens seldom.
    async fn incident(&mut self) -> anyhow::Result<()> {
        let at = self.pick(self.regions.len());
        let choice = self.random.bits();
        let failovers =
            matches!(self.variant, Variant::ReplicationIdPerNode | Variant::FeedRereadsMark | Variant::FeedEndsAtBatch);
        let incident = match self.random.below(24) {
            // A variant that only a failover shows meets more of them.
            drawn if failovers && drawn % 2 == 0 => 9 + drawn / 2 % 2,
            drawn => drawn,
        };
        match incident {
            0..=3 => self.beat(),
            4..=6 => self.land_late(),
            7..=9 => self.back_up(at).await?,
            10 | 11 if self.faults.failover => self.fail_over(at).await?,
            12 | 13 if self.faults.kills => {
                if let Some(what) = kill_one(&self.calls, choice) {
                    self.note(format!("kill {what}"));
                }
            }
            14 if self.faults.kills => self.restart_service().await?,
            15 if self.faults.flush && self.random.once_in(2) => {
                self.regions[at].flush().await?;
                let name = self.regions[at].name;
                self.note(format!("{name}: flush"));
            }
            16 if self.faults.evictions && !self.faults.near => self.evict(at, choice).await?,
            17 if self.faults.reshard => {
                let line = lock(&self.cloud.stream).reshard(choice, self.time.now_ms());
                self.note(line);
            }
            18 if self.faults.mappings => self.map_again(at),
            19 if self.faults.mappings => self.stop_old_mapping(),
            20 => {
                self.regions[at].cool_down();
                self.mappings.iter().for_each(Mapping::cool_down);
                self.note(String::from("instances grow cold"));
            }
            21 if self.faults.retention => self.let_hours_pass(),
            22 if self.faults.anew && self.random.once_in(3) && self.old_streams.is_empty() => self.make_stream_anew(),
            _ => {}
        }
        Ok(())
    }

    fn beat(&mut self) {
        if self.variant == Variant::NoHeartbeats || self.heartbeats.task.is_some() {
            return;
        }
        let (publisher, number) = (Arc::clone(&self.heartbeats.publisher), self.heartbeats.number);
        let (published, calls) = (Arc::clone(&self.heartbeats.published), self.calls.clone());
        self.heartbeats.task = Some(tokio::task::spawn_local(async move {
            *lock(&published) = publisher.heartbeat(number).await.is_ok();
            calls.progressed();
        }));
        self.note(format!("heartbeat {number}"));
    }

    fn land_late(&mut self) {
        let (at, now_ms) = (self.pick(self.foreign.len()), self.time.now_ms());
        let landed = self.foreign[at].land(&mut lock(&self.cloud.stream), &mut self.random, now_ms);
        if landed {
            self.note(format!("foreign {at}: a late attempt lands"));
        }
    }

    async fn back_up(&mut self, at: usize) -> anyhow::Result<()> {
        let backup = self.regions[at].back_up().await?;
        let name = self.regions[at].name;
        self.note(format!("{name}: backup of {} keys", backup.len()));
        self.backups[at].push(backup);
        let surplus = self.backups[at].len().saturating_sub(BACKUPS_MAX);
        self.backups[at].drain(..surplus);
        Ok(())
    }

    async fn fail_over(&mut self, at: usize) -> anyhow::Result<()> {
        if self.backups[at].is_empty() {
            return Ok(());
        }
        let back = self.pick(self.backups[at].len());
        let backup = self.backups[at][back].clone();
        self.regions[at].fail_over(&backup).await?;
        self.backups[at].clear();
        // A warm instance meets its dead connections first; one that starts now does not.
        if self.variant != Variant::Sound || self.random.once_in(2) {
            self.regions[at].cool_down();
        }
        let name = self.regions[at].name;
        self.note(format!("{name}: failover to {} keys", backup.len()));
        Ok(())
    }

    fn living_service(&mut self) -> Option<usize> {
        let living: Vec<usize> = (0..self.services.len()).filter(|at| !self.services[*at].is_dead).collect();
        let at = self.pick(living.len());
        living.get(at).copied()
    }

    async fn restart_service(&mut self) -> anyhow::Result<()> {
        let Some(at) = self.living_service() else { return Ok(()) };
        self.services[at].kill();
        self.start_service().await?;
        self.note(format!("service {at} ends, another starts"));
        Ok(())
    }

    async fn evict(&mut self, at: usize, choice: u64) -> anyhow::Result<()> {
        let marks = self.regions[at].marks().await?;
        if let Some(key) = self.regions[at].evict(choice).await? {
            let lane = self.lanes.of_key(&key).0;
            let mark = marks.get(&lane).copied().flatten();
            let name = self.regions[at].name;
            self.note(format!("{name}: evicts {} at {mark:?}", String::from_utf8_lossy(&key)));
            self.evictions[at].extend(mark.map(|mark| Eviction { lane, key, at: mark }));
        }
        Ok(())
    }

    /// A second mapping to a region: a twin of one that is there, or one of the next generation.
    fn map_again(&mut self, at: usize) {
        let region = Arc::clone(&self.regions[at]);
        let ours: Vec<usize> = (0..self.mappings.len())
            .filter(|index| self.mappings[*index].region.name == region.name && self.mappings[*index].enabled)
            .collect();
        if ours.len() > 1 {
            return;
        }
        let newest = ours.iter().copied().max_by_key(|index| self.mappings[*index].generation);
        let mapping = match newest {
            Some(newest) if self.random.once_in(2) => self.mappings[newest].twin(),
            _ => {
                self.generation += 1;
                let begin = if self.random.once_in(2) { Begin::Latest } else { Begin::TrimHorizon };
                Mapping::new(&self.cloud, &region, self.generation, begin, &lock(&self.cloud.stream))
            }
        };
        self.note(format!("{}: another mapping, generation {}", region.name, mapping.generation));
        self.mappings.push(mapping);
    }

    /// Mappings of an older generation are removed, as the operator must.
    fn stop_old_mapping(&mut self) {
        for region in REGIONS {
            let newest = self.mappings.iter().filter(|m| m.region.name == region).map(|m| m.generation).max();
            for mapping in self.mappings.iter_mut().filter(|m| m.region.name == region) {
                mapping.enabled &= Some(mapping.generation) == newest;
            }
        }
        self.note(String::from("old mappings are removed"));
    }

    /// Hours pass, in which no invocation goes on: fifteen minutes are the most that one may last.
    fn let_hours_pass(&mut self) {
        for (_, kill) in self.calls.invocations() {
            kill.abort();
        }
        for call in self.calls.waiting().iter().filter(|call| matches!(call.hop, Hop::Invoke | Hop::Read)) {
            self.calls.decide(call.id, Fate::Fail);
        }
        self.time.advance(9 * HOUR_MS);
        self.note(String::from("nine hours pass"));
    }

    /// The stream is deleted and made again under its name, with new mappings.
    fn make_stream_anew(&mut self) {
        self.time.advance(60_000);
        let now_ms = self.time.now_ms();
        let fresh = Stream::new(self.random.bits(), now_ms, 2, self.variant == Variant::NoProducerSeq);
        let old = std::mem::replace(&mut *lock(&self.cloud.stream), fresh);
        self.old_streams.push(old);
        self.generation += 1;
        for (_, kill) in self.calls.invocations() {
            kill.abort();
        }
        self.mappings.iter_mut().for_each(|mapping| mapping.enabled = false);
        for region in self.regions.clone() {
            let stream = lock(&self.cloud.stream);
            self.mappings.push(Mapping::new(&self.cloud, &region, self.generation, Begin::TrimHorizon, &stream));
        }
        self.note(String::from("the stream is made anew"));
    }

    /// No more faults: everything is stored, delivered and applied, then a heartbeat goes through every lane.
    async fn come_to_rest(&mut self) -> anyhow::Result<Vec<String>> {
        self.note(String::from("no more faults"));
        self.stop_old_mapping();
        let now_ms = self.time.now_ms();
        for foreign in &mut self.foreign {
            foreign.finish(&mut lock(&self.cloud.stream), now_ms);
        }
        let mut faults = self.drain().await;
        self.beat();
        faults.extend(self.drain().await);
        if self.faults.near {
            tokio::time::sleep(NEAR_IS_PAST).await;
        }
        Ok(faults)
    }

    async fn drain(&mut self) -> Vec<String> {
        let mut thrown_back: BTreeMap<(usize, usize), u32> = BTreeMap::new();
        let mut blocked: BTreeSet<(usize, usize)> = BTreeSet::new();
        let mut faults = Vec::new();
        for _ in 0..DRAIN_STEPS_MAX {
            self.calls.settle().await;
            for (at, shard, ended) in self.collect(false) {
                let count = thrown_back.entry((at, shard)).or_default();
                match ended {
                    Ended::Passed => *count = 0,
                    Ended::NeedsResync(..) if *count > 2 => {
                        blocked.insert((at, shard));
                    }
                    Ended::Failed(why) if *count > THROWN_BACK_MAX => {
                        faults.push(format!("shard {shard} does not get on: {why}"));
                        blocked.insert((at, shard));
                    }
                    _ => *count += 1,
                }
            }
            self.steps += 1;
            let waiting = self.calls.waiting();
            if let Some(call) = waiting.first() {
                let lost = call.late && self.random.once_in(3);
                let fate = if lost { Fate::Fail } else { Fate::Pass };
                self.note(format!("{fate:?} {:?} #{} {}", call.hop, call.id, call.what));
                self.calls.decide(call.id, fate);
                continue;
            }
            if !self.deliver_all(&blocked) && self.is_idle() {
                return faults;
            }
        }
        faults.push(format!("not at rest after {DRAIN_STEPS_MAX} steps"));
        faults
    }

    fn is_idle(&self) -> bool {
        self.mappings.iter().all(Mapping::is_idle)
            && self.services.iter().all(Service::is_idle)
            && self.heartbeats.task.is_none()
    }

    /// Delivers what can be delivered; whether there was anything.
    fn deliver_all(&mut self, blocked: &BTreeSet<(usize, usize)>) -> bool {
        let mut lines = Vec::new();
        {
            let stream = lock(&self.cloud.stream);
            for (at, mapping) in self.mappings.iter_mut().enumerate() {
                for shard in mapping.deliverable(&stream) {
                    if !blocked.contains(&(at, shard)) {
                        lines.push(mapping.deliver(&stream, shard, 20, Duration::from_secs(900)));
                    }
                }
            }
        }
        let any = !lines.is_empty();
        lines.into_iter().for_each(|line| self.note(format!("deliver {line}")));
        any
    }

    async fn compare(&mut self) -> anyhow::Result<Vec<String>> {
        let mut faults = Vec::new();
        for at in 0..self.regions.len() {
            faults.extend(self.compare_region(at).await?);
        }
        if self.old_streams.is_empty() {
            faults.extend(self.compare_producers());
        }
        let excused = self.faults.retention || !self.old_streams.is_empty();
        if !excused {
            faults
                .extend(self.needs_resync.iter().map(|said| format!("a resync was asked for without need: {said:?}")));
        }
        Ok(faults)
    }

    fn times(&self) -> Times {
        let now_ms = Clock::system().now_ms();
        let gone_ms = self.start_ms - HOUR_MS / 2;
        Times { gone_ms, alive_ms: now_ms, arrivals_count: self.faults.near }
    }

    async fn compare_region(&self, at: usize) -> anyhow::Result<Vec<String>> {
        let region = &self.regions[at];
        let marks = region.marks().await?;
        let contents = region.contents().await?;
        let mut times = self.times();
        let mut expected = BTreeMap::new();
        let mut faults = Vec::new();
        let resynced = self.needs_resync.contains_key(region.name);
        for lane in self.lanes.all() {
            let mark = marks.get(&lane.0).copied().flatten();
            let (state, end) = self.lane_at(lane, mark, &self.evictions[at], times);
            expected.extend(state.keys);
            if mark < end && !resynced {
                faults.push(format!("{} lane {lane} stands at {mark:?} and should at {end:?}", region.name));
            }
        }
        times.gone_ms = times.alive_ms;
        for (key, possible) in &mut expected {
            reference::pass_time(possible, None, times);
            let found = contents.get(key);
            if !possible.iter().any(|held| same(held.as_ref(), found)) {
                let shown: Vec<String> = possible.iter().map(|held| show_held(held.as_ref())).collect();
                let (key, found) = (String::from_utf8_lossy(key), show_found(found));
                faults.push(format!("{} {key}: holds {found}, should {}", region.name, shown.join(" or ")));
                faults.extend(self.history(&key));
            }
        }
        let unknown = contents.keys().filter(|key| !expected.contains_key(*key));
        faults.extend(unknown.map(|key| format!("{} holds {:?}", region.name, String::from_utf8_lossy(key))));
        Ok(faults)
    }

    /// What a lane whose mark is `mark` comes to, and where it should stand.
    fn lane_at(
        &self,
        lane: Lane,
        mark: Option<Place>,
        evictions: &[Eviction],
        times: Times,
    ) -> (LaneState, Option<Place>) {
        let stream = lock(&self.cloud.stream);
        let end = stream.lane(lane.0).iter().rev().find_map(|record| reference::last_place(record));
        let Some(mark) = mark else { return (LaneState::default(), end) };
        let mut streams = self.old_streams.iter().chain([&*stream]);
        let holder = streams.rfind(|stream| stream.lane(lane.0).iter().any(|record| record.number == mark.0));
        let records = holder.map(|stream| stream.lane(lane.0)).unwrap_or_default();
        (reference::run(self.lanes, lane.0, &records, mark, evictions, times), end)
    }

    /// The records that speak of a key, in stream order.
    fn history(&self, key: &str) -> Vec<String> {
        let stream = lock(&self.cloud.stream);
        let lane = self.lanes.of_key(key.as_bytes()).0;
        let text = |record: &super::kinesis::Record| String::from_utf8_lossy(&record.sent).into_owned();
        let records = self.old_streams.iter().flat_map(|old| old.lane(lane)).chain(stream.lane(lane));
        let ours = records.map(|record| (record.number, record.arrival_ms, text(record)));
        let ours = ours.filter(|(_, _, text)| text.contains(key));
        ours.map(|(number, arrival, text)| format!("    {number} at {arrival} {text}")).collect()
    }

    fn compare_producers(&self) -> Vec<String> {
        let stream = lock(&self.cloud.stream);
        let mut faults = Vec::new();
        for lane in self.lanes.all() {
            let records = stream.lane(lane.0);
            let all = (u64::MAX, u32::MAX);
            let effective = reference::run(self.lanes, lane.0, &records, all, &[], self.times()).effective;
            for service in &self.services {
                faults.extend(service.faults(lane, &effective));
            }
            for foreign in &self.foreign {
                let ours = effective.iter().filter(|one| one.change["producer"].as_str() == foreign.id());
                let seqs: BTreeSet<u64> = ours.filter_map(|one| one.seq).collect();
                let lost = (1..=foreign.last_seq(lane)).filter(|seq| !seqs.contains(seq));
                faults.extend(lost.map(|seq| format!("{:?} lane {lane}: seq {seq} has no effect", foreign.id())));
            }
        }
        faults
    }
}

/// Starts a publisher; what it asks of the cloud meanwhile is answered.
async fn start(cloud: &Cloud, owner: Owner, lanes: Lanes, skew_ms: i64, seed: u64) -> anyhow::Result<Arc<Publisher>> {
    let starting = tokio::task::spawn_local(start_publisher(cloud.clone(), owner, lanes, skew_ms, seed));
    let whose = format!(" {owner:?}");
    while !starting.is_finished() {
        cloud.calls.settle().await;
        for call in cloud.calls.waiting().iter().filter(|call| call.hop == Hop::Read && call.what.ends_with(&whose)) {
            cloud.calls.decide(call.id, Fate::Pass);
        }
    }
    Ok(Arc::new(starting.await??))
}

fn show_held(held: Option<&Held>) -> String {
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let Some(held) = held else { return String::from("nothing") };
    let value = match &held.kind {
        Kind::String(value) => format!("string {:?}", text(value)),
        Kind::List(items) => format!("list {:?}", items.iter().map(text).collect::<Vec<_>>()),
        Kind::Set(members) => format!("set {:?}", members.iter().map(text).collect::<Vec<_>>()),
        Kind::Hash(fields) => format!("hash {:?}", fields.iter().map(|(f, v)| (text(f), text(v))).collect::<Vec<_>>()),
        Kind::Sorted(members) => format!("zset {:?}", members.iter().map(|(m, s)| (text(m), s)).collect::<Vec<_>>()),
    };
    format!("{value} until {:?}", held.expires_at_ms)
}

fn show_found(found: Option<&Content>) -> String {
    let Some(found) = found else { return String::from("nothing") };
    let parts: Vec<_> = found.value.iter().map(|part| String::from_utf8_lossy(part)).collect();
    format!("{} {parts:?} until {}", found.kind, found.expires_at_ms)
}

/// Whether a region holds what it should.
fn same(held: Option<&Held>, found: Option<&Content>) -> bool {
    let (Some(held), Some(found)) = (held, found) else { return held.is_none() && found.is_none() };
    let expires = held.expires_at_ms.unwrap_or(-1) == found.expires_at_ms;
    let pairs = || found.value.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone()));
    let value = match (&held.kind, found.kind.as_str()) {
        (Kind::String(value), "string") => found.value == [value.clone()],
        (Kind::List(items), "list") => found.value == *items,
        (Kind::Set(members), "set") => found.value.iter().eq(members),
        (Kind::Hash(fields), "hash") => pairs().collect::<BTreeMap<_, _>>() == *fields,
        (Kind::Sorted(members), "zset") => {
            let score = |text: Vec<u8>| String::from_utf8_lossy(&text).parse::<f64>().ok();
            let found: Option<BTreeMap<Vec<u8>, f64>> =
                pairs().map(|(member, text)| Some((member, score(text)?))).collect();
            found.as_ref() == Some(members)
        }
        _ => false,
    };
    expires && value
}
