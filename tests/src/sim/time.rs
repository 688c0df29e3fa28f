//! Simulated time: it moves where the schedule says so, and a sleep ends when the schedule lets it.

use super::calls::{Calls, Hop};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tidemark_runtime::clock::{Clock, Time};

/// The time of one world.
#[derive(Clone, Debug)]
pub(super) struct WorldTime {
    calls: Calls,
    /// `None`: the machine's clock, for worlds in which keys expire while they run.
    now_ms: Option<Arc<AtomicI64>>,
}

impl WorldTime {
    /// Time that stands at `start_ms`, or the machine's own.
    pub(super) fn new(calls: &Calls, start_ms: Option<i64>) -> Self {
        Self { calls: calls.clone(), now_ms: start_ms.map(|start| Arc::new(AtomicI64::new(start))) }
    }

    pub(super) fn now_ms(&self) -> i64 {
        match &self.now_ms {
            Some(now_ms) => now_ms.load(Ordering::Relaxed),
            None => Clock::system().now_ms(),
        }
    }

    pub(super) fn advance(&self, by_ms: i64) {
        self.advance_to(self.now_ms() + by_ms);
    }

    fn advance_to(&self, then_ms: i64) {
        if let Some(now_ms) = &self.now_ms {
            now_ms.fetch_max(then_ms, Ordering::Relaxed);
        }
    }

    /// A clock of somebody who is `skew_ms` ahead.
    pub(super) fn clock(&self, skew_ms: i64) -> Clock {
        Clock::of(Skewed { time: self.clone(), skew_ms })
    }
}

struct Skewed {
    time: WorldTime,
    skew_ms: i64,
}

impl Time for Skewed {
    fn now_ms(&self) -> i64 {
        self.time.now_ms() + self.skew_ms
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let time = self.time.clone();
        Box::pin(async move {
            let then_ms = time.now_ms() + i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
            time.calls.wait(Hop::Sleep, false, format!("{duration:?}")).await;
            time.advance_to(then_ms);
        })
    }
}
