//! Which faults a world knows, and what becomes of its calls.

use crate::random::Random;
use crate::sim::Variant;
use crate::sim::calls::{Fate, Hop, Waiting};

/// Which faults a world knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    pub(super) failover: bool,
    pub(super) flush: bool,
    pub(super) kills: bool,
    pub(super) late: bool,
    pub(super) refusals: bool,
    pub(super) reshard: bool,
    pub(super) mappings: bool,
    pub(super) evictions: bool,
    /// Keys that expire while the world runs.
    pub(super) near: bool,
    /// Hours pass at once, so that the retention does.
    pub(super) retention: bool,
    /// The stream is made anew.
    pub(super) anew: bool,
    /// Whether every lane is ready before the first fault.
    pub(super) settled: bool,
    /// Producers' share of the steps, in percent; the rest lets regions follow.
    pub(super) load: u64,
}

impl Faults {
    pub(super) fn draw(random: &mut Random, variant: Variant) -> Self {
        let mut faults = Self {
            failover: !random.once_in(4),
            flush: random.once_in(5),
            kills: !random.once_in(4),
            late: !random.once_in(4),
            refusals: !random.once_in(3),
            reshard: random.once_in(2),
            mappings: random.once_in(3),
            evictions: random.once_in(4),
            near: random.once_in(4),
            retention: random.once_in(10),
            anew: random.once_in(12),
            settled: random.once_in(2),
            load: 3 + random.below(18),
        };
        if variant != Variant::Sound {
            (faults.failover, faults.kills, faults.late, faults.settled) = (true, true, true, true);
            faults.load = 3 + faults.load % 8;
            (faults.near, faults.retention, faults.anew, faults.evictions, faults.flush) =
                (false, false, false, false, false);
        }
        faults
    }

    /// What becomes of a call.
    pub(super) fn fate(&self, random: &mut Random, variant: Variant, call: &Waiting) -> Fate {
        let roll = random.below(100);
        let stored = random.bits();
        let partly = call.what.starts_with("PutRecords");
        if call.late {
            return if roll < 75 { Fate::Pass } else { Fate::Fail };
        }
        let fate = match (call.hop, roll) {
            (Hop::Put, 0..=11) if partly => Fate::Partly(stored),
            (Hop::Put, 0..=5) => Fate::Throttle,
            (Hop::Put, 12..=14) => Fate::Fail,
            (Hop::Put, 15..=22) => Fate::LoseAnswer,
            (Hop::Put, 23..=29) => Fate::Late,
            (Hop::Read, 0..=2) => Fate::Throttle,
            (Hop::Read, 3..=4) => Fate::Fail,
            (Hop::Invoke, 0..=2) => Fate::Throttle,
            (Hop::Invoke, 3..=4) => Fate::Fail,
            (Hop::Invoke, 5..=8) => Fate::LoseAnswer,
            (Hop::Invoke, 9..=11) => Fate::Late,
            (Hop::Object, 0..=4) => Fate::Fail,
            (Hop::Object, 5..=6) => Fate::LoseAnswer,
            (Hop::Object, 7..=8) => Fate::Late,
            (Hop::Redis, 0..=1) => Fate::Fail,
            (Hop::Redis, 2..=3) => Fate::LoseAnswer,
            (Hop::Redis, 4..=7) => Fate::Late,
            (Hop::Redis, 8..=25) if variant == Variant::WatchPipelinedWithExec => Fate::Late,
            _ => Fate::Pass,
        };
        match fate {
            Fate::Late | Fate::LoseAnswer if !self.late => Fate::Pass,
            Fate::Throttle | Fate::Fail | Fate::Partly(_) if !self.refusals => Fate::Pass,
            fate => fate,
        }
    }
}
