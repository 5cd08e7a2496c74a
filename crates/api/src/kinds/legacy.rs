//! API versions that upstream no longer serves, for manifests that still speak them.
//!
//! A current kind -> the same kind at an older group and version, converted on the way in and out. Objects are stored in the
//! current version only. Counterpart: the conversions that upstream deleted with these versions (v1.22 and v1.25).
//! Invariant: nothing of this is seen unless a server asks for [`kinds`]; legacy kinds cannot be watched, so that
//! controllers that follow every kind pass them by.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::kind::{GroupVersion, KindDef, Kinds, Subresource};
use crate::schema::{self, Field, ListSchema, Schema, StructRef, StructSchema};

/// One version that is gone, and what took its place.
struct Legacy {
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    current: &'static str,
    deprecated: &'static str,
    removed: &'static str,
}

const fn row(
    group: &'static str,
    resource: &'static str,
    current: &'static str,
    deprecated: &'static str,
    removed: &'static str,
) -> Legacy {
    Legacy { group, version: "v1beta1", resource, current, deprecated, removed }
}

const LEGACY: &[Legacy] = &[
    row("extensions", "ingresses", "networking.k8s.io", "v1.14", "v1.22"),
    row("networking.k8s.io", "ingresses", "networking.k8s.io", "v1.19", "v1.22"),
    row("batch", "cronjobs", "batch", "v1.21", "v1.25"),
    row("policy", "poddisruptionbudgets", "policy", "v1.21", "v1.25"),
];

const VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update"];
/// What a v1beta1 budget's empty selector, which selects nothing, is not.
const SELECTS_ALL: &str = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match";

/// The legacy kinds that stand beside these current ones.
pub fn kinds(current: &Kinds) -> Vec<KindDef> {
    LEGACY.iter().filter_map(|legacy| legacy.kind(current)).collect()
}

/// What a client is told who uses one of them.
pub fn warning(kind: &KindDef) -> Option<String> {
    let legacy = of(&kind.group, &kind.version, &kind.resource)?;
    let Legacy { group, version, current, deprecated, removed, .. } = legacy;
    let name = &kind.kind;
    Some(format!(
        "{group}/{version} {name} is deprecated in {deprecated}+, unavailable in {removed}+; use {current}/v1 {name}"
    ))
}

pub fn is_legacy(kind: &KindDef) -> bool {
    of(&kind.group, &kind.version, &kind.resource).is_some()
}

fn of(group: &str, version: &str, resource: &str) -> Option<&'static Legacy> {
    LEGACY.iter().find(|legacy| {
        (legacy.group, legacy.version, legacy.resource) == (group, version, resource)
    })
}

/// Brings an object from or to a legacy version; others stay as they are.
pub fn convert(object: &mut Value, to: &GroupVersion) {
    let kind = object["kind"].as_str().unwrap_or("");
    match (kind, to.version.as_str()) {
        ("Ingress", "v1") => ingress_to_current(object),
        ("Ingress", _) => ingress_to_legacy(object),
        ("PodDisruptionBudget", "v1") => budget_to_current(object),
        ("PodDisruptionBudget", _) => budget_to_legacy(object),
        _ => {}
    }
}

// === impl Legacy ===

impl Legacy {
    fn kind(&self, kinds: &Kinds) -> Option<KindDef> {
        let current = kinds.get(self.current, "v1", self.resource)?;
        let sub = |sub: &Subresource| Subresource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            ..sub.clone()
        };
        Some(KindDef {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            verbs: VERBS.iter().map(|verb| (*verb).to_owned()).collect(),
            // These belong to the current kind alone.
            short_names: Vec::new(),
            categories: Vec::new(),
            subresources: current.subresources.iter().map(sub).collect(),
            schema: match self.resource {
                "ingresses" => ingress_schema(),
                _ => current.schema.clone(),
            },
            ..KindDef::clone(current)
        })
    }
}

// === Ingress ===

