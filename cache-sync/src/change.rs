//! Changes: one cache write on one key, in the wire contract's version 1 (see CONTRACT.md).
//!
//! Promise: what decodes is a result, not a step. Applying a run of changes again, in order, ends in the same state;
//! whatever could break that is refused with the reason and what to use instead.

use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use std::fmt;

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

/// What a change does to its key.
#[derive(Clone, Debug, PartialEq)]
pub enum Body<'a> {
    /// Commands, applied as one.
    Commands(Vec<Command<'a>>),
    /// Sets the key to a value that lies on S3.
    Reference(Reference),
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
}

impl Refused {
    fn new(reason: impl Into<String>) -> Self {
        Self { keys: Vec::new(), reason: reason.into() }
    }
}

impl<'a> Change<'a> {
    /// Decodes one change from its JSON text.
    ///
    /// # Errors
    /// [`Refused`] with the keys it named.
    pub fn from_json(json: &'a str) -> Result<Self, Refused> {
        let wire: Wire<'a> =
            serde_json::from_str(json).map_err(|error| Refused::new(format!("not a change: {error}")))?;
        let keys = wire.named_keys();
        wire.into_change().map_err(|reason| Refused { keys, reason })
    }

    /// Checks the rules that hold for every change, however it was made or came.
    ///
    /// # Errors
    /// [`Refused`] with the key.
    pub fn check(&self) -> Result<(), Refused> {
        self.fault().map_or(Ok(()), |reason| Err(Refused { keys: vec![self.key.to_vec()], reason }))
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
            Body::Reference(reference) => reference_fault(reference).map(str::to_owned),
        }
    }

    /// From when relative expiries count, where the record arrived at `arrival_ms`.
    #[must_use]
    pub fn base_ms(&self, arrival_ms: i64) -> i64 {
        self.at_ms.unwrap_or(arrival_ms)
    }
}

/// The wire object as it stands, before any rule is applied to it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<'a> {
    v: u64,
    #[serde(borrow, default)]
    cmd: Option<Vec<Arg<'a>>>,
    #[serde(borrow, default)]
    cmds: Option<Vec<Vec<Arg<'a>>>>,
    #[serde(borrow, default)]
    key: Option<Arg<'a>>,
    #[serde(rename = "ref", default)]
    reference: Option<Reference>,
    #[serde(default)]
    expires_at_ms: Option<i64>,
    #[serde(default)]
    at_ms: Option<i64>,
    #[serde(borrow, default)]
    producer: Option<Cow<'a, str>>,
    #[serde(default)]
    seq: Option<u64>,
}

impl<'a> Wire<'a> {
    fn named_keys(&self) -> Vec<Vec<u8>> {
        let commands = self.cmd.iter().chain(self.cmds.iter().flatten());
        let mut keys: Vec<Vec<u8>> = commands.flat_map(|args| keys_of_command(args)).collect();
        keys.extend(self.key.iter().map(|key| key.0.to_vec()));
        keys.sort();
        keys.dedup();
        keys
    }

    fn into_change(self) -> Result<Change<'a>, String> {
        if self.v != CONTRACT_VERSION {
            return Err(format!("contract version {} is not known: use \"v\":{CONTRACT_VERSION}", self.v));
        }
        let producer = producer(self.producer, self.seq)?;
        let at_ms = self.at_ms;
        let (key, body) = match (self.cmd, self.cmds, self.reference) {
            (Some(args), None, None) => commands(vec![args])?,
            (None, Some(lists), None) => commands(lists)?,
            (None, None, Some(reference)) => {
                let key = self.key.ok_or("\"ref\" needs \"key\"")?.0;
                (key, Body::Reference(Reference { expires_at_ms: self.expires_at_ms, ..reference }))
            }
            _ => return Err("a change has exactly one of \"cmd\", \"cmds\" and \"ref\"".into()),
        };
        let change = Change { key, body, at_ms, producer };
        change.fault().map_or(Ok(change), Err)
    }
}

