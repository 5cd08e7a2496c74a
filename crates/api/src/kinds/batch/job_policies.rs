//! When a Job has failed or succeeded early: its failure and success policies.
//!
//! Counterparts: `validatePodFailurePolicy`, `validateSuccessPolicy`.

use serde_json::Value;

use super::indexes::count_indexes;
use super::job_spec::completions;
use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::fill::{list, text};
use crate::validation::qualified_name;

const RULES_MAX: usize = 20;
const PATTERNS_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const INDEXES_TEXT_MAX: usize = 64 * 1024;

// === failure ===

pub fn validate_failure_policy(spec: &At, errors: &mut ErrorList) {
    let policy = spec.child("podFailurePolicy");
    let rules = policy.child("rules");
    if rules.list().len() > RULES_MAX {
        errors.too_many(&rules.path, rules.list().len(), RULES_MAX);
    }
    let containers: Vec<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|field| list(spec.value, &format!("/template/spec/{field}")))
        .map(|container| text(container, "/name"))
        .collect();
    for rule in rules.items() {
        failure_rule(spec, &rule, &containers, errors);
    }
}

fn failure_rule(spec: &At, rule: &At, containers: &[&str], errors: &mut ErrorList) {
    let action = rule.child("action");
    if action.text() == "FailIndex" && !spec.has("backoffLimitPerIndex") {
        action.invalid(errors, "requires the backoffLimitPerIndex to be set");
    }
    needed_one_of(&action, &["Count", "FailIndex", "FailJob", "Ignore"], errors);
    let (codes, conditions) = (rule.child("onExitCodes"), rule.child("onPodConditions"));
    if codes.is_set() {
        exit_codes(&codes, containers, errors);
    }
    pod_conditions(&conditions, errors);
    let fault = match (codes.is_set(), !conditions.is_empty()) {
        (true, true) => "specifying both OnExitCodes and OnPodConditions is not supported",
        (false, false) => "specifying one of OnExitCodes and OnPodConditions is required",
        _ => return,
    };
    rule.invalid_unshown(errors, fault);
}

/// One of a closed set, which is told even where nothing is given.
fn needed_one_of(at: &At, supported: &[&str], errors: &mut ErrorList) {
    if at.is_empty() {
        let supported: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        at.required(errors, &format!("valid values: [{}]", supported.join(" ")));
    } else {
        at.one_of(errors, supported);
    }
}

fn pod_conditions(conditions: &At, errors: &mut ErrorList) {
    let many = conditions.list().len();
    if many > PATTERNS_MAX {
        errors.too_many(&conditions.path, many, PATTERNS_MAX);
    }
    for condition in conditions.items() {
        condition.child("type").obeys(errors, qualified_name);
        needed_one_of(&condition.child("status"), &["False", "True", "Unknown"], errors);
    }
}

fn exit_codes(codes: &At, containers: &[&str], errors: &mut ErrorList) {
    needed_one_of(&codes.child("operator"), &["In", "NotIn"], errors);
    let name = codes.child("containerName");
    if name.is_set() && !containers.contains(&name.text()) {
        let detail = "must be one of the container or initContainer names in the pod template";
        name.invalid(errors, detail);
    }
    let values = codes.child("values");
    let numbers: Vec<i64> = values.list().iter().filter_map(Value::as_i64).collect();
    if numbers.is_empty() {
        values.invalid(errors, "at least one value is required");
    } else if numbers.len() > EXIT_CODES_MAX {
        errors.too_many(&values.path, numbers.len(), EXIT_CODES_MAX);
    }
    for (index, value) in values.items().enumerate() {
        if value.int() == 0 && codes.text_of("operator") == "In" {
            value.invalid(errors, "must not be 0 for the In operator");
        }
        if numbers[..index].contains(&value.int()) {
            value.duplicate(errors);
        }
    }
    if !numbers.is_sorted() {
        values.invalid(errors, "must be ordered");
    }
}

// === success ===

pub fn validate_success_policy(spec: &At, policy: &At, errors: &mut ErrorList) {
    let rules = policy.child("rules");
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        rules.required(errors, detail);
    }
    if rules.list().len() > RULES_MAX {
        errors.too_many(&rules.path, rules.list().len(), RULES_MAX);
    }
    rules.items().for_each(|rule| success_rule(&rule, completions(spec.value), errors));
}

fn success_rule(rule: &At, completions: i64, errors: &mut ErrorList) {
    let (indexes, count) = (rule.child("succeededIndexes"), rule.child("succeededCount"));
    if !indexes.is_set() && !count.is_set() {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        rule.required(errors, detail);
    }
    if indexes.text().len() > INDEXES_TEXT_MAX {
        errors.too_long(&indexes.path, INDEXES_TEXT_MAX);
    }
    let named = count_indexes(indexes.text(), completions);
    if let Err(fault) = &named {
        indexes.invalid(errors, format!("error parsing succeededIndexes: {fault}"));
    }
    if !count.is_set() {
        return;
    }
    count.not_negative(errors);
    if count.int() > completions {
        let of = "the number of specified completions";
        count.invalid(errors, format!("must be less than or equal to {completions} ({of})"));
    }
    let named = named.unwrap_or(0);
    if indexes.is_set() && count.int() > named {
        let of = "the number of indexes in the specified succeededIndexes field";
        count.invalid(errors, format!("must be less than or equal to {named} ({of})"));
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::at::tests::check;

    const PATH: &str = "batch/v1/jobs";

    fn job(more: &str) -> String {
        format!(
            "spec: {{{more}, template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: i}}]}}}}}}"
        )
    }

    #[test]
    fn failure_rules_have_one_condition() {
        let rule = |rule: &str| job(&format!("podFailurePolicy: {{rules: [{{{rule}}}]}}"));
        let at = "spec.podFailurePolicy.rules[0]";
        let one = format!(
            "{at}: Invalid value: specifying one of OnExitCodes and OnPodConditions is required"
        );
        check(PATH, &rule("action: Ignore"), &[&one]);
        check(
            PATH,
            &rule("onExitCodes: {operator: In, values: [3, 1, 0]}"),
            &[
                &format!(
                    "{at}.action: Required value: valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]"
                ),
                &format!(
                    "{at}.onExitCodes.values[2]: Invalid value: 0: must not be 0 for the In operator"
                ),
                &format!("{at}.onExitCodes.values: Invalid value: [3,1,0]: must be ordered"),
            ],
        );
    }

    #[test]
    fn success_rules_count_within_their_indexes() {
        let rule = |rule: &str| {
            job(&format!(
                "completionMode: Indexed, completions: 4, successPolicy: {{rules: [{{{rule}}}]}}"
            ))
        };
        let at = "spec.successPolicy.rules[0]";
        check(PATH, &rule("succeededIndexes: \"0-2\", succeededCount: 3"), &[]);
        check(
            PATH,
            &rule("succeededIndexes: \"1\", succeededCount: 5"),
            &[
                &format!(
                    "{at}.succeededCount: Invalid value: 5: must be less than or equal to 4 (the number of specified completions)"
                ),
                &format!(
                    "{at}.succeededCount: Invalid value: 5: must be less than or equal to 1 (the number of indexes in the specified succeededIndexes field)"
                ),
            ],
        );
        check(
            PATH,
            &rule("succeededIndexes: \"9\""),
            &[&format!(
                "{at}.succeededIndexes: Invalid value: \"9\": error parsing succeededIndexes: too large index: \"9\""
            )],
        );
    }
}
