//! What the tests of several crates share: seeded randomness, batches as the mapping delivers
//! them, a model of PutRecords with its faults, a proxy that makes commands late, and the seeded simulation of cache
//! sync.

pub mod athena;
pub mod batch;
pub mod put_records;
pub mod random;
pub mod sim;
pub mod stall;
pub mod web_server;
