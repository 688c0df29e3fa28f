//! Random changes: every command of the contract on keys of every type, expiries far ahead, in the past and, in some
//! worlds, near; now and then one that meets another type or is refused.

use super::time::START_MS;
use crate::random::{self, Random};
use serde_json::{Value, json};
use tidemark_cache_sync::lane::{Lane, Lanes};

/// Keys in a world.
const KEYS: u64 = 30;
/// Far ahead: later than any world lasts.
const FAR_MS: i64 = 60 * 24 * 3_600_000;
/// Near: while a world runs.
pub(super) const NEAR_MS: u64 = 3_000;

/// Draws changes.
#[derive(Clone, Debug)]
pub(super) struct Changes {
    keys: Vec<(Lane, String)>,
    values: u64,
    /// Whether some keys expire while the world runs.
    near: bool,
}

impl Changes {
    pub(super) fn new(lanes: Lanes, near: bool) -> Self {
        let name = |number: u64| match number % 6 {
            0 => format!("string:{number}"),
            1 => format!("hash:{number}"),
            2 => format!("set:{{{number}}}"),
            3 => format!("sorted:{number}"),
            4 => format!("list:{number}"),
            _ => format!("any:{number}"),
        };
        let keys = (0..KEYS).map(name).map(|key| (lanes.of_key(key.as_bytes()), key)).collect();
        Self { keys, values: 0, near }
    }

    /// A key of `lane`, or of any.
    pub(super) fn key(&self, random: &mut Random, lane: Option<Lane>) -> Option<(Lane, String)> {
        let fits: Vec<&(Lane, String)> = self.keys.iter().filter(|(home, _)| lane.is_none_or(|l| l == *home)).collect();
        let at = usize::try_from(random.below(fits.len().max(1) as u64)).unwrap_or(0);
        fits.get(at).map(|found| (*found).clone())
    }

    /// The commands of a change on `key`, made at `now_ms` by the producer's clock.
    pub(super) fn commands(&mut self, random: &mut Random, key: &str, now_ms: i64) -> Vec<Vec<Value>> {
        let kind = key.split(':').next().unwrap_or_default();
        let commands = match kind {
            "string" => self.string(random, key, now_ms),
            "hash" => self.hash(random, key, now_ms),
            "set" => self.set(random, key, now_ms),
            "sorted" => self.sorted(random, key, now_ms),
            "list" => self.list(random, key, now_ms),
            _ if random.once_in(2) => self.string(random, key, now_ms),
            _ => self.mixed(random, key),
        };
        let lists = commands.as_array().cloned().unwrap_or_default();
        lists.into_iter().map(|list| list.as_array().cloned().unwrap_or_default()).collect()
    }

    /// A value that no other change has.
    pub(super) fn value(&mut self) -> String {
        self.values += 1;
        format!("value-{}", self.values)
    }

    fn far_ms(random: &mut Random) -> i64 {
        FAR_MS + random.below(FAR_MS.unsigned_abs()).cast_signed()
    }

    /// An absolute expiry.
    pub(super) fn expires_at(&self, random: &mut Random, now_ms: i64) -> i64 {
        match random.below(4) {
            0 => START_MS - 3_600_000 - random.below(1_000_000).cast_signed(),
            1 | 2 if self.near => now_ms + random.below(NEAR_MS).cast_signed(),
            _ => START_MS + Self::far_ms(random),
        }
    }

    fn expires_in(&self, random: &mut Random) -> i64 {
        if self.near && random.once_in(2) { 1 + random.below(NEAR_MS).cast_signed() } else { Self::far_ms(random) }
    }

    /// A renewal, or the end of one.
    fn renewal(&self, random: &mut Random, key: &str, now_ms: i64) -> Value {
        match random.below(5) {
            0 => json!([["PERSIST", key]]),
            1 => json!([["PEXPIRE", key, self.expires_in(random).to_string()]]),
            2 => json!([["EXPIRE", key, (Self::far_ms(random) / 1_000).to_string()]]),
            3 => json!([["EXPIREAT", key, ((START_MS + Self::far_ms(random)) / 1_000).to_string()]]),
            _ => json!([["PEXPIREAT", key, self.expires_at(random, now_ms).to_string()]]),
        }
    }

    fn string(&mut self, random: &mut Random, key: &str, now_ms: i64) -> Value {
        let value = self.value();
        match random.below(12) {
            0..=4 => json!([["SET", key, value]]),
            5 => json!([["SET", key, value, "PX", self.expires_in(random).to_string()]]),
            6 => json!([["SET", key, value, "PXAT", self.expires_at(random, now_ms).to_string()]]),
            7 => match random.below(6) {
                0 => json!([["SETEX", key, (Self::far_ms(random) / 1_000).to_string(), value]]),
                1 => json!([["PSETEX", key, self.expires_in(random).to_string(), value]]),
                2 => json!([["SET", key, value, "EX", (Self::far_ms(random) / 1_000).to_string()]]),
                3 => json!([["SET", key, value, "EXAT", ((START_MS + Self::far_ms(random)) / 1_000).to_string()]]),
                4 => json!([["set", key, value, "px", self.expires_in(random).to_string()]]),
                _ => {
                    json!([["SET", key, {"b64": base64_simd::STANDARD.encode_to_string([0xff, 0, value.len() as u8])}]])
                }
            },
            8 => json!([["DEL", key]]),
            9 => json!([["SET", key, value], ["PEXPIREAT", key, self.expires_at(random, now_ms).to_string()]]),
            _ => self.renewal(random, key, now_ms),
        }
    }

