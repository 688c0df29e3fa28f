//! The seeded simulation of cache sync: the real publisher, forward, replay and heartbeats in one process, before a
//! real Redis for each region, and a cloud that lives below the real AWS clients.
//!
//! Every call to the cloud, every write to a Redis and every pause waits until the schedule says what becomes of it,
//! and the schedule comes from the seed: calls fail, are throttled, lose their answers or land late; invocations are
//! killed; a Redis fails over and loses its last writes; shards split and merge; mappings overlap; keys expire and are
//! evicted. At the end every region must equal a reference model that was written from the contract.
//!
//! That it can fail is shown by known-bad variants of the protocol, each by interposition between parts that stay as
//! they are in production.

mod calls;
mod changes;
mod cloud;
mod foreign;
mod forms;
mod hop;
mod kinesis;
mod late;
mod mapping;
mod reference;
mod region;
mod services;
mod time;
mod world;

use std::sync::Arc;
use tempfile::TempDir;
use tidemark_local::{Flavour, Port, RedisServer};
use time::ServerClock;

/// Regions of a world.
pub(crate) const REGIONS: [&str; 2] = ["us-east-1", "ap-northeast-2"];

/// The bucket of a region.
pub(crate) fn bucket(region: &str) -> String {
    format!("bucket-{region}")
}

/// The protocol as it is, or with one rule broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// As it is.
    Sound,
    /// The marks are written before the changes.
    MarksFirst,
    /// A producer sends its next record before the retry of the last.
    RetryOvertakes,
    /// Changes carry no producer and seq.
    NoProducerSeq,
    /// WATCH and EXEC travel together, so that the watch protects nothing.
    WatchPipelinedWithExec,
    /// A server's replication ID is remembered for all lanes as soon as one has learned it.
    ReplicationIdPerNode,
    /// No heartbeats.
    NoHeartbeats,
    /// A fed chunk follows whatever mark is there.
    FeedRereadsMark,
    /// A feed ends at the batch in hand, which may be an old one that comes late, and not at the stream's tip.
    FeedEndsAtBatch,
    /// A service that starts again goes on under the producer ID of the process that was killed.
    ProducerIdReused,
    /// A change that names a value on S3 is sent before the value is there.
    ChangeBeforeValue,
}

impl Variant {
    /// The protocol as it is, then every known-bad variant.
    pub const ALL: [Self; 11] = [
        Self::Sound,
        Self::MarksFirst,
        Self::RetryOvertakes,
        Self::NoProducerSeq,
        Self::WatchPipelinedWithExec,
        Self::ReplicationIdPerNode,
        Self::NoHeartbeats,
        Self::FeedRereadsMark,
        Self::FeedEndsAtBatch,
        Self::ProducerIdReused,
        Self::ChangeBeforeValue,
    ];

    /// Whether the variant itself reads records, or writes them anew, and knows JSON alone.
    fn reads_json(self) -> bool {
        matches!(self, Self::MarksFirst | Self::NoProducerSeq)
    }

    /// The variant of this name, as `Debug` writes it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|variant| format!("{variant:?}") == name)
    }
}

/// What a seed did.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Steps of the schedule.
    pub steps: u64,
    /// Records on the stream.
    pub records: u64,
    /// Everything that happened, a line each.
    pub trace: Vec<String>,
}

/// The servers that worlds stand on, one world at a time.
#[derive(Debug)]
pub struct Bench {
    servers: Vec<RedisServer>,
    clock: Arc<ServerClock>,
    directory: TempDir,
}

impl Bench {
    /// Starts a Redis for each region, by the worlds' clock.
    ///
    /// # Errors
    /// Without `redis-server` or a C compiler.
    pub fn start() -> anyhow::Result<Self> {
        let directory = TempDir::with_prefix("tidemark-sim-")?;
        let clock = ServerClock::make(directory.path())?;
        // Its allocator's thread would wait for points in time that have long passed, and never rest.
        let arguments = ["--enable-debug-command", "yes", "--jemalloc-bg-thread", "no"];
        let start = |_| RedisServer::start_in(Flavour::Redis, &Port::Free, &arguments, &clock.environment());
        let servers = REGIONS.iter().map(start).collect::<Result<_, _>>()?;
        Ok(Self { servers, clock: Arc::new(clock), directory })
    }

    /// Runs the world of `seed`.
    ///
    /// # Errors
    /// What is wrong at the end, with the seed and the schedule that led there.
    pub fn run(&self, seed: u64, variant: Variant) -> Result<Summary, String> {
        in_one_thread(world::run(seed, variant, self))
    }

    /// Runs the schedule in which a delivery that hung is the first to be fed after a failover, and returns what the key
    /// holds whose last change is `new`.
    ///
    /// # Errors
    /// Where the schedule does not run to its end.
    pub fn late_delivery(&self, variant: Variant) -> Result<String, String> {
        let run = async {
            let held = late::run(variant, self).await;
            held.map_err(|error| format!("{error:#}"))
        };
        in_one_thread(run)
    }
}

fn in_one_thread<T>(run: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    // One blocking thread, so that what it was given last is what it does last: see `Calls::settle`.
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    tokio::task::LocalSet::new().block_on(&runtime, run)
}
