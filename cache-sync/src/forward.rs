//! Forward: passes each batch on to one target region, and feeds that region where it is behind.
//!
//! Promises: records go on unparsed and in order; a batch that is not applied whole fails whole, after its other lanes
//! were applied, so that the mapping delivers it again; a lane is fed from its mark to the stream's tip by writes that
//! each name what they follow, or left alone where the stream cannot prove what lies between.

mod copy;
mod envelope;
mod feed;
mod meter;

pub use copy::{Unobtainable, ValueCopier};
pub use envelope::Envelope;

use crate::invoke::{InvokeError, RegionClient};
use crate::lane::Lane;
use crate::protocol::{Behind, Counts, Follows, Outcome, Reason, Replay, ReplayAnswer};
use crate::stream::{Identity, Stream, StreamError};
use crate::values::ValueError;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::time::Duration;
use tidemark_runtime::clock::Clock;

/// Largest event of one invocation, in bytes: of 6 MiB there is room left for what forward tells.
pub const EVENT_BYTES_MAX: usize = 6_000_000;
/// A mark this close to the end of the stream's retention is not fed from: records may go while they are read.
/// (An invocation lasts 15 minutes at most.)
const RETENTION_MARGIN_MS: i64 = 20 * 60_000;

/// How often values are copied for one delivery; what is still missing then waits for the next one.
const COPY_ROUNDS_MAX: u32 = 3;

/// Why a batch is to be delivered again.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The event is not that of a Kinesis mapping.
    #[error("not the event of a Kinesis mapping")]
    Event(#[source] serde_json::Error),
    /// The regional function failed.
    #[error(transparent)]
    Region(#[from] InvokeError),
    /// A value could not be copied to the region.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// The stream could not be read for a feed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A resync rewrites a lane.
    #[error("lane {lane} of {region} is held by run {holder}: the batch waits until it lets go")]
    Held {
        /// The lane.
        lane: Lane,
        /// The region.
        region: String,
        /// The run.
        holder: String,
    },
    /// Values that changes refer to are not in the region's bucket.
    #[error(
        "lane {lane} of {region} lacks {count} values in the region's bucket: the batch waits until they are there"
    )]
    Missing {
        /// The lane.
        lane: Lane,
        /// The region.
        region: String,
        /// How many.
        count: usize,
    },
    /// This mapping is not the newest.
    #[error("lane {lane} of {region} follows mapping generation {newer}: this mapping is older and must be removed")]
    OldGeneration {
        /// The lane.
        lane: Lane,
        /// The region.
        region: String,
        /// The lane's generation.
        newer: u64,
    },
    /// Only a resync helps.
    #[error(
        "lane {lane} of {region} cannot be fed ({why}): nothing was applied to it; \
         run `tidemark cache resync --region {region}`"
    )]
    NeedsResync {
        /// The lane.
        lane: Lane,
        /// The region.
        region: String,
        /// What is in the way.
        why: &'static str,
    },
    /// The feed goes on at the next delivery.
    #[error("feeding {lanes} lanes of {region} takes longer than this invocation: it goes on at the next delivery")]
    OutOfTime {
        /// How many lanes are behind.
        lanes: usize,
        /// The region.
        region: String,
    },
    /// Somebody else wrote a lane while it was fed.
    #[error("lane {lane} of {region} was written by somebody else while it was fed: the next delivery goes on")]
    Overtaken {
        /// The lane.
        lane: Lane,
        /// The region.
        region: String,
    },
}

/// Passes one stream on to one region.
#[derive(Debug)]
pub struct Forward {
    stream: Stream,
    identity: Identity,
    generation: u64,
    region: RegionClient,
    values: Option<ValueCopier>,
    clock: Clock,
    meter: meter::Meter,
}

/// How long an invocation may go on.
pub trait Deadline {
    /// What is left of its time.
    fn left(&self) -> Duration;
}

impl Forward {
    /// Forward from `stream` to `region`, as mapping `generation`.
    ///
    /// # Errors
    /// [`StreamError`] where the stream cannot be described.
    pub async fn new(stream: Stream, generation: u64, region: RegionClient, clock: Clock) -> Result<Self, StreamError> {
        let identity = stream.identity().await?;
        Ok(Self { stream, identity, generation, region, values: None, clock, meter: meter::Meter::default() })
    }

    /// The same, which copies values that the region lacks. Without it a batch waits until they are there.
    #[must_use]
    pub fn copying(self, values: ValueCopier) -> Self {
        Self { values: Some(values), ..self }
    }

    /// Passes one event on.
    ///
    /// # Errors
    /// [`ForwardError`]: the whole batch is to be delivered again.
    pub async fn pass_on(&self, event: Envelope, deadline: &impl Deadline) -> Result<Counts, ForwardError> {
        let (begun_ms, bytes) = (self.clock.now_ms(), event.event_bytes());
        let passed = self.pass_on_whole(event, deadline).await;
        self.meter.report(self.region.region(), self.clock.now_ms(), begun_ms, bytes, passed.is_err());
        passed
    }

