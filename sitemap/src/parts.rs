//! One sitemap built by several invocations, each for a key range, and committed once.
//!
//! The run that holds the lease has Athena write one partition for each key range, stores a plan, starts the parts and
//! waits for their outcomes; then it puts them together and publishes as if it had built them itself. A part writes
//! nothing but below the plan's own prefix: a part of a run that lost its lease changes nothing that anybody sees. Key
//! ranges begin where shards begin, so a URL keeps its shard; in a first build they come from a sample of the rows. What a
//! part does stands in `part.rs`.

mod part;

pub use part::work;

use crate::athena::{self, QueryError, Statement, results, unload};
use crate::build::{self, BuildError, Built, Change, Options, Stray};
use crate::calls::side_by_side;
use crate::canonical::Addresses;
use crate::columns::{Column, Columns};
use crate::input::{self, Attempt, Found, InputError, Object, Reach};
use crate::keys;
use crate::manifest::{Manifest, Shard};
use crate::pages::RawPage;
use crate::publish::PlaceError;
use crate::report::Report;
use crate::site::{Site, SiteError};
use crate::source::Sink;
use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::primitives::ByteStream;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

/// Parts that a run may have: partitions of one UNLOAD.
pub const PARTS_MAX: usize = unload::PARTITIONS_MAX;
/// Rows that are looked at to find key ranges, about.
const SAMPLE_ROWS: u64 = 20_000;
/// The pause between two looks at the outcomes.
const PAUSE: Duration = Duration::from_secs(2);

/// The section `[scale]` of a site's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// In how many parts a run is built; 1 for one invocation.
    pub parts: usize,
    /// About how many pages there are; for the first run, which samples them.
    pub pages: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { parts: 1, pages: 10_000_000 }
    }
}

impl Settings {
    /// The settings, checked.
    ///
    /// # Errors
    /// The field that cannot be used, and what is wrong with it.
    pub fn check(self) -> Result<Self, (&'static str, String)> {
        if !(1..=PARTS_MAX).contains(&self.parts) {
            return Err(("scale.parts", format!("is {}: give 1 to {PARTS_MAX}", self.parts)));
        }
        if self.pages == 0 {
            return Err(("scale.pages", "is 0: give about how many pages there are".into()));
        }
        Ok(self)
    }
}

/// Starts an invocation that calls [`work`].
pub trait StartPart: std::fmt::Debug + Send + Sync {
    /// Starts part `part` of the plan stored under the key `plan`, and does not wait for its end.
    fn start(
        &self,
        site: &str,
        plan: &str,
        part: usize,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>>;
}

/// Why the parts of a run gave no whole.
#[derive(Debug, thiserror::Error)]
pub enum PartsError {
    /// The rows could not be had.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The pass failed.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The place cannot be looked at.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The settings in the plan are wrong.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// An object does not parse.
    #[error("s3 object {key} cannot be used: {problem}")]
    Object {
        /// Its key.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// A part could not be started.
    #[error("part {part} could not be started: {problem}")]
    Start {
        /// Its number.
        part: usize,
        /// What was said.
        problem: String,
    },
    /// A part failed.
    #[error("part {part} failed: {problem}")]
    Part {
        /// Its number.
        part: usize,
        /// What it said.
        problem: String,
    },
    /// A part takes too long.
    #[error("{missing} of {parts} parts were not done after {waited_s} s: give the job more time, or more parts")]
    TooSlow {
        /// How many are missing.
        missing: usize,
        /// How many there are.
        parts: usize,
        /// How long they were waited for, in seconds.
        waited_s: u64,
    },
    /// Pages have versions in other languages.
    #[error("pages with a group or alternates cannot be built in parts: set scale.parts to 1")]
    Versions,
    /// A row is in another key range than its address.
    #[error(
        "{loc} is in part {part} by what the query gives as loc, and not by the address that it becomes: give loc as it \
         stands in the sitemap, or build in one part"
    )]
    Misplaced {
        /// Its address.
        loc: String,
        /// The part.
        part: usize,
    },
}

