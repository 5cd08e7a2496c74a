//! How upstream prints a bad value that is no plain text or number: as JSON of its internal Go struct.
//!
//! Kind and path of a fault -> the internal type there -> its fields in Go's order, zero values and
//! all (`{"Name":"c","Image":"","Command":null,..}`). The types stand in
//! `facts/internal-types-1.36.txt`, one a line: `pkg.Type Field:type ..`, where a field is
//! `Shown=source?~:type`. `Shown` is its name in Go, or in JSON if it is tagged (`~`); `source` is
//! its name in our objects if that is not `Shown` with a small start, `^source` one of the struct
//! around; `?` leaves it out when empty; `@pkg.Type=source` embeds another type. A type is any of
//! `*`, `[]` and `{}` before a struct or one letter: text, int, bool, quantity, int-or-string, time,
//! duration, bytes, or what is null when absent.
//! Counterpart: `json.Marshal` in `field.Error`. Read only when a fault is reported.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::GroupKind;

static TYPES: LazyLock<HashMap<&str, Vec<Field>>> = LazyLock::new(|| {
    let lines = include_str!("../facts/internal-types-1.36.txt").lines();
    let typed = |line: &'static str| line.split_once(' ').unwrap_or((line, ""));
    lines.map(typed).map(|(name, fields)| (name, read(fields))).collect()
});

/// One field of an internal struct.
struct Field {
    shown: &'static str,
    source: String,
    /// The source is a field of the struct that this one stands in.
    of_parent: bool,
    /// Left out of the print when empty.
    omit_empty: bool,
    /// Another struct's fields stand here.
    embedded: bool,
    of: &'static str,
}

/// Lets every fault of an object of this kind show its value as upstream prints it.
pub fn print_values(kind: &GroupKind, errors: &mut ErrorList) {
    for error in &mut errors.0 {
        let Some(value) = error.bad_value.as_ref().filter(|_| error.printed.is_none()) else {
            continue;
        };
        match (value, type_at(kind, &error.field)) {
            // A fault of one of the members may be reported at the list.
            (Value::Object(_), Some(of)) => {
                error.printed = Some(printed(of.trim_start_matches("[]"), value));
            }
            (Value::Array(_), Some(of)) => error.printed = Some(printed(of, value)),
            // A field that cannot be absent is shown as empty.
            (Value::Null, Some("s")) => error.printed = Some(printed("s", value)),
            _ => {}
        }
    }
}

/// A value as JSON of an internal type: `core.PodSpec`, or `[]core.Container`.
pub fn printed(of: &str, value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, of, value, &Value::Null);
    out
}

// === finding the type ===

/// The type at a field's path, `spec.template.spec.containers[0]`, if the path names fields only.
fn type_at(kind: &GroupKind, path: &str) -> Option<&'static str> {
    let package = match kind.group.split('.').next() {
        Some("" | "events") | None => "core",
        Some(first) => first,
    };
    let (root, _) = TYPES.get_key_value(format!("{package}.{}", kind.kind).as_str())?;
    steps(path).into_iter().try_fold(*root, |of, step| match step {
        Step::Element => element(of),
        Step::Field(name) => field_type(of.trim_start_matches('*'), name),
    })
}

enum Step<'a> {
    Field(&'a str),
    Element,
}

/// Keys in brackets may hold dots, and what is in brackets is not looked at.
fn steps(path: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        rest = match rest.strip_prefix('[') {
            Some(inside) => {
                steps.push(Step::Element);
                inside.split_once(']').map_or("", |(_, after)| after)
            }
            None => {
                let plain = rest.strip_prefix('.').unwrap_or(rest);
                let (name, after) = plain.split_at(plain.find(['.', '[']).unwrap_or(plain.len()));
                steps.push(Step::Field(name));
                after
            }
        };
    }
    steps
}

fn element(of: &'static str) -> Option<&'static str> {
    let of = of.trim_start_matches('*');
    of.strip_prefix("[]").or_else(|| of.strip_prefix("{}"))
}

fn field_type(of: &str, name: &str) -> Option<&'static str> {
    TYPES.get(of)?.iter().find_map(|field| match field.embedded {
        true if field.source.is_empty() => field_type(field.of, name),
        _ => (field.source == name).then_some(field.of),
    })
}

// === printing ===

fn write(out: &mut String, of: &str, value: &Value, parent: &Value) {
    if let Value::String(_) | Value::Number(_) | Value::Bool(_) = value {
        out.push_str(&value.to_string());
    } else if let Some(of) = of.strip_prefix('*') {
        match value {
            Value::Null => out.push_str("null"),
            value => write(out, of, value, parent),
        }
    } else if let Some(of) = of.strip_prefix("[]") {
        let items = value.as_array().map(|items| items.iter().map(|item| (None, item)));
        write_all(out, ('[', ']'), items, of);
    } else if let Some(of) = of.strip_prefix("{}") {
        let entries = value.as_object();
        let entries =
            entries.map(|entries| entries.iter().map(|(key, value)| (Some(key.as_str()), value)));
        write_all(out, ('{', '}'), entries, of);
    } else if let Some(fields) = TYPES.get(of) {
        out.push('{');
        write_fields(out, fields, value, parent);
        out.push('}');
    } else {
        match value {
            Value::Null => out.push_str(zero(of)),
            value => out.push_str(&value.to_string()),
        }
    }
}

