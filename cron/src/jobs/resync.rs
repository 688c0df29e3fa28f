//! Resync: rewrites a live region from another's snapshot and the stream, lane by lane, without a flush.
//!
//! Arguments: `{"region":"ap-northeast-2","from":"us-east-1"}`; without `from`, the hub, or the next region for the hub
//! itself. Each lane is held, loaded with the state at its new mark, and let go; a lane done is not done again when the
//! job goes on in another invocation.
//!
//! The new mark of a lane is the later of the snapshot's end mark and the mark at which it was held: up to the one the
//! snapshot's values may reach already, up to the other the region had applied.

use super::{Part, WrongArgument, snapshot};
use crate::runner::Context;
use crate::settings::RegionPlace;
use anyhow::{Context as _, bail};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tidemark_cache_sync::keys;
use tidemark_cache_sync::lane::Lane;
use tidemark_cache_sync::position::{Position, Sequence};
use tidemark_cache_sync::protocol::{HeldLane, Listing, Load, Loaded, Part as ObjectPart, Request};
use tidemark_cache_sync::snapshot::Manifest;
use tidemark_cache_sync::stream::{End, Range, StreamError};

/// What must be left of the invocation's time to begin another lane.
const LANE_RESERVE: Duration = Duration::from_secs(60);
/// Most bytes of the stream that are folded into one lane.
const TAIL_BYTES_MAX: usize = 256 << 20;
/// Parts copied between regions at once.
const COPIES_AT_ONCE: usize = 8;

/// Where the job goes on in its next invocation.
#[derive(Serialize, Deserialize)]
struct Cursor {
    manifest: Manifest,
    listing: Vec<ObjectPart>,
    next_lane: u16,
    total: Loaded,
}

/// Runs the job.
///
/// # Errors
/// What stopped it, with the lane; lanes done stay done, and the lane at hand stays held until the next attempt.
pub async fn run(context: &mut Context<'_>, cursor: Option<Value>) -> anyhow::Result<Part> {
    let target =
        context.cron.settings.region(&context.region_argument("region")?).cloned().map_err(anyhow::Error::msg)?;
    let source = source(context, &target)?;
    let mut cursor = match cursor {
        Some(cursor) => serde_json::from_value(cursor).context("the cursor of an earlier part")?,
        None => begin(context, &source, &target).await?,
    };
    let lanes = context.cron.settings.lanes.count();
    while cursor.next_lane < lanes {
        let lane = Lane(cursor.next_lane);
        context.progress(&format!("rewriting {}", target.region), u64::from(lane.0), u64::from(lanes)).await;
        if context.time_left() < LANE_RESERVE {
            return Ok(Part::Continue(serde_json::to_value(cursor)?));
        }
        let loaded =
            lane_over(context, &source, &target, &cursor, lane).await.with_context(|| format!("lane {lane}"))?;
        cursor.total.written += loaded.written;
        cursor.total.removed += loaded.removed;
        cursor.total.folded += loaded.folded;
        cursor.next_lane += 1;
        // Kept for the next attempt, so that a lane done is not done again.
        context.save_cursor(serde_json::to_value(&cursor)?).await?;
    }
    Ok(Part::Done(json!({
        "region": target.region, "from": source.region, "snapshot": cursor.manifest.id, "lanes": lanes,
        "keys_written": cursor.total.written, "keys_removed": cursor.total.removed,
        "changes_folded": cursor.total.folded,
    })))
}

fn source(context: &Context<'_>, target: &RegionPlace) -> Result<RegionPlace, WrongArgument> {
    let settings = &context.cron.settings;
    let source = match context.args["from"].as_str() {
        Some(name) => settings.region(name).map_err(WrongArgument)?,
        None => match settings.regions.iter().find(|place| place.region != target.region) {
            Some(place) => place,
            None => return Err(WrongArgument(format!("there is no other region to take {} from", target.region))),
        },
    };
    if source.region == target.region {
        let said = "a region cannot be resynced from itself: --from names another one";
        return Err(WrongArgument(said.to_owned()));
    }
    Ok(source.clone())
}

