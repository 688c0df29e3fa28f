//! Heartbeat: publishes the next number to every lane, so that an idle or unplugged stream shows.
//!
//! The number is committed after it was published to every lane: a run that dies in between publishes the same number
//! again, which every reader skips, and no number is ever left out.

use super::Part;
use crate::runner::Context;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;

/// How long one try of the job tries to publish; its part has three tries.
const RETRY_FOR: Duration = Duration::from_secs(10);

/// What the job keeps between runs: the last heartbeat that reached every lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Its number.
    pub last: u64,
    /// When it was published, in milliseconds since the epoch.
    #[serde(default)]
    pub at_ms: i64,
}

/// Runs the job.
///
/// # Errors
/// Where a lane could not be published to; the number is then tried again.
pub async fn run(context: &mut Context<'_>) -> anyhow::Result<Part> {
    let published: Published = serde_json::from_value(context.data().clone()).unwrap_or_default();
    let number = published.last + 1;
    let at_ms = context.cron.now_ms();
    let publisher = context.cron.publisher(RETRY_FOR).await?;
    publisher.heartbeat(number).await?;
    publisher.close().await?;
    context.set_data(serde_json::to_value(Published { last: number, at_ms })?);
    Ok(Part::Done(json!({"heartbeat": number, "lanes": context.cron.settings.lanes.count()})))
}
