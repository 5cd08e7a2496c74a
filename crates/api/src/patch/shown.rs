//! A patched document as an error shows it: the text that Go's libraries leave behind.
//!
//! Document + what the patch touched -> JSON. Objects that were taken apart come out with sorted
//! keys, all others as they were encoded, in the order of their declaration.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::json::Operation;
use crate::schema::{Schema, StructSchema, declared};

/// The objects and lists that a patch took apart, by their steps from the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched(BTreeMap<String, Touched>);

impl Touched {
    /// A merge patch touches what it names, and everything inside of what it brings.
    pub fn by_merge(patch: &Value) -> Touched {
        match patch {
            Value::Object(map) => Touched(
                map.iter().map(|(name, value)| (name.clone(), Touched::by_merge(value))).collect(),
            ),
            Value::Array(items) => Touched(
                items
                    .iter()
                    .enumerate()
                    .map(|(at, item)| (at.to_string(), Touched::by_merge(item)))
                    .collect(),
            ),
            _ => Touched::default(),
        }
    }

    /// A JSON patch touches what holds the places it names, and what it compares or brings.
    pub fn by_operations(operations: &[Operation]) -> Touched {
        let mut root = Touched::default();
        for operation in operations {
            let brought = operation.value().map(Touched::by_merge).unwrap_or_default();
            for (path, below) in
                [(operation.path(), brought), (operation.from(), Touched::default())]
            {
                if let Some(steps) = path.and_then(super::json::steps) {
                    root.add(&steps, below);
                }
            }
        }
        root
    }

    fn add(&mut self, steps: &[String], below: Touched) {
        match steps.split_first() {
            Some((first, rest)) => self.0.entry(first.clone()).or_default().add(rest, below),
            None => self.0.extend(below.0),
        }
    }
}

/// `schema` is `None` for a custom resource, which is encoded with sorted keys throughout.
pub fn shown(document: &Value, schema: Option<&StructSchema>, touched: &Touched) -> String {
    let mut out = String::new();
    write(&mut out, document, schema.map_or(Shape::Sorted, Shape::Struct), Some(touched));
    out
}

#[derive(Clone, Copy)]
enum Shape<'a> {
    Struct(&'a StructSchema),
    /// Every entry or item has this schema.
    Each(&'a Schema),
    Sorted,
}

impl<'a> Shape<'a> {
    fn of(schema: &'a Schema) -> Shape<'a> {
        match schema {
            Schema::Struct(of) => Shape::Struct(of),
            Schema::List(list) => Shape::Each(&list.items),
            Schema::Map(map) => Shape::Each(&map.values),
            _ => Shape::Sorted,
        }
    }

    fn child(self, name: &str) -> Shape<'a> {
        match self {
            Shape::Struct(of) => {
                of.field(name).map_or(Shape::Sorted, |field| Shape::of(&field.schema))
            }
            Shape::Each(schema) => Shape::of(schema),
            Shape::Sorted => Shape::Sorted,
        }
    }
}

fn write(out: &mut String, value: &Value, shape: Shape<'_>, touched: Option<&Touched>) {
    let below = |name: &str| touched.and_then(|touched| touched.0.get(name));
    match value {
        Value::Object(map) => {
            out.push('{');
            for (at, name) in in_order(map, shape, touched.is_some()).into_iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                out.push_str(&escaped(name));
                out.push(':');
                write(out, &map[name], shape.child(name), below(name));
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                write(out, item, shape.child(""), below(&at.to_string()));
            }
            out.push(']');
        }
        Value::String(text) => out.push_str(&escaped(text)),
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn in_order<'v>(map: &'v Map<String, Value>, shape: Shape<'_>, touched: bool) -> Vec<&'v str> {
    let mut names: Vec<&str> = map.keys().map(String::as_str).collect();
    if let (Shape::Struct(of), false) = (shape, touched) {
        let order = declared(&of.name);
        names.sort_by_key(|name| order.iter().position(|field| field.name == *name));
    }
    names
}

/// Go's encoder keeps JSON safe inside of HTML.
fn escaped(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    if !quoted.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return quoted;
    }
    quoted
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::struct_named;

    #[test]
    fn what_a_patch_touched_is_sorted_and_the_rest_as_declared() {
        let document = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"b": "<", "a": "1"},
            "metadata": {"uid": "u", "name": "c", "labels": {"z": "1"}}});
        let schema = struct_named("core.v1.ConfigMap");
        let shown = |patch| shown(&document, schema, &Touched::by_merge(&patch));
        assert_eq!(
            shown(json!({"data": {"b": "<"}})),
            r#"{"apiVersion":"v1","data":{"a":"1","b":"\u003c"},"kind":"ConfigMap","metadata":{"name":"c","uid":"u","labels":{"z":"1"}}}"#
        );
        assert!(
            shown(json!({"metadata": {"labels": {"z": "1"}}}))
                .ends_with(r#""metadata":{"labels":{"z":"1"},"name":"c","uid":"u"}}"#)
        );
    }
}
