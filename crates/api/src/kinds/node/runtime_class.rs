//! RuntimeClass: which container runtime handler runs a Pod, and what that costs on top.

use std::collections::HashSet;

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::Strategy;
use crate::kinds::at::At;
use crate::kinds::fill::text;
use crate::kinds::pod_spec::validate::validate_overhead;
use crate::kinds::pod_spec::validate_tolerations;
use crate::validation::dns_label;

pub struct RuntimeClass;

impl Strategy for RuntimeClass {
    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        root.child("handler").needed_and_obeys(errors, dns_label);
        let overhead = root.child("overhead");
        let fixed = At::new(overhead.child("podFixed").value, overhead.path);
        validate_overhead(&fixed, errors);
        let scheduling = root.child("scheduling");
        scheduling.child("nodeSelector").labels(errors);
        let tolerations = scheduling.child("tolerations");
        validate_tolerations(&tolerations, errors);
        let mut seen = HashSet::new();
        for toleration in tolerations.items() {
            if !seen.insert(toleration.value.to_string()) {
                toleration.duplicate(errors);
            }
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
        let (root, old) = (At::root(object), At::root(old));
        root.child("handler").unchanged(errors, &old.child("handler"));
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Handler" => text(object, "/handler").into(),
            _ => Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::at::tests::check_update;

    #[test]
    fn only_the_handler_of_a_changed_class_was_looked_at() {
        check_update(
            "node.k8s.io/v1/runtimeclasses",
            "handler: h",
            "handler: h\nscheduling: {tolerations: [{key: a, operator: In}]}",
            &[
                "scheduling.tolerations[0].operator: Unsupported value: \"In\": supported values: \"Equal\", \"Exists\"",
            ],
        );
    }
}
