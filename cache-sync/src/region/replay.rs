//! Replay: applies a batch to the region's Redis.
//!
//! Promises: within a lane changes are applied in stream order, each once; a lane whose record does not prove that the
//! batch follows it is left alone and said so; one bad change costs one key; a fault in one lane lets the others be
//! applied before the batch is thrown back.

use super::batch::{self, Batch, BatchData, Step, What};
use super::chunk::{Progress, next_chunk};
use super::connection::Session;
use super::fence::{Fenced, Unit, View, Watch};
use super::lanes::{Ahead, Due, Replayed};
use super::{Region, RegionError, cluster};
use crate::event::{Event, EventRecord};
use crate::lane::Lane;
use crate::lane_record::{LaneRecord, State};
use crate::position::Position;
use crate::protocol::{Behind, Counts, Follows, Outcome, Reason, Replay, ReplayAnswer};
use crate::record::Heartbeat;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// One unit of a lane under replay: what its record said, and the steps it covers.
struct Open<'s, 'a> {
    unit: Unit,
    view: View,
    steps: Vec<&'s Step<'a>>,
}

/// One unit on its way through its chunks.
struct Run<'s, 'a> {
    /// The record as the next transaction must find it.
    seen: Option<LaneRecord>,
    replication_id: String,
    progress: Progress,
    is_fed: bool,
    /// What is not applied yet.
    steps: Vec<&'s Step<'a>>,
    done: usize,
    is_due: bool,
}

