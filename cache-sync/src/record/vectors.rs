//! The machine-readable vectors beside CONTRACT.md, each held against what it says of itself.

use super::*;
use crate::change::{Body, Command, Expiry};
use crate::lane::{Lanes, slot};
use serde_json::{Value, json};

const RECORDS: [(&str, &str); 5] = [
    ("valid.json", include_str!("../../vectors/valid.json")),
    ("refused.json", include_str!("../../vectors/refused.json")),
    ("python.json", include_str!("../../vectors/python.json")),
    ("node.json", include_str!("../../vectors/node.json")),
    ("frames.json", include_str!("../../vectors/frames.json")),
];
const KEYS: &str = include_str!("../../vectors/lanes.json");

fn bytes(value: &Value) -> Vec<u8> {
    match value.get("b64").unwrap_or(value) {
        Value::String(text) if value.is_string() => text.clone().into_bytes(),
        Value::String(base64) => base64_simd::STANDARD.decode_to_vec(base64).unwrap(),
        other => panic!("{other} is no string"),
    }
}

fn data(record: &Value) -> Vec<u8> {
    record.get("data").map_or_else(|| bytes(&json!({ "b64": record["data_b64"] })), bytes)
}

/// A change as the vectors write it: expiries absolute, without what every change has.
fn applied(mut change: Change<'_>, arrival_ms: i64, lanes: Lanes) -> Value {
    let base_ms = change.base_ms(arrival_ms);
    if let Body::Commands(commands) = &mut change.body {
        for command in commands {
            if let Command::Set { expiry: Some(expiry), .. } | Command::Expire(expiry) = command {
                *expiry = Expiry::AtMs(expiry.at_ms(base_ms));
            }
        }
    }
    let mut value: Value = serde_json::from_str(&change.to_json()).unwrap();
    let fields = value.as_object_mut().unwrap();
    fields.remove("v");
    if let Some(command) = fields.remove("cmd") {
        fields.insert("commands".into(), json!([command]));
    } else if let Some(commands) = fields.remove("cmds") {
        fields.insert("commands".into(), commands);
    }
    fields.insert("slot".into(), slot(&change.key).into());
    fields.insert("lane".into(), lanes.of_key(&change.key).0.into());
    value
}

/// What is wrong with one change of a vector, if anything is.
fn fault(decoded: Result<Change<'_>, Refused>, expected: &Value, arrival_ms: i64, lanes: Lanes) -> Option<String> {
    match (decoded, expected.get("refused")) {
        (Ok(change), None) => {
            let applied = applied(change, arrival_ms, lanes);
            (applied != *expected).then(|| format!("is {applied}, not {expected}"))
        }
        (Err(refused), Some(words)) => {
            let keys: Vec<Vec<u8>> = expected["keys"].as_array().unwrap().iter().map(bytes).collect();
            let fits = refused.reason.contains(words.as_str().unwrap()) && refused.keys == keys;
            (!fits).then(|| format!("is refused with {refused:?}, not {expected}"))
        }
        (decoded, _) => Some(format!("is {decoded:?}, not {expected}")),
    }
}

fn faults(record: &Value, lanes: Lanes) -> Vec<String> {
    let arrival_ms = record["arrival_ms"].as_i64().unwrap();
    let decoded = Data::new(data(record));
    let decoded = decoded.as_ref().map_err(|error| error.to_string());
    let partition_key = record["partition_key"].as_str().unwrap();
    let content = decoded.and_then(|data| data.decode(partition_key).map_err(|error| error.to_string()));
    match content {
        Ok(Content::Heartbeat(heartbeat)) if record["heartbeat"] == heartbeat.heartbeat => Vec::new(),
        Ok(Content::Changes(changes)) if record["changes"].as_array().is_some_and(|all| all.len() == changes.len()) => {
            let expected = record["changes"].as_array().unwrap();
            changes.into_iter().zip(expected).filter_map(|(got, want)| fault(got, want, arrival_ms, lanes)).collect()
        }
        Err(error) if record["undecodable"].as_str().is_some_and(|words| error.contains(words)) => Vec::new(),
        other => vec![format!("decodes to {other:?}")],
    }
}

#[test]
fn every_vector_decodes_to_what_it_says() {
    let mut all = Vec::new();
    let mut count = 0;
    for (file, text) in RECORDS {
        let page: Value = serde_json::from_str(text).unwrap();
        let lanes = Lanes::new(page["lanes"].as_u64().unwrap().try_into().unwrap()).unwrap();
        for record in page["records"].as_array().unwrap() {
            count += 1;
            all.extend(faults(record, lanes).into_iter().map(|fault| format!("{file}, {}: {fault}", record["name"])));
        }
    }
    assert!(all.is_empty(), "{} of {count}:\n{}", all.len(), all.join("\n"));
    assert!(count > 130, "only {count} vectors");
}

#[test]
fn every_key_lies_in_its_slot_and_lane() {
    let page: Value = serde_json::from_str(KEYS).unwrap();
    for entry in page["keys"].as_array().unwrap() {
        let key = bytes(&entry["key"]);
        assert_eq!(entry["slot"], slot(&key), "{entry}");
        assert_eq!(entry["lane_of_64"], Lanes::new(64).unwrap().of_key(&key).0, "{entry}");
        assert_eq!(entry["lane_of_1024"], Lanes::new(1024).unwrap().of_key(&key).0, "{entry}");
    }
}
