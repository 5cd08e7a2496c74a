//! What a claim got: the devices allocated to it, who may use them, and how those devices are.
//!
//! Counterpart: `validateResourceClaimStatusUpdate`. Invariant: an allocation never changes while there is one.

use std::collections::HashSet;

use serde_json::Value;

use super::claim_spec::{RequestNames, validate_config};
use super::device::validate_binding;
use super::rules::{self, CONFIG_MAX, text_in};
use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::conditions::validate_conditions;
use crate::kinds::fill::{list, object_at};
use crate::kinds::pod_spec::volume_sources::validate_driver_name;
use crate::kinds::rules::interface_address;
use crate::kinds::selectors::validate_node_selector;
use crate::validation::dns_label;

const RESERVED_MAX: usize = 256;
const RESULTS_MAX: usize = 32;
const CONDITIONS_MAX: usize = 8;
const ADDRESSES_MAX: usize = 16;
const INTERFACE_NAME_MAX: usize = 256;
const HARDWARE_ADDRESS_MAX: usize = 128;

/// A device, or a share of one, as upstream prints what it tells them apart by.
fn device_id(device: &Value) -> String {
    let text = |field| Value::from(text_in(device, field));
    format!(
        r#"{{"Driver":{},"Pool":{},"Device":{},"ShareID":{}}}"#,
        text("driver"),
        text("pool"),
        text("device"),
        text("shareID")
    )
}

fn allocated(claim: &Value) -> HashSet<String> {
    list(claim, "/status/allocation/devices/results").iter().map(device_id).collect()
}

/// What is said of devices that the claim gives up goes with them.
pub fn drop_deallocated(claim: &mut Value, old: &Value) {
    let now = allocated(claim);
    let given_up: HashSet<String> = allocated(old).difference(&now).cloned().collect();
    let Some(status) = object_at(claim, "/status") else { return };
    let Some(devices) = status.get_mut("devices").and_then(Value::as_array_mut) else { return };
    devices.retain(|device| !given_up.contains(&device_id(device)));
    if devices.is_empty() {
        status.remove("devices");
    }
}

pub fn validate_status(claim: &Value, old: &Value, errors: &mut ErrorList) {
    let root = At::root(claim);
    let status = root.child("status");
    let reserved = status.child("reservedFor");
    let by_uid = |consumer: &Value| text_in(consumer, "uid");
    rules::set(&reserved, RESERVED_MAX, by_uid, errors, |consumer, errors| {
        ["resource", "name", "uid"].iter().for_each(|field| {
            consumer.child(field).needed(errors);
        });
    });
    validate_devices(&status.child("devices"), &allocated(claim), errors);
    validate_reservation(&reserved, claim, old, errors);
    let allocation = status.child("allocation");
    let before = old.pointer("/status/allocation").unwrap_or(&Value::Null);
    match (before.is_null(), allocation.is_set()) {
        (_, false) => {}
        (false, true) => allocation.unchanged(errors, &At::root(before)),
        (true, true) => validate_allocation(&allocation, &RequestNames::of(&claim["spec"]), errors),
    }
}

/// Only what is allocated is used, and nobody starts to use what is to go.
fn validate_reservation(reserved: &At, claim: &Value, old: &Value, errors: &mut ErrorList) {
    if reserved.is_empty() {
        return;
    }
    if claim.pointer("/status/allocation").is_none_or(Value::is_null) {
        return reserved.forbidden(errors, "may not be specified when `allocated` is not set");
    }
    let before = list(old, "/status/reservedFor");
    let going = claim.pointer("/metadata/deletionTimestamp").is_some();
    if going && reserved.list().iter().any(|consumer| !before.contains(consumer)) {
        let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        reserved.forbidden(errors, detail);
    }
}

fn validate_allocation(allocation: &At, names: &RequestNames<'_>, errors: &mut ErrorList) {
    let devices = allocation.child("devices");
    rules::each(&devices.child("results"), RESULTS_MAX, errors, |result, errors| {
        names.validate(&result.child("request"), errors);
        validate_place(result, errors);
        validate_binding(result, errors);
        validate_share(result, errors);
    });
    // Those of the class and those of the claim.
    rules::each(&devices.child("config"), 2 * CONFIG_MAX, errors, |config, errors| {
        config.child("source").needed_one_of(errors, &["FromClaim", "FromClass"]);
        names.validate_all(&config.child("requests"), errors);
        validate_config(config, false, errors);
    });
    if allocation.has("nodeSelector") {
        validate_node_selector(&allocation.child("nodeSelector"), errors);
    }
}

/// Where a device is found.
fn validate_place(device: &At, errors: &mut ErrorList) {
    validate_driver_name(&device.child("driver"), errors);
    rules::pool_name(&device.child("pool"), errors);
    device.child("device").obeys(errors, dns_label);
}

fn validate_share(device: &At, errors: &mut ErrorList) {
    if device.has("shareID") {
        rules::uid(&device.child("shareID"), errors);
    }
}

fn validate_devices(devices: &At, allocated: &HashSet<String>, errors: &mut ErrorList) {
    for device in devices.items() {
        validate_device(&device, allocated, errors);
    }
    let mut seen = HashSet::new();
    for device in devices.items() {
        let id = device_id(device.value);
        if !seen.insert(id.clone()) {
            device.duplicate(errors);
            errors.print_last(id);
        }
    }
}

fn validate_device(device: &At, allocated: &HashSet<String>, errors: &mut ErrorList) {
    validate_place(device, errors);
    validate_share(device, errors);
    let id = device_id(device.value);
    if !allocated.contains(&id) {
        let detail = "must be an allocated device in the claim";
        errors.invalid_printed(&device.path, id, detail);
    }
    let conditions = device.child("conditions");
    if conditions.list().len() > CONDITIONS_MAX {
        errors.too_many(&conditions.path, conditions.list().len(), CONDITIONS_MAX);
    }
    validate_conditions(&conditions, errors);
    let data = device.child("data");
    if data.is_set() {
        rules::raw_object(&data, false, errors);
    }
    validate_network(&device.child("networkData"), errors);
}

fn validate_network(network: &At, errors: &mut ErrorList) {
    let bounds = [("interfaceName", INTERFACE_NAME_MAX), ("hardwareAddress", HARDWARE_ADDRESS_MAX)];
    for (field, max) in bounds {
        if network.text_of(field).len() > max {
            errors.too_long(&network.child(field).path, max);
        }
    }
    rules::set(&network.child("ips"), ADDRESSES_MAX, rules::itself, errors, |address, errors| {
        address.obeys(errors, interface_address);
    });
}
