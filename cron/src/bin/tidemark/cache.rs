//! `tidemark cache`: write, read and look after the caches.

use crate::cloud::Cloud;
use crate::jobs::run_and_report;
use crate::quarantine::{self, QuarantineCommand};
use crate::status::{self, StatusArguments};
use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::json;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;
use tidemark_cache_sync::protocol::{Found, Request, Shown};
use tidemark_cache_sync::publish::{CacheWrite, wait_until_applied};
use tidemark_runtime::clock::Clock;

/// How long `--wait` waits.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Write, read and look after the caches.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Set a key in every region
    #[command(after_help = "Examples:
  tidemark cache set user:1 hello
  tidemark cache set user:1 hello --ttl 60s --wait ap-northeast-2")]
    Set {
        /// The key
        key: String,
        /// The value
        value: String,
        /// When it expires from now: 500ms, 60s, 5m, 2h, 7d
        #[arg(long, value_name = "TIME", value_parser = duration)]
        ttl: Option<Duration>,
        /// Wait until this region has applied it; may be repeated
        #[arg(long, value_name = "REGION")]
        wait: Vec<String>,
    },
    /// Delete a key in every region
    #[command(after_help = "Examples:
  tidemark cache delete user:1")]
    Delete {
        /// The key
        key: String,
        /// Wait until this region has applied it; may be repeated
        #[arg(long, value_name = "REGION")]
        wait: Vec<String>,
    },
    /// Read a key from one region; exits with 1 where it is absent
    #[command(after_help = "Examples:
  tidemark cache get user:1 --region ap-northeast-2")]
    Get {
        /// The key
        key: String,
        /// The region; the hub without
        #[arg(long)]
        region: Option<String>,
        /// Print value and expiry as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show every region at a glance; exits with 1 where something is not as it should be
    Status(StatusArguments),
    /// Look at changes that regions refused, and publish one anew
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    /// Take a snapshot of a region to its bucket
    #[command(after_help = "Examples:
  tidemark cache snapshot --region us-east-1")]
    Snapshot {
        /// The region; the hub without
        #[arg(long)]
        region: Option<String>,
        /// Print the run's record as JSON
        #[arg(long)]
        json: bool,
    },
    /// Rewrite a live region from another one and the stream, without a flush
    #[command(after_help = "Examples:
  tidemark cache resync --region ap-northeast-2
  tidemark cache resync --region ap-northeast-2 --from eu-west-1")]
    Resync {
        /// The region to rewrite
        #[arg(long)]
        region: String,
        /// The region to take the values from; the hub without
        #[arg(long)]
        from: Option<String>,
        /// Print the run's record as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) async fn run(command: CacheCommand) -> anyhow::Result<ExitCode> {
    match command {
        CacheCommand::Set { key, value, ttl, wait } => {
            let cloud = Cloud::from_env().await?;
            publish(&cloud, CacheWrite::set(key, value, ttl), &wait).await
        }
        CacheCommand::Delete { key, wait } => {
            let cloud = Cloud::from_env().await?;
            publish(&cloud, CacheWrite::delete(key), &wait).await
        }
        CacheCommand::Get { key, region, json } => get(key, region, json).await,
        CacheCommand::Status(arguments) => status::run(&arguments).await,
        CacheCommand::Quarantine(command) => quarantine::run(command).await,
        CacheCommand::Snapshot { region, json } => run_and_report("snapshot", json!({"region": region}), json).await,
        CacheCommand::Resync { region, from, json } => {
            run_and_report("resync", json!({"region": region, "from": from}), json).await
        }
    }
}

async fn publish(cloud: &Cloud, write: CacheWrite, wait: &[String]) -> anyhow::Result<ExitCode> {
    let receipt = cloud.publisher().await?.publish(write).await?.confirmed().await?;
    writeln!(std::io::stdout().lock(), "lane {} position {}", receipt.lane, receipt.position)?;
    for region in wait {
        let client = cloud.region(region).await;
        wait_until_applied(&receipt, &client, WAIT_MAX, &Clock::system()).await?;
        writeln!(std::io::stdout().lock(), "applied in {region}")?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn get(key: String, region: Option<String>, json: bool) -> anyhow::Result<ExitCode> {
    let cloud = Cloud::from_env().await?;
    let region = region.unwrap_or_else(|| cloud.hub.clone());
    let found: Found = cloud.region(&region).await.ask(&Request::Get { key: key.clone() }).await?;
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&found)?)?;
    } else {
        match &found.value {
            Some(Shown::String(text)) => writeln!(out, "{text}")?,
            Some(other) => writeln!(out, "{}", serde_json::to_string_pretty(other)?)?,
            None => eprintln!("tidemark: {key} is absent in {region}"),
        }
    }
    Ok(if found.value.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(crate) fn duration(text: &str) -> anyhow::Result<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 =
        text[..digits].parse().with_context(|| format!("{text}: write a number and a unit, as in 60s"))?;
    let unit_ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        other => bail!("unit {other:?} is not known: use ms, s, m, h or d"),
    };
    let ms = number.checked_mul(unit_ms).filter(|ms| *ms > 0);
    Ok(Duration::from_millis(ms.with_context(|| format!("{text} is out of range"))?))
}
