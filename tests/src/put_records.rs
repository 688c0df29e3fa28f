//! A model of PutRecords below the real Kinesis client, for what the local cloud never does: entries that fail one by
//! one, throttling, time-outs after which the records are stored at once, later or never, and records of one call that
//! are stored in another order. It stores what a stream would and notes every breach of the publisher's promises.
//!
//! Rules: <https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html>

use crate::random::Random;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_kinesis::config::http::{HttpRequest, HttpResponse};
use aws_sdk_kinesis::config::{Credentials, HttpClient, RuntimeComponents, SharedCredentialsProvider};
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::StatusCode;
use serde_json::{Value, json};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidemark_runtime::clock::Clock;
use tokio::sync::Semaphore;

/// Bounds of the API.
const CALL_RECORDS_MAX: usize = 500;
const CALL_BYTES_MAX: usize = 10 << 20;
const RECORD_BYTES_MAX: usize = 1 << 20;
/// Rounds of the runtime that a call is on its way at most.
const DELAY_ROUNDS_MAX: u64 = 20;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Everything is stored.
    Pass,
    /// Some entries fail; which ones is random.
    Partly,
    /// The whole call is refused for being one too many.
    Throttle,
    /// The caller sees a time-out; nothing is stored.
    Lose,
    /// The caller sees a time-out; everything is stored.
    LoseAnswer,
    /// The caller sees a time-out; everything is stored when some later call arrives.
    Late,
    /// The call is refused for a reason that stays.
    Deny,
}

/// A record that is on the stream.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its sequence number.
    pub sequence: u64,
    /// Its partition key.
    pub partition_key: String,
    /// Its data.
    pub data: Vec<u8>,
}

/// A call as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When, in milliseconds since the epoch.
    pub at_ms: i64,
    /// How many records it had.
    pub records: usize,
    /// Their bytes, partition keys included.
    pub bytes: usize,
}

/// The stream. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ModelStream(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    clock: Clock,
    /// One permit lets one call be answered, while the stream is shut.
    gate: Semaphore,
}

#[derive(Debug)]
struct State {
    random: Random,
    /// What becomes of the next calls; then as `faulty` says.
    script: VecDeque<Fate>,
    /// Whether calls without a script meet random faults.
    faulty: bool,
    distribution: &'static str,
    shut: bool,
    last_sequence: u64,
    stored: Vec<Stored>,
    late: Vec<(String, Vec<u8>)>,
    on_their_way: BTreeSet<String>,
    seen: Vec<Seen>,
    breaches: Vec<String>,
}

impl ModelStream {
    /// A stream with random faults from `seed`, or without any.
    #[must_use]
    pub fn new(seed: u64, faulty: bool, clock: Clock) -> Self {
        let state = State {
            random: Random::new(seed),
            script: VecDeque::new(),
            faulty,
            distribution: "USER_PARTITION_KEY",
            shut: false,
            last_sequence: 0,
            stored: Vec::new(),
            late: Vec::new(),
            on_their_way: BTreeSet::new(),
            seen: Vec::new(),
            breaches: Vec::new(),
        };
        Self(Arc::new(Shared { state: Mutex::new(state), clock, gate: Semaphore::new(0) }))
    }

    /// What becomes of the next calls, in this order.
    pub fn script(&self, fates: impl IntoIterator<Item = Fate>) {
        self.state().script.extend(fates);
    }

    /// Sets the strategy that DescribeStreamSummary tells.
    pub fn set_distribution(&self, strategy: &'static str) {
        self.state().distribution = strategy;
    }

    /// From now on calls wait for [`ModelStream::let_through`].
    pub fn shut(&self) {
        self.state().shut = true;
    }

    /// Lets some of the calls that wait be answered.
    pub fn let_through(&self, calls: usize) {
        self.0.gate.add_permits(calls);
    }

    /// What is on the stream, in its order.
    #[must_use]
    pub fn stored(&self) -> Vec<Stored> {
        self.state().stored.clone()
    }

    /// The calls of PutRecords that arrived.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// What the publisher must never do and did.
    #[must_use]
    pub fn breaches(&self) -> Vec<String> {
        self.state().breaches.clone()
    }

    /// A client of this stream. Its own retries are on: a publisher that leaves them on is found out.
    #[must_use]
    pub fn client(&self) -> aws_sdk_kinesis::Client {
        let credentials = Credentials::new("model", "model", None, None, "model");
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("us-east-1"))
            .endpoint_url("http://kinesis.invalid")
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .http_client(self.clone());
        aws_sdk_kinesis::Client::new(&config.build())
    }

    fn is_shut(&self) -> bool {
        self.state().shut
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, target: &str, body: &[u8]) -> Result<HttpResponse, ConnectorError> {
        if target.ends_with("DescribeStreamSummary") {
            return respond(200, &self.summary());
        }
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        let entries = entries(&request);
        let (fate, rounds) = self.state().arrive(&entries, self.0.clock.now_ms());
        for _ in 0..rounds {
            tokio::task::yield_now().await;
        }
        if self.is_shut()
            && let Ok(permit) = self.0.gate.acquire().await
        {
            permit.forget();
        }
        self.state().leave(&entries, fate)
    }

    fn summary(&self) -> Value {
        json!({"StreamDescriptionSummary": {
            "StreamName": "model", "StreamARN": "arn:aws:kinesis:us-east-1:000000000000:stream/model",
            "StreamStatus": "ACTIVE", "RetentionPeriodHours": 24, "StreamCreationTimestamp": 1.0,
            "EnhancedMonitoring": [], "OpenShardCount": 1, "RecordDistributionStrategy": self.state().distribution,
        }})
    }
}

