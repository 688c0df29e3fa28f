//! What operators and jobs ask of a region: a key, the marks, everything at a glance.

use super::cluster::{self, Cluster};
use super::connection::{Session, redis_error};
use super::export::{kind_named, read_command, state_of};
use super::fence::{Unit, View};
use super::{Region, RegionError, batch};
use crate::fold::State as KeyState;
use crate::keys;
use crate::lane::Lane;
use crate::lane_record::{FIELDS, LaneRecord, State};
use crate::position::Position;
use crate::protocol::{Found, Shown, Status};
use redis::{Pipeline, Value};
use std::collections::{BTreeMap, BTreeSet};

impl Region {
    /// Every lane's record, the server's version and the number of keys. On a cluster a lane's record is made of its
    /// slots': the oldest mark, the worst state.
    pub(super) async fn status(&self) -> Result<Status, RegionError> {
        let mut session = self.connections.session().await?;
        let all: Vec<Lane> = self.settings.lanes.all().collect();
        let lanes = self.lane_records(&mut session, &all).await?;
        let keys: u64 = session.ask(&redis::cmd("DBSIZE")).await?;
        let server_version = match &mut session {
            Session::Standalone(connection) => connection.server.version.clone(),
            Session::Cluster(cluster) => {
                let servers = cluster.servers().await?;
                let versions: BTreeSet<String> = servers.into_iter().map(|server| server.version).collect();
                format!("{} (cluster)", versions.into_iter().collect::<Vec<_>>().join(", "))
            }
        };
        self.connections.give_back(session);
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
        let lanes = self.settings.lanes;
        let mut session = self.connections.session().await?;
        let mut marks = BTreeMap::new();
        if let Session::Cluster(cluster) = &session {
            let units = slots.iter().map(|slot| Unit { lane: lanes.of_slot(*slot), slot: Some(*slot) });
            for (unit, view) in read_units(cluster, units.collect()).await? {
                marks.extend(unit.slot.zip(view.mark().cloned()));
            }
        } else {
            let wanted: BTreeSet<Lane> = slots.iter().map(|slot| lanes.of_slot(*slot)).collect();
            let records = self.lane_records(&mut session, &wanted.into_iter().collect::<Vec<_>>()).await?;
            let mark = |slot: u16| records.get(&lanes.of_slot(slot)).and_then(|record| record.mark.clone());
            marks.extend(slots.iter().filter_map(|slot| mark(*slot).map(|mark| (*slot, mark))));
        }
        self.connections.give_back(session);
        Ok(marks)
    }

    /// One key's value and expiry.
    pub(super) async fn get(&self, key: &str) -> Result<Found, RegionError> {
        let mut session = self.connections.session().await?;
        let state = read_state(&mut session, key).await?;
        self.connections.give_back(session);
        Ok(match state {
            Some(state) => Found { value: Some(shown(state.value)), expires_at_ms: state.expires_at_ms },
            None => Found { value: None, expires_at_ms: None },
        })
    }

    async fn lane_records(
        &self,
        session: &mut Session,
        lanes: &[Lane],
    ) -> Result<BTreeMap<Lane, LaneRecord>, RegionError> {
        let mut records = BTreeMap::new();
        match session {
            Session::Standalone(connection) => {
                let mut pipeline = Pipeline::new();
                for lane in lanes {
                    pipeline.cmd("HMGET").arg(keys::lane_record(*lane)).arg(&FIELDS);
                }
                let answers: Vec<Vec<Option<String>>> =
                    pipeline.query_async(&mut connection.redis).await.map_err(redis_error("reading lane records"))?;
                for (lane, fields) in lanes.iter().zip(answers) {
                    let damaged = |source| RegionError::LaneRecord { lane: *lane, source };
                    records.extend(LaneRecord::from_fields(&fields).map_err(damaged)?.map(|record| (*lane, record)));
                }
            }
            Session::Cluster(cluster) => {
                for lane in lanes {
                    let units = batch::all_units(*lane, self.settings.lanes, true);
                    let views = read_units(cluster, units).await?;
                    records
                        .extend(oldest(views.into_iter().map(|(_, view)| view.record)).map(|record| (*lane, record)));
                }
            }
        }
        Ok(records)
    }
}

async fn read_units(cluster: &Cluster, units: Vec<Unit>) -> Result<Vec<(Unit, View)>, RegionError> {
    let wanted: Vec<(Unit, Vec<&str>)> = units.iter().map(|unit| (*unit, Vec::new())).collect();
    Ok(units.into_iter().zip(cluster::read(cluster, &wanted).await?).collect())
}

/// A lane's record as its slots' make it: the oldest mark and heartbeat, and ready only where all are.
fn oldest(records: impl Iterator<Item = Option<LaneRecord>>) -> Option<LaneRecord> {
    let records: Vec<Option<LaneRecord>> = records.collect();
    let known = || records.iter().flatten();
    let mut record = known().min_by(|a, b| a.mark.cmp(&b.mark))?.clone();
    record.heartbeat = known().map(|record| record.heartbeat).min().flatten();
    record.verify = known().filter_map(|record| record.verify.clone()).min();
    if let Some(other) = known().find(|record| record.state != State::Ready) {
        record.state = other.state.clone();
    }
    if records.iter().any(Option::is_none) {
        record.mark = None;
        record.state = State::Feeding;
    }
    Some(record)
}

async fn read_state(session: &mut Session, key: &str) -> Result<Option<KeyState>, RegionError> {
    let command = |name: &str| {
        let mut command = redis::cmd(name);
        command.arg(key);
        command
    };
    let kind: String = session.ask(&command("TYPE")).await?;
    let Some(kind) = kind_named(&kind, key.as_bytes())? else { return Ok(None) };
    let expires_at_ms: i64 = session.ask(&command("PTTL")).await?;
    let now: Vec<i64> = session.ask(&redis::cmd("TIME")).await?;
    let now_ms = now.first().unwrap_or(&0) * 1_000 + now.get(1).unwrap_or(&0) / 1_000;
    let answer: Value = session.ask(&read_command(Some(kind), key.as_bytes())).await?;
    if is_absent(&answer) {
        return Ok(None);
    }
    state_of(kind, answer, (expires_at_ms >= 0).then_some(now_ms + expires_at_ms), key.as_bytes()).map(Some)
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
