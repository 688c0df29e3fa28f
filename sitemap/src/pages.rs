//! From a row as it was read to a canonical row, or to the reason why there is none.
//!
//! Every source (files, Athena) hands its rows to a [`Gate`], which is the only place that decides what becomes of one.

use crate::canonical::{Addresses, Canonical, HostsError};
use crate::columns::{Column, Columns};
use crate::cut::Limits;
use crate::engine::Engine;
use crate::extension::Extensions;
use crate::extension::news::{Publication, State};
use crate::extension::versions::Versions;
use crate::lastmod::{self, LastmodFault};
use crate::loc::BaseUrl;
use crate::report::{Ledger, Outcome};
use crate::row::{self, Changefreq};
use crate::select::Select;
use crate::sort_key;
use jiff::tz::TimeZone;
use serde::Deserialize;
use std::borrow::Cow;
use std::io;
use std::ops::Range;

pub use crate::columns::COLUMNS;

/// What rows are sorted by where nothing else is said, as a manifest names it.
pub const BY_ADDRESS: &str = "loc";

/// Why a row of a site with several sitemaps is in none of them.
pub const UNSELECTED: &str = "no sitemap of the site selects it by kind, locale or host";

/// What is told where most pages say that they changed just now: a list that stamps every page with the time of its
/// making, more often than a day on which they did.
pub const MOVED: &str =
    "lastmod says changed since yesterday, of more than half of all pages: engines stop believing it";
/// The share of pages, in percent, above which [`MOVED`] is told.
const MOVED_PERCENT_MAX: u64 = 50;
/// Fewer pages may well all change in a day.
const MOVED_MIN: u64 = 1000;

/// A row as it was read. An empty field is an absent one.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawPage<'a> {
    /// The fields, in the order of [`COLUMNS`].
    pub fields: [&'a [u8]; COLUMNS.len()],
    /// The line of the file (in Parquet and Athena the row), from 1.
    pub line: u64,
}

impl<'a> RawPage<'a> {
    /// A row that has nothing but these.
    #[must_use]
    pub fn plain(loc: &'a [u8], lastmod: &'a [u8], line: u64) -> Self {
        let mut page = Self { line, ..Self::default() };
        page.fields[Column::Loc as usize] = loc;
        page.fields[Column::Lastmod as usize] = lastmod;
        page
    }

    /// What stands in `column`, or nothing.
    #[must_use]
    pub fn field(&self, column: Column) -> &'a [u8] {
        self.fields[column as usize]
    }

    /// Whether anything stands in it beside loc and lastmod.
    fn has_more(&self) -> bool {
        let lens = self.fields.iter().skip(Column::Lastmod as usize + 1).map(|field| field.len());
        // Without branches: it is asked of every row, and nearly always nothing is there.
        lens.fold(0, |all, len| all | len) > 0
    }
}

/// What rows are held against.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The site.
    pub base: BaseUrl,
    /// The zone of lastmod times that name none.
    pub lastmod_zone: Option<TimeZone>,
    /// The time of the run, in milliseconds since the epoch: a lastmod past it is flagged.
    pub now_ms: i64,
    /// Hosts beside base_url's whose pages may be listed, as in `m.example.com`.
    pub hosts: Vec<String>,
    /// How addresses are spelled.
    pub canonical: Canonical,
    /// Which rows belong to the sitemap.
    pub select: Select,
    /// Which rows belong to other sitemaps of the site: what none of them takes either is told apart.
    pub others: Vec<Select>,
    /// What news articles have in common.
    pub news: Publication,
    /// What the columns are called in the input.
    pub columns: Columns,
    /// Whether rows are sorted by their column `sort_key`, and not by their address.
    pub sort_key: bool,
}

/// The settings that shape rows, as a table of a site's settings or a file of their own: all may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// [`Policy::hosts`].
    pub hosts: Vec<String>,
    /// [`Policy::canonical`].
    pub canonical: Canonical,
    /// [`Policy::select`].
    pub select: Select,
    /// [`Policy::news`].
    pub news: Publication,
    /// [`Policy::columns`].
    pub columns: Columns,
    /// [`Policy::sort_key`].
    pub sort_key: bool,
    /// Search engines whose limits shards keep to.
    pub engines: Vec<Engine>,
}

