//! A batch as replay works on it: its changes decoded, by lane and in order.

use super::RegionError;
use super::fence::Unit;
use crate::change::{Body, Change, Producer, Refused};
use crate::event::{Event, EventRecord};
use crate::lane::{Lane, Lanes, slot};
use crate::position::{Position, Sequence};
use crate::record::{Content, Data, Heartbeat, Undecodable};
use std::collections::BTreeMap;
use tidemark_runtime::logs::full_message;

/// The records' data, ready to be decoded; what is decoded borrows from it.
#[derive(Debug)]
pub struct BatchData<'e> {
    records: Vec<(&'e EventRecord<'e>, Result<Data, Undecodable>)>,
}

impl<'e> BatchData<'e> {
    /// Takes the data of an event's records.
    #[must_use]
    pub fn new(event: &'e Event<'e>) -> Self {
        let data = |record: &'e EventRecord<'e>| (record, Data::from_base64(&record.kinesis.data));
        Self { records: event.records.iter().map(data).collect() }
    }
}

/// A decoded batch.
#[derive(Debug, Default)]
pub struct Batch<'a> {
    /// Each lane's steps, in stream order.
    pub(super) lanes: BTreeMap<Lane, Vec<Step<'a>>>,
    /// Records whose partition key is no lane.
    pub(super) strays: Vec<&'a EventRecord<'a>>,
    pub(super) records: usize,
    pub(super) bytes: usize,
}

/// One change, heartbeat or fault of a lane.
#[derive(Debug)]
pub(super) struct Step<'a> {
    pub(super) position: Position,
    pub(super) record: &'a EventRecord<'a>,
    pub(super) arrival_ms: i64,
    pub(super) bytes: usize,
    pub(super) what: What<'a>,
}

#[derive(Debug)]
pub(super) enum What<'a> {
    Heartbeat(Heartbeat),
    Change(Change<'a>),
    Refused(Refused),
}

impl<'a> Batch<'a> {
    /// Decodes every record; what cannot be decoded becomes a refused step.
    ///
    /// # Errors
    /// [`RegionError::Request`] where a record has no sequence number: such an event is no mapping's.
    pub fn decode(data: &'a BatchData<'a>, lanes: Lanes) -> Result<Self, RegionError> {
        let mut batch = Self { records: data.records.len(), ..Self::default() };
        for (record, data) in &data.records {
            batch.bytes += record.kinesis.data.len();
            match lanes.of_partition_key(&record.kinesis.partition_key) {
                Some(lane) => add_steps(batch.lanes.entry(lane).or_default(), record, data)?,
                None => batch.strays.push(record),
            }
        }
        Ok(batch)
    }

    /// Refuses the changes whose values cannot be had; they would keep their lane for ever.
    pub(super) fn refuse_unobtainable(&mut self, unobtainable: &BTreeMap<String, String>) {
        if unobtainable.is_empty() {
            return;
        }
        for step in self.lanes.values_mut().flatten() {
            if let What::Change(Change { key, body: Body::Reference(reference), .. }) = &step.what
                && let Some(reason) = unobtainable.get(&reference.object)
            {
                let producer = step.producer().cloned().map(Producer::into_owned);
                step.what = What::Refused(Refused { keys: vec![key.to_vec()], reason: reason.clone(), producer });
            }
        }
    }
}

impl Step<'_> {
    pub(super) fn producer(&self) -> Option<&Producer<'_>> {
        match &self.what {
            What::Change(change) => change.producer.as_ref(),
            What::Refused(refused) => refused.producer.as_ref(),
            What::Heartbeat(_) => None,
        }
    }

    /// What the step adds to a transaction, in bytes; a value on S3 is built aside and adds none.
    pub(super) fn transaction_bytes(&self) -> usize {
        match &self.what {
            What::Change(Change { body: Body::Commands(_), .. }) => self.bytes,
            _ => 0,
        }
    }

    /// The slots of its lane whose record it moves; `None`: all of them.
    fn slots(&self, lane: Lane, lanes: Lanes) -> Option<Vec<u16>> {
        let of_lane = |key: &[u8]| Some(slot(key)).filter(|slot| lanes.of_slot(*slot) == lane);
        let mut slots: Vec<u16> = match &self.what {
            What::Heartbeat(_) => return None,
            What::Change(change) => of_lane(&change.key).into_iter().collect(),
            What::Refused(refused) => refused.keys.iter().filter_map(|key| of_lane(key)).collect(),
        };
        // What touches no key of the lane is noted once, in its first slot.
        if slots.is_empty() {
            slots.push(lanes.slots(lane).start);
        }
        slots.sort_unstable();
        slots.dedup();
        Some(slots)
    }
}

/// The steps that each record of a lane covers: the lane's own on a standalone Redis, each slot's on a cluster.
pub(super) fn by_unit<'s, 'a>(
    lane: Lane,
    lanes: Lanes,
    steps: &'s [Step<'a>],
    is_cluster: bool,
) -> BTreeMap<Unit, Vec<&'s Step<'a>>> {
    if !is_cluster {
        return BTreeMap::from([(Unit::lane(lane), steps.iter().collect())]);
    }
    let mut units: BTreeMap<Unit, Vec<&Step<'_>>> = BTreeMap::new();
    for step in steps {
        match step.slots(lane, lanes) {
            Some(slots) => {
                for slot in slots {
                    units.entry(Unit { lane, slot: Some(slot) }).or_default().push(step);
                }
            }
            None => {
                for unit in all_units(lane, lanes, true) {
                    units.entry(unit).or_default().push(step);
                }
            }
        }
    }
    units
}

/// Every unit of a lane.
pub(super) fn all_units(lane: Lane, lanes: Lanes, is_cluster: bool) -> Vec<Unit> {
    if !is_cluster {
        return vec![Unit::lane(lane)];
    }
    lanes.slots(lane).map(|slot| Unit { lane, slot: Some(slot) }).collect()
}

fn add_steps<'a>(
    steps: &mut Vec<Step<'a>>,
    record: &'a EventRecord<'a>,
    data: &'a Result<Data, Undecodable>,
) -> Result<(), RegionError> {
    let sequence: Sequence = sequence(record)?;
    let arrival_ms = record.arrival_ms();
    let bytes = data.as_ref().map_or(0, Data::len_bytes);
    let mut add = |index: usize, bytes, what| {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        steps.push(Step { position: Position { sequence: sequence.clone(), index }, record, arrival_ms, bytes, what });
    };
    let undecodable = |error: &Undecodable| What::Refused(Refused::of_no_key(full_message(error)));
    match data.as_ref().map(|data| data.decode(&record.kinesis.partition_key)) {
        Ok(Ok(Content::Heartbeat(heartbeat))) => add(0, bytes, What::Heartbeat(heartbeat)),
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

/// The record's sequence number.
pub(super) fn sequence(record: &EventRecord<'_>) -> Result<Sequence, RegionError> {
    record
        .kinesis
        .sequence_number
        .parse()
        .map_err(|error: crate::position::PositionError| RegionError::Request(serde::de::Error::custom(error)))
}
