//! Producers in other languages, which keep to the contract or send what it refuses, in every form of a record.

use super::changes::Changes;
use super::cloud::Objects;
use super::forms::{Form, base64, sha256};
use super::kinesis::{Owner, Stream};
use super::{REGIONS, Variant, bucket};
use crate::random::Random;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::PoisonError;
use tidemark_cache_sync::keys;
use tidemark_cache_sync::lane::{Lane, Lanes};

/// A record on its way.
#[derive(Clone, Debug)]
struct Attempt {
    lane: Lane,
    data: Vec<u8>,
    /// The changes in it, for the reference model.
    meaning: Vec<Value>,
}

/// A producer in another language: one record per lane in flight, retried until it is known to be stored.
pub(super) struct Foreign {
    id: Option<String>,
    skew_ms: i64,
    seqs: BTreeMap<Lane, u64>,
    in_flight: BTreeMap<Lane, Attempt>,
    /// Attempts that timed out and land later.
    late: Vec<Attempt>,
    variant: Variant,
    objects: Objects,
    /// Objects that are written behind their changes, which the contract forbids.
    unwritten: Vec<(String, Vec<u8>)>,
}

impl Foreign {
    pub(super) fn new(id: Option<String>, skew_ms: i64, variant: Variant, objects: &Objects) -> Self {
        Self {
            id,
            skew_ms,
            seqs: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            late: Vec::new(),
            variant,
            objects: Objects::clone(objects),
            unwritten: Vec::new(),
        }
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
            Some(first) if self.variant == Variant::RetryOvertakes && random.once_in(2) => {
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
        let shown = Value::from(attempt.meaning.as_slice()).to_string();
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

    /// An attempt that timed out lands, and so does every object that came too late.
    pub(super) fn land(&mut self, stream: &mut Stream, random: &mut Random, now_ms: i64) -> bool {
        self.write_objects(now_ms);
        if self.late.is_empty() {
            return false;
        }
        let at = usize::try_from(random.below(self.late.len() as u64)).unwrap_or(0);
        store(stream, &self.late.swap_remove(at), now_ms);
        true
    }

    /// The last retries: everything is stored.
    pub(super) fn finish(&mut self, stream: &mut Stream, now_ms: i64) {
        self.write_objects(now_ms);
        for (_, attempt) in std::mem::take(&mut self.in_flight) {
            store(stream, &attempt, now_ms);
        }
        for attempt in std::mem::take(&mut self.late) {
            store(stream, &attempt, now_ms);
        }
    }

    fn attempt(&mut self, lane: Lane, random: &mut Random, changes: &mut Changes, now_ms: i64) -> Option<Attempt> {
        if random.once_in(30) {
            return Some(Attempt { lane, data: undecodable(random).to_vec(), meaning: Vec::new() });
        }
        let many = random.once_in(3);
        let count = if many { random.below(4) } else { 1 };
        let mut meaning = Vec::new();
        for _ in 0..count {
            // Now and then a key of another lane, which must not be touched.
            let home = if random.once_in(25) { None } else { Some(lane) };
            let Some((_, key)) = changes.key(random, home) else { continue };
            meaning.push(self.change(lane, &key, random, changes, now_ms));
        }
        if !many && meaning.is_empty() {
            return None;
        }
        let mut sent = meaning.clone();
        for change in sent.iter_mut().filter_map(Value::as_object_mut) {
            change.remove("value");
            change.remove("late");
        }
        let form = if self.variant.reads_json() { Form::Json } else { Form::draw(random) };
        Some(Attempt { lane, data: form.encode(&lane.to_string(), &sent, many), meaning })
    }

    fn change(&mut self, lane: Lane, key: &str, random: &mut Random, changes: &mut Changes, now_ms: i64) -> Value {
        let at_ms = now_ms + self.skew_ms;
        let mut change = match random.below(24) {
            0 | 1 => json!({"v": 1, "cmds": Changes::refused(random, key)}),
            2 | 3 => self.by_reference(key, random, changes, now_ms),
            _ => json!({"v": 1, "cmds": changes.commands(random, key, at_ms)}),
        };
        if !random.once_in(4) {
            change["at_ms"] = json!(at_ms);
        }
        if let Some(id) = &self.id {
            let seq = self.seqs.entry(lane).or_default();
            *seq += 1;
            change["producer"] = json!(id);
            change["seq"] = json!(*seq);
        }
        change
    }

    /// A change whose value lies on S3, in any region's bucket; or that names one which cannot be had.
    fn by_reference(&mut self, key: &str, random: &mut Random, changes: &mut Changes, now_ms: i64) -> Value {
        let value = changes.value().into_bytes();
        let sha256 = sha256(&value);
        let object = keys::value(&sha256);
        let region = if random.once_in(2) { REGIONS[0] } else { REGIONS[1] };
        let (mut home, mut written) = (bucket(region), Some(value.clone()));
        let (mut good, mut late) = (true, self.variant == Variant::ChangeBeforeValue);
        let mut told = false;
        match random.below(12) {
            0 => (late, told) = (true, true),
            1 => (written, good) = (None, false),
            2 => (written, good) = (Some(b"something else".to_vec()), false),
            3 => (home, good) = ("elsewhere".to_owned(), false),
            _ => {}
        }
        if let Some(bytes) = written {
            self.unwritten.push((format!("/{home}/{object}"), bytes));
        }
        if !late {
            self.write_objects(now_ms);
        }
        let reference = json!({"bucket": home, "object": object, "sha256": sha256, "bytes": value.len()});
        let mut change = json!({"v": 1, "key": key, "ref": reference});
        if random.once_in(2) {
            change["expires_at_ms"] = json!(changes.expires_at(random, now_ms));
        }
        if good {
            change["value"] = base64(&value);
        }
        if told {
            change["late"] = json!(true);
        }
        change
    }

    fn write_objects(&mut self, now_ms: i64) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.extend(self.unwritten.drain(..).map(|(name, bytes)| (name, (bytes, now_ms))));
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
    stream.put(Owner::Foreign, &attempt.lane.to_string(), attempt.data.clone(), Some(attempt.meaning.clone()), now_ms);
}

/// Data that is no record of the contract.
fn undecodable(random: &mut Random) -> &'static [u8] {
    match random.below(4) {
        0 => b"not json",
        1 => b"{\"v\":1,\"cmd\":[\"SET\"",
        2 => b"\xf3\x89\x9a\xc2 and no digest that holds",
        _ => b"\x82\xa1v\x01",
    }
}
