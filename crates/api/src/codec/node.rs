//! A parsed document before its schema is known: order, repeated keys and number texts are kept.
//!
//! JSON and YAML text -> [`Node`] -> `conform` -> `Value`. A `Value` cannot hold what the checks
//! need to report: which key came twice, in what order, and how a number was spelt.

use serde_json::{Map, Number, Value};

#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Null,
    Bool(bool),
    /// As it was spelt.
    Number(String),
    String(String),
    List(Vec<Node>),
    /// In document order; a repeated key appears again.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// What the Go decoder calls this kind of value.
    pub fn type_name(&self) -> &'static str {
        match self {
            Node::Null => "null",
            Node::Bool(_) => "bool",
            Node::Number(_) => "number",
            Node::String(_) => "string",
            Node::List(_) => "array",
            Node::Map(_) => "object",
        }
    }

    /// The text of a top-level field.
    pub fn text(&self, field: &str) -> Option<&str> {
        let Node::Map(entries) = self else { return None };
        entries.iter().rev().find_map(|(name, value)| match value {
            Node::String(text) if name == field => Some(text.as_str()),
            _ => None,
        })
    }

    /// The tree as it stands; of a repeated key the last one counts.
    pub fn into_value(self) -> Value {
        match self {
            Node::Null => Value::Null,
            Node::Bool(truth) => Value::Bool(truth),
            Node::Number(text) => number(&text),
            Node::String(text) => Value::String(text),
            Node::List(items) => items.into_iter().map(Node::into_value).collect(),
            Node::Map(entries) => Value::Object(
                entries.into_iter().map(|(name, node)| (name, node.into_value())).collect(),
            ),
        }
    }
}

impl From<Value> for Node {
    fn from(value: Value) -> Node {
        match value {
            Value::Null => Node::Null,
            Value::Bool(truth) => Node::Bool(truth),
            Value::Number(number) => Node::Number(number.to_string()),
            Value::String(text) => Node::String(text),
            Value::Array(items) => Node::List(items.into_iter().map(Node::from).collect()),
            Value::Object(map) => Node::Map(
                Map::into_iter(map).map(|(name, value)| (name, Node::from(value))).collect(),
            ),
        }
    }
}

/// An integer where the text is one that fits, else a float; what is too large to hold becomes null.
fn number(text: &str) -> Value {
    if let Ok(whole) = text.parse::<i64>() {
        return whole.into();
    }
    if let Ok(whole) = text.parse::<u64>() {
        return whole.into();
    }
    text.parse().ok().and_then(Number::from_f64).map_or(Value::Null, Value::Number)
}
