//! The regional function against a real Redis and the local cloud's S3: what replay, snapshot and load promise.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

mod cluster;
mod contract;
mod forward;

use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tidemark_cache_sync::change::Change;
use tidemark_cache_sync::fold::{self, State};
use tidemark_cache_sync::lane::{Lane, Lanes};
use tidemark_cache_sync::region::{Region, RegionError, RegionSettings};
use tidemark_cache_sync::snapshot::to_items;
use tidemark_local::{CloudOptions, Content, HUB, LocalCloud, RedisServer, RegionClients, SECOND, contents};
use tidemark_runtime::clock::Clock;
use tidemark_runtime::settings::Settings;
use tidemark_tests::batch::{self, Record, Stream};
use tidemark_tests::random::{self, Random};
use tidemark_tests::stall::StallingProxy;

const LANES: u16 = 4;
/// Random runs of the model test; each prints its seed where it fails.
const SEEDS: u64 = 40;

fn lanes() -> Lanes {
    Lanes::new(LANES).unwrap()
}

/// One region on a Redis of its own.
struct World {
    region: Region,
    redis: RedisServer,
    connection: MultiplexedConnection,
    clients: RegionClients,
    bucket: String,
}

impl World {
    async fn start(cloud: &LocalCloud, name: &'static str, scope: &str) -> Self {
        let redis = RedisServer::start().unwrap();
        let (clients, bucket) = bucket(cloud, name).await;
        let region = region(name, &bucket, scope, redis.url(), &clients);
        let client = redis::Client::open(redis.url()).unwrap();
        let connection = client.get_multiplexed_async_connection().await.unwrap();
        Self { region, redis, connection, clients, bucket }
    }

    async fn ask(&self, request: &Value) -> Value {
        self.region.answer(&request.to_string()).await.unwrap_or_else(|error| panic!("{error}: {request}"))
    }

    /// Makes every lane ready, as the first batches of a new stream do.
    async fn begin(&mut self, stream: &mut Stream) {
        let beats: Vec<Record> =
            lanes().all().map(|lane| stream.record(lane, &json!({"v": 1, "heartbeat": 1, "at_ms": 1}))).collect();
        let replication_id = self.replication_id().await;
        self.ask(&batch::join(&beats, lanes().all(), &replication_id)).await;
    }

    async fn replication_id(&mut self) -> String {
        let info: String = redis::cmd("INFO").arg("replication").query_async(&mut self.connection).await.unwrap();
        info.lines().find_map(|line| line.strip_prefix("master_replid:")).unwrap().trim().to_owned()
    }

    async fn run(&mut self, command: &[&str]) -> redis::Value {
        redis::cmd(command[0]).arg(&command[1..]).query_async(&mut self.connection).await.unwrap()
    }

    async fn get(&mut self, key: &str) -> Option<String> {
        redis::cmd("GET").arg(key).query_async(&mut self.connection).await.unwrap()
    }

    /// Everything but the system's own keys.
    async fn keys(&mut self) -> BTreeMap<Vec<u8>, Content> {
        contents(&mut self.connection, |key| !key.starts_with(b"tidemark:")).await.unwrap()
    }

    async fn quarantined(&self) -> Vec<Value> {
        let listed = self.clients.s3.list_objects_v2().bucket(&self.bucket).prefix("quarantine/").send().await.unwrap();
        let mut found = Vec::new();
        for object in listed.contents() {
            let got =
                self.clients.s3.get_object().bucket(&self.bucket).key(object.key().unwrap()).send().await.unwrap();
            found.push(serde_json::from_slice(&got.body.collect().await.unwrap().to_vec()).unwrap());
        }
        found
    }
}

/// Clients for a region of the cloud, and a bucket of its own there.
async fn bucket(cloud: &LocalCloud, name: &'static str) -> (RegionClients, String) {
    let clients = RegionClients::new(cloud, name);
    let bucket = format!("tidemark-test-{name}");
    let mut create = clients.s3.create_bucket().bucket(&bucket);
    if name != HUB {
        let place = aws_sdk_s3::types::CreateBucketConfiguration::builder()
            .location_constraint(aws_sdk_s3::types::BucketLocationConstraint::from(name));
        create = create.create_bucket_configuration(place.build());
    }
    create.send().await.unwrap();
    (clients, bucket)
}

