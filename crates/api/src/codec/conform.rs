//! Holds a parsed document against its schema: the one walk that every body goes through.
//!
//! [`Node`] + schema -> `Value` without unknown fields, nulls and zero scalars, with times and
//! quantities in canonical form, plus the findings of strict decoding; or the first type error, in
//! the words of Go's decoder. A custom resource keeps wrong types and nulls, which its own schema
//! validation reports later. Counterpart: decoding into Go structs and encoding them again, and
//! `structural pruning` for custom resources.

use serde_json::{Map, Value};

use super::go_types::{self, TypeError};
use super::node::Node;
use super::place::Place;
use crate::quantity::Quantity;
use crate::schema::{AnyForm, Field, Schema, StructSchema, struct_named};
use crate::time;

/// Upstream's limit on what strict decoding reports.
const MAX_FINDINGS: usize = 100;

/// Holds `node` against `schema`; appends unknown and repeated fields to `findings`.
pub fn conform(
    node: Node,
    schema: &StructSchema,
    custom: bool,
    findings: &mut Vec<String>,
) -> Result<Value, TypeError> {
    conform_noting(node, schema, custom, findings, &mut Vec::new())
}

/// A list or map that was given empty and is not kept, as a JSON pointer.
pub type Empty = (String, Value);

/// Likewise; appends what was given empty to `empties`.
pub fn conform_noting(
    node: Node,
    schema: &StructSchema,
    custom: bool,
    findings: &mut Vec<String>,
    empties: &mut Vec<Empty>,
) -> Result<Value, TypeError> {
    let mut walk = Walk { custom, findings, empties };
    let value = walk.structure(node, schema, &Place::ROOT)?;
    if custom {
        // Pruning comes after decoding there, and names fields in order.
        findings.sort_by_key(|text| text.starts_with("unknown").then(|| text.clone()));
    }
    Ok(Value::Object(value.unwrap_or_default()))
}

/// The repeated keys of a document that has no schema.
pub fn repeated_fields(node: Node) -> Vec<String> {
    let mut findings = Vec::new();
    Walk { custom: false, findings: &mut findings, empties: &mut Vec::new() }
        .plain(node, &Place::ROOT);
    findings
}

// === the walk ===

struct Walk<'a> {
    custom: bool,
    findings: &'a mut Vec<String>,
    empties: &'a mut Vec<Empty>,
}

impl<'w> Walk<'w> {
    /// `None` for null.
    fn structure(
        &mut self,
        node: Node,
        schema: &StructSchema,
        at: &Place<'_>,
    ) -> Result<Option<Map<String, Value>>, TypeError> {
        let entries = match node {
            Node::Map(entries) => entries,
            Node::Null => return Ok(None),
            other => return Err(at.unmarshal(other.type_name(), &go_types::structure(schema))),
        };
        let mut map = Map::new();
        let mut seen: Vec<String> = Vec::new();
        for (name, node) in entries {
            let place = at.field(&name, Some(schema));
            let Some(field) = schema.field(&name) else {
                if schema.preserve_unknown {
                    let value = self.plain(node, &place);
                    map.insert(name, value);
                } else {
                    self.report("unknown", &place);
                }
                continue;
            };
            if seen.contains(&name) {
                self.report("duplicate", &place);
            }
            let value = self.field(node, field, schema, &place)?;
            seen.push(name);
            put(&mut map, field, value);
        }
        Ok(Some(map))
    }

    /// `None` for what is not written: nulls and zero scalars.
    fn field(
        &mut self,
        node: Node,
        field: &Field,
        owner: &StructSchema,
        at: &Place<'_>,
    ) -> Result<Option<Value>, TypeError> {
        let custom = self.custom && owner.proto.is_none();
        if node == Node::Null && !(custom && field.nullable) {
            return Ok(None);
        }
        let mut below = Walk { custom, findings: &mut *self.findings, empties: &mut *self.empties };
        let value = below.value(node, &field.schema, at)?;
        // An empty list of managers is a request of its own.
        let asked = field.name == "managedFields"
            && value.is_array()
            && at.full() == "metadata.managedFields";
        let written =
            custom || asked || field.pointer || field.always || !is_zero(&value, &field.schema);
        if !written && (value.is_array() || value.is_object()) {
            self.empties.push((at.pointer(), value));
            return Ok(None);
        }
        Ok(written.then_some(value))
    }

