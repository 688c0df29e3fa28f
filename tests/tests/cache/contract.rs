//! What replay promises, written once and run over every server that is supported: Redis 7, Valkey 8, Redis 6.2, Redis
//! behind TLS with an ACL user, and a six-node cluster. A further server is one line in `run_over!`.

use super::{
    LANES, Random, Record, Stream, assert_same, batch, bucket, cloud, lanes, model, new_stream, random, region_with,
};
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};
use tidemark_cache_sync::lane::{Lane, slot};
use tidemark_cache_sync::region::Region;
use tidemark_local::{Content, Flavour, HUB, LocalCloud, Port, RedisCluster, RedisServer, RegionClients, contents};
use tidemark_runtime::clock::{Clock, Time};

/// Random runs over each server.
const SEEDS: u64 = 4;
/// Records of one random run.
const RECORDS: usize = 150;
/// Keys of random runs: enough to lie in many slots.
const KEYS: u64 = 40;
/// How long a batch is delivered again before a test gives up: a failover takes seconds.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);
/// By how much an expiry may be read wrong where the server has no PEXPIRETIME.
const EXPIRY_FAULT_MS: i64 = 100;

/// Each line runs every promise over one server.
macro_rules! run_over {
    ($($name:ident: $server:expr,)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            every_promise($server).await;
        }
    )+};
}

run_over! {
    promises_hold_on_redis_7: Server::of(Flavour::Redis),
    promises_hold_on_valkey: Server::of(Flavour::Valkey),
    promises_hold_on_redis_6_2: Server::of(Flavour::Redis62),
    promises_hold_behind_tls_with_an_acl_user: Server::of(Flavour::RedisTls),
    promises_hold_on_a_six_node_cluster: Server::Cluster(Box::new(RedisCluster::start().unwrap())),
}

async fn every_promise(server: Server) {
    let cloud = cloud();
    let place = Place::new(&cloud, server, "k,h,s,z,l,e,x,n").await;
    order_holds_and_what_comes_again_is_skipped(&place).await;
    a_producers_retry_is_applied_once(&place).await;
    one_bad_change_costs_one_key(&place).await;
    neighbouring_sets_replace_whatever_was_there(&place).await;
    a_server_short_of_memory_takes_nothing_of_a_chunk(&place).await;
    collections_on_absent_keys_create_nothing(&place).await;
    expiry_is_the_same_instant_everywhere(&place).await;
    a_lane_that_is_behind_is_fed_and_joined(&place).await;
    commands_that_arrive_late_never_overwrite_newer_ones(&place).await;
    invocations_that_overlap_never_regress_a_key(&place).await;
    big_collections_arrive_whole(&place).await;
    a_policy_that_may_evict_lane_records_is_refused(&place).await;
}

/// What the region's data lies in.
pub(super) enum Server {
    One(RedisServer),
    Cluster(Box<RedisCluster>),
}

impl Server {
    fn of(flavour: Flavour) -> Self {
        Self::One(RedisServer::start_as(flavour, &Port::Free, &[]).unwrap())
    }
}

/// A region on some server.
pub(super) struct Place {
    pub(super) server: Server,
    clients: RegionClients,
    bucket: String,
    scope: &'static str,
    region: Region,
}

impl Place {
    pub(super) async fn new(cloud: &LocalCloud, server: Server, scope: &'static str) -> Self {
        let (clients, bucket) = bucket(cloud, HUB).await;
        let region = invocation(&server, &bucket, scope, &clients);
        Self { server, clients, bucket, scope, region }
    }

    /// Another process of the regional function.
    fn another(&self) -> Region {
        invocation(&self.server, &self.bucket, self.scope, &self.clients)
    }

    async fn ask(&self, request: &Value) -> Value {
        self.region.answer(&request.to_string()).await.unwrap_or_else(|error| panic!("{error}: {request}"))
    }

