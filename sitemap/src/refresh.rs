//! The sitemap job without the job: settings, lease, query, pass, publishing, commit.
//!
//! One state object per site holds the lease, the fencing token and the name of the committed manifest. Manifests are
//! written once under a name of their own; the commit is a compare-and-swap of the state object, so a run that lost
//! its lease commits nothing, and the next one starts from what was committed and mends the rest.

use crate::athena::{self, QueryError};
use crate::build::{Build, BuildError, Options, Order, Standing};
use crate::keys;
use crate::manifest::{Manifest, ManifestError};
use crate::pages::Policy;
use crate::place::bucket::Bucket;
use crate::publish::{self, Manner, PlaceError, Published};
use crate::report::Report;
use crate::site::{Site, SiteError};
use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::primitives::ByteStream;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;
use tidemark_runtime::clock::Clock;
use tidemark_runtime::state::{Held, StateError, StateStore};

/// How long a lease runs: longer than the longest invocation.
const LEASE_MS: i64 = 16 * 60 * 1000;

/// What a refresh needs from outside.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Athena, in the hub.
    pub athena: aws_sdk_athena::Client,
    /// S3, in the hub.
    pub s3: aws_sdk_s3::Client,
    /// The bucket of settings and state.
    pub state_bucket: String,
    /// The time.
    pub clock: Clock,
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The site's name, as in `sites/NAME.toml`.
    pub site: &'a str,
    /// The run's ID; the same for a repeated trigger.
    pub id: &'a str,
    /// Which attempt of the run this is, from 1.
    pub attempt: u32,
    /// How long the query may take.
    pub query_longest: Duration,
    /// A directory of its own for working files.
    pub work_dir: &'a Path,
}

/// What is committed of a site's sitemap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The key of the shard manifest, in the state bucket.
    pub manifest: Option<String>,
    /// The run that committed it.
    pub run: Option<String>,
    /// Files that a run under way, or a killed one, may have written.
    #[serde(default)]
    pub intent: Vec<String>,
}

/// What a refresh did.
#[derive(Clone, Debug, Serialize)]
pub struct Refreshed {
    /// The site.
    pub site: String,
    /// URLs in the sitemap.
    pub urls: u64,
    /// Shards in the sitemap.
    pub shards: usize,
    /// The account of the rows.
    pub report: Report,
    /// What was written.
    pub published: Published,
    /// The key of the committed manifest.
    pub manifest: String,
    /// The key of the list of rejects, where there are any.
    pub rejects: Option<String>,
}

