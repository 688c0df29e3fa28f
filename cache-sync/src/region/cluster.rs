//! Redis Cluster: the fence of one slot.
//!
//! A cluster takes no transaction over several slots, and a WATCH ends with the first EXEC on its connection, so that
//! slots could not be fenced in parallel. Here the comparison stands in a script instead: it reads the slot's record and
//! its node's replication ID, compares them with what the caller saw, and only then applies the commands and the new
//! record, as one. So a script that arrives late, or that the client sends twice, finds another record and does nothing.

use super::RegionError;
use super::commands::{Op, arguments};
use super::connection::{Server, parse_info, redis_error};
use super::fence::{FAILED_FIELD, Transaction, Unit, View};
use crate::keys;
use crate::lane_record::{FIELDS, LaneRecord};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::{Cmd, ErrorKind, Script, ServerErrorKind, Value, from_redis_value};
use std::collections::HashMap;
use std::sync::LazyLock;

/// Most arguments in one command: ElastiCache Serverless takes 3,999.
pub(super) const ARGUMENTS_MAX: usize = 3_500;

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

/// Compares, then applies. ARGV: mark, generation, replication_id, state and heartbeat of the record and the node's
/// replication ID as they must be, then operations. The first one writes the record: where memory is short it fails
/// before anything is written, and a script that has written is let finish.
static APPLY: LazyLock<Lua> = LazyLock::new(|| {
    Lua::new(
        "local record=KEYS[1] \
         local have=redis.call('HMGET',record,'mark','generation','replication_id','state','heartbeat') \
         for i=1,5 do if (have[i] or '')~=ARGV[i] then return false end end \
         if string.match(redis.call('INFO','replication'),'master_replid:(%w+)')~=ARGV[6] then return false end \
         local function failed(key,position,reason) \
           redis.call('DEL',key) \
           redis.call('HSET',record,'failed',(redis.call('HGET',record,'failed') or '')..position..' '..reason..'\\n') \
           return reason end \
         local out,i={},7 \
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

/// What INFO says of every primary.
pub(super) async fn servers(connection: &mut ClusterConnection) -> Result<Vec<Server>, RegionError> {
    let route = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
    let answer = connection.route_command(redis::cmd("INFO"), route).await.map_err(redis_error("INFO"))?;
    let answers: HashMap<String, String> =
        from_redis_value(answer).map_err(|error| redis_error("INFO")(error.into()))?;
    answers.values().map(|info| Server::checked(&parse_info(info))).collect()
}

/// Reads the record of a slot, with the last seqs of `producers`.
pub(super) async fn read(
    connection: &mut ClusterConnection,
    unit: Unit,
    producers: &[&str],
) -> Result<View, RegionError> {
    let key = unit.record_key();
    let fields = FIELDS.iter().map(|field| (*field).to_owned()).chain([FAILED_FIELD.to_owned()]);
    let fields = fields.chain(producers.iter().map(|producer| keys::producer_field(producer)));
    let build = |name: &str, script: &str| {
        let mut command = redis::cmd(name);
        command.arg(script).arg(1).arg(&key).arg(fields.clone().collect::<Vec<_>>());
        command
    };
    let operation = || redis_error(format!("reading the record of lane {}", unit.lane));
    let answer = call(connection, &READ, build).await.map_err(operation())?;
    let mut fields: Vec<Option<String>> = from_redis_value(answer).map_err(|error| operation()(error.into()))?;
    let replication_id = fields.pop().flatten().unwrap_or_default();
    View::new(unit.lane, producers, fields, replication_id)
}

/// Executes a transaction where the slot's record is still as `seen`.
///
/// # Errors
/// [`RegionError::FenceLost`] where it is not; nothing was applied then.
pub(super) async fn execute(
    connection: &mut ClusterConnection,
    transaction: &Transaction,
    seen: Option<&LaneRecord>,
    replication_id: &str,
) -> Result<Vec<Value>, RegionError> {
    let lane = transaction.unit.lane;
    let expected = expected(seen);
    let record_key = transaction.unit.record_key();
    let build = |name: &str, script: &str| {
        let keys: Vec<&[u8]> = transaction.ops.iter().flat_map(op_keys).collect();
        let mut command = redis::cmd(name);
        command.arg(script).arg(keys.len() + 1).arg(&record_key).arg(keys).arg(&expected).arg(replication_id);
        for op in &transaction.ops {
            add_op(&mut command, op);
        }
        command
    };
    let answer = call(connection, &APPLY, build).await;
    match answer.map_err(redis_error(format!("the transaction of lane {lane}")))? {
        Value::Array(results) => Ok(results),
        Value::Nil => Err(RegionError::FenceLost { lane }),
        other => Err(RegionError::Transaction { lane, message: format!("unexpected answer {other:?}") }),
    }
}

/// Calls a script by its digest, and by its text where the node does not know it yet.
async fn call(
    connection: &mut ClusterConnection,
    script: &Lua,
    build: impl Fn(&str, &str) -> Cmd,
) -> redis::RedisResult<Value> {
    match build("EVALSHA", &script.digest).query_async(connection).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            build("EVAL", script.text).query_async(connection).await
        }
        answer => answer,
    }
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
        Op::Adopt { aside, key, .. } => vec![aside.as_bytes(), key],
    }
}

fn add_op(call: &mut Cmd, op: &Op) {
    let (kind, position, command) = match op {
        Op::Plain(command) => ("p", "", command),
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
