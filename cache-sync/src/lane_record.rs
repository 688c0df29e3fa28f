//! The lane record: what a region's Redis remembers of a lane, written together with the changes.
//!
//! Persisted as one Redis hash a lane (see [`crate::keys::lane_record`]), so a chunk updates only what changed and
//! reads only the producers it needs.

use crate::keys;
use crate::position::Position;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Names of the fixed fields, in the order in which [`LaneRecord::from_fields`] reads them.
pub const FIELDS: [&str; 9] =
    ["mark", "shard", "arrival_ms", "stream", "generation", "replication_id", "state", "heartbeat", "verify"];

/// How long a producer's last seq is remembered after its last record, in milliseconds by arrival time.
pub const PRODUCER_MEMORY_MS: i64 = 24 * 3_600_000;
/// Most producers remembered in a lane; the oldest leave.
pub const PRODUCERS_MAX: usize = 10_000;

/// What a lane is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum State {
    /// Takes what the mapping delivers.
    Ready,
    /// Takes only a write that names the exact mark it follows.
    Feeding,
    /// Paused while the named run rewrites it.
    Held(String),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Ready => f.write_str("ready"),
            State::Feeding => f.write_str("feeding"),
            State::Held(holder) => write!(f, "held:{holder}"),
        }
    }
}

/// A field of a lane record that this version does not write.
#[derive(Debug, thiserror::Error)]
#[error("lane record field {field} holds {value:?}")]
pub struct LaneRecordError {
    field: &'static str,
    value: String,
}

impl FromStr for State {
    type Err = LaneRecordError;

    fn from_str(text: &str) -> Result<Self, LaneRecordError> {
        match text {
            "ready" => Ok(State::Ready),
            "feeding" => Ok(State::Feeding),
            _ => match text.strip_prefix("held:") {
                Some(holder) => Ok(State::Held(holder.to_owned())),
                None => Err(LaneRecordError { field: "state", value: text.to_owned() }),
            },
        }
    }
}

impl TryFrom<String> for State {
    type Error = LaneRecordError;

    fn try_from(text: String) -> Result<Self, LaneRecordError> {
        text.parse()
    }
}

impl From<State> for String {
    fn from(state: State) -> String {
        state.to_string()
    }
}

/// A producer's last number in a lane, and when its record arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastSeq {
    /// The last seq that was applied.
    pub seq: u64,
    /// Arrival of that record, in milliseconds since the epoch.
    pub arrival_ms: i64,
}

impl fmt::Display for LastSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.seq, self.arrival_ms)
    }
}

impl FromStr for LastSeq {
    type Err = LaneRecordError;

    fn from_str(text: &str) -> Result<Self, LaneRecordError> {
        text.split_once(' ')
            .and_then(|(seq, arrival)| Some(Self { seq: seq.parse().ok()?, arrival_ms: arrival.parse().ok()? }))
            .ok_or_else(|| LaneRecordError { field: "p:", value: text.to_owned() })
    }
}

/// Each producer's last seq, by producer ID.
pub type Producers = BTreeMap<String, LastSeq>;

/// The fixed part of a lane record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneRecord {
    /// Position of the last change applied; `None` before the first.
    pub mark: Option<Position>,
    /// Shard it was read from.
    pub shard: Option<String>,
    /// Arrival time of the record at the mark, in milliseconds since the epoch.
    pub arrival_ms: Option<i64>,
    /// Identity of the stream.
    pub stream: Option<String>,
    /// Mapping generation of the last writer.
    pub generation: u64,
    /// The server's replication ID when the lane last became ready.
    pub replication_id: Option<String>,
    /// What the lane is doing.
    pub state: State,
    /// Number of the last heartbeat.
    pub heartbeat: Option<u64>,
    /// Position of the first refused change of which no key could be told, since the lane was loaded: what it was meant
    /// for may hold an old value, so the lane is to be verified.
    pub verify: Option<Position>,
}

impl LaneRecord {
    /// The record of a lane of which nothing is known.
    #[must_use]
    pub fn unmarked() -> Self {
        Self {
            mark: None,
            shard: None,
            arrival_ms: None,
            stream: None,
            generation: 0,
            replication_id: None,
            state: State::Feeding,
            heartbeat: None,
            verify: None,
        }
    }

    /// Reads the values of [`FIELDS`]; `None` where there is no record.
    ///
    /// # Errors
    /// Where a field holds what this version does not write.
    pub fn from_fields(fields: &[Option<String>]) -> Result<Option<Self>, LaneRecordError> {
        let field = |index: usize| fields.get(index).cloned().flatten();
        let Some(state) = field(6) else { return Ok(None) };
        Ok(Some(Self {
            mark: parse("mark", field(0))?,
            shard: field(1),
            arrival_ms: parse("arrival_ms", field(2))?,
            stream: field(3),
            generation: parse("generation", field(4))?.unwrap_or(0),
            replication_id: field(5),
            state: state.parse()?,
            heartbeat: parse("heartbeat", field(7))?,
            verify: parse("verify", field(8))?,
        }))
    }

    /// The fields that are set, as names and values to write.
    #[must_use]
    pub fn to_fields(&self) -> Vec<(&'static str, String)> {
        let values = [
            self.mark.as_ref().map(ToString::to_string),
            self.shard.clone(),
            self.arrival_ms.map(|at| at.to_string()),
            self.stream.clone(),
            Some(self.generation.to_string()),
            self.replication_id.clone(),
            Some(self.state.to_string()),
            self.heartbeat.map(|number| number.to_string()),
            self.verify.as_ref().map(ToString::to_string),
        ];
        let fields = FIELDS.iter().zip(values);
        fields.filter_map(|(name, value)| value.map(|value| (*name, value))).collect()
    }
}