    /// A connection to every server that holds keys.
    async fn connections(&self) -> Vec<MultiplexedConnection> {
        match &self.server {
            Server::One(redis) => vec![redis.client().unwrap().get_multiplexed_async_connection().await.unwrap()],
            Server::Cluster(cluster) => {
                let mut connections = Vec::new();
                for master in cluster.masters().await.unwrap() {
                    connections.push(cluster.connect(master.port).await.unwrap());
                }
                connections
            }
        }
    }

    /// Runs a command on the server of a key, behind replay's back.
    async fn run(&self, key: &str, command: &[&str]) {
        let mut connection = match &self.server {
            Server::One(_) => self.connections().await.remove(0),
            Server::Cluster(cluster) => {
                let master = cluster.master_of(slot(key.as_bytes())).await.unwrap();
                cluster.connect(master.port).await.unwrap()
            }
        };
        let _: redis::Value = redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await.unwrap();
    }

    async fn run_everywhere(&self, command: &[&str]) {
        for mut connection in self.connections().await {
            let _: redis::Value = redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await.unwrap();
        }
    }

    /// Everything but the system's own keys.
    async fn keys(&self) -> BTreeMap<Vec<u8>, Content> {
        let mut found = BTreeMap::new();
        for mut connection in self.connections().await {
            found.extend(contents(&mut connection, |key| !key.starts_with(b"tidemark:")).await.unwrap());
        }
        found
    }

    async fn text(&self, key: &str) -> Option<String> {
        let keys = self.keys().await;
        keys.get(key.as_bytes()).map(|content| String::from_utf8_lossy(&content.value.concat()).into_owned())
    }

    /// Empties the region and makes every lane ready again, as the first batches of a new stream do.
    pub(super) async fn begin(&self, stream: &mut Stream) -> Vec<Record> {
        self.run_everywhere(&["FLUSHALL"]).await;
        let beats: Vec<Record> =
            lanes().all().map(|lane| stream.record(lane, &json!({"v": 1, "heartbeat": 1, "at_ms": 1}))).collect();
        deliver(&self.region, &beats, &beats).await.unwrap();
        beats
    }

    pub(super) async fn assert_is(&self, records: &[Record], what: &str) {
        let mut found = self.keys().await;
        let wanted = model(records, Clock::system().now_ms());
        for (key, content) in &mut found {
            let Some(wanted) = wanted.get(key) else { continue };
            if (content.expires_at_ms - wanted.expires_at_ms).abs() <= EXPIRY_FAULT_MS && self.reads_expiries_roughly()
            {
                content.expires_at_ms = wanted.expires_at_ms;
            }
        }
        assert_same(&found, &wanted, what);
    }

    fn reads_expiries_roughly(&self) -> bool {
        matches!(&self.server, Server::One(redis) if redis.log_tail().contains("version=6.") || redis.log_tail().contains("6.2."))
    }
}

fn invocation(server: &Server, bucket: &str, scope: &str, clients: &RegionClients) -> Region {
    invocation_by(server, bucket, scope, clients, Clock::system())
}

fn invocation_by(server: &Server, bucket: &str, scope: &str, clients: &RegionClients, clock: Clock) -> Region {
    let mut redis = BTreeMap::new();
    match server {
        Server::Cluster(cluster) => _ = redis.insert("TIDEMARK_REDIS_URL", cluster.url()),
        Server::One(one) => {
            redis.insert("TIDEMARK_REDIS_URL", one.url());
            if let Some(login) = one.login() {
                redis.insert("TIDEMARK_REDIS_USER", login.user.to_owned());
                redis.insert("TIDEMARK_REDIS_PASSWORD", login.password.to_owned());
                redis.insert("TIDEMARK_REDIS_CA_FILE", login.ca_file.display().to_string());
            }
        }
    }
    region_with(HUB, bucket, scope, redis, clients, clock).unwrap()
}

