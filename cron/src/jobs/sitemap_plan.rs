//! The planning job: what the sitemap job would do for a site, stored to be done exactly so. Arguments are those of the
//! sitemap job, without a plan; the plan is called like the run.

use super::sitemap::{Args, SitemapError};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tidemark_sitemap::plan::{self, Outlook};
use tidemark_sitemap::refresh::Surroundings;

/// What the job tells.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    /// The plan, to be named to the sitemap job.
    pub plan: String,
    /// The site.
    pub site: String,
    /// What a run would do.
    #[serde(flatten)]
    pub outlook: Outlook,
}

/// Runs the job as the run `run_id`, within `time_left`.
///
/// # Errors
/// A [`SitemapError`].
pub async fn run(
    around: &Surroundings,
    args: &serde_json::Value,
    run_id: &str,
    time_left: Duration,
) -> Result<Planned, SitemapError> {
    let args = Args::deserialize(args)?;
    let work_dir = tempfile::tempdir()?;
    let parameters = args.parameters();
    let plan = plan::plan(around, args.run(run_id, &parameters, time_left, work_dir.path())).await?;
    Ok(Planned { plan: plan.id, site: plan.site, outlook: plan.outlook })
}
