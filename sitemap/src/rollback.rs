//! Restores a sitemap that an earlier run published, from the versions that the bucket keeps.
//!
//! Promises: nothing is written before every file that is to come back was fetched and found to be what that run wrote.
//! The files go into their places in publishing's own order, so a page that is in both sitemaps is in an indexed, valid
//! shard at every instant. What is restored is committed as a manifest of its own, which names the run that it restores:
//! another rollback undoes it.
//!
//! Between two sitemaps that follow each other a page moves only out of a file that is new or into one that goes; so
//! the way back is as safe as the way there. A killed run leaves files of neither; therefore what is committed is put
//! back first (`Damage`), before a rollback and after one that was killed.

use crate::build::{Built, Change, hex, index_time};
use crate::calls::side_by_side;
use crate::commit::{Ending, LEASE_MS, let_go};
use crate::invalidate::Invalidated;
use crate::keys;
use crate::manifest::{Manifest, Retired, Shard};
use crate::pages::BY_ADDRESS;
use crate::place::bucket::Bucket;
use crate::publish::Published;
use crate::refresh::{Committed, RefreshError, Surroundings};
use crate::report::Report;
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use tidemark_runtime::state::Held;
use twox_hash::XxHash3_128;

/// How many manifests back a run is looked for.
const HISTORY_MAX: usize = 1000;
/// Runs that are named where the wanted one is not among them.
const RUNS_NAMED: usize = 10;
/// Files that are named where they cannot be restored.
const FILES_NAMED: usize = 10;

/// Why a sitemap cannot be rolled back. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// Only one run has ever been committed, or versions before it are not known.
    #[error("{0} has no earlier sitemap to roll back to")]
    NoPrevious(String),
    /// There is no such run.
    #[error("{site} was never published by a run {run}: there are {}", .known.join(", "))]
    NoRun {
        /// The site.
        site: String,
        /// The run that was asked for.
        run: String,
        /// The last ones that there are, the newest first.
        known: Vec<String>,
    },
    /// Files of that run cannot be had any more.
    #[error(
        "{total} files of the run {run} cannot be restored ({}): the bucket must keep versions (S3 Versioning), for as \
         long as you want to roll back", .files.join(", ")
    )]
    Gone {
        /// The run.
        run: String,
        /// Some of the files, each with what is wrong.
        files: Vec<String>,
        /// How many there are.
        total: usize,
    },
    /// It is an import, of which not every file was kept.
    #[error(
        "{run} took over another tool's sitemap, and {files} of its files went with the run after it: pages of theirs \
         would be in no sitemap"
    )]
    Import {
        /// The import.
        run: String,
        /// How many files.
        files: usize,
    },
    /// Pages would move between two files that both stay, and could be missed meanwhile.
    #[error("between the run {run} and now pages moved twice, among others in {file}: roll back to {first} first")]
    TooFar {
        /// The run that was asked for.
        run: String,
        /// A file.
        file: String,
        /// The run to which the way is safe.
        first: String,
    },
}

/// What to roll back.
#[derive(Clone, Copy, Debug)]
pub struct Rollback<'a> {
    /// The site's name.
    pub site: &'a str,
    /// The one of its sitemaps; may be missing where it has only one.
    pub sitemap: Option<&'a str>,
    /// This run's ID.
    pub id: &'a str,
    /// The run whose sitemap is wanted; the one before the current where it is not said.
    pub to: Option<&'a str>,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Publish nothing more until [`release`].
    pub hold: bool,
    /// A directory of its own for working files.
    pub work_dir: &'a Path,
}

/// What a rollback did, or would do.
#[derive(Clone, Debug, Serialize)]
pub struct RolledBack {
    /// The sitemap, by [`keys::sitemap`].
    pub site: String,
    /// The run whose sitemap it is now.
    pub restores: String,
    /// Whether nothing was done.
    pub dry_run: bool,
    /// URLs before.
    pub urls_before: u64,
    /// URLs after.
    pub urls: u64,
    /// Files that were written from their old versions.
    pub files_restored: Vec<String>,
    /// Files that the index names no more.
    pub files_retired: Vec<String>,
    /// The run that holds the sitemap as it is, if one does.
    pub hold: Option<String>,
    /// The key of the committed manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// What was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<Published>,
    /// What the CDN was told, where the site wants that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invalidated: Option<Invalidated>,
}

