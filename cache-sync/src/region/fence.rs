//! The fence: every write to a lane is a compare-and-set on its lane record.
//!
//! On one connection: WATCH and read the record, wait, compare, then MULTI … EXEC with the changes and the new record.
//! EXEC fails where anybody wrote the record after the read, so a timed-out invocation whose commands arrive late
//! cannot overwrite its successor. The read for the next chunk travels behind the EXEC of this one, so a chunk costs
//! one round trip; the comparison still happens before the next MULTI is sent.

use super::RegionError;
use super::connection::{Connection, parse_info, redis_error};
use crate::keys;
use crate::lane::Lane;
use crate::lane_record::{FIELDS, LaneRecord, Producers};
use redis::{Pipeline, Value, from_redis_value};

/// What the fence read: the record as it stands, watched.
#[derive(Debug)]
pub(super) struct View {
    pub(super) record: Option<LaneRecord>,
    /// Last seqs of the producers that were asked for.
    pub(super) producers: Producers,
    /// The server's replication ID.
    pub(super) replication_id: String,
}

/// Commands of one chunk, applied together with the lane record or not at all.
pub(super) struct Transaction {
    lane: Lane,
    pipeline: Pipeline,
}

impl Transaction {
    pub(super) fn new(lane: Lane) -> Self {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("MULTI");
        Self { lane, pipeline }
    }

    /// Adds a command and returns the index of its answer in what [`Transaction::execute`] returns.
    pub(super) fn add(&mut self, command: redis::Cmd) -> usize {
        self.pipeline.add_command(command);
        self.pipeline.len() - 2
    }

    /// Executes, and where `watch_next` is given reads the record again for the next chunk in the same write.
    ///
    /// # Errors
    /// [`RegionError::FenceLost`] where the record was written since it was read; nothing was applied then.
    pub(super) async fn execute(
        mut self,
        connection: &mut Connection,
        watch_next: bool,
    ) -> Result<(Vec<Value>, Option<View>), RegionError> {
        self.pipeline.cmd("EXEC");
        let commands = self.pipeline.len();
        if watch_next {
            add_watch(&mut self.pipeline, self.lane, &[]);
        }
        let total = self.pipeline.len();
        let mut answers = connection
            .redis
            .send_packed_commands(&self.pipeline, 0, total)
            .await
            .map_err(redis_error(format!("the transaction of lane {}", self.lane)))?;
        let view = if watch_next { Some(view(self.lane, &[], answers.split_off(commands))?) } else { None };
        match answers.pop() {
            Some(Value::Array(results)) => Ok((results, view)),
            Some(Value::Nil) => Err(RegionError::FenceLost { lane: self.lane }),
            other => Err(RegionError::Transaction { lane: self.lane, message: first_error(&answers, other) }),
        }
    }
}

/// The first error among the answers to queued commands tells more than EXECABORT does.
fn first_error(answers: &[Value], exec: Option<Value>) -> String {
    let errors = answers.iter().chain(exec.iter()).filter_map(|answer| match answer {
        Value::ServerError(error) => Some(error.to_string()),
        _ => None,
    });
    errors.into_iter().next().unwrap_or_else(|| format!("unexpected answer {exec:?}"))
}

/// Watches a lane record and reads it, with the last seqs of `producers`.
pub(super) async fn watch(connection: &mut Connection, lane: Lane, producers: &[&str]) -> Result<View, RegionError> {
    let mut pipeline = Pipeline::new();
    add_watch(&mut pipeline, lane, producers);
    let answers = connection
        .redis
        .send_packed_commands(&pipeline, 0, pipeline.len())
        .await
        .map_err(redis_error(format!("reading the record of lane {lane}")))?;
    view(lane, producers, answers)
}

fn add_watch(pipeline: &mut Pipeline, lane: Lane, producers: &[&str]) {
    let key = keys::lane_record(lane);
    pipeline.cmd("UNWATCH");
    pipeline.cmd("WATCH").arg(&key);
    pipeline.cmd("HMGET").arg(&key).arg(&FIELDS);
    for producer in producers {
        pipeline.arg(keys::producer_field(producer));
    }
    pipeline.cmd("INFO").arg("replication");
}

fn view(lane: Lane, producers: &[&str], answers: Vec<Value>) -> Result<View, RegionError> {
    let operation = || redis_error(format!("reading the record of lane {lane}"));
    let [unwatch, watch, fields, info]: [Value; 4] = answers.try_into().map_err(|_| RegionError::FenceLost { lane })?;
    for answer in [unwatch, watch] {
        answer.extract_error().map_err(operation())?;
    }
    let fields = fields.extract_error().map_err(operation())?;
    let fields: Vec<Option<String>> = from_redis_value(fields).map_err(|error| operation()(error.into()))?;
    let info = info.extract_error().map_err(operation())?;
    let info: String = from_redis_value(info).map_err(|error| operation()(error.into()))?;
    let damaged = |source| RegionError::LaneRecord { lane, source };
    let record = LaneRecord::from_fields(&fields[..FIELDS.len()]).map_err(damaged)?;
    let mut last_seqs = Producers::new();
    for (producer, value) in producers.iter().zip(&fields[FIELDS.len()..]) {
        if let Some(value) = value {
            last_seqs.insert((*producer).to_owned(), value.parse().map_err(damaged)?);
        }
    }
    let replication_id = parse_info(&info).remove("master_replid").unwrap_or_default();
    Ok(View { record, producers: last_seqs, replication_id })
}
