//! `tidemark cache status`: every region and lane at a glance, and whether all is as it should be.
//!
//! A lane's **lag** is measured against the newest mark that any region has in that lane. Its **heartbeat age** is the
//! time since the last heartbeat that it applied was published, or, where it lacks the last one, since the last record
//! of it that it applied arrived. Heartbeats come each minute, so an idle or unplugged stream shows as a growing age.

use crate::cache::duration;
use crate::cloud::Cloud;
use crate::quarantine::Bucket;
use clap::Args;
use comfy_table::{Cell, Color, Table, presets};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;
use tidemark_cache_sync::lane::Lane;
use tidemark_cache_sync::lane_record::{LaneRecord, State};
use tidemark_cache_sync::position::Position;
use tidemark_cron::ask::{Question, RegionStatus};
use tidemark_cron::jobs::heartbeat::Published;
use tidemark_runtime::clock::Clock;

/// Lanes that lag by more than this are listed, in milliseconds.
const LAG_SHOWN_MS: i64 = 5_000;

/// How to show the status.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidemark cache status
  tidemark cache status --lanes --watch 5")]
pub(crate) struct StatusArguments {
    /// List every lane, not only those that need a look
    #[arg(long)]
    lanes: bool,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
    /// Look again every so many seconds, until Ctrl-C
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    watch: Option<u64>,
    /// A heartbeat older than this is not as it should be: 90s, 3m
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "3m")]
    max_heartbeat_age: Duration,
}

/// Everything at one time.
#[derive(Debug, Serialize)]
struct Overview {
    at_ms: i64,
    healthy: bool,
    heartbeat: Option<Published>,
    regions: Vec<RegionView>,
}

#[derive(Debug, Serialize)]
struct RegionView {
    region: String,
    healthy: bool,
    error: Option<String>,
    server_version: Option<String>,
    keys: Option<u64>,
    /// Changes in quarantine that were not retried; `None` where the bucket could not be read.
    quarantined: Option<usize>,
    lag_ms_max: Option<i64>,
    heartbeat_age_ms_max: Option<i64>,
    lanes: BTreeMap<Lane, LaneView>,
}

#[derive(Debug, Serialize)]
struct LaneView {
    healthy: bool,
    state: String,
    mark: Option<Position>,
    /// Arrival of the record at the mark, in milliseconds since the epoch.
    arrival_ms: Option<i64>,
    heartbeat: Option<u64>,
    lag_ms: Option<i64>,
    heartbeat_age_ms: Option<i64>,
    /// The first change since a resync of which no key could be told; the lane is to be verified.
    verify: Option<Position>,
}

pub(crate) async fn run(arguments: &StatusArguments) -> anyhow::Result<ExitCode> {
    let cloud = Cloud::from_env().await?;
    loop {
        let overview = look(&cloud, arguments).await?;
        let mut out = std::io::stdout().lock();
        if arguments.json {
            writeln!(out, "{}", serde_json::to_string(&overview)?)?;
        } else {
            if arguments.watch.is_some() && out.is_terminal() {
                write!(out, "\x1b[2J\x1b[H")?;
            }
            show(&mut out, &overview, arguments)?;
        }
        out.flush()?;
        drop(out);
        match arguments.watch {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None if overview.healthy => return Ok(ExitCode::SUCCESS),
            None => return Ok(ExitCode::FAILURE),
        }
    }
}

async fn look(cloud: &Cloud, arguments: &StatusArguments) -> anyhow::Result<Overview> {
    let regions: Vec<RegionStatus> = cloud.ask(Question::Status).await?;
    let heartbeat: Option<Published> = cloud.ask(Question::Heartbeat).await?;
    let max_age_ms = i64::try_from(arguments.max_heartbeat_age.as_millis()).unwrap_or(i64::MAX);
    let mut overview = overview(regions, heartbeat, Clock::system().now_ms(), max_age_ms);
    for bucket in Bucket::of(cloud, None).await? {
        let names = bucket.names().await;
        if let Err(error) = &names {
            eprintln!("tidemark: quarantine of {} not counted: {error:#}", bucket.region());
        }
        let count = names.ok().map(|names| names.iter().filter(|named| !named.is_retried).count());
        overview.regions.iter_mut().filter(|view| view.region == bucket.region()).for_each(|view| {
            view.quarantined = count;
        });
    }
    Ok(overview)
}

