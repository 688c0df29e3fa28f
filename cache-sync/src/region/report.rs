//! What replay tells of a batch, as metrics.
//!
//! Every metric has the dimension `region` alone, so that their number does not grow with the lanes: `lag_ms`,
//! `heartbeat_ms` and `chunk_ms` carry a sample for each lane, heartbeat and chunk, which gives maximum and percentiles.
//! Only while a lane lags by more than [`SLOW_LANE_MS`] is it named: as a metric `lane_lag_ms` with the dimensions
//! `region` and `lane`, at most one a lane, and only then. Each line names the lanes of its batch with their lag as a
//! property, for whoever searches the logs.

use super::Region;
use super::batch::{Batch, What};
use crate::lane::Lane;
use crate::protocol::{Counts, Outcome, ReplayAnswer};
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use tidemark_runtime::metrics::{self, Metric, Unit};

/// A lane that lags by more than this gets a metric of its own, in milliseconds.
pub const SLOW_LANE_MS: i64 = 10_000;

/// What is measured on the way, until the batch is reported.
#[derive(Debug, Default)]
pub(super) struct Meter {
    chunk_ms: Mutex<Vec<f64>>,
}

impl Meter {
    /// A chunk took so long from its first word to Redis until its last answer.
    pub(super) fn chunk(&self, took_ms: i64) {
        self.chunk_ms.lock().unwrap_or_else(PoisonError::into_inner).push(took_ms as f64);
    }
}

impl Region {
    /// Prints the metrics of one batch: what each lane came to, `None` where it failed.
    pub(super) fn report(&self, batch: &Batch<'_>, answer: &ReplayAnswer, lanes: &BTreeMap<Lane, Option<Counts>>) {
        let now_ms = self.clock.now_ms();
        let chunk_ms = std::mem::take(&mut *self.meter.chunk_ms.lock().unwrap_or_else(PoisonError::into_inner));
        let lag_ms = |counts: &Counts| (counts.applied > 0).then_some(counts.lag_ms_max);
        let lags: Vec<(Lane, i64)> =
            lanes.iter().filter_map(|(lane, counts)| Some((*lane, lag_ms(counts.as_ref()?)?))).collect();
        let is_applied = |lane: &Lane| matches!(answer.lanes.get(lane), Some(Outcome::Applied { .. }));
        let applied = batch.lanes.iter().filter(|(lane, _)| is_applied(lane)).flat_map(|(_, steps)| steps);
        let heartbeat_ms = applied.filter_map(|step| match &step.what {
            What::Heartbeat(heartbeat) => Some((now_ms - heartbeat.at_ms) as f64),
            _ => None,
        });
        let (total, failed) = (&answer.counts, lanes.values().filter(|counts| counts.is_none()).count());
        let metrics = [
            Metric::count("records", batch.records as u64),
            Metric::one("bytes", Unit::Bytes, (batch.bytes / 4 * 3) as f64),
            Metric::count("changes_applied", total.applied),
            Metric::count("changes_skipped", total.skipped),
            Metric::count("changes_repeated", total.repeated),
            Metric::count("changes_coalesced", total.coalesced),
            Metric::count("changes_quarantined", total.quarantined),
            Metric::count("changes_missed", total.missed),
            Metric::count("producers_crowded_out", total.crowded_out),
            Metric::count("lanes_failed", failed as u64),
            Metric::samples("lag_ms", Unit::Milliseconds, lags.iter().map(|(_, lag)| *lag as f64).collect()),
            Metric::samples("chunk_ms", Unit::Milliseconds, chunk_ms),
            Metric::samples("heartbeat_ms", Unit::Milliseconds, heartbeat_ms.collect()),
        ];
        let by_lane = lags.iter().map(|(lane, lag_ms)| (lane.to_string(), json!(lag_ms))).collect();
        let properties = Map::from_iter([("lag_ms_by_lane".to_owned(), serde_json::Value::Object(by_lane))]);
        let region = ("region", self.settings.region.as_str());
        metrics::emit(now_ms, &[region], &metrics, &properties);
        for (lane, lag_ms) in lags.iter().filter(|(_, lag_ms)| *lag_ms > SLOW_LANE_MS) {
            let slow = [Metric::one("lane_lag_ms", Unit::Milliseconds, *lag_ms as f64)];
            metrics::emit(now_ms, &[region, ("lane", &lane.to_string())], &slow, &Map::new());
        }
    }
}
