//! Services: processes with the real publisher in them, each with a clock of its own.

use super::Variant;
use super::calls::Waiting;
use super::changes::Changes;
use super::cloud::Cloud;
use super::kinesis::Owner;
use super::reference::Effective;
use super::{REGIONS, bucket};
use crate::random::Random;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidemark_cache_sync::lane::{Lane, Lanes};
use tidemark_cache_sync::publish::{CacheWrite, Publisher, PublisherSettings, RECORD_BYTES_MAX, RecordFormat};
use tokio::task::JoinHandle;

/// So many changes have one that does not fit a record.
const LARGE_ONCE_IN: u64 = 100;
/// Letters of a word in the trace.
const SHOWN_MAX: usize = 40;

/// A process with a publisher, as it starts.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) owner: Owner,
    pub(super) seed: u64,
    lanes: Lanes,
    skew_ms: i64,
    format: RecordFormat,
    /// Whether it publishes values that travel by S3.
    large: bool,
}

impl Process {
    /// The job that publishes heartbeats.
    pub(super) fn heartbeats(lanes: Lanes, seed: u64) -> Self {
        Self { owner: Owner::Heartbeats, seed, lanes, skew_ms: 0, format: RecordFormat::Json, large: false }
    }

    /// A service's process.
    pub(super) fn service(number: usize, lanes: Lanes, skew_ms: i64, variant: Variant, random: &mut Random) -> Self {
        let frames = random.once_in(2) && !variant.reads_json();
        let format = if frames { RecordFormat::Frame } else { RecordFormat::Json };
        let large = variant == Variant::Sound;
        Self { owner: Owner::Publisher(number), seed: random.bits(), lanes, skew_ms, format, large }
    }
}

/// Starts the publisher of a process.
pub(super) async fn start_publisher(cloud: Cloud, process: Process) -> anyhow::Result<Publisher> {
    let settings = PublisherSettings {
        format: process.format,
        seed: Some(process.seed),
        values: Some((cloud.storage(Some(process.owner)), bucket(REGIONS[0]))),
        ..PublisherSettings::new("tidemark", process.lanes)
    };
    Ok(Publisher::start(&cloud.kinesis(process.owner), settings, cloud.time.clock(process.skew_ms)).await?)
}

/// What a service's publisher took, and whether it was confirmed.
#[derive(Clone, Debug)]
struct Intent {
    key: String,
    commands: Vec<Vec<Value>>,
    confirmed: bool,
}

/// Per lane, in the order of the queue: the n-th has seq n.
type Intents = Arc<Mutex<BTreeMap<Lane, Vec<Intent>>>>;

