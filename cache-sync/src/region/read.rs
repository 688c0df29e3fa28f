//! What operators and jobs ask of a region: a key, the marks, everything at a glance.

use super::connection::{Connection, redis_error};
use super::{Region, RegionError};
use crate::keys;
use crate::lane::Lane;
use crate::lane_record::{FIELDS, LaneRecord};
use crate::position::Position;
use crate::protocol::{Found, Shown, Status};
use redis::{Pipeline, Value};
use std::collections::{BTreeMap, BTreeSet};

impl Region {
    /// Every lane's record, the server's version and the number of keys.
    pub(super) async fn status(&self) -> Result<Status, RegionError> {
        let mut connection = self.connections.take().await?;
        let all: Vec<Lane> = self.settings.lanes.all().collect();
        let lanes = lane_records(&mut connection, &all).await?;
        let keys: u64 = redis::cmd("DBSIZE").query_async(&mut connection.redis).await.map_err(redis_error("DBSIZE"))?;
        let server_version = connection.server.version.clone();
        self.connections.give_back(connection);
        Ok(Status {
            region: self.settings.region.clone(),
            server_version,
            lanes_count: self.settings.lanes.count(),
            keys,
            lanes,
        })
    }

    /// The marks that the keys of some slots are under, those that have one.
    pub(super) async fn marks(&self, slots: &[u16]) -> Result<BTreeMap<u16, Position>, RegionError> {
        let lane = |slot: u16| self.settings.lanes.of_slot(slot);
        let lanes: BTreeSet<Lane> = slots.iter().map(|slot| lane(*slot)).collect();
        let lanes: Vec<Lane> = lanes.into_iter().collect();
        let mut connection = self.connections.take().await?;
        let records = lane_records(&mut connection, &lanes).await?;
        self.connections.give_back(connection);
        let mark = |slot: u16| records.get(&lane(slot)).and_then(|record| record.mark.clone());
        Ok(slots.iter().filter_map(|slot| mark(*slot).map(|mark| (*slot, mark))).collect())
    }

    /// One key's value and expiry.
    pub(super) async fn get(&self, key: &str) -> Result<Found, RegionError> {
        let mut connection = self.connections.take().await?;
        let entry = super::export::read_state(&mut connection, key.as_bytes()).await?;
        self.connections.give_back(connection);
        Ok(match entry {
            Some(entry) => Found { value: Some(shown(entry.value)), expires_at_ms: entry.expires_at_ms },
            None => Found { value: None, expires_at_ms: None },
        })
    }
}

async fn lane_records(connection: &mut Connection, lanes: &[Lane]) -> Result<BTreeMap<Lane, LaneRecord>, RegionError> {
    let mut pipeline = Pipeline::new();
    for lane in lanes {
        pipeline.cmd("HMGET").arg(keys::lane_record(*lane)).arg(&FIELDS);
    }
    let answers: Vec<Vec<Option<String>>> =
        pipeline.query_async(&mut connection.redis).await.map_err(redis_error("reading lane records"))?;
    let mut records = BTreeMap::new();
    for (lane, fields) in lanes.iter().zip(answers) {
        let record =
            LaneRecord::from_fields(&fields).map_err(|source| RegionError::LaneRecord { lane: *lane, source })?;
        records.extend(record.map(|record| (*lane, record)));
    }
    Ok(records)
}

fn shown(value: crate::fold::Value) -> Shown {
    use crate::fold::Value as Held;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    match value {
        Held::String(bytes) => Shown::String(text(bytes)),
        Held::Hash(fields) => {
            Shown::Hash(fields.into_iter().map(|(field, value)| (text(field), text(value))).collect())
        }
        Held::List(items) => Shown::List(items.into_iter().map(text).collect()),
        Held::Set(members) => Shown::Set(members.into_iter().map(text).collect()),
        Held::SortedSet(members) => {
            let mut members: Vec<(String, f64)> =
                members.into_iter().map(|(member, score)| (text(member), score)).collect();
            members.sort_by(|a, b| a.1.total_cmp(&b.1).then_with(|| a.0.cmp(&b.0)));
            Shown::SortedSet(members)
        }
    }
}

/// Whether an answer says that there is nothing.
pub(super) fn is_absent(answer: &Value) -> bool {
    match answer {
        Value::Nil => true,
        Value::Array(items) => items.is_empty(),
        Value::Map(items) => items.is_empty(),
        Value::Set(items) => items.is_empty(),
        _ => false,
    }
}
