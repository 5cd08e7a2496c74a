//! RFC 7396: a patch is a document whose fields replace, and whose nulls remove.

use serde_json::{Map, Value};

use super::PatchError;
use crate::codec::Node;

/// Applies a JSON merge patch.
pub fn apply(mut document: Value, patch: &[u8]) -> Result<Value, PatchError> {
    let fault = |text: String| PatchError::Malformed(format!("error decoding patch: {text}"));
    match super::parse(patch).map_err(fault)? {
        node @ Node::Map(_) => {
            merge(&mut document, node.into_value());
            Ok(document)
        }
        Node::Null => Ok(document),
        other => Err(fault(format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            other.type_name()
        ))),
    }
}

/// Merges a patch into a value, as RFC 7396 spells it out.
pub fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
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
        ] {
            let text = patch.to_string();
            assert_eq!(apply(document, text.as_bytes()), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn faults_read_as_upstream_prints_them() {
        let fault = |patch: &str| apply(json!({}), patch.as_bytes()).unwrap_err().to_string();
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
            let _ = apply(json!({"a": {"b": 1}, "d": [2]}), patch);
        });
    }
}
