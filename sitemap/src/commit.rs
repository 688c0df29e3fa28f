//! From what a run built to its commit, under the lease: the same way for a refresh and for a rollback.

use crate::build::Built;
use crate::invalidate::{Invalidated, invalidate};
use crate::keys;
use crate::manifest::Manifest;
use crate::place::bucket::Bucket;
use crate::publish::{self, INDEX_NEW, Lease, Manner, PlaceError, Published};
use crate::refresh::{Committed, RefreshError, Surroundings};
use crate::report::Report;
use crate::run_report::Entry;
use crate::site::Site;
use crate::tell::{Named, Teller, Told};
use std::path::Path;
use tidemark_runtime::clock::Clock;
use tidemark_runtime::state::{Held, StateError};

/// How long a lease runs: longer than the longest invocation.
pub(crate) const LEASE_MS: i64 = 16 * 60 * 1000;

/// Lets the lease go after `outcome`, so that the next run need not wait for its end.
pub(crate) async fn let_go<T, E: From<StateError>>(
    held: Held<Committed>,
    site: &str,
    outcome: Result<T, E>,
) -> Result<T, E> {
    match held.release().await {
        Err(error) if outcome.is_ok() => return Err(error.into()),
        // What went wrong before is the reason; the lease ends by itself.
        Err(error) => tracing::warn!(site, %error, "the lease could not be let go"),
        Ok(()) => {}
    }
    outcome
}

/// The way from what a run built to its commit, under the lease.
#[derive(Debug)]
pub(crate) struct Ending<'a> {
    pub(crate) around: &'a Surroundings,
    /// The sitemap, by [`keys::sitemap`].
    pub(crate) name: &'a str,
    /// The run's ID.
    pub(crate) run: &'a str,
    pub(crate) site: &'a Site,
    pub(crate) bucket: &'a Bucket,
    pub(crate) work_dir: &'a Path,
    pub(crate) began_ms: i64,
    /// Whether nothing is to be published after it until somebody lets go.
    pub(crate) hold: bool,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) manifest: Manifest,
    /// The key of the committed manifest.
    pub(crate) key: String,
    pub(crate) published: Published,
    pub(crate) rejects: Option<String>,
    pub(crate) told: Option<Told>,
    pub(crate) robots: Option<Named>,
    pub(crate) invalidated: Option<Invalidated>,
}

impl Ending<'_> {
    /// Publishes `built`, whose input has this `fingerprint`, commits it, and tells others.
    pub(crate) async fn commit(
        &self,
        built: Built,
        fingerprint: Option<String>,
        held: &mut Held<Committed>,
    ) -> Result<Ended, RefreshError> {
        let Self { around, name: site, run, .. } = *self;
        let mut report = built.report.clone();
        let previous = built.previous.clone();
        let teller = Teller { s3: &around.s3, state_bucket: &around.state_bucket, site, run, token: held.token() };
        let mut told = teller.gather(self.site, &built, self.work_dir).await;
        let intent = built.intent();
        if intent != held.document.state.intent {
            held.document.state.intent = intent;
            held.commit(around.clock.now_ms() + LEASE_MS).await?;
        }
        let (manifest, published) = self.publish(built, held).await?;
        for index in published.indexes_new.iter().filter(|_| self.site.target.robots.is_none()) {
            tracing::warn!(site, index, "robots.txt has to name a new index, crawlers do not find it else");
            report.flag(INDEX_NEW, 1);
        }
        let rejects = self.store_rejects(&report).await?;
        let (manifest, key) = self.make_current(manifest, fingerprint, &previous, held).await?;
        let invalidated = match published.touched() {
            true => invalidate(around.edge.as_deref(), &self.site.target, (site, run)).await,
            false => None,
        };
        let robots = teller.name(self.site, &manifest).await;
        teller.drain(self.site, &around.clock, told.as_mut()).await;
        let times = (self.began_ms, around.clock.now_ms());
        teller.report(Entry::new(run, times, &manifest, &published, &report), &report).await;
        Ok(Ended { manifest, key, published, rejects, told, robots, invalidated })
    }

    /// Puts what was built in its place; the manifest comes back with what the bucket says of each file.
    pub(crate) async fn publish(
        &self,
        built: Built,
        held: &mut Held<Committed>,
    ) -> Result<(Manifest, Published), RefreshError> {
        let clock = &self.around.clock;
        let target = &self.site.target;
        let manner = Manner {
            files_url: self.site.sitemap.files_url.clone(),
            index: self.site.sitemap.limits.index,
            edge_ttl: target.edge_ttl,
            // A file goes at the earliest in the run after the one that retired it: until that is committed, another run may
            // take the file over.
            grace_ms: target.grace_ms.max(1),
            now_ms: clock.now_ms(),
            clock: clock.clone(),
        };
        let mut lease = Renewing { held, clock };
        let (mut manifest, published) = publish::publish(self.bucket, built, &manner, &mut lease).await?;
        for shard in &mut manifest.shards {
            shard.version = self.bucket.version(&shard.file).or(shard.version.take());
        }
        Ok((manifest, published))
    }

    /// Writes the manifest under a key of its own and makes it the committed one, unless nothing changed.
    pub(crate) async fn make_current(
        &self,
        manifest: Manifest,
        input: Option<String>,
        previous: &Manifest,
        held: &mut Held<Committed>,
    ) -> Result<(Manifest, String), RefreshError> {
        let state = &mut held.document.state;
        if let Some(key) = &state.manifest
            && manifest.shards == previous.shards
            && manifest.retired == previous.retired
            && manifest.kinds == previous.kinds
            && state.intent.is_empty()
            && state.restoring.is_none()
        {
            // Goes out with the release of the lease.
            let key = key.clone();
            state.input = input;
            return Ok((manifest, key));
        }
        let manifest = Manifest { previous: state.manifest.clone(), ..manifest };
        let key = keys::manifest(self.name, held.document.token, self.run);
        let bytes =
            manifest.to_json().map_err(|error| RefreshError::Manifest { key: key.clone(), source: error.into() })?;
        self.around.write(&key, bytes, "application/json").await?;
        let run = Some(self.run.to_owned());
        let hold = if self.hold { run.clone() } else { held.document.state.hold.clone() };
        held.document.state =
            Committed { manifest: Some(key.clone()), run, input, intent: Vec::new(), restoring: None, hold };
        held.commit(self.around.clock.now_ms() + LEASE_MS).await?;
        Ok((manifest, key))
    }

    async fn store_rejects(&self, report: &Report) -> Result<Option<String>, RefreshError> {
        if report.rejected.is_empty() && report.dropped.is_empty() {
            return Ok(None);
        }
        let key = keys::rejects(self.name, self.run);
        let bytes = std::fs::read(self.work_dir.join(keys::REJECTS));
        let wrong =
            |error: std::io::Error| self.around.object_error("reading the working copy", &key, error.to_string());
        self.around.write(&key, bytes.map_err(wrong)?, "application/x-ndjson").await?;
        Ok(Some(key))
    }
}

/// The lease of a site's state object, renewed by a compare-and-swap.
struct Renewing<'h> {
    held: &'h mut Held<Committed>,
    clock: &'h Clock,
}

impl Lease for Renewing<'_> {
    async fn renew(&mut self) -> Result<(), PlaceError> {
        let renewed = self.held.commit(self.clock.now_ms() + LEASE_MS).await;
        renewed.map_err(|error| PlaceError {
            operation: "renewing the lease",
            file: "state object".to_owned(),
            message: error.to_string(),
        })
    }
}
