//! One device of a slice: what it is like, how much of it there is, where it is and what it waits for.
//!
//! Counterpart: `validateDevice`.

use std::collections::HashSet;

use serde_json::Value;

use super::capacity::validate_capacity;
use super::rules::{self, text_in};
use super::taint::validate_taint;
use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::fill::count;
use crate::kinds::rules::label_name;
use crate::kinds::selectors::validate_node_selector;
use crate::validation::{dns_label, dns_subdomain};

const PROPERTIES_MAX: usize = 32;
const ATTRIBUTE_VALUES_MAX: usize = 48;
const TEXT_MAX: usize = 64;
const TAINTS_MAX: usize = 16;
const CONSUMPTIONS_MAX: usize = 2;
const COUNTERS_MAX: usize = 32;
const BINDING_MAX: usize = 4;

/// Where each device says itself which nodes reach it.
const PLACES: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";

pub fn validate_device(device: &At, old: Option<&Value>, placed: bool, errors: &mut ErrorList) {
    device.child("name").obeys(errors, dns_label);
    validate_size(device, errors);
    rules::by_qualified_name(&device.child("attributes"), errors, validate_attribute);
    let shared = device.flag_of("allowMultipleAllocations");
    rules::by_qualified_name(&device.child("capacity"), errors, |capacity, errors| {
        validate_capacity(capacity, shared, errors);
    });
    let taints = device.child("taints");
    if old.is_none_or(|old| old["taints"] != *taints.value) {
        rules::each(&taints, TAINTS_MAX, errors, validate_taint);
    }
    let by_set = |consumption: &Value| text_in(consumption, "counterSet");
    let consumptions = device.child("consumesCounters");
    rules::set(&consumptions, CONSUMPTIONS_MAX, by_set, errors, |consumption, errors| {
        consumption.child("counterSet").needed_and_obeys(errors, dns_label);
        validate_counters(&consumption.child("counters"), errors);
    });
    validate_place(device, placed, errors);
    validate_binding(device, errors);
}

fn validate_size(device: &At, errors: &mut ErrorList) {
    let attributes = count(device.value, "/attributes");
    let bounds = [
        (
            attributes + count(device.value, "/capacity"),
            "attributes and capacities",
            PROPERTIES_MAX,
        ),
        (attributes, "attribute values", ATTRIBUTE_VALUES_MAX),
    ];
    for (number, what, max) in bounds {
        if number > max {
            device.invalid_as(
                errors,
                number,
                format!("the total number of {what} must not exceed {max}"),
            );
        }
    }
}

fn validate_attribute(attribute: &At, errors: &mut ErrorList) {
    const ONE: &str = "exactly one value must be specified";
    let given = ["bool", "int", "string", "version"].iter().filter(|form| attribute.has(form));
    let (text, version) = (attribute.child("string"), attribute.child("version"));
    if version.is_set() && !is_semver(version.text()) {
        version.invalid(errors, "must be a string compatible with semver.org spec 2.0.0");
    }
    for at in [text, version] {
        if at.text().len() > TEXT_MAX {
            errors.too_long(&at.path, TEXT_MAX);
        }
    }
    match given.count() {
        0 => attribute.invalid_as(errors, "", ONE),
        1 => {}
        _ => attribute.invalid(errors, ONE),
    }
}

/// `1.2.3`, with a release candidate's mark and a build's if there is one.
fn is_semver(text: &str) -> bool {
    let numeric = |part: &str| {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        digits && (part == "0" || !part.starts_with('0'))
    };
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let candidate = |part: &str| {
        word(part) && (numeric(part) || part.bytes().any(|byte| !byte.is_ascii_digit()))
    };
    let (rest, build) = text.split_once('+').map_or((text, None), |(a, b)| (a, Some(b)));
    let (core, mark) = rest.split_once('-').map_or((rest, None), |(a, b)| (a, Some(b)));
    core.split('.').count() == 3
        && core.split('.').all(numeric)
        && mark.is_none_or(|mark| mark.split('.').all(candidate))
        && build.is_none_or(|build| build.split('.').all(word))
}

/// The counters of a set, or what a device takes of them.
pub fn validate_counters(counters: &At, errors: &mut ErrorList) {
    if !counters.needed(errors) {
        return;
    }
    let number = count(counters.value, "");
    if number > COUNTERS_MAX {
        return errors.too_many(&counters.path, number, COUNTERS_MAX);
    }
    for (name, _) in counters.map().into_iter().flatten() {
        dns_label(name)
            .into_iter()
            .for_each(|fault| counters.invalid_as(errors, name.as_str(), fault));
    }
}

/// `placed`: whether devices say for themselves which nodes reach them.
fn validate_place(device: &At, placed: bool, errors: &mut ErrorList) {
    let (name, selector, all) =
        (device.child("nodeName"), device.child("nodeSelector"), device.child("allNodes"));
    if !placed {
        if [name, selector, all].iter().any(At::is_set) {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            device.invalid_as(errors, Value::Null, detail);
        }
        return;
    }
    let mut given = Vec::new();
    match name.text() {
        "" if name.is_set() => name.invalid(errors, "must not be empty"),
        "" => {}
        _ => {
            given.push("`nodeName`");
            name.obeys(errors, dns_subdomain);
        }
    }
    if selector.is_set() {
        given.push("`nodeSelector`");
        validate_node_selector(&selector, errors);
    }
    match all.flag() {
        true => given.push("`allNodes`"),
        false if all.is_set() => all.invalid(errors, "must be either unset or set to true"),
        false => {}
    }
    match given.len() {
        0 => device.required(errors, PLACES),
        1 => {}
        _ => device.invalid_as(errors, format!("{{{}}}", given.join(", ")), PLACES),
    }
}

/// Conditions that binding a pod waits for, and those that end the wait.
pub fn validate_binding(device: &At, errors: &mut ErrorList) {
    let (waits, fails) =
        (device.child("bindingConditions"), device.child("bindingFailureConditions"));
    for conditions in [waits, fails] {
        rules::each(&conditions, BINDING_MAX, errors, |condition, errors| {
            condition.obeys(errors, label_name);
        });
    }
    for (conditions, other) in [(waits, None), (fails, Some(waits))] {
        let mut seen = HashSet::new();
        for condition in conditions.items() {
            if !seen.insert(condition.text()) {
                condition.duplicate(errors);
            }
            if other.is_some_and(|other: At| other.list().contains(condition.value)) {
                let detail = "bindingFailureConditions must not overlap with bindingConditions";
                condition.invalid(errors, detail);
            }
        }
    }
    match (waits.is_empty(), fails.is_empty()) {
        (true, false) => {
            waits.invalid(errors, "bindingConditions are required to use bindingFailureConditions");
        }
        (false, true) => {
            fails.invalid(errors, "bindingFailureConditions are required to use bindingConditions");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_follow_semver() {
        for fine in ["0.0.0", "1.2.3-alpha.1", "1.0.0+build.01", "1.0.0-0a.b-c+x"] {
            assert!(is_semver(fine), "{fine}");
        }
        for bad in ["1.2", "01.2.3", "1.2.3-01", "1.2.3-", "1.2.3+", "v1.2.3", "1.2.3.4"] {
            assert!(!is_semver(bad), "{bad}");
        }
    }
}
