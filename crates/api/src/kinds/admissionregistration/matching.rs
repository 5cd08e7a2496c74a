//! Which requests a webhook or a policy is asked about: rules, selectors, conditions.

use std::collections::HashSet;

use super::expressions::{Purpose, Scope};
use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::fill::{Object, each, made, set};
use crate::kinds::selectors::validate_label_selector;
use crate::validation::qualified_name;

const CONDITIONS_MAX: usize = 64;
pub const POLICIES: &[&str] = &["Equivalent", "Exact"];
pub const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];

/// What is matched unless said otherwise: everything, at any equivalent version.
pub fn default_match(holder: &mut Object) {
    set(holder, "matchPolicy", "Equivalent");
    made(holder, "namespaceSelector");
    made(holder, "objectSelector");
}

pub fn default_rules(holder: &mut Object, field: &str) {
    each(holder, field).for_each(|rule| set(rule, "scope", "*"));
}

pub fn validate_selectors(holder: &At, errors: &mut ErrorList) {
    validate_label_selector(&holder.child("namespaceSelector"), errors);
    validate_label_selector(&holder.child("objectSelector"), errors);
}

/// `matchConstraints` and `matchResources` of policies.
pub fn validate_match_resources(resources: &At, errors: &mut ErrorList) {
    for selector in ["namespaceSelector", "objectSelector"] {
        match resources.has(selector) {
            true => validate_label_selector(&resources.child(selector), errors),
            false => resources.child(selector).required(errors, ""),
        }
    }
    resources.child("matchPolicy").needed_one_of(errors, POLICIES);
    for field in ["resourceRules", "excludeResourceRules"] {
        for rule in resources.child(field).items() {
            validate_rule(&rule, true, errors);
        }
    }
}

const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];

/// `of_policy`: a policy's rules may name objects as well.
pub fn validate_rule(rule: &At, of_policy: bool, errors: &mut ErrorList) {
    let names = rule.child("resourceNames");
    let mut seen = HashSet::new();
    for name in names.items().filter(|_| of_policy) {
        if !seen.insert(name.text()) {
            name.duplicate(errors);
        }
    }
    let operations = rule.child("operations");
    operations.needed(errors);
    star_stands_alone(&operations, "operations", errors);
    operations.items().for_each(|operation| operation.one_of(errors, OPERATIONS));
    for (field, plural) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let list = rule.child(field);
        list.needed(errors);
        star_stands_alone(&list, plural, errors);
        if field == "apiVersions" {
            list.items().filter(|version| version.is_empty()).for_each(|v| v.required(errors, ""));
        }
    }
    let resources = rule.child("resources");
    resources.needed(errors);
    validate_resources(&resources, errors);
    rule.child("scope").one_of_if_set(errors, SCOPES);
}

fn star_stands_alone(list: &At, plural: &str, errors: &mut ErrorList) {
    if list.list().len() > 1 && list.list().iter().any(|entry| entry == "*") {
        list.invalid(errors, format!("if '*' is present, must not specify other {plural}"));
    }
}

/// `pods`, `pods/log`, `pods/*`, `*/scale`, `*`, `*/*`; none that another covers.
fn validate_resources(resources: &At, errors: &mut ErrorList) {
    let texts: Vec<&str> = resources.list().iter().filter_map(|entry| entry.as_str()).collect();
    for resource in resources.items() {
        let text = resource.text();
        if text.is_empty() {
            resource.required(errors, "");
            continue;
        }
        let (of, sub) = text.split_once('/').unwrap_or((text, ""));
        let covered = |by: &str| text != by && texts.contains(&by);
        if covered(&format!("{of}/*")) && !sub.is_empty() {
            let detail = format!("if '{of}/*' is present, must not specify {text}");
            resource.invalid(errors, detail);
        }
        if covered(&format!("*/{sub}")) && !sub.is_empty() {
            let detail = format!("if '*/{sub}' is present, must not specify {text}");
            resource.invalid(errors, detail);
        }
    }
    if texts.len() > 1 && texts.contains(&"*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        resources.invalid(errors, detail);
    }
    let with_sub = texts.iter().any(|text| text.contains('/'));
    if texts.contains(&"*")
        && texts.iter().any(|text| *text != "*" && !text.contains('/'))
        && !with_sub
    {
        let detail = "if '*' is present, must not specify other resources without subresources";
        resources.invalid(errors, detail);
    }
}

/// Reports what is wrong with an expression, shown as it was compiled.
pub fn compiled(
    outcome: Result<skiff_cel::Program, String>,
    shown: &str,
    at: &At,
    errors: &mut ErrorList,
) {
    if let Err(fault) = outcome {
        at.invalid_as(errors, shown, fault);
    }
}

pub fn validate_conditions(conditions: &At, scope: &Scope, errors: &mut ErrorList) {
    if conditions.list().len() > CONDITIONS_MAX {
        errors.too_many(&conditions.path, conditions.list().len(), CONDITIONS_MAX);
    }
    let mut names = HashSet::new();
    for condition in conditions.items() {
        let (name, expression) = (condition.child("name"), condition.child("expression"));
        match expression.text().trim() {
            "" => expression.required(errors, ""),
            text => compiled(scope.compile(text, Purpose::Condition), text, &expression, errors),
        }
        if !name.is_empty() && !names.insert(name.text()) {
            name.duplicate(errors);
        }
        name.needed_and_obeys(errors, qualified_name);
    }
}
