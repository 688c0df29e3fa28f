//! Why a change was not published, or not known to be.

use super::encode::RECORD_BYTES_MAX;
use crate::change::Refused;
use crate::lane::Lane;
use crate::values::{VALUE_BYTES_MAX, ValueError};
use std::sync::Arc;

/// Why a change was not published, or not known to be.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishError {
    /// It is not a change of the contract; nothing was sent.
    #[error("not published: {0}")]
    Refused(#[from] Refused),
    /// It does not fit a record, and is not a plain value that could travel by reference; nothing was sent.
    #[error(
        "not published: the change has up to {bytes} bytes, a record holds {RECORD_BYTES_MAX}; only a plain SET of at \
         most {VALUE_BYTES_MAX} bytes may be larger, where the publisher has a bucket for values"
    )]
    TooLarge {
        /// Its size in a record, at most.
        bytes: usize,
    },
    /// Its large value could not be written to S3; nothing was sent.
    #[error("not published: {0}")]
    Value(Arc<ValueError>),
    /// There is no room in the queue now; nothing was sent. Only [`super::Publisher::try_publish`] says so, the others
    /// wait.
    #[error("not published: the publisher's queue is full")]
    Full,
    /// The publisher was closed; nothing was sent.
    #[error("not published: the publisher is closed")]
    Closed,
    /// Kinesis refused the record for a reason that no retry mends; it is not on the stream.
    #[error("not stored: stream {stream} refuses lane {lane}: {message}")]
    Rejected {
        /// The stream.
        stream: Arc<str>,
        /// The lane.
        lane: Lane,
        /// What Kinesis said.
        message: Arc<str>,
    },
    /// Kinesis did not confirm it in time: it may or may not be on the stream, or come there late. Later changes of
    /// the lane are numbered above it, so once one of them is applied this one is not any more.
    #[error("not confirmed: stream {stream}, lane {lane}, after {attempts} tries: {message}")]
    Unconfirmed {
        /// The stream.
        stream: Arc<str>,
        /// The lane.
        lane: Lane,
        /// How often it was tried.
        attempts: u32,
        /// What Kinesis or the transport said last.
        message: Arc<str>,
    },
    /// The publisher ended, with its runtime, before Kinesis confirmed it: it may or may not be on the stream.
    #[error("not confirmed: the publisher ended before the stream confirmed it")]
    Ended,
}

/// Some changes that were flushed are not on the stream, or not known to be; each was logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{changes} changes were not confirmed since the last flush")]
pub struct NotFlushed {
    /// How many since the last flush.
    pub changes: u64,
}

/// Why a publisher was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The stream could not be looked at.
    #[error("stream {stream} cannot be described: {message}")]
    Stream {
        /// The stream.
        stream: String,
        /// What Kinesis or the transport said.
        message: String,
    },
    /// The stream ignores partition keys, so lanes would lose their order.
    #[error(
        "stream {stream} distributes its records by {strategy}, which ignores partition keys and destroys the order of \
         every lane: set its record distribution strategy to USER_PARTITION_KEY"
    )]
    Distribution {
        /// The stream.
        stream: String,
        /// Its record distribution strategy.
        strategy: String,
    },
    /// A setting that cannot be.
    #[error("publisher setting {name}: {reason}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}
