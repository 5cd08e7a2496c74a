//! ResourceSlice: the devices that a driver offers.

use std::collections::HashSet;

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{KindDef, Strategy};
use crate::kinds::at::At;
use crate::kinds::fill::text;
use crate::kinds::pod_spec::volume_sources::validate_driver_name;
use crate::kinds::selectors::validate_node_selector;
use crate::validation::{dns_label, dns_subdomain};

pub struct ResourceSlice;

const DEVICES_MAX: usize = 128;

impl Strategy for ResourceSlice {
    fn generation_changes(&self, _kind: &KindDef, object: &Value, old: &Value) -> bool {
        object.get("spec") != old.get("spec")
    }

    fn selectable_fields(&self) -> &'static [(&'static str, &'static str)] {
        &[("spec.driver", "/spec/driver"), ("spec.nodeName", "/spec/nodeName")]
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        validate_driver_name(&spec.child("driver"), errors);
        validate_pool(&spec.child("pool"), errors);
        validate_nodes(&spec, errors);
        let devices = spec.child("devices");
        if devices.list().len() > DEVICES_MAX {
            return errors.too_many(&devices.path, devices.list().len(), DEVICES_MAX);
        }
        let mut names = HashSet::new();
        for device in devices.items() {
            let name = device.child("name");
            name.obeys(errors, dns_label);
            if !names.insert(name.text()) {
                name.duplicate(errors);
            }
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
        let (root, old) = (At::root(object), At::root(old));
        let (spec, was) = (root.child("spec"), old.child("spec"));
        for field in ["driver", "nodeName"] {
            spec.child(field).unchanged(errors, &was.child(field));
        }
        let (pool, before) = (spec.child("pool"), was.child("pool"));
        pool.child("name").unchanged(errors, &before.child("name"));
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

fn validate_pool(pool: &At, errors: &mut ErrorList) {
    let name = pool.child("name");
    if name.needed(errors) {
        for part in name.text().split('/') {
            for fault in dns_subdomain(part) {
                name.invalid_as(errors, part, fault);
            }
        }
    }
    let count = pool.child("resourceSliceCount");
    if count.int() <= 0 {
        count.invalid_as(errors, count.int(), "must be greater than zero");
    }
    pool.child("generation").not_negative(errors);
}

/// Devices belong to one node, to the nodes of a selector, to all, or each says so itself.
fn validate_nodes(spec: &At, errors: &mut ErrorList) {
    let mut given = Vec::new();
    if !spec.text_of("nodeName").is_empty() {
        given.push("nodeName");
        spec.child("nodeName").obeys(errors, dns_subdomain);
    }
    if spec.has("nodeSelector") {
        given.push("nodeSelector");
        validate_node_selector(&spec.child("nodeSelector"), errors);
    }
    given.extend(["allNodes", "perDeviceNodeSelection"].iter().filter(|f| spec.flag_of(f)));
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match given.len() {
        0 => spec.required(errors, ONE),
        1 => {}
        _ => {
            let detail = format!("{ONE}, but multiple fields are set");
            spec.invalid_as(errors, format!("{{{}}}", given.join(", ")), detail);
        }
    }
}
