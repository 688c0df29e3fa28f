//! A stream by the documented rules: shards that split and merge, sequence numbers that rise and have gaps, retention,
//! PutRecords whose entries fail one by one, reads in pages of any size.
//!
//! Rules: <https://docs.aws.amazon.com/kinesis/latest/APIReference/Welcome.html>

use super::cloud::Objects;
use super::forms;
use crate::random::Random;
use md5::{Digest, Md5};
use serde_json::{Value, json};

/// Sequence numbers are far longer than a machine's integers.
const SEQUENCE_PREFIX: &str = "49668";
const SEQUENCE_DIGITS: usize = 51;
pub(super) const RETENTION_MS: i64 = 24 * 3_600_000;
const THROUGHPUT: &str = "ProvisionedThroughputExceededException";

/// Who stored a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// A publisher of the library, by number.
    Publisher(usize),
    /// The heartbeat job.
    Heartbeats,
    /// A producer in another language.
    Foreign,
}

/// One stored record.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) number: u64,
    pub(super) partition_key: String,
    /// What consumers get.
    pub(super) data: Vec<u8>,
    /// What was sent.
    pub(super) sent: Vec<u8>,
    /// The changes in it, where it is not JSON or names values on S3; a value by reference stands in its change as
    /// `value`.
    pub(super) meaning: Option<Vec<Value>>,
    pub(super) owner: Owner,
    pub(super) arrival_ms: i64,
}

impl Record {
    pub(super) fn sequence(&self) -> String {
        sequence(self.number)
    }
}

/// A shard with all it ever held; what is older than the retention is kept for the reference model alone.
#[derive(Clone, Debug)]
pub(super) struct Shard {
    pub(super) id: String,
    pub(super) parents: Vec<usize>,
    hashes: (u128, u128),
    starts: u64,
    pub(super) ends: Option<u64>,
    closed_ms: i64,
    pub(super) records: Vec<Record>,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) created_ms: i64,
    pub(super) shards: Vec<Shard>,
    random: Random,
    last_number: u64,
    /// Known-bad: consumers get changes without producer and seq.
    strips_producers: bool,
    /// What values by reference are read from, for what records mean.
    objects: Objects,
}

/// The text of a sequence number.
pub(super) fn sequence(number: u64) -> String {
    format!("{SEQUENCE_PREFIX}{number:0>SEQUENCE_DIGITS$}")
}

/// The number behind a sequence number's text.
pub(super) fn number(sequence: &str) -> Option<u64> {
    sequence.strip_prefix(SEQUENCE_PREFIX)?.parse().ok()
}

impl Stream {
    pub(super) fn new(seed: u64, created_ms: i64, shards: u128, strips_producers: bool, objects: &Objects) -> Self {
        let mut stream = Self {
            created_ms,
            shards: Vec::new(),
            random: Random::new(seed),
            // A stream made anew goes on with higher numbers, as they hold the time.
            last_number: created_ms.unsigned_abs() << 8,
            strips_producers,
            objects: Objects::clone(objects),
        };
        let share = u128::MAX / shards;
        for index in 0..shards {
            let last = if index + 1 == shards { u128::MAX } else { share * (index + 1) - 1 };
            stream.open((share * index, last), Vec::new());
        }
        stream
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1 + self.random.below(5);
        self.last_number
    }

    fn open(&mut self, hashes: (u128, u128), parents: Vec<usize>) {
        let (id, starts) = (format!("shardId-{:012}", self.shards.len()), self.next_number());
        self.shards.push(Shard { id, parents, hashes, starts, ends: None, closed_ms: 0, records: Vec::new() });
    }

    /// Stores one record and returns its shard and sequence number.
    pub(super) fn put(
        &mut self,
        owner: Owner,
        partition_key: &str,
        sent: Vec<u8>,
        meaning: Option<Vec<Value>>,
        now_ms: i64,
    ) -> (String, String) {
        let hash = u128::from_be_bytes(Md5::digest(partition_key.as_bytes()).into());
        let number = self.next_number();
        let meaning = meaning.or_else(|| forms::meaning(partition_key, &sent, &self.objects));
        let data = if self.strips_producers { without_producers(&sent) } else { sent.clone() };
        let holds = |shard: &&mut Shard| shard.ends.is_none() && shard.hashes.0 <= hash && hash <= shard.hashes.1;
        let Some(shard) = self.shards.iter_mut().find(holds) else { return (String::new(), String::new()) };
        let partition_key = partition_key.to_owned();
        shard.records.push(Record { number, partition_key, data, sent, meaning, owner, arrival_ms: now_ms });
        (shard.id.clone(), sequence(number))
    }

