//! Whether a quota's scopes take an object in.
//!
//! Counterpart: `podMatchesScopeFunc` and `pvcMatchesScopeFunc` of upstream's evaluators. A scope is about pods or about claims;
//! objects of any other kind are in no scope.

use serde_json::{Value, json};

use super::usage;
use crate::kind::KindDef;

pub fn all_match(kind: &KindDef, object: &Value, quota: &Value) -> bool {
    let spec = &quota["spec"];
    let plain = spec["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let plain = plain.map(|scope| json!({ "scopeName": scope, "operator": "Exists" }));
    let selected = spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    plain.chain(selected.cloned()).all(|term| {
        let scope = term["scopeName"].as_str().unwrap_or("");
        match (usage::is_pods(kind), usage::is_claims(kind)) {
            (true, _) => pod_matches(object, scope, &term),
            (_, true) => scope == "VolumeAttributesClass" && claim_matches(object, &term),
            _ => false,
        }
    })
}

fn pod_matches(pod: &Value, scope: &str, term: &Value) -> bool {
    let terminating = pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|left| left >= 0);
    let best_effort = pod["status"]["qosClass"] == "BestEffort";
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => {
            let class = pod["spec"]["priorityClassName"].as_str().unwrap_or("");
            selects(term, &[class])
        }
        "CrossNamespacePodAffinity" => reaches_other_namespaces(pod),
        _ => false,
    }
}

/// A claim is in the class it asks for, in the one it has, and in the one it is moving to.
fn claim_matches(claim: &Value, term: &Value) -> bool {
    let places = [
        "/spec/volumeAttributesClassName",
        "/status/currentVolumeAttributesClassName",
        "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
    ];
    let named: Vec<&str> = places
        .iter()
        .filter_map(|place| claim.pointer(place)?.as_str())
        .filter(|name| !name.is_empty())
        .collect();
    selects(term, if named.is_empty() { &[""] } else { &named })
}

/// Any of the names; the empty one stands for none.
fn selects(term: &Value, names: &[&str]) -> bool {
    let listed = |name: &str| {
        term["values"].as_array().is_some_and(|values| values.iter().any(|value| value == name))
    };
    names.iter().any(|name| match term["operator"].as_str() {
        Some("In") => !name.is_empty() && listed(name),
        Some("NotIn") => name.is_empty() || !listed(name),
        Some("DoesNotExist") => name.is_empty(),
        _ => !name.is_empty(),
    })
}

fn reaches_other_namespaces(pod: &Value) -> bool {
    let reaches = |term: &Value| {
        term["namespaces"].as_array().is_some_and(|list| !list.is_empty())
            || term["namespaceSelector"].is_object()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|side| {
        let side = &pod["spec"]["affinity"][side];
        let list = |field: &str| side[field].as_array().into_iter().flatten();
        list("requiredDuringSchedulingIgnoredDuringExecution").any(reaches)
            || list("preferredDuringSchedulingIgnoredDuringExecution")
                .any(|weighted| reaches(&weighted["podAffinityTerm"]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(scope: &str, operator: &str, values: &[&str], pod: Value, expected: bool) {
        let term = json!({ "scopeName": scope, "operator": operator, "values": values });
        assert_eq!(pod_matches(&pod, scope, &term), expected, "{term} {pod}");
    }

    #[test]
    fn scopes_take_pods_in_or_not() {
        let timed = json!({ "spec": { "activeDeadlineSeconds": 5 } });
        check("Terminating", "Exists", &[], timed.clone(), true);
        check("NotTerminating", "Exists", &[], timed, false);
        let high = json!({ "spec": { "priorityClassName": "high" } });
        check("PriorityClass", "In", &["high"], high.clone(), true);
        check("PriorityClass", "NotIn", &["high"], high, false);
        check("PriorityClass", "NotIn", &["high"], json!({ "spec": {} }), true);
        let term = json!([{ "namespaces": ["other"] }]);
        let affine = json!({ "spec": { "affinity": { "podAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": term } } } });
        check("CrossNamespacePodAffinity", "Exists", &[], affine, true);
    }
}
