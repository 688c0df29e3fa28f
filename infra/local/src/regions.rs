//! The regions of the local cloud and the clients for each.

use crate::cloud::{ACCESS_KEY, LocalCloud};
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::config::{Credentials, SharedCredentialsProvider};

/// The region that owns the stream, the schedules and the jobs.
pub const HUB: &str = "us-east-1";
/// The second region.
pub const SECOND: &str = "ap-northeast-2";
/// All regions, the hub first.
pub const REGIONS: [&str; 2] = [HUB, SECOND];

/// Clients for one region.
#[derive(Clone, Debug)]
pub struct RegionClients {
    /// Kinesis.
    pub kinesis: aws_sdk_kinesis::Client,
    /// Lambda.
    pub lambda: aws_sdk_lambda::Client,
    /// S3, buckets addressed by path.
    pub s3: aws_sdk_s3::Client,
    /// EventBridge Scheduler.
    pub scheduler: aws_sdk_scheduler::Client,
}

/// SDK configuration for `region` of `cloud`, taking nothing from the environment.
#[must_use]
pub fn sdk_config(cloud: &LocalCloud, region: &'static str) -> SdkConfig {
    let credentials = Credentials::new(ACCESS_KEY, ACCESS_KEY, None, None, "local cloud");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region))
        .endpoint_url(cloud.endpoint())
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .retry_config(RetryConfig::standard())
        // The emulator answers nobody while a big query runs in it; that is no stalled connection.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .build()
}

impl RegionClients {
    /// Clients for `region` of `cloud`.
    #[must_use]
    pub fn new(cloud: &LocalCloud, region: &'static str) -> Self {
        let config = sdk_config(cloud, region);
        Self {
            kinesis: aws_sdk_kinesis::Client::new(&config),
            lambda: aws_sdk_lambda::Client::new(&config),
            s3: tidemark_runtime::clients::s3(&config),
            scheduler: aws_sdk_scheduler::Client::new(&config),
        }
    }
}
