//! What can be wrong with the cluster IPs of a Service and their families, and how they may change.
//!
//! Counterparts: `ValidateServiceClusterIPsRelatedFields`, `validateUpgradeDowngradeClusterIPs`,
//! `validateUpgradeDowngradeIPFamilies`.

use std::collections::HashSet;

use serde_json::Value;

use crate::field::{ErrorList, Path};
use crate::kinds::at::At;
use crate::kinds::rules::{lenient_ip, strict_ip};

const NONE: &str = "None";
const POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];

/// `clusterIPs` leads and `clusterIP` repeats its first entry; addresses are of their families.
/// Asked before addresses are handed out, and again when the Service is complete.
pub fn validate_addresses(spec: &At, old: &At, errors: &mut ErrorList) {
    if spec.text_of("type") == "ExternalName" {
        return;
    }
    first_is_single(spec, errors);
    let mut seen = HashSet::new();
    for family in spec.child("ipFamilies").items() {
        family.one_of(errors, &["IPv4", "IPv6"]);
        if !seen.insert(family.value.clone()) {
            family.duplicate(errors);
        }
    }
    spec.child("ipFamilyPolicy").one_of_if_set(errors, POLICIES);
    let list = spec.child("clusterIPs");
    let before = errors.0.len();
    let known = old.child("clusterIPs").list();
    for (index, address) in list.items().enumerate() {
        if index == 0 && address.text() == NONE {
            if list.list().len() > 1 {
                list.invalid(errors, "'None' must be the first and only value");
            }
        } else if !known.contains(address.value) {
            address.obeys(errors, strict_ip);
        }
    }
    let sound = errors.0.len() == before;
    if list.list().len() > 2 {
        list.invalid(errors, "may only hold up to 2 values");
    }
    if sound {
        families_fit(spec, &list, errors);
    }
}

fn first_is_single(spec: &At, errors: &mut ErrorList) {
    let (single, list) = (spec.text_of("clusterIP"), spec.child("clusterIPs"));
    let first = list.list().first().and_then(Value::as_str);
    match first {
        None if single.is_empty() => {}
        None => list.required(errors, ""),
        Some(_) if single.is_empty() => {
            list.invalid(errors, "must be empty when `clusterIP` is not specified");
        }
        Some(first) if first != single => {
            list.invalid(errors, "first value must match `clusterIP`");
        }
        Some(_) => {}
    }
}

fn families_fit(spec: &At, list: &At, errors: &mut ErrorList) {
    let is_v6 = |text: &str| lenient_ip(text).is_some_and(|address| address.is_ipv6());
    let addresses: Vec<&str> = list.list().iter().filter_map(Value::as_str).collect();
    if addresses.len() > 1 {
        let families: HashSet<bool> = addresses.iter().map(|text| is_v6(text)).collect();
        if families.len() != addresses.len() {
            list.invalid(errors, "may specify no more than one IP for each IP family");
        }
    }
    if is_headless(spec) {
        return;
    }
    let families = spec.child("ipFamilies");
    for (index, (address, family)) in list.items().zip(families.list()).enumerate() {
        let wanted = family.as_str().unwrap_or_default();
        if wanted == "IPv4" && is_v6(address.text()) || wanted == "IPv6" && !is_v6(address.text()) {
            let detail =
                format!("expected an {wanted} value as indicated by `ipFamilies[{index}]`");
            address.invalid(errors, detail);
        }
    }
}

/// A Service without an address of its own.
pub fn is_headless(spec: &At) -> bool {
    matches!(spec.child("clusterIPs").list(), [only] if only == NONE)
}

// === changes ===

/// Addresses and families stay as long as a Service has any; a second one may come and go.
pub fn validate_change(spec: &At, old: &At, errors: &mut ErrorList) {
    let external_name = |spec: &At| spec.text_of("type") == "ExternalName";
    if !external_name(spec) && !external_name(old) {
        let headless = (is_headless(old), is_headless(spec));
        if headless != (true, true) {
            kept(spec, old, "clusterIPs", "clusterIP", errors);
        }
        if headless == (false, false) {
            kept(spec, old, "ipFamilies", "ipFamily", errors);
        }
    }
    class_stays(spec, old, errors);
    let checked = |spec: &At| {
        spec.text_of("type") == "LoadBalancer" && spec.text_of("externalTrafficPolicy") == "Local"
    };
    let (port, was) = (spec.child("healthCheckNodePort"), old.child("healthCheckNodePort"));
    if checked(spec) && checked(old) && port.int() != was.int() {
        port.forbidden(errors, "field is immutable");
    }
}

fn kept(spec: &At, old: &At, field: &str, one: &str, errors: &mut ErrorList) {
    let (now, was) = (spec.child(field), old.child(field));
    let (list, before) = (now.list(), was.list());
    let shown = if field == "ipFamilies" && list.len() != before.len() {
        spec.child("clusterIPs").value.clone()
    } else {
        now.value.clone()
    };
    let changed = |index: usize, errors: &mut ErrorList| {
        let at = if field == "ipFamilies" { 0 } else { index };
        errors.invalid(&now.path.index(at), shown.clone(), "may not change once set");
    };
    if list.len() == before.len() {
        for index in (0..list.len()).filter(|index| list[*index] != before[*index]) {
            changed(index, errors);
        }
        return;
    }
    let released = before.len() > list.len();
    if released && spec.child("clusterIPs").is_empty() {
        let detail = format!("primary {one} can not be unset");
        errors.invalid(&now.path.index(0), now.value.clone(), detail);
    }
    if !list.is_empty() && !before.is_empty() && list[0] != before[0] {
        changed(0, errors);
    }
    if released && list.len() == 1 && spec.text_of("ipFamilyPolicy") != "SingleStack" {
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {one}");
        spec.child("ipFamilyPolicy").invalid(errors, detail);
    }
}

fn class_stays(spec: &At, old: &At, errors: &mut ErrorList) {
    let balanced = |spec: &At| spec.text_of("type") == "LoadBalancer";
    let (class, was) = (spec.child("loadBalancerClass"), old.child("loadBalancerClass"));
    if balanced(spec) && balanced(old) && class.value != was.value {
        class.invalid(errors, "may not change once set");
    }
    validate_class(spec, errors);
}

/// Asked of a change, and of the Service itself.
pub fn validate_class(spec: &At, errors: &mut ErrorList) {
    let class = spec.child("loadBalancerClass");
    match spec.text_of("type") == "LoadBalancer" {
        true => class.obeys_if_given(errors, crate::validation::qualified_name),
        false if class.is_set() => {
            class.forbidden(errors, "may only be used when `type` is 'LoadBalancer'");
        }
        false => {}
    }
}

/// As [`validate_addresses`], of a whole Service on its way to be given addresses.
pub fn service_addresses(service: &Value, errors: &mut ErrorList) {
    let spec = Path::new("spec");
    let at = At::new(&service["spec"], spec);
    validate_addresses(&at, &At::root(&Value::Null), errors);
}
