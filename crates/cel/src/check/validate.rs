//! Mistakes that show in literals, found before anything is evaluated.
//!
//! Counterpart: cel-go's `cel/validator.go` and its check of `format`.

use std::collections::HashSet;

use super::Checked;
use crate::ast::{Call, Expr, Kind, Literal};
use crate::duration;
use crate::library::{compile_regex, formatting};
use crate::source::Issues;
use crate::value::Timestamp;

pub(super) fn validate(checked: &Checked, issues: &mut Issues) {
    let mut mixed_allowed = HashSet::new();
    checked.ast.root.walk(&mut |expr| match &expr.kind {
        Kind::Call(call) => {
            if call.function == "format" {
                expr.walk(&mut |inside| {
                    mixed_allowed.insert(inside.id);
                });
            }
            validate_call(checked, call, issues);
            validate_format(checked, expr, call, issues);
        }
        Kind::List(elements) if !mixed_allowed.contains(&expr.id) => {
            let elements = elements.iter().map(|element| (&element.value, element.optional));
            same_types(checked, elements, true, issues);
        }
        Kind::Map(entries) if !mixed_allowed.contains(&expr.id) => {
            same_types(checked, entries.iter().map(|e| (&e.key, false)), false, issues);
            let values = entries.iter().map(|entry| (&entry.value, entry.optional));
            same_types(checked, values, false, issues);
        }
        _ => {}
    });
}

/// The parts of a literal have the type of the first.
fn same_types<'e>(
    checked: &Checked,
    parts: impl Iterator<Item = (&'e Expr, bool)>,
    only_first: bool,
    issues: &mut Issues,
) {
    let mut expected = None;
    for (part, optional) in parts {
        let whole = checked.type_of(part);
        let found = whole.as_optional().filter(|_| optional).unwrap_or(whole);
        let expected = *expected.get_or_insert(found);
        if expected != found {
            let message = format!("expected type '{expected}' but found '{found}'");
            issues.report(checked.ast.offsets[part.id], message);
            if only_first {
                return;
            }
        }
    }
}

fn validate_call(checked: &Checked, call: &Call, issues: &mut Issues) {
    // The pattern is the last argument, wherever the text stands.
    let Some(Expr { id, kind: Kind::Literal(literal) }) = call.args.last() else { return };
    let text = |valid: &dyn Fn(&str) -> bool| match literal {
        Literal::String(text) => valid(text),
        _ => false,
    };
    let valid = match &call.function[..] {
        "duration" => text(&|text| duration::parse(text).is_ok()),
        "timestamp" => match literal {
            Literal::Int(seconds) => Timestamp::from_seconds(*seconds).is_some(),
            _ => text(&|text| Timestamp::parse(text).is_some()),
        },
        "matches" => text(&|text| compile_regex(text).is_ok()),
        _ => true,
    };
    if !valid {
        issues.report(checked.ast.offsets[*id], format!("invalid {} argument", call.function));
    }
}

fn validate_format(checked: &Checked, expr: &Expr, call: &Call, issues: &mut Issues) {
    let Some(Expr { kind: Kind::Literal(Literal::String(template)), .. }) = &call.target else {
        return;
    };
    if call.function != "format" {
        return;
    }
    let [Expr { kind: Kind::List(elements), .. }] = &call.args[..] else { return };
    let types: Vec<_> = elements.iter().map(|e| checked.type_of(&e.value)).collect();
    if let Err((argument, message)) = formatting::check(template, &types) {
        let at = argument.map_or(expr.id, |index| elements[index].value.id);
        issues.report(checked.ast.offsets[at], message);
    }
}
