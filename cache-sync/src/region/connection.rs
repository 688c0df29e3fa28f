//! Connections to the region's Redis, and what is read once from each.

use super::RegionError;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo};
use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;
use tidemark_runtime::settings::{SettingError, Settings};

/// Connections that a batch uses at once: lanes in parallel over two hide the round trip of the fence.
pub(super) const CONNECTIONS: usize = 2;
/// SET with PXAT came with 6.2.
const VERSION_MIN: (u32, u32) = (6, 2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);

/// Where a region's Redis is and how to log in. Secrets are not shown.
#[derive(Clone)]
pub struct RedisSettings {
    /// `redis://HOST:PORT/DB`, or `rediss://` for TLS.
    pub url: String,
    /// ACL user, if any.
    pub user: Option<String>,
    /// Password, if any.
    pub password: Option<String>,
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings").field("user", &self.user).finish_non_exhaustive()
    }
}

impl RedisSettings {
    pub(super) fn read(settings: &Settings<'_>) -> Result<Self, SettingError> {
        Ok(Self {
            url: settings.required("TIDEMARK_REDIS_URL", "the region's Redis, rediss://HOST:PORT")?,
            user: settings.optional("TIDEMARK_REDIS_USER"),
            password: settings.optional("TIDEMARK_REDIS_PASSWORD"),
        })
    }

    fn client(&self) -> Result<Client, redis::RedisError> {
        let info = self.url.as_str().into_connection_info()?;
        let mut login = info.redis_settings().clone();
        if let Some(user) = &self.user {
            login = login.set_username(user);
        }
        if let Some(password) = &self.password {
            login = login.set_password(password);
        }
        Client::open(info.set_redis_settings(login))
    }
}

/// A few connections, each used by one lane at a time because a WATCH belongs to its connection.
pub struct Connections {
    client: Client,
    idle: Mutex<Vec<Connection>>,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connections")
    }
}

/// One connection and the server behind it.
pub(super) struct Connection {
    pub(super) redis: MultiplexedConnection,
    pub(super) server: Server,
}

/// What is known of a server.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) version: String,
    /// Whether PEXPIRETIME is there (7.0 and later, Valkey too).
    pub(super) has_expire_time: bool,
}

impl Connections {
    pub(super) fn new(settings: &RedisSettings) -> Result<Self, RegionError> {
        let client = settings.client().map_err(redis_error("reading TIDEMARK_REDIS_URL"))?;
        Ok(Self { client, idle: Mutex::default() })
    }

    /// An idle connection, or a new one. What failed on a connection is not given back, so it is closed.
    pub(super) async fn take(&self) -> Result<Connection, RegionError> {
        let idle = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
        match idle {
            Some(connection) => Ok(connection),
            None => self.connect().await,
        }
    }

    /// Keeps a connection that did its work for the next lane.
    pub(super) fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if idle.len() < CONNECTIONS {
            idle.push(connection);
        }
    }

    async fn connect(&self) -> Result<Connection, RegionError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let mut redis = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(redis_error("connecting"))?;
        let info: String = redis::cmd("INFO").query_async(&mut redis).await.map_err(redis_error("INFO"))?;
        let info = parse_info(&info);
        Ok(Connection { redis, server: Server::checked(&info)? })
    }
}

impl Server {
    /// What INFO says of a server, where it is one that can be used.
    fn checked(info: &HashMap<String, String>) -> Result<Self, RegionError> {
        let field = |name: &str| info.get(name).map_or("", String::as_str);
        let policy = field("maxmemory_policy");
        // Lane records have no expiry, so only these policies could evict them.
        if policy.starts_with("allkeys") {
            return Err(RegionError::Misconfigured(format!(
                "maxmemory-policy {policy} may evict lane records: use volatile-lru, volatile-ttl or noeviction"
            )));
        }
        if field("cluster_enabled") == "1" {
            let reason = "this Redis is in cluster mode, which is not supported yet: use one without cluster mode";
            return Err(RegionError::Misconfigured(reason.to_owned()));
        }
        let version = field("redis_version").to_owned();
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if release < VERSION_MIN {
            return Err(RegionError::Misconfigured(format!("Redis {version} is too old: use 6.2 or newer, or Valkey")));
        }
        Ok(Self { has_expire_time: release.0 >= 7, version })
    }
}

/// The fields of an INFO answer.
pub(super) fn parse_info(info: &str) -> HashMap<String, String> {
    let fields = info.lines().filter_map(|line| line.trim_end().split_once(':'));
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Wraps what the client says with what was being done.
pub(super) fn redis_error(operation: impl Into<String>) -> impl FnOnce(redis::RedisError) -> RegionError {
    let operation = operation.into();
    move |source| RegionError::Redis { operation, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(fields: &[(&str, &str)]) -> Result<Server, RegionError> {
        let info = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Server::checked(&info)
    }

    #[test]
    fn a_server_that_cannot_be_used_is_refused_with_what_to_use() {
        let version = ("redis_version", "7.0.15");
        for (fields, words) in [
            ([version, ("maxmemory_policy", "allkeys-lru")], "volatile-lru"),
            ([version, ("cluster_enabled", "1")], "without cluster mode"),
            ([("redis_version", "6.0.16"), ("cluster_enabled", "0")], "6.2 or newer"),
        ] {
            assert!(checked(&fields).unwrap_err().to_string().contains(words), "{fields:?}");
        }
        for policy in ["noeviction", "volatile-lru", "volatile-ttl"] {
            assert!(checked(&[version, ("maxmemory_policy", policy)]).unwrap().has_expire_time);
        }
        assert!(!checked(&[("redis_version", "6.2.7")]).unwrap().has_expire_time);
    }

    #[test]
    fn secrets_are_not_shown() {
        let settings = RedisSettings {
            url: "redis://:hunter2@h:1".into(),
            user: Some("app".into()),
            password: Some("hunter2".into()),
        };
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