    /// Almost always in one invocation; else in as many as it takes, in order, of which one is in memory at a time.
    async fn pass_on_whole(&self, event: Envelope, deadline: &impl Deadline) -> Result<Counts, ForwardError> {
        if event.event_bytes() <= EVENT_BYTES_MAX {
            return self.pass_on_part(event, deadline).await;
        }
        let mut counts = Counts::default();
        for part in event.parts(EVENT_BYTES_MAX).map_err(ForwardError::Event)? {
            counts.add(self.pass_on_part(part, deadline).await?);
        }
        Ok(counts)
    }

    async fn pass_on_part(&self, mut event: Envelope, deadline: &impl Deadline) -> Result<Counts, ForwardError> {
        let answer = self.deliver(&mut event, BTreeMap::new(), false).await?;
        let mut counts = answer.counts;
        let (behind, refusal) = self.sort_out(&answer);
        if !behind.is_empty() {
            counts.add(self.feed(&event, behind, deadline).await?);
        }
        // Last, so that what can be applied is applied before the batch is thrown back.
        refusal.map_or(Ok(counts), Err)
    }

    /// Delivers, and where the region lacks values, copies them there and delivers again. The lanes that the first
    /// delivery applied are left alone by their marks, and keep its answer.
    async fn deliver(
        &self,
        event: &mut Envelope,
        follows: BTreeMap<Lane, Follows>,
        join: bool,
    ) -> Result<ReplayAnswer, ForwardError> {
        let mut told = Replay {
            event: RawValue::NULL,
            stream: self.identity.id.clone(),
            generation: self.generation,
            oldest_ms: Some(self.oldest_ms()),
            follows,
            join,
            unobtainable: Unobtainable::new(),
        };
        let mut answer: ReplayAnswer = self.region.ask_raw(event.sealed(&told).map_err(ForwardError::Event)?).await?;
        let Some(values) = &self.values else { return Ok(answer) };
        for _ in 0..COPY_ROUNDS_MAX {
            let missing = answer.missing();
            if missing.is_empty() {
                break;
            }
            told.unobtainable.extend(values.copy(missing).await?);
            let request = event.sealed(&told).map_err(ForwardError::Event)?;
            answer.complete(self.region.ask_raw(request).await?);
        }
        Ok(answer)
    }

    /// The lanes that are to be fed, and why the batch must be thrown back whatever comes of them.
    fn sort_out(&self, answer: &ReplayAnswer) -> (BTreeMap<Lane, Behind>, Option<ForwardError>) {
        let (mut behind, mut refusal) = (BTreeMap::new(), None);
        for (lane, outcome) in &answer.lanes {
            let region = self.region.region();
            let refused = match outcome {
                Outcome::Behind(found) => match self.why_not_feedable(found) {
                    Some(why) => Some(ForwardError::NeedsResync { lane: *lane, region: region.to_owned(), why }),
                    None => {
                        behind.insert(*lane, found.clone());
                        None
                    }
                },
                other => refused(*lane, other, region),
            };
            refusal = refusal.or(refused);
        }
        (behind, refusal)
    }

    /// Arrival of the oldest record that the stream still keeps.
    fn oldest_ms(&self) -> i64 {
        self.clock.now_ms() - self.identity.retention_ms
    }

    /// What keeps the stream from proving what lies behind the lane's mark, if anything does.
    fn why_not_feedable(&self, behind: &Behind) -> Option<&'static str> {
        let oldest_ms = self.oldest_ms() + RETENTION_MARGIN_MS;
        match (behind.reason, behind.arrival_ms) {
            (Reason::OtherStream, _) => Some("its record speaks of another stream"),
            (_, None) if self.identity.created_ms < oldest_ms => {
                Some("it has no mark, and the stream no longer reaches back to its beginning")
            }
            (_, Some(arrival_ms)) if arrival_ms < oldest_ms => Some("its mark is older than what the stream keeps"),
            _ => None,
        }
    }
}

/// Why a lane that is not behind did not take what it was sent, if it did not.
fn refused(lane: Lane, outcome: &Outcome, region: &str) -> Option<ForwardError> {
    let region = region.to_owned();
    match outcome {
        Outcome::Applied { .. } | Outcome::Behind(_) => None,
        Outcome::Held { holder } => Some(ForwardError::Held { lane, region, holder: holder.clone() }),
        Outcome::Missing { objects } => Some(ForwardError::Missing { lane, region, count: objects.len() }),
        Outcome::OldGeneration { generation } => Some(ForwardError::OldGeneration { lane, region, newer: *generation }),
    }
}
