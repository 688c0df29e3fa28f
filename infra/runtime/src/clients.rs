//! AWS configuration, made once per process and region.

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use std::time::Duration;

/// How often the SDK tries a call that failed in transport, the first try included. What a job or a mapping
/// retries by itself is retried there; this owns transport faults only.
pub const ATTEMPTS_MAX: u32 = 3;

/// Configuration for `region`, or for the region of the environment. Honours `AWS_ENDPOINT_URL`.
pub async fn config(region: Option<&str>) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX))
        .timeout_config(TimeoutConfig::builder().connect_timeout(Duration::from_secs(3)).build());
    if let Some(region) = region {
        loader = loader.region(Region::new(region.to_owned()));
    }
    loader.load().await
}

/// An S3 client. Where a custom endpoint is set (the local cloud), buckets are addressed by path, because
/// `BUCKET.127.0.0.1` is not a host.
#[must_use]
pub fn s3(config: &SdkConfig) -> aws_sdk_s3::Client {
    let builder = aws_sdk_s3::config::Builder::from(config).force_path_style(config.endpoint_url().is_some());
    aws_sdk_s3::Client::from_conf(builder.build())
}
