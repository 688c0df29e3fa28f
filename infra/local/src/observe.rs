//! Looking at what the regions hold, as the demo and the tests do it: bounded waits on conditions.

use crate::contents::{Content, contents};
use crate::deployment::{Deployment, LocalRegion};
use crate::error::LocalError;
use crate::wait::until;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long anything that crosses the road may take here, on a slow machine that does other work too.
pub const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(120);
/// How long nothing must change for a Redis to count as quiet.
const QUIET: Duration = Duration::from_millis(500);

impl LocalRegion {
    /// The region's keys with values and expiries, without the system's own.
    ///
    /// # Errors
    /// [`LocalError::Call`] when Redis does not answer.
    pub async fn keys(&self) -> Result<BTreeMap<Vec<u8>, Content>, LocalError> {
        contents(&mut self.connect_redis().await?, |key| !key.starts_with(b"tidemark:")).await
    }

    /// Everything the region holds, the system's own keys included.
    ///
    /// # Errors
    /// [`LocalError::Call`] when Redis does not answer.
    pub async fn everything(&self) -> Result<BTreeMap<Vec<u8>, Content>, LocalError> {
        contents(&mut self.connect_redis().await?, |_| true).await
    }

    /// Waits until the string at `key` is `value` (`None`: until the key is absent), and returns for how long.
    ///
    /// # Errors
    /// [`LocalError::TimedOut`], or [`LocalError::Call`] when Redis does not answer.
    pub async fn until_value(&self, key: &str, value: Option<&str>) -> Result<Duration, LocalError> {
        let start = Instant::now();
        let mut connection = self.connect_redis().await?;
        until(&format!("{key} to be {value:?} in {}", self.name), ARRIVAL_TIMEOUT, async || {
            let read: Option<String> =
                redis::cmd("GET").arg(key).query_async(&mut connection).await.map_err(LocalError::call("GET"))?;
            Ok((read.as_deref() == value).then_some(()))
        })
        .await
        .map(|()| start.elapsed())
    }

    /// Waits until nothing in the region changes any more, and returns what it holds.
    ///
    /// # Errors
    /// [`LocalError::TimedOut`], or [`LocalError::Call`] when Redis does not answer.
    pub async fn until_quiet(&self) -> Result<BTreeMap<Vec<u8>, Content>, LocalError> {
        let mut before = self.everything().await?;
        until(&format!("{} to be quiet", self.name), ARRIVAL_TIMEOUT, async || {
            tokio::time::sleep(QUIET).await;
            let now = self.everything().await?;
            let quiet = now == before;
            before = now;
            Ok(quiet.then(|| before.clone()))
        })
        .await
    }
}

impl Deployment {
    /// Waits until both regions hold exactly the same keys, values and expiries, and at least `keys_min` of them.
    ///
    /// # Errors
    /// [`LocalError::TimedOut`], with some of the keys that differ, or [`LocalError::Call`].
    pub async fn until_equal(&self, keys_min: usize) -> Result<BTreeMap<Vec<u8>, Content>, LocalError> {
        let mut seen = String::new();
        let equal = until("", ARRIVAL_TIMEOUT, async || {
            let (hub, second) = (self.hub().keys().await?, self.second().keys().await?);
            if hub == second && hub.len() >= keys_min {
                return Ok(Some(hub));
            }
            seen = format!("{} and {} keys, {keys_min} wanted; {}", hub.len(), second.len(), differing(&hub, &second));
            Ok(None)
        });
        equal.await.map_err(|error| match error {
            LocalError::TimedOut { waited_ms, .. } => {
                LocalError::TimedOut { what: format!("both regions to hold the same: {seen}"), waited_ms }
            }
            other => other,
        })
    }
}

impl Deployment {
    /// Waits until a scheduled run of `job` (with its argument, as in `sitemap-demo`) is done, and returns its record.
    /// `telling` is told what the run says of its progress.
    ///
    /// # Errors
    /// [`LocalError::Function`] with the run's own error when it failed, [`LocalError::TimedOut`], [`LocalError::Call`].
    pub async fn until_run(
        &self,
        job: &str,
        timeout: Duration,
        mut telling: impl FnMut(&str),
    ) -> Result<Value, LocalError> {
        let (s3, bucket) = (&self.hub().clients.s3, &self.hub().bucket);
        let prefix = format!("jobs/runs/{job}-");
        until(&format!("a run of {job}"), timeout, async || {
            let list = s3.list_objects_v2().bucket(bucket).prefix(&prefix).send().await;
            let list = list.map_err(LocalError::call(format!("ListObjectsV2 {bucket}/{prefix}")))?;
            let Some(key) = list.contents().iter().filter_map(|object| object.key()).max() else { return Ok(None) };
            let read = s3.get_object().bucket(bucket).key(key).send().await;
            let body = read.map_err(LocalError::call(format!("GetObject {bucket}/{key}")))?.body.collect().await;
            let body = body.map_err(LocalError::call(format!("read {bucket}/{key}")))?.into_bytes();
            let record: Value = serde_json::from_slice(&body).map_err(LocalError::call(format!("parse {key}")))?;
            match record["standing"].as_str() {
                Some("done") => Ok(Some(record)),
                Some("failed") => Err(LocalError::Function {
                    function: job.to_owned(),
                    region: self.hub().name.to_owned(),
                    message: record["error"].as_str().unwrap_or("no reason given").to_owned(),
                }),
                _ => {
                    telling(record["progress"]["doing"].as_str().unwrap_or_default());
                    Ok(None)
                }
            }
        })
        .await
    }
}

/// Names some keys that are not the same in both.
#[must_use]
pub fn differing(one: &BTreeMap<Vec<u8>, Content>, other: &BTreeMap<Vec<u8>, Content>) -> String {
    const NAMES_MAX: usize = 5;
    let changed = one.iter().filter(|(key, content)| other.get(*key) != Some(content)).map(|(key, _)| key);
    let added = other.keys().filter(|key| !one.contains_key(*key));
    let names: Vec<_> = changed.chain(added).take(NAMES_MAX).map(|key| String::from_utf8_lossy(key)).collect();
    if names.is_empty() { "no key differs".to_owned() } else { format!("differing: {}", names.join(", ")) }
}
