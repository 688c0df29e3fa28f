//! What a value of a Parquet file means as the text that it is in every other format.

use crate::lastmod;
use parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type as PhysicalType};
use parquet::data_type::Int96;
use parquet::errors::ParquetError;
use parquet::schema::types::Type;

/// Digits of decimals that are read: those of Athena, Spark and DuckDB have no more.
const DECIMAL_DIGITS_MAX: i32 = 38;

/// How a number of a column becomes text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Plain,
    Days,
    /// Microseconds are the number times the first, divided by the second; UTC or without zone.
    Time {
        times: i64,
        over: i64,
        utc: bool,
    },
    /// The number has so many digits behind the point.
    Decimal {
        scale: usize,
    },
}

/// # Errors
/// Where the values of a leaf, which lies at `path`, are decimals that are too long to be read.
pub(super) fn check_decimal(leaf: &Type, path: &str) -> Result<(), ParquetError> {
    if leaf.get_precision() > DECIMAL_DIGITS_MAX {
        let problem = format!("column {path} has decimals of more than {DECIMAL_DIGITS_MAX} digits");
        return Err(ParquetError::General(problem));
    }
    Ok(())
}

/// What the numbers of a leaf mean; those of an INT96 are taken to be milliseconds.
pub(super) fn meaning(leaf: &Type) -> Meaning {
    let info = leaf.get_basic_info();
    match (info.logical_type_ref(), info.converted_type()) {
        _ if leaf.get_physical_type() == PhysicalType::INT96 => Meaning::Time { times: 1000, over: 1, utc: false },
        (Some(LogicalType::Date), _) | (None, ConvertedType::DATE) => Meaning::Days,
        (Some(LogicalType::Timestamp(time)), _) => {
            let (times, over) = match time.unit {
                TimeUnit::MILLIS => (1000, 1),
                TimeUnit::MICROS => (1, 1),
                TimeUnit::NANOS => (1, 1000),
            };
            Meaning::Time { times, over, utc: time.is_adjusted_to_u_t_c }
        }
        // The older annotations mean UTC by the format's own rules.
        (None, ConvertedType::TIMESTAMP_MILLIS) => Meaning::Time { times: 1000, over: 1, utc: true },
        (None, ConvertedType::TIMESTAMP_MICROS) => Meaning::Time { times: 1, over: 1, utc: true },
        (Some(LogicalType::Decimal(_)), _) | (None, ConvertedType::DECIMAL) => {
            Meaning::Decimal { scale: leaf.get_scale().unsigned_abs() as usize }
        }
        _ => Meaning::Plain,
    }
}

pub(super) fn write_bytes(bytes: &[u8], meaning: Meaning, out: &mut Vec<u8>) {
    match meaning {
        Meaning::Decimal { scale } => write_decimal(bytes, scale, out),
        _ => out.extend_from_slice(bytes),
    }
}

/// Writes a decimal, given as a two's complement that begins with its highest byte, without zeros at its end.
pub(super) fn write_decimal(bytes: &[u8], scale: usize, out: &mut Vec<u8>) {
    let sign = if bytes.first().is_some_and(|byte| byte & 0x80 != 0) { -1 } else { 0 };
    let unscaled = bytes.iter().fold(sign, |value, byte| (value << 8) | i128::from(*byte));
    let digits = format!("{:0>1$}", unscaled.unsigned_abs(), scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let fraction = fraction.trim_end_matches('0');
    if unscaled < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(whole.as_bytes());
    if !fraction.is_empty() {
        out.push(b'.');
        out.extend_from_slice(fraction.as_bytes());
    }
}

pub(super) fn write_number(value: i64, meaning: Meaning, out: &mut Vec<u8>) {
    const DAY_MICROS: i64 = 86_400_000_000;
    match meaning {
        Meaning::Plain => out.extend_from_slice(value.to_string().as_bytes()),
        Meaning::Decimal { scale } => write_decimal(&value.to_be_bytes(), scale, out),
        Meaning::Days => write_time(value.saturating_mul(DAY_MICROS), 10, out),
        Meaning::Time { times, over, utc } => {
            let micros = value.saturating_mul(times).div_euclid(over);
            write_time(micros, if utc { usize::MAX } else { 0 }, out);
        }
    }
}

/// INT96, the old timestamp of Hive and Spark: nanoseconds of the day and a Julian day, without a zone.
pub(super) fn write_int96(value: &Int96, out: &mut Vec<u8>) {
    write_time(value.to_micros(), 0, out);
}

/// Writes a time: whole with `Z` (`keep` is `usize::MAX`), without its zone (0), or its first `keep` characters.
/// What no calendar has is written as its number, for the account of dropped fields to show.
fn write_time(micros: i64, keep: usize, out: &mut Vec<u8>) {
    let start = out.len();
    if lastmod::from_instant(micros, out).is_err() {
        out.extend_from_slice(micros.to_string().as_bytes());
        return;
    }
    match keep {
        usize::MAX => {}
        0 => out.truncate(out.len() - 1),
        keep => out.truncate(start + keep),
    }
}
