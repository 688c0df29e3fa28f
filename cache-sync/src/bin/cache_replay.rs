//! Lambda function of a region: the only thing that talks to that region's Redis.

use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::value::RawValue;
use tidemark_cache_sync::region::{Region, RegionSettings};
use tidemark_runtime::clock::Clock;
use tidemark_runtime::settings::Settings;
use tidemark_runtime::{clients, logs};

#[tokio::main]
async fn main() -> Result<(), lambda_runtime::Error> {
    logs::init();
    let config = clients::config(None).await;
    let mut settings = RegionSettings::read(&Settings::from_env())?;
    settings.redis.login = settings.redis.login.with_credentials(config.credentials_provider());
    let s3 = clients::s3(&config);
    let region = Region::new(settings, s3, Clock::system())?;
    lambda_runtime::run(service_fn(|event: LambdaEvent<Box<RawValue>>| {
        let region = &region;
        async move {
            // Boxed: nested any deeper, it is more than the compiler follows.
            let answer = Box::pin(region.answer(event.payload.get())).await;
            answer.map_err(|error| {
                let error = logs::full_message(&error);
                tracing::error!(error, "request failed");
                lambda_runtime::Error::from(error)
            })
        }
    }))
    .await
}
