//! Protobuf messages -> objects.
//!
//! What is read here still goes through the same conformance walk as JSON, which drops the zero
//! scalars that gogo writes for fields that are no pointers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::ProtoError;
use super::wire::{Payload, Reader};
use crate::codec::json::MAX_DEPTH;
use crate::schema::{AnyForm, Field, ProtoInline, Schema, StructSchema, struct_named};
use crate::time;

/// Reads a message as a struct.
pub fn structure(bytes: &[u8], schema: &StructSchema, depth: usize) -> Result<Value, ProtoError> {
    let mut out = Map::new();
    let inline: &[ProtoInline] = schema.proto.as_ref().map_or(&[], |proto| &proto.inline);
    let own = |number: u32| schema.fields.iter().find(|field| field.proto == Some(number));
    members(bytes, schema, &own, inline, depth, &mut out)?;
    Ok(Value::Object(out))
}

fn members<'s>(
    bytes: &[u8],
    schema: &'s StructSchema,
    own: &dyn Fn(u32) -> Option<&'s Field>,
    inline: &'s [ProtoInline],
    depth: usize,
    out: &mut Map<String, Value>,
) -> Result<(), ProtoError> {
    if depth > MAX_DEPTH {
        return Err(ProtoError::Depth);
    }
    let mut reader = Reader(bytes);
    while let Some((number, payload)) = reader.field()? {
        if let Some(field) = own(number) {
            self::field(payload, field, depth, out)?;
        } else if let Some(group) = inline.iter().find(|group| group.number == number) {
            let nested = |number: u32| {
                let found = group.members.iter().find(|(_, known)| *known == number);
                found.and_then(|(name, _)| schema.field(name))
            };
            members(message(payload)?, schema, &nested, &group.inline, depth + 1, out)?;
        }
    }
    Ok(())
}

fn field(
    payload: Payload<'_>,
    field: &Field,
    depth: usize,
    out: &mut Map<String, Value>,
) -> Result<(), ProtoError> {
    match &field.schema {
        Schema::List(list) => {
            let item = element(payload, &list.items, depth)?;
            let entry = out.entry(field.name.clone()).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(items) = entry {
                items.push(item);
            }
        }
        Schema::Map(map) => {
            let (key, item) = map_entry(message(payload)?, &map.values, depth)?;
            let entry = out.entry(field.name.clone()).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(entries) = entry {
                entries.insert(key, item);
            }
        }
        schema => {
            let value = value(payload, schema, depth)?;
            out.insert(field.name.clone(), value);
        }
    }
    Ok(())
}

fn map_entry(bytes: &[u8], values: &Schema, depth: usize) -> Result<(String, Value), ProtoError> {
    let (mut key, mut item) = (String::new(), Value::Null);
    let mut reader = Reader(bytes);
    while let Some((number, payload)) = reader.field()? {
        match number {
            1 => key = text(payload)?,
            2 => item = element(payload, values, depth)?,
            _ => {}
        }
    }
    Ok((key, item))
}

/// An entry of a list or map; a list inside is wrapped in a message.
fn element(payload: Payload<'_>, schema: &Schema, depth: usize) -> Result<Value, ProtoError> {
    let Schema::List(list) = schema else { return value(payload, schema, depth + 1) };
    let mut items = Vec::new();
    let mut reader = Reader(message(payload)?);
    while let Some((number, payload)) = reader.field()? {
        if number == 1 {
            items.push(value(payload, &list.items, depth + 1)?);
        }
    }
    Ok(Value::Array(items))
}

