//! Replay: applies a batch to the region's Redis.
//!
//! Promises: within a lane changes are applied in stream order, each once; a lane whose record does not prove that the
//! batch follows it is left alone and said so; one bad change costs one key; a fault in one lane lets the others be
//! applied before the batch is thrown back.

use super::commands::{self, Ending, Sent};
use super::connection::{CONNECTIONS, Connection};
use super::fence::{self, Transaction, View};
use super::{Region, RegionError};
use crate::change::{Body, Change, Reference, Refused};
use crate::event::{Event, EventRecord};
use crate::keys;
use crate::lane::Lane;
use crate::lane_record::{LaneRecord, LastSeq, Producers, State, from_hash, to_forget};
use crate::position::{Position, Sequence};
use crate::protocol::{Behind, Counts, Outcome, Reason, Replay, ReplayAnswer};
use crate::record::{self, Content, Undecodable};
use futures::StreamExt;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use tidemark_runtime::logs::full_message;
use tidemark_runtime::metrics::{self, Unit};

/// Most changes in one fenced transaction.
pub const CHUNK_CHANGES_MAX: usize = 1_000;
/// A transaction is cut when its records have this many bytes.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Largest value behind a reference, in bytes: the largest string that Redis holds.
const REFERENCE_BYTES_MAX: u64 = 512 << 20;

/// One change, heartbeat or fault of a lane, in order.
struct Step<'a> {
    position: Position,
    record: &'a EventRecord<'a>,
    bytes: usize,
    what: What<'a>,
}

enum What<'a> {
    Heartbeat(u64),
    Change(Change<'a>),
    Refused(Refused),
}

/// A chunk under way: what it will write, and what must be looked at in the answers.
struct Chunk<'s, 'a> {
    transaction: Transaction,
    sent: Vec<(&'s Step<'a>, Vec<Sent>)>,
    counts: Counts,
}

