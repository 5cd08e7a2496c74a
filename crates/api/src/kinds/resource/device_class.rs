//! DeviceClass: a kind of device that claims ask for by name.

use serde_json::Value;

use super::claim_spec::validate_config;
use super::rules::{self, CONFIG_MAX, SELECTORS_MAX};
use super::selector::validate_selector;
use crate::field::ErrorList;
use crate::kind::Strategy;
use crate::kinds::at::At;
use crate::kinds::resources::is_extended;

pub struct DeviceClass;

impl Strategy for DeviceClass {
    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        validate_class(object, None, errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        validate_class(object, Some(old), errors);
    }
}

fn validate_class(class: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let root = At::root(class);
    let spec = root.child("spec");
    rules::each(&spec.child("selectors"), SELECTORS_MAX, errors, validate_selector);
    let config = spec.child("config");
    let stored = old.is_some_and(|old| old["spec"]["config"] == *config.value);
    rules::each(&config, CONFIG_MAX, errors, |config, errors| {
        validate_config(config, stored, errors);
    });
    let name = spec.child("extendedResourceName");
    if name.is_set() && !is_extended(name.text()) {
        name.invalid(errors, "must be a valid extended resource name");
    }
}
