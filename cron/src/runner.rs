//! The runner: gives a job one run at a time, a run ID, retries, progress, and a cursor for work that outlasts one
//! invocation.
//!
//! One owner of retries per hop: the schedule delivers the trigger, the runner retries the job where that may help, the
//! SDK retries transport faults only.

use crate::edge::CloudFront;
use crate::jobs::sitemap_part::Invoked;
use crate::jobs::{Job, Part, WrongArgument, is_final};
use crate::keys;
use crate::run::{Progress, RunId, RunRecord, Standing, Trigger};
use crate::settings::CronSettings;
use anyhow::Context as _;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use aws_sdk_s3::primitives::ByteStream;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidemark_cache_sync::invoke::RegionClient;
use tidemark_cache_sync::publish::{Publisher, PublisherSettings, StartError};
use tidemark_cache_sync::stream::Stream;
use tidemark_runtime::clients;
use tidemark_runtime::clock::Clock;
use tidemark_runtime::state::{Document, Held, StateError, StateStore};
use tidemark_sitemap::refresh::Surroundings;

/// Tries of one part of a job, the first included.
const ATTEMPTS_MAX: u32 = 3;
const BACKOFF: Duration = Duration::from_secs(2);
/// Progress is written at most this often, in milliseconds.
const PROGRESS_EVERY_MS: i64 = 500;
/// How long a lease stays with a run while its next part is started, in milliseconds.
const HANDOVER_MS: i64 = 5 * 60_000;
/// How much longer than a part its lease runs, in milliseconds.
const LEASE_MARGIN_MS: i64 = 15_000;

/// What a job commits between its parts and runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct JobState {
    /// The last run that began.
    pub run: Option<String>,
    /// Whether it is over.
    pub over: bool,
    /// Where its next part or attempt begins.
    pub cursor: Option<Value>,
    /// What the job keeps between runs.
    pub data: Value,
}

/// The cron function: its clients and settings, made once.
#[derive(Debug)]
pub struct Cron {
    /// Its settings.
    pub settings: CronSettings,
    /// The stream of changes.
    pub stream: Stream,
    clock: Clock,
    regions: BTreeMap<String, RegionClients>,
    s3: aws_sdk_s3::Client,
    athena: aws_sdk_athena::Client,
    lambda: aws_sdk_lambda::Client,
    edge: CloudFront,
    kinesis: aws_sdk_kinesis::Client,
}

/// What a job reaches of one region.
#[derive(Debug)]
struct RegionClients {
    replay: RegionClient,
    s3: aws_sdk_s3::Client,
}

/// What a job's part works with.
#[derive(Debug)]
pub struct Context<'c> {
    /// The function.
    pub cron: &'c Cron,
    /// The run.
    pub run: RunId,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// The job's arguments.
    pub args: Value,
    record: RunRecord,
    held: Held<JobState>,
    until_ms: i64,
}

impl Cron {
    /// The cron function with clients for the hub.
    pub async fn new(settings: CronSettings, clock: Clock) -> Self {
        let hub = clients::config(None).await;
        let kinesis = aws_sdk_kinesis::Client::new(&hub);
        let mut regions = BTreeMap::new();
        for place in &settings.regions {
            let config = clients::config(Some(&place.region)).await;
            let lambda = aws_sdk_lambda::Client::new(&config);
            let replay = RegionClient::new(lambda, &place.region, &settings.replay_function);
            regions.insert(place.region.clone(), RegionClients { replay, s3: clients::s3(&config) });
        }
        Self {
            regions,
            stream: Stream::new(kinesis.clone(), &settings.stream, clock.clone()),
            kinesis,
            s3: clients::s3(&hub),
            athena: aws_sdk_athena::Client::new(&hub),
            lambda: aws_sdk_lambda::Client::new(&hub),
            edge: CloudFront::new(hub, clock.clone()),
            settings,
            clock,
        }
    }

    /// A publisher whose records are given up after `retry_for`, so that a run ends in its time.
    ///
    /// # Errors
    /// [`StartError`]: jobs that publish nothing must not fail for it, so none is kept.
    pub async fn publisher(&self, retry_for: Duration) -> Result<Publisher, StartError> {
        let settings = PublisherSettings::new(&self.settings.stream, self.settings.lanes);
        Publisher::start(&self.kinesis, PublisherSettings { retry_for, ..settings }, self.clock.clone()).await
    }

    /// The replay function of `region`.
    ///
    /// # Errors
    /// Where there is no such region.
    pub fn region(&self, region: &str) -> anyhow::Result<&RegionClient> {
        Ok(&self.clients(region)?.replay)
    }

    /// An S3 client of `region`.
    ///
    /// # Errors
    /// Where there is no such region.
    pub fn s3(&self, region: &str) -> anyhow::Result<&aws_sdk_s3::Client> {
        Ok(&self.clients(region)?.s3)
    }

    fn clients(&self, region: &str) -> anyhow::Result<&RegionClients> {
        self.settings.region(region).map_err(anyhow::Error::msg)?;
        self.regions.get(region).context("a region without clients")
    }

