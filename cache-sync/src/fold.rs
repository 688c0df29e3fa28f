//! Folding: what a value and a run of changes come to, without a server.
//!
//! Loading a snapshot folds first: the snapshot's value plus the stream's changes give one final state per key, with
//! its true expiry, and the key is written once. The same arithmetic is the reference model of the tests.

use crate::change::{Body, Change, Command, End, score_of};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A value as Redis holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// A string.
    String(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A hash.
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    /// A list.
    List(VecDeque<Vec<u8>>),
    /// A set.
    Set(BTreeSet<Vec<u8>>),
    /// A sorted set: members and scores.
    SortedSet(BTreeMap<Vec<u8>, f64>),
}

/// A key's state: its value and its absolute expiry.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// The value.
    pub value: Value,
    /// Milliseconds since the epoch, if it expires.
    pub expires_at_ms: Option<i64>,
}

/// What a folded change needs beyond itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoldError {
    /// The value lies on S3: fetch it and fold [`Value::String`] of it in with [`put`].
    Referenced(crate::change::Reference),
}

/// Applies `change`, which arrived at `arrival_ms`, to a key's state as a region's replay does: a key that has expired
/// by then is absent, collection commands on an absent key create nothing unless a DEL came before them in the
/// change, and one that meets another type deletes the key.
///
/// # Errors
/// [`FoldError::Referenced`] where the value is not in the change.
pub fn fold(state: &mut Option<State>, change: &Change<'_>, arrival_ms: i64) -> Result<(), FoldError> {
    let commands = match &change.body {
        Body::Commands(commands) => commands,
        Body::Reference(reference) => return Err(FoldError::Referenced(reference.as_ref().clone())),
    };
    let base_ms = change.base_ms(arrival_ms);
    expire(state, arrival_ms);
    let mut may_create = false;
    for command in commands {
        match command {
            Command::Set { value, expiry } => {
                let expires_at_ms = expiry.map(|expiry| expiry.at_ms(base_ms));
                *state = Some(State { value: Value::String(value.to_vec()), expires_at_ms });
            }
            Command::Delete => {
                *state = None;
                may_create = true;
            }
            Command::Expire(expiry) => {
                if let Some(state) = state {
                    state.expires_at_ms = Some(expiry.at_ms(base_ms));
                }
            }
            Command::Persist => {
                if let Some(state) = state {
                    state.expires_at_ms = None;
                }
            }
            collection => fold_collection(state, collection, may_create),
        }
        expire(state, arrival_ms);
    }
    Ok(())
}

/// Sets a key to a value, as SET does.
pub fn put(state: &mut Option<State>, value: Vec<u8>, expires_at_ms: Option<i64>) {
    *state = Some(State { value: Value::String(value), expires_at_ms });
}

/// Makes a key absent whose expiry has come at `now_ms`.
pub fn expire(state: &mut Option<State>, now_ms: i64) {
    if state.as_ref().and_then(|state| state.expires_at_ms).is_some_and(|at| at <= now_ms) {
        *state = None;
    }
}

fn fold_collection(state: &mut Option<State>, command: &Command<'_>, may_create: bool) {
    if state.is_none() && may_create {
        *state = empty_for(command).map(|value| State { value, expires_at_ms: None });
    }
    let Some(held) = state else { return };
    let fits = apply_collection(&mut held.value, command);
    if !fits || held.value.is_empty() {
        *state = None;
    }
}

/// The empty collection that a command would create, if it creates one.
fn empty_for(command: &Command<'_>) -> Option<Value> {
    match command {
        Command::HashSet(_) => Some(Value::Hash(BTreeMap::new())),
        Command::SetAdd(_) => Some(Value::Set(BTreeSet::new())),
        Command::SortedSetAdd(_) => Some(Value::SortedSet(BTreeMap::new())),
        Command::Push { .. } => Some(Value::List(VecDeque::new())),
        _ => None,
    }
}

