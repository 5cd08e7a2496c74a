//! ResourceQuota: how much a namespace may hold.
//!
//! Counterpart: `ValidateResourceQuota`, `printResourceQuota`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{KindDef, Strategy};
use crate::kinds::at::At;
use crate::kinds::resources::{quantity, validate_amount, validate_quota_resource_name};

pub struct ResourceQuota;

const SCOPES: &[&str] = &[
    "BestEffort",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

/// What a quota of BestEffort Pods can count.
const OF_BEST_EFFORT: &[&str] = &["pods"];

const OF_PODS: &[&str] = &[
    "cpu",
    "memory",
    "limits.cpu",
    "limits.memory",
    "pods",
    "requests.cpu",
    "requests.memory",
    "ephemeral-storage",
    "limits.ephemeral-storage",
    "requests.ephemeral-storage",
];

impl Strategy for ResourceQuota {
    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = serde_json::json!({});
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        let hard = spec.child("hard");
        for (name, amount) in hard.entries() {
            validate_quota_resource_name(name, &amount, errors);
            validate_amount(name, &amount, errors);
        }
        scopes(&spec, errors);
        scope_selector(&spec, errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
        let (root, old) = (At::root(object), At::root(old));
        let (spec, was) = (root.child("spec"), old.child("spec"));
        let set = |at: &At| at.list().iter().map(Value::to_string).collect::<BTreeSet<_>>();
        let (scopes, before) = (spec.child("scopes"), was.child("scopes"));
        if set(&scopes) != set(&before) {
            scopes.invalid(errors, "field is immutable");
        }
    }

    fn validate_status_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let status = root.child("status");
        for field in ["hard", "used"] {
            for (name, amount) in status.child(field).entries() {
                validate_quota_resource_name(name, &amount, errors);
                validate_amount(name, &amount, errors);
            }
        }
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Request" => usage(object, false).into(),
            "Limit" => usage(object, true).into(),
            _ => Value::Null,
        }
    }
}

fn scopes(spec: &At, errors: &mut ErrorList) {
    let scopes = spec.child("scopes");
    let names: Vec<&str> = scopes.list().iter().filter_map(Value::as_str).collect();
    let hard = spec.child("hard");
    for name in &names {
        if !SCOPES.contains(name) {
            scopes.invalid(errors, "unsupported scope");
        }
        for (resource, _) in hard.entries() {
            if !counts(name, resource) {
                scopes.invalid(errors, "unsupported scope applied to resource");
            }
        }
    }
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if names.contains(&one) && names.contains(&other) {
            scopes.invalid(errors, "conflicting scopes");
        }
    }
}

/// Whether a resource can be counted under a scope.
fn counts(scope: &str, resource: &str) -> bool {
    let of_pods = OF_PODS.contains(&resource)
        || resource.contains("hugepages-")
        || resource.starts_with("count/")
        || resource.starts_with("requests.");
    match scope {
        "BestEffort" => OF_BEST_EFFORT.contains(&resource),
        "NotBestEffort"
        | "NotTerminating"
        | "PriorityClass"
        | "Terminating"
        | "CrossNamespacePodAffinity" => of_pods || !is_standard(resource),
        _ => true,
    }
}

fn is_standard(resource: &str) -> bool {
    !resource.contains('/')
}

fn scope_selector(spec: &At, errors: &mut ErrorList) {
    let selector = spec.child("scopeSelector");
    let expressions = selector.child("matchExpressions");
    for expression in expressions.list() {
        let requirement = At::new(expression, expressions.path);
        let (scope, operator) = (requirement.child("scopeName"), requirement.child("operator"));
        let values = requirement.child("values");
        if !SCOPES.contains(&scope.text()) {
            scope.invalid(errors, "unsupported scope");
        }
        let by_value = ["PriorityClass", "VolumeAttributesClass"].contains(&scope.text());
        if !by_value && operator.text() != "Exists" && SCOPES.contains(&scope.text()) {
            let detail = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            operator.invalid(errors, detail);
        }
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                values.required(errors, detail);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                values.invalid(errors, detail);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => operator.invalid(errors, "not a valid selector operator"),
        }
    }
}

/// `name: used/hard` of limits or of everything else.
fn usage(quota: &Value, limits: bool) -> String {
    let hard = quota.pointer("/status/hard").and_then(Value::as_object).into_iter().flatten();
    let shown =
        hard.filter(|(name, _)| name.starts_with("limits") == limits).map(|(name, most)| {
            let used = quota.pointer("/status/used").and_then(|used| used.get(name));
            let used = used.and_then(quantity).map_or("0".to_owned(), |used| used.to_string());
            format!("{name}: {used}/{}", most.as_str().unwrap_or_default())
        });
    shown.collect::<Vec<_>>().join(", ")
}
