//! Tidemark deployed in two regions of the local cloud: what Terraform makes in AWS, made here by the same calls.

use crate::cloud::{ACCESS_KEY, CloudOptions, LocalCloud};
use crate::error::LocalError;
use crate::functions::{self, Binaries, FunctionSpec, ROLE};
use crate::ports::Port;
use crate::redis_server::RedisServer;
use crate::regions::{HUB, REGIONS, RegionClients, SECOND};
use crate::wait::until;
use aws_sdk_kinesis::types::StreamStatus;
use aws_sdk_lambda::types::{Environment, EventSourcePosition};
use aws_sdk_s3::types::{
    BucketLocationConstraint, BucketVersioningStatus, CreateBucketConfiguration, VersioningConfiguration,
};
use aws_sdk_scheduler::types::{ActionAfterCompletion, FlexibleTimeWindow, FlexibleTimeWindowMode, Target};
use std::collections::HashMap;
use std::time::Duration;

/// The stream of cache changes, in the hub.
pub const STREAM: &str = "tidemark";
/// Lanes of the stream.
pub const LANES: u16 = 64;
/// The replay function's name, the same in every region.
pub const REPLAY_FUNCTION: &str = "tidemark-cache-replay";
/// The jobs' function, in the hub.
pub const CRON_FUNCTION: &str = "tidemark-cron";
/// The bucket that stands behind CloudFront in AWS.
pub const SITEMAP_BUCKET: &str = "tidemark-sitemaps";
/// The bucket of the page table, somebody else's in AWS.
pub const PAGES_BUCKET: &str = "tidemark-pages";

const SHARDS: i32 = 2;
const MAPPING_BATCH_RECORDS: i32 = 1_000;
const FORWARD_TIMEOUT_S: i32 = 120;
const REPLAY_TIMEOUT_S: i32 = 60;
const CRON_TIMEOUT_S: i32 = 900;
const STATE_TIMEOUT: Duration = Duration::from_secs(60);

/// What a deployment is made of.
#[derive(Clone, Debug)]
pub struct DeploymentOptions {
    /// How to start the local cloud.
    pub cloud: CloudOptions,
    /// Which ports the Redis servers take, in the order of [`REGIONS`].
    pub redis_ports: [Port; 2],
    /// The release binaries.
    pub binaries: Binaries,
}

impl DeploymentOptions {
    /// Free ports, this clone's virtual environment and the binaries beside the running program.
    ///
    /// # Errors
    /// As [`Binaries::beside_this_program`].
    pub fn of_this_clone() -> Result<Self, LocalError> {
        let binaries = Binaries::beside_this_program()?;
        Ok(Self { cloud: CloudOptions::of_this_clone(), redis_ports: [Port::Free, Port::Free], binaries })
    }
}

/// One region: its clients, its Redis, its bucket, and the mapping in the hub that feeds it.
#[derive(Debug)]
pub struct LocalRegion {
    /// Its name.
    pub name: &'static str,
    /// Clients for it.
    pub clients: RegionClients,
    /// Its Redis.
    pub redis: RedisServer,
    /// Its bucket for cache work; the hub's holds the jobs' state too.
    pub bucket: String,
    mapping: String,
}

impl LocalRegion {
    /// An asynchronous connection to the region's Redis.
    ///
    /// # Errors
    /// [`LocalError::Call`] when it does not answer.
    pub async fn connect_redis(&self) -> Result<redis::aio::MultiplexedConnection, LocalError> {
        let failed = || format!("connect to {} ({})", self.redis.url(), self.name);
        let client = redis::Client::open(self.redis.url()).map_err(LocalError::call(failed()))?;
        client.get_multiplexed_async_connection().await.map_err(LocalError::call(failed()))
    }
}

/// A running deployment. Dropping it ends every process it started.
#[derive(Debug)]
pub struct Deployment {
    // The cloud goes first: its functions talk to the Redis servers.
    cloud: LocalCloud,
    regions: [LocalRegion; 2],
    binaries: Binaries,
}

