//! Whether two values are the same to a strategy that compares an object with its predecessor.
//!
//! Counterpart: `equality.Semantic.DeepEqual`, to which a list with nothing in it is no list at all. Maps are not
//! treated so: an empty one may stand for a struct, which is there. Quantities are canonical before they get here.

use serde_json::{Map, Value};

/// Invariant: equal values are alike, whatever they hold.
pub fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => maps_alike(a, b),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b))
        }
        (Value::Null, Value::Array(list)) | (Value::Array(list), Value::Null) => list.is_empty(),
        _ => a == b,
    }
}

fn maps_alike(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    let same = |(name, value): (&String, &Value)| alike(value, b.get(name).unwrap_or(&Value::Null));
    let unheard =
        |(name, value): (&String, &Value)| a.contains_key(name) || alike(&Value::Null, value);
    a.iter().all(same) && b.iter().all(unheard)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_empty_list_is_none_and_an_empty_map_is_one() {
        for (a, b, same) in [
            (json!({"a": []}), json!({}), true),
            (json!({"a": null}), json!({"a": []}), true),
            (json!({}), json!({"a": {"b": []}}), false),
            (json!([{"a": []}]), json!([{}]), true),
            (json!({"a": [1]}), json!({}), false),
            (json!({}), json!({"a": 0}), false),
        ] {
            assert_eq!(alike(&a, &b), same, "{a} and {b}");
            assert_eq!(alike(&b, &a), same, "{b} and {a}");
        }
    }
}
