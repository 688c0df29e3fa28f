//! A model of S3 below the real client, as far as publishing leans on it: strong reads, versions, ETags, conditional
//! PUT and DELETE, checksums. Every call waits until the test says what becomes of it, so a test can let a run die at any
//! call, or let two runs take turns in any order.
//!
//! Rules: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-requests.html>. A DELETE on a condition,
//! of what is not there, is refused here, which asks more of the caller than an answer of success would.

use crate::edge::Edge;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_lambda::config::retry::RetryPartition;
use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::config::{
    AsyncSleep, Credentials, HttpClient, RuntimeComponents, SharedCredentialsProvider, SharedHttpClient, Sleep,
};
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::StatusCode;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::oneshot;

/// The bucket that crawlers see.
pub(crate) const PUBLIC: &str = "public";
/// The bucket of settings and state.
pub(crate) const STATE: &str = "state";

/// What an object holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) bytes: Arc<Vec<u8>>,
    pub(crate) etag: String,
    pub(crate) headers: BTreeMap<String, String>,
}

/// One version of an object; `None` is a delete marker.
type Version = (u64, Option<Object>);

/// Every bucket, with all versions.
#[derive(Clone, Default)]
pub(crate) struct Objects {
    versions: BTreeMap<String, Vec<Version>>,
    /// Calls that a publisher should never make.
    pub(crate) breaches: Vec<String>,
    /// Writes to the public bucket.
    pub(crate) public_writes: Vec<String>,
    /// What crawlers see of the public bucket, where a test looks.
    pub(crate) edge: Option<Edge>,
}

/// A call that waits.
pub(crate) struct Call {
    pub(crate) actor: usize,
    pub(crate) request: HttpRequest,
    tell: oneshot::Sender<Result<HttpResponse, ConnectorError>>,
}

/// The model. Cheap to clone; clones are the same store.
#[derive(Clone, Default)]
pub(crate) struct Store {
    objects: Arc<Mutex<Objects>>,
    waiting: Arc<Mutex<VecDeque<Call>>>,
}

impl Store {
    /// A store of its own that begins with `objects`.
    pub(crate) fn of(objects: Objects) -> Self {
        Self { objects: Arc::new(Mutex::new(objects)), waiting: Arc::default() }
    }

    pub(crate) fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap()
    }

    /// The oldest call of `actor` that waits.
    pub(crate) fn next(&self, actor: usize) -> Option<Call> {
        self.take(actor, 0)
    }

    /// The call of `actor` that waits behind `older` others of its calls.
    pub(crate) fn take(&self, actor: usize, older: usize) -> Option<Call> {
        let mut waiting = self.waiting.lock().unwrap();
        let (at, _) = waiting.iter().enumerate().filter(|(_, call)| call.actor == actor).nth(older)?;
        waiting.remove(at)
    }

    /// What the calls of `actor` are that wait, the oldest first.
    pub(crate) fn waiting(&self, actor: usize) -> Vec<String> {
        let waiting = self.waiting.lock().unwrap();
        waiting.iter().filter(|call| call.actor == actor).map(Call::describe).collect()
    }

    /// The effect of a call, and its answer.
    pub(crate) fn perform(&self, request: &HttpRequest) -> Answer {
        self.objects().answer(request)
    }

    /// A client whose calls are those of `actor`.
    pub(crate) fn client(&self, actor: usize) -> aws_sdk_s3::Client {
        let config = config(SharedHttpClient::new(Way { store: self.clone(), actor }));
        // The budget for retries is kept for the process by name: no run may spend another's.
        static BUDGETS: AtomicU64 = AtomicU64::new(0);
        let budget = format!("store-{}", BUDGETS.fetch_add(1, Ordering::Relaxed));
        let builder = aws_sdk_s3::config::Builder::from(&config)
            .force_path_style(true)
            .retry_config(RetryConfig::standard().with_max_attempts(tidemark_runtime::clients::ATTEMPTS_MAX))
            .retry_partition(RetryPartition::new(budget));
        aws_sdk_s3::Client::from_conf(builder.build())
    }
}

/// SDK configuration over `client`, in which nothing waits.
pub(crate) fn config(client: SharedHttpClient) -> SdkConfig {
    let credentials = Credentials::new("model", "model", None, None, "model");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .endpoint_url("http://model.invalid")
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .sleep_impl(NoSleep)
        .http_client(client)
        .build()
}

#[derive(Debug)]
struct NoSleep;

impl AsyncSleep for NoSleep {
    fn sleep(&self, _: std::time::Duration) -> Sleep {
        Sleep::new(std::future::ready(()))
    }
}

#[derive(Clone)]
struct Way {
    store: Store,
    actor: usize,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("model of S3")
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
        self.store.waiting.lock().unwrap().push_back(Call { actor: self.actor, request, tell });
        HttpConnectorFuture::new(async move {
            told.await.unwrap_or_else(|_| Err(ConnectorError::other("the test dropped the call".into(), None)))
        })
    }
}

