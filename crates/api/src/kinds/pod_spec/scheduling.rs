//! What can be wrong with where a Pod may run: affinity, tolerations, spreading, gates.
//!
//! Counterparts: `validateAffinity`, `ValidateTolerations`, `validateTopologySpreadConstraints`.

use std::collections::HashSet;

use serde_json::json;

use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::rules::label_name;
use crate::kinds::selectors::{
    validate_label_selector, validate_node_selector, validate_preference,
};
use crate::validation::{dns_label, label_value, qualified_name};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

// === affinity ===

pub fn validate_affinity(affinity: &At, errors: &mut ErrorList) {
    let node = affinity.child("nodeAffinity");
    if node.has(REQUIRED) {
        validate_node_selector(&node.child(REQUIRED), errors);
    }
    for term in node.child(PREFERRED).items() {
        weight(&term, errors);
        validate_preference(&term.child("preference"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pod = affinity.child(kind);
        pod.child(REQUIRED).items().for_each(|term| pod_term(&term, errors));
        for term in pod.child(PREFERRED).items() {
            weight(&term, errors);
            pod_term(&term.child("podAffinityTerm"), errors);
        }
    }
}

fn weight(term: &At, errors: &mut ErrorList) {
    let weight = term.child("weight");
    if !(1..=100).contains(&weight.int()) {
        weight.invalid_as(errors, weight.int(), "must be in the range 1-100");
    }
}

fn pod_term(term: &At, errors: &mut ErrorList) {
    validate_label_selector(&term.child("labelSelector"), errors);
    validate_label_selector(&term.child("namespaceSelector"), errors);
    for namespace in term.child("namespaces").items() {
        for fault in dns_label(namespace.text()) {
            term.child("namespace").invalid_as(errors, namespace.text(), fault);
        }
    }
    own_label_keys(term, errors);
    let key = term.child("topologyKey");
    if key.is_empty() {
        key.required(errors, "can not be empty");
    }
    // Reported even where it is empty, as upstream does.
    for fault in label_name(key.text()) {
        key.invalid_as(errors, key.text(), fault);
    }
}

/// Keys whose values are those of the Pod itself: well formed, asked for once, and not both ways.
fn own_label_keys(term: &At, errors: &mut ErrorList) {
    let (keys, not_keys) = (term.child("matchLabelKeys"), term.child("mismatchLabelKeys"));
    let selector = term.child("labelSelector");
    for keys in [&keys, &not_keys].into_iter().filter(|keys| !keys.is_empty()) {
        match selector.is_set() {
            true => keys.items().for_each(|key| key.obeys(errors, label_name)),
            false => keys.forbidden(errors, "must not be specified when labelSelector is not set"),
        }
    }
    selected_twice(term, &keys, &selector, errors);
    for key in keys.items().filter(|key| not_keys.list().contains(key.value)) {
        key.invalid(errors, "exists in both matchLabelKeys and mismatchLabelKeys");
    }
}

/// By now the selector holds a requirement for each key; a second one is the client's own.
fn selected_twice(term: &At, keys: &At, selector: &At, errors: &mut ErrorList) {
    let labels = selector.child("matchLabels");
    let mut seen: HashSet<&str> = labels.entries().map(|(key, _)| key).collect();
    for expression in selector.child("matchExpressions").list() {
        let key = expression["key"].as_str().unwrap_or_default();
        let at = keys.list().iter().rposition(|other| *other == *key);
        if let Some(at) = at.filter(|_| seen.contains(key)) {
            let detail = "exists in both matchLabelKeys and labelSelector";
            errors.invalid(&term.path.index(at), key, detail);
        }
        seen.insert(key);
    }
}

// === tolerations ===

pub fn validate_tolerations(tolerations: &At, errors: &mut ErrorList) {
    for toleration in tolerations.items() {
        let (key, operator) = (toleration.child("key"), toleration.child("operator"));
        let (value, effect) = (toleration.text_of("value"), toleration.child("effect"));
        key.obeys_if_set(errors, label_name);
        if key.is_empty() && operator.text() != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            operator.invalid_as(errors, operator.text(), detail);
        }
        if toleration.has("tolerationSeconds") && effect.text() != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            effect.invalid_as(errors, effect.text(), detail);
        }
        match operator.text() {
            "Equal" | "" => {
                let faults = label_value(value);
                if !faults.is_empty() {
                    operator.invalid_as(errors, value, faults.join(";"));
                }
            }
            "Gt" | "Lt" => operator.not_supported(errors, &["Equal", "Exists", "Lt", "Gt"]),
            "Exists" if value.is_empty() => {}
            "Exists" => {
                operator.invalid_as(
                    errors,
                    value,
                    "value must be empty when `operator` is 'Exists'",
                );
            }
            _ => operator.not_supported(errors, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            effect.one_of(errors, EFFECTS);
        }
    }
}

pub fn validate_taint_effect(effect: &At, errors: &mut ErrorList) {
    effect.needed_one_of(errors, EFFECTS);
}

// === spreading ===

pub fn validate_spread_constraints(constraints: &At, errors: &mut ErrorList) {
    let list = constraints.list();
    for (at, constraint) in constraints.items().enumerate() {
        constraint.child("maxSkew").positive(errors);
        let key = constraint.child("topologyKey");
        if key.is_empty() {
            key.required(errors, "can not be empty");
        }
        let unsatisfiable = constraint.child("whenUnsatisfiable");
        unsatisfiable.one_of(errors, &["DoNotSchedule", "ScheduleAnyway"]);
        let pair =
            |value: &serde_json::Value| json!([value["topologyKey"], value["whenUnsatisfiable"]]);
        if list[at + 1..].iter().any(|other| pair(other) == pair(constraint.value)) {
            let shown =
                format!("{{{}, {}}}", constraint.text_of("topologyKey"), unsatisfiable.text());
            errors.duplicate(&constraint.child("{topologyKey, whenUnsatisfiable}").path, shown);
        }
        min_domains(&constraint, errors);
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            constraint.child(policy).one_of_if_set(errors, &["Honor", "Ignore"]);
        }
        own_label_keys(&constraint, errors);
        validate_label_selector(&constraint.child("labelSelector"), errors);
    }
}

fn min_domains(constraint: &At, errors: &mut ErrorList) {
    let domains = constraint.child("minDomains");
    if !domains.is_set() {
        return;
    }
    domains.positive(errors);
    let unsatisfiable = constraint.text_of("whenUnsatisfiable");
    if unsatisfiable != "DoNotSchedule" {
        let detail = format!(
            "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {unsatisfiable}"
        );
        domains.invalid(errors, detail);
    }
}

// === gates ===

pub fn validate_readiness_gates(gates: &At, errors: &mut ErrorList) {
    for gate in gates.items() {
        gate.child("conditionType").obeys(errors, qualified_name);
    }
}

pub fn validate_scheduling_gates(gates: &At, errors: &mut ErrorList) {
    let mut seen = HashSet::new();
    for gate in gates.items() {
        let name = gate.text_of("name");
        for fault in qualified_name(name) {
            gate.invalid_as(errors, name, fault);
        }
        if !seen.insert(name) {
            errors.duplicate(&gate.path, name);
        }
    }
}
