//! The settings of one site's sitemap: a TOML file, read and checked whole before anything is done.

use crate::build::DROP_PERCENT_MAX;
use crate::cut::Limits;
use crate::loc::BaseUrl;
use crate::pages;
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
    query: FileQuery,
    publish: FilePublish,
    #[serde(default)]
    rows: pages::Settings,
    #[serde(default)]
    shards: FileShards,
    #[serde(default)]
    guard: FileGuard,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileQuery {
    sql: String,
    database: String,
    #[serde(default = "primary")]
    workgroup: String,
    output: Option<String>,
    catalog: Option<String>,
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
    level: Option<i32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileGuard {
    drop_percent_max: Option<u32>,
}

fn primary() -> String {
    "primary".to_owned()
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
    pub query: Query,
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
}

/// An Athena query whose columns are those of [`crate::pages::COLUMNS`], `loc` at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The SELECT.
    pub sql: String,
    /// The database its tables are in.
    pub database: String,
    /// The catalog of the database, where it is not the account's own.
    pub catalog: Option<String>,
    /// The workgroup that pays.
    pub workgroup: String,
    /// `s3://bucket/prefix/` for results, where the workgroup does not set one.
    pub output: Option<String>,
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
        let urls_target = file.shards.target_urls.unwrap_or(defaults.urls_target);
        if !(1..=defaults.urls_max).contains(&urls_target) {
            return Err(wrong("shards.target_urls", format!("is {urls_target}: give 1 to {}", defaults.urls_max)));
        }
        let level = file.shards.level.unwrap_or(4);
        if !(1..=12).contains(&level) {
            return Err(wrong("shards.level", format!("is {level}: give 1 to 12")));
        }
        let drop_percent_max = file.guard.drop_percent_max.unwrap_or(DROP_PERCENT_MAX);
        if drop_percent_max > 100 {
            return Err(wrong("guard.drop_percent_max", format!("is {drop_percent_max}: give 0 to 100")));
        }
        Ok(Self {
            base,
            files_url: files_url.as_str().to_owned(),
            lastmod_zone,
            query: query(file.query, &wrong)?,
            target: target(file.publish, &wrong)?,
            limits: file.rows.narrow(Limits { urls_target, ..defaults }),
            rows: file.rows,
            level,
            drop_percent_max,
        })
    }
}

type Wrong<'a> = dyn Fn(&'static str, String) -> SiteError + 'a;

fn query(file: FileQuery, wrong: &Wrong<'_>) -> Result<Query, SiteError> {
    let sql = file.sql.trim().trim_end_matches(';').trim_end().to_owned();
    let first = sql.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
    if !matches!(first.as_str(), "select" | "with") {
        return Err(wrong(
            "query.sql",
            "does not begin with SELECT or WITH: give the query that lists the pages".into(),
        ));
    }
    for (field, text) in [("query.database", &file.database), ("query.workgroup", &file.workgroup)] {
        if text.trim().is_empty() {
            return Err(wrong(field, "is empty".into()));
        }
    }
    if let Some(output) = &file.output
        && !output.strip_prefix("s3://").is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
    {
        return Err(wrong(
            "query.output",
            format!("is {output:?}: give s3://bucket/prefix/ or leave it to the workgroup"),
        ));
    }
    let FileQuery { database, workgroup, output, catalog, .. } = file;
    Ok(Query { sql, database, catalog, workgroup, output })
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
    let edge_ttl = Duration::from_secs(file.edge_ttl_seconds);
    Ok(Target { bucket: file.bucket, prefix, edge_ttl, grace_ms: i64::from(file.grace_hours) * 3_600_000 })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(site.query.sql, "SELECT loc, lastmod FROM pages ORDER BY loc");
        assert_eq!((site.query.workgroup.as_str(), site.target.prefix.as_str()), ("primary", "a/b/"));
        assert_eq!((site.target.edge_ttl.as_secs(), site.target.grace_ms), (60, 86_400_000));
        assert_eq!((site.limits, site.level), (Limits::default(), 4));
    }

    #[test]
    fn the_template_is_valid_as_it_is_and_with_every_setting_in_use() {
        let site = Site::parse("template", &template("https://shop.example/")).unwrap();
        assert_eq!(site.base.as_str(), "https://shop.example");
        let setting = |line: &str| line.starts_with("# ") && line.contains(" = ") && !line.starts_with("#  ");
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
            ("bucket = \"sitemaps\"", "bucket = \"s3://x\"", "publish.bucket"),
            ("prefix = \"/a/b\"", "prefix = \"a/../b\"", "publish.prefix"),
            ("prefix = \"/a/b\"", "edge_ttl_seconds = 3600", "publish.edge_ttl_seconds"),
            ("prefix = \"/a/b\"", "edge_ttl = 3", "edge_ttl"),
            ("prefix = \"/a/b\"", "[shards]\ntarget_urls = 60000", "shards.target_urls"),
            ("prefix = \"/a/b\"", "[shards]\nlevel = 0", "shards.level"),
            ("prefix = \"/a/b\"", "[guard]\ndrop_percent_max = 101", "guard.drop_percent_max"),
        ];
        for (good, bad, field) in cases {
            let text = GOOD.replace(good, bad);
            assert_ne!(text, GOOD);
            let message = Site::parse("demo.toml", &text).unwrap_err().to_string();
            assert!(message.contains("demo.toml") && message.contains(field), "{field}: {message}");
        }
    }
}
