//! What the regional function is asked and answers; the only way to a region's Redis.
//!
//! A request is one JSON object with the operation's name as its only field: `{"replay":{…}}`.

use crate::change::Reference;
use crate::lane::Lane;
use crate::lane_record::{LaneRecord, Producers};
use crate::position::Position;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// What the regional function is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request<'a> {
    /// Apply a batch.
    #[serde(borrow)]
    Replay(Replay<'a>),
    /// Report every lane.
    Status {},
    /// Report up to where some slots' keys are applied.
    Marks {
        /// The slots; on a standalone Redis each answers its lane's mark.
        slots: Vec<u16>,
    },
    /// Read one key.
    Get {
        /// The key.
        key: String,
    },
    /// Write a snapshot of the keys in scope to the region's bucket.
    Snapshot {
        /// Its ID.
        id: String,
    },
    /// Write the names of the keys in scope, by lane, to the region's bucket.
    List {
        /// The run that asks.
        run: String,
    },
    /// Hold a lane.
    Hold {
        /// The lane.
        lane: Lane,
        /// The run that holds it.
        holder: String,
    },
    /// Rewrite a held lane and let it go.
    Load(Box<Load>),
}

/// A batch with what forward must tell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replay<'a> {
    /// The event as the mapping delivered it, unparsed; the first field, so that forward writes all else behind it.
    #[serde(borrow)]
    pub event: &'a RawValue,
    /// Identity of the stream: its ARN and creation time.
    pub stream: String,
    /// Mapping generation of the forward that passes it on.
    pub generation: u64,
    /// Arrival of the oldest record that the stream still keeps, in milliseconds since the epoch.
    #[serde(default)]
    pub oldest_ms: Option<i64>,
    /// For lanes being fed: the exact record that this batch follows. Other lanes must be ready.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub follows: BTreeMap<Lane, Follows>,
    /// Whether the lanes in `follows` become ready: the stream was read on to its tip behind the marks that they name.
    /// A lane may be joined by a batch that holds nothing of it.
    #[serde(default)]
    pub join: bool,
    /// Objects that changes refer to and that cannot be had, with the reason: such a change is refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unobtainable: BTreeMap<String, String>,
}

/// What a fed write must find in the lane record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follows {
    /// The mark it follows; `None`: there is no mark yet.
    pub mark: Option<Position>,
    /// The server's replication ID when the feed began.
    pub replication_id: String,
}

/// What came of a batch.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReplayAnswer {
    /// What came of each lane in the batch.
    pub lanes: BTreeMap<Lane, Outcome>,
    /// Counts over all lanes.
    pub counts: Counts,
}

impl ReplayAnswer {
    /// The values that the region lacks.
    #[must_use]
    pub fn missing(&self) -> Vec<Reference> {
        let missing = |outcome: &Outcome| match outcome {
            Outcome::Missing { objects } => objects.clone(),
            _ => Vec::new(),
        };
        self.lanes.values().flat_map(missing).collect()
    }

    /// Takes in what came of a second delivery of the same batch, for the lanes that lacked values in the first.
    pub fn complete(&mut self, mut second: ReplayAnswer) {
        self.counts.add(second.counts);
        for (lane, outcome) in &mut self.lanes {
            if matches!(outcome, Outcome::Missing { .. })
                && let Some(now) = second.lanes.remove(lane)
            {
                *outcome = now;
            }
        }
    }
}

/// How many changes met which end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Applied.
    pub applied: u64,
    /// At or before the mark already.
    pub skipped: u64,
    /// A producer's retry of what was applied.
    pub repeated: u64,
    /// Of those applied, what was not sent because a later change of the same chunk leaves nothing of it.
    #[serde(default)]
    pub coalesced: u64,
    /// Refused or failed, and quarantined.
    pub quarantined: u64,
    /// Collection commands or renewals that found no key.
    pub missed: u64,
    /// Producers that a lane forgot before their time, because it has too many.
    #[serde(default)]
    pub crowded_out: u64,
    /// Longest time from a change's arrival at the stream until it was applied, in milliseconds.
    pub lag_ms_max: i64,
}

impl Counts {
    /// Adds what another lane or batch counted.
    pub fn add(&mut self, other: Counts) {
        self.applied += other.applied;
        self.skipped += other.skipped;
        self.repeated += other.repeated;
        self.coalesced += other.coalesced;
        self.quarantined += other.quarantined;
        self.missed += other.missed;
        self.crowded_out += other.crowded_out;
        self.lag_ms_max = self.lag_ms_max.max(other.lag_ms_max);
    }
}

