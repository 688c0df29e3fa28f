//! Export: scans the keys in scope into parts on S3. A snapshot is an export between two readings of the marks.

use super::connection::{Connection, parse_info, redis_error};
use super::part::PartWriter;
use super::read::is_absent;
use super::{Region, RegionError};
use crate::fold::State as KeyState;
use crate::keys;
use crate::lane::Lane;
use crate::lane_record::{State, from_hash};
use crate::protocol::{Listing, SnapshotLane};
use crate::snapshot::{Kind, LaneMarks, Manifest, SNAPSHOT_VERSION, Stored, from_items};
use redis::{Cmd, FromRedisValue, Pipeline, Value, from_redis_value};
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;

/// Keys that one SCAN call asks for; as many are read at once.
const SCAN_COUNT: usize = 1_000;

impl Region {
    /// Takes a snapshot: every lane record, then every key in scope with type and expiry, then every lane record again.
    /// The manifest is written last and only where none is there.
    pub(super) async fn snapshot(&self, id: &str) -> Result<Manifest, RegionError> {
        let mut connection = self.connections.take().await?;
        let began_ms = self.clock.now_ms();
        let (start, replication_id) = self.marks_of_ready_lanes(&mut connection).await?;
        let mut writer = PartWriter::new(self, keys::snapshot_prefix(id));
        let mut scan = Scan::default();
        while let Some(found) = scan.next(&mut connection).await? {
            let found: Vec<Vec<u8>> = found.into_iter().filter(|key| self.settings.scope.contains(key)).collect();
            for (key, state) in read_states(&mut connection, &found).await? {
                let lane = self.settings.lanes.of_key(&key);
                writer.add(lane, &Stored::new(key, state)).await?;
            }
        }
        let parts = writer.finish().await?;
        let (mut end, replication_id_after) = self.marks_of_ready_lanes(&mut connection).await?;
        if replication_id != replication_id_after {
            return Err(RegionError::SnapshotLost("the server failed over while it was scanned".into()));
        }
        let mut lanes = BTreeMap::new();
        for (lane, start) in start {
            let end = end.remove(&lane).and_then(|end| end.record.mark);
            if end < start.record.mark {
                return Err(RegionError::SnapshotLost(format!(
                    "the mark of lane {lane} went back while it was scanned"
                )));
            }
            lanes.insert(lane, LaneMarks { start, end });
        }
        if let Some(lane) = end.keys().next() {
            return Err(RegionError::SnapshotLost(format!("lane {lane} was begun while it was scanned: take another")));
        }
        let manifest = Manifest {
            v: SNAPSHOT_VERSION,
            id: id.to_owned(),
            region: self.settings.region.clone(),
            scope: self.settings.scope.as_str().to_owned(),
            lanes_count: self.settings.lanes.count(),
            server_version: connection.server.version.clone(),
            began_ms,
            ended_ms: self.clock.now_ms(),
            keys: parts.iter().map(|part| part.keys).sum(),
            lanes,
            parts,
        };
        self.connections.give_back(connection);
        let body = serde_json::to_vec(&manifest).map_err(RegionError::Request)?;
        self.put_new(&keys::snapshot_manifest(id), body).await?;
        Ok(manifest)
    }

    /// Writes the names of the keys in scope, by lane.
    pub(super) async fn list(&self, run: &str) -> Result<Listing, RegionError> {
        let mut connection = self.connections.take().await?;
        let mut writer = PartWriter::new(self, keys::load_prefix(run));
        let mut scan = Scan::default();
        while let Some(found) = scan.next(&mut connection).await? {
            for key in found.into_iter().filter(|key| self.settings.scope.contains(key)) {
                writer.add(self.settings.lanes.of_key(&key), &ByteBuf::from(key)).await?;
            }
        }
        self.connections.give_back(connection);
        Ok(Listing { parts: writer.finish().await? })
    }

    /// Every lane record, which must be ready and of this server, and the server's replication ID.
    async fn marks_of_ready_lanes(
        &self,
        connection: &mut Connection,
    ) -> Result<(BTreeMap<Lane, SnapshotLane>, String), RegionError> {
        let mut pipeline = Pipeline::new();
        for lane in self.settings.lanes.all() {
            pipeline.cmd("HGETALL").arg(keys::lane_record(lane));
        }
        let hashes: Vec<BTreeMap<String, String>> =
            pipeline.query_async(&mut connection.redis).await.map_err(redis_error("reading lane records"))?;
        let info: String = redis::cmd("INFO")
            .arg("replication")
            .query_async(&mut connection.redis)
            .await
            .map_err(redis_error("INFO"))?;
        let replication_id = parse_info(&info).remove("master_replid").unwrap_or_default();
        let mut lanes = BTreeMap::new();
        for (lane, hash) in self.settings.lanes.all().zip(hashes) {
            let read = from_hash(&hash).map_err(|source| RegionError::LaneRecord { lane, source })?;
            let Some((record, producers)) = read else { continue };
            if record.state != State::Ready || record.replication_id.as_ref() != Some(&replication_id) {
                return Err(RegionError::SnapshotLost(format!(
                    "lane {lane} is {} or on another server than before: wait until it is ready",
                    record.state
                )));
            }
            lanes.insert(lane, SnapshotLane { record, producers });
        }
        Ok((lanes, replication_id))
    }
}

/// A SCAN of the whole keyspace, some keys at a time; a key may come twice.
#[derive(Default)]
struct Scan {
    cursor: Option<u64>,
}

