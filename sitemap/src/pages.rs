//! From a row as it was read to a canonical row, or to the reason why there is none.
//!
//! Every source (files, Athena) hands its rows to a [`Gate`], which is the only place that decides what becomes of one.

use crate::lastmod::{self, LastmodFault};
use crate::loc::BaseUrl;
use crate::report::{Ledger, Outcome};
use crate::row::{self, Changefreq};
use jiff::tz::TimeZone;
use std::io;

/// The columns that a page list may have; others are ignored.
pub const COLUMNS: [&str; 6] = ["loc", "lastmod", "changefreq", "priority", "index", "status"];

/// A row as it was read. An empty field is an absent one.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawPage<'a> {
    /// The fields, in the order of [`COLUMNS`].
    pub fields: [&'a [u8]; COLUMNS.len()],
    /// The line of the file (in Parquet and Athena the row), from 1.
    pub line: u64,
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
}

/// Turns rows into canonical rows, and keeps the account of those that are none.
#[derive(Debug)]
pub struct Gate {
    policy: Policy,
    /// The day after tomorrow, as text: a date that is not before it is in the future in every zone.
    future_from: String,
    ledger: Ledger,
}

impl Gate {
    /// A gate for `policy` that accounts in `ledger`.
    #[must_use]
    pub fn new(policy: Policy, ledger: Ledger) -> Self {
        const TWO_DAYS_MS: i64 = 2 * 24 * 3600 * 1000;
        let future = jiff::Timestamp::from_millisecond(policy.now_ms.saturating_add(TWO_DAYS_MS));
        let future_from = future.map_or_else(|_| "9999-99-99".to_owned(), |at| format!("{}", at.strftime("%Y-%m-%d")));
        Self { policy, future_from, ledger }
    }

    /// Makes `page` a canonical row in `out`; false where it is none, which is then in the account.
    ///
    /// # Errors
    /// Where the rejects file cannot be written.
    pub fn admit(&mut self, page: &RawPage<'_>, out: &mut Vec<u8>) -> io::Result<bool> {
        let [loc, lastmod, changefreq, priority, index, status] = page.fields;
        self.ledger.report.input += 1;
        row::begin(out);
        let entities = match self.policy.base.resolve(loc, out) {
            Ok(entities) => entities,
            Err(fault) => {
                self.ledger.note(Outcome::Rejected, &fault.to_string(), page.line, loc, "")?;
                return Ok(false);
            }
        };
        if (!index.is_empty() || !status.is_empty()) && self.is_excluded(loc, index, status, page.line)? {
            return Ok(false);
        }
        let loc_end = out.len();
        if !lastmod.is_empty() {
            self.append_lastmod(lastmod, page.line, out)?;
        }
        let changefreq = if changefreq.is_empty() { Changefreq::default() } else { self.changefreq(changefreq, page)? };
        let priority = if priority.is_empty() { priority } else { self.priority(priority, page)? };
        row::finish(out, loc_end, entities, changefreq, priority);
        Ok(true)
    }

    /// Accounts for a row that could not even be read: `value` is what stood there.
    ///
    /// # Errors
    /// Where the rejects file cannot be written.
    pub fn refuse(&mut self, line: u64, problem: &str, value: &[u8], detail: &str) -> io::Result<()> {
        self.ledger.report.input += 1;
        self.ledger.note(Outcome::Rejected, problem, line, value, detail)
    }

    /// Accounts for a duplicate that lost.
    pub fn duplicate(&mut self) {
        self.ledger.report.duplicates += 1;
    }

    /// Accounts for `urls` rows that went into the sitemap, and closes the account.
    ///
    /// # Errors
    /// Where the rejects file cannot be written.
    pub fn close(mut self, urls: u64) -> io::Result<crate::report::Report> {
        self.ledger.report.emitted = urls;
        self.ledger.close()
    }

    fn is_excluded(&mut self, loc: &[u8], index: &[u8], status: &[u8], line: u64) -> io::Result<bool> {
        let word = |text: &[u8], words: &[&str]| words.iter().any(|w| w.as_bytes().eq_ignore_ascii_case(text));
        if word(index, &["no", "false", "0", "n", "f", "noindex"]) {
            self.ledger.note(Outcome::Excluded, "index is no", line, loc, "")?;
            return Ok(true);
        }
        if !index.is_empty() && !word(index, &["yes", "true", "1", "y", "t", "index"]) {
            self.ledger.note(Outcome::Flagged, "index is neither yes nor no", line, index, "")?;
        }
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
        // The first eight bytes, as one number, tell of nearly every time that it is past.
        let month = |text: &[u8]| text.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
        if month(&out[start..]) >= month(self.future_from.as_bytes()) && out[start..] >= *self.future_from.as_bytes() {
            self.ledger.note(Outcome::Flagged, "lastmod is in the future", line, text, "")?;
        }
        Ok(())
    }

