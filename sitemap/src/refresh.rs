//! The sitemap job without the job: settings, lease, query, pass, publishing, commit.
//!
//! One state object per sitemap holds the lease, the fencing token and the name of the committed manifest. Manifests are
//! written once under a name of their own; the commit is a compare-and-swap of the state object, so a run that lost
//! its lease commits nothing, and the next one starts from what was committed and mends the rest.
//!
//! The sitemaps of a site are brought up to date one after the other, each under its own lease and with its own commit,
//! from rows that are fetched once. One that fails does not stop the others; the run then fails in the end and says
//! which.

mod refusal;
mod surroundings;

pub(crate) use surroundings::state;
pub use surroundings::{Surroundings, committed};

use crate::athena::{Fetch, ParameterError, Statement};
use crate::build::{Build, BuildError, Built, Options, Standing, Stray};
use crate::commit::{Ended, Ending, LEASE_MS, let_go};
use crate::difference::DifferenceError;
use crate::guard::Accepted;
use crate::import::TakeoverError;
use crate::input::{Attempt, Input, InputError, ReadError, Source};
use crate::invalidate::Invalidated;
use crate::keys;
use crate::manifest::{Manifest, ManifestError};
use crate::moves;
use crate::parts::{Parts, PartsError};
use crate::place::bucket::Bucket;
use crate::plan::{self, Plan, PlanError};
use crate::publish::{PlaceError, Published};
use crate::report::Report;
use crate::rollback::{Damage, RollbackError};
use crate::site::{Site, SiteError};
use crate::source::SourceError;
use crate::supply::Supply;
use crate::tell::{Named, Told};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;
use tidemark_runtime::state::{Held, StateError};

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
    /// Whether a sitemap that is sorted by something else is cut anew, by [`Options::reshard`].
    pub reshard: bool,
    /// The plan to carry out, to the letter; its parameters are the query's.
    pub plan: Option<&'a str>,
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
    /// The run whose sitemap a rollback under way, or a killed one, restores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restoring: Option<String>,
    /// The rollback after which nothing is published until somebody lets go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
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
    /// What became of the lines in robots.txt, where the site has them written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub robots: Option<Named>,
    /// What the CDN was told, where the site wants that and something changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invalidated: Option<Invalidated>,
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
    /// An object that the run needs is not there.
    #[error("reading of s3://{bucket}/{key} failed: it is not there")]
    Missing {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
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
    /// One is wanted, and it is not said which.
    #[error("{site} has several sitemaps: say which of {known:?} by --sitemap")]
    Several {
        /// The site.
        site: String,
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
    /// Somebody wants the sitemap to stay as it is.
    #[error("{site} is held since the rollback {by}: nothing is published until `tidemark sitemap release {site}`")]
    OnHold {
        /// The site.
        site: String,
        /// The run that holds it.
        by: String,
    },
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
    /// Which pages change their shard cannot be told.
    #[error("which pages change their shard cannot be told")]
    Moves(#[from] DifferenceError<io::Error>),
    /// A sitemap cannot be taken over.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    /// There is no way back.
    #[error(transparent)]
    Rollback(#[from] RollbackError),
    /// The plan cannot be made, or not be carried out any more.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// Brings the sitemaps of a site up to date, one after the other, from the same rows.
///
/// # Errors
/// A [`RefreshError`]; what was committed before stays, and the next run mends what this one left. Where some sitemaps of
/// several failed, [`RefreshError::Some`].
pub async fn refresh(around: &Surroundings, run: Run<'_>) -> Result<Vec<Refreshed>, RefreshError> {
    let (sites, text) = match run.plan {
        Some(_) => around.one(run.site, run.sitemap).await.map(|(site, text)| (vec![site], text))?,
        None => around.sites(run.site, run.sitemap).await?,
    };
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
    let mut held = around.lease(run.site, run.id).await?;
    let outcome = under_lease(around, run, what, supply, &mut held).await;
    let outcome = let_go(held, run.site, outcome).await;
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
    if let Some(by) = held.document.state.hold.clone() {
        return Err(RefreshError::OnHold { site: run.site.to_owned(), by });
    }
    let began_ms = around.clock.now_ms();
    let plan = match run.plan {
        Some(id) => Some(plan::load(around, run.site, id).await?),
        None => None,
    };
    let run = Run { parameters: plan.as_ref().map_or(run.parameters, |plan| &plan.parameters), ..run };
    let previous = around.manifest(held, site).await?;
    let statement = around.statement(run.parameters, site).await?;
    let files = previous.files().chain(held.document.state.intent.iter().map(String::as_str));
    let bucket = Bucket::open(around.s3.clone(), site.target.clone(), files).await?;
    let ending = Ending {
        around,
        name: run.site,
        run: run.id,
        site,
        bucket: &bucket,
        work_dir: run.work_dir,
        began_ms,
        hold: false,
    };
    let previous = mended(&ending, previous, held).await?;
    let whole = held.document.state.intent.is_empty() && previous.shards.iter().all(|shard| bucket.is_intact(shard));
    let known = held.document.state.input.clone().filter(|_| whole);
    let attempt = run.attempt(held.token());
    let strays = bucket.strays(&held.document.state.intent).await?;
    let options = run.options(site, plan.as_ref(), around.clock.now_ms());
    let salt = salt(settings, &statement, &options);
    if let Some(plan) = &plan {
        plan.check(held.document.state.manifest.as_deref(), &salt, whole)?;
    }
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
    let made = around.made(&pass, supply, plan.as_ref(), (&salt, known.as_deref())).await?;
    let input_unchanged = made.is_none();
    let (built, fingerprint) = made.unwrap_or_else(|| (Built::unchanged(previous.clone()), known));
    let report = built.report.clone();
    let ended = ending.commit(built, fingerprint, held).await?;
    let (urls, shards) = (ended.manifest.urls(), ended.manifest.shards.len());
    let Ended { key, published, rejects, told, robots, invalidated, .. } = ended;
    let accepted = ended.manifest.accepted.filter(|_| !input_unchanged);
    Ok(Refreshed {
        site: run.site.to_owned(),
        urls,
        shards,
        input_unchanged,
        report,
        accepted,
        published,
        manifest: key,
        rejects,
        told,
        robots,
        invalidated,
    })
}

impl<'a> Run<'a> {
    /// An attempt of it at its rows.
    pub(crate) fn attempt(self, number: u64) -> Attempt<'a> {
        Attempt { site: self.site, run: self.id, number, longest: self.query_longest, work_dir: self.work_dir }
    }

    /// How it builds: rows are judged by the plan's time, and the index tells when they were published.
    fn options(self, site: &Site, plan: Option<&Plan>, now_ms: i64) -> Options {
        let rows_ms = plan.map_or(now_ms, |plan| plan.now_ms);
        let accept_drop = self.accept_drop.map(str::to_owned);
        let reshard = plan.map_or(self.reshard, |plan| plan.reshard);
        Options { changed_ms: now_ms, accept_drop, reshard, ..site.sitemap.options(self.id, rows_ms) }
    }
}

/// The committed sitemap, or what one begins from. Where a rollback was killed, what stands there is of neither side, and
/// only the way back to one is safe.
async fn mended(ending: &Ending<'_>, previous: Manifest, held: &mut Held<Committed>) -> Result<Manifest, RefreshError> {
    let state = &held.document.state;
    if state.manifest.is_none() {
        return Ok(ending.bucket.beginning(&previous.base_url, &state.intent));
    }
    if state.restoring.is_none() {
        return Ok(previous);
    }
    match Damage::find(ending, &previous, held).await {
        Ok(Some(damage)) => damage.mend(ending, previous, held).await,
        Ok(None) => Ok(previous),
        Err(error @ RefreshError::Rollback(_)) => {
            tracing::warn!(site = ending.name, %error, "a killed rollback stays half done until this run is through");
            Ok(previous)
        }
        Err(error) => Err(error),
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

/// What a sitemap hangs on beside its rows; where rows are chosen by the time, that is a part of it.
pub(crate) fn salt(settings: &[u8], statement: &Statement, options: &Options) -> Vec<u8> {
    let values = statement.parameters.join("\n");
    let policy = options.policy.fingerprint();
    [settings, statement.sql.as_bytes(), values.as_bytes(), policy.as_bytes()].join(&b"\n\n"[..])
}

/// What a pass works on and with.
pub(crate) struct Pass<'a> {
    pub(crate) attempt: Attempt<'a>,
    pub(crate) site: &'a Site,
    pub(crate) settings: &'a [u8],
    pub(crate) statement: &'a Statement,
    pub(crate) previous: &'a Manifest,
    pub(crate) previous_key: Option<&'a str>,
    pub(crate) options: &'a Options,
    pub(crate) bucket: &'a Bucket,
    pub(crate) strays: &'a [Stray],
}

impl Surroundings {
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
    pub(crate) async fn pass(&self, pass: &Pass<'_>, input: &Input) -> Result<Built, RefreshError> {
        let addresses = pass.options.policy.addresses().map_err(BuildError::from)?;
        for order in input.orders() {
            let standing = Standing { intact: &|shard| pass.bucket.is_intact(shard), strays: pass.strays };
            let mut build = Build::new(pass.previous.clone(), pass.attempt.work_dir, pass.options, *order, standing)?;
            let key = |loc: &[u8], out: &mut Vec<u8>| addresses.resolve(loc, out).is_ok();
            let read = input.read(self.reach().athena, pass.attempt.work_dir, *order, &key, &mut build).await;
            match read.map_err(RefreshError::from_read).and_then(|_| Ok(build.finish()?)) {
                Err(RefreshError::Build(error)) if error.wants_sorting() => {}
                Ok(built) if pass.options.policy.sort_key => {
                    return Ok(moves::set_apart_public(&self.s3, pass, built).await?);
                }
                outcome => return outcome,
            }
        }
        Err(BuildError::OutOfOrder.into())
    }

    /// What the run makes: by its plan, in parts, or in one pass; nothing where the input's fingerprint is the known one.
    async fn made(
        &self,
        pass: &Pass<'_>,
        supply: &mut Supply,
        plan: Option<&Plan>,
        (salt, known): (&[u8], Option<&str>),
    ) -> Result<Option<(Built, Option<String>)>, RefreshError> {
        if let Some(plan) = plan {
            let built = match &plan.lowers {
                Some(lowers) => {
                    // A part would tell of the file that it misses, and not what to do.
                    plan.rows.check(self.reach()).await.map_err(PlanError::Rows)?;
                    self.in_parts(pass)?.build(&plan.rows, lowers).await?
                }
                None => {
                    let input = plan.rows.open(self.reach(), pass.attempt.work_dir).await.map_err(PlanError::Rows)?;
                    self.pass(pass, &input).await?
                }
            };
            plan.check_built(&built)?;
            return Ok(Some((built, plan.rows.fingerprint(salt))));
        }
        if pass.site.scale.parts > 1 {
            let built = self.in_parts(pass)?.run(salt, known).await?;
            return Ok(built.map(|(built, fingerprint)| (built, Some(fingerprint))));
        }
        self.build(pass, supply, (salt, known)).await
    }

    /// The pass by several invocations.
    pub(crate) fn in_parts<'a>(&'a self, pass: &'a Pass<'_>) -> Result<Parts<'a>, RefreshError> {
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
        Ok(Parts {
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
            start: self.parts.as_deref().ok_or_else(|| no_parts("nothing here can start further invocations"))?,
            began_ms: self.clock.now_ms(),
        })
    }
}
