//! Amounts of resources and their names, as containers, quotas, limit ranges and overheads hold them.
//!
//! Counterparts: `ValidateResourceRequirements`, `ValidateContainerResourceName` and friends.

use serde_json::Value;

use super::at::{At, NOT_NEGATIVE};
use crate::field::ErrorList;
use crate::quantity::Quantity;
use crate::validation::{dns_label, qualified_name};

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
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A vendor's, with a name that quotas can speak of too.
pub fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && qualified_name(&format!("requests.{name}")).is_empty()
}

/// What more may be requested of than is limited.
pub fn may_be_overcommitted(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

/// Says whether the name is well formed and known.
pub fn validate_resource_name(name: &str, at: &At, errors: &mut ErrorList) -> bool {
    let faults = qualified_name(name);
    let well_formed = faults.is_empty();
    faults.into_iter().for_each(|fault| at.invalid_as(errors, name, fault));
    let known =
        STANDARD.contains(&name) || is_huge_page(name) || name.starts_with("requests.hugepages-");
    if well_formed && !name.contains('/') && !known {
        at.invalid_as(errors, name, "must be a standard resource type or fully qualified");
        return false;
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

/// What a quota counts of itself, and not by an object's kind.
pub fn is_standard_for_quota(name: &str) -> bool {
    FOR_QUOTA.contains(&name) || is_huge_page(name) || name.starts_with("requests.hugepages-")
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

/// Who asks for resources: a Pod as a whole knows fewer of them than its containers.
#[derive(Clone, Copy)]
pub enum Holder {
    Container,
    Pod,
}

impl Holder {
    fn validate_name(self, name: &str, at: &At, errors: &mut ErrorList) {
        match self {
            Holder::Container => validate_container_resource_name(name, at, errors),
            Holder::Pod => {
                let known = ["cpu", "memory"].contains(&name) || is_huge_page(name);
                if validate_resource_name(name, at, errors) && !known {
                    errors.not_supported(&at.path, name, &["cpu", "hugepages-", "memory"]);
                }
            }
        }
    }
}

/// Bytes come whole.
pub fn warn_fractional(at: &At, warnings: &mut Vec<String>) {
    let Some(amount) = quantity(at.value) else { return };
    if amount.milli() % 1000 != 0 {
        warnings.push(format!(
            "{}: fractional byte value \"{amount}\" is invalid, must be an integer",
            at.path
        ));
    }
}

/// `resources`: known names, whole amounts, requests within limits, claims that the Pod has.
pub fn validate_requirements(resources: &At, of: Holder, claims: &[&str], errors: &mut ErrorList) {
    let (limits, requests) = (resources.child("limits"), resources.child("requests"));
    for (name, amount) in limits.entries() {
        of.validate_name(name, &amount, errors);
        validate_amount(name, &amount, errors);
        validate_whole_pages(name, &amount, errors);
    }
    for (name, amount) in requests.entries() {
        of.validate_name(name, &amount, errors);
        validate_amount(name, &amount, errors);
        request_within_limit(name, amount.value, &limits, &requests, errors);
        validate_whole_pages(name, &amount, errors);
    }
    let names = || limits.entries().chain(requests.entries()).map(|(name, _)| name);
    if names().any(is_huge_page) && !names().any(|name| name == "cpu" || name == "memory") {
        resources.forbidden(errors, "HugePages require cpu or memory");
    }
    validate_claim_names(&resources.child("claims"), claims, errors);
}

/// Huge pages come in the size that their name says.
fn validate_whole_pages(name: &str, at: &At, errors: &mut ErrorList) {
    let Some(size) = name.strip_prefix("hugepages-") else { return };
    let Some(amount) = quantity(at.value) else { return };
    let size = size.parse::<Quantity>().map(|size| size.units()).unwrap_or(0);
    if size <= 0 || amount.units() % size != 0 {
        let detail = format!("{amount} is not positive integer multiple of {name}");
        at.invalid_as(errors, amount.to_string(), detail);
    }
}

/// Each claim, or request of a claim, once, and only of claims that the Pod has.
fn validate_claim_names(claims: &At, known: &[&str], errors: &mut ErrorList) {
    let mut seen: Vec<String> = Vec::new();
    for claim in claims.items() {
        let (name, request) = (claim.text_of("name"), claim.child("request"));
        if name.is_empty() {
            claim.required(errors, "");
            continue;
        }
        if seen.iter().any(|key| key == name) {
            errors.duplicate(&claim.path, name);
        } else {
            request.obeys_if_set(errors, dns_label);
            let key = match request.text() {
                "" => name.to_owned(),
                request => format!("{name}/{request}"),
            };
            let of_claim = format!("{name}/");
            let overlaps = |other: &&String| request.is_empty() && other.starts_with(&of_claim);
            if seen.contains(&key) {
                errors.duplicate(&claim.path, key.as_str());
            } else {
                seen.iter().filter(overlaps).for_each(|_| errors.duplicate(&claim.path, name));
            }
            seen.push(key);
        }
        if !known.contains(&name) {
            let names = match known {
                [] => " which is empty".to_owned(),
                known => format!(": {}", known.join(", ")),
            };
            let detail = format!("must be one of the names in pod.spec.resourceClaims{names}");
            errors.not_found_because(&claim.path, name, detail);
        }
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
