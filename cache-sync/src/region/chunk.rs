//! One chunk of a unit's steps as one transaction, and what its answers say.

use super::batch::{Step, What};
use super::commands::{self, Ending, Sent};
use super::connection::Session;
use super::fence::{FAILED_FIELD, Transaction, Unit};
use super::{Region, RegionError, cluster};
use crate::change::{Body, Change, Command, Producer, Refused};
use crate::keys;
use crate::lane::Lane;
use crate::lane_record::{Forgotten, LaneRecord, LastSeq, Producers, from_hash, to_forget};
use crate::protocol::Counts;
use crate::record::Heartbeat;
use std::collections::{BTreeMap, HashSet};

/// Most changes in one fenced transaction.
pub const CHUNK_CHANGES_MAX: usize = 1_000;
/// A transaction is cut when its changes have this many bytes.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Most changes in one transaction of a cluster, whose scripts take a bounded number of arguments.
const CLUSTER_CHANGES_MAX: usize = 250;
/// On a cluster every slot's record remembers producers; each looks for silent ones once in so many heartbeats.
const FORGET_EVERY: u64 = 60;

/// A chunk under way: what it will write, and what must be looked at in the answers.
pub(super) struct Chunk<'s, 'a> {
    pub(super) transaction: Transaction,
    pub(super) sent: Vec<Sent<'s, 'a>>,
    pub(super) counts: Counts,
}

/// A unit's record and producers as the next chunk will find them.
pub(super) struct Progress {
    pub(super) unit: Unit,
    pub(super) record: LaneRecord,
    pub(super) last_seqs: Producers,
    /// Whether the record names failed changes that are in quarantine by now.
    pub(super) clear_failed: bool,
}

/// What is to be done with one step of a chunk.
enum Plan<'s, 'a> {
    Nothing,
    Refuse(&'s Refused),
    Foreign(Refused),
    Apply(&'s Change<'a>),
}

impl Region {
    /// Builds the transaction of one chunk and moves `progress` to what it will write: the mark at `upto`, where it is
    /// given. `before` is the record as the transaction will find it.
    pub(super) async fn chunk<'s, 'a>(
        &self,
        session: &mut Session,
        steps: &[&'s Step<'a>],
        upto: Option<&Step<'_>>,
        before: Option<&LaneRecord>,
        progress: &mut Progress,
    ) -> Result<Chunk<'s, 'a>, RegionError> {
        let (unit, lane) = (progress.unit, progress.unit.lane);
        let mut chunk = Chunk {
            transaction: Transaction::new(unit),
            sent: Vec::with_capacity(steps.len()),
            counts: Counts::default(),
        };
        let mut seen = Producers::new();
        let plans = self.plans(lane, steps, &mut chunk.counts, &mut progress.last_seqs, &mut seen);
        let mut beat = None;
        for step in steps {
            if let What::Heartbeat(Heartbeat { heartbeat: number, .. }) = step.what {
                progress.record.heartbeat = progress.record.heartbeat.max(Some(number));
                beat = Some((number, step.arrival_ms));
            }
        }
        let untold =
            steps.iter().zip(&plans).find(|(_, plan)| matches!(plan, Plan::Refuse(refused) if refused.keys.is_empty()));
        if let (None, Some((step, _))) = (&progress.record.verify, untold) {
            progress.record.verify = Some(step.position.clone());
        }
        if let Some(upto) = upto {
            progress.record.mark = Some(upto.position.clone());
            progress.record.shard = Some(upto.record.shard().to_owned());
            progress.record.arrival_ms = Some(upto.arrival_ms);
        }
        // First, because a script that is short of memory fails at its first write and at no other.
        write_record(&mut chunk.transaction, &progress.record, before, &seen);
        if std::mem::take(&mut progress.clear_failed) {
            let mut clear = redis::cmd("HDEL");
            clear.arg(unit.record_key()).arg(FAILED_FIELD);
            chunk.transaction.add(clear);
        }
        let now_ms = self.clock.now_ms();
        for (step, plan) in steps.iter().zip(plans) {
            if matches!(plan, Plan::Apply(_)) {
                chunk.counts.lag_ms_max = chunk.counts.lag_ms_max.max(now_ms - step.arrival_ms);
            }
            match plan {
                Plan::Nothing => {}
                Plan::Refuse(refused) => self.refuse(&mut chunk, step, refused).await?,
                Plan::Foreign(refused) => self.refuse(&mut chunk, step, &refused).await?,
                Plan::Apply(change) => self.add_change(session, &mut chunk, step, change).await?,
            }
        }
        if let Some((number, arrival_ms)) = beat
            && unit.slot.is_none_or(|slot| number % FORGET_EVERY == u64::from(slot) % FORGET_EVERY)
        {
            chunk.counts.crowded_out += forget_producers(session, &mut chunk.transaction, arrival_ms).await?;
        }
        Ok(chunk)
    }

