//! The seeded simulation: the sound protocol holds, and every known-bad variant is caught.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use tidemark_tests::sim::{Bench, Variant};

/// Seeds of the sound protocol in every run; `make simulate` runs more.
const SEEDS: u64 = 300;
/// Seeds that are run twice.
const REPLAYED: u64 = 20;
/// Worlds at once.
const BENCHES: usize = 2;
/// A known-bad variant must be caught within so many seeds.
const CAUGHT_WITHIN: u64 = 400;

#[test]
fn every_region_equals_the_reference_model_whatever_happens() {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let worker = || {
            let bench = Bench::start().unwrap();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= SEEDS {
                    return;
                }
                bench.run(seed, Variant::Sound).unwrap_or_else(|failure| panic!("{failure}"));
            }
        };
        let workers: Vec<_> = (0..BENCHES).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
}

/// So that a failure can be looked at again. Other processes start meanwhile, as they do beside other tests: each has a
/// copy of every open socket for a moment.
#[test]
fn a_seed_runs_the_same_way_again() {
    let bench = Bench::start().unwrap();
    let _starting = Starting::many();
    for seed in 0..REPLAYED {
        let [first, again] = [(); 2].map(|()| bench.run(seed, Variant::Sound).unwrap().trace);
        let differs = first.iter().zip(&again).position(|(one, other)| one != other);
        let lines = differs.map(|at| (at, &first[at.saturating_sub(3)..=at], &again[at]));
        assert!(lines.is_none() && first.len() == again.len(), "seed {seed} ran in another way: {lines:#?}");
    }
}

/// A thread that starts one process after the other, until this is dropped.
struct Starting(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Starting {
    fn many() -> Self {
        let goes_on = Arc::new(AtomicBool::new(true));
        let starts = Arc::clone(&goes_on);
        let thread = std::thread::spawn(move || {
            while starts.load(Ordering::Relaxed) {
                assert!(Command::new("true").status().unwrap().success());
            }
        });
        Self(goes_on, Some(thread))
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
        self.1.take().map(JoinHandle::join);
    }
}

fn assert_caught(variant: Variant) {
    let bench = Bench::start().unwrap();
    let caught = (0..CAUGHT_WITHIN).find(|seed| bench.run(*seed, variant).is_err());
    let caught = caught.unwrap_or_else(|| panic!("{variant:?} was not caught within {CAUGHT_WITHIN} seeds"));
    writeln!(std::io::stderr().lock(), "{variant:?} is caught at seed {caught}").unwrap();
}

#[test]
fn marks_written_first_are_caught() {
    assert_caught(Variant::MarksFirst);
}

#[test]
fn a_retry_that_overtakes_is_caught() {
    assert_caught(Variant::RetryOvertakes);
}

#[test]
fn changes_without_producer_and_seq_are_caught() {
    assert_caught(Variant::NoProducerSeq);
}

#[test]
fn a_watch_pipelined_with_exec_is_caught() {
    assert_caught(Variant::WatchPipelinedWithExec);
}

#[test]
fn a_replication_id_kept_per_node_is_caught() {
    assert_caught(Variant::ReplicationIdPerNode);
}

#[test]
fn missing_heartbeats_are_caught() {
    assert_caught(Variant::NoHeartbeats);
}

#[test]
fn a_feed_that_rereads_the_mark_is_caught() {
    assert_caught(Variant::FeedRereadsMark);
}

#[test]
fn a_producer_id_that_outlives_its_process_is_caught() {
    assert_caught(Variant::ProducerIdReused);
}

#[test]
fn a_change_sent_before_its_value_is_on_s3_is_caught() {
    assert_caught(Variant::ChangeBeforeValue);
}

/// Too rare for random seeds, so the schedule is written down.
#[test]
fn a_hung_delivery_that_is_fed_first_after_a_failover_does_not_hide_what_came_after_it() {
    let bench = Bench::start().unwrap();
    assert_eq!(bench.late_delivery(Variant::Sound).unwrap(), "new");
    // The same with a feed that ends at the batch in hand, so that the schedule is seen to matter.
    assert_eq!(bench.late_delivery(Variant::FeedEndsAtBatch).unwrap(), "old");
}
