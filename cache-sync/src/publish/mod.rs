//! The publisher: what a backend service uses to put changes onto the stream.
//!
//! Promises: within a lane changes are stored in the order in which they were queued; a retry never overtakes, because
//! one record per lane is on its way and the lane waits for it; a retry that was stored twice is applied once, because
//! the producer ID is fresh for each publisher and numbers rise per lane. What is queued is bounded. A relative expiry
//! counts from the call that publishes.
//!
//! ```no_run
//! use std::time::Duration;
//! use tidemark_cache_sync::lane::Lanes;
//! use tidemark_cache_sync::publish::{CacheWrite, Publisher, PublisherSettings};
//! use tidemark_runtime::clients;
//! use tidemark_runtime::clock::Clock;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let config = clients::config(Some("us-east-1")).await;
//! let kinesis = aws_sdk_kinesis::Client::new(&config);
//! let settings = PublisherSettings {
//!     values: Some((clients::s3(&config), "my-tidemark-us-east-1".to_owned())),
//!     ..PublisherSettings::new("tidemark", Lanes::new(64)?)
//! };
//! let publisher = Publisher::start(&kinesis, settings, Clock::system()).await?;
//!
//! let hour = Some(Duration::from_secs(3_600));
//! // The first `await` ends when the change has its place in the queue, `confirmed` when it is on the stream.
//! let receipt = publisher.set("user:1", "hello", hour).await?.confirmed().await?;
//! println!("lane {} position {}", receipt.lane, receipt.position);
//!
//! // Many at once: each has its place, so one flush is enough.
//! publisher.publish(CacheWrite::replace_list("feed:9", ["c", "a", "b"], hour)).await?;
//! publisher.publish(CacheWrite::replace_hash("user:1:profile", [("name", "Kim"), ("city", "Seoul")], hour)).await?;
//! publisher.publish(CacheWrite::commands([["SET", "a", "1"]])?).await?;
//! publisher.delete("user:2").await?;
//! publisher.flush().await?;
//!
//! // When the service ends.
//! publisher.close().await?;
//! # Ok(())
//! # }
//! ```

mod encode;
mod error;
mod wait;
mod worker;
mod write;

pub use encode::{RECORD_BYTES_MAX, RECORD_CHANGES_MAX, RecordFormat};
pub use error::{NotFlushed, PublishError, StartError};
pub use wait::{WaitError, wait_until_applied};
pub use worker::{BACKOFF_MAX, BACKOFF_MIN, CALL_BYTES_MAX, CALL_RECORDS_MAX, CALLS_MAX};
pub use write::CacheWrite;

use crate::change::{Body, CONTRACT_VERSION, Change, Command};
use crate::lane::{Lane, Lanes, slot};
use crate::lane_record::PRODUCER_MEMORY_MS;
use crate::position::Position;
use crate::record::Heartbeat;
use crate::values::ValueStore;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::error::DisplayErrorContext;
use aws_sdk_kinesis::types::RecordDistributionStrategy;
use std::sync::Arc;
use std::time::Duration;
use tidemark_runtime::clock::Clock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use worker::{Content, Jitter, Manner, Message, Queued, Worker};

/// How long a lane's first change waits for company, unless it is set otherwise.
pub const LINGER: Duration = Duration::from_millis(5);
/// Longest linger that may be set.
pub const LINGER_MAX: Duration = Duration::from_secs(1);
/// How long a record is tried again before it is given up, unless it is set otherwise.
pub const RETRY_FOR: Duration = Duration::from_secs(2 * 60);
/// Longest time to retry that may be set: a region must still know the producer when the last try arrives.
pub const RETRY_FOR_MAX: Duration = Duration::from_secs(3_600);
const _: () = assert!(RETRY_FOR_MAX.as_millis() * 4 <= PRODUCER_MEMORY_MS as u128);
/// Most bytes of changes that are queued or on their way, unless it is set otherwise.
pub const QUEUED_BYTES_MAX: usize = 64 << 20;
/// Most changes that are queued or on their way, unless it is set otherwise.
pub const QUEUED_CHANGES_MAX: usize = 100_000;
/// How long a connection to Kinesis may take to open.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the answer to a PutRecords call may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Memory that a queued change takes beside its bytes.
const CHANGE_OVERHEAD_BYTES: usize = 256;
/// Tries to look at the stream when a publisher starts.
const LOOKS_MAX: u32 = 5;

/// Where a change is on the stream.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Receipt {
    /// Its lane.
    pub lane: Lane,
    /// The slot of its key, 0 to 16,383: on a cluster each slot has a mark of its own.
    pub slot: u16,
    /// Its position in the lane.
    pub position: Position,
}

