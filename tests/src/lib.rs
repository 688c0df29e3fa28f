//! What the tests of several crates share: seeded randomness, batches as the mapping delivers
//! them, a model of PutRecords with its faults, and a proxy that makes commands late.

pub mod batch;
pub mod put_records;
pub mod random;
pub mod stall;
