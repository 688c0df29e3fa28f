//! Fetches over HTTP as a polite crawler: one request at a time, a pause between them, bounded answers, redirects
//! followed and told, nothing unpacked. It is the client that the AWS SDKs bring, so that nothing is linked twice.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::io::{self, Write};
use std::sync::Mutex;
use std::time::Duration;
use tidemark_runtime::clock::Clock;
use url::Url;

/// Redirects that are followed, as crawlers do for robots.txt (RFC 9309: at least five).
pub const REDIRECTS_MAX: usize = 5;
/// [`Web::timeout`] where nothing else is said.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// [`Web::pause`] where nothing else is said.
pub const PAUSE: Duration = Duration::from_millis(200);
/// What requests are signed with where nothing else is said.
pub const USER_AGENT: &str = concat!("tidemark/", env!("CARGO_PKG_VERSION"));

/// Why something could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The address is none.
    #[error("{0:?} is no address of http or https")]
    Address(String),
    /// There are no certificates to trust.
    #[error("no certificates to trust were found on this machine: install its ca-certificates")]
    Certificates(#[source] io::Error),
    /// No answer in time.
    #[error("{url} did not answer within {seconds} s")]
    Timeout {
        /// The address.
        url: String,
        /// How long was waited.
        seconds: u64,
    },
    /// No connection, or one that broke.
    #[error("{url} cannot be reached: {message}")]
    Transport {
        /// The address.
        url: String,
        /// What went wrong, with its causes.
        message: String,
    },
    /// More than [`REDIRECTS_MAX`] redirects, or one that leads nowhere.
    #[error("{0} redirects too often, or to nowhere")]
    Redirects(String),
    /// The answer is larger than what was asked for may be.
    #[error("{url} is larger than {bytes_max} bytes")]
    TooLarge {
        /// The address.
        url: String,
        /// The bound.
        bytes_max: u64,
    },
    /// The answer cannot be kept.
    #[error("the answer cannot be written: check the space for temporary files")]
    Keep(#[from] io::Error),
}

/// A client with its manners.
#[derive(Debug)]
pub struct Web {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    clock: Clock,
    user_agent: String,
    /// How long an answer's head, and each further piece of it, is waited for.
    pub timeout: Duration,
    /// How long to leave a site in peace between two requests.
    pub pause: Duration,
    /// When the next request may go, in milliseconds since the epoch.
    next_ms: Mutex<i64>,
}

/// An answer, whose body is still to be read.
#[derive(Debug)]
pub struct Answer {
    /// The address that answered, after redirects.
    pub url: String,
    /// The redirects on the way: status and where to.
    pub redirects: Vec<(u16, String)>,
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    timeout: Duration,
}

impl Web {
    /// A client that calls itself `user_agent`.
    ///
    /// # Errors
    /// [`WebError::Certificates`].
    pub fn new(clock: Clock, user_agent: impl Into<String>) -> Result<Self, WebError> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)
            .map_err(WebError::Certificates)?
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let user_agent = user_agent.into();
        Ok(Self { client, clock, user_agent, timeout: TIMEOUT, pause: PAUSE, next_ms: Mutex::new(0) })
    }

    /// GETs `url`, whatever its status, after at most [`REDIRECTS_MAX`] redirects.
    ///
    /// # Errors
    /// A [`WebError`].
    pub async fn get(&self, url: &str) -> Result<Answer, WebError> {
        let mut at = address(url)?;
        let mut redirects = Vec::new();
        loop {
            let answer = self.send(Method::GET, &at, &[("accept-encoding", "gzip")], Vec::new()).await?;
            if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
                return Ok(Answer { redirects, ..answer });
            }
            let location = answer.header(header::LOCATION).and_then(|to| at.join(to).ok());
            let Some(to) = location.filter(|to| matches!(to.scheme(), "http" | "https")) else {
                return Err(WebError::Redirects(url.to_owned()));
            };
            redirects.push((answer.status, to.to_string()));
            if redirects.len() > REDIRECTS_MAX {
                return Err(WebError::Redirects(url.to_owned()));
            }
            at = to;
        }
    }

    /// POSTs JSON to `url`. Redirects are not followed.
    ///
    /// # Errors
    /// A [`WebError`].
    pub async fn post_json(&self, url: &str, json: Vec<u8>) -> Result<Answer, WebError> {
        self.post(url, &[("content-type", "application/json; charset=utf-8")], json).await
    }

    /// POSTs `body` to `url` with these headers. Redirects are not followed.
    ///
    /// # Errors
    /// A [`WebError`].
    pub async fn post(&self, url: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Result<Answer, WebError> {
        self.send(Method::POST, &address(url)?, headers, body).await
    }

    async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Answer, WebError> {
        self.wait_for_turn().await;
        let mut wire = url.clone();
        wire.set_fragment(None);
        let uri: Uri = wire.as_str().parse().map_err(|_| WebError::Address(url.to_string()))?;
        let mut request = Request::builder().method(method).uri(uri).header(header::USER_AGENT, &self.user_agent);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body));
        let request = request.map_err(|_| WebError::Address(url.to_string()))?;
        let sent = within(self.timeout, url.as_str(), self.client.request(request)).await?;
        let (head, body) = sent.map_err(|error| transport(url.as_str(), &error))?.into_parts();
        Ok(Answer {
            url: url.to_string(),
            redirects: Vec::new(),
            status: head.status.as_u16(),
            headers: head.headers,
            body,
            timeout: self.timeout,
        })
    }

    /// Requests of one client never come closer than the pause.
    async fn wait_for_turn(&self) {
        let pause_ms = i64::try_from(self.pause.as_millis()).unwrap_or(i64::MAX);
        let wait_ms = {
            let mut next_ms = self.next_ms.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let now_ms = self.clock.now_ms();
            let turn_ms = now_ms.max(*next_ms);
            *next_ms = turn_ms.saturating_add(pause_ms);
            turn_ms - now_ms
        };
        if wait_ms > 0 {
            self.clock.sleep(Duration::from_millis(wait_ms.unsigned_abs())).await;
        }
    }
}

