//! Every name that this crate builds: Redis keys, object keys, function names.

use crate::change::Reference;
use crate::lane::{Lane, SLOTS, slot as slot_of};
use crate::position::Position;
use std::sync::LazyLock;

/// Redis key of a lane's record.
#[must_use]
pub fn lane_record(lane: Lane) -> String {
    format!("tidemark:lane:{lane}")
}

/// Redis key of the record of one slot of a lane, on a cluster: its hash tag makes it live in that slot.
#[must_use]
pub fn slot_record(lane: Lane, slot: u16) -> String {
    format!("tidemark:lane:{lane}:{{{}}}", slot_tag(slot))
}

/// Redis key under which the value of a large change is built before it takes the key's place; in the key's slot, and
/// never the same twice.
#[must_use]
pub fn aside(slot: u16) -> String {
    format!("tidemark:aside:{{{}}}:{}", slot_tag(slot), uuid::Uuid::new_v4().simple())
}

/// The smallest decimal number whose slot is `slot`.
fn slot_tag(slot: u16) -> u32 {
    static TAGS: LazyLock<Vec<u32>> = LazyLock::new(|| {
        let mut tags = vec![u32::MAX; usize::from(SLOTS)];
        let mut left = tags.len();
        for number in 0..u32::MAX {
            let tag = &mut tags[usize::from(slot_of(number.to_string().as_bytes()))];
            if *tag == u32::MAX {
                *tag = number;
                left -= 1;
            }
            if left == 0 {
                break;
            }
        }
        tags
    });
    TAGS[usize::from(slot % SLOTS)]
}

/// Field of a lane record that holds a producer's last seq.
#[must_use]
pub fn producer_field(producer: &str) -> String {
    format!("p:{producer}")
}

/// Object of a quarantined change.
#[must_use]
pub fn quarantine(partition_key: &str, position: &Position) -> String {
    let lane: String = partition_key.chars().filter(char::is_ascii_alphanumeric).take(32).collect();
    format!("{QUARANTINE}{lane}/{:0>129}-{:010}.json", position.sequence.as_str(), position.index)
}

/// Prefix of quarantined changes.
pub const QUARANTINE: &str = "quarantine/";
/// How the object beside a quarantined change ends that says that it was retried.
const RETRIED: &str = ".retried.json";

/// Object that says that the change in the quarantine object `object` was retried.
#[must_use]
pub fn retried(object: &str) -> String {
    format!("{}{RETRIED}", object.strip_suffix(".json").unwrap_or(object))
}

/// Lane and position in the name of a quarantine object; `None` for any other name.
#[must_use]
pub fn quarantined(object: &str) -> Option<(&str, Position)> {
    let (lane, rest) = object.strip_prefix(QUARANTINE)?.split_once('/')?;
    let (sequence, index) = rest.strip_suffix(".json")?.split_once('-')?;
    let sequence = Some(sequence.trim_start_matches('0')).filter(|digits| !digits.is_empty()).unwrap_or("0");
    let position = Position { sequence: sequence.parse().ok()?, index: index.parse().ok()? };
    Some((lane, position))
}

/// Prefix of everything that belongs to one snapshot.
#[must_use]
pub fn snapshot_prefix(snapshot: &str) -> String {
    format!("snapshots/{snapshot}/")
}

/// A snapshot's manifest: its commit.
#[must_use]
pub fn snapshot_manifest(snapshot: &str) -> String {
    format!("snapshots/{snapshot}/manifest.json")
}

/// One part of an export under `prefix`.
#[must_use]
pub fn part(prefix: &str, lane: Lane, number: usize) -> String {
    format!("{prefix}lane-{:05}/part-{number:05}.zst", lane.0)
}

/// Prefix of what a load of a region needs besides the snapshot: its key listing and the stream's tails.
#[must_use]
pub fn load_prefix(run: &str) -> String {
    format!("loads/{run}/")
}

/// The stream's records of one lane from a snapshot's start mark on, one event record a line.
#[must_use]
pub fn tail(run: &str, lane: Lane) -> String {
    format!("loads/{run}/lane-{:05}/tail.ndjson", lane.0)
}

/// Name of the regional function.
pub const REPLAY_FUNCTION: &str = "tidemark-cache-replay";

/// A value that travels by reference; a change with another name for it is refused.
#[must_use]
pub fn value(sha256_hex: &str) -> String {
    Reference::object_of(sha256_hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_of_a_slot_lives_in_that_slot() {
        for slot in 0..SLOTS {
            assert_eq!(slot_of(slot_record(Lane(3), slot).as_bytes()), slot);
            assert_eq!(slot_of(aside(slot).as_bytes()), slot);
        }
    }

    #[test]
    fn the_name_of_a_quarantine_object_tells_lane_and_position() {
        let position: Position = "00490:7".parse().unwrap_or_else(|_| unreachable!());
        let object = quarantine("12", &position);
        assert_eq!(quarantined(&object), Some(("12", position)));
        assert_eq!(quarantined(&retried(&object)), None);
        assert!(retried(&object).starts_with(object.trim_end_matches(".json")));
    }
}
