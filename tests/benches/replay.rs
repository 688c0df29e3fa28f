//! What replay costs, fence included, against plain pipelined SETs of the same changes by the same client.
//!
//! Prints one JSON object a line: `ratio` is our speed over theirs, `cpu_us` what a change costs each side, the client's
//! thread and the servers apart, which says more than time does where the machine is busy. Both sides run in turns in
//! this process against a server each; medians count. Words on the command line choose benchmarks by name; `BENCH_CHANGES` and `BENCH_RUNS`
//! change the size. It stands here and not in cache-sync because it starts servers.

use futures::{StreamExt, TryStreamExt};
use redis::Pipeline;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, SingleNodeRoutingInfo, SlotAddr};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tidemark_cache_sync::change::Change;
use tidemark_cache_sync::event::Event;
use tidemark_cache_sync::frame::{BODY_BYTES_MAX, FrameBuilder};
use tidemark_cache_sync::keys;
use tidemark_cache_sync::lane::{Lane, Lanes, slot};
use tidemark_cache_sync::protocol::{Outcome, Replay};
use tidemark_cache_sync::region::{Batch, BatchData, CHUNK_CHANGES_MAX, CONNECTIONS, Region, RegionSettings};
use tidemark_local::{CloudOptions, HUB, LocalCloud, RedisCluster, RedisServer, RegionClients};
use tidemark_runtime::clock::Clock;
use tidemark_runtime::settings::Settings;
use tidemark_tests::batch::{self, Record, STREAM, Stream};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const LANES: u16 = 64;
/// The word that makes this program replay once and tell its own peak memory.
const MEASURE: &str = "measure-memory";
const MEMORY_EVENT: &str = "replay/memory_event_6mb";
const MEMORY_FRAMES: &str = "replay/memory_event_frames";
const MEMORY_REF: &str = "replay/memory_ref_100mb";
/// Pipelines of one slot that the plain side has in flight on a cluster, as many as replay has.
const SLOTS_AT_ONCE: usize = 64;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if let [word, name] = words.as_slice()
        && word == MEASURE
    {
        return measure_memory(name).await;
    }
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let number = |name: &str, default: usize| std::env::var(name).ok().and_then(|t| t.parse().ok()).unwrap_or(default);
    let (changes, runs) = (number("BENCH_CHANGES", 64_000), number("BENCH_RUNS", 9));
    for (size, bytes, changes) in [("100b", 100, changes), ("1k", 1_000, changes / 2)] {
        for (suffix, ttl_ms) in [("", None), ("_px", Some(3_600_000))] {
            let names = ["insert", "update"].map(|kind| format!("replay/set_{size}_{kind}{suffix}"));
            if names.iter().any(|name| wanted(name)) {
                let load = Load { bytes, ttl_ms, changes, runs };
                standalone(&names, &load).await?;
            }
        }
    }
    if wanted("replay/already_applied") {
        already_applied(&Load { bytes: 100, ttl_ms: None, changes, runs }).await?;
    }
    for name in [MEMORY_EVENT, MEMORY_FRAMES, MEMORY_REF] {
        if wanted(name) {
            peak_memory(name)?;
        }
    }
    if wanted("replay/cluster_100b") {
        cluster(&Load { bytes: 100, ttl_ms: None, changes, runs }).await?;
    }
    Ok(())
}

/// What is replayed.
struct Load {
    bytes: usize,
    ttl_ms: Option<i64>,
    changes: usize,
    runs: usize,
}

impl Load {
    /// Keys and values, by lane; `run` makes values differ.
    fn by_lane(&self, run: usize) -> BTreeMap<Lane, Vec<(String, String)>> {
        let mut lanes: BTreeMap<Lane, Vec<(String, String)>> = BTreeMap::new();
        for number in 0..self.changes {
            let key = format!("user:{number:08}");
            let value = format!("{run:08}-{number:08}-").repeat(self.bytes / 18 + 1);
            lanes.entry(all_lanes().of_key(key.as_bytes())).or_default().push((key, value[..self.bytes].to_owned()));
        }
        lanes
    }

