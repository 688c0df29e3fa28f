//! How a world comes to rest: no more faults, until all is stored, delivered and applied.

use super::{NEAR_IS_PAST_MS, World, lock};
use crate::sim::calls::Fate;
use crate::sim::mapping::{Ended, Mapping};
use crate::sim::services::Service;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A shard that is thrown back so often, with no faults any more, does not get on.
const THROWN_BACK_MAX: u32 = 40;
/// Steps in which a world must come to rest.
const DRAIN_STEPS_MAX: u64 = 60_000;

impl World {
    /// No more faults: everything is stored, delivered and applied, then a heartbeat goes through every lane.
    pub(super) async fn come_to_rest(&mut self) -> anyhow::Result<Vec<String>> {
        self.note(String::from("no more faults"));
        self.stop_old_mapping();
        let now_ms = self.time.now_ms();
        for foreign in &mut self.foreign {
            foreign.finish(&mut lock(&self.cloud.stream), now_ms);
        }
        let mut faults = self.drain().await;
        self.beat();
        faults.extend(self.drain().await);
        if self.faults.near {
            self.time.advance(NEAR_IS_PAST_MS);
        }
        Ok(faults)
    }

    pub(super) async fn drain(&mut self) -> Vec<String> {
        let mut thrown_back: BTreeMap<(usize, usize), u32> = BTreeMap::new();
        let mut blocked: BTreeSet<(usize, usize)> = BTreeSet::new();
        let mut faults = Vec::new();
        for _ in 0..DRAIN_STEPS_MAX {
            self.calls.settle().await;
            for (at, shard, ended) in self.collect(false) {
                let count = thrown_back.entry((at, shard)).or_default();
                match ended {
                    Ended::Passed => *count = 0,
                    Ended::NeedsResync(..) if *count > 2 => {
                        blocked.insert((at, shard));
                    }
                    Ended::Failed(why) if *count > THROWN_BACK_MAX => {
                        faults.push(format!("shard {shard} does not get on: {why}"));
                        blocked.insert((at, shard));
                    }
                    _ => *count += 1,
                }
            }
            self.steps += 1;
            let waiting = self.calls.waiting();
            if let Some(call) = waiting.first() {
                let lost = call.late && self.random.once_in(3);
                let fate = if lost { Fate::Fail } else { Fate::Pass };
                self.note(format!("{fate:?} {:?} #{} {}", call.hop, call.id, call.what));
                self.calls.decide(call.id, fate);
                continue;
            }
            if !self.deliver_all(&blocked) && self.is_idle() {
                return faults;
            }
        }
        faults.push(format!("not at rest after {DRAIN_STEPS_MAX} steps"));
        faults
    }

    fn is_idle(&self) -> bool {
        self.mappings.iter().all(Mapping::is_idle)
            && self.services.iter().all(Service::is_idle)
            && self.heartbeats.task.is_none()
    }

    /// Delivers what can be delivered; whether there was anything.
    fn deliver_all(&mut self, blocked: &BTreeSet<(usize, usize)>) -> bool {
        let mut lines = Vec::new();
        {
            let stream = lock(&self.cloud.stream);
            for (at, mapping) in self.mappings.iter_mut().enumerate() {
                for shard in mapping.deliverable(&stream) {
                    if !blocked.contains(&(at, shard)) {
                        lines.push(mapping.deliver(&stream, shard, 20, Duration::from_secs(900)));
                    }
                }
            }
        }
        let any = !lines.is_empty();
        lines.into_iter().for_each(|line| self.note(format!("deliver {line}")));
        any
    }
}
