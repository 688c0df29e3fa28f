//! The sitemap job without the job: settings, lease, query, pass, publishing, commit.
//!
//! One state object per sitemap holds the lease, the fencing token and the name of the committed manifest. Manifests are
//! written once under a name of their own; the commit is a compare-and-swap of the state object, so a run that lost
//! its lease commits nothing, and the next one starts from what was committed and mends the rest.
//!
//! The sitemaps of a site are brought up to date one after the other, each under its own lease and with its own commit,
//! from rows that are fetched once. One that fails does not stop the others; the run then fails in the end and says
//! which.

use crate::athena::{self, Athena, Fetch, ParameterError, SqlText, Statement};
use crate::build::{Build, BuildError, Built, Options, Standing, Stray};
use crate::guard::Accepted;
use crate::input::{Attempt, Input, InputError, Reach, ReadError, Source};
use crate::keys;
use crate::manifest::{Manifest, ManifestError};
use crate::parts::{Parts, PartsError, StartPart};
use crate::place::bucket::Bucket;
use crate::publish::{self, Lease, Manner, PlaceError, Published};
use crate::report::Report;
use crate::run_report::Entry;
use crate::site::{self, Site, SiteError};
use crate::source::SourceError;
use crate::supply::Supply;
use crate::tell::{Teller, Told};
use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::primitives::ByteStream;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
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
    /// Starts further invocations, for sites that are built in parts.
    pub parts: Option<Arc<dyn StartPart>>,
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The site's name, as in `sites/NAME.toml`.
    pub site: &'a str,
    /// The one of its sitemaps that is wanted; without it all are. The name of the one without a name is empty.
    pub sitemap: Option<&'a str>,
    /// The run's ID; the same for a repeated trigger.
    pub id: &'a str,
    /// Values of the query's named parameters, in place of those in the settings.
    pub parameters: &'a BTreeMap<String, String>,
    /// Who allows that far fewer URLs are left than the guards believe, and why, if somebody does.
    pub accept_drop: Option<&'a str>,
    /// How long the query may take.
    pub query_longest: Duration,
    /// A directory of its own for working files.
    pub work_dir: &'a Path,
}

/// What is committed of a sitemap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The key of the shard manifest, in the state bucket.
    pub manifest: Option<String>,
    /// The run that committed it.
    pub run: Option<String>,
    /// The fingerprint of the input and the settings that it was made from, where there is one.
    #[serde(default)]
    pub input: Option<String>,
    /// Files that a run under way, or a killed one, may have written.
    #[serde(default)]
    pub intent: Vec<String>,
}

