//! A backend service in the hub's region, as any service in Rust would write its cache changes.

use anyhow::{Context as _, Result};
use std::time::Duration;
use tidemark_cache_sync::lane::{Lane, Lanes};
use tidemark_cache_sync::publish::{CacheWrite, Publisher, PublisherSettings};
use tidemark_local::{Deployment, LANES, STREAM};
use tidemark_runtime::clock::Clock;

/// The service.
#[derive(Debug)]
pub(crate) struct BackendService {
    publisher: Publisher,
    lanes: Lanes,
}

impl BackendService {
    /// A service that publishes to the deployment's stream.
    pub(crate) async fn new(deployment: &Deployment) -> Result<Self> {
        let lanes = Lanes::new(LANES)?;
        let settings = PublisherSettings::new(STREAM, lanes);
        let publisher = Publisher::start(&deployment.hub().clients.kinesis, settings, Clock::system()).await?;
        Ok(Self { publisher, lanes })
    }

    /// The lane of a key.
    pub(crate) fn lane(&self, key: &str) -> Lane {
        self.lanes.of_key(key.as_bytes())
    }

    /// Sets a key that lives for `ttl`.
    pub(crate) async fn set(&self, key: &str, value: &str, ttl: Duration) -> Result<()> {
        self.publish(CacheWrite::set(key, value, Some(ttl))).await
    }

    /// Sets many keys, each living for `ttl`; the publisher gathers them into records.
    pub(crate) async fn set_all(&self, pairs: impl Iterator<Item = (String, String)>, ttl: Duration) -> Result<()> {
        for (key, value) in pairs {
            self.publisher.set(key, value, Some(ttl)).await.context("publish")?;
        }
        self.publisher.flush().await.context("publish")
    }

    /// Deletes a key.
    pub(crate) async fn delete(&self, key: &str) -> Result<()> {
        self.publish(CacheWrite::delete(key)).await
    }

    /// Makes a hash of these fields, whatever the key held before.
    pub(crate) async fn set_profile(&self, key: &str, fields: &[(&str, &str)]) -> Result<()> {
        self.publish(CacheWrite::replace_hash(key, fields.iter().copied(), None)).await
    }

    async fn publish(&self, write: CacheWrite) -> Result<()> {
        let key = String::from_utf8_lossy(write.key()).into_owned();
        let published = async { self.publisher.publish(write).await?.confirmed().await };
        published.await.with_context(|| format!("publish {key}")).map(drop)
    }
}