    fn value(&mut self, node: Node, schema: &Schema, at: &Place<'_>) -> Result<Value, TypeError> {
        if self.custom {
            return self.lenient(node, schema, at);
        }
        match (schema, node) {
            (Schema::Struct(of), node) => {
                Ok(Value::Object(self.structure(node, of, at)?.unwrap_or_default()))
            }
            (Schema::List(list), Node::List(nodes)) => self.list(nodes, &list.items, at),
            (Schema::Map(of), Node::Map(entries)) => self.map(entries, &of.values, at),
            (Schema::Any(form), node) => self.any(node, *form, at),
            (Schema::FieldsV1, node) => Ok(self.plain(node, at)),
            (_, Node::Null) => Ok(zero_of(schema)),
            (_, node) => scalar(node, schema, at),
        }
    }

    fn list(
        &mut self,
        nodes: Vec<Node>,
        items: &Schema,
        at: &Place<'_>,
    ) -> Result<Value, TypeError> {
        let each = nodes.into_iter().enumerate();
        each.map(|(index, node)| self.value(node, items, &at.index(index))).collect()
    }

    fn map(
        &mut self,
        entries: Vec<(String, Node)>,
        values: &Schema,
        at: &Place<'_>,
    ) -> Result<Value, TypeError> {
        let mut map = Map::new();
        for (name, node) in entries {
            let place = at.key(&name);
            if map.contains_key(&name) {
                self.report("duplicate", &place);
            }
            let value = self.value(node, values, &place)?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }

    fn any(&mut self, node: Node, form: AnyForm, at: &Place<'_>) -> Result<Value, TypeError> {
        let fits = match form {
            AnyForm::Json | AnyForm::Raw | AnyForm::Unknown => true,
            AnyForm::JsonSchemaOrBool => matches!(node, Node::Bool(_) | Node::Map(_) | Node::Null),
            _ => matches!(node, Node::List(_) | Node::Map(_) | Node::Null),
        };
        if !fits {
            return Err(match form {
                AnyForm::JsonSchemaOrBool => TypeError("boolean or JSON schema expected".into()),
                _ => TypeError("array or JSON schema expected".into()),
            });
        }
        match (form, node) {
            (AnyForm::Json | AnyForm::Raw | AnyForm::Unknown, node) => Ok(self.plain(node, at)),
            (_, node @ Node::Map(_)) => json_schema(node, at),
            (AnyForm::JsonSchemaOrArray, Node::List(nodes)) => {
                nodes.into_iter().map(|node| json_schema(node, at)).collect()
            }
            (_, node) => Ok(self.plain(node, at)),
        }
    }

    /// A place of a custom resource: unknown fields go, types are left to schema validation.
    fn lenient(&mut self, node: Node, schema: &Schema, at: &Place<'_>) -> Result<Value, TypeError> {
        match (schema, node) {
            (Schema::Struct(of), node @ Node::Map(_)) => {
                Ok(Value::Object(self.structure(node, of, at)?.unwrap_or_default()))
            }
            (Schema::List(list), Node::List(nodes)) => self.list(nodes, &list.items, at),
            (Schema::Map(of), Node::Map(mut entries)) => {
                entries.retain(|(_, node)| of.nullable || *node != Node::Null);
                self.map(entries, &of.values, at)
            }
            (Schema::Int64, Node::Number(text)) => Ok(whole_number(text)),
            (_, node) => Ok(self.plain(node, at)),
        }
    }

    /// A tree without a schema; repeated keys are still findings.
    fn plain(&mut self, node: Node, at: &Place<'_>) -> Value {
        match node {
            Node::Map(entries) => {
                let mut map = Map::new();
                for (name, node) in entries {
                    let place = at.field(&name, None);
                    if map.contains_key(&name) {
                        self.report("duplicate", &place);
                    }
                    let value = self.plain(node, &place);
                    map.insert(name, value);
                }
                Value::Object(map)
            }
            Node::List(items) => {
                let each = items.into_iter().enumerate();
                each.map(|(index, node)| self.plain(node, &at.index(index))).collect()
            }
            scalar => scalar.into_value(),
        }
    }

    /// Each finding once, and not more than anyone reads.
    fn report(&mut self, what: &str, at: &Place<'_>) {
        let finding = format!("{what} field {:?}", at.full());
        if self.findings.len() < MAX_FINDINGS && !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }
}

/// A schema where something else might have stood. Go reads it by itself, so that unknown fields in
/// it are dropped without a word.
fn json_schema(node: Node, at: &Place<'_>) -> Result<Value, TypeError> {
    let schema = struct_named("apiextensions.v1.JSONSchemaProps").expect("a type of the facts");
    let mut unheard = Vec::new();
    let mut walk = Walk { custom: false, findings: &mut unheard, empties: &mut Vec::new() };
    let value = walk.structure(node, schema, at)?;
    Ok(Value::Object(value.unwrap_or_default()))
}

pub fn scalar(node: Node, schema: &Schema, at: &Place<'_>) -> Result<Value, TypeError> {
    match (schema, node) {
        (Schema::String, Node::String(text)) => Ok(Value::String(text)),
        (Schema::Bool, Node::Bool(truth)) => Ok(Value::Bool(truth)),
        (Schema::Int32 | Schema::Int64, Node::Number(text)) => integer(&text, schema, at),
        (Schema::Double, number @ Node::Number(_)) => Ok(number.into_value()),
        // Go reads bytes from a list of numbers as well.
        (Schema::Bytes, Node::List(items)) if items.iter().all(|item| byte(item).is_some()) => {
            let bytes: Vec<u8> = items.iter().filter_map(byte).collect();
            Ok(base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes).into())
        }
        (Schema::Bytes, Node::String(text)) => base64_text(&text).map(Value::String),
        (Schema::Time, Node::String(text)) => {
            time::canonical(&text).map(Value::String).map_err(TypeError)
        }
        (Schema::MicroTime, Node::String(text)) => {
            time::canonical_micro(&text).map(Value::String).map_err(TypeError)
        }
        (Schema::Quantity, Node::String(text) | Node::Number(text)) => {
            let amount: Result<Quantity, _> = text.trim().parse();
            amount.map(|it| it.to_string().into()).map_err(|e| TypeError(e.to_string()))
        }
        (Schema::Quantity, _) => Err(TypeError(crate::quantity::ParseError::Format.to_string())),
        (Schema::IntOrString, Node::String(text)) => Ok(Value::String(text)),
        (Schema::IntOrString, Node::Number(text)) => integer(&text, &Schema::Int32, at),
        // These three read themselves, as what they are underneath.
        (Schema::Time | Schema::MicroTime, other) => Err(at.unmarshal(other.type_name(), "string")),
        (Schema::IntOrString, other) => Err(at.unmarshal(other.type_name(), "int32")),
        (_, other) => Err(at.mismatch(other.type_name(), schema)),
    }
}

