//! Changes: one cache write on one key, whatever form it came in (`wire`, `frame`).
//!
//! Promise: what decodes is a result, not a step. Applying a run of changes again, in order, ends in the same state;
//! whatever could break that is refused with the reason and what to use instead.

use crate::arguments::{self, Arg};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Version of the wire contract that this crate reads and writes.
pub const CONTRACT_VERSION: u64 = 1;
/// Keys under this prefix are the system's own.
pub const SYSTEM_PREFIX: &[u8] = b"tidemark:";
/// Longest producer ID, in bytes.
pub const PRODUCER_BYTES_MAX: usize = 64;
/// Most commands in one change.
pub const COMMANDS_MAX: usize = 1_000;

/// Bytes that borrow from the record where they can.
pub type Bytes<'a> = Cow<'a, [u8]>;

/// One decoded change.
#[derive(Clone, Debug, PartialEq)]
pub struct Change<'a> {
    /// The one key it writes.
    pub key: Bytes<'a>,
    /// What it does to the key.
    pub body: Body<'a>,
    /// When the producer made it, in milliseconds since the epoch; relative expiries count from here.
    pub at_ms: Option<i64>,
    /// Who made it, where the producer asks for its retries to be recognised.
    pub producer: Option<Producer<'a>>,
}

/// A producer and its rising number in this lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer<'a> {
    /// Fresh for each process.
    pub id: Cow<'a, str>,
    /// Rises per producer and lane.
    pub seq: u64,
}

impl Producer<'_> {
    /// The same with nothing borrowed.
    #[must_use]
    pub fn into_owned(self) -> Producer<'static> {
        Producer { id: Cow::Owned(self.id.into_owned()), seq: self.seq }
    }
}

/// What a change does to its key.
#[derive(Clone, Debug, PartialEq)]
pub enum Body<'a> {
    /// Commands, applied as one.
    Commands(Vec<Command<'a>>),
    /// Sets the key to a value that lies on S3. Boxed, because it is large and rare, and a batch may hold many changes.
    Reference(Box<Reference>),
}

/// A value on S3, in the bucket of the region that published it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Bucket it was written to; a region reads the same object from its own bucket.
    pub bucket: String,
    /// Object key.
    pub object: String,
    /// SHA-256 of the value, lower-case hex.
    pub sha256: String,
    /// Size of the value in bytes.
    pub bytes: u64,
    /// Absolute expiry of the key, in milliseconds since the epoch.
    #[serde(skip)]
    pub expires_at_ms: Option<i64>,
}

impl Reference {
    /// The object of the value with this SHA-256: named by its content, so that the same value is one object.
    #[must_use]
    pub fn object_of(sha256_hex: &str) -> String {
        format!("values/{}/{sha256_hex}", sha256_hex.get(..2).unwrap_or_default())
    }
}

/// One Redis write command without its key.
#[derive(Clone, Debug, PartialEq)]
pub enum Command<'a> {
    /// SET, SETEX, PSETEX.
    Set {
        /// The value.
        value: Bytes<'a>,
        /// When it expires, if ever.
        expiry: Option<Expiry>,
    },
    /// DEL, UNLINK.
    Delete,
    /// EXPIRE, PEXPIRE, EXPIREAT, PEXPIREAT.
    Expire(Expiry),
    /// PERSIST.
    Persist,
    /// HSET, HMSET: fields and values.
    HashSet(Vec<(Bytes<'a>, Bytes<'a>)>),
    /// HDEL.
    HashDelete(Vec<Bytes<'a>>),
    /// SADD.
    SetAdd(Vec<Bytes<'a>>),
    /// SREM.
    SetRemove(Vec<Bytes<'a>>),
    /// ZADD: scores, as text that Redis reads, and members.
    SortedSetAdd(Vec<(Bytes<'a>, Bytes<'a>)>),
    /// ZREM.
    SortedSetRemove(Vec<Bytes<'a>>),
    /// RPUSH, LPUSH; only behind a DEL in the same change.
    Push {
        /// At which end.
        end: End,
        /// The elements in the order of the command.
        values: Vec<Bytes<'a>>,
    },
}

/// An end of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// LPUSH.
    Left,
    /// RPUSH.
    Right,
}

/// An expiry as it was written; absolute once it is known from when a relative one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Milliseconds after the change was made.
    InMs(i64),
    /// Milliseconds since the epoch.
    AtMs(i64),
}

impl Expiry {
    /// Milliseconds since the epoch, at least 1 (Redis refuses SET with an expiry of 0 or less), where a relative
    /// expiry counts from `base_ms`.
    #[must_use]
    pub fn at_ms(self, base_ms: i64) -> i64 {
        match self {
            Expiry::InMs(ms) => base_ms.saturating_add(ms),
            Expiry::AtMs(ms) => ms,
        }
        .max(1)
    }
}

/// A change that is not applied: which keys it named, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// The keys that it would have written, as far as they could be told.
    pub keys: Vec<Vec<u8>>,
    /// What is wrong and what to use instead.
    pub reason: String,
    /// Who made it, as far as it could be told: a repetition of a refused change is a repetition all the same.
    pub producer: Option<Producer<'static>>,
}

