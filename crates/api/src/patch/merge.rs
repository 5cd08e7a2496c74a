//! RFC 7396: a patch is a document whose fields replace, and whose nulls remove.

use serde_json::{Map, Value};

use super::{PatchError, Strictness};
use crate::codec::{self, Node};

/// Reads a merge patch, and what strict decoding finds in it.
pub fn read(text: &[u8], strictness: Strictness) -> Result<(Value, Vec<String>), PatchError> {
    let fault = |text: String| match strictness {
        Strictness::Ignore => bad_patch(),
        _ => PatchError::Malformed(format!("error decoding patch: {text}")),
    };
    match super::parse(text).map_err(fault)? {
        node @ Node::Map(_) => {
            let findings = codec::repeated_fields(node.clone());
            Ok((node.into_value(), findings))
        }
        // Read without a type, a list replaces the whole document.
        Node::List(items) if strictness == Strictness::Ignore => {
            Ok((Node::List(items).into_value(), Vec::new()))
        }
        Node::Null => Err(bad_patch()),
        other => Err(fault(format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            other.type_name()
        ))),
    }
}

fn bad_patch() -> PatchError {
    PatchError::Malformed("Invalid JSON Patch".to_owned())
}

/// Applies a merge patch.
pub fn apply(mut document: Value, patch: Value) -> Value {
    merge(&mut document, patch);
    document
}

/// Merges a patch into a value, as RFC 7396 spells it out.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = without_nulls(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (name, value) in patch {
        match value {
            Value::Null => drop(map.remove(&name)),
            value => merge(map.entry(name).or_insert(Value::Null), value),
        }
    }
}

/// Objects inside of lists lose their nulls too, which the RFC does not ask for.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        scalar => scalar,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::mutation;

    #[test]
    fn the_examples_of_the_rfc() {
        for (document, patch, wanted) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
            (json!({}), json!({"a": [null, {"b": null}]}), json!({"a": [null, {}]})),
        ] {
            assert_eq!(apply(document, patch.clone()), wanted, "{patch}");
        }
    }

    #[test]
    fn faults_read_as_upstream_prints_them() {
        let fault =
            |patch: &str| read(patch.as_bytes(), Strictness::Report).unwrap_err().to_string();
        assert_eq!(fault("null"), "Invalid JSON Patch");
        assert_eq!(
            fault("[]"),
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
        );
        assert_eq!(
            fault("nope"),
            "error decoding patch: invalid character 'o' in literal null (expecting 'u')"
        );
    }

    #[test]
    fn damaged_patches_never_panic() {
        mutation::each(br#"{"a":{"b":null,"c":[1]},"d":"e"}"#, 5_000, |patch| {
            if let Ok((patch, _)) = read(patch, Strictness::Report) {
                apply(json!({"a": {"b": 1}, "d": [2]}), patch);
            }
        });
    }
}
