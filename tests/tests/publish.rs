//! The publisher's promises, against a model of PutRecords with the faults that the local cloud never has.
//!
//! Time is a simulated clock, so nothing here waits. `SEEDS=1000 cargo test …` runs more seeds, `SEED=7` one again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidemark_cache_sync::change::{Body, Command};
use tidemark_cache_sync::lane::Lanes;
use tidemark_cache_sync::publish::{
    BACKOFF_MAX, BACKOFF_MIN, CALL_BYTES_MAX, CALL_RECORDS_MAX, CacheWrite, NotFlushed, PublishError, Publisher,
    PublisherSettings, RECORD_BYTES_MAX, RETRY_FOR, RecordFormat, StartError,
};
use tidemark_cache_sync::record::{Content, Data};
use tidemark_runtime::clock::Clock;
use tidemark_tests::put_records::{Fate, ModelStream, Seen};
use tidemark_tests::random::Random;

const START_MS: i64 = 1_763_800_000_000;
const SEEDS: u64 = 200;
const LANES: u16 = 16;

fn settings() -> PublisherSettings {
    PublisherSettings { seed: Some(1), ..PublisherSettings::new("model", Lanes::new(LANES).unwrap()) }
}

async fn start(stream: &ModelStream, settings: PublisherSettings, clock: &Clock) -> Publisher {
    Publisher::start(&stream.client(), settings, clock.clone()).await.unwrap()
}

/// What a region makes of the stream: each lane's values in order, a producer's number that is not above its last
/// skipped; and each lane's heartbeats.
#[derive(Debug, Default)]
struct Replayed {
    values: BTreeMap<String, Vec<String>>,
    heartbeats: BTreeMap<String, Vec<u64>>,
    repeated: usize,
    records: usize,
}

fn replay(stream: &ModelStream) -> Replayed {
    let mut replayed = Replayed::default();
    let mut last_seqs: BTreeMap<(String, String), u64> = BTreeMap::new();
    for stored in stream.stored() {
        replayed.records += 1;
        let data = Data::new(stored.data).unwrap();
        let changes = match data.decode(&stored.partition_key).unwrap() {
            Content::Changes(changes) => changes,
            Content::Heartbeat(beat) => {
                replayed.heartbeats.entry(stored.partition_key).or_default().push(beat.heartbeat);
                continue;
            }
        };
        for change in changes {
            let change = change.unwrap();
            let producer = change.producer.unwrap();
            let last = last_seqs.entry((stored.partition_key.clone(), producer.id.into_owned())).or_default();
            if producer.seq <= *last {
                replayed.repeated += 1;
                continue;
            }
            *last = producer.seq;
            let Body::Commands(commands) = change.body else { panic!("a reference") };
            let [Command::Set { value, .. }] = commands.as_slice() else { panic!("{commands:?}") };
            let value = String::from_utf8(value.to_vec()).unwrap();
            replayed.values.entry(stored.partition_key.clone()).or_default().push(value);
        }
    }
    replayed
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse().unwrap());
    match (number("SEED"), number("SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(SEEDS),
    }
}

#[tokio::test]
async fn a_lane_keeps_its_order_and_loses_nothing_under_every_fault() {
    let mut repeated = 0;
    for seed in seeds() {
        let mut random = Random::new(seed);
        let clock = Clock::simulated(START_MS);
        let stream = ModelStream::new(seed, true, clock.clone());
        let format = if random.once_in(2) { RecordFormat::Frame } else { RecordFormat::Json };
        let linger = Duration::from_millis(random.below(3) * 5);
        // A minute of faults is more than any record meets: see the test of what is given up.
        let publisher = start(&stream, PublisherSettings { format, linger, ..settings() }, &clock).await;
        let mut published: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut pending = Vec::new();
        for number in 0..100 + random.below(200) {
            let key = format!("k{}", random.below(40));
            let lane = Lanes::new(LANES).unwrap().of_key(key.as_bytes()).to_string();
            let value = format!("{number}");
            published.entry(lane.clone()).or_default().push(value.clone());
            pending.push((lane, publisher.set(key, value, None).await.unwrap()));
            for _ in 0..random.below(4) {
                tokio::task::yield_now().await;
            }
            if random.once_in(50) {
                publisher.flush().await.unwrap();
            }
        }
        publisher.close().await.unwrap();
        let replayed = replay(&stream);
        assert_eq!(stream.breaches(), Vec::<String>::new(), "SEED={seed}");
        assert_eq!(replayed.values, published, "SEED={seed}");
        repeated += replayed.repeated;
        let mut last = BTreeMap::new();
        for (lane, pending) in pending {
            let receipt = pending.confirmed().await.unwrap();
            assert_eq!(receipt.lane.to_string(), lane, "SEED={seed}");
            let before = last.insert(lane, receipt.position.clone());
            assert!(before.is_none_or(|before| before < receipt.position), "SEED={seed}: {}", receipt.position);
        }
    }
    assert!(repeated > 0, "the model never stored a retry twice");
}

