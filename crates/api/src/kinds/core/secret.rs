//! Secret: `stringData` is folded into `data`, and the type is fixed once given.

use super::config_map::{SIZE_MAX, validate_immutable};
use crate::kinds::at::At;
use crate::kinds::pod_spec::volumes::validate_keys;
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

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let data = root.child("data");
        validate_keys(&data, errors);
        let total: usize = data.entries().map(|(_, at)| decoded_len(at.text())).sum();
        if total > SIZE_MAX {
            errors.too_long(&data.path, SIZE_MAX);
        }
        validate_type(&root, &data, errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        if text(object, "/type") != text(old, "/type") {
            errors.invalid(&Path::new("type"), text(object, "/type"), "field is immutable");
        }
        validate_immutable(object, old, &["data"], errors);
        self.validate(object, errors);
    }

    fn selectable_fields(&self) -> &'static [(&'static str, &'static str)] {
        &[("type", "/type")]
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Type" => text(object, "/type").into(),
            "Data" => count(object, "/data").into(),
            _ => Value::Null,
        }
    }
}

/// How many bytes base64 text stands for.
fn decoded_len(base64: &str) -> usize {
    base64.trim_end_matches('=').len() * 3 / 4
}

/// What a Secret of a well-known type must hold.
fn validate_type(root: &At, data: &At, errors: &mut ErrorList) {
    let needs = |key: &str| {
        if !data.has(key) {
            errors.required(&data.path.key(key), "");
        }
    };
    match root.text_of("type") {
        "kubernetes.io/tls" => ["tls.crt", "tls.key"].into_iter().for_each(needs),
        "kubernetes.io/ssh-auth" if data.text_of("ssh-privatekey").is_empty() => {
            errors.required(&data.path.key("ssh-privatekey"), "");
        }
        "kubernetes.io/basic-auth" if !data.has("username") && !data.has("password") => {
            ["username", "password"].into_iter().for_each(needs);
        }
        "kubernetes.io/dockercfg" => docker_config(data, ".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => docker_config(data, ".dockerconfigjson", errors),
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            let annotations = root.child("metadata");
            let annotations = annotations.child("annotations");
            if annotations.text_of(key).is_empty() {
                errors.required(&annotations.path.key(key), "");
            }
        }
        _ => {}
    }
}

fn docker_config(data: &At, key: &str, errors: &mut ErrorList) {
    let place = data.path.key(key);
    if !data.has(key) {
        return errors.required(&place, "");
    }
    let bytes = BASE64_STANDARD.decode(data.text_of(key)).unwrap_or_default();
    if let Err(fault) = crate::codec::parse_json(&bytes) {
        errors.invalid(&place, "<secret contents redacted>", fault.to_string());
    }
}
