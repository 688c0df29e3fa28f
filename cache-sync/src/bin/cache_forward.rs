//! Lambda function in the hub: passes the stream's batches on to one target region.

use anyhow::Context;
use lambda_runtime::{LambdaEvent, service_fn};
use std::time::Duration;
use tidemark_cache_sync::forward::{Deadline, Envelope, Forward, ValueCopier};
use tidemark_cache_sync::invoke::RegionClient;
use tidemark_cache_sync::keys::REPLAY_FUNCTION;
use tidemark_cache_sync::stream::Stream;
use tidemark_runtime::clock::Clock;
use tidemark_runtime::settings::Settings;
use tidemark_runtime::{clients, logs};

struct Until(std::time::SystemTime);

impl Deadline for Until {
    fn left(&self) -> Duration {
        self.0.duration_since(std::time::SystemTime::now()).unwrap_or_default()
    }
}

#[tokio::main]
async fn main() -> Result<(), lambda_runtime::Error> {
    logs::init();
    let forward = forward().await?;
    lambda_runtime::run(service_fn(|event: LambdaEvent<Envelope>| {
        let forward = &forward;
        async move {
            let until = Until(event.context.deadline());
            let passed = forward.pass_on(event.payload, &until).await;
            passed.map_err(|error| {
                let error = logs::full_message(&error);
                tracing::error!(error, "batch thrown back");
                lambda_runtime::Error::from(error)
            })
        }
    }))
    .await
}

async fn forward() -> anyhow::Result<Forward> {
    let settings = Settings::from_env();
    let target = settings.required("TIDEMARK_TARGET_REGION", "the region to pass changes on to")?;
    let stream = settings.required("TIDEMARK_STREAM", "the Kinesis stream of changes")?;
    let function = settings.optional("TIDEMARK_REPLAY_FUNCTION").unwrap_or_else(|| REPLAY_FUNCTION.to_owned());
    let generation = settings.parsed("TIDEMARK_GENERATION", 1)?;
    let hub = clients::config(None).await;
    let stream = Stream::new(aws_sdk_kinesis::Client::new(&hub), stream, Clock::system());
    let target_config = clients::config(Some(&target)).await;
    let region = RegionClient::new(aws_sdk_lambda::Client::new(&target_config), target, function);
    let forward = Forward::new(stream, generation, region, Clock::system()).await.context("describing the stream")?;
    let Some(bucket) = settings.optional("TIDEMARK_TARGET_BUCKET") else { return Ok(forward) };
    let sources = settings.required("TIDEMARK_VALUE_BUCKETS", "the buckets that values are copied from")?;
    let sources: Vec<&str> = sources.split(',').map(str::trim).filter(|source| !source.is_empty()).collect();
    Ok(forward.copying(ValueCopier::new(clients::s3(&target_config), bucket, sources)))
}
