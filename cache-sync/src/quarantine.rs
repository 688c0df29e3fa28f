//! Quarantined changes: what the object of one holds, and how it is published anew.
//!
//! Promise: a retry never overtakes. It is published only where the stream still shows everything behind the
//! quarantined change and nothing of it may write the key; where one slipped in between the look and the publishing,
//! the key is deleted, because a miss is safe and an older value is not.

use crate::change::{Change, Producer, Refused};
use crate::event::EventRecord;
use crate::lane::{Lane, Lanes};
use crate::position::{Position, Sequence};
use crate::record::{self, Content, Undecodable};
use crate::stream::{End, Range, Stream, StreamError};
use aws_sdk_kinesis::error::DisplayErrorContext;
use aws_sdk_kinesis::primitives::Blob;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use tidemark_runtime::clock::Clock;
use tidemark_runtime::logs::full_message;

/// Version of the objects that this crate writes.
pub const VERSION: u64 = 1;
/// How long the stream may be read for one retry, in milliseconds.
const READ_MS_MAX: i64 = 15 * 60_000;

/// What a quarantine object holds: one change of a record, why it was not applied, and the whole record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Version of this object.
    pub v: u64,
    /// The region that did not apply it.
    pub region: String,
    /// The record's partition key, the lane in decimal where all is well.
    pub partition_key: String,
    /// Where the change stands in its lane.
    pub position: Position,
    /// When its record arrived at the stream, in milliseconds since the epoch.
    pub arrival_ms: i64,
    /// Why it was not applied.
    pub reason: String,
    /// Keys that were deleted because of it, as text; bytes that are not UTF-8 show as the replacement character.
    pub deleted_keys: Vec<String>,
    /// The whole record's data in base64, as it came.
    pub data: String,
}

/// Says beside a quarantine object that its change was published anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    /// Version of this object.
    pub v: u64,
    /// The lane that it was published to.
    pub lane: Lane,
    /// Where it stands now.
    pub position: Position,
    /// When, in milliseconds since the epoch.
    pub at_ms: i64,
}

/// Why a change was not published anew, or was and is not in force.
#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    /// The record cannot be decoded, so there is no change to publish.
    #[error("its record cannot be decoded: publish what was meant instead")]
    Undecodable(#[from] Undecodable),
    /// The contract refuses it as it did before.
    #[error("the contract still refuses it: {0}")]
    Refused(#[from] Refused),
    /// The record holds no such change.
    #[error("its record holds no change {0}")]
    NoChange(u32),
    /// Its record was of another lane, so nothing tells what was published behind it.
    #[error("its record was of lane {found}, its key is of lane {home}: publish it anew with the right partition key")]
    OtherLane {
        /// The partition key of the record.
        found: String,
        /// The key's lane.
        home: Lane,
    },
    /// The stream no longer shows what came behind it.
    #[error("the stream no longer reaches back to it, so a later change of its key may be there")]
    OutOfReach,
    /// A later change wrote the key.
    #[error("a later change of its key is on the stream, at {0}")]
    LaterChange(Position),
    /// A later record cannot be decoded and may hold a change of the key.
    #[error("a later record of its lane cannot be decoded and may hold a change of its key, at {0}")]
    LaterUndecodable(Position),
    /// The stream is so long that it was not read to its end.
    #[error("reading the stream behind it took more than {} minutes", READ_MS_MAX / 60_000)]
    TooLong,
    /// The stream could not be read.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// Kinesis did not take it: it may or may not be on the stream.
    #[error("kinesis did not confirm it: {0}")]
    Unconfirmed(String),
    /// A change of the key was published between the look and the retry, which would have hidden it.
    #[error(
        "another change of its key was published meanwhile, at {later}: the key was deleted, at {deleted}; publish its value again"
    )]
    Overtaken {
        /// The other change.
        later: Position,
        /// The delete.
        deleted: Position,
    },
}

impl Quarantined {
    /// The record's data, to be given to [`Quarantined::change`].
    ///
    /// # Errors
    /// Where it is not base64, or not a whole frame.
    pub fn decoded(&self) -> Result<record::Data, Undecodable> {
        record::Data::from_base64(&self.data)
    }

    /// The quarantined change among those of its record.
    ///
    /// # Errors
    /// [`RetryError`]: it cannot be decoded, or is refused.
    pub fn change<'d>(&self, data: &'d record::Data) -> Result<Change<'d>, RetryError> {
        let Content::Changes(changes) = data.decode(&self.partition_key)? else {
            return Err(RetryError::NoChange(self.position.index));
        };
        let index = usize::try_from(self.position.index).unwrap_or(usize::MAX);
        let change = changes.into_iter().nth(index).ok_or(RetryError::NoChange(self.position.index))?;
        Ok(change?)
    }
}

