//! A real Redis Cluster on 127.0.0.1: three masters with a replica each, and what happens to clusters: a failover on
//! purpose, a master that dies, slots that move while they are written to.

use crate::error::LocalError;
use crate::process_group::ProcessGroup;
use crate::readiness::{log_tail, until_ready};
use crate::redis_server::{Flavour, answers_ping, in_directory, redirect};
use crate::wait::until;
use redis::aio::MultiplexedConnection;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

const SERVER: &str = "redis-server in cluster mode";
/// Nodes: the first half are masters when the cluster is new.
pub const NODES: usize = 6;
const MASTERS: usize = NODES / 2;
/// Hash slots of a cluster.
const SLOTS: u16 = 16_384;
/// How long a node must be silent to count as dead. Short, so that a failover takes seconds; long enough for a
/// machine that does other work.
const NODE_TIMEOUT_MS: &str = "3000";
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a failover or an agreement between the nodes may take.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The nodes talk to each other on the port of a node plus this.
const BUS_OFFSET: u16 = 10_000;
/// Ports are taken from here, below those that the system hands out for connections, so that neither a node's port
/// nor its bus port is somebody's connection.
const PORTS: RangeInclusive<u16> = 11_000..=21_900;
const PORTS_TRIED_MAX: usize = 400;
const STARTS_MAX: usize = 3;
/// Keys that one MIGRATE carries.
const KEYS_AT_ONCE: usize = 100;
const MIGRATE_TIMEOUT_MS: u32 = 10_000;

/// A running cluster, killed on drop.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    // Dropped in this order: the process ends before its directory goes.
    process: Mutex<Option<ProcessGroup>>,
    directory: TempDir,
    port: u16,
}

/// A master as the cluster sees it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterMaster {
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// Its node ID.
    pub id: String,
    /// The slots that it serves.
    pub slots: Vec<RangeInclusive<u16>>,
    /// Ports of its replicas.
    pub replicas: Vec<u16>,
}

impl ClusterMaster {
    /// Whether it serves `slot`.
    #[must_use]
    pub fn serves(&self, slot: u16) -> bool {
        self.slots.iter().any(|range| range.contains(&slot))
    }
}

impl RedisCluster {
    /// Starts six nodes on free ports and returns when every one says that the cluster is whole.
    ///
    /// # Errors
    /// [`LocalError::Missing`] without `redis-server` on PATH; [`LocalError::NotReady`] when a node ends or the nodes
    /// do not find together.
    pub fn start() -> Result<Self, LocalError> {
        Self::start_with(&[])
    }

    /// As [`RedisCluster::start`], with more arguments for every node (`["--maxmemory", "1mb"]`).
    ///
    /// # Errors
    /// As [`RedisCluster::start`].
    pub fn start_with(arguments: &[&str]) -> Result<Self, LocalError> {
        let program = Flavour::Redis.program()?;
        let mut starts_left = STARTS_MAX;
        loop {
            starts_left -= 1;
            let nodes = free_ports()?.into_iter().map(|port| Node::start(&program, port, arguments));
            match nodes.collect::<Result<Vec<_>, _>>() {
                // Somebody took a port meanwhile.
                Err(LocalError::NotReady { .. }) if starts_left > 0 => {}
                Err(error) => return Err(error),
                Ok(nodes) => {
                    let cluster = Self { nodes };
                    cluster.join_together()?;
                    return Ok(cluster);
                }
            }
        }
    }

