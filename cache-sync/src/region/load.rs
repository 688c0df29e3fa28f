//! Hold and load: a resync rewrites a lane while its replay is paused.
//!
//! Folding comes first: snapshot values plus the stream's changes give one final state per key, and each key is then
//! written once, in one step. Keys that should not be there are deleted: absence is a miss and safe. Reads are served
//! all the while, and no key is absent that should be there.

use super::chunk::write_record;
use super::commands;
use super::fence::{Transaction, Unit, Watch};
use super::replay::hex;
use super::{Region, RegionError};
use crate::change::{Body, Change, Producer};
use crate::event::EventRecord;
use crate::fold::{self, FoldError, State as KeyState};
use crate::keys;
use crate::lane::Lane;
use crate::lane_record::{LaneRecord, LastSeq, Producers, State};
use crate::position::Position;
use crate::protocol::{HeldLane, Load, Loaded};
use crate::record::{Content, Data};
use crate::snapshot::{Kind, Stored, to_items};
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Most keys written in one fenced transaction of a load.
const LOAD_KEYS_MAX: usize = 500;
/// A transaction of a load is cut when its values have this many bytes.
const LOAD_BYTES_MAX: usize = 4 << 20;
/// Most items in one command that builds a collection; even, so that pairs stay together.
const LOAD_ITEMS_MAX: usize = 2_000;

/// The states that a lane's keys should have: `None` where the key should be absent.
type Wanted = BTreeMap<Vec<u8>, Option<KeyState>>;

/// A lane folded: the wanted states, each producer's last seq, the last heartbeat, and how many changes were folded.
#[derive(Default)]
struct Folded {
    wanted: Wanted,
    producers: Producers,
    heartbeat: Option<u64>,
    arrival_ms: Option<i64>,
    shard: Option<String>,
    changes: u64,
}

impl Region {
    /// Pauses a lane for `holder`. A hold of another run is taken over: its late writes then find another holder.
    pub(super) async fn hold(&self, lane: Lane, holder: &str) -> Result<HeldLane, RegionError> {
        let mut connection = self.connections.take().await?;
        let view = Watch { unit: Unit::lane(lane), producers: Vec::new() }.open(&mut connection).await?;
        let on_this_server = |record: &LaneRecord| record.replication_id.as_ref() == Some(&view.replication_id);
        // A lane that was held already may be half rewritten by a run that died; its mark is where it was.
        let trusted = view.record.as_ref().is_some_and(|record| record.state == State::Ready && on_this_server(record));
        let mut record = view.record.unwrap_or_else(LaneRecord::unmarked);
        record.state = State::Held(holder.to_owned());
        let mut transaction = Transaction::new(Unit::lane(lane));
        write_record(&mut transaction, &record, None, &Producers::new());
        transaction.execute(&mut connection, None).await?;
        self.connections.give_back(connection);
        Ok(HeldLane { mark: record.mark, trusted })
    }

    /// Rewrites a held lane and lets it go.
    pub(super) async fn load(&self, load: &Load) -> Result<Loaded, RegionError> {
        if load.scope != self.settings.scope.as_str() {
            return Err(RegionError::Misconfigured(format!(
                "the snapshot's scope is {}, this region's is {}: take a snapshot with this region's scope",
                load.scope,
                self.settings.scope.as_str()
            )));
        }
        let mut folded = self.fold_lane(load).await?;
        for part in &load.listing {
            for key in self.read_part::<ByteBuf>(part).await? {
                folded.wanted.entry(key.into_vec()).or_insert(None);
            }
        }
        let mut loaded = Loaded { folded: folded.changes, ..Loaded::default() };
        let wanted = std::mem::take(&mut folded.wanted);
        self.write_wanted(load, wanted, &mut loaded).await?;
        self.release(load, folded).await?;
        Ok(loaded)
    }