/// What publishes changes anew: a stream, and a producer of its own for each.
#[derive(Debug)]
pub struct Retry {
    /// For writing.
    pub kinesis: aws_sdk_kinesis::Client,
    /// The stream's name.
    pub stream: String,
    /// How many lanes it has.
    pub lanes: Lanes,
    /// For the time of the retry.
    pub clock: Clock,
}

impl Retry {
    /// Publishes a quarantined change anew, at a new position. Its expiry stays what it was.
    ///
    /// # Errors
    /// [`RetryError`]; only [`RetryError::Unconfirmed`] and [`RetryError::Overtaken`] come after something was sent.
    pub async fn publish(&self, quarantined: &Quarantined) -> Result<Retried, RetryError> {
        let data = quarantined.decoded()?;
        let change = quarantined.change(&data)?;
        change.check()?;
        let home = self.lanes.of_key(&change.key);
        if self.lanes.of_partition_key(&quarantined.partition_key) != Some(home) {
            return Err(RetryError::OtherLane { found: quarantined.partition_key.clone(), home });
        }
        let last = self.check_later(home, &change.key, &quarantined.position, None).await?;
        let sequence = self.put(home, &self.anew(&change, quarantined.arrival_ms)).await?;
        let position = Position { sequence, index: 0 };
        match self.check_later(home, &change.key, &last, Some(&position.sequence)).await {
            Ok(_) => {}
            Err(RetryError::LaterChange(later) | RetryError::LaterUndecodable(later)) => {
                let delete = Change::from_commands(vec![vec![Cow::Borrowed(b"DEL".as_slice()), change.key.clone()]])?;
                let sequence = self.put(home, &self.anew(&delete, self.clock.now_ms())).await?;
                return Err(RetryError::Overtaken { later, deleted: Position { sequence, index: 0 } });
            }
            Err(other) => return Err(other),
        }
        Ok(Retried { v: VERSION, lane: home, position, at_ms: self.clock.now_ms() })
    }

    /// The change as it goes onto the stream: relative expiries count from where they did, and a number of a producer
    /// of its own makes a call that the SDK repeats harmless.
    fn anew(&self, change: &Change<'_>, arrival_ms: i64) -> String {
        let mut anew = change.clone();
        anew.at_ms = Some(change.base_ms(arrival_ms));
        anew.producer = Some(Producer { id: Cow::Owned(uuid::Uuid::new_v4().simple().to_string()), seq: 1 });
        anew.to_json()
    }

    async fn put(&self, lane: Lane, data: &str) -> Result<Sequence, RetryError> {
        let request = self.kinesis.put_record().stream_name(&self.stream).partition_key(lane.to_string());
        let put = request.data(Blob::new(data.as_bytes())).send().await;
        let put = put.map_err(|error| RetryError::Unconfirmed(DisplayErrorContext(error).to_string()))?;
        put.sequence_number().parse().map_err(|error| RetryError::Unconfirmed(full_message(&error)))
    }

    /// Looks for what may have written `key` behind `after`: up to `until`, or to the end of the stream as it is now.
    /// Returns the last position that was looked at.
    async fn check_later(
        &self,
        lane: Lane,
        key: &[u8],
        after: &Position,
        until: Option<&Sequence>,
    ) -> Result<Position, RetryError> {
        let begun_ms = self.clock.now_ms();
        let stream = Stream::new(self.kinesis.clone(), &self.stream, self.clock.clone());
        let end = until.cloned().map_or(End::Tip, End::Before);
        let range = Range { from: Some(after.sequence.clone()), until: end };
        let mut reader = stream.reader(BTreeMap::from([(lane, range)])).await?;
        let (mut last, mut found) = (after.clone(), false);
        while let Some(page) = reader.page().await? {
            for record in &page {
                let sequence: Sequence = record.kinesis.sequence_number.parse().map_err(|_| RetryError::OutOfReach)?;
                found |= sequence == after.sequence;
                if !found {
                    return Err(RetryError::OutOfReach);
                }
                check_record(record, key, after, &sequence)?;
                last = Position { sequence, index: last.index };
                // Whoever goes on writing must not keep this from ending.
                if until.is_none() && record.arrival_ms() > begun_ms {
                    return Ok(last);
                }
            }
            if self.clock.now_ms() - begun_ms > READ_MS_MAX {
                return Err(RetryError::TooLong);
            }
        }
        if found { Ok(last) } else { Err(RetryError::OutOfReach) }
    }
}