/// The current structure, but for how a backend is named.
fn ingress_schema() -> StructRef {
    let backend = backend_schema();
    let path = changed("networking.v1.HTTPIngressPath", |fields| {
        replace(fields, "backend", backend.clone());
        fields.iter_mut().filter(|field| field.name == "pathType").for_each(optional);
    });
    let http = changed("networking.v1.HTTPIngressRuleValue", |fields| {
        replace_items(fields, "paths", path);
    });
    let rule = changed("networking.v1.IngressRule", |fields| replace(fields, "http", http));
    let spec = changed("networking.v1.IngressSpec", |fields| {
        replace_items(fields, "rules", rule);
        replace(fields, "defaultBackend", backend);
        rename(fields, "defaultBackend", "backend");
    });
    let ingress = changed("networking.v1.Ingress", |fields| replace(fields, "spec", spec));
    match ingress {
        Schema::Struct(schema) => schema,
        _ => unreachable!("a changed struct is a struct"),
    }
}

/// `serviceName` and `servicePort` side by side.
fn backend_schema() -> Schema {
    changed("networking.v1.IngressBackend", |fields| {
        replace(fields, "service", Schema::String);
        rename(fields, "service", "serviceName");
        let name = fields.iter().find(|field| field.name == "serviceName").cloned();
        let port = name.map(|name| Field {
            name: "servicePort".to_owned(),
            schema: Schema::IntOrString,
            ..name
        });
        fields.extend(port);
        fields.sort_by(|one, other| one.name.cmp(&other.name));
    })
}

/// A built-in struct with other fields.
fn changed(name: &str, change: impl FnOnce(&mut Vec<Field>)) -> Schema {
    let current = schema::struct_named(name).expect("the facts hold this type");
    let mut fields = current.fields.clone();
    change(&mut fields);
    fields.sort_by(|one, other| one.name.cmp(&other.name));
    let legacy = StructSchema { fields, proto: None, ..current.clone() };
    Schema::Struct(StructRef::Custom(Arc::new(legacy)))
}

fn replace(fields: &mut [Field], name: &str, schema: Schema) {
    let field = fields.iter_mut().find(|field| field.name == name);
    field.expect("the facts hold this field").schema = schema;
}

fn rename(fields: &mut [Field], from: &str, to: &str) {
    let field = fields.iter_mut().find(|field| field.name == from);
    field.expect("the facts hold this field").name = to.to_owned();
}

fn replace_items(fields: &mut [Field], name: &str, items: Schema) {
    let field = fields.iter_mut().find(|field| field.name == name);
    let field = field.expect("the facts hold this field");
    if let Schema::List(list) = &field.schema {
        let topology = list.topology.clone();
        field.schema = Schema::List(Arc::new(ListSchema { items, topology }));
    }
}

fn optional(field: &mut Field) {
    field.required = false;
}

fn ingress_to_current(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if let Some(backend) = spec.remove("backend") {
        spec.insert("defaultBackend".to_owned(), backend_to_current(backend));
    }
    each_path(spec, |path| {
        if let Some(backend) = path.remove("backend") {
            path.insert("backend".to_owned(), backend_to_current(backend));
        }
        path.entry("pathType").or_insert_with(|| "ImplementationSpecific".into());
    });
}

fn ingress_to_legacy(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if let Some(backend) = spec.remove("defaultBackend") {
        spec.insert("backend".to_owned(), backend_to_legacy(backend));
    }
    each_path(spec, |path| {
        if let Some(backend) = path.remove("backend") {
            path.insert("backend".to_owned(), backend_to_legacy(backend));
        }
    });
}

fn each_path(spec: &mut Map<String, Value>, mut change: impl FnMut(&mut Map<String, Value>)) {
    let rules = spec.get_mut("rules").and_then(Value::as_array_mut);
    for rule in rules.into_iter().flatten() {
        let paths = rule.pointer_mut("/http/paths").and_then(Value::as_array_mut);
        paths.into_iter().flatten().filter_map(Value::as_object_mut).for_each(&mut change);
    }
}