impl Region {
    /// Applies a batch.
    ///
    /// # Errors
    /// The first lane's [`RegionError`] after every other lane was tried.
    pub async fn replay(&self, request: &Replay<'_>) -> Result<ReplayAnswer, RegionError> {
        let event = Event::from_json(request.event.get()).map_err(RegionError::Request)?;
        let data = BatchData::new(&event);
        let mut batch = Batch::decode(&data, self.settings.lanes)?;
        batch.refuse_unobtainable(&request.unobtainable);
        // The last write of a feed speaks of lanes of which it carries nothing.
        for lane in request.follows.keys() {
            batch.lanes.entry(*lane).or_default();
        }
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
        let (mut first_error, mut by_lane) = (None, BTreeMap::new());
        for (lane, replayed) in self.replay_lanes(batch, request).await {
            match replayed {
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

    /// Replays one lane on a connection, which reads the next one's record where it can.
    pub(super) async fn replay_lane(
        &self,
        session: &mut Session,
        due: Due<'_, '_>,
        request: &Replay<'_>,
        ahead: &mut Ahead<'_, '_, '_>,
    ) -> Replayed {
        match self.replay_remembered(session, &due, request, ahead).await {
            Err(RegionError::FenceLost { .. }) | Ok(None) => self.replay_read(session, due, request, ahead).await,
            Ok(Some(replayed)) => Ok(replayed),
            Err(error) => Err(error),
        }
    }

    /// Applies a lane's steps on a cluster without reading its records first, where this function wrote all of them
    /// last: the fence finds out where they are others by now. `None`: they must be read. What would be refused, or
    /// would be nothing to do, is never decided from memory.
    async fn replay_remembered(
        &self,
        session: &Session,
        due: &Due<'_, '_>,
        request: &Replay<'_>,
        ahead: &mut Ahead<'_, '_, '_>,
    ) -> Result<Option<(Outcome, Counts)>, RegionError> {
        let Session::Cluster(cluster) = session else { return Ok(None) };
        let (lane, steps) = (due.lane, due.steps);
        if request.follows.contains_key(&lane) {
            return Ok(None);
        }
        let units = batch::by_unit(lane, self.settings.lanes, steps, true);
        let mut opened = Vec::with_capacity(units.len());
        for (unit, steps) in units {
            let Some(view) = cluster.remembered(unit, &producers(steps.iter().copied())) else { return Ok(None) };
            if steps.last().is_none_or(|last| Some(&last.position) <= view.mark()) {
                return Ok(None);
            }
            opened.push(Open { unit, view, steps });
        }
        if refusal(&opened, None, request).is_some() {
            return Ok(None);
        }
        let mut session = Session::Cluster(cluster.clone());
        self.apply(&mut session, opened, steps.last(), request, ahead).await.map(Some)
    }

    async fn replay_read(
        &self,
        session: &mut Session,
        due: Due<'_, '_>,
        request: &Replay<'_>,
        ahead: &mut Ahead<'_, '_, '_>,
    ) -> Replayed {
        let Due { lane, steps, view } = due;
        let is_cluster = matches!(session, Session::Cluster(_));
        let mut units = batch::by_unit(lane, self.settings.lanes, steps, is_cluster);
        let follows = request.follows.get(&lane);
        if follows.is_some() {
            // What a feed says holds for the whole lane, so every record of it is compared and moved.
            for unit in batch::all_units(lane, self.settings.lanes, is_cluster) {
                units.entry(unit).or_default();
            }
        }
        let opened = match view {
            // Read ahead on a standalone Redis, where a lane is one unit.
            Some(view) => units.into_iter().map(|(unit, steps)| Open { unit, view: view.clone(), steps }).collect(),
            None => session.open(units).await?,
        };
        if let Some(refused) = refusal(&opened, follows, request) {
            return Ok((self.refused(session, lane, refused, opened, request).await?, Counts::default()));
        }
        self.apply(session, opened, steps.last(), request, ahead).await
    }

    /// What forward is told of a lane that was left alone. Of a lane that is behind it must know the oldest record, so
    /// on a cluster the slots are read, too, that the batch does not speak of.
    async fn refused(
        &self,
        session: &mut Session,
        lane: Lane,
        refused: Refusal,
        opened: Vec<Open<'_, '_>>,
        request: &Replay<'_>,
    ) -> Result<Outcome, RegionError> {
        let reason = match refused {
            Refusal::Held(holder) => return Ok(Outcome::Held { holder }),
            Refusal::OldGeneration(generation) => return Ok(Outcome::OldGeneration { generation }),
            Refusal::Behind(reason) => reason,
        };
        let units = batch::all_units(lane, self.settings.lanes, matches!(session, Session::Cluster(_)));
        let opened = if opened.len() == units.len() {
            opened
        } else {
            session.open(units.into_iter().map(|unit| (unit, Vec::new())).collect()).await?
        };
        let Standing { mark, arrival_ms, replication_id } = standing(&opened, request);
        Ok(Outcome::Behind(Behind { reason, mark, arrival_ms, replication_id }))
    }

    /// Applies the steps of a lane's units, a chunk of each at a time. `last` is the lane's last step in the batch: what
    /// lies before it is applied then, also where it is another slot's.
    async fn apply(
        &self,
        session: &mut Session,
        opened: Vec<Open<'_, '_>>,
        last: Option<&Step<'_>>,
        request: &Replay<'_>,
        ahead: &mut Ahead<'_, '_, '_>,
    ) -> Replayed {
        let is_feed = opened.first().is_some_and(|open| request.follows.contains_key(&open.unit.lane));
        let fed: BTreeSet<Unit> =
            if is_feed { fed(&opened, request).into_iter().map(|open| open.unit).collect() } else { BTreeSet::new() };
        let mut counts = Counts::default();
        let mut runs = Vec::with_capacity(opened.len());
        for open in opened {
            let is_fed = fed.contains(&open.unit);
            runs.push(self.begin(open, is_fed, request, &mut counts).await?);
        }
        while runs.iter().any(|run| run.is_due) {
            self.apply_chunks(session, &mut runs, last, &mut counts, ahead).await?;
        }
        if let Session::Cluster(cluster) = session {
            cluster.remember(runs.iter().filter_map(Run::view));
        }
        // In a feed the oldest record is the lane's mark; else all that were in the batch reach its end.
        let marks = runs.into_iter().filter(|run| run.is_fed == is_feed).map(|run| run.progress.record.mark);
        Ok((Outcome::Applied { mark: marks.min().flatten() }, counts))
    }

    /// Leaves out what is applied already.
    async fn begin<'s, 'a>(
        &self,
        open: Open<'s, 'a>,
        is_fed: bool,
        request: &Replay<'_>,
        counts: &mut Counts,
    ) -> Result<Run<'s, 'a>, RegionError> {
        let Open { unit, view, mut steps } = open;
        if !view.failed.is_empty() {
            self.settle_failed(&view.failed, &steps).await?;
        }
        let delivered = count_changes(&steps);
        steps.retain(|step| Some(&step.position) > view.mark());
        counts.skipped += delivered - count_changes(&steps);
        let View { record, producers, replication_id, failed } = view;
        let clear_failed = !failed.is_empty();
        let is_due = is_fed || clear_failed || !steps.is_empty();
        let next = next_record(record.clone(), request, is_fed, &replication_id);
        let progress = Progress { unit, record: next, last_seqs: producers, clear_failed };
        Ok(Run { seen: record, replication_id, progress, is_fed, steps, done: 0, is_due })
    }

    /// Applies the next chunk of every unit that is due. On a standalone Redis, which has one unit a lane, the record
    /// that is written next is read in the same call: this one again, or the next lane's.
    async fn apply_chunks(
        &self,
        session: &mut Session,
        runs: &mut [Run<'_, '_>],
        last: Option<&Step<'_>>,
        counts: &mut Counts,
        ahead: &mut Ahead<'_, '_, '_>,
    ) -> Result<(), RegionError> {
        let mut due: Vec<&mut Run<'_, '_>> = runs.iter_mut().filter(|run| run.is_due).collect();
        let (mut transactions, mut sent) = (Vec::with_capacity(due.len()), Vec::with_capacity(due.len()));
        for run in &mut due {
            let chunk = next_chunk(&run.steps[run.done..], run.progress.unit.slot.is_some());
            run.done += chunk.len();
            run.is_due = run.done < run.steps.len();
            let upto = if run.is_due { chunk.last().copied() } else { last };
            let upto = upto.filter(|upto| Some(&upto.position) > run.progress.record.mark.as_ref());
            let chunk = self.chunk(session, chunk, upto, run.seen.as_ref(), &mut run.progress).await?;
            counts.add(chunk.counts);
            sent.push(chunk.sent);
            transactions.push(Fenced { transaction: chunk.transaction, seen: run.seen.take() });
        }
        let begun_ms = self.clock.now_ms();
        let again =
            due.iter().find(|run| run.is_due).map(|run| Watch { unit: run.progress.unit, producers: Vec::new() });
        let is_over = again.is_none();
        let (mut executed, mut view) = (Vec::with_capacity(transactions.len()), None);
        match session {
            Session::Standalone(connection) => {
                let watch = again.or_else(|| ahead.record());
                for fenced in transactions {
                    let (answers, read) = fenced.transaction.execute(connection, watch.as_ref()).await?;
                    executed.push(answers);
                    view = watch.as_ref().map(|watch| watch.view(read));
                }
            }
            Session::Cluster(connection) => executed = cluster::execute(connection, &transactions).await?,
        }
        self.meter.chunk(self.clock.now_ms() - begun_ms);
        for ((run, sent), answers) in due.into_iter().zip(sent).zip(executed) {
            counts.add(self.settle(&sent, &answers).await?);
            run.seen = Some(run.progress.record.clone());
        }
        match view {
            // Where it cannot be read, its own lane says so.
            Some(view) if is_over => ahead.found(view.ok()),
            Some(view) => {
                let view = view?;
                runs.iter().try_for_each(|run| run.expect(&view))?;
            }
            None => {}
        }
        Ok(())
    }
}

impl Run<'_, '_> {
    /// Makes sure that the record is as this run wrote it, on the same server.
    fn expect(&self, view: &View) -> Result<(), RegionError> {
        if view.record == self.seen && view.replication_id == self.replication_id {
            return Ok(());
        }
        Err(RegionError::FenceLost { lane: self.progress.unit.lane })
    }

    /// The record as this run left it, where it wrote it.
    fn view(&self) -> Option<(Unit, View)> {
        let view = View {
            record: Some(self.seen.clone()?),
            producers: self.progress.last_seqs.clone(),
            replication_id: self.replication_id.clone(),
            failed: String::new(),
        };
        (self.done > 0).then_some((self.progress.unit, view))
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
    /// Reads the record of every unit.
    async fn open<'s, 'a>(
        &mut self,
        units: BTreeMap<Unit, Vec<&'s Step<'a>>>,
    ) -> Result<Vec<Open<'s, 'a>>, RegionError> {
        let mut opened = Vec::with_capacity(units.len());
        match self {
            Session::Standalone(connection) => {
                for (unit, steps) in units {
                    let view = Watch { unit, producers: producers(steps.iter().copied()) }.open(connection).await?;
                    opened.push(Open { unit, view, steps });
                }
            }
            Session::Cluster(connection) => {
                let wanted: Vec<(Unit, Vec<&str>)> =
                    units.iter().map(|(unit, steps)| (*unit, producers(steps.iter().copied()))).collect();
                let views = cluster::read(connection, &wanted).await?;
                drop(wanted);
                opened.extend(units.into_iter().zip(views).map(|((unit, steps), view)| Open { unit, view, steps }));
            }
        }
        Ok(opened)
    }
}

/// The producers that steps speak of.
pub(super) fn producers<'s, 'a: 's>(steps: impl IntoIterator<Item = &'s Step<'a>>) -> Vec<&'s str> {
    let producers: BTreeSet<&str> =
        steps.into_iter().filter_map(|step| step.producer()).map(|producer| producer.id.as_ref()).collect();
    producers.into_iter().collect()
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
    } else if record.arrival_ms.is_some_and(|arrival_ms| Some(arrival_ms) < request.oldest_ms) {
        Some(Reason::Retention)
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
