//! Which rows of a page list belong to one sitemap of a site; the others are for its other sitemaps.

use crate::lastmod;
use crate::newest::NEWEST_MAX;
use jiff::Timestamp;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

const HOUR_MS: i64 = 3_600_000;
/// How old a news article may be (Google's rules for news sitemaps: the last two days), in hours.
pub const NEWS_HOURS: u32 = 48;

/// Which rows belong to a sitemap: all, where nothing is said. Every rule that is given must be met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Select {
    /// Values of the column `kind`.
    pub kinds: Vec<String>,
    /// Values of the column `locale`, in any letter case; `de-*` takes `de` and whatever begins with `de-`.
    pub locales: Vec<String>,
    /// Hosts, as in `m.example.com`, with the port where it is not the scheme's own.
    pub hosts: Vec<String>,
    /// Rows whose lastmod is at most so many hours old, from 1. A date without a time counts to its end.
    #[serde(deserialize_with = "within_hours")]
    pub within_hours: Option<u32>,
    /// Of the rows that meet the rest, so many, the newest by lastmod; at most [`NEWEST_MAX`].
    #[serde(deserialize_with = "newest")]
    pub newest: Option<u32>,
    /// Rows that are news articles of the last [`NEWS_HOURS`].
    pub news: bool,
}

impl Select {
    /// Whether the same rows may be selected differently at another time.
    #[must_use]
    pub fn depends_on_time(&self) -> bool {
        self.within_hours.is_some() || self.news
    }

    /// Whether rows leave it although their pages are still there.
    #[must_use]
    pub fn is_window(&self) -> bool {
        self.depends_on_time() || self.newest.is_some()
    }

    /// Whether it takes every row.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Why a row is not of this sitemap, as far as its columns tell; `None` where it is. `loc` is canonical.
    pub(crate) fn refuses(&self, kind: &[u8], locale: &[u8], loc: &[u8]) -> Option<&'static str> {
        if !self.kinds.is_empty() && !self.kinds.iter().any(|wanted| wanted.as_bytes() == kind) {
            return Some("kind is another sitemap's");
        }
        if !self.locales.is_empty() && !self.locales.iter().any(|wanted| takes_locale(wanted, locale)) {
            return Some("locale is another sitemap's");
        }
        if !self.hosts.is_empty() && !self.hosts.iter().any(|wanted| wanted.as_bytes().eq_ignore_ascii_case(host(loc)))
        {
            return Some("host is another sitemap's");
        }
        None
    }

    /// Why a row is not of this sitemap at `now_ms` for its canonical `lastmod`; `None` where it is.
    pub(crate) fn refuses_lastmod(&self, lastmod: &[u8], now_ms: i64) -> Option<&'static str> {
        if self.within_hours.is_none() && self.newest.is_none() {
            return None;
        }
        match lastmod::instant(lastmod) {
            None => Some("no lastmod, and the sitemap is of recent pages"),
            Some(at) => {
                let is_old = self.within_hours.is_some_and(|hours| is_older(at, lastmod, hours, now_ms));
                is_old.then_some("lastmod is older than the sitemap's window")
            }
        }
    }
}

fn newest<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let newest = u32::deserialize(deserializer)?;
    match newest {
        1..=NEWEST_MAX => Ok(Some(newest)),
        _ => Err(D::Error::custom(format!("newest is {newest}: give 1 to {NEWEST_MAX} pages"))),
    }
}

fn within_hours<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    match u32::deserialize(deserializer)? {
        0 => Err(D::Error::custom("within_hours is 0, and no page is so new: give 1 or more, or leave it out")),
        hours => Ok(Some(hours)),
    }
}

/// Whether the time `text`, which is the instant `at`, is more than `hours` before `now_ms`.
pub(crate) fn is_older(at: Timestamp, text: &[u8], hours: u32, now_ms: i64) -> bool {
    const DATE_BYTES: usize = 10;
    let ends_ms = at.as_millisecond() + if text.len() == DATE_BYTES { 24 * HOUR_MS } else { 0 };
    ends_ms < now_ms.saturating_sub(i64::from(hours) * HOUR_MS)
}

