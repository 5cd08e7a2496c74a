//! Namespace: born Active with the `kubernetes` finalizer in its spec, which holds it back until
//! the namespace controller has emptied it.

use crate::field::{ErrorList, Path};
use crate::kinds::at::At;
use crate::validation::qualified_name;
use serde_json::{Value, json};

use crate::kind::{KindDef, NameRule, Strategy, keep};
use crate::kinds::fill::{made, text};
use crate::meta::{meta, meta_mut};

pub struct Namespace;

impl Strategy for Namespace {
    fn default(&self, object: &mut Value) {
        let name = meta(object).name().to_owned();
        let label = "kubernetes.io/metadata.name";
        if name.is_empty() || meta(object).label(label) == Some(&name) {
            return;
        }
        if let Some(labels) = meta_mut(object).and_then(|meta| made(meta, "labels")) {
            labels.insert(label.into(), name.into());
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({ "phase": "Active" });
        let Some(spec) = object.as_object_mut().and_then(|root| made(root, "spec")) else { return };
        let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(list) = finalizers.as_array_mut()
            && !list.iter().any(|finalizer| finalizer == "kubernetes")
        {
            list.push("kubernetes".into());
        }
    }

    /// Finalizers change only through the finalize subresource.
    fn prepare_for_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep(object, old, "spec");
        keep(object, old, "status");
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let finalizers = root.child("spec");
        let finalizers = finalizers.child("finalizers");
        for finalizer in finalizers.items() {
            let name = finalizer.text();
            let faults = qualified_name(name);
            let plain = faults.is_empty() && !name.contains('/') && name != "kubernetes";
            faults.into_iter().for_each(|fault| finalizers.invalid_as(errors, name, fault));
            if plain {
                let detail = "name is neither a standard finalizer name nor is it fully qualified";
                finalizers.invalid_as(errors, name, detail);
            }
        }
    }

    /// The phase says nothing that the time of deletion does not.
    fn validate_status_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        let phase = text(object, "/status/phase");
        let (wanted, detail) = match meta(object).deletion_timestamp() {
            None => ("Active", "may only be 'Active' if `deletionTimestamp` is empty"),
            Some(_) => {
                ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty")
            }
        };
        if phase != wanted {
            errors.invalid(&Path::new("status").child("Phase"), phase, detail);
        }
    }

    fn name_rule(&self) -> NameRule {
        NameRule::DnsLabel
    }

    fn selectable_fields(&self) -> &'static [(&'static str, &'static str)] {
        &[("status.phase", "/status/phase")]
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Status" => text(object, "/status/phase").into(),
            _ => Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_agrees_with_the_time_of_deletion() {
        let faults = |object: Value| {
            let mut errors = ErrorList::default();
            Namespace.validate_status_update(&object, &Value::Null, &mut errors);
            errors
                .0
                .iter()
                .map(|error| format!("{}: {}", error.field, error.body()))
                .collect::<Vec<_>>()
        };
        let deleted = json!({ "name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z" });
        let of =
            |meta: &Value, phase: &str| json!({ "metadata": meta, "status": { "phase": phase } });
        assert!(faults(of(&json!({ "name": "n" }), "Active")).is_empty());
        assert!(faults(of(&deleted, "Terminating")).is_empty());
        assert_eq!(
            faults(of(&json!({ "name": "n" }), "Terminating")),
            [
                "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"
            ]
        );
        assert_eq!(
            faults(of(&deleted, "Active")),
            [
                "status.Phase: Invalid value: \"Active\": may only be 'Terminating' if `deletionTimestamp` is not empty"
            ]
        );
    }
}
