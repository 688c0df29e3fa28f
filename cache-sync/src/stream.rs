//! Reading the stream by lane: what lies between two positions, across shards and reshards.
//!
//! For one partition key sequence numbers keep rising across splits and merges, so the shards that ever held a lane are
//! read oldest first and filtered by number; nothing depends on a shard's name.

use crate::event::{EventRecord, KinesisRecord};
use crate::lane::Lane;
use crate::position::Sequence;
use aws_sdk_kinesis::error::DisplayErrorContext;
use aws_sdk_kinesis::types::{Shard, ShardIteratorType};
use md5::{Digest, Md5};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;
use tidemark_runtime::clock::Clock;

/// Records asked for at once; bounds what is in memory together with the 10 MiB that an answer holds at most.
const RECORDS_MAX: i32 = 1_000;
/// A shard gives at most five reads a second to all who share it.
const READ_PAUSE: Duration = Duration::from_millis(250);
/// Most shards of a stream that are listed; more mean that something is wrong with the listing.
const SHARDS_MAX: usize = 100_000;

/// Why the stream could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Kinesis failed; a retry may help.
    #[error("kinesis: {operation} on stream {stream} failed: {message}")]
    Kinesis {
        /// The operation.
        operation: &'static str,
        /// The stream.
        stream: String,
        /// What Kinesis or the transport said.
        message: String,
    },
    /// Kinesis answered without something it always gives.
    #[error("kinesis: {operation} on stream {stream} gave no usable {what}")]
    Answer {
        /// The operation.
        operation: &'static str,
        /// The stream.
        stream: String,
        /// What is missing.
        what: &'static str,
    },
    /// The stream ended before the position that was to be reached.
    #[error("lane {lane}: the stream holds no record {until} any more, or not yet")]
    NotReached {
        /// The lane.
        lane: Lane,
        /// The sequence number that was to be reached.
        until: String,
    },
}

/// What a stream is, as lane records remember it.
#[derive(Clone, Debug)]
pub struct Identity {
    /// ARN and creation time: a stream made anew under the same name is another.
    pub id: String,
    /// Creation time, in milliseconds since the epoch.
    pub created_ms: i64,
    /// How long it keeps records, in milliseconds.
    pub retention_ms: i64,
}

/// The part of a lane that is wanted.
#[derive(Clone, Debug)]
pub struct Range {
    /// From this record on, itself included (a mark may stand in the middle of its record); `None`: from the start.
    pub from: Option<Sequence>,
    /// Where it ends.
    pub until: End,
}

/// Where a part of a lane ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Before this record.
    Before(Sequence),
    /// With this record.
    At(Sequence),
    /// At the stream's tip: everything that was stored before the reader was made is read.
    Tip,
}

impl End {
    /// The record at which the end shows.
    fn sequence(&self) -> Option<&Sequence> {
        match self {
            End::Before(sequence) | End::At(sequence) => Some(sequence),
            End::Tip => None,
        }
    }

    fn is_behind(&self, sequence: &Sequence) -> bool {
        match self {
            End::Before(end) => sequence < end,
            End::At(end) => sequence <= end,
            End::Tip => true,
        }
    }
}

impl Range {
    fn holds(&self, sequence: &Sequence) -> bool {
        self.from.as_ref().is_none_or(|from| sequence >= from) && self.until.is_behind(sequence)
    }
}

/// One stream.
#[derive(Clone, Debug)]
pub struct Stream {
    kinesis: aws_sdk_kinesis::Client,
    name: String,
    clock: Clock,
}

impl Stream {
    /// The stream called `name`; `clock` measures the pauses between reads.
    #[must_use]
    pub fn new(kinesis: aws_sdk_kinesis::Client, name: impl Into<String>, clock: Clock) -> Self {
        Self { kinesis, name: name.into(), clock }
    }

    /// Which stream this is and how far back it may reach.
    ///
    /// # Errors
    /// [`StreamError`] where it cannot be described.
    pub async fn identity(&self) -> Result<Identity, StreamError> {
        let operation = "DescribeStreamSummary";
        let answer = self.kinesis.describe_stream_summary().stream_name(&self.name).send().await;
        let answer = answer.map_err(|error| self.failed(operation, &error))?;
        let summary = answer.stream_description_summary().ok_or_else(|| self.missing(operation, "summary"))?;
        let created_ms =
            summary.stream_creation_timestamp().to_millis().map_err(|_| self.missing(operation, "creation time"))?;
        Ok(Identity {
            id: format!("{}@{created_ms}", summary.stream_arn()),
            created_ms,
            retention_ms: i64::from(summary.retention_period_hours()) * 3_600_000,
        })
    }

