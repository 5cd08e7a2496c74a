//! Types as OpenAPI schemas.
//!
//! Schema graph -> the `components` of a document: every type that is referred to, once.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{custom, prose};
use crate::kind::KindDef;
use crate::schema::{AnyForm, Field, ListType, Schema, StructRef, StructSchema, struct_named};

/// The schemas of a document, collected as they are referred to.
#[derive(Default)]
pub struct Components {
    done: BTreeMap<String, Value>,
}

// === impl Components ===

impl Components {
    pub fn finish(self) -> BTreeMap<String, Value> {
        self.done
    }

    /// A reference to a kind's own type.
    pub fn kind(&mut self, kind: &KindDef) -> Value {
        let name = name_of_kind(kind);
        match &kind.document {
            Some(schema) => self.insert(&name, |all| custom::object(kind, schema, all)),
            None => self.structure(&kind.schema),
        }
        reference(&name)
    }

    /// A reference to the list type of a kind.
    pub fn list(&mut self, kind: &KindDef) -> Value {
        let own = name_of_kind(kind);
        let stem = own.strip_suffix(&kind.kind).unwrap_or(&own);
        let name = format!("{stem}{}", kind.list_kind);
        let items = self.kind(kind);
        self.insert(&name, |all| {
            let meta = all.named("meta.v1.ListMeta");
            let mut out = json!({
                "description": format!("{} is a list of {}", kind.list_kind, kind.kind),
                "type": "object",
                "required": ["items"],
                "properties": {
                    "apiVersion": type_field("apiVersion"),
                    "kind": type_field("kind"),
                    "metadata": wrapped(meta, "", true),
                    "items": {"type": "array", "items": items},
                },
                "x-kubernetes-group-version-kind": [
                    {"group": kind.group, "version": kind.version, "kind": kind.list_kind},
                ],
            });
            if kind.custom {
                custom::list(kind, &mut out, all);
            }
            out
        });
        reference(&name)
    }

    /// A reference to a built-in type by its fact name.
    pub fn named(&mut self, name: &str) -> Value {
        match struct_named(name) {
            Some(schema) => {
                self.structure(schema);
                reference(&openapi_name(schema))
            }
            None => json!({}),
        }
    }

    fn structure(&mut self, schema: &StructSchema) {
        self.insert(&openapi_name(schema), |all| structure(schema, all));
    }

    /// Inserts a type before what it refers to is looked at, so that a cycle ends.
    fn insert(&mut self, name: &str, make: impl FnOnce(&mut Components) -> Value) {
        if !self.done.contains_key(name) {
            self.done.insert(name.to_owned(), Value::Null);
            let value = make(self);
            self.done.insert(name.to_owned(), value);
        }
    }

    fn of(&mut self, schema: &Schema) -> Value {
        match schema {
            Schema::String => json!({"type": "string"}),
            Schema::Bool => json!({"type": "boolean"}),
            Schema::Int32 => json!({"type": "integer", "format": "int32"}),
            Schema::Int64 => json!({"type": "integer", "format": "int64"}),
            Schema::Double => json!({"type": "number", "format": "double"}),
            Schema::Bytes => json!({"type": "string", "format": "byte"}),
            Schema::List(list) => json!({"type": "array", "items": self.of(&list.items)}),
            Schema::Map(map) => {
                json!({"type": "object", "additionalProperties": self.of(&map.values)})
            }
            Schema::Struct(StructRef::Custom(of)) => structure(of, self),
            Schema::Struct(of) => {
                self.structure(of);
                reference(&openapi_name(of))
            }
            special => self.special(special),
        }
    }