fn overview(regions: Vec<RegionStatus>, heartbeat: Option<Published>, now_ms: i64, max_age_ms: i64) -> Overview {
    let mut tips: BTreeMap<Lane, (Position, i64)> = BTreeMap::new();
    for (lane, record) in regions.iter().filter_map(|region| region.status.as_ref()).flat_map(|status| &status.lanes) {
        if let (Some(mark), Some(arrival_ms)) = (&record.mark, record.arrival_ms)
            && tips.get(lane).is_none_or(|(tip, _)| mark > tip)
        {
            tips.insert(*lane, (mark.clone(), arrival_ms));
        }
    }
    let view =
        |record: Option<&LaneRecord>, lane: Lane| lane_view(record, tips.get(&lane), heartbeat, now_ms, max_age_ms);
    let regions: Vec<RegionView> = regions
        .into_iter()
        .map(|region| {
            let lanes: BTreeMap<Lane, LaneView> = match &region.status {
                None => BTreeMap::new(),
                Some(status) => {
                    (0..status.lanes_count).map(Lane).map(|lane| (lane, view(status.lanes.get(&lane), lane))).collect()
                }
            };
            RegionView {
                healthy: region.status.is_some() && lanes.values().all(|lane| lane.healthy),
                // The system's own keys are one for each lane; on a cluster one for each slot in use, not known here.
                keys: region.status.as_ref().map(|status| status.keys.saturating_sub(status.lanes.len() as u64)),
                server_version: region.status.map(|status| status.server_version),
                region: region.region,
                error: region.error,
                quarantined: None,
                lag_ms_max: lanes.values().filter_map(|lane| lane.lag_ms).max(),
                heartbeat_age_ms_max: lanes.values().filter_map(|lane| lane.heartbeat_age_ms).max(),
                lanes,
            }
        })
        .collect();
    Overview { at_ms: now_ms, healthy: regions.iter().all(|region| region.healthy), heartbeat, regions }
}

fn lane_view(
    record: Option<&LaneRecord>,
    tip: Option<&(Position, i64)>,
    published: Option<Published>,
    now_ms: i64,
    max_age_ms: i64,
) -> LaneView {
    let Some(record) = record else {
        let state = "no record".to_owned();
        return LaneView {
            healthy: false,
            state,
            mark: None,
            arrival_ms: None,
            heartbeat: None,
            lag_ms: None,
            heartbeat_age_ms: None,
            verify: None,
        };
    };
    let lag_ms = tip.and_then(|(tip, tip_arrival_ms)| {
        let is_there = record.mark.as_ref().is_some_and(|mark| mark >= tip);
        if is_there { Some(0) } else { record.arrival_ms.map(|own_ms| (tip_arrival_ms - own_ms).max(0)) }
    });
    let since_record_ms = record.arrival_ms.map(|arrival_ms| now_ms - arrival_ms);
    let age_ms = match published {
        Some(published) if record.heartbeat == Some(published.last) => Some(now_ms - published.at_ms),
        _ => since_record_ms,
    };
    let age_ms = age_ms.map(|age_ms| age_ms.max(0));
    LaneView {
        healthy: record.state == State::Ready && age_ms.is_some_and(|age_ms| age_ms <= max_age_ms),
        state: record.state.to_string(),
        mark: record.mark.clone(),
        arrival_ms: record.arrival_ms,
        heartbeat: record.heartbeat,
        lag_ms,
        heartbeat_age_ms: age_ms,
        verify: record.verify.clone(),
    }
}

fn show(out: &mut impl Write, overview: &Overview, arguments: &StatusArguments) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["region", "redis", "keys", "lanes", "lag", "heartbeat", "quarantined"]);
    for region in &overview.regions {
        let quarantined = region.quarantined.map_or_else(|| "?".to_owned(), |count| count.to_string());
        table.add_row([
            good(Cell::new(&region.region), region.healthy),
            Cell::new(region.server_version.as_deref().unwrap_or("no answer")),
            Cell::new(region.keys.map_or_else(String::new, |keys| keys.to_string())),
            good(Cell::new(states(region)), region.lanes.values().all(|lane| lane.state == "ready")),
            Cell::new(shown_ms(region.lag_ms_max)),
            good(Cell::new(shown_ms(region.heartbeat_age_ms_max)), region.healthy),
            good(Cell::new(quarantined), region.quarantined.is_none_or(|count| count == 0)),
        ]);
    }
    writeln!(out, "{table}")?;
    for region in &overview.regions {
        if let Some(error) = &region.error {
            writeln!(out, "{}: {error}", region.region)?;
        }
    }
    let mut lanes = Table::new();
    lanes.load_style(presets::UTF8_FULL_CONDENSED);
    lanes.set_header(["region", "lane", "state", "lag", "heartbeat", "number", "mark", "to verify"]);
    for region in &overview.regions {
        for (lane, view) in &region.lanes {
            let is_well = view.healthy && view.lag_ms.unwrap_or(0) <= LAG_SHOWN_MS && view.verify.is_none();
            if !arguments.lanes && is_well {
                continue;
            }
            lanes.add_row([
                Cell::new(&region.region),
                Cell::new(lane),
                good(Cell::new(&view.state), view.state == "ready"),
                Cell::new(shown_ms(view.lag_ms)),
                good(Cell::new(shown_ms(view.heartbeat_age_ms)), view.healthy),
                Cell::new(view.heartbeat.map_or_else(|| "none".to_owned(), |number| format!("#{number}"))),
                Cell::new(view.mark.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)),
                Cell::new(view.verify.as_ref().map_or_else(String::new, |position| format!("since {position}"))),
            ]);
        }
    }
    if !lanes.is_empty() {
        writeln!(out, "{lanes}")?;
    }
    Ok(())
}

