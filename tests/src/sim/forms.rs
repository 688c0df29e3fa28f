//! The forms of a record that producers send: JSON, MessagePack, arrays, and KPL aggregated records, written here from
//! the contract's page; and what a record means that is not plain JSON.

use super::cloud::Objects;
use crate::random::Random;
use md5::{Digest as _, Md5};
use serde_json::{Value, json};
use sha2::Sha256;
use std::sync::PoisonError;
use tidemark_cache_sync::record::{Content, Data};

const KPL_MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];

/// How changes are written into a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    MessagePack,
    Kpl,
}

impl Form {
    pub(super) fn draw(random: &mut Random) -> Self {
        match random.below(5) {
            0 | 1 => Self::Json,
            2 | 3 => Self::MessagePack,
            _ => Self::Kpl,
        }
    }

    /// A record of `changes`: one alone as it is where `many` does not say otherwise.
    pub(super) fn encode(self, partition_key: &str, changes: &[Value], many: bool) -> Vec<u8> {
        let list = || if many { Value::from(changes) } else { changes.first().cloned().unwrap_or_default() };
        match self {
            Self::Kpl if !changes.is_empty() => aggregated(partition_key, changes),
            Self::MessagePack => messagepack(&list()),
            _ => list().to_string().into_bytes(),
        }
    }
}

/// A value in MessagePack; a map of nothing but `b64` is its bytes.
fn messagepack(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    pack(&mut out, value);
    out
}

fn pack(out: &mut Vec<u8>, value: &Value) {
    let length = |length: usize| u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    match value {
        Value::Object(map) => {
            if let (1, Some(text)) = (map.len(), map.get("b64").and_then(Value::as_str)) {
                let bytes = base64_simd::STANDARD.decode_to_vec(text).unwrap_or_default();
                out.push(0xc5);
                out.extend(length(bytes.len()));
                out.extend(bytes);
                return;
            }
            out.push(0xde);
            out.extend(length(map.len()));
            for (name, field) in map {
                pack(out, &Value::from(name.as_str()));
                pack(out, field);
            }
        }
        Value::Array(items) => {
            match u8::try_from(items.len()) {
                Ok(few @ 0..16) => out.push(0x90 | few),
                _ => {
                    out.push(0xdc);
                    out.extend(length(items.len()));
                }
            }
            items.iter().for_each(|item| pack(out, item));
        }
        Value::String(text) => {
            match u8::try_from(text.len()) {
                Ok(few @ 0..32) => out.push(0xa0 | few),
                _ => {
                    out.push(0xda);
                    out.extend(length(text.len()));
                }
            }
            out.extend(text.as_bytes());
        }
        number => {
            out.push(0xd3);
            out.extend(number.as_i64().unwrap_or_default().to_be_bytes());
        }
    }
}

/// A KPL record whose user records are one change each, in JSON and MessagePack by turns.
fn aggregated(partition_key: &str, changes: &[Value]) -> Vec<u8> {
    let mut message = field(1, partition_key.as_bytes());
    for (number, change) in changes.iter().enumerate() {
        let data = if number % 2 == 0 { change.to_string().into_bytes() } else { messagepack(change) };
        // Index 0 of the table of partition keys, then the data.
        let user_record = [vec![0x08, 0], field(3, &data)].concat();
        message.extend(field(3, &user_record));
    }
    let digest = Md5::digest(&message);
    [KPL_MAGIC.as_slice(), &message, &digest].concat()
}

/// A field of bytes in protobuf.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut left = bytes.len();
    while left >= 0x80 {
        out.push(u8::try_from(left & 0x7f).unwrap_or(0) | 0x80);
        left >>= 7;
    }
    out.push(u8::try_from(left).unwrap_or(0));
    out.extend_from_slice(bytes);
    out
}

/// What the reference model is told of a record that it cannot read by itself: a frame, whose decoder is held to the
/// contract's vectors elsewhere, and values by reference, as they lie on S3 when the record is stored.
pub(super) fn meaning(partition_key: &str, sent: &[u8], objects: &Objects) -> Option<Vec<Value>> {
    let json = match serde_json::from_slice(sent) {
        Ok(Value::Array(changes)) => Some(changes),
        Ok(change) => Some(vec![change]),
        Err(_) => None,
    };
    let is_json = json.is_some();
    let mut changes = json.or_else(|| framed(partition_key, sent))?;
    let refers = |change: &Value| change.get("ref").is_some();
    if is_json && !changes.iter().any(refers) {
        return None;
    }
    let objects = objects.lock().unwrap_or_else(PoisonError::into_inner);
    for change in changes.iter_mut().filter(|change| refers(change)) {
        let text = |field: &str| change["ref"][field].as_str().unwrap_or_default().to_owned();
        if let Some((value, _)) = objects.get(&format!("/{}/{}", text("bucket"), text("object"))) {
            change["value"] = base64(value);
        }
    }
    Some(changes)
}

fn framed(partition_key: &str, sent: &[u8]) -> Option<Vec<Value>> {
    let data = Data::new(sent.to_vec()).ok()?;
    let Ok(Content::Changes(changes)) = data.decode(partition_key) else { return None };
    let json = |change: &tidemark_cache_sync::change::Change<'_>| serde_json::from_str(&change.to_json()).ok();
    Some(changes.iter().map(|change| change.as_ref().ok().and_then(json).unwrap_or(Value::Null)).collect())
}

/// Bytes as an argument of a change.
pub(super) fn base64(bytes: &[u8]) -> Value {
    json!({"b64": base64_simd::STANDARD.encode_to_string(bytes)})
}

/// The SHA-256 of a value, in hex.
pub(super) fn sha256(value: &[u8]) -> String {
    Sha256::digest(value).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_says_the_same_to_the_decoder() {
        let changes = [
            json!({"v": 1, "cmds": [["SET", "k", {"b64": "/wA="}]], "at_ms": 5, "producer": "p", "seq": 300}),
            json!({"v": 1, "cmds": [["DEL", "k"], ["SADD", "k", "m".repeat(300)]]}),
        ];
        for form in [Form::Json, Form::MessagePack, Form::Kpl] {
            let data = Data::new(form.encode("3", &changes, true)).unwrap();
            let Content::Changes(decoded) = data.decode("3").unwrap() else { panic!("no changes") };
            let decoded: Vec<String> = decoded.into_iter().map(|change| change.unwrap().to_json()).collect();
            let wanted: Vec<String> = changes
                .iter()
                .map(|change| tidemark_cache_sync::change::Change::from_json(&change.to_string()).unwrap().to_json())
                .collect();
            assert_eq!(decoded, wanted, "{form:?}");
        }
    }
}