impl Deployment {
    /// Starts the servers and deploys stream, buckets, functions and mappings. Schedules are the caller's choice.
    ///
    /// # Errors
    /// [`LocalError`], naming the part that failed; what was started by then is ended.
    pub async fn start(options: &DeploymentOptions) -> Result<Self, LocalError> {
        let [hub_port, second_port] = &options.redis_ports;
        let redis = [RedisServer::start_on(hub_port, &[])?, RedisServer::start_on(second_port, &[])?];
        let cloud = LocalCloud::start(&options.cloud)?;
        let mut named = REGIONS.into_iter();
        let regions = redis.map(|redis| {
            let name = named.next().unwrap_or(HUB);
            let clients = RegionClients::new(&cloud, name);
            LocalRegion { name, clients, redis, bucket: bucket(name), mapping: String::new() }
        });
        let mut deployment = Self { cloud, regions, binaries: options.binaries.clone() };
        deployment.create_buckets().await?;
        deployment.create_stream().await?;
        deployment.create_functions().await?;
        deployment.create_mappings().await?;
        Ok(deployment)
    }

    /// The AWS emulator.
    #[must_use]
    pub fn cloud(&self) -> &LocalCloud {
        &self.cloud
    }

    /// The hub.
    #[must_use]
    pub fn hub(&self) -> &LocalRegion {
        &self.regions[0]
    }

    /// The second region.
    #[must_use]
    pub fn second(&self) -> &LocalRegion {
        &self.regions[1]
    }

    /// Both regions, the hub first.
    #[must_use]
    pub fn regions(&self) -> &[LocalRegion; 2] {
        &self.regions
    }

    /// Regions and buckets as the jobs read them: `us-east-1=BUCKET,ap-northeast-2=BUCKET`.
    #[must_use]
    pub fn regions_setting(&self) -> String {
        let pairs: Vec<String> =
            self.regions.iter().map(|region| format!("{}={}", region.name, region.bucket)).collect();
        pairs.join(",")
    }