    /// Makes a cluster of the nodes: slots, acquaintance, replicas.
    fn join_together(&self) -> Result<(), LocalError> {
        let share = SLOTS.div_ceil(u16::try_from(MASTERS).unwrap_or(1));
        for (index, node) in self.nodes.iter().enumerate() {
            node.tell(redis::cmd("CLUSTER").arg("SET-CONFIG-EPOCH").arg(index + 1))?;
            if index < MASTERS {
                let first = share * u16::try_from(index).unwrap_or(0);
                let slots: Vec<u16> = (first..SLOTS.min(first + share)).collect();
                node.tell(redis::cmd("CLUSTER").arg("ADDSLOTS").arg(slots))?;
            }
            if index > 0 {
                node.tell(redis::cmd("CLUSTER").arg("MEET").arg("127.0.0.1").arg(self.nodes[0].port))?;
            }
        }
        self.until_all("to know each other", |node| {
            Ok(node.info()?.get("cluster_known_nodes").is_some_and(|known| *known == NODES.to_string()))
        })?;
        for (master, replica) in self.nodes.iter().zip(&self.nodes[MASTERS..]) {
            let id: String = node_id(master)?;
            // Refused until the replica has heard that the other is a master with slots.
            until_blocking("a replica to take its master", || {
                Ok(replica.tell(redis::cmd("CLUSTER").arg("REPLICATE").arg(&id)).is_ok())
            })?;
        }
        self.until_all("to be one whole cluster", |node| {
            Ok(node.is_ok()? && node.knows_masters()? == MASTERS && node.is_master_or_linked()?)
        })
    }

