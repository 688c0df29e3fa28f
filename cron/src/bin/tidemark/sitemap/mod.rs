//! `tidemark sitemap`: one file a subcommand.

mod build;
mod check;
mod import;
mod init;
mod plan;
mod progress;
mod robots;
mod rollback;

use clap::Subcommand;
use std::process::ExitCode;

/// Sitemaps.
#[derive(Debug, Subcommand)]
pub(crate) enum SitemapCommand {
    /// Build a sitemap from page lists: an index and gzipped shards; only what changed is written
    Build(build::BuildArgs),
    /// Say what a run in the cloud would do: pages, shards, bytes, cost; keep it for `run --plan`
    Plan(plan::PlanArgs),
    /// Run a site's sitemap job in the cloud and follow it to its end
    Run(plan::RunArgs),
    /// Go back to what an earlier run published, from the versions that the bucket keeps
    Rollback(rollback::RollbackArgs),
    /// Let runs publish again after `rollback --hold`
    Release(rollback::ReleaseArgs),
    /// Check a sitemap, on the web or local, against every rule of the protocol; exits 1 where one is broken
    Check(check::CheckArgs),
    /// Take over a sitemap that something else made: its file names, and which pages each file holds; in a
    /// directory, or with --site in the site's bucket
    Import(import::ImportArgs),
    /// Print the lines that robots.txt needs, check the live file, or write them into it
    Robots(robots::RobotsArgs),
    /// Print commented settings of a site, to be edited and stored as sites/NAME.toml in the state bucket
    Init(init::InitArgs),
}

/// Runs the command.
pub(crate) async fn run(command: SitemapCommand) -> anyhow::Result<ExitCode> {
    match command {
        SitemapCommand::Build(args) => build::run(args).await,
        SitemapCommand::Plan(args) => plan::plan(args).await,
        SitemapCommand::Run(args) => plan::run(args).await,
        SitemapCommand::Rollback(args) => rollback::rollback(args).await,
        SitemapCommand::Release(args) => rollback::release(args).await,
        SitemapCommand::Check(args) => check::run(&args).await,
        SitemapCommand::Import(args) => import::run(&args).await,
        SitemapCommand::Robots(args) => robots::run(&args).await,
        SitemapCommand::Init(args) => init::run(&args),
    }
}
