//! Records: what one Kinesis record's data holds.
//!
//! A record that decodes gives each of its changes or why that one is refused; one that does not decode gives one
//! reason for the whole.

use crate::change::{Change, Refused};
use crate::frame::{self, Frame, FrameError};
use crate::kpl::{self, KplError};
use crate::messagepack;
use crate::plain_json;
use crate::wire::{self, Item};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Most changes in one record (a 1 MiB record of the smallest changes holds fewer).
pub const CHANGES_MAX: usize = 50_000;

/// What a record holds.
#[derive(Debug)]
pub enum Content<'a> {
    /// A numbered heartbeat, published to every lane.
    Heartbeat(Heartbeat),
    /// Changes in order; each stands alone.
    Changes(Vec<Result<Change<'a>, Refused>>),
}

/// The record that proves a lane is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// Contract version.
    pub v: u64,
    /// Rises by one per lane.
    pub heartbeat: u64,
    /// When it was published, in milliseconds since the epoch.
    pub at_ms: i64,
}

/// Why a whole record cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum Undecodable {
    /// None of the contract's forms.
    #[error("a record is JSON, MessagePack, a KPL record or a frame: this one starts with byte {0:#04x}")]
    FirstByte(u8),
    /// A KPL record that does not hold.
    #[error(transparent)]
    Kpl(#[from] KplError),
    /// A frame or a KPL record within a KPL record.
    #[error("a user record is JSON or MessagePack: this one is packed again")]
    Nested,
    /// Not MessagePack.
    #[error("the record is not MessagePack: {0}")]
    NotMessagePack(#[from] messagepack::Malformed),
    /// Something stands behind the one value of a record.
    #[error("the record has bytes behind its MessagePack value")]
    Trailing,
    /// Not base64 in the event.
    #[error("the record's data is not base64")]
    NotBase64,
    /// A frame that does not hold.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// No data.
    #[error("the record is empty")]
    Empty,
    /// Not UTF-8.
    #[error("the record is not UTF-8")]
    NotUtf8(#[source] std::str::Utf8Error),
    /// Not JSON.
    #[error("the record is not JSON")]
    NotJson(#[source] serde_json::Error),
    /// More changes than a record may hold.
    #[error("the record holds {0} changes: at most {CHANGES_MAX}")]
    TooMany(usize),
}

/// A record's data, ready to be decoded: a frame is checked and decompressed, anything else is as it came.
#[derive(Debug)]
pub struct Data(Form);

#[derive(Debug)]
enum Form {
    Plain(Vec<u8>),
    Frame(Frame),
}

impl Data {
    /// Takes data as an event carries it, in base64.
    ///
    /// # Errors
    /// [`Undecodable`] where it is not base64, or a frame that does not hold.
    pub fn from_base64(text: &str) -> Result<Self, Undecodable> {
        Self::new(base64_simd::STANDARD.decode_to_vec(text.as_bytes()).map_err(|_| Undecodable::NotBase64)?)
    }

    /// Takes data as a producer sent it.
    ///
    /// # Errors
    /// [`Undecodable`] where it is a frame that does not hold.
    pub fn new(bytes: Vec<u8>) -> Result<Self, Undecodable> {
        let form = if frame::is_frame(&bytes) { Form::Frame(Frame::open(bytes)?) } else { Form::Plain(bytes) };
        Ok(Self(form))
    }

    /// Size in memory, in bytes: of a frame as it was decompressed.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        match &self.0 {
            Form::Plain(bytes) => bytes.len(),
            Form::Frame(frame) => frame.len_bytes(),
        }
    }

    /// Decodes what the data holds; `partition_key` is the record's. Changes borrow from the data where they can.
    ///
    /// # Errors
    /// [`Undecodable`] where no change can be told from another.
    pub fn decode(&self, partition_key: &str) -> Result<Content<'_>, Undecodable> {
        match &self.0 {
            Form::Plain(bytes) if kpl::is_aggregated(bytes) => aggregated(bytes, partition_key),
            Form::Plain(bytes) => plain(bytes),
            Form::Frame(frame) => Ok(Content::Changes(frame.changes()?)),
        }
    }
}

type Changes<'a> = Vec<Result<Change<'a>, Refused>>;

/// One change, an array of changes, or a heartbeat, in JSON or MessagePack: the first byte tells.
fn plain(data: &[u8]) -> Result<Content<'_>, Undecodable> {
    let first = *data.iter().find(|byte| !byte.is_ascii_whitespace()).ok_or(Undecodable::Empty)?;
    match first {
        b'{' => json(data),
        b'[' => json_array(std::str::from_utf8(data).map_err(Undecodable::NotUtf8)?).map(Content::Changes),
        // MessagePack has no white space before it.
        first if messagepack::is_map(data[0]) && first == data[0] => messagepack_map(data),
        first if messagepack::is_array(data[0]) && first == data[0] => messagepack_array(data).map(Content::Changes),
        other => Err(Undecodable::FirstByte(other)),
    }
}

fn json(data: &[u8]) -> Result<Content<'_>, Undecodable> {
    let text = std::str::from_utf8(data).map_err(Undecodable::NotUtf8)?;
    if let Some(change) = plain_json::change(text) {
        return Ok(Content::Changes(vec![Ok(change)]));
    }
    match wire::any_item_from_json(text) {
        Ok(Item::Heartbeat(heartbeat)) => Ok(Content::Heartbeat(heartbeat)),
        Ok(Item::Change(change)) => Ok(Content::Changes(vec![Ok(change)])),
        Err(fault) => {
            // Decoding ended at the first fault; the rest may not even be JSON.
            serde_json::from_str::<&RawValue>(text).map_err(Undecodable::NotJson)?;
            Ok(Content::Changes(vec![Err(fault.refused())]))
        }
    }
}