/// Colours only what needs a look or is well, and only on a terminal.
fn good(cell: Cell, is_good: bool) -> Cell {
    cell.fg(if is_good { Color::Green } else { Color::Red })
}

/// `64 ready`, `60 ready, 4 feeding`, `64 ready, 1 to verify`.
fn states(region: &RegionView) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for lane in region.lanes.values() {
        let state = lane.state.split(':').next().unwrap_or_default();
        *counts.entry(state).or_default() += 1;
    }
    let verify = region.lanes.values().filter(|lane| lane.verify.is_some()).count();
    let counts = counts.into_iter().chain((verify > 0).then_some(("to verify", verify)));
    let counts: Vec<String> = counts.map(|(state, count)| format!("{count} {state}")).collect();
    counts.join(", ")
}

fn shown_ms(ms: Option<i64>) -> String {
    ms.map_or_else(|| "none".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1_000.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_cache_sync::protocol::Status;

    const NOW_MS: i64 = 1_763_800_000_000;

    fn region(name: &str, sequence: u64, ago_ms: i64, heartbeat: u64, state: State) -> RegionStatus {
        let mut record = LaneRecord::unmarked();
        record.mark = format!("{sequence}:0").parse().ok();
        record.arrival_ms = Some(NOW_MS - ago_ms);
        record.heartbeat = Some(heartbeat);
        record.state = state;
        let lanes = BTreeMap::from([(Lane(0), record)]);
        let status = Status { region: name.into(), server_version: "7".into(), lanes_count: 1, keys: 5, lanes };
        RegionStatus { region: name.into(), status: Some(status), error: None }
    }

    #[test]
    fn lag_is_counted_from_the_newest_mark_of_any_region() {
        let regions = vec![region("hub", 9, 1_000, 7, State::Ready), region("far", 4, 31_000, 7, State::Ready)];
        let seen = overview(regions, Some(Published { last: 7, at_ms: NOW_MS - 2_000 }), NOW_MS, 180_000);
        assert_eq!((seen.regions[0].lag_ms_max, seen.regions[1].lag_ms_max), (Some(0), Some(30_000)));
        assert!(seen.healthy && seen.regions[1].keys == Some(4));
        assert_eq!(seen.regions[1].heartbeat_age_ms_max, Some(2_000));
    }

    #[test]
    fn an_idle_or_unplugged_stream_shows_as_a_growing_age() {
        let stale = |heartbeat, at_ago_ms| {
            let regions = vec![region("far", 4, 400_000, heartbeat, State::Ready)];
            overview(regions, Some(Published { last: 7, at_ms: NOW_MS - at_ago_ms }), NOW_MS, 180_000)
        };
        // Unplugged: heartbeats are published and do not arrive. Idle: nobody publishes any.
        assert!(!stale(3, 1_000).healthy);
        assert!(!stale(7, 400_000).healthy);
        assert!(stale(7, 1_000).healthy);
    }

    #[test]
    fn what_does_not_answer_or_is_not_ready_is_not_healthy() {
        let feeding = vec![region("far", 4, 0, 7, State::Feeding)];
        assert!(!overview(feeding, None, NOW_MS, 180_000).healthy);
        let silent = vec![RegionStatus { region: "far".into(), status: None, error: Some("gone".into()) }];
        assert!(!overview(silent, None, NOW_MS, 180_000).healthy);
        let mut bare = vec![region("far", 4, 0, 7, State::Ready)];
        bare[0].status.as_mut().unwrap().lanes.clear();
        let seen = overview(bare, None, NOW_MS, 180_000);
        assert_eq!((seen.healthy, states(&seen.regions[0])), (false, "1 no record".to_owned()));
    }

    #[test]
    fn a_lane_with_a_change_of_which_no_key_could_be_told_is_shown() {
        let mut regions = vec![region("far", 4, 0, 7, State::Ready)];
        regions[0].status.as_mut().unwrap().lanes.get_mut(&Lane(0)).unwrap().verify = "3:0".parse().ok();
        let seen = overview(regions, None, NOW_MS, 180_000);
        assert_eq!(states(&seen.regions[0]), "1 ready, 1 to verify");
        let mut shown = Vec::new();
        let arguments = StatusArguments { lanes: false, json: false, watch: None, max_heartbeat_age: Duration::ZERO };
        show(&mut shown, &seen, &arguments).unwrap();
        assert!(String::from_utf8(shown).unwrap().contains("since 3:0"));
    }
}