impl Call {
    /// `PUT public/sitemap-00001.xml.gz`, for messages.
    pub(crate) fn describe(&self) -> String {
        let (bucket, key, _) = parts(&self.request);
        format!("{} {bucket}/{key}", self.request.method())
    }

    pub(crate) fn answer(self, answer: Answer) {
        self.tell.send(answer.into_response()).ok();
    }

    /// The caller sees a connection that broke.
    pub(crate) fn lose(self) {
        self.tell.send(Err(ConnectorError::timeout("no answer in time".into()))).ok();
    }
}

/// What the service answers.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    pub(crate) fn error(status: u16, code: &str) -> Self {
        let body = format!("<Error><Code>{code}</Code><Message>as the model says</Message></Error>");
        Self { status, headers: Vec::new(), body: body.into_bytes() }
    }

    fn into_response(self) -> Result<HttpResponse, ConnectorError> {
        let mut response = HttpResponse::new(StatusCode::try_from(self.status).unwrap(), SdkBody::from(self.body));
        for (name, value) in self.headers {
            response.headers_mut().insert(name, value);
        }
        Ok(response)
    }
}

/// Bucket, key and query of a request.
fn parts(request: &HttpRequest) -> (String, String, BTreeMap<String, String>) {
    let url = url::Url::parse(request.uri()).unwrap();
    let (bucket, key) = url.path()[1..].split_once('/').unwrap_or((&url.path()[1..], ""));
    (bucket.to_owned(), key.to_owned(), url.query_pairs().into_owned().collect())
}

fn etag(bytes: &[u8]) -> String {
    use md5::Digest;
    let digest: String = md5::Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{digest}\"")
}

impl Objects {
    /// The object as it is now.
    pub(crate) fn get(&self, bucket: &str, key: &str) -> Option<&Object> {
        self.versions.get(&format!("{bucket}/{key}"))?.last()?.1.as_ref()
    }

    /// Everything that is in `bucket` now.
    pub(crate) fn all(&self, bucket: &str) -> BTreeMap<String, Object> {
        let start = format!("{bucket}/");
        let current = |(name, versions): (&String, &Vec<Version>)| {
            Some((name.strip_prefix(&start)?.to_owned(), versions.last()?.1.clone()?))
        };
        self.versions.iter().filter_map(current).collect()
    }

    /// Stores `bytes`, whatever is there.
    pub(crate) fn put(&mut self, bucket: &str, key: &str, bytes: Vec<u8>, headers: BTreeMap<String, String>) -> u64 {
        let object = Object { etag: etag(&bytes), bytes: Arc::new(bytes), headers };
        self.write(bucket, key, Some(object))
    }

    fn write(&mut self, bucket: &str, key: &str, object: Option<Object>) -> u64 {
        let versions = self.versions.entry(format!("{bucket}/{key}")).or_default();
        // Counted by key, so that what one run is answered does not tell how far another is with other keys.
        let version = versions.len() as u64 + 1;
        versions.push((version, object.clone()));
        if bucket == PUBLIC {
            self.public_writes.push(key.to_owned());
            if let Some(mut edge) = self.edge.take() {
                edge.wrote(key, object.map(|object| object.bytes), self);
                self.edge = Some(edge);
            }
        }
        version
    }

    fn answer(&mut self, request: &HttpRequest) -> Answer {
        let (bucket, key, query) = parts(request);
        let header = |name: &str| request.headers().get(name).map(str::to_owned);
        match request.method() {
            "GET" if key.is_empty() => self.list(&bucket, query.get("prefix").map_or("", String::as_str)),
            "GET" | "HEAD" => {
                let version = query.get("versionId").map(|id| id.parse::<u64>().unwrap());
                self.read(&bucket, &key, version, request.method() == "HEAD")
            }
            "PUT" => {
                let (if_match, if_none_match) = (header("if-match"), header("if-none-match"));
                if bucket == PUBLIC && if_match.is_none() && if_none_match.is_none() {
                    self.breaches.push(format!("PUT of {key} without a condition"));
                }
                let there = self.get(&bucket, &key).map(|object| object.etag.clone());
                match (if_match, there) {
                    (Some(_), None) => return Answer::error(404, "NoSuchKey"),
                    (Some(wanted), Some(there)) if wanted != there => return Answer::error(412, "PreconditionFailed"),
                    (None, Some(_)) if if_none_match.is_some() => return Answer::error(412, "PreconditionFailed"),
                    _ => {}
                }
                self.store(&bucket, &key, request)
            }
            "DELETE" => {
                let there = self.get(&bucket, &key).map(|object| object.etag.clone());
                match header("if-match") {
                    None => self.breaches.push(format!("DELETE of {key} without a condition")),
                    Some(wanted) if Some(&wanted) != there.as_ref() => {
                        return Answer::error(412, "PreconditionFailed");
                    }
                    Some(_) => {}
                }
                self.write(&bucket, &key, None);
                Answer { status: 204, headers: Vec::new(), body: Vec::new() }
            }
            other => panic!("the model knows no {other}"),
        }
    }

