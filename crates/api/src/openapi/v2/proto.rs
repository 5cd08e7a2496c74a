//! A Swagger 2.0 document as protobuf.
//!
//! JSON members -> fields, by tables of the numbers in gnostic's `OpenAPIv2.proto`; only messages
//! that a document of ours can hold are listed. Values of any shape travel as YAML text, which JSON
//! is. Invariant: a member without a field and without `x-` is not written.

use serde_json::Value;

use crate::codec::wire::Writer;

/// A message: its named members, what any other member is, and where `x-` members go.
struct Message {
    fields: &'static [(&'static str, u32, Form)],
    others: Option<(u32, Form)>,
    extensions: Option<u32>,
}

/// What a member's value becomes.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Bool,
    Integer,
    Number,
    /// Anything, as YAML.
    Any,
    Nested(&'static Message),
    Repeated(&'static Form),
    /// Inside further messages, by the numbers of their only or chosen field.
    Within(fn(&Value) -> (&'static [u32], Form)),
}

use Form::{Any, Bool, Integer, Nested, Number, Repeated, Text, Within};

/// The document in the wire format that `kube-openapi` clients ask for.
pub fn to_proto(document: &Value) -> Vec<u8> {
    let mut out = Writer::default();
    DOCUMENT.write(document, &mut out);
    out.0
}

/// Whether Swagger 2.0 has a schema keyword of this name.
pub fn is_schema_member(name: &str) -> bool {
    SCHEMA.fields.iter().any(|(known, ..)| *known == name)
}

// === impl Message ===

impl Message {
    fn write(&self, value: &Value, out: &mut Writer) {
        for (name, value) in value.as_object().into_iter().flatten() {
            let known = self.fields.iter().find(|(known, ..)| known == name);
            match (known, self.extensions, &self.others) {
                (Some((_, number, form)), ..) => form.write(*number, value, out),
                (None, Some(number), _) if name.starts_with("x-") => {
                    named(number, name, &Any, value, out);
                }
                (None, _, Some((number, form))) => named(*number, name, form, value, out),
                (None, ..) => {}
            }
        }
    }
}

/// An entry of a map: name and value.
fn named(number: u32, name: &str, form: &Form, value: &Value, out: &mut Writer) {
    out.message(number, |entry| {
        entry.bytes(1, name.as_bytes());
        form.write(2, value, entry);
    });
}

// === impl Form ===

impl Form {
    fn write(&self, number: u32, value: &Value, out: &mut Writer) {
        match self {
            Text => value.as_str().into_iter().for_each(|text| out.bytes(number, text.as_bytes())),
            Bool => value.as_bool().into_iter().for_each(|on| out.varint(number, on.into())),
            Integer => value.as_i64().into_iter().for_each(|n| out.varint(number, n as u64)),
            Number => value.as_f64().into_iter().for_each(|n| out.fixed64(number, n.to_bits())),
            Any => out.message(number, |any| any.bytes(2, value.to_string().as_bytes())),
            Nested(message) => out.message(number, |inner| message.write(value, inner)),
            Repeated(form) => {
                value.as_array().into_iter().flatten().for_each(|one| form.write(number, one, out));
            }
            Within(choose) => {
                let (path, form) = choose(value);
                within(number, path, form, value, out);
            }
        }
    }
}

fn within(number: u32, path: &[u32], form: Form, value: &Value, out: &mut Writer) {
    match path {
        [] => form.write(number, value, out),
        [next, rest @ ..] => {
            out.message(number, |inner| within(*next, rest, form, value, inner));
        }
    }
}

// === choices ===

fn parameter(value: &Value) -> (&'static [u32], Form) {
    match value["in"].as_str() {
        Some("body") => (&[1, 1], Nested(&BODY_PARAMETER)),
        Some("path") => (&[1, 2, 4], Nested(&PATH_PARAMETER)),
        _ => (&[1, 2, 3], Nested(&QUERY_PARAMETER)),
    }
}

fn additional_properties(value: &Value) -> (&'static [u32], Form) {
    match value {
        Value::Bool(_) => (&[2], Bool),
        _ => (&[1], Nested(&SCHEMA)),
    }
}

fn text_or_texts(value: &Value) -> (&'static [u32], Form) {
    match value {
        Value::Array(_) => (&[1], Repeated(&Text)),
        _ => (&[1], Text),
    }
}

const IN_SCHEMA_ITEM: Form = Within(|_| (&[1], Nested(&SCHEMA)));
const PARAMETERS: Form = Repeated(&Within(parameter));

// === messages ===

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Text),
        ("info", 2, Nested(&INFO)),
        ("paths", 8, Nested(&PATHS)),
        ("definitions", 9, Nested(&SCHEMAS)),
        ("security", 12, Repeated(&Nested(&SECURITY))),
        ("securityDefinitions", 13, Nested(&SECURITY_DEFINITIONS)),
    ],
    others: None,
    extensions: Some(16),
};

