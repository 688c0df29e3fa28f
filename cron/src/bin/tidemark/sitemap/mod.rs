//! `tidemark sitemap`: one file a subcommand.

mod build;
mod check;
mod import;
mod init;
mod progress;
mod robots;

use clap::Subcommand;
use std::process::ExitCode;

/// Sitemaps.
#[derive(Debug, Subcommand)]
pub(crate) enum SitemapCommand {
    /// Build a sitemap from page lists: an index and gzipped shards; only what changed is written
    Build(build::BuildArgs),
    /// Check a sitemap, on the web or local, against every rule of the protocol; exits 1 where one is broken
    Check(check::CheckArgs),
    /// Take over a sitemap that something else made: its file names, and which pages each file holds
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
        SitemapCommand::Check(args) => check::run(&args).await,
        SitemapCommand::Import(args) => import::run(&args).await,
        SitemapCommand::Robots(args) => robots::run(&args).await,
        SitemapCommand::Init(args) => init::run(&args),
    }
}
