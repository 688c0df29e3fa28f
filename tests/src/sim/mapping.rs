//! An event source mapping by the documented rules: one batch of a shard in flight, in order, parents before their
//! children, a batch that failed again and again; and the real forward behind it.

use super::calls::Calls;
use super::cloud::{Cloud, Tip};
use super::kinesis::{Owner, Record, Stream};
use super::region::SimRegion;
use super::time::WorldTime;
use super::{REGIONS, Variant, bucket};
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidemark_cache_sync::forward::{Deadline, Forward, ForwardError, ValueCopier};
use tidemark_cache_sync::invoke::RegionClient;
use tidemark_cache_sync::stream::Stream as StreamReader;
use tidemark_runtime::logs::full_message;
use tokio::task::JoinHandle;

/// Where a mapping begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// At the oldest record.
    TrimHorizon,
    /// Behind the newest.
    Latest,
}

/// How a delivery ended.
#[derive(Clone, Debug)]
pub(super) enum Ended {
    Passed,
    Failed(String),
    /// Forward says that this lane needs a resync.
    NeedsResync(u16, String),
}

/// One mapping.
pub(super) struct Mapping {
    pub(super) region: Arc<SimRegion>,
    pub(super) generation: u64,
    /// Whether it takes up new batches.
    pub(super) enabled: bool,
    cloud: Cloud,
    /// Per shard: the first record that is not acknowledged.
    next: BTreeMap<usize, usize>,
    in_flight: BTreeMap<usize, Delivery>,
    warm: Arc<Mutex<Vec<Instance>>>,
}

/// One instance of forward. The last record of the batch in hand is known-bad knowledge.
struct Instance {
    forward: Forward,
    in_hand: Tip,
}

struct Delivery {
    until: usize,
    task: JoinHandle<()>,
    ended: Arc<Mutex<Option<Ended>>>,
}

struct Until {
    time: WorldTime,
    until_ms: i64,
}

impl Deadline for Until {
    fn left(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.until_ms - self.time.now_ms()).unwrap_or(0))
    }
}

impl Mapping {
    pub(super) fn new(cloud: &Cloud, region: &Arc<SimRegion>, generation: u64, begin: Begin, stream: &Stream) -> Self {
        let next = match begin {
            Begin::TrimHorizon => BTreeMap::new(),
            Begin::Latest => stream.shards.iter().enumerate().map(|(at, shard)| (at, shard.records.len())).collect(),
        };
        Self {
            region: Arc::clone(region),
            generation,
            enabled: true,
            cloud: cloud.clone(),
            next,
            in_flight: BTreeMap::new(),
            warm: Arc::default(),
        }
    }

    /// A second mapping of the same generation that stands where this one does.
    pub(super) fn twin(&self) -> Self {
        Self {
            region: Arc::clone(&self.region),
            generation: self.generation,
            enabled: true,
            cloud: self.cloud.clone(),
            next: self.next.clone(),
            in_flight: BTreeMap::new(),
            warm: Arc::default(),
        }
    }

    fn next(&self, shard: usize) -> usize {
        self.next.get(&shard).copied().unwrap_or(0)
    }

    /// Shards of which a batch can be delivered now.
    pub(super) fn deliverable(&self, stream: &Stream) -> Vec<usize> {
        (0..stream.shards.len())
            .filter(|shard| self.enabled && !self.in_flight.contains_key(shard))
            .filter(|shard| self.next(*shard) < stream.shards[*shard].records.len())
            .filter(|shard| stream.shards[*shard].parents.iter().all(|parent| self.has_ended(stream, *parent)))
            .collect()
    }

