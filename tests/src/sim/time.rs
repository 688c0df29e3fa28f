//! Simulated time: it moves where the schedule says so, for the servers too, and a sleep ends when the schedule lets it.

use super::calls::{Calls, Hop};
use anyhow::{Context as _, ensure};
use std::fs::File;
use std::future::Future;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tidemark_runtime::clock::{Clock, Time};

/// When every world begins, in milliseconds since the epoch: 14 November 2023.
pub(super) const START_MS: i64 = 1_700_000_000_000;
/// What a server is to load so that its clock is the world's; compiled where it is needed.
const SERVER_CLOCK: &str = include_str!("server_time.c");

/// The clock that the Redis servers of a bench see.
#[derive(Debug)]
pub(super) struct ServerClock {
    file: File,
    path: PathBuf,
    library: PathBuf,
}

impl ServerClock {
    /// A clock that stands at [`START_MS`]; its files lie in `directory`.
    pub(super) fn make(directory: &Path) -> anyhow::Result<Self> {
        let (source, library) = (directory.join("server_time.c"), directory.join("server_time.so"));
        std::fs::write(&source, SERVER_CLOCK)?;
        let mut compile = Command::new("cc");
        compile.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
        let made =
            compile.output().context("the clock of the servers needs a C compiler as `cc` (make prerequisites)")?;
        ensure!(made.status.success(), "cc {}: {}", source.display(), String::from_utf8_lossy(&made.stderr));
        let path = directory.join("server_time");
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
        let clock = Self { file, path, library };
        clock.set(START_MS);
        Ok(clock)
    }

    /// What the environment of a server must hold.
    pub(super) fn environment(&self) -> [(&str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("TIDEMARK_SERVER_TIME", &self.path)]
    }

    fn set(&self, now_ms: i64) {
        let written = self.file.write_all_at(&(now_ms * 1_000).to_ne_bytes(), 0);
        assert!(written.is_ok(), "the servers' clock cannot be set: {written:?}");
    }
}

/// The time of one world.
#[derive(Clone, Debug)]
pub(super) struct WorldTime {
    calls: Calls,
    now_ms: Arc<AtomicI64>,
    servers: Arc<ServerClock>,
}

impl WorldTime {
    /// Time that stands at [`START_MS`], for `servers` too.
    pub(super) fn new(calls: &Calls, servers: &Arc<ServerClock>) -> Self {
        servers.set(START_MS);
        Self { calls: calls.clone(), now_ms: Arc::new(AtomicI64::new(START_MS)), servers: Arc::clone(servers) }
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    pub(super) fn advance(&self, by_ms: i64) {
        self.advance_to(self.now_ms() + by_ms);
    }

    fn advance_to(&self, then_ms: i64) {
        let before = self.now_ms.fetch_max(then_ms, Ordering::Relaxed);
        self.servers.set(before.max(then_ms));
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
