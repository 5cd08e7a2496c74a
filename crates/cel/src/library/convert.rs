//! Conversions between types, and `type` and `dyn`.
//!
//! Counterpart: the `ConvertToType` of cel-go's types. Invariant: what does not fit is an error,
//! never another number.

use std::sync::Arc;

use super::time::{format_duration, timestamp_of_seconds};
use super::{Args, Row, no_overload, row};
use crate::cost::Cost;
use crate::duration;
use crate::error::EvalError;
use crate::types::Type;
use crate::value::{Evaluated, Timestamp, Value};

pub(super) const TABLE: &[Row] = &[
    row("type", "type", "(A) -> type(A)", type_of),
    row("dyn", "to_dyn", "(A) -> dyn", |args| Ok(args[0].clone())),
    row("bool", "bool_to_bool", "(bool) -> bool", to_bool),
    row("bool", "string_to_bool", "(string) -> bool", to_bool),
    row("bytes", "bytes_to_bytes", "(bytes) -> bytes", to_bytes),
    row("bytes", "string_to_bytes", "(string) -> bytes", to_bytes).costs(Cost::ToBytes),
    row("double", "double_to_double", "(double) -> double", to_double),
    row("double", "int64_to_double", "(int) -> double", to_double),
    row("double", "string_to_double", "(string) -> double", to_double),
    row("double", "uint64_to_double", "(uint) -> double", to_double),
    row("duration", "duration_to_duration", "(duration) -> duration", to_duration),
    row("duration", "int64_to_duration", "(int) -> duration", to_duration),
    row("duration", "string_to_duration", "(string) -> duration", to_duration),
    row("int", "int64_to_int64", "(int) -> int", to_int),
    row("int", "double_to_int64", "(double) -> int", to_int),
    row("int", "duration_to_int64", "(duration) -> int", to_int),
    row("int", "string_to_int64", "(string) -> int", to_int),
    row("int", "timestamp_to_int64", "(timestamp) -> int", to_int),
    row("int", "uint64_to_int64", "(uint) -> int", to_int),
    row("string", "string_to_string", "(string) -> string", to_string),
    row("string", "bool_to_string", "(bool) -> string", to_string),
    row("string", "bytes_to_string", "(bytes) -> string", to_string).costs(Cost::FromBytes),
    row("string", "double_to_string", "(double) -> string", to_string),
    row("string", "duration_to_string", "(duration) -> string", to_string),
    row("string", "int64_to_string", "(int) -> string", to_string),
    row("string", "timestamp_to_string", "(timestamp) -> string", to_string),
    row("string", "uint64_to_string", "(uint) -> string", to_string),
    row("timestamp", "timestamp_to_timestamp", "(timestamp) -> timestamp", to_timestamp),
    row("timestamp", "int64_to_timestamp", "(int) -> timestamp", to_timestamp),
    row("timestamp", "string_to_timestamp", "(string) -> timestamp", to_timestamp),
    row("uint", "uint64_to_uint64", "(uint) -> uint", to_uint),
    row("uint", "double_to_uint64", "(double) -> uint", to_uint),
    row("uint", "int64_to_uint64", "(int) -> uint", to_uint),
    row("uint", "string_to_uint64", "(string) -> uint", to_uint),
];

fn failed(value: &Value<'_>, to: &'static str) -> EvalError {
    EvalError::Conversion(value.cel_type().name().to_owned(), to)
}

fn type_of<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [value] => Ok(Value::Type(Arc::new(value.cel_type()))),
        _ => no_overload(),
    }
}

fn to_bool<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::Bool(value)] => Ok(Value::Bool(*value)),
        [value @ Value::String(text)] => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => Err(failed(value, "bool")),
        },
        _ => no_overload(),
    }
}

fn to_bytes<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [bytes @ Value::Bytes(_)] => Ok(bytes.clone()),
        [Value::String(text)] => Ok(Value::Bytes(text.as_bytes().into())),
        _ => no_overload(),
    }
}

fn to_double<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    Ok(Value::Double(match args {
        [Value::Double(value)] => *value,
        [Value::Int(value)] => *value as f64,
        [Value::Uint(value)] => *value as f64,
        [value @ Value::String(text)] => {
            parse_double(text).ok_or_else(|| failed(value, "double"))?
        }
        _ => return no_overload(),
    }))
}

