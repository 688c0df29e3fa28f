//! The settings of one site's sitemaps: a TOML file, read and checked whole before anything is done.
//!
//! A site has one sitemap, or several (`[[sitemaps]]`), each with a name, a directory and a state of its own. What the
//! file says at its top counts for all of them; an entry says what differs.

use crate::athena;
use crate::build::{DROP_PERCENT_MAX, Options, Packing};
use crate::cut::Limits;
use crate::engine::Engine;
use crate::indexnow;
use crate::input::{self, Source};
use crate::keys;
use crate::loc::BaseUrl;
use crate::pages::{self, Policy};
use crate::parts;
use crate::report::KINDS_MAX;
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
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileShards {
    target_urls: Option<u32>,
    max_urls: Option<u32>,
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
    if scale.parts > 1 && sitemaps.iter().any(|(sitemap, _)| sitemap.rows.select.newest.is_some()) {
        let problem = "is more than 1, and no part knows which pages are the newest of all";
        return Err(wrong("scale.parts", format!("{problem}: leave rows.select.newest out")));
    }
    if scale.parts > 1 && sitemaps.len() > 1 {
        let problem =
            format!("is {} for {} sitemaps: a part is a key range of one sitemap", scale.parts, sitemaps.len());
        return Err(wrong("scale.parts", format!("{problem}, so give each a site of its own")));
    }
    let site = |(sitemap, told): (Sitemap, bool)| Site {
        target: Target { prefix: format!("{}{}", target.prefix, keys::sitemap_dir(&sitemap.name)), ..target.clone() },
        source: source.clone(),
        scale,
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
    Ok(Limits { urls_target, urls_max, ..defaults })
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
    Ok(Target {
        bucket: file.bucket,
        prefix,
        edge_ttl: Duration::from_secs(file.edge_ttl_seconds),
        grace_ms: i64::from(file.grace_hours) * 3_600_000,
        distribution: file.distribution,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::athena::{Fetch, SqlText};

    fn one(text: &str) -> Site {
        let mut sites = parse("demo.toml", text).unwrap();
        assert_eq!(sites.len(), 1);
        sites.remove(0)
    }

    const GOOD: &str = r#"
        base_url = "https://www.example.com/"
        lastmod_zone = "Asia/Seoul"
        [query]
        sql = "SELECT loc, lastmod FROM pages ORDER BY loc;"
        database = "shop"
        output = "s3://results/athena/"
        [publish]
        bucket = "sitemaps"
        prefix = "/a/b"
    "#;

    #[test]
    fn what_is_not_said_has_its_default() {
        let site = one(GOOD);
        assert_eq!(
            (site.sitemap.base.as_str(), site.sitemap.files_url.as_str()),
            ("https://www.example.com", "https://www.example.com")
        );
        let Source::Query(query) = &site.source else { panic!("{:?}", site.source) };
        assert_eq!(query.sql, SqlText::Inline("SELECT loc, lastmod FROM pages ORDER BY loc".into()));
        assert_eq!(
            (query.workgroup.as_str(), query.fetch, site.target.prefix.as_str()),
            ("primary", Fetch::Unload, "a/b/")
        );
        assert_eq!((site.target.edge_ttl.as_secs(), site.target.grace_ms), (60, 86_400_000));
        assert_eq!((site.sitemap.limits, site.sitemap.level), (Limits::default(), 4));
        assert_eq!(site.sitemap.name, "");
    }

    #[test]
    fn the_template_is_valid_as_it_is_and_with_every_setting_in_use() {
        let site = one(&template("https://shop.example/"));
        assert_eq!(site.sitemap.base.as_str(), "https://shop.example");
        // A setting is one word before its sign; what begins with a further space is an alternative to what is there.
        let setting = |line: &str| {
            let name = line.strip_prefix("# ").and_then(|text| text.split_once(" = ")).map(|(name, _)| name);
            name.is_some_and(|name| !name.contains(' ')) || matches!(line, "# [indexnow]" | "# [guard.kinds]")
        };
        let all: Vec<&str> = TEMPLATE.lines().map(|line| if setting(line) { &line[2..] } else { line }).collect();
        let site = one(&all.join("\n"));
        assert_eq!((site.sitemap.limits, site.sitemap.drop_percent_max), (Limits::default(), 50));
        assert_eq!(site.target.grace_ms, 86_400_000);
    }

    #[test]
    fn the_several_sitemaps_of_the_template_are_valid() {
        let (above, several) = TEMPLATE.split_once("#  [[sitemaps]]").unwrap();
        let several =
            several.lines().map(|line| line.strip_prefix("#  ").unwrap_or(line)).collect::<Vec<_>>().join("\n");
        let sites = parse("template", &format!("{above}[[sitemaps]]{several}")).unwrap();
        let names: Vec<&str> = sites.iter().map(|site| site.sitemap.name.as_str()).collect();
        assert_eq!(names, ["", "products", "recent", "news"]);
        assert_eq!(sites[2].sitemap.rows.select.newest, Some(1000));
    }

    #[test]
    fn every_mistake_names_its_field() {
        let cases = [
            ("base_url = \"https://www.example.com/\"", "base_url = \"example.com\"", "base_url"),
            ("lastmod_zone = \"Asia/Seoul\"", "lastmod_zone = \"Seoul\"", "lastmod_zone"),
            ("lastmod_zone = \"Asia/Seoul\"", "files_url = \"/x\"", "files_url"),
            ("SELECT loc", "DROP loc", "query.sql"),
            ("database = \"shop\"", "database = \" \"", "query.database"),
            ("database = \"shop\"", "", "database"),
            ("s3://results", "results", "query.output"),
            ("database = \"shop\"", "database = \"shop\"\nsql_file = \"x.sql\"", "query.sql_file"),
            ("sql = ", "sql_file = \"../x.sql\" #", "query.sql_file"),
            ("database = \"shop\"", "database = \"shop\"\nfetch = \"mail\"", "fetch"),
            ("[publish]", "[input]\nobjects = \"s3://a/b\"\n[publish]", "input.objects"),
            ("bucket = \"sitemaps\"", "bucket = \"s3://x\"", "publish.bucket"),
            ("prefix = \"/a/b\"", "prefix = \"a/../b\"", "publish.prefix"),
            ("prefix = \"/a/b\"", "edge_ttl_seconds = 3600", "publish.edge_ttl_seconds"),
            ("prefix = \"/a/b\"", "distribution = \"d1.cloudfront.net\"", "publish.distribution"),
            ("prefix = \"/a/b\"", "prefix = \"a b\"\ndistribution = \"E2EXAMPLE\"", "publish.prefix"),
            ("prefix = \"/a/b\"", "edge_ttl = 3", "edge_ttl"),
            ("prefix = \"/a/b\"", "[shards]\ntarget_urls = 60000", "shards.target_urls"),
            ("prefix = \"/a/b\"", "[shards]\nmax_urls = 50001", "shards.max_urls"),
            ("prefix = \"/a/b\"", "[shards]\nmax_urls = 5\ntarget_urls = 6", "shards.target_urls"),
            ("prefix = \"/a/b\"", "[shards]\nlevel = 0", "shards.level"),
            ("prefix = \"/a/b\"", "[guard]\ndrop_percent_max = 101", "guard.drop_percent_max"),
            ("prefix = \"/a/b\"", "[guard.kinds]\nproduct = 101", "guard.kinds"),
            ("prefix = \"/a/b\"", "[scale]\nparts = 2\n[rows.select]\nnewest = 5", "scale.parts"),
            ("prefix = \"/a/b\"", "[indexnow]\nkey = \"short\"", "indexnow.key"),
        ];
        for (good, bad, field) in cases {
            let text = GOOD.replace(good, bad);
            assert_ne!(text, GOOD);
            let message = parse("demo.toml", &text).unwrap_err().to_string();
            assert!(message.contains("demo.toml") && message.contains(field), "{field}: {message}");
        }
    }

    const SEVERAL: &str = r#"
        [shards]
        level = 6
        target_urls = 1000
        [guard]
        drop_percent_max = 30
        [[sitemaps]]
        [[sitemaps]]
        name = "products"
        select.kinds = ["product"]
        engines = ["baidu"]
        shards.target_urls = 20
        [[sitemaps]]
        name = "recent"
        select.within_hours = 24
        indexnow = true
        [[sitemaps]]
        name = "news"
        select.news = true
        guard.drop_percent_max = 90
    "#;

    #[test]
    fn a_sitemap_has_a_directory_of_its_own_and_says_only_what_differs() {
        let indexnow = "[indexnow]\nkey = \"0123456789abcdef\"\n";
        let sites = parse("demo.toml", &format!("{GOOD}\n{indexnow}{SEVERAL}")).unwrap();
        let told = |site: &Site| {
            let Sitemap { name, files_url, limits, level, drop_percent_max, others, .. } = &site.sitemap;
            let place = (name.clone(), site.target.prefix.clone(), files_url.clone());
            let shape = (limits.urls_target, limits.bytes_max >> 20, *level, *drop_percent_max);
            (place, shape, site.indexnow.is_some(), others.len())
        };
        let at = |name: &str| {
            let dir = if name.is_empty() { String::new() } else { format!("/{name}") };
            (name.to_owned(), format!("a/b{dir}/"), format!("https://www.example.com{dir}"))
        };
        assert_eq!(
            sites.iter().map(told).collect::<Vec<_>>(),
            [
                (at(""), (1000, 50, 6, 30), true, 3),
                (at("products"), (20, 10, 6, 30), true, 3),
                // What is right for all pages is no guard of a window, and what leaves it is no page that is gone.
                (at("recent"), (1000, 50, 6, 100), true, 3),
                (at("news"), (1000, 50, 6, 90), false, 3),
            ]
        );
        let local = format!("base_url = \"https://www.example.com\"\n{SEVERAL}");
        let names: Vec<String> = parse_local("x", &local).unwrap().into_iter().map(|one| one.name).collect();
        assert_eq!(names, ["", "products", "recent", "news"]);
        assert!(parse("x", &local).unwrap_err().to_string().contains("publish is missing"));
    }

    #[test]
    fn a_mistake_in_one_of_several_names_the_sitemap() {
        for (good, bad, said) in [
            ("name = \"news\"", "name = \"recent\"", "\"recent\" twice"),
            ("name = \"news\"", "", "\"\" twice"),
            ("name = \"news\"", "name = \"sitemap-x\"", "not with sitemap-"),
            ("name = \"news\"", "name = \"../x\"", "sitemaps.name is \"../x\""),
            ("name = \"news\"", "name = \"News\"", "sitemaps.name is \"News\""),
            ("shards.target_urls = 20", "shards.target_urls = 0", "shards.target_urls of the sitemap products"),
            ("shards.target_urls = 20", "shards.level = 13", "shards.level of the sitemap products"),
            ("drop_percent_max = 90", "drop_percent_max = 101", "guard.drop_percent_max of the sitemap news"),
            ("target_urls = 1000", "[rows.select]\nnews = true", "rows.select and [[sitemaps]]"),
            ("target_urls = 1000", "[scale]\nparts = 2", "scale.parts is 2 for 4 sitemaps"),
            ("select.news = true", "select.new = true", "unknown field"),
        ] {
            let text = format!("{GOOD}\n{SEVERAL}").replace(good, bad);
            assert_ne!(text, format!("{GOOD}\n{SEVERAL}"));
            let message = parse("demo.toml", &text).unwrap_err().to_string();
            assert!(message.contains("demo.toml") && message.contains(said), "{said}: {message}");
        }
        assert!(parse("x", &format!("sitemaps = []\n{GOOD}")).unwrap_err().to_string().contains("give 1 to 100"));
    }
}
