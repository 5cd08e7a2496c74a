//! Objects -> protobuf messages.
//!
//! Gogo writes every scalar and struct that is no pointer even when it is empty, and the fields of a
//! message in the order of their numbers; so does this.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::wire::Writer;
use crate::quantity::Quantity;
use crate::schema::{AnyForm, Field, ProtoInline, Schema, StructSchema, struct_named};
use crate::time;

/// Writes the fields of a struct.
pub fn structure(out: &mut Writer, value: &Value, schema: &StructSchema) {
    let inline: &[ProtoInline] = schema.proto.as_ref().map_or(&[], |proto| &proto.inline);
    let own = schema.fields.iter().filter_map(|field| Some((field.proto?, field)));
    members(out, value, schema, own.collect(), inline);
}

fn members<'s>(
    out: &mut Writer,
    value: &Value,
    schema: &'s StructSchema,
    mut fields: Vec<(u32, &'s Field)>,
    inline: &'s [ProtoInline],
) {
    fields.sort_by_key(|(number, _)| *number);
    let mut groups: Vec<&ProtoInline> = inline.iter().collect();
    groups.sort_by_key(|group| group.number);
    let mut groups = groups.into_iter().peekable();
    for (number, field) in fields {
        while let Some(group) = groups.next_if(|group| group.number < number) {
            embedded(out, value, schema, group);
        }
        match is_message_of_its_own(schema, field) {
            true => out.message(number, |out| self::field(out, 1, value.get(&field.name), field)),
            false => self::field(out, number, value.get(&field.name), field),
        }
    }
    groups.for_each(|group| embedded(out, value, schema, group));
}

/// The one list with a type of its own: the verbs of a resource in discovery.
fn is_message_of_its_own(schema: &StructSchema, field: &Field) -> bool {
    field.name == "verbs" && schema.name == "meta.v1.APIResource"
}

/// Members that are flat in JSON and nested here.
fn embedded(out: &mut Writer, value: &Value, schema: &StructSchema, group: &ProtoInline) {
    let named = |(name, number): &(String, u32)| Some((*number, schema.field(name)?));
    let fields = group.members.iter().filter_map(named).collect();
    out.message(group.number, |out| members(out, value, schema, fields, &group.inline));
}

fn field(out: &mut Writer, number: u32, value: Option<&Value>, field: &Field) {
    match value.filter(|value| !value.is_null()) {
        Some(value) => self::value(out, number, value, &field.schema),
        None if field.pointer => {}
        None => zero(out, number, &field.schema),
    }
}

fn zero(out: &mut Writer, number: u32, schema: &Schema) {
    match schema {
        Schema::String => out.bytes(number, b""),
        Schema::Bool | Schema::Int32 | Schema::Int64 => out.varint(number, 0),
        Schema::Double => out.fixed64(number, 0),
        Schema::Time | Schema::MicroTime | Schema::Any(AnyForm::Raw) => out.bytes(number, b""),
        Schema::Quantity => value(out, number, &"0".into(), schema),
        Schema::IntOrString => value(out, number, &0.into(), schema),
        Schema::Struct(of) => out.message(number, |out| structure(out, &Value::Null, of)),
        _ => {}
    }
}

fn value(out: &mut Writer, number: u32, value: &Value, schema: &Schema) {
    let text = || value.as_str().unwrap_or_default();
    match schema {
        Schema::String => out.bytes(number, text().as_bytes()),
        Schema::Bool => out.varint(number, u64::from(value == &Value::Bool(true))),
        Schema::Int32 | Schema::Int64 => {
            out.varint(number, value.as_i64().unwrap_or_default() as u64);
        }
        Schema::Double => out.fixed64(number, value.as_f64().unwrap_or_default().to_bits()),
        Schema::Bytes => out.bytes(number, &STANDARD.decode(text()).unwrap_or_default()),
        Schema::Time | Schema::MicroTime => timestamp(out, number, text()),
        Schema::Quantity => {
            let canonical =
                text().parse::<Quantity>().map_or_else(|_| text().to_owned(), |it| it.to_string());
            out.message(number, |out| out.bytes(1, canonical.as_bytes()));
        }
        Schema::IntOrString => out.message(number, |out| {
            out.varint(1, u64::from(value.is_string()));
            out.varint(2, value.as_i64().unwrap_or_default() as u64);
            out.bytes(3, text().as_bytes());
        }),
        Schema::FieldsV1 => out.message(number, |out| out.bytes(1, value.to_string().as_bytes())),
        Schema::Any(form) => any(out, number, value, *form),
        Schema::List(list) => {
            for item in value.as_array().into_iter().flatten() {
                element(out, number, item, &list.items);
            }
        }
        Schema::Map(map) => {
            for (key, item) in value.as_object().into_iter().flatten() {
                out.message(number, |out| {
                    out.bytes(1, key.as_bytes());
                    element(out, 2, item, &map.values);
                });
            }
        }
        Schema::Struct(of) => out.message(number, |out| structure(out, value, of)),
    }
}

/// An entry of a list or map, which must be written whatever it is; a list is wrapped in a message.
fn element(out: &mut Writer, number: u32, item: &Value, schema: &Schema) {
    match schema {
        Schema::List(_) => out.message(number, |out| value(out, 1, item, schema)),
        _ if item.is_null() => zero(out, number, schema),
        _ => value(out, number, item, schema),
    }
}

fn timestamp(out: &mut Writer, number: u32, text: &str) {
    let micros = time::parse_micro(text).unwrap_or_default();
    out.message(number, |out| {
        out.varint(1, micros.div_euclid(1_000_000) as u64);
        out.varint(2, (micros.rem_euclid(1_000_000) * 1000) as u64);
    });
}

fn any(out: &mut Writer, number: u32, value: &Value, form: AnyForm) {
    let schema = struct_named("apiextensions.v1.JSONSchemaProps");
    let nested = |out: &mut Writer, number: u32, value: &Value| {
        if let Some(schema) = schema {
            out.message(number, |out| structure(out, value, schema));
        }
    };
    out.message(number, |out| match (form, value) {
        (AnyForm::JsonSchemaOrBool, Value::Bool(truth)) => out.varint(1, u64::from(*truth)),
        (AnyForm::JsonSchemaOrBool, value) => {
            out.varint(1, 1);
            nested(out, 2, value);
        }
        (AnyForm::JsonSchemaOrArray, Value::Array(items)) => {
            items.iter().for_each(|item| nested(out, 2, item));
        }
        (AnyForm::JsonSchemaOrStringArray, Value::Array(items)) => {
            for text in items.iter().filter_map(Value::as_str) {
                out.bytes(2, text.as_bytes());
            }
        }
        (AnyForm::JsonSchemaOrArray | AnyForm::JsonSchemaOrStringArray, value) => {
            nested(out, 1, value);
        }
        (AnyForm::Json | AnyForm::Raw | AnyForm::Unknown, value) => {
            out.bytes(1, value.to_string().as_bytes());
        }
    });
}