/// What every part of a run is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Plan {
    run: String,
    now_ms: i64,
    /// The text of the site's settings.
    settings: String,
    /// Which of the site's sitemaps it is.
    sitemap: String,
    /// The manifest that the run continues, in the state bucket.
    manifest: Option<String>,
    /// Where key ranges begin, the first left out.
    lowers: Vec<String>,
    /// The rows of each part.
    objects: Vec<Vec<Object>>,
}

/// What a part made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Outcome {
    shards: Vec<Shard>,
    /// Names of staged files.
    changes: Vec<String>,
    report: Report,
    /// Whether there is a list of rejects.
    rejects: bool,
    error: Option<String>,
}

/// A run that is built in parts.
#[derive(Debug)]
pub struct Parts<'a> {
    /// What is reached.
    pub reach: Reach<'a>,
    /// The run.
    pub attempt: Attempt<'a>,
    /// The site.
    pub site: &'a Site,
    /// The text of its settings.
    pub settings: &'a str,
    /// Its query.
    pub query: &'a athena::Query,
    /// The query's text and parameters.
    pub statement: &'a Statement,
    /// What the run continues.
    pub previous: &'a Manifest,
    /// The key of that, where it was ever committed.
    pub previous_key: Option<&'a str>,
    /// How the pass is made.
    pub options: &'a Options,
    /// What is left of a run that was killed.
    pub strays: &'a [Stray],
    /// Starts the parts.
    pub start: &'a dyn StartPart,
    /// Since when the attempt's time runs, in milliseconds since the epoch.
    pub began_ms: i64,
}

