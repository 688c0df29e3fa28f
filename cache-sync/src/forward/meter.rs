//! What forward tells of a batch, as metrics with the dimension `region`, the target's.

use serde_json::Map;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemark_runtime::metrics::{self, Metric, Unit};

/// What is counted on the way, until the batch is reported.
#[derive(Debug, Default)]
pub(super) struct Meter {
    fed_records: AtomicU64,
}

impl Meter {
    /// A feed applied so many records that it had read from the stream.
    pub(super) fn fed(&self, records: usize) {
        self.fed_records.fetch_add(records as u64, Ordering::Relaxed);
    }

    /// Prints the metrics of one batch of `bytes` that was passed on, or thrown back.
    pub(super) fn report(&self, region: &str, now_ms: i64, begun_ms: i64, bytes: usize, thrown_back: bool) {
        let metrics = [
            Metric::count("batches", 1),
            Metric::count("batches_thrown_back", u64::from(thrown_back)),
            Metric::one("batch_bytes", Unit::Bytes, bytes as f64),
            Metric::count("fed_records", self.fed_records.swap(0, Ordering::Relaxed)),
            Metric::one("invocation_ms", Unit::Milliseconds, (now_ms - begun_ms) as f64),
        ];
        metrics::emit(now_ms, &[("region", region)], &metrics, &Map::new());
    }
}
