//! The reference model: what a lane comes to, read from the contract and not from the code under test.
//!
//! A key's state is a set of possibilities, for two things are not the stream's to decide: when a region notices that
//! a key has expired (a late renewal may find it gone, which is a miss and safe), and what Redis evicted. Everything
//! else has one outcome: value, type and expiry.

use super::kinesis::{Owner, Record};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tidemark_cache_sync::lane::Lanes;

/// Where a change stands: its record's number, and its index there.
pub(super) type Place = (u64, u32);

/// A value, by type.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    String(Vec<u8>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    List(Vec<Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
    Sorted(BTreeMap<Vec<u8>, f64>),
}

/// A key that is there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Held {
    pub(super) kind: Kind,
    pub(super) expires_at_ms: Option<i64>,
}

/// What a key may be.
pub(super) type Possible = Vec<Option<Held>>;

/// What is known of the servers' time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// An expiry up to here has come whenever the change is applied.
    pub(super) gone_ms: i64,
    /// An expiry behind this has not come when the regions are compared.
    pub(super) alive_ms: i64,
}

/// A key that Redis evicted when its lane stood at a place.
#[derive(Clone, Debug)]
pub(super) struct Eviction {
    pub(super) lane: u16,
    pub(super) key: Vec<u8>,
    pub(super) at: Place,
}

/// A change that counts: no producer's repetition.
#[derive(Clone, Debug)]
pub(super) struct Effective {
    pub(super) owner: Owner,
    pub(super) seq: Option<u64>,
    pub(super) change: Value,
}

/// What the records of a lane come to.
#[derive(Debug, Default)]
pub(super) struct LaneState {
    pub(super) keys: BTreeMap<Vec<u8>, Possible>,
    pub(super) effective: Vec<Effective>,
}

/// Runs a lane's records up to and including `until`.
pub(super) fn run(
    lanes: Lanes,
    lane: u16,
    records: &[&Record],
    until: Place,
    evictions: &[Eviction],
    times: Times,
) -> LaneState {
    let mut state = LaneState::default();
    let mut last_seqs: BTreeMap<String, u64> = BTreeMap::new();
    let mut evictions: Vec<&Eviction> = evictions.iter().filter(|eviction| eviction.lane == lane).collect();
    for record in records {
        for (index, change) in changes(record).into_iter().enumerate() {
            let place = (record.number, u32::try_from(index).unwrap_or(u32::MAX));
            if place > until {
                break;
            }
            evictions.retain(|eviction| eviction.at >= place || !evict(&mut state.keys, &eviction.key));
            let seq = change["seq"].as_u64();
            if let (Some(producer), Some(seq)) = (change["producer"].as_str(), seq) {
                let last = last_seqs.entry(producer.to_owned()).or_default();
                if seq <= *last {
                    continue;
                }
                *last = seq;
            }
            apply_change(&mut state.keys, lanes, lane, &change, record.arrival_ms, times);
            state.effective.push(Effective { owner: record.owner, seq, change });
        }
    }
    for eviction in evictions {
        evict(&mut state.keys, &eviction.key);
    }
    state
}

/// The last place in a record; `None` where it holds an empty array, which has no place.
pub(super) fn last_place(record: &Record) -> Option<Place> {
    let changes = changes(record);
    let empty = changes.is_empty() && matches!(record.sent.first(), Some(b'[' | 0x90));
    let last = u32::try_from(changes.len().saturating_sub(1)).unwrap_or(u32::MAX);
    (!empty).then_some((record.number, last))
}

fn changes(record: &Record) -> Vec<Value> {
    if let Some(meaning) = &record.meaning {
        return meaning.clone();
    }
    match serde_json::from_slice(&record.sent) {
        Ok(Value::Array(changes)) => changes,
        Ok(change) if change.get("heartbeat").is_none() => vec![change],
        _ => Vec::new(),
    }
}

fn evict(keys: &mut BTreeMap<Vec<u8>, Possible>, key: &[u8]) -> bool {
    if let Some(possible) = keys.get_mut(key) {
        add(possible, None);
    }
    true
}

fn add(possible: &mut Possible, state: Option<Held>) {
    if !possible.contains(&state) {
        possible.push(state);
    }
}

