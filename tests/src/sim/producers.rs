//! Producers: the real publisher in several services with clocks of their own, and producers in other languages that
//! keep to the contract, or send what it refuses.

use super::Variant;
use super::changes::Changes;
use super::cloud::Cloud;
use super::kinesis::{Owner, Stream};
use super::reference::Effective;
use crate::random::Random;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tidemark_cache_sync::lane::{Lane, Lanes};
use tidemark_cache_sync::publish::{CacheWrite, Publisher, PublisherSettings, RecordFormat};
use tokio::task::JoinHandle;

/// What a service asked its publisher to publish.
#[derive(Clone, Debug)]
struct Intent {
    key: String,
    commands: Vec<Vec<Value>>,
    confirmed: Arc<Mutex<Option<bool>>>,
}

/// A service with a publisher.
pub(super) struct Service {
    number: usize,
    publisher: Option<Arc<Publisher>>,
    /// Per lane, in the order of the calls: the n-th has seq n.
    intents: BTreeMap<Lane, Vec<Intent>>,
    tasks: Vec<JoinHandle<()>>,
    skew_ms: i64,
    pub(super) is_dead: bool,
}

impl Service {
    pub(super) fn new(number: usize, publisher: Arc<Publisher>, skew_ms: i64) -> Self {
        let publisher = Some(publisher);
        Self { number, publisher, intents: BTreeMap::new(), tasks: Vec::new(), skew_ms, is_dead: false }
    }

    /// Publishes one change; how it ends is looked at when all is over.
    pub(super) fn publish(&mut self, cloud: &Cloud, random: &mut Random, changes: &mut Changes) -> String {
        let Some((lane, key)) = changes.key(random, None) else { return String::new() };
        let commands = changes.commands(random, &key, cloud.time.now_ms() + self.skew_ms);
        let what = format!("service {} lane {lane} {}", self.number, Value::from(shown(&commands)));
        let write = CacheWrite::commands(commands.iter().map(|command| command.iter().map(bytes)));
        let (Some(publisher), Ok(write)) = (self.publisher.clone(), write) else { return String::new() };
        let confirmed = Arc::new(Mutex::new(None));
        self.intents.entry(lane).or_default().push(Intent {
            key: key.clone(),
            commands: commands.clone(),
            confirmed: Arc::clone(&confirmed),
        });
        let calls = cloud.calls.clone();
        self.tasks.retain(|task| !task.is_finished());
        self.tasks.push(tokio::task::spawn_local(async move {
            let published = match publisher.publish(write).await {
                Ok(pending) => pending.confirmed().await,
                Err(error) => Err(error),
            };
            *confirmed.lock().unwrap_or_else(PoisonError::into_inner) = Some(published.is_ok());
            calls.progressed();
        }));
        what
    }

    /// The process dies; what is on the way may still arrive.
    pub(super) fn kill(&mut self) {
        self.is_dead = true;
        self.publisher = None;
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.tasks.iter().all(JoinHandle::is_finished)
    }

    /// What is wrong with how the stream holds this service's changes: each once, in the order of the calls, and all
    /// that were confirmed.
    pub(super) fn faults(&self, lane: Lane, effective: &[Effective]) -> Vec<String> {
        let none = Vec::new();
        let intents = self.intents.get(&lane).unwrap_or(&none);
        let ours = effective.iter().filter(|one| one.owner == Owner::Publisher(self.number));
        let seqs: Vec<u64> = ours.clone().filter_map(|one| one.seq).collect();
        let mut faults = Vec::new();
        for (one, seq) in ours.zip(&seqs) {
            let intent = usize::try_from(*seq).ok().and_then(|seq| intents.get(seq.wrapping_sub(1)));
            if intent.is_none_or(|intent| !intent.is_in(&one.change)) {
                faults.push(format!("service {} lane {lane}: seq {seq} is not what was published", self.number));
            }
        }
        for (index, intent) in intents.iter().enumerate() {
            let confirmed = *intent.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
            if confirmed == Some(true) && !seqs.contains(&(index as u64 + 1)) {
                faults.push(format!("service {} lane {lane}: confirmed seq {} has no effect", self.number, index + 1));
            }
        }
        faults
    }
}

/// Starts a publisher that stores as `owner`, with JSON records, which the reference model reads.
pub(super) async fn start_publisher(
    cloud: Cloud,
    owner: Owner,
    lanes: Lanes,
    skew_ms: i64,
    seed: u64,
) -> anyhow::Result<Publisher> {
    let mut settings = PublisherSettings::new("tidemark", lanes);
    (settings.format, settings.seed) = (RecordFormat::Json, Some(seed));
    Ok(Publisher::start(&cloud.kinesis(owner), settings, cloud.time.clock(skew_ms)).await?)
}

/// An argument's bytes.
fn bytes(argument: &Value) -> Vec<u8> {
    match argument["b64"].as_str() {
        Some(text) => base64_simd::STANDARD.decode_to_vec(text).unwrap_or_default(),
        None => argument.as_str().unwrap_or_default().as_bytes().to_vec(),
    }
}

fn shown(commands: &[Vec<Value>]) -> String {
    let words =
        |command: &Vec<Value>| command.iter().map(|word| word.as_str().unwrap_or("…")).collect::<Vec<_>>().join(" ");
    commands.iter().map(words).collect::<Vec<_>>().join("; ")
}

