//! VolumeAttributesClass: attributes of volumes that can be changed while they are in use.

use serde_json::Value;

use super::storage_class::validate_parameters;
use crate::field::ErrorList;
use crate::kind::Strategy;
use crate::kinds::at::At;
use crate::kinds::fill::text;
use crate::kinds::pod_spec::volume_sources::validate_driver_name;

pub struct VolumeAttributesClass;

impl Strategy for VolumeAttributesClass {
    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        validate_driver_name(&root.child("driverName"), errors);
        validate_parameters(&root.child("parameters"), false, errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
        let (root, old) = (At::root(object), At::root(old));
        for field in ["driverName", "parameters"] {
            root.child(field).unchanged(errors, &old.child(field));
        }
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "DriverName" => text(object, "/driverName").into(),
            _ => Value::Null,
        }
    }
}
