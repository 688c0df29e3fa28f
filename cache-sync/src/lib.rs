//! Cache sync: keeps the Redis caches of several regions in step over one Kinesis stream.
//!
//! Backend services put changes onto the stream ([`publish`]). In the hub, [`forward`] passes each batch on to every
//! target region, whose [`region`] function replays it into its own Redis, fenced by the lane record, and feeds a
//! region that is behind. Snapshots and resyncs are driven by jobs through the same regional function.
//!
//! Knows nothing of schedules or jobs; the contract for producers in other languages is CONTRACT.md.

pub mod arguments;
pub mod change;
pub mod event;
pub mod fold;
pub mod forward;
pub mod frame;
pub mod invoke;
pub mod keys;
pub mod kpl;
pub mod lane;
pub mod lane_record;
pub mod messagepack;
mod plain_json;
pub mod position;
pub mod protocol;
pub mod publish;
pub mod quarantine;
pub mod record;
pub mod region;
pub mod scope;
pub mod snapshot;
pub mod stream;
pub mod values;
pub mod wire;
