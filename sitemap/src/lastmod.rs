//! Times of last change: which forms a sitemap may carry, and which of two is newer.
//!
//! Promises: a valid form passes unchanged; what can be put into a valid form without guessing is; everything else is
//! refused and never replaced by an invented time. Valid are `YYYY-MM-DD` and a full time to the second with a zone
//! (sitemaps.org by way of W3C Datetime, narrowed to what its schema takes).

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use std::fmt;

/// Longest text that a canonical lastmod can be, in bytes.
pub const LASTMOD_BYTES_MAX: usize = 40;
/// Length of a date.
const DATE_BYTES: usize = 10;
/// Length of a time to the second in UTC, as in `2025-11-22T08:26:40Z`.
pub(crate) const UTC_SECONDS_BYTES: usize = 20;

/// Why a lastmod cannot stand in a sitemap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LastmodFault {
    /// Not a date or time in a form that is known.
    Form,
    /// A time without a zone, and no zone was set for such times.
    NoZone,
}

impl fmt::Display for LastmodFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "lastmod is not YYYY-MM-DD or a full time with a zone",
            Self::NoZone => "lastmod is a time without a zone, and lastmod_zone is not set",
        })
    }
}

/// Appends to `out` the canonical form of `text`; a zoneless time is taken to be in `zone`.
///
/// # Errors
/// The [`LastmodFault`]; `out` is then unchanged.
#[inline]
pub fn canonical(text: &[u8], zone: Option<&TimeZone>, out: &mut Vec<u8>) -> Result<(), LastmodFault> {
    if let Some(text) = utc_seconds(text) {
        // A copy of a size that the compiler knows.
        out.extend_from_slice(text);
        return Ok(());
    }
    if let Some(text) = date(text) {
        out.extend_from_slice(text);
        return Ok(());
    }
    canonical_any(text, zone).map(|canonical| out.extend_from_slice(canonical.as_bytes()))
}