/// The regional function as its settings make it.
fn region(name: &str, bucket: &str, scope: &str, redis_url: String, clients: &RegionClients) -> Region {
    region_with(name, bucket, scope, BTreeMap::from([("TIDEMARK_REDIS_URL", redis_url)]), clients, Clock::system())
        .unwrap()
}

/// As [`region`], with all that says where Redis is and how to log in.
fn region_with(
    name: &str,
    bucket: &str,
    scope: &str,
    redis: BTreeMap<&'static str, String>,
    clients: &RegionClients,
    clock: Clock,
) -> Result<Region, RegionError> {
    let mut table = redis;
    table.extend([
        ("AWS_REGION", name.to_owned()),
        ("TIDEMARK_BUCKET", bucket.to_owned()),
        ("TIDEMARK_SCOPE", scope.to_owned()),
        ("TIDEMARK_LANES", LANES.to_string()),
    ]);
    let settings = RegionSettings::read(&Settings::from_fn(|name| table.get(name).cloned())).unwrap();
    Region::new(settings, clients.s3.clone(), clock)
}

fn new_stream() -> Stream {
    Stream::begun_at(Clock::system().now_ms() - 60_000)
}

fn cloud() -> LocalCloud {
    LocalCloud::start(&CloudOptions::of_this_clone()).unwrap()
}

/// A state of the model in the form in which a region's content is read.
fn content(state: &State) -> Content {
    let (kind, mut value) = to_items(state.value.clone());
    let kind = serde_json::to_value(kind).unwrap().as_str().unwrap().to_owned();
    match kind.as_str() {
        "zset" => {
            let mut pairs: Vec<Vec<Vec<u8>>> =
                value.chunks(2).map(|pair| vec![pair[1].clone(), pair[0].clone()]).collect();
            pairs.sort();
            value = pairs.concat();
        }
        "set" => value.sort(),
        _ => {}
    }
    Content { kind, value, expires_at_ms: state.expires_at_ms.unwrap_or(-1) }
}

/// What the records come to, by the reference model.
fn model(records: &[Record], now_ms: i64) -> BTreeMap<Vec<u8>, Content> {
    let mut states: BTreeMap<Vec<u8>, Option<State>> = BTreeMap::new();
    for record in records {
        let data = std::str::from_utf8(&record.data).unwrap();
        let Ok(change) = Change::from_json(data) else { continue };
        let state = states.entry(change.key.to_vec()).or_insert(None);
        fold::fold(state, &change, record.arrival_ms).unwrap();
    }
    let alive = |mut state: Option<State>| {
        fold::expire(&mut state, now_ms);
        state
    };
    states.into_iter().filter_map(|(key, state)| alive(state).map(|state| (key, content(&state)))).collect()
}

fn random_record(random: &mut Random, stream: &mut Stream) -> Record {
    let key = format!("k{}", random.below(12));
    let now_ms = Clock::system().now_ms();
    let cmds = random::commands(random, &key, now_ms);
    let change = json!({"v": 1, "cmds": cmds, "at_ms": now_ms});
    stream.record(lanes().of_key(key.as_bytes()), &change)
}

/// Compares but for the text of scores, which Redis versions print differently.
fn assert_same(found: &BTreeMap<Vec<u8>, Content>, wanted: &BTreeMap<Vec<u8>, Content>, what: &str) {
    let number = |bytes: &Vec<u8>| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.parse::<f64>().map_or(text, |number| number.to_string())
    };
    let plain = |contents: &BTreeMap<Vec<u8>, Content>| {
        contents
            .iter()
            .map(|(key, c)| {
                let parts: Vec<String> = c.value.iter().map(number).collect();
                (String::from_utf8_lossy(key).into_owned(), (c.kind.clone(), parts, c.expires_at_ms))
            })
            .collect::<BTreeMap<_, _>>()
    };
    assert_eq!(plain(found), plain(wanted), "{what}");
}