fn apply_change(
    keys: &mut BTreeMap<Vec<u8>, Possible>,
    lanes: Lanes,
    lane: u16,
    change: &Value,
    arrival_ms: i64,
    times: Times,
) {
    if change.get("ref").is_some() {
        apply_reference(keys, lanes, lane, change, times);
        return;
    }
    let commands: Vec<Vec<Vec<u8>>> = match (change["cmd"].as_array(), change["cmds"].as_array()) {
        (Some(one), None) => vec![command(one)],
        (None, Some(many)) => many.iter().filter_map(Value::as_array).map(|one| command(one)).collect(),
        _ => return,
    };
    let Some(key) = commands.first().and_then(|command| command.get(1)).cloned() else { return };
    if lanes.of_key(&key).0 != lane || key.starts_with(b"tidemark:") {
        return;
    }
    let possible = keys.entry(key).or_insert_with(|| vec![None]);
    if is_refused(&commands) {
        *possible = vec![None];
        return;
    }
    let base_ms = change["at_ms"].as_i64().unwrap_or(arrival_ms);
    let mut created_here = false;
    for command in &commands {
        pass_time(possible, Some(arrival_ms), times);
        created_here |= matches!(command[0].as_slice(), b"DEL" | b"UNLINK");
        let mut next = Possible::new();
        for state in possible.drain(..) {
            add(&mut next, step(state, command, base_ms, created_here));
        }
        *possible = next;
    }
    pass_time(possible, Some(arrival_ms), times);
}

/// A value on S3: as it lies there; nothing where it cannot be had; either where it was written too late.
fn apply_reference(keys: &mut BTreeMap<Vec<u8>, Possible>, lanes: Lanes, lane: u16, change: &Value, times: Times) {
    let key = change["key"].as_str().unwrap_or_default().as_bytes().to_vec();
    if lanes.of_key(&key).0 != lane {
        return;
    }
    let possible = keys.entry(key).or_default();
    possible.clear();
    let value = change.get("value").map(argument);
    let late = value.is_some() && change["late"] == true;
    add(
        possible,
        value.map(|value| Held { kind: Kind::String(value), expires_at_ms: change["expires_at_ms"].as_i64() }),
    );
    if late {
        add(possible, None);
    }
    pass_time(possible, None, times);
}

/// Lets keys expire that have, for certain before a change arrives, and adds the possibility where that is not certain.
pub(super) fn pass_time(possible: &mut Possible, arrival_ms: Option<i64>, times: Times) {
    let mut next = Possible::new();
    for state in possible.drain(..) {
        let expires = state.as_ref().and_then(|held| held.expires_at_ms);
        let gone = expires.is_some_and(|at| at <= times.gone_ms || arrival_ms.is_some_and(|arrival| at < arrival));
        if gone || expires.is_some_and(|at| at <= times.alive_ms) {
            add(&mut next, None);
        }
        if !gone {
            add(&mut next, state);
        }
    }
    *possible = next;
}

/// A command's words, its name in upper case.
fn command(list: &[Value]) -> Vec<Vec<u8>> {
    let mut words: Vec<Vec<u8>> = list.iter().map(argument).collect();
    words.iter_mut().take(1).for_each(|name| name.make_ascii_uppercase());
    words
}

fn argument(argument: &Value) -> Vec<u8> {
    match argument["b64"].as_str() {
        Some(text) => base64_simd::STANDARD.decode_to_vec(text).unwrap_or_default(),
        None => argument.as_str().unwrap_or_default().as_bytes().to_vec(),
    }
}

/// The commands that the contract allows.
pub(super) const ALLOWED: [&str; 19] = [
    "SET",
    "SETEX",
    "PSETEX",
    "DEL",
    "UNLINK",
    "EXPIRE",
    "PEXPIRE",
    "EXPIREAT",
    "PEXPIREAT",
    "PERSIST",
    "HSET",
    "HMSET",
    "HDEL",
    "SADD",
    "SREM",
    "ZADD",
    "ZREM",
    "RPUSH",
    "LPUSH",
];

/// What the contract's table allows, as far as the producers here write it.
fn is_refused(commands: &[Vec<Vec<u8>>]) -> bool {
    let mut deleted = false;
    commands.iter().any(|command| {
        let name = command[0].as_slice();
        deleted |= matches!(name, b"DEL" | b"UNLINK");
        let push = matches!(name, b"RPUSH" | b"LPUSH");
        let unknown = !ALLOWED.iter().any(|allowed| allowed.as_bytes() == name);
        unknown || push && !deleted || has_flag(command) || command.get(1) != commands[0].get(1)
    })
}

