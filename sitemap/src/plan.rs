//! What a run would do, and a run that does exactly that.
//!
//! A plan pins what its outcome hangs on: the rows (UNLOAD's files by their ETags, or the query's result), the committed
//! manifest, the settings with query and parameters, and the time by which rows are judged. It also holds the hash of
//! every file that it would write. A run with a plan is refused where any of these is another now; so it writes the
//! bytes that the plan speaks of, or nothing. Only the index tells another time: that of the run.
//!
//! Planning takes no lease and writes nothing but the plan: runs go on meanwhile, and make it void where they commit.

use crate::athena::unload;
use crate::build::{BuildError, Built, Options};
use crate::difference::{Difference, DifferenceError, Page, copy_changed, differences_of};
use crate::input::{self, Found, InputError};
use crate::keys;
use crate::manifest::{Manifest, Shard};
use crate::place::bucket::Bucket;
use crate::refresh::{self, Committed, Pass, RefreshError, Run, Surroundings, salt};
use crate::site::Site;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;
use tidemark_runtime::state::StateStore;
use twox_hash::XxHash3_128;

/// The version of a plan's form.
pub const PLAN_VERSION: u32 = 1;

/// List prices of us-east-1 in US dollars, November 2025; other regions differ by some tenths.
mod price {
    /// 1,000 PUTs (<https://aws.amazon.com/s3/pricing/>).
    pub(super) const PUTS_1000: f64 = 0.005;
    /// A terabyte that Athena reads (<https://aws.amazon.com/athena/pricing/>).
    pub(super) const SCANNED_TB: f64 = 5.0;
    /// A query is counted as so many bytes at least.
    pub(super) const SCANNED_BYTES_MIN: u64 = 10 << 20;
    /// A gigabyte-second of Lambda on x86 (<https://aws.amazon.com/lambda/pricing/>).
    pub(super) const LAMBDA_GB_S: f64 = 0.000_016_666_7;
}

/// The memory that Terraform gives the cron function, in GiB.
const LAMBDA_GIB: f64 = 1769.0 / 1024.0;
/// Writes of a run beside its files and indexes: state object, manifest, report, intent.
const STATE_PUTS: u64 = 10;

/// Why there is no plan, or why it cannot be carried out. Nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// There is none of that name.
    #[error("{site} has no plan {id}: plans go after some days by the state bucket's rule for athena/; make a new one")]
    Missing {
        /// The site.
        site: String,
        /// The plan.
        id: String,
    },
    /// It is not what this version writes.
    #[error("the plan s3 object {key} cannot be used: {problem}")]
    Corrupt {
        /// Its key.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// Something that it hangs on is another now.
    #[error("the plan {id} does not hold any more: {what}; make a new one")]
    Void {
        /// The plan.
        id: String,
        /// What is another now.
        what: String,
    },
    /// Its rows cannot be had as they were.
    #[error("the plan's rows cannot be read as they were; make a new one")]
    Rows(#[source] InputError),
    /// A run is at work, or was killed.
    #[error("{0} is not as its last run left it (a run is at work, or was killed): run it, then plan")]
    NotWhole(String),
    /// Its files were taken over, and no run has written them yet.
    #[error(
        "the files of {0} are still those of the tool that it was taken over from: `tidemark sitemap import` without \
         --switch compares them; run it once, then plan"
    )]
    Imported(String),
    /// What would change cannot be counted.
    #[error("the shards of {site} cannot be compared: {problem}")]
    Compare {
        /// The site.
        site: String,
        /// What is wrong.
        problem: String,
    },
}

/// A file that would be written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PlannedFile {
    /// Its name.
    pub file: String,
    /// XXH3-128 of its bytes, in hexadecimal.
    pub hash: String,
    /// How big it is.
    pub bytes: u64,
}

