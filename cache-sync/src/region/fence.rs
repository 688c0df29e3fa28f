//! The fence: every write is a compare-and-set on the lane record that covers it.
//!
//! On a standalone Redis, on one connection: WATCH and read the record, wait, compare, then MULTI … EXEC with the
//! changes and the new record. EXEC fails where anybody wrote the record after the read, so a timed-out invocation
//! whose commands arrive late cannot overwrite its successor. The read for the next chunk, of this lane or of the one
//! that the connection goes on with, travels behind the EXEC of this one, so a chunk costs one round trip; the comparison
//! still happens before the next MULTI is sent. On a cluster the same comparison stands in a script: see
//! [`super::cluster`].

use super::RegionError;
use super::commands::Op;
use super::connection::{Connection, parse_info, redis_error};
use crate::keys;
use crate::lane::{Lane, slot};
use crate::lane_record::{FIELDS, LaneRecord, Producers};
use crate::position::Position;
use redis::{Cmd, Pipeline, Value, from_redis_value};

/// Field of a lane record that names the changes that failed in it and are not in quarantine yet, one a line.
pub(super) const FAILED_FIELD: &str = "failed";

/// What one lane record covers: a whole lane, or on a cluster one slot of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Unit {
    pub(super) lane: Lane,
    pub(super) slot: Option<u16>,
}

impl Unit {
    /// A lane of a standalone Redis.
    pub(super) fn lane(lane: Lane) -> Self {
        Self { lane, slot: None }
    }

    /// Redis key of its record.
    pub(super) fn record_key(self) -> String {
        match self.slot {
            None => keys::lane_record(self.lane),
            Some(slot) => keys::slot_record(self.lane, slot),
        }
    }

    /// Whether a key of its lane is covered by its record.
    pub(super) fn covers(self, key: &[u8]) -> bool {
        self.slot.is_none_or(|own| own == slot(key))
    }
}

/// What the fence read: the record as it stands.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) record: Option<LaneRecord>,
    /// Last seqs of the producers that were asked for.
    pub(super) producers: Producers,
    /// The server's replication ID.
    pub(super) replication_id: String,
    /// Changes that failed and may not be in quarantine yet: `POSITION REASON` a line.
    pub(super) failed: String,
}

impl View {
    /// Reads a record's fields, [`FAILED_FIELD`] and the producers' fields, in this order.
    pub(super) fn new(
        lane: Lane,
        producers: &[&str],
        mut fields: Vec<Option<String>>,
        replication_id: String,
    ) -> Result<Self, RegionError> {
        let damaged = |source| RegionError::LaneRecord { lane, source };
        let seqs = fields.split_off((FIELDS.len() + 1).min(fields.len()));
        let failed = fields.pop().flatten().unwrap_or_default();
        let record = LaneRecord::from_fields(&fields).map_err(damaged)?;
        let mut last_seqs = Producers::new();
        for (producer, value) in producers.iter().zip(seqs) {
            if let Some(value) = value {
                last_seqs.insert((*producer).to_owned(), value.parse().map_err(damaged)?);
            }
        }
        Ok(Self { record, producers: last_seqs, replication_id, failed })
    }

    /// The record's mark.
    pub(super) fn mark(&self) -> Option<&Position> {
        self.record.as_ref().and_then(|record| record.mark.as_ref())
    }
}

/// A transaction and what the fence saw before it: it is applied only where that still stands.
pub(super) struct Fenced {
    pub(super) transaction: Transaction,
    pub(super) seen: Option<LaneRecord>,
}

/// Commands of one chunk, applied together with the lane record or not at all.
pub(super) struct Transaction {
    pub(super) unit: Unit,
    pub(super) ops: Vec<Op>,
}

impl Transaction {
    pub(super) fn new(unit: Unit) -> Self {
        Self { unit, ops: Vec::new() }
    }

    /// Adds an operation and returns the index of its answer in what the execution returns.
    pub(super) fn add(&mut self, op: impl Into<Op>) -> usize {
        self.ops.push(op.into());
        self.ops.len() - 1
    }