fn producer<'a>(id: Option<Cow<'a, str>>, seq: Option<u64>) -> Result<Option<Producer<'a>>, String> {
    match (id, seq) {
        (None, None) => Ok(None),
        (Some(id), Some(seq)) => Ok(Some(Producer { id, seq })),
        _ => Err("producer and seq go together: send both or neither".into()),
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

fn reference_fault(reference: &Reference) -> Option<&'static str> {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if reference.sha256.len() != 64 || !reference.sha256.bytes().all(is_hex) {
        Some("ref.sha256 is not 64 lower-case hex digits")
    } else if reference.object.is_empty() {
        Some("ref.object is empty")
    } else {
        None
    }
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

fn commands<'a>(lists: Vec<Vec<Arg<'a>>>) -> Result<(Bytes<'a>, Body<'a>), String> {
    if lists.is_empty() || lists.len() > COMMANDS_MAX {
        return Err(format!("a change has 1 to {COMMANDS_MAX} commands"));
    }
    let mut key: Option<Bytes<'a>> = None;
    let mut commands = Vec::with_capacity(lists.len());
    for list in lists {
        let (this_key, command) = command(list)?;
        if key.get_or_insert_with(|| this_key.clone()) != &this_key {
            return Err("a change writes one key: publish one change for each key".into());
        }
        commands.push(command);
    }
    let key = key.ok_or("a change has at least one command")?;
    Ok((key, Body::Commands(commands)))
}

fn command<'a>(list: Vec<Arg<'a>>) -> Result<(Bytes<'a>, Command<'a>), String> {
    let mut args = list.into_iter().map(|arg| arg.0);
    let name = args.next().ok_or("a command is empty")?;
    let name = String::from_utf8_lossy(&name).to_ascii_uppercase();
    if let Some(instead) = instead_of(&name) {
        return Err(format!("{name} is refused: {instead}"));
    }
    let key = args.next().ok_or_else(|| format!("{name} has no key"))?;
    let args: Vec<Bytes<'a>> = args.collect();
    let command = parse_arguments(&name, args).map_err(|reason| format!("{name}: {reason}"))?;
    Ok((key, command))
}

fn parse_arguments<'a>(name: &str, args: Vec<Bytes<'a>>) -> Result<Command<'a>, String> {
    Ok(match name {
        "SET" => set(args)?,
        "SETEX" => set_with_expiry(args, 1_000)?,
        "PSETEX" => set_with_expiry(args, 1)?,
        "DEL" | "UNLINK" => {
            none_left(&args, "one key a change: publish one change for each key")?;
            Command::Delete
        }
        "EXPIRE" => Command::Expire(Expiry::InMs(expiry(args, 1_000)?)),
        "PEXPIRE" => Command::Expire(Expiry::InMs(expiry(args, 1)?)),
        "EXPIREAT" => Command::Expire(Expiry::AtMs(expiry(args, 1_000)?)),
        "PEXPIREAT" => Command::Expire(Expiry::AtMs(expiry(args, 1)?)),
        "PERSIST" => {
            none_left(&args, "takes only a key")?;
            Command::Persist
        }
        "HSET" | "HMSET" => Command::HashSet(pairs(args, "field and value")?),
        "HDEL" => Command::HashDelete(some(args)?),
        "SADD" => Command::SetAdd(some(args)?),
        "SREM" => Command::SetRemove(some(args)?),
        "ZADD" => Command::SortedSetAdd(scored(args)?),
        "ZREM" => Command::SortedSetRemove(some(args)?),
        "RPUSH" => Command::Push { end: End::Right, values: some(args)? },
        "LPUSH" => Command::Push { end: End::Left, values: some(args)? },
        _ => return Err("not a command of the contract: see the table of commands in CONTRACT.md".into()),
    })
}

