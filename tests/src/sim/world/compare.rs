//! The comparison at the end: every region with the reference model, every producer with the stream.

use super::{HOUR_MS, World, lock};
use crate::sim::kinesis::Record;
use crate::sim::reference::{self, Eviction, Held, Kind, LaneState, Place, Times};
use crate::sim::time::START_MS;
use std::collections::{BTreeMap, BTreeSet};
use tidemark_cache_sync::lane::Lane;
use tidemark_local::Content;

/// Letters of a value in a report.
const SHOWN_MAX: usize = 40;

impl World {
    pub(super) async fn compare(&mut self) -> anyhow::Result<Vec<String>> {
        let mut faults = Vec::new();
        for at in 0..self.regions.len() {
            faults.extend(self.compare_region(at).await?);
        }
        if self.old_streams.is_empty() {
            faults.extend(self.compare_producers());
        }
        let excused = self.faults.retention || !self.old_streams.is_empty();
        if !excused {
            faults
                .extend(self.needs_resync.iter().map(|said| format!("a resync was asked for without need: {said:?}")));
        }
        Ok(faults)
    }

    fn times(&self) -> Times {
        Times { gone_ms: START_MS - HOUR_MS / 2, alive_ms: self.time.now_ms() }
    }

    async fn compare_region(&self, at: usize) -> anyhow::Result<Vec<String>> {
        let region = &self.regions[at];
        let marks = region.marks().await?;
        let contents = region.contents().await?;
        let mut times = self.times();
        let mut expected = BTreeMap::new();
        let mut faults = Vec::new();
        let resynced = self.needs_resync.contains_key(region.name);
        for lane in self.lanes.all() {
            let mark = marks.get(&lane.0).copied().flatten();
            let (state, end) = self.lane_at(lane, mark, &self.evictions[at], times);
            expected.extend(state.keys);
            if mark < end && !resynced {
                faults.push(format!("{} lane {lane} stands at {mark:?} and should at {end:?}", region.name));
            }
        }
        times.gone_ms = times.alive_ms;
        for (key, possible) in &mut expected {
            reference::pass_time(possible, None, times);
            let found = contents.get(key);
            if !possible.iter().any(|held| same(held.as_ref(), found)) {
                let shown: Vec<String> = possible.iter().map(|held| show_held(held.as_ref())).collect();
                let (key, found) = (String::from_utf8_lossy(key), show_found(found));
                faults.push(format!("{} {key}: holds {found}, should {}", region.name, shown.join(" or ")));
                faults.extend(self.history(&key));
            }
        }
        let unknown = contents.keys().filter(|key| !expected.contains_key(*key));
        faults.extend(unknown.map(|key| format!("{} holds {:?}", region.name, String::from_utf8_lossy(key))));
        Ok(faults)
    }

    /// What a lane whose mark is `mark` comes to, and where it should stand.
    fn lane_at(
        &self,
        lane: Lane,
        mark: Option<Place>,
        evictions: &[Eviction],
        times: Times,
    ) -> (LaneState, Option<Place>) {
        let stream = lock(&self.cloud.stream);
        let end = stream.lane(lane.0).iter().rev().find_map(|record| reference::last_place(record));
        let Some(mark) = mark else { return (LaneState::default(), end) };
        let mut streams = self.old_streams.iter().chain([&*stream]);
        let holder = streams.rfind(|stream| stream.lane(lane.0).iter().any(|record| record.number == mark.0));
        let records = holder.map(|stream| stream.lane(lane.0)).unwrap_or_default();
        (reference::run(self.lanes, lane.0, &records, mark, evictions, times), end)
    }

    /// The records that speak of a key, in stream order.
    fn history(&self, key: &str) -> Vec<String> {
        let stream = lock(&self.cloud.stream);
        let lane = self.lanes.of_key(key.as_bytes()).0;
        let text = |record: &Record| match &record.meaning {
            Some(changes) => format!("{changes:?}"),
            None => String::from_utf8_lossy(&record.sent).into_owned(),
        };
        let records = self.old_streams.iter().flat_map(|old| old.lane(lane)).chain(stream.lane(lane));
        let ours = records.map(|record| (record.number, record.arrival_ms, text(record)));
        let ours = ours.filter(|(_, _, text)| text.contains(key));
        ours.map(|(number, arrival, text)| format!("    {number} at {arrival} {text}")).collect()
    }

    fn compare_producers(&self) -> Vec<String> {
        let stream = lock(&self.cloud.stream);
        let mut faults = Vec::new();
        for lane in self.lanes.all() {
            let records = stream.lane(lane.0);
            let all = (u64::MAX, u32::MAX);
            let effective = reference::run(self.lanes, lane.0, &records, all, &[], self.times()).effective;
            for service in &self.services {
                faults.extend(service.faults(lane, &effective));
            }
            for foreign in &self.foreign {
                let ours = effective.iter().filter(|one| one.change["producer"].as_str() == foreign.id());
                let seqs: BTreeSet<u64> = ours.filter_map(|one| one.seq).collect();
                let lost = (1..=foreign.last_seq(lane)).filter(|seq| !seqs.contains(seq));
                faults.extend(lost.map(|seq| format!("{:?} lane {lane}: seq {seq} has no effect", foreign.id())));
            }
        }
        faults
    }
}

/// The beginning of a value; large ones would hide the rest of a report.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(SHOWN_MAX).collect()
}

fn show_held(held: Option<&Held>) -> String {
    let text = |bytes: &Vec<u8>| shown(bytes);
    let Some(held) = held else { return String::from("nothing") };
    let value = match &held.kind {
        Kind::String(value) => format!("string {:?}", text(value)),
        Kind::List(items) => format!("list {:?}", items.iter().map(text).collect::<Vec<_>>()),
        Kind::Set(members) => format!("set {:?}", members.iter().map(text).collect::<Vec<_>>()),
        Kind::Hash(fields) => format!("hash {:?}", fields.iter().map(|(f, v)| (text(f), text(v))).collect::<Vec<_>>()),
        Kind::Sorted(members) => format!("zset {:?}", members.iter().map(|(m, s)| (text(m), s)).collect::<Vec<_>>()),
    };
    format!("{value} until {:?}", held.expires_at_ms)
}

fn show_found(found: Option<&Content>) -> String {
    let Some(found) = found else { return String::from("nothing") };
    let parts: Vec<String> = found.value.iter().map(|part| shown(part)).collect();
    format!("{} {parts:?} until {}", found.kind, found.expires_at_ms)
}

/// Whether a region holds what it should.
fn same(held: Option<&Held>, found: Option<&Content>) -> bool {
    let (Some(held), Some(found)) = (held, found) else { return held.is_none() && found.is_none() };
    let expires = held.expires_at_ms.unwrap_or(-1) == found.expires_at_ms;
    let pairs = || found.value.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone()));
    let value = match (&held.kind, found.kind.as_str()) {
        (Kind::String(value), "string") => found.value == [value.clone()],
        (Kind::List(items), "list") => found.value == *items,
        (Kind::Set(members), "set") => found.value.iter().eq(members),
        (Kind::Hash(fields), "hash") => pairs().collect::<BTreeMap<_, _>>() == *fields,
        (Kind::Sorted(members), "zset") => {
            let score = |text: Vec<u8>| String::from_utf8_lossy(&text).parse::<f64>().ok();
            let found: Option<BTreeMap<Vec<u8>, f64>> =
                pairs().map(|(member, text)| Some((member, score(text)?))).collect();
            found.as_ref() == Some(members)
        }
        _ => false,
    };
    expires && value
}
