//! Objects -> YAML text, laid out as upstream lays it out.
//!
//! Keys are sorted, lists are not indented under their key, several lines become a `|` block, and
//! text that a YAML 1.1 reader would take for something else is quoted. Counterpart:
//! `sigs.k8s.io/yaml`.

use std::fmt::Write;

use bytes::Bytes;
use serde_json::Value;

/// Writes an object as one YAML document.
pub fn to_yaml(value: &Value) -> Bytes {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(&mut out, value, 0),
        Value::Array(items) if !items.is_empty() => block(&mut out, value, 0),
        scalar => {
            inline(&mut out, scalar, 0);
            out.push('\n');
        }
    }
    Bytes::from(out)
}

/// Writes a non-empty map or list; the cursor stands where its first line starts.
fn block(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) => {
            for (at, (name, value)) in map.iter().enumerate() {
                if at > 0 {
                    pad(out, indent);
                }
                out.push_str(&scalar_text(name, indent));
                out.push(':');
                entry(out, value, indent);
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    pad(out, indent);
                }
                out.push('-');
                element(out, item, indent);
            }
        }
        _ => unreachable!("blocks are maps and lists"),
    }
}

/// What follows `name:`.
fn entry(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            pad(out, indent + 2);
            block(out, value, indent + 2);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            pad(out, indent);
            block(out, value, indent);
        }
        _ => {
            out.push(' ');
            inline(out, value, indent + 2);
            out.push('\n');
        }
    }
}

/// What follows `-`.
fn element(out: &mut String, value: &Value, indent: usize) {
    out.push(' ');
    match value {
        Value::Object(map) if !map.is_empty() => block(out, value, indent + 2),
        Value::Array(items) if !items.is_empty() => block(out, value, indent + 2),
        _ => {
            inline(out, value, indent + 2);
            out.push('\n');
        }
    }
}

fn inline(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        Value::String(text) => folded(out, &scalar_text(text, indent), indent),
        Value::Number(number) if number.is_f64() => float(out, number.as_f64().unwrap_or_default()),
        other => out.push_str(&other.to_string()),
    }
}

fn float(out: &mut String, number: f64) {
    write!(out, "{number}").expect("text grows");
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn scalar_text(text: &str, indent: usize) -> String {
    let printable = !text.chars().any(|c| c.is_control() && c != '\n');
    if text.contains('\n') && printable && !text.starts_with([' ', '\n']) {
        return literal(text, indent);
    }
    if !printable || text.contains('\n') || looks_like_something_else(text) {
        return double_quoted(text);
    }
    match is_plain(text) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "''")),
    }
}

/// So many columns wide a line may get before the next space ends it.
const WIDTH: usize = 80;

/// Writes a scalar, plain or quoted, over as many lines as its length asks for.
fn folded(out: &mut String, scalar: &str, indent: usize) {
    let line = out.rfind('\n').map_or(0, |end| end + 1);
    let mut column = out[line..].chars().count();
    if column + scalar.len() <= WIDTH || scalar.contains('\n') {
        return out.push_str(scalar);
    }
    let quote = scalar.chars().next().filter(|first| matches!(first, '\'' | '"'));
    // A space next to a quotation mark stays where it is.
    let inside = |at: usize| quote.is_none() || (at > 1 && at + 2 < scalar.len());
    let mut after_space = false;
    for (at, c) in scalar.char_indices() {
        let space_follows = scalar[at + c.len_utf8()..].starts_with(' ');
        let folds = c == ' ' && !after_space && column > WIDTH && inside(at);
        if folds && (quote == Some('"') || !space_follows) {
            out.push('\n');
            pad(out, indent);
            column = indent;
            if space_follows {
                out.push('\\');
                column += 1;
            }
        } else {
            out.push(c);
            column += 1;
        }
        after_space = c == ' ';
    }
}

/// A `|` block; the mark behind it says how many line ends close it.
fn literal(text: &str, indent: usize) -> String {
    let body = text.trim_end_matches('\n');
    let mut out = match text.len() - body.len() {
        0 => "|-".to_owned(),
        1 => "|".to_owned(),
        _ => "|+".to_owned(),
    };
    let lines = if out == "|+" { &text[..text.len() - 1] } else { body };
    for line in lines.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            out.extend(std::iter::repeat_n(' ', indent));
            out.push_str(line);
        }
    }
    out
}

