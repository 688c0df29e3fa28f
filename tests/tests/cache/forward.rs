//! What forward does with a region's answers: the real forward, the real clients, and below them a Lambda that answers
//! as a test says.

use super::batch::{self, Record, Stream as Records};
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::{BehaviorVersion, Region as AwsRegion, SdkConfig};
use aws_sdk_kinesis::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::config::{Credentials, HttpClient, RuntimeComponents, SharedCredentialsProvider};
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::StatusCode;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidemark_cache_sync::forward::{Deadline, EVENT_BYTES_MAX, Forward, ForwardError};
use tidemark_cache_sync::invoke::RegionClient;
use tidemark_cache_sync::lane::Lane;
use tidemark_cache_sync::protocol::Counts;
use tidemark_cache_sync::stream::Stream;
use tidemark_runtime::clock::Clock;
use tidemark_tests::put_records::ModelStream;

/// Largest payload of a synchronous invocation, in bytes.
const PAYLOAD_BYTES_MAX: usize = 6 << 20;

/// What one invocation comes to.
#[derive(Clone, Debug)]
enum Fate {
    Answers(Value),
    /// The function fails, with these words.
    Fails(&'static str),
    /// Lambda does not run it.
    Refused(u16, &'static str),
    /// No answer comes.
    TimesOut,
}

/// A Lambda of one function, which does as it is told, and the last of it for ever; and what it was asked.
#[derive(Clone, Debug)]
struct ToldLambda {
    fates: Arc<Mutex<VecDeque<Fate>>>,
    asked: Arc<Mutex<Vec<SdkBody>>>,
}

impl ToldLambda {
    fn new(fates: impl IntoIterator<Item = Fate>) -> Self {
        Self { fates: Arc::new(Mutex::new(fates.into_iter().collect())), asked: Arc::default() }
    }

    fn client(&self, attempts: u32) -> RegionClient {
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(AwsRegion::from_static("ap-northeast-2"))
            .endpoint_url("http://lambda.invalid")
            .credentials_provider(SharedCredentialsProvider::new(Credentials::new("m", "m", None, None, "model")))
            .retry_config(RetryConfig::standard().with_max_attempts(attempts).with_initial_backoff(Duration::ZERO))
            .sleep_impl(aws_sdk_s3::config::SharedAsyncSleep::new(NoSleep))
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .http_client(self.clone());
        RegionClient::new(aws_sdk_lambda::Client::new(&config.build()), "ap-northeast-2", "replay")
    }

    async fn forward(&self, attempts: u32) -> Forward {
        let clock = Clock::system();
        let stream = Stream::new(ModelStream::new(0, false, clock.clone()).client(), "model", clock.clone());
        Forward::new(stream, 3, self.client(attempts), clock).await.unwrap()
    }

    /// The requests so far.
    fn asked(&self) -> Vec<Value> {
        let asked = self.asked.lock().unwrap();
        asked.iter().map(|body| serde_json::from_slice(body.bytes().unwrap()).unwrap()).collect()
    }
}

#[derive(Debug)]
struct NoSleep;

impl aws_sdk_s3::config::AsyncSleep for NoSleep {
    fn sleep(&self, _: Duration) -> aws_sdk_s3::config::Sleep {
        aws_sdk_s3::config::Sleep::new(std::future::ready(()))
    }
}

impl HttpClient for ToldLambda {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for ToldLambda {
    fn call(&self, mut request: HttpRequest) -> HttpConnectorFuture {
        self.asked.lock().unwrap().push(request.take_body());
        let mut fates = self.fates.lock().unwrap();
        let fate = if fates.len() > 1 { fates.pop_front() } else { fates.front().cloned() };
        HttpConnectorFuture::ready(match fate.unwrap() {
            Fate::Answers(answer) => respond(200, &answer, &[]),
            Fate::Fails(words) => {
                respond(200, &json!({"errorMessage": words}), &[("x-amz-function-error", "Unhandled")])
            }
            Fate::Refused(status, exception) => respond(status, &json!({}), &[("x-amzn-errortype", exception)]),
            Fate::TimesOut => Err(ConnectorError::timeout("no answer".into())),
        })
    }
}

fn respond(
    status: u16,
    body: &Value,
    headers: &[(&'static str, &'static str)],
) -> Result<HttpResponse, ConnectorError> {
    let mut response = HttpResponse::new(StatusCode::try_from(status).unwrap(), SdkBody::from(body.to_string()));
    for (name, value) in headers {
        response.headers_mut().insert(*name, *value);
    }
    Ok(response)
}

/// Always a quarter of an hour left.
struct Ample;

impl Deadline for Ample {
    fn left(&self) -> Duration {
        Duration::from_secs(900)
    }
}

fn records(count: usize, data_bytes: usize) -> Vec<Record> {
    let mut stream = Records::begun_at(Clock::system().now_ms() - 60_000);
    (0..count).map(|number| stream.raw(&(number % 2).to_string(), &vec![b'x'; data_bytes])).collect()
}

async fn pass_on(forward: &Forward, records: &[Record]) -> Result<Counts, ForwardError> {
    let event = serde_json::from_str(&batch::event(records).to_string()).unwrap();
    forward.pass_on(event, &Ample).await
}

fn applied() -> Value {
    json!({"applied": {"mark": "1:0"}})
}

fn answer(lanes: Value) -> Fate {
    let mut counts = serde_json::to_value(Counts::default()).unwrap();
    counts["applied"] = json!(1);
    Fate::Answers(json!({"lanes": lanes, "counts": counts}))
}

#[tokio::test]
async fn records_go_on_as_they_came_with_what_forward_tells_behind_them() {
    let lambda = ToldLambda::new([answer(json!({"0": applied(), "1": applied()}))]);
    let records = records(4, 10);
    let counts = pass_on(&lambda.forward(1).await, &records).await.unwrap();
    assert_eq!(counts.applied, 1);
    let asked = lambda.asked();
    assert_eq!(asked.len(), 1);
    let replay = &asked[0]["replay"];
    assert_eq!((&replay["event"], &replay["generation"]), (&batch::event(&records), &json!(3)));
    assert!(replay["stream"].as_str().unwrap().ends_with("stream/model@1000"), "{}", replay["stream"]);
}

#[tokio::test]
async fn a_request_reaches_the_wire_in_the_buffer_it_was_made_in() {
    let lambda = ToldLambda::new([Fate::Refused(429, "TooManyRequestsException"), Fate::Answers(json!(7))]);
    let request = bytes::Bytes::from(vec![b' '; 1 << 20]);
    let _: u64 = lambda.client(2).ask_raw(request.clone()).await.unwrap();
    let asked = lambda.asked.lock().unwrap();
    let wires: Vec<*const u8> = asked.iter().map(|body| body.bytes().unwrap().as_ptr()).collect();
    assert_eq!(wires, [request.as_ptr(); 2], "also when the client tries again");
}

#[tokio::test]
async fn a_region_that_fails_is_throttled_or_silent_throws_the_batch_back() {
    for (fate, words, calls) in [
        (Fate::Fails("redis: connecting failed"), "redis: connecting failed", 1),
        (Fate::Refused(429, "TooManyRequestsException"), "TooManyRequests", 3),
        (Fate::Refused(500, "ServiceException"), "ServiceException", 3),
        (Fate::Refused(403, "AccessDeniedException"), "AccessDenied", 1),
        (Fate::TimesOut, "no answer", 3),
        (Fate::Answers(json!({"not": "an answer"})), "does not parse", 1),
    ] {
        let lambda = ToldLambda::new([fate]);
        let error = pass_on(&lambda.forward(3).await, &records(2, 10)).await.unwrap_err();
        let message = tidemark_runtime::logs::full_message(&error);
        assert!(matches!(error, ForwardError::Region(_)) && message.contains(words), "{message}");
        assert_eq!(lambda.asked().len(), calls, "{message}");
    }
}

#[tokio::test]
async fn a_lane_that_did_not_take_the_batch_throws_it_back_after_the_others_took_it() {
    let missing = json!({"bucket": "b", "object": "values/0", "sha256": "0".repeat(64), "bytes": 1});
    for (outcome, words) in [
        (json!({"held": {"holder": "run-7"}}), "is held by run run-7"),
        (json!({"old_generation": {"generation": 4}}), "follows mapping generation 4"),
        (json!({"missing": {"objects": [missing]}}), "lacks 1 values"),
    ] {
        let lambda = ToldLambda::new([answer(json!({"0": outcome, "1": applied()}))]);
        let error = pass_on(&lambda.forward(1).await, &records(2, 10)).await.unwrap_err().to_string();
        assert!(error.contains("lane 0 of ap-northeast-2") && error.contains(words), "{error}");
        assert_eq!(lambda.asked().len(), 1, "nothing but the batch was sent");
    }
}

#[tokio::test]
async fn what_only_a_resync_mends_says_so_and_nothing_is_fed() {
    let now_ms = Clock::system().now_ms();
    let behind = |reason: &str, mark: Value, arrival_ms: Value| json!({"behind": {"reason": reason, "mark": mark, "arrival_ms": arrival_ms, "replication_id": "r"}});
    let day_ms = 24 * 3_600_000;
    for (outcome, words) in [
        (behind("other_stream", json!("5:0"), json!(now_ms)), "speaks of another stream"),
        (behind("failover", json!("5:0"), json!(now_ms - day_ms)), "older than what the stream keeps"),
        // What would pass the end of retention while it is read counts as gone.
        (behind("retention", json!("5:0"), json!(now_ms - day_ms + 60_000)), "older than what the stream keeps"),
        (behind("no_record", Value::Null, Value::Null), "no longer reaches back to its beginning"),
    ] {
        let lambda = ToldLambda::new([answer(json!({"0": outcome, "1": applied()}))]);
        let error = pass_on(&lambda.forward(1).await, &records(2, 10)).await.unwrap_err();
        assert!(matches!(error, ForwardError::NeedsResync { lane: Lane(0), .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains(words) && error.contains("tidemark cache resync --region ap-northeast-2"), "{error}");
        assert_eq!(lambda.asked().len(), 1, "{error}");
    }
}

#[tokio::test]
async fn a_batch_that_does_not_fit_an_invocation_goes_on_in_parts_in_order() {
    let lambda = ToldLambda::new([answer(json!({"0": applied(), "1": applied()}))]);
    let records = records(9, 700_000);
    let counts = pass_on(&lambda.forward(1).await, &records).await.unwrap();
    assert_eq!(counts.applied, 2, "two parts");
    let mut events = Vec::new();
    for body in lambda.asked.lock().unwrap().iter() {
        let request = body.bytes().unwrap();
        assert!(request.len() <= PAYLOAD_BYTES_MAX && request.len() > EVENT_BYTES_MAX / 4, "{}", request.len());
        let request: Value = serde_json::from_slice(request).unwrap();
        events.extend(request["replay"]["event"]["Records"].as_array().unwrap().clone());
    }
    assert_eq!(json!(events), batch::event(&records)["Records"]);
}

#[tokio::test]
async fn nothing_is_sent_behind_a_part_that_was_not_taken() {
    let lambda = ToldLambda::new([answer(json!({"0": {"held": {"holder": "r"}}, "1": applied()}))]);
    let error = pass_on(&lambda.forward(1).await, &records(9, 700_000)).await.unwrap_err();
    assert!(matches!(error, ForwardError::Held { .. }), "{error}");
    assert_eq!(lambda.asked().len(), 1);
}
