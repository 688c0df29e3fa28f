//! The settings of one site's sitemaps: a TOML file, read and checked whole before anything is done.
//!
//! A site has one sitemap, or several (`[[sitemaps]]`), each with a name, a directory and a state of its own. What the
//! file says at its top counts for all of them; an entry says what differs.

use crate::athena;
use crate::build::{DROP_PERCENT_MAX, Options, Packing};
use crate::cut::{IndexLimits, Limits};
use crate::engine::Engine;
use crate::indexnow;
use crate::input::{self, Source};
use crate::keys;
use crate::loc::BaseUrl;
use crate::pages::{self, Policy};
use crate::parts;
use crate::report::KINDS_MAX;
use crate::robots;
use crate::select::Select;
use jiff::tz::TimeZone;
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// Sitemaps that a site may have.
pub const SITEMAPS_MAX: usize = 100;
/// Longest name of a sitemap.
const NAME_CHARS_MAX: usize = 40;

const TEMPLATE: &str = include_str!("site/template.toml");

/// Commented settings of a site at `base_url`, to be edited.
#[must_use]
pub fn template(base_url: &str) -> String {
    TEMPLATE.replace("https://www.example.com", base_url.trim_end_matches('/'))
}

/// Why a site's settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// Not TOML, a field of another kind, one too many or one too few.
    #[error("{name} does not parse as the settings of a site:\n{message}")]
    Parse {
        /// The file or object.
        name: String,
        /// What the parser said, with the line.
        message: String,
    },
    /// A field holds what it must not.
    #[error("{name}: {field} {problem}")]
    Field {
        /// The file or object.
        name: String,
        /// The field, with its sitemap's name where a site has several.
        field: String,
        /// What is wrong, and what to do.
        problem: String,
    },
}

/// As it stands in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    base_url: String,
    files_url: Option<String>,
    lastmod_zone: Option<String>,
    query: Option<athena::Settings>,
    #[serde(default)]
    input: input::Settings,
    #[serde(default)]
    scale: parts::Settings,
    publish: Option<FilePublish>,
    #[serde(default)]
    rows: pages::Settings,
    #[serde(default)]
    shards: FileShards,
    #[serde(default)]
    guard: FileGuard,
    indexnow: Option<indexnow::Settings>,
    sitemaps: Option<Vec<FileSitemap>>,
}

