//! `tidemark jobs`: run jobs now, and look at what a run did.

use crate::cloud::Cloud;
use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::{Map, Value};
use std::io::Write;
use std::process::ExitCode;
use tidemark_cron::ask::Question;
use tidemark_cron::jobs::{JOBS, Job};
use tidemark_cron::run::{RunId, RunRecord, Standing};

/// Run jobs and look at their runs.
#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// List the jobs there are
    List,
    /// Run a job now and follow it to its end, as in: tidemark jobs run sitemap --arg site=demo
    Run {
        /// One of those that `tidemark jobs list` names
        job: String,
        /// An argument of the job; may be repeated
        #[arg(long = "arg", value_name = "NAME=VALUE")]
        args: Vec<String>,
        /// Print the run's record as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the record of a run
    Show {
        /// The run's ID
        run: String,
    },
}

pub(crate) async fn run(command: JobsCommand) -> anyhow::Result<ExitCode> {
    match command {
        JobsCommand::List => {
            let mut out = std::io::stdout().lock();
            for job in JOBS {
                writeln!(out, "{}", job.name())?;
            }
            Ok(ExitCode::SUCCESS)
        }
        JobsCommand::Run { job, args, json } => {
            Job::named(&job).map_err(anyhow::Error::msg)?;
            run_and_report(&job, arguments(&args)?, json).await
        }
        JobsCommand::Show { run } => {
            let question = Question::Run(RunId::try_from(run.clone())?);
            let record: Option<RunRecord> = Cloud::from_env().await?.ask(question).await?;
            let record = record.with_context(|| format!("there is no run {run}"))?;
            writeln!(std::io::stdout().lock(), "{}", serde_json::to_string_pretty(&record)?)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Runs a job, prints what it did, and exits with failure where it failed.
pub(crate) async fn run_and_report(job: &str, args: Value, json: bool) -> anyhow::Result<ExitCode> {
    let record = Cloud::from_env().await?.run_job(job, args).await?;
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&record)?)?;
    } else {
        let seconds = (record.updated_ms - record.began_ms) as f64 / 1_000.0;
        writeln!(out, "{} {} in {seconds:.1} s", record.job, standing(record.standing))?;
        for (name, value) in record.summary.as_object().into_iter().flatten().filter(|(_, value)| !value.is_object()) {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            writeln!(out, "  {:<16} {text}", name.replace('_', " "))?;
        }
    }
    if let Some(error) = &record.error {
        eprintln!("tidemark: run {}: {error}", record.run);
    }
    Ok(if record.standing == Standing::Done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Running => "running",
        Standing::Done => "done",
        Standing::Failed => "failed",
    }
}

pub(crate) fn arguments(args: &[String]) -> anyhow::Result<Value> {
    let mut map = Map::new();
    for arg in args {
        let Some((name, value)) = arg.split_once('=') else { bail!("--arg {arg}: write NAME=VALUE") };
        map.insert(name.to_owned(), Value::from(value));
    }
    Ok(Value::Object(map))
}