impl Parts<'_> {
    /// Builds in parts, unless the input's fingerprint is `known`: then there is nothing. Also gives the fingerprint.
    ///
    /// # Errors
    /// A [`PartsError`]; nothing was published, and the rows and what was stored for the parts are removed.
    pub async fn run(&self, salt: &[u8], known: Option<&str>) -> Result<Option<(Built, String)>, PartsError> {
        let Reach { s3, state_bucket, .. } = self.reach;
        input::clear(s3, state_bucket, &keys::unload_run(self.attempt.site, self.attempt.run)).await?;
        let target = input::unload_target(self.reach, self.attempt);
        let outcome = self.run_under(&target, salt, known).await;
        self.clear(&target.prefix).await;
        outcome
    }

    async fn run_under(
        &self,
        target: &unload::Target,
        salt: &[u8],
        known: Option<&str>,
    ) -> Result<Option<(Built, String)>, PartsError> {
        let (rows, lowers) = self.find(target).await?;
        match rows.fingerprint(salt) {
            Some(fingerprint) if known != Some(fingerprint.as_str()) => {
                Ok(Some((self.build(&rows, &lowers).await?, fingerprint)))
            }
            _ => Ok(None),
        }
    }

    /// Has Athena write the rows under `target`, in a partition for each key range. Also gives where those begin, the
    /// first left out.
    ///
    /// # Errors
    /// A [`PartsError`].
    pub async fn find(&self, target: &unload::Target) -> Result<(Found, Vec<String>), PartsError> {
        let lowers = self.lowers().await?;
        let place = (self.options.policy.columns.name(Column::Loc), self.site.sitemap.base.as_str());
        let unload = unload::by_range(self.statement, target, place, &lowers);
        let rows = input::unloaded(self.reach, self.attempt, (self.query, &unload), target).await?;
        Ok((rows, lowers))
    }

    /// Builds from the rows that [`Parts::find`] gave, then or later.
    ///
    /// # Errors
    /// A [`PartsError`]; nothing was published, and what was stored for the parts is removed.
    pub async fn build(&self, rows: &Found, lowers: &[String]) -> Result<Built, PartsError> {
        let folder = keys::parts(self.attempt.site, self.attempt.run, self.attempt.number);
        let outcome = self.build_under(&folder, rows, lowers).await;
        self.clear(&folder).await;
        outcome
    }

    async fn build_under(&self, folder: &str, rows: &Found, lowers: &[String]) -> Result<Built, PartsError> {
        let plan = Plan {
            run: self.attempt.run.to_owned(),
            now_ms: self.options.policy.now_ms,
            settings: self.settings.to_owned(),
            sitemap: self.site.sitemap.name.clone(),
            manifest: self.previous_key.map(str::to_owned),
            objects: by_part(rows.files.iter().flatten(), lowers.len() + 1)?,
            lowers: lowers.to_vec(),
        };
        let plan_key = keys::parts_plan(folder);
        write_json(self.reach, &plan_key, &plan).await?;
        for part in 0..plan.objects.len() {
            let started = self.start.start(self.attempt.site, &plan_key, part).await;
            started.map_err(|problem| PartsError::Start { part, problem })?;
        }
        self.until_done(folder, plan.objects.len()).await?;
        let mut outcomes = Vec::with_capacity(plan.objects.len());
        for part in 0..plan.objects.len() {
            let outcome: Outcome = read_json(self.reach, &keys::part_outcome(folder, part)).await?;
            if let Some(problem) = outcome.error {
                return Err(PartsError::Part { part, problem });
            }
            outcomes.push(outcome);
        }
        if let Some(query) = &rows.query_id {
            let read: u64 = outcomes.iter().map(|outcome| outcome.report.input).sum();
            athena::query::check_count(self.reach.athena, query, read).await.map_err(InputError::from)?;
        }
        self.put_together(folder, &plan, outcomes).await
    }

    async fn clear(&self, prefix: &str) {
        if let Err(error) = input::clear(self.reach.s3, self.reach.state_bucket, prefix).await {
            tracing::warn!(%error, prefix, "files of a run in parts stay until the bucket's own rule removes them");
        }
    }

    /// Where the key ranges of the parts begin, the first left out.
    async fn lowers(&self) -> Result<Vec<String>, PartsError> {
        let Settings { parts, pages } = self.site.scale;
        if !self.previous.shards.is_empty() {
            return Ok(lowers_of_shards(&self.previous.shards, parts));
        }
        let share = (SAMPLE_ROWS as f64 / pages as f64).min(1.0);
        let loc = unload::name(self.options.policy.columns.name(Column::Loc));
        let sql = format!("SELECT {loc} FROM (\n{}\n) WHERE random() < {share:.9}", self.statement.sql);
        let sample = Statement { sql, parameters: self.statement.parameters.clone() };
        let token = athena::request_token(self.attempt.run, self.attempt.number, "sample");
        let athena = self.reach.athena;
        let id = athena::start(athena, self.query, &sample, &token).await.map_err(InputError::from)?;
        athena::wait(athena, &id, self.attempt.longest).await.map_err(InputError::from)?;
        let policy = &self.options.policy;
        let addresses = policy.addresses().map_err(BuildError::from)?;
        let mut keys = Keys { addresses, columns: policy.columns.clone(), keys: Vec::new() };
        match results::rows(athena, &id, &mut keys).await {
            Ok(_) => Ok(lowers_of_sample(keys.keys, parts)),
            Err(results::RowsError::Query(error)) => Err(InputError::from(error).into()),
            Err(results::RowsError::Stopped(never)) => match never {},
        }
    }

    /// Waits until every part has stored its outcome.
    async fn until_done(&self, folder: &str, parts: usize) -> Result<(), PartsError> {
        let clock = self.reach.athena.clock;
        loop {
            let there = input::listed(self.reach.s3, self.reach.state_bucket, &keys::part_outcomes(folder)).await?;
            if there.len() >= parts {
                return Ok(());
            }
            let waited = Duration::from_millis(u64::try_from(clock.now_ms() - self.began_ms).unwrap_or(0));
            if waited >= self.attempt.longest {
                let missing = parts - there.len();
                return Err(PartsError::TooSlow { missing, parts, waited_s: waited.as_secs() });
            }
            clock.sleep(PAUSE).await;
        }
    }

    /// One outcome of many: new files get their names, staged ones come here.
    async fn put_together(&self, folder: &str, plan: &Plan, outcomes: Vec<Outcome>) -> Result<Built, PartsError> {
        let known: HashSet<&str> = self.previous.shards.iter().map(|shard| shard.file.as_str()).collect();
        let staging = self.attempt.work_dir.join(keys::STAGING_DIR);
        fs::create_dir_all(&staging).map_err(io_error(&staging))?;
        let rejects = self.attempt.work_dir.join(keys::REJECTS);
        fs::write(&rejects, b"").map_err(io_error(&rejects))?;
        let (mut next_number, mut shards, mut staged_files, mut report) =
            (self.previous.next_number, Vec::new(), Vec::new(), Report::default());
        for (part, outcome) in outcomes.into_iter().enumerate() {
            let staged = keys::part_files(folder, part);
            let mut changed: HashSet<String> = outcome.changes.into_iter().collect();
            for (at, mut shard) in outcome.shards.into_iter().enumerate() {
                if at == 0 && part > 0 && shards.is_empty() {
                    shard.lower = String::new();
                } else if at == 0 && part > 0 {
                    shard.lower = plan.lowers[part - 1].clone();
                }
                let staged_file = shard.file.clone();
                if !known.contains(staged_file.as_str()) {
                    shard.file = build::new_file(self.options.packing, self.strays, &mut next_number, &shard.file_hash);
                }
                if changed.remove(&staged_file) {
                    let to = staging.join(&shard.file);
                    let change = Change { file: shard.file.clone(), staged: to, bytes: shard.file_bytes };
                    staged_files.push(((format!("{staged}{staged_file}"), change), shard.file_bytes));
                }
                shards.push(shard);
            }
            report.add(outcome.report);
            if outcome.rejects {
                self.get_file(&format!("{staged}{}", keys::REJECTS), &rejects, true).await?;
            }
        }
        let get =
            async |(key, change): (String, Change)| self.get_file(&key, &change.staged, false).await.map(|()| change);
        let changes = side_by_side(staged_files, get).await?;
        let assembly = build::Assembly {
            previous: self.previous.clone(),
            cut_anew: None,
            shards,
            changes,
            strays: self.strays,
            report,
            next_number,
            options: self.options,
        };
        Ok(assembly.finish()?)
    }

    async fn get_file(&self, key: &str, path: &Path, append: bool) -> Result<(), PartsError> {
        let bytes = read(self.reach, key).await?;
        let mut options = OpenOptions::new();
        options.create(true).write(true).append(append).truncate(!append);
        options.open(path).and_then(|mut file| file.write_all(&bytes)).map_err(io_error(path))?;
        Ok(())
    }
}

