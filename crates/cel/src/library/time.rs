//! Timestamps and durations: reading, writing, arithmetic, and their parts in a time zone.
//!
//! Counterpart: cel-go's `types/timestamp.go` and `duration.go`, Go's `time.ParseDuration`.
//! Invariant: durations are within 64 bits of nanoseconds.

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};

use super::{Args, Row, no_overload, row};
use crate::error::EvalError;
use crate::value::{Evaluated, Timestamp, Value};

const SECOND: i64 = 1_000_000_000;

macro_rules! parts {
    ($($name:literal $id:literal $with_zone:literal $part:expr;)*) => {
        pub(super) const TABLE: &[Row] = &[
            $(
                row($name, $id, "timestamp.() -> int", |args| timestamp_part(args, $part)),
                row($name, $with_zone, "timestamp.(string) -> int", |args| timestamp_part(args, $part)),
            )*
            row("getHours", "duration_to_hours", "duration.() -> int", |args| {
                duration_part(args, 3600 * SECOND)
            }),
            row("getMinutes", "duration_to_minutes", "duration.() -> int", |args| {
                duration_part(args, 60 * SECOND)
            }),
            row("getSeconds", "duration_to_seconds", "duration.() -> int", |args| {
                duration_part(args, SECOND)
            }),
            row("getMilliseconds", "duration_to_milliseconds", "duration.() -> int", |args| {
                duration_part(args, SECOND / 1000)
            }),
        ];
    };
}

parts! {
    "getFullYear" "timestamp_to_year" "timestamp_to_year_with_tz" |at| i64::from(at.year());
    "getMonth" "timestamp_to_month" "timestamp_to_month_with_tz" |at| i64::from(at.month()) - 1;
    "getDayOfYear" "timestamp_to_day_of_year" "timestamp_to_day_of_year_with_tz"
        |at| i64::from(at.day_of_year()) - 1;
    "getDayOfMonth" "timestamp_to_day_of_month" "timestamp_to_day_of_month_with_tz"
        |at| i64::from(at.day()) - 1;
    "getDate" "timestamp_to_day_of_month_1_based" "timestamp_to_day_of_month_1_based_with_tz"
        |at| i64::from(at.day());
    "getDayOfWeek" "timestamp_to_day_of_week" "timestamp_to_day_of_week_with_tz"
        |at| i64::from(at.weekday().to_sunday_zero_offset());
    "getHours" "timestamp_to_hours" "timestamp_to_hours_with_tz" |at| i64::from(at.hour());
    "getMinutes" "timestamp_to_minutes" "timestamp_to_minutes_with_tz" |at| i64::from(at.minute());
    "getSeconds" "timestamp_to_seconds" "timestamp_to_seconds_tz" |at| i64::from(at.second());
    "getMilliseconds" "timestamp_to_milliseconds" "timestamp_to_milliseconds_with_tz"
        |at| i64::from(at.subsec_nanosecond() / 1_000_000);
}

fn timestamp_part<'a>(args: Args<'_, 'a>, part: fn(DateTime) -> i64) -> Evaluated<'a> {
    let (at, zone) = match args {
        [Value::Timestamp(at)] => (at, TimeZone::UTC),
        [Value::Timestamp(at), Value::String(zone)] => (at, time_zone(zone)?),
        _ => return no_overload(),
    };
    Ok(Value::Int(part(at.civil(&zone))))
}

fn duration_part<'a>(args: Args<'_, 'a>, unit: i64) -> Evaluated<'a> {
    match args {
        [Value::Duration(nanos)] => Ok(Value::Int(nanos / unit)),
        _ => no_overload(),
    }
}