fn value(payload: Payload<'_>, schema: &Schema, depth: usize) -> Result<Value, ProtoError> {
    Ok(match schema {
        Schema::String => text(payload)?.into(),
        Schema::Bool => (varint(payload)? != 0).into(),
        Schema::Int32 => (varint(payload)? as i32).into(),
        Schema::Int64 => (varint(payload)? as i64).into(),
        Schema::Double => match payload {
            Payload::Fixed64(bits) => f64::from_bits(bits).into(),
            _ => return Err(ProtoError::Mismatch),
        },
        Schema::Bytes => STANDARD.encode(message(payload)?).into(),
        Schema::Time => timestamp(message(payload)?)?
            .map_or(Value::Null, |micros| time::format(micros.div_euclid(1_000_000)).into()),
        Schema::MicroTime => timestamp(message(payload)?)?
            .map_or(Value::Null, |micros| time::format_micro(micros).into()),
        Schema::Quantity => inner_text(message(payload)?)?.into(),
        Schema::IntOrString => int_or_string(message(payload)?)?,
        Schema::FieldsV1 | Schema::Any(AnyForm::Json | AnyForm::Raw | AnyForm::Unknown) => {
            inner_json(message(payload)?)?
        }
        Schema::Any(form) => schema_or(message(payload)?, *form, depth)?,
        Schema::Struct(of) => structure(message(payload)?, of, depth + 1)?,
        Schema::List(_) | Schema::Map(_) => return Err(ProtoError::Mismatch),
    })
}

/// Microseconds since 1970; `None` for an empty message, which is the zero time.
fn timestamp(bytes: &[u8]) -> Result<Option<i64>, ProtoError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0_i64, 0_i64);
    let mut reader = Reader(bytes);
    while let Some((number, payload)) = reader.field()? {
        match number {
            1 => seconds = varint(payload)? as i64,
            2 => nanos = i64::from(varint(payload)? as i32),
            _ => {}
        }
    }
    Ok(Some(seconds.saturating_mul(1_000_000).saturating_add(nanos / 1000)))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtoError> {
    let (mut is_text, mut number, mut string) = (false, 0, String::new());
    let mut reader = Reader(bytes);
    while let Some((field, payload)) = reader.field()? {
        match field {
            1 => is_text = varint(payload)? == 1,
            2 => number = varint(payload)? as i32,
            3 => string = text(payload)?,
            _ => {}
        }
    }
    Ok(if is_text { string.into() } else { number.into() })
}

fn schema_or(bytes: &[u8], form: AnyForm, depth: usize) -> Result<Value, ProtoError> {
    let schema = struct_named("apiextensions.v1.JSONSchemaProps").ok_or(ProtoError::Mismatch)?;
    let (mut allows, mut one, mut many) = (true, None, Vec::new());
    let mut reader = Reader(bytes);
    while let Some((number, payload)) = reader.field()? {
        match (form, number) {
            (AnyForm::JsonSchemaOrBool, 1) => allows = varint(payload)? != 0,
            (AnyForm::JsonSchemaOrBool, 2) | (_, 1) => {
                one = Some(structure(message(payload)?, schema, depth + 1)?);
            }
            (AnyForm::JsonSchemaOrArray, 2) => {
                many.push(structure(message(payload)?, schema, depth + 1)?)
            }
            (_, 2) => many.push(text(payload)?.into()),
            _ => {}
        }
    }
    Ok(match (form, one) {
        (_, Some(one)) => one,
        (AnyForm::JsonSchemaOrBool, None) => allows.into(),
        _ => Value::Array(many),
    })
}

fn inner_json(bytes: &[u8]) -> Result<Value, ProtoError> {
    match first_bytes(bytes)? {
        [] => Ok(Value::Null),
        json => serde_json::from_slice(json).map_err(|_| ProtoError::Mismatch),
    }
}

fn inner_text(bytes: &[u8]) -> Result<String, ProtoError> {
    Ok(String::from_utf8_lossy(first_bytes(bytes)?).into_owned())
}

fn first_bytes(bytes: &[u8]) -> Result<&[u8], ProtoError> {
    let mut found: &[u8] = &[];
    let mut reader = Reader(bytes);
    while let Some((number, payload)) = reader.field()? {
        if number == 1 {
            found = message(payload)?;
        }
    }
    Ok(found)
}

pub fn text(payload: Payload<'_>) -> Result<String, ProtoError> {
    Ok(String::from_utf8_lossy(message(payload)?).into_owned())
}

pub fn message(payload: Payload<'_>) -> Result<&[u8], ProtoError> {
    match payload {
        Payload::Bytes(bytes) => Ok(bytes),
        _ => Err(ProtoError::Mismatch),
    }
}

fn varint(payload: Payload<'_>) -> Result<u64, ProtoError> {
    match payload {
        Payload::Varint(value) => Ok(value),
        _ => Err(ProtoError::Mismatch),
    }
}
