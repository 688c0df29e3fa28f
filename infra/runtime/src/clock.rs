//! The clock, passed in so that tests decide what time it is and how long a sleep lasts.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a [`Clock`] stands on.
pub trait Time: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;

    /// A future that ends when `duration` has passed on this clock.
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// A source of wall-clock time in milliseconds since the Unix epoch, and of sleep.
#[derive(Clone)]
pub struct Clock(Arc<dyn Time>);

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::of(System)
    }

    /// A clock that stands at `start_ms` and moves only by sleeping, which takes no time outside; for tests.
    #[must_use]
    pub fn simulated(start_ms: i64) -> Self {
        Self::of(Simulated(AtomicI64::new(start_ms)))
    }

    /// A clock that stands on `time`.
    #[must_use]
    pub fn of(time: impl Time + 'static) -> Self {
        Self(Arc::new(time))
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.0.now_ms()
    }

    /// Returns when `duration` has passed.
    pub async fn sleep(&self, duration: Duration) {
        self.0.sleep(duration).await;
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clock({})", self.now_ms())
    }
}

struct System;

impl Time for System {
    fn now_ms(&self) -> i64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        whole_ms(since_epoch)
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(duration))
    }
}

struct Simulated(AtomicI64);

impl Time for Simulated {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.0.fetch_add(whole_ms(duration), Ordering::Relaxed);
        Box::pin(tokio::task::yield_now())
    }
}

fn whole_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_clock_moves_by_sleeping() {
        let clock = Clock::simulated(1_000);
        let copy = clock.clone();
        drop(clock.sleep(Duration::from_secs(5)));
        assert_eq!(copy.now_ms(), 1_000, "a sleep that is not waited for takes no time");
        let waiting = async { clock.sleep(Duration::from_secs(5)).await };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(waiting);
        assert_eq!(copy.now_ms(), 6_000);
    }
}
