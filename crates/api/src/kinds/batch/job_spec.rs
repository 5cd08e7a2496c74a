//! What can be wrong with the spec of a Job, alone or in a CronJob's template.
//!
//! Counterpart: `validateJobSpec`. Its order is the order of the faults here.

use serde_json::Value;

use super::job_policies::{validate_failure_policy, validate_success_policy};
use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::fill::int;
use crate::kinds::pod_spec::validate::validate_template;
use crate::kinds::rules::validate_domain_prefixed_path;

pub const INDEXED: &str = "Indexed";

/// The most an Indexed Job may run at once, and the most of its indexes that may fail.
const AT_ONCE_MAX: i64 = 100_000;
/// A Job of more completions than this keeps to smaller limits.
const MANY: i64 = 100_000;
const LIMIT_OF_MANY: i64 = 10_000;
const MANAGED_BY_MAX: usize = 63;

pub fn validate_spec(spec: &At, errors: &mut ErrorList) {
    const NUMBERS: &[&str] = &[
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    spec.not_negative_each(errors, NUMBERS);
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        let limit = spec.child("backoffLimitPerIndex");
        limit.required(errors, "when maxFailedIndexes is specified");
    }
    managed_by(&spec.child("managedBy"), errors);
    completion(spec, errors);
    if spec.has("podFailurePolicy") {
        validate_failure_policy(spec, errors);
    }
    let success = spec.child("successPolicy");
    if success.is_set() {
        match spec.text_of("completionMode") {
            INDEXED => validate_success_policy(spec, &success, errors),
            _ => success.invalid(errors, "requires indexed completion mode"),
        }
    }
    replacement(spec, errors);
    let template = spec.child("template");
    validate_template(&template, errors);
    restart_policy(spec, &template.child("spec"), errors);
}

fn managed_by(by: &At, errors: &mut ErrorList) {
    if !by.is_set() {
        return;
    }
    validate_domain_prefixed_path(by, errors);
    if by.text().len() > MANAGED_BY_MAX {
        errors.too_long(&by.path, MANAGED_BY_MAX);
    }
}

fn completion(spec: &At, errors: &mut ErrorList) {
    let mode = spec.child("completionMode");
    mode.one_of_if_set(errors, &["NonIndexed", INDEXED]);
    match mode.text() {
        INDEXED => indexed_limits(spec, errors),
        "" | "NonIndexed" => {
            for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if spec.has(field) {
                    spec.child(field).invalid(errors, "requires indexed completion mode");
                }
            }
        }
        _ => {}
    }
}

fn indexed_limits(spec: &At, errors: &mut ErrorList) {
    let completions = spec.child("completions");
    if !completions.is_set() {
        completions.required(errors, "when completion mode is Indexed");
    }
    at_most(spec, "parallelism", AT_ONCE_MAX, " when completion mode is Indexed", errors);
    let failed = spec.child("maxFailedIndexes");
    if completions.is_set() && failed.int() > completions.int() {
        failed.invalid(errors, "must be less than or equal to completions");
    }
    at_most(spec, "maxFailedIndexes", AT_ONCE_MAX, "", errors);
    if completions.int() > MANY && spec.has("backoffLimitPerIndex") {
        if !failed.is_set() {
            let detail = format!("must be specified when completions is above {MANY}");
            failed.required(errors, &detail);
        }
        let why =
            format!(" when completions are above {MANY} and used with backoff limit per index");
        at_most(spec, "parallelism", LIMIT_OF_MANY, &why, errors);
        at_most(spec, "maxFailedIndexes", LIMIT_OF_MANY, &why, errors);
    }
}

fn at_most(spec: &At, field: &str, most: i64, why: &str, errors: &mut ErrorList) {
    let number = spec.child(field);
    if number.int() > most {
        number.invalid(errors, format!("must be less than or equal to {most}{why}"));
    }
}

/// A failure policy looks at Pods that have failed, so replacements wait for that.
fn replacement(spec: &At, errors: &mut ErrorList) {
    let allowed: &[&str] = match spec.has("podFailurePolicy") {
        true => &["Failed"],
        false => &["Failed", "TerminatingOrFailed"],
    };
    spec.child("podReplacementPolicy").one_of_if_set(errors, allowed);
}

fn restart_policy(spec: &At, pod: &At, errors: &mut ErrorList) {
    let policy = pod.child("restartPolicy");
    match policy.text() {
        "" | "Always" => policy.required(errors, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.has("podFailurePolicy") => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            policy.invalid(errors, detail);
        }
        "OnFailure" | "Never" => {}
        _ => policy.not_supported(errors, &["OnFailure", "Never"]),
    }
}

/// How many completions a spec asks for; 0 if it leaves that open.
pub fn completions(spec: &Value) -> i64 {
    int(spec, "/completions").unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use crate::kinds::at::tests::check;

    const PATH: &str = "batch/v1/jobs";

    fn indexed(more: &str) -> String {
        format!(
            "spec: {{completionMode: Indexed, {more}, template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: i}}]}}}}}}"
        )
    }

    #[test]
    fn jobs_of_many_indexes_keep_to_smaller_limits() {
        let why = "must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index";
        check(
            PATH,
            &indexed("completions: 100001, backoffLimitPerIndex: 1, parallelism: 10001"),
            &[
                "spec.maxFailedIndexes: Required value: must be specified when completions is above 100000",
                &format!("spec.parallelism: Invalid value: 10001: {why}"),
            ],
        );
        check(
            PATH,
            &indexed("completions: 3, maxFailedIndexes: 4"),
            &[
                "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
                "spec.maxFailedIndexes: Invalid value: 4: must be less than or equal to completions",
            ],
        );
    }

    #[test]
    fn a_manager_is_a_path_below_a_domain() {
        let long = format!("example.com/{}", "a".repeat(60));
        for (by, fault) in [
            ("example.com/x".to_owned(), None),
            ("\"\"".to_owned(), Some("Required value")),
            (
                "x".to_owned(),
                Some(
                    "Invalid value: \"x\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                ),
            ),
            (long, Some("Too long: may not be more than 63 bytes")),
        ] {
            let fault = fault.map(|fault| format!("spec.managedBy: {fault}"));
            let faults: Vec<&str> = fault.iter().map(String::as_str).collect();
            check(PATH, &indexed(&format!("completions: 1, managedBy: {by}")), &faults);
        }
    }
}