    /// What to do with each step: producers' repetitions are left out, and so are changes of which a later one of the
    /// same chunk leaves nothing.
    fn plans<'s, 'a>(
        &self,
        lane: Lane,
        steps: &[&'s Step<'a>],
        counts: &mut Counts,
        last_seqs: &mut Producers,
        seen: &mut Producers,
    ) -> Vec<Plan<'s, 'a>> {
        let mut plans: Vec<Plan<'s, 'a>> = Vec::with_capacity(steps.len());
        for step in steps {
            plans.push(match &step.what {
                What::Heartbeat(_) => Plan::Nothing,
                _ if is_repeated(step.producer(), step.arrival_ms, last_seqs, seen) => {
                    counts.repeated += 1;
                    Plan::Nothing
                }
                What::Refused(refused) => Plan::Refuse(refused),
                What::Change(change) => match self.foreign(lane, change) {
                    Some(refused) => Plan::Foreign(refused),
                    None => Plan::Apply(change),
                },
            });
        }
        let mut replaced: HashSet<&[u8]> = HashSet::with_capacity(steps.len());
        for plan in plans.iter_mut().rev() {
            let Plan::Apply(change) = plan else { continue };
            let commands: &[Command<'_>] = match &change.body {
                Body::Commands(commands) => commands,
                Body::Reference(_) => continue,
            };
            if commands::cannot_fail(commands) && replaced.contains(change.key.as_ref()) {
                counts.applied += 1;
                counts.coalesced += 1;
                *plan = Plan::Nothing;
            } else if commands::replaces(commands) {
                replaced.insert(change.key.as_ref());
            }
        }
        plans
    }

    async fn add_change<'s, 'a>(
        &self,
        session: &mut Session,
        chunk: &mut Chunk<'s, 'a>,
        step: &'s Step<'a>,
        change: &Change<'_>,
    ) -> Result<(), RegionError> {
        let Chunk { transaction, sent, .. } = &mut *chunk;
        match &change.body {
            Body::Commands(list) => {
                commands::add(transaction, sent, step, &change.key, list, change.base_ms(step.arrival_ms));
            }
            Body::Reference(reference) => match self.build_aside(session, &change.key, reference).await? {
                Ok(aside) => {
                    let expires_at_ms = reference.expires_at_ms;
                    sent.push(commands::adopt(transaction, step, aside, &change.key, expires_at_ms));
                }
                Err(reason) => {
                    let refused = Refused { keys: vec![change.key.to_vec()], reason, producer: None };
                    return self.refuse(chunk, step, &refused).await;
                }
            },
        }
        chunk.counts.applied += 1;
        Ok(())
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
        Some(Refused::of_no_key(reason))
    }

    /// Quarantines a change and deletes its keys as far as they are this unit's and in scope.
    async fn refuse(&self, chunk: &mut Chunk<'_, '_>, step: &Step<'_>, refused: &Refused) -> Result<(), RegionError> {
        let unit = chunk.transaction.unit;
        let ours = |key: &&Vec<u8>| self.settings.lanes.of_key(key) == unit.lane && self.settings.scope.contains(key);
        let keys: Vec<Vec<u8>> = refused.keys.iter().filter(ours).cloned().collect();
        self.quarantine(step.record, &step.position, &refused.reason, &keys).await?;
        for key in keys.iter().filter(|key| unit.covers(key)) {
            chunk.transaction.add(commands::delete(key));
        }
        chunk.counts.quarantined += 1;
        Ok(())
    }

    /// Looks at what Redis answered: a change that failed was deleted with its key and goes to quarantine.
    pub(super) async fn settle(&self, sent: &[Sent<'_, '_>], answers: &[redis::Value]) -> Result<Counts, RegionError> {
        let mut counts = Counts::default();
        for sent in sent.chunk_by(|one, next| std::ptr::eq(one.step, next.step)) {
            let mut failure = None;
            for ending in sent.iter().map(|sent| sent.ending(answers)) {
                match ending {
                    Ending::Applied => {}
                    Ending::Missed => counts.missed += 1,
                    Ending::Failed(reason) => failure = failure.or(Some(reason)),
                }
            }
            if let Some(reason) = failure {
                self.quarantine_failed(sent[0].step, &reason).await?;
                counts.quarantined += 1;
            }
        }
        Ok(counts)
    }

