//! The settings of one site's sitemap: a TOML file, read and checked whole before anything is done.

use crate::athena;
use crate::build::{DROP_PERCENT_MAX, Options};
use crate::cut::Limits;
use crate::indexnow;
use crate::input::{self, Source};
use crate::loc::BaseUrl;
use crate::pages::{self, Policy};
use crate::parts;
use jiff::tz::TimeZone;
use serde::Deserialize;
use std::time::Duration;

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
        /// The field.
        field: &'static str,
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
    publish: FilePublish,
    #[serde(default)]
    rows: pages::Settings,
    #[serde(default)]
    shards: FileShards,
    #[serde(default)]
    guard: FileGuard,
    indexnow: Option<indexnow::Settings>,
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
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileShards {
    target_urls: Option<u32>,
    max_urls: Option<u32>,
    level: Option<i32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileGuard {
    drop_percent_max: Option<u32>,
}

fn edge_ttl_seconds() -> u64 {
    60
}

fn grace_hours() -> u32 {
    24
}

/// The settings of a site, checked.
#[derive(Clone, Debug)]
pub struct Site {
    /// Scheme, host and path of the pages.
    pub base: BaseUrl,
    /// Where crawlers find the sitemap's files, without a last slash; `base_url` where it is not set.
    pub files_url: String,
    /// The zone of lastmod times that name none.
    pub lastmod_zone: Option<TimeZone>,
    /// Where the rows come from.
    pub source: Source,
    /// In how many parts it is built.
    pub scale: parts::Settings,
    /// Where the files go.
    pub target: Target,
    /// What shapes the rows.
    pub rows: pages::Settings,
    /// How big shards may be.
    pub limits: Limits,
    /// The compression level, 1 to 12.
    pub level: i32,
    /// How many percent fewer URLs than before are believed.
    pub drop_percent_max: u32,
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
}

impl Site {
    /// Reads and checks the settings in `text`; `name` is the file or object, for messages.
    ///
    /// # Errors
    /// A [`SiteError`] that names the field.
    pub fn parse(name: &str, text: &str) -> Result<Self, SiteError> {
        let file: File = toml::from_str(text)
            .map_err(|error| SiteError::Parse { name: name.to_owned(), message: error.to_string() })?;
        let wrong = |field: &'static str, problem: String| SiteError::Field { name: name.to_owned(), field, problem };
        let base = BaseUrl::parse(&file.base_url).map_err(|error| wrong("base_url", error.to_string()))?;
        let files_url = file.files_url.as_deref().unwrap_or(base.as_str());
        let files_url = BaseUrl::parse(files_url).map_err(|error| wrong("files_url", error.to_string()))?;
        let lastmod_zone = match file.lastmod_zone.as_deref() {
            Some(zone) => Some(TimeZone::get(zone).map_err(|error| {
                wrong("lastmod_zone", format!("is no time zone ({error}): give one such as UTC or Asia/Seoul"))
            })?),
            None => None,
        };
        let defaults = Limits::default();
        let urls_max = file.shards.max_urls.unwrap_or(defaults.urls_max);
        if !(1..=defaults.urls_max).contains(&urls_max) {
            return Err(wrong("shards.max_urls", format!("is {urls_max}: give 1 to {}", defaults.urls_max)));
        }
        let urls_target = file.shards.target_urls.unwrap_or(defaults.urls_target.min(urls_max));
        if !(1..=urls_max).contains(&urls_target) {
            return Err(wrong("shards.target_urls", format!("is {urls_target}: give 1 to {urls_max}")));
        }
        let level = file.shards.level.unwrap_or(4);
        if !(1..=12).contains(&level) {
            return Err(wrong("shards.level", format!("is {level}: give 1 to 12")));
        }
        let drop_percent_max = file.guard.drop_percent_max.unwrap_or(DROP_PERCENT_MAX);
        if drop_percent_max > 100 {
            return Err(wrong("guard.drop_percent_max", format!("is {drop_percent_max}: give 0 to 100")));
        }
        if let Some(settings) = &file.indexnow {
            settings.check().map_err(|(field, problem)| wrong(field, problem))?;
        }
        Ok(Self {
            base,
            files_url: files_url.as_str().to_owned(),
            lastmod_zone,
            source: file.input.check(file.query).map_err(|(field, problem)| wrong(field, problem))?,
            scale: file.scale.check().map_err(|(field, problem)| wrong(field, problem))?,
            target: target(file.publish, &wrong)?,
            limits: file.rows.narrow(Limits { urls_target, urls_max, ..defaults }),
            rows: file.rows,
            level,
            drop_percent_max,
            indexnow: file.indexnow,
        })
    }
}

impl Site {
    /// How a run called `run` at `now_ms` builds the sitemap.
    #[must_use]
    pub fn options(&self, run: &str, now_ms: i64) -> Options {
        let policy = Policy { lastmod_zone: self.lastmod_zone.clone(), ..Policy::new(self.base.clone(), now_ms) }
            .with(self.rows.clone());
        Options {
            limits: self.limits,
            level: self.level,
            drop_percent_max: self.drop_percent_max,
            ..Options::new(policy, run)
        }
    }
}

type Wrong<'a> = dyn Fn(&'static str, String) -> SiteError + 'a;

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
    let edge_ttl = Duration::from_secs(file.edge_ttl_seconds);
    Ok(Target { bucket: file.bucket, prefix, edge_ttl, grace_ms: i64::from(file.grace_hours) * 3_600_000 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::athena::{Fetch, SqlText};

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
        let site = Site::parse("demo.toml", GOOD).unwrap();
        assert_eq!(
            (site.base.as_str(), site.files_url.as_str()),
            ("https://www.example.com", "https://www.example.com")
        );
        let Source::Query(query) = &site.source else { panic!("{:?}", site.source) };
        assert_eq!(query.sql, SqlText::Inline("SELECT loc, lastmod FROM pages ORDER BY loc".into()));
        assert_eq!(
            (query.workgroup.as_str(), query.fetch, site.target.prefix.as_str()),
            ("primary", Fetch::Unload, "a/b/")
        );
        assert_eq!((site.target.edge_ttl.as_secs(), site.target.grace_ms), (60, 86_400_000));
        assert_eq!((site.limits, site.level), (Limits::default(), 4));
    }

    #[test]
    fn the_template_is_valid_as_it_is_and_with_every_setting_in_use() {
        let site = Site::parse("template", &template("https://shop.example/")).unwrap();
        assert_eq!(site.base.as_str(), "https://shop.example");
        // A setting is one word before its sign; what begins with a further space is an alternative to what is there.
        let setting = |line: &str| {
            let name = line.strip_prefix("# ").and_then(|text| text.split_once(" = ")).map(|(name, _)| name);
            name.is_some_and(|name| !name.contains(' ')) || line == "# [indexnow]"
        };
        let all: Vec<&str> = TEMPLATE.lines().map(|line| if setting(line) { &line[2..] } else { line }).collect();
        let site = Site::parse("template", &all.join("\n")).unwrap();
        assert_eq!((site.limits, site.drop_percent_max, site.target.grace_ms), (Limits::default(), 50, 86_400_000));
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
            ("prefix = \"/a/b\"", "edge_ttl = 3", "edge_ttl"),
            ("prefix = \"/a/b\"", "[shards]\ntarget_urls = 60000", "shards.target_urls"),
            ("prefix = \"/a/b\"", "[shards]\nmax_urls = 50001", "shards.max_urls"),
            ("prefix = \"/a/b\"", "[shards]\nmax_urls = 5\ntarget_urls = 6", "shards.target_urls"),
            ("prefix = \"/a/b\"", "[shards]\nlevel = 0", "shards.level"),
            ("prefix = \"/a/b\"", "[guard]\ndrop_percent_max = 101", "guard.drop_percent_max"),
            ("prefix = \"/a/b\"", "[indexnow]\nkey = \"short\"", "indexnow.key"),
        ];
        for (good, bad, field) in cases {
            let text = GOOD.replace(good, bad);
            assert_ne!(text, GOOD);
            let message = Site::parse("demo.toml", &text).unwrap_err().to_string();
            assert!(message.contains("demo.toml") && message.contains(field), "{field}: {message}");
        }
    }
}
