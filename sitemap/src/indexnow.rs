//! Tells search engines of changed pages by IndexNow (<https://www.indexnow.org/documentation>).
//!
//! Promises: what changed is stored before the first file is published, in parts of one POST each, and a part is
//! removed only after an engine took it (200 or 202). So whatever is killed where, every change is told, some twice.
//! Only what is still refused after [`DAYS_MAX`] days is given up, and that is said. Never told is what did not change.
//! That engines cannot be reached never fails a run.

use crate::build::Built;
use crate::difference::{Difference, Page, copy_changed, differences_of};
use crate::keys;
use crate::site::Target;
use crate::web::{Web, WebError};
use aws_sdk_s3::Client;
use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;
use url::Url;

/// URLs of one POST (IndexNow's own bound).
pub const URLS_MAX: usize = 10_000;
/// POSTs of one drain; what is left goes with the next.
pub const POSTS_MAX: usize = 200;
/// Parts that one drain looks at: more than it tells, so that those of a host that is refused keep no other host waiting.
const PARTS_MAX: i32 = 1_000;
/// Days for which a part that is refused is tried again.
pub const DAYS_MAX: i64 = 30;
/// URLs of a site's first run that are told where nothing else is said.
pub const FIRST_RUN_MAX: u64 = 10_000;
/// Where changes are gathered, inside the run's working directory.
const WORK_DIR: &str = "indexnow";
/// Bytes of an answer that are shown.
const SHOWN_BYTES_MAX: usize = 300;

/// Where it is told, in this order: the shared address, and engines that take changes for all when that one is busy.
pub const ENDPOINTS: [&str; 5] = [
    "https://api.indexnow.org/indexnow",
    "https://www.bing.com/indexnow",
    "https://searchadvisor.naver.com/indexnow",
    "https://yandex.com/indexnow",
    "https://search.seznam.cz/indexnow",
];

/// A site's settings, as they stand in its TOML under `[indexnow]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The key: 8 to 128 letters, digits and dashes.
    pub key: String,
    /// Where the key's file lies, if not at `/KEY.txt` of the host. Only pages below its directory can be told then.
    #[serde(default)]
    pub key_location: Option<String>,
    /// Where to tell it, in this order.
    #[serde(default = "endpoints")]
    pub endpoints: Vec<String>,
    /// URLs of the first run, where all are new, that are told.
    #[serde(default = "first_run_max")]
    pub first_run_max: u64,
}

fn endpoints() -> Vec<String> {
    ENDPOINTS.map(str::to_owned).into()
}

fn first_run_max() -> u64 {
    FIRST_RUN_MAX
}

impl Settings {
    /// The field that cannot be used, and why.
    ///
    /// # Errors
    /// The name of the field, and what is wrong and what to do.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let plain = self.key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !plain || !(8..=128).contains(&self.key.len()) {
            return Err(("indexnow.key", "is no key: give 8 to 128 letters, digits and dashes".to_owned()));
        }
        let is_address = |text: &str| Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if let Some(location) = &self.key_location
            && !is_address(location)
        {
            return Err(("indexnow.key_location", format!("is {location:?}: give the address of the key's file")));
        }
        if self.endpoints.is_empty() || !self.endpoints.iter().all(|endpoint| is_address(endpoint)) {
            return Err(("indexnow.endpoints", "has no address, or something that is none".to_owned()));
        }
        Ok(())
    }

    /// Whether the key speaks for `url`: on its host, and below the directory of its file.
    fn speaks_for(&self, url: &str) -> bool {
        match self.key_location.as_deref().and_then(|location| location.rfind('/').map(|at| &location[..=at])) {
            Some(directory) => url.starts_with(directory),
            None => true,
        }
    }
}

/// What changed in a run, gathered into parts.
#[derive(Debug)]
pub struct ChangeSet {
    settings: Settings,
    /// Of the first run, how many are still taken; without bound later.
    left: u64,
    open: BTreeMap<String, Vec<String>>,
    full: Vec<Vec<String>>,
    /// Changes that were taken.
    pub taken: u64,
    /// Changes that were left out: past the first run's bound, or where the key does not speak.
    pub left_out: u64,
}

impl ChangeSet {
    /// An empty one; `is_first` where the site has never been published.
    #[must_use]
    pub fn new(settings: Settings, is_first: bool) -> Self {
        let left = if is_first { settings.first_run_max } else { u64::MAX };
        Self { settings, left, open: BTreeMap::new(), full: Vec::new(), taken: 0, left_out: 0 }
    }

