//! Read your writes: waiting until a region has applied what was published.

use super::Receipt;
use crate::invoke::{InvokeError, RegionClient};
use crate::lane::Lane;
use crate::position::Position;
use crate::protocol::Request;
use std::collections::BTreeMap;
use std::time::Duration;
use tidemark_runtime::clock::Clock;

/// Between the first two looks at a region's mark; each look is an invocation, so the wait grows.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest wait between two looks.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Why a wait ended without the change being seen.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// The time ran out.
    #[error("{region} has not applied lane {lane} up to {position} within {timeout:?}: it may still come")]
    TimedOut {
        /// The region.
        region: String,
        /// The lane.
        lane: Lane,
        /// The position waited for.
        position: Position,
        /// How long.
        timeout: Duration,
    },
    /// The region could not be asked, until the time ran out.
    #[error(transparent)]
    Ask(#[from] InvokeError),
}

/// Waits until `region` has applied what `receipt` speaks of, so that a service there reads what was written. A receipt
/// may come from another process.
///
/// It asks the region's replay function, so the caller needs the right to invoke it. A region that does not answer is
/// asked again until the time is up.
///
/// # Errors
/// [`WaitError`] after `timeout`: the region is behind, or did not answer the last time it was asked.
pub async fn wait_until_applied(
    receipt: &Receipt,
    region: &RegionClient,
    timeout: Duration,
    clock: &Clock,
) -> Result<(), WaitError> {
    let until_ms = clock.now_ms().saturating_add(i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX));
    let mut pause = PAUSE_MIN;
    loop {
        let request = Request::Marks { slots: vec![receipt.slot] };
        let marks: Result<BTreeMap<u16, Position>, InvokeError> = region.ask(&request).await;
        let failed = match marks {
            Ok(marks) if marks.get(&receipt.slot).is_some_and(|mark| *mark >= receipt.position) => return Ok(()),
            Ok(_) => None,
            Err(error) => Some(error),
        };
        let left_ms = until_ms.saturating_sub(clock.now_ms());
        if left_ms <= 0 {
            let (region, lane, position) = (region.region().to_owned(), receipt.lane, receipt.position.clone());
            return Err(failed.map_or(WaitError::TimedOut { region, lane, position, timeout }, WaitError::Ask));
        }
        clock.sleep(pause.min(Duration::from_millis(left_ms.unsigned_abs()))).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