/// A service with a publisher.
pub(super) struct Service {
    process: Process,
    publisher: Option<Arc<Publisher>>,
    intents: Intents,
    tasks: Vec<JoinHandle<()>>,
    pub(super) is_dead: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Service {
    pub(super) fn new(process: Process, publisher: Arc<Publisher>) -> Self {
        let publisher = Some(publisher);
        Self { process, publisher, intents: Intents::default(), tasks: Vec::new(), is_dead: false }
    }

    pub(super) fn owner(&self) -> Owner {
        self.process.owner
    }

    pub(super) fn seed(&self) -> u64 {
        self.process.seed
    }

    /// Whether a call to Kinesis is this service's.
    pub(super) fn has_made(&self, call: &Waiting) -> bool {
        call.what.ends_with(&format!(" {:?}", self.process.owner))
    }

    /// Publishes one change; how it ends is looked at when all is over.
    pub(super) fn publish(&mut self, cloud: &Cloud, random: &mut Random, changes: &mut Changes) -> String {
        let Some((lane, key)) = changes.key(random, None) else { return String::new() };
        let now_ms = cloud.time.now_ms() + self.process.skew_ms;
        let commands = if self.process.large && random.once_in(LARGE_ONCE_IN) {
            cloud.calls.block();
            vec![vec![json!("SET"), json!(key), json!(changes.value() + &"x".repeat(RECORD_BYTES_MAX))]]
        } else {
            changes.commands(random, &key, now_ms)
        };
        let what = format!("{:?} lane {lane} {}", self.process.owner, shown(&commands));
        let write = CacheWrite::commands(commands.iter().map(|command| command.iter().map(bytes)));
        let (Some(publisher), Ok(write)) = (self.publisher.clone(), write) else { return String::new() };
        let (intents, calls) = (Arc::clone(&self.intents), cloud.calls.clone());
        self.tasks.retain(|task| !task.is_finished());
        self.tasks.push(tokio::task::spawn_local(async move {
            if let Ok(pending) = publisher.publish(write).await {
                let seq = {
                    let mut intents = lock(&intents);
                    let lane = intents.entry(lane).or_default();
                    lane.push(Intent { key, commands, confirmed: false });
                    lane.len()
                };
                let confirmed = pending.confirmed().await.is_ok();
                if let Some(intent) = lock(&intents).get_mut(&lane).and_then(|lane| lane.get_mut(seq - 1)) {
                    intent.confirmed = confirmed;
                }
            }
            calls.progressed();
        }));
        what
    }

    /// The process ends. Its publisher goes on with what it has, unless the cloud knows that it was killed.
    pub(super) fn end(&mut self) {
        self.is_dead = true;
        self.publisher = None;
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.tasks.iter().all(JoinHandle::is_finished)
    }

    /// What is wrong with how the stream holds this service's changes: each once, in the order of the queue, and all
    /// that were confirmed.
    pub(super) fn faults(&self, lane: Lane, effective: &[Effective]) -> Vec<String> {
        let intents = lock(&self.intents).get(&lane).cloned().unwrap_or_default();
        let owner = self.process.owner;
        let ours = effective.iter().filter(|one| one.owner == owner);
        let seqs: Vec<u64> = ours.clone().filter_map(|one| one.seq).collect();
        let mut faults = Vec::new();
        for (one, seq) in ours.zip(&seqs) {
            let intent = usize::try_from(*seq).ok().and_then(|seq| intents.get(seq.wrapping_sub(1)));
            if intent.is_none_or(|intent| !intent.is_in(&one.change)) {
                faults.push(format!("{owner:?} lane {lane}: seq {seq} is not what was published"));
            }
        }
        let lost = |(index, intent): &(usize, &Intent)| intent.confirmed && !seqs.contains(&(*index as u64 + 1));
        for (index, _) in intents.iter().enumerate().filter(lost) {
            faults.push(format!("{owner:?} lane {lane}: confirmed seq {} has no effect", index + 1));
        }
        faults
    }
}

impl Intent {
    /// Whether a stored change is this one: its key, and every value that is nobody else's.
    fn is_in(&self, change: &Value) -> bool {
        let mut values =
            self.commands.iter().flatten().filter_map(Value::as_str).filter(|word| word.starts_with("value-"));
        if change.get("ref").is_some() {
            let value = bytes(&change["value"]);
            return change["key"] == self.key.as_str()
                && values.next_back().is_some_and(|word| word.as_bytes() == value);
        }
        let stored = change.to_string();
        stored.contains(&self.key) && values.all(|value| stored.contains(&format!("\"{value}\"")))
    }
}

/// An argument's bytes.
fn bytes(argument: &Value) -> Vec<u8> {
    match argument["b64"].as_str() {
        Some(text) => base64_simd::STANDARD.decode_to_vec(text).unwrap_or_default(),
        None => argument.as_str().unwrap_or_default().as_bytes().to_vec(),
    }
}

fn shown(commands: &[Vec<Value>]) -> String {
    let word =
        |word: &Value| word.as_str().map_or_else(|| String::from("…"), |word| word.chars().take(SHOWN_MAX).collect());
    let words = |command: &Vec<Value>| command.iter().map(word).collect::<Vec<String>>().join(" ");
    commands.iter().map(words).collect::<Vec<_>>().join("; ")
}