impl Intent {
    /// Whether a stored change is this one: its key, and every value that is nobody else's.
    fn is_in(&self, change: &Value) -> bool {
        let stored = change.to_string();
        let values = self.commands.iter().flatten().filter_map(Value::as_str);
        stored.contains(&self.key)
            && values.filter(|value| value.starts_with("value-")).all(|value| stored.contains(&format!("\"{value}\"")))
    }
}

/// A record on its way.
#[derive(Clone, Debug)]
struct Attempt {
    lane: Lane,
    data: Vec<u8>,
}

/// A producer in another language: one record per lane in flight, retried until it is known to be stored.
pub(super) struct Foreign {
    id: Option<String>,
    skew_ms: i64,
    seqs: BTreeMap<Lane, u64>,
    in_flight: BTreeMap<Lane, Attempt>,
    /// Attempts that timed out and land later.
    late: Vec<Attempt>,
    overtakes: bool,
}

impl Foreign {
    pub(super) fn new(id: Option<String>, skew_ms: i64, variant: Variant) -> Self {
        let overtakes = variant == Variant::RetryOvertakes;
        Self { id, skew_ms, seqs: BTreeMap::new(), in_flight: BTreeMap::new(), late: Vec::new(), overtakes }
    }

    /// One attempt, of a retry where one is due, with any end.
    pub(super) fn produce(
        &mut self,
        stream: &mut Stream,
        lanes: Lanes,
        random: &mut Random,
        changes: &mut Changes,
        now_ms: i64,
    ) -> String {
        let lane = Lane(u16::try_from(random.below(u64::from(lanes.count()))).unwrap_or(0));
        let retried = self.in_flight.get(&lane).cloned();
        let attempt = match retried {
            // Known-bad: the next record goes before the one that is to be retried.
            Some(first) if self.overtakes && random.once_in(2) => {
                let Some(next) = self.attempt(lane, random, changes, now_ms) else { return String::new() };
                store(stream, &next, now_ms);
                first
            }
            Some(attempt) => attempt,
            None => match self.attempt(lane, random, changes, now_ms) {
                Some(attempt) => attempt,
                None => return String::new(),
            },
        };
        let shown = String::from_utf8_lossy(&attempt.data).into_owned();
        let end = match random.below(20) {
            0..=10 => {
                store(stream, &attempt, now_ms);
                self.in_flight.remove(&lane);
                "stored"
            }
            11..=13 => {
                store(stream, &attempt, now_ms);
                self.in_flight.insert(lane, attempt);
                "stored, not answered"
            }
            14 | 15 => {
                self.in_flight.insert(lane, attempt);
                "refused"
            }
            _ => {
                // Without producer and seq a late copy is a change of its own: stream order decides.
                self.late.push(attempt.clone());
                self.in_flight.insert(lane, attempt);
                "on the way"
            }
        };
        format!("foreign lane {lane} {end}: {shown}")
    }

    /// An attempt that timed out lands.
    pub(super) fn land(&mut self, stream: &mut Stream, random: &mut Random, now_ms: i64) -> bool {
        if self.late.is_empty() {
            return false;
        }
        let at = usize::try_from(random.below(self.late.len() as u64)).unwrap_or(0);
        store(stream, &self.late.swap_remove(at), now_ms);
        true
    }

    /// The last retries: everything is stored.
    pub(super) fn finish(&mut self, stream: &mut Stream, now_ms: i64) {
        for (_, attempt) in std::mem::take(&mut self.in_flight) {
            store(stream, &attempt, now_ms);
        }
        for attempt in std::mem::take(&mut self.late) {
            store(stream, &attempt, now_ms);
        }
    }

    fn attempt(&mut self, lane: Lane, random: &mut Random, changes: &mut Changes, now_ms: i64) -> Option<Attempt> {
        let at_ms = now_ms + self.skew_ms;
        if random.once_in(30) {
            let data: &[u8] = if random.once_in(2) { b"not json" } else { b"{\"v\":1,\"cmd\":[\"SET\"" };
            return Some(Attempt { lane, data: data.to_vec() });
        }
        let many = random.once_in(3);
        let count = if many { random.below(4) } else { 1 };
        let mut list = Vec::new();
        for _ in 0..count {
            // Now and then a key of another lane, which must not be touched.
            let home = if random.once_in(25) { None } else { Some(lane) };
            let Some((_, key)) = changes.key(random, home) else { continue };
            let commands = if random.once_in(12) {
                Changes::refused(random, &key)
            } else {
                json!(changes.commands(random, &key, at_ms))
            };
            let mut change = json!({"v": 1, "cmds": commands});
            if !random.once_in(4) {
                change["at_ms"] = json!(at_ms);
            }
            if let Some(id) = &self.id {
                let seq = self.seqs.entry(lane).or_default();
                *seq += 1;
                change["producer"] = json!(id);
                change["seq"] = json!(*seq);
            }
            list.push(change);
        }
        let data = if many { Value::from(list).to_string() } else { list.pop()?.to_string() };
        Some(Attempt { lane, data: data.into_bytes() })
    }

    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// What this producer sent of its own, whatever became of it: seqs 1 to this in a lane.
    pub(super) fn last_seq(&self, lane: Lane) -> u64 {
        self.seqs.get(&lane).copied().unwrap_or(0)
    }
}

fn store(stream: &mut Stream, attempt: &Attempt, now_ms: i64) {
    stream.put(Owner::Foreign, &attempt.lane.to_string(), attempt.data.clone(), None, now_ms);
}