    /// Takes a page that was added, edited or removed. Full parts are to be taken out by [`ChangeSet::full_parts`].
    pub fn take(&mut self, _difference: Difference, loc: &str) {
        let host = Url::parse(loc).ok().and_then(|url| url.host_str().map(str::to_owned));
        let Some(host) = host.filter(|_| self.left > 0 && self.settings.speaks_for(loc)) else {
            self.left_out += 1;
            return;
        };
        self.left -= 1;
        self.taken += 1;
        let urls = self.open.entry(host).or_default();
        urls.push(loc.to_owned());
        if urls.len() == URLS_MAX {
            self.full.push(std::mem::take(urls));
        }
    }

    /// Parts of [`URLS_MAX`] URLs that are ready to be stored.
    pub fn full_parts(&mut self) -> Vec<Vec<String>> {
        std::mem::take(&mut self.full)
    }

    /// The last parts.
    #[must_use]
    pub fn close(mut self) -> Vec<Vec<String>> {
        let open = std::mem::take(&mut self.open).into_values().filter(|urls| !urls.is_empty());
        self.full.into_iter().chain(open).collect()
    }
}

/// Why changes could not be stored.
#[derive(Debug, thiserror::Error)]
#[error("{operation} the changes for IndexNow at s3://{bucket}/{key} failed: {message}")]
pub struct IndexNowError {
    operation: &'static str,
    bucket: String,
    key: String,
    message: String,
}

/// Where parts wait: objects of one site in the state bucket, each removed when it was told.
#[derive(Clone, Debug)]
pub struct Waiting {
    s3: Client,
    bucket: String,
    site: String,
}

impl Waiting {
    /// The parts of `site`.
    #[must_use]
    pub fn new(s3: Client, bucket: &str, site: &str) -> Self {
        Self { s3, bucket: bucket.to_owned(), site: site.to_owned() }
    }

    /// Stores a part of what the run with this fencing token changes.
    ///
    /// # Errors
    /// An [`IndexNowError`].
    pub async fn store(&self, token: u64, run: &str, number: usize, urls: &[String]) -> Result<(), IndexNowError> {
        let key = keys::indexnow_part(&self.site, token, run, number);
        let request = self.s3.put_object().bucket(&self.bucket).key(&key).content_type("text/plain; charset=utf-8");
        let sent = request.body(ByteStream::from(urls.join("\n").into_bytes())).send().await;
        sent.map(drop).map_err(|error| self.failed("storing", &key, DisplayErrorContext(&error).to_string()))
    }

    /// The first [`PARTS_MAX`] parts, oldest first, each with the time when it was stored, in milliseconds since the epoch;
    /// and whether there are more.
    async fn list(&self) -> Result<(Vec<(String, i64)>, bool), IndexNowError> {
        let prefix = keys::indexnow(&self.site);
        let listed = self.s3.list_objects_v2().bucket(&self.bucket).prefix(&prefix).max_keys(PARTS_MAX).send().await;
        let listed =
            listed.map_err(|error| self.failed("listing", &prefix, DisplayErrorContext(&error).to_string()))?;
        let more = listed.is_truncated.unwrap_or(false);
        let stored_ms = |at: Option<DateTime>| at.and_then(|at| at.to_millis().ok()).unwrap_or(i64::MAX);
        let parts = listed.contents.unwrap_or_default().into_iter();
        Ok((parts.filter_map(|object| Some((object.key?, stored_ms(object.last_modified)))).collect(), more))
    }

    async fn read(&self, key: &str) -> Result<Vec<String>, IndexNowError> {
        let failed = |message| self.failed("reading", key, message);
        let object = self.s3.get_object().bucket(&self.bucket).key(key).send().await;
        let object = object.map_err(|error| failed(DisplayErrorContext(&error).to_string()))?;
        let bytes = object.body.collect().await.map_err(|error| failed(error.to_string()))?.to_vec();
        Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
    }

    async fn remove(&self, key: &str) -> Result<(), IndexNowError> {
        let sent = self.s3.delete_object().bucket(&self.bucket).key(key).send().await;
        sent.map(drop).map_err(|error| self.failed("removing", key, DisplayErrorContext(&error).to_string()))
    }

    fn failed(&self, operation: &'static str, key: &str, message: String) -> IndexNowError {
        IndexNowError { operation, bucket: self.bucket.clone(), key: key.to_owned(), message }
    }
}

/// What a run changes, as it was stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Gathered {
    /// Changes that are stored.
    pub taken: u64,
    /// Changes that are not told: see [`ChangeSet::left_out`].
    pub left_out: u64,
}