/// Restores the sitemap of an earlier run.
///
/// # Errors
/// A [`RefreshError`]. What was committed before stays, and the next run mends what this one left.
pub async fn rollback(around: &Surroundings, run: Rollback<'_>) -> Result<RolledBack, RefreshError> {
    let (site, _) = around.one(run.site, run.sitemap).await?;
    let name = keys::sitemap(run.site, &site.sitemap.name);
    let run = Rollback { site: &name, ..run };
    let mut held = around.lease(run.site, run.id).await?;
    let outcome = async {
        let current = around.manifest(&held, &site).await?;
        let bucket = Bucket::open(around.s3.clone(), site.target.clone(), current.files()).await?;
        let ending = Ending {
            around,
            name: run.site,
            run: run.id,
            site: &site,
            bucket: &bucket,
            work_dir: run.work_dir,
            began_ms: around.clock.now_ms(),
            hold: run.hold,
        };
        under_lease(&ending, run, current, &mut held).await
    };
    let outcome = outcome.await;
    let_go(held, run.site, outcome).await
}

/// Lets runs publish again after a rollback that holds the sitemap; tells which that was.
///
/// # Errors
/// A [`RefreshError`].
pub async fn release(
    around: &Surroundings,
    site: &str,
    sitemap: Option<&str>,
    run: &str,
) -> Result<Option<String>, RefreshError> {
    let (one, _) = around.one(site, sitemap).await?;
    let name = keys::sitemap(site, &one.sitemap.name);
    let mut held = around.lease(&name, run).await?;
    let by = held.document.state.hold.take();
    let_go(held, &name, Ok(by)).await
}

async fn under_lease(
    ending: &Ending<'_>,
    run: Rollback<'_>,
    mut current: Manifest,
    held: &mut Held<Committed>,
) -> Result<RolledBack, RefreshError> {
    if current.run == run.id
        && let Some(restores) = &current.restores
    {
        // An earlier attempt of this run came as far as the commit.
        return Ok(RolledBack {
            site: run.site.to_owned(),
            restores: restores.clone(),
            dry_run: false,
            urls_before: current.urls(),
            urls: current.urls(),
            files_restored: Vec::new(),
            files_retired: Vec::new(),
            hold: held.document.state.hold.clone(),
            manifest: held.document.state.manifest.clone(),
            published: None,
            invalidated: None,
        });
    }
    let goal = goal(ending.around, run, &current).await?;
    let now = index_time(ending.around.clock.now_ms());
    let way = Way::new(&goal, &current, ending.bucket, &now);
    let staged = stage(ending, &goal.run, &way.missing, "restored").await?;
    let damage = Damage::find(ending, &current, held).await?;
    let mut told = RolledBack {
        site: run.site.to_owned(),
        restores: goal.run.clone(),
        dry_run: run.dry_run,
        urls_before: current.urls(),
        urls: goal.urls(),
        files_restored: way.missing.iter().map(|shard| shard.file.clone()).collect(),
        files_retired: way.retired.clone(),
        hold: held.document.state.hold.clone(),
        manifest: None,
        published: None,
        invalidated: None,
    };
    if run.dry_run {
        return Ok(told);
    }
    held.document.state.restoring = Some(goal.run.clone());
    held.commit(ending.around.clock.now_ms() + LEASE_MS).await?;
    if let Some(damage) = damage {
        current = damage.mend(ending, current, held).await?;
    }
    let way = Way::new(&goal, &current, ending.bucket, &now);
    let built = built(ending, goal, way, staged, current, held).await?;
    let ended = ending.commit(built, None, held).await?;
    told.hold = held.document.state.hold.clone();
    told.invalidated = ended.invalidated;
    (told.manifest, told.published) = (Some(ended.key), Some(ended.published));
    Ok(told)
}

/// The manifest to restore.
async fn goal(around: &Surroundings, run: Rollback<'_>, current: &Manifest) -> Result<Manifest, RefreshError> {
    let (mut at, mut known, mut safe) = (current.previous.clone(), Vec::new(), None);
    for steps in 0..HISTORY_MAX {
        let Some(key) = at else { break };
        let manifest = around.manifest_at(&key).await?;
        let exchange = exchange(current, &manifest).or_else(|| rekeyed(current, &manifest).filter(|_| steps > 0));
        if run.to.is_none_or(|to| to == manifest.run) {
            if !manifest.outgoing.is_empty() {
                let (run, files) = (manifest.run, manifest.outgoing.len());
                return Err(RollbackError::Import { run, files }.into());
            }
            return match (exchange, safe) {
                (Some(file), Some(first)) => Err(RollbackError::TooFar { run: manifest.run, file, first }.into()),
                _ => Ok(manifest),
            };
        }
        if exchange.is_none() {
            safe = Some(manifest.run.clone());
        }
        if known.len() < RUNS_NAMED {
            known.push(manifest.run.clone());
        }
        at = manifest.previous;
    }
    let site = run.site.to_owned();
    Err(match (run.to, known.is_empty()) {
        (Some(run), false) => RollbackError::NoRun { site, run: run.to_owned(), known },
        _ => RollbackError::NoPrevious(site),
    }
    .into())
}

