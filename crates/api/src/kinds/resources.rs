//! Amounts of resources and their names, as containers, quotas, limit ranges and overheads hold them.
//!
//! Counterparts: `ValidateResourceRequirements`, `ValidateContainerResourceName` and friends.

use serde_json::Value;

use super::at::{At, NOT_NEGATIVE};
use crate::field::ErrorList;
use crate::quantity::Quantity;
use crate::validation::qualified_name;

const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

/// Counted in whole pieces.
const INTEGERS: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

const FOR_QUOTA: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "requests.storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

pub fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

// === names ===

pub fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Kubernetes' own, and not a vendor's.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.split('/').next().is_some_and(|d| d.ends_with("kubernetes.io"))
}

pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.")
}

/// What more may be requested of than is limited.
fn may_be_overcommitted(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

pub fn validate_resource_name(name: &str, at: &At, errors: &mut ErrorList) -> bool {
    let faults = qualified_name(name);
    let well_formed = faults.is_empty();
    faults.into_iter().for_each(|fault| at.invalid_as(errors, name, fault));
    let known = STANDARD.contains(&name)
        || is_huge_page(name)
        || name.starts_with("requests.hugepages-")
        || name.starts_with("count/");
    if well_formed && !name.contains('/') && !known {
        at.invalid_as(errors, name, "must be a standard resource type or fully qualified");
    }
    well_formed
}

pub fn validate_container_resource_name(name: &str, at: &At, errors: &mut ErrorList) {
    validate_resource_name(name, at, errors);
    let standard = ["cpu", "memory", "ephemeral-storage"].contains(&name) || is_huge_page(name);
    if !name.contains('/') && !standard {
        at.invalid_as(errors, name, "must be a standard resource for containers");
    } else if !is_native(name) && !is_extended(name) {
        at.invalid_as(errors, name, "doesn't follow extended resource name standard");
    }
}

pub fn validate_quota_resource_name(name: &str, at: &At, errors: &mut ErrorList) {
    validate_resource_name(name, at, errors);
    let standard = FOR_QUOTA.contains(&name)
        || is_huge_page(name)
        || name.starts_with("requests.hugepages-")
        || name.starts_with("limits.hugepages-");
    if !name.contains('/') && !standard {
        at.invalid_as(errors, name, "must be a standard resource for quota");
    }
}

// === amounts ===

/// Not negative, and whole where only whole pieces exist.
pub fn validate_amount(name: &str, at: &At, errors: &mut ErrorList) {
    validate_not_negative(at, errors);
    let Some(amount) = quantity(at.value) else { return };
    let whole = INTEGERS.contains(&name) || is_extended(name);
    if whole && amount != Quantity::from_units(amount.units()) {
        at.invalid_as(errors, amount.to_string(), "must be an integer");
    }
}

pub fn validate_not_negative(at: &At, errors: &mut ErrorList) {
    if let Some(amount) = quantity(at.value).filter(|amount| amount.is_negative()) {
        at.invalid_as(errors, amount.to_string(), NOT_NEGATIVE);
    }
}

/// `resources` of a container: known names, whole amounts, requests within limits.
pub fn validate_requirements(resources: &At, errors: &mut ErrorList) {
    let (limits, requests) = (resources.child("limits"), resources.child("requests"));
    for (name, amount) in limits.entries() {
        validate_container_resource_name(name, &amount, errors);
        validate_amount(name, &amount, errors);
    }
    for (name, amount) in requests.entries() {
        validate_container_resource_name(name, &amount, errors);
        validate_amount(name, &amount, errors);
        request_within_limit(name, amount.value, &limits, &requests, errors);
    }
    let names = || limits.entries().chain(requests.entries()).map(|(name, _)| name);
    if names().any(is_huge_page) && !names().any(|name| name == "cpu" || name == "memory") {
        resources.forbidden(errors, "HugePages require cpu or memory");
    }
}

fn request_within_limit(
    name: &str,
    amount: &Value,
    limits: &At,
    requests: &At,
    errors: &mut ErrorList,
) {
    let Some(request) = quantity(amount) else { return };
    let limit = limits.value.get(name).and_then(quantity);
    let shown = request.to_string();
    match limit {
        Some(limit) if request != limit && !may_be_overcommitted(name) => {
            requests.invalid_as(errors, shown, format!("must be equal to {name} limit of {limit}"));
        }
        Some(limit) if request > limit => {
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            requests.invalid_as(errors, shown, detail);
        }
        None if !may_be_overcommitted(name) => {
            limits.required(errors, "Limit must be set for non overcommitable resources");
        }
        _ => {}
    }
}
