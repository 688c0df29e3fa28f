//! What happens seldom: to the regions, the mappings, the stream and the services.

use super::{HOUR_MS, World, lock};
use crate::sim::calls::{Fate, Hop};
use crate::sim::kinesis::Stream;
use crate::sim::mapping::{Begin, Mapping, kill_one};
use crate::sim::reference::Eviction;
use crate::sim::services::Service;
use crate::sim::{REGIONS, Variant};
use std::sync::Arc;

/// Backups of a region that a failover may go back to.
const BACKUPS_MAX: usize = 4;

impl World {
    /// What happens seldom.
    pub(super) async fn incident(&mut self) -> anyhow::Result<()> {
        let at = self.pick(self.regions.len());
        let choice = self.random.bits();
        let failovers =
            matches!(self.variant, Variant::ReplicationIdPerNode | Variant::FeedRereadsMark | Variant::FeedEndsAtBatch);
        let incident = match self.random.below(24) {
            // A variant that only a failover shows meets more of them.
            drawn if failovers && drawn % 2 == 0 => 9 + drawn / 2 % 2,
            drawn => drawn,
        };
        match incident {
            0..=3 => self.beat(),
            4..=6 => self.land_late(),
            7..=9 => self.back_up(at).await?,
            10 | 11 if self.faults.failover => self.fail_over(at).await?,
            12 | 13 if self.faults.kills => {
                if let Some(what) = kill_one(&self.calls, choice) {
                    self.note(format!("kill {what}"));
                }
            }
            14 if self.faults.kills => self.restart_service().await?,
            15 if self.faults.flush && self.random.once_in(2) => {
                self.regions[at].flush().await?;
                let name = self.regions[at].name;
                self.note(format!("{name}: flush"));
            }
            16 if self.faults.evictions => self.evict(at, choice).await?,
            17 if self.faults.reshard => {
                let line = lock(&self.cloud.stream).reshard(choice, self.time.now_ms());
                self.note(line);
            }
            18 if self.faults.mappings => self.map_again(at),
            19 if self.faults.mappings => self.stop_old_mapping(),
            20 => {
                self.regions[at].cool_down();
                self.mappings.iter().for_each(Mapping::cool_down);
                self.note(String::from("instances grow cold"));
            }
            21 if self.faults.retention => self.let_hours_pass(),
            22 if self.faults.anew && self.random.once_in(3) && self.old_streams.is_empty() => self.make_stream_anew(),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn beat(&mut self) {
        if self.variant == Variant::NoHeartbeats || self.heartbeats.task.is_some() {
            return;
        }
        let (publisher, number) = (Arc::clone(&self.heartbeats.publisher), self.heartbeats.number);
        let (published, calls) = (Arc::clone(&self.heartbeats.published), self.calls.clone());
        self.heartbeats.task = Some(tokio::task::spawn_local(async move {
            *lock(&published) = publisher.heartbeat(number).await.is_ok();
            calls.progressed();
        }));
        self.note(format!("heartbeat {number}"));
    }

    fn land_late(&mut self) {
        let (at, now_ms) = (self.pick(self.foreign.len()), self.time.now_ms());
        let landed = self.foreign[at].land(&mut lock(&self.cloud.stream), &mut self.random, now_ms);
        if landed {
            self.note(format!("foreign {at}: a late attempt lands"));
        }
    }

    async fn back_up(&mut self, at: usize) -> anyhow::Result<()> {
        let backup = self.regions[at].back_up().await?;
        let name = self.regions[at].name;
        self.note(format!("{name}: backup of {} keys", backup.len()));
        self.backups[at].push(backup);
        let surplus = self.backups[at].len().saturating_sub(BACKUPS_MAX);
        self.backups[at].drain(..surplus);
        Ok(())
    }

    async fn fail_over(&mut self, at: usize) -> anyhow::Result<()> {
        if self.backups[at].is_empty() {
            return Ok(());
        }
        let back = self.pick(self.backups[at].len());
        let backup = self.backups[at][back].clone();
        self.regions[at].fail_over(&backup).await?;
        self.backups[at].clear();
        // A warm instance meets its dead connections first; one that starts now does not.
        if self.variant != Variant::Sound || self.random.once_in(2) {
            self.regions[at].cool_down();
        }
        let name = self.regions[at].name;
        self.note(format!("{name}: failover to {} keys", backup.len()));
        Ok(())
    }

    pub(super) fn living_service(&mut self) -> Option<usize> {
        let living: Vec<usize> = (0..self.services.len()).filter(|at| !self.services[*at].is_dead).collect();
        let at = self.pick(living.len());
        living.get(at).copied()
    }

    /// A service ends, and another process takes its place. One that is killed has whatever it asked under way, often
    /// a PutRecords; one that ends in peace lets its publisher finish.
    async fn restart_service(&mut self) -> anyhow::Result<()> {
        let waiting = self.calls.waiting();
        let puts = |service: &Service| waiting.iter().any(|call| call.hop == Hop::Put && service.has_made(call));
        let under_way: Vec<usize> =
            (0..self.services.len()).filter(|at| !self.services[*at].is_dead && puts(&self.services[*at])).collect();
        let killed = !self.random.once_in(4);
        let at = match under_way.len() {
            many if killed && many > 0 => under_way[self.pick(many)],
            _ => match self.living_service() {
                Some(at) => at,
                None => return Ok(()),
            },
        };
        if killed {
            self.cloud.kill(self.services[at].owner());
        }
        self.services[at].end();
        self.start_service(Some(at)).await?;
        let way = if killed { "is killed" } else { "ends" };
        self.note(format!("service {at} {way}, another starts"));
        Ok(())
    }

    async fn evict(&mut self, at: usize, choice: u64) -> anyhow::Result<()> {
        let marks = self.regions[at].marks().await?;
        if let Some(key) = self.regions[at].evict(choice).await? {
            let lane = self.lanes.of_key(&key).0;
            let mark = marks.get(&lane).copied().flatten();
            let name = self.regions[at].name;
            self.note(format!("{name}: evicts {} at {mark:?}", String::from_utf8_lossy(&key)));
            self.evictions[at].extend(mark.map(|mark| Eviction { lane, key, at: mark }));
        }
        Ok(())
    }

    /// A second mapping to a region: a twin of one that is there, or one of the next generation.
    fn map_again(&mut self, at: usize) {
        let region = Arc::clone(&self.regions[at]);
        let ours: Vec<usize> = (0..self.mappings.len())
            .filter(|index| self.mappings[*index].region.name == region.name && self.mappings[*index].enabled)
            .collect();
        if ours.len() > 1 {
            return;
        }
        let newest = ours.iter().copied().max_by_key(|index| self.mappings[*index].generation);
        let mapping = match newest {
            Some(newest) if self.random.once_in(2) => self.mappings[newest].twin(),
            _ => {
                self.generation += 1;
                let begin = if self.random.once_in(2) { Begin::Latest } else { Begin::TrimHorizon };
                Mapping::new(&self.cloud, &region, self.generation, begin, &lock(&self.cloud.stream))
            }
        };
        self.note(format!("{}: another mapping, generation {}", region.name, mapping.generation));
        self.mappings.push(mapping);
    }

    /// Mappings of an older generation are removed, as the operator must.
    pub(super) fn stop_old_mapping(&mut self) {
        for region in REGIONS {
            let newest = self.mappings.iter().filter(|m| m.region.name == region).map(|m| m.generation).max();
            for mapping in self.mappings.iter_mut().filter(|m| m.region.name == region) {
                mapping.enabled &= Some(mapping.generation) == newest;
            }
        }
        self.note(String::from("old mappings are removed"));
    }

    /// Hours pass, in which no invocation goes on: fifteen minutes are the most that one may last.
    fn let_hours_pass(&mut self) {
        for (_, kill) in self.calls.invocations() {
            kill.abort();
        }
        for call in self.calls.waiting().iter().filter(|call| matches!(call.hop, Hop::Invoke | Hop::Read)) {
            self.calls.decide(call.id, Fate::Fail);
        }
        self.time.advance(9 * HOUR_MS);
        self.note(String::from("nine hours pass"));
    }

    /// The stream is deleted and made again under its name, with new mappings.
    fn make_stream_anew(&mut self) {
        self.time.advance(60_000);
        let now_ms = self.time.now_ms();
        let fresh =
            Stream::new(self.random.bits(), now_ms, 2, self.variant == Variant::NoProducerSeq, &self.cloud.objects);
        let old = std::mem::replace(&mut *lock(&self.cloud.stream), fresh);
        self.old_streams.push(old);
        self.generation += 1;
        for (_, kill) in self.calls.invocations() {
            kill.abort();
        }
        self.mappings.iter_mut().for_each(|mapping| mapping.enabled = false);
        for region in self.regions.clone() {
            let stream = lock(&self.cloud.stream);
            self.mappings.push(Mapping::new(&self.cloud, &region, self.generation, Begin::TrimHorizon, &stream));
        }
        self.note(String::from("the stream is made anew"));
    }
}
