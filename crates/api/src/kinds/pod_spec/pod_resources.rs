//! What a Pod asks for as a whole, and how that agrees with what its containers ask for.
//!
//! Counterparts: `validatePodResources`, `validatePodResourceConsistency`, and
//! `AggregateContainerRequests` of `component-helpers/resource`, which says what the containers of
//! a Pod need together.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::fill::{Object, list, made, object, text};
use crate::kinds::resources::{Holder, is_huge_page, quantity, validate_requirements};
use crate::quantity::Quantity;

pub type Amounts = BTreeMap<String, Quantity>;

pub fn validate_pod_resources(spec: &At, claims: &[&str], errors: &mut ErrorList) {
    let resources = spec.child("resources");
    if !resources.is_set() {
        return;
    }
    if spec.child("os").text_of("name") == "windows" {
        return resources.forbidden(errors, "may not be set for a windows pod");
    }
    if !resources.child("claims").is_empty() {
        let detail = "claims may not be set for Resources at pod-level";
        resources.child("claims").forbidden(errors, detail);
    }
    validate_requirements(&resources, Holder::Pod, claims, errors);
    together(spec, &resources, errors);
    each_within_limits(spec, &resources, errors);
}

fn together(spec: &At, resources: &At, errors: &mut ErrorList) {
    for (side, counts) in [("requests", false), ("limits", true)] {
        let pod = resources.child(side);
        for (name, sum) in sum_of_containers(spec.value, side) {
            if counts && !is_huge_page(&name) {
                continue;
            }
            let at = pod.child_key(&name);
            let Some(amount) = quantity(at.value).filter(|amount| sum > *amount) else { continue };
            let detail =
                format!("must be greater than or equal to aggregate container {side} of {sum}");
            at.invalid_as(errors, amount.to_string(), detail);
        }
    }
}

fn each_within_limits(spec: &At, resources: &At, errors: &mut ErrorList) {
    let limits = resources.child("limits");
    let containers = resources.child("containers");
    for (index, container) in spec.child("containers").items().enumerate() {
        let of_container = container.child("resources");
        for (name, own) in of_container.child("limits").entries() {
            let pod = limits.value.get(name).and_then(quantity);
            let (Some(own), Some(pod)) = (quantity(own.value), pod) else { continue };
            if own > pod {
                let place = containers.path.index(index);
                let place = place.key(name);
                let detail = format!("must be less than or equal to pod limits of {pod}");
                errors.invalid(&place.child("limits"), own.to_string(), detail);
            }
        }
    }
}

/// What the containers of a PodSpec need together: the sum of those that run side by side, or what
/// one init container needs while it runs beside the sidecars started before it, if that is more.
pub fn sum_of_containers(spec: &Value, side: &str) -> Amounts {
    let mut running = Amounts::new();
    for container in list(spec, "/containers") {
        add(&mut running, &amounts(container, side));
    }
    let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
    for container in list(spec, "/initContainers") {
        let own = amounts(container, side);
        let mut meanwhile = sidecars.clone();
        add(&mut meanwhile, &own);
        if text(container, "/restartPolicy") == "Always" {
            add(&mut running, &own);
            add(&mut sidecars, &own);
        }
        at_least(&mut starting, &meanwhile);
    }
    at_least(&mut running, &starting);
    running
}

fn amounts(container: &Value, side: &str) -> Amounts {
    let resources = container.get("resources").and_then(Value::as_object);
    resources.map(|resources| amounts_at(resources, side)).unwrap_or_default()
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *sum.entry(name.clone()).or_insert(Quantity::from_units(0)) += *amount;
    }
}

fn at_least(amounts: &mut Amounts, least: &Amounts) {
    for (name, amount) in least {
        let held = amounts.entry(name.clone()).or_insert(*amount);
        *held = (*held).max(*amount);
    }
}

// === defaults ===

/// A Pod that limits itself as a whole asks for what its containers ask for, or else for what it
/// is limited to; huge pages are limited to what its containers use.
pub fn default_pod_resources(spec: &mut Object) {
    let whole = Value::Object(spec.clone());
    let Some(resources) = object(spec, "resources") else { return };
    let given = |side: &str| amounts_at(resources, side);
    let (limits, requests) = (given("limits"), given("requests"));
    if limits.is_empty() && requests.is_empty() {
        return;
    }
    let pages = sum_of_containers(&whole, "limits").into_iter().filter(|(name, _)| {
        is_huge_page(name) && !limits.contains_key(name) && !requests.contains_key(name)
    });
    fill_in(resources, "limits", pages.collect());
    let limits = amounts_at(resources, "limits");
    if limits.is_empty() {
        return;
    }
    let asked = sum_of_containers(&whole, "requests");
    let asked = asked.into_iter().filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory"));
    fill_in(resources, "requests", asked.collect());
    let known = |name: &str| matches!(name, "cpu" | "memory") || is_huge_page(name);
    fill_in(resources, "requests", limits.into_iter().filter(|(name, _)| known(name)).collect());
}

fn amounts_at(resources: &Object, side: &str) -> Amounts {
    let given = resources.get(side).and_then(Value::as_object).into_iter().flatten();
    given.filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect()
}

fn fill_in(resources: &mut Object, side: &str, amounts: Amounts) {
    if amounts.is_empty() {
        return;
    }
    let Some(target) = made(resources, side) else { return };
    for (name, amount) in amounts {
        target.entry(name).or_insert_with(|| amount.to_string().into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_starting_container_counts_beside_the_sidecars_before_it() {
        let of = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let spec = json!({
            "containers": [{"resources": of("1")}],
            "initContainers": [
                {"resources": of("1"), "restartPolicy": "Always"},
                {"resources": of("3")},
            ],
        });
        assert_eq!(sum_of_containers(&spec, "requests")["cpu"], Quantity::from_units(4));
    }
}