/// What a run would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outlook {
    /// URLs now.
    pub urls_before: u64,
    /// URLs after it.
    pub urls: u64,
    /// Pages that would come.
    pub added: u64,
    /// Pages of which something would change.
    pub edited: u64,
    /// Pages that would go.
    pub removed: u64,
    /// Shards after it.
    pub shards: u64,
    /// Files that are not there yet.
    pub files_new: u64,
    /// Files whose content would change.
    pub files_rewritten: u64,
    /// Files that no index would name any more.
    pub files_retired: u64,
    /// Files that would stay as they are.
    pub files_unchanged: u64,
    /// Indexes in which something would change, about.
    #[serde(default)]
    pub indexes: u64,
    /// Rows that would be rejected.
    pub rejected: u64,
    /// Bytes of the files to write.
    pub put_bytes: u64,
    /// Writes to S3, about.
    pub puts: u64,
    /// What the query read; a run with this plan reads nothing again.
    pub scanned_bytes: Option<u64>,
    /// How long a run would take, about: what planning took, and the waits for caches.
    pub seconds: u64,
    /// What a run without a plan would cost, about, in millionths of a US dollar.
    pub cost_microusd: u64,
    /// Why a run would be refused, if it would.
    pub refused: Option<String>,
}

/// A plan as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// [`PLAN_VERSION`].
    pub version: u32,
    /// Its name: the run that made it.
    pub id: String,
    /// The sitemap, by [`keys::sitemap`].
    pub site: String,
    /// The time by which rows are judged, in milliseconds since the epoch.
    pub now_ms: i64,
    /// The key of the manifest that was committed then.
    pub manifest: Option<String>,
    /// A hash of the settings, the query and its parameters.
    pub settings: String,
    /// Values of the query's named parameters.
    pub parameters: BTreeMap<String, String>,
    /// The rows.
    pub rows: Found,
    /// Where the key ranges of the parts begin, the first left out, where the sitemap is built in parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lowers: Option<Vec<String>>,
    /// Whether the sitemap is cut anew, since it is sorted by something else now.
    #[serde(default)]
    pub reshard: bool,
    /// The files that would be written, by name.
    pub files: Vec<PlannedFile>,
    /// What a run would do.
    pub outlook: Outlook,
}

impl Plan {
    /// Refuses where what the plan hangs on is another now.
    pub(crate) fn check(&self, manifest: Option<&str>, salt: &[u8], whole: bool) -> Result<(), PlanError> {
        let void = |what: &str| Err(PlanError::Void { id: self.id.clone(), what: what.to_owned() });
        if manifest != self.manifest.as_deref() {
            return void("another run has committed since");
        }
        if settings_hash(salt) != self.settings {
            return void("the site's settings, its query or this version of tidemark are others now");
        }
        if !whole {
            return void("public files are not as the last run left them");
        }
        Ok(())
    }

    /// Refuses where what was built is not what the plan speaks of.
    pub(crate) fn check_built(&self, built: &Built) -> Result<(), PlanError> {
        let files = planned_files(built);
        if files == self.files {
            return Ok(());
        }
        let differing = files.iter().filter(|file| !self.files.contains(file)).count();
        let what = format!("{differing} of {} files come out otherwise", files.len());
        Err(PlanError::Void { id: self.id.clone(), what })
    }
}

/// The plan `id` of `site`.
pub(crate) async fn load(around: &Surroundings, site: &str, id: &str) -> Result<Plan, RefreshError> {
    let key = keys::plan(site, id);
    let store = StateStore::new(around.s3.clone(), &around.state_bucket);
    let missing = || PlanError::Missing { site: site.to_owned(), id: id.to_owned() };
    let plan: Plan = store.load(&key).await?.ok_or_else(missing)?.value;
    if plan.version != PLAN_VERSION || plan.id != id {
        let problem = format!("it is the plan {} in version {}", plan.id, plan.version);
        return Err(PlanError::Corrupt { key, problem }.into());
    }
    Ok(plan)
}

