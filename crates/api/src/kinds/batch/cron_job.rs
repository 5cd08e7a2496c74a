//! CronJob: Jobs by the clock.

use serde_json::Value;

use crate::age;
use crate::kind::Strategy;
use crate::kinds::fill::{count, flag, object_at, set, text};
use crate::kinds::pod_spec::default_template;
use crate::kinds::workload::{label_selector, template_cell};

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