/// One of several sitemaps: what is not said is as the file has it at its top.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileSitemap {
    name: String,
    select: Select,
    engines: Option<Vec<Engine>>,
    shards: FileShards,
    guard: FileGuard,
    indexnow: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePublish {
    bucket: String,
    #[serde(default)]
    prefix: String,
    #[serde(default = "edge_ttl_seconds")]
    edge_ttl_seconds: u64,
    #[serde(default = "grace_hours")]
    grace_hours: u32,
    #[serde(default)]
    content_encoding: bool,
    distribution: Option<String>,
    robots: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileShards {
    target_urls: Option<u32>,
    max_urls: Option<u32>,
    max_per_index: Option<usize>,
    level: Option<i32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileGuard {
    drop_percent_max: Option<u32>,
    kinds: Option<BTreeMap<String, u32>>,
}

fn edge_ttl_seconds() -> u64 {
    60
}

fn grace_hours() -> u32 {
    24
}

/// One sitemap of a site, as far as it hangs on no cloud; checked.
#[derive(Clone, Debug)]
pub struct Sitemap {
    /// Its name among those of its site; empty for the one that has none.
    pub name: String,
    /// Scheme, host and path of the pages.
    pub base: BaseUrl,
    /// Where crawlers find its files, without a last slash.
    pub files_url: String,
    /// The zone of lastmod times that name none.
    pub lastmod_zone: Option<TimeZone>,
    /// What its shards are written as.
    pub packing: Packing,
    /// What shapes the rows, and which of them are taken.
    pub rows: pages::Settings,
    /// What the site's other sitemaps take.
    pub others: Vec<Select>,
    /// How big shards may be.
    pub limits: Limits,
    /// The compression level, 1 to 12.
    pub level: i32,
    /// How many percent fewer URLs than before are believed.
    pub drop_percent_max: u32,
    /// The same for single kinds.
    pub kinds_drop_percent_max: BTreeMap<String, u32>,
}

impl Sitemap {
    /// How a run called `run` at `now_ms` builds the sitemap.
    #[must_use]
    pub fn options(&self, run: &str, now_ms: i64) -> Options {
        let policy = Policy { lastmod_zone: self.lastmod_zone.clone(), ..Policy::new(self.base.clone(), now_ms) }
            .with(self.rows.clone());
        let policy = Policy { others: self.others.clone(), ..policy };
        Options {
            limits: self.limits,
            packing: self.packing,
            level: self.level,
            drop_percent_max: self.drop_percent_max,
            kinds_drop_percent_max: self.kinds_drop_percent_max.clone(),
            ..Options::new(policy, run)
        }
    }
}

/// The settings of one sitemap of a site, checked: what it is, where its rows come from, and where its files go.
#[derive(Clone, Debug)]
pub struct Site {
    /// The sitemap.
    pub sitemap: Sitemap,
    /// Where the rows come from: for all sitemaps of the site the same.
    pub source: Source,
    /// In how many parts it is built.
    pub scale: parts::Settings,
    /// Where the files go.
    pub target: Target,
    /// How changes are told by IndexNow, if they are.
    pub indexnow: Option<indexnow::Settings>,
}

/// A prefix of a bucket, and how caches before it behave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The bucket.
    pub bucket: String,
    /// Empty, or a path that ends in `/`.
    pub prefix: String,
    /// How long the CDN may serve a file without asking.
    pub edge_ttl: Duration,
    /// How long a file that no index names stays, in milliseconds.
    pub grace_ms: i64,
    /// The CloudFront distribution whose copies are invalidated after a change, if they are.
    pub distribution: Option<String>,
    /// The robots.txt that runs may put the sitemap's lines into, if they may.
    pub robots: Option<robots::Object>,
}

/// Reads and checks the settings in `text`, of every sitemap that the site has; `name` is the file or object, for
/// messages. There is one at least.
///
/// # Errors
/// A [`SiteError`] that names the field.
pub fn parse(name: &str, text: &str) -> Result<Vec<Site>, SiteError> {
    let mut file = File::parse(name, text)?;
    let wrong = wrong_in(name);
    let publish = file.publish.take();
    let publish = publish.ok_or_else(|| wrong("publish", "is missing: give at least the bucket".to_owned()))?;
    let packing = if publish.content_encoding { Packing::Encoded } else { Packing::Gzip };
    let target = target(publish, &wrong)?;
    let input = std::mem::take(&mut file.input);
    let source = input.check(file.query.take()).map_err(|(field, problem)| wrong(field, problem))?;
    let scale = file.scale.check().map_err(|(field, problem)| wrong(field, problem))?;
    let indexnow = file.indexnow.clone();
    if let Some(settings) = &indexnow {
        settings.check().map_err(|(field, problem)| wrong(field, problem))?;
    }
    let sitemaps = file.sitemaps(name)?;
    if scale.parts > 1 && sitemaps.iter().any(|(sitemap, _)| sitemap.rows.sort_key) {
        let problem = "is more than 1, and a part is a range of addresses: leave rows.sort_key out";
        return Err(wrong("scale.parts", problem.to_owned()));
    }
    // No part knows which pages are the newest of all, and few are: one invocation reads every row for them.
    let scale_of = |sitemap: &Sitemap| match sitemap.rows.select.newest {
        Some(_) => parts::Settings { parts: 1, ..scale },
        None => scale,
    };
    let site = |(sitemap, told): (Sitemap, bool)| Site {
        target: Target { prefix: format!("{}{}", target.prefix, keys::sitemap_dir(&sitemap.name)), ..target.clone() },
        source: source.clone(),
        scale: scale_of(&sitemap),
        indexnow: indexnow.clone().filter(|_| told),
        sitemap: Sitemap { packing, ..sitemap },
    };
    Ok(sitemaps.into_iter().map(site).collect())
}

/// Reads and checks, of the settings in `text`, what a build from local files wants: every sitemap of the site. Whence
/// rows come and where files go in the cloud need not be said.
///
/// # Errors
/// A [`SiteError`] that names the field.
pub fn parse_local(name: &str, text: &str) -> Result<Vec<Sitemap>, SiteError> {
    Ok(File::parse(name, text)?.sitemaps(name)?.into_iter().map(|(sitemap, _)| sitemap).collect())
}

impl File {
    fn parse(name: &str, text: &str) -> Result<Self, SiteError> {
        toml::from_str(text).map_err(|error| SiteError::Parse { name: name.to_owned(), message: error.to_string() })
    }

    /// Every sitemap, and whether its changes are told by IndexNow.
    fn sitemaps(self, name: &str) -> Result<Vec<(Sitemap, bool)>, SiteError> {
        let wrong = wrong_in(name);
        let base = BaseUrl::parse(&self.base_url).map_err(|error| wrong("base_url", error.to_string()))?;
        let files_url = self.files_url.as_deref().unwrap_or(base.as_str());
        let files_url = BaseUrl::parse(files_url).map_err(|error| wrong("files_url", error.to_string()))?;
        let lastmod_zone = match self.lastmod_zone.as_deref() {
            Some(zone) => Some(TimeZone::get(zone).map_err(|error| {
                wrong("lastmod_zone", format!("is no time zone ({error}): give one such as UTC or Asia/Seoul"))
            })?),
            None => None,
        };
        let entries = self.entries(&wrong)?;
        let selects: Vec<Select> = entries.iter().map(|entry| entry.select.clone()).collect();
        let sitemap = |(at, entry): (usize, FileSitemap)| {
            let wrong = |field: &str, problem: String| wrong(&field_of(&entry.name, field), problem);
            let rows = pages::Settings {
                select: entry.select.clone(),
                engines: entry.engines.clone().unwrap_or_else(|| self.rows.engines.clone()),
                ..self.rows.clone()
            };
            let mut others = selects.clone();
            others.remove(at);
            let sitemap = Sitemap {
                base: base.clone(),
                files_url: format!("{}/{}", files_url.as_str(), entry.name).trim_end_matches('/').to_owned(),
                lastmod_zone: lastmod_zone.clone(),
                limits: rows.narrow(limits(&entry.shards, &wrong)?),
                rows,
                others,
                level: level(&entry.shards, &wrong)?,
                drop_percent_max: drop_percent_max(&entry, &wrong)?,
                kinds_drop_percent_max: entry.guard.kinds.clone().unwrap_or_default(),
                name: entry.name.clone(),
                packing: Packing::default(),
            };
            // What leaves a window is no page that is gone.
            Ok((sitemap, entry.indexnow.unwrap_or(!entry.select.is_window())))
        };
        entries.into_iter().enumerate().map(sitemap).collect()
    }

    /// The entries, each complete with what the file says for all; one without a name where the file has none.
    fn entries(&self, wrong: &Wrong<'_>) -> Result<Vec<FileSitemap>, SiteError> {
        let (select, shards, guard) = (self.rows.select.clone(), self.shards.clone(), self.guard.clone());
        let Some(entries) = &self.sitemaps else {
            return Ok(vec![FileSitemap { select, shards, guard, indexnow: Some(true), ..FileSitemap::default() }]);
        };
        if entries.is_empty() || entries.len() > SITEMAPS_MAX {
            return Err(wrong("sitemaps", format!("are {}: give 1 to {SITEMAPS_MAX}", entries.len())));
        }
        if !select.is_everything() {
            let problem = "and [[sitemaps]] are both set: say in each of the sitemaps what it selects".to_owned();
            return Err(wrong("rows.select", problem));
        }
        let mut names = HashSet::new();
        for entry in entries {
            check_name(&entry.name).map_err(|problem| wrong("sitemaps.name", problem))?;
            if !names.insert(entry.name.as_str()) {
                let problem = format!("is {:?} twice: each needs its own, and only one may have none", entry.name);
                return Err(wrong("sitemaps.name", problem));
            }
        }
        let complete = |entry: &FileSitemap| FileSitemap {
            shards: entry.shards.or(&shards),
            // What is right for all pages is not for those of a window, which is as full as the day was busy.
            guard: if entry.select.is_window() { entry.guard.clone() } else { entry.guard.or(&guard) },
            ..entry.clone()
        };
        Ok(entries.iter().map(complete).collect())
    }
}

impl FileShards {
    /// What it says, and where it says nothing what `other` does.
    fn or(&self, other: &Self) -> Self {
        Self {
            target_urls: self.target_urls.or(other.target_urls),
            max_urls: self.max_urls.or(other.max_urls),
            max_per_index: self.max_per_index.or(other.max_per_index),
            level: self.level.or(other.level),
        }
    }
}

impl FileGuard {
    /// What it says, and where it says nothing what `other` does.
    fn or(&self, other: &Self) -> Self {
        Self {
            drop_percent_max: self.drop_percent_max.or(other.drop_percent_max),
            kinds: self.kinds.clone().or_else(|| other.kinds.clone()),
        }
    }
}

/// A name is a directory, a part of addresses and of object keys.
fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    let first = name.chars().next().is_none_or(|c| c.is_ascii_alphanumeric());
    if !name.chars().all(plain) || !first || name.len() > NAME_CHARS_MAX || name.starts_with("sitemap-") {
        let wanted = "small letters, digits, - and _, beginning with a letter or digit and not with sitemap-";
        return Err(format!("is {name:?}: give up to {NAME_CHARS_MAX} {wanted}"));
    }
    Ok(())
}