impl Answer {
    /// The header `name`, where it is text.
    #[must_use]
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Writes the body, as it came, to `out`, and gives its size.
    ///
    /// # Errors
    /// [`WebError::TooLarge`] past `bytes_max`, or what went wrong on the way.
    pub async fn save(mut self, bytes_max: u64, out: &mut (dyn Write + Send)) -> Result<u64, WebError> {
        let mut bytes = 0;
        while let Some(frame) = within(self.timeout, &self.url, self.body.frame()).await? {
            let frame = frame.map_err(|error| transport(&self.url, &error))?;
            let Ok(part) = frame.into_data() else { continue };
            bytes += part.len() as u64;
            if bytes > bytes_max {
                return Err(WebError::TooLarge { url: self.url, bytes_max });
            }
            out.write_all(&part)?;
        }
        Ok(bytes)
    }

    /// The first `bytes_max` bytes of the body, as it came.
    ///
    /// # Errors
    /// A [`WebError`]; never for a longer body.
    pub async fn first_bytes(mut self, bytes_max: usize) -> Result<Vec<u8>, WebError> {
        let mut out = Vec::new();
        while out.len() < bytes_max
            && let Some(frame) = within(self.timeout, &self.url, self.body.frame()).await?
        {
            let frame = frame.map_err(|error| transport(&self.url, &error))?;
            if let Ok(part) = frame.into_data() {
                out.extend_from_slice(&part[..part.len().min(bytes_max - out.len())]);
            }
        }
        Ok(out)
    }
}

fn address(url: &str) -> Result<Url, WebError> {
    let parsed = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    parsed.ok_or_else(|| WebError::Address(url.to_owned()))
}

async fn within<T>(timeout: Duration, url: &str, work: impl Future<Output = T>) -> Result<T, WebError> {
    let late = |_| WebError::Timeout { url: url.to_owned(), seconds: timeout.as_secs() };
    tokio::time::timeout(timeout, work).await.map_err(late)
}

fn transport(url: &str, error: &dyn std::error::Error) -> WebError {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let message = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    WebError::Transport { url: url.to_owned(), message }
}
