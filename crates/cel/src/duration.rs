//! Durations as Go reads and prints them.
//!
//! Text <-> nanoseconds. CEL has its durations from Go, and so have queries, flags and configuration files of Kubernetes,
//! which is why others use this module too. Counterparts: Go's `time.ParseDuration` with its wording and
//! `Duration.String`, and `strfmt.ParseDuration`. Invariant: a duration is within 64 bits of nanoseconds.

use std::time::Duration;

const SECOND: i64 = 1_000_000_000;
const UNITS: &[(&str, i64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3600 * SECOND),
];
/// Units as people spell them. The last name of each may go on: `hours`, `seconds`.
const SPELT_UNITS: &[(&[&str], i64)] = &[
    (&["ns", "nano"], 1),
    (&["us", "\u{b5}s", "micro"], 1_000),
    (&["ms", "milli"], 1_000_000),
    (&["s", "sec"], SECOND),
    (&["m", "min"], 60 * SECOND),
    (&["h", "hr", "hour"], 3600 * SECOND),
    (&["d", "day"], 24 * 3600 * SECOND),
    (&["w", "wk", "week"], 7 * 24 * 3600 * SECOND),
];

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ParseDurationError {
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    #[error("time: missing unit in duration {0:?}")]
    NoUnit(String),
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit { unit: String, text: String },
}

/// `1h30m`, `-1.5s`, `0`: nanoseconds.
pub fn parse(text: &str) -> Result<i64, ParseDurationError> {
    let invalid = || ParseDurationError::Invalid(text.to_owned());
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    match rest {
        "0" => return Ok(0),
        "" => return Err(invalid()),
        _ => {}
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (amount, after) = Amount::read(rest).ok_or_else(invalid)?;
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        if unit.is_empty() {
            return Err(ParseDurationError::NoUnit(text.to_owned()));
        }
        let known = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, nanos) = known.ok_or_else(|| {
            let (unit, text) = (unit.to_owned(), text.to_owned());
            ParseDurationError::UnknownUnit { unit, text }
        })?;
        total += amount.times(*nanos);
        if total > 1 << 63 {
            return Err(invalid());
        }
        rest = after;
    }
    let signed = if text.starts_with('-') { -total } else { total };
    i64::try_from(signed).map_err(|_| invalid())
}

/// A duration that says how long something takes, which is never less than nothing.
pub fn parse_span(text: &str) -> Option<Duration> {
    parse(text).ok()?.try_into().ok().map(Duration::from_nanos)
}

/// A duration as data may have it: as Go's, or whole units with words such as `2 days` or `1 week 3 hours`.
pub fn parse_spelt(text: &str) -> Option<i64> {
    if let Ok(nanos) = parse(text) {
        return Some(nanos);
    }
    let is_letter = |c: char| c.is_ascii_alphabetic() || c == '\u{b5}';
    let mut total: Option<i64> = None;
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (number, after) = split_where(&rest[start..], |c| !c.is_ascii_digit());
        let (unit, after) = split_where(after.trim_start(), |c| !is_letter(c));
        if !unit.is_empty() {
            let number: i64 = number.parse().ok()?;
            if let Some(nanos) = spelt_unit(&unit.to_lowercase()) {
                // More than fits wraps around, as upstream.
                total = Some(total.unwrap_or(0).wrapping_add(number.wrapping_mul(nanos)));
            }
        }
        rest = after;
    }
    total
}

fn spelt_unit(unit: &str) -> Option<i64> {
    let is_named = |names: &[&str]| {
        names.contains(&unit) || names.last().is_some_and(|name| unit.starts_with(name))
    };
    SPELT_UNITS.iter().find(|(names, _)| is_named(names)).map(|(_, nanos)| *nanos)
}

/// `1h0m5s`, `2m3.5s`, `345ms`, `0s`.
pub fn print(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let all = nanos.unsigned_abs();
    let (seconds, rest) = (all / SECOND as u64, all % SECOND as u64);
    match (all, seconds / 3600, seconds / 60 % 60) {
        (0, ..) => "0s".to_owned(),
        (1..1_000, ..) => format!("{sign}{all}ns"),
        (1_000..1_000_000, ..) => format!("{sign}{}\u{b5}s", decimal(all / 1_000, all % 1_000, 3)),
        (1_000_000..1_000_000_000, ..) => {
            format!("{sign}{}ms", decimal(all / 1_000_000, all % 1_000_000, 6))
        }
        (_, 0, 0) => format!("{sign}{}s", decimal(seconds, rest, 9)),
        (_, 0, minutes) => format!("{sign}{minutes}m{}s", decimal(seconds % 60, rest, 9)),
        (_, hours, minutes) => {
            format!("{sign}{hours}h{minutes}m{}s", decimal(seconds % 60, rest, 9))
        }
    }
}

