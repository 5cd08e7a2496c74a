//! The document says what kubectl looks for; its protobuf form, read with numbers written down a
//! second time, says the same as the JSON form.

use serde_json::{Map, Value, json};

use super::*;
use crate::codec::wire::{Payload, Reader};
use crate::kinds;

fn custom() -> Kinds {
    let definition = json!({"spec": {"group": "g.example.com", "scope": "Cluster",
    "names": {"plural": "things", "kind": "Thing"}, "versions": [{"name": "v1", "served": true, "storage": true,
    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object",
        "required": ["size", "note"],
        "properties": {
            "size": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 9, "default": 3},
            "note": {"type": "string", "nullable": true, "maxLength": 12},
            "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "string"}}},
            "mode": {"type": "string", "enum": ["on", "off"]},
        }}}}}}]}});
    crate::custom::kinds(&definition).expect("valid").into_iter().collect()
}

#[test]
fn schemas_are_spelt_the_older_way() {
    let document = document(&kinds::builtin(), "v1.36.2");
    let definitions = &document["definitions"];
    let spec = &definitions["io.k8s.api.apps.v1.DeploymentSpec"]["properties"];
    assert_eq!(spec["template"]["$ref"], "#/definitions/io.k8s.api.core.v1.PodTemplateSpec");
    assert!(spec["template"]["description"].is_string());
    assert_eq!(spec["strategy"]["x-kubernetes-patch-strategy"], "retainKeys");
    let containers = &definitions["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    let port = &definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
    assert_eq!((&port["type"], &port["format"]), (&json!("string"), &json!("int-or-string")));
    let text = document.to_string();
    for absent in ["#/components/", "\"oneOf\":[", "\"allOf\":[", "\"content\":{\"app"] {
        assert!(!text.contains(absent), "{absent}");
    }
}

#[test]
fn operations_take_bodies_as_parameters() {
    let document = document(&kinds::builtin(), "v1.36.2");
    let path = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
    let patch = &document["paths"][path]["patch"];
    assert_eq!(patch["x-kubernetes-action"], "patch");
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    let takes = patch["parameters"].as_array().expect("a list");
    assert!(takes.iter().any(|p| p["in"] == "body" && p["required"] == true));
    assert!(takes.iter().any(|p| p["name"] == "fieldValidation" && p["type"] == "string"));
    assert!(patch["consumes"].as_array().expect("a list").len() > 3);
    assert_eq!(
        patch["responses"]["200"]["schema"]["$ref"],
        "#/definitions/io.k8s.api.apps.v1.Deployment"
    );
}

#[test]
fn every_operation_has_an_id_of_its_own() {
    let document = document(&kinds::builtin(), "v1.36.2");
    let mut seen = std::collections::HashSet::new();
    for item in document["paths"].as_object().expect("a map").values() {
        for operation in item.as_object().expect("a map").values().filter(|o| o.is_object()) {
            let id = operation["operationId"].as_str().expect("text");
            assert!(seen.insert(id), "{id}");
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document(&kinds::builtin(), "v1.36.2");
    let text = document.to_string();
    for part in text.split("\"#/definitions/").skip(1) {
        let name = part.split('"').next().unwrap_or_default();
        assert!(document["definitions"].get(name).is_some(), "{name}");
    }
}

#[test]
fn custom_kinds_are_described_no_stricter_than_they_are() {
    let document = document(&custom(), "v1.36.2");
    let thing = &document["definitions"]["com.example.g.v1.Thing"];
    assert_eq!(thing["x-kubernetes-group-version-kind"][0]["kind"], "Thing");
    let spec = &thing["properties"]["spec"];
    assert_eq!(spec["required"], json!(["size"]));
    let properties = &spec["properties"];
    assert_eq!(properties["note"], json!({"maxLength": 12}));
    assert_eq!(properties["port"], json!({"x-kubernetes-int-or-string": true}));
    assert!(properties["free"].get("properties").is_none());
    assert!(properties["size"].get("default").is_none());
    assert!(document["paths"].get("/apis/g.example.com/v1/things/{name}").is_some());
}

#[test]
fn protobuf_says_the_same_as_json() {
    for kinds in [kinds::builtin(), custom()] {
        let document = document(&kinds, "v1.36.2");
        let bytes = to_proto(&document);
        let read = Read::of(&bytes);
        assert_eq!(read.text(1), "2.0");
        assert_eq!(read.message(2).text(2), "v1.36.2");
        assert_eq!(read.message(8).map(2, path_item), document["paths"]);
        assert_eq!(read.message(9).map(1, schema), document["definitions"]);
        let key = &read.message(13).messages(1)[0];
        assert_eq!(
            (key.text(1), key.message(2).message(2).text(2)),
            ("BearerToken", "authorization")
        );
        assert_eq!(read.message(12).message(1).text(1), "BearerToken");
    }
}

// === the reader ===

/// The fields of one message.
struct Read<'b>(Vec<(u32, Payload<'b>)>);

impl<'b> Read<'b> {
    fn of(bytes: &'b [u8]) -> Read<'b> {
        let mut reader = Reader(bytes);
        Read(std::iter::from_fn(|| reader.field().expect("well formed")).collect())
    }

    fn at(&self, number: u32) -> impl Iterator<Item = &Payload<'b>> {
        self.0.iter().filter(move |(known, _)| *known == number).map(|(_, payload)| payload)
    }

    fn bytes(&self, number: u32) -> Vec<&'b [u8]> {
        self.at(number)
            .map(|payload| match payload {
                Payload::Bytes(bytes) => *bytes,
                other => panic!("{number}: {other:?}"),
            })
            .collect()
    }

    fn texts(&self, number: u32) -> Vec<&'b str> {
        let text = |bytes| std::str::from_utf8(bytes).expect("text");
        self.bytes(number).into_iter().map(text).collect()
    }

    fn text(&self, number: u32) -> &'b str {
        self.texts(number).first().copied().unwrap_or_default()
    }

    fn messages(&self, number: u32) -> Vec<Read<'b>> {
        self.bytes(number).into_iter().map(Read::of).collect()
    }

    fn message(&self, number: u32) -> Read<'b> {
        self.messages(number).into_iter().next().unwrap_or(Read(Vec::new()))
    }

    fn map(&self, number: u32, value: fn(&Read) -> Value) -> Value {
        let entries = self.messages(number);
        Value::Object(
            entries.iter().map(|e| (e.text(1).to_owned(), value(&e.message(2)))).collect(),
        )
    }
}