/// Delivers a batch as forward does: what is behind is fed from its mark, out of `history`, and joined.
async fn deliver(region: &Region, history: &[Record], batch: &[Record]) -> Result<(), String> {
    let answer = region.answer(&batch::replay(batch).to_string()).await.map_err(|error| error.to_string())?;
    for (name, outcome) in answer["lanes"].as_object().unwrap() {
        if outcome["applied"].is_object() {
            continue;
        }
        let behind = &outcome["behind"];
        if !behind.is_object() {
            return Err(format!("lane {name}: {outcome}"));
        }
        let from = behind["mark"].as_str().map_or(0, |mark| mark.split(':').next().unwrap().parse::<u64>().unwrap());
        let last = batch.iter().filter(|record| record.partition_key == *name).map(|record| record.sequence).max();
        let in_reach = |record: &&Record| {
            record.partition_key == *name && record.sequence >= from && Some(record.sequence) <= last
        };
        let fed: Vec<Record> = history.iter().filter(in_reach).cloned().collect();
        let lane = Lane(name.parse().unwrap());
        let id = behind["replication_id"].as_str().unwrap();
        let request = batch::follow(&fed, [(lane, behind["mark"].clone())], id, true);
        let joined = region.answer(&request.to_string()).await.map_err(|error| error.to_string())?;
        if !joined["lanes"][name]["applied"].is_object() {
            return Err(format!("lane {name} was not joined: {joined}"));
        }
    }
    Ok(())
}

/// Delivers a batch until it is taken, as the mapping does; a cluster that is not whole is waited for.
pub(super) async fn deliver_until_taken(place: &Place, history: &[Record], batch: &[Record]) {
    let until = Instant::now() + TAKEN_WITHIN;
    while let Err(error) = deliver(&place.region, history, batch).await {
        assert!(Instant::now() < until, "not taken within {TAKEN_WITHIN:?}: {error}");
        if let Server::Cluster(cluster) = &place.server {
            cluster.until_whole().await.unwrap();
        }
    }
}

pub(super) fn random_records(random: &mut Random, stream: &mut Stream, count: usize) -> Vec<Record> {
    let one = |_| {
        let key = format!("k{}", random.below(KEYS));
        let now_ms = Clock::system().now_ms();
        let cmds = random::commands(random, &key, now_ms);
        stream.record(lanes().of_key(key.as_bytes()), &json!({"v": 1, "cmds": cmds, "at_ms": now_ms}))
    };
    (0..count).map(one).collect()
}

async fn order_holds_and_what_comes_again_is_skipped(place: &Place) {
    for seed in 0..SEEDS {
        let (mut random, mut stream) = (Random::new(seed), new_stream());
        let mut records = place.begin(&mut stream).await;
        records.extend(random_records(&mut random, &mut stream, RECORDS));
        let mut applied = usize::from(LANES);
        while applied < records.len() {
            // A batch begins anywhere at or before what was applied: deliveries repeat.
            let begin = usize::try_from(random.below(applied as u64 + 1)).unwrap();
            let end = (applied + 1 + usize::try_from(random.below(30)).unwrap()).min(records.len());
            let answer = place.ask(&batch::replay(&records[begin..end])).await;
            let taken = answer["lanes"].as_object().unwrap().values().all(|outcome| outcome["applied"].is_object());
            assert!(taken, "seed {seed}: {answer}");
            applied = end;
        }
        place.assert_is(&records, &format!("seed {seed}")).await;
        let again = place.ask(&batch::replay(&records)).await;
        assert_eq!(again["counts"]["applied"], 0, "seed {seed}: {again}");
        place.assert_is(&records, &format!("seed {seed}, all of it again")).await;
    }
}

async fn a_producers_retry_is_applied_once(place: &Place) {
    let mut stream = new_stream();
    place.begin(&mut stream).await;
    let lane = lanes().of_key(b"k");
    let change = |value: &str, seq: u64| json!({"v": 1, "cmd": ["SET", "k", value], "producer": "p", "seq": seq});
    let first = [stream.record(lane, &change("old", 1)), stream.record(lane, &change("new", 2))];
    place.ask(&batch::replay(&first)).await;
    let late = place.ask(&batch::replay(&[stream.record(lane, &change("old", 1))])).await;
    assert_eq!((&late["counts"]["applied"], &late["counts"]["repeated"]), (&json!(0), &json!(1)), "{late}");
    assert_eq!(place.text("k").await.as_deref(), Some("new"));
}

