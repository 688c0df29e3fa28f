//! `tidemark jobs`: run jobs now, and look at what a run did.

use crate::cloud::Cloud;
use crate::summary;
use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::{Map, Value};
use std::io::Write;
use std::process::ExitCode;
use tidemark_cron::ask::Question;
use tidemark_cron::jobs::{JOBS, Job};
use tidemark_cron::run::{Progress, RunId, RunRecord, Standing};

/// Run jobs and look at their runs.
#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// List the jobs there are
    #[command(after_help = "Examples:
  tidemark jobs list")]
    List,
    /// Run a job now and follow it to its end
    #[command(after_help = "Examples:
  tidemark jobs run sitemap --arg site=shop")]
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
    /// Show what a run did, or how far it is
    #[command(after_help = "Examples:
  tidemark jobs show sitemap-6d1c2f
  tidemark jobs show sitemap-6d1c2f --json")]
    Show {
        /// The run's ID
        run: String,
        /// Print the run's record as JSON
        #[arg(long)]
        json: bool,
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
        JobsCommand::Show { run, json } => {
            let question = Question::Run(RunId::try_from(run.clone())?);
            let record: Option<RunRecord> = Cloud::from_env().await?.ask(question).await?;
            report(&record.with_context(|| format!("there is no run {run}"))?, json)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Runs a job, prints what it did, and exits with failure where it failed.
pub(crate) async fn run_and_report(job: &str, args: Value, json: bool) -> anyhow::Result<ExitCode> {
    let record = Cloud::from_env().await?.run_job(job, args).await?;
    report(&record, json)?;
    Ok(if record.standing == Standing::Done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints a run's record, and on standard error what it failed of.
fn report(record: &RunRecord, json: bool) -> anyhow::Result<()> {
    let text = if json { serde_json::to_string(record)? + "\n" } else { told(record) };
    write!(std::io::stdout().lock(), "{text}")?;
    if let Some(error) = &record.error {
        eprintln!("tidemark: run {}: {error}", record.run);
    }
    Ok(())
}

/// How long a run took and what it did, or how far it is, as people read it.
fn told(record: &RunRecord) -> String {
    let seconds = (record.updated_ms - record.began_ms) as f64 / 1_000.0;
    let head = format!("{} {} in {seconds:.1} s: run {}\n", record.job, standing(record.standing), record.run);
    let Progress { doing, done, total } = &record.progress;
    let progress = match (record.standing, total) {
        (Standing::Running, 0) => format!("  {doing}\n"),
        (Standing::Running, _) => format!("  {doing}, {done} of {total}\n"),
        _ => String::new(),
    };
    head + &progress + &summary::text(&record.summary)
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
