//! Redis Cluster: the fence of one slot.
//!
//! A cluster takes no transaction over several slots, and a WATCH ends with the first EXEC on its connection, so that
//! slots could not be fenced in parallel. Here the comparison stands in a script instead: it compares the slot's record
//! with what the caller saw, and only then applies the commands and the new record, as one. So a script that arrives
//! late, or that the client sends twice, finds another record and does nothing. Every write of a slot moves its record,
//! so a record that is still as it was seen also proves that its node lost nothing since: a replication ID has to be
//! looked at only where a record is read.

use super::RegionError;
use super::commands::{Op, arguments};
use super::connection::{Server, parse_info, redis_error};
use super::fence::{FAILED_FIELD, Fenced, Unit, View};
use crate::keys;
use crate::lane_record::{FIELDS, LaneRecord};
use futures::{StreamExt, TryStreamExt};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::{Cmd, ErrorKind, Pipeline, RedisError, Script, ServerErrorKind, Value, from_redis_value};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// Most arguments in one command: ElastiCache Serverless takes 3,999.
pub(super) const ARGUMENTS_MAX: usize = 3_500;

/// Script calls that go to a node in one pipeline.
const CALLS_A_PIPELINE: usize = 64;
/// Pipelines of a lane that are in flight at once.
const PIPELINES_AT_ONCE: usize = 4;

/// A record with more producers than this is read each time, so that what is remembered stays bounded.
const REMEMBERED_MAX: usize = 16;

/// Fields whose comparison makes the fence: every write of a record changes one of them.
const FENCE_FIELDS: usize = 5;

/// A script and the digest by which a node knows it.
struct Lua {
    text: &'static str,
    digest: String,
}

impl Lua {
    fn new(text: &'static str) -> Self {
        Self { text, digest: Script::new(text).get_hash().to_owned() }
    }
}

/// Reads the fields in ARGV, and the node's replication ID behind them.
static READ: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        "local f=redis.call('HMGET',KEYS[1],unpack(ARGV)) \
         f[#f+1]=string.match(redis.call('INFO','replication'),'master_replid:(%w+)') return f",
    )
});

/// Compares, then applies. ARGV: mark, generation, replication_id, state and heartbeat of the record as they must be,
/// then operations. The first one writes the record: where memory is short it fails
/// before anything is written, and a script that has written is let finish.
static APPLY: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        "local record=KEYS[1] \
         local have=redis.call('HMGET',record,'mark','generation','replication_id','state','heartbeat') \
         for i=1,5 do if (have[i] or '')~=ARGV[i] then return false end end \
         local function failed(key,position,reason) \
           redis.call('DEL',key) \
           redis.call('HSET',record,'failed',(redis.call('HGET',record,'failed') or '')..position..' '..reason..'\\n') \
           return reason end \
         local out,i={},6 \
         while i<=#ARGV do \
           local kind,n,position=ARGV[i],tonumber(ARGV[i+1]),ARGV[i+2] \
           local from,key=i+3,ARGV[i+4] \
           i=from+n \
           if kind=='p' then \
             local r=redis.pcall(unpack(ARGV,from,i-1)) \
             if type(r)=='table' and r.err and #out==0 then return r end \
             out[#out+1]=r \
           elseif kind=='g' then \
             if redis.call('EXISTS',key)==0 then out[#out+1]=0 else \
               local r=redis.pcall(unpack(ARGV,from,i-1)) \
               if type(r)=='table' and r.err then out[#out+1]=failed(key,position,r.err) else out[#out+1]=1 end end \
           else \
             local aside,at=ARGV[from],ARGV[from+2] \
             if redis.call('EXISTS',aside)==0 then out[#out+1]=failed(key,position,'the value built aside was evicted') \
             else redis.call('RENAME',aside,key) \
               if at=='' then redis.call('PERSIST',key) else redis.call('PEXPIREAT',key,at) end \
               out[#out+1]=1 end \
           end \
         end return out",
    )
});

/// A cluster: one client that all share, because nothing on it is tied to a connection.
#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) connection: ClusterConnection,
    /// First slots of the ranges that lie on one node each, as they were when last asked for.
    ranges: Arc<Mutex<Vec<u16>>>,
    /// Records as this function wrote them last.
    remembered: Arc<Mutex<HashMap<Unit, View>>>,
}

impl Cluster {
    /// Connects, and makes sure that every primary can be used.
    pub(super) async fn connect(client: &ClusterClient) -> Result<Self, RegionError> {
        let connection = client.get_async_connection().await.map_err(redis_error("connecting to the cluster"))?;
        let mut cluster = Self { connection, ranges: Arc::default(), remembered: Arc::default() };
        cluster.servers().await?;
        cluster.learn_ranges().await.map_err(redis_error("CLUSTER SLOTS"))?;
        Ok(cluster)
    }

