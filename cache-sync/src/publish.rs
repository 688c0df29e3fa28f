//! The publisher: what a backend service uses to put changes onto the stream.
//!
//! Promises: within a lane changes are stored in the order in which they were published; a retry never overtakes,
//! because one record per lane is in flight; a retry that was stored twice is applied once, because the producer ID is
//! fresh for each publisher and numbers rise per lane. Relative expiries become absolute here.

use crate::change::CONTRACT_VERSION;
use crate::invoke::{InvokeError, RegionClient};
use crate::lane::{Lane, Lanes, slot};
use crate::position::Position;
use crate::protocol::Request;
use crate::record::Heartbeat;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::error::DisplayErrorContext;
use aws_sdk_kinesis::primitives::Blob;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tidemark_runtime::clock::Clock;
use tokio::sync::Mutex;

/// Largest record that is sent, in bytes; a stream's default bound is 1 MiB with the partition key.
pub const RECORD_BYTES_MAX: usize = 1_000_000;
/// Tries for one record, the first included.
const ATTEMPTS_MAX: u32 = 6;
const BACKOFF: Duration = Duration::from_millis(50);

/// Why a change was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It is not a change of the contract; nothing was sent.
    #[error("not published: {0}")]
    Refused(#[from] crate::change::Refused),
    /// It does not fit a record; nothing was sent.
    #[error("not published: the change has {bytes} bytes, a record holds {RECORD_BYTES_MAX}")]
    TooLarge {
        /// Its size as JSON.
        bytes: usize,
    },
    /// Kinesis did not confirm it: it may or may not be on the stream.
    #[error("not confirmed: stream {stream}, lane {lane}, after {ATTEMPTS_MAX} tries: {message}")]
    Unconfirmed {
        /// The stream.
        stream: String,
        /// The lane.
        lane: Lane,
        /// What Kinesis or the transport said last.
        message: String,
    },
}

/// Where a change is on the stream.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Receipt {
    /// Its lane.
    pub lane: Lane,
    /// The slot of its key, 0 to 16,383: on a cluster each slot has a mark of its own.
    pub slot: u16,
    /// Its position in the lane.
    pub position: Position,
}

/// A value in a command: text, or bytes that are not UTF-8.
#[must_use]
pub fn argument(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({"b64": base64_simd::STANDARD.encode_to_string(bytes)}),
    }
}

/// Publishes changes. Cheap to share behind an `Arc`; not to be kept across a fork.
#[derive(Debug)]
pub struct Publisher {
    kinesis: aws_sdk_kinesis::Client,
    stream: String,
    lanes: Lanes,
    clock: Clock,
    producer: String,
    /// Last seq of each lane; locked while its record is in flight.
    in_flight: Vec<Mutex<u64>>,
}

impl Publisher {
    /// A publisher to `stream`, with a fresh producer ID.
    #[must_use]
    pub fn new(kinesis: aws_sdk_kinesis::Client, stream: impl Into<String>, lanes: Lanes, clock: Clock) -> Self {
        let producer = uuid::Uuid::new_v4().simple().to_string();
        let in_flight = lanes.all().map(|_| Mutex::new(0)).collect();
        Self { kinesis, stream: stream.into(), lanes, clock, producer, in_flight }
    }