/// How a publisher works.
#[derive(Clone, Debug)]
pub struct PublisherSettings {
    /// The stream.
    pub stream: String,
    /// How many lanes the stream was made with.
    pub lanes: Lanes,
    /// How changes are written into records.
    pub format: RecordFormat,
    /// How long a lane's first change waits for others to share its record: 0 to [`LINGER_MAX`]. A lane whose record is
    /// on its way gathers others meanwhile, whatever this is.
    pub linger: Duration,
    /// How long a record is tried again: up to [`RETRY_FOR_MAX`]. Its lane waits with it.
    pub retry_for: Duration,
    /// Most bytes that are queued or on their way; publishing waits for room. At least [`RECORD_BYTES_MAX`].
    pub queued_bytes_max: usize,
    /// Most changes that are queued or on their way; publishing waits for room.
    pub queued_changes_max: usize,
    /// The bucket for values that do not fit a record, one of the deployment's, with a client of its region. Without it
    /// such a value is refused.
    pub values: Option<(aws_sdk_s3::Client, String)>,
    /// For simulations only: makes producer ID and jitter from this number. Two publishers with one seed lose changes.
    pub seed: Option<u64>,
}

impl PublisherSettings {
    /// Settings for `stream` of `lanes` lanes, everything else as it is usual.
    #[must_use]
    pub fn new(stream: impl Into<String>, lanes: Lanes) -> Self {
        Self {
            stream: stream.into(),
            lanes,
            format: RecordFormat::default(),
            linger: LINGER,
            retry_for: RETRY_FOR,
            queued_bytes_max: QUEUED_BYTES_MAX,
            queued_changes_max: QUEUED_CHANGES_MAX,
            values: None,
            seed: None,
        }
    }

    fn check(&self) -> Result<(), StartError> {
        let refuse = |name, reason| Err(StartError::Setting { name, reason });
        // A semaphore and its permits are smaller than a usize.
        let bytes = RECORD_BYTES_MAX + CHANGE_OVERHEAD_BYTES..=u32::MAX as usize;
        if self.linger > LINGER_MAX {
            refuse("linger", format!("{:?} is too long: at most {LINGER_MAX:?}", self.linger))
        } else if self.retry_for > RETRY_FOR_MAX {
            refuse("retry_for", format!("{:?} is too long: at most {RETRY_FOR_MAX:?}", self.retry_for))
        } else if !bytes.contains(&self.queued_bytes_max) {
            refuse("queued_bytes_max", format!("{} is not within {bytes:?}", self.queued_bytes_max))
        } else if self.queued_changes_max == 0 || self.queued_changes_max > u32::MAX as usize {
            refuse("queued_changes_max", format!("{} is not within 1 to {}", self.queued_changes_max, u32::MAX))
        } else {
            Ok(())
        }
    }
}

/// A change that has its place in the queue. It goes on whether this is waited for or not; what is given up is logged.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Result<Receipt, PublishError>>);

impl Pending {
    /// Waits until Kinesis has confirmed the change.
    ///
    /// # Errors
    /// [`PublishError::Rejected`], [`PublishError::Unconfirmed`] or [`PublishError::Ended`].
    pub async fn confirmed(self) -> Result<Receipt, PublishError> {
        self.0.await.unwrap_or(Err(PublishError::Ended))
    }
}