    /// Whether a shard is closed and read to its end, and so are those that it came from.
    fn has_ended(&self, stream: &Stream, shard: usize) -> bool {
        let held = &stream.shards[shard];
        let read = self.next(shard) >= held.records.len() && !self.in_flight.contains_key(&shard);
        held.ends.is_some() && read && held.parents.iter().all(|parent| self.has_ended(stream, *parent))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Begins to deliver up to `records_max` records of a shard, within `budget`.
    pub(super) fn deliver(&mut self, stream: &Stream, shard: usize, records_max: usize, budget: Duration) -> String {
        let now_ms = self.cloud.time.now_ms();
        // What is older than the retention is not delivered any more.
        let from = self.next(shard).max(stream.horizon(shard, now_ms));
        self.next.insert(shard, from);
        let held = &stream.shards[shard];
        let until = (from + records_max).min(held.records.len());
        if from == until {
            return String::from("nothing");
        }
        let event = event(&held.id, &held.records[from..until]);
        let last = held.records[until - 1].number;
        let ended = Arc::new(Mutex::new(None));
        let until_ms = now_ms + i64::try_from(budget.as_millis()).unwrap_or(i64::MAX);
        let deadline = Until { time: self.cloud.time.clone(), until_ms };
        let task = tokio::task::spawn_local(forward(
            self.cloud.clone(),
            Arc::clone(&self.region),
            self.generation,
            Arc::clone(&self.warm),
            (event, last),
            deadline,
            Arc::clone(&ended),
        ));
        let what = format!("{} g{} {}[{from}..{until}]", self.region.name, self.generation, held.id);
        self.cloud.calls.add_invocation(format!("forward {what}"), task.abort_handle());
        self.in_flight.insert(shard, Delivery { until, task, ended });
        what
    }

    /// Takes note of deliveries that have ended; `repeat` says which of those that passed are delivered again.
    pub(super) fn collect(&mut self, mut repeat: impl FnMut() -> bool) -> Vec<(usize, Ended)> {
        let done: Vec<usize> = self
            .in_flight
            .iter()
            .filter(|(_, delivery)| delivery.task.is_finished())
            .map(|(shard, _)| *shard)
            .collect();
        let mut all = Vec::new();
        for shard in done {
            let Some(delivery) = self.in_flight.remove(&shard) else { continue };
            let ended = delivery.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
            let ended = ended.unwrap_or_else(|| Ended::Failed("killed".to_owned()));
            if matches!(ended, Ended::Passed) && !repeat() {
                self.next.insert(shard, delivery.until);
            }
            all.push((shard, ended));
        }
        all
    }

    /// Instances grow cold.
    pub(super) fn cool_down(&self) {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// One invocation of forward, on a warm instance where there is one.
async fn forward(
    cloud: Cloud,
    region: Arc<SimRegion>,
    generation: u64,
    warm: Arc<Mutex<Vec<Instance>>>,
    (event, last): (Box<RawValue>, u64),
    deadline: Until,
    ended: Arc<Mutex<Option<Ended>>>,
) {
    let instance = warm.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let outcome = match instance {
        Some(instance) => Ok(instance),
        None => new_forward(&cloud, &region, generation).await,
    };
    let outcome = match outcome {
        Ok(instance) => {
            instance.in_hand.store(last, Ordering::Relaxed);
            let passed = instance.forward.pass_on(event.as_ref().into(), &deadline).await;
            warm.lock().unwrap_or_else(PoisonError::into_inner).push(instance);
            match passed {
                Ok(_) => Ended::Passed,
                Err(ForwardError::NeedsResync { lane, why, .. }) => Ended::NeedsResync(lane.0, why.to_string()),
                Err(error) => Ended::Failed(full_message(&error)),
            }
        }
        Err(message) => Ended::Failed(message),
    };
    *ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    cloud.calls.progressed();
}

async fn new_forward(cloud: &Cloud, region: &Arc<SimRegion>, generation: u64) -> Result<Instance, String> {
    let clock = cloud.time.clock(0);
    let in_hand = Tip::default();
    let kinesis = match region.variant {
        Variant::FeedEndsAtBatch => cloud.kinesis_up_to(&in_hand),
        _ => cloud.kinesis(Owner::Foreign),
    };
    let stream = StreamReader::new(kinesis, "tidemark", clock.clone());
    let client = RegionClient::new(cloud.lambda(region), region.name, "tidemark-cache-replay");
    let forward = Forward::new(stream, generation, client, clock).await.map_err(|error| full_message(&error))?;
    let values = ValueCopier::new(cloud.storage(None), bucket(region.name), REGIONS.map(bucket));
    Ok(Instance { forward: forward.copying(values), in_hand })
}

/// The event of a batch.
fn event(shard: &str, records: &[Record]) -> Box<RawValue> {
    let one = |record: &Record| {
        json!({
            "eventSource": "aws:kinesis", "eventName": "aws:kinesis:record", "awsRegion": "us-east-1",
            "eventID": format!("{shard}:{}", record.sequence()),
            "kinesis": {
                "kinesisSchemaVersion": "1.0", "partitionKey": record.partition_key,
                "sequenceNumber": record.sequence(),
                "data": base64_simd::STANDARD.encode_to_string(&record.data),
                "approximateArrivalTimestamp": record.arrival_ms as f64 / 1_000.0,
            },
        })
    };
    let event = json!({"Records": records.iter().map(one).collect::<Vec<_>>()});
    RawValue::from_string(event.to_string()).unwrap_or_default()
}

/// What a mapping's invocations wait for.
pub(super) fn kill_one(calls: &Calls, choice: u64) -> Option<String> {
    let mut running = calls.invocations();
    if running.is_empty() {
        return None;
    }
    let (what, kill) = running.swap_remove(usize::try_from(choice).unwrap_or(0) % running.len());
    kill.abort();
    Some(what)
}
