//! Batches of records as a Kinesis mapping delivers them.

use serde_json::{Value, json};
use tidemark_cache_sync::lane::{Lane, Lanes};

/// Identity of the stream in requests.
pub const STREAM: &str = "arn:aws:kinesis:us-east-1:000000000000:stream/tidemark@1763790000000";

/// A record on a stream that is made up.
#[derive(Clone, Debug)]
pub struct Record {
    /// The partition key.
    pub partition_key: String,
    /// The sequence number.
    pub sequence: u64,
    /// The data.
    pub data: Vec<u8>,
    /// When it arrived, in milliseconds since the epoch.
    pub arrival_ms: i64,
}

/// Hands out sequence numbers that rise but are not dense.
#[derive(Clone, Debug)]
pub struct Stream {
    last: u64,
    began_ms: i64,
}

impl Stream {
    /// A stream whose records arrive from `began_ms` on, in milliseconds since the epoch.
    #[must_use]
    pub fn begun_at(began_ms: i64) -> Self {
        Self { last: 0, began_ms }
    }

    /// A record with `data` under any partition key.
    pub fn raw(&mut self, partition_key: &str, data: &[u8]) -> Record {
        self.last += 7;
        let arrival_ms = self.began_ms + self.last.cast_signed();
        Record { partition_key: partition_key.to_owned(), sequence: self.last, data: data.to_vec(), arrival_ms }
    }

    /// A record with one change, or an array of them, for a lane.
    pub fn record(&mut self, lane: Lane, data: &Value) -> Record {
        self.raw(&lane.to_string(), data.to_string().as_bytes())
    }

    /// A record with one command on a key, in the key's lane.
    pub fn command(&mut self, lanes: Lanes, command: &[&str]) -> Record {
        self.record(lanes.of_key(command[1].as_bytes()), &json!({"v": 1, "cmd": command}))
    }
}

/// The event of a batch.
#[must_use]
pub fn event(records: &[Record]) -> Value {
    let one = |record: &Record| {
        json!({
            "eventSource": "aws:kinesis",
            "eventID": format!("shardId-000000000000:{}", record.sequence),
            "kinesis": {
                "kinesisSchemaVersion": "1.0",
                "partitionKey": record.partition_key,
                "sequenceNumber": record.sequence.to_string(),
                "data": base64_simd::STANDARD.encode_to_string(&record.data),
                "approximateArrivalTimestamp": record.arrival_ms as f64 / 1_000.0,
            },
        })
    };
    json!({"Records": records.iter().map(one).collect::<Vec<_>>()})
}

/// The request that replays a batch on lanes that are ready.
#[must_use]
pub fn replay(records: &[Record]) -> Value {
    json!({"replay": {"stream": STREAM, "generation": 1, "event": event(records)}})
}

/// The request that joins a batch to lanes that have no record yet.
#[must_use]
pub fn join(records: &[Record], lanes: impl IntoIterator<Item = Lane>, replication_id: &str) -> Value {
    follow(records, lanes.into_iter().map(|lane| (lane, Value::Null)), replication_id, true)
}

/// The request of a feed: `follows` names each lane's mark.
#[must_use]
pub fn follow(
    records: &[Record],
    follows: impl IntoIterator<Item = (Lane, Value)>,
    replication_id: &str,
    join: bool,
) -> Value {
    let follows: serde_json::Map<String, Value> = follows
        .into_iter()
        .map(|(lane, mark)| (lane.to_string(), json!({"mark": mark, "replication_id": replication_id})))
        .collect();
    json!({"replay": {"stream": STREAM, "generation": 1, "follows": follows, "join": join, "event": event(records)}})
}
