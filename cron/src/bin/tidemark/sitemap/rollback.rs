//! `tidemark sitemap rollback` and `tidemark sitemap release`: back to what an earlier run published.

use crate::jobs::run_and_report;
use clap::Args;
use std::process::ExitCode;
use tidemark_cron::jobs::sitemap_rollback;

/// Arguments of `sitemap rollback`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemark sitemap rollback shop --dry-run
  tidemark sitemap rollback shop --hold")]
pub(crate) struct RollbackArgs {
    /// The site, as in sites/NAME.toml
    site: String,
    /// The one of its sitemaps, where it has several
    #[arg(long, value_name = "NAME")]
    sitemap: Option<String>,
    /// The run whose sitemap is wanted [default: the one before the current]
    #[arg(long, value_name = "RUN")]
    to: Option<String>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Publish nothing more until `tidemark sitemap release`; without it the next run publishes its rows again
    #[arg(long)]
    hold: bool,
    /// Print the run's record as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `sitemap release`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemark sitemap release shop")]
pub(crate) struct ReleaseArgs {
    /// The site, as in sites/NAME.toml
    site: String,
    /// The one of its sitemaps, where it has several
    #[arg(long, value_name = "NAME")]
    sitemap: Option<String>,
    /// Print the run's record as JSON
    #[arg(long)]
    json: bool,
}

/// Rolls back, as a job.
pub(super) async fn rollback(args: RollbackArgs) -> anyhow::Result<ExitCode> {
    let RollbackArgs { site, sitemap, to, dry_run, hold, json } = args;
    let job = sitemap_rollback::Args { site, sitemap, to, dry_run, hold, release: false };
    run_and_report("sitemap_rollback", serde_json::to_value(job)?, json).await
}

/// Lets go, as a job.
pub(super) async fn release(args: ReleaseArgs) -> anyhow::Result<ExitCode> {
    let job = sitemap_rollback::Args { site: args.site, sitemap: args.sitemap, release: true, ..Default::default() };
    run_and_report("sitemap_rollback", serde_json::to_value(job)?, args.json).await
}
