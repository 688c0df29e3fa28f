//! What it costs to decode what a mapping delivers, from the event's bytes to changes, and to encode what a publisher
//! sends.
//!
//! Prints one JSON object a line. Both sides of a ratio run in turns in this process, in CPU time; medians count. Words
//! on the command line choose benchmarks by name; `BENCH_RUNS` changes how often each runs.

mod report;

use aws_lambda_events::event::kinesis::KinesisEvent;
use report::{Chosen, cpu_s, median, number, print};
use serde::Deserialize;
use std::borrow::Cow;
use std::hint::black_box;
use tidemark_cache_sync::change::{Body, Change, Command, Expiry, Producer};
use tidemark_cache_sync::event::Event;
use tidemark_cache_sync::frame::FrameBuilder;
use tidemark_cache_sync::lane::Lanes;
use tidemark_cache_sync::record::{Content, Data};

type Failure = Box<dyn std::error::Error>;

/// Changes in one frame, and in one event.
const FRAME_CHANGES: usize = 500;
const EVENT_CHANGES: usize = 5_000;
const VALUE_BYTES: usize = 100;
const RECORD_BYTES_MAX: usize = 1_000_000;
const AT_MS: i64 = 1_763_800_000_000;

fn main() -> Result<(), Failure> {
    let (chosen, runs) = (Chosen::from_args(), number("BENCH_RUNS", 51));
    let entries = entries(EVENT_CHANGES);
    let changes: Vec<Change<'_>> = entries.iter().enumerate().map(|(seq, entry)| entry.change(seq as u64)).collect();
    let jsons: Vec<Vec<u8>> = changes.iter().map(|change| change.to_json().into_bytes()).collect();
    let json_event = event(&jsons);
    if chosen.has("decode/frame") {
        let frames: Vec<Vec<u8>> = changes.chunks(FRAME_CHANGES).map(framed).collect::<Result<_, _>>()?;
        decode("decode/frame", &event(&frames), &json_event, runs)?;
    }
    if chosen.has("decode/json") {
        decode("decode/json", &json_event, &json_event, runs)?;
    }
    if chosen.has("publish/encode") {
        encode(&entries, runs)?;
    }
    Ok(())
}

/// A cache entry as services have them: a key, and a small JSON document that compresses somewhat.
struct Entry {
    key: String,
    value: Vec<u8>,
}

impl Entry {
    fn change(&self, seq: u64) -> Change<'_> {
        let expiry = Some(Expiry::AtMs(AT_MS + 3_600_000 + seq as i64));
        Change {
            key: Cow::Borrowed(self.key.as_bytes()),
            body: Body::Commands(vec![Command::Set { value: Cow::Borrowed(&self.value), expiry }]),
            at_ms: Some(AT_MS + seq as i64),
            producer: Some(Producer { id: Cow::Borrowed("3f2a9c04d1e84b7f9a6655e0c1b2d3e4"), seq }),
        }
    }
}

fn entries(count: usize) -> Vec<Entry> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut entry = || {
        let key = format!("{{catalog}}:item:{}", random(10_000_000));
        let mut value = format!(
            "{{'id':{},'name':'item {}','price':{}.{:02},'stock':{},'tag':'{:012x}','note':'",
            random(1_000_000),
            random(100_000),
            random(1_000),
            random(100),
            random(500),
            random(1 << 48)
        );
        while value.len() < VALUE_BYTES - 2 {
            value.push(char::from(b'a' + random(26) as u8));
        }
        value.push_str("'}");
        Entry { key, value: value.into_bytes() }
    };
    (0..count).map(|_| entry()).collect()
}

