//! The steps on cache sync.

use crate::progress::Progress;
use crate::service::BackendService;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};
use tidemark_local::{Deployment, clone_root, differing, forward_function, invoke, stream};
use tidemark_runtime::clock::Clock;

const SESSIONS: usize = 200;
const LAG_SAMPLES: usize = 20;
const LATE_CHANGES: usize = 300;
const TTL: Duration = Duration::from_hours(1);

/// A service in the hub's region writes; the other region follows, with the same expiry to the millisecond.
pub(crate) async fn cross_regions(deployment: &Deployment, progress: &mut Progress) -> Result<()> {
    let step = progress.begin("A Rust service writes in us-east-1");
    let service = BackendService::new(deployment).await?;
    let start = Instant::now();
    service.set_all((0..SESSIONS).map(|index| (format!("session:{index}"), format!("user {index}"))), TTL).await?;
    let last = format!("session:{}", SESSIONS - 1);
    deployment.second().until_value(&last, Some(&format!("user {}", SESSIONS - 1))).await?;
    let same = deployment.until_equal(SESSIONS).await?;
    let all = start.elapsed();
    ensure!(same.values().all(|content| content.expires_at_ms > 0), "a key arrived without its expiry");

    step.doing("measuring the lag of single changes");
    let mut lags = Vec::with_capacity(LAG_SAMPLES);
    for sample in 0..LAG_SAMPLES {
        let value = format!("{sample}");
        service.set("counter", &value, TTL).await?;
        lags.push(deployment.second().until_value("counter", Some(&value)).await?);
    }
    lags.sort_unstable();
    let (median, longest) = (lags[LAG_SAMPLES / 2], lags[LAG_SAMPLES - 1]);
    deployment.until_equal(SESSIONS + 1).await?;
    let result = format!(
        "{SESSIONS} keys and their expiries equal in both regions after {} ms; lag of one change: median {} ms, longest {} ms",
        all.as_millis(),
        median.as_millis(),
        longest.as_millis()
    );
    progress.end(step, result);
    Ok(())
}

/// A producer in another language, by the documented contract alone.
pub(crate) async fn python_producer(deployment: &Deployment, python: &Path, progress: &mut Progress) -> Result<()> {
    let step = progress.begin("A Python producer does the same");
    let script = clone_root().join("docs/examples/producer.py");
    let mut command = deployment.command(python);
    command.arg(&script).args(["set", "basket:42", "3 bücher", "--ttl-ms", "600000"]);
    let output = finished(&mut command, "docs/examples/producer.py").await?;
    let written: Value = serde_json::from_slice(&output.stdout).context("read what producer.py prints")?;
    deployment.second().until_value("basket:42", Some("3 bücher")).await?;
    let lag_ms = Clock::system().now_ms() - written["at_ms"].as_i64().context("producer.py prints no at_ms")?;
    let same = deployment.until_equal(SESSIONS).await?;
    let expiry = same.get(b"basket:42".as_slice()).map_or(-1, |content| content.expires_at_ms);
    ensure!(expiry > 0, "basket:42 arrived without its expiry");
    let result = format!(
        "basket:42 by boto3 on lane {}, in {} within {lag_ms} ms of the write, its expiry too",
        written["lane"],
        deployment.second().name
    );
    progress.end(step, result);
    Ok(())
}

/// Deletes by the service and by the operators' command.
pub(crate) async fn deletes(deployment: &Deployment, progress: &mut Progress) -> Result<()> {
    let step = progress.begin("A delete follows");
    let service = BackendService::new(deployment).await?;
    service.delete("session:0").await?;
    let by_service = deployment.second().until_value("session:0", None).await?;
    finished(deployment.tidemark()?.args(["cache", "delete", "basket:42"]), "tidemark cache delete").await?;
    let by_command = deployment.second().until_value("basket:42", None).await?;
    deployment.until_equal(SESSIONS - 1).await?;
    let (by_service, by_command) = (by_service.as_millis(), by_command.as_millis());
    progress
        .end(step, format!("by the service after {by_service} ms, by `tidemark cache delete` after {by_command} ms"));
    Ok(())
}