fn backend_to_current(mut backend: Value) -> Value {
    let Some(fields) = backend.as_object_mut() else { return backend };
    let (name, port) = (fields.remove("serviceName"), fields.remove("servicePort"));
    if name.is_none() && port.is_none() {
        return backend;
    }
    let port = match port {
        Some(Value::String(name)) => json!({ "name": name }),
        Some(number) => json!({ "number": number }),
        None => json!({}),
    };
    fields.insert("service".to_owned(), json!({ "name": name.unwrap_or_default(), "port": port }));
    backend
}

fn backend_to_legacy(mut backend: Value) -> Value {
    let Some(fields) = backend.as_object_mut() else { return backend };
    let Some(service) = fields.remove("service") else { return backend };
    fields.insert("serviceName".to_owned(), service["name"].clone());
    let port = &service["port"];
    let port = if port["name"].is_string() { &port["name"] } else { &port["number"] };
    fields.insert("servicePort".to_owned(), port.clone());
    backend
}

// === PodDisruptionBudget ===

fn budget_to_current(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let selector = spec.get("selector");
    if selector.is_some_and(|selector| *selector == json!({})) {
        spec.remove("selector");
    } else if selector == Some(&all_pods()) {
        spec.insert("selector".to_owned(), json!({}));
    }
}

fn budget_to_legacy(object: &mut Value) {
    if object.pointer("/spec/selector").is_some_and(|selector| *selector == json!({})) {
        object["spec"]["selector"] = all_pods();
    }
}

/// How v1beta1 says what an empty selector says in v1.
fn all_pods() -> Value {
    json!({ "matchExpressions": [{ "key": SELECTS_ALL, "operator": "DoesNotExist" }] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: &str, spec: Value, current: Value) {
        let legacy = json!({ "kind": kind, "spec": spec });
        let mut object = legacy.clone();
        convert(&mut object, &GroupVersion::new("x", "v1"));
        assert_eq!(object["spec"], current);
    }

    #[test]
    fn backends_are_named_anew() {
        let paths = |backend: Value, more: Value| {
            let mut path = json!({ "path": "/", "backend": backend });
            path.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
            json!([{ "http": { "paths": [path] } }])
        };
        check(
            "Ingress",
            json!({ "backend": { "serviceName": "d", "servicePort": "http" }, "rules": paths(json!({ "serviceName": "s", "servicePort": 80 }), json!({})) }),
            json!({ "defaultBackend": { "service": { "name": "d", "port": { "name": "http" } } },
                "rules": paths(json!({ "service": { "name": "s", "port": { "number": 80 } } }), json!({ "pathType": "ImplementationSpecific" })) }),
        );
    }

    #[test]
    fn an_ingress_comes_back_as_it_was_sent() {
        let sent = json!({ "kind": "Ingress", "spec": { "backend": { "serviceName": "d", "servicePort": 80 } } });
        let mut object = sent.clone();
        convert(&mut object, &GroupVersion::new("networking.k8s.io", "v1"));
        convert(&mut object, &GroupVersion::new("extensions", "v1beta1"));
        assert_eq!(object, sent);
    }

    #[test]
    fn an_empty_selector_keeps_its_meaning() {
        check("PodDisruptionBudget", json!({ "selector": {} }), json!({}));
        check("PodDisruptionBudget", json!({ "selector": all_pods() }), json!({ "selector": {} }));
        let same = json!({ "selector": { "matchLabels": { "a": "b" } } });
        check("PodDisruptionBudget", same.clone(), same);
    }

    #[test]
    fn legacy_kinds_are_complete_and_are_stored_as_current_ones() {
        let current = crate::kinds::builtin();
        let legacy = kinds(&current);
        assert_eq!(legacy.len(), LEGACY.len());
        for kind in &legacy {
            let now =
                current.by_kind(&kind.storage_version.group, "v1", &kind.kind).expect("served");
            assert_eq!(kind.key_prefix, now.key_prefix);
            assert!(!kind.has_verb("watch") && is_legacy(kind) && !is_legacy(now));
        }
        let ingress = &legacy[0].schema;
        let Some(Schema::Struct(spec)) = ingress.field("spec").map(|field| &field.schema) else {
            panic!("a spec");
        };
        assert!(spec.field("backend").is_some() && spec.field("defaultBackend").is_none());
    }
}