fn framed(changes: &[Change<'_>]) -> Result<Vec<u8>, Failure> {
    let mut builder = FrameBuilder::new(RECORD_BYTES_MAX);
    changes.iter().try_for_each(|change| builder.push(change))?;
    Ok(builder.finish())
}

/// An event as a mapping delivers it, with every field that it has.
fn event(records: &[Vec<u8>]) -> Vec<u8> {
    let record = |(number, data): (usize, &Vec<u8>)| {
        let sequence = format!("4959033827149025660855969253836157109592157598913694{number:04}");
        serde_json::json!({
            "kinesis": {
                "kinesisSchemaVersion": "1.0",
                "partitionKey": "7",
                "sequenceNumber": sequence,
                "data": base64_simd::STANDARD.encode_to_string(data),
                "approximateArrivalTimestamp": 1_763_800_000.25,
            },
            "eventSource": "aws:kinesis",
            "eventVersion": "1.0",
            "eventID": format!("shardId-000000000006:{sequence}"),
            "eventName": "aws:kinesis:record",
            "invokeIdentityArn": "arn:aws:iam::123456789012:role/lambda-role",
            "awsRegion": "us-east-1",
            "eventSourceARN": "arn:aws:kinesis:us-east-1:123456789012:stream/changes",
        })
    };
    let records: Vec<_> = records.iter().enumerate().map(record).collect();
    serde_json::json!({ "Records": records }).to_string().into_bytes()
}

/// What a consumer of single JSON changes would write with the usual crates.
#[derive(Deserialize)]
struct Owned {
    v: u64,
    cmd: Vec<String>,
    at_ms: Option<i64>,
    producer: Option<String>,
    seq: Option<u64>,
}

/// The change that is in it.
struct OwnedSet {
    key: String,
    value: String,
    expires_at_ms: i64,
    at_ms: Option<i64>,
    producer: Option<(String, u64)>,
}

impl Owned {
    fn set(self) -> Result<OwnedSet, Failure> {
        let Ok([name, key, value, option, number]) = <[String; 5]>::try_from(self.cmd) else {
            return Err("not a SET with expiry".into());
        };
        (self.v == 1 && name == "SET" && option == "PXAT").then_some(()).ok_or("not a SET with PXAT")?;
        Ok(OwnedSet {
            key,
            value,
            expires_at_ms: number.parse()?,
            at_ms: self.at_ms,
            producer: self.producer.zip(self.seq),
        })
    }
}

/// Ours for one event, over the usual crates for the same changes as single JSON records.
fn decode(name: &str, event: &[u8], as_json: &[u8], runs: usize) -> Result<(), Failure> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let (seconds, count) = cpu_s(|| decode_ours(event));
        (count? == EVENT_CHANGES).then_some(()).ok_or("changes are missing")?;
        ours.push(seconds);
        let (seconds, count) = cpu_s(|| decode_theirs(as_json));
        (count? == EVENT_CHANGES).then_some(()).ok_or("changes are missing")?;
        theirs.push(seconds);
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let value = ours * 1e6 / EVENT_CHANGES as f64;
    print(
        name,
        value,
        "us a change",
        Some((theirs / ours, "aws_lambda_events, owned serde_json, single JSON changes")),
        runs,
    );
    Ok(())
}

fn decode_ours(event: &[u8]) -> Result<usize, Failure> {
    let event = Event::from_json(std::str::from_utf8(event)?)?;
    let data: Vec<Data> =
        event.records.iter().map(|record| Data::from_base64(&record.kinesis.data)).collect::<Result<_, _>>()?;
    let mut changes = Vec::with_capacity(EVENT_CHANGES);
    for (record, data) in event.records.iter().zip(&data) {
        if let Content::Changes(decoded) = data.decode(&record.kinesis.partition_key)? {
            changes.extend(decoded.into_iter().flatten());
        }
    }
    Ok(black_box(&changes).len())
}

fn decode_theirs(event: &[u8]) -> Result<usize, Failure> {
    let event: KinesisEvent = serde_json::from_slice(event)?;
    let mut changes = Vec::with_capacity(EVENT_CHANGES);
    for record in &event.records {
        changes.push(serde_json::from_slice::<Owned>(&record.kinesis.data)?.set()?);
    }
    let whole = |set: &&OwnedSet| {
        let OwnedSet { key, value, expires_at_ms, at_ms, producer } = set;
        !key.is_empty() && !value.is_empty() && *expires_at_ms > 0 && at_ms.is_some() && producer.is_some()
    };
    Ok(black_box(&changes).iter().filter(whole).count())
}

/// From keys and values to frames: checked, given a lane, collected, compressed.
fn encode(entries: &[Entry], runs: usize) -> Result<(), Failure> {
    let lanes = Lanes::new(64)?;
    let mut seconds = Vec::new();
    for _ in 0..runs {
        let (took, bytes) = cpu_s(|| -> Result<usize, Failure> {
            let mut builder = FrameBuilder::new(RECORD_BYTES_MAX);
            let mut bytes = 0;
            for (seq, entry) in entries.iter().enumerate() {
                let change = entry.change(seq as u64);
                change.check()?;
                black_box(lanes.of_key(&change.key));
                builder.push(&change)?;
                if builder.len() == FRAME_CHANGES {
                    bytes += builder.finish().len();
                }
            }
            Ok(bytes)
        });
        black_box(bytes?);
        seconds.push(took);
    }
    print("publish/encode", entries.len() as f64 / median(seconds), "changes a second", None, runs);
    Ok(())
}
