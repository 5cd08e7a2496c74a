//! A v3 schema as Swagger 2.0 can say it.
//!
//! Swagger 2.0 has no alternatives, no null and allows words beside a reference. What it cannot say
//! is left out, so that a client's check is weaker than the server's, never stricter.
//! Counterpart: `controller/openapi/v2` of apiextensions, and `handler.PruneDefaults`.

use serde_json::{Map, Value};

use super::proto;

/// Rewrites a schema and everything inside.
pub fn rewrite(v3: &Value) -> Value {
    let Value::Object(members) = v3 else { return v3.clone() };
    if keeps_unknown(v3) && !v3["x-kubernetes-group-version-kind"].is_null() {
        return open_root(members);
    }
    let mut out = Map::new();
    for (name, value) in members {
        match name.as_str() {
            "$ref" => drop(out.insert("$ref".to_owned(), reference(value))),
            "allOf" => out.extend(lifted(value)),
            "oneOf" if is_scalar(value) => drop(out.insert("type".to_owned(), "string".into())),
            "properties" => drop(out.insert(name.clone(), each(value))),
            "items" | "additionalProperties" => drop(out.insert(name.clone(), rewrite(value))),
            // Pruned from every v2 document: the defaults of v3 are not v2's.
            "default" => {}
            other if other.starts_with("x-") || proto::is_schema_member(other) => {
                out.insert(name.clone(), value.clone());
            }
            _ => {}
        }
    }
    loosen(v3, &mut out);
    Value::Object(out)
}

/// A custom kind that keeps unknown fields: to kubectl any property, even metadata, would mean that
/// there are no others.
fn open_root(v3: &Map<String, Value>) -> Value {
    let said = |name: &&String| name.ends_with("-kind") || name.ends_with("-selectable-fields");
    let named = v3.iter().filter(|(name, _)| said(name));
    let mut out: Map<String, Value> = named.map(|(name, of)| (name.clone(), of.clone())).collect();
    out.insert("type".to_owned(), "object".into());
    Value::Object(out)
}

fn keeps_unknown(v3: &Value) -> bool {
    v3["x-kubernetes-preserve-unknown-fields"] == true
}

fn each(properties: &Value) -> Value {
    let members = properties.as_object().into_iter().flatten();
    Value::Object(members.map(|(name, of)| (name.clone(), rewrite(of))).collect())
}

/// kubectl takes a schema without items or properties for "anything"; it knows neither null nor
/// fields beyond the listed ones.
fn loosen(v3: &Value, out: &mut Map<String, Value>) {
    let nullable = v3["nullable"] == true;
    if nullable {
        out.remove("type");
    }
    if nullable || keeps_unknown(v3) {
        out.remove("items");
        out.remove("properties");
    }
    if keeps_unknown(v3) && out.get("type").is_some_and(|of| of == "object") {
        out.remove("type");
    }
    // An array must say of what.
    if out.get("type").is_some_and(|of| of == "array") && !out.contains_key("items") {
        out.remove("type");
    }
    if let Some(Value::Array(required)) = out.get_mut("required") {
        let may_be_null =
            |name: &Value| name.as_str().is_some_and(|n| v3["properties"][n]["nullable"] == true);
        // With its properties gone, an embedded object need not have what it implies either.
        let implied = keeps_unknown(v3) && v3["x-kubernetes-embedded-resource"] == true;
        let is_implied = |name: &Value| implied && (name == "kind" || name == "apiVersion");
        required.retain(|name| !may_be_null(name) && !is_implied(name));
        if required.is_empty() {
            out.remove("required");
        }
    }
}

/// `allOf` with one reference is v3's way to put words beside it; any other one says nothing here.
fn lifted(all_of: &Value) -> Option<(String, Value)> {
    let [only] = &all_of.as_array()?[..] else { return None };
    only.get("$ref").map(|to| ("$ref".to_owned(), reference(to)))
}

/// Quantities and ports: a structural schema never names types below `oneOf`.
fn is_scalar(one_of: &Value) -> bool {
    one_of.as_array().into_iter().flatten().all(|form| form.get("type").is_some())
}

fn reference(to: &Value) -> Value {
    let to = to.as_str().unwrap_or_default();
    to.replace("#/components/schemas/", "#/definitions/").into()
}
