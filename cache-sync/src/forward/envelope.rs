//! An event in the one buffer that it is received into and sent on from.
//!
//! Promise: what grows with the batch is copied once, out of the runtime's hands into the room of its request, where
//! what forward tells is written behind it. However often it is delivered, nothing of it is copied again.

use crate::event::EventRecord;
use crate::protocol::{Replay, Request};
use bytes::{Bytes, BytesMut};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// How every request begins: the event is the first field of [`Replay`].
const HEAD: &str = "{\"replay\":{\"event\":";
/// Room made behind an event at first, in bytes: what is told of one that no lane is fed with fits.
const TAIL_BYTES: usize = 1_024;

/// An event on its way.
#[derive(Debug)]
pub struct Envelope {
    /// [`HEAD`], the event, and behind it what was told of it last.
    request: Bytes,
    /// Where the event ends.
    end: usize,
}

/// The shape of an event whose records are not looked at.
#[derive(Deserialize)]
struct Unparsed<'e> {
    #[serde(rename = "Records", borrow)]
    records: Vec<&'e RawValue>,
}

/// The shape of an event of records that are not cloned for it.
#[derive(Serialize)]
struct Event<'r> {
    #[serde(rename = "Records")]
    records: &'r [EventRecord<'r>],
}

impl Envelope {
    /// The event of some records.
    ///
    /// # Errors
    /// As serde says.
    pub(super) fn of_records(records: &[EventRecord<'_>]) -> Result<Self, serde_json::Error> {
        let data_bytes: usize = records.iter().map(|record| record.kinesis.data.len()).sum();
        let mut request = Vec::with_capacity(HEAD.len() + data_bytes + records.len() * 512 + TAIL_BYTES);
        request.extend_from_slice(HEAD.as_bytes());
        serde_json::to_writer(&mut request, &Event { records })?;
        Ok(Self { end: request.len(), request: request.into() })
    }

    /// The event's JSON.
    pub(super) fn event(&self) -> Result<&str, serde_json::Error> {
        std::str::from_utf8(&self.request[HEAD.len()..self.end]).map_err(serde_json::Error::custom)
    }

    /// Size of the event's JSON, in bytes.
    pub(super) fn event_bytes(&self) -> usize {
        self.end - HEAD.len()
    }

    /// The whole request: the event, and what `told` says beside it; what `told` has as its event is left out.
    pub(super) fn sealed(&mut self, told: &Replay<'_>) -> Result<Bytes, serde_json::Error> {
        let told = Replay { event: RawValue::NULL, ..told.clone() };
        let told = serde_json::to_vec(&Request::Replay(told))?;
        let tail = told.strip_prefix(HEAD.as_bytes()).and_then(|rest| rest.strip_prefix(b"null"));
        let tail = tail.ok_or_else(|| serde_json::Error::custom("the event is not the first field"))?;
        // Whoever had the request before is done with it, so the buffer is ours again.
        let mut request = std::mem::take(&mut self.request).try_into_mut().unwrap_or_else(|shared| shared[..].into());
        request.truncate(self.end);
        request.extend_from_slice(tail);
        self.request = request.freeze();
        Ok(self.request.clone())
    }

    /// The event in parts of at most `bytes_max`, in order, each made when it is asked for; at least one record each.
    pub(super) fn parts(&self, bytes_max: usize) -> Result<impl Iterator<Item = Self>, serde_json::Error> {
        let Unparsed { records } = serde_json::from_str(self.event()?)?;
        let mut records = records.into_iter().peekable();
        Ok(std::iter::from_fn(move || {
            records.peek()?;
            let mut part = Self::begin(bytes_max);
            part.extend_from_slice(b"{\"Records\":[");
            let begun = part.len();
            while let Some(record) = records.next_if(|record| {
                part.len() == begun || part.len() - HEAD.len() + record.get().len() + ",]}".len() <= bytes_max
            }) {
                if part.len() > begun {
                    part.extend_from_slice(b",");
                }
                part.extend_from_slice(record.get().as_bytes());
            }
            part.extend_from_slice(b"]}");
            Some(Self { end: part.len(), request: part.freeze() })
        }))
    }

    /// A buffer for an event of so many bytes.
    fn begin(event_bytes: usize) -> BytesMut {
        let mut request = BytesMut::with_capacity(HEAD.len() + event_bytes + TAIL_BYTES);
        request.extend_from_slice(HEAD.as_bytes());
        request
    }
}

impl From<&RawValue> for Envelope {
    fn from(event: &RawValue) -> Self {
        let mut request = Self::begin(event.get().len());
        request.extend_from_slice(event.get().as_bytes());
        Self { end: request.len(), request: request.freeze() }
    }
}

/// Straight out of what the Lambda runtime received.
impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&'de RawValue>::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    const EVENT: &str = r#"{"Records":[{"a": 1},{"b":[2,"}"]},{"c":"\u00e9"}]}"#;

    fn told(stream: &str) -> Replay<'static> {
        Replay {
            event: RawValue::NULL,
            stream: stream.to_owned(),
            generation: 2,
            oldest_ms: None,
            follows: BTreeMap::new(),
            join: false,
            unobtainable: BTreeMap::new(),
        }
    }

    #[test]
    fn a_sealed_request_is_what_the_protocol_says() {
        let mut envelope: Envelope = serde_json::from_str(EVENT).unwrap();
        let event: &RawValue = serde_json::from_str(EVENT).unwrap();
        for stream in ["a longer name than the next", "s"] {
            let whole = serde_json::to_string(&Request::Replay(Replay { event, ..told(stream) })).unwrap();
            assert_eq!(envelope.sealed(&told(stream)).unwrap(), whole);
        }
        assert_eq!(envelope.event().unwrap(), EVENT);
    }

    #[test]
    fn an_event_stays_in_its_buffer_however_often_it_is_delivered() {
        let event = format!("{{\"Records\":[\"{}\"]}}", "x".repeat(1 << 20));
        let mut envelope: Envelope = serde_json::from_str(&event).unwrap();
        let made = envelope.request.as_ptr();
        for stream in ["one", "another", "a third"] {
            let request = envelope.sealed(&told(stream)).unwrap();
            assert_eq!(request.as_ptr(), made);
        }
        // Somebody still has the request: theirs is left alone.
        let theirs = envelope.sealed(&told("theirs")).unwrap();
        let ours = envelope.sealed(&told("ours")).unwrap();
        assert!(theirs.ends_with(b"}}") && ours.as_ptr() != theirs.as_ptr());
        assert_ne!(theirs, ours);
    }

    #[test]
    fn parts_hold_every_record_in_order_and_keep_their_bound() {
        let whole: Envelope = serde_json::from_str(EVENT).unwrap();
        for bytes_max in 0..EVENT.len() + 1 {
            let mut records = Vec::new();
            for part in whole.parts(bytes_max).unwrap() {
                let event: Value = serde_json::from_str(part.event().unwrap()).unwrap();
                let some = event["Records"].as_array().unwrap().clone();
                assert!(part.event_bytes() <= bytes_max || some.len() == 1, "{bytes_max}: {event}");
                records.extend(some);
            }
            assert_eq!(json!({ "Records": records }), serde_json::from_str::<Value>(EVENT).unwrap(), "{bytes_max}");
        }
    }
}