    fn until_all(&self, what: &str, holds: impl Fn(&Node) -> Result<bool, LocalError>) -> Result<(), LocalError> {
        let waited = until_blocking(what, || {
            for node in &self.nodes {
                if !holds(node)? {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        waited.map_err(|error| LocalError::NotReady {
            server: SERVER,
            reason: error.to_string(),
            log_tail: self.log_tail(),
        })
    }

    /// Ports of all nodes on 127.0.0.1, dead ones included.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.port).collect()
    }

    /// `redis://127.0.0.1:PORT` of a node that lives.
    #[must_use]
    pub fn url(&self) -> String {
        self.urls().into_iter().next().unwrap_or_default()
    }

    /// `redis://127.0.0.1:PORT` of every node that lives.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.living().map(|node| format!("redis://127.0.0.1:{}", node.port)).collect()
    }

    /// A connection to one node, which answers for its own slots alone.
    ///
    /// # Errors
    /// [`LocalError::Call`].
    pub async fn connect(&self, port: u16) -> Result<MultiplexedConnection, LocalError> {
        connect(port).await
    }

    /// The masters with their slots and replicas, as the first living node sees them.
    ///
    /// # Errors
    /// [`LocalError::Call`] where the node does not answer.
    pub async fn masters(&self) -> Result<Vec<ClusterMaster>, LocalError> {
        let port = self.living().next().map_or(0, |node| node.port);
        masters_by(port).await
    }

    /// The master that serves `slot`.
    ///
    /// # Errors
    /// [`LocalError::Missing`] where nobody does; [`LocalError::Call`].
    pub async fn master_of(&self, slot: u16) -> Result<ClusterMaster, LocalError> {
        serving(self.masters().await?, slot)
    }

    /// Has the replica of the master of `slot` take over by `CLUSTER FAILOVER`, and waits until all nodes know.
    /// Returns the new master's port.
    ///
    /// # Errors
    /// [`LocalError::TimedOut`], [`LocalError::Call`].
    pub async fn failover(&self, slot: u16) -> Result<u16, LocalError> {
        let master = self.master_of(slot).await?;
        let replica = *master.replicas.first().ok_or_else(|| missing(format!("a replica of slot {slot}")))?;
        let mut connection = connect(replica).await?;
        let mut command = redis::cmd("CLUSTER");
        let asked: Result<redis::Value, _> = command.arg("FAILOVER").query_async(&mut connection).await;
        asked.map_err(LocalError::call("CLUSTER FAILOVER"))?;
        self.until_served_by(slot, |port| port == replica).await
    }

    /// Kills the master of `slot` as a crash would, and waits until its replica has taken over and all living nodes
    /// know. Returns the dead node's port, for [`RedisCluster::restart`], and the new master's.
    ///
    /// # Errors
    /// [`LocalError::TimedOut`], [`LocalError::Call`].
    pub async fn kill_master(&self, slot: u16) -> Result<(u16, u16), LocalError> {
        let dead = self.master_of(slot).await?.port;
        if let Some(node) = self.nodes.iter().find(|node| node.port == dead) {
            drop(node.process().take());
        }
        let promoted = self.until_served_by(slot, |port| port != dead).await?;
        Ok((dead, promoted))
    }

    /// Starts a dead node again; it comes back as a replica. Waits until it is one.
    ///
    /// # Errors
    /// [`LocalError::NotReady`], [`LocalError::TimedOut`].
    pub async fn restart(&self, port: u16) -> Result<(), LocalError> {
        let Some(node) = self.nodes.iter().find(|node| node.port == port) else {
            return Err(missing(format!("a node on port {port}")));
        };
        let program = Flavour::Redis.program()?;
        *node.process() = Some(spawn(&program, port, node.directory.path(), &[])?);
        until(&format!("node {port} to be a replica"), CHANGE_TIMEOUT, async || {
            let masters = masters_by(port).await?;
            Ok((masters.len() == MASTERS && masters.iter().all(|master| master.port != port)).then_some(()))
        })
        .await
    }

    /// Moves slots to the master on port `to`, key by key, while clients go on writing: what `redis-cli --cluster
    /// reshard` does. Slots that are there already stay. Returns how many keys moved.
    ///
    /// # Errors
    /// [`LocalError::TimedOut`], [`LocalError::Call`].
    pub async fn migrate(&self, slots: RangeInclusive<u16>, to: u16) -> Result<usize, LocalError> {
        let masters = self.masters().await?;
        let target = masters.iter().find(|master| master.port == to);
        let target = target.ok_or_else(|| missing(format!("a master on port {to}")))?;
        let mut connections = BTreeMap::new();
        for master in &masters {
            connections.insert(master.port, connect(master.port).await?);
        }
        let mut moved = 0;
        for slot in slots.clone() {
            let source = serving(masters.clone(), slot)?;
            if source.port != to {
                moved += migrate_slot(&mut connections, slot, &source, target).await?;
            }
        }
        for slot in [*slots.start(), *slots.end()] {
            self.until_served_by(slot, |port| port == to).await?;
        }
        Ok(moved)
    }

    /// Waits until every living node answers and says that all slots are served.
    ///
    /// # Errors
    /// [`LocalError::TimedOut`].
    pub async fn until_whole(&self) -> Result<(), LocalError> {
        until("the cluster to be whole", CHANGE_TIMEOUT, async || {
            for node in self.living() {
                if !is_ok(node.port).await.unwrap_or(false) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await
    }

    /// Waits until every living node says that `slot` is served by a node that is wanted.
    async fn until_served_by(&self, slot: u16, wanted: impl Fn(u16) -> bool) -> Result<u16, LocalError> {
        until(&format!("slot {slot} to have its new master"), CHANGE_TIMEOUT, async || {
            let mut served_by = None;
            for node in self.living() {
                match serving(masters_by(node.port).await?, slot) {
                    Ok(master) if wanted(master.port) => served_by = Some(master.port),
                    _ => return Ok(None),
                }
                if !is_ok(node.port).await? {
                    return Ok(None);
                }
            }
            Ok(served_by)
        })
        .await
    }

    fn living(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.process().is_some())
    }

    /// The last lines of every node's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let tails = self.nodes.iter().map(|node| format!("{}:\n{}", node.port, log_tail(&node.log())));
        tails.collect::<Vec<_>>().join("\n")
    }
}

impl Node {
    fn start(program: &Path, port: u16, arguments: &[&str]) -> Result<Self, LocalError> {
        let directory = TempDir::with_prefix("tidemark-cluster-")
            .map_err(LocalError::io("make a directory", std::env::temp_dir()))?;
        let process = Mutex::new(Some(spawn(program, port, directory.path(), arguments)?));
        Ok(Self { process, directory, port })
    }

    fn process(&self) -> MutexGuard<'_, Option<ProcessGroup>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> std::path::PathBuf {
        self.directory.path().join("redis.log")
    }

    fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, LocalError> {
        let failed = || LocalError::call(format!("a CLUSTER command on port {}", self.port));
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).map_err(failed())?;
        let mut connection = client.get_connection().map_err(failed())?;
        command.query(&mut connection).map_err(failed())
    }

    fn tell(&self, command: &redis::Cmd) -> Result<(), LocalError> {
        self.ask::<redis::Value>(command).map(drop)
    }

    fn info(&self) -> Result<BTreeMap<String, String>, LocalError> {
        Ok(fields(&self.ask::<String>(redis::cmd("CLUSTER").arg("INFO"))?))
    }

    fn is_ok(&self) -> Result<bool, LocalError> {
        Ok(self.info()?.get("cluster_state").is_some_and(|state| state == "ok"))
    }

    fn knows_masters(&self) -> Result<usize, LocalError> {
        let masters = masters_in(&self.ask::<String>(redis::cmd("CLUSTER").arg("NODES"))?);
        Ok(masters.iter().filter(|master| master.replicas.len() == 1).count())
    }

    fn is_master_or_linked(&self) -> Result<bool, LocalError> {
        let info = fields(&self.ask::<String>(redis::cmd("INFO").arg("replication"))?);
        let is = |name: &str, value: &str| info.get(name).is_some_and(|found| found == value);
        Ok(is("role", "master") || is("master_link_status", "up"))
    }
}

fn spawn(program: &Path, port: u16, directory: &Path, arguments: &[&str]) -> Result<ProcessGroup, LocalError> {
    let mut command = in_directory(program, directory);
    command
        .args(["--port", &port.to_string(), "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"])
        .args(["--cluster-node-timeout", NODE_TIMEOUT_MS, "--cluster-replica-validity-factor", "0"])
        .args(["--repl-diskless-sync-delay", "0"])
        .args(arguments);
    let log = directory.join("redis.log");
    redirect(&mut command, &log)?;
    let mut process = ProcessGroup::spawn(command).map_err(LocalError::io("start", program))?;
    until_ready(SERVER, &mut process, &log, READY_TIMEOUT, || answers_ping(port))?;
    Ok(process)
}

/// Ports of which the bus port is free too. Where to begin comes from the clock and this process, so that tests
/// that run at the same time seldom meet.
fn free_ports() -> Result<Vec<u16>, LocalError> {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    let width = PORTS.end() - PORTS.start();
    let begin = (nanos / 1_000).wrapping_add(std::process::id().wrapping_mul(7_919)) % u32::from(width);
    let candidates = (0..PORTS_TRIED_MAX as u32).map(|step| (begin + step) % u32::from(width));
    let candidates = candidates.filter_map(|offset| u16::try_from(offset).ok()).map(|offset| PORTS.start() + offset);
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let ports: Vec<u16> = candidates.filter(|port| is_free(*port) && is_free(port + BUS_OFFSET)).take(NODES).collect();
    if ports.len() == NODES { Ok(ports) } else { Err(missing(format!("{NODES} free ports with free bus ports"))) }
}

async fn migrate_slot(
    connections: &mut BTreeMap<u16, MultiplexedConnection>,
    slot: u16,
    source: &ClusterMaster,
    target: &ClusterMaster,
) -> Result<usize, LocalError> {
    set_slot(connections, target.port, slot, "IMPORTING", &source.id).await?;
    set_slot(connections, source.port, slot, "MIGRATING", &target.id).await?;
    let mut moved = 0;
    loop {
        let connection = connection_of(connections, source.port)?;
        let mut list = redis::cmd("CLUSTER");
        list.arg("GETKEYSINSLOT").arg(slot).arg(KEYS_AT_ONCE);
        let keys: Vec<Vec<u8>> = list.query_async(connection).await.map_err(LocalError::call("GETKEYSINSLOT"))?;
        if keys.is_empty() {
            break;
        }
        let mut migrate = redis::cmd("MIGRATE");
        migrate.arg("127.0.0.1").arg(target.port).arg("").arg(0).arg(MIGRATE_TIMEOUT_MS).arg("KEYS").arg(&keys);
        let answer: redis::Value =
            migrate.query_async(connection).await.map_err(LocalError::call(format!("MIGRATE of slot {slot}")))?;
        // NOKEY: they expired or were deleted between the two calls.
        moved += if answer == redis::Value::Okay { keys.len() } else { 0 };
    }
    // The target first: it must not turn away what the source already refuses.
    let others: Vec<u16> = connections.keys().copied().filter(|p| *p != target.port && *p != source.port).collect();
    for port in [target.port, source.port].into_iter().chain(others) {
        set_slot(connections, port, slot, "NODE", &target.id).await?;
    }
    Ok(moved)
}

async fn set_slot(
    connections: &mut BTreeMap<u16, MultiplexedConnection>,
    port: u16,
    slot: u16,
    state: &str,
    node: &str,
) -> Result<(), LocalError> {
    let mut command = redis::cmd("CLUSTER");
    command.arg("SETSLOT").arg(slot).arg(state).arg(node);
    let connection = connection_of(connections, port)?;
    let done: Result<redis::Value, _> = command.query_async(connection).await;
    done.map(drop).map_err(LocalError::call(format!("SETSLOT {slot} {state} on port {port}")))
}

fn connection_of(
    connections: &mut BTreeMap<u16, MultiplexedConnection>,
    port: u16,
) -> Result<&mut MultiplexedConnection, LocalError> {
    connections.get_mut(&port).ok_or_else(|| missing(format!("a master on port {port}")))
}

async fn connect(port: u16) -> Result<MultiplexedConnection, LocalError> {
    let failed = || LocalError::call(format!("connect to port {port}"));
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).map_err(failed())?;
    client.get_multiplexed_async_connection().await.map_err(failed())
}

