//! ResourceSlice: the devices that a driver offers, and the counters they draw on.

use serde_json::Value;

use super::device::{validate_counters, validate_device};
use super::rules::{self, by_name};
use crate::alike::alike;
use crate::field::ErrorList;
use crate::kind::{KindDef, Strategy};
use crate::kinds::at::{At, POSITIVE};
use crate::kinds::fill::{Object, each, list, object_at, set, text};
use crate::kinds::pod_spec::volume_sources::validate_driver_name;
use crate::kinds::selectors::validate_node_selector;
use crate::time;
use crate::validation::{dns_label, dns_subdomain};

pub struct ResourceSlice;

const DEVICES_MAX: usize = 128;
/// Where some device has taints or draws on counters.
const ADVANCED_DEVICES_MAX: usize = 64;
const COUNTER_SETS_MAX: usize = 8;
/// Fields of features that are off.
const OFF: &[&str] = &["bools", "ints", "strings", "versions"];

impl Strategy for ResourceSlice {
    fn tells_empty_from_absent(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = object_at(object, "/spec") else { return };
        for device in each(spec, "devices") {
            for taint in each(device, "taints") {
                set(taint, "timeAdded", time::format(time::now()));
            }
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        drop_disabled(object);
    }

    fn prepare_for_update(&self, _kind: &KindDef, object: &mut Value, _old: &Value) {
        drop_disabled(object);
    }

    fn generation_changes(&self, _kind: &KindDef, object: &Value, old: &Value) -> bool {
        !alike(&object["spec"], &old["spec"])
    }

    fn selectable_fields(&self) -> &'static [(&'static str, &'static str)] {
        &[("spec.driver", "/spec/driver"), ("spec.nodeName", "/spec/nodeName")]
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        validate_slice(object, None, errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        validate_slice(object, Some(old), errors);
    }

    fn warnings(&self, object: &Value, _old: Option<&Value>) -> Vec<String> {
        let driver = text(object, "/spec/driver");
        let upper = driver.chars().any(char::is_uppercase);
        let warning = || {
            format!(
                "spec.driver: driver names should be lowercase; {driver:?} contains uppercase characters"
            )
        };
        upper.then(warning).into_iter().collect()
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Node" => text(object, "/spec/nodeName").into(),
            "Driver" => text(object, "/spec/driver").into(),
            "Pool" => text(object, "/spec/pool/name").into(),
            _ => Value::Null,
        }
    }
}

fn drop_disabled(slice: &mut Value) {
    let Some(spec) = object_at(slice, "/spec") else { return };
    for device in each(spec, "devices") {
        device.remove("nodeAllocatableResourceMappings");
        let attributes = device.get_mut("attributes").and_then(Value::as_object_mut);
        let attributes = attributes.into_iter().flat_map(Object::values_mut);
        for attribute in attributes.filter_map(Value::as_object_mut) {
            OFF.iter().for_each(|field| drop(attribute.remove(*field)));
        }
    }
}

// === validation ===

fn validate_slice(slice: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let root = At::root(slice);
    let spec = root.child("spec");
    validate_driver_name(&spec.child("driver"), errors);
    validate_pool(&spec.child("pool"), errors);
    if let Some(old) = old {
        let was = At::root(&old["spec"]);
        spec.child("pool").child("name").unchanged(errors, &was.child("pool").child("name"));
        spec.child("driver").unchanged(errors, &was.child("driver"));
        spec.child("nodeName").unchanged(errors, &was.child("nodeName"));
    }
    validate_nodes(&spec, errors);
    let (counters, devices) = (spec.child("sharedCounters"), spec.child("devices"));
    if counters.is_set() && devices.is_set() {
        spec.invalid_as(errors, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let advanced = |device: &Value| {
        ["/taints", "/consumesCounters"].iter().any(|field| !list(device, field).is_empty())
    };
    let max = match devices.list().iter().any(advanced) {
        true => ADVANCED_DEVICES_MAX,
        false => DEVICES_MAX,
    };
    let before = old.map_or(&[][..], |old| list(old, "/spec/devices"));
    rules::set(&devices, max, by_name, errors, |device, errors| {
        let old = before.iter().find(|old| old["name"] == device.text_of("name"));
        validate_device(device, old, spec.flag_of("perDeviceNodeSelection"), errors);
    });
    rules::set(&counters, COUNTER_SETS_MAX, by_name, errors, |counter_set, errors| {
        counter_set.child("name").needed_and_obeys(errors, dns_label);
        validate_counters(&counter_set.child("counters"), errors);
    });
}

fn validate_pool(pool: &At, errors: &mut ErrorList) {
    rules::pool_name(&pool.child("name"), errors);
    let (count, generation) = (pool.child("resourceSliceCount"), pool.child("generation"));
    if count.int() <= 0 {
        count.invalid_as(errors, count.int(), POSITIVE);
    }
    if generation.int() < 0 {
        generation.invalid(errors, "must be greater than or equal to zero");
    }
}

/// Devices belong to one node, to the nodes of a selector, to all, or each says so itself.
fn validate_nodes(spec: &At, errors: &mut ErrorList) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let mut given = Vec::new();
    let (name, selector) = (spec.child("nodeName"), spec.child("nodeSelector"));
    match name.text() {
        "" if name.is_set() => {
            name.invalid(errors, "must be either unset or set to a non-empty string");
        }
        "" => {}
        _ => {
            given.push("`nodeName`");
            name.obeys(errors, dns_subdomain);
        }
    }
    if selector.is_set() {
        given.push("`nodeSelector`");
        validate_node_selector(&selector, errors);
        let terms = selector.child("nodeSelectorTerms");
        if terms.list().len() != 1 {
            terms.invalid(errors, "must have exactly one node selector term");
        }
    }
    for (field, shown) in
        [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")]
    {
        match spec.value.get(field).and_then(Value::as_bool) {
            Some(true) => given.push(shown),
            Some(false) => {
                spec.child(field).invalid(errors, "must be either unset or set to true");
            }
            None => {}
        }
    }
    match given.len() {
        0 => spec.required(errors, ONE),
        1 => {}
        _ => {
            let detail = format!("{ONE}, but multiple fields are set");
            spec.invalid_as(errors, format!("{{{}}}", given.join(", ")), detail);
        }
    }
}