    fn close(&mut self, index: usize, now_ms: i64) {
        let ends = self.next_number();
        self.shards[index].ends = Some(ends);
        self.shards[index].closed_ms = now_ms;
    }

    /// Splits an open shard, or merges two that lie side by side; `choice` says which.
    pub(super) fn reshard(&mut self, choice: u64, now_ms: i64) -> String {
        let mut open: Vec<usize> = (0..self.shards.len()).filter(|index| self.shards[*index].ends.is_none()).collect();
        open.sort_by_key(|index| self.shards[*index].hashes);
        let at = usize::try_from(choice / 2).unwrap_or(0) % open.len();
        if choice.is_multiple_of(2) && at + 1 < open.len() {
            let (left, right) = (open[at], open[at + 1]);
            let hashes = (self.shards[left].hashes.0, self.shards[right].hashes.1);
            self.close(left, now_ms);
            self.close(right, now_ms);
            self.open(hashes, vec![left, right]);
            return format!("merge {left} {right}");
        }
        let parent = open[at];
        let (first, last) = self.shards[parent].hashes;
        let middle = first + (last - first) / 2;
        self.close(parent, now_ms);
        self.open((first, middle), vec![parent]);
        self.open((middle + 1, last), vec![parent]);
        format!("split {parent}")
    }

    /// The index of the first record that the retention still keeps.
    pub(super) fn horizon(&self, shard: usize, now_ms: i64) -> usize {
        let records = &self.shards[shard].records;
        records.partition_point(|record| record.arrival_ms < now_ms - RETENTION_MS)
    }

    /// Every record of a lane, in stream order.
    pub(super) fn lane(&self, lane: u16) -> Vec<&Record> {
        let key = lane.to_string();
        let all = self.shards.iter().flat_map(|shard| &shard.records);
        let mut records: Vec<&Record> = all.filter(|record| record.partition_key == key).collect();
        records.sort_by_key(|record| record.number);
        records
    }