/// The objects of each part, by the partition in their keys.
fn by_part<'a>(objects: impl Iterator<Item = &'a Object>, parts: usize) -> Result<Vec<Vec<Object>>, PartsError> {
    let mut each = vec![Vec::new(); parts];
    for object in objects {
        let mut folders = object.key.rsplit('/').skip(1);
        let part =
            folders.find_map(|folder| folder.strip_prefix(unload::PARTITION_COLUMN)?.strip_prefix('=')?.parse().ok());
        match part.and_then(|part: usize| each.get_mut(part)) {
            Some(part) => part.push(object.clone()),
            None => {
                let problem = format!("its name tells none of {parts} partitions");
                return Err(PartsError::Object { key: object.key.clone(), problem });
            }
        }
    }
    Ok(each)
}

/// Keys where ranges of about equally many URLs begin; each is the first key of a shard's range.
fn lowers_of_shards(shards: &[Shard], parts: usize) -> Vec<String> {
    let total: u64 = shards.iter().map(|shard| u64::from(shard.urls)).sum();
    let (mut before, mut lowers) = (0, Vec::new());
    for shard in shards {
        let due = total * (lowers.len() as u64 + 1) / parts as u64;
        if before >= due && !shard.lower.is_empty() && lowers.len() + 1 < parts {
            lowers.push(shard.lower.clone());
        }
        before += u64::from(shard.urls);
    }
    lowers
}

/// Keys at equal distances in the sorted sample.
fn lowers_of_sample(mut keys: Vec<String>, parts: usize) -> Vec<String> {
    keys.sort();
    keys.dedup();
    let mut lowers: Vec<String> = (1..parts).filter_map(|part| keys.get(part * keys.len() / parts).cloned()).collect();
    lowers.dedup();
    lowers
}

