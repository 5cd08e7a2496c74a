//! CronJob: Jobs by the clock.

use super::job;
use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::meta::meta;
use serde_json::Value;

use crate::age;
use crate::kind::Strategy;
use crate::kinds::fill::{count, flag, object_at, set, text};
use crate::kinds::pod_spec::default_template;
use crate::kinds::workload::{label_selector, template_cell, template_warnings};

pub struct CronJob;

impl Strategy for CronJob {
    fn default(&self, object: &mut Value) {
        default_template(object, "/spec/jobTemplate/spec/template/spec");
        if let Some(spec) = object_at(object, "/spec/jobTemplate/spec") {
            // Completions and the like are decided when a Job is made of it.
            if let Some(policy) = crate::kinds::fill::object(spec, "podFailurePolicy") {
                for rule in crate::kinds::fill::each(policy, "rules") {
                    for pattern in crate::kinds::fill::each(rule, "onPodConditions") {
                        set(pattern, "status", "True");
                    }
                }
            }
        }
        let Some(spec) = object_at(object, "/spec") else { return };
        set(spec, "concurrencyPolicy", "Allow");
        set(spec, "suspend", false);
        set(spec, "successfulJobsHistoryLimit", 3);
        set(spec, "failedJobsHistoryLimit", 1);
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let name = meta(object).name();
        if name.len() > NAME_MAX {
            let detail = format!("must be no more than {NAME_MAX} characters");
            root.child("metadata").child("name").invalid(errors, detail);
        }
        validate_spec(&root.child("spec"), errors);
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        template_warnings(object, old, "/spec/jobTemplate/spec/template")
    }

    fn cell(&self, object: &Value, column: &str, now: i64) -> Value {
        let template = "/spec/jobTemplate/spec/template";
        match column {
            "Schedule" => text(object, "/spec/schedule").into(),
            "Timezone" => match text(object, "/spec/timeZone") {
                "" => "<none>".into(),
                zone => zone.into(),
            },
            "Suspend" => match flag(object, "/spec/suspend") {
                true => "True".into(),
                false => "False".into(),
            },
            "Active" => count(object, "/status/active").into(),
            "Last Schedule" => match text(object, "/status/lastScheduleTime") {
                "" => "<none>".into(),
                time => age::since(time, now).into(),
            },
            "Selector" => label_selector(object.pointer("/spec/jobTemplate/spec/selector")).into(),
            _ => template_cell(object, template, column),
        }
    }
}

/// A Job's name is the CronJob's and a dash and ten digits.
const NAME_MAX: usize = 63 - 11;

fn validate_spec(spec: &At, errors: &mut ErrorList) {
    let schedule = spec.child("schedule");
    if schedule.needed(errors) {
        validate_schedule(&schedule, spec.has("timeZone"), errors);
    }
    let zone = spec.child("timeZone");
    if zone.is_set() {
        validate_zone(&zone, errors);
    }
    spec.child("startingDeadlineSeconds").not_negative(errors);
    let concurrency = spec.child("concurrencyPolicy");
    concurrency.needed_one_of(errors, &["Allow", "Forbid", "Replace"]);
    let template = spec.child("jobTemplate");
    validate_job_template(&template.child("spec"), errors);
    spec.not_negative_each(errors, &["successfulJobsHistoryLimit", "failedJobsHistoryLimit"]);
}

fn validate_job_template(spec: &At, errors: &mut ErrorList) {
    let manual = spec.child("manualSelector");
    if manual.flag() {
        manual.not_supported(errors, &["nil", "false"]);
    }
    job::validate_spec(spec, false, errors);
}

fn validate_schedule(schedule: &At, has_zone: bool, errors: &mut ErrorList) {
    let text = schedule.text();
    if text.contains("TZ") {
        let detail = match has_zone {
            true => "cannot use both timeZone field and TZ or CRON_TZ in schedule",
            false => "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        };
        return schedule.invalid(errors, detail);
    }
    if let Err(fault) = cron_fault(text) {
        schedule.invalid(errors, fault);
    }
}

fn validate_zone(zone: &At, errors: &mut ErrorList) {
    let text = zone.text();
    if text.is_empty() {
        zone.invalid(errors, "timeZone must be nil or non-empty string");
    } else if text.eq_ignore_ascii_case("local") {
        let detail =
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        zone.invalid(errors, detail);
    } else if jiff::tz::TimeZone::get(text).is_err() {
        zone.invalid(errors, format!("unknown time zone {text}"));
    }
}

// === the grammar of schedules ===

const MACROS: &[&str] =
    &["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
const MONTHS: &[&str] =
    &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// The five fields: least, most, names of values from the least on.
const FIELDS: &[(u32, u32, &[&str])] =
    &[(0, 59, &[]), (0, 23, &[]), (1, 31, &[]), (1, 12, MONTHS), (0, 6, DAYS)];

fn cron_fault(text: &str) -> Result<(), String> {
    if text.starts_with('@') {
        let known = MACROS.contains(&text)
            || text.strip_prefix("@every ").is_some_and(|span| span.ends_with(['s', 'm', 'h']));
        return known.then_some(()).ok_or_else(|| format!("unrecognized descriptor: {text}"));
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        let shown = fields.join(" ");
        return Err(format!("expected exactly 5 fields, found {}: [{shown}]", fields.len()));
    }
    let parts =
        fields.iter().zip(FIELDS).flat_map(|(field, of)| field.split(',').map(move |p| (p, of)));
    for (part, of) in parts {
        cron_range(part, of)?;
    }
    Ok(())
}

/// `*`, `5`, `1-5`, each with an optional `/step`.
fn cron_range(part: &str, (least, most, names): &(u32, u32, &[&str])) -> Result<(), String> {
    let (range, step) = part.split_once('/').map_or((part, None), |(r, s)| (r, Some(s)));
    let number = |text: &str| match names.iter().position(|n| text.eq_ignore_ascii_case(n)) {
        Some(at) => Ok(*least + at as u32),
        None => text.parse::<u32>().map_err(|_| {
            format!(
                "failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"
            )
        }),
    };
    let (from, to) = match range.split_once('-') {
        _ if range == "*" || range == "?" => (*least, *most),
        Some((from, to)) => (number(from)?, number(to)?),
        None => (number(range)?, if step.is_some() { *most } else { number(range)? }),
    };
    match () {
        _ if from < *least => {
            Err(format!("beginning of range ({from}) below minimum ({least}): {part}"))
        }
        _ if to > *most => Err(format!("end of range ({to}) above maximum ({most}): {part}")),
        _ if from > to => {
            Err(format!("beginning of range ({from}) beyond end of range ({to}): {part}"))
        }
        _ if step.map(number).transpose()? == Some(0) => {
            Err(format!("step of range should be a positive number: {part}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_as_cron_reads_them() {
        for (text, fault) in [
            ("*/5 0-4,8 1 jan-MAR sun", None),
            ("@hourly", None),
            ("* * *", Some("expected exactly 5 fields, found 3: [* * *]")),
            ("60 * * * *", Some("end of range (60) above maximum (59): 60")),
            ("* * 0 * *", Some("beginning of range (0) below minimum (1): 0")),
            ("*/0 * * * *", Some("step of range should be a positive number: */0")),
            ("@never", Some("unrecognized descriptor: @never")),
        ] {
            assert_eq!(cron_fault(text).err().as_deref(), fault, "{text}");
        }
    }
}
