//! Snapshot: has a region write its keys in scope to its bucket. Arguments: `{"region":"us-east-1"}`, the hub without.

use super::Part;
use crate::runner::Context;
use anyhow::anyhow;
use serde_json::json;
use tidemark_cache_sync::protocol::Request;
use tidemark_cache_sync::snapshot::Manifest;

/// Runs the job.
///
/// # Errors
/// Where the region could not take it, with its reason.
pub async fn run(context: &mut Context<'_>) -> anyhow::Result<Part> {
    let region = context.region_argument("region")?;
    let manifest = take(context, &region).await?;
    Ok(Part::Done(json!({
        "snapshot": manifest.id, "region": manifest.region, "keys": manifest.keys, "parts": manifest.parts.len(),
        "lanes": manifest.lanes.len(), "took_ms": manifest.ended_ms - manifest.began_ms,
    })))
}

/// Takes a snapshot of `region` under an ID of this run and attempt.
pub(super) async fn take(context: &mut Context<'_>, region: &str) -> anyhow::Result<Manifest> {
    context.progress(&format!("taking a snapshot of {region}"), 0, 0).await;
    let id = format!("{}-{}", context.run, context.attempt);
    let manifest: Manifest = context.cron.region(region)?.ask(&Request::Snapshot { id }).await?;
    if manifest.lanes_count != context.cron.settings.lanes.count() {
        return Err(anyhow!(
            "{region} counts {} lanes, this function {}: TIDEMARK_LANES must be equal everywhere",
            manifest.lanes_count,
            context.cron.settings.lanes.count()
        ));
    }
    Ok(manifest)
}
