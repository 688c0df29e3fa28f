//! `tidemark cache quarantine`: look at changes that regions refused, and publish one anew.
//!
//! The objects are read from the regions' buckets with the operator's own credentials.

use crate::cloud::Cloud;
use anyhow::{Context, bail};
use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::primitives::ByteStream;
use clap::Subcommand;
use comfy_table::{ContentArrangement, Table, presets};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use std::io::Write;
use std::process::ExitCode;
use tidemark_cache_sync::keys;
use tidemark_cache_sync::position::Position;
use tidemark_cache_sync::quarantine::{Quarantined, Retried};
use tidemark_cron::ask::Question;
use tidemark_cron::settings::RegionPlace;

/// Most objects of one region that are listed; what lies beyond is said.
const LISTED_MAX: usize = 100_000;
/// Objects that are read at once.
const READS: usize = 16;
/// Longest reason in a table, in characters.
const REASON_CHARS: usize = 100;

/// Look at quarantined changes and publish one anew.
#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineCommand {
    /// List quarantined changes, the newest first
    #[command(after_help = "Examples:
  tidemark cache quarantine list --region ap-northeast-2 --limit 10")]
    List {
        /// Only of this region
        #[arg(long)]
        region: Option<String>,
        /// How many at most
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show all of one, with its change decoded
    #[command(after_help = "Examples:
  tidemark cache quarantine show 12/49590338271490256608559692538361571095921575989136588898:0")]
    Show {
        /// Its ID, as list prints it: LANE/SEQUENCE:INDEX
        id: String,
        /// The region; the first that has it without
        #[arg(long)]
        region: Option<String>,
    },
    /// Publish one anew, where no later change of its key is on the stream; exits with 1 where it is refused
    #[command(after_help = "Examples:
  tidemark cache quarantine retry 12/49590338271490256608559692538361571095921575989136588898:0")]
    Retry {
        /// Its ID, as list prints it: LANE/SEQUENCE:INDEX
        id: String,
        /// The region; the first that has it without
        #[arg(long)]
        region: Option<String>,
    },
}

pub(crate) async fn run(command: QuarantineCommand) -> anyhow::Result<ExitCode> {
    let cloud = Cloud::from_env().await?;
    match command {
        QuarantineCommand::List { region, limit, json } => list(&cloud, region.as_deref(), limit, json).await,
        QuarantineCommand::Show { id, region } => show(&cloud, &id, region.as_deref()).await,
        QuarantineCommand::Retry { id, region } => retry(&cloud, &id, region.as_deref()).await,
    }
}

/// A region's bucket.
pub(crate) struct Bucket {
    place: RegionPlace,
    s3: aws_sdk_s3::Client,
}

/// The name of a quarantine object, and whether one beside it says that it was retried.
pub(crate) struct Named {
    object: String,
    modified_ms: i64,
    pub(crate) is_retried: bool,
}

impl Bucket {
    /// The buckets of the regions, or of one.
    pub(crate) async fn of(cloud: &Cloud, region: Option<&str>) -> anyhow::Result<Vec<Self>> {
        let places: Vec<RegionPlace> = cloud.ask(Question::Regions).await?;
        let mut buckets = Vec::new();
        for place in places.iter().filter(|place| region.is_none_or(|region| place.region == region)) {
            buckets.push(Self { place: place.clone(), s3: cloud.s3(&place.region).await });
        }
        if buckets.is_empty() {
            let known: Vec<&str> = places.iter().map(|place| place.region.as_str()).collect();
            bail!("region {} is not one of this deployment: {}", region.unwrap_or("none"), known.join(", "));
        }
        Ok(buckets)
    }

    pub(crate) fn region(&self) -> &str {
        &self.place.region
    }

    /// Names of all quarantine objects, up to [`LISTED_MAX`].
    pub(crate) async fn names(&self) -> anyhow::Result<Vec<Named>> {
        let mut names: Vec<Named> = Vec::new();
        let mut pages =
            self.s3.list_objects_v2().bucket(&self.place.bucket).prefix(keys::QUARANTINE).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failed("ListObjectsV2", keys::QUARANTINE, &error))?;
            for object in page.contents() {
                let name = object.key().unwrap_or_default();
                if keys::quarantined(name).is_some() {
                    let modified_ms = object.last_modified().and_then(|at| at.to_millis().ok()).unwrap_or(0);
                    names.push(Named { object: name.to_owned(), modified_ms, is_retried: false });
                } else if let Some(retried) = names.last_mut().filter(|last| keys::retried(&last.object) == name) {
                    retried.is_retried = true;
                }
            }
            if names.len() >= LISTED_MAX {
                eprintln!("tidemark: {} holds more than {LISTED_MAX} quarantined changes", self.region());
                break;
            }
        }
        Ok(names)
    }

    async fn read<T: serde::de::DeserializeOwned>(&self, object: &str) -> anyhow::Result<Option<T>> {
        let found = match self.s3.get_object().bucket(&self.place.bucket).key(object).send().await {
            Ok(found) => found,
            Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => return Ok(None),
            Err(error) => return Err(self.failed("GetObject", object, &error)),
        };
        let bytes = found.body.collect().await?.into_bytes();
        let read = serde_json::from_slice(&bytes);
        Ok(Some(read.with_context(|| format!("{object} in {} is not what it should be", self.place.bucket))?))
    }

    fn failed(&self, operation: &str, object: &str, error: &dyn std::error::Error) -> anyhow::Error {
        anyhow::anyhow!("s3: {operation} of {object} in {}: {}", self.place.bucket, DisplayErrorContext(error))
    }
}

/// `LANE/SEQUENCE:INDEX`.
fn id_of(object: &str) -> String {
    keys::quarantined(object).map_or_else(|| object.to_owned(), |(lane, position)| format!("{lane}/{position}"))
}

