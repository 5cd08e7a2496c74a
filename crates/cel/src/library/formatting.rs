//! `format`: text with places to fill in.
//!
//! Counterpart: cel-go's `ext/formatting.go` (for English, as Kubernetes has it).

use std::fmt::Write;

use super::convert::format_double;
use super::time::format_duration;
use crate::error::EvalError;
use crate::types::Type;
use crate::value::{List, Map, Value};

const DEFAULT_PRECISION: usize = 6;

/// What is to be filled in.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Clause {
    Text,
    Decimal,
    Fixed(usize),
    Scientific,
    Binary,
    Hex { upper: bool },
    Octal,
}

#[derive(Debug)]
enum Piece<'t> {
    Literal(&'t str),
    Clause(Clause),
}

// === templates ===

/// Takes one piece off the front of a template.
fn piece(template: &str) -> Result<(Piece<'_>, &str), EvalError> {
    let Some(rest) = template.strip_prefix('%') else {
        let end = template.find('%').unwrap_or(template.len());
        let (text, rest) = template.split_at(end);
        return Ok((Piece::Literal(text), rest));
    };
    if let Some(rest) = rest.strip_prefix('%') {
        return Ok((Piece::Literal("%"), rest));
    }
    let wrong = |what: &str| EvalError::other(format!("could not parse formatting clause: {what}"));
    if rest.is_empty() {
        return Err(EvalError::other("unexpected end of string"));
    }
    let (precision, rest) = match rest.strip_prefix('.') {
        None => (DEFAULT_PRECISION, rest),
        Some(rest) => {
            let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(|| {
                wrong("error while parsing precision: could not find end of precision specifier")
            })?;
            let number = rest[..end].parse().ok().filter(|precision| *precision <= 1000);
            (number.ok_or_else(|| wrong("error while parsing precision: error while converting precision to integer"))?, &rest[end..])
        }
    };
    let clause = match rest.as_bytes()[0] {
        b's' => Clause::Text,
        b'd' => Clause::Decimal,
        b'f' => Clause::Fixed(precision),
        b'e' => Clause::Scientific,
        b'b' => Clause::Binary,
        b'x' => Clause::Hex { upper: false },
        b'X' => Clause::Hex { upper: true },
        b'o' => Clause::Octal,
        _ => {
            let found = rest.chars().next().unwrap_or_default();
            return Err(wrong(&format!("unrecognized formatting clause \"{found}\"")));
        }
    };
    Ok((Piece::Clause(clause), &rest[1..]))
}

pub(super) fn format(template: &str, args: &List<'_>) -> Result<String, EvalError> {
    let mut out = String::new();
    let mut rest = template;
    let mut index = 0;
    while !rest.is_empty() {
        let argument = |index| {
            let missing = || EvalError::other(format!("index {index} out of range"));
            args.get(index).ok_or_else(missing)?
        };
        if rest.starts_with('%') && !rest.starts_with("%%") {
            argument(index)?;
        }
        let (piece, after) = piece(rest)?;
        rest = after;
        match piece {
            Piece::Literal(text) => out.push_str(text),
            Piece::Clause(clause) => {
                let filled = clause.fill(&argument(index)?);
                let wrong = |what| EvalError::other(format!("error during formatting: {what}"));
                out.push_str(&filled.map_err(wrong)?);
                index += 1;
            }
        }
    }
    Ok(out)
}

/// Whether a template fits arguments of these types. On failure, with the argument at fault.
pub(crate) fn check(template: &str, types: &[&Type]) -> Result<(), (Option<usize>, String)> {
    let mut rest = template;
    let mut index = 0;
    while !rest.is_empty() {
        let is_clause = rest.starts_with('%') && !rest.starts_with("%%");
        if is_clause && index >= types.len() {
            return Err((None, format!("index {index} out of range")));
        }
        let (piece, after) = piece(rest).map_err(|error| (None, error.to_string()))?;
        rest = after;
        if let Piece::Clause(clause) = piece {
            if !clause.accepts(types[index]) {
                let message = clause.refusal(types[index].name());
                return Err((Some(index), format!("error during formatting: {message}")));
            }
            index += 1;
        }
    }
    if types.len() > index {
        let message = "too many arguments supplied to string.format";
        return Err((None, format!("{message} (expected {index}, got {})", types.len())));
    }
    Ok(())
}

// === impl Clause ===

impl Clause {
    fn fill(self, value: &Value<'_>) -> Result<String, String> {
        let whole = match value {
            Value::Int(value) => Some((*value < 0, value.unsigned_abs())),
            Value::Uint(value) => Some((false, *value)),
            _ => None,
        };
        let signed = |digits: &dyn Fn(u64) -> String| {
            whole.map(|(negative, size)| {
                format!("{}{}", if negative { "-" } else { "" }, digits(size))
            })
        };
        let filled = match self {
            Clause::Text => shown(value, false),
            Clause::Decimal => signed(&|size| size.to_string()),
            Clause::Fixed(precision) => double(value).map(|number| fixed(number, precision)),
            Clause::Scientific => double(value).map(scientific),
            Clause::Binary => match value {
                Value::Bool(value) => Some(u8::from(*value).to_string()),
                _ => signed(&|size| format!("{size:b}")),
            },
            Clause::Octal => signed(&|size| format!("{size:o}")),
            Clause::Hex { upper } => match value {
                Value::String(text) => Some(hex(text.as_bytes(), upper)),
                Value::Bytes(bytes) => Some(hex(bytes, upper)),
                _ if upper => signed(&|size| format!("{size:X}")),
                _ => signed(&|size| format!("{size:x}")),
            },
        };
        filled.ok_or_else(|| self.refusal(value.cel_type().name()))
    }

