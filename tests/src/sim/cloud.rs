//! The cloud below the real AWS clients: an HTTP client that answers in this process. Each call waits for the schedule
//! first; one whose caller is gone, or was told of a time-out, may still have its effect.

use super::calls::{Calls, Fate, Hop};
use super::kinesis::{Owner, Stream, number};
use super::region::SimRegion;
use super::time::WorldTime;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_kinesis::config::http::{HttpRequest, HttpResponse};
use aws_sdk_lambda::config::retry::RetryPartition;
use aws_sdk_s3::config::{AsyncSleep, Credentials, HttpClient, RuntimeComponents, SharedCredentialsProvider, Sleep};
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::StatusCode;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// Tries of one invocation by the SDK, as in production.
const INVOKE_ATTEMPTS_MAX: u32 = 3;

/// Objects by `/bucket/key`: content, and when it was written.
pub(super) type Objects = Arc<Mutex<BTreeMap<String, (Vec<u8>, i64)>>>;

/// What the services stand on.
#[derive(Clone)]
pub(super) struct Cloud {
    pub(super) calls: Calls,
    pub(super) time: WorldTime,
    pub(super) stream: Arc<Mutex<Stream>>,
    pub(super) objects: Objects,
    /// Names the SDK's retry budget, which it keeps for the process: no world may spend another's.
    world: String,
    /// Processes that were killed, and the callers in them, who are never told anything.
    dead: Arc<Mutex<(BTreeSet<Owner>, Vec<Tell>)>>,
    /// Calls that were begun, also by tasks that run elsewhere than this world's.
    handlers: mpsc::UnboundedSender<(Way, HttpRequest, Tell)>,
}

/// The last record that a reader is shown; shared with who moves it.
pub(super) type Tip = Arc<AtomicU64>;

/// One client's way into the cloud.
#[derive(Clone)]
enum Service {
    Kinesis(Owner),
    /// Known-bad: the stream seems to end here.
    Reader(Tip),
    Lambda(Arc<SimRegion>),
    /// S3, for a publisher or for a function.
    Storage(Option<Owner>),
}

#[derive(Clone)]
struct Way {
    cloud: Cloud,
    service: Service,
}

/// What a service answers.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Cloud {
    /// A cloud around `stream`.
    pub(super) fn new(calls: &Calls, time: &WorldTime, stream: Stream, objects: Objects) -> Self {
        static WORLDS: AtomicU64 = AtomicU64::new(0);
        let world = format!("world {}", WORLDS.fetch_add(1, Ordering::Relaxed));
        let (handlers, mut begun) = mpsc::unbounded_channel::<(Way, HttpRequest, Tell)>();
        tokio::task::spawn_local(async move {
            while let Some((way, request, tell)) = begun.recv().await {
                tokio::task::spawn_local(way.handle(request, tell));
            }
        });
        let stream = Arc::new(Mutex::new(stream));
        Self { calls: calls.clone(), time: time.clone(), stream, objects, world, dead: Arc::default(), handlers }
    }

    /// A Kinesis client that stores as `owner`.
    pub(super) fn kinesis(&self, owner: Owner) -> aws_sdk_kinesis::Client {
        aws_sdk_kinesis::Client::new(&self.config(Service::Kinesis(owner)))
    }

    /// A Kinesis client that is told of a tip at the record `tip`.
    pub(super) fn kinesis_up_to(&self, tip: &Tip) -> aws_sdk_kinesis::Client {
        aws_sdk_kinesis::Client::new(&self.config(Service::Reader(Arc::clone(tip))))
    }

    /// A Lambda client that reaches `region`.
    pub(super) fn lambda(&self, region: &Arc<SimRegion>) -> aws_sdk_lambda::Client {
        let config = aws_sdk_lambda::config::Builder::from(&self.config(Service::Lambda(Arc::clone(region))))
            .retry_config(RetryConfig::standard().with_max_attempts(INVOKE_ATTEMPTS_MAX))
            .retry_partition(RetryPartition::new(self.world.clone()));
        aws_sdk_lambda::Client::from_conf(config.build())
    }

    /// An S3 client of a function, or of a publisher.
    pub(super) fn storage(&self, owner: Option<Owner>) -> aws_sdk_s3::Client {
        tidemark_runtime::clients::s3(&self.config(Service::Storage(owner)))
    }

    /// The process of `owner` is killed: what it has under way may still arrive, and nothing reaches it any more.
    pub(super) fn kill(&self, owner: Owner) {
        self.dead.lock().unwrap_or_else(PoisonError::into_inner).0.insert(owner);
    }

    fn config(&self, service: Service) -> SdkConfig {
        let credentials = Credentials::new("sim", "sim", None, None, "simulation");
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("us-east-1"))
            .endpoint_url("http://cloud.invalid")
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .sleep_impl(NoSleep)
            .http_client(Way { cloud: self.clone(), service })
            .build()
    }
}

