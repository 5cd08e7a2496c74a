//! CronJob: Jobs by the clock.

use super::{job, job_spec};
use crate::cron::{Schedule, time_zone};
use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::meta::meta;
use serde_json::Value;

use crate::age;
use crate::kind::Strategy;
use crate::kinds::fill::{count, flag, object_at, set, text};
use crate::kinds::pod_spec::default_template;
use crate::kinds::workload::{label_selector, template_cell, template_warnings, warn_name};

pub struct CronJob;

impl Strategy for CronJob {
    fn pod_spec(&self) -> Option<&'static str> {
        Some("/spec/jobTemplate/spec/template/spec")
    }

    fn default(&self, object: &mut Value) {
        default_template(object, "/spec/jobTemplate/spec/template/spec");
        if let Some(spec) = object_at(object, "/spec/jobTemplate/spec") {
            // Completions and the like are decided when a Job is made of it.
            job::default_failure_policy(spec);
        }
        let Some(spec) = object_at(object, "/spec") else { return };
        set(spec, "concurrencyPolicy", "Allow");
        set(spec, "suspend", false);
        set(spec, "successfulJobsHistoryLimit", 3);
        set(spec, "failedJobsHistoryLimit", 1);
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        validate_spec(&root.child("spec"), None, errors);
        if meta(object).name().len() > NAME_MAX {
            let detail = format!("must be no more than {NAME_MAX} characters");
            root.child("metadata").child("name").invalid(errors, detail);
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        validate_spec(&At::root(object).child("spec"), old.get("spec"), errors);
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        if old.is_none() {
            warn_name(meta(object).name(), &mut warnings);
        }
        if old.is_none_or(|old| old["spec"] != object["spec"]) {
            let spec = &object["spec"]["jobTemplate"]["spec"];
            job::warn_spec(spec, "spec.jobTemplate.spec", &mut warnings);
        }
        warnings.extend(template_warnings(object, old, "/spec/jobTemplate/spec/template"));
        warnings
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

fn validate_spec(spec: &At, old: Option<&Value>, errors: &mut ErrorList) {
    let schedule = spec.child("schedule");
    if schedule.needed(errors) {
        let zoned = old.is_some_and(|old| text(old, "/schedule").contains("TZ"));
        validate_schedule(&schedule, zoned, spec.has("timeZone"), errors);
    }
    spec.child("startingDeadlineSeconds").not_negative(errors);
    let zone = spec.child("timeZone");
    if zone.is_set() && old.is_none_or(|old| old.get("timeZone") != Some(zone.value)) {
        validate_zone(&zone, errors);
    }
    let concurrency = spec.child("concurrencyPolicy");
    concurrency.needed_one_of(errors, &["Allow", "Forbid", "Replace"]);
    let template = spec.child("jobTemplate");
    validate_job_template(&template.child("spec"), errors);
    spec.not_negative_each(errors, &["successfulJobsHistoryLimit", "failedJobsHistoryLimit"]);
}

fn validate_job_template(spec: &At, errors: &mut ErrorList) {
    job_spec::validate_spec(spec, errors);
    let (selector, manual) = (spec.child("selector"), spec.child("manualSelector"));
    if selector.is_set() {
        selector.invalid(errors, "`selector` will be auto-generated");
    }
    if manual.flag() {
        manual.not_supported(errors, &["nil", "false"]);
    }
}

/// `zoned`: an older release let the object have a zone in its schedule.
fn validate_schedule(schedule: &At, zoned: bool, has_zone: bool, errors: &mut ErrorList) {
    if let Err(fault) = Schedule::parse(schedule.text()) {
        schedule.invalid(errors, fault);
    }
    let detail = match (schedule.text().contains("TZ"), zoned) {
        (true, true) if has_zone => "cannot use both timeZone field and TZ or CRON_TZ in schedule",
        (true, false) => "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        _ => return,
    };
    schedule.invalid(errors, detail);
}

fn validate_zone(zone: &At, errors: &mut ErrorList) {
    let text = zone.text();
    if text.is_empty() {
        return zone.invalid(errors, "timeZone must be nil or non-empty string");
    }
    let unknown = format!("unknown time zone {text}");
    if !text.split('/').all(is_zone_part) {
        return zone.invalid(errors, unknown);
    }
    if text.eq_ignore_ascii_case("local") {
        let detail =
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        zone.invalid(errors, detail);
    }
    if time_zone(text).is_none() {
        zone.invalid(errors, unknown);
    }
}

/// Zones are files, so that a name must not lead anywhere else.
fn is_zone_part(part: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte);
    (1..=14).contains(&part.len())
        && part.bytes().all(fits)
        && !matches!(part, "." | "..")
        && !part.starts_with('-')
}

#[cfg(test)]
mod tests {
    use crate::kinds::at::tests::{check, check_update};

    const PATH: &str = "batch/v1/cronjobs";

    fn cron(more: &str) -> String {
        format!(
            "metadata: {{name: c}}\nspec: {{{more} jobTemplate: {{spec: {{template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: i}}]}}}}}}}}}}"
        )
    }

    #[test]
    fn a_zone_in_the_schedule_is_for_those_who_had_one() {
        let fault = "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        let zoned = cron("schedule: TZ=UTC * * * * *,");
        check(PATH, &zoned, &[fault]);
        check_update(PATH, &zoned, &zoned, &[]);
    }

    #[test]
    fn zones() {
        let zone = |zone: &str| cron(&format!("schedule: \"* * * * *\", timeZone: {zone},"));
        check(PATH, &zone("Europe/Berlin"), &[]);
        for (name, shown) in [("europe/berlin", "europe/berlin"), ("../etc", "../etc")] {
            let fault =
                format!("spec.timeZone: Invalid value: \"{shown}\": unknown time zone {shown}");
            check(PATH, &zone(name), &[&fault]);
            check_update(PATH, &zone(name), &zone(name), &[]);
        }
    }

    #[test]
    fn selectors_are_made_for_each_job() {
        let spec = cron("schedule: \"* * * * *\",");
        let spec = spec.replace("jobTemplate: {spec: {", "jobTemplate: {spec: {selector: {},");
        check(
            PATH,
            &spec,
            &[
                "spec.jobTemplate.spec.selector: Invalid value: {}: `selector` will be auto-generated",
            ],
        );
    }
}