    async fn fold_lane(&self, load: &Load) -> Result<Folded, RegionError> {
        let mut folded = Folded::default();
        if let Some(start) = &load.start {
            folded.producers = start.producers.clone();
            folded.heartbeat = start.record.heartbeat;
            folded.arrival_ms = start.record.arrival_ms;
            folded.shard.clone_from(&start.record.shard);
        }
        for part in &load.values {
            for stored in self.read_part::<Stored>(part).await? {
                let (key, state) = stored.into_state().ok_or_else(|| RegionError::Corrupt {
                    object: part.object.clone(),
                    reason: "a value does not fit its type".into(),
                })?;
                folded.wanted.insert(key, Some(state));
            }
        }
        let Some(tail) = &load.tail else { return Ok(folded) };
        let bytes = self.fetch(tail).await?;
        let start = load.start.as_ref().and_then(|start| start.record.mark.as_ref());
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let record: EventRecord<'_> = serde_json::from_slice(line).map_err(|error| RegionError::Corrupt {
                object: tail.clone(),
                reason: format!("a line is no record: {error}"),
            })?;
            self.fold_record(load, &record, start, &mut folded).await?;
        }
        Ok(folded)
    }

    async fn fold_record(
        &self,
        load: &Load,
        record: &EventRecord<'_>,
        start: Option<&Position>,
        folded: &mut Folded,
    ) -> Result<(), RegionError> {
        let sequence: crate::position::Sequence =
            record.kinesis.sequence_number.parse().map_err(|_| RegionError::Corrupt {
                object: record.event_id.clone().into_owned(),
                reason: "its sequence number is none".into(),
            })?;
        let last = Position { sequence: sequence.clone(), index: u32::MAX };
        let before = |position: &Position| Some(position) <= start || Some(position) > load.until.as_ref();
        if Some(&last) > start {
            folded.arrival_ms = Some(record.arrival_ms());
            folded.shard = Some(record.shard().to_owned());
        }
        let Ok(data) = Data::from_base64(&record.kinesis.data) else { return Ok(()) };
        let changes = match data.decode(&record.kinesis.partition_key) {
            Ok(Content::Changes(changes)) => changes,
            Ok(Content::Heartbeat(heartbeat)) => {
                folded.heartbeat = folded.heartbeat.max(Some(heartbeat.heartbeat));
                return Ok(());
            }
            // Quarantined when it was replayed; it changed nothing.
            Err(_) => return Ok(()),
        };
        for (index, change) in changes.into_iter().enumerate() {
            let position = Position { sequence: sequence.clone(), index: u32::try_from(index).unwrap_or(u32::MAX) };
            if before(&position) {
                continue;
            }
            match change {
                Ok(change) => self.fold_change(load.lane, &change, record.arrival_ms(), folded).await?,
                Err(refused) => {
                    if is_repeated(refused.producer.as_ref(), record.arrival_ms(), folded) {
                        continue;
                    }
                    for key in refused.keys.into_iter().filter(|key| self.is_ours(load.lane, key)) {
                        folded.wanted.insert(key, None);
                    }
                }
            }
        }
        Ok(())
    }

    async fn fold_change(
        &self,
        lane: Lane,
        change: &Change<'_>,
        arrival_ms: i64,
        folded: &mut Folded,
    ) -> Result<(), RegionError> {
        if is_repeated(change.producer.as_ref(), arrival_ms, folded) {
            return Ok(());
        }
        if !self.is_ours(lane, &change.key) {
            return Ok(());
        }
        folded.changes += 1;
        let state = folded.wanted.entry(change.key.to_vec()).or_insert(None);
        if let Err(FoldError::Referenced(reference)) = fold::fold(state, change, arrival_ms) {
            let value = self.fetch(&reference.object).await?;
            let intact = hex(&Sha256::digest(&value)) == reference.sha256;
            if intact && matches!(change.body, Body::Reference(_)) {
                fold::put(state, value, reference.expires_at_ms);
            } else {
                *state = None;
            }
        }
        Ok(())
    }

    fn is_ours(&self, lane: Lane, key: &[u8]) -> bool {
        self.settings.lanes.of_key(key) == lane && self.settings.scope.contains(key)
    }

    /// Writes the wanted states, some keys at a time, each time only while the lane is still held by this run.
    async fn write_wanted(&self, load: &Load, wanted: Wanted, loaded: &mut Loaded) -> Result<(), RegionError> {
        let mut connection = self.connections.take().await?;
        let mut wanted = wanted.into_iter().peekable();
        while wanted.peek().is_some() {
            self.watch_held(&mut connection, load).await?;
            let mut transaction = Transaction::new(Unit::lane(load.lane));
            let (mut keys, mut bytes) = (0, 0);
            let now_ms = self.clock.now_ms();
            while keys < LOAD_KEYS_MAX && bytes < LOAD_BYTES_MAX {
                let Some((key, mut state)) = wanted.next() else { break };
                fold::expire(&mut state, now_ms);
                transaction.add(commands::delete(&key));
                match state {
                    Some(state) => {
                        bytes += add_state(&mut transaction, &key, state);
                        loaded.written += 1;
                    }
                    None => loaded.removed += 1,
                }
                keys += 1;
            }
            let (answers, _) = transaction.execute(&mut connection, None).await?;
            if let Some(error) = answers.iter().find_map(server_error) {
                return Err(RegionError::Transaction { lane: load.lane, message: error });
            }
        }
        self.connections.give_back(connection);
        Ok(())
    }

    /// Replaces the lane record by that of the loaded state.
    async fn release(&self, load: &Load, folded: Folded) -> Result<(), RegionError> {
        let mut connection = self.connections.take().await?;
        let (old, replication_id) = self.watch_held(&mut connection, load).await?;
        let record = LaneRecord {
            mark: load.until.clone(),
            shard: folded.shard.or(old.shard),
            arrival_ms: folded.arrival_ms.or(old.arrival_ms),
            stream: Some(load.stream.clone()),
            generation: old.generation,
            replication_id: load.trusted.then_some(replication_id),
            state: if load.trusted { State::Ready } else { State::Feeding },
            heartbeat: folded.heartbeat.max(old.heartbeat),
            // It is what its source is now, whatever was doubtful of it before.
            verify: None,
        };
        let key = keys::lane_record(load.lane);
        let mut transaction = Transaction::new(Unit::lane(load.lane));
        transaction.add(commands::delete(key.as_bytes()));
        write_record(&mut transaction, &record, None, &folded.producers);
        transaction.execute(&mut connection, None).await?;
        self.connections.give_back(connection);
        Ok(())
    }

    async fn watch_held(
        &self,
        connection: &mut super::connection::Connection,
        load: &Load,
    ) -> Result<(LaneRecord, String), RegionError> {
        let view = Watch { unit: Unit::lane(load.lane), producers: Vec::new() }.open(connection).await?;
        match view.record {
            Some(record) if record.state == State::Held(load.holder.clone()) && record.mark == load.held_mark => {
                Ok((record, view.replication_id))
            }
            _ => Err(RegionError::NotHeld { lane: load.lane, holder: load.holder.clone() }),
        }
    }
}