/// What to use instead of a command that is a step, reads, or writes more than one key.
fn instead_of(name: &str) -> Option<&'static str> {
    Some(match name {
        "INCR" | "INCRBY" | "INCRBYFLOAT" | "DECR" | "DECRBY" | "APPEND" | "SETRANGE" | "SETBIT" | "GETSET"
        | "GETDEL" | "GETEX" | "BITOP" | "BITFIELD" => "it is a step, not a result: SET the resulting value",
        "SETNX" | "MSETNX" | "HSETNX" => "whether it applies depends on the region: decide first, then SET or HSET",
        "HINCRBY" | "HINCRBYFLOAT" => "it is a step, not a result: HSET the resulting value",
        "ZINCRBY" => "it is a step, not a result: ZADD the resulting score",
        "MSET" => "it writes several keys: publish one SET for each",
        "LPOP" | "RPOP" | "LREM" | "LSET" | "LTRIM" | "LINSERT" | "LPUSHX" | "RPUSHX" | "LMOVE" | "RPOPLPUSH"
        | "LMPOP" | "BLPOP" | "BRPOP" => {
            "it is a step, not a result: send DEL and RPUSH of the whole list as one change"
        }
        "SPOP" | "SMOVE" => "it is a step, not a result: SREM and SADD the members, one change for each key",
        "ZPOPMIN" | "ZPOPMAX" | "ZREMRANGEBYRANK" | "ZREMRANGEBYSCORE" | "ZREMRANGEBYLEX" => {
            "its result depends on what is there: ZREM the members"
        }
        "SINTERSTORE" | "SUNIONSTORE" | "SDIFFSTORE" | "ZUNIONSTORE" | "ZINTERSTORE" | "ZDIFFSTORE" | "ZRANGESTORE"
        | "SORT" | "COPY" | "RENAME" | "RENAMENX" => {
            "it reads another key: send DEL and the resulting members as one change"
        }
        "FLUSHALL" | "FLUSHDB" | "SWAPDB" | "MOVE" => "it is not a change of one key: use tidemark cache purge",
        "EVAL" | "EVALSHA" | "FCALL" | "MULTI" | "EXEC" => {
            "send the resulting writes as commands of one change (\"cmds\")"
        }
        _ => return None,
    })
}

fn keys_of_command(args: &[Arg<'_>]) -> Vec<Vec<u8>> {
    let Some((name, rest)) = args.split_first() else { return Vec::new() };
    let step = match String::from_utf8_lossy(&name.0).to_ascii_uppercase().as_str() {
        "DEL" | "UNLINK" => 1,
        "MSET" | "MSETNX" => 2,
        _ => rest.len().max(1),
    };
    rest.iter().step_by(step).map(|key| key.0.to_vec()).collect()
}

fn set<'a>(args: Vec<Bytes<'a>>) -> Result<Command<'a>, String> {
    let mut args = args.into_iter();
    let value = args.next().ok_or("has no value")?;
    let mut expiry = None;
    while let Some(option) = args.next() {
        let option = String::from_utf8_lossy(&option).to_ascii_uppercase();
        let mut number = |unit| integer(args.next().ok_or(format!("{option} has no number"))?.as_ref(), unit);
        let parsed = match option.as_str() {
            "EX" => Expiry::InMs(number(1_000)?),
            "PX" => Expiry::InMs(number(1)?),
            "EXAT" => Expiry::AtMs(number(1_000)?),
            "PXAT" => Expiry::AtMs(number(1)?),
            "NX" | "XX" | "IFEQ" | "IFNE" => {
                return Err(format!("{option} depends on what the region holds: decide first, then SET"));
            }
            "KEEPTTL" => return Err("KEEPTTL depends on what the region holds: send the expiry with the value".into()),
            "GET" => return Err("GET reads: a change only writes".into()),
            other => return Err(format!("option {other:?} is not known: use EX, PX, EXAT or PXAT")),
        };
        if expiry.replace(parsed).is_some() {
            return Err("has two expiries".into());
        }
    }
    Ok(Command::Set { value, expiry })
}

fn set_with_expiry<'a>(args: Vec<Bytes<'a>>, unit_ms: i64) -> Result<Command<'a>, String> {
    let [number, value]: [Bytes<'a>; 2] = args.try_into().map_err(|_| "takes a key, a number and a value")?;
    let expiry = Some(Expiry::InMs(integer(&number, unit_ms)?));
    Ok(Command::Set { value, expiry })
}

