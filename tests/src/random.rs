//! Seeded randomness and random changes. A seed is printed by whoever fails and replays the same run.

use serde_json::{Value, json};

/// SplitMix64: small, seeded, the same on every machine. <https://prng.di.unimi.it/splitmix64.c>
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// The commands of a random change on `key`: every command of the contract, expiries far ahead or in the past of
/// `now_ms` but never near it, and now and then one that meets another type.
pub fn commands(random: &mut Random, key: &str, now_ms: i64) -> Value {
    let item = |random: &mut Random| format!("m{}", random.below(4));
    let value = |random: &mut Random| format!("v{}", random.below(1_000));
    let ahead = |random: &mut Random| 3_600_000 + random.below(1_000_000).cast_signed();
    match random.below(20) {
        0..=3 => json!([["SET", key, value(random)]]),
        4 => json!([["SET", key, value(random), "PX", ahead(random).to_string()]]),
        5 => json!([["SETEX", key, (ahead(random) / 1_000).to_string(), value(random)]]),
        6 => json!([["SET", key, value(random), "PXAT", (now_ms - ahead(random)).to_string()]]),
        7 => json!([["DEL", key]]),
        8 => json!([["PEXPIREAT", key, (now_ms + ahead(random)).to_string()]]),
        9 => json!([["PERSIST", key]]),
        10 => json!([["EXPIREAT", key, "1"]]),
        11 => json!([["HSET", key, item(random), value(random), item(random), value(random)]]),
        12 => json!([["HDEL", key, item(random), item(random)]]),
        13 => json!([["SADD", key, item(random)]]),
        14 => json!([["SREM", key, item(random)]]),
        15 => json!([["ZADD", key, random.below(9).to_string(), item(random), "-1.5", item(random)]]),
        16 => json!([["ZREM", key, item(random)]]),
        17 => json!([["DEL", key], ["RPUSH", key, item(random), value(random)], ["LPUSH", key, "first"]]),
        18 => json!([
            ["DEL", key],
            ["HSET", key, item(random), value(random)],
            ["PEXPIRE", key, ahead(random).to_string()]
        ]),
        _ => match random.below(3) {
            0 => json!([["DEL", key], ["SADD", key, item(random), item(random)]]),
            1 => json!([["DEL", key], ["ZADD", key, "inf", item(random)], ["HSET", key, "f", "v"]]),
            _ => json!([["DEL", key], ["ZADD", key, "3", item(random)], ["PERSIST", key]]),
        },
    }
}