fn write_all<'v>(
    out: &mut String,
    (open, close): (char, char),
    members: Option<impl Iterator<Item = (Option<&'v str>, &'v Value)>>,
    of: &str,
) {
    let Some(members) = members else { return out.push_str("null") };
    out.push(open);
    for (at, (key, value)) in members.enumerate() {
        if at > 0 {
            out.push(',');
        }
        if let Some(key) = key {
            out.push_str(&format!("{}:", Value::from(key)));
        }
        write(out, of, value, &Value::Null);
    }
    out.push(close);
}

fn write_fields(out: &mut String, fields: &[Field], value: &Value, parent: &Value) {
    for field in fields {
        let from = if field.of_parent { parent } else { value };
        let inside = match field.source.as_str() {
            "" => from,
            source => from.get(source).unwrap_or(&Value::Null),
        };
        if field.embedded {
            write_fields(out, TYPES.get(field.of).map_or(&[], Vec::as_slice), inside, value);
        } else if !(field.omit_empty && is_empty(inside)) {
            if !out.ends_with('{') {
                out.push(',');
            }
            out.push_str(&format!("\"{}\":", field.shown));
            write(out, field.of, inside, value);
        }
    }
}

/// What Go's `omitempty` leaves out.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::Bool(true) => false,
    }
}

fn zero(of: &str) -> &'static str {
    match of {
        "s" => "\"\"",
        "i" | "o" | "y" => "0",
        "b" => "false",
        "q" => "\"0\"",
        "d" => "\"0s\"",
        _ => "null",
    }
}

// === reading the table ===

fn read(line: &'static str) -> Vec<Field> {
    line.split_ascii_whitespace().map(read_field).collect()
}

fn read_field(text: &'static str) -> Field {
    if let Some(text) = text.strip_prefix('@') {
        let (of, source) = text.split_once('=').unwrap_or((text, ""));
        let (shown, source) = ("", source.to_owned());
        return Field { shown, source, of_parent: false, omit_empty: false, embedded: true, of };
    }
    let (name, of) = text.split_once(':').expect("a field has a type");
    let tagged = name.ends_with('~');
    let name = name.trim_end_matches('~');
    let omit_empty = name.ends_with('?');
    let name = name.trim_end_matches('?');
    let (shown, source) = match name.split_once('=') {
        Some((shown, source)) => (shown, source.to_owned()),
        None if tagged => (name, name.to_owned()),
        None => (name, uncapitalized(name)),
    };
    let of_parent = source.starts_with('^');
    let source = source.trim_start_matches('^').to_owned();
    Field { shown, source, of_parent, omit_empty, embedded: false, of }
}

/// `FSGroup` -> `fsGroup`, `HostIPC` -> `hostIPC`.
fn uncapitalized(name: &str) -> String {
    let run = name.bytes().take_while(u8::is_ascii_uppercase).count();
    let start = if run > 1 && run < name.len() { run - 1 } else { run };
    name[..start].to_lowercase() + &name[start..]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::field::Path;

    fn shown(group: &str, kind: &str, path: &str, value: Value) -> String {
        let mut errors = ErrorList::default();
        errors.invalid(&Path::new(path), value, "");
        print_values(&GroupKind::new(group, kind), &mut errors);
        errors.0[0].body()
    }

    #[test]
    fn structs_read_as_go_has_them() {
        assert_eq!(
            shown("batch", "Job", "spec.successPolicy", json!({"rules": [{"succeededCount": 1}]})),
            r#"Invalid value: {"Rules":[{"SucceededIndexes":null,"SucceededCount":1}]}"#
        );
        let owners = json!([{"name": "a", "uid": "u", "kind": "K", "apiVersion": "v1"}]);
        assert_eq!(
            shown("", "Pod", "metadata.ownerReferences", owners),
            r#"Invalid value: [{"apiVersion":"v1","kind":"K","name":"a","uid":"u"}]"#
        );
    }

    #[test]
    fn what_moved_between_structs_is_found() {
        let pod = json!({"hostNetwork": true, "securityContext": {"fsGroup": 5}});
        let print = printed("core.PodSpec", &pod);
        let context = r#""SecurityContext":{"HostNetwork":true,"HostPID":false,"HostIPC":false,"#;
        assert!(print.contains(context), "{print}");
        assert!(print.contains(r#""FSGroup":5"#), "{print}");
        assert!(
            printed("core.Volume", &json!({"name": "v"}))
                .starts_with(r#"{"Name":"v","HostPath":null"#)
        );
    }

    #[test]
    fn paths_that_name_no_field_print_as_json() {
        let value = json!({"a": 1});
        for (group, kind, path) in
            [("", "Pod", "spec.nothing"), ("example.com", "Pod", "spec"), ("", "Thing", "spec")]
        {
            assert_eq!(shown(group, kind, path, value.clone()), r#"Invalid value: {"a":1}"#);
        }
        assert!(type_at(&GroupKind::new("", "Pod"), "metadata.annotations[a.b/c]").is_some());
    }

    #[test]
    fn every_type_that_a_field_names_is_there() {
        for (name, fields) in TYPES.iter() {
            for field in fields {
                let of = field.of.trim_start_matches(['*', '[', ']', '{', '}']);
                assert!(of.len() == 1 || TYPES.contains_key(of), "{name}: {of}");
            }
        }
    }
}