/// Adds the commands that make `key` be `state`, and returns how many bytes they carry.
fn add_state(transaction: &mut Transaction, key: &[u8], state: KeyState) -> usize {
    let (kind, items) = to_items(state.value);
    let bytes = items.iter().map(Vec::len).sum();
    if kind == Kind::String {
        let value = items.first().map_or(&[][..], Vec::as_slice);
        transaction.add(commands::set(key, value, state.expires_at_ms));
        return bytes;
    }
    let name = match kind {
        Kind::Hash => "HSET",
        Kind::List => "RPUSH",
        Kind::Set => "SADD",
        Kind::Zset => "ZADD",
        Kind::String => "SET",
    };
    for some in items.chunks(LOAD_ITEMS_MAX) {
        let mut write = redis::cmd(name);
        write.arg(key);
        for item in some {
            write.arg(item);
        }
        transaction.add(write);
    }
    if let Some(at) = state.expires_at_ms {
        let mut expire = redis::cmd("PEXPIREAT");
        expire.arg(key).arg(at);
        transaction.add(expire);
    }
    bytes
}

fn server_error(answer: &redis::Value) -> Option<String> {
    match answer {
        redis::Value::ServerError(error) => Some(error.to_string()),
        _ => None,
    }
}
/// Whether the producer's number says that the change was folded before; remembers it where not.
fn is_repeated(producer: Option<&Producer<'_>>, arrival_ms: i64, folded: &mut Folded) -> bool {
    let Some(producer) = producer else { return false };
    if folded.producers.get(producer.id.as_ref()).is_some_and(|known| producer.seq <= known.seq) {
        return true;
    }
    folded.producers.insert(producer.id.clone().into_owned(), LastSeq { seq: producer.seq, arrival_ms });
    false
}
