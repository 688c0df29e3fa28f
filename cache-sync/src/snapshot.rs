//! Snapshots: what a manifest says, and the form in which a key's state is stored in a part.
//!
//! A snapshot is committed by its manifest, which is written last and only once. A part is a zstd stream of MessagePack
//! values, one a key; both persist, so both carry what is needed to check them.

use crate::fold::{State, Value};
use crate::lane::Lane;
use crate::position::Position;
use crate::protocol::{Part, SnapshotLane};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Version of the manifest and of the parts.
pub const SNAPSHOT_VERSION: u32 = 1;

/// What a snapshot holds, and what it proves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SNAPSHOT_VERSION`].
    pub v: u32,
    /// Its ID.
    pub id: String,
    /// The region it was taken of.
    pub region: String,
    /// The scope: keys outside it were not looked at.
    pub scope: String,
    /// How many lanes the stream has.
    pub lanes_count: u16,
    /// Version of the server.
    pub server_version: String,
    /// When the scan began and ended, in milliseconds since the epoch.
    pub began_ms: i64,
    /// See `began_ms`.
    pub ended_ms: i64,
    /// Keys in all parts.
    pub keys: u64,
    /// Lanes that had a record.
    pub lanes: BTreeMap<Lane, LaneMarks>,
    /// The parts, in no order.
    pub parts: Vec<Part>,
}

/// Between which marks a lane was read: its values hold everything up to `start` and perhaps some up to `end`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaneMarks {
    /// The lane record before the scan.
    pub start: SnapshotLane,
    /// The mark after the scan.
    pub end: Option<Position>,
}

/// A key's state as a part stores it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// The key.
    pub key: ByteBuf,
    /// The type.
    pub kind: Kind,
    /// One value; fields and values in turn; elements; members; or scores and members in turn.
    pub items: Vec<ByteBuf>,
    /// Absolute expiry in milliseconds since the epoch, if any.
    pub expires_at_ms: Option<i64>,
}

/// A Redis type, by the name that TYPE gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A string.
    String,
    /// A hash.
    Hash,
    /// A list.
    List,
    /// A set.
    Set,
    /// A sorted set.
    Zset,
}

impl Stored {
    /// A key's state in the stored form.
    #[must_use]
    pub fn new(key: Vec<u8>, state: State) -> Self {
        let (kind, items) = to_items(state.value);
        let items = items.into_iter().map(ByteBuf::from).collect();
        Self { key: ByteBuf::from(key), kind, items, expires_at_ms: state.expires_at_ms }
    }

    /// The key and its state, or `None` where the items do not fit the type.
    #[must_use]
    pub fn into_state(self) -> Option<(Vec<u8>, State)> {
        let items = self.items.into_iter().map(ByteBuf::into_vec).collect();
        let value = from_items(self.kind, items)?;
        Some((self.key.into_vec(), State { value, expires_at_ms: self.expires_at_ms }))
    }
}

/// A value as its type and the arguments that would make it, in the order of SET, HSET, RPUSH, SADD and ZADD.
#[must_use]
pub fn to_items(value: Value) -> (Kind, Vec<Vec<u8>>) {
    match value {
        Value::String(bytes) => (Kind::String, vec![bytes]),
        Value::Hash(hash) => (Kind::Hash, hash.into_iter().flat_map(|(field, value)| [field, value]).collect()),
        Value::List(list) => (Kind::List, list.into()),
        Value::Set(set) => (Kind::Set, set.into_iter().collect()),
        Value::SortedSet(set) => {
            let pairs = set.into_iter().flat_map(|(member, score)| [score.to_string().into_bytes(), member]);
            (Kind::Zset, pairs.collect())
        }
    }
}

/// The reverse of [`to_items`]; `None` where the items do not fit the type.
#[must_use]
pub fn from_items(kind: Kind, items: Vec<Vec<u8>>) -> Option<Value> {
    Some(match kind {
        Kind::String => {
            let [bytes]: [Vec<u8>; 1] = items.try_into().ok()?;
            Value::String(bytes)
        }
        Kind::Hash => Value::Hash(in_pairs(items)?.collect()),
        Kind::List => Value::List(VecDeque::from(items)),
        Kind::Set => Value::Set(BTreeSet::from_iter(items)),
        Kind::Zset => {
            let scored = in_pairs(items)?.map(|(score, member)| Some((member, crate::change::score_of(&score)?)));
            Value::SortedSet(scored.collect::<Option<_>>()?)
        }
    })
}

fn in_pairs(items: Vec<Vec<u8>>) -> Option<impl Iterator<Item = (Vec<u8>, Vec<u8>)>> {
    let even = items.len().is_multiple_of(2);
    let mut items = items.into_iter();
    even.then(|| std::iter::from_fn(move || Some((items.next()?, items.next()?))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_map, btree_set, vec};
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Value> {
        let bytes = || vec(any::<u8>(), 0..20);
        prop_oneof![
            bytes().prop_map(Value::String),
            btree_map(bytes(), bytes(), 1..5).prop_map(Value::Hash),
            vec(bytes(), 1..5).prop_map(|items| Value::List(items.into())),
            btree_set(bytes(), 1..5).prop_map(Value::Set),
            btree_map(bytes(), prop_oneof![any::<i32>().prop_map(f64::from), Just(f64::INFINITY), -1e300..1e300], 1..5)
                .prop_map(Value::SortedSet),
        ]
    }

    proptest! {
        #[test]
        fn a_state_survives_being_stored(key in vec(any::<u8>(), 1..20), value in values(), expires_at_ms: Option<i64>) {
            let state = State { value, expires_at_ms };
            let stored = Stored::new(key.clone(), state.clone());
            let bytes = rmp_serde::to_vec(&stored).unwrap();
            let read: Stored = rmp_serde::from_slice(&bytes).unwrap();
            prop_assert_eq!(read.into_state(), Some((key, state)));
        }
    }

    #[test]
    fn the_stored_form_is_what_it_was() {
        let state =
            State { value: Value::Hash(BTreeMap::from([(b"f".to_vec(), b"1".to_vec())])), expires_at_ms: Some(7) };
        let bytes = rmp_serde::to_vec(&Stored::new(b"k".to_vec(), state)).unwrap();
        // Golden bytes: array of 4, bin "k", "hash", array of two bins, 7.
        assert_eq!(bytes, b"\x94\xc4\x01k\xa4hash\x92\xc4\x01f\xc4\x011\x07");
    }

    #[test]
    fn items_that_do_not_fit_their_type_are_refused() {
        assert_eq!(from_items(Kind::Hash, vec![b"f".to_vec()]), None);
        assert_eq!(from_items(Kind::String, vec![]), None);
        assert_eq!(from_items(Kind::Zset, vec![b"x".to_vec(), b"m".to_vec()]), None);
    }
}
