//! ConfigMap: plain, but for what a Table shows.

use serde_json::Value;

use crate::kind::Strategy;
use crate::kinds::fill::count;

pub struct ConfigMap;

impl Strategy for ConfigMap {
    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Data" => (count(object, "/data") + count(object, "/binaryData")).to_string().into(),
            _ => Value::Null,
        }
    }
}
