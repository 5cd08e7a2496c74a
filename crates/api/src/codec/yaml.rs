//! YAML text -> [`Node`], read as the YAML 1.1 reader upstream uses.
//!
//! The first document counts; `0644` is octal, `yes` and `on` are true, `<<` merges. Keys come out
//! sorted, as upstream turns YAML into JSON by way of a map. A repeated key is a finding with the
//! line of its value, and the last one wins. Faults of syntax are told in upstream's words, see [`yaml_faults`].

use std::collections::HashSet;

use serde_json::Value;
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle};
use serde_saphyr::options::{DuplicateKeyPolicy, Options};

use super::node::Node;
use super::yaml_faults;

/// What a YAML text holds, and `line 6: key "labels" already set in map` for each repeated key.
pub fn parse(text: &[u8]) -> Result<(Node, Vec<String>), String> {
    let text = std::str::from_utf8(text).map_err(|_| "yaml: invalid leading UTF-8 octet")?;
    let first = first_document(text);
    match read(first, DuplicateKeyPolicy::Error) {
        Ok(node) => Ok((node, Vec::new())),
        Err(_) => {
            let node = read(first, DuplicateKeyPolicy::LastWins).map_err(|e| message(&e, first))?;
            Ok((node, repeated_keys(first)))
        }
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

/// A collection that is not closed yet.
enum Open {
    List,
    Map {
        keys: HashSet<String>,
        /// What is told of the key whose value comes next.
        repeats: Option<Option<String>>,
    },
}

/// Walks the events with a stack of what is open. As upstream, a key is told with the line of its value, and after
/// what is wrong inside of that.
fn repeated_keys(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut stack: Vec<(Open, Option<String>)> = Vec::new();
    for event in Parser::new_from_str(text) {
        let Ok((event, span)) = event else { break };
        let opens = match event {
            Event::MappingStart(..) => Some(Open::Map { keys: HashSet::new(), repeats: None }),
            Event::SequenceStart(..) => Some(Open::List),
            Event::MappingEnd | Event::SequenceEnd => {
                found.extend(stack.pop().and_then(|(_, finding)| finding));
                continue;
            }
            Event::Scalar(ref text, style, ..) => {
                if let Some((Open::Map { keys, repeats: repeats @ None }, _)) = stack.last_mut() {
                    let key = shown_key(text, style == ScalarStyle::Plain);
                    let again = text != "<<" && !keys.insert(key.clone());
                    *repeats = Some(again.then_some(key));
                    continue;
                }
                None
            }
            Event::Alias(..) => None,
            _ => continue,
        };
        let finding = value_begins(stack.last_mut(), span.start.line());
        match opens {
            Some(open) => stack.push((open, finding)),
            None => found.extend(finding),
        }
    }
    found
}

/// The finding about the key whose value begins on this line.
fn value_begins(parent: Option<&mut (Open, Option<String>)>, line: usize) -> Option<String> {
    let Some((Open::Map { repeats, .. }, _)) = parent else { return None };
    let key = match repeats.take() {
        Some(key) => key?,
        // A key that is no scalar is never told.
        None => {
            *repeats = Some(None);
            return None;
        }
    };
    Some(format!("line {line}: key {key} already set in map"))
}

/// A key as Go prints it: texts quoted, what a YAML 1.1 reader takes for something else as that.
fn shown_key(text: &str, plain: bool) -> String {
    match plain.then(|| read(text, DuplicateKeyPolicy::LastWins)) {
        Some(Ok(Node::Number(number))) => number,
        Some(Ok(Node::Bool(truth))) => truth.to_string(),
        Some(Ok(Node::Null)) => "<nil>".to_owned(),
        _ => format!("{text:?}"),
    }
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
    fn a_repeated_key_was_told_with_its_own_line_and_as_text() {
        let text =
            "a: 1\nl:\n- x\nl:\n- m: 1\n  m: 2\na:\n  b: c\n1: x\n1: y\nyes: 1\nyes: 2\n\"1\": z\n";
        let (_, found) = parse(text.as_bytes()).expect("readable");
        let told = [
            r#"line 6: key "m" already set in map"#,
            r#"line 5: key "l" already set in map"#,
            r#"line 8: key "a" already set in map"#,
            "line 10: key 1 already set in map",
            "line 12: key true already set in map",
        ];
        assert_eq!(found, told);
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
