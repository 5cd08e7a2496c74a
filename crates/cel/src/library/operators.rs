//! Operators: arithmetic, comparison, `in`, indexing.
//!
//! `&&`, `||`, `?:`, `==` and indexing are evaluated by the evaluator itself; their rows are there
//! to be checked and reckoned with. Counterpart: cel-go's `stdlib`.
//! Invariant: arithmetic never wraps around.

use std::cmp::Ordering;

use super::time::{add_duration, subtract_timestamps};
use super::{Args, Row, row};
use crate::cost::Cost;
use crate::error::EvalError;
use crate::value::{Evaluated, Value, concat_lists, contains};

pub(super) const TABLE: &[Row] = &[
    row("_?_:_", "conditional", "(bool, A, A) -> A", special),
    row("_&&_", "logical_and", "(bool, bool) -> bool", special),
    row("_||_", "logical_or", "(bool, bool) -> bool", special),
    row("!_", "logical_not", "(bool) -> bool", not),
    row("@not_strictly_false", "not_strictly_false", "(bool) -> bool", special),
    row("_==_", "equals", "(A, A) -> bool", special).costs(Cost::Equality),
    row("_!=_", "not_equals", "(A, A) -> bool", special).costs(Cost::Compare),
    row("_+_", "add_bytes", "(bytes, bytes) -> bytes", add).costs(Cost::Concat),
    row("_+_", "add_double", "(double, double) -> double", add),
    row("_+_", "add_duration_duration", "(duration, duration) -> duration", add),
    row("_+_", "add_duration_timestamp", "(duration, timestamp) -> timestamp", add),
    row("_+_", "add_timestamp_duration", "(timestamp, duration) -> timestamp", add),
    row("_+_", "add_int64", "(int, int) -> int", add),
    row("_+_", "add_list", "(list(A), list(A)) -> list(A)", add).costs(Cost::ConcatLists),
    row("_+_", "add_string", "(string, string) -> string", add).costs(Cost::Concat),
    row("_+_", "add_uint64", "(uint, uint) -> uint", add),
    row("_/_", "divide_double", "(double, double) -> double", divide),
    row("_/_", "divide_int64", "(int, int) -> int", divide),
    row("_/_", "divide_uint64", "(uint, uint) -> uint", divide),
    row("_%_", "modulo_int64", "(int, int) -> int", modulo),
    row("_%_", "modulo_uint64", "(uint, uint) -> uint", modulo),
    row("_*_", "multiply_double", "(double, double) -> double", multiply),
    row("_*_", "multiply_int64", "(int, int) -> int", multiply),
    row("_*_", "multiply_uint64", "(uint, uint) -> uint", multiply),
    row("-_", "negate_double", "(double) -> double", negate),
    row("-_", "negate_int64", "(int) -> int", negate),
    row("_-_", "subtract_double", "(double, double) -> double", subtract),
    row("_-_", "subtract_duration_duration", "(duration, duration) -> duration", subtract),
    row("_-_", "subtract_int64", "(int, int) -> int", subtract),
    row("_-_", "subtract_timestamp_duration", "(timestamp, duration) -> timestamp", subtract),
    row("_-_", "subtract_timestamp_timestamp", "(timestamp, timestamp) -> duration", subtract),
    row("_-_", "subtract_uint64", "(uint, uint) -> uint", subtract),
    row("_<_", "less_bool", "(bool, bool) -> bool", less),
    row("_<_", "less_int64", "(int, int) -> bool", less),
    row("_<_", "less_int64_double", "(int, double) -> bool", less),
    row("_<_", "less_int64_uint64", "(int, uint) -> bool", less),
    row("_<_", "less_uint64", "(uint, uint) -> bool", less),
    row("_<_", "less_uint64_double", "(uint, double) -> bool", less),
    row("_<_", "less_uint64_int64", "(uint, int) -> bool", less),
    row("_<_", "less_double", "(double, double) -> bool", less),
    row("_<_", "less_double_int64", "(double, int) -> bool", less),
    row("_<_", "less_double_uint64", "(double, uint) -> bool", less),
    row("_<_", "less_string", "(string, string) -> bool", less).costs(Cost::Compare),
    row("_<_", "less_bytes", "(bytes, bytes) -> bool", less).costs(Cost::Compare),
    row("_<_", "less_timestamp", "(timestamp, timestamp) -> bool", less),
    row("_<_", "less_duration", "(duration, duration) -> bool", less),
    row("_<=_", "less_equals_bool", "(bool, bool) -> bool", less_equals),
    row("_<=_", "less_equals_int64", "(int, int) -> bool", less_equals),
    row("_<=_", "less_equals_int64_double", "(int, double) -> bool", less_equals),
    row("_<=_", "less_equals_int64_uint64", "(int, uint) -> bool", less_equals),
    row("_<=_", "less_equals_uint64", "(uint, uint) -> bool", less_equals),
    row("_<=_", "less_equals_uint64_double", "(uint, double) -> bool", less_equals),
    row("_<=_", "less_equals_uint64_int64", "(uint, int) -> bool", less_equals),
    row("_<=_", "less_equals_double", "(double, double) -> bool", less_equals),
    row("_<=_", "less_equals_double_int64", "(double, int) -> bool", less_equals),
    row("_<=_", "less_equals_double_uint64", "(double, uint) -> bool", less_equals),
    row("_<=_", "less_equals_string", "(string, string) -> bool", less_equals).costs(Cost::Compare),
    row("_<=_", "less_equals_bytes", "(bytes, bytes) -> bool", less_equals).costs(Cost::Compare),
    row("_<=_", "less_equals_timestamp", "(timestamp, timestamp) -> bool", less_equals),
    row("_<=_", "less_equals_duration", "(duration, duration) -> bool", less_equals),
    row("_>_", "greater_bool", "(bool, bool) -> bool", greater),
    row("_>_", "greater_int64", "(int, int) -> bool", greater),
    row("_>_", "greater_int64_double", "(int, double) -> bool", greater),
    row("_>_", "greater_int64_uint64", "(int, uint) -> bool", greater),
    row("_>_", "greater_uint64", "(uint, uint) -> bool", greater),
    row("_>_", "greater_uint64_double", "(uint, double) -> bool", greater),
    row("_>_", "greater_uint64_int64", "(uint, int) -> bool", greater),
    row("_>_", "greater_double", "(double, double) -> bool", greater),
    row("_>_", "greater_double_int64", "(double, int) -> bool", greater),
    row("_>_", "greater_double_uint64", "(double, uint) -> bool", greater),
    row("_>_", "greater_string", "(string, string) -> bool", greater).costs(Cost::Compare),
    row("_>_", "greater_bytes", "(bytes, bytes) -> bool", greater).costs(Cost::Compare),
    row("_>_", "greater_timestamp", "(timestamp, timestamp) -> bool", greater),
    row("_>_", "greater_duration", "(duration, duration) -> bool", greater),
    row("_>=_", "greater_equals_bool", "(bool, bool) -> bool", greater_equals),
    row("_>=_", "greater_equals_int64", "(int, int) -> bool", greater_equals),
    row("_>=_", "greater_equals_int64_double", "(int, double) -> bool", greater_equals),
    row("_>=_", "greater_equals_int64_uint64", "(int, uint) -> bool", greater_equals),
    row("_>=_", "greater_equals_uint64", "(uint, uint) -> bool", greater_equals),
    row("_>=_", "greater_equals_uint64_double", "(uint, double) -> bool", greater_equals),
    row("_>=_", "greater_equals_uint64_int64", "(uint, int) -> bool", greater_equals),
    row("_>=_", "greater_equals_double", "(double, double) -> bool", greater_equals),
    row("_>=_", "greater_equals_double_int64", "(double, int) -> bool", greater_equals),
    row("_>=_", "greater_equals_double_uint64", "(double, uint) -> bool", greater_equals),
    row("_>=_", "greater_equals_string", "(string, string) -> bool", greater_equals)
        .costs(Cost::Compare),
    row("_>=_", "greater_equals_bytes", "(bytes, bytes) -> bool", greater_equals)
        .costs(Cost::Compare),
    row("_>=_", "greater_equals_timestamp", "(timestamp, timestamp) -> bool", greater_equals),
    row("_>=_", "greater_equals_duration", "(duration, duration) -> bool", greater_equals),
    row("_[_]", "index_list", "(list(A), int) -> A", special),
    row("_[_]", "index_map", "(map(A, B), A) -> B", special),
    row("@in", "in_list", "(A, list(A)) -> bool", is_in).costs(Cost::Search),
    row("@in", "in_map", "(A, map(A, B)) -> bool", is_in),
];

