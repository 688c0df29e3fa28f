//! Reading the stream as a mapping does, to deliver a batch by hand.

use crate::deployment::{STREAM, stream_arn};
use crate::error::LocalError;
use crate::regions::{HUB, RegionClients};
use aws_sdk_kinesis::types::{Record, ShardIteratorType};
use serde_json::{Value, json};

/// Calls of GetRecords a shard at most: 10,000 records each.
const READS_MAX: usize = 1_000;

/// One record of the stream and the shard it lies in.
#[derive(Clone, Debug)]
pub struct StreamRecord {
    /// The shard.
    pub shard: String,
    /// The record.
    pub record: Record,
}

/// Every record of the stream whose partition key is `partition_key`, oldest first.
///
/// # Errors
/// [`LocalError::Call`] when a call fails.
pub async fn records_of(hub: &RegionClients, partition_key: &str) -> Result<Vec<StreamRecord>, LocalError> {
    let list = hub.kinesis.list_shards().stream_name(STREAM).send().await;
    let shards = list.map_err(LocalError::call(format!("ListShards {STREAM}")))?.shards.unwrap_or_default();
    let mut found = Vec::new();
    for shard in shards {
        let records = shard_records(hub, &shard.shard_id).await?;
        let wanted = records.into_iter().filter(|record| record.partition_key.as_deref() == Some(partition_key));
        found.extend(wanted.map(|record| StreamRecord { shard: shard.shard_id.clone(), record }));
    }
    Ok(found)
}

async fn shard_records(hub: &RegionClients, shard: &str) -> Result<Vec<Record>, LocalError> {
    let start = hub.kinesis.get_shard_iterator().stream_name(STREAM).shard_id(shard);
    let start = start.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await;
    let mut iterator = start.map_err(LocalError::call(format!("GetShardIterator {shard}")))?.shard_iterator;
    let mut records = Vec::new();
    for _ in 0..READS_MAX {
        let Some(position) = iterator else { break };
        let read = hub.kinesis.get_records().shard_iterator(position).send().await;
        let read = read.map_err(LocalError::call(format!("GetRecords {shard}")))?;
        if read.records.is_empty() && read.millis_behind_latest.unwrap_or(0) == 0 {
            break;
        }
        records.extend(read.records);
        iterator = read.next_shard_iterator;
    }
    Ok(records)
}

/// The event with which a mapping would deliver `records` to its function.
#[must_use]
pub fn mapping_event(records: &[StreamRecord]) -> Value {
    let records: Vec<Value> = records.iter().map(|StreamRecord { shard, record }| mapped(shard, record)).collect();
    json!({ "Records": records })
}

fn mapped(shard: &str, record: &Record) -> Value {
    let arrival = record.approximate_arrival_timestamp.map(|time| time.as_secs_f64());
    json!({
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": record.partition_key,
            "sequenceNumber": record.sequence_number,
            "data": base64_simd::STANDARD.encode_to_string(record.data.as_ref()),
            "approximateArrivalTimestamp": arrival,
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": format!("{shard}:{}", record.sequence_number),
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": crate::functions::ROLE,
        "awsRegion": HUB,
        "eventSourceARN": stream_arn(),
    })
}
