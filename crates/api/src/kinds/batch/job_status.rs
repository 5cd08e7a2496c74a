//! What can be wrong with the status of a Job, whoever reports it: another controller may manage
//! Jobs, and clients rely on what a finished one looks like.
//!
//! Status before and after -> faults. A rule is asked only where what it speaks of changed, so that
//! an old fault does not stand in the way of another report. Counterpart: `ValidateJobStatusUpdate`,
//! whose order is the order of the faults here.

use serde_json::Value;

use super::indexes::{count_indexes, first_common};
use super::job_spec::{INDEXED, completions};
use crate::field::ErrorList;
use crate::kinds::at::{At, IMMUTABLE};
use crate::kinds::fill::{flag, int, list, text};

/// Whether a condition of the Job holds.
pub fn is_true(job: &Value, of: &str) -> bool {
    list(job, "/status/conditions")
        .iter()
        .any(|condition| text(condition, "/type") == of && text(condition, "/status") == "True")
}

pub fn validate_status(job: &Value, old: &Value, errors: &mut ErrorList) {
    let root = At::root(job);
    let status = root.child("status");
    const COUNTS: &[&str] = &["active", "succeeded", "failed", "ready", "terminating"];
    status.not_negative_each(errors, COUNTS);
    uncounted_pods(&status.child("uncountedTerminatedPods"), errors);
    let report = Report { job, old, status, is: Outcome::of(job), was: Outcome::of(old) };
    report.outcome(errors);
    report.completion_time(errors);
    report.leading_conditions(errors);
    report.leftovers(errors);
    report.indexes(errors);
    report.pods(errors);
    report.success_criteria(errors);
    report.regressions(errors);
    report.fixed_times(errors);
    report.lost_success(errors);
}

/// Each Pod is waited for once.
fn uncounted_pods(pods: &At, errors: &mut ErrorList) {
    let mut seen = Vec::new();
    for field in ["succeeded", "failed"] {
        for uid in pods.child(field).items() {
            if uid.is_empty() {
                uid.invalid_as(errors, "", "must not be empty");
            } else if seen.contains(&uid.text()) {
                uid.duplicate(errors);
            } else {
                seen.push(uid.text());
            }
        }
    }
}

/// The conditions that say how a Job ends.
#[derive(PartialEq)]
struct Outcome {
    complete: bool,
    failed: bool,
    failure_target: bool,
    success_criteria: bool,
}

impl Outcome {
    fn of(job: &Value) -> Outcome {
        Outcome {
            complete: is_true(job, "Complete"),
            failed: is_true(job, "Failed"),
            failure_target: is_true(job, "FailureTarget"),
            success_criteria: is_true(job, "SuccessCriteriaMet"),
        }
    }

    fn is_finished(&self) -> bool {
        self.complete || self.failed
    }
}

struct Report<'a> {
    job: &'a Value,
    old: &'a Value,
    status: At<'a, 'a>,
    is: Outcome,
    was: Outcome,
}

