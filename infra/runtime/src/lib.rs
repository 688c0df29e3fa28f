//! What every Tidemark binary needs and none should write again: settings from the environment, AWS
//! clients, logs, metrics, the clock, and the state object (a lease and a compare-and-swap on S3).
//!
//! Knows nothing of cache sync, sitemaps or jobs.

pub mod clients;
pub mod clock;
pub mod logs;
pub mod metrics;
pub mod settings;
pub mod state;
