//! `make simulate`: runs many seeds of the simulation, or one again. What the code under test prints goes to standard
//! output; what this says goes to standard error.

use anyhow::Context as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemark_tests::sim::{Bench, Variant};

/// Between two lines of progress, in seeds.
const PROGRESS: u64 = 500;

fn say(line: &str) {
    writeln!(std::io::stderr().lock(), "{line}").ok();
}

/// Arguments: how many seeds, the first, and a known-bad variant by name; one seed alone is `1 SEED`.
fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| arguments.next().map_or(Ok(default), |text| text.parse());
    let (seeds, first) = (number(300)?, number(0)?);
    let variant = match arguments.next() {
        Some(name) => Variant::named(&name).with_context(|| format!("no variant {name:?}: {:?}", Variant::ALL))?,
        None => Variant::Sound,
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, steps, failed) = (AtomicU64::new(first), AtomicU64::new(0), Mutex::new(Vec::new()));
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        let work = || -> anyhow::Result<()> {
            let bench = Bench::start()?;
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first.saturating_add(seeds) {
                    return Ok(());
                }
                match bench.run(seed, variant) {
                    Ok(summary) => {
                        steps.fetch_add(summary.steps, Ordering::Relaxed);
                    }
                    Err(failure) => {
                        say(&failure);
                        failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(seed);
                    }
                }
                let done = seed - first + 1;
                if done.is_multiple_of(PROGRESS) {
                    say(&format!("{done} of {seeds} seeds, {:?}", began.elapsed()));
                }
            }
        };
        let workers: Vec<_> =
            (0..threads.min(usize::try_from(seeds).unwrap_or(1))).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| anyhow::bail!("a world panicked")))
    })?;
    let failed = failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    say(&format!(
        "{seeds} seeds from {first}, {} steps, {:?}: {} failed {failed:?}",
        steps.load(Ordering::Relaxed),
        began.elapsed(),
        failed.len()
    ));
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
