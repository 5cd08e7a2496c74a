//! Namespace: born Active with the `kubernetes` finalizer in its spec, which holds it back until
//! the namespace controller has emptied it.

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
