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
        check_eviction(info.get("maxmemory_policy").map_or("", String::as_str))?;
        let version = info.get("redis_version").cloned().unwrap_or_default();
        let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
        Ok(Connection { redis, server: Server { has_expire_time: major >= 7, version } })
    }
}

/// Lane records have no expiry, so only the `allkeys` policies could evict them.
fn check_eviction(policy: &str) -> Result<(), RegionError> {
    if policy.starts_with("allkeys") {
        return Err(RegionError::Misconfigured(format!(
            "maxmemory-policy {policy} may evict lane records: use volatile-lru, volatile-ttl or noeviction"
        )));
    }
    Ok(())
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

    #[test]
    fn a_policy_that_may_evict_lane_records_is_refused() {
        assert!(check_eviction("allkeys-lru").unwrap_err().to_string().contains("volatile-lru"));
        for fine in ["noeviction", "volatile-lru", "volatile-ttl", ""] {
            check_eviction(fine).unwrap();
        }
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
