//! The whole road, end to end: the release binaries as Lambda functions in the local cloud, one real Redis a region.
//!
//! Every test has a deployment of its own. `make test` installs and builds what they need; without it they fail and
//! say what is missing.

mod killed;
mod sitemap;

use anyhow::{Context as _, Result, ensure};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_s3::primitives::ByteStream;
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemark_cache_sync::lane::Lanes;
use tidemark_cache_sync::publish::{CacheWrite, Publisher, PublisherSettings};
use tidemark_local::{
    ARRIVAL_TIMEOUT, CloudOptions, Deployment, DeploymentOptions, LANES, LocalRegion, SITEMAP_BUCKET, STREAM,
    differing, forward_function, invoke, page_table, stream, until,
};
use tidemark_runtime::clock::Clock;
use tidemark_tests::random::Random;

const HOUR: Duration = Duration::from_hours(1);
const SCHEDULE_TIMEOUT: Duration = Duration::from_secs(180);

/// A deployment and a service that publishes to it.
struct Road {
    deployment: Deployment,
    publisher: Arc<Publisher>,
    lanes: Lanes,
}

impl Road {
    async fn start() -> Result<Self> {
        let deployment = Deployment::start(&DeploymentOptions::of_this_clone()?).await?;
        let lanes = Lanes::new(LANES)?;
        let clients = &deployment.hub().clients;
        let values = Some((clients.s3.clone(), deployment.hub().bucket.clone()));
        let settings = PublisherSettings { values, ..PublisherSettings::new(STREAM, lanes) };
        let publisher = Arc::new(Publisher::start(&clients.kinesis, settings, Clock::system()).await?);
        Ok(Self { deployment, publisher, lanes })
    }

    async fn set(&self, key: &str, value: &str) -> Result<()> {
        self.publish(CacheWrite::set(key, value, Some(HOUR))).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.publish(CacheWrite::delete(key)).await
    }

    async fn publish(&self, write: CacheWrite) -> Result<()> {
        self.publisher.publish(write).await?.confirmed().await?;
        Ok(())
    }

    /// Puts bytes on the stream as a record of the key's lane, with no publisher between.
    async fn put_raw(&self, key: &str, data: impl Into<Vec<u8>>) -> Result<()> {
        let lane = self.lanes.of_key(key.as_bytes()).to_string();
        let put = self.deployment.hub().clients.kinesis.put_record().stream_name(STREAM).partition_key(lane);
        put.data(Blob::new(data.into())).send().await?;
        Ok(())
    }

    async fn until_in_both(&self, key: &str, value: Option<&str>) -> Result<()> {
        for region in self.deployment.regions() {
            region.until_value(key, value).await.map_err(|error| self.explain(error.into()))?;
        }
        Ok(())
    }

    /// Runs the operators' command and returns what it prints.
    async fn tidemark(&self, arguments: &[&str]) -> Result<String> {
        let output = self.deployment.tidemark()?.args(arguments).output().await?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "tidemark {arguments:?} failed ({}): {printed}{complained}\n{}",
            output.status,
            self.deployment.cloud().log_tail()
        );
        Ok(printed)
    }

    /// An error with the end of the cloud's log, where the functions' own words stand.
    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        error.context(self.deployment.cloud().log_tail())
    }
}

/// Waits until the region's quarantine holds an object in which `word` stands, and returns the object.
async fn until_quarantined(region: &LocalRegion, word: &str) -> Result<String> {
    let s3 = &region.clients.s3;
    until(&format!("{word} in the quarantine of {}", region.name), ARRIVAL_TIMEOUT, async || {
        let list = s3.list_objects_v2().bucket(&region.bucket).prefix("quarantine/").send().await?;
        for key in list.contents().iter().filter_map(|object| object.key()) {
            let object = s3.get_object().bucket(&region.bucket).key(key).send().await?;
            let text = String::from_utf8_lossy(&object.body.collect().await?.into_bytes()).into_owned();
            if text.contains(word) {
                return anyhow::Ok(Some(text));
            }
        }
        Ok(None)
    })
    .await
}