fn parse<T: FromStr>(field: &'static str, value: Option<String>) -> Result<Option<T>, LaneRecordError> {
    value.map(|value| value.parse().map_err(|_| LaneRecordError { field, value })).transpose()
}

/// Reads a whole lane record, producers too, from its hash's fields and values.
///
/// # Errors
/// Where a field holds what this version does not write.
pub fn from_hash(hash: &BTreeMap<String, String>) -> Result<Option<(LaneRecord, Producers)>, LaneRecordError> {
    let fields: Vec<Option<String>> = FIELDS.iter().map(|name| hash.get(*name).cloned()).collect();
    let Some(record) = LaneRecord::from_fields(&fields)? else { return Ok(None) };
    let prefix = keys::producer_field("");
    let producers = hash
        .iter()
        .filter_map(|(name, value)| name.strip_prefix(&prefix).map(|id| (id, value)))
        .map(|(id, value)| Ok((id.to_owned(), value.parse()?)))
        .collect::<Result<_, LaneRecordError>>()?;
    Ok(Some((record, producers)))
}

/// Producers that a lane forgets.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Their IDs.
    pub producers: Vec<String>,
    /// How many of them go before their time, because the lane has too many: a late retry of theirs would be applied.
    pub crowded_out: usize,
}

/// Which producers to forget at `arrival_ms`: those silent for longer than [`PRODUCER_MEMORY_MS`], and the oldest
/// beyond [`PRODUCERS_MAX`]. Arrival times decide, never a wall clock, so that every region forgets alike.
#[must_use]
pub fn to_forget(producers: &Producers, arrival_ms: i64) -> Forgotten {
    let mut by_age: Vec<(&String, i64)> = producers.iter().map(|(id, last)| (id, last.arrival_ms)).collect();
    by_age.sort_by_key(|(_, arrival)| *arrival);
    let surplus = by_age.len().saturating_sub(PRODUCERS_MAX);
    let silent = by_age.partition_point(|(_, arrival)| *arrival < arrival_ms - PRODUCER_MEMORY_MS);
    let producers = by_age.iter().take(surplus.max(silent)).map(|(id, _)| (*id).clone()).collect();
    Forgotten { producers, crowded_out: surplus.saturating_sub(silent) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_state_means_no_record() {
        assert_eq!(LaneRecord::from_fields(&[const { None }; 9]).unwrap(), None);
    }

    #[test]
    fn a_field_that_was_tampered_with_is_an_error_that_names_it() {
        let hash = BTreeMap::from([("state".into(), "ready".into()), ("mark".into(), "x".into())]);
        assert_eq!(from_hash(&hash).unwrap_err().to_string(), "lane record field mark holds \"x\"");
    }

    #[test]
    fn silent_producers_and_the_oldest_beyond_the_bound_are_forgotten() {
        let last = |arrival_ms| LastSeq { seq: 1, arrival_ms };
        let mut producers = Producers::from([("old".into(), last(0)), ("new".into(), last(PRODUCER_MEMORY_MS))]);
        let forgotten = |producers: &[&str], crowded_out| Forgotten {
            producers: producers.iter().map(|id| (*id).to_owned()).collect(),
            crowded_out,
        };
        assert_eq!(to_forget(&producers, PRODUCER_MEMORY_MS), forgotten(&[], 0));
        assert_eq!(to_forget(&producers, PRODUCER_MEMORY_MS + 1), forgotten(&["old"], 0));
        producers = (0..PRODUCERS_MAX + 2).map(|n| (n.to_string(), last(n as i64))).collect();
        assert_eq!(to_forget(&producers, 0), forgotten(&["0", "1"], 2));
        assert_eq!(to_forget(&producers, PRODUCER_MEMORY_MS + 1), forgotten(&["0", "1"], 1));
    }

    proptest! {
        #[test]
        fn a_record_survives_its_fields(
            mark in proptest::option::of((any::<u64>(), any::<u32>())),
            arrival_ms: Option<i64>,
            generation: u64,
            heartbeat: Option<u64>,
            holder in proptest::option::of("[a-z0-9-]{1,20}"),
            seq: u64,
        ) {
            let record = LaneRecord {
                mark: mark.map(|(sequence, index)| format!("{sequence}:{index}").parse().unwrap()),
                shard: Some("shardId-000000000000".into()),
                arrival_ms,
                stream: Some("arn@1".into()),
                generation,
                replication_id: None,
                state: holder.map_or(State::Feeding, State::Held),
                heartbeat,
                verify: mark.map(|(sequence, index)| format!("{sequence}:{index}").parse().unwrap()),
            };
            let last = LastSeq { seq, arrival_ms: 5 };
            let fields = record.to_fields().into_iter().map(|(name, value)| (name.to_owned(), value));
            let mut hash: BTreeMap<String, String> = fields.collect();
            hash.insert("p:8f".into(), last.to_string());
            let (read, producers) = from_hash(&hash).unwrap().unwrap();
            prop_assert_eq!(read, record);
            prop_assert_eq!(producers, Producers::from([("8f".into(), last)]));
        }
    }
}
