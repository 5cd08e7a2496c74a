//! CSINode: the storage drivers of a node.

use std::collections::HashSet;

use serde_json::Value;

use crate::field::ErrorList;
use crate::internal::printed;
use crate::kind::Strategy;
use crate::kinds::at::{At, IMMUTABLE, NOT_NEGATIVE};
use crate::kinds::fill::list;
use crate::kinds::pod_spec::volume_sources::validate_driver_name;
use crate::validation::qualified_name;

pub struct CSINode;

const NODE_ID_MAX: usize = 256;

impl Strategy for CSINode {
    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        let mut names = HashSet::new();
        for driver in spec.child("drivers").items() {
            let name = driver.child("name");
            validate_driver_name(&name, errors);
            if !names.insert(driver.text_of("name").to_owned()) {
                name.duplicate(errors);
            }
            validate_driver(&driver, errors);
        }
    }

    /// A driver may come and go, and tell again how much it can hold; nothing else of it changes.
    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
        let (root, old) = (At::root(object), At::root(old));
        let (spec, was) = (root.child("spec"), old.child("spec"));
        let drivers = spec.child("drivers");
        for before in was.child("drivers").list() {
            let same = |driver: &&Value| driver.get("name") == before.get("name");
            for driver in drivers.list().iter().filter(same).map(without_capacity) {
                if driver != without_capacity(before) {
                    let shown = printed("storage.CSINodeDriver", &driver);
                    errors.invalid_printed(&drivers.path, shown, IMMUTABLE);
                }
            }
        }
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Drivers" => list(object, "/spec/drivers").len().into(),
            _ => Value::Null,
        }
    }
}

/// What of a driver may not change.
fn without_capacity(driver: &Value) -> Value {
    let mut driver = driver.clone();
    driver.as_object_mut().map(|driver| driver.remove("allocatable"));
    driver
}

fn validate_driver(driver: &At, errors: &mut ErrorList) {
    let id = driver.child("nodeID");
    if id.text().len() > NODE_ID_MAX {
        id.invalid(errors, format!("must be {NODE_ID_MAX} characters or less"));
    }
    id.needed(errors);
    let count = driver.child("allocatable");
    let count = count.child("count");
    if count.int() < 0 {
        count.invalid(errors, NOT_NEGATIVE);
    }
    let mut keys = HashSet::new();
    for key in driver.child("topologyKeys").items() {
        if key.is_empty() {
            driver.required(errors, "");
        }
        if !keys.insert(key.text()) {
            errors.duplicate(&driver.path, key.text());
        }
        for fault in qualified_name(key.text()) {
            driver.invalid_as(errors, key.text(), fault);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::at::tests::{check, check_update};

    const PATH: &str = "storage.k8s.io/v1/csinodes";

    #[test]
    fn a_driver_changes_as_a_whole_but_for_what_it_can_hold() {
        let node = |driver: &str| format!("spec: {{drivers: [{{name: d.x, {driver}}}]}}");
        check_update(
            PATH,
            &node("nodeID: one"),
            &node("nodeID: one, allocatable: {count: 1}"),
            &[],
        );
        check_update(
            PATH,
            &node("nodeID: one, topologyKeys: [zone]"),
            &node("nodeID: two, topologyKeys: [zone]"),
            &[
                "spec.drivers: Invalid value: {\"Name\":\"d.x\",\"NodeID\":\"two\",\"TopologyKeys\":[\"zone\"],\"Allocatable\":null}: field is immutable",
            ],
        );
    }

    #[test]
    fn ids_of_256_characters_were_too_long() {
        let id = "n".repeat(256);
        check(PATH, &format!("spec: {{drivers: [{{name: d.x, nodeID: {id}}}]}}"), &[]);
    }
}
