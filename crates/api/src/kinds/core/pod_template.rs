//! PodTemplate: a template on its own.

use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::pod_spec::validate::validate_template;
use crate::kinds::workload::template_warnings;
use serde_json::Value;

use crate::kind::Strategy;
use crate::kinds::pod_spec::default_template;
use crate::kinds::workload::template_cell;

pub struct PodTemplate;

impl Strategy for PodTemplate {
    fn pod_spec(&self) -> Option<&'static str> {
        Some("/template/spec")
    }

    fn default(&self, object: &mut Value) {
        default_template(object, "/template/spec");
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        validate_template(&At::root(object).child("template"), errors);
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        template_warnings(object, old, "/template")
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        template_cell(object, "/template", column)
    }
}