/// Finds what `built` changes of the sitemap at `target` and stores it, before anything of it is published. Old and new
/// shards are compared, those alone whose rows changed; on the way everything lies in `work_dir`, not in memory.
///
/// # Errors
/// An [`IndexNowError`]; then some parts may be stored, which harms nothing.
pub async fn gather(
    waiting: &Waiting,
    settings: &Settings,
    target: &Target,
    built: &Built,
    work_dir: &Path,
    (token, run): (u64, &str),
) -> Result<Gathered, IndexNowError> {
    let dir = work_dir.join(WORK_DIR);
    let broken = |error: std::io::Error| waiting.failed("working on", &dir.display().to_string(), error.to_string());
    fs::create_dir_all(&dir).map_err(broken)?;
    let public = work_dir.join(keys::PUBLIC_DIR);
    fs::create_dir_all(&public).map_err(broken)?;
    copy_changed(&waiting.s3, target, built, &public).await.map_err(broken)?;
    let mut changes = ChangeSet::new(settings.clone(), built.before().shards.is_empty());
    let mut parts = 0;
    let mut keep = |urls: &[String]| {
        parts += 1;
        fs::write(dir.join(format!("part-{:06}", parts - 1)), urls.join("\n"))
    };
    let mut take = |difference, before: Option<&Page>, after: Option<&Page>| {
        if let Some(page) = after.or(before) {
            changes.take(difference, &page.loc);
        }
        changes.full_parts().iter().try_for_each(|urls| keep(urls))
    };
    let compared = differences_of(built, &public, &mut take);
    compared.map_err(|error| waiting.failed("comparing", &target.prefix, error.to_string()))?;
    let gathered = Gathered { taken: changes.taken, left_out: changes.left_out };
    changes.close().iter().try_for_each(|urls| keep(urls)).map_err(broken)?;
    for number in 0..parts {
        let text = fs::read_to_string(dir.join(format!("part-{number:06}"))).map_err(broken)?;
        let urls: Vec<String> = text.lines().map(str::to_owned).collect();
        waiting.store(token, run, number, &urls).await?;
    }
    fs::remove_dir_all(&dir).and_then(|()| fs::remove_dir_all(&public)).map_err(broken)?;
    Ok(gathered)
}

/// What a drain did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Drained {
    /// URLs that an engine took.
    pub told: u64,
    /// POSTs that an engine took.
    pub posts: usize,
    /// Whether parts still wait; they go with the next run.
    pub waiting: bool,
    /// Parts that were refused for [`DAYS_MAX`] days and are not tried again.
    pub given_up: usize,
    /// Why it ended before its time, if it did.
    pub problem: Option<String>,
}

/// Tells the parts that wait, oldest first, and removes each when it was taken. Call it after the commit, at `now_ms`,
/// milliseconds since the epoch.
///
/// # Errors
/// An [`IndexNowError`] where the parts cannot be listed, read or removed. Engines that refuse are no error: see
/// [`Drained::problem`].
pub async fn drain(web: &Web, waiting: &Waiting, settings: &Settings, now_ms: i64) -> Result<Drained, IndexNowError> {
    const DAY_MS: i64 = 24 * 3_600_000;
    let (parts, more) = waiting.list().await?;
    let mut drained = Drained { waiting: more, ..Drained::default() };
    // An engine that was busy once is not asked again for the next part, and no part of a host is told behind a refusal.
    let (mut first, mut refused) = (0, HashSet::new());
    for (key, stored_ms) in parts {
        if drained.posts == POSTS_MAX {
            drained.waiting = true;
            break;
        }
        let urls = waiting.read(&key).await?;
        let Some(request) = Request::of(settings, &urls) else {
            waiting.remove(&key).await?;
            continue;
        };
        if !refused.contains(&request.host) {
            match tell(web, settings, &request, &mut first).await {
                Ok(()) => {
                    waiting.remove(&key).await?;
                    drained.told += urls.len() as u64;
                    drained.posts += 1;
                    continue;
                }
                Err(Untold::Refused(problem)) => {
                    drained.problem = Some(problem);
                    refused.insert(request.host);
                }
                Err(Untold::Unreached(problem)) => {
                    drained.waiting = true;
                    drained.problem = Some(problem);
                    break;
                }
            }
        }
        if now_ms.saturating_sub(stored_ms) > DAYS_MAX * DAY_MS {
            waiting.remove(&key).await?;
            drained.given_up += 1;
        } else {
            drained.waiting = true;
        }
    }
    Ok(drained)
}