/// What the evaluator does without calling.
pub(super) fn special<'a>(_: Args<'_, 'a>) -> Evaluated<'a> {
    Err(EvalError::NoSuchOverload)
}

fn not<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::Bool(value)] => Ok(Value::Bool(!value)),
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn add<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    Ok(match args {
        [Value::Int(a), Value::Int(b)] => {
            Value::Int(a.checked_add(*b).ok_or(EvalError::IntOverflow)?)
        }
        [Value::Uint(a), Value::Uint(b)] => {
            Value::Uint(a.checked_add(*b).ok_or(EvalError::UintOverflow)?)
        }
        [Value::Double(a), Value::Double(b)] => Value::Double(a + b),
        [Value::String(a), Value::String(b)] => Value::string([&**a, &**b].concat()),
        [Value::Bytes(a), Value::Bytes(b)] => Value::Bytes([&**a, &**b].concat().into()),
        [Value::List(a), Value::List(b)] => Value::List(concat_lists(a, b)?),
        [Value::Duration(a), Value::Duration(b)] => {
            Value::Duration(a.checked_add(*b).ok_or(EvalError::IntOverflow)?)
        }
        [Value::Timestamp(at), Value::Duration(by)]
        | [Value::Duration(by), Value::Timestamp(at)] => add_duration(*at, i128::from(*by))?,
        _ => return Err(EvalError::NoSuchOverload),
    })
}

