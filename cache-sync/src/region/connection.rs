//! Connections to the region's Redis, standalone or cluster, and what is read once from each.

use super::RegionError;
use super::cluster::Cluster;
use super::login::Login;
use redis::aio::MultiplexedConnection;
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, TlsCertificates};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tidemark_runtime::settings::{SettingError, Settings};

/// Connections that a batch uses at once on a standalone Redis: lanes in parallel hide the round trip of the fence. With
/// two, the server waits after every second chunk until the next one is made; with four it is no busier than with three.
pub const CONNECTIONS: usize = 3;
/// SET with PXAT came with 6.2.
const VERSION_MIN: (u32, u32) = (6, 2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);
/// How often the cluster client sends a command again (a moved slot, a lost connection, a slot in migration); what it
/// gives up on is delivered again by the mapping.
const CLUSTER_RETRIES: u32 = 5;

/// Where a region's Redis is and how to log in. Secrets are not shown.
#[derive(Clone)]
pub struct RedisSettings {
    /// `redis://HOST:PORT/DB`, or `rediss://` for TLS. Whether it is a cluster is asked of the server.
    pub url: String,
    /// How to log in.
    pub login: Login,
    /// Certificates that sign the server's, in PEM, where no public authority does.
    pub authorities: Option<Vec<u8>>,
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings").field("login", &self.login).finish_non_exhaustive()
    }
}

impl RedisSettings {
    pub(super) fn read(settings: &Settings<'_>, region: &str) -> Result<Self, SettingError> {
        Ok(Self {
            url: settings.required("TIDEMARK_REDIS_URL", "the region's Redis, rediss://HOST:PORT")?,
            login: Login::read(settings, region)?,
            authorities: settings.file("TIDEMARK_REDIS_CA_FILE")?,
        })
    }

    /// The address with a login that is good now.
    async fn info(&self) -> Result<ConnectionInfo, RegionError> {
        let info = self.url.as_str().into_connection_info().map_err(redis_error("reading TIDEMARK_REDIS_URL"))?;
        let mut login = info.redis_settings().clone();
        let (user, password) = self.login.now().await?;
        if let Some(user) = user {
            login = login.set_username(user);
        }
        if let Some(password) = password {
            login = login.set_password(password);
        }
        Ok(info.set_redis_settings(login))
    }

    fn certificates(&self) -> Option<TlsCertificates> {
        let root_cert = self.authorities.clone()?;
        Some(TlsCertificates { client_tls: None, root_cert: Some(root_cert) })
    }

    async fn client(&self) -> Result<Client, RegionError> {
        let info = self.info().await?;
        match self.certificates() {
            Some(certificates) => Client::build_with_tls(info, certificates),
            None => Client::open(info),
        }
        .map_err(redis_error("reading TIDEMARK_REDIS_URL"))
    }

    async fn cluster_client(&self) -> Result<ClusterClient, RegionError> {
        let mut builder = ClusterClientBuilder::new([self.info().await?])
            .connection_timeout(CONNECT_TIMEOUT)
            .response_timeout(RESPONSE_TIMEOUT)
            .retries(CLUSTER_RETRIES);
        if let Some(certificates) = self.certificates() {
            builder = builder.certs(certificates);
        }
        builder.build().map_err(redis_error("reading TIDEMARK_REDIS_URL"))
    }
}

/// The way to the region's Redis.
pub struct Connections {
    settings: RedisSettings,
    known: Mutex<Known>,
}

/// What was found out so far.
enum Known {
    Nothing,
    /// Idle connections, each used by one lane at a time because a WATCH belongs to its connection.
    Standalone(Vec<Connection>),
    Cluster(Cluster),
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

/// A connection for one unit of work.
pub(super) enum Session {
    Standalone(Connection),
    Cluster(Cluster),
}

/// What is known of a server.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) version: String,
    /// Whether PEXPIRETIME is there (7.0 and later, Valkey too).
    pub(super) has_expire_time: bool,
    is_cluster: bool,
}

