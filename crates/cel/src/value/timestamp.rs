//! Points in time, from the year 1 to the year 9999.
//!
//! Reads and writes RFC 3339. Counterpart: cel-go's `types/timestamp.go`.
//! Invariant: always within those years, to the last nanosecond.

use std::fmt;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp as Instant};

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
const FIRST_SECOND: i64 = -62_135_596_800;
const LAST_SECOND: i64 = 253_402_300_799;
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Since 1970.
    seconds: i64,
    nanos: u32,
}

// === impl Timestamp ===

impl Timestamp {
    pub fn from_nanos(nanos: i128) -> Option<Timestamp> {
        let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).ok()?;
        let nanos = nanos.rem_euclid(1_000_000_000) as u32;
        let in_range = (FIRST_SECOND..=LAST_SECOND).contains(&seconds);
        in_range.then_some(Timestamp { seconds, nanos })
    }

    pub fn from_seconds(seconds: i64) -> Option<Timestamp> {
        Timestamp::from_nanos(i128::from(seconds) * 1_000_000_000)
    }

    pub fn as_nanos(&self) -> i128 {
        i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanos)
    }

    pub fn as_seconds(&self) -> i64 {
        self.seconds
    }

    pub fn parse(text: &str) -> Option<Timestamp> {
        let bytes = text.as_bytes();
        let shape = |at: usize, byte: u8| bytes.get(at) == Some(&byte);
        let shaped = shape(4, b'-') && shape(7, b'-') && shape(10, b'T') && shape(13, b':');
        if !(shaped && shape(16, b':') && text.is_ascii()) {
            return None;
        }
        let number = |from: usize, to: usize| -> Option<i16> {
            let digits = text.get(from..to)?;
            digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
        };
        let small = |from: usize| number(from, from + 2)?.try_into().ok();
        let (nanos, zone) = fraction(text.get(19..)?)?;
        let date = Date::new(number(0, 4)?, small(5)?, small(8)?).ok()?;
        let time = Time::new(small(11)?, small(14)?, small(17)?, 0).ok()?;
        let local = date.to_datetime(time).duration_since(EPOCH).as_secs();
        let nanos_since = i128::from(local - offset(zone)?) * 1_000_000_000 + i128::from(nanos);
        Timestamp::from_nanos(nanos_since)
    }

    /// What clocks and calendars show in a zone.
    pub fn civil(&self, zone: &TimeZone) -> DateTime {
        // Zones do not change beyond what an instant can be.
        let seconds = self.seconds.clamp(Instant::MIN.as_second(), Instant::MAX.as_second());
        let instant = Instant::from_second(seconds).unwrap_or(Instant::MAX);
        let seconds = self.seconds + i64::from(zone.to_offset(instant).seconds());
        EPOCH.saturating_add(SignedDuration::new(seconds, self.nanos as i32))
    }
}

/// Nanoseconds after a dot, and what follows.
fn fraction(text: &str) -> Option<(u32, &str)> {
    let Some(rest) = text.strip_prefix('.') else { return Some((0, text)) };
    let end = rest.find(|c: char| !c.is_ascii_digit()).filter(|end| *end > 0)?;
    let digits = format!("{:0<9}", &rest[..end.min(9)]);
    Some((digits.parse().ok()?, &rest[end..]))
}

/// Seconds east of UTC.
fn offset(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = zone[1..].split_once(':')?;
    let number = |digits: &str, limit: i64| -> Option<i64> {
        let shaped = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        shaped.then(|| digits.parse().ok())?.filter(|number| *number < limit)
    };
    Some(sign * (number(hours, 24)? * 3600 + number(minutes, 60)? * 60))
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.civil(&TimeZone::UTC);
        write!(f, "{:04}-{:02}-{:02}", at.year(), at.month(), at.day())?;
        write!(f, "T{:02}:{:02}:{:02}", at.hour(), at.minute(), at.second())?;
        if self.nanos > 0 {
            write!(f, ".{}", format!("{:09}", self.nanos).trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_read_and_written_to_the_last_day() {
        let same =
            ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "2024-02-29T01:02:03.5Z"];
        for text in same {
            assert_eq!(Timestamp::parse(text).map(|at| at.to_string()).as_deref(), Some(text));
        }
        let shifted = Timestamp::parse("2023-01-01T00:00:00+02:00").unwrap();
        assert_eq!(shifted.to_string(), "2022-12-31T22:00:00Z");
    }

    #[test]
    fn what_lacks_a_zone_or_is_out_of_range_is_no_timestamp() {
        let wrong = [
            "2023-01-01T00:00:00",
            "2023-01-01 00:00:00Z",
            "0000-01-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2023-01-01T24:00:00Z",
            "2023-01-01T00:00:00.Z",
            "2023-01-01T00:00:00+2:00",
            "2023-01-01T00:00:0\u{e9}Z",
            "",
        ];
        for text in wrong {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }
}