    /// Executes on a connection that watches the record, and then watches the record that is written next, in the same
    /// call. Returns the answers, and what [`Watch::view`] makes the next record of.
    ///
    /// # Errors
    /// [`RegionError::FenceLost`] where the record was written since it was read; nothing was applied then.
    pub(super) async fn execute(
        self,
        connection: &mut Connection,
        next: Option<&Watch<'_>>,
    ) -> Result<(Vec<Value>, Vec<Value>), RegionError> {
        let lane = self.unit.lane;
        let mut pipeline = Pipeline::with_capacity(self.ops.len() + 6);
        pipeline.cmd("MULTI");
        let record_key = self.unit.record_key();
        for op in self.ops {
            pipeline.add_command(op.into_command(&record_key));
        }
        pipeline.cmd("EXEC");
        let commands = pipeline.len();
        if let Some(next) = next {
            next.add_to(&mut pipeline);
        }
        let total = pipeline.len();
        let mut answers = connection
            .redis
            .send_packed_commands(&pipeline, 0, total)
            .await
            .map_err(redis_error(format!("the transaction of lane {lane}")))?;
        let watched = answers.split_off(commands.min(answers.len()));
        match answers.pop() {
            Some(Value::Array(results)) => Ok((results, watched)),
            Some(Value::Nil) => Err(RegionError::FenceLost { lane }),
            other => Err(RegionError::Transaction { lane, message: first_error(&answers, other) }),
        }
    }
}

/// A record to read, with the last seqs of some producers, and to watch from then on.
pub(super) struct Watch<'p> {
    pub(super) unit: Unit,
    pub(super) producers: Vec<&'p str>,
}

/// The first error among the answers to queued commands tells more than EXECABORT does.
fn first_error(answers: &[Value], exec: Option<Value>) -> String {
    let errors = answers.iter().chain(exec.iter()).filter_map(|answer| match answer {
        Value::ServerError(error) => Some(error.to_string()),
        _ => None,
    });
    errors.into_iter().next().unwrap_or_else(|| format!("unexpected answer {exec:?}"))
}

impl Watch<'_> {
    /// Reads the record, and watches it.
    pub(super) async fn open(&self, connection: &mut Connection) -> Result<View, RegionError> {
        let mut pipeline = Pipeline::new();
        self.add_to(&mut pipeline);
        let answers = connection
            .redis
            .send_packed_commands(&pipeline, 0, pipeline.len())
            .await
            .map_err(redis_error(format!("reading the record of lane {}", self.unit.lane)))?;
        self.view(answers)
    }

    fn add_to(&self, pipeline: &mut Pipeline) {
        let key = self.unit.record_key();
        pipeline.cmd("UNWATCH");
        pipeline.cmd("WATCH").arg(&key);
        pipeline.add_command(read_fields(&key, &self.producers));
        pipeline.cmd("INFO").arg("replication");
    }

    /// The record, from what its reading returned.
    pub(super) fn view(&self, answers: Vec<Value>) -> Result<View, RegionError> {
        let lane = self.unit.lane;
        let operation = || redis_error(format!("reading the record of lane {lane}"));
        let [unwatch, watch, fields, info]: [Value; 4] =
            answers.try_into().map_err(|_| RegionError::FenceLost { lane })?;
        for answer in [unwatch, watch] {
            answer.extract_error().map_err(operation())?;
        }
        let fields = fields.extract_error().map_err(operation())?;
        let fields: Vec<Option<String>> = from_redis_value(fields).map_err(|error| operation()(error.into()))?;
        let info = info.extract_error().map_err(operation())?;
        let info: String = from_redis_value(info).map_err(|error| operation()(error.into()))?;
        let replication_id = parse_info(&info).remove("master_replid").unwrap_or_default();
        View::new(lane, &self.producers, fields, replication_id)
    }
}

/// HMGET of what a [`View`] is made of.
fn read_fields(key: &str, producers: &[&str]) -> Cmd {
    let mut read = redis::cmd("HMGET");
    read.arg(key).arg(&FIELDS).arg(FAILED_FIELD);
    for producer in producers {
        read.arg(keys::producer_field(producer));
    }
    read
}
