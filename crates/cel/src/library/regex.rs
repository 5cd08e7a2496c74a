//! Regular expressions: `matches`, `find`, `findAll`.
//!
//! Counterpart: cel-go's `matches` and `library/regex.go` of `k8s.io/apiserver`. The syntax is that
//! of the regex crate, which is RE2's but for rare forms.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use regex::Regex;

use super::{Args, Row, no_overload, row};
use crate::cost::Cost;
use crate::error::EvalError;
use crate::value::{Evaluated, Value};

pub(super) const TABLE: &[Row] = &[
    row("matches", "matches", "(string, string) -> bool", matches),
    row("matches", "matches_string", "string.(string) -> bool", matches).costs(Cost::Regex),
    row("find", "string_find_string", "string.(string) -> string", find).costs(Cost::Find),
    row("findAll", "string_find_all_string", "string.(string) -> list(string)", find_all)
        .costs(Cost::Find),
    row("findAll", "string_find_all_string_int", "string.(string, int) -> list(string)", find_all)
        .costs(Cost::Find),
];

/// Patterns kept per thread: rules use the same few again and again.
const KEPT: usize = 256;

thread_local! {
    static COMPILED: RefCell<HashMap<Box<str>, Arc<Regex>>> = RefCell::default();
}

/// The compiled pattern, or why it is none.
pub(crate) fn compile(pattern: &str) -> Result<Arc<Regex>, String> {
    let known = COMPILED.with_borrow(|compiled| compiled.get(pattern).cloned());
    if let Some(regex) = known {
        return Ok(regex);
    }
    let regex = Arc::new(Regex::new(pattern).map_err(|error| describe(&error, pattern))?);
    COMPILED.with_borrow_mut(|compiled| {
        if compiled.len() >= KEPT {
            compiled.clear();
        }
        compiled.insert(pattern.into(), regex.clone());
    });
    Ok(regex)
}

/// RE2's words for what the regex crate draws a picture of.
const REASONS: [(&str, &str); 7] = [
    ("unclosed character class", "missing closing ]"),
    ("unclosed group", "missing closing )"),
    ("unopened group", "unexpected )"),
    ("repetition operator missing expression", "missing argument to repetition operator"),
    ("invalid repetition count range", "invalid repeat count"),
    ("invalid character class range", "invalid character class range"),
    ("look-around", "invalid or unsupported Perl syntax"),
];

fn describe(error: &regex::Error, pattern: &str) -> String {
    let text = error.to_string();
    let reason = text.lines().last().unwrap_or_default();
    let reason = reason.strip_prefix("error: ").unwrap_or(reason);
    let known = REASONS.iter().find(|(ours, _)| reason.contains(ours));
    let reason = known.map_or(reason, |(_, theirs)| theirs);
    format!("error parsing regexp: {reason}: `{pattern}`")
}

fn matches<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::String(text), Value::String(pattern)] => {
            Ok(Value::Bool(compile(pattern).map_err(EvalError::Other)?.is_match(text)))
        }
        _ => no_overload(),
    }
}

fn legal(pattern: &str) -> Result<Arc<Regex>, EvalError> {
    compile(pattern).map_err(|why| EvalError::Other(format!("Illegal regex: {why}")))
}

fn find<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::String(text), Value::String(pattern)] => {
            let found = legal(pattern)?.find(text).map_or("", |found| found.as_str());
            Ok(Value::string(found))
        }
        _ => no_overload(),
    }
}

fn find_all<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let (text, pattern, limit) = match args {
        [Value::String(text), Value::String(pattern)] => (text, pattern, -1),
        [Value::String(text), Value::String(pattern), Value::Int(limit)] => (text, pattern, *limit),
        _ => return no_overload(),
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let regex = legal(pattern)?;
    let found = regex.find_iter(text).take(limit).map(|found| Value::string(found.as_str()));
    Ok(Value::list(found.collect()))
}
