//! What a Redis holds, for comparing it with itself later or with another region's.

use crate::error::LocalError;
use std::collections::BTreeMap;

const SCAN_COUNT: usize = 1_000;

/// One key's content: its serialised value and the time at which it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// As DUMP gives it.
    pub value: Vec<u8>,
    /// As PEXPIRETIME gives it: milliseconds since the epoch, -1 without expiry.
    pub expires_at_ms: i64,
}

/// Every key whose name `keep` accepts, with its content.
///
/// # Errors
/// [`LocalError::Call`] when Redis refuses a command or goes away.
pub async fn contents(
    connection: &mut redis::aio::MultiplexedConnection,
    keep: impl Fn(&[u8]) -> bool,
) -> Result<BTreeMap<Vec<u8>, Content>, LocalError> {
    let mut found = BTreeMap::new();
    let mut cursor = 0_u64;
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("COUNT").arg(SCAN_COUNT);
        let (next, keys): (u64, Vec<Vec<u8>>) = scan.query_async(connection).await.map_err(LocalError::call("SCAN"))?;
        let keys: Vec<Vec<u8>> = keys.into_iter().filter(|key| keep(key)).collect();
        for (key, content) in keys.iter().zip(read(connection, &keys).await?) {
            if let Some(content) = content {
                found.insert(key.clone(), content);
            }
        }
        cursor = next;
        if cursor == 0 {
            return Ok(found);
        }
    }
}

async fn read(
    connection: &mut redis::aio::MultiplexedConnection,
    keys: &[Vec<u8>],
) -> Result<Vec<Option<Content>>, LocalError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut pipeline = redis::pipe();
    for key in keys {
        pipeline.cmd("DUMP").arg(key).cmd("PEXPIRETIME").arg(key);
    }
    let replies: Vec<redis::Value> =
        pipeline.query_async(connection).await.map_err(LocalError::call("DUMP and PEXPIRETIME"))?;
    replies
        .chunks_exact(2)
        .map(|pair| {
            let value: Option<Vec<u8>> = redis::from_redis_value(pair[0].clone()).map_err(LocalError::call("DUMP"))?;
            let expires_at_ms: i64 =
                redis::from_redis_value(pair[1].clone()).map_err(LocalError::call("PEXPIRETIME"))?;
            Ok(value.map(|value| Content { value, expires_at_ms }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_server::RedisServer;

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
        let first = contents(&mut connection, |_| true).await.unwrap();
        assert_eq!(first.len(), 2_500);
        assert_eq!(first, contents(&mut connection, |_| true).await.unwrap());
        let () =
            redis::cmd("PEXPIREAT").arg("key:7").arg(4_102_444_800_000_i64).query_async(&mut connection).await.unwrap();
        let second = contents(&mut connection, |_| true).await.unwrap();
        let changed: Vec<_> = second.iter().filter(|(key, content)| first[*key] != **content).collect();
        assert_eq!(changed.len(), 1);
        assert_eq!(changed[0].1.expires_at_ms, 4_102_444_800_000);
        assert_eq!(contents(&mut connection, |key| key == b"key:7").await.unwrap().len(), 1);
    }
}