    /// The same as records of a stream, some changes a record.
    fn records(&self, stream: &mut Stream, run: usize) -> Vec<Record> {
        let expiry = self.ttl_ms.map(|ttl| ttl.to_string());
        let change = |(key, value): &(String, String)| {
            let mut command = vec!["SET", key, value];
            command.extend(expiry.iter().flat_map(|ttl| ["PX", ttl]));
            json!({"v": 1, "cmd": command})
        };
        let mut records = Vec::new();
        for (lane, changes) in self.by_lane(run) {
            for some in changes.chunks(100) {
                records.push(stream.record(lane, &Value::Array(some.iter().map(change).collect())));
            }
        }
        records
    }
}

fn all_lanes() -> Lanes {
    Lanes::new(LANES).unwrap_or_else(|error| panic!("{error}"))
}

/// A region with nothing around it: no change of these benchmarks touches S3.
fn region(redis_url: &str) -> Result<Region, Failure> {
    let s3 = aws_sdk_s3::Config::builder().behavior_version(aws_sdk_s3::config::BehaviorVersion::latest()).build();
    region_with(redis_url, aws_sdk_s3::Client::from_conf(s3))
}

fn region_with(redis_url: &str, s3: aws_sdk_s3::Client) -> Result<Region, Failure> {
    let table = BTreeMap::from([
        ("AWS_REGION", "us-east-1".to_owned()),
        ("TIDEMARK_BUCKET", "values".to_owned()),
        ("TIDEMARK_SCOPE", "*".to_owned()),
        ("TIDEMARK_LANES", LANES.to_string()),
        ("TIDEMARK_REDIS_URL", redis_url.to_owned()),
    ]);
    let settings = RegionSettings::read(&Settings::from_fn(|name| table.get(name).cloned()))?;
    Ok(Region::new(settings, s3, Clock::system())?)
}

/// Makes every lane ready as forward does: what is behind is told what it follows.
async fn make_ready(region: &Region, stream: &mut Stream) -> Result<(), Failure> {
    let beats: Vec<Record> =
        all_lanes().all().map(|lane| stream.record(lane, &json!({"v": 1, "heartbeat": 1, "at_ms": 1}))).collect();
    let answer = region.answer(&batch::replay(&beats).to_string()).await?;
    let behind: BTreeMap<String, Value> = serde_json::from_value(answer["lanes"].clone())?;
    let follows: BTreeMap<String, Value> =
        behind.into_iter().map(|(lane, outcome)| (lane, outcome["behind"].clone())).collect();
    let join = json!({"replay": {
        "stream": STREAM, "generation": 1, "follows": follows, "join": true, "event": batch::event(&beats),
    }});
    region.answer(&join.to_string()).await?;
    Ok(())
}

/// What one run took.
#[derive(Clone, Copy)]
struct Spent {
    took: Duration,
    /// Processor time of this thread, which has the client.
    client: Duration,
    /// Processor time of the servers.
    servers: Duration,
}

/// Measures from its making to [`Watch::spent`].
struct Watch<'p> {
    servers: &'p [u32],
    began: Instant,
    before: (Duration, Duration),
}

impl<'p> Watch<'p> {
    fn start(servers: &'p [u32]) -> Result<Self, Failure> {
        Ok(Self { servers, before: processor_times(servers)?, began: Instant::now() })
    }

    fn spent(self) -> Result<Spent, Failure> {
        let took = self.began.elapsed();
        let (client, servers) = processor_times(self.servers)?;
        Ok(Spent { took, client: client - self.before.0, servers: servers - self.before.1 })
    }
}

/// Processor time so far: of this thread, and of some processes' first threads.
fn processor_times(servers: &[u32]) -> Result<(Duration, Duration), Failure> {
    let of = |process: &str| -> Result<Duration, Failure> {
        let text = std::fs::read_to_string(format!("/proc/{process}/schedstat"))?;
        Ok(Duration::from_nanos(text.split(' ').next().ok_or("an empty schedstat")?.parse()?))
    };
    let servers = servers.iter().map(|process| of(&process.to_string())).sum::<Result<Duration, Failure>>()?;
    Ok((of("self")?, servers))
}

async fn process_id(url: &str) -> Result<u32, Failure> {
    let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
    let id = info.lines().find_map(|line| line.strip_prefix("process_id:")).ok_or("INFO without process_id")?;
    Ok(id.trim().parse()?)
}