    fn changefreq(&mut self, text: &[u8], page: &RawPage<'_>) -> io::Result<Changefreq> {
        if let Some(changefreq) = Changefreq::parse(text.trim_ascii()) {
            return Ok(changefreq);
        }
        self.ledger.note(Outcome::Dropped, "changefreq is not one of the seven words", page.line, text, "")?;
        Ok(Changefreq::default())
    }

    fn priority<'a>(&mut self, text: &'a [u8], page: &RawPage<'_>) -> io::Result<&'a [u8]> {
        let trimmed = text.trim_ascii();
        if is_priority(trimmed) {
            return Ok(trimmed);
        }
        self.ledger.note(Outcome::Dropped, "priority is not a number from 0.0 to 1.0", page.line, text, "")?;
        Ok(b"")
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Row;

    fn gate(zone: Option<&str>) -> Gate {
        let policy = Policy {
            base: BaseUrl::parse("https://example.com").unwrap(),
            lastmod_zone: zone.map(|name| TimeZone::get(name).unwrap()),
            now_ms: 1_763_800_000_000,
        };
        Gate::new(policy, Ledger::new(Box::new(io::sink())))
    }

    fn fields(fields: [&str; 6]) -> RawPage<'_> {
        RawPage { fields: fields.map(str::as_bytes), line: 2 }
    }

    #[test]
    fn a_bad_field_is_dropped_and_its_row_stays() {
        let (mut gate, mut out) = (gate(None), Vec::new());
        assert!(gate.admit(&fields(["/abcdef", "2025-13-01", "sometimes", "1.1", "", ""]), &mut out).unwrap());
        let row = Row::first(&out).unwrap();
        assert_eq!(row.loc(), b"https://example.com/abcdef");
        assert!(row.lastmod().is_empty() && row.changefreq().is_empty() && row.priority().is_empty());
        let report = gate.close(1).unwrap();
        assert_eq!(report.dropped.values().sum::<u64>(), 3);
        assert!(report.adds_up() && report.rejected.is_empty());
    }

    #[test]
    fn what_is_not_to_be_indexed_is_excluded_and_counted() {
        let (mut gate, mut out) = (gate(None), Vec::new());
        let cases = [("no", ""), ("FALSE", ""), ("", "404"), ("", "410"), ("", "301"), ("yes", "redirect")];
        for (index, status) in cases {
            assert!(!gate.admit(&fields(["/abcdef", "", "", "", index, status]), &mut out).unwrap());
        }
        for (index, status) in [("yes", "200"), ("", "500"), ("maybe", "soon")] {
            assert!(gate.admit(&fields(["/abcdef", "", "", "", index, status]), &mut out).unwrap());
        }
        let report = gate.close(3).unwrap();
        assert_eq!((report.excluded_total(), report.flagged.values().sum::<u64>()), (6, 2));
        assert!(report.adds_up());
    }

    #[test]
    fn a_future_lastmod_is_flagged_and_kept() {
        let (mut gate, mut out) = (gate(None), Vec::new());
        for lastmod in ["2025-11-22", "2025-11-23T23:00:00Z", "2025-11-24", "2040-01-01T00:00:00Z"] {
            assert!(gate.admit(&fields(["/abcdef", lastmod, "", "", "", ""]), &mut out).unwrap());
            assert_eq!(Row::first(&out).unwrap().lastmod(), lastmod.as_bytes());
        }
        assert_eq!(gate.close(4).unwrap().flagged.values().sum::<u64>(), 2);
    }

    #[test]
    fn priorities_are_decimals_from_zero_to_one() {
        for good in ["0", "1", "0.5", "1.0", "0.85", "1.00"] {
            assert!(is_priority(good.as_bytes()), "{good}");
        }
        for bad in ["", ".5", "1.", "1.1", "-0.1", "2", "0,5", "1e-1", "0.1234567"] {
            assert!(!is_priority(bad.as_bytes()), "{bad}");
        }
    }
}
