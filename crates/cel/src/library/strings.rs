//! Text. Counterpart: cel-go's `stdlib` and `ext/strings.go` (version 2).
//!
//! Places in text are counted in characters. Invariant: a place outside is an error, not a panic.

use super::formatting::{format, quoted};
use super::{Args, Row, no_overload, row};
use crate::cost::Cost;
use crate::error::EvalError;
use crate::value::{Evaluated, Value};

pub(super) const TABLE: &[Row] = &[
    row("contains", "contains_string", "string.(string) -> bool", |args| {
        test(args, |a, b| a.contains(b))
    })
    .costs(Cost::Contains),
    row("endsWith", "ends_with_string", "string.(string) -> bool", |args| {
        test(args, |a, b| a.ends_with(b))
    })
    .costs(Cost::Affix),
    row("startsWith", "starts_with_string", "string.(string) -> bool", |args| {
        test(args, |a, b| a.starts_with(b))
    })
    .costs(Cost::Affix),
    row("charAt", "string_char_at_int", "string.(int) -> string", char_at),
    row("indexOf", "string_index_of_string", "string.(string) -> int", index_of)
        .costs(Cost::Traverse),
    row("indexOf", "string_index_of_string_int", "string.(string, int) -> int", index_of)
        .costs(Cost::Traverse),
    row("lastIndexOf", "string_last_index_of_string", "string.(string) -> int", last_index_of)
        .costs(Cost::Traverse),
    row(
        "lastIndexOf",
        "string_last_index_of_string_int",
        "string.(string, int) -> int",
        last_index_of,
    )
    .costs(Cost::Traverse),
    row("lowerAscii", "string_lower_ascii", "string.() -> string", |args| {
        change(args, |text| text.to_ascii_lowercase())
    })
    .costs(Cost::Scan),
    row("upperAscii", "string_upper_ascii", "string.() -> string", |args| {
        change(args, |text| text.to_ascii_uppercase())
    })
    .costs(Cost::Scan),
    row("trim", "string_trim", "string.() -> string", |args| {
        change(args, |text| text.trim().to_owned())
    })
    .costs(Cost::Scan),
    row("replace", "string_replace_string_string", "string.(string, string) -> string", replace)
        .costs(Cost::Replace),
    row(
        "replace",
        "string_replace_string_string_int",
        "string.(string, string, int) -> string",
        replace,
    )
    .costs(Cost::Replace),
    row("split", "string_split_string", "string.(string) -> list(string)", split)
        .costs(Cost::Split),
    row("split", "string_split_string_int", "string.(string, int) -> list(string)", split)
        .costs(Cost::Split),
    row("substring", "string_substring_int", "string.(int) -> string", substring).costs(Cost::Scan),
    row("substring", "string_substring_int_int", "string.(int, int) -> string", substring)
        .costs(Cost::Scan),
    row("format", "string_format", "string.(list(dyn)) -> string", format_list)
        .costs(Cost::Parse(1.0)),
    row("strings.quote", "strings_quote", "(string) -> string", |args| change(args, quoted))
        .costs(Cost::Quote),
    row("join", "list_join", "list(string).() -> string", join).costs(Cost::Join),
    row("join", "list_join_string", "list(string).(string) -> string", join).costs(Cost::Join),
];

fn test<'a>(args: Args<'_, 'a>, holds: fn(&str, &str) -> bool) -> Evaluated<'a> {
    match args {
        [Value::String(text), Value::String(part)] => Ok(Value::Bool(holds(text, part))),
        _ => no_overload(),
    }
}

fn change<'a>(args: Args<'_, 'a>, change: fn(&str) -> String) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ok(Value::string(change(text))),
        _ => no_overload(),
    }
}

fn format_list<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::String(template), Value::List(values)] => {
            Ok(Value::string(format(template, values)?))
        }
        _ => no_overload(),
    }
}

fn out_of_range(index: i64) -> EvalError {
    EvalError::other(format!("index out of range: {index}"))
}

/// The byte at which the character of this number begins, the end included.
fn byte_of(text: &str, index: i64) -> Result<usize, EvalError> {
    let number = usize::try_from(index).map_err(|_| out_of_range(index))?;
    let mut bytes = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    bytes.nth(number).ok_or_else(|| out_of_range(index))
}

