//! Lanes: fixed groups of keys, the unit of order.
//!
//! A lane is derived from the Redis Cluster slot of the key, so that a lane never needs two slots' order and a
//! producer in any language computes it with a CRC16 that its Redis client already has.
//! Slot rule: <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#key-distribution-model>

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use tidemark_runtime::settings::{SettingError, Settings};

/// Number of slots of a Redis Cluster.
pub const SLOTS: u16 = 16_384;
/// Lanes of a stream where nothing else is said.
pub const LANES_DEFAULT: u16 = 64;

/// One lane, `0..lanes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lane(pub u16);

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many lanes a stream has: a power of two from 1 to 16,384, fixed when the stream is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Lanes(u16);

/// A number of lanes that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{0} is no number of lanes: use a power of two from 1 to 16384, the one the stream was made with")]
pub struct LanesError(String);

impl Lanes {
    /// `count` lanes.
    ///
    /// # Errors
    /// Where `count` is not a power of two from 1 to 16,384.
    pub fn new(count: u16) -> Result<Self, LanesError> {
        if count.is_power_of_two() && count <= SLOTS { Ok(Self(count)) } else { Err(LanesError(count.to_string())) }
    }

    /// How many there are.
    #[must_use]
    pub fn count(self) -> u16 {
        self.0
    }

    /// Every lane, in order.
    pub fn all(self) -> impl Iterator<Item = Lane> {
        (0..self.0).map(Lane)
    }

    /// The lane of `key`.
    #[must_use]
    pub fn of_key(self, key: &[u8]) -> Lane {
        self.of_slot(slot(key))
    }

    /// The lane of the keys of `slot`, 0 to 16,383.
    #[must_use]
    pub fn of_slot(self, slot: u16) -> Lane {
        Lane(slot / (SLOTS / self.0))
    }

    /// The slots of a lane's keys.
    #[must_use]
    pub fn slots(self, lane: Lane) -> std::ops::Range<u16> {
        let width = SLOTS / self.0;
        lane.0 * width..(lane.0 + 1) * width
    }

    /// The lane that a record's partition key names, if it names one of this stream's.
    #[must_use]
    pub fn of_partition_key(self, partition_key: &str) -> Option<Lane> {
        let plain = partition_key == "0" || !partition_key.starts_with(['0', '+']);
        partition_key.parse().ok().filter(|lane| plain && *lane < self.0).map(Lane)
    }
}

impl TryFrom<u16> for Lanes {
    type Error = LanesError;

    fn try_from(count: u16) -> Result<Self, LanesError> {
        Self::new(count)
    }
}

impl From<Lanes> for u16 {
    fn from(lanes: Lanes) -> u16 {
        lanes.0
    }
}

impl FromStr for Lanes {
    type Err = LanesError;

    fn from_str(text: &str) -> Result<Self, LanesError> {
        text.parse().map_err(|_| LanesError(format!("{text:?}"))).and_then(Self::new)
    }
}

/// Reads `TIDEMARK_LANES`, [`LANES_DEFAULT`] where it is not set.
///
/// # Errors
/// [`SettingError`] where it is no number of lanes.
pub fn read_lanes(settings: &Settings<'_>) -> Result<Lanes, SettingError> {
    settings.parsed("TIDEMARK_LANES", Lanes(LANES_DEFAULT))
}

/// The Redis Cluster slot of `key`: of its hash tag where it has one that is not empty, else of the whole key.
#[must_use]
pub fn slot(key: &[u8]) -> u16 {
    crc16(hash_tag(key).unwrap_or(key)) % SLOTS
}

fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')? + 1;
    let length = key[open..].iter().position(|byte| *byte == b'}')?;
    (length > 0).then(|| &key[open..open + length])
}

/// CRC16-XMODEM: polynomial 0x1021, start 0, not reflected.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ CRC16_TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

static CRC16_TABLE: [u16; 256] = crc16_table();

const fn crc16_table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        // Golden values: CLUSTER KEYSLOT of a real server; "123456789" is the check value of the specification.
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot(b"foo"), 12_182);
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(slot(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
        assert_eq!(slot(b"foo{bar}{zap}"), slot(b"bar"));
        assert_eq!(slot(b"foo{bar"), crc16(b"foo{bar") % SLOTS);
    }

    #[test]
    fn lanes_divide_the_slots_evenly_and_in_order() {
        let lanes = Lanes::new(64).unwrap();
        assert_eq!(lanes.of_key(b"foo"), Lane(47));
        assert_eq!(Lanes::new(1).unwrap().of_key(b"foo"), Lane(0));
        assert_eq!(Lanes::new(SLOTS).unwrap().of_key(b"foo"), Lane(12_182));
    }

    #[test]
    fn a_number_of_lanes_is_a_power_of_two() {
        for bad in [0, 3, 100, 16_385, 32_768] {
            assert!(Lanes::new(bad).is_err(), "{bad}");
        }
        assert!("64".parse::<Lanes>().is_ok());
        assert!("many".parse::<Lanes>().unwrap_err().to_string().contains("power of two"));
    }

    #[test]
    fn a_partition_key_is_a_lane_in_plain_decimal() {
        let lanes = Lanes::new(64).unwrap();
        assert_eq!(lanes.of_partition_key("0"), Some(Lane(0)));
        assert_eq!(lanes.of_partition_key("63"), Some(Lane(63)));
        for bad in ["64", "-1", "+1", "01", "", "user:7", "7 "] {
            assert_eq!(lanes.of_partition_key(bad), None, "{bad:?}");
        }
    }
}