/// Whether a command has an option that makes its result depend on what is there.
fn has_flag(command: &[Vec<u8>]) -> bool {
    let flags: [&[u8]; 6] = [b"NX", b"XX", b"GT", b"LT", b"KEEPTTL", b"GET"];
    let at = match command[0].as_slice() {
        b"SET" | b"EXPIRE" | b"PEXPIRE" | b"EXPIREAT" | b"PEXPIREAT" => 3,
        b"ZADD" => 2,
        _ => return false,
    };
    command.get(at).is_some_and(|word| flags.contains(&word.as_slice()))
}

fn number(bytes: &[u8]) -> i64 {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// One command on one state. `created_here`: a DEL stands before it in the change, so a collection may begin.
fn step(state: Option<Held>, command: &[Vec<u8>], base_ms: i64, created_here: bool) -> Option<Held> {
    let arguments = &command[2..];
    let string = |value: &Vec<u8>, expires_at_ms| Some(Held { kind: Kind::String(value.clone()), expires_at_ms });
    let renewed = |at_ms: i64| state.clone().map(|held| Held { expires_at_ms: Some(at_ms.max(1)), ..held });
    match command[0].as_slice() {
        b"SET" => {
            let expires = arguments.get(1).map(|unit| match unit.to_ascii_uppercase().as_slice() {
                b"EX" => base_ms + 1_000 * number(&arguments[2]),
                b"PX" => base_ms + number(&arguments[2]),
                b"EXAT" => 1_000 * number(&arguments[2]),
                _ => number(&arguments[2]),
            });
            string(&arguments[0], expires)
        }
        b"SETEX" => string(&arguments[1], Some(base_ms + 1_000 * number(&arguments[0]))),
        b"PSETEX" => string(&arguments[1], Some(base_ms + number(&arguments[0]))),
        b"DEL" | b"UNLINK" => None,
        b"EXPIRE" => renewed(base_ms + 1_000 * number(&arguments[0])),
        b"PEXPIRE" => renewed(base_ms + number(&arguments[0])),
        b"EXPIREAT" => renewed(1_000 * number(&arguments[0])),
        b"PEXPIREAT" => renewed(number(&arguments[0])),
        b"PERSIST" => state.map(|held| Held { expires_at_ms: None, ..held }),
        name => collection(state, name, arguments, created_here),
    }
}

fn collection(state: Option<Held>, name: &[u8], arguments: &[Vec<u8>], created_here: bool) -> Option<Held> {
    let mut held = match state {
        Some(held) => held,
        None if created_here => Held { kind: empty(name)?, expires_at_ms: None },
        None => return None,
    };
    let left = match (&mut held.kind, name) {
        (Kind::Hash(hash), b"HSET" | b"HMSET") => {
            hash.extend(arguments.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())));
            hash.len()
        }
        (Kind::Hash(hash), b"HDEL") => {
            hash.retain(|field, _| !arguments.contains(field));
            hash.len()
        }
        (Kind::Set(set), b"SADD") => {
            set.extend(arguments.iter().cloned());
            set.len()
        }
        (Kind::Set(set), b"SREM") => {
            set.retain(|member| !arguments.contains(member));
            set.len()
        }
        (Kind::Sorted(set), b"ZADD") => {
            let score = |text: &[u8]| std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
            set.extend(arguments.chunks(2).map(|pair| (pair[1].clone(), score(&pair[0]).unwrap_or(0.0))));
            set.len()
        }
        (Kind::Sorted(set), b"ZREM") => {
            set.retain(|member, _| !arguments.contains(member));
            set.len()
        }
        (Kind::List(list), b"RPUSH") => {
            list.extend(arguments.iter().cloned());
            list.len()
        }
        (Kind::List(list), b"LPUSH") => {
            arguments.iter().for_each(|item| list.insert(0, item.clone()));
            list.len()
        }
        // Another type: the key is deleted.
        _ => 0,
    };
    (left > 0).then_some(held)
}

/// What a command creates behind a DEL.
fn empty(name: &[u8]) -> Option<Kind> {
    Some(match name {
        b"HSET" | b"HMSET" => Kind::Hash(BTreeMap::new()),
        b"SADD" => Kind::Set(BTreeSet::new()),
        b"ZADD" => Kind::Sorted(BTreeMap::new()),
        b"RPUSH" | b"LPUSH" => Kind::List(Vec::new()),
        _ => return None,
    })
}
