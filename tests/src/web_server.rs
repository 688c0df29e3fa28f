//! A web server on 127.0.0.1 that answers what a test says, and remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Bytes of a body that are taken; a test that sends more is wrong.
const BODY_BYTES_MAX: u64 = 64 << 20;
/// How long a connection may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Headers, their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Asked {
    /// Asks `origin` the same, and gives what it answers; 502 where it does not. So a server can stand before another.
    #[must_use]
    pub fn forward(&self, origin: &str) -> Reply {
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).max_redirects(0);
        let mut request = ureq::http::Request::builder().method(self.method.as_str());
        request = request.uri(format!("{origin}{}", self.path));
        for (name, value) in self.headers.iter().filter(|(name, _)| !OF_ONE_HOP.contains(&name.as_str())) {
            request = request.header(name, value);
        }
        let agent = config.build().new_agent();
        let answer = match request.body(self.body.as_slice()) {
            // A body of no bytes is one too, which not every method has.
            Ok(request) if self.body.is_empty() && self.method != "PUT" && self.method != "POST" => {
                agent.run(request.map(|_| ()))
            }
            Ok(request) => agent.run(request),
            Err(error) => Err(error.into()),
        };
        let Ok(mut answer) = answer else { return Reply::status(502) };
        let Ok(body) = answer.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_vec() else {
            return Reply::status(502);
        };
        let mut reply = Reply { body, ..Reply::status(answer.status().as_u16()) };
        for (name, value) in answer.headers().iter().filter(|(name, _)| !OF_ONE_HOP.contains(&name.as_str())) {
            reply = reply.with(name.as_str(), value.to_str().unwrap_or_default());
        }
        reply
    }
}

/// Headers that speak of one connection, or that each side writes by itself.
const OF_ONE_HOP: [&str; 6] = ["host", "connection", "content-length", "expect", "transfer-encoding", "keep-alive"];

/// What to answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// Headers beside Content-Length.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// An answer of `status` with nothing in it.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// 200 with `body` of this Content-Type.
    #[must_use]
    pub fn ok(content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::status(200) }.with("Content-Type", content_type)
    }

    /// The same with one more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

type Handler = dyn Fn(&Asked) -> Reply + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    asked: Mutex<Vec<Asked>>,
    ends: AtomicBool,
}

/// The server. It ends when it is dropped.
pub struct WebServer {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl WebServer {
    /// A server that answers by `handler`.
    ///
    /// # Errors
    /// Where no port can be bound.
    pub fn start(handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let shared = Shared { handler: Box::new(handler), asked: Mutex::default(), ends: AtomicBool::new(false) };
        let shared = Arc::new(shared);
        let served = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if served.ends.load(Ordering::Relaxed) {
                    break;
                }
                let served = Arc::clone(&served);
                // A client that goes away in the middle is its own affair.
                thread::spawn(move || drop(serve(&stream, &served)));
            }
        });
        Ok(Self { port, shared, thread: Some(thread) })
    }

    /// Scheme, host and port.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What was asked so far, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        // Wakes the listener; where that fails, it is gone already.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl std::fmt::Debug for WebServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WebServer({})", self.origin())
    }
}

fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let mut input = BufReader::new(stream);
    let mut line = String::new();
    input.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        input.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    input.take(std::cmp::min(length, BODY_BYTES_MAX)).read_to_end(&mut body)?;
    let asked = Asked { method, path, headers, body };
    shared.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
    let reply = (shared.handler)(&asked);
    let mut out = stream;
    let mut head =
        format!("HTTP/1.1 {} x\r\nConnection: close\r\nContent-Length: {}\r\n", reply.status, reply.body.len());
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    out.write_all(format!("{head}\r\n").as_bytes())?;
    out.write_all(&reply.body)
}
