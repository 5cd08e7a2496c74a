//! The rbac.authorization.k8s.io group: roles, and bindings that name one.

use std::sync::Arc;

use serde_json::Value;

use crate::field::{ErrorList, Path};
use crate::kind::{NameRule, Strategy};
use crate::kinds::fill::{each, list, object, set, text};

pub(super) fn strategy(kind: &str) -> Option<Arc<dyn Strategy>> {
    Some(match kind {
        "ClusterRole" | "Role" => Arc::new(Role),
        "ClusterRoleBinding" | "RoleBinding" => Arc::new(Binding),
        _ => return None,
    })
}

const GROUP: &str = "rbac.authorization.k8s.io";

struct Role;

impl Strategy for Role {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }
}

struct Binding;

impl Strategy for Binding {
    fn default(&self, binding: &mut Value) {
        let Some(root) = binding.as_object_mut() else { return };
        if let Some(role) = object(root, "roleRef") {
            set(role, "apiGroup", GROUP);
        }
        for subject in each(root, "subjects") {
            if matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
                set(subject, "apiGroup", GROUP);
            }
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        if object.get("roleRef") != old.get("roleRef") {
            let shown = object.get("roleRef").cloned().unwrap_or_default();
            errors.invalid(&Path::new("roleRef"), shown, "cannot change roleRef");
        }
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        let role = object.get("roleRef").cloned().unwrap_or_default();
        match column {
            "Role" => format!("{}/{}", text(&role, "/kind"), text(&role, "/name")).into(),
            "Users" => subjects(object, "User").into(),
            "Groups" => subjects(object, "Group").into(),
            "ServiceAccounts" => subjects(object, "ServiceAccount").into(),
            _ => Value::Null,
        }
    }
}

fn subjects(binding: &Value, kind: &str) -> String {
    let names: Vec<String> = list(binding, "/subjects")
        .iter()
        .filter(|subject| text(subject, "/kind") == kind)
        .map(|subject| match (kind, text(subject, "/namespace")) {
            ("ServiceAccount", space) if !space.is_empty() => {
                format!("{space}/{}", text(subject, "/name"))
            }
            _ => text(subject, "/name").to_owned(),
        })
        .collect();
    names.join(", ")
}
