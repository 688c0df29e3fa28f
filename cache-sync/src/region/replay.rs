//! Replay: applies a batch to the region's Redis.
//!
//! Promises: within a lane changes are applied in stream order, each once; a lane whose record does not prove that the
//! batch follows it is left alone and said so; one bad change costs one key; a fault in one lane lets the others be
//! applied before the batch is thrown back.

use super::batch::{self, Batch, BatchData, Step, What};
use super::chunk::{Chunk, Progress, cut};
use super::connection::{CONNECTIONS, Session};
use super::fence::{self, Transaction, Unit, View};
use super::{Region, RegionError, cluster};
use crate::event::{Event, EventRecord};
use crate::lane::Lane;
use crate::lane_record::{LaneRecord, State};
use crate::position::Position;
use crate::protocol::{Behind, Counts, Follows, Outcome, Reason, Replay, ReplayAnswer};
use crate::record::Heartbeat;
use futures::{StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Slots of a lane that are read or written at once on a cluster.
const SLOTS_AT_ONCE: usize = 64;

/// One unit of a lane under replay: its connection, what its record said, and the steps it covers.
struct Open<'s, 'a> {
    unit: Unit,
    session: Session,
    view: View,
    steps: Vec<&'s Step<'a>>,
}

impl Region {
    /// Applies a batch.
    ///
    /// # Errors
    /// The first lane's [`RegionError`] after every other lane was tried.
    pub async fn replay(&self, request: &Replay<'_>) -> Result<ReplayAnswer, RegionError> {
        let event = Event::from_json(request.event.get()).map_err(RegionError::Request)?;
        let data = BatchData::new(&event);
        let batch = Batch::decode(&data, self.settings.lanes)?;
        self.replay_batch(&batch, request).await
    }

    /// Applies a batch that is decoded already.
    ///
    /// # Errors
    /// As [`Region::replay`].
    pub async fn replay_batch(&self, batch: &Batch<'_>, request: &Replay<'_>) -> Result<ReplayAnswer, RegionError> {
        let mut answer = ReplayAnswer::default();
        for record in &batch.strays {
            self.quarantine_stray(record).await?;
            answer.counts.quarantined += 1;
        }
        let lanes = futures::stream::iter(&batch.lanes)
            .map(|(lane, steps)| async move { (*lane, self.replay_lane(*lane, steps, request).await) })
            .buffer_unordered(CONNECTIONS)
            .collect::<Vec<_>>()
            .await;
        let (mut first_error, mut by_lane) = (None, BTreeMap::new());
        for (lane, outcome) in lanes {
            match outcome {
                Ok((outcome, counts)) => {
                    by_lane.insert(lane, Some(counts));
                    answer.lanes.insert(lane, outcome);
                    answer.counts.add(counts);
                }
                Err(error) => {
                    by_lane.insert(lane, None);
                    first_error = first_error.or(Some(error));
                }
            }
        }
        self.report(batch, &answer, &by_lane);
        let Some(error) = first_error else { return Ok(answer) };
        self.connections.forget();
        Err(error)
    }

    async fn quarantine_stray(&self, record: &EventRecord<'_>) -> Result<(), RegionError> {
        let position = Position { sequence: batch::sequence(record)?, index: 0 };
        let reason = format!(
            "partition key {:?} is not a lane: it must be the lane of the key in decimal, 0 to {}",
            record.kinesis.partition_key,
            self.settings.lanes.count() - 1
        );
        self.quarantine(record, &position, &reason, &[]).await
    }

    async fn replay_lane(
        &self,
        lane: Lane,
        steps: &[Step<'_>],
        request: &Replay<'_>,
    ) -> Result<(Outcome, Counts), RegionError> {
        let missing = self.missing(steps).await?;
        if !missing.is_empty() {
            return Ok((Outcome::Missing { objects: missing }, Counts::default()));
        }
        let is_cluster = self.connections.is_cluster().await?;
        let mut units = batch::by_unit(lane, self.settings.lanes, steps, is_cluster);
        let follows = request.follows.get(&lane);
        if follows.is_some() {
            // What a feed says holds for the whole lane, so every record of it is compared and moved.
            for unit in batch::all_units(lane, self.settings.lanes, is_cluster) {
                units.entry(unit).or_default();
            }
        }
        let opened = self.open(units).await?;
        if let Some(refused) = refusal(&opened, follows, request) {
            return Ok((self.refused(lane, refused, opened, request, is_cluster).await?, Counts::default()));
        }
        let fed: Option<BTreeSet<Unit>> =
            follows.map(|_| fed(&opened, request).into_iter().map(|open| open.unit).collect());
        let last = steps.last();
        let applied = futures::stream::iter(opened)
            .map(|open| {
                let is_fed = fed.as_ref().is_some_and(|fed| fed.contains(&open.unit));
                async move { Ok::<_, RegionError>((is_fed, self.apply(open, is_fed, last, request).await?)) }
            })
            .buffer_unordered(SLOTS_AT_ONCE)
            .try_collect::<Vec<_>>()
            .await?;
        let mut counts = Counts::default();
        applied.iter().for_each(|(_, (_, applied))| counts.add(*applied));
        // In a feed the oldest record is the lane's mark; else all that were in the batch reach its end.
        let marks = applied.into_iter().filter(|(is_fed, _)| *is_fed == fed.is_some()).map(|(_, (mark, _))| mark);
        Ok((Outcome::Applied { mark: marks.min().flatten() }, counts))
    }

    /// Reads the record of every unit.
    async fn open<'s, 'a>(&self, units: BTreeMap<Unit, Vec<&'s Step<'a>>>) -> Result<Vec<Open<'s, 'a>>, RegionError> {
        futures::stream::iter(units)
            .map(|(unit, steps)| async move {
                let producers: BTreeSet<&str> = steps.iter().filter_map(|step| step.producer()).collect();
                let producers: Vec<&str> = producers.into_iter().collect();
                let mut session = self.connections.session().await?;
                let view = match &mut session {
                    Session::Standalone(connection) => fence::watch(connection, unit, &producers).await?,
                    Session::Cluster(connection) => cluster::read(connection, unit, &producers).await?,
                };
                Ok(Open { unit, session, view, steps })
            })
            .buffered(SLOTS_AT_ONCE)
            .try_collect()
            .await
    }

    /// What forward is told of a lane that was left alone. Of a lane that is behind it must know the oldest record, so
    /// on a cluster the slots are read, too, that the batch does not speak of.
    async fn refused(
        &self,
        lane: Lane,
        refused: Refusal,
        opened: Vec<Open<'_, '_>>,
        request: &Replay<'_>,
        is_cluster: bool,
    ) -> Result<Outcome, RegionError> {
        let reason = match refused {
            Refusal::Held(holder) => return Ok(Outcome::Held { holder }),
            Refusal::OldGeneration(generation) => return Ok(Outcome::OldGeneration { generation }),
            Refusal::Behind(reason) => reason,
        };
        let units = batch::all_units(lane, self.settings.lanes, is_cluster);
        let opened = if opened.len() == units.len() {
            opened
        } else {
            self.open(units.into_iter().map(|unit| (unit, Vec::new())).collect()).await?
        };
        let standing = standing(&opened, request);
        opened.into_iter().for_each(|open| self.connections.give_back(open.session));
        let Standing { mark, arrival_ms, replication_id } = standing;
        Ok(Outcome::Behind(Behind { reason, mark, arrival_ms, replication_id }))
    }

    /// Applies a unit's steps, chunk by chunk, and returns its mark. `last` is the lane's last step in the batch: what
    /// lies before it is applied then, also where it is another slot's.
    async fn apply(
        &self,
        open: Open<'_, '_>,
        is_fed: bool,
        last: Option<&Step<'_>>,
        request: &Replay<'_>,
    ) -> Result<(Option<Position>, Counts), RegionError> {
        let Open { unit, mut session, view, mut steps } = open;
        if !view.failed.is_empty() {
            self.settle_failed(&view.failed, &steps).await?;
        }
        let View { record: mut seen, producers, replication_id, failed } = view;
        let mark = seen.as_ref().and_then(|record| record.mark.as_ref());
        let last = last.filter(|last| Some(&last.position) > mark);
        let mut counts = Counts { skipped: count_changes(&steps), ..Counts::default() };
        steps.retain(|step| Some(&step.position) > mark);
        counts.skipped -= count_changes(&steps);
        let mut progress = Progress {
            unit,
            record: next_record(seen.clone(), request, is_fed, &replication_id),
            last_seqs: producers,
            clear_failed: !failed.is_empty(),
        };
        let mut chunks = cut(&steps, unit.slot.is_some()).peekable();
        let mut is_due = is_fed || progress.clear_failed || chunks.peek().is_some();
        while is_due {
            let steps = chunks.next().unwrap_or_default();
            is_due = chunks.peek().is_some();
            let upto = if is_due { steps.last().copied() } else { last };
            let Chunk { transaction, sent, counts: planned } =
                self.chunk(&mut session, steps, upto, &mut progress).await?;
            let begun_ms = self.clock.now_ms();
            let (answers, view) = session.execute(transaction, seen.as_ref(), &replication_id, is_due).await?;
            self.meter.chunk(self.clock.now_ms() - begun_ms);
            counts.add(planned);
            counts.add(self.settle(&sent, &answers).await?);
            if view.is_some_and(|view| {
                view.record.as_ref() != Some(&progress.record) || view.replication_id != replication_id
            }) {
                return Err(RegionError::FenceLost { lane: unit.lane });
            }
            seen = Some(progress.record.clone());
        }
        self.connections.give_back(session);
        Ok((progress.record.mark, counts))
    }
}

impl Open<'_, '_> {
    /// Whether a heartbeat is missing between the record and the end of its steps. A number that was seen comes again
    /// where the job that publishes them was repeated, and breaks nothing.
    fn breaks_chain(&self) -> bool {
        let mark = self.view.mark();
        let mut last = self.view.record.as_ref().and_then(|record| record.heartbeat);
        self.steps.iter().filter(|step| Some(&step.position) > mark).any(|step| {
            let What::Heartbeat(Heartbeat { heartbeat: number, .. }) = step.what else { return false };
            let breaks = last.is_some_and(|last| number > last + 1);
            last = last.max(Some(number));
            breaks
        })
    }
}

impl Session {
    /// Executes a transaction under the fence: `seen` is the record as it was read, on the server `replication_id`.
    async fn execute(
        &mut self,
        transaction: Transaction,
        seen: Option<&LaneRecord>,
        replication_id: &str,
        watch_next: bool,
    ) -> Result<(Vec<redis::Value>, Option<View>), RegionError> {
        match self {
            Session::Standalone(connection) => transaction.execute(connection, watch_next).await,
            Session::Cluster(connection) => {
                Ok((cluster::execute(connection, &transaction, seen, replication_id).await?, None))
            }
        }
    }
}

/// Why a lane does not take a batch.
enum Refusal {
    Held(String),
    OldGeneration(u64),
    Behind(Reason),
}

/// Where a lane stands that must be fed: its oldest record in doubt.
struct Standing {
    mark: Option<Position>,
    arrival_ms: Option<i64>,
    /// The replication ID of its server; on a cluster a digest of those of the slots in doubt.
    replication_id: String,
}

/// Why the lane does not take the batch, if it does not.
fn refusal(opened: &[Open<'_, '_>], follows: Option<&Follows>, request: &Replay<'_>) -> Option<Refusal> {
    if let Some(barred) = opened.iter().find_map(|open| barred(&open.view, request)) {
        return Some(barred);
    }
    let reason = match follows {
        Some(follows) => {
            let standing = standing(opened, request);
            let exact = standing.mark == follows.mark && standing.replication_id == follows.replication_id;
            (!exact).then_some(Reason::Feeding)
        }
        None => opened.iter().find_map(|open| unproven(&open.view, request)),
    };
    let breaks = || opened.iter().any(Open::breaks_chain).then_some(Reason::BrokenChain);
    reason.or_else(breaks).map(Refusal::Behind)
}

/// What no feed helps against.
fn barred(view: &View, request: &Replay<'_>) -> Option<Refusal> {
    let record = view.record.as_ref()?;
    if let State::Held(holder) = &record.state {
        return Some(Refusal::Held(holder.clone()));
    }
    if record.generation > request.generation {
        return Some(Refusal::OldGeneration(record.generation));
    }
    let other = record.stream.as_ref().is_some_and(|stream| *stream != request.stream);
    other.then_some(Refusal::Behind(Reason::OtherStream))
}

/// What keeps a record from proving that what the mapping delivers follows it, if anything does.
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

/// The units of a lane that a feed is for: those in doubt, or all where the doubt is about what was delivered.
fn fed<'o, 's, 'a>(opened: &'o [Open<'s, 'a>], request: &Replay<'_>) -> Vec<&'o Open<'s, 'a>> {
    let in_doubt: Vec<&Open<'_, '_>> = opened.iter().filter(|open| unproven(&open.view, request).is_some()).collect();
    if in_doubt.is_empty() { opened.iter().collect() } else { in_doubt }
}

/// Where a lane stands whose units were all opened.
fn standing(opened: &[Open<'_, '_>], request: &Replay<'_>) -> Standing {
    let fed = fed(opened, request);
    let record = |open: &&&Open<'_, '_>| open.view.record.clone();
    let oldest = fed.iter().min_by_key(|open| open.view.mark()).and_then(|open| record(&open));
    let replication_id = match fed.as_slice() {
        [open] if open.unit.slot.is_none() => open.view.replication_id.clone(),
        units => {
            let mut digest = Sha256::new();
            for open in units {
                digest.update(format!("{:?} {}\n", open.unit.slot, open.view.replication_id));
            }
            hex(&digest.finalize())
        }
    };
    let (mark, arrival_ms) = oldest.map_or((None, None), |record| (record.mark, record.arrival_ms));
    Standing { mark, arrival_ms, replication_id }
}

/// The record as this batch will leave it, but for the mark.
fn next_record(record: Option<LaneRecord>, request: &Replay<'_>, is_fed: bool, replication_id: &str) -> LaneRecord {
    let mut record = record.unwrap_or_else(LaneRecord::unmarked);
    record.stream = Some(request.stream.clone());
    record.generation = request.generation;
    if is_fed {
        record.state = if request.join { State::Ready } else { State::Feeding };
    }
    // Only a join proves that nothing was lost on this server.
    if record.state == State::Ready {
        record.replication_id = Some(replication_id.to_owned());
    }
    record
}

fn count_changes(steps: &[&Step<'_>]) -> u64 {
    steps.iter().filter(|step| !matches!(step.what, What::Heartbeat(_))).count() as u64
}

/// Bytes as lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