async fn command(connection: &mut MultiplexedConnection, words: &[&str]) -> Result<()> {
    let mut command = redis::cmd(words[0]);
    words[1..].iter().for_each(|word| {
        command.arg(word);
    });
    command.query_async::<redis::Value>(connection).await.with_context(|| format!("{words:?}"))?;
    Ok(())
}

fn now_ms() -> i64 {
    Clock::system().now_ms()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_reaches_both_regions_with_its_expiry_and_a_delete_follows() -> Result<()> {
    let road = Road::start().await?;
    road.set("user:1", "hello").await?;
    // A relative expiry counts from at_ms, wherever and whenever it is applied.
    let at_ms = now_ms() - 5_000;
    let change = json!({"v": 1, "cmd": ["SET", "user:2", "bücher", "PX", "600000"], "at_ms": at_ms});
    road.put_raw("user:2", change.to_string()).await?;
    road.until_in_both("user:1", Some("hello")).await?;
    road.until_in_both("user:2", Some("bücher")).await?;
    let keys = road.deployment.until_equal(2).await?;
    assert_eq!(keys[b"user:2".as_slice()].expires_at_ms, at_ms + 600_000);
    let left_ms = keys[b"user:1".as_slice()].expires_at_ms - now_ms();
    assert!((3_000_000..=3_600_000).contains(&left_ms), "{left_ms}");

    road.delete("user:1").await?;
    road.until_in_both("user:1", None).await?;

    road.tidemark(&["cache", "set", "greeting", "hello", "--ttl", "60s"]).await?;
    road.until_in_both("greeting", Some("hello")).await?;
    for region in road.deployment.regions() {
        let printed = road.tidemark(&["cache", "get", "greeting", "--region", region.name]).await?;
        assert!(printed.contains("hello"), "{printed}");
    }
    road.tidemark(&["cache", "delete", "greeting"]).await?;
    road.until_in_both("greeting", None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_delivered_again_changes_nothing() -> Result<()> {
    let road = Road::start().await?;
    let (hub, second) = (road.deployment.hub(), road.deployment.second());
    for value in ["1", "2", "3"] {
        road.set("counter", value).await?;
    }
    road.set("{counter}:gone", "x").await?;
    road.delete("{counter}:gone").await?;
    road.set("{counter}:last", "y").await?;
    road.until_in_both("{counter}:last", Some("y")).await?;
    let before = second.until_quiet().await?;
    let lane = road.lanes.of_key(b"counter").to_string();
    let records = stream::records_of(&hub.clients, &lane).await?;
    assert_eq!(records.len(), 6);
    // Whole, then only its oldest half: a lane never goes back.
    for batch in [&records[..], &records[..3], &records[..]] {
        let event = stream::mapping_event(batch);
        invoke(&hub.clients, hub.name, &forward_function(second.name), &event)
            .await
            .map_err(|e| road.explain(e.into()))?;
    }
    let after = second.everything().await?;
    assert!(before == after, "{}", differing(&before, &after));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_change_costs_its_key_alone() -> Result<()> {
    let road = Road::start().await?;
    road.set("counter", "1").await?;
    road.set("{counter}:neighbour", "1").await?;
    road.until_in_both("counter", Some("1")).await?;
    let change = json!({"v": 1, "cmd": ["INCR", "counter"], "at_ms": now_ms()});
    road.put_raw("counter", change.to_string()).await?;
    road.set("{counter}:after", "2").await?;
    road.until_in_both("{counter}:after", Some("2")).await?;
    road.until_in_both("{counter}:neighbour", Some("1")).await?;
    road.until_in_both("counter", None).await?;
    for region in road.deployment.regions() {
        let object = until_quarantined(region, "INCR").await.map_err(|error| road.explain(error))?;
        assert!(object.contains("counter"), "{object}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_no_change_does_not_stop_its_lane() -> Result<()> {
    let road = Road::start().await?;
    road.set("a", "1").await?;
    road.put_raw("a", b"\xff\xfe this is neither JSON nor MessagePack".as_slice()).await?;
    road.put_raw("a", br#"{"v":1,"cmd":["SET","a"#.as_slice()).await?;
    road.put_raw("a", Vec::from(b"[]")).await?;
    // A key of another lane: the change is put aside, the key is not touched.
    let stranger =
        (0..).map(|index| format!("b{index}")).find(|key| road.lanes.of_key(key.as_bytes()) != road.lanes.of_key(b"a"));
    let stranger = stranger.context("no key of another lane")?;
    road.set(&stranger, "untouched").await?;
    let change = json!({"v": 1, "cmd": ["SET", stranger, "wrong lane"], "at_ms": now_ms()});
    road.put_raw("a", change.to_string()).await?;
    road.set("{a}:after", "2").await?;
    road.until_in_both("{a}:after", Some("2")).await?;
    road.until_in_both("a", Some("1")).await?;
    road.until_in_both(&stranger, Some("untouched")).await?;
    for region in road.deployment.regions() {
        // Three of them: what is no text, what is cut off, what is in the wrong lane.
        for reason in ["0xff", "not JSON", "the partition key must be the key's lane"] {
            until_quarantined(region, reason).await.map_err(|error| road.explain(error))?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_region_catches_up_in_order() -> Result<()> {
    let road = Road::start().await?;
    road.set("page:0", "first").await?;
    road.until_in_both("page:0", Some("first")).await?;
    road.deployment.set_fed(road.deployment.second(), false).await?;
    for index in 0..50 {
        road.set(&format!("page:{}", index % 10), &format!("{index}")).await?;
    }
    road.delete("page:9").await?;
    road.deployment.hub().until_value("page:9", None).await?;
    road.deployment.hub().until_value("page:8", Some("48")).await?;
    road.deployment.second().until_value("page:0", Some("first")).await?;
    road.deployment.set_fed(road.deployment.second(), true).await?;
    road.deployment.until_equal(9).await.map_err(|error| road.explain(error.into()))?;
    road.until_in_both("page:9", None).await?;
    road.until_in_both("page:8", Some("48")).await
}

/// Publishes sets and deletes of a few hundred keys until told to stop; returns how many.
async fn write_until(publisher: Arc<Publisher>, stop: Arc<AtomicBool>) -> Result<usize> {
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        let key = format!("live:{}", written % 300);
        if written % 7 == 3 {
            publisher.delete(key).await?.confirmed().await?;
        } else {
            publisher.set(key, written.to_string(), Some(HOUR)).await?.confirmed().await?;
        }
        written += 1;
    }
    Ok(written)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_region_is_resynced_while_writes_go_on() -> Result<()> {
    let road = Road::start().await?;
    for index in 0..100 {
        road.set(&format!("kept:{index}"), &format!("{index}")).await?;
    }
    for write in [
        CacheWrite::replace_hash("profile", [("name", "Kim"), ("city", "Seoul")], Some(HOUR)),
        CacheWrite::replace_list("feed", ["c", "a", "b"], None),
        CacheWrite::replace_set("tags", ["x", "y"], None),
        CacheWrite::commands([vec!["DEL", "board"], vec!["ZADD", "board", "1.5", "kim", "2", "lee"]])?,
    ] {
        road.publish(write).await?;
    }
    let before = road.deployment.until_equal(104).await.map_err(|error| road.explain(error.into()))?;

    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write_until(road.publisher.clone(), stop.clone()));
    let mut connection = road.deployment.second().connect_redis().await?;
    command(&mut connection, &["FLUSHALL"]).await?;
    // What the hub does not hold must go.
    command(&mut connection, &["SET", "stray", "1"]).await?;
    let resynced = road.tidemark(&["cache", "resync", "--region", road.deployment.second().name]).await;
    stop.store(true, Ordering::Relaxed);
    let written = writer.await??;
    resynced?;
    assert!(written > 0);
    let after = road.deployment.until_equal(104).await.map_err(|error| road.explain(error.into()))?;
    assert!(!after.contains_key(b"stray".as_slice()));
    for (key, content) in &before {
        assert_eq!(after.get(key), Some(content), "{}", String::from_utf8_lossy(key));
    }
    // And the road is open: nothing is held any more.
    road.set("kept:0", "later").await?;
    road.until_in_both("kept:0", Some("later")).await
}

/// Waits until `key` holds exactly these bytes in the region.
async fn until_bytes(region: &LocalRegion, key: &str, value: &[u8]) -> Result<()> {
    let mut connection = region.connect_redis().await?;
    until(&format!("{key} in {}", region.name), ARRIVAL_TIMEOUT, async || {
        let found: Option<Vec<u8>> = redis::cmd("GET").arg(key).query_async(&mut connection).await?;
        anyhow::Ok((found.as_deref() == Some(value)).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_larger_than_a_record_reaches_every_region_by_its_bucket() -> Result<()> {
    let road = Road::start().await?;
    let (hub, second) = (road.deployment.hub(), road.deployment.second());
    let mut random = Random::new(5);
    let value: Vec<u8> = std::iter::repeat_with(|| random.bits().to_le_bytes()).take(5 << 17).flatten().collect();
    assert_eq!(value.len(), 5 << 20);
    road.set("img:9", "small").await?;
    road.publish(CacheWrite::set("img:9", value.clone(), Some(HOUR))).await?;
    road.set("{img:9}:after", "1").await?;
    for region in road.deployment.regions() {
        until_bytes(region, "img:9", &value).await.map_err(|error| road.explain(error))?;
        let list = region.clients.s3.list_objects_v2().bucket(&region.bucket).prefix("values/").send().await?;
        let sizes: Vec<Option<i64>> = list.contents().iter().map(|object| object.size()).collect();
        assert_eq!(sizes, [Some(5 << 20)], "{}", region.name);
    }
    road.until_in_both("{img:9}:after", Some("1")).await?;
    let keys = road.deployment.until_equal(2).await.map_err(|error| road.explain(error.into()))?;
    assert!(keys[b"img:9".as_slice()].expires_at_ms > now_ms());

    // A reference to what nobody has, and one that would have another object read, cost their keys alone.
    for (object, words) in [
        (format!("values/ab/{}", "ab".repeat(32)), "is not in bucket"),
        ("elsewhere/7".to_owned(), "not named by its content"),
    ] {
        let reference = json!({"bucket": hub.bucket, "object": object, "sha256": "ab".repeat(32), "bytes": 7});
        let change = json!({"v": 1, "key": "img:9", "ref": reference, "at_ms": now_ms()});
        road.put_raw("img:9", change.to_string()).await?;
        until_quarantined(second, words).await.map_err(|error| road.explain(error))?;
    }
    road.set("{img:9}:after", "2").await?;
    road.until_in_both("{img:9}:after", Some("2")).await?;
    road.until_in_both("img:9", None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_publishes_the_sitemap() -> Result<()> {
    let road = Road::start().await?;
    let hub = road.deployment.hub();
    let folder = tempfile::tempdir()?;
    let part = folder.path().join("pages.csv");
    let mut rows = "\"/devel/g++?a=1&v=4:12~rc1\",\"2026-03-01\"\n\"/games/0ad\",\"\"\n\"https://shop.example/x\",\"2026-03-02\"\n".to_owned();
    // More than two pages of GetQueryResults.
    rows.extend((0..2_500).map(|page| format!("\"/page/{page:04}\",\"2026-03-03\"\n")));
    std::fs::write(&part, rows)?;
    page_table::put_part(&road.deployment, 0, &part).await?;
    page_table::register(&road.deployment, &CloudOptions::of_this_clone().venv.join("bin/python")).await?;
    let site = format!(
        "base_url = \"https://shop.example\"\n[query]\nsql = \"SELECT loc, lastmod FROM {}\"\ndatabase = \"{}\"\nfetch = \"select\"\n\
         output = \"s3://{}/athena/\"\n[publish]\nbucket = \"{SITEMAP_BUCKET}\"\nedge_ttl_seconds = 0\n",
        page_table::TABLE,
        page_table::DATABASE,
        hub.bucket
    );
    let put = hub.clients.s3.put_object().bucket(&hub.bucket).key("sites/shop.toml");
    put.body(ByteStream::from(site.into_bytes())).send().await?;
    let scheduled = "<aws.scheduler.scheduled-time>";
    let input = json!({"job": "sitemap", "scheduled": scheduled, "args": {"site": "shop"}});
    road.deployment.schedule_once("tidemark-sitemap-shop", Duration::from_secs(1), &input).await?;
    let run = road.deployment.until_run("sitemap-shop", SCHEDULE_TIMEOUT, |_| {}).await;
    run.map_err(|error| road.explain(error.into()))?;
    let committed = tidemark_sitemap::refresh::committed(&hub.clients.s3, &hub.bucket, "shop").await?;
    let committed = committed.context("nothing is committed")?;
    assert_eq!((committed.urls(), committed.indexes().len()), (2_503, 1));
    let index = hub.clients.s3.get_object().bucket(SITEMAP_BUCKET).key("sitemap-index.xml").send().await?;
    let index = String::from_utf8(index.body.collect().await?.to_vec())?;
    let shard = index.split("<loc>https://shop.example/").nth(1).and_then(|rest| rest.split('<').next());
    let shard = shard.with_context(|| format!("no shard in {index}"))?;
    let object = hub.clients.s3.get_object().bucket(SITEMAP_BUCKET).key(shard).send().await?;
    assert_eq!(object.content_type(), Some("application/gzip"));
    let mut xml = String::new();
    let packed = object.body.collect().await?.to_vec();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed.as_slice()), &mut xml)?;
    for wanted in [
        "<loc>https://shop.example/devel/g++?a=1&amp;v=4:12~rc1</loc><lastmod>2026-03-01</lastmod>",
        "<loc>https://shop.example/games/0ad</loc></url>",
        "<loc>https://shop.example/x</loc><lastmod>2026-03-02</lastmod>",
    ] {
        assert!(xml.replace(['\n', ' '], "").contains(wanted), "{wanted} is not in {xml}");
    }
    assert_eq!(xml.matches("<url>").count(), 2_503);
    let different: HashSet<&str> = xml.split("<loc>").skip(1).filter_map(|rest| rest.split('<').next()).collect();
    assert_eq!(different.len(), 2_503);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantined_change_is_published_anew_only_where_nothing_later_wrote_its_key() -> Result<()> {
    let road = Road::start().await?;
    let (hub, second) = (road.deployment.hub().name, road.deployment.second().name);
    let put = async |key: &str, cmds: Value| {
        road.put_raw(key, json!({"v": 1, "cmds": cmds, "at_ms": now_ms()}).to_string()).await
    };
    put("h", json!([["SET", "h", "text"]])).await?;
    put("h", json!([["HSET", "h", "f", "v"], ["SET", "h", "done", "PX", "600000"]])).await?;
    put("n", json!([["INCR", "n"]])).await?;
    for region in road.deployment.regions() {
        until_quarantined(region, "WRONGTYPE").await.map_err(|error| road.explain(error))?;
        until_quarantined(region, "INCR").await.map_err(|error| road.explain(error))?;
    }
    let list = async |region: &str| -> Result<Vec<Value>> {
        let printed = road.tidemark(&["cache", "quarantine", "list", "--json", "--region", region]).await?;
        Ok(serde_json::from_str(&printed)?)
    };
    let listed = list(hub).await?;
    let id_of = |word: &str| -> Result<String> {
        let has = |item: &&Value| item["reason"].as_str().is_some_and(|reason| reason.contains(word));
        let item = listed.iter().find(has).with_context(|| format!("{word} is not among {listed:?}"))?;
        Ok(item["id"].as_str().context("id")?.to_owned())
    };
    let (failed, refused) = (id_of("WRONGTYPE")?, id_of("INCR")?);
    let table = road.tidemark(&["cache", "quarantine", "list", "--limit", "3"]).await?;
    assert!(table.contains("3 of 4"), "{table}");
    let shown = road.tidemark(&["cache", "quarantine", "show", &failed]).await?;
    assert!(shown.contains("\"HSET\"") && shown.contains("s3://"), "{shown}");

    let retry = async |id: &str, region: &str| {
        road.tidemark(&["cache", "quarantine", "retry", id, "--region", region])
            .await
            .map_err(|error| error.to_string())
    };
    let why = retry(&refused, hub).await.unwrap_err();
    assert!(why.contains("the contract still refuses it") && why.contains("SET the resulting value"), "{why}");
    retry(&failed, hub).await.map_err(anyhow::Error::msg)?;
    road.until_in_both("h", Some("done")).await?;
    assert!(list(hub).await?.iter().any(|item| item["id"] == failed.as_str() && item["retried"] == true));
    let why = retry(&failed, hub).await.unwrap_err();
    assert!(why.contains("was retried already"), "{why}");
    // The other region quarantined the same change; the retry was for both.
    let why = retry(&failed, second).await.unwrap_err();
    assert!(why.contains("a later change of its key is on the stream"), "{why}");
    Ok(())
}

/// Checks one line by the rules of the embedded metric format and returns it.
/// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>
fn checked_emf(line: &str) -> Result<Value> {
    const UNITS: [&str; 3] = ["Count", "Milliseconds", "Bytes"];
    let root: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
    let at_ms = root["_aws"]["Timestamp"].as_i64().context("Timestamp")?;
    ensure!((now_ms() - at_ms).abs() < 3_600_000, "Timestamp {at_ms} is not milliseconds of now: {line}");
    let directives = root["_aws"]["CloudWatchMetrics"].as_array().context("CloudWatchMetrics")?;
    ensure!(!directives.is_empty(), "no directive: {line}");
    for directive in directives {
        ensure!(directive["Namespace"] == "Tidemark", "namespace: {line}");
        for set in directive["Dimensions"].as_array().context("Dimensions")? {
            let set = set.as_array().context("a dimension set")?;
            ensure!(!set.is_empty() && set.len() <= 30, "1 to 30 dimensions: {line}");
            for name in set {
                let value =
                    root[name.as_str().context("dimension")?].as_str().context("a dimension's value is text")?;
                ensure!(!value.is_empty() && value.len() <= 1_024, "dimension value: {line}");
            }
        }
        let metrics = directive["Metrics"].as_array().context("Metrics")?;
        ensure!((1..=100).contains(&metrics.len()), "1 to 100 metrics: {line}");
        for metric in metrics {
            ensure!(UNITS.contains(&metric["Unit"].as_str().context("Unit")?), "unit: {line}");
            let value = &root[metric["Name"].as_str().context("Name")?];
            let numbers = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            ensure!((1..=100).contains(&numbers.len()) && numbers.iter().all(Value::is_number), "values: {line}");
        }
    }
    Ok(root)
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_lag_heartbeats_and_metrics_of_every_region() -> Result<()> {
    let road = Road::start().await?;
    road.tidemark(&["jobs", "run", "heartbeat"]).await?;
    let healthy = async || -> Result<Option<String>> { Ok(road.tidemark(&["cache", "status", "--json"]).await.ok()) };
    let printed = until("every lane to be ready", ARRIVAL_TIMEOUT, healthy).await.map_err(|e| road.explain(e))?;
    let status: Value = serde_json::from_str(&printed)?;
    assert_eq!((&status["healthy"], &status["heartbeat"]["last"]), (&json!(true), &json!(1)), "{status}");
    let regions = status["regions"].as_array().context("regions")?;
    let names: Vec<&str> = regions.iter().filter_map(|region| region["region"].as_str()).collect();
    assert_eq!(names, road.deployment.regions().each_ref().map(|region| region.name), "{status}");
    for region in regions {
        assert_eq!(region["lanes"].as_object().map(serde_json::Map::len), Some(usize::from(LANES)), "{region}");
        assert_eq!((&region["quarantined"], &region["lag_ms_max"]), (&json!(0), &json!(0)), "{region}");
    }
    // An unplugged stream: the same records, a heartbeat that grows old.
    let stale = road.tidemark(&["cache", "status", "--max-heartbeat-age", "1ms"]).await.unwrap_err().to_string();
    assert!(stale.contains("64 ready") && stale.contains("#1"), "{stale}");

    let mut names = std::collections::BTreeSet::new();
    for line in std::fs::read_to_string(road.deployment.cloud().log())?.lines() {
        let Some(begin) = line.find("{\"_aws\"") else { continue };
        let root = checked_emf(&line[begin..])?;
        let metrics = root["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().cloned().unwrap_or_default();
        names.extend(metrics.iter().filter_map(|metric| metric["Name"].as_str().map(str::to_owned)));
    }
    for wanted in [
        "records",
        "bytes",
        "changes_applied",
        "changes_skipped",
        "changes_repeated",
        "changes_quarantined",
        "chunk_ms",
        "heartbeat_ms",
        "batches",
        "batches_thrown_back",
        "fed_records",
        "invocation_ms",
    ] {
        assert!(names.contains(wanted), "{wanted} is not among {names:?}");
    }
    Ok(())
}