    fn accepts(self, kind: &Type) -> bool {
        let unknown = kind.is_dyn_or_error();
        let whole = unknown || matches!(kind, Type::Int | Type::Uint);
        match self {
            Clause::Text => !matches!(kind, Type::Object(_) | Type::Opaque(..)),
            Clause::Decimal | Clause::Octal => whole,
            // Text may say that a number is none.
            Clause::Fixed(_) | Clause::Scientific => {
                unknown || matches!(kind, Type::Double | Type::String)
            }
            Clause::Binary => whole || *kind == Type::Bool,
            Clause::Hex { .. } => whole || matches!(kind, Type::String | Type::Bytes),
        }
    }

    fn refusal(self, kind: &str) -> String {
        let rule = match self {
            Clause::Text => {
                "string clause can only be used on strings, bools, bytes, ints, doubles, maps, \
                 lists, types, durations, and timestamps"
            }
            Clause::Decimal => "decimal clause can only be used on integers",
            Clause::Fixed(_) => "fixed-point clause can only be used on doubles",
            Clause::Scientific => "scientific clause can only be used on doubles",
            Clause::Binary => "only integers and bools can be formatted as binary",
            Clause::Hex { .. } => {
                "only integers, byte buffers, and strings can be formatted as hex"
            }
            Clause::Octal => "octal clause can only be used on integers",
        };
        format!("{rule}, was given {kind}")
    }
}

// === numbers ===

fn double(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(number) => Some(*number),
        Value::String(text) => match &**text {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn not_a_number(number: f64) -> Option<&'static str> {
    match number {
        n if n.is_nan() => Some("NaN"),
        f64::INFINITY => Some("\u{221e}"),
        f64::NEG_INFINITY => Some("-\u{221e}"),
        _ => None,
    }
}

/// Thousands apart by commas.
fn fixed(number: f64, precision: usize) -> String {
    if let Some(word) = not_a_number(number) {
        return word.to_owned();
    }
    let digits = format!("{:.precision$}", number.abs());
    let (whole, fraction) =
        digits.split_once('.').map_or((&digits[..], None), |(w, f)| (w, Some(f)));
    let mut out = String::from(if number.is_sign_negative() { "-" } else { "" });
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        let _ = write!(out, ".{fraction}");
    }
    out
}

/// A power of ten with a raised exponent. The precision asked for makes no difference.
fn scientific(number: f64) -> String {
    const RAISED: [char; 10] = [
        '\u{2070}', '\u{b9}', '\u{b2}', '\u{b3}', '\u{2074}', '\u{2075}', '\u{2076}', '\u{2077}',
        '\u{2078}', '\u{2079}',
    ];
    if let Some(word) = not_a_number(number) {
        return word.to_owned();
    }
    let text = format!("{number:.DEFAULT_PRECISION$e}");
    let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, power) = power.strip_prefix('-').map_or(("", power), |power| ("\u{207b}", power));
    let raised: String = format!("{power:0>2}")
        .bytes()
        .map(|digit| RAISED[usize::from(digit.saturating_sub(b'0')) % 10])
        .collect();
    format!("{digits}\u{d7}10{sign}{raised}")
}

fn hex(bytes: &[u8], upper: bool) -> String {
    let digits = |byte: &u8| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") };
    bytes.iter().map(digits).collect()
}

// === values as text ===

/// A value as messages show it.
pub(crate) fn to_text(value: &Value<'_>) -> String {
    shown(value, false).unwrap_or_else(|| value.cel_type().to_string())
}

/// A value as text; one inside another is written as an expression would be.
fn shown(value: &Value<'_>, inside: bool) -> Option<String> {
    Some(match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) if inside => match not_a_number(*value) {
            Some(_) => format!("\"{}\"", format_double(*value)),
            None => format!("{value:.DEFAULT_PRECISION$}"),
        },
        Value::Double(value) => format_double(*value),
        Value::String(text) if inside => quoted(text),
        Value::String(text) => text.to_string(),
        Value::Bytes(bytes) if inside => format!("b{}", quoted(std::str::from_utf8(bytes).ok()?)),
        Value::Bytes(bytes) => std::str::from_utf8(bytes).ok()?.to_owned(),
        Value::Duration(nanos) if inside => format!("duration(\"{}\")", format_duration(*nanos)),
        Value::Duration(nanos) => format_duration(*nanos),
        Value::Timestamp(at) if inside => format!("timestamp(\"{at}\")"),
        Value::Timestamp(at) => at.to_string(),
        Value::Type(kind) => kind.name().to_owned(),
        Value::List(list) => shown_list(list)?,
        Value::Map(map) => shown_map(map)?,
        Value::Object(_) | Value::Optional(_) | Value::Opaque(_) => return None,
    })
}

fn shown_list(list: &List<'_>) -> Option<String> {
    let elements: Option<Vec<_>> = list.iter().map(|e| shown(&e.ok()?, true)).collect();
    Some(format!("[{}]", elements?.join(", ")))
}

fn shown_map(map: &Map<'_>) -> Option<String> {
    let entry = |(key, value): (crate::value::Key, crate::value::Evaluated<'_>)| {
        Some((shown(&Value::from(key), true)?, shown(&value.ok()?, true)?))
    };
    let mut entries = map.iter().map(entry).collect::<Option<Vec<_>>>()?;
    entries.sort();
    let entries: Vec<_> = entries.iter().map(|(key, value)| format!("{key}:{value}")).collect();
    Some(format!("{{{}}}", entries.join(", ")))
}

/// Text between double quotes, with what does not show escaped.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
