//! The wire forms of a single change: a map, as JSON text or in MessagePack, with the same names and rules in both.
//!
//! Promise: what is decoded borrows from the text where it can; what encodes decodes to the same.

use crate::arguments::{self, Arg};
use crate::change::{Body, Bytes, CONTRACT_VERSION, Change, Command, End, Expiry, Producer, Reference, Refused};
use crate::messagepack;
use crate::plain_json;
use crate::record::Heartbeat;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// What one map holds.
#[derive(Debug)]
pub(crate) enum Item<'a> {
    Heartbeat(Heartbeat),
    Change(Change<'a>),
}

impl<'a> Item<'a> {
    fn change(self) -> Result<Change<'a>, Refused> {
        match self {
            Item::Change(change) => Ok(change),
            Item::Heartbeat(_) => Err(Refused::of_no_key("not a change: a heartbeat stands alone in its record")),
        }
    }
}

impl<'a> Change<'a> {
    /// Decodes one change from its JSON text.
    ///
    /// # Errors
    /// [`Refused`] with the keys it named.
    pub fn from_json(json: &'a str) -> Result<Self, Refused> {
        match plain_json::change(json) {
            Some(change) => Ok(change),
            None => any_item_from_json(json).map_err(Fault::refused)?.change(),
        }
    }

    /// Decodes one change from its MessagePack map, which nothing may follow.
    ///
    /// # Errors
    /// [`Refused`] with the keys it named.
    pub fn from_messagepack(bytes: &'a [u8]) -> Result<Self, Refused> {
        item_from_messagepack(bytes)?.change()
    }

    /// The change as JSON text, as the contract has it.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The change as a MessagePack map, as the contract has it.
    #[must_use]
    pub fn to_messagepack(&self) -> Vec<u8> {
        rmp_serde::to_vec(self).unwrap_or_default()
    }
}

/// Why a JSON text gives no item: it is not the map that the contract wants, or a rule refuses it.
pub(crate) enum Fault {
    NoMap(serde_json::Error),
    Refused(Refused),
}

impl Fault {
    pub(crate) fn refused(self) -> Refused {
        match self {
            Fault::NoMap(error) => Refused::of_no_key(format!("not a change: {error}")),
            Fault::Refused(refused) => refused,
        }
    }
}

/// Decodes a change or a heartbeat from JSON text, plain or not.
pub(crate) fn any_item_from_json(json: &str) -> Result<Item<'_>, Fault> {
    let Map(wire) = serde_json::from_str::<Map<Wire<'_>>>(json).map_err(Fault::NoMap)?;
    wire.into_item().map_err(Fault::Refused)
}

/// A change as serde reads it, plain or not.
#[cfg(test)]
pub(crate) fn slow_change(json: &str) -> Result<Change<'_>, Refused> {
    any_item_from_json(json).map_err(Fault::refused)?.change()
}

/// Decodes a change or a heartbeat from exactly one MessagePack value.
pub(crate) fn item_from_messagepack(bytes: &[u8]) -> Result<Item<'_>, Refused> {
    let not_a_change = |reason: &dyn fmt::Display| Refused::of_no_key(format!("not a change: {reason}"));
    match messagepack::split(bytes) {
        Err(error) => Err(not_a_change(&error)),
        Ok((_, rest)) if !rest.is_empty() => Err(not_a_change(&"bytes follow it")),
        Ok((messagepack::Value { fault: Some(fault), .. }, _)) => Err(not_a_change(&fault)),
        Ok((value, _)) => {
            let Map(wire) =
                rmp_serde::from_slice::<Map<Wire<'_>>>(value.bytes).map_err(|error| not_a_change(&error))?;
            wire.into_item()
        }
    }
}

/// A struct that is read from a map only: derived code would take an array of its fields as well.
struct Map<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Map<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MapVisitor(PhantomData)).map(Map)
    }
}

struct MapVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for MapVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

/// The map as it stands, before any rule is applied to it.
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
    reference: Option<Map<Reference>>,
    #[serde(default)]
    expires_at_ms: Option<i64>,
    #[serde(default)]
    at_ms: Option<i64>,
    #[serde(borrow, default)]
    producer: Option<Cow<'a, str>>,
    #[serde(default)]
    seq: Option<u64>,
    #[serde(default)]
    heartbeat: Option<u64>,
}

