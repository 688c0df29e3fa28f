//! What a Redis holds, for comparing it with itself later or with another region's.

use crate::error::LocalError;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value};
use std::collections::BTreeMap;

const SCAN_COUNT: usize = 1_000;

/// One key's content. Two are equal exactly when type, value and expiry are, however Redis encodes them.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    /// As TYPE gives it.
    pub kind: String,
    /// The value's parts as strings: a list in its order, fields and values, members, or members and scores; all but
    /// lists are sorted.
    pub value: Vec<Vec<u8>>,
    /// As PEXPIRETIME gives it: milliseconds since the epoch, -1 without expiry. Redis 6.2 has no PEXPIRETIME: there it
    /// is TIME and PTTL, and may be off by a few milliseconds.
    pub expires_at_ms: i64,
}

/// Every key whose name `keep` accepts, with its content.
///
/// # Errors
/// [`LocalError::Call`] when Redis refuses a command or goes away.
pub async fn contents(
    connection: &mut MultiplexedConnection,
    keep: impl Fn(&[u8]) -> bool,
) -> Result<BTreeMap<Vec<u8>, Content>, LocalError> {
    let mut found = BTreeMap::new();
    let mut cursor = 0_u64;
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("COUNT").arg(SCAN_COUNT);
        let (next, keys): (u64, Vec<Vec<u8>>) = scan.query_async(connection).await.map_err(LocalError::call("SCAN"))?;
        let keys: Vec<Vec<u8>> = keys.into_iter().filter(|key| keep(key)).collect();
        found.extend(read(connection, keys).await?);
        cursor = next;
        if cursor == 0 {
            return Ok(found);
        }
    }
}

/// Reads types and expiries in one round trip, then values in another. What vanishes in between is left out.
async fn read(
    connection: &mut MultiplexedConnection,
    keys: Vec<Vec<u8>>,
) -> Result<Vec<(Vec<u8>, Content)>, LocalError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let is_old = server_info(connection).await?.contains("redis_version:6.");
    let mut about = redis::pipe();
    about.cmd("TIME");
    for key in &keys {
        about.cmd("TYPE").arg(key).cmd(if is_old { "PTTL" } else { "PEXPIRETIME" }).arg(key);
    }
    let mut about: Vec<Value> = query(connection, &about, "TYPE and PEXPIRETIME").await?;
    let (seconds, micros): (i64, i64) = redis::from_redis_value(about.remove(0)).map_err(LocalError::call("TIME"))?;
    let now_ms = if is_old { seconds * 1_000 + micros / 1_000 } else { 0 };
    let mut there: Vec<(Vec<u8>, String, i64)> = Vec::new();
    let mut reads = redis::pipe();
    for (key, pair) in keys.into_iter().zip(about.chunks_exact(2)) {
        let kind: String = redis::from_redis_value(pair[0].clone()).map_err(LocalError::call("TYPE"))?;
        let expires_at_ms: i64 = redis::from_redis_value(pair[1].clone()).map_err(LocalError::call("PEXPIRETIME"))?;
        let expires_at_ms = if expires_at_ms > 0 { expires_at_ms + now_ms } else { expires_at_ms };
        if let Some(command) = read_command(&kind, &key) {
            reads.add_command(command);
            there.push((key, kind, expires_at_ms));
        }
    }
    if there.is_empty() {
        return Ok(Vec::new());
    }
    let values: Vec<Value> = query(connection, &reads, "read values").await?;
    let mut found = Vec::new();
    for ((key, kind, expires_at_ms), value) in there.into_iter().zip(values) {
        if let Some(value) = parts(&kind, value)? {
            found.push((key, Content { kind, value, expires_at_ms }));
        }
    }
    Ok(found)
}

async fn server_info(connection: &mut MultiplexedConnection) -> Result<String, LocalError> {
    redis::cmd("INFO").arg("server").query_async(connection).await.map_err(LocalError::call("INFO"))
}

async fn query(
    connection: &mut MultiplexedConnection,
    pipeline: &Pipeline,
    what: &str,
) -> Result<Vec<Value>, LocalError> {
    pipeline.query_async(connection).await.map_err(LocalError::call(what))
}

fn read_command(kind: &str, key: &[u8]) -> Option<Cmd> {
    let mut command = redis::cmd(match kind {
        "string" => "GET",
        "hash" => "HGETALL",
        "list" => "LRANGE",
        "set" => "SMEMBERS",
        "zset" => "ZRANGE",
        _ => return None,
    });
    command.arg(key);
    match kind {
        "list" => command.arg(0).arg(-1),
        "zset" => command.arg(0).arg(-1).arg("WITHSCORES"),
        _ => &mut command,
    };
    Some(command)
}

fn parts(kind: &str, value: Value) -> Result<Option<Vec<Vec<u8>>>, LocalError> {
    let failed = LocalError::call(format!("read a {kind}"));
    if kind == "string" {
        let value: Option<Vec<u8>> = redis::from_redis_value(value).map_err(failed)?;
        return Ok(value.map(|value| vec![value]));
    }
    let parts: Vec<Vec<u8>> = redis::from_redis_value(value).map_err(failed)?;
    let width = if matches!(kind, "hash" | "zset") { 2 } else { 1 };
    let mut grouped: Vec<&[Vec<u8>]> = parts.chunks(width).collect();
    if kind != "list" {
        grouped.sort_unstable();
    }
    Ok((!parts.is_empty()).then(|| grouped.concat()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_server::RedisServer;

    async fn run(connection: &mut MultiplexedConnection, command: &str) {
        let mut words = command.split(' ');
        let mut built = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            built.arg(word);
        });
        let _: Value = built.query_async(connection).await.unwrap();
    }

    #[tokio::test]
    async fn contents_differ_exactly_when_a_value_or_an_expiry_does() {
        let server = RedisServer::start().unwrap();
        let client = redis::Client::open(server.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut set = redis::cmd("MSET");
        for index in 0..2_500 {
            set.arg(format!("key:{index}")).arg(index);
        }
        let () = set.query_async(&mut connection).await.unwrap();
        for command in ["HSET hash b 2 a 1", "RPUSH list z y", "SADD set q p", "ZADD zset 2 b 1 c"] {
            run(&mut connection, command).await;
        }
        let first = contents(&mut connection, |_| true).await.unwrap();
        assert_eq!(first.len(), 2_504);
        let text = |key: &str| {
            first[key.as_bytes()].value.iter().map(|part| String::from_utf8_lossy(part)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!([text("hash"), text("list"), text("set"), text("zset")], ["a 1 b 2", "z y", "p q", "b 2 c 1"]);
        for command in ["DEL hash", "HSET hash a 1 b 2", "DEL set", "SADD set p q"] {
            run(&mut connection, command).await;
        }
        assert_eq!(first, contents(&mut connection, |_| true).await.unwrap());
        run(&mut connection, "PEXPIREAT key:7 4102444800000").await;
        let second = contents(&mut connection, |_| true).await.unwrap();
        let changed: Vec<_> = second.iter().filter(|(key, content)| first[*key] != **content).collect();
        assert_eq!(changed.len(), 1);
        assert_eq!(changed[0].1.expires_at_ms, 4_102_444_800_000);
        assert_eq!(contents(&mut connection, |key| key == b"key:7").await.unwrap().len(), 1);
    }
}