async fn begin(context: &mut Context<'_>, source: &RegionPlace, target: &RegionPlace) -> anyhow::Result<Cursor> {
    let manifest = snapshot::take(context, &source.region).await?;
    context.progress(&format!("listing the keys of {}", target.region), 0, 0).await;
    let run = context.run.to_string();
    let listing: Listing = context.cron.region(&target.region)?.ask(&Request::List { run }).await?;
    Ok(Cursor { manifest, listing: listing.parts, next_lane: 0, total: Loaded::default() })
}

async fn lane_over(
    context: &Context<'_>,
    source: &RegionPlace,
    target: &RegionPlace,
    cursor: &Cursor,
    lane: Lane,
) -> anyhow::Result<Loaded> {
    let of_lane = |parts: &[ObjectPart]| parts.iter().filter(|part| part.lane == lane).cloned().collect::<Vec<_>>();
    let values = of_lane(&cursor.manifest.parts);
    copy(context, source, target, &values).await?;
    let region = context.cron.region(&target.region)?;
    let holder = context.run.to_string();
    let held: HeldLane = region.ask(&Request::Hold { lane, holder: holder.clone() }).await?;
    let marks = cursor.manifest.lanes.get(&lane);
    let start = marks.map(|marks| marks.start.clone());
    let until = marks.and_then(|marks| marks.end.clone()).max(held.mark.clone());
    let start_mark = start.as_ref().and_then(|start| start.record.mark.clone());
    let tail = write_tail(context, target, lane, start_mark, until.as_ref()).await?;
    let identity = context.cron.stream.identity().await?;
    let load = Load {
        lane,
        holder,
        held_mark: held.mark,
        trusted: held.trusted,
        values,
        listing: of_lane(&cursor.listing),
        tail,
        start,
        until,
        stream: identity.id,
        scope: cursor.manifest.scope.clone(),
    };
    Ok(region.ask(&Request::Load(Box::new(load))).await?)
}

/// Copies a snapshot's parts into the target's bucket: a region reads only its own.
async fn copy(
    context: &Context<'_>,
    source: &RegionPlace,
    target: &RegionPlace,
    parts: &[ObjectPart],
) -> anyhow::Result<()> {
    if source.bucket == target.bucket {
        return Ok(());
    }
    let s3 = context.cron.s3(&target.region)?;
    futures::stream::iter(parts)
        .map(|part| {
            let request = s3.copy_object().bucket(&target.bucket).key(&part.object);
            request.copy_source(format!("{}/{}", source.bucket, part.object)).send()
        })
        .buffer_unordered(COPIES_AT_ONCE)
        .try_for_each(|_| async { Ok(()) })
        .await
        .with_context(|| format!("copying the snapshot from {} to {}", source.bucket, target.bucket))
}

/// Writes the stream's records of a lane from `start` to `until` to the target's bucket, where there are any.
async fn write_tail(
    context: &Context<'_>,
    target: &RegionPlace,
    lane: Lane,
    start: Option<Position>,
    until: Option<&Position>,
) -> anyhow::Result<Option<String>> {
    let Some(until) = until.filter(|until| start.as_ref() != Some(*until)) else { return Ok(None) };
    let from = start.map(|start| start.sequence);
    let range = Range { from, until: End::At(until.sequence.clone()) };
    let mut reader = context.cron.stream.reader(BTreeMap::from([(lane, range)])).await?;
    let (mut tail, mut last) = (Vec::new(), None::<Sequence>);
    while let Some(page) = reader.page().await? {
        for record in page {
            last = Some(record.kinesis.sequence_number.parse()?);
            serde_json::to_writer(&mut tail, &record)?;
            tail.push(b'\n');
        }
        if tail.len() > TAIL_BYTES_MAX {
            bail!(
                "more than {TAIL_BYTES_MAX} bytes of changes came while lane {lane} was snapshotted: try at a quieter time"
            );
        }
    }
    if last.as_ref() != Some(&until.sequence) {
        return Err(StreamError::NotReached { lane, until: until.sequence.as_str().to_owned() }.into());
    }
    let object = keys::tail(context.run.as_str(), lane);
    let s3 = context.cron.s3(&target.region)?;
    let put = s3.put_object().bucket(&target.bucket).key(&object).body(tail.into()).send().await;
    put.with_context(|| format!("writing {object} to {}", target.bucket))?;
    Ok(Some(object))
}
