//! One part: the rows of its key range become shards and an outcome, below the plan's own prefix.

use super::{Outcome, PartsError, Plan, io_error, read, read_json, write, write_json};
use crate::athena::Athena;
use crate::build::{Build, BuildError, Built, Change, Options, Standing};
use crate::calls::side_by_side;
use crate::canonical::Addresses;
use crate::columns::{Column, Columns};
use crate::input::{self, Input, InputError, Reach, ReadError};
use crate::keys;
use crate::manifest::{Manifest, ManifestError, Shard};
use crate::pages::RawPage;
use crate::place::bucket::Bucket;
use crate::report::Report;
use crate::site;
use crate::source::{Sink, SourceError};
use std::fs;
use std::path::Path;

/// New files of a part are numbered apart from those of others until they are put together.
const NUMBERS_EACH: u64 = 1_000_000_000;

/// Does part `part` of the plan under `plan_key` and stores its outcome, a failure too. One that is stored already is
/// left as it is, so that a repeated start does no harm.
///
/// # Errors
/// Where not even a failure could be stored.
pub async fn work(reach: Reach<'_>, plan_key: &str, part: usize, work_dir: &Path) -> Result<(), PartsError> {
    let folder = plan_key.strip_suffix(&keys::parts_plan("")).unwrap_or(plan_key);
    let outcome_key = keys::part_outcome(folder, part);
    if !input::listed(reach.s3, reach.state_bucket, &outcome_key).await?.is_empty() {
        return Ok(());
    }
    let outcome = match work_on(reach, plan_key, folder, part, work_dir).await {
        Ok(outcome) => outcome,
        Err(error) => {
            tracing::error!(part, %error, "a part of a sitemap failed");
            Outcome { error: Some(error.to_string()), ..Outcome::default() }
        }
    };
    write_json(reach, &outcome_key, &outcome).await
}

async fn work_on(
    reach: Reach<'_>,
    plan_key: &str,
    folder: &str,
    part: usize,
    work_dir: &Path,
) -> Result<Outcome, PartsError> {
    let plan: Plan = read_json(reach, plan_key).await?;
    let wrong = |problem| PartsError::Object { key: plan_key.to_owned(), problem };
    let site = site::parse(plan_key, &plan.settings)?.into_iter().find(|site| site.sitemap.name == plan.sitemap);
    let site = site.ok_or_else(|| wrong(format!("its settings have no sitemap {:?}", plan.sitemap)))?;
    let previous = match &plan.manifest {
        Some(key) => {
            let wrong = |error: ManifestError| PartsError::Object { key: key.clone(), problem: error.to_string() };
            Manifest::from_json(&read(reach, key).await?).map_err(wrong)?
        }
        None => Manifest::empty(site.sitemap.base.as_str()),
    };
    let objects = plan.objects.get(part).ok_or_else(|| wrong(format!("it has no part {part}")))?;
    let lower = part.checked_sub(1).map(|before| plan.lowers[before].as_str());
    let upper = plan.lowers.get(part).map(String::as_str);
    let bucket = Bucket::open(reach.s3.clone(), site.target.clone(), previous.files()).await?;
    let input = Input::of_files(input::download(reach.s3, objects, work_dir).await?);
    let options = Options { is_part: true, ..site.sitemap.options(&plan.run, plan.now_ms) };
    let window = window(previous, part, lower, upper);
    let range = Range { part, lower, upper };
    let built = build_part(reach.athena, &input, &window, &range, (work_dir, &options, &bucket)).await;
    let built = match built {
        Err(PartsError::Build(BuildError::Empty(report))) => {
            let rejects = store_rejects(reach, &report, folder, part, work_dir).await?;
            return Ok(Outcome { report: *report, rejects, ..Outcome::default() });
        }
        built => built?,
    };
    let store = async |change: &Change| {
        let bytes = fs::read(&change.staged).map_err(io_error(&change.staged))?;
        write(reach, &format!("{}{}", keys::part_files(folder, part), change.file), bytes).await
    };
    let sized: Vec<_> = built.changes.iter().map(|change| (change, change.bytes)).collect();
    side_by_side(sized, store).await?;
    let rejects = store_rejects(reach, &built.report, folder, part, work_dir).await?;
    let changes = built.changes.into_iter().map(|change| change.file).collect();
    Ok(Outcome { shards: built.manifest.shards, changes, report: built.report, rejects, error: None })
}

async fn store_rejects(
    reach: Reach<'_>,
    report: &Report,
    folder: &str,
    part: usize,
    work_dir: &Path,
) -> Result<bool, PartsError> {
    if report.rejected.is_empty() && report.dropped.is_empty() {
        return Ok(false);
    }
    let path = work_dir.join(keys::REJECTS);
    let bytes = fs::read(&path).map_err(io_error(&path))?;
    write(reach, &format!("{}{}", keys::part_files(folder, part), keys::REJECTS), bytes).await?;
    Ok(true)
}