impl Report<'_> {
    fn changed(&self, field: &str) -> bool {
        self.status.value.get(field) != self.old.get("status").and_then(|old| old.get(field))
    }

    fn finished_changed(&self) -> bool {
        self.is.is_finished() != self.was.is_finished()
    }

    fn bad_conditions(&self, errors: &mut ErrorList, detail: &str) {
        self.status.child("conditions").invalid_unshown(errors, detail);
    }

    fn is_indexed(&self) -> bool {
        text(self.job, "/spec/completionMode") == INDEXED
    }

    fn outcome(&self, errors: &mut ErrorList) {
        let (is, was) = (&self.is, &self.was);
        let ends = is.complete != was.complete || is.failed != was.failed;
        if ends && is.complete && is.failed {
            self.bad_conditions(errors, "cannot set Complete=True and Failed=true conditions");
        }
        let targets = is.complete != was.complete || is.failure_target != was.failure_target;
        if targets && is.complete && is.failure_target {
            let detail = "cannot set Complete=True and FailureTarget=true conditions";
            self.bad_conditions(errors, detail);
        }
    }

    fn completion_time(&self, errors: &mut ErrorList) {
        let (start, end) = (self.status.child("startTime"), self.status.child("completionTime"));
        if self.is.complete != self.was.complete || self.changed("completionTime") {
            if end.is_set() && !self.is.complete {
                let detail = "cannot set completionTime when there is no Complete=True condition";
                end.invalid(errors, detail);
            }
            if !end.is_set() && self.is.complete {
                end.required(errors, "completionTime is required for Complete jobs");
            }
        }
        let moved = self.changed("startTime") || self.changed("completionTime");
        let time = |at: &At| at.text().parse::<jiff::Timestamp>().ok();
        if moved && time(&start).zip(time(&end)).is_some_and(|(start, end)| end < start) {
            end.invalid(errors, "must be equal to or after `startTime`");
        }
    }

    /// A Job says that it is going to end before it has.
    fn leading_conditions(&self, errors: &mut ErrorList) {
        let (is, was) = (&self.is, &self.was);
        let fails = is.failed != was.failed || self.changed("failedIndexes");
        if fails && is.failed && !is.failure_target {
            let detail =
                "cannot set Failed=True condition without the FailureTarget=true condition";
            self.bad_conditions(errors, detail);
        }
        let succeeds = is.complete != was.complete || is.success_criteria != was.success_criteria;
        if succeeds && is.complete && !is.success_criteria {
            let detail =
                "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
            self.bad_conditions(errors, detail);
        }
    }

    /// What a finished Job has or does not have any more.
    fn leftovers(&self, errors: &mut ErrorList) {
        if !self.is.is_finished() {
            return;
        }
        let touched = |field| self.finished_changed() || self.changed(field);
        let (active, start) = (self.status.child("active"), self.status.child("startTime"));
        if touched("active") && active.int() > 0 {
            active.invalid(errors, "active>0 is invalid for finished job");
        }
        let never_ran =
            flag(self.job, "/spec/suspend") && int(self.job, "/spec/completions") == Some(0);
        if touched("startTime") && !never_ran && !start.is_set() {
            start.required(errors, "startTime is required for finished job");
        }
        let pods = self.status.child("uncountedTerminatedPods");
        let waiting = !pods.child("succeeded").is_empty() || !pods.child("failed").is_empty();
        if touched("uncountedTerminatedPods") && waiting {
            pods.invalid(errors, "must be empty for finished job");
        }
    }

    fn indexes(&self, errors: &mut ErrorList) {
        let spec = &self.job["spec"];
        let (done, failed) =
            (self.status.child("completedIndexes"), self.status.child("failedIndexes"));
        let sized = spec.get("completions").is_some();
        let per_index = spec.get("backoffLimitPerIndex").is_some();
        let (done_changed, failed_changed) =
            (self.changed("completedIndexes"), self.changed("failedIndexes"));
        if done_changed && sized {
            readable("completedIndexes", &done, completions(spec), errors);
        }
        if failed_changed && sized && per_index {
            readable("failedIndexes", &failed, completions(spec), errors);
        }
        if done_changed && !done.is_empty() && !self.is_indexed() {
            let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
            done.invalid(errors, detail);
        }
        if failed_changed && failed.is_set() && !per_index {
            let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
            failed.invalid(errors, detail);
        }
        let common = first_common(done.text(), failed.text(), completions(spec));
        if let (true, true, Some(index)) = (done_changed || failed_changed, sized, common) {
            let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
            failed.invalid(errors, detail);
        }
    }

    fn pods(&self, errors: &mut ErrorList) {
        let (ready, active) = (self.status.child("ready"), self.status.child("active"));
        let terminating = self.status.child("terminating");
        let ends = self.finished_changed() || self.changed("terminating");
        if ends && self.is.is_finished() && terminating.int() > 0 {
            terminating.invalid(errors, "terminating>0 is invalid for finished job");
        }
        let touched = self.changed("ready") || self.changed("active");
        if touched && ready.is_set() && ready.int() > active.int() {
            ready.invalid(errors, "cannot set more ready pods than active");
        }
    }

    fn success_criteria(&self, errors: &mut ErrorList) {
        let is = &self.is;
        if is.success_criteria && is.failed {
            let detail = "cannot set SuccessCriteriaMet=True and Failed=true conditions";
            self.bad_conditions(errors, detail);
        }
        if is.success_criteria && is.failure_target {
            let detail = "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions";
            self.bad_conditions(errors, detail);
        }
        let has_policy = self.job["spec"].get("successPolicy").is_some();
        if has_policy && !is.success_criteria && is.complete {
            let detail = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
            self.bad_conditions(errors, detail);
        }
    }

    /// What a Job has counted or decided stays so.
    fn regressions(&self, errors: &mut ErrorList) {
        for of in ["Failed", "Complete", "FailureTarget"] {
            if is_true(self.old, of) && !is_true(self.job, of) {
                let detail = format!("cannot disable the terminal {of}=True condition");
                self.bad_conditions(errors, &detail);
            }
        }
        let resizable = self.is_indexed()
            && self.job["spec"].get("completions") == self.job["spec"].get("parallelism");
        for (field, fixed) in [("failed", true), ("succeeded", !resizable)] {
            let count = self.status.child(field);
            let before = int(self.old, &format!("/status/{field}")).unwrap_or(0);
            if fixed && count.int() < before {
                let detail = format!("cannot decrease the {field} counter");
                count.invalid_as(errors, count.int(), detail);
            }
        }
    }

    fn fixed_times(&self, errors: &mut ErrorList) {
        let had = |field: &str| self.old["status"].get(field).is_some();
        let (start, end) = (self.status.child("startTime"), self.status.child("completionTime"));
        if had("completionTime") && end.is_set() && self.changed("completionTime") {
            end.invalid(errors, IMMUTABLE);
        }
        let resumed = is_true(self.old, "Suspended")
            && list(self.job, "/status/conditions").iter().any(|condition| {
                text(condition, "/type") == "Suspended" && text(condition, "/status") == "False"
            });
        let suspended = flag(self.job, "/spec/suspend");
        if had("startTime") && self.changed("startTime") && !resumed && !suspended {
            start.invalid(errors, "field is immutable for unsuspended job once set");
        }
    }

    fn lost_success(&self, errors: &mut ErrorList) {
        let (is, was) = (&self.is, &self.was);
        if was.success_criteria && !is.success_criteria {
            self.bad_conditions(errors, "cannot disable the SuccessCriteriaMet=True condition");
        }
        if was.complete && !was.success_criteria && is.success_criteria {
            let detail =
                "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
            self.bad_conditions(errors, detail);
        }
    }
}

