//! A backend service in the hub's region, as any service in Rust would write its cache changes.

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;
use std::time::Duration;
use tidemark_cache_sync::lane::{Lane, Lanes};
use tidemark_cache_sync::publish::{Publisher, argument};
use tidemark_local::{Deployment, LANES, STREAM};
use tidemark_runtime::clock::Clock;

/// Changes on their way at once; the publisher itself sees to one record a lane.
const IN_FLIGHT_MAX: usize = 32;

/// The service.
#[derive(Debug)]
pub(crate) struct BackendService {
    publisher: Publisher,
    lanes: Lanes,
}

impl BackendService {
    /// A service that publishes to the deployment's stream.
    pub(crate) fn new(deployment: &Deployment) -> Result<Self> {
        let lanes = Lanes::new(LANES)?;
        let kinesis = deployment.hub().clients.kinesis.clone();
        Ok(Self { publisher: Publisher::new(kinesis, STREAM, lanes, Clock::system()), lanes })
    }

    /// The lane of a key.
    pub(crate) fn lane(&self, key: &str) -> Lane {
        self.lanes.of_key(key.as_bytes())
    }

    /// Sets a key that lives for `ttl`.
    pub(crate) async fn set(&self, key: &str, value: &str, ttl: Duration) -> Result<()> {
        let published = self.publisher.set(key.as_bytes(), value.as_bytes(), Some(ttl)).await;
        published.with_context(|| format!("publish {key}")).map(drop)
    }

    /// Sets many keys, each living for `ttl`.
    pub(crate) async fn set_all(&self, pairs: impl Iterator<Item = (String, String)>, ttl: Duration) -> Result<()> {
        futures::stream::iter(pairs)
            .map(|(key, value)| async move { self.set(&key, &value, ttl).await })
            .buffer_unordered(IN_FLIGHT_MAX)
            .try_collect()
            .await
    }

    /// Deletes a key.
    pub(crate) async fn delete(&self, key: &str) -> Result<()> {
        self.publisher.delete(key.as_bytes()).await.with_context(|| format!("publish the delete of {key}")).map(drop)
    }

    /// Makes a hash of these fields, whatever the key held before.
    pub(crate) async fn set_profile(&self, key: &str, fields: &[(&str, &str)]) -> Result<()> {
        let name = argument(key.as_bytes());
        let mut write = vec![json!("HSET"), name.clone()];
        write.extend(fields.iter().flat_map(|(field, value)| [json!(field), json!(value)]));
        let change = vec![vec![json!("DEL"), name], write];
        self.publisher.publish(key.as_bytes(), change).await.with_context(|| format!("publish {key}")).map(drop)
    }
}