/// What the region takes for records, decoding left out.
async fn replayed(region: &Region, records: &[Record], servers: &[u32]) -> Result<Spent, Failure> {
    let json = batch::event(records).to_string();
    let event: Event<'_> = serde_json::from_str(&json)?;
    let data = BatchData::new(&event);
    let batch = Batch::decode(&data, all_lanes())?;
    let nothing = RawValue::from_string("{}".to_owned())?;
    let request = Replay {
        stream: STREAM.into(),
        generation: 1,
        oldest_ms: None,
        follows: BTreeMap::new(),
        join: false,
        unobtainable: BTreeMap::new(),
        event: &nothing,
    };
    let watch = Watch::start(servers)?;
    let answer = region.replay_batch(&batch, &request).await?;
    let spent = watch.spent()?;
    match answer.lanes.values().find(|outcome| !matches!(outcome, Outcome::Applied { .. })) {
        None => Ok(spent),
        Some(outcome) => Err(format!("not applied: {outcome:?}").into()),
    }
}

/// What plain pipelined SETs take on as many connections.
async fn plain(url: &str, load: &Load, run: usize, servers: &[u32]) -> Result<Spent, Failure> {
    let client = redis::Client::open(url)?;
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(client.get_multiplexed_async_connection().await?);
    }
    let lanes = load.by_lane(run);
    let at_ms = Clock::system().now_ms() + load.ttl_ms.unwrap_or(0);
    let watch = Watch::start(servers)?;
    let chunks = lanes.values().flat_map(|changes| changes.chunks(CHUNK_CHANGES_MAX)).enumerate();
    futures::stream::iter(chunks)
        .map(|(number, chunk)| {
            let mut connection = connections[number % CONNECTIONS].clone();
            async move { sets(chunk, load, at_ms).exec_async(&mut connection).await }
        })
        .buffer_unordered(CONNECTIONS)
        .try_collect::<Vec<()>>()
        .await?;
    watch.spent()
}

fn sets(changes: &[(String, String)], load: &Load, at_ms: i64) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(changes.len());
    for (key, value) in changes {
        pipeline.cmd("SET").arg(key).arg(value).ignore();
        if load.ttl_ms.is_some() {
            pipeline.arg("PXAT").arg(at_ms);
        }
    }
    pipeline
}

async fn flush(url: &str) -> Result<(), Failure> {
    let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    Ok(redis::cmd("FLUSHALL").exec_async(&mut connection).await?)
}

async fn standalone(names: &[String; 2], load: &Load) -> Result<(), Failure> {
    let (ours, theirs) = (RedisServer::start()?, RedisServer::start()?);
    let (our_server, their_server) = (process_id(&ours.url()).await?, process_id(&theirs.url()).await?);
    let region = region(&ours.url())?;
    let mut stream = Stream::begun_at(Clock::system().now_ms() - 60_000);
    let mut times: [Vec<(Spent, Spent)>; 2] = Default::default();
    for run in 0..load.runs {
        flush(&ours.url()).await?;
        flush(&theirs.url()).await?;
        make_ready(&region, &mut stream).await?;
        for (kind, times) in times.iter_mut().enumerate() {
            let run = run * 2 + kind;
            let records = load.records(&mut stream, run);
            let plain = plain(&theirs.url(), load, run, &[their_server]).await?;
            times.push((replayed(&region, &records, &[our_server]).await?, plain));
        }
    }
    for (name, times) in names.iter().zip(times) {
        print(name, load, &times, "plain pipelined SET");
    }
    Ok(())
}

async fn already_applied(load: &Load) -> Result<(), Failure> {
    let (ours, theirs) = (RedisServer::start()?, RedisServer::start()?);
    let (our_server, their_server) = (process_id(&ours.url()).await?, process_id(&theirs.url()).await?);
    let region = region(&ours.url())?;
    let mut stream = Stream::begun_at(Clock::system().now_ms() - 60_000);
    make_ready(&region, &mut stream).await?;
    let records = load.records(&mut stream, 0);
    replayed(&region, &records, &[]).await?;
    let mut times = Vec::new();
    for _ in 0..load.runs {
        let plain = plain(&theirs.url(), load, 0, &[their_server]).await?;
        times.push((replayed(&region, &records, &[our_server]).await?, plain));
    }
    print("replay/already_applied", load, &times, "plain pipelined SET");
    Ok(())
}