/// A file into which pages would come out of another, though both are in both manifests: between the writes of the two
/// they could be missed. The runs of one step never leave such a pair.
fn exchange(from: &Manifest, goal: &Manifest) -> Option<String> {
    let files = |manifest: &Manifest| manifest.shards.iter().map(|shard| shard.file.clone()).collect::<HashSet<_>>();
    let (before, after) = (files(from), files(goal));
    let staying = |shard: &&Shard| before.contains(&shard.file) && after.contains(&shard.file);
    for shard in goal.shards.iter().filter(staying) {
        let first = from.shards.partition_point(|other| other.last < shard.lower);
        let met = from.shards[first..].iter().take_while(|other| other.lower <= shard.last);
        if met.filter(staying).any(|other| other.file != shard.file) {
            return Some(shard.file.clone());
        }
    }
    None
}

/// A file whose pages may have changed places with another's, where they are sorted by a key: over several steps a page
/// may have got another key twice, which no range tells. One step is safe: a run gives a file that gains a page a new
/// name.
fn rekeyed(from: &Manifest, goal: &Manifest) -> Option<String> {
    if [from, goal].iter().all(|manifest| manifest.sort_key == BY_ADDRESS) {
        return None;
    }
    let before: HashMap<&str, &Shard> = from.shards.iter().map(|shard| (shard.file.as_str(), shard)).collect();
    let changed = |shard: &&Shard| before.get(shard.file.as_str()).is_some_and(|old| old.rows_hash != shard.rows_hash);
    let mut changed = goal.shards.iter().filter(changed);
    changed.next().and(changed.next()).map(|shard| shard.file.clone())
}

/// What has to be done on the way to a manifest.
#[derive(Debug)]
struct Way {
    shards: Vec<Shard>,
    /// Shards whose files are not there as they should be.
    missing: Vec<Shard>,
    /// Files that the index names no more.
    retired: Vec<String>,
}

impl Way {
    /// The way from `from`, whose files are all in place, to `goal`. `now` is the time that the index tells of what changes.
    fn new(goal: &Manifest, from: &Manifest, bucket: &Bucket, now: &str) -> Self {
        let before: HashMap<&str, &Shard> = from.shards.iter().map(|shard| (shard.file.as_str(), shard)).collect();
        let kept: HashSet<&str> = goal.shards.iter().map(|shard| shard.file.as_str()).collect();
        let (mut shards, mut missing) = (Vec::new(), Vec::new());
        for shard in &goal.shards {
            let old = before.get(shard.file.as_str());
            let changed_at = match old {
                Some(old) if old.rows_hash == shard.rows_hash => old.changed_at.clone(),
                // Its rows change now, whenever they were written first.
                Some(_) => now.to_owned(),
                None => shard.changed_at.clone(),
            };
            let (stamp, version) = match old {
                Some(old) if old.file_hash == shard.file_hash => (old.stamp.clone(), old.version.clone()),
                // It was retired, and still waits.
                None if bucket.is_intact(shard) => (shard.stamp.clone(), shard.version.clone()),
                _ => {
                    missing.push(shard.clone());
                    (None, None)
                }
            };
            shards.push(Shard { changed_at, stamp, version, ..shard.clone() });
        }
        let retired = from.shards.iter().filter(|shard| !kept.contains(shard.file.as_str()));
        Self { retired: retired.map(|shard| shard.file.clone()).collect(), shards, missing }
    }
}

