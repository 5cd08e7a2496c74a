//! Where two JSON values differ, one line per place.

use serde_json::Value;

/// `path how: want .. got ..` for each difference.
pub fn differences(want: &Value, got: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    compare(want, got, "", &mut lines);
    lines
}

fn compare(want: &Value, got: &Value, path: &str, lines: &mut Vec<String>) {
    match (want, got) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                let below = format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
                match b.get(key) {
                    Some(other) => compare(value, other, &below, lines),
                    None => lines.push(format!("{below} missing: {}", short(value))),
                }
            }
            for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                lines.push(format!("{path}/{key} extra: {}", short(value)));
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            if a.len() != b.len() {
                lines.push(format!("{path} length: want {} items got {}", a.len(), b.len()));
            }
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                compare(a, b, &format!("{path}/{at}"), lines);
            }
        }
        (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64() => {}
        (a, b) if a != b => {
            lines.push(format!("{path} differs: want {} got {}", short(a), short(b)))
        }
        _ => {}
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(160) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// Removes what a JSON pointer names; `*` stands for every key or index.
pub fn drop_at(value: &mut Value, pointer: &str) {
    let Some(rest) = pointer.strip_prefix('/') else { return };
    let (head, below) = rest
        .split_once('/')
        .map_or((rest, None), |(head, below)| (head, Some(format!("/{below}"))));
    let head = head.replace("~1", "/").replace("~0", "~");
    match value {
        Value::Object(map) => {
            let keys: Vec<String> =
                map.keys().filter(|key| head == "*" || **key == head).cloned().collect();
            for key in keys {
                match (&below, map.get_mut(&key)) {
                    (Some(below), Some(child)) => drop_at(child, below),
                    _ => drop(map.remove(&key)),
                }
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter_mut().enumerate() {
                if head != "*" && head != at.to_string() {
                    continue;
                }
                match &below {
                    Some(below) => drop_at(item, below),
                    None => *item = "<ignored>".into(),
                }
            }
        }
        _ => {}
    }
}