fn json_array(text: &str) -> Result<Changes<'_>, Undecodable> {
    let items: Vec<&RawValue> = serde_json::from_str(text).map_err(Undecodable::NotJson)?;
    if items.len() > CHANGES_MAX {
        return Err(Undecodable::TooMany(items.len()));
    }
    Ok(items.into_iter().map(|item| Change::from_json(item.get())).collect())
}

fn messagepack_map(data: &[u8]) -> Result<Content<'_>, Undecodable> {
    match messagepack::split(data)? {
        (_, [_, ..]) => Err(Undecodable::Trailing),
        (_, []) => Ok(match wire::item_from_messagepack(data) {
            Ok(Item::Heartbeat(heartbeat)) => Content::Heartbeat(heartbeat),
            Ok(Item::Change(change)) => Content::Changes(vec![Ok(change)]),
            Err(refused) => Content::Changes(vec![Err(refused)]),
        }),
    }
}

fn messagepack_array(data: &[u8]) -> Result<Changes<'_>, Undecodable> {
    let (count, mut rest) = messagepack::array(data)?.ok_or(Undecodable::FirstByte(data[0]))?;
    if count > CHANGES_MAX {
        return Err(Undecodable::TooMany(count));
    }
    let mut changes = Vec::with_capacity(count.min(rest.len()));
    for _ in 0..count {
        let (value, behind) = messagepack::split(rest)?;
        changes.push(Change::from_messagepack(value.bytes));
        rest = behind;
    }
    if rest.is_empty() { Ok(changes) } else { Err(Undecodable::Trailing) }
}

/// A user record that is not of the record's lane, or does not decode, is one change that is refused.
fn aggregated<'a>(data: &'a [u8], partition_key: &str) -> Result<Content<'a>, Undecodable> {
    let mut changes = Vec::new();
    for user_record in kpl::user_records(data)? {
        if user_record.partition_key == partition_key {
            changes.extend(user_changes(user_record.data));
        } else {
            changes.push(Err(Refused::of_no_key(format!(
                "the user record's partition key is {:?}, the record's {partition_key:?}: pack one lane into a record",
                user_record.partition_key
            ))));
        }
        if changes.len() > CHANGES_MAX {
            return Err(Undecodable::TooMany(changes.len()));
        }
    }
    Ok(Content::Changes(changes))
}

fn user_changes(data: &[u8]) -> Changes<'_> {
    let nested = frame::is_frame(data) || kpl::is_aggregated(data);
    match if nested { Err(Undecodable::Nested) } else { plain(data) } {
        Ok(Content::Changes(changes)) => changes,
        Ok(Content::Heartbeat(_)) => vec![Err(Refused::of_no_key("a heartbeat stands alone in its record"))],
        Err(error) => vec![Err(Refused::of_no_key(format!("the user record: {error}")))],
    }
}

#[cfg(test)]
mod vectors;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn changes(data: &[u8]) -> Vec<Result<Change<'_>, Refused>> {
        match plain(data).unwrap() {
            Content::Changes(changes) => changes,
            Content::Heartbeat(heartbeat) => panic!("{heartbeat:?}"),
        }
    }

    #[test]
    fn one_change_and_an_array_decode() {
        assert_eq!(changes(br#" {"v":1,"cmd":["DEL","a"]}"#).len(), 1);
        assert_eq!(changes(br#"[{"v":1,"cmd":["DEL","a"]},{"v":1,"cmd":["DEL","b"]}]"#).len(), 2);
        assert!(changes(b"[]").is_empty());
    }

    #[test]
    fn one_bad_change_of_an_array_leaves_the_others() {
        let data = br#"[{"v":1,"cmd":["DEL","a"]},{"v":1,"cmd":["INCR","b"]},7,{"v":1,"cmd":["DEL","c"]}]"#;
        let good: Vec<bool> = changes(data).iter().map(Result::is_ok).collect();
        assert_eq!(good, [true, false, false, true]);
    }

    #[test]
    fn a_heartbeat_is_no_change() {
        let Content::Heartbeat(heartbeat) = plain(br#"{"v":1,"heartbeat":7,"at_ms":9}"#).unwrap() else { panic!() };
        assert_eq!((heartbeat.heartbeat, heartbeat.at_ms), (7, 9));
    }

    #[test]
    fn what_does_not_decode_says_why() {
        for (data, words) in [
            (&b""[..], "empty"),
            (b"hello", "starts with byte"),
            (b"{\"v\":1", "not JSON"),
            (b"[1,", "not JSON"),
            (b"{\"v\":\xff}", "not UTF-8"),
        ] {
            assert!(plain(data).unwrap_err().to_string().contains(words), "{data:?}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            plain(&data).ok();
        }

        #[test]
        fn no_json_like_input_panics(text in r#"[\[{]("v":1,|"cmd":|\["SET",|"k"|,|"b64":|\{|\}|\]|[0-9]|"PX"|"ref"){0,20}"#) {
            plain(text.as_bytes()).ok();
        }
    }
}