/// A zone by its name, or by hours and minutes east of UTC.
fn time_zone(name: &str) -> Result<TimeZone, EvalError> {
    let unknown = || EvalError::other(format!("unknown time zone {name}"));
    let Some((hours, minutes)) = name.split_once(':') else {
        return match name {
            "" | "UTC" => Ok(TimeZone::UTC),
            name => TimeZone::get(name).map_err(|_| unknown()),
        };
    };
    let number = |text: &str| {
        let message =
            || EvalError::other(format!("strconv.Atoi: parsing \"{text}\": invalid syntax"));
        text.parse::<i32>().map_err(|_| message())
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let signed = if name.starts_with('-') { -minutes } else { minutes };
    let seconds = hours.checked_mul(3600).and_then(|h| h.checked_add(signed.checked_mul(60)?));
    let offset = seconds.and_then(|seconds| Offset::from_seconds(seconds).ok());
    Ok(TimeZone::fixed(offset.ok_or_else(unknown)?))
}

// === arithmetic ===

fn timestamp_of_nanos<'a>(nanos: i128) -> Evaluated<'a> {
    Timestamp::from_nanos(nanos).map(Value::Timestamp).ok_or(EvalError::TimestampOverflow)
}

pub(super) fn timestamp_of_seconds<'a>(seconds: i64) -> Evaluated<'a> {
    Timestamp::from_seconds(seconds).map(Value::Timestamp).ok_or(EvalError::TimestampOverflow)
}

pub(super) fn add_duration<'a>(at: Timestamp, nanos: i128) -> Evaluated<'a> {
    timestamp_of_nanos(at.as_nanos() + nanos)
}

pub(super) fn subtract_timestamps<'a>(a: Timestamp, b: Timestamp) -> Evaluated<'a> {
    let nanos = i64::try_from(a.as_nanos() - b.as_nanos());
    nanos.map(Value::Duration).map_err(|_| EvalError::IntOverflow)
}

// === text ===

/// A duration as Go writes one: `1h30m`, `-1.5s`, `0`.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (nanos, after) = duration_term(rest)?;
        total = total.checked_add(nanos).filter(|total| *total <= 1 << 63)?;
        rest = after;
    }
    (!text.trim_start_matches(['-', '+']).is_empty()).then_some(())?;
    i64::try_from(if negative { -total } else { total }).ok()
}

/// A duration as data may have it: also `2 days` or `1 week 3 hours`, in whole units.
pub(crate) fn parse_long_duration(text: &str) -> Option<i64> {
    const UNITS: [(&[&str], i64); 8] = [
        (&["ns", "nano"], 1),
        (&["us", "\u{b5}s", "micro"], 1_000),
        (&["ms", "milli"], 1_000_000),
        (&["s", "sec"], SECOND),
        (&["m", "min"], 60 * SECOND),
        (&["h", "hr", "hour"], 3600 * SECOND),
        (&["d", "day"], 24 * 3600 * SECOND),
        (&["w", "wk", "week"], 7 * 24 * 3600 * SECOND),
    ];
    if let Some(nanos) = parse_duration(text) {
        return Some(nanos);
    }
    let mut total = None;
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let end = rest[start..].find(|c: char| !c.is_ascii_digit())? + start;
        let (number, after) = (&rest[start..end], rest[end..].trim_start());
        let end = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
        let unit = after[..end].to_lowercase();
        rest = &after[end..];
        // The longest name of a unit may go on: `hours`, `seconds`.
        let known = UNITS.iter().find(|(names, _)| {
            names.contains(&&unit[..]) || names.last().is_some_and(|name| unit.starts_with(name))
        });
        if let Some((_, nanos)) = known {
            let nanos = number.parse::<i64>().ok()?.checked_mul(*nanos)?;
            total = Some(nanos.checked_add(total.unwrap_or(0))?);
        }
    }
    total
}

/// One number with its unit, in nanoseconds, and what follows.
fn duration_term(text: &str) -> Option<(i128, &str)> {
    let number = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(number);
    let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit);
    let nanos: i128 = match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || whole.len() > 19 {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Digits beyond a nanosecond of an hour change nothing.
    let fraction = &fraction[..fraction.len().min(18)];
    let part: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let part = part * nanos / 10i128.pow(fraction.len() as u32);
    Some((whole * nanos + part, rest))
}

/// Seconds with as many decimals as it takes, as protobuf writes durations.
pub(crate) fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let (seconds, rest) =
        (nanos.unsigned_abs() / SECOND as u64, nanos.unsigned_abs() % SECOND as u64);
    let fraction = format!("{rest:09}");
    match fraction.trim_end_matches('0') {
        "" => format!("{sign}{seconds}s"),
        fraction => format!("{sign}{seconds}.{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let cases = [
            ("1h30m", Some(5400 * SECOND)),
            ("-1.5s", Some(-1_500_000_000)),
            ("0", Some(0)),
            ("100us", Some(100_000)),
            (".5s", Some(SECOND / 2)),
            ("1", None),
            ("", None),
            ("-", None),
            ("1d", None),
            ("9223372036854775807ns", Some(i64::MAX)),
            ("9223372036854775808ns", None),
            ("-9223372036854775808ns", Some(i64::MIN)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
        assert_eq!(parse_long_duration("2 days 3hours"), Some((48 + 3) * 3600 * SECOND));
        assert_eq!(parse_long_duration("tomorrow"), None);
        assert_eq!(format_duration(5_400_000_000_000), "5400s");
        assert_eq!(format_duration(-1_500_000_000), "-1.5s");
    }
}