/// What came of one lane of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything up to this mark is applied.
    Applied {
        /// The lane's mark.
        mark: Option<Position>,
    },
    /// The lane record does not prove that the batch follows it; nothing was applied.
    Behind(Behind),
    /// Values that changes of the lane refer to are not in the region's bucket yet; nothing was applied.
    Missing {
        /// The objects to copy there.
        objects: Vec<Reference>,
    },
    /// A resync rewrites the lane; nothing was applied.
    Held {
        /// The run that holds it.
        holder: String,
    },
    /// The batch comes from an older mapping than the lane has seen; nothing was applied.
    OldGeneration {
        /// The generation in the lane record.
        generation: u64,
    },
}

/// Where a lane stands that must be fed, or resynced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// Why the batch was not taken.
    pub reason: Reason,
    /// The lane's mark.
    pub mark: Option<Position>,
    /// Arrival time of the record at the mark, in milliseconds since the epoch.
    pub arrival_ms: Option<i64>,
    /// The server's replication ID now.
    pub replication_id: String,
}

/// Why a lane does not take a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// There is no lane record: a new region, or one that was emptied.
    NoRecord,
    /// A feed was begun and has not joined yet.
    Feeding,
    /// The server's replication ID is another: a failover may have lost writes.
    Failover,
    /// The mapping was made anew: what lies between is not proven.
    NewGeneration,
    /// A heartbeat is missing before this batch: what else came before it may be missing too.
    BrokenChain,
    /// The mark is older than what the stream keeps: what lay behind it may be gone unseen.
    Retention,
    /// The record speaks of another stream: only a resync helps.
    OtherStream,
}

/// A region at a glance.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    /// The region.
    pub region: String,
    /// The server's version.
    pub server_version: String,
    /// How many lanes the stream has.
    pub lanes_count: u16,
    /// Keys in the database, the system's own included.
    pub keys: u64,
    /// Every lane that has a record.
    pub lanes: BTreeMap<Lane, LaneRecord>,
}

/// A value as the region holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The value, or `None` where the key is absent.
    pub value: Option<Shown>,
    /// Absolute expiry, in milliseconds since the epoch, if it has one.
    pub expires_at_ms: Option<i64>,
}

/// A value for people: bytes that are not UTF-8 are shown with the replacement character.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// A string.
    String(String),
    /// A hash.
    Hash(BTreeMap<String, String>),
    /// A list.
    List(Vec<String>),
    /// A set, sorted.
    Set(Vec<String>),
    /// A sorted set: members and scores, by score.
    SortedSet(Vec<(String, f64)>),
}

/// One part of an export: keys of one lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The lane.
    pub lane: Lane,
    /// Object key in the region's bucket.
    pub object: String,
    /// How many keys it holds.
    pub keys: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 of the object, lower-case hex.
    pub sha256: String,
}

/// The key names of a region, by lane.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listing {
    /// The parts, in no order.
    pub parts: Vec<Part>,
}

/// What a hold found.
#[derive(Debug, Serialize, Deserialize)]
pub struct HeldLane {
    /// The lane's mark; it stays while the lane is held.
    pub mark: Option<Position>,
    /// Whether the lane was ready and on the same server, so that the mapping's next batch follows its mark.
    pub trusted: bool,
}

/// How to rewrite a held lane.
#[derive(Debug, Serialize, Deserialize)]
pub struct Load {
    /// The lane.
    pub lane: Lane,
    /// The run that holds it.
    pub holder: String,
    /// The mark that the hold found; the write fence.
    pub held_mark: Option<Position>,
    /// Whether the lane becomes ready, or is to be fed.
    pub trusted: bool,
    /// Values of the snapshot, in the region's own bucket.
    pub values: Vec<Part>,
    /// Key names that the region held when the run began, in the region's own bucket.
    pub listing: Vec<Part>,
    /// The stream's records from the snapshot's start mark up to `until`, in the region's own bucket.
    pub tail: Option<String>,
    /// The snapshot's lane record when its scan began.
    pub start: Option<SnapshotLane>,
    /// The lane's mark after the load.
    pub until: Option<Position>,
    /// Identity of the stream.
    pub stream: String,
    /// The scope of the snapshot: what it did not look at is not touched.
    pub scope: String,
}

/// A lane record as a snapshot carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotLane {
    /// The record.
    pub record: LaneRecord,
    /// Each producer's last seq.
    pub producers: Producers,
}

/// What a load wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Keys written.
    pub written: u64,
    /// Keys deleted that should not have been there.
    pub removed: u64,
    /// Changes of the stream folded in.
    pub folded: u64,
}
