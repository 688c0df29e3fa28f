//! What the tests of several crates share: seeded randomness, batches as the mapping delivers
//! them, models of PutRecords, of Athena and of an IndexNow engine with their faults, a crawler, a web server that may stand
//! before another, a proxy that makes commands late, and the seeded simulation of cache sync.

pub mod athena;
pub mod batch;
pub mod crawler;
pub mod indexnow;
pub mod put_records;
pub mod random;
pub mod sim;
pub mod stall;
pub mod web_server;