async fn masters_by(port: u16) -> Result<Vec<ClusterMaster>, LocalError> {
    let mut command = redis::cmd("CLUSTER");
    let text: Result<String, _> = command.arg("NODES").query_async(&mut connect(port).await?).await;
    Ok(masters_in(&text.map_err(LocalError::call("CLUSTER NODES"))?))
}

async fn is_ok(port: u16) -> Result<bool, LocalError> {
    let mut command = redis::cmd("CLUSTER");
    let text: Result<String, _> = command.arg("INFO").query_async(&mut connect(port).await?).await;
    Ok(text.map_err(LocalError::call("CLUSTER INFO"))?.contains("cluster_state:ok"))
}

fn serving(masters: Vec<ClusterMaster>, slot: u16) -> Result<ClusterMaster, LocalError> {
    masters.into_iter().find(|master| master.serves(slot)).ok_or_else(|| missing(format!("a master of slot {slot}")))
}

/// Reads `CLUSTER NODES`: <https://redis.io/docs/latest/commands/cluster-nodes/>. Nodes that failed do not count.
fn masters_in(text: &str) -> Vec<ClusterMaster> {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    let port = |line: &[&str]| {
        let address = line.get(1)?.split('@').next()?;
        address.rsplit(':').next()?.parse::<u16>().ok()
    };
    let has = |line: &[&str], flag: &str| line.get(2).is_some_and(|flags| flags.split(',').any(|one| one == flag));
    let alive = |line: &[&str]| !has(line, "fail") && !has(line, "noaddr") && !has(line, "handshake");
    let masters = lines.iter().filter(|line| has(line, "master") && alive(line) && line.len() > 8);
    masters
        .filter_map(|line| {
            let id = (*line.first()?).to_owned();
            let of_it = |other: &&Vec<&str>| other.get(3) == Some(&id.as_str()) && alive(other);
            let replicas = lines.iter().filter(of_it).filter_map(|other| port(other)).collect();
            Some(ClusterMaster { port: port(line)?, slots: line[8..].iter().filter_map(range).collect(), replicas, id })
        })
        .collect()
}

