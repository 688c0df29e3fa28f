//! What the tests of several crates share: seeded randomness, batches as the mapping delivers
//! them, and a proxy that makes commands late.

pub mod batch;
pub mod random;
pub mod stall;