    /// Puts those steps into quarantine that the record says have failed: an invocation that ended between its
    /// transaction and its quarantine left them.
    pub(super) async fn settle_failed(&self, failed: &str, steps: &[&Step<'_>]) -> Result<(), RegionError> {
        for line in failed.lines() {
            let Some((position, reason)) = line.split_once(' ') else { continue };
            if let Some(step) = steps.iter().find(|step| step.position.to_string() == position) {
                self.quarantine_failed(step, reason).await?;
            }
        }
        Ok(())
    }

    async fn quarantine_failed(&self, step: &Step<'_>, reason: &str) -> Result<(), RegionError> {
        let What::Change(change) = &step.what else { return Ok(()) };
        self.quarantine(step.record, &step.position, reason, &[change.key.to_vec()]).await
    }
}

/// The first of a unit's steps, as many as one transaction takes.
pub(super) fn next_chunk<'c, 's, 'a>(steps: &'c [&'s Step<'a>], is_cluster: bool) -> &'c [&'s Step<'a>] {
    let changes_max = if is_cluster { CLUSTER_CHANGES_MAX } else { CHUNK_CHANGES_MAX };
    let mut bytes = 0;
    let fits = steps.iter().take(changes_max).take_while(|step| {
        let fits = bytes == 0 || bytes + step.transaction_bytes() <= CHUNK_BYTES_MAX;
        bytes += step.transaction_bytes();
        fits
    });
    &steps[..fits.count()]
}

/// Whether the producer's number says that the change was applied before; remembers it where not.
fn is_repeated(
    producer: Option<&Producer<'_>>,
    arrival_ms: i64,
    last_seqs: &mut Producers,
    seen: &mut Producers,
) -> bool {
    let Some(producer) = producer else { return false };
    if last_seqs.get(producer.id.as_ref()).is_some_and(|last| producer.seq <= last.seq) {
        return true;
    }
    let last = LastSeq { seq: producer.seq, arrival_ms };
    for seqs in [last_seqs, seen] {
        match seqs.get_mut(producer.id.as_ref()) {
            Some(entry) => *entry = last,
            None => drop(seqs.insert(producer.id.clone().into_owned(), last)),
        }
    }
    false
}

/// Adds the lane record to a transaction: what is another than `before`, which the fence makes sure of, and always the
/// mark and the state.
pub(super) fn write_record(
    transaction: &mut Transaction,
    record: &LaneRecord,
    before: Option<&LaneRecord>,
    producers: &Producers,
) {
    let key = transaction.unit.record_key();
    let before = before.map(LaneRecord::to_fields).unwrap_or_default();
    let mut write = redis::cmd("HSET");
    write.arg(&key);
    for field in record.to_fields() {
        if matches!(field.0, "mark" | "state") || !before.contains(&field) {
            write.arg(field.0).arg(field.1);
        }
    }
    transaction.add(write);
    for some in producers.iter().collect::<Vec<_>>().chunks(cluster::ARGUMENTS_MAX / 4) {
        let mut write = redis::cmd("HSET");
        write.arg(&key);
        for (producer, last) in some {
            write.arg(keys::producer_field(producer)).arg(last.to_string());
        }
        transaction.add(write);
    }
}

/// Lets go of producers that have been silent too long, or are too many; looked at once a heartbeat, not once a chunk.
/// Returns how many go before their time.
async fn forget_producers(
    session: &mut Session,
    transaction: &mut Transaction,
    arrival_ms: i64,
) -> Result<u64, RegionError> {
    let (key, lane) = (transaction.unit.record_key(), transaction.unit.lane);
    let mut read = redis::cmd("HGETALL");
    read.arg(&key);
    let hash: BTreeMap<String, String> = session.ask(&read).await?;
    let read = from_hash(&hash).map_err(|source| RegionError::LaneRecord { lane, source })?;
    let Some((_, producers)) = read else { return Ok(0) };
    let Forgotten { producers: forgotten, crowded_out } = to_forget(&producers, arrival_ms);
    if !forgotten.is_empty() {
        let mut forget = redis::cmd("HDEL");
        forget.arg(&key);
        for producer in &forgotten {
            forget.arg(keys::producer_field(producer));
        }
        transaction.add(forget);
        tracing::info!(%lane, forgotten = forgotten.len(), crowded_out, "producers forgotten");
    }
    Ok(crowded_out as u64)
}
