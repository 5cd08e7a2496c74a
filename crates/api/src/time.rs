//! Times as the API writes them.
//!
//! RFC 3339 text <-> seconds and microseconds since 1970. Counterparts: `metav1.Time` and
//! `metav1.MicroTime`. Errors read as Go's `time.Parse` prints them.

use jiff::Timestamp;
use jiff::civil::DateTime;

const SECONDS_LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
const MICROS_LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";

/// Reads an RFC 3339 time (a fraction is allowed) and writes it as `metav1.Time`: UTC, whole seconds.
pub fn canonical(text: &str) -> Result<String, String> {
    Ok(format(parse_layout(text, SECONDS_LAYOUT)?.as_second()))
}

/// Reads and writes a `metav1.MicroTime`: exactly six digits of fraction.
pub fn canonical_micro(text: &str) -> Result<String, String> {
    Ok(format_micro(parse_layout(text, MICROS_LAYOUT)?.as_microsecond()))
}

/// Seconds since 1970 of an RFC 3339 time.
pub fn parse(text: &str) -> Result<i64, String> {
    Ok(parse_layout(text, SECONDS_LAYOUT)?.as_second())
}

/// Microseconds since 1970 of an RFC 3339 time with or without a fraction.
pub fn parse_micro(text: &str) -> Result<i64, String> {
    Ok(parse_layout(text, SECONDS_LAYOUT)?.as_microsecond())
}

/// `2026-01-02T03:04:05Z`
pub fn format(seconds: i64) -> String {
    let time = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-01-02T03:04:05.000006Z`
pub fn format_micro(micros: i64) -> String {
    let time = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Seconds since 1970, now.
pub fn now() -> i64 {
    Timestamp::now().as_second()
}

// === parsing by layout ===

/// One element of a layout: how it is written there, and how many digits it has.
const DATE_TIME: &[(&str, usize)] = &[
    ("2006", 4),
    ("-", 0),
    ("01", 2),
    ("-", 0),
    ("02", 2),
    ("T", 0),
    ("15", 2),
    (":", 0),
    ("04", 2),
    (":", 0),
    ("05", 2),
];

fn parse_layout(text: &str, layout: &str) -> Result<Timestamp, String> {
    let fault = |what: &str| format!("parsing time {text:?} as {layout:?}: {what}");
    let cannot =
        |rest: &str, element: &str| fault(&format!("cannot parse {rest:?} as {element:?}"));
    let mut rest = text;
    let mut numbers = Vec::with_capacity(6);
    for (element, digits) in DATE_TIME {
        let width = if *digits == 0 { 1 } else { *digits };
        let part = rest.get(..width).ok_or_else(|| cannot(rest, element))?;
        match digits {
            0 if part == *element => {}
            0 => return Err(cannot(rest, element)),
            _ => numbers.push(number(part).ok_or_else(|| cannot(rest, element))?),
        }
        rest = &rest[width..];
    }
    let (micros, after) = fraction(rest);
    let exact = layout == MICROS_LAYOUT;
    if exact && rest.len() - after.len() != 7 {
        return Err(cannot(rest, ".000000"));
    }
    let offset = offset(after).ok_or_else(|| cannot(after, "Z07:00"))?;
    let time = civil(&numbers, micros).map_err(|what| fault(&format!("{what} out of range")))?;
    let utc = time.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| fault("time out of range"))?;
    utc.timestamp()
        .checked_sub(jiff::SignedDuration::from_secs(offset))
        .map_err(|_| fault("time out of range"))
}

fn number(part: &str) -> Option<i16> {
    part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())?
}

/// Microseconds of a leading `.123`, and what follows it.
fn fraction(text: &str) -> (i32, &str) {
    let Some(digits) = text.strip_prefix('.') else { return (0, text) };
    let end = digits.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    if end == 0 {
        return (0, text);
    }
    let six: String = digits[..end].chars().chain("000000".chars()).take(6).collect();
    (six.parse().unwrap_or(0), &digits[end..])
}

/// Seconds east of UTC of `Z` or `+01:00`, with nothing behind.
fn offset(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours < 24 && minutes < 60).then(|| sign * (i64::from(hours) * 3600 + i64::from(minutes) * 60))
}

fn civil(numbers: &[i16], micros: i32) -> Result<DateTime, &'static str> {
    let [year, month, day, hour, minute, second] = numbers else { return Err("time") };
    let small = |number: &i16| i8::try_from(*number).unwrap_or(i8::MAX);
    let limits = [
        (month, 1, 12, "month"),
        (hour, 0, 23, "hour"),
        (minute, 0, 59, "minute"),
        (second, 0, 59, "second"),
    ];
    for (number, from, to, name) in limits {
        if !(from..=to).contains(number) {
            return Err(name);
        }
    }
    let nanos = micros * 1000;
    DateTime::new(*year, small(month), small(day), small(hour), small(minute), small(second), nanos)
        .map_err(|_| "day")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutation;

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(canonical("2001-01-01T01:00:00.5+01:00").unwrap(), "2001-01-01T00:00:00Z");
        let micro = canonical_micro("2001-01-01T00:00:00.123456Z").unwrap();
        assert_eq!(micro, "2001-01-01T00:00:00.123456Z");
        assert_eq!(parse(&format(978_307_200)), Ok(978_307_200));
    }

    #[test]
    fn faults_read_as_go_prints_them() {
        let micro = canonical_micro("2001-01-01T00:00:00Z").unwrap_err();
        let wanted = r#"parsing time "2001-01-01T00:00:00Z" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "Z" as ".000000""#;
        assert_eq!(micro, wanted);
        let word = canonical("soon").unwrap_err();
        assert!(word.ends_with(r#"cannot parse "soon" as "2006""#), "{word}");
        let month = canonical("2001-13-01T00:00:00Z").unwrap_err();
        assert!(month.ends_with(": month out of range"), "{month}");
        let day = canonical("2001-02-30T00:00:00Z").unwrap_err();
        assert!(day.ends_with(": day out of range"), "{day}");
    }

    #[test]
    fn damaged_times_never_panic() {
        mutation::each(b"2001-02-28T23:59:59.123456-07:30", 20_000, |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            if let Ok(time) = canonical(text) {
                assert_eq!(canonical(&time).as_deref(), Ok(time.as_str()));
            }
        });
    }
}