#[tokio::test]
async fn random_changes_in_cut_and_repeated_batches_end_as_the_model_says() {
    let cloud = cloud();
    let mut world = World::start(&cloud, HUB, "*").await;
    for seed in 0..SEEDS {
        world.run(&["FLUSHALL"]).await;
        let mut random = Random::new(seed);
        let mut stream = new_stream();
        world.begin(&mut stream).await;
        let records: Vec<Record> = (0..120).map(|_| random_record(&mut random, &mut stream)).collect();
        let mut applied = 0;
        while applied < records.len() {
            // A batch begins anywhere at or before what was applied: deliveries repeat.
            let begin = applied - usize::try_from(random.below(applied as u64 + 1)).unwrap().min(applied);
            let end = (applied + 1 + usize::try_from(random.below(30)).unwrap()).min(records.len());
            world.ask(&batch::replay(&records[begin..end])).await;
            applied = end;
        }
        assert_same(&world.keys().await, &model(&records, Clock::system().now_ms()), &format!("seed {seed}"));
    }
}

#[tokio::test]
async fn a_batch_delivered_twice_is_skipped_and_a_producers_retry_is_applied_once() {
    let cloud = cloud();
    let mut world = World::start(&cloud, HUB, "*").await;
    let mut stream = new_stream();
    world.begin(&mut stream).await;
    let lane = lanes().of_key(b"k");
    let change = |value: &str, seq: u64| json!({"v": 1, "cmd": ["SET", "k", value], "producer": "p", "seq": seq});
    let first = [stream.record(lane, &change("old", 1)), stream.record(lane, &change("new", 2))];
    let answer = world.ask(&batch::replay(&first)).await;
    assert_eq!(answer["counts"]["applied"], 2, "{answer}");
    let again = world.ask(&batch::replay(&first)).await;
    assert_eq!((&again["counts"]["applied"], &again["counts"]["skipped"]), (&json!(0), &json!(2)), "{again}");
    // The producer's retry of its first change was stored behind its second.
    let late = world.ask(&batch::replay(&[stream.record(lane, &change("old", 1))])).await;
    assert_eq!((&late["counts"]["applied"], &late["counts"]["repeated"]), (&json!(0), &json!(1)), "{late}");
    assert_eq!(world.get("k").await.as_deref(), Some("new"));
}