    /// The time, in milliseconds since the epoch.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// What a job keeps between runs; `None` before its first.
    ///
    /// # Errors
    /// Where S3 failed or the state does not parse.
    pub async fn data_of(&self, lease: &str) -> anyhow::Result<Option<Value>> {
        Ok(self.state_of(lease).await?.map(|document| document.state.data))
    }

    async fn state_of(&self, lease: &str) -> anyhow::Result<Option<Document<JobState>>> {
        let store = StateStore::new(self.s3.clone(), &self.settings.bucket);
        Ok(store.load(&keys::job_state(lease)).await?.map(|found| found.value))
    }

    /// What the sitemap job works with.
    #[must_use]
    pub fn sitemap_surroundings(&self) -> Surroundings {
        let parts = Invoked { lambda: self.lambda.clone(), function: self.settings.function.clone() };
        Surroundings {
            parts: Some(Arc::new(parts)),
            edge: Some(Arc::new(self.edge.clone())),
            s3: self.s3.clone(),
            athena: self.athena.clone(),
            state_bucket: self.settings.bucket.clone(),
            clock: self.clock.clone(),
        }
    }

    /// Runs what `trigger` asks for until `deadline_ms`, and returns the run's record.
    ///
    /// # Errors
    /// Where the run could not even begin; what a job meets goes into its record.
    pub async fn run(&self, trigger: Trigger, deadline_ms: i64) -> anyhow::Result<RunRecord> {
        let job = Job::named(&trigger.job).map_err(anyhow::Error::msg)?;
        let lease = job.lease(&trigger.args);
        let now_ms = self.clock.now_ms();
        let run = trigger.run_id(&lease, now_ms)?;
        let mut record = self.record_of(&run).await?.unwrap_or_else(|| RunRecord {
            run: run.clone(),
            job: trigger.job.clone(),
            args: trigger.args.clone(),
            standing: Standing::Running,
            began_ms: now_ms,
            updated_ms: now_ms,
            progress: Progress::default(),
            summary: Value::Null,
            error: None,
        });
        if record.standing == Standing::Done {
            tracing::info!(%run, "run is done already: a duplicate trigger");
            return Ok(record);
        }
        let until_ms = deadline_ms.min(now_ms + i64::try_from(job.part_max().as_millis()).unwrap_or(i64::MAX));
        let held = match self.begin(&lease, &run, now_ms, until_ms).await {
            Ok(held) => held,
            Err(error @ (StateError::Busy { .. } | StateError::Conflict { .. })) => {
                if matches!(error, StateError::Conflict { .. }) && self.has_twin(&lease, &run).await? {
                    tracing::info!(%run, "run is under way already: a duplicate trigger");
                    return Ok(self.record_of(&run).await?.unwrap_or(record));
                }
                return self.fail(record, &anyhow::Error::from(error)).await;
            }
            Err(error) => return Err(error.into()),
        };
        record.standing = Standing::Running;
        record.error = None;
        let mut context = Context { cron: self, run, attempt: 1, args: trigger.args.clone(), record, held, until_ms };
        context.write_record().await?;
        let ended = context.attempts(job).await;
        self.end(context, ended, &trigger).await
    }

    /// Whether another execution of the same run, triggered twice in an instant, was first to take the lease: the run's
    /// record is then its to write.
    async fn has_twin(&self, lease: &str, run: &RunId) -> anyhow::Result<bool> {
        let Some(Document { lease, state, .. }) = self.state_of(lease).await? else { return Ok(false) };
        let (holds, did) = (lease.is_some_and(|lease| lease.holder == run.as_str()), state.run.as_deref());
        Ok(holds || (did == Some(run.as_str()) && state.over))
    }

    /// The record of a run, where there is one.
    ///
    /// # Errors
    /// Where S3 failed or the record does not parse.
    pub async fn record_of(&self, run: &RunId) -> anyhow::Result<Option<RunRecord>> {
        let store = StateStore::new(self.s3.clone(), &self.settings.bucket);
        Ok(store.load(&keys::run_record(run)).await?.map(|found| found.value))
    }

    async fn begin(&self, lease: &str, run: &RunId, now_ms: i64, until_ms: i64) -> Result<Held<JobState>, StateError> {
        let store = StateStore::new(self.s3.clone(), &self.settings.bucket);
        let ttl_ms = until_ms - now_ms + LEASE_MARGIN_MS;
        let mut held: Held<JobState> = store.acquire(&keys::job_state(lease), run.as_str(), now_ms, ttl_ms).await?;
        let state = &mut held.document.state;
        if state.run.as_deref() != Some(run.as_str()) {
            state.run = Some(run.to_string());
            state.cursor = None;
            state.over = false;
        }
        Ok(held)
    }

