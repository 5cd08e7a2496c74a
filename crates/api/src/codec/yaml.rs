//! YAML text -> [`Node`], read as the YAML 1.1 reader upstream uses.
//!
//! The first document counts; `0644` is octal, `yes` and `on` are true, `<<` merges. Keys come out
//! sorted, as upstream turns YAML into JSON by way of a map. A repeated key is a finding with its
//! line, and the last one wins. Faults of syntax are told in upstream's words, see [`yaml_faults`].

use std::collections::HashSet;

use serde_json::Value;
use serde_saphyr::granit_parser::{Event, Parser};
use serde_saphyr::options::{DuplicateKeyPolicy, Options};

use super::node::Node;
use super::yaml_faults;

/// What a YAML text holds, and `line 6: key "labels" already set in map` for each repeated key.
pub fn parse(text: &[u8]) -> Result<(Node, Vec<String>), String> {
    let text = std::str::from_utf8(text).map_err(|_| "yaml: invalid leading UTF-8 octet")?;
    let first = first_document(text);
    match read(first, DuplicateKeyPolicy::Error) {
        Ok(node) => Ok((node, Vec::new())),
        Err(error) => match repeated_keys(first) {
            found if found.is_empty() => Err(message(&error, first)),
            found => {
                let node =
                    read(first, DuplicateKeyPolicy::LastWins).map_err(|e| message(&e, first))?;
                Ok((node, found))
            }
        },
    }
}

fn read(text: &str, duplicates: DuplicateKeyPolicy) -> Result<Node, serde_saphyr::Error> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Node::Null);
    }
    let mut options = Options::default();
    options.duplicate_keys = duplicates;
    options.legacy_octal_numbers = true;
    let value: Value = serde_saphyr::from_str_with_options(text, options)?;
    Ok(Node::from(whole_numbers(value)))
}

/// `1e3` is read as a float; a float without a fraction is an integer to JSON readers.
pub fn whole_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9e15 => {
                (float as i64).into()
            }
            _ => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(whole_numbers).collect(),
        Value::Object(map) => {
            map.into_iter().map(|(name, value)| (name, whole_numbers(value))).collect()
        }
        other => other,
    }
}

/// The text up to the second `---`, which starts another document.
fn first_document(text: &str) -> &str {
    let mut seen_content = false;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let body = line.trim_end();
        let marker = body == "---" || body.starts_with("--- ") || body == "...";
        if marker && seen_content {
            return &text[..at];
        }
        seen_content |= !body.is_empty() && !body.starts_with('#') && body != "---";
        at += line.len();
    }
    text
}

/// Walks the events with a stack of the mappings that are open.
fn repeated_keys(text: &str) -> Vec<String> {
    struct Open {
        keys: Option<HashSet<String>>,
        key_is_next: bool,
    }
    let mut found = Vec::new();
    let mut stack: Vec<Open> = Vec::new();
    for event in Parser::new_from_str(text) {
        let Ok((event, span)) = event else { break };
        let in_key = stack.last().is_some_and(|open| open.keys.is_some() && open.key_is_next);
        match event {
            Event::Scalar(key, ..) if in_key => {
                let open = stack.last_mut().expect("a key is inside of a mapping");
                let keys = open.keys.as_mut().expect("a mapping has keys");
                if key != "<<" && !keys.insert(key.to_string()) {
                    let line = span.start.line();
                    found.push(format!("line {line}: key \"{key}\" already set in map"));
                }
                open.key_is_next = false;
                continue;
            }
            Event::MappingStart(..) => {
                stack.push(Open { keys: Some(HashSet::new()), key_is_next: true });
                continue;
            }
            Event::SequenceStart(..) => {
                stack.push(Open { keys: None, key_is_next: false });
                continue;
            }
            Event::MappingEnd | Event::SequenceEnd => drop(stack.pop()),
            Event::Scalar(..) | Event::Alias(..) => {}
            _ => continue,
        }
        // A value, or a key that is no scalar, is complete.
        if let Some(open) = stack.last_mut() {
            open.key_is_next = !open.key_is_next;
        }
    }
    found
}

fn message(error: &serde_saphyr::Error, text: &str) -> String {
    let shown = error.to_string();
    let first = shown.lines().next().unwrap_or_default();
    let (line, column) = error.location().map_or((0, 0), |at| {
        (usize::try_from(at.line()).unwrap_or(0), usize::try_from(at.column()).unwrap_or(0))
    });
    yaml_faults::told(first, line, column, text).unwrap_or_else(|| match line {
        0 => format!("yaml: {first}"),
        line => format!("yaml: line {line}: {first}"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::mutation;

    fn value(text: &str) -> Value {
        parse(text.as_bytes()).expect(text).0.into_value()
    }

    #[test]
    fn scalars_are_those_of_yaml_1_1() {
        let read = value("a: 0644\nb: yes\nc: on\nd: '5'\ne: 1e3\nf: ~\ng: 1.5\n");
        let wanted =
            json!({"a": 420, "b": true, "c": true, "d": "5", "e": 1000, "f": null, "g": 1.5});
        assert_eq!(read, wanted);
    }

    #[test]
    fn the_first_document_counts() {
        assert_eq!(value("---\na: 1\n---\na: 2\n"), json!({"a": 1}));
        assert_eq!(value("# nothing\n"), Value::Null);
        assert_eq!(value(r#"{"a":"b"}"#), json!({"a": "b"}));
        assert_eq!(value("a: &x v\nb: *x\n"), json!({"a": "v", "b": "v"}));
    }

    #[test]
    fn repeated_keys_are_named_with_their_line() {
        let text = "m:\n  l: {a: b}\n  l: {c: d}\nd:\n  k: v\n  k: w\n";
        let (node, found) = parse(text.as_bytes()).expect("readable");
        assert_eq!(
            found,
            [r#"line 3: key "l" already set in map"#, r#"line 6: key "k" already set in map"#]
        );
        assert_eq!(node.into_value(), json!({"m": {"l": {"c": "d"}}, "d": {"k": "w"}}));
    }

    #[test]
    fn faults_of_syntax_read_as_gos_reader_prints_them() {
        for (text, told) in [
            ("a: [", "yaml: line 1: did not find expected node content"),
            ("a:\n  b: [1", "yaml: line 2: did not find expected ',' or ']'"),
            ("a: {b: 1 c: 2}", "yaml: did not find expected ',' or '}'"),
            ("a:\n\tb: 1", "yaml: line 2: found character that cannot start any token"),
            ("a: b: c", "yaml: mapping values are not allowed in this context"),
            ("a: b\n  c: d", "yaml: line 2: mapping values are not allowed in this context"),
            ("a:\n  b: 1\n c: 2", "yaml: line 2: did not find expected key"),
            ("a: 1\nb", "yaml: line 3: could not find expected ':'"),
            ("a: 1\nb: \"x", "yaml: line 2: found unexpected end of stream"),
            ("a: @x", "yaml: found character that cannot start any token"),
            ("a: 1\nb: *x", "yaml: unknown anchor 'x' referenced"),
            ("a: - b", "yaml: block sequence entries are not allowed in this context"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), told, "{text}");
        }
    }

    #[test]
    fn damaged_texts_never_panic() {
        let seed = b"a: &x [1, two]\nb: {c: *x, d: |-\n   text\n}\n- ?\n";
        mutation::each(seed, 2_000, |bytes| drop(parse(bytes)));
    }
}
