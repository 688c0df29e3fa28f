//! Every name that this crate builds: Redis keys, object keys, function names.

use crate::lane::Lane;
use crate::position::Position;

/// Redis key of a lane's record.
#[must_use]
pub fn lane_record(lane: Lane) -> String {
    format!("tidemark:lane:{lane}")
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
    format!("quarantine/{lane}/{:0>129}-{:010}.json", position.sequence.as_str(), position.index)
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