/// Plans what the run would do, and stores the plan under the run's ID. A plan that is there already is given again.
///
/// # Errors
/// A [`RefreshError`]. Nothing is published in any case.
pub async fn plan(around: &Surroundings, run: Run<'_>) -> Result<Plan, RefreshError> {
    let (site, settings) = around.one(run.site, run.sitemap).await?;
    let name = keys::sitemap(run.site, &site.sitemap.name);
    let run = Run { site: &name, ..run };
    match load(around, run.site, run.id).await {
        Err(RefreshError::Plan(PlanError::Missing { .. })) => {}
        found => return found,
    }
    let began_ms = around.clock.now_ms();
    let state = refresh::state(&StateStore::new(around.s3.clone(), &around.state_bucket), run.site).await?;
    let (previous, bucket) = at_rest(around, run.site, &site, &state).await?;
    let statement = around.statement(run.parameters, &site).await?;
    // A drop that a guard would refuse is told, beside what the run would do without the guard.
    let (accept_drop, reshard) = (Some(run.id.to_owned()), run.reshard);
    let options = Options { accept_drop, reshard, ..site.sitemap.options(run.id, began_ms) };
    let salt = salt(&settings, &statement, &options);
    // Every attempt writes where nobody wrote before.
    let number = u64::try_from(began_ms).unwrap_or_default();
    let attempt = run.attempt(number);
    let prefix = keys::plan_rows(run.site, run.id, number);
    let target = unload::Target { bucket: around.state_bucket.clone(), prefix };
    let pass = Pass {
        attempt,
        site: &site,
        settings: &settings,
        statement: &statement,
        previous: &previous,
        previous_key: state.manifest.as_deref(),
        options: &options,
        bucket: &bucket,
        strays: &[],
    };
    let (rows, lowers, built) = if site.scale.parts > 1 {
        let parts = around.in_parts(&pass)?;
        let (rows, lowers) = parts.find(&target).await?;
        let built = parts.build(&rows, &lowers).await?;
        (rows, Some(lowers), built)
    } else {
        let rows = input::find(around.reach(), attempt, (&site.source, &statement), &target).await?;
        let input = rows.open(around.reach(), run.work_dir).await?;
        (rows, None, around.pass(&pass, &input).await?)
    };
    let mut outlook = outlook(around, &site, run, &built).await?;
    let accepted = built.manifest.accepted.as_ref();
    outlook.refused =
        accepted.map(|drop| BuildError::Drop(drop.drops.clone(), Box::new(built.report.clone())).to_string());
    outlook.scanned_bytes = rows.scanned_bytes;
    outlook.estimate(&site, around.clock.now_ms() - began_ms);
    let plan = Plan {
        version: PLAN_VERSION,
        id: run.id.to_owned(),
        site: run.site.to_owned(),
        now_ms: began_ms,
        manifest: state.manifest,
        settings: settings_hash(&salt),
        parameters: run.parameters.clone(),
        rows,
        lowers,
        reshard: run.reshard,
        files: planned_files(&built),
        outlook,
    };
    let key = keys::plan(run.site, run.id);
    let json = serde_json::to_vec_pretty(&plan)
        .map_err(|error| PlanError::Corrupt { key: key.clone(), problem: error.to_string() })?;
    around.write(&key, json, "application/json").await?;
    Ok(plan)
}

/// The sitemap as its last run left it, and its bucket; nothing else can be planned on.
async fn at_rest(
    around: &Surroundings,
    name: &str,
    site: &Site,
    state: &Committed,
) -> Result<(Manifest, Bucket), RefreshError> {
    let previous = match &state.manifest {
        Some(key) => around.manifest_at(key).await?,
        None => Manifest::empty(site.sitemap.base.as_str()),
    };
    let bucket = Bucket::open(around.s3.clone(), site.target.clone(), previous.files()).await?;
    let previous = match &state.manifest {
        Some(_) => previous,
        None => bucket.beginning(site.sitemap.base.as_str(), &state.intent),
    };
    if previous.is_imported() {
        return Err(PlanError::Imported(name.to_owned()).into());
    }
    if !state.intent.is_empty() || !previous.shards.iter().all(|shard| bucket.is_intact(shard)) {
        return Err(PlanError::NotWhole(name.to_owned()).into());
    }
    Ok((previous, bucket))
}

fn settings_hash(salt: &[u8]) -> String {
    format!("{} {:032x}", env!("CARGO_PKG_VERSION"), XxHash3_128::oneshot(salt))
}

/// What would be written, by name.
fn planned_files(built: &Built) -> Vec<PlannedFile> {
    let shards: HashMap<&str, _> = built.manifest.shards.iter().map(|shard| (shard.file.as_str(), shard)).collect();
    let changed = built.changes.iter().filter_map(|change| shards.get(change.file.as_str()));
    let mut files: Vec<PlannedFile> = changed
        .map(|shard| PlannedFile { file: shard.file.clone(), hash: shard.file_hash.clone(), bytes: shard.file_bytes })
        .collect();
    files.sort();
    files
}

