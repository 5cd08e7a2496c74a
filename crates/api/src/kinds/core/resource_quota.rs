//! ResourceQuota: how much a namespace may hold.
//!
//! Counterpart: `ValidateResourceQuota`, `printResourceQuota`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field::ErrorList;
use crate::internal::printed;
use crate::kind::{KindDef, Strategy};
use crate::kinds::at::At;
use crate::kinds::resources::{
    is_standard_for_quota, quantity, validate_amount, validate_quota_resource_name,
};

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

const OF_PODS: &[&str] =
    &["cpu", "memory", "limits.cpu", "limits.memory", "pods", "requests.cpu", "requests.memory"];

const OF_CLAIMS: &[&str] = &["persistentvolumeclaims", "requests.storage"];

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
        for _ in uncounted(name, &hard) {
            scopes.invalid(errors, "unsupported scope applied to resource");
        }
    }
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if names.contains(&one) && names.contains(&other) {
            scopes.invalid(errors, "conflicting scopes");
        }
    }
}

/// Resources that a scope says nothing about.
fn uncounted<'v>(scope: &str, hard: &At<'v, '_>) -> impl Iterator<Item = &'v str> {
    let standard = hard.map().into_iter().flatten().map(|(name, _)| name.as_str());
    standard.filter(|name| is_standard_for_quota(name)).filter(|name| !counts(scope, name))
}

/// Whether a resource can be counted under a scope.
fn counts(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "NotBestEffort"
        | "NotTerminating"
        | "PriorityClass"
        | "Terminating"
        | "CrossNamespacePodAffinity" => OF_PODS.contains(&resource),
        "VolumeAttributesClass" => OF_CLAIMS.contains(&resource),
        _ => true,
    }
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
        for _ in uncounted(scope.text(), &spec.child("hard")) {
            let printed = printed("core.ScopeSelector", selector.value);
            let detail = "unsupported scope applied to resource";
            errors.invalid_printed(&expressions.path, printed, detail);
        }
        let by_value = ["PriorityClass", "VolumeAttributesClass"].contains(&scope.text());
        if !by_value && operator.text() != "Exists" && SCOPES.contains(&scope.text()) {
            let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
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
