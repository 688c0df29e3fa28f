//! Every object key that this crate builds, all in the state bucket.

use crate::run::RunId;

/// A job's state object: its lease and what it commits.
#[must_use]
pub fn job_state(lease: &str) -> String {
    format!("jobs/state/{lease}.json")
}

/// The record of one run.
#[must_use]
pub fn run_record(run: &RunId) -> String {
    format!("jobs/runs/{run}.json")
}