fn readable(name: &str, indexes: &At, completions: i64, errors: &mut ErrorList) {
    if let Err(fault) = count_indexes(indexes.text(), completions) {
        indexes.invalid(errors, format!("error parsing {name}: {fault}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(spec: Value, old: Value, new: Value) -> Vec<String> {
        let mut errors = ErrorList::default();
        let job = |status: Value| json!({"spec": spec.clone(), "status": status});
        validate_status(&job(new), &job(old), &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    fn condition(of: &str) -> Value {
        json!({"type": of, "status": "True"})
    }

    #[test]
    fn a_finished_job_has_said_so_before_and_left_nothing() {
        let status = json!({"active": 1, "conditions": [condition("Complete")]});
        assert_eq!(
            faults(json!({"completions": 1}), json!({}), status),
            [
                "status.completionTime: Required value: completionTime is required for Complete jobs",
                "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
                "status.active: Invalid value: 1: active>0 is invalid for finished job",
                "status.startTime: Required value: startTime is required for finished job",
            ]
        );
    }

    #[test]
    fn indexes_neither_overlap_nor_stand_where_there_are_none() {
        let indexed =
            json!({"completionMode": "Indexed", "completions": 5, "backoffLimitPerIndex": 1});
        let status = json!({"completedIndexes": "0-2", "failedIndexes": "2,9"});
        assert_eq!(
            faults(indexed, json!({}), status),
            [
                "status.failedIndexes: Invalid value: \"2,9\": error parsing failedIndexes: too large index: \"9\"",
                "status.failedIndexes: Invalid value: \"2,9\": failedIndexes and completedIndexes overlap at index: 2",
            ]
        );
        assert_eq!(
            faults(json!({"completions": 5}), json!({}), json!({"completedIndexes": "1"})),
            [
                "status.completedIndexes: Invalid value: \"1\": cannot set non-empty completedIndexes when non-indexed completion mode"
            ]
        );
    }

    #[test]
    fn counters_and_ends_are_kept() {
        let old = json!({"failed": 2, "conditions": [condition("FailureTarget")]});
        assert_eq!(
            faults(json!({}), old, json!({"failed": 1})),
            [
                "status.conditions: Invalid value: cannot disable the terminal FailureTarget=True condition",
                "status.failed: Invalid value: 1: cannot decrease the failed counter",
            ]
        );
    }
}
