//! An engine that is told by IndexNow, after <https://www.indexnow.org/documentation>.

use crate::web_server::{Asked, Reply, WebServer};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use url::Url;

/// The key that the engine wants, where a request names no place of the key's file.
pub const KEY: &str = "0123456789abcdef";
/// URLs of one POST.
const URLS_MAX: usize = 10_000;

/// What it takes it remembers; before that it answers what the script says, the last entry for ever.
#[derive(Debug)]
pub struct Engine {
    server: WebServer,
    taken: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Engine {
    /// An engine that answers as `script` says, but refuses on its own what is wrong.
    ///
    /// # Errors
    /// Where no port can be bound.
    pub fn start(script: &[u16]) -> io::Result<Self> {
        Self::watched(script, |_| {})
    }

    /// The same; `watch` is told the URLs of every POST that is taken, before it is answered.
    ///
    /// # Errors
    /// Where no port can be bound.
    pub fn watched(script: &[u16], watch: impl Fn(&[String]) + Send + Sync + 'static) -> io::Result<Self> {
        let taken: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
        let (script, kept, at) = (script.to_vec(), Arc::clone(&taken), Mutex::new(0));
        let server = WebServer::start(move |asked| {
            let mut at = at.lock().unwrap_or_else(PoisonError::into_inner);
            let status = script[usize::min(*at, script.len() - 1)];
            *at += 1;
            if !matches!(status, 200 | 202) {
                return Reply::status(status);
            }
            match judge(asked) {
                Ok(urls) => {
                    watch(&urls);
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(urls);
                    Reply::status(status)
                }
                Err(status) => Reply::status(status),
            }
        })?;
        Ok(Self { server, taken })
    }

    /// The URLs of each POST that was taken.
    #[must_use]
    pub fn taken(&self) -> Vec<Vec<String>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often it was asked, whatever it answered.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.server.asked().len()
    }

    /// Where it is told.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}/indexnow", self.server.origin())
    }
}

/// 400 for a wrong form, 403 for a key that its file does not hold, 422 for URLs of another host.
fn judge(asked: &Asked) -> Result<Vec<String>, u16> {
    let json = asked.headers.get("content-type").is_some_and(|kind| kind.starts_with("application/json"));
    let body: serde_json::Value = serde_json::from_slice(&asked.body).map_err(|_| 400_u16)?;
    let (host, urls) = (body["host"].as_str().ok_or(400_u16)?, body["urlList"].as_array().ok_or(400_u16)?);
    if asked.method != "POST" || !json || urls.is_empty() || urls.len() > URLS_MAX {
        return Err(400);
    }
    let proof = body["keyLocation"].as_str().map_or_else(|| Some(KEY.to_owned()), text_at);
    if body["key"].as_str().is_none() || proof.as_deref() != body["key"].as_str() {
        return Err(403);
    }
    let urls: Vec<String> = urls.iter().filter_map(|url| url.as_str().map(str::to_owned)).collect();
    let own = |url: &String| Url::parse(url).is_ok_and(|url| url.host_str() == Some(host));
    if urls.iter().all(own) { Ok(urls) } else { Err(422) }
}

/// The key's file.
fn text_at(url: &str) -> Option<String> {
    let mut answer = ureq::get(url).config().proxy(None).build().call().ok()?;
    Some(answer.body_mut().read_to_string().ok()?.trim().to_owned())
}