    /// A reader of the given parts of lanes.
    ///
    /// # Errors
    /// [`StreamError`] where the shards cannot be listed.
    pub async fn reader(&self, ranges: BTreeMap<Lane, Range>) -> Result<Reader<'_>, StreamError> {
        let mut shards = Vec::new();
        for shard in self.shards().await? {
            let span = ShardSpan::of(&shard).ok_or_else(|| self.missing("ListShards", "range"))?;
            let lanes: Vec<Lane> =
                ranges.iter().filter(|(lane, range)| span.concerns(**lane, range)).map(|(lane, _)| *lane).collect();
            if !lanes.is_empty() {
                shards.push((span, lanes));
            }
        }
        shards.sort_by(|(a, _), (b, _)| b.starts.cmp(&a.starts));
        Ok(Reader { stream: self, ranges, shards, current: None })
    }

    async fn shards(&self) -> Result<Vec<Shard>, StreamError> {
        let operation = "ListShards";
        let mut shards = Vec::new();
        let mut request = self.kinesis.list_shards().stream_name(&self.name);
        loop {
            let answer = request.send().await.map_err(|error| self.failed(operation, &error))?;
            shards.extend_from_slice(answer.shards());
            match answer.next_token() {
                Some(token) if shards.len() < SHARDS_MAX => request = self.kinesis.list_shards().next_token(token),
                _ => return Ok(shards),
            }
        }
    }

    async fn iterator(&self, shard: &ShardSpan, from: Option<&Sequence>) -> Result<Option<String>, StreamError> {
        let request = self.kinesis.get_shard_iterator().stream_name(&self.name).shard_id(&shard.id);
        let request = match from {
            Some(from) if *from >= shard.starts => {
                request.shard_iterator_type(ShardIteratorType::AtSequenceNumber).starting_sequence_number(from.as_str())
            }
            _ => request.shard_iterator_type(ShardIteratorType::TrimHorizon),
        };
        let answer = request.send().await.map_err(|error| self.failed("GetShardIterator", &error))?;
        Ok(answer.shard_iterator)
    }

    fn failed(&self, operation: &'static str, error: &dyn std::error::Error) -> StreamError {
        let message = DisplayErrorContext(error).to_string();
        StreamError::Kinesis { operation, stream: self.name.clone(), message }
    }

    fn missing(&self, operation: &'static str, what: &'static str) -> StreamError {
        StreamError::Answer { operation, stream: self.name.clone(), what }
    }
}

/// Which partition keys and sequence numbers a shard holds.
#[derive(Debug)]
struct ShardSpan {
    id: String,
    hashes: (u128, u128),
    starts: Sequence,
    ends: Option<Sequence>,
}

impl ShardSpan {
    fn of(shard: &Shard) -> Option<Self> {
        let hashes = shard.hash_key_range()?;
        let numbers = shard.sequence_number_range()?;
        Some(Self {
            id: shard.shard_id().to_owned(),
            hashes: (hashes.starting_hash_key().parse().ok()?, hashes.ending_hash_key().parse().ok()?),
            starts: numbers.starting_sequence_number().parse().ok()?,
            ends: match numbers.ending_sequence_number() {
                Some(ends) => Some(ends.parse().ok()?),
                None => None,
            },
        })
    }

    fn concerns(&self, lane: Lane, range: &Range) -> bool {
        let hash = partition_hash(lane);
        let before = self.ends.as_ref().zip(range.from.as_ref()).is_some_and(|(ends, from)| ends < from);
        let behind = range.until.sequence().is_some_and(|until| self.starts > *until);
        self.hashes.0 <= hash && hash <= self.hashes.1 && !before && !behind
    }
}

/// Where Kinesis puts a lane: MD5 of the partition key as a 128-bit number.
fn partition_hash(lane: Lane) -> u128 {
    u128::from_be_bytes(Md5::digest(lane.to_string().as_bytes()).into())
}

/// Reads lanes page by page, oldest first.
#[derive(Debug)]
pub struct Reader<'s> {
    stream: &'s Stream,
    ranges: BTreeMap<Lane, Range>,
    /// Shards still to read, the next one last.
    shards: Vec<(ShardSpan, Vec<Lane>)>,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    iterator: String,
    shard: String,
    /// Lanes of this shard whose end has not been seen.
    open: Vec<Lane>,
}

