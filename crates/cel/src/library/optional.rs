//! Values that may be absent.
//!
//! `or`, `orValue` and the optional forms of selecting and indexing are the evaluator's own, as they
//! do not look at everything they are given. Counterpart: cel-go's optional library.

use super::operators::special;
use super::{Args, Row, no_overload, row};
use crate::error::EvalError;
use crate::value::{Evaluated, List, Value};

pub(super) const TABLE: &[Row] = &[
    row("optional.of", "optional_of", "(V) -> optional(V)", |args| {
        Ok(Value::some(args[0].clone()))
    }),
    row("optional.ofNonZeroValue", "optional_ofNonZeroValue", "(V) -> optional(V)", of_non_zero),
    row("optional.none", "optional_none", "() -> optional(V)", |_| Ok(Value::Optional(None))),
    row("value", "optional_value", "optional(V).() -> V", value),
    row("hasValue", "optional_hasValue", "optional(V).() -> bool", has_value),
    row("or", "optional_or_optional", "optional(V).(optional(V)) -> optional(V)", special),
    row("orValue", "optional_orValue_value", "optional(V).(V) -> V", special),
    row("_?._", "select_optional_field", "(dyn, string) -> optional(V)", special),
    row("_[?_]", "list_optindex_optional_int", "(list(V), int) -> optional(V)", special),
    row(
        "_[?_]",
        "optional_list_optindex_optional_int",
        "(optional(list(V)), int) -> optional(V)",
        special,
    ),
    row("_[?_]", "map_optindex_optional_value", "(map(K, V), K) -> optional(V)", special),
    row(
        "_[?_]",
        "optional_map_optindex_optional_value",
        "(optional(map(K, V)), K) -> optional(V)",
        special,
    ),
    row("_[_]", "optional_list_index_int", "(optional(list(V)), int) -> optional(V)", special),
    row("_[_]", "optional_map_index_value", "(optional(map(K, V)), K) -> optional(V)", special),
    row("first", "list_first", "list(V).() -> optional(V)", |args| end_of(args, |_| Some(0))),
    row("last", "list_last", "list(V).() -> optional(V)", |args| {
        end_of(args, |len| len.checked_sub(1))
    }),
    row("optional.unwrap", "optional_unwrap", "(list(optional(V))) -> list(V)", unwrap),
    row("unwrapOpt", "optional_unwrapOpt", "list(optional(V)).() -> list(V)", unwrap),
];

fn of_non_zero<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [value] if value.is_zero() => Ok(Value::Optional(None)),
        [value] => Ok(Value::some(value.clone())),
        _ => no_overload(),
    }
}

fn value<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::Optional(Some(inner))] => Ok((**inner).clone()),
        [Value::Optional(None)] => Err(EvalError::NoneDereference),
        _ => no_overload(),
    }
}

fn has_value<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::Optional(inner)] => Ok(Value::Bool(inner.is_some())),
        _ => no_overload(),
    }
}

fn end_of<'a>(args: Args<'_, 'a>, index: fn(usize) -> Option<usize>) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    match index(list.len()).and_then(|index| list.get(index)) {
        Some(element) => Ok(Value::some(element?)),
        None => Ok(Value::Optional(None)),
    }
}

fn unwrap<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    present(list).map(Value::list)
}

fn present<'a>(list: &List<'a>) -> Result<Vec<Value<'a>>, EvalError> {
    let mut out = Vec::with_capacity(list.len());
    for element in list.iter() {
        match element? {
            Value::Optional(Some(inner)) => out.push((*inner).clone()),
            Value::Optional(None) => {}
            _ => return Err(EvalError::NoSuchOverload),
        }
    }
    Ok(out)
}
