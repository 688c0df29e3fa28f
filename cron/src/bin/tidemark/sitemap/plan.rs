//! `tidemark sitemap plan` and `tidemark sitemap run`: see what a run would do, and have it done.

use crate::jobs::{arguments, run_and_report};
use clap::Args;
use std::process::ExitCode;

/// Arguments of `sitemap plan`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemark sitemap plan shop
  tidemark sitemap plan shop --sitemap news --arg since=2025-11-01")]
pub(crate) struct PlanArgs {
    /// The site, as in sites/NAME.toml
    site: String,
    /// The one of its sitemaps, where it has several
    #[arg(long, value_name = "NAME")]
    sitemap: Option<String>,
    /// A value for a parameter of the query; may be repeated
    #[arg(long = "arg", value_name = "NAME=VALUE")]
    args: Vec<String>,
    /// Where the settings sort pages by something else than before: plan to put every page into a new file, once
    #[arg(long)]
    reshard: bool,
    /// Print the run's record as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `sitemap run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemark sitemap run shop
  tidemark sitemap run shop --plan sitemap_plan-6d1c2f
  tidemark sitemap run shop --accept-drop 'anna: the old catalogue went'")]
pub(crate) struct RunArgs {
    /// The site, as in sites/NAME.toml
    site: String,
    /// The one of its sitemaps, where it has several
    #[arg(long, value_name = "NAME")]
    sitemap: Option<String>,
    /// Carry out this plan, to the letter; refused where anything that it hangs on has changed
    #[arg(long, value_name = "ID", conflicts_with = "args")]
    plan: Option<String>,
    /// A value for a parameter of the query; may be repeated
    #[arg(long = "arg", value_name = "NAME=VALUE")]
    args: Vec<String>,
    /// Allow any drop in this run; TEXT, who allows it and why, is kept in the manifest and the report
    #[arg(long, value_name = "TEXT")]
    accept_drop: Option<String>,
    /// Where the settings sort pages by something else than before: put every page into a new file, once
    #[arg(long, conflicts_with = "plan")]
    reshard: bool,
    /// Print the run's record as JSON
    #[arg(long)]
    json: bool,
}

/// Plans, as a job.
pub(super) async fn plan(args: PlanArgs) -> anyhow::Result<ExitCode> {
    let mut job = arguments(&args.args)?;
    job["site"] = args.site.into();
    if args.reshard {
        job["reshard"] = true.into();
    }
    if let Some(sitemap) = args.sitemap {
        job["sitemap"] = sitemap.into();
    }
    run_and_report("sitemap_plan", job, args.json).await
}

/// Runs, as a job.
pub(super) async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let mut job = arguments(&args.args)?;
    job["site"] = args.site.into();
    if args.reshard {
        job["reshard"] = true.into();
    }
    if let Some(sitemap) = args.sitemap {
        job["sitemap"] = sitemap.into();
    }
    if let Some(text) = args.accept_drop {
        job["accept_drop"] = text.into();
    }
    if let Some(plan) = args.plan {
        job["plan"] = plan.into();
    }
    run_and_report("sitemap", job, args.json).await
}
