//! VolumeAttributesClass: attributes of volumes that can be changed while they are in use.

use serde_json::Value;

use super::storage_class::validate_parameters;
use crate::field::ErrorList;
use crate::kind::Strategy;
use crate::kinds::at::At;
use crate::kinds::fill::text;
use crate::validation::qualified_name;

pub struct VolumeAttributesClass;

impl Strategy for VolumeAttributesClass {
    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let driver = root.child("driverName");
        if driver.needed(errors) {
            let lower = driver.text().to_lowercase();
            for fault in qualified_name(&lower) {
                driver.invalid_as(errors, lower.as_str(), fault);
            }
        }
        validate_parameters(&root.child("parameters"), false, errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        for field in ["driverName", "parameters"] {
            if object.get(field) != old.get(field) {
                root.child(field).forbidden(errors, format!("updates to {field} are forbidden."));
            }
        }
        self.validate(object, errors);
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "DriverName" => text(object, "/driverName").into(),
            _ => Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::at::tests::check_update;

    #[test]
    fn a_class_in_use_is_not_changed() {
        check_update(
            "storage.k8s.io/v1/volumeattributesclasses",
            "driverName: d\nparameters: {a: b}",
            "driverName: e\nparameters: {a: c}",
            &[
                "driverName: Forbidden: updates to driverName are forbidden.",
                "parameters: Forbidden: updates to parameters are forbidden.",
            ],
        );
    }
}
