//! `make demo`: Tidemark's whole road on one machine. Two regions in the local cloud, the release binaries as Lambda
//! functions, real Redis servers, real pages; shown step by step and checked on the way.
#![expect(clippy::print_stdout, reason = "the demo speaks to a terminal")]

mod cache;
mod env_file;
mod pages;
mod progress;
mod published;
mod service;
mod settings;
mod sitemap;

use anyhow::{Context as _, Result};
use env_file::DemoFolder;
use progress::Progress;
use settings::Settings;
use std::process::ExitCode;
use tidemark_local::{CRON_FUNCTION, Deployment, DeploymentOptions, HUB, SECOND, STREAM, clone_root};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Steps of the demo, for the progress.
const STEPS: usize = 9;
/// What a shell gives for a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let code = runtime.block_on(demo());
    // A thread that still writes pages must not hold up the end.
    runtime.shutdown_background();
    code
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("\ndemo: error: {error:#}");
    ExitCode::FAILURE
}

/// Runs the demo until it is done, fails or is told to end. Whatever of these it is: when this returns, every process
/// it started has ended.
async fn demo() -> ExitCode {
    let (settings, mut stop) = match Settings::from_environment(|name| std::env::var(name).ok())
        .and_then(|settings| Ok((settings, Stop::listen()?)))
    {
        Ok(ready) => ready,
        Err(error) => return failed(&error),
    };
    let running = tokio::select! {
        biased;
        () = stop.wait() => {
            println!("\ndemo: told to end: cleaning up");
            return ExitCode::from(INTERRUPTED);
        }
        result = run(&settings) => match result {
            Ok(running) => running,
            Err(error) => return failed(&error),
        }
    };
    if !settings.once {
        println!("\nThe local cloud stays up. Ctrl-C ends it and everything that belongs to it.");
        stop.wait().await;
        println!("\ndemo: cleaning up");
    }
    drop(running);
    ExitCode::SUCCESS
}

/// The signals that end the demo.
struct Stop([Signal; 3]);

impl Stop {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Self([listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?]))
    }

    async fn wait(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// What must live for the demo to stay up.
#[derive(Debug)]
struct Running {
    _deployment: Deployment,
    _folder: DemoFolder,
}

async fn run(settings: &Settings) -> Result<Running> {
    let folder = DemoFolder::lock(&clone_root())?;
    let mut options = DeploymentOptions::of_this_clone()?;
    options.cloud.port = settings.cloud_port.clone();
    options.cloud.log = Some(folder.cloud_log());
    options.redis_ports = settings.redis_ports.clone();

    println!("Tidemark demo: {HUB} is the hub, {SECOND} the second region; everything on 127.0.0.1.");
    let mut progress = Progress::new(STEPS);
    let step = progress.begin("Local cloud in two regions");
    let deployment = Deployment::start(&options).await?;
    deployment.schedule("tidemark-heartbeat", "rate(1 minute)", &serde_json::json!({"job": "heartbeat"})).await?;
    progress.end(step, format!("AWS at {}, two Redis servers, six functions", deployment.cloud().endpoint()));

    let pages = show(&deployment, &options, settings, &mut progress).await.inspect_err(|_| {
        let log = folder.cloud_log();
        eprintln!("\nThe end of the local cloud's log ({}):\n{}", log.display(), deployment.cloud().log_tail());
    })?;

    let mut variables = deployment.environment();
    variables.push(("TIDEMARK_SITEMAP_URL", sitemap::index_url(&deployment)));
    folder.write_env(&variables, options.binaries.folder())?;
    print_summary(&progress, &variables, &folder, &pages);
    Ok(Running { _deployment: deployment, _folder: folder })
}

async fn show(
    deployment: &Deployment,
    options: &DeploymentOptions,
    settings: &Settings,
    progress: &mut Progress,
) -> Result<sitemap::Pages> {
    let python = options.cloud.venv.join("bin/python");
    let pages = sitemap::fill_page_table(deployment, &python, settings.product_pages, progress).await?;
    cache::cross_regions(deployment, progress).await?;
    cache::python_producer(deployment, &python, progress).await?;
    cache::deletes(deployment, progress).await?;
    cache::twice_delivered(deployment, progress).await?;
    cache::stopped_and_caught_up(deployment, progress).await?;
    cache::emptied_and_resynced(deployment, progress).await?;
    sitemap::scheduled_job(deployment, &pages, progress).await?;
    Ok(pages)
}

fn print_summary(progress: &Progress, variables: &[(&str, String)], folder: &DemoFolder, pages: &sitemap::Pages) {
    println!("\nWhat ran\n");
    progress.print_table();
    println!("\nWhere to look\n");
    for (name, value) in variables {
        println!("  {name}={value}");
    }
    println!("  stream {STREAM} and function {CRON_FUNCTION} in {HUB}; {} pages from {}", pages.rows, pages.origin);
    println!("  log of the local cloud and its functions: {}", folder.cloud_log().display());
    println!("\nWhat to try next, in another shell\n");
    println!("  . {}", folder.env().display());
    println!("  tidemark cache set greeting hello --ttl 60s");
    println!("  tidemark cache get greeting --region {SECOND}");
    println!("  redis-cli -u \"$TIDEMARK_REDIS_AP_NORTHEAST_2\" pttl greeting");
    println!("  tidemark cache status");
    println!("  tidemark cache resync --region {SECOND}");
    println!("  curl -s \"$TIDEMARK_SITEMAP_URL\"");
}