async fn cluster(load: &Load) -> Result<(), Failure> {
    let cluster = RedisCluster::start()?;
    let mut servers = Vec::new();
    for url in cluster.urls() {
        servers.push(process_id(&url).await?);
    }
    let region = region(&cluster.url())?;
    let connection = ClusterClient::new(cluster.urls())?.get_async_connection().await?;
    let mut stream = Stream::begun_at(Clock::system().now_ms() - 60_000);
    make_ready(&region, &mut stream).await?;
    let mut times = Vec::new();
    for run in 0..load.runs {
        let records = load.records(&mut stream, run);
        let plain = plain_by_slot(&connection, load, run, &servers).await?;
        times.push((replayed(&region, &records, &servers).await?, plain));
    }
    print("replay/cluster_100b", load, &times, "plain SETs in a pipeline for each slot");
    Ok(())
}

/// What plain SETs take on a cluster, whose client takes pipelines of one slot.
async fn plain_by_slot(
    connection: &ClusterConnection,
    load: &Load,
    run: usize,
    servers: &[u32],
) -> Result<Spent, Failure> {
    let mut slots: BTreeMap<u16, Vec<(String, String)>> = BTreeMap::new();
    for (key, value) in load.by_lane(run).into_values().flatten() {
        slots.entry(slot(key.as_bytes())).or_default().push((key, value));
    }
    let watch = Watch::start(servers)?;
    futures::stream::iter(&slots)
        .map(|(slot, changes)| {
            let mut connection = connection.clone();
            async move {
                let route = SingleNodeRoutingInfo::SpecificNode(Route::new(*slot, SlotAddr::Master));
                connection.route_pipeline(sets(changes, load, 0), 0, changes.len(), route).await
            }
        })
        .buffer_unordered(SLOTS_AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;
    watch.spent()
}

/// Peak memory of replaying once, in a process of its own: what its program holds before is part of it.
fn peak_memory(name: &str) -> Result<(), Failure> {
    let output = std::process::Command::new(std::env::current_exe()?).args([MEASURE, name]).output()?;
    let text = String::from_utf8(output.stdout)?;
    let peak = text
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("peak "))
        .ok_or_else(|| format!("{name} was not measured: {}", String::from_utf8_lossy(&output.stderr)))?;
    let kib: f64 = peak.parse()?;
    print_line(&json!({
        "name": name, "value": (kib / 1_024.0 * 10.0).round() / 10.0, "unit": "MiB", "ratio": null, "against": null,
        "runs": 1,
    }));
    Ok(())
}

