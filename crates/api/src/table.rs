//! Tables: what `kubectl get` shows.
//!
//! Objects + a kind's columns -> `meta.k8s.io/v1` Table. The cells come from the kind's strategy;
//! name and age are filled in here. Counterpart: `rest.TableConvertor`.

use serde_json::{Map, Value, json};

use crate::age;
use crate::kind::{Column, KindDef};
use crate::meta::meta;

/// How much of each object a row carries (`includeObject`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

impl IncludeObject {
    /// Reads the `includeObject` parameter.
    pub fn parse(text: &str) -> Option<IncludeObject> {
        match text {
            "" | "Metadata" => Some(IncludeObject::Metadata),
            "None" => Some(IncludeObject::None),
            "Object" => Some(IncludeObject::Object),
            _ => None,
        }
    }
}

/// A Table of objects of one kind. `head` is the list's (or the one object's) metadata that the
/// Table repeats; `now` is Unix seconds. Watch events after the first carry no columns.
pub fn table<'a>(
    kind: &KindDef,
    objects: impl IntoIterator<Item = &'a Value>,
    head: Value,
    include: IncludeObject,
    with_columns: bool,
    now: i64,
) -> Value {
    let rows: Vec<Value> =
        objects.into_iter().map(|object| row(kind, object, include, now)).collect();
    let columns = match with_columns {
        true => columns(kind).map(column_value).collect(),
        false => Value::Null,
    };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": head,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

/// The metadata of a Table that shows one object.
pub fn head_of_object(object: &Value) -> Value {
    match meta(object).resource_version() {
        "" => json!({}),
        version => json!({"resourceVersion": version}),
    }
}

/// An object reduced to its metadata: `PartialObjectMetadata`.
pub fn partial(kind: &KindDef, object: &Value) -> Value {
    let metadata = object.get("metadata").cloned();
    let mut metadata = metadata.unwrap_or_else(|| Value::Object(Map::new()));
    hide(kind.strategy.metadata_hides(), &mut metadata);
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
    })
}

fn hide(hidden: &[&str], metadata: &mut Value) {
    let Some(metadata) = metadata.as_object_mut().filter(|_| !hidden.is_empty()) else { return };
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else {
        return;
    };
    annotations.retain(|key, _| !hidden.contains(&key.as_str()));
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
}

fn row(kind: &KindDef, object: &Value, include: IncludeObject, now: i64) -> Value {
    let mut cells: Vec<Value> =
        columns(kind).map(|column| cell(kind, object, column, now)).collect();
    if kind.strategy.ends_with_age() {
        cells.push(age::since(meta(object).creation_timestamp(), now).into());
    }
    let object = match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => partial(kind, object),
        IncludeObject::Object => object.clone(),
    };
    json!({"cells": cells, "object": object})
}

fn cell(kind: &KindDef, object: &Value, column: &Column, now: i64) -> Value {
    match column.name.as_str() {
        "Name" if column.format == "name" => meta(object).name().into(),
        "Age" if !kind.custom => age::since(meta(object).creation_timestamp(), now).into(),
        "Created At" => meta(object).creation_timestamp().into(),
        name => kind.strategy.cell(object, name, now),
    }
}

/// The kind's columns, or name and creation time for a kind without any.
fn columns(kind: &KindDef) -> impl Iterator<Item = &Column> {
    static PLAIN: std::sync::LazyLock<[Column; 2]> = std::sync::LazyLock::new(|| {
        let column = |name: &str, of: &str, format: &str| Column {
            name: name.to_owned(),
            of: of.to_owned(),
            format: format.to_owned(),
            priority: 0,
            description: String::new(),
        };
        [column("Name", "string", "name"), column("Created At", "date", "")]
    });
    match kind.columns.is_empty() {
        true => PLAIN.iter(),
        false => kind.columns.iter(),
    }
}

fn column_value(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": column.of,
        "format": column.format,
        "description": words(column),
        "priority": column.priority,
    })
}

/// What every object has, in the words of its metadata.
const NAME: &str = "Name must be unique within a namespace. Is required when creating resources, although some \
    resources may allow a client to request the generation of an appropriate name automatically. \
    Name is primarily intended for creation idempotence and configuration definition. Cannot be \
    updated. More info: https://kubernetes.io/docs/concepts/overview/\
    working-with-objects/names#names";
const BORN: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It \
    is not guaranteed to be set in happens-before order across separate operations. Clients may not \
    set this value. It is represented in RFC3339 form and is in UTC.\n\
    \n\
    Populated by the system. Read-only. Null for lists. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// What a column shows, in words.
fn words(column: &Column) -> &str {
    match (column.description.as_str(), column.name.as_str()) {
        ("", "Name") if column.format == "name" => NAME,
        ("", "Age" | "Created At") => BORN,
        (words, _) => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn metadata_does_not_show_annotations_that_are_none_upstream() {
        let kinds = kinds::builtin();
        let kind = kinds.get("apps", "v1", "daemonsets").expect("served");
        let generation = "deprecated.daemonset.template.generation";
        let object = json!({"metadata": {"name": "d", "annotations": {generation: "1"}}});
        assert_eq!(partial(kind, &object)["metadata"], json!({"name": "d"}));
        let object = json!({"metadata": {"annotations": {generation: "1", "mine": "yes"}}});
        assert_eq!(partial(kind, &object)["metadata"]["annotations"], json!({"mine": "yes"}));
    }

    #[test]
    fn columns_say_what_they_show() {
        let kinds = kinds::builtin();
        let kind = kinds.get("apps", "v1", "deployments").expect("served");
        let shown = table(kind, [], json!({}), IncludeObject::None, true, 0);
        let words =
            |at: usize| shown["columnDefinitions"][at]["description"].as_str().expect("text");
        assert!(words(0).starts_with("Name must be unique"));
        assert_eq!(words(1), "Number of the pod with ready state");
        assert!(words(4).starts_with("CreationTimestamp is"));
    }

    #[test]
    fn addresses_show_their_age_under_no_column() {
        let kinds = kinds::builtin();
        let kind = kinds.get("networking.k8s.io", "v1", "ipaddresses").expect("served");
        let object = json!({"metadata": {"name": "10.0.0.1"}});
        let shown = table(kind, [&object], json!({}), IncludeObject::None, true, 0);
        let cells = shown["rows"][0]["cells"].as_array().map(Vec::len);
        assert_eq!(
            (cells, shown["columnDefinitions"].as_array().map(Vec::len)),
            (Some(3), Some(2))
        );
    }

    #[test]
    fn rows_carry_what_was_asked_for() {
        let kinds = kinds::builtin();
        let kind = kinds.get("", "v1", "configmaps").expect("served");
        let object = json!({"metadata": {"name": "c", "creationTimestamp": "2001-01-01T00:00:00Z"}, "data": {}});
        let of =
            |include| table(kind, [&object], head_of_object(&object), include, true, 978_307_230);
        let shown = of(IncludeObject::Metadata);
        assert_eq!(shown["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(shown["rows"][0]["cells"][0], "c");
        assert_eq!(shown["rows"][0]["cells"][2], "30s");
        assert_eq!(shown["columnDefinitions"][0]["format"], "name");
        assert_eq!(of(IncludeObject::None)["rows"][0]["object"], Value::Null);
        assert_eq!(of(IncludeObject::Object)["rows"][0]["object"], object);
    }
}