    fn member(random: &mut Random) -> String {
        format!("m{}", random.below(5))
    }

    fn hash(&mut self, random: &mut Random, key: &str, now_ms: i64) -> Value {
        let value = self.value();
        match random.below(10) {
            0 | 1 => json!([["DEL", key], ["HSET", key, Self::member(random), value, "name", "n"]]),
            2..=5 => json!([["HSET", key, Self::member(random), value]]),
            6 => json!([["HDEL", key, Self::member(random), Self::member(random)]]),
            7 => json!([["UNLINK", key]]),
            8 => {
                json!([["DEL", key], ["HMSET", key, "a", value], ["PEXPIRE", key, self.expires_in(random).to_string()]])
            }
            _ => self.renewal(random, key, now_ms),
        }
    }

    fn set(&mut self, random: &mut Random, key: &str, now_ms: i64) -> Value {
        match random.below(8) {
            0 | 1 => json!([["DEL", key], ["SADD", key, Self::member(random), self.value()]]),
            2..=4 => json!([["SADD", key, self.value(), Self::member(random)]]),
            5 => json!([["SREM", key, Self::member(random), Self::member(random)]]),
            6 => json!([["DEL", key]]),
            _ => self.renewal(random, key, now_ms),
        }
    }

    fn sorted(&mut self, random: &mut Random, key: &str, now_ms: i64) -> Value {
        match random.below(8) {
            0 | 1 => json!([["DEL", key], ["ZADD", key, "1", Self::member(random), "-inf", self.value()]]),
            2..=4 => json!([["ZADD", key, random.below(90).to_string(), Self::member(random), "1.5", self.value()]]),
            5 => json!([["ZREM", key, Self::member(random), Self::member(random)]]),
            6 => json!([["DEL", key]]),
            _ => self.renewal(random, key, now_ms),
        }
    }

    fn list(&mut self, random: &mut Random, key: &str, now_ms: i64) -> Value {
        match random.below(5) {
            4 => json!([["UNLINK", key], ["LPUSH", key, self.value(), Self::member(random)]]),
            0 | 1 => json!([["DEL", key], ["RPUSH", key, self.value(), Self::member(random)], ["LPUSH", key, "first"]]),
            2 => json!([["DEL", key]]),
            _ => self.renewal(random, key, now_ms),
        }
    }

    /// Any command on any type.
    fn mixed(&mut self, random: &mut Random, key: &str) -> Value {
        random::commands(random, key, START_MS)
    }

    /// A change that the contract refuses.
    pub(super) fn refused(random: &mut Random, key: &str) -> Value {
        match random.below(8) {
            0 => json!([["INCR", key]]),
            4 => json!([["SET", key, "x", "KEEPTTL"]]),
            5 => json!([["ZADD", key, "NX", "1", "m"]]),
            6 => json!([["PEXPIRE", key, "60000", "GT"]]),
            7 => json!([["GETDEL", key]]),
            1 => json!([["RPUSH", key, "alone"]]),
            2 => json!([["SETNX", key, "x"]]),
            _ => json!([["SET", key, "x"], ["HINCRBY", key, "f", "1"]]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::reference::ALLOWED;
    use std::collections::BTreeSet;

    const CONTRACT: &str = include_str!("../../../cache-sync/CONTRACT.md");

    #[test]
    fn every_command_that_the_contract_allows_is_drawn() {
        let (_, table) = CONTRACT.split_once("### Allowed commands").unwrap();
        let cells = table.lines().skip_while(|line| !line.starts_with('|')).skip(2);
        let cells = cells.take_while(|line| line.starts_with('|')).map(|line| line.split('|').nth(1).unwrap());
        let allowed: BTreeSet<&str> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        assert_eq!(allowed, BTreeSet::from(ALLOWED));

        let (mut random, mut changes) = (Random::new(1), Changes::new(Lanes::new(4).unwrap(), true));
        let mut drawn = BTreeSet::new();
        for _ in 0..5_000 {
            let (_, key) = changes.key(&mut random, None).unwrap();
            let commands = changes.commands(&mut random, &key, START_MS);
            drawn.extend(commands.iter().map(|command| command[0].as_str().unwrap().to_ascii_uppercase()));
        }
        assert_eq!(drawn.iter().map(String::as_str).collect::<BTreeSet<&str>>(), allowed);
    }
}