/// A field of the sitemap `name`.
fn field_of(name: &str, field: &str) -> String {
    if name.is_empty() { field.to_owned() } else { format!("{field} of the sitemap {name}") }
}

type Wrong<'a> = dyn Fn(&str, String) -> SiteError + 'a;

fn wrong_in(name: &str) -> impl Fn(&str, String) -> SiteError {
    move |field, problem| SiteError::Field { name: name.to_owned(), field: field.to_owned(), problem }
}

fn limits(shards: &FileShards, wrong: &Wrong<'_>) -> Result<Limits, SiteError> {
    let defaults = Limits::default();
    let urls_max = shards.max_urls.unwrap_or(defaults.urls_max);
    if !(1..=defaults.urls_max).contains(&urls_max) {
        return Err(wrong("shards.max_urls", format!("is {urls_max}: give 1 to {}", defaults.urls_max)));
    }
    let urls_target = shards.target_urls.unwrap_or(defaults.urls_target.min(urls_max));
    if !(1..=urls_max).contains(&urls_target) {
        return Err(wrong("shards.target_urls", format!("is {urls_target}: give 1 to {urls_max}")));
    }
    let shards_max = shards.max_per_index.unwrap_or(defaults.index.shards_max);
    if !(1..=defaults.index.shards_max).contains(&shards_max) {
        return Err(wrong("shards.max_per_index", format!("is {shards_max}: give 1 to {}", defaults.index.shards_max)));
    }
    let index = IndexLimits { shards_max, ..defaults.index };
    Ok(Limits { urls_target, urls_max, index, ..defaults })
}

