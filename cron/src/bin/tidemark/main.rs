//! `tidemark`: the operators' command. One file a subcommand.

mod cache;
mod cloud;
mod jobs;
mod quarantine;
mod sitemap;
mod status;
mod summary;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Keeps Redis caches of several regions in step and publishes sitemaps
///
/// Commands that reach the cloud read AWS_REGION (the hub), TIDEMARK_STREAM and TIDEMARK_LANES, and use the AWS
/// credentials of the environment. `sitemap build` needs no cloud.
#[derive(Debug, Parser)]
#[command(name = "tidemark", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write, read and look after the caches
    #[command(subcommand)]
    Cache(cache::CacheCommand),
    /// Sitemaps
    #[command(subcommand)]
    Sitemap(sitemap::SitemapCommand),
    /// Run jobs and look at their runs
    #[command(subcommand)]
    Jobs(jobs::JobsCommand),
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Cache(command) => cache::run(command).await,
        Command::Sitemap(command) => sitemap::run(command).await,
        Command::Jobs(command) => jobs::run(command).await,
    };
    ended.unwrap_or_else(|error| {
        eprintln!("tidemark: {error:#}");
        ExitCode::FAILURE
    })
}
