//! ServiceAccount: an identity for Pods; one old annotation draws a warning.

use serde_json::Value;

use crate::kind::Strategy;
use crate::meta::meta;

pub struct ServiceAccount;

const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

impl Strategy for ServiceAccount {
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