/// The body of a POST.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    host: String,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_location: Option<&'a str>,
    url_list: &'a [String],
}

impl<'a> Request<'a> {
    fn of(settings: &'a Settings, urls: &'a [String]) -> Option<Self> {
        let host = urls.first().and_then(|url| Url::parse(url).ok())?.host_str()?.to_owned();
        Some(Self { host, key: &settings.key, key_location: settings.key_location.as_deref(), url_list: urls })
    }
}

/// Why a part was not told.
enum Untold {
    /// What it says, or the key of its host, is wrong.
    Refused(String),
    /// No engine takes anything now.
    Unreached(String),
}

/// Asks the endpoints from `first` on, each once. Those that are busy or broken are passed over; a refusal ends it, since
/// every engine would say the same of this host.
async fn tell(web: &Web, settings: &Settings, request: &Request<'_>, first: &mut usize) -> Result<(), Untold> {
    let body = serde_json::to_vec(request).map_err(|error| Untold::Refused(error.to_string()))?;
    let mut last = "no endpoint is left: all were busy or could not be reached".to_owned();
    while let Some(endpoint) = settings.endpoints.get(*first) {
        match post(web, endpoint, body.clone()).await {
            Ok((200 | 202, _)) => return Ok(()),
            Ok((status @ (400 | 403 | 422), said)) => {
                let problem = format!("{endpoint} answers {status} for {}, {}: {said}", request.host, meaning(status));
                return Err(Untold::Refused(problem));
            }
            Ok((status, said)) => last = format!("{endpoint} answers {status}: {said}"),
            Err(error) => last = error.to_string(),
        }
        *first += 1;
    }
    Err(Untold::Unreached(last))
}

async fn post(web: &Web, endpoint: &str, body: Vec<u8>) -> Result<(u16, String), WebError> {
    let answer = web.post_json(endpoint, body).await?;
    let status = answer.status;
    let said = answer.first_bytes(SHOWN_BYTES_MAX).await?;
    Ok((status, String::from_utf8_lossy(&said).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()))
}

/// What IndexNow's documentation says of a status.
fn meaning(status: u16) -> &'static str {
    match status {
        400 => "the request has the wrong form",
        403 => "the key is not valid: its file is not found, or holds something else",
        _ => "the URLs are not of the host, or the key does not match",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let endpoints = endpoints();
        Settings { key: "0123456789abcdef".into(), key_location: None, endpoints, first_run_max: 3 }
    }

    #[test]
    fn parts_hold_one_host_and_one_post_each() {
        let mut changes = ChangeSet::new(settings(), false);
        for n in 0..URLS_MAX + 5 {
            changes.take(Difference::Edited, &format!("https://a.example/{n}"));
        }
        changes.take(Difference::Removed, "https://b.example/x");
        assert_eq!(changes.full_parts().iter().map(Vec::len).collect::<Vec<_>>(), [URLS_MAX]);
        assert_eq!((changes.taken, changes.left_out), (URLS_MAX as u64 + 6, 0));
        assert_eq!(changes.close().iter().map(Vec::len).collect::<Vec<_>>(), [5, 1]);
    }

    #[test]
    fn a_first_run_is_capped_and_a_key_speaks_only_below_its_file() {
        let mut first = ChangeSet::new(settings(), true);
        let key_location = Some("https://a.example/shop/key.txt".to_owned());
        let mut bound = ChangeSet::new(Settings { key_location, ..settings() }, false);
        for n in 0..5 {
            first.take(Difference::Added, &format!("https://a.example/{n}"));
            bound.take(Difference::Added, &format!("https://a.example/{}/{n}", if n < 2 { "shop" } else { "x" }));
        }
        assert_eq!((first.taken, first.left_out), (3, 2));
        assert_eq!((bound.taken, bound.left_out), (2, 3));
    }

    #[test]
    fn settings_that_cannot_work_name_their_field() {
        let field = |settings: Settings| settings.check().unwrap_err().0;
        assert!(settings().check().is_ok());
        assert_eq!(field(Settings { key: "short".into(), ..settings() }), "indexnow.key");
        assert_eq!(field(Settings { key: "not plain!".into(), ..settings() }), "indexnow.key");
        assert_eq!(field(Settings { key_location: Some("/k.txt".into()), ..settings() }), "indexnow.key_location");
        assert_eq!(field(Settings { endpoints: vec![], ..settings() }), "indexnow.endpoints");
    }
}