/// Room that a queued change takes, given back when it is dropped.
#[derive(Debug)]
struct Room {
    _change: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

/// Publishes changes, with one task in the background. Share it behind an `Arc`; never keep it across a fork, where two
/// processes would use one producer ID.
///
/// End it with [`Publisher::close`]. A publisher that is dropped lets its task finish what is queued, as long as the
/// runtime lives; what is left then is logged as lost.
#[derive(Debug)]
pub struct Publisher {
    inbox: mpsc::UnboundedSender<Message>,
    changes: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    lanes: Lanes,
    format: RecordFormat,
    values: Option<ValueStore>,
    clock: Clock,
}

impl Publisher {
    /// Starts a publisher, with a fresh producer ID, on the current tokio runtime.
    ///
    /// Looks at the stream first: one that ignores partition keys is refused. `kinesis` is a client of the hub; its
    /// retries are not used, the publisher has its own.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(
        kinesis: &aws_sdk_kinesis::Client,
        settings: PublisherSettings,
        clock: Clock,
    ) -> Result<Self, StartError> {
        settings.check()?;
        let seed = settings.seed;
        let producer = seed.map_or_else(uuid::Uuid::new_v4, |seed| uuid::Uuid::from_u64_pair(seed, seed));
        let jitter = Jitter::new(producer.as_u64_pair().0);
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(CALL_TIMEOUT).build();
        // A call has one owner of its retries, and here it is the publisher.
        let config = kinesis.config().to_builder().retry_config(RetryConfig::disabled()).timeout_config(timeouts);
        let kinesis = aws_sdk_kinesis::Client::from_conf(config.build());
        let mut manner = Manner {
            kinesis,
            stream: settings.stream.clone().into(),
            producer: producer.simple().to_string(),
            linger: settings.linger,
            retry_for: settings.retry_for,
            format: settings.format,
            jitter,
            clock: clock.clone(),
        };
        check_distribution(&mut manner).await?;
        let (inbox, messages) = mpsc::unbounded_channel();
        tokio::spawn(Worker::new(manner, settings.lanes, messages).run());
        Ok(Self {
            inbox,
            changes: Arc::new(Semaphore::new(settings.queued_changes_max)),
            bytes: Arc::new(Semaphore::new(settings.queued_bytes_max)),
            lanes: settings.lanes,
            format: settings.format,
            values: settings.values.map(|(s3, bucket)| ValueStore::new(s3, bucket, clock.clone())),
            clock,
        })
    }

    /// Sets `key` to `value`, to expire after `ttl` where there is one. See [`Publisher::publish`].
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub async fn set(
        &self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        ttl: Option<Duration>,
    ) -> Result<Pending, PublishError> {
        self.publish(CacheWrite::set(key, value, ttl)).await
    }

    /// Deletes `key`. See [`Publisher::publish`].
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub async fn delete(&self, key: impl Into<Vec<u8>>) -> Result<Pending, PublishError> {
        self.publish(CacheWrite::delete(key)).await
    }

    /// Queues a change; waits for room where the queue is full. A value that does not fit a record is written to S3
    /// first and travels as a reference.
    ///
    /// Changes of one lane are applied everywhere in the order in which their calls returned. Dropping the future
    /// before it returned publishes nothing.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was sent.
    pub async fn publish(&self, write: CacheWrite) -> Result<Pending, PublishError> {
        let (change, bytes) = self.fitting(self.change(write)?).await?;
        let amount = Self::amount(bytes);
        let closed = |_| PublishError::Closed;
        let change_room = self.changes.clone().acquire_owned().await.map_err(closed)?;
        let byte_room = self.bytes.clone().acquire_many_owned(amount).await.map_err(closed)?;
        self.queue(change, bytes, Room { _change: change_room, _bytes: byte_room })
    }

    /// Queues a change where there is room now.
    ///
    /// # Errors
    /// [`PublishError::Full`] where there is none; [`PublishError::TooLarge`] for what does not fit a record, because
    /// nothing is written to S3 here; else as [`Publisher::publish`]. Nothing was sent.
    pub fn try_publish(&self, write: CacheWrite) -> Result<Pending, PublishError> {
        use tokio::sync::TryAcquireError::{Closed, NoPermits};
        let change = self.change(write)?;
        let bytes = encode::record_bytes(&change, self.format);
        if bytes > RECORD_BYTES_MAX {
            return Err(PublishError::TooLarge { bytes });
        }
        let refused = |error| match error {
            NoPermits => PublishError::Full,
            Closed => PublishError::Closed,
        };
        let change_room = self.changes.clone().try_acquire_owned().map_err(refused)?;
        let byte_room = self.bytes.clone().try_acquire_many_owned(Self::amount(bytes)).map_err(refused)?;
        self.queue(change, bytes, Room { _change: change_room, _bytes: byte_room })
    }

