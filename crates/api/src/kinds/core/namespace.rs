//! Namespace: born Active with the `kubernetes` finalizer in its spec, which holds it back until
//! the namespace controller has emptied it.

use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::validation::qualified_name;
use serde_json::{Value, json};

use crate::kind::{KindDef, NameRule, Strategy, keep};
use crate::kinds::fill::{made, made_at, set_if_empty, text};
use crate::meta::{meta, meta_mut};

pub struct Namespace;

const STANDARD_FINALIZERS: &[&str] = &["kubernetes", "orphan", "foregroundDeletion"];

impl Strategy for Namespace {
    fn without_tables(&self) -> &'static [&'static str] {
        &["finalize"]
    }

    fn default(&self, object: &mut Value) {
        if let Some(status) = made_at(object, "/status") {
            set_if_empty(status, "phase", "Active");
        }
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
            for fault in qualified_name(name) {
                finalizers.invalid_as(errors, name, fault);
            }
            if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
                let detail = "name is neither a standard finalizer name nor is it fully qualified";
                finalizers.invalid_as(errors, name, detail);
            }
        }
    }

    fn validate_status_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        let phase = text(object, "/status/phase");
        let (wanted, is_empty) = match meta(object).deletion_timestamp() {
            None => ("Active", "is empty"),
            Some(_) => ("Terminating", "is not empty"),
        };
        if phase != wanted {
            let detail = format!("may only be '{wanted}' if `deletionTimestamp` {is_empty}");
            let root = At::root(object);
            root.child("status").child("Phase").invalid_as(errors, phase, detail);
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
    use crate::kinds::at::tests::{check, check_status};

    #[test]
    fn finalizers_without_a_domain_are_the_systems() {
        check("v1/namespaces", "spec: {finalizers: [orphan, a.b/c]}", &[]);
        check(
            "v1/namespaces",
            "spec: {finalizers: [x]}",
            &[
                "spec.finalizers: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified",
            ],
        );
    }

    #[test]
    fn a_namespace_that_is_not_deleted_is_active() {
        check_status(
            "v1/namespaces",
            "metadata: {name: x}",
            "metadata: {name: x}\nstatus: {}",
            &[],
        );
        check_status(
            "v1/namespaces",
            "metadata: {name: x}",
            "metadata: {name: x}\nstatus: {phase: Gone}",
            &[
                "status.Phase: Invalid value: \"Gone\": may only be 'Active' if `deletionTimestamp` is empty",
            ],
        );
    }
}
