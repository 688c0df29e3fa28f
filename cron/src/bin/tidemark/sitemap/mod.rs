//! `tidemark sitemap`: one file a subcommand.

mod build;
mod check;
mod init;
mod progress;

use clap::Subcommand;
use std::process::ExitCode;

/// Sitemaps.
#[derive(Debug, Subcommand)]
pub(crate) enum SitemapCommand {
    /// Build a sitemap from page lists: an index and gzipped shards; only what changed is written
    Build(build::BuildArgs),
    /// Check a sitemap, on the web or local, against every rule of the protocol; exits 1 where one is broken
    Check(check::CheckArgs),
    /// Print commented settings of a site, to be edited and stored as sites/NAME.toml in the state bucket
    Init(init::InitArgs),
}

/// Runs the command.
pub(crate) async fn run(command: SitemapCommand) -> anyhow::Result<ExitCode> {
    match command {
        SitemapCommand::Build(args) => build::run(args).await,
        SitemapCommand::Check(args) => check::run(&args).await,
        SitemapCommand::Init(args) => init::run(&args),
    }
}
