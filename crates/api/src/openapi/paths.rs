//! The paths of a kind with their operations.
//!
//! What clients read from them: which kind and action an operation is about, and which parameters it
//! takes (kubectl looks for `fieldValidation` and `dryRun` before it relies on them).

use serde_json::{Map, Value, json};

use super::schemas::Components;
use crate::codec::api_version;
use crate::kind::{KindDef, Subresource};

const WRITE: &[&str] = &["pretty", "dryRun", "fieldManager", "fieldValidation"];
const PATCH: &[&str] = &["pretty", "dryRun", "fieldManager", "fieldValidation", "force"];
const DELETE: &[&str] =
    &["pretty", "dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];
const LIST: &[&str] = &[
    "pretty",
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];

/// Ends the id of an operation on all namespaces.
const EVERYWHERE: &str = "ForAllNamespaces";

/// Verb, method, action, parameters, whether the path names one object.
const OPERATIONS: &[(&str, &str, &str, &[&str], bool)] = &[
    ("list", "get", "list", LIST, false),
    ("create", "post", "post", WRITE, false),
    ("deletecollection", "delete", "deletecollection", LIST, false),
    ("get", "get", "get", &["pretty"], true),
    ("update", "put", "put", WRITE, true),
    ("patch", "patch", "patch", PATCH, true),
    ("delete", "delete", "delete", DELETE, true),
];

/// The path that answers with what the group and version serve.
pub fn add_discovery(
    group: &str,
    version: &str,
    components: &mut Components,
    paths: &mut Map<String, Value>,
) {
    let answer = components.named("meta.v1.APIResourceList");
    let operation = json!({
        "tags": [tag(group, version)],
        "description": "get available resources",
        "operationId": format!("get_{}_APIResources", tag(group, version)),
        "responses": responses(&answer),
    });
    paths.insert(format!("{}/", root(group, version)), json!({"get": operation}));
}

/// Adds every path of a kind.
pub fn add(kind: &KindDef, components: &mut Components, paths: &mut Map<String, Value>) {
    let root = root(&kind.group, &kind.version);
    let scope = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
    let all = format!("{scope}/{}", kind.resource);
    let one = format!("{all}/{{name}}");
    let refs = Refs { own: components.kind(kind), list: None };
    let refs = match kind.has_verb("list") {
        true => Refs { list: Some(components.list(kind)), ..refs },
        false => refs,
    };
    for (path, named) in [(&all, false), (&one, true)] {
        let operations = operations(kind, named, &refs, components);
        insert(paths, format!("{root}{path}"), operations, kind.namespaced, named);
    }
    if kind.namespaced && kind.has_verb("list") {
        let answer = refs.answer("list", components);
        let mut everywhere = json!({"get": operation(kind, "list", LIST, &answer, None)});
        rename(&mut everywhere, EVERYWHERE);
        insert(paths, format!("{root}/{}", kind.resource), everywhere, false, false);
    }
    for sub in &kind.subresources {
        let mut operations = subresource(kind, sub, &refs, components);
        rename(&mut operations, &format!("_{}", sub.name));
        insert(paths, format!("{root}{one}/{}", sub.name), operations, kind.namespaced, true);
        if sub.name == "proxy" {
            proxied(paths, &format!("{root}{one}/proxy"));
        }
    }
    // Only built-in kinds are described under the old way to watch.
    if kind.has_verb("watch") && !kind.custom {
        watches(kind, &refs, &[all, one], components, paths);
    }
}

/// `/watch/...`: deprecated since `watch=true` exists, but still served and described.
fn watches(
    kind: &KindDef,
    refs: &Refs,
    [all, one]: &[String; 2],
    components: &mut Components,
    paths: &mut Map<String, Value>,
) {
    let root = format!("{}/watch", root(&kind.group, &kind.version));
    let answer = refs.answer("watch", components);
    let mut add = |path: String, action: &str, in_namespace: bool, named: bool| {
        let mut operations = json!({"get": operation(kind, action, LIST, &answer, None)});
        if kind.namespaced && !in_namespace {
            rename(&mut operations, EVERYWHERE);
        }
        insert(paths, path, operations, in_namespace, named);
    };
    add(format!("{root}{all}"), "watchlist", kind.namespaced, false);
    add(format!("{root}{one}"), "watch", kind.namespaced, true);
    if kind.namespaced {
        add(format!("{root}/{}", kind.resource), "watchlist", false, false);
    }
}

/// A proxy takes any path below its own.
fn proxied(paths: &mut Map<String, Value>, path: &str) {
    let Some(mut below) = paths.get(path).cloned() else { return };
    rename(&mut below, "WithPath");
    if let Some(Value::Array(parameters)) = below.get_mut("parameters") {
        parameters.push(path_parameter("path"));
    }
    paths.insert(format!("{path}/{{path}}"), below);
}

fn root(group: &str, version: &str) -> String {
    match group.is_empty() {
        true => format!("/api/{version}"),
        false => format!("/apis/{}", api_version(group, version)),
    }
}

struct Refs {
    own: Value,
    list: Option<Value>,
}

impl Refs {
    /// What an action answers with.
    fn answer(&self, action: &str, components: &mut Components) -> Value {
        match (action, &self.list) {
            ("list", Some(list)) => list.clone(),
            ("delete" | "deletecollection", _) => components.named("meta.v1.Status"),
            ("watch" | "watchlist", _) => components.named("meta.v1.WatchEvent"),
            _ => self.own.clone(),
        }
    }
}

fn operations(kind: &KindDef, named: bool, refs: &Refs, components: &mut Components) -> Value {
    let mut out = Map::new();
    for (verb, method, action, parameters, on_one) in OPERATIONS {
        if *on_one == named && kind.has_verb(verb) {
            let body = body(verb, &refs.own, components);
            let answer = refs.answer(action, components);
            out.insert((*method).to_owned(), operation(kind, action, parameters, &answer, body));
        }
    }
    Value::Object(out)
}

fn subresource(
    parent: &KindDef,
    sub: &Subresource,
    refs: &Refs,
    components: &mut Components,
) -> Value {
    let own = match crate::codec::Target::known(&sub.group, &sub.version, &sub.kind) {
        Some(target) if sub.kind != parent.kind => components.named(&target.schema.name),
        _ => refs.own.clone(),
    };
    let mut out = Map::new();
    let write = [
        ("get", "get", &["pretty"][..]),
        ("create", "post", WRITE),
        ("update", "put", WRITE),
        ("patch", "patch", PATCH),
    ];
    for (verb, method, parameters) in write {
        if sub.verbs.iter().any(|known| known == verb) {
            let body = body(verb, &own, components);
            let mut made = operation(parent, method, parameters, &own, body);
            made["x-kubernetes-group-version-kind"] =
                json!({"group": sub.group, "version": sub.version, "kind": sub.kind});
            out.insert(method.to_owned(), made);
        }
    }
    Value::Object(out)
}

fn operation(
    kind: &KindDef,
    action: &str,
    parameters: &[&str],
    answer: &Value,
    body: Option<Value>,
) -> Value {
    let mut out = json!({
        "tags": [tag(&kind.group, &kind.version)],
        "description": format!("{action} {}", kind.kind),
        "operationId": operation_id(kind, action),
        "parameters": parameters.iter().map(|name| parameter(name)).collect::<Vec<_>>(),
        "responses": responses(answer),
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {
            "group": kind.group, "version": kind.version, "kind": kind.kind,
        },
    });
    if let Some(body) = body {
        out["requestBody"] = body;
    }
    out
}

pub fn responses(answer: &Value) -> Value {
    let content =
        json!({"application/json": {"schema": answer}, "application/yaml": {"schema": answer}});
    json!({
        "200": {"description": "OK", "content": content},
        "401": {"description": "Unauthorized"},
    })
}

fn body(verb: &str, own: &Value, components: &mut Components) -> Option<Value> {
    let content = match verb {
        "create" | "update" => json!({"*/*": {"schema": own}}),
        "delete" => json!({"*/*": {"schema": components.named("meta.v1.DeleteOptions")}}),
        "patch" => {
            let patch = json!({"schema": components.named("meta.v1.Patch")});
            json!({
                "application/apply-patch+yaml": patch,
                "application/json-patch+json": patch,
                "application/merge-patch+json": patch,
                "application/strategic-merge-patch+json": patch,
            })
        }
        _ => return None,
    };
    Some(json!({"content": content, "required": verb != "delete"}))
}

fn parameter(name: &str) -> Value {
    let of = match name {
        "limit" | "timeoutSeconds" | "gracePeriodSeconds" => "integer",
        "watch" | "allowWatchBookmarks" | "sendInitialEvents" | "force" | "orphanDependents" => {
            "boolean"
        }
        _ => "string",
    };
    json!({"name": name, "in": "query", "schema": {"type": of, "uniqueItems": true}})
}

fn tag(group: &str, version: &str) -> String {
    let group = group.split('.').next().unwrap_or_default();
    let group = if group.is_empty() { "core" } else { group };
    format!("{group}_{version}")
}

fn operation_id(kind: &KindDef, action: &str) -> String {
    let scope = if kind.namespaced { "Namespaced" } else { "" };
    format!("{action}_{}_{scope}{}", tag(&kind.group, &kind.version), kind.kind)
}

fn path_parameter(name: &str) -> Value {
    let of = json!({"type": "string", "uniqueItems": true});
    json!({"name": name, "in": "path", "required": true, "schema": of})
}

/// An operation's id is the only one of its name in a document.
fn rename(operations: &mut Value, suffix: &str) {
    for (_, operation) in operations.as_object_mut().into_iter().flatten() {
        if let Some(Value::String(id)) = operation.get_mut("operationId") {
            id.push_str(suffix);
        }
    }
}

fn insert(
    paths: &mut Map<String, Value>,
    path: String,
    operations: Value,
    in_namespace: bool,
    named: bool,
) {
    let Value::Object(mut item) = operations else { return };
    if item.is_empty() {
        return;
    }
    let names = [("name", named), ("namespace", in_namespace)];
    let parameters: Vec<Value> =
        names.iter().filter(|(_, there)| *there).map(|(name, _)| path_parameter(name)).collect();
    if !parameters.is_empty() {
        item.insert("parameters".to_owned(), parameters.into());
    }
    paths.insert(path, Value::Object(item));
}