/// Fetches the old versions of `shards` into a directory called `name`.
async fn stage(ending: &Ending<'_>, run: &str, shards: &[Shard], name: &str) -> Result<Vec<Change>, RefreshError> {
    let dir = ending.work_dir.join(keys::STAGING_DIR).join(name);
    let io = |error: std::io::Error| ending.around.object_error("staging", run, error.to_string());
    fs::create_dir_all(&dir).map_err(io)?;
    let fetch = async |shard: &Shard| {
        let found = match &shard.version {
            Some(version) => ending.bucket.old(&shard.file, version).await?,
            None => None,
        };
        let problem = match (&found, &shard.version) {
            (Some(bytes), _) if hex(XxHash3_128::oneshot(bytes)) == shard.file_hash => None,
            (Some(_), _) => Some("its version holds something else"),
            (None, Some(_)) => Some("its version has expired"),
            (None, None) => Some("it has no version"),
        };
        if let Some(problem) = problem {
            return Ok::<_, RefreshError>(Err(format!("{}: {problem}", shard.file)));
        }
        let staged = dir.join(&shard.file);
        fs::write(&staged, found.unwrap_or_default()).map_err(io)?;
        Ok(Ok(Change { file: shard.file.clone(), staged, bytes: shard.file_bytes }))
    };
    let sized: Vec<_> = shards.iter().map(|shard| (shard, shard.file_bytes)).collect();
    let fetched = side_by_side(sized, fetch).await?;
    let (mut changes, mut gone) = (Vec::new(), Vec::new());
    for outcome in fetched {
        match outcome {
            Ok(change) => changes.push(change),
            Err(problem) => gone.push(problem),
        }
    }
    if gone.is_empty() {
        return Ok(changes);
    }
    let total = gone.len();
    gone.truncate(FILES_NAMED);
    Err(RollbackError::Gone { run: run.to_owned(), files: gone, total }.into())
}

/// What publishing needs to restore `goal`.
async fn built(
    ending: &Ending<'_>,
    goal: Manifest,
    way: Way,
    changes: Vec<Change>,
    current: Manifest,
    held: &Held<Committed>,
) -> Result<Built, RefreshError> {
    let kept: HashSet<&str> = way.shards.iter().map(|shard| shard.file.as_str()).collect();
    let strays = ending.bucket.strays(&held.document.state.intent).await?;
    let strays: Vec<String> =
        strays.into_iter().map(|stray| stray.file).filter(|file| !kept.contains(file.as_str())).collect();
    let mut retired: Vec<Retired> =
        current.retired.iter().filter(|old| !kept.contains(old.file.as_str())).cloned().collect();
    let known: HashSet<String> = retired.iter().map(|old| old.file.clone()).collect();
    let since_ms = ending.around.clock.now_ms();
    let going = way.retired.into_iter().chain(strays.iter().cloned()).filter(|file| !known.contains(file));
    retired.extend(going.map(|file| Retired { file, since_ms }));
    let next_number = strays.iter().map(|file| keys::number_after(file)).fold(current.next_number, u64::max);
    let manifest = Manifest {
        run: ending.run.to_owned(),
        accepted: None,
        restores: Some(goal.run),
        next_number,
        shards: way.shards,
        retired,
        ..goal
    };
    Ok(Built { manifest, previous: current, cut_anew: None, changes, strays, report: Report::default() })
}

/// What a killed run left of the committed sitemap, and what it takes to put it back.
#[derive(Debug)]
pub(crate) struct Damage {
    changes: Vec<Change>,
}

impl Damage {
    /// Looks for damage, and fetches what mends it; nothing is written.
    pub(crate) async fn find(
        ending: &Ending<'_>,
        current: &Manifest,
        held: &Held<Committed>,
    ) -> Result<Option<Self>, RefreshError> {
        let damaged: Vec<Shard> =
            current.shards.iter().filter(|shard| !ending.bucket.is_intact(shard)).cloned().collect();
        let state = &held.document.state;
        if damaged.is_empty() && state.intent.is_empty() && state.restoring.is_none() {
            return Ok(None);
        }
        Ok(Some(Self { changes: stage(ending, &current.run, &damaged, "mended").await? }))
    }

    /// Puts the files of `current`, the committed manifest, back in place, and gives it with what the bucket says of them.
    pub(crate) async fn mend(
        self,
        ending: &Ending<'_>,
        current: Manifest,
        held: &mut Held<Committed>,
    ) -> Result<Manifest, RefreshError> {
        let written: HashSet<&str> = self.changes.iter().map(|change| change.file.as_str()).collect();
        // What waits to be removed may be wanted again.
        let mut manifest = Manifest { retired: Vec::new(), ..current.clone() };
        for shard in manifest.shards.iter_mut().filter(|shard| written.contains(shard.file.as_str())) {
            (shard.stamp, shard.version) = (None, None);
        }
        let retired = current.retired.clone();
        let (changes, report) = (self.changes, Report::default());
        let built = Built { manifest, previous: current, cut_anew: None, changes, strays: Vec::new(), report };
        let (manifest, _) = ending.publish(built, held).await?;
        Ok(Manifest { retired, ..manifest })
    }
}