    /// Sets `key` to `value`, to expire after `ttl` where there is one.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn set(&self, key: &[u8], value: &[u8], ttl: Option<Duration>) -> Result<Receipt, PublishError> {
        let mut command = vec![Value::from("SET"), argument(key), argument(value)];
        if let Some(ttl) = ttl {
            let at_ms = self.clock.now_ms().saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
            command.extend([Value::from("PXAT"), Value::from(at_ms.to_string())]);
        }
        self.publish(key, vec![command]).await
    }

    /// Deletes `key`.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn delete(&self, key: &[u8]) -> Result<Receipt, PublishError> {
        self.publish(key, vec![vec![Value::from("DEL"), argument(key)]]).await
    }

    /// Publishes commands on `key` as one change; each command is its name and arguments, see [`argument`].
    ///
    /// # Errors
    /// [`PublishError::Refused`] where the contract refuses it, before anything is sent.
    pub async fn publish(&self, key: &[u8], commands: Vec<Vec<Value>>) -> Result<Receipt, PublishError> {
        let lane = self.lanes.of_key(key);
        let mut last_seq = self.in_flight[usize::from(lane.0)].lock().await;
        let seq = *last_seq + 1;
        let change = json!({
            "v": CONTRACT_VERSION, "cmds": commands, "at_ms": self.clock.now_ms(),
            "producer": self.producer, "seq": seq,
        });
        let data = change.to_string();
        let parsed = crate::change::Change::from_json(&data)?;
        if parsed.key.as_ref() != key {
            let reason = "the commands write another key than the one given".to_owned();
            return Err(crate::change::Refused { keys: Vec::new(), reason }.into());
        }
        if data.len() > RECORD_BYTES_MAX {
            return Err(PublishError::TooLarge { bytes: data.len() });
        }
        // Counted even where it is not confirmed: the number may be on the stream.
        *last_seq = seq;
        let sequence = self.put(lane, data.into_bytes()).await?;
        Ok(Receipt { lane, slot: slot(key), position: Position { sequence, index: 0 } })
    }

    /// Publishes heartbeat `number` to every lane, a bounded number of lanes at a time.
    ///
    /// # Errors
    /// The first lane's [`PublishError`]; the heartbeat is then to be published again with the same number.
    pub async fn heartbeat(&self, number: u64) -> Result<(), PublishError> {
        use futures::{StreamExt, TryStreamExt};
        let beat = Heartbeat { v: CONTRACT_VERSION, heartbeat: number, at_ms: self.clock.now_ms() };
        let data = serde_json::to_vec(&beat).unwrap_or_default();
        futures::stream::iter(self.lanes.all())
            .map(|lane| self.put(lane, data.clone()))
            .buffer_unordered(LANES_AT_ONCE)
            .try_for_each(|_| async { Ok(()) })
            .await
    }

    async fn put(&self, lane: Lane, data: Vec<u8>) -> Result<crate::position::Sequence, PublishError> {
        let mut message = String::new();
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                self.clock.sleep(BACKOFF * 2u32.pow(attempt - 1)).await;
            }
            let request = self.kinesis.put_record().stream_name(&self.stream).partition_key(lane.to_string());
            // The tries are counted here, so the SDK makes only one.
            let once = aws_sdk_kinesis::config::Builder::new().retry_config(RetryConfig::disabled());
            match request.data(Blob::new(data.clone())).customize().config_override(once).send().await {
                Ok(stored) => match stored.sequence_number().parse() {
                    Ok(sequence) => return Ok(sequence),
                    Err(error) => message = format!("{error}"),
                },
                Err(error) => message = DisplayErrorContext(error).to_string(),
            }
        }
        Err(PublishError::Unconfirmed { stream: self.stream.clone(), lane, message })
    }
}

/// Lanes that a heartbeat is sent to at once.
const LANES_AT_ONCE: usize = 16;

/// Why a wait ended without the change being seen.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// The time ran out.
    #[error("{region} has not applied lane {lane} up to {position} within {timeout:?}: it may still come")]
    TimedOut {
        /// The region.
        region: String,
        /// The lane.
        lane: Lane,
        /// The position waited for.
        position: Position,
        /// How long.
        timeout: Duration,
    },
    /// The region could not be asked.
    #[error(transparent)]
    Ask(#[from] InvokeError),
}

/// Waits until `region` has applied what `receipt` speaks of, so that a service reads what it wrote.
///
/// # Errors
/// [`WaitError::TimedOut`] after `timeout`.
pub async fn wait_until_applied(region: &RegionClient, receipt: &Receipt, timeout: Duration) -> Result<(), WaitError> {
    let until = tokio::time::Instant::now() + timeout;
    loop {
        let request = Request::Marks { slots: vec![receipt.slot] };
        let marks: BTreeMap<u16, Position> = region.ask(&request).await?;
        if marks.get(&receipt.slot).is_some_and(|mark| *mark >= receipt.position) {
            return Ok(());
        }
        if tokio::time::Instant::now() + WAIT_PAUSE > until {
            let (lane, position) = (receipt.lane, receipt.position.clone());
            return Err(WaitError::TimedOut { region: region.region().to_owned(), lane, position, timeout });
        }
        tokio::time::sleep(WAIT_PAUSE).await;
    }
}

/// Between two looks at a region's mark.
const WAIT_PAUSE: Duration = Duration::from_millis(100);
