//! ControllerRevision: an immutable snapshot of a template.

use crate::kinds::at::At;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::Strategy;
use crate::kinds::fill::{flag, int, text};
use crate::meta::meta;

pub struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        root.child("revision").not_negative(errors);
        let data = root.child("data");
        match data.value {
            Value::Null => data.required(errors, "data is mandatory"),
            Value::Object(_) => {}
            _ => data.required(errors, "data must be a valid JSON object"),
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        let (root, old) = (At::root(object), At::root(old));
        root.child("revision").not_negative(errors);
        root.child("data").unchanged(errors, &old.child("data"));
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Controller" => controller(object).into(),
            "Revision" => int(object, "/revision").unwrap_or(0).into(),
            _ => Value::Null,
        }
    }
}

/// `statefulset.apps/web`, or `<none>`.
fn controller(revision: &Value) -> String {
    let owner = meta(revision).owner_references().iter().find(|owner| flag(owner, "/controller"));
    let Some(owner) = owner else { return "<none>".to_owned() };
    let kind = text(owner, "/kind").to_lowercase();
    match text(owner, "/apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{}", text(owner, "/name")),
        None => format!("{kind}/{}", text(owner, "/name")),
    }
}