    /// What INFO says of every primary.
    pub(super) async fn servers(&mut self) -> Result<Vec<Server>, RegionError> {
        let route = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
        let answer = self.connection.route_command(redis::cmd("INFO"), route).await.map_err(redis_error("INFO"))?;
        let answers: HashMap<String, String> =
            from_redis_value(answer).map_err(|error| redis_error("INFO")(error.into()))?;
        answers.values().map(|info| Server::checked(&parse_info(info))).collect()
    }

    /// The record that this function wrote last, where it knows the producers that are asked for. It is taken out, so
    /// that what comes to nothing is not remembered.
    pub(super) fn remembered(&self, unit: Unit, producers: &[&str]) -> Option<View> {
        let view = self.remembered.lock().unwrap_or_else(PoisonError::into_inner).remove(&unit)?;
        producers.iter().all(|producer| view.producers.contains_key(*producer)).then_some(view)
    }

    /// Remembers records as they were written, those with few producers.
    pub(super) fn remember(&self, views: impl Iterator<Item = (Unit, View)>) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.extend(views.filter(|(_, view)| view.producers.len() <= REMEMBERED_MAX));
    }

    async fn learn_ranges(&mut self) -> redis::RedisResult<()> {
        let slots: Vec<Vec<Value>> = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut self.connection).await?;
        let first = |range: Vec<Value>| range.into_iter().next().and_then(|slot| from_redis_value(slot).ok());
        let mut firsts: Vec<u16> = slots.into_iter().filter_map(first).collect();
        firsts.sort_unstable();
        *self.ranges.lock().unwrap_or_else(PoisonError::into_inner) = firsts;
        Ok(())
    }

    async fn pipeline<T>(
        &mut self,
        items: &[T],
        slot: u16,
        call: &impl Fn(&T) -> Cmd,
    ) -> redis::RedisResult<Vec<Value>> {
        let mut pipeline = Pipeline::with_capacity(items.len());
        items.iter().for_each(|item| {
            pipeline.add_command(call(item));
        });
        let route = SingleNodeRoutingInfo::SpecificNode(Route::new(slot, SlotAddr::Master));
        let answers = self.connection.route_pipeline(pipeline, 0, items.len(), route).await?;
        answers.into_iter().map(Value::extract_error).collect()
    }

    async fn one_by_one<T>(&self, items: &[T], call: &impl Fn(&T) -> Cmd) -> redis::RedisResult<Vec<Value>> {
        futures::stream::iter(items)
            .map(|item| {
                let mut connection = self.connection.clone();
                async move { call(item).query_async(&mut connection).await }
            })
            .buffered(CALLS_A_PIPELINE)
            .try_collect()
            .await
    }

    /// How many of the slots at the front go to one node in one pipeline.
    fn pipeline_length(&self, slots: &[u16]) -> usize {
        let ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let range = |slot: u16| ranges.partition_point(|first| *first <= slot);
        let own = slots.first().map(|slot| range(*slot));
        slots.iter().take(CALLS_A_PIPELINE).take_while(|slot| Some(range(**slot)) == own).count()
    }
}

/// Reads the records of slots, each with the last seqs of some producers.
pub(super) async fn read(cluster: &Cluster, wanted: &[(Unit, Vec<&str>)]) -> Result<Vec<View>, RegionError> {
    let call = |(unit, producers): &(Unit, Vec<&str>), name: &str, script: &str| {
        let mut command = redis::cmd(name);
        command.arg(script).arg(1).arg(unit.record_key()).arg(&FIELDS).arg(FAILED_FIELD);
        for producer in producers {
            command.arg(keys::producer_field(producer));
        }
        command
    };
    let slots = wanted.iter().map(|(unit, _)| unit.slot.unwrap_or(0)).collect::<Vec<_>>();
    let answers = call_all(cluster, &READ, wanted, &slots, call).await.map_err(redis_error("reading lane records"))?;
    let mut views = Vec::with_capacity(wanted.len());
    for ((unit, producers), answer) in wanted.iter().zip(answers) {
        let mut fields: Vec<Option<String>> =
            from_redis_value(answer).map_err(|error| redis_error("reading lane records")(error.into()))?;
        let replication_id = fields.pop().flatten().unwrap_or_default();
        views.push(View::new(unit.lane, producers, fields, replication_id)?);
    }
    Ok(views)
}