impl Settings {
    /// Reads the settings in `text`, TOML.
    ///
    /// # Errors
    /// What the parser says, with the line.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// `limits`, made as small as the engines ask.
    #[must_use]
    pub fn narrow(&self, limits: Limits) -> Limits {
        self.engines.iter().fold(limits, |limits, engine| engine.narrow(limits))
    }
}

impl Policy {
    /// The policy with what `settings` say.
    #[must_use]
    pub fn with(self, settings: Settings) -> Self {
        let Settings { hosts, canonical, select, news, columns, sort_key, engines: _ } = settings;
        Self { hosts, canonical, select, news, columns, sort_key, ..self }
    }

    /// The policy of a site at `base` for a run at `now_ms`, of which nothing else is said.
    #[must_use]
    pub fn new(base: BaseUrl, now_ms: i64) -> Self {
        Self {
            base,
            lastmod_zone: None,
            now_ms,
            hosts: Vec::new(),
            canonical: Canonical::default(),
            select: Select::default(),
            others: Vec::new(),
            news: Publication::default(),
            columns: Columns::default(),
            sort_key: false,
        }
    }

    /// What rows are sorted by, as a manifest names it: the column, or `loc` for their address.
    #[must_use]
    pub fn sorted_by(&self) -> &str {
        if self.sort_key { self.columns.name(Column::SortKey) } else { BY_ADDRESS }
    }

    /// What makes an address of a loc.
    ///
    /// # Errors
    /// Where a host of the policy is none.
    pub fn addresses(&self) -> Result<Addresses, HostsError> {
        Addresses::new(&self.base, &self.hosts, &self.canonical)
    }

    /// All of it that shapes the rows of a sitemap, as text: equal texts and equal inputs give equal rows. The time is
    /// part of it only where rows are selected by it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let Self { base, lastmod_zone, now_ms, hosts, canonical, select, others: _, news, columns, sort_key } = self;
        let zone = lastmod_zone.as_ref().map(|zone| zone.iana_name().unwrap_or("fixed"));
        let now_ms = select.depends_on_time().then_some(now_ms);
        format!(
            "{} {} {zone:?} {now_ms:?} {hosts:?} {canonical:?} {select:?} {news:?} {columns:?} {sort_key}",
            row::ROW_FORMAT,
            base.as_str()
        )
    }
}

/// Turns rows into canonical rows, and keeps the account of those that are none.
#[derive(Debug)]
pub struct Gate {
    policy: Policy,
    addresses: Addresses,
    extensions: Extensions,
    /// See [`Gate::elsewhere`]; empty where there is none.
    elsewhere: Vec<u8>,
    /// Whether rows are selected by what they say.
    selects: bool,
    /// Whether nothing is asked of a row that only has an address and a lastmod.
    takes_plain: bool,
    /// The day after tomorrow, as text: a date that is not before it is in the future in every zone.
    future_from: String,
    /// The day before the run, as text.
    yesterday: String,
    /// Rows whose lastmod is not before that.
    moved: u64,
    ledger: Ledger,
}

impl Gate {
    /// A gate for `policy` that accounts in `ledger`.
    ///
    /// # Errors
    /// Where a host of the policy is none.
    pub fn new(policy: Policy, ledger: Ledger) -> Result<Self, HostsError> {
        const DAY_MS: i64 = 24 * 3600 * 1000;
        let addresses = policy.addresses()?;
        let day = |ms| {
            let at = jiff::Timestamp::from_millisecond(policy.now_ms.saturating_add(ms));
            at.map_or_else(|_| "9999-99-99".to_owned(), |at| format!("{}", at.strftime("%Y-%m-%d")))
        };
        let (future_from, yesterday) = (day(2 * DAY_MS), day(-DAY_MS));
        let extensions = Extensions::new(policy.base.clone());
        let selects = !policy.select.is_everything();
        let takes_plain = !selects && !policy.sort_key;
        Ok(Self {
            policy,
            addresses,
            extensions,
            elsewhere: Vec::new(),
            selects,
            takes_plain,
            future_from,
            yesterday,
            moved: 0,
            ledger,
        })
    }

    /// What the columns of the input are called.
    #[must_use]
    pub fn columns(&self) -> &Columns {
        &self.policy.columns
    }

