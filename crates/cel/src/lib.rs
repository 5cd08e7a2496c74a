//! The Common Expression Language as Kubernetes speaks it.
//!
//! Text and declarations in; a checked program with bounds of its cost, or the mistakes worded as
//! users know them, out. Values are JSON where it lies. Counterpart: cel-go with the libraries and
//! limits of `k8s.io/apiserver/pkg/cel`, at v1.36.
//! Invariant: no text, declaration or data makes it panic, and no evaluation goes on for ever.
//!
//! ```
//! use std::sync::Arc;
//! use skiff_cel::{DeclType, Env, ObjectType, PER_CALL_LIMIT, Value};
//!
//! let spec = ObjectType::new("object").field("replicas", DeclType::int());
//! let decl = Arc::new(DeclType::object(spec, 2).named("self"));
//! let program = Env::kubernetes().declare("self", decl.clone()).compile("self.replicas > 1")?;
//!
//! let object = serde_json::json!({"replicas": 3});
//! let variables = [("self", Value::declared(&object, &decl)?)];
//! let outcome = program.evaluate(&variables, PER_CALL_LIMIT);
//! assert!(matches!(outcome.value, Ok(Value::Bool(true))));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod ast;
mod check;
mod cost;
mod decl;
pub mod duration;
mod env;
mod error;
mod lexer;
mod library;
mod macros;
mod parser;
mod program;
mod schema;
mod source;
mod types;
mod value;

pub use cost::Range;
pub use decl::{DeclField, DeclKind, DeclType, ListEquality, MAX_REQUEST_SIZE, ObjectType, escape};
pub use env::{CompileError, Env};
pub use error::EvalError;
pub use library::authorizer::{Authorizer, Decision, Question};
pub use program::{
    Activation, MATCH_CONDITIONS_BUDGET, Outcome, PER_CALL_LIMIT, Program, RUNTIME_BUDGET,
};
pub use schema::Resolve;
pub use source::{Issue, Issues};
pub use types::Type;
pub use value::{Key, List, Map, Object, Opaque, Text, Timestamp, Value};