impl<'a> Wire<'a> {
    fn into_item(mut self) -> Result<Item<'a>, Refused> {
        if let Some(heartbeat) = self.heartbeat {
            return self.heartbeat(heartbeat).map(Item::Heartbeat).map_err(Refused::of_no_key);
        }
        let producer = match self.producer() {
            Ok(producer) => producer,
            Err(reason) => return Err(Refused { keys: self.named_keys(), reason, producer: None }),
        };
        let at_ms = self.at_ms;
        match self.key_and_body() {
            Ok((key, body)) => Change { key, body, at_ms, producer }.checked().map(Item::Change),
            Err(reason) => {
                let producer = producer.map(Producer::into_owned);
                Err(Refused { keys: self.named_keys(), reason, producer })
            }
        }
    }

    fn heartbeat(&self, heartbeat: u64) -> Result<Heartbeat, String> {
        let alone = self.cmd.is_none() && self.cmds.is_none() && self.key.is_none() && self.reference.is_none();
        let alone = alone && self.expires_at_ms.is_none() && self.producer.is_none() && self.seq.is_none();
        match self.at_ms {
            Some(at_ms) if alone && self.v == CONTRACT_VERSION => Ok(Heartbeat { v: self.v, heartbeat, at_ms }),
            _ => {
                Err(format!("not a change: a heartbeat has \"v\":{CONTRACT_VERSION}, \"heartbeat\" and \"at_ms\" only"))
            }
        }
    }

    /// The version is looked at here, first of all rules.
    fn producer(&mut self) -> Result<Option<Producer<'a>>, String> {
        if self.v != CONTRACT_VERSION {
            return Err(format!("contract version {} is not known: use \"v\":{CONTRACT_VERSION}", self.v));
        }
        match (self.producer.take(), self.seq) {
            (None, None) => Ok(None),
            (Some(id), Some(seq)) => Ok(Some(Producer { id, seq })),
            _ => Err("producer and seq go together: send both or neither".into()),
        }
    }

    fn key_and_body(&mut self) -> Result<(Bytes<'a>, Body<'a>), String> {
        if self.reference.is_none() && (self.key.is_some() || self.expires_at_ms.is_some()) {
            return Err("\"key\" and \"expires_at_ms\" go with \"ref\" only: commands hold their key and expiry".into());
        }
        let commands = match (&mut self.cmd, &mut self.cmds, self.reference.take()) {
            (Some(args), None, None) => arguments::parse(std::slice::from_mut(args))?,
            (None, Some(lists), None) => arguments::parse(lists)?,
            (None, None, Some(Map(reference))) => {
                let key = self.key.take().ok_or("\"ref\" needs \"key\"")?.0;
                let reference = Reference { expires_at_ms: self.expires_at_ms, ..reference };
                return Ok((key, Body::Reference(reference.into())));
            }
            _ => return Err("a change has exactly one of \"cmd\", \"cmds\" and \"ref\"".into()),
        };
        Ok((commands.0, Body::Commands(commands.1)))
    }

    fn named_keys(&self) -> Vec<Vec<u8>> {
        let mut keys = arguments::named_keys(self.cmds.as_deref().unwrap_or_default());
        keys.extend(arguments::named_keys(self.cmd.as_slice()));
        keys.extend(self.key.iter().map(|key| key.0.to_vec()));
        keys.sort();
        keys.dedup();
        keys
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Arg<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ArgVisitor).map(Arg)
    }
}

/// A string, or `{"b64":"…"}`, or (in MessagePack) `bin`.
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

// --- out ---

