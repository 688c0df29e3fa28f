//! A region: the real regional function before a real Redis, and what may happen to that Redis.

use super::calls::{Calls, REDIS_SILENCE_MAX};
use super::cloud::Cloud;
use super::hop::RedisHop;
use super::kinesis;
use super::reference::Place;
use super::{Bench, REGIONS, Variant, bucket};
use crate::random::Random;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tidemark_cache_sync::keys;
use tidemark_cache_sync::lane::{Lane, Lanes};
use tidemark_cache_sync::region::{Region, RegionSettings};
use tidemark_local::{Content, contents};
use tidemark_runtime::clock::Clock;
use tidemark_runtime::logs::full_message;
use tidemark_runtime::settings::Settings;

/// All keys of a Redis at one moment: name, dump, expiry.
pub(super) type Backup = Vec<(Vec<u8>, Vec<u8>, i64)>;

/// One region.
pub(super) struct SimRegion {
    pub(super) name: &'static str,
    settings: RegionSettings,
    s3: aws_sdk_s3::Client,
    clock: Clock,
    calls: Calls,
    hop: RedisHop,
    /// A connection of the schedule's own, past the proxy.
    admin: MultiplexedConnection,
    /// Warm instances of the function.
    warm: Mutex<Vec<Region>>,
    lanes: Lanes,
    pub(super) variant: Variant,
    random: Mutex<Random>,
}

