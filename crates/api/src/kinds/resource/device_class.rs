//! DeviceClass: a kind of device that claims ask for by name.

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::Strategy;
use crate::kinds::at::At;
use crate::kinds::pod_spec::volume_sources::validate_driver_name;

pub struct DeviceClass;

const SELECTORS_MAX: usize = 32;

impl Strategy for DeviceClass {
    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        let selectors = spec.child("selectors");
        if selectors.list().len() > SELECTORS_MAX {
            errors.too_many(&selectors.path, selectors.list().len(), SELECTORS_MAX);
        }
        for selector in selectors.items() {
            match selector.has("cel") {
                true => {
                    selector.child("cel").child("expression").needed(errors);
                }
                false => selector.child("cel").required(errors, ""),
            }
        }
        for config in spec.child("config").items() {
            match config.has("opaque") {
                true => {
                    let opaque = config.child("opaque");
                    validate_driver_name(&opaque.child("driver"), errors);
                    opaque.child("parameters").needed(errors);
                }
                false => config.child("opaque").required(errors, ""),
            }
        }
    }
}