/// Collects what a message holds under the names that JSON has for it.
#[derive(Default)]
struct Json(Map<String, Value>);

impl Json {
    fn put(&mut self, name: &str, values: Vec<Value>, many: bool) {
        if !values.is_empty() {
            let one = values[0].clone();
            self.0.insert(name.to_owned(), if many { values.into() } else { one });
        }
    }

    fn texts(&mut self, read: &Read, names: &[(&str, u32, bool)]) {
        for (name, number, many) in names {
            self.put(name, read.texts(*number).into_iter().map(Value::from).collect(), *many);
        }
    }

    fn numbers(&mut self, read: &Read, names: &[(&str, u32)], bool: bool) {
        for (name, number) in names {
            let value = |payload: &Payload| match payload {
                Payload::Varint(value) if bool => Value::from(*value == 1),
                Payload::Varint(value) => Value::from(*value),
                Payload::Fixed64(bits) => Value::from(f64::from_bits(*bits) as i64),
                other => panic!("{name}: {other:?}"),
            };
            self.put(name, read.at(*number).map(value).collect(), false);
        }
    }

    fn extensions(&mut self, read: &Read, number: u32) {
        if let Value::Object(all) = read.map(number, any) {
            self.0.extend(all);
        }
    }
}

fn any(read: &Read) -> Value {
    serde_json::from_str(read.text(2)).expect("the part of YAML that is JSON")
}

fn schema(read: &Read) -> Value {
    let mut out = Json::default();
    let texts = [
        ("$ref", 1, false),
        ("format", 2, false),
        ("description", 4, false),
        ("required", 19, true),
    ];
    out.texts(read, &texts);
    out.texts(&read.message(22), &[("type", 1, false)]);
    let numbers = [("maximum", 7), ("minimum", 9), ("maxLength", 11), ("minLength", 12)];
    out.numbers(read, &numbers, false);
    out.put("enum", read.messages(20).iter().map(any).collect(), true);
    let inside = |number: u32| read.message(number).messages(1).iter().map(schema).collect();
    out.put("additionalProperties", inside(21), false);
    out.put("items", inside(23), false);
    let properties = read.messages(25).iter().map(|all| all.map(1, schema)).collect();
    out.put("properties", properties, false);
    out.extensions(read, 31);
    Value::Object(out.0)
}

fn path_item(read: &Read) -> Value {
    let mut out = Json::default();
    for (method, number) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        out.put(method, read.messages(number).iter().map(operation).collect(), false);
    }
    out.put("parameters", read.messages(9).iter().map(parameter).collect(), true);
    Value::Object(out.0)
}

fn operation(read: &Read) -> Value {
    let mut out = Json::default();
    let texts = [
        ("tags", 1, true),
        ("description", 3, false),
        ("operationId", 5, false),
        ("produces", 6, true),
        ("consumes", 7, true),
        ("schemes", 10, true),
    ];
    out.texts(read, &texts);
    out.0.insert("parameters".to_owned(), read.messages(8).iter().map(parameter).collect());
    out.0.insert("responses".to_owned(), read.message(9).map(1, response));
    out.extensions(read, 13);
    Value::Object(out.0)
}

fn parameter(read: &Read) -> Value {
    let mut out = Json::default();
    let read = read.message(1);
    let plain = read.message(2);
    for body in read.messages(1) {
        out.texts(&body, &[("name", 2, false), ("in", 3, false)]);
        out.numbers(&body, &[("required", 4)], true);
        out.put("schema", body.messages(5).iter().map(schema).collect(), false);
    }
    for query in plain.messages(3) {
        out.texts(&query, &[("in", 2, false), ("name", 4, false), ("type", 6, false)]);
        out.numbers(&query, &[("required", 1), ("uniqueItems", 20)], true);
    }
    for path in plain.messages(4) {
        out.texts(&path, &[("in", 2, false), ("name", 4, false), ("type", 5, false)]);
        out.numbers(&path, &[("required", 1), ("uniqueItems", 19)], true);
    }
    Value::Object(out.0)
}

fn response(read: &Read) -> Value {
    let mut out = Json::default();
    let read = read.message(1);
    out.texts(&read, &[("description", 1, false)]);
    out.put("schema", read.message(2).messages(1).iter().map(schema).collect(), false);
    Value::Object(out.0)
}
