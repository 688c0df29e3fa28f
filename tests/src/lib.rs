//! What the tests of several crates share: seeded randomness, and batches as the mapping delivers them.

pub mod batch;
pub mod random;
