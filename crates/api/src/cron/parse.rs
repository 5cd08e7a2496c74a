//! The schedules of CronJobs: five fields, a name for five, or a span of time.
//!
//! Text -> what is wrong with it, in the words of the cron library that upstream uses.
//! Counterpart: `cron.ParseStandard`.

use jiff::tz::TimeZone;

const MACROS: &[&str] =
    &["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
const MONTHS: &[&str] =
    &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// The five fields: least, most, names of values from the least on.
type Bounds = (u32, u32, &'static [&'static str]);
const FIELDS: &[Bounds] =
    &[(0, 59, &[]), (0, 23, &[]), (1, 31, &[]), (1, 12, MONTHS), (0, 6, DAYS)];

/// What is wrong with a schedule.
pub fn schedule_fault(text: &str) -> Result<(), String> {
    let text = without_zone(text)?;
    match text.starts_with('@') {
        true => descriptor(text),
        false => fields(text),
    }
}

/// Whether a zone is known by exactly this name.
pub fn is_zone(name: &str) -> bool {
    name == "Local"
        || TimeZone::get(name).is_ok_and(|zone| zone.iana_name().is_some_and(|known| known == name))
}

fn without_zone(text: &str) -> Result<&str, String> {
    let Some(zoned) = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) else {
        return Ok(text);
    };
    match zoned.split_once(' ') {
        // Upstream's library panics here, and the panic's text is the answer.
        None => {
            Err("invalid schedule format: runtime error: slice bounds out of range [:-1]".into())
        }
        Some((zone, _)) if !is_zone(zone) => {
            Err(format!("provided bad location {zone}: unknown time zone {zone}"))
        }
        Some((_, rest)) => Ok(rest.trim()),
    }
}

fn descriptor(text: &str) -> Result<(), String> {
    match text.strip_prefix("@every ") {
        Some(span) => {
            duration(span).map_err(|fault| format!("failed to parse duration {text}: {fault}"))
        }
        None if MACROS.contains(&text) => Ok(()),
        None => Err(format!("unrecognized descriptor: {text}")),
    }
}

/// `1h30m`, as Go reads it.
fn duration(text: &str) -> Result<(), String> {
    const UNITS: &[&str] = &["ns", "us", "µs", "μs", "ms", "s", "m", "h"];
    let invalid = || format!("time: invalid duration {text:?}");
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(());
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let is_number = |character: char| character == '.' || character.is_ascii_digit();
    while !rest.is_empty() {
        let number = rest.len() - rest.trim_start_matches(is_number).len();
        let (digits, after) = rest.split_at(number);
        let is_amount = digits.matches('.').count() <= 1 && !digits.trim_matches('.').is_empty();
        if !is_amount {
            return Err(invalid());
        }
        let (unit, after) = after.split_at(after.find(is_number).unwrap_or(after.len()));
        match unit {
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            unit if !UNITS.contains(&unit) => {
                return Err(format!("time: unknown unit {unit:?} in duration {text:?}"));
            }
            _ => rest = after,
        }
    }
    Ok(())
}

fn fields(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("empty spec string".to_owned());
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        let shown = fields.join(" ");
        return Err(format!("expected exactly 5 fields, found {}: [{shown}]", fields.len()));
    }
    for (field, bounds) in fields.iter().zip(FIELDS) {
        let mut parts = field.split(',').filter(|part| !part.is_empty());
        parts.try_for_each(|part| range(part, bounds))?;
    }
    Ok(())
}

/// `*`, `5`, `1-5`, each with an optional `/step`; `5/2` goes from 5 to the end.
fn range(part: &str, (least, most, names): &Bounds) -> Result<(), String> {
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
        _ => return Ok(()),
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
            assert_eq!(schedule_fault(text).err().as_deref(), fault, "{text}");
        }
    }

    #[test]
    fn zones_are_known_by_their_very_name() {
        assert!(is_zone("Europe/Berlin") && is_zone("UTC"));
        assert!(!is_zone("europe/berlin") && !is_zone("No/Where"));
    }
}
