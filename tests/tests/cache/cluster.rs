//! What a cluster goes through while changes keep coming: a failover, a master that dies, slots that move.

use super::contract::{Place, Server, deliver_until_taken, random_records};
use super::{Random, Record, Stream, cloud, lanes, new_stream};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use tidemark_cache_sync::lane::slot;
use tidemark_local::RedisCluster;

/// Lets changes come until the `trouble` is over; then the region must be what they say.
async fn under_load(place: &Place, stream: &mut Stream, seed: u64, trouble: impl AsyncFn(&RedisCluster)) {
    let Server::Cluster(cluster) = &place.server else { panic!("a cluster is needed") };
    let mut random = Random::new(seed);
    let mut records = place.begin(stream).await;
    let over = AtomicBool::new(false);
    let load = async {
        let mut rounds = 0;
        // At least some records come while all is well again.
        while !over.load(Ordering::Relaxed) || rounds < 3 {
            rounds += usize::from(over.load(Ordering::Relaxed));
            let batch = random_records(&mut random, stream, 20);
            records.extend_from_slice(&batch);
            deliver_until_taken(place, &records, &batch).await;
        }
    };
    let trouble = async {
        trouble(cluster).await;
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(load, trouble);
    // What only the trouble's last write lost shows at the next heartbeat.
    let beats: Vec<Record> =
        lanes().all().map(|lane| stream.record(lane, &json!({"v": 1, "heartbeat": 2, "at_ms": 1}))).collect();
    records.extend_from_slice(&beats);
    deliver_until_taken(place, &records, &beats).await;
    eprintln!("seed {seed}: {} records", records.len());
    place.assert_is(&records, &format!("seed {seed}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_fails_over_and_moves_slots_under_load_loses_nothing() {
    let cloud = cloud();
    let place = Place::new(&cloud, Server::Cluster(Box::new(RedisCluster::start().unwrap())), "*").await;
    let mut stream = new_stream();
    under_load(&place, &mut stream, 1, async |cluster: &RedisCluster| {
        cluster.failover(slot(b"k1")).await.unwrap();
    })
    .await;
    under_load(&place, &mut stream, 2, async |cluster: &RedisCluster| {
        let (dead, _) = cluster.kill_master(slot(b"k2")).await.unwrap();
        cluster.restart(dead).await.unwrap();
    })
    .await;
    under_load(&place, &mut stream, 3, async |cluster: &RedisCluster| {
        // The slots of some keys, and what lies around them, to another master.
        for key in ["k3", "k4", "k5"] {
            let from = slot(key.as_bytes());
            let masters = cluster.masters().await.unwrap();
            let to = masters.iter().find(|master| !master.serves(from)).unwrap().port;
            cluster.migrate(from.saturating_sub(50)..=(from + 50).min(16_383), to).await.unwrap();
        }
    })
    .await;
}