    /// The environment in which a service's or an operator's commands reach this deployment.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.cloud.endpoint()),
            ("AWS_REGION", HUB.to_owned()),
            // Python and the AWS command line look for this name.
            ("AWS_DEFAULT_REGION", HUB.to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", ACCESS_KEY.to_owned()),
            ("TIDEMARK_STREAM", STREAM.to_owned()),
            ("TIDEMARK_LANES", LANES.to_string()),
            ("TIDEMARK_REGIONS", self.regions_setting()),
            ("TIDEMARK_BUCKET", self.hub().bucket.clone()),
            ("TIDEMARK_REDIS_US_EAST_1", self.hub().redis.url()),
            ("TIDEMARK_REDIS_AP_NORTHEAST_2", self.second().redis.url()),
        ]
    }

    /// A command that runs `program` against this deployment: its environment, and nothing of the caller's AWS settings.
    /// It is killed when the future that waits for it is dropped.
    #[must_use]
    pub fn command(&self, program: &std::path::Path) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(program);
        for name in ["AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE"] {
            command.env_remove(name);
        }
        command.envs(self.environment()).stdin(std::process::Stdio::null()).kill_on_drop(true);
        command
    }

    /// The operators' command `tidemark` against this deployment.
    ///
    /// # Errors
    /// [`LocalError::Missing`] when it was not built.
    pub fn tidemark(&self) -> Result<tokio::process::Command, LocalError> {
        Ok(self.command(&self.binaries.path("tidemark")?))
    }

    /// Stops the mapping that feeds `region`, or starts it again.
    ///
    /// # Errors
    /// [`LocalError`] when the call fails or the mapping does not change its state in time.
    pub async fn set_fed(&self, region: &LocalRegion, fed: bool) -> Result<(), LocalError> {
        let lambda = &self.hub().clients.lambda;
        let change = lambda.update_event_source_mapping().uuid(&region.mapping).enabled(fed);
        change.send().await.map_err(LocalError::call(format!("UpdateEventSourceMapping of {}", region.name)))?;
        let wanted = if fed { "Enabled" } else { "Disabled" };
        until(&format!("the mapping of {} to be {wanted}", region.name), STATE_TIMEOUT, async || {
            let read = lambda.get_event_source_mapping().uuid(&region.mapping).send().await;
            let mapping = read.map_err(LocalError::call(format!("GetEventSourceMapping of {}", region.name)))?;
            Ok((mapping.state.as_deref() == Some(wanted)).then_some(()))
        })
        .await
    }

    /// Adds `more` to the environment of the jobs' function, for what begins from now on.
    ///
    /// # Errors
    /// [`LocalError::Call`] when the call fails.
    pub async fn set_cron_environment(&self, more: &[(&str, String)]) -> Result<(), LocalError> {
        let mut environment = self.cron().environment;
        environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let environment = Environment::builder().set_variables(Some(environment)).build();
        let update = self.hub().clients.lambda.update_function_configuration().function_name(CRON_FUNCTION);
        let sent = update.environment(environment).send().await;
        sent.map(drop).map_err(LocalError::call(format!("UpdateFunctionConfiguration {CRON_FUNCTION}")))
    }

    /// Makes a schedule that starts the jobs' function with `input`; `expression` is `at(…)`, `rate(…)` or `cron(…)`.
    /// A one-time schedule deletes itself.
    ///
    /// # Errors
    /// [`LocalError::Call`] when the call fails.
    pub async fn schedule(&self, name: &str, expression: &str, input: &serde_json::Value) -> Result<(), LocalError> {
        let failed = || format!("CreateSchedule {name}");
        let target = Target::builder().arn(function_arn(HUB, CRON_FUNCTION)).role_arn(ROLE).input(input.to_string());
        let after =
            if expression.starts_with("at(") { ActionAfterCompletion::Delete } else { ActionAfterCompletion::None };
        let window = FlexibleTimeWindow::builder().mode(FlexibleTimeWindowMode::Off);
        self.hub()
            .clients
            .scheduler
            .create_schedule()
            .name(name)
            .schedule_expression(expression)
            .flexible_time_window(window.build().map_err(LocalError::call(failed()))?)
            .action_after_completion(after)
            .target(target.build().map_err(LocalError::call(failed()))?)
            .send()
            .await
            .map_err(LocalError::call(failed()))?;
        Ok(())
    }

    /// Makes a one-time schedule that starts the jobs' function with `input` after `delay`, in whole seconds.
    ///
    /// # Errors
    /// As [`Deployment::schedule`].
    pub async fn schedule_once(
        &self,
        name: &str,
        delay: Duration,
        input: &serde_json::Value,
    ) -> Result<(), LocalError> {
        let at = jiff::Timestamp::now() + delay;
        self.schedule(name, &format!("at({})", at.strftime("%Y-%m-%dT%H:%M:%S")), input).await
    }

    async fn create_buckets(&self) -> Result<(), LocalError> {
        let hub = [(&self.regions[0], SITEMAP_BUCKET.to_owned()), (&self.regions[0], PAGES_BUCKET.to_owned())];
        let own = self.regions.iter().map(|region| (region, region.bucket.clone()));
        for (region, bucket) in own.chain(hub) {
            let mut create = region.clients.s3.create_bucket().bucket(&bucket);
            if region.name != HUB {
                let constraint = BucketLocationConstraint::from(region.name);
                let place = CreateBucketConfiguration::builder().location_constraint(constraint);
                create = create.create_bucket_configuration(place.build());
            }
            create.send().await.map_err(LocalError::call(format!("CreateBucket {bucket}")))?;
        }
        let versioned = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
        let put =
            self.hub().clients.s3.put_bucket_versioning().bucket(SITEMAP_BUCKET).versioning_configuration(versioned);
        put.send().await.map_err(LocalError::call(format!("PutBucketVersioning {SITEMAP_BUCKET}")))?;
        Ok(())
    }

    async fn create_stream(&self) -> Result<(), LocalError> {
        let kinesis = &self.hub().clients.kinesis;
        let create = kinesis.create_stream().stream_name(STREAM).shard_count(SHARDS);
        create.send().await.map_err(LocalError::call(format!("CreateStream {STREAM}")))?;
        until("the stream to be active", STATE_TIMEOUT, async || {
            let read = kinesis.describe_stream_summary().stream_name(STREAM).send().await;
            let summary = read.map_err(LocalError::call(format!("DescribeStreamSummary {STREAM}")))?;
            let status = summary.stream_description_summary.map(|summary| summary.stream_status);
            Ok((status == Some(StreamStatus::Active)).then_some(()))
        })
        .await
    }

    async fn create_functions(&self) -> Result<(), LocalError> {
        for region in &self.regions {
            let mut specs = vec![self.replay(region)];
            if region.name == HUB {
                specs.extend(self.regions.iter().map(|target| self.forward(target)));
                specs.push(self.cron());
            }
            functions::deploy(&region.clients, &region.bucket, &self.binaries, specs).await?;
        }
        Ok(())
    }

    fn replay(&self, region: &LocalRegion) -> FunctionSpec {
        let environment = [
            ("TIDEMARK_REDIS_URL", region.redis.url()),
            ("TIDEMARK_BUCKET", region.bucket.clone()),
            ("TIDEMARK_SCOPE", "*".to_owned()),
            ("TIDEMARK_LANES", LANES.to_string()),
        ];
        function(REPLAY_FUNCTION.to_owned(), "cache_replay", REPLAY_TIMEOUT_S, environment)
    }

    fn forward(&self, target: &LocalRegion) -> FunctionSpec {
        let buckets: Vec<&str> = self.regions.iter().map(|region| region.bucket.as_str()).collect();
        let environment = [
            ("TIDEMARK_STREAM", STREAM.to_owned()),
            ("TIDEMARK_LANES", LANES.to_string()),
            ("TIDEMARK_TARGET_REGION", target.name.to_owned()),
            ("TIDEMARK_TARGET_BUCKET", target.bucket.clone()),
            ("TIDEMARK_VALUE_BUCKETS", buckets.join(",")),
            ("TIDEMARK_REPLAY_FUNCTION", REPLAY_FUNCTION.to_owned()),
            ("TIDEMARK_GENERATION", "1".to_owned()),
        ];
        function(forward_function(target.name), "cache_forward", FORWARD_TIMEOUT_S, environment)
    }

    fn cron(&self) -> FunctionSpec {
        let environment = [
            ("TIDEMARK_STREAM", STREAM.to_owned()),
            ("TIDEMARK_LANES", LANES.to_string()),
            ("TIDEMARK_REGIONS", self.regions_setting()),
            ("TIDEMARK_BUCKET", self.hub().bucket.clone()),
            ("TIDEMARK_REPLAY_FUNCTION", REPLAY_FUNCTION.to_owned()),
        ];
        function(CRON_FUNCTION.to_owned(), "cron", CRON_TIMEOUT_S, environment)
    }

    async fn create_mappings(&mut self) -> Result<(), LocalError> {
        let lambda = self.hub().clients.lambda.clone();
        for region in &mut self.regions {
            let failed = || format!("CreateEventSourceMapping of {}", region.name);
            let created = lambda
                .create_event_source_mapping()
                .event_source_arn(stream_arn())
                .function_name(forward_function(region.name))
                .starting_position(EventSourcePosition::TrimHorizon)
                .batch_size(MAPPING_BATCH_RECORDS)
                .maximum_batching_window_in_seconds(0)
                .send()
                .await
                .map_err(LocalError::call(failed()))?;
            region.mapping = created.uuid.ok_or_else(|| LocalError::call(failed())("the answer has no UUID"))?;
        }
        Ok(())
    }
}

/// The name of the forward function for `region`, in the hub.
#[must_use]
pub fn forward_function(region: &str) -> String {
    format!("tidemark-cache-forward-{region}")
}

/// The stream's ARN.
#[must_use]
pub fn stream_arn() -> String {
    format!("arn:aws:kinesis:{HUB}:000000000000:stream/{STREAM}")
}

fn function_arn(region: &str, name: &str) -> String {
    format!("arn:aws:lambda:{region}:000000000000:function:{name}")
}

fn bucket(region: &str) -> String {
    debug_assert!(region == HUB || region == SECOND, "a region of the local cloud: {region}");
    format!("tidemark-{region}")
}

fn function<const N: usize>(
    name: String,
    binary: &'static str,
    timeout_s: i32,
    environment: [(&str, String); N],
) -> FunctionSpec {
    let environment: HashMap<String, String> =
        environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    FunctionSpec { name, binary, environment, timeout_s, memory_mib: 1_024 }
}