fn byte(node: &Node) -> Option<u8> {
    match node {
        Node::Number(text) => text.parse().ok(),
        _ => None,
    }
}

fn integer(text: &str, schema: &Schema, at: &Place<'_>) -> Result<Value, TypeError> {
    let parsed = match schema {
        Schema::Int32 => text.parse::<i32>().map(i64::from).ok(),
        _ => text.parse::<i64>().ok(),
    };
    let refusal = || at.unmarshal(&format!("number {text}"), &go_types::of(schema));
    parsed.map(Value::from).ok_or_else(refusal)
}

/// `3.0` where an integer is expected is 3.
fn whole_number(text: String) -> Value {
    match text.parse::<f64>() {
        Ok(float) if float.fract() == 0.0 && float.abs() < 9e15 && text.parse::<i64>().is_err() => {
            (float as i64).into()
        }
        _ => Node::Number(text).into_value(),
    }
}

/// A repeated struct or map field merges into what was read before, as Go decodes into the same
/// value; anything else is replaced.
fn put(map: &mut Map<String, Value>, field: &Field, value: Option<Value>) {
    let Some(value) = value else { return };
    match (map.get_mut(&field.name), value) {
        (Some(Value::Object(before)), Value::Object(more)) => before.extend(more),
        (_, value) => drop(map.insert(field.name.clone(), value)),
    }
}