fn double_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() && (c as u32) < 256 => {
                write!(out, "\\x{:02x}", c as u32).expect("text grows");
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Text that reads as null, a truth value, a number or a date.
fn looks_like_something_else(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "~", "null", "Null", "NULL", "true", "True", "TRUE", "false", "False", "FALSE", "yes",
        "Yes", "YES", "no", "No", "NO", "on", "On", "ON", "off", "Off", "OFF", "y", "Y", "n", "N",
        ".inf", "-.inf", "+.inf", ".nan", ".NaN", ".NAN", ".Inf", "<<", "=",
    ];
    text.is_empty() || WORDS.contains(&text) || is_number(text) || is_date(text)
}

fn is_number(text: &str) -> bool {
    let bare = text.strip_prefix(['-', '+']).unwrap_or(text);
    let radix = |prefix: &str, digits: fn(char) -> bool| {
        bare.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.chars().all(digits))
    };
    let decimal = bare.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && bare.chars().any(|c| c.is_ascii_digit())
        && bare.replace('_', "").parse::<f64>().is_ok();
    decimal || radix("0x", |c| c.is_ascii_hexdigit()) || radix("0b", |c| c == '0' || c == '1')
}

fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    bytes.len() >= 8
        && (0..4).all(digit)
        && bytes.get(4) == Some(&b'-')
        && digit(5)
        && text[5..].contains('-')
        && text.bytes().all(|b| b.is_ascii_digit() || b"-:TtZz+. ".contains(&b))
}

fn is_plain(text: &str) -> bool {
    let first = text.chars().next().unwrap_or(' ');
    let opens = "!&*-?:,[]{}#|>@`\"'%".contains(first)
        && !(matches!(first, '-' | '?' | ':')
            && text[1..].starts_with(|c: char| !c.is_whitespace()));
    let document_mark = text.starts_with("---") || text.starts_with("...");
    let spaced = text.starts_with(' ') || text.ends_with(' ');
    let inside = text.contains(": ") || text.ends_with(':') || text.contains(" #");
    !(opens || document_mark || spaced || inside)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::codec::yaml;

    #[test]
    fn objects_are_laid_out_as_upstream_does() {
        let object = json!({
            "a": {"l": [{"x": 1, "y": []}, "s"], "e": {}},
            "multi": "one\ntwo\n",
            "number": "5",
            "tab": "tab\t",
            "time": "2026-01-01T00:00:00Z",
            "truth": "yes",
            "star": "*",
        });
        let wanted = "a:\n  e: {}\n  l:\n  - x: 1\n    \"y\": []\n  - s\nmulti: |\n  one\n  two\nnumber: \"5\"\nstar: '*'\ntab: \"tab\\t\"\ntime: \"2026-01-01T00:00:00Z\"\ntruth: \"yes\"\n";
        assert_eq!(String::from_utf8_lossy(&to_yaml(&object)), wanted);
    }

    #[test]
    fn long_text_goes_on_in_the_next_line() {
        let message = "Invalid value: \"A_\": a lowercase RFC 1123 subdomain must consist of lower case, '-' or '.'";
        let plain = "word ".repeat(20);
        let text = to_yaml(&json!({"causes": [{"message": message}], "plain": plain.trim()}));
        let wanted = [
            "causes:",
            "- message: 'Invalid value: \"A_\": a lowercase RFC 1123 subdomain must consist of lower",
            "    case, \'\'-\'\' or \'\'.\'\'\'",
            "plain: word word word word word word word word word word word word word word word",
            "  word word word word word",
            "",
        ];
        assert_eq!(String::from_utf8_lossy(&text), wanted.join("\n"));
        for long in ["x\t".to_owned() + &"a  b ".repeat(40), "y".repeat(200), "- ".repeat(90)] {
            let (node, _) = yaml::parse(&to_yaml(&json!({ "k": long }))).expect("readable");
            assert_eq!(node.into_value(), json!({ "k": long }));
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for text in [
            "",
            " x",
            "x ",
            "a: b",
            "a #b",
            "- x",
            "-x",
            "?",
            "0644",
            "1e3",
            ".5",
            "1_000",
            "0x1f",
            "~",
            "null",
            "on",
            "---",
            "line\n",
            "line\n\n",
            "a\n  b\n",
            "\n",
            "é",
            "\"q\"",
            "it's",
            "a\\b",
            "{x}",
            "[x]",
            "@x",
            "`x`",
            "%x",
            "!x",
            "&x",
            "|",
            ">",
            "2026-01-02",
            "x:",
            ":x",
            "k=v",
            "<<",
            "\u{7f}",
            "a,b",
        ] {
            let object = json!({"k": text, "l": [text]});
            let yaml = to_yaml(&object);
            let (node, _) = yaml::parse(&yaml).unwrap_or_else(|error| {
                panic!("{text:?}: {error}\n{}", String::from_utf8_lossy(&yaml))
            });
            assert_eq!(node.into_value(), object, "{text:?}");
        }
    }
}
