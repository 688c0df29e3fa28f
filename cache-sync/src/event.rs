//! The event of a Kinesis mapping, read without copying: what a batch's records are, and which lane each is of.
//!
//! Shape: <https://docs.aws.amazon.com/lambda/latest/dg/with-kinesis.html>

use crate::plain_json;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A batch as the mapping delivers it; what a feed reads from the stream is given the same shape.
#[derive(Debug, Deserialize, Serialize)]
pub struct Event<'a> {
    /// Records in stream order.
    #[serde(rename = "Records", borrow)]
    pub records: Vec<EventRecord<'a>>,
}

impl<'a> Event<'a> {
    /// Reads an event from its JSON text.
    ///
    /// # Errors
    /// Where it is not the event of a Kinesis mapping.
    pub fn from_json(json: &'a str) -> Result<Self, serde_json::Error> {
        plain_json::event(json).map_or_else(|| serde_json::from_str(json), Ok)
    }
}

/// One record of a batch.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRecord<'a> {
    /// `SHARD:SEQUENCE`.
    #[serde(rename = "eventID", borrow)]
    pub event_id: Cow<'a, str>,
    /// The record itself.
    #[serde(borrow)]
    pub kinesis: KinesisRecord<'a>,
}

/// The Kinesis part of a record.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KinesisRecord<'a> {
    /// The lane in decimal.
    #[serde(borrow)]
    pub partition_key: Cow<'a, str>,
    /// The record's sequence number.
    #[serde(borrow)]
    pub sequence_number: Cow<'a, str>,
    /// Data in base64.
    #[serde(borrow)]
    pub data: Cow<'a, str>,
    /// Seconds since the epoch, with a fraction.
    pub approximate_arrival_timestamp: f64,
}

impl EventRecord<'_> {
    /// The shard that the record was read from.
    #[must_use]
    pub fn shard(&self) -> &str {
        self.event_id.split_once(':').map_or("", |(shard, _)| shard)
    }

    /// Arrival at the stream, in milliseconds since the epoch.
    #[must_use]
    pub fn arrival_ms(&self) -> i64 {
        (self.kinesis.approximate_arrival_timestamp * 1_000.0).round() as i64
    }

    /// The record with nothing borrowed.
    #[must_use]
    pub fn into_owned(self) -> EventRecord<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        EventRecord {
            event_id: own(self.event_id),
            kinesis: KinesisRecord {
                partition_key: own(self.kinesis.partition_key),
                sequence_number: own(self.kinesis.sequence_number),
                data: own(self.kinesis.data),
                approximate_arrival_timestamp: self.kinesis.approximate_arrival_timestamp,
            },
        }
    }
}