static INFO: Message = Message {
    fields: &[("title", 1, Text), ("version", 2, Text), ("description", 3, Text)],
    others: None,
    extensions: Some(7),
};

static PATHS: Message =
    Message { fields: &[], others: Some((2, Nested(&PATH_ITEM))), extensions: Some(1) };

static PATH_ITEM: Message = Message {
    fields: &[
        ("get", 2, Nested(&OPERATION)),
        ("put", 3, Nested(&OPERATION)),
        ("post", 4, Nested(&OPERATION)),
        ("delete", 5, Nested(&OPERATION)),
        ("options", 6, Nested(&OPERATION)),
        ("head", 7, Nested(&OPERATION)),
        ("patch", 8, Nested(&OPERATION)),
        ("parameters", 9, PARAMETERS),
    ],
    others: None,
    extensions: Some(10),
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Repeated(&Text)),
        ("summary", 2, Text),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("produces", 6, Repeated(&Text)),
        ("consumes", 7, Repeated(&Text)),
        ("parameters", 8, PARAMETERS),
        ("responses", 9, Nested(&RESPONSES)),
        ("schemes", 10, Repeated(&Text)),
        ("deprecated", 11, Bool),
    ],
    others: None,
    extensions: Some(13),
};

static BODY_PARAMETER: Message = Message {
    fields: &[
        ("description", 1, Text),
        ("name", 2, Text),
        ("in", 3, Text),
        ("required", 4, Bool),
        ("schema", 5, Nested(&SCHEMA)),
    ],
    others: None,
    extensions: Some(6),
};

static QUERY_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Bool),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 6, Text),
        ("format", 7, Text),
        ("uniqueItems", 20, Bool),
    ],
    others: None,
    extensions: Some(23),
};

static PATH_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Bool),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 5, Text),
        ("format", 6, Text),
        ("uniqueItems", 19, Bool),
    ],
    others: None,
    extensions: Some(22),
};

static RESPONSES: Message = Message {
    fields: &[],
    others: Some((1, Within(|_| (&[1], Nested(&RESPONSE))))),
    extensions: Some(2),
};

static RESPONSE: Message = Message {
    fields: &[("description", 1, Text), ("schema", 2, IN_SCHEMA_ITEM)],
    others: None,
    extensions: Some(5),
};

/// Definitions, and the properties of one.
static SCHEMAS: Message =
    Message { fields: &[], others: Some((1, Nested(&SCHEMA))), extensions: None };

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Text),
        ("format", 2, Text),
        ("title", 3, Text),
        ("description", 4, Text),
        ("multipleOf", 6, Number),
        ("maximum", 7, Number),
        ("exclusiveMaximum", 8, Bool),
        ("minimum", 9, Number),
        ("exclusiveMinimum", 10, Bool),
        ("maxLength", 11, Integer),
        ("minLength", 12, Integer),
        ("pattern", 13, Text),
        ("maxItems", 14, Integer),
        ("minItems", 15, Integer),
        ("uniqueItems", 16, Bool),
        ("maxProperties", 17, Integer),
        ("minProperties", 18, Integer),
        ("required", 19, Repeated(&Text)),
        ("enum", 20, Repeated(&Any)),
        ("additionalProperties", 21, Within(additional_properties)),
        ("type", 22, Within(text_or_texts)),
        ("items", 23, IN_SCHEMA_ITEM),
        ("properties", 25, Nested(&SCHEMAS)),
        ("externalDocs", 29, Nested(&EXTERNAL_DOCS)),
        ("example", 30, Any),
    ],
    others: None,
    extensions: Some(31),
};

static EXTERNAL_DOCS: Message = Message {
    fields: &[("description", 1, Text), ("url", 2, Text)],
    others: None,
    extensions: Some(3),
};

static SECURITY: Message =
    Message { fields: &[], others: Some((1, Within(text_or_texts))), extensions: None };

static SECURITY_DEFINITIONS: Message = Message {
    fields: &[],
    others: Some((1, Within(|_| (&[2], Nested(&API_KEY))))),
    extensions: None,
};

static API_KEY: Message = Message {
    fields: &[("type", 1, Text), ("name", 2, Text), ("in", 3, Text), ("description", 4, Text)],
    others: None,
    extensions: Some(5),
};