impl Connections {
    pub(super) fn new(settings: RedisSettings) -> Result<Self, RegionError> {
        settings.url.as_str().into_connection_info().map_err(redis_error("reading TIDEMARK_REDIS_URL"))?;
        Ok(Self { settings, known: Mutex::new(Known::Nothing) })
    }

    /// An idle connection, or a new one. What failed on a connection is not given back, so it is closed.
    pub(super) async fn session(&self) -> Result<Session, RegionError> {
        match &mut *self.known() {
            Known::Standalone(idle) => {
                if let Some(connection) = idle.pop() {
                    return Ok(Session::Standalone(connection));
                }
            }
            Known::Cluster(cluster) => return Ok(Session::Cluster(cluster.clone())),
            Known::Nothing => {}
        }
        self.connect().await
    }

    /// As [`Connections::session`], for what is not built for a cluster yet.
    pub(super) async fn take(&self) -> Result<Connection, RegionError> {
        match self.session().await? {
            Session::Standalone(connection) => Ok(connection),
            Session::Cluster(_) => Err(RegionError::Misconfigured(
                "this Redis is in cluster mode: snapshots and resyncs do not work with one yet".to_owned(),
            )),
        }
    }

    /// Keeps a connection that did its work for the next lane.
    pub(super) fn give_back(&self, session: impl Into<Session>) {
        if let (Session::Standalone(connection), Known::Standalone(idle)) = (session.into(), &mut *self.known())
            && idle.len() < CONNECTIONS
        {
            idle.push(connection);
        }
    }

    /// Connects anew at the next use: after a failure the address, the login or the kind of server may be another.
    pub(super) fn forget(&self) {
        *self.known() = Known::Nothing;
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> Result<Session, RegionError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let client = self.settings.client().await?;
        let mut redis =
            client.get_multiplexed_async_connection_with_config(&config).await.map_err(redis_error("connecting"))?;
        let info: String = redis::cmd("INFO").query_async(&mut redis).await.map_err(redis_error("INFO"))?;
        let server = Server::checked(&parse_info(&info))?;
        if !server.is_cluster {
            let mut known = self.known();
            if !matches!(*known, Known::Standalone(_)) {
                *known = Known::Standalone(Vec::new());
            }
            return Ok(Session::Standalone(Connection { redis, server }));
        }
        let cluster = Cluster::connect(&self.settings.cluster_client().await?).await?;
        *self.known() = Known::Cluster(cluster.clone());
        Ok(Session::Cluster(cluster))
    }
}

impl From<Connection> for Session {
    fn from(connection: Connection) -> Self {
        Session::Standalone(connection)
    }
}

impl Server {
    /// What INFO says of a server, where it is one that can be used.
    ///
    /// # Errors
    /// [`RegionError::Misconfigured`] with what to change.
    pub(super) fn checked(info: &HashMap<String, String>) -> Result<Self, RegionError> {
        let field = |name: &str| info.get(name).map_or("", String::as_str);
        let policy = field("maxmemory_policy");
        // Lane records have no expiry, so only these policies could evict them.
        if policy.starts_with("allkeys") {
            return Err(RegionError::Misconfigured(format!(
                "maxmemory-policy {policy} may evict lane records: use volatile-lru, volatile-ttl or noeviction"
            )));
        }
        let version = field("redis_version").to_owned();
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if release < VERSION_MIN {
            return Err(RegionError::Misconfigured(format!("Redis {version} is too old: use 6.2 or newer, or Valkey")));
        }
        Ok(Self { has_expire_time: release.0 >= 7, version, is_cluster: field("cluster_enabled") == "1" })
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
            ([("redis_version", "6.0.16"), ("cluster_enabled", "0")], "6.2 or newer"),
        ] {
            assert!(checked(&fields).unwrap_err().to_string().contains(words), "{fields:?}");
        }
        for policy in ["noeviction", "volatile-lru", "volatile-ttl"] {
            assert!(checked(&[version, ("maxmemory_policy", policy)]).unwrap().has_expire_time);
        }
        assert!(!checked(&[("redis_version", "6.2.7")]).unwrap().has_expire_time);
    }
}