/// The SDK's own back-off takes no time; how long a retry waits is the schedule's.
#[derive(Debug)]
struct NoSleep;

impl AsyncSleep for NoSleep {
    fn sleep(&self, _: std::time::Duration) -> Sleep {
        Sleep::new(std::future::ready(()))
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated cloud")
    }
}

impl HttpClient for Way {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Way {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (tell, told) = oneshot::channel();
        self.cloud.handlers.send((self.clone(), request, tell)).ok();
        HttpConnectorFuture::new(async move {
            told.await.unwrap_or_else(|_| Err(ConnectorError::io("the world has ended".into())))
        })
    }
}

type Tell = oneshot::Sender<Result<HttpResponse, ConnectorError>>;

impl Way {
    /// One call, from the wait for its fate to its answer; goes on where the caller does not.
    async fn handle(self, request: HttpRequest, tell: Tell) {
        let Some(tell) = self.unless_dead(tell) else { return };
        let (hop, what) = self.describe(&request);
        let mut fate = self.cloud.calls.wait(hop, false, what.clone()).await;
        let mut tell = Some(tell);
        if fate == Fate::Late {
            tell = None;
            fate = self.cloud.calls.wait(hop, true, what).await;
        }
        let mut answer = match fate {
            Fate::Throttle => self.refusal(429, "TooManyRequestsException", "ProvisionedThroughputExceededException"),
            Fate::Fail | Fate::Late => self.refusal(500, "ServiceException", "InternalFailure"),
            Fate::Pass | Fate::LoseAnswer => self.effect(&request, u64::MAX).await,
            Fate::Partly(stored) => self.effect(&request, stored).await,
        };
        if request.method() == "HEAD" {
            answer.body.clear();
        }
        if fate == Fate::LoseAnswer {
            tell = None;
        }
        if let Some(tell) = tell.and_then(|tell| self.unless_dead(tell)) {
            tell.send(answer.into_response()).ok();
        }
    }

    /// Who is to be told, where its process lives.
    fn unless_dead(&self, tell: Tell) -> Option<Tell> {
        let (Service::Kinesis(owner) | Service::Storage(Some(owner))) = &self.service else { return Some(tell) };
        let mut dead = self.cloud.dead.lock().unwrap_or_else(PoisonError::into_inner);
        if dead.0.contains(owner) {
            dead.1.push(tell);
            return None;
        }
        Some(tell)
    }

    fn describe(&self, request: &HttpRequest) -> (Hop, String) {
        match &self.service {
            Service::Kinesis(_) | Service::Reader(_) => {
                let (operation, owner) = (operation(request), self.owner());
                let hop = if operation.starts_with("Put") { Hop::Put } else { Hop::Read };
                (hop, format!("{operation} {owner:?}"))
            }
            Service::Lambda(region) => (Hop::Invoke, region.name.to_owned()),
            Service::Storage(_) => (Hop::Object, format!("{} {}", request.method(), path(request))),
        }
    }

    fn refusal(&self, status: u16, lambda: &str, kinesis: &str) -> Answer {
        match &self.service {
            Service::Kinesis(_) | Service::Reader(_) => {
                let status = if status == 429 { 400 } else { status };
                Answer::error(status, kinesis)
            }
            Service::Lambda(_) => Answer::error(status, lambda),
            Service::Storage(_) => Answer::xml_error(503, "SlowDown"),
        }
    }

    async fn effect(&self, request: &HttpRequest, stored: u64) -> Answer {
        let body = request.body().bytes().unwrap_or_default();
        match &self.service {
            Service::Kinesis(_) | Service::Reader(_) => self.stream_effect(operation(request), body, stored),
            Service::Lambda(region) => match region.invoke(String::from_utf8_lossy(body).into_owned()).await {
                Ok(answer) => Answer::ok(answer.to_string().into_bytes()),
                Err(message) => {
                    let mut answer = Answer::ok(json!({"errorMessage": message}).to_string().into_bytes());
                    answer.headers.push(("X-Amz-Function-Error", "Unhandled".to_owned()));
                    answer
                }
            },
            Service::Storage(_) => self.object(request, body),
        }
    }