/// Why a refresh did not finish.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// An object that the run needs cannot be read or written.
    #[error("{operation} of s3://{bucket}/{key} failed: {message}")]
    Object {
        /// What was tried.
        operation: &'static str,
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// What S3 said, and what to do where that is known.
        message: String,
    },
    /// The site's name cannot be one.
    #[error("{0:?} is no name of a site: use letters, digits, - and _")]
    Name(String),
    /// The settings are wrong.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The lease could not be had, or was lost.
    #[error(transparent)]
    State(#[from] StateError),
    /// The committed manifest cannot be used.
    #[error("the manifest {key} cannot be used")]
    Manifest {
        /// Its key.
        key: String,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// The query failed.
    #[error(transparent)]
    Query(QueryError<BuildError>),
    /// The pass failed.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Publishing failed.
    #[error(transparent)]
    Place(#[from] PlaceError),
}

/// Brings a site's sitemap up to date.
///
/// # Errors
/// A [`RefreshError`]; what was committed before stays, and the next run mends what this one left.
pub async fn refresh(around: &Surroundings, run: Run<'_>) -> Result<Refreshed, RefreshError> {
    if run.site.is_empty() || !run.site.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        return Err(RefreshError::Name(run.site.to_owned()));
    }
    let site_key = keys::site(run.site);
    let text = around.read(&site_key).await?;
    let site = Site::parse(&format!("s3://{}/{site_key}", around.state_bucket), &String::from_utf8_lossy(&text))?;
    let store = StateStore::new(around.s3.clone(), &around.state_bucket);
    let now_ms = around.clock.now_ms();
    let mut held: Held<Committed> = store.acquire(&keys::state(run.site), run.id, now_ms, LEASE_MS).await?;
    let outcome = under_lease(around, run, &site, &mut held).await;
    match &outcome {
        Ok(_) => held.release().await?,
        // The lease is let go so that the next run need not wait for its end; where that fails too, it ends by itself.
        Err(_) => {
            if let Err(error) = held.release().await {
                tracing::warn!(site = run.site, %error, "the lease could not be let go");
            }
        }
    }
    outcome
}

async fn under_lease(
    around: &Surroundings,
    run: Run<'_>,
    site: &Site,
    held: &mut Held<Committed>,
) -> Result<Refreshed, RefreshError> {
    let previous = around.manifest(held, site).await?;
    let id = athena::start(&around.athena, &site.query, &athena::request_token(run.id, run.attempt)).await;
    let id = id.map_err(RefreshError::from_query)?;
    athena::wait(&around.athena, &id, run.query_longest).await.map_err(RefreshError::from_query)?;
    let bucket = Bucket::open(around.s3.clone(), site.target.clone()).await?;
    let now_ms = around.clock.now_ms();
    let policy = Policy { lastmod_zone: site.lastmod_zone.clone(), ..Policy::new(site.base.clone(), now_ms) }
        .with(site.rows.clone());
    let options = Options {
        limits: site.limits,
        level: site.level,
        drop_percent_max: site.drop_percent_max,
        ..Options::new(policy, run.id)
    };
    let strays = bucket.strays(&held.document.state.intent).await?;
    let standing = Standing { intact: &|shard| bucket.is_intact(shard), strays: &strays };
    let mut build = Build::new(previous.clone(), run.work_dir, &options, Order::Unknown, standing)?;
    athena::rows(&around.athena, &id, &mut build).await.map_err(RefreshError::from_query)?;
    let built = build.finish()?;
    let report = built.report.clone();
    let intent = built.intent();
    if intent != held.document.state.intent {
        held.document.state.intent = intent;
        held.commit(around.clock.now_ms() + LEASE_MS).await?;
    }
    let manner = Manner {
        files_url: site.files_url.clone(),
        edge_ttl: site.target.edge_ttl,
        grace_ms: site.target.grace_ms,
        now_ms,
    };
    let (manifest, published) = publish::publish(&bucket, built, &manner).await?;
    let (urls, shards) = (manifest.urls(), manifest.shards.len());
    let rejects = around.store_rejects(run, &report).await?;
    let key = around.commit(run, &manifest, &previous, held).await?;
    Ok(Refreshed { site: run.site.to_owned(), urls, shards, report, published, manifest: key, rejects })
}

impl RefreshError {
    fn from_query(error: QueryError<BuildError>) -> Self {
        match error {
            QueryError::Stopped(stop) => Self::Build(stop),
            other => Self::Query(other),
        }
    }
}

impl Surroundings {
    async fn manifest(&self, held: &Held<Committed>, site: &Site) -> Result<Manifest, RefreshError> {
        let Some(key) = &held.document.state.manifest else { return Ok(Manifest::empty(site.base.as_str())) };
        let bytes = self.read(key).await?;
        Manifest::from_json(&bytes).map_err(|source| RefreshError::Manifest { key: key.clone(), source })
    }

    /// Writes the manifest under a key of its own and makes it the committed one, unless nothing changed.
    async fn commit(
        &self,
        run: Run<'_>,
        manifest: &Manifest,
        previous: &Manifest,
        held: &mut Held<Committed>,
    ) -> Result<String, RefreshError> {
        if let Some(key) = &held.document.state.manifest
            && manifest.shards == previous.shards
            && manifest.retired == previous.retired
            && held.document.state.intent.is_empty()
        {
            return Ok(key.clone());
        }
        let key = keys::manifest(run.site, held.token(), run.id);
        let bytes =
            manifest.to_json().map_err(|error| RefreshError::Manifest { key: key.clone(), source: error.into() })?;
        self.write(&key, bytes, "application/json").await?;
        held.document.state =
            Committed { manifest: Some(key.clone()), run: Some(run.id.to_owned()), intent: Vec::new() };
        held.commit(self.clock.now_ms() + LEASE_MS).await?;
        Ok(key)
    }

    async fn store_rejects(&self, run: Run<'_>, report: &Report) -> Result<Option<String>, RefreshError> {
        if report.rejected.is_empty() && report.dropped.is_empty() {
            return Ok(None);
        }
        let key = keys::rejects(run.site, run.id);
        let bytes = std::fs::read(run.work_dir.join(keys::REJECTS));
        let bytes = bytes.map_err(|error| self.object_error("reading the working copy", &key, error.to_string()))?;
        self.write(&key, bytes, "application/x-ndjson").await?;
        Ok(Some(key))
    }

    async fn read(&self, key: &str) -> Result<Vec<u8>, RefreshError> {
        let answer = self.s3.get_object().bucket(&self.state_bucket).key(key).send().await;
        let object = answer.map_err(|error| {
            let missing = error.as_service_error().is_some_and(|error| error.is_no_such_key());
            let message = if missing { "it is not there".to_owned() } else { DisplayErrorContext(&error).to_string() };
            self.object_error("reading", key, message)
        })?;
        let bytes =
            object.body.collect().await.map_err(|error| self.object_error("reading", key, error.to_string()))?;
        Ok(bytes.to_vec())
    }

    async fn write(&self, key: &str, bytes: Vec<u8>, content_type: &str) -> Result<(), RefreshError> {
        let request = self.s3.put_object().bucket(&self.state_bucket).key(key).content_type(content_type);
        let sent = request.body(ByteStream::from(bytes)).send().await;
        sent.map_err(|error| self.object_error("writing", key, DisplayErrorContext(&error).to_string()))?;
        Ok(())
    }

    fn object_error(&self, operation: &'static str, key: &str, message: String) -> RefreshError {
        RefreshError::Object { operation, bucket: self.state_bucket.clone(), key: key.to_owned(), message }
    }
}
