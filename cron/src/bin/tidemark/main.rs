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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// The words of a command line in which quotes are single.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut quoted) = (vec![String::new()], false);
        for c in line.chars() {
            match (c, words.last_mut()) {
                ('\'', _) => quoted = !quoted,
                (' ', _) if !quoted => words.push(String::new()),
                (_, Some(word)) => word.push(c),
                (_, None) => {}
            }
        }
        words
    }

    fn check(command: &clap::Command, path: &str) {
        let mut inner = command.get_subcommands().filter(|inner| inner.get_name() != "help").peekable();
        if inner.peek().is_none() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples: Vec<&str> = help.lines().skip(1).map(str::trim).collect();
            assert!(!examples.is_empty(), "{path} has no example");
            for example in examples {
                // What comes before a pipe is somebody else's.
                let example = example.rsplit_once(" | ").map_or(example, |(_, ours)| ours);
                assert!(example.starts_with(&format!("{path} ")) || example == path, "{path}: {example}");
                let refused = Cli::try_parse_from(words(example)).err();
                assert!(refused.is_none(), "{refused:?}");
            }
        }
        inner.for_each(|inner| check(inner, &format!("{path} {}", inner.get_name())));
    }

    #[test]
    fn every_command_shows_examples_that_it_takes() {
        check(&Cli::command(), "tidemark");
    }
}
