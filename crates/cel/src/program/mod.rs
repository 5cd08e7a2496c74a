//! Expressions ready to be evaluated.
//!
//! Counterpart: cel-go's `cel.Program` and `interpreter`. A program is made once and evaluated
//! many times, from any thread; what an evaluation needs is in its [`Activation`].
//! Invariant: evaluation ends: loops run over what is given, and every step is paid for.

mod eval;
mod node;
mod plan;

use std::collections::BTreeSet;

use crate::check::Checked;
use crate::cost::Range;
use crate::error::EvalError;
use crate::types::Type;
use crate::value::{Evaluated, Value};

use self::node::Node;

/// What one evaluation may cost.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// What all expressions looking at one object, or belonging to one binding, may cost together.
pub const RUNTIME_BUDGET: u64 = 10_000_000;
/// The same for the match conditions of one request.
pub const MATCH_CONDITIONS_BUDGET: u64 = 2_500_000;

/// Where the values of variables come from.
pub trait Activation<'a> {
    /// The value of a declared variable; `None` when it has none.
    fn variable(&self, name: &str) -> Option<Evaluated<'a>>;

    /// The value of one field of a variable, for variables whose fields are worked out only when
    /// asked for; `None` where fields are just part of the variable's value.
    fn field(&self, _variable: &str, _field: &str) -> Option<Evaluated<'a>> {
        None
    }
}

/// A compiled expression.
#[derive(Debug)]
pub struct Program {
    root: Node,
    output: Type,
    estimate: Range,
    variables: BTreeSet<String>,
}

/// What came of an evaluation.
#[derive(Debug)]
pub struct Outcome<'a> {
    pub value: Evaluated<'a>,
    /// What it cost, whether there is a value or not.
    pub cost: u64,
}

pub(crate) fn plan(checked: &Checked, estimate: Range) -> Result<Program, EvalError> {
    Ok(Program {
        root: plan::plan(checked)?,
        output: checked.type_of(&checked.ast.root).clone(),
        estimate,
        variables: plan::variables(checked),
    })
}

// === impl Program ===

impl Program {
    /// The type of the value, as far as it can be known before.
    pub fn output(&self) -> &Type {
        &self.output
    }

    /// Bounds of what an evaluation costs.
    pub fn estimate(&self) -> Range {
        self.estimate
    }

    /// Whether the expression mentions the variable.
    pub fn refers_to(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }

    /// Evaluates the expression, for at most `limit` units of cost.
    pub fn evaluate<'a>(&self, activation: &dyn Activation<'a>, limit: u64) -> Outcome<'a> {
        eval::evaluate(&self.root, activation, limit)
    }
}

// === impl Activation for ready values ===

impl<'a> Activation<'a> for [(&str, Value<'a>)] {
    fn variable(&self, name: &str) -> Option<Evaluated<'a>> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| Ok(value.clone()))
    }
}

impl<'a, const N: usize> Activation<'a> for [(&str, Value<'a>); N] {
    fn variable(&self, name: &str) -> Option<Evaluated<'a>> {
        self[..].variable(name)
    }
}

impl<'a> Activation<'a> for Vec<(&str, Value<'a>)> {
    fn variable(&self, name: &str) -> Option<Evaluated<'a>> {
        self[..].variable(name)
    }
}

/// The error of an expression that mentions a variable nothing is known of.
fn no_variable(name: &str) -> EvalError {
    EvalError::NoSuchVariable(name.to_owned())
}
