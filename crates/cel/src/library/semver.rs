//! Semantic versions. Counterpart: `library/semverlib.go` of `k8s.io/apiserver` (version 1).

use std::any::Any;
use std::cmp::Ordering;

use super::{Args, Row, no_overload, row};
use crate::cost::Cost;
use crate::error::EvalError;
use crate::types::Type;
use crate::value::{Evaluated, Opaque, Value};

pub(super) const TABLE: &[Row] = &[
    row("semver", "string_to_semver", "(string) -> kubernetes.Semver", parse)
        .costs(Cost::Parse(1.0)),
    row("semver", "string_bool_to_semver", "(string, bool) -> kubernetes.Semver", parse)
        .costs(Cost::Parse(1.0)),
    row("isSemver", "is_semver_string", "(string) -> bool", is_semver).costs(Cost::Parse(1.0)),
    row("isSemver", "is_semver_string_bool", "(string, bool) -> bool", is_semver)
        .costs(Cost::Parse(1.0)),
    row(
        "isGreaterThan",
        "semver_is_greater_than",
        "kubernetes.Semver.(kubernetes.Semver) -> bool",
        |args| compared(args, |order| Value::Bool(order.is_gt())),
    ),
    row(
        "isLessThan",
        "semver_is_less_than",
        "kubernetes.Semver.(kubernetes.Semver) -> bool",
        |args| compared(args, |order| Value::Bool(order.is_lt())),
    ),
    row("compareTo", "semver_compare_to", "kubernetes.Semver.(kubernetes.Semver) -> int", |args| {
        compared(args, |order| Value::Int(order as i64))
    }),
    row("major", "semver_major", "kubernetes.Semver.() -> int", |args| number(args, 0)),
    row("minor", "semver_minor", "kubernetes.Semver.() -> int", |args| number(args, 1)),
    row("patch", "semver_patch", "kubernetes.Semver.() -> int", |args| number(args, 2)),
];

#[derive(Clone, Debug)]
struct Semver {
    numbers: [u64; 3],
    pre: Vec<Identifier>,
}

/// Numbers come before words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u64),
    Word(String),
}

impl Opaque for Semver {
    fn cel_type(&self) -> Type {
        Type::object("kubernetes.Semver")
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        let other = other.as_any().downcast_ref();
        other.is_some_and(|other| self.order(other).is_eq())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

// === impl Semver ===

impl Semver {
    fn read(text: &str) -> Result<Semver, String> {
        if text.is_empty() {
            return Err("Version string empty".to_owned());
        }
        let (text, build) = text.split_once('+').unwrap_or((text, ""));
        let (core, pre) = text.split_once('-').map_or((text, None), |(c, p)| (c, Some(p)));
        let parts: Vec<&str> = core.splitn(3, '.').collect();
        let [major, minor, patch] = parts[..] else {
            return Err("No Major.Minor.Patch elements found".to_owned());
        };
        let numbers =
            [number_of("major", major)?, number_of("minor", minor)?, number_of("patch", patch)?];
        let pre = pre.map_or(Ok(Vec::new()), |pre| pre.split('.').map(identifier).collect())?;
        if !build.is_empty() && !build.split('.').all(is_word) {
            return Err(format!("Invalid character(s) found in build meta data {build:?}"));
        }
        Ok(Semver { numbers, pre })
    }

    fn order(&self, other: &Semver) -> Ordering {
        let pre = match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ => self.pre.cmp(&other.pre),
        };
        self.numbers.cmp(&other.numbers).then(pre)
    }
}

fn number_of(what: &str, text: &str) -> Result<u64, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("Invalid character(s) found in {what} number {text:?}"));
    }
    if text.len() > 1 && text.starts_with('0') {
        let (first, rest) = what.split_at(1);
        let what = first.to_ascii_uppercase() + rest;
        return Err(format!("{what} number must not contain leading zeroes {text:?}"));
    }
    text.parse().map_err(|_| format!("{what} number {text:?} is out of range"))
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn identifier(text: &str) -> Result<Identifier, String> {
    if text.is_empty() {
        return Err("Prerelease is empty".to_owned());
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return number_of("prerelease", text).map(Identifier::Number);
    }
    match is_word(text) {
        true => Ok(Identifier::Word(text.to_owned())),
        false => Err(format!("Invalid character(s) found in prerelease {text:?}")),
    }
}

/// Makes a version of what nearly is one: no `v`, three numbers, no leading zeros.
fn normalized(text: &str) -> String {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts: Vec<String> = text
        .splitn(3, '.')
        .map(|part| {
            let bare = part.trim_start_matches('0');
            match bare.starts_with(|c: char| c.is_ascii_digit()) || part.len() <= 1 {
                true if part.len() > 1 => bare.to_owned(),
                true => part.to_owned(),
                false => format!("0{bare}"),
            }
        })
        .collect();
    if parts.len() < 3 {
        // What follows the last number stays at the end.
        let last = parts.pop().unwrap_or_default();
        let end = last.find(['+', '-']).unwrap_or(last.len());
        let (number, rest) = last.split_at(end);
        parts.push(number.to_owned());
        parts.resize(3, "0".to_owned());
        return parts.join(".") + rest;
    }
    parts.join(".")
}

// === functions ===

fn read(args: Args<'_, '_>) -> Option<Result<Semver, String>> {
    match args {
        [Value::String(text)] | [Value::String(text), Value::Bool(false)] => {
            Some(Semver::read(text))
        }
        [Value::String(text), Value::Bool(true)] => Some(Semver::read(&normalized(text))),
        _ => None,
    }
}

pub(crate) fn value(text: &str) -> Option<Value<'static>> {
    Semver::read(text).ok().map(Value::opaque)
}

fn parse<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match read(args) {
        Some(version) => version.map(Value::opaque).map_err(EvalError::other),
        None => no_overload(),
    }
}

fn is_semver<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    read(args).map_or_else(no_overload, |version| Ok(Value::Bool(version.is_ok())))
}

fn number<'a>(args: Args<'_, 'a>, at: usize) -> Evaluated<'a> {
    match args {
        [value] => value
            .downcast::<Semver>()
            .map_or_else(no_overload, |version| Ok(Value::Int(version.numbers[at] as i64))),
        _ => no_overload(),
    }
}

fn compared<'a>(args: Args<'_, 'a>, answer: fn(Ordering) -> Value<'a>) -> Evaluated<'a> {
    match args {
        [a, b] => match (a.downcast::<Semver>(), b.downcast::<Semver>()) {
            (Some(a), Some(b)) => Ok(answer(a.order(b))),
            _ => no_overload(),
        },
        _ => no_overload(),
    }
}
