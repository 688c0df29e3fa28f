//! What operators ask of the cron function beside running jobs: a run's record, and every region at a glance.

use crate::jobs::Job;
use crate::run::{RunId, RunRecord, Trigger};
use crate::runner::Cron;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidemark_cache_sync::protocol::{Request, Status};

/// One invocation of the cron function.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Invocation {
    /// Run a job.
    Run(Trigger),
    /// Answer a question.
    Ask {
        /// The question.
        ask: Question,
    },
}

/// A question.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// How a run stands; `null` where there is no such run.
    Run(RunId),
    /// Every region at a glance.
    Status,
    /// Every region and its bucket, the hub first.
    Regions,
    /// The last heartbeat that reached every lane; `null` before the first.
    Heartbeat,
}

/// One region's answer, or why there is none.
#[derive(Debug, Serialize, Deserialize)]
pub struct RegionStatus {
    /// The region.
    pub region: String,
    /// What it says.
    pub status: Option<Status>,
    /// Why it says nothing.
    pub error: Option<String>,
}

impl Cron {
    /// Answers one invocation.
    ///
    /// # Errors
    /// Where a run could not begin or the state bucket could not be read.
    pub async fn answer(&self, invocation: Invocation, deadline_ms: i64) -> anyhow::Result<Value> {
        Ok(match invocation {
            Invocation::Run(trigger) => serde_json::to_value(self.run(trigger, deadline_ms).await?)?,
            Invocation::Ask { ask: Question::Run(run) } => {
                let record: Option<RunRecord> = self.record_of(&run).await?;
                serde_json::to_value(record)?
            }
            Invocation::Ask { ask: Question::Regions } => serde_json::to_value(&self.settings.regions)?,
            Invocation::Ask { ask: Question::Heartbeat } => {
                self.data_of(Job::Heartbeat.name()).await?.unwrap_or(Value::Null)
            }
            Invocation::Ask { ask: Question::Status } => serde_json::to_value(self.status().await)?,
        })
    }

    async fn status(&self) -> Vec<RegionStatus> {
        let mut regions = Vec::new();
        for place in &self.settings.regions {
            let answer =
                async { Ok::<Status, anyhow::Error>(self.region(&place.region)?.ask(&Request::Status {}).await?) };
            let (status, error) = match answer.await {
                Ok(status) => (Some(status), None),
                Err(error) => (None, Some(format!("{error:#}"))),
            };
            regions.push(RegionStatus { region: place.region.clone(), status, error });
        }
        regions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_and_questions_are_told_apart() {
        let run: Invocation = serde_json::from_str(r#"{"job":"heartbeat","args":{}}"#).unwrap();
        assert!(matches!(run, Invocation::Run(_)));
        let ask: Invocation = serde_json::from_str(r#"{"ask":"status"}"#).unwrap();
        assert!(matches!(ask, Invocation::Ask { ask: Question::Status }));
        let ask: Invocation = serde_json::from_str(r#"{"ask":{"run":"resync-1"}}"#).unwrap();
        assert!(matches!(ask, Invocation::Ask { ask: Question::Run(_) }));
    }
}