    async fn end(
        &self,
        mut context: Context<'_>,
        ended: anyhow::Result<Part>,
        trigger: &Trigger,
    ) -> anyhow::Result<RunRecord> {
        match ended {
            Ok(Part::Done(summary)) => {
                context.held.document.state.over = true;
                context.held.document.state.cursor = None;
                context.record.standing = Standing::Done;
                context.record.summary = summary;
                context.held.release().await?;
                self.put_record(&mut context.record).await?;
                Ok(context.record)
            }
            Ok(Part::Continue(cursor)) => {
                context.held.document.state.cursor = Some(cursor);
                // The next part is the same holder; nobody else may begin in between and drop the cursor.
                context.held.commit(self.clock.now_ms() + HANDOVER_MS).await?;
                self.put_record(&mut context.record).await?;
                self.invoke_next(&context.run, trigger).await?;
                Ok(context.record)
            }
            Err(error) => {
                // The cursor stays: the same run, triggered again, goes on where this attempt ended. Where the lease is
                // another execution's by now, the record is its as well.
                context.held.release().await.with_context(|| format!("run {}: {error:#}", context.run))?;
                self.fail(context.record, &error).await
            }
        }
    }

    async fn fail(&self, mut record: RunRecord, error: &anyhow::Error) -> anyhow::Result<RunRecord> {
        tracing::error!(run = %record.run, error = format!("{error:#}"), "run failed");
        record.standing = Standing::Failed;
        record.error = Some(format!("{error:#}"));
        self.put_record(&mut record).await?;
        Ok(record)
    }

    async fn put_record(&self, record: &mut RunRecord) -> anyhow::Result<()> {
        record.updated_ms = self.clock.now_ms();
        let object = keys::run_record(&record.run);
        let body = ByteStream::from(serde_json::to_vec(record)?);
        let put = self.s3.put_object().bucket(&self.settings.bucket).key(&object).content_type("application/json");
        put.body(body).send().await.with_context(|| format!("writing {object}"))?;
        Ok(())
    }

    async fn invoke_next(&self, run: &RunId, trigger: &Trigger) -> anyhow::Result<()> {
        let next = Trigger { run: Some(run.clone()), ..trigger.clone() };
        let request = self.lambda.invoke().function_name(&self.settings.function);
        let request = request.invocation_type(InvocationType::Event).payload(Blob::new(serde_json::to_vec(&next)?));
        request.send().await.context("invoking the next part of the run")?;
        Ok(())
    }
}

impl Context<'_> {
    async fn attempts(&mut self, job: Job) -> anyhow::Result<Part> {
        loop {
            let cursor = self.held.document.state.cursor.clone();
            match job.run(self, cursor).await {
                Ok(part) => return Ok(part),
                Err(error) if is_final(&error) || self.attempt >= ATTEMPTS_MAX => return Err(error),
                Err(error) if self.time_left() < BACKOFF * 8 => return Err(error),
                Err(error) => {
                    tracing::warn!(run = %self.run, attempt = self.attempt, error = format!("{error:#}"), "retrying")
                }
            }
            tokio::time::sleep(BACKOFF * 2u32.pow(self.attempt - 1)).await;
            self.attempt += 1;
        }
    }

    /// What is left for this part.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        let left_ms = self.until_ms - self.cron.clock.now_ms();
        Duration::from_millis(u64::try_from(left_ms).unwrap_or(0))
    }

    /// What the job keeps between runs.
    #[must_use]
    pub fn data(&self) -> &Value {
        &self.held.document.state.data
    }

    /// Keeps `data` for the next run; committed when the part ends.
    pub fn set_data(&mut self, data: Value) {
        self.held.document.state.data = data;
    }

    /// Commits where the next attempt or part begins.
    ///
    /// # Errors
    /// Where the lease was lost: the run must stop.
    pub async fn save_cursor(&mut self, cursor: Value) -> anyhow::Result<()> {
        self.held.document.state.cursor = Some(cursor);
        self.held.commit(self.until_ms + LEASE_MARGIN_MS).await?;
        Ok(())
    }

    /// Says how far the run is. A progress that cannot be written is no reason to stop.
    pub async fn progress(&mut self, doing: &str, done: u64, total: u64) {
        let progress = Progress { doing: doing.to_owned(), done, total };
        let same = self.record.progress.doing == progress.doing;
        self.record.progress = progress;
        if same && self.cron.clock.now_ms() - self.record.updated_ms < PROGRESS_EVERY_MS {
            return;
        }
        if let Err(error) = self.write_record().await {
            tracing::warn!(run = %self.run, error = format!("{error:#}"), "progress was not written");
        }
    }

    /// The region that the argument `name` names, the hub where it is not given.
    ///
    /// # Errors
    /// Where it is not a region of this deployment.
    pub fn region_argument(&self, name: &str) -> anyhow::Result<String> {
        let settings = &self.cron.settings;
        match &self.args[name] {
            Value::Null => settings.regions.first().map(|hub| hub.region.clone()).context("TIDEMARK_REGIONS is empty"),
            Value::String(region) => Ok(settings.region(region).map_err(WrongArgument)?.region.clone()),
            other => Err(WrongArgument(format!("argument {name} must be the name of a region, not {other}")).into()),
        }
    }

    async fn write_record(&mut self) -> anyhow::Result<()> {
        let cron = self.cron;
        cron.put_record(&mut self.record).await
    }
}