/// The same batch once more, twice, by hand: nothing may change, the marks included.
pub(crate) async fn twice_delivered(deployment: &Deployment, progress: &mut Progress) -> Result<()> {
    let step = progress.begin("A batch is delivered twice");
    let second = deployment.second();
    let service = BackendService::new(deployment).await?;
    let lane = service.lane("counter").to_string();
    // Nothing else may write meanwhile, the minute's heartbeat included.
    deployment.set_fed(second, false).await?;
    let before = second.until_quiet().await?;
    let records = stream::records_of(&deployment.hub().clients, &lane).await?;
    ensure!(!records.is_empty(), "lane {lane} has no record on the stream");
    let event = stream::mapping_event(&records);
    let hub = deployment.hub();
    for _ in 0..2 {
        invoke(&hub.clients, hub.name, &forward_function(second.name), &event).await?;
    }
    let after = second.everything().await?;
    ensure!(before == after, "the second delivery changed {}", differing(&before, &after));
    deployment.set_fed(second, true).await?;
    let result =
        format!("{} records of lane {lane} twice more; {} keys and lane records unchanged", records.len(), after.len());
    progress.end(step, result);
    Ok(())
}

/// The second region's functions stop; what is written meanwhile arrives when they start again.
pub(crate) async fn stopped_and_caught_up(deployment: &Deployment, progress: &mut Progress) -> Result<()> {
    let step = progress.begin("The second region stops and catches up");
    let service = BackendService::new(deployment).await?;
    deployment.set_fed(deployment.second(), false).await?;
    service.set_all((0..LATE_CHANGES).map(|index| (format!("late:{index}"), format!("{index}"))), TTL).await?;
    deployment.hub().until_value(&format!("late:{}", LATE_CHANGES - 1), Some(&format!("{}", LATE_CHANGES - 1))).await?;
    let behind = deployment.second().keys().await?;
    ensure!(!behind.keys().any(|key| key.starts_with(b"late:")), "a stopped region took changes");
    deployment.set_fed(deployment.second(), true).await?;
    let start = Instant::now();
    deployment.until_equal(LATE_CHANGES).await?;
    progress.end(step, format!("{LATE_CHANGES} changes behind, caught up in {} ms", start.elapsed().as_millis()));
    Ok(())
}

/// The second Redis loses everything; the operators' command brings it back.
pub(crate) async fn emptied_and_resynced(deployment: &Deployment, progress: &mut Progress) -> Result<()> {
    let step = progress.begin("The second Redis is emptied and resynced");
    let second = deployment.second();
    let service = BackendService::new(deployment).await?;
    let there = deployment.until_equal(LATE_CHANGES).await?.len();
    service.set_profile("profile:7", &[("name", "Kim"), ("city", "Seoul")]).await?;
    let before = deployment.until_equal(there + 1).await?;
    let mut connection = second.connect_redis().await?;
    let () = redis::cmd("FLUSHALL").query_async(&mut connection).await.context("FLUSHALL")?;
    step.doing("tidemark cache resync");
    let start = Instant::now();
    let mut resync = deployment.tidemark()?;
    finished(resync.args(["cache", "resync", "--region", second.name]), "tidemark cache resync").await?;
    let took = start.elapsed();
    let after = deployment.until_equal(before.len()).await?;
    ensure!(before == after, "the resynced regions differ from before: {}", differing(&before, &after));
    progress.end(
        step,
        format!("{} keys back with their expiries, by `tidemark cache resync` in {} ms", after.len(), took.as_millis()),
    );
    Ok(())
}

/// Runs a command to its end; fails with what it wrote when it fails.
async fn finished(command: &mut tokio::process::Command, name: &str) -> Result<Output> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.output().await.with_context(|| format!("start {name}"))?;
    ensure!(
        output.status.success(),
        "{name} failed ({}): {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}