fn takes_locale(wanted: &str, locale: &[u8]) -> bool {
    let same = |text: &str| text.as_bytes().eq_ignore_ascii_case(locale);
    match wanted.strip_suffix("-*") {
        None => same(wanted),
        Some(language) => {
            let begins =
                locale.get(..language.len()).is_some_and(|start| language.as_bytes().eq_ignore_ascii_case(start));
            same(language) || (begins && locale.get(language.len()) == Some(&b'-'))
        }
    }
}

/// Host and port of a canonical address.
fn host(loc: &[u8]) -> &[u8] {
    let start = memchr::memmem::find(loc, b"://").map_or(0, |at| at + 3);
    let rest = &loc[start..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    &rest[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_763_800_000_000;

    fn select(text: &str) -> Select {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn nothing_said_takes_everything() {
        let all = Select::default();
        assert!(all.is_everything() && !all.depends_on_time());
        assert_eq!(all.refuses(b"x", b"de", b"https://a.example/"), None);
        assert_eq!(all.refuses_lastmod(b"", NOW_MS), None);
    }

    #[test]
    fn a_window_of_no_hours_is_refused() {
        let error = toml::from_str::<Select>("within_hours = 0").unwrap_err().to_string();
        assert!(error.contains("give 1 or more"), "{error}");
    }

    #[test]
    fn every_rule_that_is_given_must_be_met() {
        let some = select("kinds = [\"product\"]\nlocales = [\"de-*\", \"fr\"]\nhosts = [\"a.example\"]");
        assert_eq!(some.refuses(b"product", b"DE-at", b"https://a.example/x"), None);
        assert_eq!(some.refuses(b"product", b"de", b"https://a.example"), None);
        assert!(some.refuses(b"article", b"de", b"https://a.example/").unwrap().starts_with("kind"));
        for other in [&b"den"[..], b"fr-CA", b""] {
            assert!(some.refuses(b"product", other, b"https://a.example/").unwrap().starts_with("locale"));
        }
        for other in [&b"https://b.example/"[..], b"https://a.example:8443/", b"https://a.example.org/"] {
            assert!(some.refuses(b"product", b"fr", other).unwrap().starts_with("host"));
        }
    }

    #[test]
    fn a_window_is_of_hours_and_a_date_counts_to_its_end() {
        let recent = select("within_hours = 24");
        assert!(recent.depends_on_time());
        for inside in ["2025-11-22T08:26:40Z", "2025-11-21T08:26:40Z", "2025-11-21", "2025-11-21T17:26:40+09:00"] {
            assert_eq!(recent.refuses_lastmod(inside.as_bytes(), NOW_MS), None, "{inside}");
        }
        for outside in ["2025-11-21T08:26:39Z", "2025-11-20", "", "2025-11-21T17:26:39+09:00"] {
            assert!(recent.refuses_lastmod(outside.as_bytes(), NOW_MS).is_some(), "{outside}");
        }
    }

    #[test]
    fn a_setting_that_is_not_known_is_refused() {
        assert!(toml::from_str::<Select>("kind = [\"x\"]").is_err());
        for bad in [0, 10_001] {
            let error = toml::from_str::<Select>(&format!("newest = {bad}")).unwrap_err().to_string();
            assert!(error.contains("give 1 to 10000"), "{error}");
        }
    }

    #[test]
    fn what_only_shrinks_because_time_goes_by_is_a_window() {
        for window in ["within_hours = 1", "news = true", "newest = 5"] {
            assert!(select(window).is_window() && !select(window).is_everything());
        }
        assert!(!select("kinds = [\"x\"]").is_window() && !select("newest = 5").depends_on_time());
        assert!(select("newest = 5").refuses_lastmod(b"", NOW_MS).is_some());
        assert_eq!(select("newest = 5").refuses_lastmod(b"2001-01-01", NOW_MS), None);
    }
}
