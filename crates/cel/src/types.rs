//! The types of expressions, and how they are written.
//!
//! Counterpart: cel-go's `common/types/types.go` and `checker/format.go`. A type is cheap to copy.

use std::fmt;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// Whatever the value turns out to be.
    Dyn,
    /// As `dyn`, of data that is one of several plain types: it agrees with everything, and nothing can be looped over in it.
    Any,
    /// The type of what failed to check; agrees with everything, so that a mistake is said once.
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    /// A type as a value; of a type that is known, or of any.
    Type(Option<Arc<Type>>),
    /// A type with declared fields, or one of a library that is compared with `null` like those.
    Object(Arc<str>),
    /// A type of a library, with its parameters.
    Opaque(Arc<str>, Arc<[Type]>),
    /// A variable the checker solves for.
    Var(usize),
}

const OPTIONAL: &str = "optional_type";

// === impl Type ===

impl Type {
    pub fn list(element: Type) -> Type {
        Type::List(Arc::new(element))
    }

    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new(key), Arc::new(value))
    }

    pub fn object(name: &str) -> Type {
        Type::Object(Arc::from(name))
    }

    pub fn opaque(name: &str) -> Type {
        Type::Opaque(Arc::from(name), Arc::from([]))
    }

    pub fn optional(value: Type) -> Type {
        Type::Opaque(Arc::from(OPTIONAL), Arc::from([value]))
    }

    pub(crate) fn type_of(inner: Type) -> Type {
        Type::Type(Some(Arc::new(inner)))
    }

    /// The type inside an optional.
    pub(crate) fn as_optional(&self) -> Option<&Type> {
        match self {
            Type::Opaque(name, params) if &**name == OPTIONAL => params.first(),
            _ => None,
        }
    }

    pub(crate) fn is_dyn(&self) -> bool {
        *self == Type::Dyn
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Type::Dyn | Type::Any | Type::Error)
    }

    /// The name without parameters, as messages at run time have it.
    pub(crate) fn name(&self) -> &str {
        match self {
            Type::Dyn => "dyn",
            Type::Any => "google.protobuf.Any",
            Type::Error => "!error!",
            Type::Null => "null_type",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Duration => "google.protobuf.Duration",
            Type::Timestamp => "google.protobuf.Timestamp",
            Type::List(_) => "list",
            Type::Map(..) => "map",
            Type::Type(_) => "type",
            Type::Object(name) | Type::Opaque(name, _) => name,
            Type::Var(_) => "dyn",
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Any => f.write_str("any"),
            Type::Null => f.write_str("null"),
            Type::Duration => f.write_str("duration"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::List(element) => write!(f, "list({element})"),
            Type::Map(key, value) => write!(f, "map({key}, {value})"),
            Type::Type(Some(inner)) => write!(f, "type({inner})"),
            Type::Opaque(name, params) if !params.is_empty() => {
                write!(f, "{name}({})", join(params))
            }
            Type::Var(number) => write!(f, "_var{number}"),
            other => f.write_str(other.name()),
        }
    }
}

/// Types as messages list them.
pub(crate) fn join(types: &[Type]) -> String {
    types.iter().map(Type::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_written_as_users_write_them() {
        let nested = Type::map(Type::String, Type::list(Type::Timestamp));
        assert_eq!(nested.to_string(), "map(string, list(timestamp))");
        assert_eq!(Type::optional(Type::Int).to_string(), "optional_type(int)");
        assert_eq!(Type::type_of(Type::Null).to_string(), "type(null)");
    }
}
