//! The sitemap job: brings the sitemaps of one site up to date. Its argument is the site's name, `{"site":"demo"}`; with
//! `"sitemap":"news"` it is that one alone.

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tidemark_sitemap::import::ImportError;
use tidemark_sitemap::refresh::{self, RefreshError, Refreshed, Run, Surroundings};

/// Part of the remaining time that the query may take; the rest is for the pass and for publishing.
pub(super) const QUERY_SHARE: f64 = 0.6;

/// The job's arguments.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Args {
    /// The site, as in `sites/NAME.toml` in the state bucket.
    pub site: String,
    /// The one of its sitemaps that is wanted; all where it is missing.
    #[serde(default)]
    pub sitemap: Option<String>,
    /// Who allows that far fewer URLs are left than the guards believe, and why: for this run, and on record.
    #[serde(default)]
    pub accept_drop: Option<String>,
    /// Whether a sitemap whose rows are to be sorted by something else is cut anew: every page goes into a new file once.
    #[serde(default)]
    pub reshard: bool,
    /// The plan to carry out, to the letter.
    #[serde(default)]
    pub plan: Option<String>,
    /// Values of the query's named parameters, in place of those in the site's settings: `{"site":"demo","since":"…"}`.
    #[serde(flatten)]
    pub parameters: BTreeMap<String, Value>,
}

impl Args {
    /// Values of the query's named parameters, as text.
    pub(super) fn parameters(&self) -> BTreeMap<String, String> {
        as_text(&self.parameters)
    }

    /// The run `id` that they ask for, within `time_left`.
    pub(super) fn run<'a>(
        &'a self,
        id: &'a str,
        parameters: &'a BTreeMap<String, String>,
        time_left: Duration,
        work_dir: &'a Path,
    ) -> Run<'a> {
        Run {
            site: &self.site,
            sitemap: self.sitemap.as_deref(),
            id,
            parameters,
            accept_drop: self.accept_drop.as_deref(),
            reshard: self.reshard,
            plan: self.plan.as_deref(),
            query_longest: time_left.mul_f64(QUERY_SHARE),
            work_dir,
        }
    }
}

/// Values of parameters as text.
pub(super) fn as_text(parameters: &BTreeMap<String, Value>) -> BTreeMap<String, String> {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    parameters.iter().map(|(name, value)| (name.clone(), plain(value))).collect()
}

/// Why the job did not finish.
#[derive(Debug, thiserror::Error)]
pub enum SitemapError {
    /// The arguments are wrong.
    #[error("the sitemap job's arguments are wrong, give {{\"site\":\"NAME\"}}")]
    Args(#[from] serde_json::Error),
    /// There is no room for working files.
    #[error("no directory for working files can be made")]
    WorkDir(#[from] std::io::Error),
    /// The sitemap to take over cannot be fetched.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The refresh failed.
    #[error(transparent)]
    Refresh(#[from] RefreshError),
}

impl SitemapError {
    /// Whether the same run, tried again, would end the same.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Args(_) => true,
            Self::WorkDir(_) => false,
            Self::Import(error) => error.is_final(),
            Self::Refresh(error) => error.is_final(),
        }
    }
}

/// Runs the job as the run `run_id`, within `time_left`.
///
/// # Errors
/// A [`SitemapError`]. What was committed before stays, and the next run mends what this one left.
pub async fn run(
    around: &Surroundings,
    args: &serde_json::Value,
    run_id: &str,
    time_left: Duration,
) -> Result<Vec<Refreshed>, SitemapError> {
    let args = Args::deserialize(args)?;
    let work_dir = tempfile::tempdir()?;
    let parameters = args.parameters();
    let refreshed = refresh::refresh(around, args.run(run_id, &parameters, time_left, work_dir.path())).await?;
    for one in &refreshed {
        tracing::info!(
            sitemap = one.site,
            urls = one.urls,
            shards = one.shards,
            files_new = one.published.files_new.len(),
            files_rewritten = one.published.files_rewritten.len(),
            indexes_written = one.published.indexes_written.len(),
            rejected = one.report.rejected_total(),
            "sitemap refreshed"
        );
    }
    Ok(refreshed)
}