/// A number with `fraction` of so many `digits` behind the point, without needless zeros.
pub(crate) fn decimal(whole: u64, fraction: u64, digits: usize) -> String {
    let fraction = format!("{fraction:0digits$}");
    match fraction.trim_end_matches('0') {
        "" => whole.to_string(),
        fraction => format!("{whole}.{fraction}"),
    }
}

fn split_where(text: &str, is_end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(is_end).unwrap_or(text.len()))
}

/// How many of a unit: `12`, `1.5`, `.5`, `3.`.
struct Amount {
    whole: u64,
    fraction: u64,
    /// What the fraction is to be divided by.
    scale: u64,
}

// === impl Amount ===

impl Amount {
    /// The number at the start, and what follows it.
    fn read(text: &str) -> Option<(Amount, &str)> {
        let (whole, after) = split_where(text, |c| !c.is_ascii_digit());
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split_where(after, |c| !c.is_ascii_digit()),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        // Digits beyond a nanosecond of an hour change nothing.
        let fraction = &fraction[..fraction.len().min(18)];
        let number = |digits: &str| match digits {
            "" => Some(0),
            digits => digits.parse::<u64>().ok().filter(|number| *number <= 1 << 63),
        };
        let amount = Amount {
            whole: number(whole)?,
            fraction: number(fraction)?,
            scale: 10u64.pow(fraction.len() as u32),
        };
        Some((amount, after))
    }

    fn times(&self, nanos: i64) -> i128 {
        let nanos = i128::from(nanos);
        i128::from(self.whole) * nanos + i128::from(self.fraction) * nanos / i128::from(self.scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let cases = [
            ("1h30m", 5400 * SECOND),
            ("-1.5s", -1_500_000_000),
            ("+5m", 300 * SECOND),
            ("0", 0),
            ("100us", 100_000),
            ("100\u{b5}s", 100_000),
            (".5s", SECOND / 2),
            ("3.s", 3 * SECOND),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        assert_eq!(parse_span("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_span("-5s"), None);
    }

    #[test]
    fn refusals_are_in_gos_words() {
        let cases = [
            ("", "invalid duration \"\""),
            ("-", "invalid duration \"-\""),
            ("abc", "invalid duration \"abc\""),
            (".s", "invalid duration \".s\""),
            ("9223372036854775808ns", "invalid duration \"9223372036854775808ns\""),
            ("99999999999999999999s", "invalid duration \"99999999999999999999s\""),
            ("5", "missing unit in duration \"5\""),
            ("1s5", "missing unit in duration \"1s5\""),
            ("1..s", "missing unit in duration \"1..s\""),
            ("1d", "unknown unit \"d\" in duration \"1d\""),
        ];
        for (text, why) in cases {
            let error = parse(text).expect_err(text);
            assert_eq!(error.to_string(), format!("time: {why}"));
        }
    }

    #[test]
    fn data_may_spell_units() {
        assert_eq!(parse_spelt("2 days 3hours"), Some((48 + 3) * 3600 * SECOND));
        assert_eq!(parse_spelt("1.5s"), Some(SECOND + SECOND / 2));
        assert_eq!(parse_spelt("1 Week"), Some(7 * 24 * 3600 * SECOND));
        assert_eq!(parse_spelt("tomorrow"), None);
        assert_eq!(parse_spelt("5 apples"), None);
        assert_eq!(parse_spelt("99999999999999999999 days"), None);
    }

    #[test]
    fn durations_are_printed_as_go_prints_them() {
        for (nanos, text) in [
            (0, "0s"),
            (17, "17ns"),
            (1_500, "1.5\u{b5}s"),
            (345_000_000, "345ms"),
            (SECOND, "1s"),
            (-1_234_000_000, "-1.234s"),
            (123_500_000_000, "2m3.5s"),
            (300 * SECOND, "5m0s"),
            (3600 * SECOND, "1h0m0s"),
        ] {
            assert_eq!(print(nanos), text);
            assert_eq!(parse(text), Ok(nanos));
        }
    }
}
