//! PriorityClass: a name for a priority; the class keeps its value for life.

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{KindDef, Strategy};
use crate::kinds::at::At;
use crate::kinds::fill::{flag, int, set, text};
use crate::meta::meta;

pub struct PriorityClass;

const HIGHEST: i64 = 1_000_000_000;
const SYSTEM: &str = "system-";
/// What the system's own classes are worth.
const KNOWN: &[(&str, i64)] =
    &[("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

impl Strategy for PriorityClass {
    fn default(&self, object: &mut Value) {
        if let Some(root) = object.as_object_mut() {
            set(root, "preemptionPolicy", "PreemptLowerPriority");
        }
    }

    fn generation_changes(&self, _kind: &KindDef, _object: &Value, _old: &Value) -> bool {
        false
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let (name, value) = (meta(object).name(), root.child("value"));
        if name.starts_with(SYSTEM) {
            let known = KNOWN.iter().any(|known| *known == (name, value.int()));
            if !known {
                let detail = format!(
                    "priority class names with '{SYSTEM}' prefix are reserved for system use only. error: {name} is not a known system priority class"
                );
                root.child("metadata").child("name").forbidden(errors, detail);
            }
        } else if value.int() > HIGHEST {
            let detail = format!("maximum allowed value of a user defined priority is {HIGHEST}");
            value.forbidden(errors, detail);
        }
        let policy = root.child("preemptionPolicy");
        if policy.is_set() {
            policy.needed_one_of(errors, &["PreemptLowerPriority", "Never"]);
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        let (root, old) = (At::root(object), At::root(old));
        if root.child("value").int() != old.child("value").int() {
            root.child("value").forbidden(errors, "may not be changed in an update.");
        }
        root.child("preemptionPolicy").unchanged(errors, &old.child("preemptionPolicy"));
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Value" => int(object, "/value").unwrap_or(0).into(),
            "Global-Default" => flag(object, "/globalDefault").into(),
            "PreemptionPolicy" => text(object, "/preemptionPolicy").into(),
            _ => Value::Null,
        }
    }
}
