//! Records: what one Kinesis record's data holds.
//!
//! A record that decodes gives each of its changes or why that one is refused; one that does not decode gives one
//! reason for the whole.

use crate::change::{CONTRACT_VERSION, Change, Refused};
use crate::frame::{self, Frame, FrameError};
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
    /// Neither an object nor an array.
    #[error("a record starts with {{ or [: this one starts with byte {0:#04x}")]
    FirstByte(u8),
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
        let _ = partition_key;
        match &self.0 {
            Form::Plain(bytes) => decode(bytes),
            Form::Frame(frame) => Ok(Content::Changes(frame.changes()?)),
        }
    }
}

fn decode(data: &[u8]) -> Result<Content<'_>, Undecodable> {
    let first = data.iter().find(|byte| !byte.is_ascii_whitespace()).ok_or(Undecodable::Empty)?;
    let is_array = match first {
        b'{' => false,
        b'[' => true,
        other => return Err(Undecodable::FirstByte(*other)),
    };
    let text = std::str::from_utf8(data).map_err(Undecodable::NotUtf8)?;
    if is_array {
        let items: Vec<&RawValue> = serde_json::from_str(text).map_err(Undecodable::NotJson)?;
        if items.len() > CHANGES_MAX {
            return Err(Undecodable::TooMany(items.len()));
        }
        return Ok(Content::Changes(items.into_iter().map(|item| Change::from_json(item.get())).collect()));
    }
    let item: &RawValue = serde_json::from_str(text).map_err(Undecodable::NotJson)?;
    if let Ok(heartbeat) = serde_json::from_str::<Heartbeat>(item.get())
        && heartbeat.v == CONTRACT_VERSION
    {
        return Ok(Content::Heartbeat(heartbeat));
    }
    Ok(Content::Changes(vec![Change::from_json(item.get())]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn changes(data: &[u8]) -> Vec<Result<Change<'_>, Refused>> {
        match decode(data).unwrap() {
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
        let Content::Heartbeat(heartbeat) = decode(br#"{"v":1,"heartbeat":7,"at_ms":9}"#).unwrap() else { panic!() };
        assert_eq!((heartbeat.heartbeat, heartbeat.at_ms), (7, 9));
    }

    #[test]
    fn what_does_not_decode_says_why() {
        for (data, words) in [
            (&b""[..], "empty"),
            (b"hello", "starts with"),
            (b"{\"v\":1", "not JSON"),
            (b"[1,", "not JSON"),
            (b"{\"v\":\xff}", "not UTF-8"),
        ] {
            assert!(decode(data).unwrap_err().to_string().contains(words), "{data:?}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            decode(&data).ok();
        }

        #[test]
        fn no_json_like_input_panics(text in r#"[\[{]("v":1,|"cmd":|\["SET",|"k"|,|"b64":|\{|\}|\]|[0-9]|"PX"|"ref"){0,20}"#) {
            decode(text.as_bytes()).ok();
        }
    }
}