fn object_of(id: &str) -> anyhow::Result<String> {
    let (lane, position) = id.split_once('/').with_context(|| format!("{id}: an ID is LANE/SEQUENCE:INDEX"))?;
    let position: Position = position.parse().with_context(|| format!("{id}: an ID is LANE/SEQUENCE:INDEX"))?;
    Ok(keys::quarantine(lane, &position))
}

async fn list(cloud: &Cloud, region: Option<&str>, limit: usize, json: bool) -> anyhow::Result<ExitCode> {
    let buckets = Bucket::of(cloud, region).await?;
    let mut found = Vec::new();
    for bucket in &buckets {
        found.extend(bucket.names().await?.into_iter().map(|named| (bucket, named)));
    }
    found.sort_by_key(|(_, named)| std::cmp::Reverse(named.modified_ms));
    let all = found.len();
    found.truncate(limit);
    let read: Vec<(Named, Quarantined)> = futures::stream::iter(found)
        .map(|(bucket, named)| async move {
            let object = bucket.read(&named.object).await?;
            anyhow::Ok(object.map(|object| (named, object)))
        })
        .buffered(READS)
        .try_filter_map(|read| async { Ok(read) })
        .try_collect()
        .await?;
    let mut out = std::io::stdout().lock();
    if json {
        let items: Vec<Value> = read.iter().map(|(named, object)| item(named, object)).collect();
        writeln!(out, "{}", serde_json::to_string(&items)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["id", "arrived", "region", "key", "reason", "retried"]);
    for (named, object) in &read {
        table.add_row([
            id_of(&named.object),
            time(object.arrival_ms),
            object.region.clone(),
            keys_of(object).join(", "),
            object.reason.chars().take(REASON_CHARS).collect(),
            if named.is_retried { "yes".to_owned() } else { String::new() },
        ]);
    }
    writeln!(out, "{table}")?;
    if all > read.len() {
        writeln!(out, "{} of {all}: the others with --limit {all}", read.len())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn item(named: &Named, object: &Quarantined) -> Value {
    json!({
        "id": id_of(&named.object), "lane": object.partition_key, "position": object.position,
        "arrival_ms": object.arrival_ms, "region": object.region, "keys": keys_of(object),
        "reason": object.reason, "retried": named.is_retried,
    })
}

/// The keys that it cost, or where it cost none, the key that it names.
fn keys_of(object: &Quarantined) -> Vec<String> {
    if !object.deleted_keys.is_empty() {
        return object.deleted_keys.clone();
    }
    let data = object.decoded().ok();
    let change = data.as_ref().and_then(|data| object.change(data).ok());
    change.map(|change| String::from_utf8_lossy(&change.key).into_owned()).into_iter().collect()
}

fn time(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms).map_or_else(|_| at_ms.to_string(), |at| format!("{at:.3}"))
}

/// The object with that ID, in the region named or in the first that has it.
async fn find(cloud: &Cloud, id: &str, region: Option<&str>) -> anyhow::Result<(Bucket, String, Quarantined)> {
    let object = object_of(id)?;
    for bucket in Bucket::of(cloud, region).await? {
        if let Some(found) = bucket.read(&object).await? {
            return Ok((bucket, object, found));
        }
    }
    bail!("no quarantined change {id} in {}", region.unwrap_or("any region"))
}

async fn show(cloud: &Cloud, id: &str, region: Option<&str>) -> anyhow::Result<ExitCode> {
    let (bucket, object, quarantined) = find(cloud, id, region).await?;
    let retried: Option<Retried> = bucket.read(&keys::retried(&object)).await?;
    let mut shown = serde_json::to_value(&quarantined)?;
    shown["arrived"] = json!(time(quarantined.arrival_ms));
    shown["object"] = json!(format!("s3://{}/{object}", bucket.place.bucket));
    shown["retried"] = json!(retried);
    let data = quarantined.decoded();
    let change = data.as_ref().map_err(ToString::to_string);
    match change.and_then(|data| quarantined.change(data).map_err(|error| error.to_string())) {
        Ok(change) => shown["change"] = serde_json::to_value(&change)?,
        Err(why) => shown["change"] = json!({"not_a_change": why, "text": text_of(&quarantined)}),
    }
    writeln!(std::io::stdout().lock(), "{}", serde_json::to_string_pretty(&shown)?)?;
    Ok(ExitCode::SUCCESS)
}

/// The record as text, for one that cannot be decoded.
fn text_of(object: &Quarantined) -> String {
    let bytes = base64_simd::STANDARD.decode_to_vec(&object.data).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn retry(cloud: &Cloud, id: &str, region: Option<&str>) -> anyhow::Result<ExitCode> {
    let (bucket, object, quarantined) = find(cloud, id, region).await?;
    if let Some(retried) = bucket.read::<Retried>(&keys::retried(&object)).await? {
        bail!("{id} was retried already: it is at lane {} position {}", retried.lane, retried.position);
    }
    let published = cloud.retry()?.publish(&quarantined).await;
    let retried = published.with_context(|| format!("{id} is not retried"))?;
    let put = bucket.s3.put_object().bucket(&bucket.place.bucket).key(keys::retried(&object));
    let put = put.content_type("application/json").body(ByteStream::from(serde_json::to_vec(&retried)?)).send().await;
    put.map_err(|error| bucket.failed("PutObject", &keys::retried(&object), &error))
        .with_context(|| format!("published at lane {} position {}, but not noted", retried.lane, retried.position))?;
    writeln!(std::io::stdout().lock(), "lane {} position {}", retried.lane, retried.position)?;
    Ok(ExitCode::SUCCESS)
}