impl Scan {
    async fn next(&mut self, connection: &mut Connection) -> Result<Option<Vec<Vec<u8>>>, RegionError> {
        if self.cursor == Some(0) {
            return Ok(None);
        }
        let (cursor, found): (u64, Vec<Vec<u8>>) = redis::cmd("SCAN")
            .arg(self.cursor.unwrap_or(0))
            .arg("COUNT")
            .arg(SCAN_COUNT)
            .query_async(&mut connection.redis)
            .await
            .map_err(redis_error("SCAN"))?;
        self.cursor = Some(cursor);
        Ok(Some(found))
    }
}

/// The states of those keys that are there. A key that changes type between the two readings is left out: the stream
/// then holds a change of it past the start mark, which decides.
async fn read_states(connection: &mut Connection, found: &[Vec<u8>]) -> Result<Vec<(Vec<u8>, KeyState)>, RegionError> {
    let kinds = read_kinds(connection, found).await?;
    let mut pipeline = Pipeline::new();
    for (key, (kind, _)) in found.iter().zip(&kinds) {
        pipeline.add_command(read_command(*kind, key));
    }
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let answers = connection
        .redis
        .send_packed_commands(&pipeline, 0, found.len())
        .await
        .map_err(redis_error("reading values"))?;
    let mut states = Vec::with_capacity(found.len());
    for ((key, (kind, expires_at_ms)), answer) in found.iter().zip(kinds).zip(answers) {
        let Some(kind) = kind else { continue };
        if is_absent(&answer) || matches!(answer, Value::ServerError(_)) {
            continue;
        }
        states.push((key.clone(), state_of(kind, answer, expires_at_ms, key)?));
    }
    Ok(states)
}

/// The command that reads a whole key of a type.
pub(super) fn read_command(kind: Option<Kind>, key: &[u8]) -> Cmd {
    let (name, range): (&str, &[&str]) = match kind {
        Some(Kind::Hash) => ("HGETALL", &[]),
        Some(Kind::List) => ("LRANGE", &["0", "-1"]),
        Some(Kind::Set) => ("SMEMBERS", &[]),
        Some(Kind::Zset) => ("ZRANGE", &["0", "-1", "WITHSCORES"]),
        Some(Kind::String) | None => ("GET", &[]),
    };
    let mut command = redis::cmd(name);
    command.arg(key).arg(range);
    command
}

/// The state that the answer to [`read_command`] tells.
pub(super) fn state_of(
    kind: Kind,
    answer: Value,
    expires_at_ms: Option<i64>,
    key: &[u8],
) -> Result<KeyState, RegionError> {
    let items: Vec<Vec<u8>> = match kind {
        Kind::String => vec![read_as(answer)?],
        _ => read_as(answer)?,
    };
    // SCORES come behind their members here, and before them where a sorted set is written.
    let items = if kind == Kind::Zset { swap_pairs(items) } else { items };
    let value = from_items(kind, items).ok_or_else(|| RegionError::Corrupt {
        object: String::from_utf8_lossy(key).into_owned(),
        reason: "redis answered with something that does not fit the key's type".into(),
    })?;
    Ok(KeyState { value, expires_at_ms })
}

/// Type and absolute expiry of each key; `None` for what is absent. A type that this version does not carry (a stream, a
/// module's) is an error: a snapshot without it would lose it silently.
async fn read_kinds(
    connection: &mut Connection,
    found: &[Vec<u8>],
) -> Result<Vec<(Option<Kind>, Option<i64>)>, RegionError> {
    let exact = connection.server.has_expire_time;
    let mut pipeline = Pipeline::new();
    pipeline.cmd("TIME");
    for key in found {
        pipeline.cmd("TYPE").arg(key);
        pipeline.cmd(if exact { "PEXPIRETIME" } else { "PTTL" }).arg(key);
    }
    let answers: Vec<Value> =
        pipeline.query_async(&mut connection.redis).await.map_err(redis_error("reading types and expiries"))?;
    let mut answers = answers.into_iter();
    let time: Vec<i64> = read_as(answers.next().unwrap_or(Value::Nil))?;
    let now_ms = if exact { 0 } else { time.first().unwrap_or(&0) * 1_000 + time.get(1).unwrap_or(&0) / 1_000 };
    let mut kinds = Vec::with_capacity(found.len());
    for key in found {
        let (Some(kind), Some(expiry)) = (answers.next(), answers.next()) else { break };
        let (kind, expiry): (String, i64) = (read_as(kind)?, read_as(expiry)?);
        kinds.push((kind_named(&kind, key)?, (expiry >= 0).then_some(now_ms + expiry)));
    }
    Ok(kinds)
}

/// A type by Redis's name for it; `None` where the key is absent.
///
/// # Errors
/// For a type that this version does not carry.
pub(super) fn kind_named(name: &str, key: &[u8]) -> Result<Option<Kind>, RegionError> {
    Ok(Some(match name {
        "string" => Kind::String,
        "hash" => Kind::Hash,
        "list" => Kind::List,
        "set" => Kind::Set,
        "zset" => Kind::Zset,
        "none" => return Ok(None),
        other => {
            return Err(RegionError::Misconfigured(format!(
                "key {:?} is of type {other}, which cannot be synced: take it out of the scope",
                String::from_utf8_lossy(key)
            )));
        }
    }))
}

fn swap_pairs(items: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut items = items;
    for pair in items.chunks_exact_mut(2) {
        pair.swap(0, 1);
    }
    items
}

fn read_as<T: FromRedisValue>(value: Value) -> Result<T, RegionError> {
    from_redis_value(value).map_err(|error| redis_error("reading an answer")(error.into()))
}
