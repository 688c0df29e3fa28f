//! The regional function: the only thing that talks to a region's Redis.
//!
//! It answers the requests of [`crate::protocol`]. One file an operation; all that writes goes through `fence`.

mod batch;
mod chunk;
mod cluster;
mod commands;
mod connection;
mod export;
mod fence;
mod lanes;
mod load;
mod login;
mod part;
mod quarantine;
mod read;
mod replay;
mod report;
mod value;

pub use batch::{Batch, BatchData};
pub use chunk::{CHUNK_BYTES_MAX, CHUNK_CHANGES_MAX};
pub use connection::{CONNECTIONS, Connections, RedisSettings};
pub use login::{IamLogin, Login};
pub use report::SLOW_LANE_MS;

use crate::lane::Lanes;
use crate::protocol::Request;
use crate::scope::Scope;
use serde_json::Value;
use tidemark_runtime::clock::Clock;
use tidemark_runtime::settings::{SettingError, Settings};

/// Settings of the regional function.
#[derive(Clone, Debug)]
pub struct RegionSettings {
    /// The region's name.
    pub region: String,
    /// Its own bucket: quarantine, snapshots, loads, values.
    pub bucket: String,
    /// Which keys are synced.
    pub scope: Scope,
    /// How many lanes the stream has.
    pub lanes: Lanes,
    /// Where its Redis is.
    pub redis: RedisSettings,
}

impl RegionSettings {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// [`SettingError`] with the variable's name.
    pub fn read(settings: &Settings<'_>) -> Result<Self, SettingError> {
        let scope = settings.required("TIDEMARK_SCOPE", "the key prefixes that are synced, or * for all")?;
        let region = settings.required("AWS_REGION", "the region of this function")?;
        Ok(Self {
            bucket: settings.required("TIDEMARK_BUCKET", "the bucket of this region")?,
            scope: scope.parse().map_err(|error: crate::scope::ScopeError| SettingError::Invalid {
                name: "TIDEMARK_SCOPE",
                value: scope.clone(),
                reason: error.to_string(),
            })?,
            lanes: crate::lane::read_lanes(settings)?,
            redis: RedisSettings::read(settings, &region)?,
            region,
        })
    }
}

/// Why the regional function could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// Redis failed, timed out or is not reachable; a retry may help.
    #[error("redis: {operation} failed")]
    Redis {
        /// What was being done.
        operation: String,
        /// What the client or server said.
        source: redis::RedisError,
    },
    /// Redis answered a transaction with an error, so nothing of it was applied; a retry may help.
    #[error("redis refused the transaction of lane {lane}: {message}")]
    Transaction {
        /// The lane.
        lane: crate::lane::Lane,
        /// The server's words.
        message: String,
    },
    /// Somebody else wrote the lane record since it was read; nothing was applied, and a retry sees what is there.
    #[error("lane {lane} was written by somebody else meanwhile: nothing was applied, try again")]
    FenceLost {
        /// The lane.
        lane: crate::lane::Lane,
    },
    /// The lane is not held by the run that wants to rewrite it.
    #[error("lane {lane} is not held by run {holder} at the mark it was held at: nothing was written")]
    NotHeld {
        /// The lane.
        lane: crate::lane::Lane,
        /// The run.
        holder: String,
    },
    /// S3 failed; a retry may help.
    #[error("s3: {operation} of {object} failed: {message}")]
    Storage {
        /// The S3 operation.
        operation: &'static str,
        /// The object.
        object: String,
        /// What S3 or the transport said.
        message: String,
    },
    /// An object is not what its record says it is.
    #[error("object {object} is not what it should be: {reason}")]
    Corrupt {
        /// The object.
        object: String,
        /// What is wrong.
        reason: String,
    },
    /// The request is not one this version answers.
    #[error("not a request of the regional function")]
    Request(#[source] serde_json::Error),
    /// A lane record holds what this version does not write.
    #[error("lane {lane} has a damaged record: resync the region")]
    LaneRecord {
        /// The lane.
        lane: crate::lane::Lane,
        /// The field.
        source: crate::lane_record::LaneRecordError,
    },
    /// The server cannot be used as it is set up.
    #[error("{0}")]
    Misconfigured(String),
    /// The source of a snapshot moved under it; a new one is needed.
    #[error("snapshot thrown away: {0}")]
    SnapshotLost(String),
}

/// A region: its Redis, its bucket, and what it was told.
#[derive(Debug)]
pub struct Region {
    settings: RegionSettings,
    connections: Connections,
    s3: aws_sdk_s3::Client,
    clock: Clock,
    meter: report::Meter,
}

impl Region {
    /// A region; nothing is connected yet.
    ///
    /// # Errors
    /// [`RegionError::Redis`] where the address does not parse.
    pub fn new(settings: RegionSettings, s3: aws_sdk_s3::Client, clock: Clock) -> Result<Self, RegionError> {
        let connections = Connections::new(settings.redis.clone())?;
        Ok(Self { settings, connections, s3, clock, meter: report::Meter::default() })
    }

    /// Answers one request, given as its JSON text.
    ///
    /// # Errors
    /// [`RegionError`]; where a batch met it, its other lanes were applied and the batch is to be delivered again.
    pub async fn answer(&self, request: &str) -> Result<Value, RegionError> {
        let request: Request<'_> = serde_json::from_str(request).map_err(RegionError::Request)?;
        let answer = match &request {
            // Boxed: the compiler does not follow futures that lie this deep in each other.
            Request::Replay(replay) => serde_json::to_value(Box::pin(self.replay(replay)).await?),
            Request::Status {} => serde_json::to_value(self.status().await?),
            Request::Marks { slots } => serde_json::to_value(self.marks(slots).await?),
            Request::Get { key } => serde_json::to_value(self.get(key).await?),
            Request::Snapshot { id } => serde_json::to_value(self.snapshot(id).await?),
            Request::List { run } => serde_json::to_value(self.list(run).await?),
            Request::Hold { lane, holder } => serde_json::to_value(self.hold(*lane, holder).await?),
            Request::Load(load) => serde_json::to_value(self.load(load).await?),
        };
        answer.map_err(RegionError::Request)
    }
}