/// Refuses where the record may write `key` behind `after`.
fn check_record(record: &EventRecord<'_>, key: &[u8], after: &Position, sequence: &Sequence) -> Result<(), RetryError> {
    let at = |index: usize| Position { sequence: sequence.clone(), index: u32::try_from(index).unwrap_or(u32::MAX) };
    let Ok(data) = record::Data::from_base64(&record.kinesis.data) else { return undecodable(at(0), after) };
    match data.decode(&record.kinesis.partition_key) {
        Err(_) => undecodable(at(0), after),
        Ok(Content::Heartbeat(_)) => Ok(()),
        Ok(Content::Changes(changes)) => {
            for (index, change) in changes.iter().enumerate() {
                let writes = match change {
                    Ok(change) => change.key.as_ref() == key,
                    // A bad change deletes the keys that it names.
                    Err(refused) => refused.keys.iter().any(|named| named == key),
                };
                if writes && at(index) > *after {
                    return Err(RetryError::LaterChange(at(index)));
                }
            }
            Ok(())
        }
    }
}

fn undecodable(at: Position, after: &Position) -> Result<(), RetryError> {
    if at > *after { Err(RetryError::LaterUndecodable(at)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::KinesisRecord;
    use proptest::prelude::*;

    fn quarantined(data: &str, index: u32) -> Quarantined {
        Quarantined {
            v: VERSION,
            region: "us-east-1".into(),
            partition_key: "7".into(),
            position: format!("0042:{index}").parse().unwrap(),
            arrival_ms: 1_763_800_000_000,
            reason: "WRONGTYPE".into(),
            deleted_keys: vec!["k".into()],
            data: base64_simd::STANDARD.encode_to_string(data),
        }
    }

    #[test]
    fn an_object_keeps_its_golden_bytes() {
        let golden = r#"{"v":1,"region":"us-east-1","partition_key":"7","position":"0042:0","arrival_ms":1763800000000,"reason":"WRONGTYPE","deleted_keys":["k"],"data":"e30="}"#;
        assert_eq!(serde_json::to_string(&quarantined("{}", 0)).unwrap(), golden);
        assert_eq!(serde_json::from_str::<Quarantined>(golden).unwrap(), quarantined("{}", 0));
        let retried = Retried { v: 1, lane: Lane(7), position: "43:0".parse().unwrap(), at_ms: 5 };
        let golden = r#"{"v":1,"lane":7,"position":"43:0","at_ms":5}"#;
        assert_eq!(serde_json::to_string(&retried).unwrap(), golden);
    }

    #[test]
    fn the_change_at_its_index_is_found_and_a_refused_one_says_why() {
        let data = r#"[{"v":1,"cmd":["DEL","a"]},{"v":1,"cmd":["INCR","b"]}]"#;
        let (first, second) = (quarantined(data, 0), quarantined(data, 1));
        let decoded = first.decoded().unwrap();
        assert_eq!(first.change(&decoded).unwrap().key.as_ref(), b"a");
        assert!(second.change(&decoded).unwrap_err().to_string().contains("SET the resulting value"));
        let beyond = quarantined(data, 2);
        assert!(matches!(beyond.change(&decoded), Err(RetryError::NoChange(2))));
    }

    #[test]
    fn only_what_stands_behind_it_and_may_write_the_key_is_in_the_way() {
        let record = |data: &str| EventRecord {
            event_id: "shardId-0:9".into(),
            kinesis: KinesisRecord {
                partition_key: "7".into(),
                sequence_number: "9".into(),
                data: base64_simd::STANDARD.encode_to_string(data).into(),
                approximate_arrival_timestamp: 1.0,
            },
        };
        let check =
            |data: &str, after: &str| check_record(&record(data), b"k", &after.parse().unwrap(), &"9".parse().unwrap());
        let two = r#"[{"v":1,"cmd":["SET","k","1"]},{"v":1,"cmd":["SET","other","1"]}]"#;
        assert!(matches!(check(two, "8:5"), Err(RetryError::LaterChange(at)) if at.to_string() == "9:0"));
        check(two, "9:0").unwrap();
        assert!(matches!(check(r#"{"v":1,"cmd":["INCR","k"]}"#, "8:0"), Err(RetryError::LaterChange(_))));
        check(r#"{"v":1,"cmd":["SET","other","1"]}"#, "8:0").unwrap();
        check(r#"{"v":1,"heartbeat":1,"at_ms":1}"#, "8:0").unwrap();
        assert!(matches!(check("garbage", "8:0"), Err(RetryError::LaterUndecodable(_))));
        check("garbage", "9:0").unwrap();
    }

    proptest! {
        #[test]
        fn an_object_survives_its_json(index: u32, arrival_ms: i64, reason: String, data: Vec<u8>, keys: Vec<String>) {
            let mut object = quarantined("", index);
            object.data = base64_simd::STANDARD.encode_to_string(data);
            (object.arrival_ms, object.reason, object.deleted_keys) = (arrival_ms, reason, keys);
            let read: Quarantined = serde_json::from_slice(&serde_json::to_vec(&object).unwrap()).unwrap();
            prop_assert_eq!(read, object);
        }
    }
}