impl Refused {
    /// A refusal that could not tell any key.
    pub(crate) fn of_no_key(reason: impl Into<String>) -> Self {
        Self { keys: Vec::new(), reason: reason.into(), producer: None }
    }
}

impl<'a> Change<'a> {
    /// A change of commands that are given as their arguments: name, key and what follows, as in the contract's `cmds`.
    ///
    /// # Errors
    /// [`Refused`] with the keys they name.
    pub fn from_commands(commands: Vec<Vec<Bytes<'a>>>) -> Result<Self, Refused> {
        let mut lists: Vec<Vec<Arg<'a>>> =
            commands.into_iter().map(|args| args.into_iter().map(Arg).collect()).collect();
        match arguments::parse(&mut lists) {
            Ok((key, commands)) => Self { key, body: Body::Commands(commands), at_ms: None, producer: None }.checked(),
            Err(reason) => Err(Refused { keys: arguments::named_keys(&lists), reason, producer: None }),
        }
    }

    /// Checks the rules that hold for every change, however it was made or came.
    ///
    /// # Errors
    /// [`Refused`] with the key.
    pub fn check(&self) -> Result<(), Refused> {
        let Some(reason) = self.fault() else { return Ok(()) };
        let producer = self.producer.clone().map(Producer::into_owned);
        Err(Refused { keys: vec![self.key.to_vec()], reason, producer })
    }

    pub(crate) fn checked(self) -> Result<Self, Refused> {
        self.check().map(|()| self)
    }

    fn fault(&self) -> Option<String> {
        if let Err(reason) = check_key(&self.key) {
            return Some(reason);
        }
        if self.at_ms.is_some_and(|at_ms| at_ms < 0) {
            return Some("at_ms is negative: use milliseconds since the epoch".into());
        }
        if let Some(Producer { id, .. }) = &self.producer
            && (id.is_empty() || id.len() > PRODUCER_BYTES_MAX)
        {
            return Some(format!("producer must have 1 to {PRODUCER_BYTES_MAX} bytes"));
        }
        match &self.body {
            Body::Commands(commands) => commands_fault(commands),
            Body::Reference(reference) => reference_fault(reference),
        }
    }

    /// From when relative expiries count, where the record arrived at `arrival_ms`.
    #[must_use]
    pub fn base_ms(&self, arrival_ms: i64) -> i64 {
        self.at_ms.unwrap_or(arrival_ms)
    }
}