/// `7` or `7-9`; `[7->-…]` is a slot on the move, and still the source's.
fn range(text: &&str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

fn node_id(node: &Node) -> Result<String, LocalError> {
    node.ask(redis::cmd("CLUSTER").arg("MYID"))
}

fn fields(info: &str) -> BTreeMap<String, String> {
    let fields = info.lines().filter_map(|line| line.trim_end().split_once(':'));
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn until_blocking(what: &str, mut holds: impl FnMut() -> Result<bool, LocalError>) -> Result<(), LocalError> {
    let begun = Instant::now();
    while !holds()? {
        if begun.elapsed() > READY_TIMEOUT {
            return Err(LocalError::TimedOut { what: what.to_owned(), waited_ms: begun.elapsed().as_millis() });
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

fn missing(what: String) -> LocalError {
    LocalError::Missing { what, remedy: "look at the nodes' logs" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_are_read_with_their_slots_and_living_replicas() {
        let text = "a 127.0.0.1:11001@21001 myself,master - 0 0 1 connected 0-5460 7000 [93->-b]\n\
                    b 127.0.0.1:11002@21002,host master - 0 0 2 connected 5461-10922\n\
                    c 127.0.0.1:11003@21003 slave a 0 0 1 connected\n\
                    d 127.0.0.1:11004@21004 slave,fail a 0 0 1 disconnected\n\
                    e 127.0.0.1:11005@21005 master,fail - 0 0 3 disconnected 10923-16383\n\
                    f 127.0.0.1:11006@21006 master - 0 0 4 connected\n";
        let masters = masters_in(text);
        assert_eq!(masters.len(), 2, "{masters:?}");
        assert_eq!((masters[0].port, &masters[0].replicas), (11_001, &vec![11_003]));
        assert_eq!(masters[0].slots, [0..=5_460, 7_000..=7_000]);
        assert!(masters[1].serves(10_922) && !masters[1].serves(5_460));
    }

    #[tokio::test]
    async fn a_cluster_survives_failovers_and_a_migration_and_keeps_its_keys() {
        let cluster = RedisCluster::start().unwrap();
        let masters = cluster.masters().await.unwrap();
        assert_eq!(masters.iter().map(|master| master.replicas.len()).collect::<Vec<_>>(), [1, 1, 1]);
        // "foo" is of slot 12182: https://redis.io/docs/latest/commands/cluster-keyslot/ tells how.
        let slot = 12_182;
        let home = cluster.master_of(slot).await.unwrap().port;
        let set = async |port: u16, value: &str| {
            let mut connection = cluster.connect(port).await.unwrap();
            let () = redis::cmd("SET").arg("foo").arg(value).query_async(&mut connection).await.unwrap();
            let _: i64 = redis::cmd("WAIT").arg(1).arg(20_000).query_async(&mut connection).await.unwrap();
        };
        let get = async |port: u16| {
            let mut connection = cluster.connect(port).await.unwrap();
            redis::cmd("GET").arg("foo").query_async::<Option<String>>(&mut connection).await.unwrap()
        };
        set(home, "1").await;
        let promoted = cluster.failover(slot).await.unwrap();
        assert_ne!(promoted, home);
        assert_eq!(get(promoted).await.as_deref(), Some("1"));

        let (dead, second) = cluster.kill_master(slot).await.unwrap();
        assert_eq!((dead, second), (promoted, home));
        assert_eq!(get(second).await.as_deref(), Some("1"));
        assert!(!cluster.urls().iter().any(|url| url.ends_with(&dead.to_string())));
        cluster.restart(dead).await.unwrap();

        let masters = cluster.masters().await.unwrap();
        let other = masters.iter().find(|master| !master.serves(slot)).unwrap().port;
        assert_eq!(cluster.migrate(slot - 20..=slot + 20, other).await.unwrap(), 1);
        assert_eq!(cluster.master_of(slot).await.unwrap().port, other);
        assert_eq!(get(other).await.as_deref(), Some("1"));
    }

    #[test]
    fn a_dropped_cluster_is_gone() {
        let cluster = RedisCluster::start().unwrap();
        let ports = cluster.ports();
        assert_eq!(ports.len(), NODES);
        drop(cluster);
        assert!(!ports.into_iter().any(answers_ping));
    }
}
