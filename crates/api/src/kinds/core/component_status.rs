//! ComponentStatus: whether a part of the control plane works, as its columns tell it.
//!
//! Counterpart: `printComponentStatus`.

use serde_json::Value;

use crate::kind::Strategy;

pub struct ComponentStatus;

impl Strategy for ComponentStatus {
    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        let conditions = object["conditions"].as_array().into_iter().flatten();
        let found = conditions.into_iter().find(|condition| condition["type"] == "Healthy");
        let said = |field: &str| found.and_then(|found| found[field].as_str()).unwrap_or_default();
        match (column, said("status")) {
            ("Status", "") => "Unknown".into(),
            ("Status", "True") => "Healthy".into(),
            ("Status", _) => "Unhealthy".into(),
            ("Message", _) => said("message").into(),
            ("Error", _) => said("error").into(),
            _ => Value::Null,
        }
    }
}
