//! What the command reaches in the cloud: the stream, the cron function, the regional functions.

use anyhow::{Context, bail};
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;
use tidemark_cache_sync::invoke::RegionClient;
use tidemark_cache_sync::keys::REPLAY_FUNCTION;
use tidemark_cache_sync::lane::{Lanes, read_lanes};
use tidemark_cache_sync::publish::{Publisher, PublisherSettings};
use tidemark_cache_sync::quarantine::Retry;
use tidemark_cron::ask::{Invocation, Question};
use tidemark_cron::run::{RunId, RunRecord, Standing, Trigger};
use tidemark_runtime::clients;
use tidemark_runtime::clock::Clock;
use tidemark_runtime::settings::Settings;

/// How often a run is looked at.
const POLL: Duration = Duration::from_millis(500);
/// How long a change is tried to be published; somebody waits for it.
const PUBLISH_MAX: Duration = Duration::from_secs(20);
/// A run that has no record this long after it was triggered was not begun.
const BEGIN_MAX: Duration = Duration::from_secs(60);
/// A run whose record has not moved for this long has died with its invocation.
const SILENCE_MAX: Duration = Duration::from_secs(20 * 60);

/// The cloud as the environment tells it.
pub(crate) struct Cloud {
    pub(crate) hub: String,
    pub(crate) lanes: Lanes,
    stream: Option<String>,
    values_bucket: Option<String>,
    cron_function: String,
    replay_function: String,
    config: aws_config::SdkConfig,
}

impl Cloud {
    pub(crate) async fn from_env() -> anyhow::Result<Self> {
        let settings = Settings::from_env();
        Ok(Self {
            hub: settings.required("AWS_REGION", "the hub, the region of the stream and the jobs")?,
            lanes: read_lanes(&settings)?,
            stream: settings.optional("TIDEMARK_STREAM"),
            values_bucket: settings.optional("TIDEMARK_BUCKET"),
            cron_function: settings.optional("TIDEMARK_CRON_FUNCTION").unwrap_or_else(|| "tidemark-cron".to_owned()),
            replay_function: settings
                .optional("TIDEMARK_REPLAY_FUNCTION")
                .unwrap_or_else(|| REPLAY_FUNCTION.to_owned()),
            config: clients::config(None).await,
        })
    }

    pub(crate) async fn publisher(&self) -> anyhow::Result<Publisher> {
        let stream =
            self.stream.as_ref().context("environment variable TIDEMARK_STREAM is not set: the stream of changes")?;
        let kinesis = aws_sdk_kinesis::Client::new(&self.config);
        let values = self.values_bucket.clone().map(|bucket| (clients::s3(&self.config), bucket));
        let settings = PublisherSettings {
            values,
            linger: Duration::ZERO,
            retry_for: PUBLISH_MAX,
            ..PublisherSettings::new(stream, self.lanes)
        };
        Ok(Publisher::start(&kinesis, settings, Clock::system()).await?)
    }

    pub(crate) fn retry(&self) -> anyhow::Result<Retry> {
        let stream =
            self.stream.clone().context("environment variable TIDEMARK_STREAM is not set: the stream of changes")?;
        let kinesis = aws_sdk_kinesis::Client::new(&self.config);
        Ok(Retry { kinesis, stream, lanes: self.lanes, clock: Clock::system() })
    }

    pub(crate) async fn s3(&self, region: &str) -> aws_sdk_s3::Client {
        clients::s3(&clients::config(Some(region)).await)
    }

    pub(crate) async fn region(&self, region: &str) -> RegionClient {
        let lambda = aws_sdk_lambda::Client::new(&clients::config(Some(region)).await);
        RegionClient::new(lambda, region, &self.replay_function)
    }

    pub(crate) async fn ask<T: DeserializeOwned>(&self, question: Question) -> anyhow::Result<T> {
        let cron = RegionClient::new(aws_sdk_lambda::Client::new(&self.config), &self.hub, &self.cron_function);
        let payload = serde_json::to_vec(&Invocation::Ask { ask: question })?;
        Ok(cron.ask_raw(payload).await?)
    }

    /// Triggers a job and follows its run to the end.
    pub(crate) async fn run_job(&self, job: &str, args: Value) -> anyhow::Result<RunRecord> {
        let run = RunId::try_from(format!("{job}-{}", uuid::Uuid::new_v4().simple()))?;
        let trigger = Trigger { job: job.to_owned(), scheduled: None, run: Some(run.clone()), args };
        let lambda = aws_sdk_lambda::Client::new(&self.config);
        let request = lambda.invoke().function_name(&self.cron_function).invocation_type(InvocationType::Event);
        let request = request.payload(Blob::new(serde_json::to_vec(&trigger)?));
        request.send().await.with_context(|| format!("invoking {} in {}", self.cron_function, self.hub))?;
        self.follow(&run).await
    }

    async fn follow(&self, run: &RunId) -> anyhow::Result<RunRecord> {
        let bar = ProgressBar::new_spinner().with_style(ProgressStyle::with_template("{spinner} {msg} [{elapsed}]")?);
        bar.enable_steady_tick(Duration::from_millis(120));
        let (mut seen_at, mut last_update) = (std::time::Instant::now(), None);
        loop {
            let record: Option<RunRecord> = self.ask(Question::Run(run.clone())).await?;
            let update = record.as_ref().map(|record| record.updated_ms);
            if update != last_update {
                (seen_at, last_update) = (std::time::Instant::now(), update);
            }
            match record {
                Some(record) if record.standing != Standing::Running => {
                    bar.finish_and_clear();
                    return Ok(record);
                }
                Some(record) => bar.set_message(progress_text(&record)),
                None if seen_at.elapsed() > BEGIN_MAX => {
                    bail!("run {run} was not begun within {BEGIN_MAX:?}: look at the logs of {}", self.cron_function)
                }
                None => bar.set_message(format!("run {run} is triggered")),
            }
            if seen_at.elapsed() > SILENCE_MAX {
                bail!("run {run} has said nothing for {SILENCE_MAX:?}: see `tidemark jobs show {run}`");
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn progress_text(record: &RunRecord) -> String {
    let progress = &record.progress;
    match progress.total {
        0 => progress.doing.clone(),
        total => format!("{}: {} of {total}", progress.doing, progress.done),
    }
}
