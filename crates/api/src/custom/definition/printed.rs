//! Parts of a definition in the form of upstream's internal types, for bad values; and paths into a schema.

use serde_json::{Map, Value, json};

use super::versions::Shared;

/// The versions without what they share.
pub fn versions(versions: &Value, shared: &Shared) -> Value {
    let moved = [
        ("schema", shared.schema),
        ("subresources", shared.subresources),
        ("additionalPrinterColumns", shared.columns),
        ("selectableFields", shared.selectable),
    ];
    let one = |version: &Value| {
        let mut version = version.clone();
        if let Some(map) = version.as_object_mut() {
            moved.iter().filter(|(_, moved)| *moved).for_each(|(name, _)| drop(map.remove(*name)));
        }
        if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") {
            *schema = internal(schema);
        }
        version
    };
    versions.as_array().into_iter().flatten().map(one).collect()
}

/// A schema whose choices of form (`items`, `additionalProperties`) are spelt out as structs.
pub fn internal(schema: &Value) -> Value {
    let Value::Object(map) = schema else { return schema.clone() };
    let each = |value: &Value| match value {
        Value::Array(list) => list.iter().map(internal).collect(),
        Value::Object(map) => {
            Value::Object(map.iter().map(|(name, node)| (name.clone(), internal(node))).collect())
        }
        other => other.clone(),
    };
    let field = |(name, value): (&String, &Value)| {
        let value = match (name.as_str(), value) {
            ("items", Value::Array(_)) => json!({"jsonSchemas": each(value)}),
            ("items", _) => json!({"schema": internal(value)}),
            ("additionalProperties" | "additionalItems", Value::Bool(allows)) => {
                json!({"allows": allows})
            }
            ("additionalProperties" | "additionalItems", _) => {
                json!({"allows": true, "schema": internal(value)})
            }
            ("allOf" | "anyOf" | "oneOf" | "properties" | "definitions", _) => each(value),
            ("not", _) => internal(value),
            _ => value.clone(),
        };
        (name.clone(), value)
    };
    Value::Object(map.iter().map(field).collect::<Map<String, Value>>())
}

/// Follows `.spec.x` or `.map['key']` through a schema: the place as errors spell it, and the schema there.
pub fn field_path<'s>(
    path: &str,
    schema: &'s Value,
    with_keys: bool,
) -> Result<(String, &'s Value), String> {
    let (mut rest, mut node, mut place) = (path, schema, String::new());
    while !rest.is_empty() {
        let (name, after) = match rest.chars().next() {
            Some('[') if !with_keys => return Err("array notation is not allowed".to_owned()),
            Some('[') => quoted_key(&rest[1..])?,
            Some('.') => name_after_dot(&rest[1..])?,
            _ => {
                let end =
                    rest.find(['.', '[', ']']).filter(|end| *end > 0).unwrap_or(rest.len().min(1));
                let end = if rest.starts_with(']') { 1 } else { end };
                return Err(format!("expected [ or . but got: {}", &rest[..end]));
            }
        };
        node = match (node.get("properties"), node.get("additionalProperties")) {
            (Some(properties), _) => {
                if !place.is_empty() {
                    place.push('.');
                }
                place.push_str(&name);
                properties.get(&name).ok_or("does not refer to a valid field")?
            }
            (None, Some(values)) => {
                place.push_str(&format!("[{name}]"));
                values
            }
            (None, None) => return Err("does not refer to a valid field".to_owned()),
        };
        rest = after;
    }
    Ok((place, node))
}

fn name_after_dot(text: &str) -> Result<(String, &str), String> {
    match text.find(['.', '[', ']']) {
        _ if text.is_empty() => Err("unexpected end of JSON path".to_owned()),
        // The next delimiter is taken for a name.
        Some(0) => Ok((text[..1].to_owned(), &text[1..])),
        Some(end) => Ok((text[..end].to_owned(), &text[end..])),
        None => Ok((text.to_owned(), "")),
    }
}

/// `'key']`, with backslash escapes.
fn quoted_key(text: &str) -> Result<(String, &str), String> {
    if text.is_empty() {
        return Err("unexpected end of JSON path".to_owned());
    }
    let unquoted = || {
        let end = text.find(['.', '[', ']']).filter(|end| *end > 0).unwrap_or(text.len());
        format!("expected single quoted string but got {}", &text[..end])
    };
    let inside = text.strip_prefix('\'').ok_or_else(unquoted)?;
    let mut name = String::new();
    let mut chars = inside.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' => {
                let after = &inside[at + 1..];
                let after = after.strip_prefix(']').ok_or_else(|| match after.chars().next() {
                    None => "unexpected end of JSON path".to_owned(),
                    Some(c) => format!("expected ] but got {c}"),
                })?;
                return Ok((name, after));
            }
            '\\' => name.push(unescaped(chars.next().map(|(_, c)| c))?),
            c => name.push(c),
        }
    }
    Err(unquoted())
}

fn unescaped(c: Option<char>) -> Result<char, String> {
    Ok(match c {
        Some('a') => '\x07',
        Some('b') => '\x08',
        Some('f') => '\x0c',
        Some('n') => '\n',
        Some('r') => '\r',
        Some('t') => '\t',
        Some('v') => '\x0b',
        Some(c @ ('\'' | '\\')) => c,
        other => {
            let shown = other.map(String::from).unwrap_or_default();
            return Err(format!("invalid string literal: invalid escape char \\{shown}"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_into_a_schema_are_followed_or_refused() {
        let schema = json!({"properties": {"a": {"properties": {"b.c": {"type": "string"}}},
            "m": {"additionalProperties": {"type": "string"}}}});
        for (path, wanted) in [
            (".a", Ok("a")),
            (".a['b.c']", Ok("a.b.c")),
            (".m['k']", Ok("m[k]")),
            (".m.k", Ok("m[k]")),
            (".x", Err("does not refer to a valid field")),
            ("a", Err("expected [ or . but got: a")),
            (".", Err("unexpected end of JSON path")),
            (".a[0]", Err("expected single quoted string but got 0")),
        ] {
            let found = field_path(path, &schema, true).map(|(place, _)| place);
            assert_eq!(found, wanted.map(str::to_owned).map_err(str::to_owned), "{path}");
        }
    }
}
