//! Runs: what triggers one, what it is called, and the record it leaves.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// What a schedule or an operator sends.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    /// The job's name.
    pub job: String,
    /// The scheduled time, as EventBridge Scheduler fills it in; a duplicate trigger carries the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<String>,
    /// The run's ID, where the trigger names it: a one-off run, or the next part of a long one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// The job's arguments.
    #[serde(default)]
    pub args: Value,
}

/// A run's ID; part of object keys, so of letters, digits, `-`, `_`, `.` and `:` only.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

/// Text that is no run ID.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no run ID: use 1 to 128 letters, digits, and - _ . :")]
pub struct RunIdError(String);

impl TryFrom<String> for RunId {
    type Error = RunIdError;

    fn try_from(text: String) -> Result<Self, RunIdError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        let fits = !text.is_empty() && text.len() <= 128 && text.bytes().all(plain) && !text.contains("..");
        if fits { Ok(Self(text)) } else { Err(RunIdError(text)) }
    }
}

impl From<RunId> for String {
    fn from(run: RunId) -> String {
        run.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl RunId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Trigger {
    /// The run that this trigger asks for. Two triggers of one scheduled time ask for one run. Where the scheduled time
    /// was not filled in, the minute of `now_ms` stands for it, because schedules are a minute precise.
    ///
    /// # Errors
    /// Where the job's name or the scheduled time cannot be part of an ID.
    pub fn run_id(&self, lease: &str, now_ms: i64) -> Result<RunId, RunIdError> {
        if let Some(run) = &self.run {
            return Ok(run.clone());
        }
        let scheduled = self.scheduled.as_deref().filter(|time| !time.starts_with('<'));
        let time = scheduled.map_or_else(|| format!("minute-{}", now_ms / 60_000), str::to_owned);
        RunId::try_from(format!("{lease}-{time}"))
    }
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// At work, or waiting for its next part.
    Running,
    /// Finished.
    Done,
    /// Given up; `error` says why.
    Failed,
}

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done now, in a few words.
    pub doing: String,
    /// Units done.
    pub done: u64,
    /// Units in all; 0 where it is not known.
    pub total: u64,
}

/// The record of a run, on S3.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The run.
    pub run: RunId,
    /// The job.
    pub job: String,
    /// Its arguments.
    pub args: Value,
    /// How it stands.
    pub standing: Standing,
    /// When it began, in milliseconds since the epoch.
    pub began_ms: i64,
    /// When this record was written.
    pub updated_ms: i64,
    /// How far it is.
    pub progress: Progress,
    /// What it did, once it is done.
    pub summary: Value,
    /// Why it was given up.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trigger(json: &str) -> Trigger {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn two_triggers_of_one_scheduled_time_are_one_run() {
        let one = trigger(r#"{"job":"snapshot","scheduled":"2026-11-22T03:00:00Z"}"#);
        let (first, second) = (one.run_id("snapshot", 1).unwrap(), one.run_id("snapshot", 999_999).unwrap());
        assert_eq!(first, second);
        assert_eq!(first.as_str(), "snapshot-2026-11-22T03:00:00Z");
    }

    #[test]
    fn a_time_that_was_not_filled_in_counts_by_the_minute() {
        let one = trigger(r#"{"job":"heartbeat","scheduled":"<aws.scheduler.scheduled-time>"}"#);
        assert_eq!(one.run_id("heartbeat", 60_000).unwrap(), one.run_id("heartbeat", 119_999).unwrap());
        assert_ne!(one.run_id("heartbeat", 60_000).unwrap(), one.run_id("heartbeat", 120_000).unwrap());
    }

    #[test]
    fn an_id_that_would_leave_its_folder_is_refused() {
        for bad in ["", "a/b", "a..b", "a b", &"x".repeat(129)] {
            assert!(RunId::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<Trigger>(r#"{"job":"snapshot","run":"../x"}"#).is_err());
    }
}