    /// Appends `page` to `out` as a canonical row; false where it is none, which is then in the account, and `out` as it
    /// was.
    ///
    /// # Errors
    /// Where the rejects file cannot be written.
    pub fn admit(&mut self, page: &RawPage<'_>, out: &mut Vec<u8>) -> io::Result<bool> {
        let start = row::begin(out);
        let admitted = self.append(page, start, out)?;
        if !admitted {
            out.truncate(start);
        }
        Ok(admitted)
    }

    /// [`Gate::admit`] of a row as nearly all are in most lists: one that has nothing but a `loc`, in which nothing is
    /// [unusual](crate::loc::unusual), and a time in UTC or a date of before yesterday. False where it is not quite such a
    /// one, or more is asked of rows; then nothing was done.
    #[inline(always)]
    pub(crate) fn admit_plain(&mut self, loc: &[u8], lastmod: &[u8], out: &mut Vec<u8>) -> bool {
        if !self.takes_plain || !self.addresses.takes_plain(loc) || !is_before(lastmod, &self.yesterday) {
            return false;
        }
        if let Some(time) = lastmod::utc_seconds(lastmod) {
            row::append_plain(loc, time, out);
        } else if let Some(date) = lastmod::date(lastmod) {
            row::append_plain(loc, date, out);
        } else {
            return false;
        }
        self.ledger.report.input += 1;
        self.elsewhere.clear();
        self.extensions.versions.clear();
        true
    }

    /// Appends what comes behind the header at `start`, and fills that in; false where the page is no row.
    fn append(&mut self, page: &RawPage<'_>, start: usize, out: &mut Vec<u8>) -> io::Result<bool> {
        let (loc, lastmod) = (page.field(Column::Loc), page.field(Column::Lastmod));
        self.ledger.report.input += 1;
        self.elsewhere.clear();
        let unkeyed =
            if self.policy.sort_key { sort_key::append(page.field(Column::SortKey), out).err() } else { None };
        let loc_start = out.len();
        let entities = match self.addresses.resolve(loc, out) {
            Ok(entities) => entities,
            Err(fault) => {
                self.ledger.note(Outcome::Rejected, &fault.to_string(), page.line, loc, "")?;
                return Ok(false);
            }
        };
        let loc_end = out.len();
        // Most page lists have nothing beside loc and lastmod, and most sitemaps take every row.
        let more = page.has_more();
        if more && self.is_excluded(page)? {
            return Ok(false);
        }
        if self.selects
            && let Some(reason) = self.unselected(page, &out[loc_start..])
        {
            self.pass_by(page, &out[loc_start..], reason)?;
            return Ok(false);
        }
        if !lastmod.is_empty() {
            self.append_lastmod(lastmod, page.line, out)?;
        }
        if self.selects
            && let Some(reason) = self.policy.select.refuses_lastmod(&out[loc_end..], self.policy.now_ms)
        {
            self.pass_by(page, &out[loc_start..loc_end], reason)?;
            return Ok(false);
        }
        if let Some(reason) = unkeyed {
            self.ledger.note(Outcome::Flagged, reason, page.line, loc, "")?;
        }
        if !more && !self.policy.select.news {
            // All that anybody asks about a row that has none.
            self.extensions.versions.clear();
            row::finish(out, (start, loc_start..loc_end), entities, Changefreq::default(), b"");
            return Ok(true);
        }
        if self.extend(page, &out[loc_start..loc_end])? {
            return Ok(false);
        }
        self.finish_with_more(page, (start, loc_start..loc_end), entities, out)?;
        Ok(true)
    }

    /// Completes the row of a page that has more than loc and lastmod.
    #[inline(never)]
    fn finish_with_more(
        &mut self,
        page: &RawPage<'_>,
        (start, loc): (usize, Range<usize>),
        entities: bool,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        let (changefreq, priority) = (self.changefreq(page)?, self.priority(page)?);
        self.ledger.report.count_kind(page.field(Column::Kind));
        row::finish(out, (start, loc), entities, changefreq, &priority);
        if !self.extensions.xml.is_empty() {
            row::extend(out, start, &self.extensions.xml, self.extensions.spaces);
        }
        Ok(())
    }

    /// The address of the page that was seen last, where it is another sitemap's.
    pub(crate) fn elsewhere(&self) -> Option<&[u8]> {
        (!self.elsewhere.is_empty()).then_some(self.elsewhere.as_slice())
    }

    /// What the page that was seen last says of its versions in other languages.
    pub(crate) fn versions(&self) -> &Versions {
        &self.extensions.versions
    }

