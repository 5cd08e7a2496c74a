//! PodTemplate: a template on its own.

use serde_json::Value;

use crate::kind::Strategy;
use crate::kinds::pod_spec::default_template;
use crate::kinds::workload::template_cell;

pub struct PodTemplate;

impl Strategy for PodTemplate {
    fn default(&self, object: &mut Value) {
        default_template(object, "/template/spec");
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        template_cell(object, "/template", column)
    }
}
