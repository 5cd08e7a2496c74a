//! The values that a text field of a built-in type may have.
//!
//! `facts/enums.json` -> per type and field the values, sorted. Counterpart: the `+enum` types of
//! `openapi-gen`, whose prose on each value is not kept. Invariant: only published; validation has rules of its own.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

pub type Values = Vec<String>;

static ENUMS: LazyLock<HashMap<String, HashMap<String, Values>>> = LazyLock::new(|| {
    let text = include_str!("../../facts/enums.json");
    serde_json::from_str(text).expect("the facts are valid")
});

/// The values of a field of the type with this fact name.
pub fn of(type_name: &str, field: &str) -> Option<&'static Values> {
    ENUMS.get(type_name)?.get(field)
}

/// Lists the values in the schema of a field, or in that of its entries. Only the field itself has
/// words to go on with.
pub fn list(schema: &mut Value, values: &Values) {
    for below in ["items", "additionalProperties"] {
        if let Some(entries) = schema.get_mut(below) {
            entries["enum"] = values.as_slice().into();
            return;
        }
    }
    schema["enum"] = values.as_slice().into();
    let words = schema["description"].as_str().filter(|words| !words.is_empty());
    let before = words.map(|words| format!("{words}\n\n")).unwrap_or_default();
    let lines: Vec<String> = values.iter().map(|value| format!(" - `{value:?}`")).collect();
    let listed = format!("{before}Possible enum values:\n{}", lines.join("\n"));
    schema["description"] = listed.into();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::struct_named;

    #[test]
    fn values_went_unsaid() {
        let values: Values = ["Raw", "TCP"].map(str::to_owned).into();
        let mut port = json!({"type": "string", "description": "How."});
        list(&mut port, &values);
        assert_eq!(port["enum"], json!(["Raw", "TCP"]));
        let words = "How.\n\nPossible enum values:\n - `\"Raw\"`\n - `\"TCP\"`";
        assert_eq!(port["description"], words);
        let mut modes =
            json!({"type": "array", "items": {"type": "string"}, "description": "All."});
        list(&mut modes, &values);
        let items = json!({"type": "string", "enum": ["Raw", "TCP"]});
        assert_eq!(modes, json!({"type": "array", "items": items, "description": "All."}));
    }

    #[test]
    fn every_value_belongs_to_a_known_field() {
        for (name, fields) in ENUMS.iter() {
            let schema = struct_named(name).expect(name);
            for field in fields.keys() {
                assert!(schema.field(field).is_some(), "{name}.{field}");
            }
        }
    }
}