/// What a refresh did to one sitemap.
#[derive(Clone, Debug, Serialize)]
pub struct Refreshed {
    /// The sitemap, by [`keys::sitemap`].
    pub site: String,
    /// URLs in the sitemap.
    pub urls: u64,
    /// Shards in the sitemap.
    pub shards: usize,
    /// Whether the input was that of the run before, so that no row was read.
    pub input_unchanged: bool,
    /// The account of the rows.
    pub report: Report,
    /// A drop that was allowed in this run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Accepted>,
    /// What was written.
    pub published: Published,
    /// The key of the committed manifest.
    pub manifest: String,
    /// The key of the list of rejects, where there are any.
    pub rejects: Option<String>,
    /// What IndexNow was told, where the site wants that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
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
    /// The site has no such sitemap.
    #[error("{site} has no sitemap {sitemap:?}: give one of {known:?}, or none for all")]
    Sitemap {
        /// The site.
        site: String,
        /// What was asked for.
        sitemap: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Some sitemaps of a site that has several failed.
    #[error("{}; up to date: {}", failures(.failed), listed(.done))]
    Some {
        /// Each that failed, and why.
        failed: Vec<(String, RefreshError)>,
        /// Those that were brought up to date.
        done: Vec<Refreshed>,
    },
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
    /// The query's parameters cannot be filled in.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// The query's file holds no query.
    #[error("{file} {problem}")]
    Sql {
        /// The key, in the state bucket.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// The rows could not be had.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The parts gave no whole.
    #[error(transparent)]
    Parts(#[from] PartsError),
    /// The site cannot be built in parts.
    #[error("{site} is to be built in {parts} parts: {problem}")]
    NoParts {
        /// The site.
        site: String,
        /// How many.
        parts: usize,
        /// Why it cannot, and what to do.
        problem: &'static str,
    },
    /// The pass failed.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Publishing failed.
    #[error(transparent)]
    Place(#[from] PlaceError),
}

/// Brings the sitemaps of a site up to date, one after the other, from the same rows.
///
/// # Errors
/// A [`RefreshError`]; what was committed before stays, and the next run mends what this one left. Where some sitemaps of
/// several failed, [`RefreshError::Some`].
pub async fn refresh(around: &Surroundings, run: Run<'_>) -> Result<Vec<Refreshed>, RefreshError> {
    let (sites, text) = around.sites(run).await?;
    let shared = (sites.len() > 1).then(|| sites[0].sitemap.rows.columns.clone());
    let mut supply = Supply::new(run.work_dir, shared);
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for site in &sites {
        let name = keys::sitemap(run.site, &site.sitemap.name);
        let work_dir = run.work_dir.join(keys::sitemap_work(&site.sitemap.name));
        let one = Run { site: &name, work_dir: &work_dir, ..run };
        match bring_up(around, one, (site, &text), &mut supply).await {
            Ok(refreshed) => done.push(refreshed),
            Err(error) => {
                tracing::warn!(sitemap = name, error = %error, "the sitemap stays as it was");
                // Without rows nothing can be done, and asking again takes as long and ends the same.
                let no_rows = matches!(error, RefreshError::Input(_));
                failed.push((name, error));
                if no_rows {
                    break;
                }
            }
        }
    }
    supply.clear(around.reach()).await;
    match failed.len() {
        0 => Ok(done),
        1 if sites.len() == 1 => Err(failed.remove(0).1),
        _ => Err(RefreshError::Some { failed, done }),
    }
}

/// Brings one sitemap up to date, under its lease.
async fn bring_up(
    around: &Surroundings,
    run: Run<'_>,
    what: (&Site, &[u8]),
    supply: &mut Supply,
) -> Result<Refreshed, RefreshError> {
    fs::create_dir_all(run.work_dir).map_err(|source| InputError::Io { path: run.work_dir.to_owned(), source })?;
    let store = StateStore::new(around.s3.clone(), &around.state_bucket);
    let now_ms = around.clock.now_ms();
    let mut held: Held<Committed> = store.acquire(&keys::state(run.site), run.id, now_ms, LEASE_MS).await?;
    let outcome = under_lease(around, run, what, supply, &mut held).await;
    match &outcome {
        Ok(_) => held.release().await?,
        // The lease is let go so that the next run need not wait for its end; where that fails too, it ends by itself.
        Err(_) => {
            if let Err(error) = held.release().await {
                tracing::warn!(site = run.site, %error, "the lease could not be let go");
            }
        }
    }
    // The next sitemap needs the room.
    if let Err(error) = fs::remove_dir_all(run.work_dir) {
        tracing::warn!(site = run.site, %error, "working files stay until the run ends");
    }
    outcome
}

fn failures(failed: &[(String, RefreshError)]) -> String {
    failed.iter().map(|(name, error)| format!("{name} failed: {error}")).collect::<Vec<_>>().join("; ")
}

fn listed(done: &[Refreshed]) -> String {
    match done {
        [] => "none".to_owned(),
        done => done.iter().map(|one| one.site.as_str()).collect::<Vec<_>>().join(", "),
    }
}

async fn under_lease(
    around: &Surroundings,
    run: Run<'_>,
    (site, settings): (&Site, &[u8]),
    supply: &mut Supply,
    held: &mut Held<Committed>,
) -> Result<Refreshed, RefreshError> {
    let began_ms = around.clock.now_ms();
    let previous = around.manifest(held, site).await?;
    let statement = around.statement(run, site).await?;
    let bucket = Bucket::open(around.s3.clone(), site.target.clone()).await?;
    let whole = held.document.state.intent.is_empty() && previous.shards.iter().all(|shard| bucket.is_intact(shard));
    let known = held.document.state.input.clone().filter(|_| whole);
    let (longest, work_dir) = (run.query_longest, run.work_dir);
    let attempt = Attempt { site: run.site, run: run.id, number: held.token(), longest, work_dir };
    let strays = bucket.strays(&held.document.state.intent).await?;
    let options = Options {
        accept_drop: run.accept_drop.map(str::to_owned),
        ..site.sitemap.options(run.id, around.clock.now_ms())
    };
    // What a sitemap hangs on beside its rows; where rows are chosen by the time, that is a part of it.
    let values = statement.parameters.join("\n");
    let policy = options.policy.fingerprint();
    let salt = [settings, statement.sql.as_bytes(), values.as_bytes(), policy.as_bytes()].join(&b"\n\n"[..]);
    let pass = Pass {
        attempt,
        site,
        settings,
        statement: &statement,
        previous: &previous,
        previous_key: held.document.state.manifest.as_deref(),
        options: &options,
        bucket: &bucket,
        strays: &strays,
    };
    let made = if site.scale.parts > 1 {
        around.build_in_parts(&pass, &salt, known.as_deref()).await?
    } else {
        around.build(&pass, supply, (&salt, known.as_deref())).await?
    };
    let input_unchanged = made.is_none();
    let (built, fingerprint) = made.unwrap_or_else(|| (Built::unchanged(previous.clone()), known));
    let report = built.report.clone();
    let teller =
        Teller { s3: &around.s3, state_bucket: &around.state_bucket, site: run.site, run: run.id, token: held.token() };
    let mut told = teller.gather(site, &built, run.work_dir).await;
    let intent = built.intent();
    if intent != held.document.state.intent {
        held.document.state.intent = intent;
        held.commit(around.clock.now_ms() + LEASE_MS).await?;
    }
    let manner = Manner {
        files_url: site.sitemap.files_url.clone(),
        edge_ttl: site.target.edge_ttl,
        // A file goes at the earliest in the run after the one that retired it: until that is committed, another run may
        // take the file over.
        grace_ms: site.target.grace_ms.max(1),
        now_ms: around.clock.now_ms(),
        clock: around.clock.clone(),
    };
    let mut lease = Renewing { held, clock: &around.clock };
    let (manifest, published) = publish::publish(&bucket, built, &manner, &mut lease).await?;
    let (urls, shards) = (manifest.urls(), manifest.shards.len());
    let rejects = around.store_rejects(run, &report).await?;
    let key = around.commit(run, (&manifest, fingerprint), &previous, held).await?;
    teller.drain(site, &around.clock, told.as_mut()).await;
    let times = (began_ms, around.clock.now_ms());
    teller.report(Entry::new(run.id, times, &manifest, &published, &report), &report).await;
    let site = run.site.to_owned();
    let accepted = manifest.accepted.filter(|_| !input_unchanged);
    Ok(Refreshed { site, urls, shards, input_unchanged, report, accepted, published, manifest: key, rejects, told })
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

impl RefreshError {
    fn from_read(error: ReadError<BuildError>) -> Self {
        match error {
            ReadError::Query(error) => Self::Input(error.into()),
            ReadError::Source(SourceError::Stopped(stop)) => Self::Build(stop),
            ReadError::Source(error) => Self::Build(BuildError::Source(Box::new(error))),
        }
    }
}

/// What a pass works on and with.
struct Pass<'a> {
    attempt: Attempt<'a>,
    site: &'a Site,
    settings: &'a [u8],
    statement: &'a Statement,
    previous: &'a Manifest,
    previous_key: Option<&'a str>,
    options: &'a Options,
    bucket: &'a Bucket,
    strays: &'a [Stray],
}

impl Surroundings {
    /// What an input is read with.
    #[must_use]
    pub fn reach(&self) -> Reach<'_> {
        let athena = Athena { client: &self.athena, clock: &self.clock };
        Reach { athena, s3: &self.s3, state_bucket: &self.state_bucket }
    }

    /// The settings of the sitemaps that `run` is for, and their text.
    async fn sites(&self, run: Run<'_>) -> Result<(Vec<Site>, Vec<u8>), RefreshError> {
        if run.site.is_empty() || !run.site.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
            return Err(RefreshError::Name(run.site.to_owned()));
        }
        let key = keys::site(run.site);
        let text = self.read(&key).await?;
        let mut sites = site::parse(&format!("s3://{}/{key}", self.state_bucket), &String::from_utf8_lossy(&text))?;
        if let Some(wanted) = run.sitemap {
            let known = sites.iter().map(|site| site.sitemap.name.clone()).collect();
            sites.retain(|site| site.sitemap.name == wanted);
            if sites.is_empty() {
                let (site, sitemap) = (run.site.to_owned(), wanted.to_owned());
                return Err(RefreshError::Sitemap { site, sitemap, known });
            }
        }
        Ok((sites, text))
    }

    /// The site's query with its parameters; nothing where it has none.
    async fn statement(&self, run: Run<'_>, site: &Site) -> Result<Statement, RefreshError> {
        let Source::Query(query) = &site.source else { return Ok(Statement::default()) };
        let sql = match &query.sql {
            SqlText::Inline(sql) => sql.clone(),
            SqlText::File(name) => {
                let file = keys::site_file(name);
                let text = self.read(&file).await?;
                let sql = athena::settings::select(&String::from_utf8_lossy(&text));
                sql.map_err(|problem| RefreshError::Sql { file, problem })?
            }
        };
        Ok(athena::parameters::statement(&sql, &query.parameters, run.parameters)?)
    }

    /// Builds from the rows of `supply`; nothing where the input's fingerprint is `known`. Also gives the fingerprint,
    /// where there is one.
    async fn build(
        &self,
        pass: &Pass<'_>,
        supply: &mut Supply,
        salt_and_known: (&[u8], Option<&str>),
    ) -> Result<Option<(Built, Option<String>)>, RefreshError> {
        let what = (&pass.site.source, pass.statement);
        match supply.rows(self.reach(), pass.attempt, what, salt_and_known).await? {
            Some((input, fingerprint)) => Ok(Some((self.pass(pass, input).await?, fingerprint))),
            None => Ok(None),
        }
    }

    /// One pass over the rows of `input`, and a second one that sorts where the first finds them out of order.
    async fn pass(&self, pass: &Pass<'_>, input: &Input) -> Result<Built, RefreshError> {
        let addresses = pass.options.policy.addresses().map_err(BuildError::from)?;
        for order in input.orders() {
            let standing = Standing { intact: &|shard| pass.bucket.is_intact(shard), strays: pass.strays };
            let mut build = Build::new(pass.previous.clone(), pass.attempt.work_dir, pass.options, *order, standing)?;
            let key = |loc: &[u8], out: &mut Vec<u8>| addresses.resolve(loc, out).is_ok();
            let read = input.read(self.reach().athena, pass.attempt.work_dir, *order, &key, &mut build).await;
            match read.map_err(RefreshError::from_read).and_then(|_| Ok(build.finish()?)) {
                Err(RefreshError::Build(error)) if error.wants_sorting() => {}
                outcome => return outcome,
            }
        }
        Err(BuildError::OutOfOrder.into())
    }

    /// The same by several invocations.
    async fn build_in_parts(
        &self,
        pass: &Pass<'_>,
        salt: &[u8],
        known: Option<&str>,
    ) -> Result<Option<(Built, Option<String>)>, RefreshError> {
        let no_parts = |problem| {
            let (site, parts) = (pass.attempt.site.to_owned(), pass.site.scale.parts);
            RefreshError::NoParts { site, parts, problem }
        };
        let Source::Query(query) = &pass.site.source else {
            return Err(no_parts("only a query can be; set scale.parts to 1"));
        };
        if query.fetch != Fetch::Unload {
            return Err(no_parts("only UNLOAD writes a partition for each; set query.fetch to unload"));
        }
        let start = self.parts.as_deref().ok_or_else(|| no_parts("nothing here can start further invocations"))?;
        let parts = Parts {
            reach: self.reach(),
            attempt: pass.attempt,
            site: pass.site,
            settings: std::str::from_utf8(pass.settings).unwrap_or_default(),
            query,
            statement: pass.statement,
            previous: pass.previous,
            previous_key: pass.previous_key,
            options: pass.options,
            strays: pass.strays,
            start,
        };
        let built = parts.build(salt, known).await?;
        Ok(built.map(|(built, fingerprint)| (built, Some(fingerprint))))
    }

    async fn manifest(&self, held: &Held<Committed>, site: &Site) -> Result<Manifest, RefreshError> {
        let Some(key) = &held.document.state.manifest else { return Ok(Manifest::empty(site.sitemap.base.as_str())) };
        let bytes = self.read(key).await?;
        Manifest::from_json(&bytes).map_err(|source| RefreshError::Manifest { key: key.clone(), source })
    }

    /// Writes the manifest under a key of its own and makes it the committed one, unless nothing changed.
    async fn commit(
        &self,
        run: Run<'_>,
        (manifest, input): (&Manifest, Option<String>),
        previous: &Manifest,
        held: &mut Held<Committed>,
    ) -> Result<String, RefreshError> {
        if let Some(key) = &held.document.state.manifest
            && manifest.shards == previous.shards
            && manifest.retired == previous.retired
            && manifest.kinds == previous.kinds
            && held.document.state.intent.is_empty()
        {
            // Goes out with the release of the lease.
            let key = key.clone();
            held.document.state.input = input;
            return Ok(key);
        }
        let key = keys::manifest(run.site, held.token(), run.id);
        let bytes =
            manifest.to_json().map_err(|error| RefreshError::Manifest { key: key.clone(), source: error.into() })?;
        self.write(&key, bytes, "application/json").await?;
        held.document.state =
            Committed { manifest: Some(key.clone()), run: Some(run.id.to_owned()), input, intent: Vec::new() };
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