/// What a part sees of the manifest: the shards of its range, and the one after, so that the last of them grows by
/// splitting as it would in a whole pass. New files are numbered apart from those of other parts.
fn window(previous: Manifest, part: usize, lower: Option<&str>, upper: Option<&str>) -> Manifest {
    let inside = |shard: &Shard| lower.is_none_or(|lower| shard.lower.as_str() >= lower);
    let mut shards: Vec<Shard> = previous.shards.into_iter().filter(inside).collect();
    if let Some(upper) = upper {
        let end = shards.iter().position(|shard| shard.lower.as_str() >= upper).map_or(shards.len(), |at| at + 1);
        shards.truncate(end);
    }
    if let Some(first) = shards.first_mut() {
        first.lower = String::new();
    }
    let next_number = (part as u64 + 1) * NUMBERS_EACH;
    Manifest { shards, next_number, retired: Vec::new(), ..previous }
}

async fn build_part(
    athena: Athena<'_>,
    input: &Input,
    window: &Manifest,
    range: &Range<'_>,
    (work_dir, options, bucket): (&Path, &Options, &Bucket),
) -> Result<Built, PartsError> {
    let addresses = options.policy.addresses().map_err(BuildError::from)?;
    for order in input.orders() {
        let standing = Standing { intact: &|shard| bucket.is_intact(shard), strays: &[] };
        let build = Build::new(window.clone(), work_dir, options, *order, standing)?;
        let key = |loc: &[u8], out: &mut Vec<u8>| addresses.resolve(loc, out).is_ok();
        let mut ranged = Ranged { build, range, key: Vec::new(), addresses: &addresses };
        let read = input.read(athena, work_dir, *order, &key, &mut ranged).await;
        let outcome = read.map_err(from_read).and_then(|_| Ok(ranged.build.finish()?));
        match outcome {
            Err(PartsError::Build(error)) if error.wants_sorting() => {}
            outcome => return outcome,
        }
    }
    Err(BuildError::OutOfOrder.into())
}

fn from_read(error: ReadError<PartsError>) -> PartsError {
    match error {
        ReadError::Query(error) => InputError::from(error).into(),
        ReadError::Source(SourceError::Stopped(stop)) => stop,
        ReadError::Source(error) => match error.unstopped() {
            Some(error) => BuildError::Source(Box::new(error)).into(),
            None => BuildError::OutOfOrder.into(),
        },
    }
}

/// The key range of a part.
#[derive(Debug)]
struct Range<'a> {
    part: usize,
    lower: Option<&'a str>,
    upper: Option<&'a str>,
}

/// Lets pass only rows of a key range.
struct Ranged<'a, 'b> {
    build: Build<'b>,
    range: &'a Range<'a>,
    key: Vec<u8>,
    addresses: &'a Addresses,
}

impl Sink for Ranged<'_, '_> {
    type Stop = PartsError;

    fn columns(&self) -> Columns {
        self.build.columns()
    }

    fn page(&mut self, page: &RawPage<'_>) -> Result<(), PartsError> {
        // Versions of a page meet in one place, which no part is.
        if !page.field(Column::Group).is_empty() || !page.field(Column::Alternates).is_empty() {
            return Err(PartsError::Versions);
        }
        self.key.clear();
        if self.addresses.resolve(page.field(Column::Loc), &mut self.key).is_ok() {
            let Range { part, lower, upper } = *self.range;
            let below = lower.is_some_and(|lower| self.key.as_slice() < lower.as_bytes());
            if below || upper.is_some_and(|upper| self.key.as_slice() >= upper.as_bytes()) {
                return Err(PartsError::Misplaced { loc: String::from_utf8_lossy(&self.key).into_owned(), part });
            }
        }
        Ok(self.build.page(page)?)
    }

    fn refuse(&mut self, line: u64, problem: &str, value: &[u8], detail: &str) -> Result<(), PartsError> {
        Ok(self.build.refuse(line, problem, value, detail)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::shards;
    use super::*;

    #[test]
    fn a_part_sees_its_shards_and_the_one_after() {
        let previous = || Manifest { shards: shards(6), ..Manifest::empty("https://a.example") };
        let files = |part, lower, upper| -> Vec<String> {
            window(previous(), part, lower, upper).shards.into_iter().map(|shard| shard.file).collect()
        };
        assert_eq!(files(0, None, Some("k002")), ["f0", "f1", "f2"]);
        assert_eq!(files(1, Some("k002"), Some("k004")), ["f2", "f3", "f4"]);
        assert_eq!(files(2, Some("k004"), None), ["f4", "f5"]);
        assert_eq!(window(previous(), 1, Some("k002"), None).shards[0].lower, "");
    }
}
