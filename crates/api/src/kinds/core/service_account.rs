//! ServiceAccount: an identity for Pods; one old annotation draws a warning.

use serde_json::Value;

use crate::kind::{KindDef, Strategy};
use crate::kinds::fill::each;
use crate::meta::meta;

pub struct ServiceAccount;

const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

impl Strategy for ServiceAccount {
    fn without_tables(&self) -> &'static [&'static str] {
        &["token"]
    }

    /// Of the Secrets that may be mounted only names are kept.
    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        let Some(root) = object.as_object_mut() else { return };
        each(root, "secrets").for_each(|secret| secret.retain(|field, _| field == "name"));
    }

    fn prepare_for_update(&self, kind: &KindDef, object: &mut Value, _old: &Value) {
        self.prepare_for_create(kind, object);
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let had = old.is_some_and(|old| meta(old).annotation(MOUNTABLE).is_some());
        match meta(object).annotation(MOUNTABLE) {
            Some(_) if !had => vec![format!(
                "metadata.annotations[{MOUNTABLE}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
            )],
            _ => Vec::new(),
        }
    }
}