async fn one_bad_change_costs_one_key(place: &Place) {
    let mut stream = new_stream();
    place.begin(&mut stream).await;
    for key in ["n", "h", "x", "out:1"] {
        place.run(key, &["SET", key, "before"]).await;
    }
    let other_lane = Lane((lanes().of_key(b"x").0 + 1) % LANES);
    let records = [
        stream.command(lanes(), &["SET", "k", "1"]),
        stream.command(lanes(), &["INCR", "n"]),
        stream.command(lanes(), &["HSET", "h", "f", "v"]),
        stream.record(other_lane, &json!({"v": 1, "cmd": ["SET", "x", "stolen"]})),
        stream.command(lanes(), &["SET", "out:1", "changed"]),
        stream.command(lanes(), &["DEL", "tidemark:lane:0"]),
        stream.raw("0", b"not json"),
        stream.raw("user:7", b"{}"),
        stream.command(lanes(), &["SET", "k2", "2"]),
    ];
    let answer = place.ask(&batch::replay(&records)).await;
    assert_eq!(answer["counts"]["quarantined"], 7, "{answer}");
    let mut found = Vec::new();
    for key in ["k", "k2", "n", "h", "x", "out:1"] {
        found.push(place.text(key).await.unwrap_or_default());
    }
    assert_eq!(
        found,
        ["1", "2", "", "", "before", "before"],
        "refused and another type cost the key; foreign ones stay"
    );
    // Of the record that is no JSON nobody knows which key it was for; of the others that is known.
    let status = place.ask(&json!({"status": {}})).await;
    let verify: Vec<&Value> = lanes().all().map(|lane| &status["lanes"][lane.to_string()]["verify"]).collect();
    let position = json!(format!("{}:0", records[6].sequence));
    assert_eq!(verify, [&position, &Value::Null, &Value::Null, &Value::Null], "{status}");
}

/// What a key without expiry says of it.
const NEVER: i64 = -1;

/// They travel together, and still each is a change of its own: what fails among them costs its own key alone.
async fn neighbouring_sets_replace_whatever_was_there(place: &Place) {
    let mut stream = new_stream();
    place.begin(&mut stream).await;
    // Of one slot, so that a cluster takes them together, too.
    for before in [
        &["SET", "k{t}0", "old", "PX", "600000"][..],
        &["HSET", "k{t}1", "f", "v"],
        &["RPUSH", "k{t}2", "a", "b"],
        &["SADD", "k{t}3", "m"],
        &["SET", "k{t}bad", "a string"],
    ] {
        place.run("k{t}", before).await;
    }
    let mut commands: Vec<Vec<String>> = (0..6)
        .map(|number| ["SET", &format!("k{{t}}{number}"), &format!("new{number}")].map(str::to_owned).into())
        .collect();
    commands.insert(3, ["HSET", "k{t}bad", "f", "v"].map(str::to_owned).into());
    let changes: Vec<Value> = commands.iter().map(|command| json!({"v": 1, "cmd": command})).collect();
    let record = stream.record(lanes().of_key(b"k{t}"), &Value::Array(changes));
    let answer = place.ask(&batch::replay(&[record])).await;
    assert_eq!((&answer["counts"]["applied"], &answer["counts"]["quarantined"]), (&json!(7), &json!(1)), "{answer}");
    let found: BTreeMap<String, (String, i64)> = place
        .keys()
        .await
        .into_iter()
        .map(|(key, is)| {
            (String::from_utf8(key).unwrap(), (String::from_utf8(is.value.concat()).unwrap(), is.expires_at_ms))
        })
        .collect();
    let wanted = (0..6).map(|number| (format!("k{{t}}{number}"), (format!("new{number}"), NEVER))).collect();
    assert_eq!(found, wanted);
}