fn subtract<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    Ok(match args {
        [Value::Int(a), Value::Int(b)] => {
            Value::Int(a.checked_sub(*b).ok_or(EvalError::IntOverflow)?)
        }
        [Value::Uint(a), Value::Uint(b)] => {
            Value::Uint(a.checked_sub(*b).ok_or(EvalError::UintOverflow)?)
        }
        [Value::Double(a), Value::Double(b)] => Value::Double(a - b),
        [Value::Duration(a), Value::Duration(b)] => {
            Value::Duration(a.checked_sub(*b).ok_or(EvalError::IntOverflow)?)
        }
        [Value::Timestamp(at), Value::Duration(by)] => add_duration(*at, -i128::from(*by))?,
        [Value::Timestamp(a), Value::Timestamp(b)] => subtract_timestamps(*a, *b)?,
        _ => return Err(EvalError::NoSuchOverload),
    })
}

fn multiply<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    Ok(match args {
        [Value::Int(a), Value::Int(b)] => {
            Value::Int(a.checked_mul(*b).ok_or(EvalError::IntOverflow)?)
        }
        [Value::Uint(a), Value::Uint(b)] => {
            Value::Uint(a.checked_mul(*b).ok_or(EvalError::UintOverflow)?)
        }
        [Value::Double(a), Value::Double(b)] => Value::Double(a * b),
        _ => return Err(EvalError::NoSuchOverload),
    })
}

fn divide<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    Ok(match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            return Err(EvalError::DivisionByZero);
        }
        [Value::Int(a), Value::Int(b)] => {
            Value::Int(a.checked_div(*b).ok_or(EvalError::IntOverflow)?)
        }
        [Value::Uint(a), Value::Uint(b)] => Value::Uint(a / b),
        [Value::Double(a), Value::Double(b)] => Value::Double(a / b),
        _ => return Err(EvalError::NoSuchOverload),
    })
}

fn modulo<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    Ok(match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            return Err(EvalError::ModulusByZero);
        }
        [Value::Int(a), Value::Int(b)] => {
            Value::Int(a.checked_rem(*b).ok_or(EvalError::IntOverflow)?)
        }
        [Value::Uint(a), Value::Uint(b)] => Value::Uint(a % b),
        _ => return Err(EvalError::NoSuchOverload),
    })
}

fn negate<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    Ok(match args {
        [Value::Int(value)] => Value::Int(value.checked_neg().ok_or(EvalError::IntOverflow)?),
        [Value::Double(value)] => Value::Double(-value),
        _ => return Err(EvalError::NoSuchOverload),
    })
}

fn compared<'a>(args: Args<'_, 'a>, holds: fn(Ordering) -> bool) -> Evaluated<'a> {
    match args {
        [a, b] => Ok(Value::Bool(holds(a.compare(b)?))),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn less<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    compared(args, Ordering::is_lt)
}

fn less_equals<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    compared(args, Ordering::is_le)
}

fn greater<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    compared(args, Ordering::is_gt)
}

fn greater_equals<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    compared(args, Ordering::is_ge)
}

fn is_in<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [element, collection] => Ok(Value::Bool(contains(collection, element)?)),
        _ => Err(EvalError::NoSuchOverload),
    }
}