/// Appends the canonical form of a time that is known as an instant, in microseconds since the epoch.
///
/// # Errors
/// [`LastmodFault::Form`] where no calendar has that time.
pub fn from_instant(micros: i64, out: &mut Vec<u8>) -> Result<(), LastmodFault> {
    let at = Timestamp::from_microsecond(micros).map_err(|_| LastmodFault::Form)?;
    let text = format!("{at}");
    if text.len() > LASTMOD_BYTES_MAX || text.starts_with(['-', '+']) || text.starts_with("0000") {
        return Err(LastmodFault::Form);
    }
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// The instant that a canonical form stands for; a date counts as its first moment in UTC.
#[must_use]
pub fn instant(canonical: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(canonical).ok()?;
    if text.len() == 10 {
        return text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    }
    text.parse().ok()
}

/// When a canonical lastmod is over, in milliseconds since the epoch: a date without a time lasts to its end.
pub(crate) fn end_ms(canonical: &[u8]) -> Option<i64> {
    const DAY_MS: i64 = 24 * 3_600_000;
    let at_ms = instant(canonical)?.as_millisecond();
    Some(if canonical.len() == 10 { at_ms + DAY_MS } else { at_ms })
}

/// Any other form.
#[inline(never)]
fn canonical_any(text: &[u8], zone: Option<&TimeZone>) -> Result<String, LastmodFault> {
    let text = std::str::from_utf8(text).map_err(|_| LastmodFault::Form)?.trim();
    let bytes = text.as_bytes();
    if bytes.len() > 64 || bytes.len() < DATE_BYTES || date(&bytes[..DATE_BYTES]).is_none() {
        return Err(LastmodFault::Form);
    }
    if bytes.len() == 10 {
        return Ok(text.to_owned());
    }
    let time = text[10..].strip_prefix(['T', 't', ' ']).ok_or(LastmodFault::Form)?;
    let clock_end = time.find(|c: char| !(c.is_ascii_digit() || matches!(c, ':' | '.'))).unwrap_or(time.len());
    let (clock, zone_text) = time.split_at(clock_end);
    let (seconds, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let pieces: Vec<&str> = seconds.split(':').collect();
    if !(2..=3).contains(&pieces.len()) || pieces.iter().any(|piece| piece.len() != 2) || fraction.len() > 9 {
        return Err(LastmodFault::Form);
    }
    // W3C Datetime has minutes without seconds, the schema has not: the second is then the first of its minute.
    let second = pieces.get(2).copied().unwrap_or("00");
    let local = format!("{}T{}:{}:{second}", &text[..10], pieces[0], pieces[1]);
    // A leap second is no time to a computer, and 24:00 is another day's 00:00.
    let civil: DateTime = local.parse().map_err(|_| LastmodFault::Form)?;
    if second == "60" {
        return Err(LastmodFault::Form);
    }
    let fraction = if fraction.bytes().all(|b| b == b'0') { String::new() } else { format!(".{fraction}") };
    let zone_text = zone_text.trim();
    let suffix = match zone_text {
        "" => offset(&zone.ok_or(LastmodFault::NoZone)?.to_ambiguous_zoned(civil).compatible())?,
        "Z" | "z" | "UTC" | "GMT" => "Z".to_owned(),
        named if named.starts_with(char::is_alphabetic) => {
            let zone = TimeZone::get(named).map_err(|_| LastmodFault::Form)?;
            offset(&zone.to_ambiguous_zoned(civil).compatible())?
        }
        given => numeric_offset(given)?,
    };
    Ok(format!("{local}{fraction}{suffix}"))
}

fn offset(zoned: &Result<Zoned, jiff::Error>) -> Result<String, LastmodFault> {
    let seconds = zoned.as_ref().map_err(|_| LastmodFault::Form)?.offset().seconds();
    if seconds == 0 {
        return Ok("Z".to_owned());
    }
    let sign = if seconds < 0 { '-' } else { '+' };
    let minutes = seconds.abs() / 60;
    Ok(format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60))
}

/// `+hh:mm`, and what is near it (`+hhmm`, `+hh`), within the 14 hours that exist.
fn numeric_offset(given: &str) -> Result<String, LastmodFault> {
    // Cut below by bytes.
    let (sign, digits) = given.split_at_checked(1).filter(|_| given.is_ascii()).ok_or(LastmodFault::Form)?;
    let (hours, minutes) = match digits.as_bytes() {
        [_, _, b':', _, _] => (&digits[..2], &digits[3..]),
        [_, _, _, _] => digits.split_at(2),
        [_, _] => (digits, "00"),
        _ => return Err(LastmodFault::Form),
    };
    if !matches!(sign, "+" | "-") || !hours.bytes().chain(minutes.bytes()).all(|b| b.is_ascii_digit()) {
        return Err(LastmodFault::Form);
    }
    let number = |text: &str| text.parse::<u16>().map_err(|_| LastmodFault::Form);
    if number(minutes)? > 59 || number(hours)? * 60 + number(minutes)? > 14 * 60 {
        return Err(LastmodFault::Form);
    }
    Ok(format!("{sign}{hours}:{minutes}"))
}

/// The text where it is `YYYY-MM-DD` of a day that exists.
#[inline(always)]
pub(crate) fn date(text: &[u8]) -> Option<&[u8; DATE_BYTES]> {
    let text = <&[u8; DATE_BYTES]>::try_from(text).ok()?;
    (fits(text, b"0000-00-00", b"9999-19-39") && is_day(text)).then_some(text)
}

/// The text where it is `YYYY-MM-DDTHH:MM:SSZ` of a second that exists: what most page lists carry.
#[inline(always)]
pub(crate) fn utc_seconds(text: &[u8]) -> Option<&[u8; UTC_SECONDS_BYTES]> {
    let text = <&[u8; UTC_SECONDS_BYTES]>::try_from(text).ok()?;
    let is_time = fits(text, b"0000-00-00T00:00:00Z", b"9999-19-39T29:59:59Z")
        && two(text[11], text[12]) <= two(b'2', b'3')
        && text.first_chunk::<DATE_BYTES>().is_some_and(is_day);
    is_time.then_some(text)
}

/// Whether every byte is one from `low` to `high` there: a digit, or the one that both have. Eight at a time.
#[inline(always)]
fn fits<const N: usize>(text: &[u8; N], low: &[u8; N], high: &[u8; N]) -> bool {
    const { assert!(8 <= N && N <= 24, "three times eight bytes are looked at") };
    const HIGHEST_BITS: u64 = u64::from_ne_bytes([0x80; 8]);
    let word = |bytes: &[u8; N], at: usize| bytes[at..].first_chunk().map_or(0, |word| u64::from_ne_bytes(*word));
    let wrong = |at| {
        // What a digit is above 0, and 0 of the byte itself. More than `high` is makes the highest bit.
        let over = word(text, at) ^ word(low, at);
        over | over.wrapping_add(!HIGHEST_BITS - (word(high, at) ^ word(low, at)))
    };
    (wrong(0) | wrong((N - 8) / 2) | wrong(N - 8)) & HIGHEST_BITS == 0
}

/// Two digits as a number that is compared like them.
#[inline(always)]
const fn two(first: u8, second: u8) -> u16 {
    u16::from_be_bytes([first, second])
}

/// Whether digits in the places of a date are a day that exists.
#[inline(always)]
fn is_day(text: &[u8; 10]) -> bool {
    let [y1, y2, y3, y4, _, m1, m2, _, d1, d2] = *text;
    let (month, day) = (two(m1, m2), two(d1, d2));
    let is_in_every_month = day <= two(b'2', b'8');
    two(y1, y2) | two(y3, y4) != two(b'0', b'0')
        && month.wrapping_sub(two(b'0', b'1')) <= two(b'1', b'2') - two(b'0', b'1')
        && day >= two(b'0', b'1')
        && (is_in_every_month || day <= last_day([y1, y2, y3, y4], month))
}

fn last_day(year: [u8; 4], month: u16) -> u16 {
    let year = year.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match &month.to_be_bytes() {
        b"02" if is_leap => two(b'2', b'9'),
        b"02" => two(b'2', b'8'),
        b"04" | b"06" | b"09" | b"11" => two(b'3', b'0'),
        _ => two(b'3', b'1'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str, zone: Option<&str>) -> Result<String, LastmodFault> {
        let zone = zone.map(|name| TimeZone::get(name).unwrap());
        let mut out = Vec::new();
        canonical(text.as_bytes(), zone.as_ref(), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn valid_forms_pass_unchanged() {
        for text in [
            "2025-11-22",
            "2024-02-29",
            "2025-11-22T10:11:12Z",
            "2025-11-22T10:11:12+09:00",
            "2025-11-22T10:11:12.5-03:30",
        ] {
            assert_eq!(of(text, None).as_deref(), Ok(text));
        }
    }

    #[test]
    fn what_needs_no_guess_is_put_into_form() {
        let cases = [
            ("2025-11-22 10:11:12.000 UTC", "2025-11-22T10:11:12Z"),
            ("2025-11-22 10:11:12.250 Asia/Seoul", "2025-11-22T10:11:12.250+09:00"),
            ("2025-11-22T10:11+01:00", "2025-11-22T10:11:00+01:00"),
            ("2025-11-22 10:11:12+0100", "2025-11-22T10:11:12+01:00"),
            ("2025-11-22t10:11:12z", "2025-11-22T10:11:12Z"),
            (" 2025-11-22 ", "2025-11-22"),
        ];
        for (given, wanted) in cases {
            assert_eq!(of(given, None).as_deref(), Ok(wanted), "{given}");
        }
    }

    #[test]
    fn a_zoneless_time_needs_a_zone() {
        assert_eq!(of("2025-07-01 10:00:00.000", None), Err(LastmodFault::NoZone));
        assert_eq!(of("2025-07-01 10:00:00.000", Some("UTC")).as_deref(), Ok("2025-07-01T10:00:00Z"));
        assert_eq!(of("2025-07-01T10:00:00", Some("Europe/Berlin")).as_deref(), Ok("2025-07-01T10:00:00+02:00"));
        assert_eq!(of("2025-12-01T10:00:00", Some("Europe/Berlin")).as_deref(), Ok("2025-12-01T10:00:00+01:00"));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "yesterday",
            "2025-02-29",
            "2025-13-01",
            "2025-00-10",
            "2025-11-31",
            "0000-01-01",
            "2025-11-22T24:00:00Z",
            "2025-11-22T10:60:00Z",
            "2025-11-22T10:11:60Z",
            "2025-11-22T10:11:12+15:00",
            "2025-11-22T10:11:12 Moon/Sea",
            "22.11.2025",
            "2025-11",
            "1763800000",
            "2025-11-22T10Z",
            "2025-11-22T1:1:1Z",
            "2025-11-22é",
            "2025-11-22 08:26 (土)",
            "2025-11-22 08:26:00+aéb",
            "2025-11-22 08:26:00+😀",
        ] {
            assert_eq!(of(text, Some("UTC")), Err(LastmodFault::Form), "{text}");
        }
    }

    #[test]
    fn newer_is_by_instant_not_by_text() {
        let east = instant(b"2025-11-22T10:00:00+09:00").unwrap();
        let utc = instant(b"2025-11-22T02:00:00Z").unwrap();
        assert!(utc > east);
        assert!(instant(b"2025-11-22").unwrap() < east.max(utc));
    }

    #[test]
    fn an_instant_becomes_utc() {
        let mut out = Vec::new();
        from_instant(1_763_800_000_000_000, &mut out).unwrap();
        assert_eq!(out, b"2025-11-22T08:26:40Z");
        assert_eq!(from_instant(i64::MIN, &mut Vec::new()), Err(LastmodFault::Form));
    }

    #[test]
    fn the_short_way_takes_what_a_calendar_takes() {
        for year in ["0000", "0001", "1900", "2000", "2023", "2024", "9999"] {
            for (month, day) in (0..20).flat_map(|month| (0..40).map(move |day| (month, day))) {
                let day = format!("{year}-{month:02}-{day:02}");
                let exists = day.parse::<Date>().is_ok() && year != "0000";
                assert_eq!(date(day.as_bytes()).is_some(), exists, "{day}");
                let time = format!("{day}T23:59:59Z").into_bytes();
                assert_eq!(utc_seconds(&time).is_some(), exists, "{day}");
            }
        }
        // Every byte in every place of a text that is none else.
        let good = *b"2025-11-22T08:26:40Z";
        for (at, byte) in (0..good.len()).flat_map(|at| (0..=u8::MAX).map(move |byte| (at, byte))) {
            let mut text = good;
            text[at] = byte;
            let is_form =
                byte.is_ascii_digit() == good[at].is_ascii_digit() && (byte.is_ascii_digit() || byte == good[at]);
            let exists = std::str::from_utf8(&text).is_ok_and(|text| text.parse::<Timestamp>().is_ok());
            assert_eq!(
                utc_seconds(&text).is_some(),
                is_form && exists && text[17] < b'6',
                "{}",
                String::from_utf8_lossy(&text)
            );
            if at < 10 {
                assert_eq!(date(&text[..10]).is_some(), is_form && exists, "{}", String::from_utf8_lossy(&text));
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_out_is_a_fixed_point_and_an_instant(text in "20[0-9]{2}-[01][0-9]-[0-3][0-9]([T ][0-2][0-9]:[0-5][0-9](:[0-6][0-9](\\.[0-9]{1,3})?)?(Z|[+-][01][0-9]:?[0-5][0-9]| UTC| ?[+(]\\PC{1,5})?)?") {
            if let Ok(first) = of(&text, Some("UTC")) {
                let again = of(&first, None);
                prop_assert_eq!(again.as_ref(), Ok(&first));
                prop_assert!(instant(first.as_bytes()).is_some(), "{}", first);
            }
        }
    }
}