fn chars_before(text: &str, byte: usize) -> i64 {
    text[..byte].chars().count() as i64
}

fn char_at<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let [Value::String(text), Value::Int(index)] = args else { return no_overload() };
    let rest = &text[byte_of(text, *index)?..];
    Ok(Value::string(rest.chars().next().map_or_else(String::new, String::from)))
}

fn index_of<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let (text, part, offset) = match args {
        [Value::String(text), Value::String(part)] => (text, part, 0),
        [Value::String(text), Value::String(part), Value::Int(offset)] => (text, part, *offset),
        _ => return no_overload(),
    };
    if part.is_empty() {
        return Ok(Value::Int(offset));
    }
    if offset < 0 {
        return Err(out_of_range(offset));
    }
    let Ok(start) = byte_of(text, offset) else { return Ok(Value::Int(-1)) };
    let found = text[start..].find(&**part).map(|at| chars_before(text, start + at));
    Ok(Value::Int(found.unwrap_or(-1)))
}

fn last_index_of<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let (text, part, offset) = match args {
        [Value::String(text), Value::String(part)] => (text, part, None),
        [Value::String(text), Value::String(part), Value::Int(offset)] => {
            (text, part, Some(*offset))
        }
        _ => return no_overload(),
    };
    let length = text.chars().count() as i64;
    if part.is_empty() {
        return Ok(Value::Int(offset.unwrap_or(length)));
    }
    let end = match offset {
        Some(offset) if offset < 0 => return Err(out_of_range(offset)),
        Some(offset) if offset >= length => return Ok(Value::Int(-1)),
        // What begins at the offset may end behind it.
        Some(offset) => byte_of(text, (offset + part.chars().count() as i64).min(length))?,
        None => text.len(),
    };
    let found = text[..end].rfind(&**part).map(|at| chars_before(text, at));
    Ok(Value::Int(found.unwrap_or(-1)))
}

fn replace<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let (text, from, to, limit) = match args {
        [Value::String(text), Value::String(from), Value::String(to)] => (text, from, to, -1),
        [Value::String(text), Value::String(from), Value::String(to), Value::Int(limit)] => {
            (text, from, to, *limit)
        }
        _ => return no_overload(),
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(Value::string(text.replacen(&**from, to, limit)))
}

fn split<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let (text, separator, limit) = match args {
        [Value::String(text), Value::String(separator)] => (text, separator, -1),
        [Value::String(text), Value::String(separator), Value::Int(limit)] => {
            (text, separator, *limit)
        }
        _ => return no_overload(),
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let parts: Vec<Value<'a>> = match &**separator {
        "" => split_chars(text, limit),
        separator => text.splitn(limit, separator).map(Value::string).collect(),
    };
    Ok(Value::list(parts))
}

/// Every character on its own; the last part is whatever is left.
fn split_chars<'a>(text: &str, limit: usize) -> Vec<Value<'a>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next().filter(|_| parts.len() < limit) {
        let end = if parts.len() + 1 == limit { rest.len() } else { first.len_utf8() };
        parts.push(Value::string(&rest[..end]));
        rest = &rest[end..];
    }
    parts
}

fn substring<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let (text, start, end) = match args {
        [Value::String(text), Value::Int(start)] => (text, *start, None),
        [Value::String(text), Value::Int(start), Value::Int(end)] => (text, *start, Some(*end)),
        _ => return no_overload(),
    };
    if let Some(end) = end.filter(|end| start > *end) {
        let message = format!("invalid substring range. start: {start}, end: {end}");
        return Err(EvalError::other(message));
    }
    let from = byte_of(text, start)?;
    let to = end.map_or(Ok(text.len()), |end| byte_of(text, end))?;
    Ok(Value::string(&text[from..to]))
}

fn join<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let (list, separator) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(separator)] => (list, &**separator),
        _ => return no_overload(),
    };
    let mut out = String::new();
    for (index, element) in list.iter().enumerate() {
        if index > 0 {
            out.push_str(separator);
        }
        match element? {
            Value::String(text) => out.push_str(&text),
            _ => return no_overload(),
        }
    }
    Ok(Value::string(out))
}