impl Serialize for Change<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = match &self.body {
            Body::Commands(_) => 2,
            Body::Reference(reference) => 3 + usize::from(reference.expires_at_ms.is_some()),
        };
        let fields = fields + usize::from(self.at_ms.is_some()) + 2 * usize::from(self.producer.is_some());
        let mut map = serializer.serialize_map(Some(fields))?;
        map.serialize_entry("v", &CONTRACT_VERSION)?;
        match &self.body {
            Body::Commands(commands) => match commands.as_slice() {
                [command] => map.serialize_entry("cmd", &Args { key: &self.key, command })?,
                _ => map.serialize_entry("cmds", &Lists { key: &self.key, commands })?,
            },
            Body::Reference(reference) => {
                map.serialize_entry("key", &ArgOut(&self.key))?;
                map.serialize_entry("ref", &ReferenceOut(reference))?;
                if let Some(expires_at_ms) = reference.expires_at_ms {
                    map.serialize_entry("expires_at_ms", &expires_at_ms)?;
                }
            }
        }
        if let Some(at_ms) = self.at_ms {
            map.serialize_entry("at_ms", &at_ms)?;
        }
        if let Some(producer) = &self.producer {
            map.serialize_entry("producer", &producer.id)?;
            map.serialize_entry("seq", &producer.seq)?;
        }
        map.end()
    }
}

struct Lists<'c> {
    key: &'c Bytes<'c>,
    commands: &'c [Command<'c>],
}

impl Serialize for Lists<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.commands.iter().map(|command| Args { key: self.key, command }))
    }
}

/// A command with its key, as the contract writes it; expiries are in milliseconds.
struct Args<'c> {
    key: &'c Bytes<'c>,
    command: &'c Command<'c>,
}

impl Serialize for Args<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (name, arguments) = name_and_arguments(self.command);
        let mut seq = serializer.serialize_seq(Some(2 + arguments.len()))?;
        seq.serialize_element(name)?;
        seq.serialize_element(&ArgOut(self.key))?;
        for argument in &arguments {
            seq.serialize_element(&ArgOut(argument))?;
        }
        seq.end()
    }
}

fn name_and_arguments<'c>(command: &'c Command<'_>) -> (&'static str, Vec<Bytes<'c>>) {
    let borrowed = |bytes: &'c Bytes<'_>| Cow::Borrowed(bytes.as_ref());
    let list = |items: &'c [Bytes<'_>]| items.iter().map(borrowed).collect();
    let flat =
        |pairs: &'c [(Bytes<'_>, Bytes<'_>)]| pairs.iter().flat_map(|(a, b)| [borrowed(a), borrowed(b)]).collect();
    let number = |ms: i64| Cow::Owned(ms.to_string().into_bytes());
    match command {
        Command::Set { value, expiry: None } => ("SET", vec![borrowed(value)]),
        Command::Set { value, expiry: Some(expiry) } => {
            let (option, ms) = match *expiry {
                Expiry::InMs(ms) => ("PX", ms),
                Expiry::AtMs(ms) => ("PXAT", ms),
            };
            ("SET", vec![borrowed(value), Cow::Borrowed(option.as_bytes()), number(ms)])
        }
        Command::Delete => ("DEL", Vec::new()),
        Command::Expire(Expiry::InMs(ms)) => ("PEXPIRE", vec![number(*ms)]),
        Command::Expire(Expiry::AtMs(ms)) => ("PEXPIREAT", vec![number(*ms)]),
        Command::Persist => ("PERSIST", Vec::new()),
        Command::HashSet(pairs) => ("HSET", flat(pairs)),
        Command::HashDelete(fields) => ("HDEL", list(fields)),
        Command::SetAdd(members) => ("SADD", list(members)),
        Command::SetRemove(members) => ("SREM", list(members)),
        Command::SortedSetAdd(pairs) => ("ZADD", flat(pairs)),
        Command::SortedSetRemove(members) => ("ZREM", list(members)),
        Command::Push { end: End::Right, values } => ("RPUSH", list(values)),
        Command::Push { end: End::Left, values } => ("LPUSH", list(values)),
    }
}

struct ArgOut<'c>(&'c [u8]);

impl Serialize for ArgOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) if !serializer.is_human_readable() => serializer.serialize_bytes(self.0),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("b64", &base64_simd::STANDARD.encode_to_string(self.0))?;
                map.end()
            }
        }
    }
}

struct ReferenceOut<'c>(&'c Reference);

impl Serialize for ReferenceOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Reference { bucket, object, sha256, bytes, expires_at_ms: _ } = self.0;
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("bucket", bucket)?;
        map.serialize_entry("object", object)?;
        map.serialize_entry("sha256", sha256)?;
        map.serialize_entry("bytes", bytes)?;
        map.end()
    }
}

#[cfg(test)]
mod tests;
