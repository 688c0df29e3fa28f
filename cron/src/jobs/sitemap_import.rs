//! The import job: compares a sitemap of another tool, in the site's own bucket, with the site's rows, and takes it over
//! where it is to.

use super::sitemap::{QUERY_SHARE, SitemapError, as_text};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use tidemark_sitemap::import::{self, FILES_MAX, ImportError, TakenOver, Takeover};
use tidemark_sitemap::refresh::Surroundings;
use tidemark_sitemap::web::{USER_AGENT, Web};

/// The job's arguments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Args {
    /// The site.
    pub site: String,
    /// The one of its sitemaps; may be missing where it has only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sitemap: Option<String>,
    /// The addresses of the sitemap to take over: its indexes, or its only file.
    pub from: Vec<String>,
    /// Page lists to compare with in place of the site's rows, as in `s3://lists/pages/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Take it over; else only compare.
    #[serde(default)]
    pub switch: bool,
    /// Values of the query's named parameters, in place of those in the site's settings.
    #[serde(flatten)]
    pub parameters: BTreeMap<String, Value>,
}

/// Runs the job as the run `run_id`, within `time_left`.
///
/// # Errors
/// A [`SitemapError`]. Crawlers see what they saw before, and the same import goes on from where this one ended.
pub async fn run(
    around: &Surroundings,
    args: &Value,
    run_id: &str,
    time_left: Duration,
) -> Result<TakenOver, SitemapError> {
    let args = Args::deserialize(args)?;
    let work_dir = tempfile::tempdir()?;
    let web = Web::new(around.clock.clone(), USER_AGENT).map_err(ImportError::from)?;
    let found = import::fetch(&web, &args.from, FILES_MAX, work_dir.path()).await?;
    let takeover = Takeover {
        site: &args.site,
        sitemap: args.sitemap.as_deref(),
        id: run_id,
        lists: args.input.as_deref(),
        parameters: &as_text(&args.parameters),
        switch: args.switch,
        query_longest: time_left.mul_f64(QUERY_SHARE),
        work_dir: work_dir.path(),
    };
    Ok(import::take_over(around, takeover, found).await?)
}
