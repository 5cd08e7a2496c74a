//! What goes wrong while an expression is evaluated.
//!
//! The texts reach users through Status messages and are cel-go's.

/// Why an evaluation has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    #[error("no such overload")]
    NoSuchOverload,
    #[error("no such overload: {0}")]
    NoSuchFunction(String),
    #[error("no such key: {0}")]
    NoSuchKey(String),
    #[error("index out of bounds: {0}")]
    IndexOutOfBounds(i64),
    #[error("no such attribute(s): {0}")]
    NoSuchVariable(String),
    #[error("division by zero")]
    DivisionByZero,
    #[error("modulus by zero")]
    ModulusByZero,
    #[error("integer overflow")]
    IntOverflow,
    #[error("unsigned integer overflow")]
    UintOverflow,
    #[error("timestamp overflow")]
    TimestampOverflow,
    #[error("NaN values cannot be ordered")]
    NanOrder,
    #[error("type conversion error from '{0}' to '{1}'")]
    Conversion(String, &'static str),
    #[error("optional.none() dereference")]
    NoneDereference,
    /// Ends the evaluation at once: no operator absorbs it.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostLimitExceeded,
    #[error("{0}")]
    Other(String),
}

impl EvalError {
    pub fn other(message: impl Into<String>) -> EvalError {
        EvalError::Other(message.into())
    }
}
