//! ConfigMap: keys that can be file names, a bound on its size, and the mark that fixes it.

use crate::field::{ErrorList, Path};
use crate::kinds::at::At;
use crate::kinds::pod_spec::volumes::{validate_key, validate_keys};
use serde_json::Value;

use crate::kind::Strategy;
use crate::kinds::fill::count;

pub struct ConfigMap;

impl Strategy for ConfigMap {
    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let (data, binary) = (root.child("data"), root.child("binaryData"));
        for (key, at) in data.entries() {
            validate_key(key, &at, errors);
            if binary.has(key) {
                at.invalid_as(errors, key, "duplicate of key present in binaryData");
            }
        }
        validate_keys(&binary, errors);
        let total: usize = data.entries().chain(binary.entries()).map(|(_, at)| size(&at)).sum();
        if total > SIZE_MAX {
            // The path of nothing, as upstream prints it.
            errors.too_long(&Path::ROOT.key(""), SIZE_MAX);
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        validate_immutable(object, old, &["data", "binaryData"], errors);
        self.validate(object, errors);
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Data" => (count(object, "/data") + count(object, "/binaryData")).into(),
            _ => Value::Null,
        }
    }
}

/// All values of a ConfigMap or Secret together.
pub(super) const SIZE_MAX: usize = 1024 * 1024;

fn size(value: &At) -> usize {
    value.text().len()
}

/// What was once marked immutable keeps its mark and its data.
pub(super) fn validate_immutable(
    object: &Value,
    old: &Value,
    fields: &[&str],
    errors: &mut ErrorList,
) {
    if old.get("immutable") != Some(&Value::Bool(true)) {
        return;
    }
    let detail = "field is immutable when `immutable` is set";
    let (root, old) = (At::root(object), At::root(old));
    if !root.flag_of("immutable") {
        root.child("immutable").forbidden(errors, detail);
    }
    for field in fields {
        if root.child(field).value != old.child(field).value {
            root.child(field).forbidden(errors, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::at::tests::{check, check_update};

    #[test]
    fn keys_are_file_names() {
        check(
            "v1/configmaps",
            "data: {..: one, a: two}\nbinaryData: {a: eA==}",
            &[
                "data[..]: Invalid value: \"..\": must not be '..'",
                "data[a]: Invalid value: \"a\": duplicate of key present in binaryData",
            ],
        );
    }

    #[test]
    fn an_immutable_map_stays() {
        let detail = "field is immutable when `immutable` is set";
        check_update(
            "v1/configmaps",
            "immutable: true\ndata: {a: one}",
            "data: {a: two}",
            &[&format!("immutable: Forbidden: {detail}"), &format!("data: Forbidden: {detail}")],
        );
    }
}