fn is_zero(value: &Value, schema: &Schema) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Number(number) => {
            number.as_f64() == Some(0.0) && !matches!(schema, Schema::IntOrString)
        }
        Value::String(text) => {
            text.is_empty() && !matches!(schema, Schema::IntOrString | Schema::Any(_))
        }
        Value::Array(items) => items.is_empty() && matches!(schema, Schema::List(_)),
        Value::Object(map) => map.is_empty() && matches!(schema, Schema::Map(_)),
    }
}

/// What null becomes as an element of a list or map.
fn zero_of(schema: &Schema) -> Value {
    match schema {
        Schema::String => "".into(),
        Schema::Bool => false.into(),
        Schema::Int32 | Schema::Int64 | Schema::Double | Schema::IntOrString => 0.into(),
        Schema::Quantity => "0".into(),
        _ => Value::Null,
    }
}

/// Checks base64 the way Go reports it: by the first byte that does not fit.
fn base64_text(text: &str) -> Result<String, TypeError> {
    use base64::Engine;
    let joined: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match base64::engine::general_purpose::STANDARD.decode(&joined) {
        Ok(bytes) => Ok(base64::engine::general_purpose::STANDARD.encode(bytes)),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _)
                | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                _ => joined.len() / 4 * 4,
            };
            Err(TypeError(format!("illegal base64 data at input byte {at}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::codec::complete;
    use crate::codec::json;

    fn read(kind: &str, text: &str) -> (Result<Value, TypeError>, Vec<String>) {
        let node = json::parse(text.as_bytes()).expect("valid JSON");
        let schema = struct_named(kind).expect("a known type");
        let mut findings = Vec::new();
        (conform(node, schema, false, &mut findings), findings)
    }

    #[test]
    fn what_was_given_empty_is_left_out_and_noted() {
        let text = br#"{"metadata":{"managedFields":[]},"template":{"metadata":{"managedFields":[]},"spec":{"nodeSelector":{},"containers":[{"ports":[]}]}}}"#;
        let node = json::parse(text).expect("valid JSON");
        let schema = struct_named("core.v1.PodTemplate").expect("a known type");
        let mut empties = Vec::new();
        let value = conform_noting(node, schema, false, &mut Vec::new(), &mut empties);
        let wanted = json!({
            "metadata": {"managedFields": []},
            "template": {"metadata": {}, "spec": {"containers": [{}]}},
        });
        assert_eq!(value, Ok(wanted));
        let noted = [
            ("/template/metadata/managedFields", json!([])),
            ("/template/spec/nodeSelector", json!({})),
            ("/template/spec/containers/0/ports", json!([])),
        ];
        assert_eq!(empties, noted.map(|(at, empty)| (at.to_owned(), empty)));
    }

    #[test]
    fn unknown_and_repeated_fields_are_found_in_order() {
        let (value, findings) = read(
            "core.v1.ConfigMap",
            r#"{"metadata":{"labels":{"a":"b"},"labels":{"c":"d"}},"data":{"k":"v","k":"w"},"bogus":1}"#,
        );
        assert_eq!(
            findings,
            [
                r#"duplicate field "metadata.labels""#,
                r#"duplicate field "data.k""#,
                r#"unknown field "bogus""#
            ]
        );
        let wanted = json!({"metadata": {"labels": {"a": "b", "c": "d"}}, "data": {"k": "w"}});
        assert_eq!(value, Ok(wanted));
    }

    #[test]
    fn the_schema_of_items_kept_its_zero_scalars() {
        let (value, findings) = read(
            "apiextensions.v1.JSONSchemaProps",
            r#"{"items":{"type":"string","nullable":false,"pattern":"","bogus":1,
                "items":{"title":""}},"additionalProperties":{"format":""},"default":{"a":""}}"#,
        );
        assert!(findings.is_empty(), "{findings:?}");
        assert_eq!(
            value.expect("types fit"),
            json!({"items": {"type": "string", "items": {}}, "additionalProperties": {}, "default": {"a": ""}})
        );
        let (wrong, _) = read("apiextensions.v1.JSONSchemaProps", r#"{"items":{"minLength":"x"}}"#);
        let message = "json: cannot unmarshal string into Go struct field \
                       JSONSchemaProps.items.minLength of type int64";
        assert_eq!(wrong.expect_err("no number").to_string(), message);
    }

    #[test]
    fn type_errors_read_as_go_prints_them() {
        for (kind, text, message) in [
            (
                "apps.v1.Deployment",
                r#"{"spec":{"replicas":"3"}}"#,
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                "apps.v1.Deployment",
                r#"{"spec":{"replicas":2.0}}"#,
                "json: cannot unmarshal number 2.0 into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                "core.v1.ConfigMap",
                r#"{"data":{"a":5}}"#,
                "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
            ),
            (
                "core.v1.ConfigMap",
                r#"{"data":["a"]}"#,
                "json: cannot unmarshal array into Go struct field ConfigMap.data of type map[string]string",
            ),
            (
                "core.v1.Pod",
                r#"{"spec":{"containers":[{"ports":[{"containerPort":"80"}]}]}}"#,
                "json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
            ),
            (
                "core.v1.Pod",
                r#"{"spec":{"containers":{"name":"c"}}}"#,
                "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (
                "core.v1.Secret",
                r#"{"data":{"a":"not base64!"}}"#,
                "illegal base64 data at input byte 3",
            ),
        ] {
            let error = read(kind, text).0.expect_err(text);
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn bytes_are_read_from_numbers_too() {
        let data = |text: &str| read("core.v1.Secret", text).0.map(|secret| secret["data"].clone());
        assert_eq!(
            data(r#"{"data":{"a":[120],"b":[]}}"#).ok(),
            Some(json!({"a": "eA==", "b": ""}))
        );
        assert!(data(r#"{"data":{"a":[256]}}"#).is_err());
    }

    #[test]
    fn what_go_would_not_write_is_dropped_and_what_it_would_is_added() {
        let (value, findings) = read(
            "core.v1.Pod",
            r#"{"spec":{"hostNetwork":false,"automountServiceAccountToken":false,"volumes":[],
                "containers":[{"name":"c","args":null,"resources":{"limits":{"cpu":"1000m"}},
                "readinessProbe":{"exec":{}}}]},"status":null}"#,
        );
        assert!(findings.is_empty(), "{findings:?}");
        let mut value = value.expect("types fit");
        let wanted = json!({"spec": {"automountServiceAccountToken": false, "containers": [
            {"name": "c", "resources": {"limits": {"cpu": "1"}}, "readinessProbe": {"exec": {}}}]}});
        assert_eq!(value, wanted);
        complete(&mut value, struct_named("core.v1.Pod").expect("known"));
        assert_eq!(value["status"], json!({}));
        assert_eq!(value["metadata"], json!({}));
        assert_eq!(value["spec"].get("initContainers"), None);
        let mut empty = json!({});
        complete(&mut empty, struct_named("rbac.v1.Role").expect("known"));
        assert_eq!(empty, json!({"metadata": {}, "rules": null}));
    }
}