fn level(shards: &FileShards, wrong: &Wrong<'_>) -> Result<i32, SiteError> {
    let level = shards.level.unwrap_or(4);
    if !(1..=12).contains(&level) {
        return Err(wrong("shards.level", format!("is {level}: give 1 to 12")));
    }
    Ok(level)
}

fn drop_percent_max(entry: &FileSitemap, wrong: &Wrong<'_>) -> Result<u32, SiteError> {
    let usual = if entry.select.is_window() { 100 } else { DROP_PERCENT_MAX };
    let drop_percent_max = entry.guard.drop_percent_max.unwrap_or(usual);
    if drop_percent_max > 100 {
        return Err(wrong("guard.drop_percent_max", format!("is {drop_percent_max}: give 0 to 100")));
    }
    let kinds = entry.guard.kinds.iter().flatten();
    if let Some((kind, percent)) = kinds.clone().find(|(_, percent)| **percent > 100) {
        return Err(wrong("guard.kinds", format!("has {kind} = {percent}: give 0 to 100")));
    }
    if kinds.count() > KINDS_MAX / 2 {
        return Err(wrong("guard.kinds", format!("has more than {} kinds: guard those that matter", KINDS_MAX / 2)));
    }
    Ok(drop_percent_max)
}

fn target(file: FilePublish, wrong: &Wrong<'_>) -> Result<Target, SiteError> {
    if file.bucket.trim().is_empty() || file.bucket.contains(['/', ':']) {
        return Err(wrong("publish.bucket", format!("is {:?}: give the bucket's name alone", file.bucket)));
    }
    let prefix = file.prefix.trim_matches('/');
    if prefix.split('/').any(|part| matches!(part, "." | "..")) || prefix.contains("//") {
        return Err(wrong("publish.prefix", format!("is {:?}: give a plain path such as sitemaps/", file.prefix)));
    }
    let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    if file.edge_ttl_seconds > 300 {
        let problem =
            format!("is {}: give at most 300, since a run waits that long up to four times", file.edge_ttl_seconds);
        return Err(wrong("publish.edge_ttl_seconds", problem));
    }
    if let Some(id) = &file.distribution {
        let plain = id.starts_with('E') && id.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        if !plain {
            return Err(wrong(
                "publish.distribution",
                format!("is {id:?}: give the distribution's ID, as in E2EXAMPLE"),
            ));
        }
        if !prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte)) {
            let problem = format!("is {prefix:?}: with a distribution give letters, digits and - _ . alone");
            return Err(wrong("publish.prefix", problem));
        }
    }
    let robots =
        file.robots.as_deref().map(str::parse).transpose().map_err(|problem| wrong("publish.robots", problem))?;
    Ok(Target {
        bucket: file.bucket,
        prefix,
        edge_ttl: Duration::from_secs(file.edge_ttl_seconds),
        grace_ms: i64::from(file.grace_hours) * 3_600_000,
        distribution: file.distribution,
        robots,
    })
}

#[cfg(test)]
mod tests;
