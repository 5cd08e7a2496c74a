//! The schema of a custom kind as it is published.
//!
//! `openAPIV3Schema` of a definition -> the same schema with all that the server implies spelt out:
//! type and metadata of the object and of the objects embedded in it, the two forms of an
//! int-or-string, the fields that can be selected by. Counterpart: `controller/openapi/builder` of
//! apiextensions. Invariant: nothing that the definition says is left out; [`super::v2`] leaves out
//! what Swagger 2.0 cannot say.

use serde_json::{Map, Value, json};

use super::schemas::{Components, type_field, wrapped};
use crate::kind::KindDef;

const CONVENTIONS: &str =
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";

/// The schema of an object.
pub fn object(kind: &KindDef, schema: &Value, all: &mut Components) -> Value {
    let mut out = schema.clone();
    spell_out(&mut out, all);
    let implied = [("apiVersion", type_field("apiVersion")), ("kind", type_field("kind"))];
    let properties = properties(&mut out);
    properties.extend(implied.map(|(name, of)| (name.to_owned(), of)));
    properties.insert("metadata".to_owned(), metadata(all));
    out["x-kubernetes-group-version-kind"] =
        json!([{"group": kind.group, "version": kind.version, "kind": kind.kind}]);
    select(kind, &mut out);
    out
}

/// Says of the list of a custom kind what only such lists say.
pub fn list(kind: &KindDef, out: &mut Value, all: &mut Components) {
    let of_what = format!("List of {}. More info: {CONVENTIONS}", kind.resource);
    out["properties"]["items"]["description"] = of_what.into();
    let words = format!("Standard list metadata. More info: {CONVENTIONS}#types-kinds");
    out["properties"]["metadata"] = wrapped(all.named("meta.v1.ListMeta"), &words, false);
    select(kind, out);
}

/// What is implied of a schema and of every one inside.
fn spell_out(schema: &mut Value, all: &mut Components) {
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    properties.into_iter().flatten().for_each(|(_, inner)| spell_out(inner, all));
    for below in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(below).filter(|inner| inner.is_object()) {
            spell_out(inner, all);
        }
    }
    if schema["x-kubernetes-int-or-string"] == true {
        spell_out_forms(schema);
    }
    if schema["x-kubernetes-embedded-resource"] == true {
        spell_out_embedded(schema, all);
    }
}

/// Either form is allowed, besides what the schema demands of a value.
fn spell_out_forms(schema: &mut Value) {
    let forms = json!([{"type": "integer"}, {"type": "string"}]);
    if schema["anyOf"] == forms || schema["allOf"][0]["anyOf"] == forms {
        return;
    }
    if schema["anyOf"].is_null() {
        schema["anyOf"] = forms;
        return;
    }
    let declared = schema["allOf"].as_array().cloned().unwrap_or_default();
    schema["allOf"] = std::iter::once(json!({"anyOf": forms})).chain(declared).collect();
}

fn spell_out_embedded(schema: &mut Value, all: &mut Components) {
    let properties = properties(schema);
    let texts = [
        (
            "apiVersion",
            "apiVersion defines the versioned schema of this representation of an object",
            "resources",
        ),
        (
            "kind",
            "kind is a string value representing the type of this object. In CamelCase",
            "types-kinds",
        ),
    ];
    for (name, words, section) in texts {
        let words = format!("{words}. More info: {CONVENTIONS}#{section}");
        properties.insert(name.to_owned(), json!({"type": "string", "description": words}));
    }
    properties.insert("metadata".to_owned(), metadata(all));
    let mut required = schema["required"].as_array().cloned().unwrap_or_default();
    for name in ["kind", "apiVersion"] {
        if !required.iter().any(|known| known == name) {
            required.push(name.into());
        }
    }
    schema["required"] = required.into();
}

fn metadata(all: &mut Components) -> Value {
    let words = format!("Standard object's metadata. More info: {CONVENTIONS}#metadata");
    wrapped(all.named("meta.v1.ObjectMeta"), &words, false)
}

fn select(kind: &KindDef, out: &mut Value) {
    if !kind.selectable.is_empty() {
        let paths = kind.selectable.iter().map(|(path, _)| json!({"fieldPath": path}));
        out["x-kubernetes-selectable-fields"] = paths.collect();
    }
}