    /// Answers an operation; the error is an exception's name.
    pub(super) fn answer(
        &mut self,
        operation: &str,
        request: &Value,
        owner: Owner,
        stored: u64,
        now_ms: i64,
    ) -> Result<Value, &'static str> {
        match operation {
            "PutRecord" => Ok(self.put_one(request, owner, now_ms)),
            "PutRecords" => Ok(self.put_many(request, owner, stored, now_ms)),
            "DescribeStreamSummary" => Ok(self.describe()),
            "ListShards" => self.list(request, now_ms),
            "GetShardIterator" => self.iterator(request, now_ms),
            "GetRecords" => self.read(request, now_ms),
            _ => Err("InvalidArgumentException"),
        }
    }

    fn put_one(&mut self, entry: &Value, owner: Owner, now_ms: i64) -> Value {
        let data = base64_simd::STANDARD.decode_to_vec(text(entry, "Data")).unwrap_or_default();
        let (shard, sequence) = self.put(owner, text(entry, "PartitionKey"), data, None, now_ms);
        json!({"ShardId": shard, "SequenceNumber": sequence})
    }

    /// Order is not promised, so entries are stored from the last to the first where the first bit says so.
    fn put_many(&mut self, request: &Value, owner: Owner, stored: u64, now_ms: i64) -> Value {
        let entries = request["Records"].as_array().cloned().unwrap_or_default();
        let mut answers = vec![Value::Null; entries.len()];
        let mut order: Vec<usize> = (0..entries.len()).collect();
        if stored & 1 == 0 {
            order.reverse();
        }
        for index in order {
            answers[index] = if stored >> (index % 63) & 1 == 1 {
                self.put_one(&entries[index], owner, now_ms)
            } else {
                json!({"ErrorCode": THROUGHPUT, "ErrorMessage": "Rate exceeded for shard"})
            };
        }
        let failed = answers.iter().filter(|answer| answer["ErrorCode"].is_string()).count();
        json!({"FailedRecordCount": failed, "Records": answers})
    }

    fn describe(&self) -> Value {
        json!({"StreamDescriptionSummary": {
            "StreamName": "tidemark", "StreamARN": "arn:aws:kinesis:us-east-1:000000000000:stream/tidemark",
            "StreamStatus": "ACTIVE", "RetentionPeriodHours": RETENTION_MS / 3_600_000,
            "StreamCreationTimestamp": self.created_ms as f64 / 1_000.0, "EnhancedMonitoring": [],
            "OpenShardCount": self.shards.iter().filter(|shard| shard.ends.is_none()).count(),
            "StreamModeDetails": {"StreamMode": "PROVISIONED"},
        }})
    }

    /// Shards in pages of two; a closed one goes when all it held is too old.
    fn list(&self, request: &Value, now_ms: i64) -> Result<Value, &'static str> {
        let from: usize = text(request, "NextToken").parse().unwrap_or(0);
        // A token of the stream that had this name before.
        if from > self.shards.len() {
            return Err("ExpiredNextTokenException");
        }
        let until = (from + 2).min(self.shards.len());
        let there = |shard: &&Shard| shard.ends.is_none() || shard.closed_ms >= now_ms - RETENTION_MS;
        let shown = |shard: &Shard| {
            let mut numbers = json!({"StartingSequenceNumber": sequence(shard.starts)});
            if let Some(ends) = shard.ends {
                numbers["EndingSequenceNumber"] = json!(sequence(ends));
            }
            let hashes = (shard.hashes.0.to_string(), shard.hashes.1.to_string());
            json!({"ShardId": shard.id, "SequenceNumberRange": numbers,
                "HashKeyRange": {"StartingHashKey": hashes.0, "EndingHashKey": hashes.1}})
        };
        let shards: Vec<Value> = self.shards[from..until].iter().filter(there).map(shown).collect();
        let mut answer = json!({"Shards": shards});
        if until < self.shards.len() {
            answer["NextToken"] = json!(until.to_string());
        }
        Ok(answer)
    }

    fn iterator(&self, request: &Value, now_ms: i64) -> Result<Value, &'static str> {
        let id = text(request, "ShardId");
        let shard = self.shards.iter().position(|shard| shard.id == id).ok_or("ResourceNotFoundException")?;
        let from = match text(request, "ShardIteratorType") {
            "AT_SEQUENCE_NUMBER" => {
                let from = number(text(request, "StartingSequenceNumber")).ok_or("InvalidArgumentException")?;
                let held = &self.shards[shard];
                if from < held.starts || held.ends.is_some_and(|ends| from > ends) {
                    return Err("InvalidArgumentException");
                }
                held.records.partition_point(|record| record.number < from)
            }
            "TRIM_HORIZON" => 0,
            _ => return Err("InvalidArgumentException"),
        };
        let from = from.max(self.horizon(shard, now_ms));
        Ok(json!({"ShardIterator": format!("{shard}/{from}/{}", self.created_ms)}))
    }

    /// A page of any size, sometimes empty although there is more.
    fn read(&mut self, request: &Value, now_ms: i64) -> Result<Value, &'static str> {
        let parts: Vec<i64> = text(request, "ShardIterator").split('/').filter_map(|part| part.parse().ok()).collect();
        let [shard, from, created_ms] = parts[..] else { return Err("InvalidArgumentException") };
        if created_ms != self.created_ms {
            return Err("ResourceNotFoundException");
        }
        let (shard, from) = (usize::try_from(shard).unwrap_or(0), usize::try_from(from).unwrap_or(0));
        let from = from.max(self.horizon(shard, now_ms));
        let size = usize::try_from(self.random.below(5)).unwrap_or(0);
        let held = &self.shards[shard];
        let until = (from + size).min(held.records.len());
        let shown = |record: &Record| {
            json!({"SequenceNumber": record.sequence(), "PartitionKey": record.partition_key,
                "Data": base64_simd::STANDARD.encode_to_string(&record.data),
                "ApproximateArrivalTimestamp": record.arrival_ms as f64 / 1_000.0})
        };
        let records: Vec<Value> = held.records[from..until].iter().map(shown).collect();
        let at_end = until == held.records.len();
        let behind_ms = if at_end { 0 } else { (now_ms - held.records[until].arrival_ms).max(1) };
        let mut answer = json!({"Records": records, "MillisBehindLatest": behind_ms});
        if !(at_end && held.ends.is_some()) {
            answer["NextShardIterator"] = json!(format!("{shard}/{until}/{created_ms}"));
        }
        Ok(answer)
    }
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

/// The same changes without producer and seq.
fn without_producers(data: &[u8]) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(data) else { return data.to_vec() };
    let changes = match &mut value {
        Value::Array(changes) => changes.iter_mut().collect(),
        change => vec![change],
    };
    for change in changes.into_iter().filter_map(Value::as_object_mut) {
        change.remove("producer");
        change.remove("seq");
    }
    value.to_string().into_bytes()
}