/// Gathers the keys of rows.
struct Keys {
    addresses: Addresses,
    columns: Columns,
    keys: Vec<String>,
}

impl Sink for Keys {
    type Stop = std::convert::Infallible;

    fn columns(&self) -> Columns {
        self.columns.clone()
    }

    fn page(&mut self, page: &RawPage<'_>) -> Result<(), Self::Stop> {
        let mut key = Vec::new();
        if self.addresses.resolve(page.field(Column::Loc), &mut key).is_ok() {
            self.keys.push(String::from_utf8_lossy(&key).into_owned());
        }
        Ok(())
    }

    fn refuse(&mut self, _: u64, _: &str, _: &[u8], _: &str) -> Result<(), Self::Stop> {
        Ok(())
    }
}

async fn read(reach: Reach<'_>, key: &str) -> Result<Vec<u8>, PartsError> {
    let wrong = |problem| PartsError::Object { key: key.to_owned(), problem };
    let object = reach.s3.get_object().bucket(reach.state_bucket).key(key).send().await;
    let object = object.map_err(|error| wrong(DisplayErrorContext(&error).to_string()))?;
    let bytes = object.body.collect().await.map_err(|error| wrong(error.to_string()))?;
    Ok(bytes.to_vec())
}

async fn write(reach: Reach<'_>, key: &str, bytes: Vec<u8>) -> Result<(), PartsError> {
    let request = reach.s3.put_object().bucket(reach.state_bucket).key(key).body(ByteStream::from(bytes));
    let sent = request.send().await;
    sent.map_err(|error| PartsError::Object { key: key.to_owned(), problem: DisplayErrorContext(&error).to_string() })?;
    Ok(())
}

async fn read_json<T: serde::de::DeserializeOwned>(reach: Reach<'_>, key: &str) -> Result<T, PartsError> {
    let bytes = read(reach, key).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| PartsError::Object { key: key.to_owned(), problem: error.to_string() })
}

async fn write_json<T: Serialize>(reach: Reach<'_>, key: &str, value: &T) -> Result<(), PartsError> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| PartsError::Object { key: key.to_owned(), problem: error.to_string() })?;
    write(reach, key, bytes).await
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> PartsError + use<> {
    let path = path.to_owned();
    move |source| InputError::Io { path, source }.into()
}

impl From<QueryError> for PartsError {
    fn from(error: QueryError) -> Self {
        InputError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::shard;

    pub(super) fn shards(count: usize) -> Vec<Shard> {
        (0..count)
            .map(|n| {
                let lower = if n == 0 { String::new() } else { format!("k{n:03}") };
                shard(&format!("f{n}"), &lower, &format!("k{n:03}!"))
            })
            .collect()
    }

    #[test]
    fn ranges_begin_where_shards_begin_and_hold_about_as_many_urls() {
        assert_eq!(lowers_of_shards(&shards(8), 4), ["k002", "k004", "k006"]);
        assert_eq!(lowers_of_shards(&shards(2), 4), ["k001"]);
        assert!(lowers_of_shards(&shards(1), 4).is_empty() && lowers_of_shards(&shards(8), 1).is_empty());
        let keys: Vec<String> = (0..10).rev().map(|n| n.to_string()).collect();
        assert_eq!(lowers_of_sample(keys, 3), ["3", "6"]);
        assert!(lowers_of_sample(Vec::new(), 3).is_empty());
    }

    #[test]
    fn a_file_belongs_to_the_partition_in_its_name() {
        let object = |key: &str| Object { bucket: "b".into(), key: key.into(), etag: String::new(), bytes: 1 };
        let each = by_part([object("p/tidemark_part=1/x"), object("p/tidemark_part=0/y")].iter(), 2).unwrap();
        assert_eq!((each[0][0].key.as_str(), each[1][0].key.as_str()), ("p/tidemark_part=0/y", "p/tidemark_part=1/x"));
        for bad in ["p/tidemark_part=2/x", "p/x", "p/tidemark_part=/x"] {
            assert!(by_part([object(bad)].iter(), 2).is_err(), "{bad}");
        }
    }
}