/// Applies a collection command; `false` where the value is of another type.
fn apply_collection(value: &mut Value, command: &Command<'_>) -> bool {
    match (value, command) {
        (Value::Hash(hash), Command::HashSet(pairs)) => {
            hash.extend(pairs.iter().map(|(field, value)| (field.to_vec(), value.to_vec())));
        }
        (Value::Hash(hash), Command::HashDelete(fields)) => {
            hash.retain(|field, _| !fields.iter().any(|gone| gone.as_ref() == field.as_slice()));
        }
        (Value::Set(set), Command::SetAdd(members)) => set.extend(members.iter().map(|member| member.to_vec())),
        (Value::Set(set), Command::SetRemove(members)) => {
            set.retain(|member| !members.iter().any(|gone| gone.as_ref() == member.as_slice()));
        }
        (Value::SortedSet(set), Command::SortedSetAdd(pairs)) => {
            set.extend(pairs.iter().map(|(score, member)| (member.to_vec(), score_of(score).unwrap_or_default())));
        }
        (Value::SortedSet(set), Command::SortedSetRemove(members)) => {
            set.retain(|member, _| !members.iter().any(|gone| gone.as_ref() == member.as_slice()));
        }
        (Value::List(list), Command::Push { end, values }) => {
            for value in values {
                match end {
                    End::Left => list.push_front(value.to_vec()),
                    End::Right => list.push_back(value.to_vec()),
                }
            }
        }
        _ => return false,
    }
    true
}

impl Value {
    /// Whether nothing is in it; Redis keeps no empty collection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Value::String(_) => false,
            Value::Hash(hash) => hash.is_empty(),
            Value::List(list) => list.is_empty(),
            Value::Set(set) => set.is_empty(),
            Value::SortedSet(set) => set.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(changes: &[&str]) -> Option<State> {
        let mut state = None;
        for json in changes {
            fold(&mut state, &Change::from_json(json).unwrap(), 1_000).unwrap();
        }
        state
    }

    #[test]
    fn a_collection_command_alone_creates_nothing() {
        assert_eq!(run(&[r#"{"v":1,"cmd":["HSET","k","f","1"]}"#]), None);
        assert_eq!(run(&[r#"{"v":1,"cmd":["SADD","k","f"]}"#]), None);
        let made = run(&[r#"{"v":1,"cmds":[["DEL","k"],["HSET","k","f","1"]]}"#]).unwrap();
        assert_eq!(made.value, Value::Hash(BTreeMap::from([(b"f".to_vec(), b"1".to_vec())])));
    }

    #[test]
    fn another_type_costs_the_key() {
        assert_eq!(run(&[r#"{"v":1,"cmd":["SET","k","v"]}"#, r#"{"v":1,"cmd":["HSET","k","f","1"]}"#]), None);
    }

    #[test]
    fn the_last_member_takes_the_key_with_it() {
        assert_eq!(
            run(&[r#"{"v":1,"cmds":[["DEL","k"],["SADD","k","a"]]}"#, r#"{"v":1,"cmd":["SREM","k","a"]}"#]),
            None
        );
    }

    #[test]
    fn a_renewal_that_arrives_late_finds_no_key_and_an_earlier_one_keeps_it() {
        let set = r#"{"v":1,"cmd":["SET","k","v","PXAT","1001"]}"#;
        let mut state = None;
        fold(&mut state, &Change::from_json(set).unwrap(), 1_000).unwrap();
        let renewal = Change::from_json(r#"{"v":1,"cmd":["PEXPIREAT","k","5000"]}"#).unwrap();
        let mut late = state.clone();
        fold(&mut late, &renewal, 1_001).unwrap();
        assert_eq!(late, None);
        fold(&mut state, &renewal, 1_000).unwrap();
        assert_eq!(state.unwrap().expires_at_ms, Some(5_000));
    }

    #[test]
    fn pushes_keep_their_order() {
        let made = run(&[r#"{"v":1,"cmds":[["DEL","k"],["RPUSH","k","b","c"],["LPUSH","k","a","0"]]}"#]).unwrap();
        let items: VecDeque<Vec<u8>> = [b"0", b"a", b"b", b"c"].iter().map(|item| item.to_vec()).collect();
        assert_eq!(made.value, Value::List(items));
    }
}