fn properties(schema: &mut Value) -> &mut Map<String, Value> {
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    schema["properties"].as_object_mut().expect("made an object above")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kinds;
    use crate::openapi;

    fn kinds(schema: Value) -> Kinds {
        let version = json!({"name": "v1", "served": true, "storage": true,
            "selectableFields": [{"jsonPath": ".spec.mode"}],
            "schema": {"openAPIV3Schema": schema}});
        let definition = json!({"spec": {"group": "g.example.com", "scope": "Cluster",
            "names": {"plural": "things", "kind": "Thing"}, "versions": [version]}});
        crate::custom::kinds(&definition).expect("valid").into_iter().collect()
    }

    /// The schemas of both documents below a pointer.
    fn published(schema: Value, at: &str) -> (Value, Value) {
        let kinds = kinds(schema);
        let v3 = openapi::at(&kinds, "apis/g.example.com/v1", "1.36").expect("served");
        let v2 = openapi::v2::document(&kinds, "v1.36.2");
        let find = |all: &Value| all.pointer(&format!("/com.example.g.v1.{at}")).cloned();
        let (v3, v2) = (find(&v3["components"]["schemas"]), find(&v2["definitions"]));
        (v3.unwrap_or_default(), v2.unwrap_or_default())
    }

    #[test]
    fn a_root_that_keeps_unknown_fields_said_more_than_kubectl_bears() {
        let schema = json!({"type": "object", "description": "Any.",
            "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"spec": {"type": "object"}}});
        let (v3, v2) = published(schema, "Thing");
        assert!(v3["properties"]["metadata"].is_object() && v3["description"] == "Any.");
        let gvk = json!([{"group": "g.example.com", "version": "v1", "kind": "Thing"}]);
        let selectable = json!([{"fieldPath": "spec.mode"}]);
        assert_eq!(v3["x-kubernetes-selectable-fields"], selectable);
        let wanted = json!({"type": "object", "x-kubernetes-group-version-kind": gvk,
            "x-kubernetes-selectable-fields": selectable});
        assert_eq!(v2, wanted);
    }

    #[test]
    fn an_inner_object_that_keeps_unknown_fields_has_no_type_in_v2() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object",
            "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"a": {"type": "string"}}}}});
        let (v3, v2) = published(schema, "Thing/properties/spec");
        assert!(v3["type"] == "object" && v3["properties"]["a"]["type"] == "string");
        assert_eq!(v2, json!({"x-kubernetes-preserve-unknown-fields": true}));
    }

    #[test]
    fn an_embedded_object_has_type_and_metadata() {
        let schema = |unknown: bool| {
            json!({"type": "object", "properties": {"a": {"type": "array", "items": {
                "type": "object", "x-kubernetes-embedded-resource": true,
                "x-kubernetes-preserve-unknown-fields": unknown,
                "required": ["metadata"], "properties": {"metadata": {"type": "object"}}}}}})
        };
        let at = "Thing/properties/a/items";
        let (v3, v2) = published(schema(false), at);
        assert_eq!(v3["required"], json!(["metadata", "kind", "apiVersion"]));
        assert!(v3["properties"]["kind"]["description"].is_string());
        assert!(v3["properties"]["metadata"]["allOf"].is_array());
        assert!(v2["properties"]["metadata"]["$ref"].is_string());
        assert_eq!(v2["required"], v3["required"]);
        let (v3, v2) = published(schema(true), at);
        assert_eq!(v3["required"], json!(["metadata", "kind", "apiVersion"]));
        assert_eq!(v2["required"], json!(["metadata"]));
        assert!(v2.get("properties").is_none(), "{v2}");
    }

    #[test]
    fn an_int_or_string_is_one_of_both() {
        let port = |more: Value| {
            let mut port = json!({"x-kubernetes-int-or-string": true});
            port.as_object_mut()
                .expect("an object")
                .extend(more.as_object().cloned().expect("one"));
            let schema = json!({"type": "object", "properties": {"port": port}});
            published(schema, "Thing/properties/port").0
        };
        let forms = json!([{"type": "integer"}, {"type": "string"}]);
        assert_eq!(port(json!({}))["anyOf"], forms);
        assert!(port(json!({"anyOf": forms})).get("allOf").is_none());
        let bounded = port(json!({"anyOf": [{"minimum": 1}], "allOf": [{"maximum": 9}]}));
        assert_eq!(bounded["allOf"], json!([{"anyOf": forms}, {"maximum": 9}]));
        let told = json!({"allOf": [{"anyOf": forms}], "pattern": "^1"});
        assert!(port(told).get("anyOf").is_none());
    }

    #[test]
    fn a_list_says_of_what() {
        let (v3, v2) = published(json!({"type": "object"}), "ThingList/properties");
        for list in [&v3, &v2] {
            let words = list["items"]["description"].as_str().expect("words");
            assert!(words.starts_with("List of things. "), "{words}");
            assert!(list["metadata"]["description"].is_string());
        }
        assert!(v3["metadata"].get("default").is_none());
    }
}