#[tokio::test]
async fn one_bad_change_costs_one_key_and_is_quarantined() {
    let cloud = cloud();
    let mut world = World::start(&cloud, HUB, "k,n,h,x").await;
    let mut stream = new_stream();
    world.begin(&mut stream).await;
    for key in ["n", "h", "x", "out:1"] {
        world.run(&["SET", key, "before"]).await;
    }
    let other_lane = Lane((lanes().of_key(b"x").0 + 1) % LANES);
    let batch = [
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
    let answer = world.ask(&batch::replay(&batch)).await;
    assert_eq!(answer["counts"]["quarantined"], 7, "{answer}");
    assert_eq!(world.get("k").await.as_deref(), Some("1"));
    assert_eq!(world.get("k2").await.as_deref(), Some("2"));
    assert_eq!(world.get("n").await, None, "refused");
    assert_eq!(world.get("h").await, None, "another type");
    assert_eq!(world.get("x").await.as_deref(), Some("before"), "another lane's key is not touched");
    assert_eq!(world.get("out:1").await.as_deref(), Some("before"), "out of scope is not touched");
    let quarantined = world.quarantined().await;
    let reasons: Vec<&str> = quarantined.iter().map(|one| one["reason"].as_str().unwrap()).collect();
    assert_eq!(quarantined.len(), 7, "{reasons:?}");
    for words in [
        "SET the resulting value",
        "WRONGTYPE",
        "not of the record's lane",
        "outside the scope",
        "system's own",
        "this one starts with byte",
        "is not a lane",
    ] {
        assert!(reasons.iter().any(|reason| reason.contains(words)), "{words}: {reasons:?}");
    }
    let again = world.ask(&batch::replay(&batch)).await;
    assert_eq!(again["counts"]["applied"], 0, "{again}");
    assert_eq!(world.quarantined().await.len(), 7, "a second delivery writes the same objects");
}

#[tokio::test]
async fn a_lane_that_does_not_prove_what_it_follows_is_left_alone() {
    let cloud = cloud();
    let mut world = World::start(&cloud, HUB, "*").await;
    let mut stream = new_stream();
    let lane = lanes().of_key(b"k");
    let name = lane.to_string();
    let set = [stream.command(lanes(), &["SET", "k", "1"])];
    let behind = |answer: &Value| answer["lanes"][&name]["behind"]["reason"].as_str().unwrap_or("none").to_owned();
    assert_eq!(behind(&world.ask(&batch::replay(&set)).await), "no_record");

    world.begin(&mut stream).await;
    let set = [stream.command(lanes(), &["SET", "k", "1"])];
    let with = |field: &str, value: Value| {
        let mut request = batch::replay(&set);
        request["replay"][field] = value;
        request
    };
    assert_eq!(behind(&world.ask(&with("stream", json!("other@1"))).await), "other_stream");
    assert_eq!(behind(&world.ask(&with("generation", json!(2))).await), "new_generation");
    assert_eq!(behind(&world.ask(&with("oldest_ms", json!(Clock::system().now_ms()))).await), "retention");
    let old = world.ask(&with("generation", json!(0))).await;
    assert_eq!(old["lanes"][&name]["old_generation"]["generation"], 1, "{old}");

    let record = format!("tidemark:lane:{name}");
    world.run(&["HSET", &record, "replication_id", "another"]).await;
    assert_eq!(behind(&world.ask(&batch::replay(&set)).await), "failover");
    world.run(&["HSET", &record, "state", "held:run-1"]).await;
    let held = world.ask(&batch::replay(&set)).await;
    assert_eq!(held["lanes"][&name]["held"]["holder"], "run-1", "{held}");
    assert_eq!(world.get("k").await, None, "nothing was applied");
}

#[tokio::test]
async fn commands_that_arrive_late_never_overwrite_newer_ones() {
    let cloud = cloud();
    let mut world = World::start(&cloud, HUB, "*").await;
    let mut stream = new_stream();
    world.begin(&mut stream).await;
    let proxy = StallingProxy::start(world.redis.port(), "EXEC").await.unwrap();
    let late = region(HUB, &world.bucket, "*", proxy.redis_url(), &world.clients);
    let old = [stream.command(lanes(), &["SET", "k", "old"])];
    let new = [stream.command(lanes(), &["SET", "k", "new"])];
    // An invocation whose transaction is on the way when its time runs out; the batch is delivered again, and the next.
    let request = batch::replay(&old).to_string();
    let successors = async {
        proxy.until_stalled().await;
        world.ask(&batch::replay(&old)).await;
        world.ask(&batch::replay(&new)).await;
        proxy.let_go();
    };
    let (late, ()) = tokio::join!(late.answer(&request), successors);
    let error = late.unwrap_err().to_string();
    assert!(error.contains("written by somebody else"), "{error}");
    assert_eq!(world.get("k").await.as_deref(), Some("new"));
}

/// The fourth lane of three connections: its record is read behind the last write of another lane.
#[tokio::test]
async fn a_lane_whose_record_was_read_ahead_is_fenced_like_any() {
    let cloud = cloud();
    let mut world = World::start(&cloud, HUB, "*").await;
    let mut stream = new_stream();
    world.begin(&mut stream).await;
    let mut keys = vec![String::new(); usize::from(LANES)];
    for number in 0..100 {
        keys[usize::from(lanes().of_key(format!("k{number}").as_bytes()).0)] = format!("k{number}");
    }
    let (last, before) = keys.split_last().unwrap();
    let mut batch: Vec<Record> = before.iter().map(|key| stream.command(lanes(), &["SET", key, "1"])).collect();
    batch.push(stream.command(lanes(), &["SET", last, "read-ahead"]));
    let newer = [stream.command(lanes(), &["SET", last, "newer"])];
    let proxy = StallingProxy::start(world.redis.port(), "read-ahead").await.unwrap();
    let late = region(HUB, &world.bucket, "*", proxy.redis_url(), &world.clients);
    let request = batch::replay(&batch).to_string();
    let successors = async {
        proxy.until_stalled().await;
        // Its other lanes are on their way still.
        world.ask(&batch::replay(&batch[before.len()..])).await;
        world.ask(&batch::replay(&newer)).await;
        proxy.let_go();
    };
    let (late, ()) = tokio::join!(late.answer(&request), successors);
    let error = late.unwrap_err().to_string();
    assert!(error.contains("written by somebody else"), "{error}");
    assert_eq!(world.get(last).await.as_deref(), Some("newer"));
    for key in before {
        assert_eq!(world.get(key).await.as_deref(), Some("1"));
    }
}

#[tokio::test]
async fn a_fed_lane_takes_only_what_follows_its_mark_and_is_ready_when_joined() {
    let cloud = cloud();
    let mut world = World::start(&cloud, HUB, "*").await;
    let mut stream = new_stream();
    let id = world.replication_id().await;
    let lane = lanes().of_key(b"k");
    let name = lane.to_string();
    let records: Vec<Record> =
        ["1", "2", "3"].iter().map(|value| stream.command(lanes(), &["SET", "k", value])).collect();

    let fed = world.ask(&batch::follow(&records[..1], [(lane, Value::Null)], &id, false)).await;
    let mark = fed["lanes"][&name]["applied"]["mark"].clone();
    assert_eq!(mark, format!("{}:0", records[0].sequence), "{fed}");
    // What the mapping delivers is not taken while the lane is fed, nor a feed that follows something else.
    let delivered = world.ask(&batch::replay(&records[2..])).await;
    assert_eq!(delivered["lanes"][&name]["behind"]["reason"], "feeding", "{delivered}");
    let stale = world.ask(&batch::follow(&records[2..], [(lane, Value::Null)], &id, true)).await;
    assert_eq!(stale["lanes"][&name]["behind"]["reason"], "feeding", "{stale}");
    let other_server = world.ask(&batch::follow(&records[1..2], [(lane, mark.clone())], "another", false)).await;
    assert_eq!(other_server["lanes"][&name]["behind"]["reason"], "feeding", "{other_server}");
    assert_eq!(world.get("k").await.as_deref(), Some("1"));

    world.ask(&batch::follow(&records[..], [(lane, mark)], &id, true)).await;
    assert_eq!(world.get("k").await.as_deref(), Some("3"));
    let ready = world.ask(&batch::replay(&[stream.command(lanes(), &["SET", "k", "4"])])).await;
    assert!(ready["lanes"][&name]["applied"].is_object(), "{ready}");
}

#[tokio::test]
async fn a_missing_heartbeat_stops_the_lane_until_it_is_found() {
    let cloud = cloud();
    let mut world = World::start(&cloud, HUB, "*").await;
    let mut stream = new_stream();
    world.begin(&mut stream).await;
    let lane = lanes().of_key(b"k");
    let name = lane.to_string();
    let mut beat = |number: u64| stream.record(lane, &json!({"v": 1, "heartbeat": number, "at_ms": 1}));
    let (second, third) = (beat(2), beat(3));
    let set = stream.command(lanes(), &["SET", "k", "1"]);
    let delivered = [third, set];
    let broken = world.ask(&batch::replay(&delivered)).await;
    assert_eq!(broken["lanes"][&name]["behind"]["reason"], "broken_chain", "{broken}");
    assert_eq!(world.get("k").await, None, "nothing was applied");
    let id = world.replication_id().await;
    let mark = broken["lanes"][&name]["behind"]["mark"].clone();
    let fed = world.ask(&batch::follow(&[second], [(lane, mark)], &id, false)).await;
    let mark = fed["lanes"][&name]["applied"]["mark"].clone();
    world.ask(&batch::follow(&delivered, [(lane, mark)], &id, true)).await;
    assert_eq!(world.get("k").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_collection_command_on_an_absent_key_creates_nothing() {
    let cloud = cloud();
    let mut world = World::start(&cloud, HUB, "*").await;
    let mut stream = new_stream();
    world.begin(&mut stream).await;
    let batch = [
        stream.command(lanes(), &["HSET", "h", "f", "v"]),
        stream.command(lanes(), &["SADD", "s", "m"]),
        stream.command(lanes(), &["ZADD", "z", "1", "m"]),
        stream.command(lanes(), &["EXPIRE", "e", "100"]),
    ];
    let answer = world.ask(&batch::replay(&batch)).await;
    assert_eq!(answer["counts"]["missed"], 4, "{answer}");
    assert_eq!(world.keys().await, BTreeMap::new());
}

/// Takes a snapshot of `source` and loads every lane of `target` from it, as the resync job does, where the stream
/// held `records` and the target had applied its first `applied` ones.
async fn resync(source: &World, target: &World, records: &[Record], run: &str) -> Value {
    let manifest = source.ask(&json!({"snapshot": {"id": run}})).await;
    for part in manifest["parts"].as_array().unwrap() {
        let object = part["object"].as_str().unwrap();
        let copy = target.clients.s3.copy_object().bucket(&target.bucket).key(object);
        copy.copy_source(format!("{}/{object}", source.bucket)).send().await.unwrap();
    }
    let listing = target.ask(&json!({"list": {"run": run}})).await;
    let of_lane = |parts: &Value, lane: Lane| -> Vec<Value> {
        parts.as_array().unwrap().iter().filter(|part| part["lane"] == lane.0).cloned().collect()
    };
    let sequence =
        |mark: &Value| mark.as_str().map_or(0, |mark| mark.split(':').next().unwrap().parse::<u64>().unwrap());
    let mut written = 0;
    for lane in lanes().all() {
        let held = target.ask(&json!({"hold": {"lane": lane, "holder": run}})).await;
        let marks = &manifest["lanes"][lane.to_string()];
        let until = [&marks["end"], &held["mark"]].into_iter().max_by_key(|mark| sequence(mark)).unwrap().clone();
        let from = sequence(&marks["start"]["record"]["mark"]);
        let tail: Vec<Record> = records
            .iter()
            .filter(|r| r.partition_key == lane.to_string() && (from..=sequence(&until)).contains(&r.sequence))
            .cloned()
            .collect();
        let lines: Vec<String> =
            batch::event(&tail)["Records"].as_array().unwrap().iter().map(ToString::to_string).collect();
        let object = format!("loads/{run}/tail-{lane}");
        let put = target.clients.s3.put_object().bucket(&target.bucket).key(&object);
        put.body(lines.join("\n").into_bytes().into()).send().await.unwrap();
        let load = json!({"load": {
            "lane": lane, "holder": run, "held_mark": held["mark"], "trusted": held["trusted"],
            "values": of_lane(&manifest["parts"], lane), "listing": of_lane(&listing["parts"], lane),
            "tail": object, "start": marks["start"], "until": until, "stream": batch::STREAM, "scope": "*",
        }});
        written += target.ask(&load).await["written"].as_u64().unwrap();
    }
    json!({"written": written})
}

#[tokio::test]
async fn a_resync_makes_a_region_equal_whatever_it_held_and_whoever_is_ahead() {
    let cloud = cloud();
    let mut source = World::start(&cloud, HUB, "*").await;
    let mut target = World::start(&cloud, SECOND, "*").await;
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let mut stream = new_stream();
        source.run(&["FLUSHALL"]).await;
        target.run(&["FLUSHALL"]).await;
        source.begin(&mut stream).await;
        let mut stream_again = new_stream();
        target.begin(&mut stream_again).await;
        let records: Vec<Record> = (0..100).map(|_| random_record(&mut random, &mut stream)).collect();
        let behind = usize::try_from(random.below(100)).unwrap();
        let (source_has, target_has) = if random.once_in(2) { (100, behind) } else { (behind, 100) };
        source.ask(&batch::replay(&records[..source_has])).await;
        target.ask(&batch::replay(&records[..target_has])).await;
        let emptied = random.once_in(3);
        if emptied {
            target.run(&["FLUSHALL"]).await;
        } else {
            // What the region should not hold, and what it lost.
            target.run(&["SET", "extra", "1"]).await;
            target.run(&["DEL", "k1", "k2", "k3"]).await;
            target.run(&["SADD", "junk", "1"]).await;
        }
        resync(&source, &target, &records, &format!("run-{seed}")).await;
        // The mapping goes on behind what the target had acknowledged; a lane that was not trusted is fed first.
        let id = target.replication_id().await;
        let status = target.ask(&json!({"status": {}})).await;
        let feeding: Vec<(Lane, Value)> = lanes()
            .all()
            .filter(|lane| status["lanes"][lane.to_string()]["state"] == "feeding")
            .map(|lane| (lane, status["lanes"][lane.to_string()]["mark"].clone()))
            .collect();
        assert_eq!(feeding.is_empty(), !emptied, "seed {seed}: {status}");
        let mut rest = records.clone();
        rest.extend(lanes().all().map(|lane| stream.record(lane, &json!({"v": 1, "heartbeat": 2, "at_ms": 1}))));
        let answer = target.ask(&batch::follow(&rest, feeding, &id, true)).await;
        let all_applied = answer["lanes"].as_object().unwrap().values().all(|outcome| outcome["applied"].is_object());
        assert!(all_applied, "seed {seed}: {answer}");
        assert_same(&target.keys().await, &model(&records, Clock::system().now_ms()), &format!("seed {seed}"));
    }
}

#[tokio::test]
async fn a_late_renewal_is_folded_so_that_a_loaded_key_keeps_its_true_expiry() {
    let cloud = cloud();
    let mut source = World::start(&cloud, HUB, "*").await;
    let mut target = World::start(&cloud, SECOND, "*").await;
    let (mut stream, mut again) = (new_stream(), new_stream());
    source.begin(&mut stream).await;
    target.begin(&mut again).await;
    // By the stream's clock the key was renewed long before it would have expired; by now it would have.
    let now_ms = Clock::system().now_ms();
    let soon = (now_ms - 1_000).to_string();
    let late = (now_ms + 3_600_000).to_string();
    let records = [
        stream.command(lanes(), &["SET", "k", "v", "PXAT", &soon]),
        stream.command(lanes(), &["PEXPIREAT", "k", &late]),
        stream.command(lanes(), &["SET", "gone", "v", "PXAT", &soon]),
    ];
    // The source has applied neither: for it the first value has long expired, and the renewal would find no key.
    target.ask(&batch::replay(&records)).await;
    resync(&source, &target, &records, "run").await;
    let keys = target.keys().await;
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert_eq!(keys[&b"k".to_vec()].expires_at_ms, now_ms + 3_600_000);
}

#[tokio::test]
async fn a_snapshot_of_a_region_that_is_not_ready_is_thrown_away() {
    let cloud = cloud();
    let mut world = World::start(&cloud, HUB, "*").await;
    world.begin(&mut new_stream()).await;
    world.run(&["HSET", "tidemark:lane:1", "state", "feeding"]).await;
    let error = world.region.answer(r#"{"snapshot":{"id":"s"}}"#).await.unwrap_err().to_string();
    assert!(error.contains("lane 1 is feeding"), "{error}");
    let listed = world.clients.s3.list_objects_v2().bucket(&world.bucket).prefix("snapshots/").send().await.unwrap();
    assert!(listed.contents().is_empty(), "no manifest");
}

#[tokio::test]
async fn a_load_of_a_lane_that_another_run_holds_writes_nothing() {
    let cloud = cloud();
    let mut world = World::start(&cloud, HUB, "*").await;
    world.begin(&mut new_stream()).await;
    world.run(&["SET", "k", "kept"]).await;
    let lane = lanes().of_key(b"k");
    let listing = world.ask(&json!({"list": {"run": "one"}})).await;
    let held = world.ask(&json!({"hold": {"lane": lane, "holder": "one"}})).await;
    world.ask(&json!({"hold": {"lane": lane, "holder": "two"}})).await;
    let load = json!({"load": {
        "lane": lane, "holder": "one", "held_mark": held["mark"], "trusted": true, "values": [],
        "listing": listing["parts"].as_array().unwrap().iter().filter(|p| p["lane"] == lane.0).collect::<Vec<_>>(),
        "tail": null, "start": null, "until": held["mark"], "stream": batch::STREAM, "scope": "*",
    }});
    let error = world.region.answer(&load.to_string()).await.unwrap_err().to_string();
    assert!(error.contains("not held by run one"), "{error}");
    assert_eq!(world.get("k").await.as_deref(), Some("kept"));
}