/// Executes transactions, each where its slot's record is still as it was seen. All of them are tried.
///
/// # Errors
/// [`RegionError::FenceLost`] where one is not; nothing of that one was applied then.
pub(super) async fn execute(cluster: &Cluster, transactions: &[Fenced]) -> Result<Vec<Vec<Value>>, RegionError> {
    let call = |fenced: &Fenced, name: &str, script: &str| {
        let ops = &fenced.transaction.ops;
        let keys: Vec<&[u8]> = ops.iter().flat_map(op_keys).collect();
        let mut command = redis::cmd(name);
        command.arg(script).arg(keys.len() + 1).arg(fenced.transaction.unit.record_key()).arg(keys);
        command.arg(&expected(fenced.seen.as_ref()));
        for op in ops {
            add_op(&mut command, op);
        }
        command
    };
    let slots: Vec<u16> = transactions.iter().map(|fenced| fenced.transaction.unit.slot.unwrap_or(0)).collect();
    let answers = call_all(cluster, &APPLY, transactions, &slots, call)
        .await
        .map_err(redis_error("the transactions of a lane"))?;
    let mut executed = Vec::with_capacity(answers.len());
    for (fenced, answer) in transactions.iter().zip(answers) {
        let lane = fenced.transaction.unit.lane;
        executed.push(match answer {
            Value::Array(results) => results,
            Value::Nil => return Err(RegionError::FenceLost { lane }),
            other => {
                return Err(RegionError::Transaction { lane, message: format!("unexpected answer {other:?}") });
            }
        });
    }
    Ok(executed)
}

/// Calls a script for each item, whose slot `slots` names: in pipelines to the nodes that have the slots. Where a node
/// does not have one any more, or does not know the script, each call of its pipeline is made alone, which finds its way
/// also while slots move; that some were made before does no harm, since each compares.
async fn call_all<T>(
    cluster: &Cluster,
    script: &Lua,
    items: &[T],
    slots: &[u16],
    call: impl Fn(&T, &str, &str) -> Cmd,
) -> redis::RedisResult<Vec<Value>> {
    let (mut pipelines, mut rest) = (Vec::new(), (items, slots));
    while !rest.0.is_empty() {
        let (now, later) = rest.0.split_at(cluster.pipeline_length(rest.1));
        pipelines.push((now, rest.1[0]));
        rest = (later, &rest.1[now.len()..]);
    }
    let answers: Vec<Vec<Value>> = futures::stream::iter(pipelines)
        .map(|(items, slot)| {
            let (mut cluster, call) = (cluster.clone(), &call);
            async move {
                match cluster.pipeline(items, slot, &|item| call(item, "EVALSHA", &script.digest)).await {
                    Err(error) if is_elsewhere(&error) => {
                        cluster.learn_ranges().await?;
                        cluster.one_by_one(items, &|item| call(item, "EVAL", script.text)).await
                    }
                    answers => answers,
                }
            }
        })
        .buffered(PIPELINES_AT_ONCE)
        .try_collect()
        .await?;
    Ok(answers.into_iter().flatten().collect())
}

/// Whether an error says that the call was not made there, but can be made.
fn is_elsewhere(error: &RedisError) -> bool {
    let ErrorKind::Server(kind) = error.kind() else { return false };
    matches!(
        kind,
        ServerErrorKind::NoScript
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask
            | ServerErrorKind::TryAgain
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::ReadOnly
    )
}

/// The record's fence fields as the script reads them.
fn expected(record: Option<&LaneRecord>) -> [String; FENCE_FIELDS] {
    let Some(record) = record else { return Default::default() };
    let text = |value: Option<String>| value.unwrap_or_default();
    [
        text(record.mark.as_ref().map(ToString::to_string)),
        record.generation.to_string(),
        text(record.replication_id.clone()),
        record.state.to_string(),
        text(record.heartbeat.map(|number| number.to_string())),
    ]
}

fn op_keys(op: &Op) -> Vec<&[u8]> {
    match op {
        Op::Plain(command) | Op::Guarded { command, .. } => arguments(command).skip(1).take(1).collect(),
        Op::Sets(command) => arguments(command).skip(1).step_by(2).collect(),
        Op::Adopt { aside, key, .. } => vec![aside.as_bytes(), key],
    }
}

fn add_op(call: &mut Cmd, op: &Op) {
    let (kind, position, command) = match op {
        Op::Plain(command) | Op::Sets(command) => ("p", "", command),
        Op::Guarded { command, position } => ("g", position.as_str(), command),
        Op::Adopt { aside, key, expires_at_ms, position } => {
            let at = expires_at_ms.map(|at| at.to_string()).unwrap_or_default();
            call.arg("a").arg(3).arg(position).arg(aside).arg(key).arg(at);
            return;
        }
    };
    call.arg(kind).arg(command.args_iter().len()).arg(position);
    for argument in arguments(command) {
        call.arg(argument);
    }
}