/// A number as Go reads one; underscores and what Rust alone allows are no part of it.
fn parse_double(text: &str) -> Option<f64> {
    text.parse()
        .ok()
        .filter(|number: &f64| number.is_finite() || text.contains(['i', 'I', 'n', 'N']))
}

fn to_duration<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    Ok(Value::Duration(match args {
        [Value::Duration(nanos)] => *nanos,
        [value @ Value::Int(_)] => return Err(failed(value, "google.protobuf.Duration")),
        [value @ Value::String(text)] => {
            duration::parse(text).map_err(|_| failed(value, "google.protobuf.Duration"))?
        }
        _ => return no_overload(),
    }))
}

fn to_timestamp<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [at @ Value::Timestamp(_)] => Ok(at.clone()),
        [Value::Int(seconds)] => timestamp_of_seconds(*seconds),
        [value @ Value::String(text)] => Timestamp::parse(text)
            .map(Value::Timestamp)
            .ok_or_else(|| failed(value, "google.protobuf.Timestamp")),
        _ => no_overload(),
    }
}

fn to_int<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    Ok(Value::Int(match args {
        [Value::Int(value) | Value::Duration(value)] => *value,
        [Value::Timestamp(at)] => at.as_seconds(),
        [Value::Uint(value)] => i64::try_from(*value).map_err(|_| EvalError::IntOverflow)?,
        // The bounds themselves are not representable next to the integers they stand for.
        [Value::Double(value)] if *value > -(2f64.powi(63)) && *value < 2f64.powi(63) => {
            *value as i64
        }
        [Value::Double(_)] => return Err(EvalError::IntOverflow),
        [value @ Value::String(text)] => text.parse().map_err(|_| failed(value, "int"))?,
        _ => return no_overload(),
    }))
}

fn to_uint<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    Ok(Value::Uint(match args {
        [Value::Uint(value)] => *value,
        [Value::Int(value)] => u64::try_from(*value).map_err(|_| EvalError::UintOverflow)?,
        [Value::Double(value)] if *value >= 0.0 && *value < 2f64.powi(64) => *value as u64,
        [Value::Double(_)] => return Err(EvalError::UintOverflow),
        [value @ Value::String(text)] if !text.starts_with('+') => {
            text.parse().map_err(|_| failed(value, "uint"))?
        }
        [value @ Value::String(_)] => return Err(failed(value, "uint")),
        _ => return no_overload(),
    }))
}

fn to_string<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    Ok(match args {
        [text @ Value::String(_)] => text.clone(),
        [Value::Bool(value)] => Value::text(if *value { "true" } else { "false" }),
        [Value::Int(value)] => Value::string(value.to_string()),
        [Value::Uint(value)] => Value::string(value.to_string()),
        [Value::Double(value)] => Value::string(format_double(*value)),
        [Value::Duration(nanos)] => Value::string(format_duration(*nanos)),
        [Value::Timestamp(at)] => Value::string(at.to_string()),
        [Value::Bytes(bytes)] => {
            let message = "invalid UTF-8 in bytes, cannot convert to string";
            let text = std::str::from_utf8(bytes).map_err(|_| EvalError::other(message))?;
            Value::string(text)
        }
        _ => return no_overload(),
    })
}

/// The shortest digits that read back the same; with an exponent from a million on.
pub(crate) fn format_double(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let exponent = format!("{value:e}");
    let (digits, power) = exponent.split_once('e').expect("an exponent was asked for");
    let power: i32 = power.parse().expect("exponents are numbers");
    if value != 0.0 && !(-4..6).contains(&power) {
        let sign = if power < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", power.abs());
    }
    value.to_string()
}

/// The value of a type name used as an expression.
pub(crate) fn type_value(kind: Type) -> Value<'static> {
    Value::Type(Arc::new(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_written_shortest() {
        let cases =
            [(1.0, "1"), (0.1, "0.1"), (1e6, "1e+06"), (123456.0, "123456"), (1.5e-7, "1.5e-07")];
        for (value, expected) in cases {
            assert_eq!(format_double(value), expected);
        }
    }
}