/// What `built` would change.
async fn outlook(around: &Surroundings, site: &Site, run: Run<'_>, built: &Built) -> Result<Outlook, RefreshError> {
    let dir = run.work_dir.join(keys::PUBLIC_DIR);
    let failed = |problem: String| PlanError::Compare { site: run.site.to_owned(), problem };
    fs::create_dir_all(&dir).map_err(|error| failed(error.to_string()))?;
    let copied = copy_changed(&around.s3, &site.target, built, &dir).await;
    copied.map_err(|error| failed(error.to_string()))?;
    Ok(Outlook::of(built, &dir).map_err(|error| failed(error.to_string()))?)
}

impl Outlook {
    /// What `built` would change of the sitemap whose shards lie in `dir`.
    ///
    /// # Errors
    /// Where shards cannot be read.
    pub fn of(built: &Built, dir: &Path) -> Result<Self, DifferenceError<io::Error>> {
        let (mut added, mut edited, mut removed) = (0, 0, 0);
        let mut take = |difference: Difference, _: Option<&Page>, _: Option<&Page>| -> io::Result<()> {
            match difference {
                Difference::Added => added += 1,
                Difference::Edited => edited += 1,
                Difference::Removed => removed += 1,
            }
            Ok(())
        };
        differences_of(built, dir, &mut take)?;
        let (previous, Built { manifest, changes, report, .. }) = (built.before(), built);
        let files =
            |manifest: &Manifest| manifest.shards.iter().map(|shard| shard.file.clone()).collect::<HashSet<_>>();
        let (before, after) = (files(previous), files(manifest));
        let files_new = changes.iter().filter(|change| !before.contains(&change.file)).count() as u64;
        let changed: HashSet<&str> = changes.iter().map(|change| change.file.as_str()).collect();
        let touched = |shard: &&Shard| changed.contains(shard.file.as_str()) || !after.contains(&shard.file);
        let shards = manifest.shards.iter().chain(&previous.shards).filter(touched);
        let indexes = shards.map(|shard| shard.index).collect::<HashSet<_>>().len() as u64;
        let put_bytes = planned_files(built).iter().map(|file| file.bytes).sum();
        Ok(Self {
            urls_before: previous.urls(),
            urls: manifest.urls(),
            added,
            edited,
            removed,
            shards: manifest.shards.len() as u64,
            files_new,
            files_rewritten: changes.len() as u64 - files_new,
            files_retired: before.difference(&after).count() as u64,
            files_unchanged: (manifest.shards.len() - changes.len()) as u64,
            indexes,
            rejected: report.rejected_total(),
            put_bytes,
            ..Self::default()
        })
    }

    /// Adds what a run would cost, where planning took `took_ms`.
    fn estimate(&mut self, site: &Site, took_ms: i64) {
        let changes = self.files_new + self.files_rewritten + self.files_retired;
        let moves = self.files_new > 0 && self.files_rewritten + self.files_retired > 0;
        // See the order of publishing: indexes are written twice where pages move, with waits around them.
        let (writes, waits) = if moves { (2, 3) } else { (1, u64::from(changes > 0)) };
        self.puts = self.files_new + self.files_rewritten + writes * self.indexes + STATE_PUTS;
        self.seconds = u64::try_from(took_ms).unwrap_or(0).div_ceil(1000) + waits * site.target.edge_ttl.as_secs();
        let scanned = self.scanned_bytes.map_or(0, |bytes| bytes.max(price::SCANNED_BYTES_MIN));
        // Each part is an invocation beside the one that waits for it.
        let invocations = if site.scale.parts > 1 { 1 + site.scale.parts } else { 1 };
        let lambda_gb_s = self.seconds as f64 * LAMBDA_GIB * invocations as f64;
        let usd = self.puts as f64 / 1000.0 * price::PUTS_1000
            + scanned as f64 / 1e12 * price::SCANNED_TB
            + lambda_gb_s * price::LAMBDA_GB_S;
        self.cost_microusd = (usd * 1e6).ceil() as u64;
    }
}
