//! One schedule written by hand: a delivery hangs while its mapping goes on, a failover loses what was acknowledged
//! meanwhile, and the hung delivery is the first to be fed.

use super::calls::{Calls, Fate};
use super::cloud::{Cloud, Objects};
use super::kinesis::{Owner, Stream};
use super::mapping::{Begin, Mapping};
use super::region::SimRegion;
use super::time::WorldTime;
use super::{Bench, Variant};
use anyhow::{Context as _, ensure};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tidemark_cache_sync::lane::Lanes;

/// Steps in which what was begun must end.
const STEPS_MAX: u32 = 1_000;
const BUDGET: Duration = Duration::from_secs(900);

struct Late {
    calls: Calls,
    cloud: Cloud,
    now_ms: i64,
}

/// Runs the schedule, and returns what the key holds whose last change is `new`.
pub(super) async fn run(variant: Variant, bench: &Bench) -> anyhow::Result<String> {
    let calls = Calls::default();
    let time = WorldTime::new(&calls, &bench.clock);
    let now_ms = time.now_ms();
    let objects = Objects::default();
    let stream = Stream::new(1, now_ms, 1, false, &objects);
    let cloud = Cloud::new(&calls, &time, stream, objects);
    let region = SimRegion::start(0, bench, &cloud, Lanes::new(1)?, variant, 1).await?;
    let region = Arc::new(region);
    let late = Late { calls, cloud, now_ms };
    let mut mapping = late.with_stream(|stream| Mapping::new(&late.cloud, &region, 1, Begin::TrimHorizon, stream));

    late.put(r#"{"v":1,"heartbeat":1,"at_ms":1}"#);
    late.deliver_all(&mut mapping, None).await?;
    let backup = region.back_up().await?;

    late.put(r#"{"v":1,"cmd":["SET","key","old"]}"#);
    let mut hung = mapping.twin();
    late.with_stream(|stream| hung.deliver(stream, 0, 1, BUDGET));
    late.calls.settle().await;
    let held = late.calls.waiting().first().map(|call| call.id);
    ensure!(held.is_some(), "the delivery that should hang has ended");
    late.deliver_all(&mut mapping, held).await?;
    late.put(r#"{"v":1,"cmd":["SET","key","new"]}"#);
    late.deliver_all(&mut mapping, held).await?;

    region.fail_over(&backup).await?;
    region.cool_down();
    late.end(&mut hung, None).await?;
    late.put(r#"{"v":1,"cmd":["SET","other","next"]}"#);
    late.deliver_all(&mut mapping, None).await?;
    let contents = region.contents().await?;
    let other = contents.get(b"other".as_slice()).context("the last change was not applied")?;
    ensure!(other.value == [b"next"], "the last change was not applied");
    let key = contents.get(b"key".as_slice()).context("the key is gone")?;
    Ok(String::from_utf8_lossy(&key.value.concat()).into_owned())
}

impl Late {
    fn with_stream<T>(&self, act: impl FnOnce(&mut Stream) -> T) -> T {
        act(&mut self.cloud.stream.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, data: &str) {
        self.with_stream(|stream| stream.put(Owner::Foreign, "0", data.as_bytes().to_vec(), None, self.now_ms));
    }

    /// Delivers until all is acknowledged; the call `held` goes on waiting.
    async fn deliver_all(&self, mapping: &mut Mapping, held: Option<u64>) -> anyhow::Result<()> {
        while self.with_stream(|stream| !mapping.deliverable(stream).is_empty()) {
            self.with_stream(|stream| mapping.deliver(stream, 0, 10, BUDGET));
            self.end(mapping, held).await?;
        }
        Ok(())
    }

    /// Lets a delivery end.
    async fn end(&self, mapping: &mut Mapping, held: Option<u64>) -> anyhow::Result<()> {
        for _ in 0..STEPS_MAX {
            self.calls.settle().await;
            mapping.collect(|| false);
            if mapping.is_idle() {
                return Ok(());
            }
            let next = self.calls.waiting().into_iter().find(|call| Some(call.id) != held);
            self.calls.decide(next.context("a delivery waits for nothing")?.id, Fate::Pass);
        }
        anyhow::bail!("no end after {STEPS_MAX} steps")
    }
}