impl fmt::Debug for SimRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimRegion {
    /// The region of this number on its Redis of `bench`, emptied.
    pub(super) async fn start(
        number: usize,
        bench: &Bench,
        cloud: &Cloud,
        lanes: Lanes,
        variant: Variant,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let (name, redis) = (REGIONS[number], &bench.servers[number]);
        let watch_is_void = variant == Variant::WatchPipelinedWithExec;
        let hop = RedisHop::start(&cloud.calls, bench.directory.path(), name, redis.port(), watch_is_void)?;
        let table = BTreeMap::from([
            ("AWS_REGION", name.to_owned()),
            ("TIDEMARK_BUCKET", bucket(name)),
            ("TIDEMARK_SCOPE", "*".to_owned()),
            ("TIDEMARK_LANES", lanes.count().to_string()),
            ("TIDEMARK_REDIS_URL", hop.url()),
        ]);
        let settings = RegionSettings::read(&Settings::from_fn(|name| table.get(name).cloned()))?;
        // The client's own time-outs are too short for a machine with much else to do.
        let patient = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(REDIS_SILENCE_MAX))
            .set_response_timeout(Some(REDIS_SILENCE_MAX));
        let mut admin = redis.client()?.get_multiplexed_async_connection_with_config(&patient).await?;
        let () = redis::cmd("FLUSHALL").query_async(&mut admin).await?;
        Ok(Self {
            name,
            settings,
            s3: cloud.storage(None),
            clock: cloud.time.clock(0),
            calls: cloud.calls.clone(),
            hop,
            admin,
            warm: Mutex::default(),
            lanes,
            variant,
            random: Mutex::new(Random::new(seed)),
        })
    }

    /// One invocation, on a warm instance where there is one. The schedule may kill it; its instance goes with it.
    pub(super) async fn invoke(&self, mut request: String) -> Result<Value, String> {
        if self.variant == Variant::MarksFirst && self.mark_first(&request).await {
            return Err("killed behind its marks".to_owned());
        }
        if self.variant == Variant::FeedRereadsMark {
            request = self.reread_marks(&request).await;
        }
        let instance = lock(&self.warm).pop();
        let instance = match instance {
            Some(instance) => instance,
            None => Region::new(self.settings.clone(), self.s3.clone(), self.clock.clone())
                .map_err(|error| full_message(&error))?,
        };
        let task = tokio::task::spawn_local(async move {
            let answer = instance.answer(&request).await;
            (instance, answer)
        });
        self.calls.add_invocation(format!("replay {}", self.name), task.abort_handle());
        let answer = match task.await {
            Ok((instance, answer)) => {
                lock(&self.warm).push(instance);
                answer.map_err(|error| full_message(&error))
            }
            Err(_) => Err("killed".to_owned()),
        };
        if self.variant == Variant::ReplicationIdPerNode {
            self.share_replication_id().await;
        }
        answer
    }

    async fn query<T: redis::FromRedisValue>(&self, command: &[&[u8]]) -> anyhow::Result<T> {
        let mut built = redis::Cmd::new();
        command.iter().for_each(|argument| {
            built.arg(*argument);
        });
        let _owes = self.calls.owes();
        Ok(built.query_async(&mut self.admin.clone()).await?)
    }

    /// Everything but the system's own keys.
    pub(super) async fn contents(&self) -> anyhow::Result<BTreeMap<Vec<u8>, Content>> {
        Ok(contents(&mut self.admin.clone(), |key| !key.starts_with(b"tidemark:")).await?)
    }

    /// Where each lane stands, of those that have a record.
    pub(super) async fn marks(&self) -> anyhow::Result<BTreeMap<u16, Option<Place>>> {
        let mut marks = BTreeMap::new();
        for lane in self.lanes.all() {
            let fields: Vec<Option<String>> =
                self.query(&[b"HMGET", keys::lane_record(lane).as_bytes(), b"state", b"mark"]).await?;
            if fields[0].is_some() {
                marks.insert(lane.0, fields[1].as_deref().and_then(place));
            }
        }
        Ok(marks)
    }

    /// A copy of all keys.
    pub(super) async fn back_up(&self) -> anyhow::Result<Backup> {
        let mut names: Vec<Vec<u8>> = self.query(&[b"KEYS", b"*"]).await?;
        names.sort();
        let mut pipeline = redis::pipe();
        for name in &names {
            pipeline.cmd("DUMP").arg(name).cmd("PEXPIRETIME").arg(name);
        }
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let answers: Vec<redis::Value> = pipeline.query_async(&mut self.admin.clone()).await?;
        let mut backup = Backup::new();
        for (name, pair) in names.into_iter().zip(answers.chunks(2)) {
            if let redis::Value::BulkString(dump) = &pair[0] {
                backup.push((name, dump.clone(), redis::from_redis_value(pair[1].clone())?));
            }
        }
        Ok(backup)
    }

    /// A failover to a replica that had only what `backup` holds: its last writes are lost, and connections break.
    pub(super) async fn fail_over(&self, backup: &Backup) -> anyhow::Result<()> {
        self.hop.cut();
        let mut pipeline = redis::pipe();
        pipeline.cmd("FLUSHALL").cmd("DEBUG").arg("CHANGE-REPL-ID");
        for (name, dump, expires_at_ms) in backup {
            pipeline.cmd("RESTORE").arg(name).arg((*expires_at_ms).max(0)).arg(dump).arg("ABSTTL");
        }
        let _: Vec<redis::Value> = pipeline.query_async(&mut self.admin.clone()).await?;
        Ok(())
    }

    /// Empties it, as an operator might.
    pub(super) async fn flush(&self) -> anyhow::Result<()> {
        self.query(&[b"FLUSHALL"]).await
    }

    /// Evicts a key that has an expiry, as volatile-lru may; `None` where there is none.
    pub(super) async fn evict(&self, choice: u64) -> anyhow::Result<Option<Vec<u8>>> {
        let mut there: Vec<Vec<u8>> = self
            .contents()
            .await?
            .into_iter()
            .filter(|(_, held)| held.expires_at_ms >= 0)
            .map(|(key, _)| key)
            .collect();
        if there.is_empty() {
            return Ok(None);
        }
        let key = there.swap_remove(usize::try_from(choice).unwrap_or(0) % there.len());
        let () = self.query(&[b"DEL", &key]).await?;
        Ok(Some(key))
    }

    /// Instances grow cold.
    pub(super) fn cool_down(&self) {
        lock(&self.warm).clear();
    }

    async fn replication_id(&self) -> anyhow::Result<String> {
        let info: String = self.query(&[b"INFO", b"replication"]).await?;
        let id = info.lines().find_map(|line| line.strip_prefix("master_replid:"));
        Ok(id.unwrap_or_default().trim().to_owned())
    }

    /// Known-bad: the marks are written before the changes, and in between the function dies.
    async fn mark_first(&self, request: &str) -> bool {
        let request: Value = serde_json::from_str(request).unwrap_or_default();
        let replay = &request["replay"];
        if replay["follows"].is_object() || !lock(&self.random).once_in(3) {
            return false;
        }
        let mut marked = false;
        for record in replay["event"]["Records"].as_array().into_iter().flatten() {
            let Some(lane) = record["kinesis"]["partitionKey"].as_str().and_then(|lane| lane.parse().ok()) else {
                continue;
            };
            let key = keys::lane_record(Lane(lane));
            let state: Option<String> = self.query(&[b"HGET", key.as_bytes(), b"state"]).await.unwrap_or_default();
            if state.as_deref() == Some("ready") {
                let data = record["kinesis"]["data"].as_str().unwrap_or_default();
                let data = base64_simd::STANDARD.decode_to_vec(data).unwrap_or_default();
                let data: Value = serde_json::from_slice(&data).unwrap_or_default();
                let last = data.as_array().map_or(0, |changes| changes.len().saturating_sub(1));
                let mark = format!("{}:{last}", record["kinesis"]["sequenceNumber"].as_str().unwrap_or_default());
                let _: anyhow::Result<()> = self.query(&[b"HSET", key.as_bytes(), b"mark", mark.as_bytes()]).await;
                marked = true;
            }
        }
        marked
    }

    /// Known-bad: a fed chunk follows whatever mark is there, instead of the one it was read behind.
    async fn reread_marks(&self, request: &str) -> String {
        let mut parsed: Value = serde_json::from_str(request).unwrap_or_default();
        let Ok(replication_id) = self.replication_id().await else { return request.to_owned() };
        let Some(follows) = parsed["replay"]["follows"].as_object_mut() else { return request.to_owned() };
        for (lane, follows) in follows {
            let key = keys::lane_record(Lane(lane.parse().unwrap_or_default()));
            let mark: Option<String> = self.query(&[b"HGET", key.as_bytes(), b"mark"]).await.unwrap_or_default();
            follows["mark"] = mark.map_or(Value::Null, Value::String);
            follows["replication_id"] = Value::String(replication_id.clone());
        }
        parsed.to_string()
    }

    /// Known-bad: what one lane learned of the server, all take for their own.
    async fn share_replication_id(&self) {
        let Ok(replication_id) = self.replication_id().await else { return };
        let mut ready = Vec::new();
        let mut known = false;
        for lane in self.lanes.all() {
            let key = keys::lane_record(lane);
            let fields: Vec<Option<String>> =
                self.query(&[b"HMGET", key.as_bytes(), b"state", b"replication_id"]).await.unwrap_or_default();
            if let [Some(state), id] = fields.as_slice()
                && state == "ready"
            {
                known |= id.as_ref() == Some(&replication_id);
                ready.push(key);
            }
        }
        for key in ready.iter().filter(|_| known) {
            let _: anyhow::Result<()> =
                self.query(&[b"HSET", key.as_bytes(), b"replication_id", replication_id.as_bytes()]).await;
        }
    }
}

/// A mark's text as a place.
fn place(mark: &str) -> Option<Place> {
    let (sequence, index) = mark.split_once(':')?;
    Some((kinesis::number(sequence)?, index.parse().ok()?))
}