async fn measure_memory(name: &str) -> Result<(), Failure> {
    match name {
        MEMORY_REF => replay_a_reference().await?,
        MEMORY_FRAMES => replay_dense_frames().await?,
        _ => replay_a_full_event().await?,
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    print_line(&format_args!("peak {}", peak.trim().trim_end_matches(" kB")));
    Ok(())
}

/// Forgets the highest memory so far: what made the input is not what is measured.
fn begin_measuring() -> Result<(), Failure> {
    Ok(std::fs::write("/proc/self/clear_refs", "5")?)
}

/// An event as large as an invocation takes, of SETs of 100 bytes over all lanes.
async fn replay_a_full_event() -> Result<(), Failure> {
    let server = RedisServer::start()?;
    let region = region(&server.url())?;
    let mut stream = Stream::begun_at(Clock::system().now_ms() - 60_000);
    make_ready(&region, &mut stream).await?;
    let load = Load { bytes: 100, ttl_ms: None, changes: 31_000, runs: 1 };
    let request = batch::replay(&load.records(&mut stream, 0)).to_string();
    if request.len() < 5_500_000 || request.len() > 6_000_000 {
        return Err(format!("the event has {} bytes, not about 6 MB", request.len()).into());
    }
    begin_measuring()?;
    region.answer(&request).await?;
    Ok(())
}

/// An event as large as an invocation takes, of frames that hold as many changes as they may: the smallest there are,
/// deletes of keys of one byte.
async fn replay_dense_frames() -> Result<(), Failure> {
    const EVENT_BYTES: usize = 5_990_000;
    let server = RedisServer::start()?;
    let region = region(&server.url())?;
    let mut stream = Stream::begun_at(Clock::system().now_ms() - 60_000);
    make_ready(&region, &mut stream).await?;
    let (mut records, mut event_bytes, mut count) = (Vec::new(), 0, 0);
    for key in (b'a'..=b'z').cycle() {
        let delete = Change::from_commands(vec![vec![b"DEL"[..].into(), vec![key].into()]])?;
        let mut frame = FrameBuilder::new(BODY_BYTES_MAX);
        while event_bytes + frame.len_bytes() * 4 / 3 < EVENT_BYTES && frame.push(&delete).is_ok() {}
        if frame.is_empty() {
            break;
        }
        count += frame.len();
        let record = stream.raw(&all_lanes().of_key(&[key]).to_string(), &frame.finish());
        event_bytes += batch::event(std::slice::from_ref(&record)).to_string().len();
        records.push(record);
    }
    let request = batch::replay(&records).to_string();
    if request.len() < 5_800_000 || request.len() > 6_100_000 {
        return Err(format!("the event has {} bytes, not about 6 MB", request.len()).into());
    }
    drop(records);
    begin_measuring()?;
    let answer = region.answer(&request).await?;
    if answer["counts"]["applied"] != count {
        return Err(format!("not all of {count} applied: {}", answer["counts"]).into());
    }
    Ok(())
}

/// A change whose value of 100 MiB lies on S3.
async fn replay_a_reference() -> Result<(), Failure> {
    const BYTES: u64 = 100 << 20;
    let cloud = LocalCloud::start(&CloudOptions::of_this_clone())?;
    let clients = RegionClients::new(&cloud, HUB);
    clients.s3.create_bucket().bucket("values").send().await?;
    let file = tempfile::NamedTempFile::new()?;
    file.as_file().set_len(BYTES)?;
    let body = aws_sdk_s3::primitives::ByteStream::from_path(file.path()).await?;
    // The SHA-256 of 100 MiB of zeros.
    let sha256 = "20492a4d0d84f8beb1767f6616229f85d44c2827b64bdbfb260ee12fa1109e0e";
    let object = keys::value(sha256);
    clients.s3.put_object().bucket("values").key(&object).body(body).send().await?;
    let server = RedisServer::start()?;
    let region = region_with(&server.url(), clients.s3.clone())?;
    let mut stream = Stream::begun_at(Clock::system().now_ms() - 60_000);
    make_ready(&region, &mut stream).await?;
    let reference = json!({"bucket": "values", "object": object, "sha256": sha256, "bytes": BYTES});
    let change = json!({"v": 1, "key": "large", "ref": reference});
    let record = stream.record(all_lanes().of_key(b"large"), &change);
    begin_measuring()?;
    let answer = region.answer(&batch::replay(&[record]).to_string()).await?;
    if answer["counts"]["applied"] != 1 || answer["counts"]["quarantined"] != 0 {
        return Err(format!("not applied: {answer}").into());
    }
    Ok(())
}

fn print(name: &str, load: &Load, times: &[(Spent, Spent)], against: &str) {
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let rate = median(times.iter().map(|(ours, _)| load.changes as f64 / ours.took.as_secs_f64()).collect());
    let ratio =
        median(times.iter().map(|(ours, theirs)| theirs.took.as_secs_f64() / ours.took.as_secs_f64()).collect());
    let round = |value: f64| (value * 1_000.0).round() / 1_000.0;
    let cpu_us = |part: fn(&(Spent, Spent)) -> Duration| {
        round(median(times.iter().map(|run| part(run).as_secs_f64() * 1e6 / load.changes as f64).collect()))
    };
    let line = json!({
        "name": name, "value": rate.round(), "unit": "changes/s", "ratio": round(ratio), "against": against,
        "runs": times.len(), "cpu_us": {
            "client": cpu_us(|(ours, _)| ours.client), "servers": cpu_us(|(ours, _)| ours.servers),
            "their_client": cpu_us(|(_, theirs)| theirs.client), "their_servers": cpu_us(|(_, theirs)| theirs.servers),
        },
    });
    print_line(&line);
}

#[expect(clippy::print_stdout, reason = "benchmarks print their figures")]
fn print_line(line: &impl std::fmt::Display) {
    println!("{line}");
}
