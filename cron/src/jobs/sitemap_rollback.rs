//! The rollback job: restores the sitemap of an earlier run, or lets go of one that is held.

use super::sitemap::SitemapError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidemark_sitemap::refresh::Surroundings;
use tidemark_sitemap::rollback::{self, Rollback};

/// The job's arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// The site.
    pub site: String,
    /// The one of its sitemaps; may be missing where it has only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sitemap: Option<String>,
    /// The run whose sitemap is wanted; the one before the current where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Publish nothing more until the site is released.
    #[serde(default)]
    pub hold: bool,
    /// Restore nothing; let runs publish again.
    #[serde(default)]
    pub release: bool,
}

/// Runs the job as the run `run_id`.
///
/// # Errors
/// A [`SitemapError`]. What was committed before stays, and the next run mends what this one left.
pub async fn run(around: &Surroundings, args: &Value, run_id: &str) -> Result<Value, SitemapError> {
    let args = Args::deserialize(args)?;
    if args.release {
        let by = rollback::release(around, &args.site, args.sitemap.as_deref(), run_id).await?;
        return Ok(json!({ "site": args.site, "released": by.is_some(), "held_by": by }));
    }
    let work_dir = tempfile::tempdir()?;
    let rollback = Rollback {
        site: &args.site,
        sitemap: args.sitemap.as_deref(),
        id: run_id,
        to: args.to.as_deref(),
        dry_run: args.dry_run,
        hold: args.hold,
        work_dir: work_dir.path(),
    };
    Ok(serde_json::to_value(rollback::rollback(around, rollback).await?)?)
}
