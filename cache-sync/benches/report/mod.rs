//! What every benchmark of this crate says, and how it measures: one JSON object a line, medians, CPU time.

use rustix::time::{ClockId, clock_gettime};

/// The words on the command line, which choose benchmarks by name.
pub(crate) struct Chosen(Vec<String>);

impl Chosen {
    /// What the command line chooses; everything where it has no words.
    pub(crate) fn from_args() -> Self {
        Self(std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|word| name.contains(word.as_str()))
    }
}

/// A number from the environment, by which a benchmark's size is changed.
pub(crate) fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// CPU seconds of this process that some work takes.
pub(crate) fn cpu_s<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let now_s = || {
        let now = clock_gettime(ClockId::ProcessCPUTime);
        now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
    };
    let start = now_s();
    let done = work();
    (now_s() - start, done)
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::print_stdout, reason = "the benchmark's answer")]
pub(crate) fn print(name: &str, value: f64, unit: &str, ratio: Option<(f64, &str)>, runs: usize) {
    let round = |number: f64| (number * 1000.0).round() / 1000.0;
    let (ratio, against) = ratio.unzip();
    let ratio = ratio.map(round);
    let line = serde_json::json!({
        "name": name, "value": round(value), "unit": unit, "ratio": ratio, "against": against, "runs": runs,
    });
    println!("{line}");
}