/// What keeps a run of commands from being a result.
fn commands_fault(commands: &[Command<'_>]) -> Option<String> {
    if commands.is_empty() || commands.len() > COMMANDS_MAX {
        return Some(format!("a change has 1 to {COMMANDS_MAX} commands"));
    }
    let mut deleted = false;
    for command in commands {
        let fault = match command {
            Command::Delete => {
                deleted = true;
                None
            }
            Command::Set { expiry: Some(Expiry::InMs(ms) | Expiry::AtMs(ms)), .. } if *ms <= 0 => {
                Some("SET: an expiry must be above 0".to_owned())
            }
            Command::Push { .. } if !deleted => Some(
                "a push alone is a step: put DEL before it in the same change (\"cmds\") and push the whole list"
                    .into(),
            ),
            Command::HashSet(pairs) => nothing_behind("HSET", pairs),
            Command::SortedSetAdd(pairs) => scores_fault(pairs),
            Command::HashDelete(items) => nothing_behind("HDEL", items),
            Command::SetAdd(items) => nothing_behind("SADD", items),
            Command::SetRemove(items) => nothing_behind("SREM", items),
            Command::SortedSetRemove(items) => nothing_behind("ZREM", items),
            Command::Push { values, .. } => nothing_behind("a push", values),
            Command::Set { .. } | Command::Expire(_) | Command::Persist => None,
        };
        if fault.is_some() {
            return fault;
        }
    }
    None
}

fn nothing_behind<T>(name: &str, items: &[T]) -> Option<String> {
    items.is_empty().then(|| format!("{name} has nothing behind its key"))
}

fn scores_fault(pairs: &[(Bytes<'_>, Bytes<'_>)]) -> Option<String> {
    let bad = pairs.iter().find(|(score, _)| score_of(score).is_none());
    let bad = bad.map(|(score, _)| format!("ZADD: {:?} is not a score", String::from_utf8_lossy(score)));
    bad.or_else(|| nothing_behind("ZADD", pairs))
}

/// A value under another name would be had in some regions, and in others not: forward copies none.
fn reference_fault(reference: &Reference) -> Option<String> {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if reference.sha256.len() != 64 || !reference.sha256.bytes().all(is_hex) {
        return Some("ref.sha256 is not 64 lower-case hex digits".to_owned());
    }
    let named = Reference::object_of(&reference.sha256);
    (reference.object != named).then(|| format!("ref.object is not named by its content: it must be {named}"))
}

fn check_key(key: &[u8]) -> Result<(), String> {
    if key.is_empty() {
        return Err("the key is empty".into());
    }
    if key.starts_with(SYSTEM_PREFIX) {
        return Err("keys under tidemark: are the system's own".into());
    }
    Ok(())
}

/// The number that Redis would read from a score's text.
#[must_use]
pub fn score_of(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    let plain = !text.to_ascii_lowercase().contains("nan");
    text.parse().ok().filter(|_: &f64| plain)
}

#[cfg(test)]
pub(crate) mod arbitrary;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> Refused {
        Change::from_json(json).unwrap_err()
    }

    fn parsed(json: &str) -> Change<'_> {
        Change::from_json(json).unwrap_or_else(|error| panic!("{json}: {error}"))
    }

    #[test]
    fn a_set_with_expiry_decodes_and_borrows() {
        let change = parsed(
            r#"{"v":1,"cmd":["SET","user:1","hello","PX","60000"],"at_ms":1763800000000,"producer":"8f","seq":42}"#,
        );
        assert_eq!(change.key.as_ref(), b"user:1");
        assert!(matches!(change.key, Cow::Borrowed(_)));
        let Body::Commands(commands) = &change.body else { panic!("{change:?}") };
        let [Command::Set { value, expiry: Some(expiry) }] = commands.as_slice() else { panic!("{commands:?}") };
        assert_eq!(value.as_ref(), b"hello");
        assert_eq!(expiry.at_ms(change.base_ms(5)), 1_763_800_060_000);
        assert_eq!(change.producer.unwrap().seq, 42);
    }

    #[test]
    fn a_relative_expiry_without_at_ms_counts_from_the_arrival() {
        let change = parsed(r#"{"v":1,"cmd":["EXPIRE","k","10"]}"#);
        assert_eq!(change.body, Body::Commands(vec![Command::Expire(Expiry::InMs(10_000))]));
        assert_eq!(Expiry::InMs(10_000).at_ms(change.base_ms(7)), 10_007);
    }

    #[test]
    fn bytes_travel_as_base64() {
        let change = parsed(r#"{"v":1,"cmd":["SET",{"b64":"/wA="},{"b64":""}]}"#);
        assert_eq!(change.key.as_ref(), [0xff, 0]);
    }

    #[test]
    fn a_push_needs_a_delete_before_it() {
        assert!(refused(r#"{"v":1,"cmd":["RPUSH","k","a"]}"#).reason.contains("DEL"));
        assert!(refused(r#"{"v":1,"cmds":[["RPUSH","k","a"],["DEL","k"]]}"#).reason.contains("DEL"));
        parsed(r#"{"v":1,"cmds":[["DEL","k"],["RPUSH","k","a","b"]]}"#);
    }

    #[test]
    fn steps_are_refused_with_what_to_use_instead_and_name_their_keys() {
        for (json, words) in [
            (r#"{"v":1,"cmd":["INCR","n"]}"#, "SET the resulting value"),
            (r#"{"v":1,"cmd":["incrby","n","2"]}"#, "SET the resulting value"),
            (r#"{"v":1,"cmd":["SET","n","1","NX"]}"#, "decide first"),
            (r#"{"v":1,"cmd":["SET","n","1","KEEPTTL"]}"#, "send the expiry with the value"),
            (r#"{"v":1,"cmd":["ZADD","n","GT","1","a"]}"#, "resulting scores"),
            (r#"{"v":1,"cmd":["EXPIRE","n","10","NX"]}"#, "send the expiry alone"),
            (r#"{"v":1,"cmd":["LPOP","n"]}"#, "DEL and RPUSH"),
            (r#"{"v":1,"cmd":["WIBBLE","n"]}"#, "CONTRACT.md"),
            (r#"{"v":1,"cmd":["SET","n","1","PX","0"]}"#, "above 0"),
            (r#"{"v":1,"cmd":["SET","n","1","EX","9223372036854775807"]}"#, "in range"),
            (r#"{"v":1,"cmd":["ZADD","n","nan","a"]}"#, "not a score"),
            (r#"{"v":1,"cmd":["HSET","n","f"]}"#, "pairs"),
            (r#"{"v":2,"cmd":["DEL","n"]}"#, "version 2"),
            (r#"{"v":1,"cmd":["DEL","n"],"producer":"a"}"#, "both or neither"),
        ] {
            let refused = refused(json);
            assert!(refused.reason.contains(words), "{json}: {}", refused.reason);
            assert_eq!(refused.keys, [b"n".to_vec()], "{json}");
        }
    }

    #[test]
    fn a_change_of_two_keys_is_refused_and_names_both() {
        for json in [
            r#"{"v":1,"cmd":["DEL","a","b"]}"#,
            r#"{"v":1,"cmd":["MSET","a","1","b","2"]}"#,
            r#"{"v":1,"cmds":[["DEL","b"],["DEL","a"]]}"#,
        ] {
            assert_eq!(refused(json).keys, [b"a".to_vec(), b"b".to_vec()], "{json}");
        }
    }

    #[test]
    fn a_change_of_arguments_is_held_to_the_same_rules() {
        let args = |args: &[&'static str]| args.iter().map(|arg| Cow::Borrowed(arg.as_bytes())).collect::<Vec<_>>();
        let made = Change::from_commands(vec![args(&["DEL", "k"]), args(&["rpush", "k", "a"])]).unwrap();
        assert_eq!(made.to_json(), r#"{"v":1,"cmds":[["DEL","k"],["RPUSH","k","a"]]}"#);
        let refused = Change::from_commands(vec![args(&["RPUSH", "k", "a"])]).unwrap_err();
        assert_eq!(refused.keys, [b"k".to_vec()]);
    }

    #[test]
    fn the_systems_own_keys_are_refused() {
        assert!(refused(r#"{"v":1,"cmd":["DEL","tidemark:lane:1"]}"#).reason.contains("system's own"));
    }

    #[test]
    fn what_is_no_change_is_refused_without_a_key() {
        for json in ["{}", "[]", "7", "\"x\"", r#"{"v":1}"#, r#"{"v":1,"cmd":["SET","k",7]}"#, r#"{"v":1,"wat":1}"#] {
            assert!(refused(json).keys.is_empty(), "{json}");
        }
    }

    #[test]
    fn a_reference_carries_key_checksum_and_absolute_expiry() {
        let sha = "ab".repeat(32);
        let json = format!(
            r#"{{"v":1,"key":"img:9","ref":{{"bucket":"b","object":"values/ab/{sha}","sha256":"{sha}","bytes":3}},"expires_at_ms":9}}"#
        );
        let change = parsed(&json);
        let Body::Reference(reference) = change.body else { panic!() };
        assert_eq!((reference.expires_at_ms, reference.bytes), (Some(9), 3));
        assert!(refused(&json.replace("ab", "XY")).reason.contains("sha256"));
        let elsewhere = refused(&json.replace("values/ab", "values/ba"));
        assert!(elsewhere.reason.contains("it must be values/ab/abab"), "{elsewhere:?}");
        assert_eq!(elsewhere.keys, [b"img:9".as_slice()]);
    }
}
