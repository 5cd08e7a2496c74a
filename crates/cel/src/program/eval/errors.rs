//! The words for what cannot be evaluated.
//!
//! Which words a call that fits no overload gets depends on its first argument, as upstream asks
//! the value itself before it gives up.

use crate::ast::op;
use crate::error::EvalError;
use crate::library::formatting;
use crate::program::node::Call;
use crate::value::Value;

pub(super) fn not_optional(what: &str, value: &Value<'_>) -> EvalError {
    let shown = formatting::to_text(value);
    EvalError::other(format!("cannot initialize optional {what} from non-optional value {shown}"))
}

pub(super) fn not_iterable(range: &Value<'_>, two: bool) -> EvalError {
    let kind = match range {
        Value::Null => "types.Null",
        Value::Bool(_) => "types.Bool",
        Value::Int(_) => "types.Int",
        Value::Uint(_) => "types.Uint",
        Value::Double(_) => "types.Double",
        Value::String(_) => "types.String",
        Value::Bytes(_) => "types.Bytes",
        Value::Duration(_) => "types.Duration",
        Value::Timestamp(_) => "types.Timestamp",
        Value::Optional(_) => "*types.Optional",
        _ => "*types.Type",
    };
    EvalError::Other(match two {
        true => format!("unsupported comprehension range type: {kind}"),
        false => format!("got '{kind}', expected iterable type"),
    })
}

/// The error of a call no overload takes the arguments of.
///
/// Operators of values that know the operator say no more than that; otherwise the function is
/// named, and where it is not an operator, the kinds of its arguments.
pub(super) fn no_such_overload(call: &Call, args: &[Value<'_>]) -> EvalError {
    let function = call.function;
    if matches!(function, "@in" | "contains" | "startsWith" | "endsWith" | "!_") {
        return EvalError::NoSuchOverload;
    }
    if function.starts_with('_') || function == "-_" {
        return match args.first() {
            Some(first) if knows(first, function) => EvalError::NoSuchOverload,
            _ => EvalError::NoSuchFunction(function.to_owned()),
        };
    }
    match (function, args.first()) {
        ("matches" | "sort", Some(Value::String(_))) => return EvalError::NoSuchOverload,
        ("matches" | "sort" | "size" | "@sortByAssociatedKeys", _) => {
            return EvalError::NoSuchFunction(function.to_owned());
        }
        ("flatten", Some(first)) => {
            return EvalError::NoSuchFunction(format!("{}.flatten()", first.cel_type()));
        }
        _ => {}
    }
    let kinds: Vec<_> = args.iter().map(|arg| arg.cel_type().name().to_owned()).collect();
    EvalError::NoSuchFunction(format!("{function}({})", kinds.join(", ")))
}

fn knows(value: &Value<'_>, operator: &str) -> bool {
    match value {
        Value::Int(_) | Value::Uint(_) | Value::String(_) => true,
        Value::Duration(_) | Value::Timestamp(_) => true,
        Value::Double(_) => operator != "_%_",
        Value::Bytes(_) => operator == op::ADD || is_order(operator),
        Value::List(_) => operator == op::ADD,
        Value::Bool(_) => is_order(operator),
        _ => false,
    }
}

fn is_order(operator: &str) -> bool {
    matches!(operator, "_<_" | "_<=_" | "_>_" | "_>=_")
}
