//! The local cloud: an AWS emulator, one real Redis per region, and Tidemark's release binaries deployed in it as
//! Lambda functions. `make demo` and the end-to-end tests stand on it.
//!
//! Everything binds 127.0.0.1 on ports of its own, and ends with the value that stands for it, or with the process,
//! whatever way that ends.

mod certificates;
mod cloud;
mod contents;
mod deployment;
mod error;
mod functions;
mod observe;
pub mod page_table;
mod ports;
mod process_group;
mod readiness;
mod redis_cluster;
mod redis_server;
mod regions;
pub mod stream;
mod wait;

pub use cloud::{CloudOptions, LocalCloud, clone_root};
pub use contents::{Content, contents};
pub use deployment::{
    CRON_FUNCTION, Deployment, DeploymentOptions, LANES, LocalRegion, PAGES_BUCKET, REPLAY_FUNCTION, SITEMAP_BUCKET,
    STREAM, forward_function, stream_arn,
};
pub use error::LocalError;
pub use functions::{Binaries, FunctionSpec, invoke, package};
pub use observe::{ARRIVAL_TIMEOUT, differing};
pub use ports::Port;
pub use process_group::ProcessGroup;
pub use redis_cluster::{ClusterMaster, NODES, RedisCluster};
pub use redis_server::{Flavour, Login, RedisServer};
pub use regions::{HUB, REGIONS, RegionClients, SECOND, sdk_config};
pub use wait::until;