    /// Accounts for a version that was left out, of whatever row; `value` is its address.
    ///
    /// # Errors
    /// Where the rejects file cannot be written.
    pub(crate) fn version_dropped(&mut self, reason: &'static str, value: &[u8]) -> io::Result<()> {
        self.ledger.note(Outcome::Dropped, reason, 0, value, "")
    }

    /// Accounts for a row that passed and is not taken after all, since newer ones are there.
    ///
    /// # Errors
    /// Where the rejects file cannot be written.
    pub(crate) fn too_old(&mut self, reason: &'static str, loc: &[u8]) -> io::Result<()> {
        self.ledger.note(Outcome::Excluded, reason, 0, loc, "")
    }

    /// Reads the extensions of `page`; true where it is thereby not of this sitemap.
    #[inline(never)]
    fn extend(&mut self, page: &RawPage<'_>, loc: &[u8]) -> io::Result<bool> {
        self.extensions.read(page, loc, &self.addresses, &self.policy);
        for fault in &self.extensions.faults {
            self.ledger.note(Outcome::Dropped, fault.reason, page.line, fault.value.as_bytes(), "")?;
        }
        let given = page.field(Column::Loc);
        let reason = match self.extensions.news {
            State::None => "no news, and the sitemap is of news",
            State::Old => "news is older than two days",
            State::Recent => return Ok(false),
        };
        if self.policy.select.news {
            self.pass_by(page, loc, reason)?;
        } else if self.extensions.news == State::Old {
            self.ledger.note(
                Outcome::Flagged,
                "news is older than two days and left out of its row",
                page.line,
                given,
                "",
            )?;
        }
        Ok(self.policy.select.news)
    }

    /// Accounts for a row that could not even be read: `value` is what stood there.
    ///
    /// # Errors
    /// Where the rejects file cannot be written.
    pub fn refuse(&mut self, line: u64, problem: &str, value: &[u8], detail: &str) -> io::Result<()> {
        self.ledger.report.input += 1;
        self.ledger.note(Outcome::Rejected, problem, line, value, detail)
    }

    /// Accounts for duplicates that lost.
    pub fn duplicates(&mut self, count: u64) {
        self.ledger.report.duplicates += count;
    }

    /// Accounts for `urls` rows that went into the sitemap, and closes the account.
    ///
    /// # Errors
    /// Where the rejects file cannot be written.
    pub fn close(mut self, urls: u64) -> io::Result<crate::report::Report> {
        self.ledger.report.emitted = urls;
        let is_most = self.moved * 100 > urls * MOVED_PERCENT_MAX && self.moved >= MOVED_MIN;
        if is_most && !self.policy.select.is_window() {
            self.ledger.report.flag(MOVED, self.moved);
        }
        self.ledger.close()
    }