    fn store(&mut self, bucket: &str, key: &str, request: &HttpRequest) -> Answer {
        let body = request.body().bytes().expect("a body in memory").to_vec();
        let mut sum = flate2::Crc::new();
        sum.update(&body);
        let sum = base64_simd::STANDARD.encode_to_string(sum.sum().to_be_bytes());
        match request.headers().get("x-amz-checksum-crc32") {
            Some(said) if said == sum => {}
            Some(_) => return Answer::error(400, "BadDigest"),
            None if bucket == PUBLIC => self.breaches.push(format!("PUT of {key} without a checksum")),
            None => {}
        }
        let kept = |name: &str| {
            matches!(name, "content-type" | "content-encoding" | "cache-control") || name.starts_with("x-amz-meta-")
        };
        let headers = request.headers().iter().filter(|(name, _)| kept(name));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let version = self.put(bucket, key, body, headers);
        let etag = self.get(bucket, key).unwrap().etag.clone();
        let headers = vec![("ETag".to_owned(), etag), ("x-amz-version-id".to_owned(), version.to_string())];
        Answer { status: 200, headers, body: Vec::new() }
    }

    fn read(&self, bucket: &str, key: &str, version: Option<u64>, head: bool) -> Answer {
        let versions = self.versions.get(&format!("{bucket}/{key}"));
        let found = match version {
            None => versions.and_then(|versions| versions.last()),
            Some(id) => versions.and_then(|versions| versions.iter().find(|version| version.0 == id)),
        };
        let Some((version, Some(object))) = found else { return Answer::error(404, "NoSuchKey") };
        let mut headers: Vec<_> = object.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        headers.push(("ETag".to_owned(), object.etag.clone()));
        headers.push(("x-amz-version-id".to_owned(), version.to_string()));
        headers.push(("Content-Length".to_owned(), object.bytes.len().to_string()));
        Answer { status: 200, headers, body: if head { Vec::new() } else { object.bytes.to_vec() } }
    }

    fn list(&self, bucket: &str, prefix: &str) -> Answer {
        let objects = self.all(bucket);
        let found = objects.iter().filter(|(key, _)| key.starts_with(prefix));
        let contents: String = found
            .map(|(key, object)| {
                let etag = object.etag.replace('"', "&quot;");
                format!("<Contents><Key>{key}</Key><ETag>{etag}</ETag><Size>{}</Size></Contents>", object.bytes.len())
            })
            .collect();
        let body = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>");
        Answer { status: 200, headers: Vec::new(), body: body.into_bytes() }
    }
}

/// Athena that answers one query at once, with rows of [`TABLE_COLUMNS`].
#[derive(Clone, Debug)]
pub(crate) struct Table(pub(crate) Arc<Vec<[String; 3]>>);

const TABLE_COLUMNS: [&str; 3] = ["loc", "lastmod", "sort_key"];

/// Rows that Athena gives at once (GetQueryResults).
const PAGE_ROWS: usize = 1000;

impl Table {
    pub(crate) fn client(&self) -> aws_sdk_athena::Client {
        aws_sdk_athena::Client::new(&config(SharedHttpClient::new(self.clone())))
    }

    fn answer(&self, operation: &str, request: &serde_json::Value) -> serde_json::Value {
        let status = serde_json::json!({"State": "SUCCEEDED"});
        match operation {
            "StartQueryExecution" => serde_json::json!({"QueryExecutionId": "query"}),
            "GetQueryExecution" => {
                serde_json::json!({"QueryExecution": {"QueryExecutionId": "query", "Status": status}})
            }
            "GetQueryRuntimeStatistics" => {
                serde_json::json!({"QueryRuntimeStatistics": {"Rows": {"OutputRows": self.0.len()}}})
            }
            "GetQueryResults" => {
                let from: usize = request["NextToken"].as_str().map_or(0, |token| token.parse().unwrap());
                let row = |fields: [&str; 3]| serde_json::json!({"Data": fields.map(|field| serde_json::json!({"VarCharValue": field}))});
                let header = (from == 0).then(|| row(TABLE_COLUMNS));
                let fields = |fields: &[String; 3]| row(fields.each_ref().map(String::as_str));
                let rows = self.0.iter().skip(from).take(PAGE_ROWS - 1).map(fields);
                let rows: Vec<_> = header.into_iter().chain(rows).collect();
                let to = from + PAGE_ROWS - 1;
                let next = (to < self.0.len()).then(|| to.to_string());
                let columns = TABLE_COLUMNS.map(|name| serde_json::json!({"Name": name, "Type": "varchar"}));
                let set = serde_json::json!({"Rows": rows, "ResultSetMetadata": {"ColumnInfo": columns}});
                serde_json::json!({"ResultSet": set, "NextToken": next})
            }
            other => panic!("the model knows no {other}"),
        }
    }
}

impl HttpClient for Table {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Table {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default();
        let body = serde_json::from_slice(request.body().bytes().unwrap_or_default()).unwrap();
        let answer = self.answer(operation, &body).to_string();
        let response = HttpResponse::new(StatusCode::try_from(200).unwrap(), SdkBody::from(answer));
        HttpConnectorFuture::new(std::future::ready(Ok(response)))
    }
}