type Entry = (String, Vec<u8>);

fn entries(request: &Value) -> Vec<Entry> {
    let entry = |record: &Value| {
        let data = record["Data"].as_str().unwrap_or_default();
        let data = base64_simd::STANDARD.decode_to_vec(data).unwrap_or_default();
        (record["PartitionKey"].as_str().unwrap_or_default().to_owned(), data)
    };
    request["Records"].as_array().map(|records| records.iter().map(entry).collect()).unwrap_or_default()
}

impl State {
    fn arrive(&mut self, entries: &[Entry], at_ms: i64) -> (Fate, u64) {
        let bytes: usize = entries.iter().map(|(key, data)| key.len() + data.len()).sum();
        self.seen.push(Seen { at_ms, records: entries.len(), bytes });
        if entries.is_empty() || entries.len() > CALL_RECORDS_MAX || bytes > CALL_BYTES_MAX {
            self.breaches.push(format!("a call has {} records and {bytes} bytes", entries.len()));
        }
        for (key, data) in entries {
            if key.len() + data.len() > RECORD_BYTES_MAX {
                self.breaches.push(format!("a record of lane {key} has {} bytes", data.len()));
            }
            if !self.on_their_way.insert(key.clone()) {
                self.breaches.push(format!("two records of lane {key} are on their way"));
            }
        }
        // What was late arrives before this, after it, or still later.
        if self.random.once_in(2) {
            for (key, data) in std::mem::take(&mut self.late) {
                self.store(&key, &data);
            }
        }
        let fate = self.script.pop_front().unwrap_or_else(|| self.random_fate());
        (fate, self.random.below(DELAY_ROUNDS_MAX))
    }

    fn random_fate(&mut self) -> Fate {
        if !self.faulty {
            return Fate::Pass;
        }
        match self.random.below(12) {
            0..=4 => Fate::Partly,
            5 => Fate::Throttle,
            6 => Fate::Lose,
            7 => Fate::LoseAnswer,
            8 => Fate::Late,
            _ => Fate::Pass,
        }
    }

    fn leave(&mut self, entries: &[Entry], fate: Fate) -> Result<HttpResponse, ConnectorError> {
        for (key, _) in entries {
            self.on_their_way.remove(key);
        }
        match fate {
            Fate::Pass | Fate::Partly => respond(200, &self.put(entries, fate == Fate::Partly)),
            Fate::Throttle => refuse(400, "ProvisionedThroughputExceededException"),
            Fate::Deny => refuse(400, "AccessDeniedException"),
            Fate::LoseAnswer => {
                self.put(entries, false);
                Err(ConnectorError::timeout("no answer in time".into()))
            }
            Fate::Late => {
                self.late.extend(entries.iter().cloned());
                Err(ConnectorError::timeout("no answer in time".into()))
            }
            Fate::Lose => Err(ConnectorError::timeout("no answer in time".into())),
        }
    }

    /// Stores entries in any order, and answers in the request's.
    fn put(&mut self, entries: &[Entry], partly: bool) -> Value {
        let mut order: Vec<usize> = (0..entries.len()).collect();
        for index in (1..order.len()).rev() {
            order.swap(index, usize::try_from(self.random.below(index as u64 + 1)).unwrap_or(0));
        }
        let mut answers = vec![json!({}); entries.len()];
        let mut failed = 0;
        for index in order {
            let (key, data) = &entries[index];
            answers[index] = if partly && self.random.once_in(2) {
                failed += 1;
                let code =
                    if self.random.once_in(3) { "InternalFailure" } else { "ProvisionedThroughputExceededException" };
                json!({"ErrorCode": code, "ErrorMessage": "as the model says"})
            } else {
                json!({"SequenceNumber": self.store(key, data).to_string(), "ShardId": "shardId-000000000000"})
            };
        }
        json!({"FailedRecordCount": failed, "Records": answers})
    }

    fn store(&mut self, key: &str, data: &[u8]) -> u64 {
        // Not dense, as on a stream.
        self.last_sequence += 1 + self.random.below(1_000);
        let (sequence, partition_key) = (self.last_sequence, key.to_owned());
        self.stored.push(Stored { sequence, partition_key, data: data.to_vec() });
        sequence
    }
}

impl HttpClient for ModelStream {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for ModelStream {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let model = self.clone();
        HttpConnectorFuture::new(async move {
            let target = request.headers().get("x-amz-target").unwrap_or_default().to_owned();
            let body = request.body().bytes().unwrap_or_default().to_vec();
            model.answer(&target, &body).await
        })
    }
}

fn respond(status: u16, body: &Value) -> Result<HttpResponse, ConnectorError> {
    let status = StatusCode::try_from(status).map_err(|error| ConnectorError::other(error.into(), None))?;
    Ok(HttpResponse::new(status, SdkBody::from(body.to_string())))
}

fn refuse(status: u16, exception: &str) -> Result<HttpResponse, ConnectorError> {
    let mut response = respond(status, &json!({"__type": exception, "message": "as the model says"}))?;
    response.headers_mut().insert("x-amzn-errortype", exception.to_owned());
    Ok(response)
}
