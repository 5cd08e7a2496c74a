//! Which requests a webhook or a policy is asked about: rules, selectors, conditions.

use std::collections::HashSet;

use super::expressions::{Purpose, Scope};
use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::fill::{Object, each, made, set};
use crate::kinds::selectors::validate_label_selector;
use crate::validation::{path_segment, qualified_name};

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
    let policy = resources.child("matchPolicy");
    match policy.is_set() {
        true => policy.one_of(errors, POLICIES),
        false => policy.required(errors, ""),
    }
    for selector in ["namespaceSelector", "objectSelector"] {
        match resources.has(selector) {
            true => validate_label_selector(&resources.child(selector), errors),
            false => resources.child(selector).required(errors, ""),
        }
    }
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
        name.obeys(errors, path_segment);
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

/// `pods`, `pods/log`, `pods/*`, `*/scale`, `*`, `*/*`; none that an earlier one covers.
fn validate_resources(resources: &At, errors: &mut ErrorList) {
    let (mut whole, mut parts) = (HashSet::new(), HashSet::new());
    let mut plain = false;
    for resource in resources.items() {
        let text = resource.text();
        let Some((of, sub)) = text.split_once('/') else {
            match text {
                "" => resource.required(errors, ""),
                // As upstream counts: the last one without a subresource decides.
                text => plain = text != "*",
            }
            continue;
        };
        let covers =
            [(whole.contains(of), format!("{of}/*")), (parts.contains(sub), format!("*/{sub}"))];
        for (_, by) in covers.iter().filter(|(covered, _)| *covered) {
            resource.invalid(errors, format!("if '{by}' is present, must not specify {text}"));
        }
        if sub == "*" {
            whole.insert(of);
        }
        if of == "*" {
            parts.insert(sub);
        }
    }
    let has = |wanted: &str| resources.list().iter().any(|resource| resource == wanted);
    if resources.list().len() > 1 && has("*/*") {
        resources.invalid(errors, "if '*/*' is present, must not specify other resources");
    }
    if plain && has("*") {
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn faults(resources: Value) -> Vec<String> {
        let mut errors = ErrorList::default();
        let rule = json!({ "resources": resources });
        validate_resources(&At::root(&rule).child("resources"), &mut errors);
        errors.0.iter().map(|error| error.body()).collect()
    }

    #[test]
    fn only_what_an_earlier_resource_covers_is_refused() {
        assert_eq!(
            faults(json!(["pods/*", "pods/log", "*/log", "*"])),
            [r#"Invalid value: "pods/log": if 'pods/*' is present, must not specify pods/log"#]
        );
        assert_eq!(faults(json!(["pods/log", "pods/*"])), Vec::<String>::new());
        let star = r#"Invalid value: ["*","pods"]: if '*' is present, must not specify other resources without subresources"#;
        assert_eq!(faults(json!(["*", "pods"])), [star]);
        assert_eq!(faults(json!(["pods", "*"])), Vec::<String>::new(), "the last one decides");
    }
}
