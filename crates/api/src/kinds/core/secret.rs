//! Secret: `stringData` is folded into `data`, and the type is fixed once given.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::field::{ErrorList, Path};
use crate::kind::Strategy;
use crate::kinds::fill::{count, made, set, text};

pub struct Secret;

impl Strategy for Secret {
    fn default(&self, object: &mut Value) {
        let Some(root) = object.as_object_mut() else { return };
        set(root, "type", "Opaque");
        let Some(Value::Object(plain)) = root.remove("stringData") else { return };
        let Some(data) = made(root, "data") else { return };
        for (key, value) in plain {
            let encoded = BASE64_STANDARD.encode(value.as_str().unwrap_or(""));
            data.insert(key, encoded.into());
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        if text(object, "/type") != text(old, "/type") {
            errors.invalid(&Path::new("type"), text(object, "/type"), "field is immutable");
        }
    }

    fn selectable_fields(&self) -> &'static [(&'static str, &'static str)] {
        &[("type", "/type")]
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Type" => text(object, "/type").into(),
            "Data" => count(object, "/data").to_string().into(),
            _ => Value::Null,
        }
    }
}