    /// Publishes heartbeat `number` to every lane and waits until all are confirmed.
    ///
    /// # Errors
    /// The first lane's [`PublishError`]; the heartbeat is then to be published again with the same number.
    pub async fn heartbeat(&self, number: u64) -> Result<(), PublishError> {
        let beat = Heartbeat { v: CONTRACT_VERSION, heartbeat: number, at_ms: self.clock.now_ms() };
        let data = serde_json::to_vec(&beat).unwrap_or_default();
        let mut pending = Vec::with_capacity(usize::from(self.lanes.count()));
        for lane in self.lanes.all() {
            let content = Content::Heartbeat(data.clone());
            pending.push(self.send(lane, 0, content, data.len(), None)?);
        }
        let mut first_error = None;
        for pending in pending {
            first_error = first_error.or(pending.confirmed().await.err());
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Waits until everything that was queued before has ended; nothing of it lingers any more.
    ///
    /// # Errors
    /// [`NotFlushed`] where changes were not confirmed since the last flush.
    pub async fn flush(&self) -> Result<(), NotFlushed> {
        self.tell(Message::Flush).await
    }

    /// Takes nothing more, and waits until everything that was queued has ended. What waits for room is refused as
    /// [`PublishError::Closed`].
    ///
    /// # Errors
    /// [`NotFlushed`] where changes were not confirmed since the last flush.
    pub async fn close(&self) -> Result<(), NotFlushed> {
        self.changes.close();
        self.bytes.close();
        self.tell(Message::Close).await
    }

    async fn tell(&self, message: impl FnOnce(oneshot::Sender<u64>) -> Message) -> Result<(), NotFlushed> {
        let (answer, answered) = oneshot::channel();
        // Where the task is gone there is nothing to wait for, and it has logged what it lost.
        self.inbox.send(message(answer)).ok();
        match answered.await.unwrap_or(0) {
            0 => Ok(()),
            changes => Err(NotFlushed { changes }),
        }
    }

    /// The write as a change of the contract, as far as it is one.
    fn change(&self, write: CacheWrite) -> Result<Change<'static>, PublishError> {
        let at_ms = Some(self.clock.now_ms());
        let change = Change { key: write.key.into(), body: Body::Commands(write.commands), at_ms, producer: None };
        change.check()?;
        Ok(change)
    }

    /// The change, or one that refers to its value, and the bytes that it takes in a record at most.
    async fn fitting(&self, change: Change<'static>) -> Result<(Change<'static>, usize), PublishError> {
        let bytes = encode::record_bytes(&change, self.format);
        if bytes <= RECORD_BYTES_MAX {
            return Ok((change, bytes));
        }
        let Change { key, body, at_ms, producer } = change;
        let (Some(values), Some(at), Body::Commands(mut commands)) = (&self.values, at_ms, body) else {
            return Err(PublishError::TooLarge { bytes });
        };
        let (Some(Command::Set { value, expiry }), true) = (commands.pop(), commands.is_empty()) else {
            return Err(PublishError::TooLarge { bytes });
        };
        let stored = values.put(value.into_owned().into()).await;
        let mut reference = stored.map_err(|error| PublishError::Value(Arc::new(error)))?;
        reference.expires_at_ms = expiry.map(|expiry| expiry.at_ms(at));
        let change = Change { key, body: Body::Reference(reference.into()), at_ms, producer };
        let bytes = encode::record_bytes(&change, self.format);
        // A key alone can be too large.
        if bytes > RECORD_BYTES_MAX { Err(PublishError::TooLarge { bytes }) } else { Ok((change, bytes)) }
    }

    fn amount(bytes: usize) -> u32 {
        u32::try_from(bytes + CHANGE_OVERHEAD_BYTES).unwrap_or(u32::MAX)
    }

    fn queue(&self, change: Change<'static>, bytes: usize, room: Room) -> Result<Pending, PublishError> {
        let slot = slot(&change.key);
        self.send(self.lanes.of_slot(slot), slot, Content::Change(change), bytes, Some(room))
    }

    fn send(
        &self,
        lane: Lane,
        slot: u16,
        content: Content,
        bytes: usize,
        room: Option<Room>,
    ) -> Result<Pending, PublishError> {
        let (confirm, confirmed) = oneshot::channel();
        let queued = Queued { lane, slot, content, bytes, confirm, room };
        self.inbox.send(Message::Queue(queued)).map_err(|_| PublishError::Closed)?;
        Ok(Pending(confirmed))
    }
}

/// Refuses a stream that ignores partition keys: an on-demand stream can be set to.
async fn check_distribution(manner: &mut Manner) -> Result<(), StartError> {
    let stream = manner.stream.to_string();
    let mut looks = 1;
    let summary = loop {
        let looked = manner.kinesis.describe_stream_summary().stream_name(&stream).send().await;
        match looked {
            Ok(answer) => break answer.stream_description_summary,
            Err(error) if looks == LOOKS_MAX => {
                return Err(StartError::Stream { stream, message: DisplayErrorContext(error).to_string() });
            }
            Err(_) => manner.clock.sleep(manner.jitter.backoff(looks)).await,
        }
        looks += 1;
    };
    match summary.and_then(|summary| summary.record_distribution_strategy) {
        None | Some(RecordDistributionStrategy::UserPartitionKey) => Ok(()),
        Some(other) => Err(StartError::Distribution { stream, strategy: other.as_str().to_owned() }),
    }
}