/// So no change of a transaction can be left out for want of memory, and none needs to go to quarantine for it.
async fn a_server_short_of_memory_takes_nothing_of_a_chunk(place: &Place) {
    let mut stream = new_stream();
    let mut records = place.begin(&mut stream).await;
    let begun = records.len();
    for command in [&["SET", "k{t}1", "1"][..], &["SET", "k{t}2", "2"], &["SET", "k{t}3", "3", "PX", "600000"]] {
        let change = json!({"v": 1, "cmd": command, "at_ms": Clock::system().now_ms()});
        records.push(stream.record(lanes().of_key(b"k{t}"), &change));
    }
    place.run_everywhere(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let request = batch::replay(&records[begun..]).to_string();
    let error = place.region.answer(&request).await.unwrap_err();
    let is_told = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
        .any(|error| error.to_string().contains("OOM"));
    assert!(is_told, "{error}");
    assert_eq!(place.keys().await, BTreeMap::new());
    place.run_everywhere(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let answer = place.ask(&batch::replay(&records[begun..])).await;
    assert_eq!((&answer["counts"]["applied"], &answer["counts"]["quarantined"]), (&json!(3), &json!(0)), "{answer}");
    place.assert_is(&records, "what was refused for want of memory comes again").await;
}

async fn collections_on_absent_keys_create_nothing(place: &Place) {
    let mut stream = new_stream();
    place.begin(&mut stream).await;
    let records = [
        stream.command(lanes(), &["HSET", "h", "f", "v"]),
        stream.command(lanes(), &["SADD", "s", "m"]),
        stream.command(lanes(), &["ZADD", "z", "1", "m"]),
        stream.command(lanes(), &["EXPIRE", "e", "100"]),
    ];
    let answer = place.ask(&batch::replay(&records)).await;
    assert_eq!(answer["counts"]["missed"], 4, "{answer}");
    assert_eq!(place.keys().await, BTreeMap::new());
}

async fn expiry_is_the_same_instant_everywhere(place: &Place) {
    let mut stream = new_stream();
    let mut records = place.begin(&mut stream).await;
    let now_ms = Clock::system().now_ms();
    let at = |ms: i64| ms.to_string();
    let mut add = |key: &str, cmds: Value, at_ms: i64| {
        let change = json!({"v": 1, "cmds": cmds, "at_ms": at_ms});
        records.push(stream.record(lanes().of_key(key.as_bytes()), &change));
    };
    // Relative ones count from the change, wherever and whenever they are applied.
    add("k1", json!([["SET", "k1", "v", "PX", "600000"]]), now_ms - 5_000);
    add("k2", json!([["SETEX", "k2", "600", "v"]]), now_ms - 5_000);
    add("k3", json!([["SET", "k3", "v", "PX", "1000"]]), now_ms - 5_000);
    add("k4", json!([["SET", "k4", "v", "PXAT", at(now_ms + 700_000)]]), now_ms);
    add("k5", json!([["DEL", "k5"], ["HSET", "k5", "f", "v"], ["PEXPIREAT", "k5", at(now_ms + 800_000)]]), now_ms);
    add("k6", json!([["SET", "k6", "v", "EX", "1"]]), now_ms - 5_000);
    // By the stream's clock it comes in time, here the key has expired: it stays absent.
    add("k6", json!([["PEXPIREAT", "k6", at(now_ms + 900_000)]]), now_ms);
    add("k4", json!([["PERSIST", "k4"]]), now_ms);
    place.ask(&batch::replay(&records[usize::from(LANES)..])).await;
    let expiries: BTreeMap<String, i64> = place
        .keys()
        .await
        .into_iter()
        .map(|(key, content)| (String::from_utf8_lossy(&key).into_owned(), content.expires_at_ms))
        .collect();
    let wanted = [("k1", now_ms + 595_000), ("k2", now_ms + 595_000), ("k4", -1), ("k5", now_ms + 800_000)];
    assert_eq!(expiries.keys().collect::<Vec<_>>(), wanted.iter().map(|(key, _)| key).collect::<Vec<_>>());
    let fault_ms = if place.reads_expiries_roughly() { EXPIRY_FAULT_MS } else { 0 };
    for (key, at_ms) in wanted {
        assert!((expiries[key] - at_ms).abs() <= fault_ms, "{key}: {} is not {at_ms}", expiries[key]);
    }
}

async fn a_lane_that_is_behind_is_fed_and_joined(place: &Place) {
    let mut stream = new_stream();
    place.run_everywhere(&["FLUSHALL"]).await;
    let lane = lanes().of_key(b"k");
    let name = lane.to_string();
    let records: Vec<Record> =
        ["1", "2", "3"].iter().map(|value| stream.command(lanes(), &["SET", "k", value])).collect();
    let behind = place.ask(&batch::replay(&records[2..])).await;
    let told = &behind["lanes"][&name]["behind"];
    assert_eq!(told["reason"], "no_record", "{behind}");
    let id = told["replication_id"].as_str().unwrap().to_owned();
    let fed = place.ask(&batch::follow(&records[..1], [(lane, Value::Null)], &id, false)).await;
    let mark = fed["lanes"][&name]["applied"]["mark"].clone();
    assert_eq!(mark, format!("{}:0", records[0].sequence), "{fed}");
    // What the mapping delivers is not taken while the lane is fed, nor a feed that follows something else.
    let delivered = place.ask(&batch::replay(&records[2..])).await;
    assert_eq!(delivered["lanes"][&name]["behind"]["reason"], "feeding", "{delivered}");
    let stale = place.ask(&batch::follow(&records[2..], [(lane, Value::Null)], &id, true)).await;
    assert_eq!(stale["lanes"][&name]["behind"]["reason"], "feeding", "{stale}");
    let other_server = place.ask(&batch::follow(&records[1..2], [(lane, mark.clone())], "another", false)).await;
    assert_eq!(other_server["lanes"][&name]["behind"]["reason"], "feeding", "{other_server}");
    assert_eq!(place.text("k").await.as_deref(), Some("1"));
    place.ask(&batch::follow(&records, [(lane, mark)], &id, true)).await;
    assert_eq!(place.text("k").await.as_deref(), Some("3"));
    let ready = place.ask(&batch::replay(&[stream.command(lanes(), &["SET", "k", "4"])])).await;
    assert!(ready["lanes"][&name]["applied"].is_object(), "{ready}");
    // A heartbeat that is missing stops the lane.
    let beat = |number: u64| json!({"v": 1, "heartbeat": number, "at_ms": 1});
    place.ask(&batch::replay(&[stream.record(lane, &beat(1))])).await;
    let broken = place.ask(&batch::replay(&[stream.record(lane, &beat(3))])).await;
    assert_eq!(broken["lanes"][&name]["behind"]["reason"], "broken_chain", "{broken}");
}

/// A clock whose first look takes until it is let go.
struct StandingStill {
    stalled: Sender<()>,
    until_let_go: Mutex<Option<Receiver<()>>>,
}

impl Time for StandingStill {
    fn now_ms(&self) -> i64 {
        let first = self.until_let_go.lock().unwrap().take();
        if let Some(until_let_go) = first {
            self.stalled.send(()).unwrap();
            until_let_go.recv().unwrap();
        }
        Clock::system().now_ms()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// An invocation reads its lane record and is stalled until its successors are done; then it writes.
async fn commands_that_arrive_late_never_overwrite_newer_ones(place: &Place) {
    let mut stream = new_stream();
    place.begin(&mut stream).await;
    let old = [stream.command(lanes(), &["SET", "k", "old"])];
    let new = [stream.command(lanes(), &["SET", "k", "new"])];
    // Between the read and the write replay looks at the clock, and this one stands still until it is let go.
    let (stalled, until_stalled) = mpsc::channel();
    let (let_go, until_let_go) = mpsc::channel::<()>();
    let clock = Clock::of(StandingStill { stalled, until_let_go: Mutex::new(Some(until_let_go)) });
    let late = invocation_by(&place.server, &place.bucket, place.scope, &place.clients, clock);
    let request = batch::replay(&old).to_string();
    let late = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(late.answer(&request))
    });
    tokio::task::block_in_place(|| until_stalled.recv()).unwrap();
    place.ask(&batch::replay(&old)).await;
    place.ask(&batch::replay(&new)).await;
    let_go.send(()).unwrap();
    let error = tokio::task::block_in_place(|| late.join().unwrap()).unwrap_err().to_string();
    assert!(error.contains("written by somebody else"), "{error}");
    assert_eq!(place.text("k").await.as_deref(), Some("new"));
}

/// Two processes of the regional function work on the same lanes: one has a batch that the other has passed, or both
/// have the same. Whatever loses the race is delivered again.
async fn invocations_that_overlap_never_regress_a_key(place: &Place) {
    let other = place.another();
    for seed in 0..SEEDS {
        let (mut random, mut stream) = (Random::new(1_000 + seed), new_stream());
        let mut records = place.begin(&mut stream).await;
        records.extend(random_records(&mut random, &mut stream, RECORDS));
        let mut done = usize::from(LANES);
        while done < records.len() {
            let end = (done + 1 + usize::try_from(random.below(20)).unwrap()).min(records.len());
            let late = usize::try_from(random.below(done as u64)).unwrap();
            let request = batch::replay(&records[late..end]).to_string();
            // Either may find that the other wrote the lane meanwhile.
            let (_, _) = tokio::join!(other.answer(&request), deliver(&place.region, &records, &records[done..end]));
            deliver_until_taken(place, &records, &records[done..end]).await;
            done = end;
        }
        place.assert_is(&records, &format!("seed {seed}, two at once")).await;
    }
}

async fn big_collections_arrive_whole(place: &Place) {
    const ITEMS: usize = 5_001;
    let mut stream = new_stream();
    let mut records = place.begin(&mut stream).await;
    let begun = records.len();
    let flat = |name: &str, key: &str, pairs: bool| -> Vec<String> {
        let mut command = vec![name.to_owned(), key.to_owned()];
        for item in 0..ITEMS {
            let score = if name == "ZADD" { Some(item.to_string()) } else { None };
            command.extend(score);
            command.push(format!("item{item}"));
            command.extend((pairs && name != "ZADD").then(|| format!("value{item}")));
        }
        command
    };
    for (name, key, pairs) in [("HSET", "h", true), ("SADD", "s", false), ("ZADD", "z", true), ("RPUSH", "l", false)] {
        let lane = lanes().of_key(key.as_bytes());
        let change = json!({"v": 1, "cmds": [["DEL", key], flat(name, key, pairs)]});
        records.push(stream.record(lane, &change));
        if name != "RPUSH" {
            // Again on the collection that is there: its type is not known to replay then.
            records.push(stream.record(lane, &json!({"v": 1, "cmd": flat(name, key, pairs)})));
        }
    }
    let answer = place.ask(&batch::replay(&records[begun..])).await;
    assert_eq!(answer["counts"]["quarantined"], 0, "{answer}");
    place.assert_is(&records, "big collections").await;
}

async fn a_policy_that_may_evict_lane_records_is_refused(place: &Place) {
    place.run_everywhere(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    let mut stream = new_stream();
    let request = batch::replay(&[stream.command(lanes(), &["SET", "k", "1"])]).to_string();
    let error = place.another().answer(&request).await.unwrap_err().to_string();
    assert!(error.contains("may evict lane records"), "{error}");
    place.run_everywhere(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"]).await;
    place.another().answer(&request).await.unwrap();
}
