//! Positions: where a change stands in its lane.
//!
//! A sequence number is a decimal integer of up to 129 digits and is compared as a number; some emulators pad it with
//! zeros, so the text is kept as it came (a reader must give it back) and compared without them.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

/// Longest sequence number, in digits (Kinesis: `0|[1-9][0-9]{0,128}`).
pub const SEQUENCE_DIGITS_MAX: usize = 129;

/// A record's sequence number, in the text the stream gave it; its clones, one for each change of a record, share it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sequence(Arc<str>);

/// Text that is no sequence number or position.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no {what}")]
pub struct PositionError {
    text: String,
    what: &'static str,
}

impl Sequence {
    /// The text as the stream gave it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn digits(&self) -> &str {
        self.0.trim_start_matches('0')
    }
}

impl FromStr for Sequence {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let decimal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if decimal && text.trim_start_matches('0').len() <= SEQUENCE_DIGITS_MAX && text.len() <= 2 * SEQUENCE_DIGITS_MAX
        {
            Ok(Self(text.into()))
        } else {
            Err(PositionError {
                text: text.to_owned(),
                what: "sequence number (a decimal integer of at most 129 digits)",
            })
        }
    }
}

impl TryFrom<String> for Sequence {
    type Error = PositionError;

    fn try_from(text: String) -> Result<Self, PositionError> {
        text.parse()
    }
}

impl From<Sequence> for String {
    fn from(sequence: Sequence) -> String {
        sequence.0.as_ref().to_owned()
    }
}

impl Ord for Sequence {
    fn cmp(&self, other: &Self) -> Ordering {
        let (ours, theirs) = (self.digits(), other.digits());
        ours.len().cmp(&theirs.len()).then_with(|| ours.cmp(theirs))
    }
}

impl PartialOrd for Sequence {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Sequence {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Sequence {}

impl Hash for Sequence {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digits().hash(state);
    }
}

/// Where a change stands in its lane: its record, then its index in the record. Written `SEQUENCE:INDEX`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Position {
    /// The record's sequence number.
    pub sequence: Sequence,
    /// The change's index in the record, from 0.
    pub index: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence.0, self.index)
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let bad = || PositionError { text: text.to_owned(), what: "position (SEQUENCE:INDEX)" };
        let (sequence, index) = text.split_once(':').ok_or_else(bad)?;
        Ok(Self { sequence: sequence.parse()?, index: index.parse().map_err(|_| bad())? })
    }
}

impl TryFrom<String> for Position {
    type Error = PositionError;

    fn try_from(text: String) -> Result<Self, PositionError> {
        text.parse()
    }
}

impl From<Position> for String {
    fn from(position: Position) -> String {
        position.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sequence(text: &str) -> Sequence {
        text.parse().unwrap()
    }

    #[test]
    fn sequences_compare_as_numbers_and_keep_their_text() {
        assert!(sequence("9") < sequence("10"));
        assert!(sequence("0000000010") > sequence("9"));
        assert_eq!(sequence("0007"), sequence("7"));
        assert_eq!(sequence("0007").as_str(), "0007");
        let longest = "9".repeat(SEQUENCE_DIGITS_MAX);
        assert!(sequence(&longest) > sequence(&"8".repeat(SEQUENCE_DIGITS_MAX)));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for bad in ["", "-1", "1.5", "abc", " 1", &"9".repeat(SEQUENCE_DIGITS_MAX + 1)] {
            assert!(bad.parse::<Sequence>().is_err(), "{bad:?}");
        }
        for bad in ["", "7", "7:", ":7", "7:-1", "7:x"] {
            assert!(bad.parse::<Position>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn positions_order_as_pairs_and_survive_their_text(a: u64, b: u64, i: u32, j: u32) {
            let (one, two): (Position, Position) =
                (format!("{a}:{i}").parse().unwrap(), format!("000{b}:{j}").parse().unwrap());
            prop_assert_eq!(one.cmp(&two), (a, i).cmp(&(b, j)));
            prop_assert_eq!(two.to_string().parse::<Position>().unwrap(), two);
        }
    }
}