#[tokio::test]
async fn tries_are_counted_their_waits_grow_and_end_and_the_lane_goes_on_with_higher_numbers() {
    let clock = Clock::simulated(START_MS);
    let stream = ModelStream::new(3, false, clock.clone());
    let publisher = start(&stream, PublisherSettings { linger: Duration::ZERO, ..settings() }, &clock).await;
    stream.script([Fate::LoseAnswer]);
    stream.script(vec![Fate::Throttle; 1_000]);
    let first = publisher.set("a", "first", None).await.unwrap();
    let Err(PublishError::Unconfirmed { attempts, .. }) = first.confirmed().await else { panic!() };
    let seen = stream.seen();
    assert_eq!(seen.len(), attempts as usize);
    let waits: Vec<i64> = seen.windows(2).map(|pair| pair[1].at_ms - pair[0].at_ms).collect();
    let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap();
    for (index, wait) in (0..).zip(&waits) {
        let whole = ms(BACKOFF_MAX).min(ms(BACKOFF_MIN) << u32::min(index, 16));
        assert!((whole / 2 - 1..=whole).contains(wait), "wait {index} is {wait} ms of {whole}");
    }
    let spent = seen.last().unwrap().at_ms - seen[0].at_ms;
    assert!((ms(RETRY_FOR)..=ms(RETRY_FOR + BACKOFF_MAX)).contains(&spent), "{spent}");

    // What was given up was stored by its first try; what follows is numbered above it all the same.
    let rest = stream.seen().len();
    stream.script([Fate::Pass]);
    let second = loop {
        // The rest of the script is used up by further tries.
        let pending = publisher.set("a", "second", None).await.unwrap();
        match pending.confirmed().await {
            Ok(receipt) => break receipt,
            Err(PublishError::Unconfirmed { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    };
    assert!(stream.seen().len() > rest);
    assert_eq!(second.position.index, 0);
    let values = replay(&stream).values.into_values().next().unwrap();
    assert_eq!(values.first().map(String::as_str), Some("first"));
    assert_eq!(values.last().map(String::as_str), Some("second"));
    let Err(NotFlushed { changes }) = publisher.close().await else { panic!("nothing was said of what was given up") };
    assert!(changes >= 1);
}

#[tokio::test]
async fn a_record_that_comes_late_after_it_was_given_up_is_skipped() {
    let clock = Clock::simulated(START_MS);
    let stream = ModelStream::new(5, false, clock.clone());
    let retry_for = Duration::ZERO;
    let publisher = start(&stream, PublisherSettings { retry_for, ..settings() }, &clock).await;
    stream.script([Fate::Late]);
    let late = publisher.set("a", "late", None).await.unwrap().confirmed().await;
    assert!(matches!(late, Err(PublishError::Unconfirmed { attempts: 1, .. })), "{late:?}");
    for number in 0..20 {
        publisher.set("a", format!("{number}"), None).await.unwrap().confirmed().await.unwrap();
    }
    let values = replay(&stream).values.into_values().next().unwrap();
    let wanted: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(values[values.len() - 20..], wanted, "the late one came in between");
    publisher.close().await.unwrap_err();
}

#[tokio::test]
async fn what_no_retry_mends_is_told_at_once() {
    let clock = Clock::simulated(START_MS);
    let stream = ModelStream::new(7, false, clock.clone());
    let publisher = start(&stream, settings(), &clock).await;
    stream.script([Fate::Deny]);
    let denied = publisher.set("a", "1", None).await.unwrap().confirmed().await.unwrap_err();
    assert!(matches!(denied, PublishError::Rejected { .. }), "{denied}");
    assert!(denied.to_string().contains("AccessDenied"), "{denied}");
    assert_eq!(stream.seen().len(), 1);
    publisher.set("a", "2", None).await.unwrap().confirmed().await.unwrap();
}

#[tokio::test]
async fn publishing_waits_where_the_queue_is_full() {
    let clock = Clock::simulated(START_MS);
    for (changes, bytes) in [(10, 64 << 20), (1_000, 10 * 250_000)] {
        let stream = ModelStream::new(9, false, clock.clone());
        stream.shut();
        let bounded = PublisherSettings { queued_changes_max: changes, queued_bytes_max: bytes, ..settings() };
        let publisher = start(&stream, bounded, &clock).await;
        let value = vec![b'x'; if changes == 10 { 1 } else { 249_000 }];
        let write = || CacheWrite::set("a", value.clone(), None);
        let mut pending = Vec::new();
        for _ in 0..10 {
            pending.push(publisher.try_publish(write()).unwrap());
        }
        assert!(matches!(publisher.try_publish(write()), Err(PublishError::Full)));
        let mut waiting = std::pin::pin!(publisher.publish(write()));
        for _ in 0..100 {
            assert!(futures_now(waiting.as_mut()).await.is_none(), "an eleventh found room");
            tokio::task::yield_now().await;
        }
        stream.let_through(100);
        pending.push(waiting.await.unwrap());
        publisher.close().await.unwrap();
        for pending in pending {
            pending.confirmed().await.unwrap();
        }
        assert_eq!(replay(&stream).values.into_values().next().unwrap().len(), 11);
    }
}

/// What the future gives now, if it gives anything.
async fn futures_now<T>(mut future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match future.as_mut().poll(context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test]
async fn close_drains_and_takes_nothing_more() {
    let clock = Clock::simulated(START_MS);
    let stream = ModelStream::new(11, false, clock.clone());
    let linger = Duration::from_millis(900);
    let publisher = start(&stream, PublisherSettings { linger, ..settings() }, &clock).await;
    for number in 0..1_000 {
        publisher.set(format!("k{number}"), "v", None).await.unwrap();
    }
    publisher.close().await.unwrap();
    assert_eq!(replay(&stream).values.values().map(Vec::len).sum::<usize>(), 1_000);
    assert!(matches!(publisher.set("a", "1", None).await, Err(PublishError::Closed)));
    assert!(matches!(publisher.try_publish(CacheWrite::delete("a")), Err(PublishError::Closed)));
    assert!(publisher.heartbeat(1).await.is_err());
    publisher.close().await.unwrap();
}

#[tokio::test]
async fn a_publisher_that_is_dropped_finishes_while_its_runtime_lives() {
    let clock = Clock::simulated(START_MS);
    let stream = ModelStream::new(13, true, clock.clone());
    let publisher = start(&stream, settings(), &clock).await;
    let mut pending = Vec::new();
    for number in 0..100 {
        pending.push(publisher.set(format!("k{number}"), "v", None).await.unwrap());
    }
    drop(publisher);
    for pending in pending {
        pending.confirmed().await.unwrap();
    }
}

#[test]
fn what_a_dying_runtime_leaves_is_logged_as_lost() {
    let log = Arc::new(std::sync::Mutex::new(Vec::new()));
    let writer = Arc::clone(&log);
    let subscriber = tracing_subscriber::fmt().with_writer(move || Log(Arc::clone(&writer))).finish();
    tracing::subscriber::with_default(subscriber, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let pending = runtime.block_on(async {
            let clock = Clock::simulated(START_MS);
            let stream = ModelStream::new(15, false, clock.clone());
            stream.shut();
            let publisher = start(&stream, settings(), &clock).await;
            for number in 0..2 {
                publisher.set(format!("k{number}"), "v", None).await.unwrap();
            }
            publisher.set("k2", "v", None).await.unwrap()
        });
        drop(runtime);
        let ended = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(pending.confirmed());
        assert!(matches!(ended, Err(PublishError::Ended)), "{ended:?}");
    });
    let log = String::from_utf8(log.lock().unwrap().clone()).unwrap();
    assert!(log.contains("without close") && log.contains("changes=3"), "{log}");
}

struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_lane_gathers_its_changes_into_records_and_calls_stay_within_their_bounds() {
    let clock = Clock::simulated(START_MS);
    let stream = ModelStream::new(17, false, clock.clone());
    let publisher = start(&stream, settings(), &clock).await;
    for number in 0..500 {
        publisher.set("a", format!("{number}"), None).await.unwrap();
    }
    publisher.flush().await.unwrap();
    assert_eq!(replay(&stream).values.values().map(Vec::len).sum::<usize>(), 500, "flush ended before its time");
    assert!(stream.stored().len() <= 3, "{} records", stream.stored().len());

    // More lanes than a call takes records, then more bytes than it takes, all of them due behind the calls that hang:
    // the model notes a breach of any bound.
    for (keys, bytes) in [(3_000, 100), (1_500, 30_000)] {
        let stream = ModelStream::new(19, false, clock.clone());
        let lanes = Lanes::new(2_048).unwrap();
        let wide = PublisherSettings { seed: Some(1), ..PublisherSettings::new("model", lanes) };
        let publisher = start(&stream, wide, &clock).await;
        stream.shut();
        let mut random = Random::new(19);
        for number in 0..keys {
            let value: String = (0..bytes).map(|_| char::from(b'!' + random.below(90) as u8)).collect();
            publisher.set(format!("k{number}"), value, None).await.unwrap();
        }
        stream.let_through(keys);
        publisher.close().await.unwrap();
        assert_eq!(stream.breaches(), Vec::<String>::new());
        let reaches = |call: &Seen| match bytes {
            100 => call.records == CALL_RECORDS_MAX,
            _ => call.bytes + 2 * bytes > CALL_BYTES_MAX,
        };
        assert!(stream.seen().iter().any(reaches), "no call reaches its bound: {:?}", stream.seen());
        assert_eq!(replay(&stream).values.values().map(Vec::len).sum::<usize>(), keys);
    }
}

#[tokio::test]
async fn a_heartbeat_is_a_record_of_its_own_in_every_lane_and_keeps_its_place() {
    let clock = Clock::simulated(START_MS);
    let stream = ModelStream::new(21, true, clock.clone());
    let publisher = start(&stream, settings(), &clock).await;
    for number in 1..=3 {
        publisher.set("a", format!("{number}"), None).await.unwrap();
        publisher.heartbeat(number).await.unwrap();
    }
    publisher.close().await.unwrap();
    let replayed = replay(&stream);
    assert_eq!(replayed.heartbeats.len(), usize::from(LANES));
    for beats in replayed.heartbeats.values() {
        let mut rising = beats.clone();
        rising.dedup();
        assert!(rising.iter().all(|beat| (1..=3).contains(beat)) && beats.contains(&3), "{beats:?}");
    }
    assert_eq!(replayed.values.into_values().next().unwrap(), ["1", "2", "3"]);
}

#[tokio::test]
async fn what_cannot_be_published_is_refused_before_anything_is_sent() {
    let clock = Clock::simulated(START_MS);
    let stream = ModelStream::new(23, false, clock.clone());
    let publisher = start(&stream, settings(), &clock).await;
    let refused = publisher.set("tidemark:lane:1", "v", None).await;
    assert!(matches!(refused, Err(PublishError::Refused(_))), "{refused:?}");
    let refused = publisher.set("a", "v", Some(Duration::from_micros(10))).await;
    assert!(matches!(refused, Err(PublishError::Refused(_))), "a time to live of 0 ms: {refused:?}");
    let large = vec![0; RECORD_BYTES_MAX];
    let refused = publisher.set("a", large.clone(), None).await;
    assert!(matches!(refused, Err(PublishError::TooLarge { .. })), "no bucket for values: {refused:?}");
    let refused = publisher.publish(CacheWrite::replace_set("a", [large], None)).await;
    assert!(matches!(refused, Err(PublishError::TooLarge { .. })), "{refused:?}");
    publisher.close().await.unwrap();
    assert!(stream.seen().is_empty());
}

#[tokio::test]
async fn a_stream_that_ignores_partition_keys_is_refused() {
    let clock = Clock::simulated(START_MS);
    let stream = ModelStream::new(25, false, clock.clone());
    stream.set_distribution("AUTO");
    let refused = Publisher::start(&stream.client(), settings(), clock.clone()).await.unwrap_err();
    assert!(matches!(refused, StartError::Distribution { .. }), "{refused}");
    let endless = PublisherSettings { retry_for: Duration::from_hours(24), ..settings() };
    let refused = Publisher::start(&stream.client(), endless, clock).await.unwrap_err();
    assert!(refused.to_string().contains("retry_for"), "{refused}");
}
