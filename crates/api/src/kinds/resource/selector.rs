//! Device selectors: which devices a class or a request is about, in CEL.
//!
//! Text -> a checked program over `device`, bounded by what it may cost. Counterpart: `dynamic-resource-allocation/cel`.
//! Attributes and capacities are maps by domain and name; what an attribute holds is not known before it is there.

use std::sync::{Arc, LazyLock};

use skiff_cel::{CompileError, DeclType, Env, ObjectType, Program, Type};

use crate::field::ErrorList;
use crate::kinds::admissionregistration::expressions::runtime_name;
use crate::kinds::at::At;

const EXPRESSION_MAX: usize = 10 * 1024;
/// What looking at one device may cost.
pub const COST_MAX: u64 = 1_000_000;

const DRIVER_MAX: u64 = 63;
const ATTRIBUTE_MAX: u64 = 64;
const ENTRIES_MAX: u64 = 32;

static ENVIRONMENT: LazyLock<Env> = LazyLock::new(|| {
    let by_name = |value| DeclType::map(DeclType::map(value, Some(ENTRIES_MAX)), Some(ENTRIES_MAX));
    let device = ObjectType::new("kubernetes.DRADevice")
        .field("driver", DeclType::scalar(Type::String, 2, DRIVER_MAX))
        .field("allowMultipleAllocations", DeclType::scalar(Type::Bool, 4, 1))
        .field("attributes", by_name(DeclType::scalar(Type::Any, 1, ATTRIBUTE_MAX)))
        .field("capacity", by_name(DeclType::scalar(Type::quantity(), 1, 8)));
    let device = Arc::new(DeclType::object(device, 2));
    Env::kubernetes().with_bindings().declare("device", device)
});

/// What an expression is found to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Internal(String),
}

pub fn validate_selector(selector: &At, errors: &mut ErrorList) {
    let cel = selector.child("cel");
    if !cel.is_set() {
        return cel.required(errors, "");
    }
    let expression = cel.child("expression");
    if expression.text().len() > EXPRESSION_MAX {
        return errors.too_long(&expression.path, EXPRESSION_MAX);
    }
    match compile(expression.text()) {
        Err(Fault::Invalid(why)) => expression.invalid_as(errors, expression.text(), why),
        Err(Fault::Internal(why)) => errors.internal(&expression.path, why),
        Ok(program) if program.estimate().max > COST_MAX => {
            expression.forbidden(errors, "too complex, exceeds cost limit");
        }
        Ok(_) => {}
    }
}

/// A program over `device` that says whether a device is meant.
pub fn compile(text: &str) -> Result<Program, Fault> {
    let program = ENVIRONMENT.compile(text).map_err(|error| match error {
        CompileError::Issues(issues) => Fault::Invalid(format!("compilation failed: {issues}")),
        CompileError::Constant(error) => {
            Fault::Internal(format!("program instantiation failed: {error}"))
        }
    })?;
    match program.output() {
        // An attribute may turn out to be a truth.
        Type::Bool | Type::Any => Ok(program),
        other => {
            let other = runtime_name(other);
            let why = format!("must evaluate to bool or the unknown type, not {other}");
            Err(Fault::Invalid(why))
        }
    }
}