impl Reader<'_> {
    /// The next records that are wanted, in stream order within each lane; possibly none. `None`: all has been read.
    ///
    /// # Errors
    /// [`StreamError`] where Kinesis failed.
    pub async fn page(&mut self) -> Result<Option<Vec<EventRecord<'static>>>, StreamError> {
        while self.current.is_none() {
            let Some((span, lanes)) = self.shards.pop() else { return Ok(None) };
            let from = |lane: &Lane| self.ranges.get(lane).and_then(|range| range.from.as_ref());
            // `None` sorts first: one lane that wants everything makes the whole shard be read.
            let lowest = lanes.iter().map(from).min().flatten();
            if let Some(iterator) = self.stream.iterator(&span, lowest).await? {
                self.current = Some(Current { iterator, shard: span.id, open: lanes });
            }
        }
        let Some(mut current) = self.current.take() else { return Ok(None) };
        let operation = "GetRecords";
        let answer =
            self.stream.kinesis.get_records().shard_iterator(&current.iterator).limit(RECORDS_MAX).send().await;
        let answer = answer.map_err(|error| self.stream.failed(operation, &error))?;
        let mut page = Vec::new();
        for record in answer.records() {
            let sequence: Sequence =
                record.sequence_number().parse().map_err(|_| self.stream.missing(operation, "sequence number"))?;
            let lane = record.partition_key().and_then(|key| key.parse().ok()).map(Lane);
            let Some((lane, range)) = lane.and_then(|lane| self.ranges.get(&lane).map(|range| (lane, range))) else {
                continue;
            };
            if range.until.sequence().is_some_and(|until| sequence >= *until) {
                current.open.retain(|open| *open != lane);
            }
            if range.holds(&sequence) {
                page.push(event_record(&current.shard, record));
            }
        }
        // A page may be empty before the tip, and hold records at it. A full one is followed by another in any case.
        let is_full = answer.records().len() >= RECORDS_MAX.unsigned_abs() as usize;
        let at_tip = !is_full && answer.millis_behind_latest().unwrap_or(0) == 0;
        if let Some(next) = answer.next_shard_iterator
            && !current.open.is_empty()
            && !at_tip
        {
            current.iterator = next;
            self.current = Some(current);
            self.stream.clock.sleep(READ_PAUSE).await;
        }
        Ok(Some(page))
    }
}

fn event_record(shard: &str, record: &aws_sdk_kinesis::types::Record) -> EventRecord<'static> {
    let arrived =
        record.approximate_arrival_timestamp().map_or(0.0, aws_sdk_kinesis::primitives::DateTime::as_secs_f64);
    EventRecord {
        event_id: Cow::Owned(format!("{shard}:{}", record.sequence_number())),
        kinesis: KinesisRecord {
            partition_key: Cow::Owned(record.partition_key().unwrap_or_default().to_owned()),
            sequence_number: Cow::Owned(record.sequence_number().to_owned()),
            data: Cow::Owned(base64_simd::STANDARD.encode_to_string(record.data().as_ref())),
            approximate_arrival_timestamp: arrived,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_lies_where_kinesis_puts_its_partition_key() {
        // Golden: hashlib.md5(b"7").hexdigest() = 8f14e45fceea167a5a36dedd4bea2543.
        assert_eq!(partition_hash(Lane(7)), 0x8f14_e45f_ceea_167a_5a36_dedd_4bea_2543);
    }

    #[test]
    fn a_range_holds_the_record_of_its_mark_and_ends_as_told() {
        let number = |text: &str| text.parse::<Sequence>().unwrap();
        let range = Range { from: Some(number("5")), until: End::Before(number("9")) };
        assert!(!range.holds(&number("4")) && range.holds(&number("5")) && !range.holds(&number("9")));
        let range = Range { until: End::At(number("9")), ..range };
        assert!(range.holds(&number("9")) && !range.holds(&number("10")));
        assert!(Range { until: End::Tip, ..range }.holds(&number("10")));
    }

    #[test]
    fn a_closed_shard_that_ended_before_the_mark_is_not_read() {
        let number = |text: &str| text.parse::<Sequence>().unwrap();
        let mut span =
            ShardSpan { id: "s".into(), hashes: (0, u128::MAX), starts: number("1"), ends: Some(number("4")) };
        let range = Range { from: Some(number("5")), until: End::Before(number("9")) };
        assert!(!span.concerns(Lane(0), &range));
        span.ends = None;
        assert!(span.concerns(Lane(0), &range));
        span.starts = number("10");
        assert!(!span.concerns(Lane(0), &range));
        assert!(span.concerns(Lane(0), &Range { until: End::Tip, ..range.clone() }));
        span.hashes = (0, 1);
        assert!(!span.concerns(Lane(0), &range));
    }
}
