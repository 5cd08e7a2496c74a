//! Reading schedules: five fields, a name for five, or a span of time.
//!
//! Text -> schedule, or what is wrong with it, in the words of the cron library that upstream uses.
//! Counterpart: `cron.ParseStandard`.

use std::time::Duration;

use jiff::tz::TimeZone;
use skiff_cel::duration::{self, ParseDurationError};

use super::{Fields, Schedule, When};

const MACROS: &[(&str, &str)] = &[
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];
const MONTHS: &[&str] =
    &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// The five fields: least, most, names of values from the least on.
type Bounds = (u32, u32, &'static [&'static str]);
const FIELDS: &[Bounds] =
    &[(0, 59, &[]), (0, 23, &[]), (1, 31, &[]), (1, 12, MONTHS), (0, 6, DAYS)];

/// The schedule that a text means.
pub fn schedule(text: &str) -> Result<Schedule, String> {
    let (zone, text) = split_zone(text)?;
    let when = match text.starts_with('@') {
        true => descriptor(text)?,
        false => fields(text).map(When::At)?,
    };
    Ok(Schedule { zone, when })
}

/// The zone that is known by exactly this name.
pub fn time_zone(name: &str) -> Option<TimeZone> {
    if name == "Local" {
        return Some(TimeZone::system());
    }
    TimeZone::get(name).ok().filter(|zone| zone.iana_name() == Some(name))
}

fn split_zone(text: &str) -> Result<(Option<TimeZone>, &str), String> {
    let Some(zoned) = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) else {
        return Ok((None, text));
    };
    match zoned.split_once(' ') {
        // Upstream's library panics here, and the panic's text is the answer.
        None => {
            Err("invalid schedule format: runtime error: slice bounds out of range [:-1]".into())
        }
        Some((zone, rest)) => match time_zone(zone) {
            Some(known) => Ok((Some(known), rest.trim())),
            None => Err(format!("provided bad location {zone}: unknown time zone {zone}")),
        },
    }
}

fn descriptor(text: &str) -> Result<When, String> {
    if let Some(every) = text.strip_prefix("@every ") {
        return span(every)
            .map(When::Every)
            .map_err(|fault| format!("failed to parse duration {text}: {fault}"));
    }
    match MACROS.iter().find(|(name, _)| *name == text) {
        Some((_, meaning)) => fields(meaning).map(When::At),
        None => Err(format!("unrecognized descriptor: {text}")),
    }
}

/// Spans below a second, negative ones too, mean a second.
fn span(text: &str) -> Result<Duration, ParseDurationError> {
    let nanos = duration::parse(text)?.try_into().unwrap_or(0);
    Ok(Duration::from_nanos(nanos).max(Duration::from_secs(1)))
}

fn fields(text: &str) -> Result<Fields, String> {
    if text.is_empty() {
        return Err("empty spec string".to_owned());
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        let shown = fields.join(" ");
        return Err(format!("expected exactly 5 fields, found {}: [{shown}]", fields.len()));
    }
    let mut sets = [0; FIELDS.len()];
    let mut any = [false; FIELDS.len()];
    for (position, (field, bounds)) in fields.iter().zip(FIELDS).enumerate() {
        for part in field.split(',').filter(|part| !part.is_empty()) {
            let (set, all) = range(part, bounds)?;
            sets[position] |= set;
            any[position] |= all;
        }
    }
    let [minutes, hours, days, months, weekdays] = sets;
    // A star leaves the day to the other of the two fields; without one, either may name it.
    let either_day = !any[2] && !any[4];
    Ok(Fields { minutes, hours, days, months, weekdays, either_day })
}

/// `*`, `5`, `1-5`, each with an optional `/step`; `5/2` goes from 5 to the end.
/// The values as bits, and whether it is a star, of which every value counts.
fn range(part: &str, (least, most, names): &Bounds) -> Result<(u64, bool), String> {
    let stepped: Vec<&str> = part.split('/').collect();
    let ends: Vec<&str> = stepped[0].split('-').collect();
    let (from, mut to) = match ends[..] {
        ["*" | "?", ..] => (*least, *most),
        [only] => (value(only, *least, names)?, value(only, *least, names)?),
        [from, to] => (value(from, *least, names)?, value(to, *least, names)?),
        [from, ..] => {
            value(from, *least, names)?;
            return Err(format!("too many hyphens: {part}"));
        }
        [] => unreachable!("splitting yields a part"),
    };
    let step = match stepped[..] {
        [_] => 1,
        [_, step] => number(step)?,
        _ => return Err(format!("too many slashes: {part}")),
    };
    if stepped.len() > 1 && ends.len() == 1 {
        to = *most;
    }
    let fault = match () {
        _ if from < *least => format!("beginning of range ({from}) below minimum ({least})"),
        _ if to > *most => format!("end of range ({to}) above maximum ({most})"),
        _ if from > to => format!("beginning of range ({from}) beyond end of range ({to})"),
        _ if step == 0 => "step of range should be a positive number".to_owned(),
        _ => {
            let values = (from..=to).step_by(step as usize);
            let is_star = matches!(ends[0], "*" | "?") && step == 1;
            return Ok((values.fold(0, |set, value| set | 1 << value), is_star));
        }
    };
    Err(format!("{fault}: {part}"))
}

fn value(text: &str, least: u32, names: &[&str]) -> Result<u32, String> {
    match names.iter().position(|name| text.eq_ignore_ascii_case(name)) {
        Some(at) => Ok(least + at as u32),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| {
        let digits = text.strip_prefix('+').unwrap_or(text);
        let numeric = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let why = if numeric { "value out of range" } else { "invalid syntax" };
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: {why}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_as_cron_reads_them() {
        for (text, fault) in [
            ("*/5 0-4,8 1 jan-MAR sun", None),
            ("@hourly", None),
            ("@every 1h30m", None),
            ("@every x", Some("failed to parse duration @every x: time: invalid duration \"x\"")),
            (
                "@every 5",
                Some("failed to parse duration @every 5: time: missing unit in duration \"5\""),
            ),
            ("TZ=UTC * * * * *", None),
            (
                "TZ=No/Where * * * * *",
                Some("provided bad location No/Where: unknown time zone No/Where"),
            ),
            ("* * *", Some("expected exactly 5 fields, found 3: [* * *]")),
            ("60 * * * *", Some("end of range (60) above maximum (59): 60")),
            ("* * 0 * *", Some("beginning of range (0) below minimum (1): 0")),
            ("*/0 * * * *", Some("step of range should be a positive number: */0")),
            ("1-2-3 * * * *", Some("too many hyphens: 1-2-3")),
            ("1/2/3 * * * *", Some("too many slashes: 1/2/3")),
            (
                "a * * * *",
                Some("failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ),
            ("@never", Some("unrecognized descriptor: @never")),
        ] {
            assert_eq!(schedule(text).err().as_deref(), fault, "{text}");
        }
    }

    #[test]
    fn zones_are_known_by_their_very_name() {
        assert!(time_zone("Europe/Berlin").is_some() && time_zone("UTC").is_some());
        assert!(time_zone("europe/berlin").is_none() && time_zone("No/Where").is_none());
    }
}