    /// Why a row, whose canonical address is `canonical`, is of another sitemap, as far as its columns tell.
    fn unselected(&self, page: &RawPage<'_>, canonical: &[u8]) -> Option<&'static str> {
        let (kind, locale) = (page.field(Column::Kind).trim_ascii(), page.field(Column::Locale).trim_ascii());
        let reason = self.policy.select.refuses(kind, locale, canonical)?;
        let mut others = self.policy.others.iter();
        let is_nobodys = others.len() > 0 && others.all(|other| other.refuses(kind, locale, canonical).is_some());
        Some(if is_nobodys { UNSELECTED } else { reason })
    }

    /// Accounts for a row that is another sitemap's, and keeps what it says of its versions: pages of this one may be among
    /// them.
    fn pass_by(&mut self, page: &RawPage<'_>, canonical: &[u8], reason: &'static str) -> io::Result<()> {
        self.extensions.read_versions(page, canonical, &self.addresses);
        self.elsewhere.extend_from_slice(canonical);
        self.ledger.note(Outcome::Excluded, reason, page.line, page.field(Column::Loc), "")
    }

    /// Whether a row says that it is not to be indexed.
    #[inline(never)]
    fn is_excluded(&mut self, page: &RawPage<'_>) -> io::Result<bool> {
        let (line, loc) = (page.line, page.field(Column::Loc));
        let (index, status) = (page.field(Column::Index).trim_ascii(), page.field(Column::Status).trim_ascii());
        let word = |text: &[u8], words: &[&str]| words.iter().any(|w| w.as_bytes().eq_ignore_ascii_case(text));
        if word(index, &["no", "false", "0", "n", "f", "noindex"]) {
            self.ledger.note(Outcome::Excluded, "index is no", line, loc, "")?;
            return Ok(true);
        }
        if !index.is_empty() && !word(index, &["yes", "true", "1", "y", "t", "index"]) {
            self.ledger.note(Outcome::Flagged, "index is neither yes nor no", line, index, "")?;
        }
        // As tables write numbers: `404.0`.
        let status = status.strip_suffix(b".0").unwrap_or(status);
        let reason = match status {
            b"404" => "status 404",
            b"410" => "status 410",
            [b'3', a, b] if a.is_ascii_digit() && b.is_ascii_digit() => "status is a redirect",
            other if word(other, &["redirect"]) => "status is a redirect",
            b"" | [b'1' | b'2' | b'4' | b'5', _, _] => return Ok(false),
            _ => {
                self.ledger.note(Outcome::Flagged, "status is no HTTP status", line, status, "")?;
                return Ok(false);
            }
        };
        self.ledger.note(Outcome::Excluded, reason, line, loc, "")?;
        Ok(true)
    }

    fn append_lastmod(&mut self, text: &[u8], line: u64, out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        let outcome = lastmod::canonical(text, self.policy.lastmod_zone.as_ref(), out).and_then(|()| {
            if out.len() - start > lastmod::LASTMOD_BYTES_MAX { Err(LastmodFault::Form) } else { Ok(()) }
        });
        if let Err(fault) = outcome {
            out.truncate(start);
            return self.ledger.note(Outcome::Dropped, &fault.to_string(), line, text, "");
        }
        if !is_before(&out[start..], &self.future_from) {
            self.ledger.note(Outcome::Flagged, "lastmod is in the future", line, text, "")?;
        }
        if !is_before(&out[start..], &self.yesterday) {
            self.moved += 1;
        }
        Ok(())
    }

    fn changefreq(&mut self, page: &RawPage<'_>) -> io::Result<Changefreq> {
        let text = page.field(Column::Changefreq);
        if let Some(changefreq) = Changefreq::parse(text.trim_ascii()) {
            return Ok(changefreq);
        }
        if !text.is_empty() {
            self.ledger.note(Outcome::Dropped, "changefreq is not one of the seven words", page.line, text, "")?;
        }
        Ok(Changefreq::default())
    }

    fn priority<'a>(&mut self, page: &RawPage<'a>) -> io::Result<Cow<'a, [u8]>> {
        let text = page.field(Column::Priority);
        let trimmed = text.trim_ascii();
        if is_priority(trimmed) {
            return Ok(Cow::Borrowed(trimmed));
        }
        if let Some(rounded) = std::str::from_utf8(trimmed).ok().and_then(rounded) {
            return Ok(Cow::Owned(rounded.into_bytes()));
        }
        if !text.is_empty() {
            self.ledger.note(Outcome::Dropped, "priority is not a number from 0.0 to 1.0", page.line, text, "")?;
        }
        Ok(Cow::Borrowed(b""))
    }
}

/// A number from 0 to 1 however it is written, to four digits: as tables of floating-point numbers give it.
fn rounded(text: &str) -> Option<String> {
    let number: f64 = text.parse().ok().filter(|number| (0.0..=1.0).contains(number))?;
    let text = format!("{:.4}", number.abs());
    let text = text.trim_end_matches('0');
    Some(if text.ends_with('.') { format!("{text}0") } else { text.to_owned() })
}

/// A decimal number from 0 to 1 of at most eight characters.
pub(crate) fn is_priority(text: &[u8]) -> bool {
    let (whole, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b"0"[..]),
    };
    let digits = !fraction.is_empty() && fraction.iter().all(u8::is_ascii_digit);
    let in_range = whole == b"0" || (whole == b"1" && fraction.iter().all(|b| *b == b'0'));
    text.len() <= 8 && digits && in_range
}

/// Whether `lastmod` is of before `day`.
#[inline(always)]
fn is_before(lastmod: &[u8], day: &str) -> bool {
    // The first eight bytes, as one number, tell it of nearly every time.
    let month = |text: &[u8]| text.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
    month(lastmod) < month(day.as_bytes()) || *lastmod < *day.as_bytes()
}

#[cfg(test)]
mod tests;
