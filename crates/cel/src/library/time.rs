//! Timestamps and durations: reading, writing, arithmetic, and their parts in a time zone.
//!
//! Counterpart: cel-go's `types/timestamp.go` and `duration.go`.
//! Invariant: durations are within 64 bits of nanoseconds.

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};

use super::{Args, Row, no_overload, row};
use crate::duration::decimal;
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

/// Seconds with as many decimals as it takes, as protobuf writes durations.
pub(crate) fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let (seconds, rest) =
        (nanos.unsigned_abs() / SECOND as u64, nanos.unsigned_abs() % SECOND as u64);
    format!("{sign}{}s", decimal(seconds, rest, 9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_in_seconds() {
        assert_eq!(format_duration(5_400_000_000_000), "5400s");
        assert_eq!(format_duration(-1_500_000_000), "-1.5s");
    }
}