fn expiry(args: Vec<Bytes<'_>>, unit_ms: i64) -> Result<i64, String> {
    match args.as_slice() {
        [number] => integer(number, unit_ms),
        [_, _, ..] => Err("NX, XX, GT and LT depend on what the region holds: send the expiry alone".into()),
        [] => Err("has no number".into()),
    }
}

fn integer(text: &[u8], unit_ms: i64) -> Result<i64, String> {
    let number: Option<i64> = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number
        .and_then(|number| number.checked_mul(unit_ms))
        .ok_or_else(|| format!("{:?} is not an integer in range", String::from_utf8_lossy(text)))
}

fn none_left(args: &[Bytes<'_>], reason: &str) -> Result<(), String> {
    if args.is_empty() { Ok(()) } else { Err(reason.to_owned()) }
}

fn some<'a>(args: Vec<Bytes<'a>>) -> Result<Vec<Bytes<'a>>, String> {
    if args.is_empty() { Err("has nothing behind its key".into()) } else { Ok(args) }
}

fn pairs<'a>(args: Vec<Bytes<'a>>, what: &str) -> Result<Vec<(Bytes<'a>, Bytes<'a>)>, String> {
    if args.is_empty() || !args.len().is_multiple_of(2) {
        return Err(format!("takes pairs of {what}"));
    }
    let mut args = args.into_iter();
    let mut pairs = Vec::with_capacity(args.len() / 2);
    while let (Some(first), Some(second)) = (args.next(), args.next()) {
        pairs.push((first, second));
    }
    Ok(pairs)
}

fn scored<'a>(args: Vec<Bytes<'a>>) -> Result<Vec<(Bytes<'a>, Bytes<'a>)>, String> {
    if let Some(flag) = args.first().and_then(|first| std::str::from_utf8(first).ok())
        && ["NX", "XX", "GT", "LT", "CH", "INCR"].contains(&flag.to_ascii_uppercase().as_str())
    {
        return Err(format!("flag {flag} is refused: ZADD the resulting scores"));
    }
    pairs(args, "score and member")
}

/// The number that Redis would read from a score's text.
#[must_use]
pub fn score_of(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    let plain = !text.to_ascii_lowercase().contains("nan");
    text.parse().ok().filter(|_: &f64| plain)
}

/// A string, or `{"b64":"…"}`, or (in MessagePack) `bin`.
struct Arg<'a>(Bytes<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Arg<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ArgVisitor).map(Arg)
    }
}

struct ArgVisitor;

impl<'de> Visitor<'de> for ArgVisitor {
    type Value = Bytes<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or {\"b64\":\"…\"} (numbers are sent as strings)")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text.as_bytes()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.as_bytes().to_vec()))
    }

    fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(bytes))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(Cow::Owned(bytes.to_vec()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let bytes = match map.next_entry::<Cow<'de, str>, Cow<'de, str>>()? {
            Some((name, text)) if name == "b64" => base64_simd::STANDARD
                .decode_to_vec(text.as_bytes())
                .map_err(|_| de::Error::custom("b64 is not standard base64 with padding"))?,
            _ => return Err(de::Error::custom("a value that is an object is {\"b64\":\"…\"}")),
        };
        match map.next_entry::<IgnoredAny, IgnoredAny>()? {
            None => Ok(Cow::Owned(bytes)),
            Some(_) => Err(de::Error::custom("{\"b64\":\"…\"} has no other field")),
        }
    }
}

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
            r#"{{"v":1,"key":"img:9","ref":{{"bucket":"b","object":"values/1","sha256":"{sha}","bytes":3}},"expires_at_ms":9}}"#
        );
        let change = parsed(&json);
        let Body::Reference(reference) = change.body else { panic!() };
        assert_eq!((reference.expires_at_ms, reference.bytes), (Some(9), 3));
        assert!(refused(&json.replace("ab", "XY")).reason.contains("sha256"));
    }
}