    /// Types that are structs to Go and scalars (or anything) to JSON.
    fn special(&mut self, schema: &Schema) -> Value {
        let (name, shape) = match schema {
            Schema::Time => (
                "io.k8s.apimachinery.pkg.apis.meta.v1.Time",
                json!({"type": "string", "format": "date-time"}),
            ),
            Schema::MicroTime => (
                "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime",
                json!({"type": "string", "format": "date-time"}),
            ),
            Schema::Quantity => (
                "io.k8s.apimachinery.pkg.api.resource.Quantity",
                json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            ),
            Schema::IntOrString => (
                "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            ),
            Schema::FieldsV1 => {
                ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", json!({"type": "object"}))
            }
            Schema::Any(AnyForm::Raw) => {
                ("io.k8s.apimachinery.pkg.runtime.RawExtension", json!({"type": "object"}))
            }
            _ => return json!({}),
        };
        self.insert(name, |_| {
            let mut shape = shape;
            describe(&mut shape, prose::of(name).map_or("", |prose| &prose.description));
            shape
        });
        reference(name)
    }
}

// === types ===

fn structure(schema: &StructSchema, all: &mut Components) -> Value {
    let name = openapi_name(schema);
    let prose = prose::of(&name);
    let mut properties = Map::new();
    for field in &schema.fields {
        let words = prose.and_then(|prose| prose.fields.get(&field.name));
        properties
            .insert(field.name.clone(), property(field, words.map_or("", String::as_str), all));
    }
    let mut out = json!({"type": "object"});
    describe(&mut out, prose.map_or("", |prose| &prose.description));
    let required: Vec<&str> =
        schema.fields.iter().filter(|f| f.required).map(|f| f.name.as_str()).collect();
    if !required.is_empty() {
        out["required"] = required.into();
    }
    if !properties.is_empty() {
        out["properties"] = Value::Object(properties);
    }
    if schema.atomic {
        out["x-kubernetes-map-type"] = "atomic".into();
    }
    if schema.preserve_unknown {
        out["x-kubernetes-preserve-unknown-fields"] = true.into();
    }
    if let Some(gvk) = kind_of(schema) {
        out["x-kubernetes-group-version-kind"] = json!([gvk]);
    }
    out
}

fn property(field: &Field, words: &str, all: &mut Components) -> Value {
    let of = all.of(&field.schema);
    let is_struct = matches!(field.schema, Schema::Struct(_)) && !field.pointer;
    let mut out = match of.get("$ref").is_some() {
        true => wrapped(of, words, is_struct),
        false => {
            let mut out = of;
            describe(&mut out, words);
            out
        }
    };
    if let Some(default) = field.default.clone().or_else(|| zero(field)) {
        out["default"] = default;
    }
    if let Schema::List(list) = &field.schema {
        out["x-kubernetes-list-type"] = match &list.topology {
            ListType::Atomic => "atomic".into(),
            ListType::Set => "set".into(),
            ListType::Map(keys) => {
                out["x-kubernetes-list-map-keys"] = keys.clone().into();
                "map".into()
            }
        };
    }
    if matches!(&field.schema, Schema::Map(map) if map.atomic) {
        out["x-kubernetes-map-type"] = "atomic".into();
    }
    let strategy = [
        ("merge", field.patch.merge),
        ("replace", field.patch.replace),
        ("retainKeys", field.patch.retain_keys),
    ];
    let strategy: Vec<&str> =
        strategy.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    if !strategy.is_empty() {
        out["x-kubernetes-patch-strategy"] = strategy.join(",").into();
    }
    if let Some(key) = &field.patch.key {
        out["x-kubernetes-patch-merge-key"] = key.clone().into();
    }
    out
}

/// What stands in a field that is always written, when nobody set it.
fn zero(field: &Field) -> Option<Value> {
    if field.pointer || !field.always {
        return None;
    }
    match field.schema {
        Schema::String => Some("".into()),
        Schema::Bool => Some(false.into()),
        Schema::Int32 | Schema::Int64 | Schema::Double => Some(0.into()),
        _ => None,
    }
}

pub fn type_field(name: &str) -> Value {
    let words = prose::of("io.k8s.api.core.v1.ConfigMap").and_then(|prose| prose.fields.get(name));
    json!({"type": "string", "description": words})
}

/// Which kind a type is, if it is one on its own.
fn kind_of(schema: &StructSchema) -> Option<Value> {
    let (group, version, kind) = schema.gvk.as_ref()?;
    Some(json!({"group": group, "version": version, "kind": kind}))
}

// === names ===

pub fn name_of_kind(kind: &KindDef) -> String {
    if !kind.custom {
        return openapi_name(&kind.schema);
    }
    let mut group: Vec<&str> = kind.group.split('.').collect();
    group.reverse();
    format!("{}.{}.{}", group.join("."), kind.version, kind.kind)
}

/// `k8s.io.api.core.v1.Pod` -> `io.k8s.api.core.v1.Pod`.
fn openapi_name(schema: &StructSchema) -> String {
    let name = schema.proto.as_ref().map_or("", |proto| proto.name.as_str());
    match name.strip_prefix("k8s.io.") {
        Some(rest) => format!("io.k8s.{}", rest.replace('_', "-")),
        // The one described type that has no protobuf form to take a name from.
        None if schema.name == "version.Info" => "io.k8s.apimachinery.pkg.version.Info".to_owned(),
        None => schema.name.clone(),
    }
}

pub fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// A reference with words beside it, which only `allOf` allows.
pub fn wrapped(reference: Value, words: &str, always_there: bool) -> Value {
    let mut out = json!({"allOf": [reference]});
    describe(&mut out, words);
    if always_there {
        out["default"] = json!({});
    }
    out
}

fn describe(schema: &mut Value, words: &str) {
    if !words.is_empty() && schema.is_object() {
        schema["description"] = words.into();
    }
}