impl Region {
    /// Applies a batch.
    ///
    /// # Errors
    /// The first lane's [`RegionError`] after every other lane was tried.
    pub async fn replay(&self, request: &Replay<'_>) -> Result<ReplayAnswer, RegionError> {
        let event: Event<'_> = serde_json::from_str(request.event.get()).map_err(RegionError::Request)?;
        let mut by_lane: BTreeMap<Lane, Vec<&EventRecord<'_>>> = BTreeMap::new();
        let mut answer = ReplayAnswer::default();
        for record in &event.records {
            match self.settings.lanes.of_partition_key(&record.kinesis.partition_key) {
                Some(lane) => by_lane.entry(lane).or_default().push(record),
                None => {
                    self.quarantine_stray(record).await?;
                    answer.counts.quarantined += 1;
                }
            }
        }
        let lanes = futures::stream::iter(by_lane)
            .map(|(lane, records)| async move { (lane, self.replay_lane(lane, &records, request).await) })
            .buffer_unordered(CONNECTIONS)
            .collect::<Vec<_>>()
            .await;
        let mut first_error = None;
        for (lane, outcome) in lanes {
            match outcome {
                Ok((outcome, counts)) => {
                    answer.lanes.insert(lane, outcome);
                    answer.counts.add(counts);
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        self.report(&answer.counts, event.records.len());
        first_error.map_or(Ok(answer), Err)
    }

    async fn quarantine_stray(&self, record: &EventRecord<'_>) -> Result<(), RegionError> {
        let position = Position { sequence: sequence(record)?, index: 0 };
        let reason = format!(
            "partition key {:?} is not a lane: it must be the lane of the key in decimal, 0 to {}",
            record.kinesis.partition_key,
            self.settings.lanes.count() - 1
        );
        self.quarantine(record, &position, &reason, &[]).await
    }

    fn report(&self, counts: &Counts, records: usize) {
        metrics::emit(
            self.clock.now_ms(),
            &[("region", &self.settings.region)],
            &[
                ("records", Unit::Count, records as f64),
                ("changes_applied", Unit::Count, counts.applied as f64),
                ("changes_skipped", Unit::Count, counts.skipped as f64),
                ("changes_repeated", Unit::Count, counts.repeated as f64),
                ("changes_quarantined", Unit::Count, counts.quarantined as f64),
                ("changes_missed", Unit::Count, counts.missed as f64),
                ("lag_ms_max", Unit::Milliseconds, counts.lag_ms_max as f64),
            ],
        );
    }

    async fn replay_lane(
        &self,
        lane: Lane,
        records: &[&EventRecord<'_>],
        request: &Replay<'_>,
    ) -> Result<(Outcome, Counts), RegionError> {
        let data: Vec<_> = records.iter().map(|record| record::Data::from_base64(&record.kinesis.data)).collect();
        let mut steps = Vec::new();
        for (record, data) in records.iter().zip(&data) {
            add_steps(&mut steps, record, data.as_ref())?;
        }
        let mut connection = self.connections.take().await?;
        let outcome = self.apply(&mut connection, lane, steps, request).await?;
        self.connections.give_back(connection);
        Ok(outcome)
    }

    async fn apply(
        &self,
        connection: &mut Connection,
        lane: Lane,
        mut steps: Vec<Step<'_>>,
        request: &Replay<'_>,
    ) -> Result<(Outcome, Counts), RegionError> {
        let producers: BTreeSet<String> = steps.iter().filter_map(Step::producer).map(str::to_owned).collect();
        let producers: Vec<&str> = producers.iter().map(String::as_str).collect();
        let view = fence::watch(connection, lane, &producers).await?;
        if let Some(refusal) = refusal(&view, lane, request) {
            return Ok((refusal, Counts::default()));
        }
        let mut counts = Counts::default();
        let delivered = steps.len();
        let mark = view.record.as_ref().and_then(|record| record.mark.as_ref());
        steps.retain(|step| Some(&step.position) > mark);
        counts.skipped = (delivered - steps.len()) as u64;
        if breaks_chain(view.record.as_ref(), &steps) {
            return Ok((behind(&view, Reason::BrokenChain), counts));
        }
        let View { record, producers: mut last_seqs, replication_id } = view;
        let mut record = next_record(record, request, lane, &replication_id);
        let joins = request.join && request.follows.contains_key(&lane);
        let mut chunks = cut(&steps).peekable();
        if chunks.peek().is_none() && joins {
            let (mut transaction, lane_key) = (Transaction::new(lane), keys::lane_record(lane));
            write_record(&mut transaction, &lane_key, &record, &Producers::new());
            transaction.execute(connection, false).await?;
        }
        while let Some(steps) = chunks.next() {
            let chunk = self.chunk(connection, lane, steps, &mut record, &mut last_seqs).await?;
            let (answers, view) = chunk.transaction.execute(connection, chunks.peek().is_some()).await?;
            counts.add(chunk.counts);
            counts.add(self.settle(&chunk.sent, &answers).await?);
            if let Some(view) = view
                && (view.record.as_ref() != Some(&record) || view.replication_id != replication_id)
            {
                return Err(RegionError::FenceLost { lane });
            }
        }
        Ok((Outcome::Applied { mark: record.mark }, counts))
    }

    /// Builds the transaction of one chunk and moves `record` and `last_seqs` to what it will write.
    async fn chunk<'s, 'a>(
        &self,
        connection: &mut Connection,
        lane: Lane,
        steps: &'s [Step<'a>],
        record: &mut LaneRecord,
        last_seqs: &mut Producers,
    ) -> Result<Chunk<'s, 'a>, RegionError> {
        let mut chunk = Chunk { transaction: Transaction::new(lane), sent: Vec::new(), counts: Counts::default() };
        let mut seen = Producers::new();
        let mut heartbeat_arrival_ms = None;
        for step in steps {
            let arrival_ms = step.record.arrival_ms();
            match &step.what {
                What::Heartbeat(number) => {
                    record.heartbeat = record.heartbeat.max(Some(*number));
                    heartbeat_arrival_ms = Some(arrival_ms);
                }
                What::Refused(refused) => self.refuse(&mut chunk, lane, step, refused).await?,
                What::Change(change) => {
                    if is_repeated(change, arrival_ms, last_seqs, &mut seen) {
                        chunk.counts.repeated += 1;
                    } else if let Some(refused) = self.foreign(lane, change) {
                        self.refuse(&mut chunk, lane, step, &refused).await?;
                    } else {
                        self.add_change(&mut chunk, lane, step, change).await?;
                    }
                }
            }
            record.mark = Some(step.position.clone());
            record.shard = Some(step.record.shard().to_owned());
            record.arrival_ms = Some(arrival_ms);
        }
        let lane_key = keys::lane_record(lane);
        write_record(&mut chunk.transaction, &lane_key, record, &seen);
        if let Some(arrival_ms) = heartbeat_arrival_ms {
            forget_producers(connection, &mut chunk.transaction, lane, arrival_ms).await?;
        }
        Ok(chunk)
    }

    async fn add_change<'s, 'a>(
        &self,
        chunk: &mut Chunk<'s, 'a>,
        lane: Lane,
        step: &'s Step<'a>,
        change: &Change<'_>,
    ) -> Result<(), RegionError> {
        let base_ms = change.base_ms(step.record.arrival_ms());
        let sent = match &change.body {
            Body::Commands(list) => commands::add(&mut chunk.transaction, &change.key, list, base_ms),
            Body::Reference(reference) => match self.referenced(reference).await? {
                Ok(value) => {
                    chunk.transaction.add(commands::set(&change.key, &value, reference.expires_at_ms));
                    Vec::new()
                }
                Err(reason) => {
                    let refused = Refused { keys: vec![change.key.to_vec()], reason };
                    return self.refuse(chunk, lane, step, &refused).await;
                }
            },
        };
        chunk.counts.applied += 1;
        chunk.counts.lag_ms_max = chunk.counts.lag_ms_max.max(self.clock.now_ms() - step.record.arrival_ms());
        chunk.sent.push((step, sent));
        Ok(())
    }

    /// The value behind a reference; the inner error is the producer's, the outer one may pass.
    async fn referenced(&self, reference: &Reference) -> Result<Result<Vec<u8>, String>, RegionError> {
        if reference.bytes > REFERENCE_BYTES_MAX {
            return Ok(Err(format!("ref.bytes is {}: at most {REFERENCE_BYTES_MAX}", reference.bytes)));
        }
        let value = self.fetch(&reference.object).await?;
        let digest = hex(&Sha256::digest(&value));
        if value.len() as u64 != reference.bytes || digest != reference.sha256 {
            return Ok(Err(format!("object {} has another size or checksum than its ref", reference.object)));
        }
        Ok(Ok(value))
    }

    /// A change that is not this lane's or not synced touches no key.
    fn foreign(&self, lane: Lane, change: &Change<'_>) -> Option<Refused> {
        let home = self.settings.lanes.of_key(&change.key);
        let reason = if home != lane {
            format!(
                "the key is of lane {home}, not of the record's lane {lane}: the partition key must be the key's lane"
            )
        } else if !self.settings.scope.contains(&change.key) {
            format!("the key is outside the scope {}", self.settings.scope.as_str())
        } else {
            return None;
        };
        Some(Refused { keys: Vec::new(), reason })
    }

    /// Quarantines a change and deletes its keys as far as they are this lane's and in scope.
    async fn refuse(
        &self,
        chunk: &mut Chunk<'_, '_>,
        lane: Lane,
        step: &Step<'_>,
        refused: &Refused,
    ) -> Result<(), RegionError> {
        let ours = |key: &&Vec<u8>| self.settings.lanes.of_key(key) == lane && self.settings.scope.contains(key);
        let keys: Vec<Vec<u8>> = refused.keys.iter().filter(ours).cloned().collect();
        self.quarantine(step.record, &step.position, &refused.reason, &keys).await?;
        for key in &keys {
            chunk.transaction.add(commands::delete(key));
        }
        chunk.counts.quarantined += 1;
        Ok(())
    }

    /// Looks at what Redis answered: a change that failed was deleted with its key and goes to quarantine.
    async fn settle(&self, sent: &[(&Step<'_>, Vec<Sent>)], answers: &[redis::Value]) -> Result<Counts, RegionError> {
        let mut counts = Counts::default();
        for (step, sent) in sent {
            let mut failure = None;
            for ending in sent.iter().map(|sent| sent.ending(answers)) {
                match ending {
                    Ending::Applied => {}
                    Ending::Missed => counts.missed += 1,
                    Ending::Failed(reason) => failure = failure.or(Some(reason)),
                }
            }
            if let (Some(reason), What::Change(change)) = (failure, &step.what) {
                self.quarantine(step.record, &step.position, &reason, &[change.key.to_vec()]).await?;
                counts.quarantined += 1;
            }
        }
        Ok(counts)
    }
}

impl Step<'_> {
    fn producer(&self) -> Option<&str> {
        match &self.what {
            What::Change(change) => change.producer.as_ref().map(|producer| producer.id.as_ref()),
            _ => None,
        }
    }
}

/// Why the lane does not take this batch, if it does not.
fn refusal(view: &View, lane: Lane, request: &Replay<'_>) -> Option<Outcome> {
    let record = view.record.as_ref();
    if let Some(LaneRecord { state: State::Held(holder), .. }) = record {
        return Some(Outcome::Held { holder: holder.clone() });
    }
    if let Some(record) = record
        && record.generation > request.generation
    {
        return Some(Outcome::OldGeneration { generation: record.generation });
    }
    let reason = if record.is_some_and(|record| record.stream.as_ref().is_some_and(|stream| *stream != request.stream))
    {
        Some(Reason::OtherStream)
    } else if let Some(follows) = request.follows.get(&lane) {
        let mark = record.and_then(|record| record.mark.as_ref());
        let exact = mark == follows.mark.as_ref() && view.replication_id == follows.replication_id;
        (!exact).then_some(Reason::Feeding)
    } else {
        unproven(view, request)
    };
    reason.map(|reason| behind(view, reason))
}

/// What keeps the lane record from proving that what the mapping delivers follows it, if anything does.
fn unproven(view: &View, request: &Replay<'_>) -> Option<Reason> {
    let Some(record) = &view.record else { return Some(Reason::NoRecord) };
    if record.state == State::Feeding {
        Some(Reason::Feeding)
    } else if record.replication_id.as_ref() != Some(&view.replication_id) {
        Some(Reason::Failover)
    } else if record.generation < request.generation {
        Some(Reason::NewGeneration)
    } else {
        None
    }
}

fn behind(view: &View, reason: Reason) -> Outcome {
    let record = view.record.as_ref();
    Outcome::Behind(Behind {
        reason,
        mark: record.and_then(|record| record.mark.clone()),
        arrival_ms: record.and_then(|record| record.arrival_ms),
        replication_id: view.replication_id.clone(),
    })
}

/// Whether a heartbeat is missing between the lane record and the end of these steps. A number that was seen comes again
/// where the job that publishes them was repeated, and breaks nothing.
fn breaks_chain(record: Option<&LaneRecord>, steps: &[Step<'_>]) -> bool {
    let mut last = record.and_then(|record| record.heartbeat);
    steps.iter().any(|step| {
        let What::Heartbeat(number) = step.what else { return false };
        let breaks = last.is_some_and(|last| number > last + 1);
        last = last.max(Some(number));
        breaks
    })
}

/// The record as this batch will leave it, but for the mark.
fn next_record(record: Option<LaneRecord>, request: &Replay<'_>, lane: Lane, replication_id: &str) -> LaneRecord {
    let mut record = record.unwrap_or_else(LaneRecord::unmarked);
    record.stream = Some(request.stream.clone());
    record.generation = request.generation;
    if request.follows.contains_key(&lane) {
        record.state = if request.join { State::Ready } else { State::Feeding };
    }
    // Only a join proves that nothing was lost on this server.
    if record.state == State::Ready {
        record.replication_id = Some(replication_id.to_owned());
    }
    record
}

/// Cuts a lane's steps into chunks of at most [`CHUNK_CHANGES_MAX`] steps and about [`CHUNK_BYTES_MAX`] bytes.
fn cut<'s, 'a>(steps: &'s [Step<'a>]) -> impl Iterator<Item = &'s [Step<'a>]> {
    let mut rest = steps;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take(CHUNK_CHANGES_MAX).take_while(|step| {
            let fits = bytes == 0 || bytes + step.bytes <= CHUNK_BYTES_MAX;
            bytes += step.bytes;
            fits
        });
        let (chunk, behind) = rest.split_at(fits.count());
        rest = behind;
        (!chunk.is_empty()).then_some(chunk)
    })
}

/// Whether the producer's number says that the change was applied before; remembers it where not.
fn is_repeated(change: &Change<'_>, arrival_ms: i64, last_seqs: &mut Producers, seen: &mut Producers) -> bool {
    let Some(producer) = &change.producer else { return false };
    if last_seqs.get(producer.id.as_ref()).is_some_and(|last| producer.seq <= last.seq) {
        return true;
    }
    let last = LastSeq { seq: producer.seq, arrival_ms };
    last_seqs.insert(producer.id.clone().into_owned(), last);
    seen.insert(producer.id.clone().into_owned(), last);
    false
}

/// Adds the lane record to a transaction.
pub(super) fn write_record(transaction: &mut Transaction, key: &str, record: &LaneRecord, producers: &Producers) {
    let mut write = redis::cmd("HSET");
    write.arg(key);
    for (name, value) in record.to_fields() {
        write.arg(name).arg(value);
    }
    transaction.add(write);
    for (producer, last) in producers {
        let mut write = redis::cmd("HSET");
        write.arg(key).arg(keys::producer_field(producer)).arg(last.to_string());
        transaction.add(write);
    }
}

/// Lets go of producers that have been silent too long; looked at once a heartbeat, not once a chunk.
async fn forget_producers(
    connection: &mut Connection,
    transaction: &mut Transaction,
    lane: Lane,
    arrival_ms: i64,
) -> Result<(), RegionError> {
    let key = keys::lane_record(lane);
    let hash: BTreeMap<String, String> = redis::cmd("HGETALL")
        .arg(&key)
        .query_async(&mut connection.redis)
        .await
        .map_err(super::connection::redis_error("reading a lane's producers"))?;
    let read = from_hash(&hash).map_err(|source| RegionError::LaneRecord { lane, source })?;
    let Some((_, producers)) = read else { return Ok(()) };
    let forgotten = to_forget(&producers, arrival_ms);
    if !forgotten.is_empty() {
        let mut forget = redis::cmd("HDEL");
        forget.arg(&key);
        for producer in &forgotten {
            forget.arg(keys::producer_field(producer));
        }
        transaction.add(forget);
        tracing::info!(%lane, forgotten = forgotten.len(), "producers forgotten");
    }
    Ok(())
}

fn add_steps<'a>(
    steps: &mut Vec<Step<'a>>,
    record: &'a EventRecord<'a>,
    data: Result<&'a record::Data, &Undecodable>,
) -> Result<(), RegionError> {
    let sequence = sequence(record)?;
    let bytes = data.map_or(0, record::Data::len_bytes);
    let mut add = |index: usize, bytes, what| {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        steps.push(Step { position: Position { sequence: sequence.clone(), index }, record, bytes, what });
    };
    let undecodable = |error: &_| What::Refused(Refused { keys: Vec::new(), reason: full_message(error) });
    match data.map(|data| data.decode(&record.kinesis.partition_key)) {
        Ok(Ok(Content::Heartbeat(heartbeat))) => add(0, bytes, What::Heartbeat(heartbeat.heartbeat)),
        Ok(Ok(Content::Changes(changes))) => {
            let share = bytes / changes.len().max(1);
            for (index, change) in changes.into_iter().enumerate() {
                add(index, share, change.map_or_else(What::Refused, What::Change));
            }
        }
        Ok(Err(error)) => add(0, bytes, undecodable(&error)),
        Err(error) => add(0, bytes, undecodable(error)),
    }
    Ok(())
}

fn sequence(record: &EventRecord<'_>) -> Result<Sequence, RegionError> {
    record
        .kinesis
        .sequence_number
        .parse()
        .map_err(|error: crate::position::PositionError| RegionError::Request(serde::de::Error::custom(error)))
}

/// Bytes as lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