    /// In whose name the client stores.
    fn owner(&self) -> Owner {
        if let Service::Kinesis(owner) = &self.service { *owner } else { Owner::Foreign }
    }

    fn stream_effect(&self, operation: &str, body: &[u8], stored: u64) -> Answer {
        let now_ms = self.cloud.time.now_ms();
        let parsed: Value = serde_json::from_slice(body).unwrap_or_default();
        let mut stream = self.cloud.stream.lock().unwrap_or_else(PoisonError::into_inner);
        match stream.answer(operation, &parsed, self.owner(), stored, now_ms) {
            Ok(mut answer) => {
                if let Service::Reader(tip) = &self.service {
                    end_at(&mut answer, tip.load(Ordering::Relaxed));
                }
                Answer::ok(answer.to_string().into_bytes())
            }
            Err(exception) => Answer::error(400, exception),
        }
    }

    fn object(&self, request: &HttpRequest, body: &[u8]) -> Answer {
        let now_ms = self.cloud.time.now_ms();
        let mut objects = self.cloud.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let name = path(request).to_owned();
        match (request.method(), request.headers().get("x-amz-copy-source")) {
            ("PUT", Some(source)) => {
                let source = format!("/{}", source.trim_start_matches('/'));
                let Some((copied, _)) = objects.get(&source).cloned() else {
                    return Answer::xml_error(404, "NoSuchKey");
                };
                objects.insert(name, (copied, now_ms));
                Answer::ok(b"<CopyObjectResult><ETag>\"1\"</ETag></CopyObjectResult>".to_vec())
            }
            ("PUT", None) => {
                if request.headers().get("if-none-match").is_some() && objects.contains_key(&name) {
                    return Answer::xml_error(412, "PreconditionFailed");
                }
                objects.insert(name, (body.to_vec(), now_ms));
                Answer { status: 200, headers: vec![("ETag", "\"1\"".to_owned())], body: Vec::new() }
            }
            _ => match objects.get(&name) {
                Some((found, written_ms)) => {
                    let headers = vec![
                        ("ETag", "\"1\"".to_owned()),
                        ("Content-Length", found.len().to_string()),
                        ("Last-Modified", http_date(*written_ms)),
                    ];
                    Answer { status: 200, headers, body: found.clone() }
                }
                None => Answer::xml_error(404, "NoSuchKey"),
            },
        }
    }
}

fn http_date(at_ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(at_ms).unwrap_or_default();
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&time).unwrap_or_default()
}

/// Known-bad: what GetRecords answered, as if the record `tip` were the newest.
fn end_at(answer: &mut Value, tip: u64) {
    let Some(records) = answer["Records"].as_array_mut() else { return };
    let all = records.len();
    records.retain(|record| record["SequenceNumber"].as_str().and_then(number).is_some_and(|number| number <= tip));
    if records.len() < all {
        answer["MillisBehindLatest"] = json!(0);
    }
}

/// The path of a request, without its query.
fn path(request: &HttpRequest) -> &str {
    let uri = request.uri().split('?').next().unwrap_or_default();
    uri.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..])).unwrap_or(uri)
}

/// `Kinesis_20131202.PutRecord` → `PutRecord`.
fn operation(request: &HttpRequest) -> &str {
    let target = request.headers().get("x-amz-target").unwrap_or_default();
    target.rsplit('.').next().unwrap_or_default()
}

impl Answer {
    fn ok(body: Vec<u8>) -> Self {
        Self { status: 200, headers: Vec::new(), body }
    }

    fn error(status: u16, exception: &str) -> Self {
        let body = json!({"__type": exception, "message": "as the schedule says"}).to_string().into_bytes();
        Self { status, headers: vec![("x-amzn-errortype", exception.to_owned())], body }
    }

    fn xml_error(status: u16, code: &str) -> Self {
        let body = format!("<Error><Code>{code}</Code><Message>as the schedule says</Message></Error>");
        Self { status, headers: Vec::new(), body: body.into_bytes() }
    }

    fn into_response(self) -> Result<HttpResponse, ConnectorError> {
        let status = StatusCode::try_from(self.status).map_err(|error| ConnectorError::io(error.into()))?;
        let mut response = HttpResponse::new(status, SdkBody::from(self.body));
        for (name, value) in self.headers {
            response.headers_mut().insert(name, value);
        }
        Ok(response)
    }
}
