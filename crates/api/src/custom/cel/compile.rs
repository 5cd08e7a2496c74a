//! One rule, from text to programs.

use std::sync::Arc;

use serde_json::Value;
use skiff_cel::{CompileError, DeclType, Env, Program, Type};

use super::super::definition::field_path;
use super::super::structural::flag;
use super::super::text;

/// A rule that is ready, or says why it is not.
pub struct Compiled {
    /// None for an empty rule.
    pub program: Option<Result<Program, String>>,
    pub message_expression: Option<Result<Program, String>>,
    pub expression: String,
    pub message: String,
    pub message_text: String,
    pub reason: String,
    /// The place below the node that the rule speaks of.
    pub field: String,
    pub uses_old: bool,
    /// `oldSelf` is an optional, so that the rule also runs where there is no old value.
    pub optional_old: bool,
}

pub fn compile(rule: &Value, schema: &Value, decl: &Arc<DeclType>) -> Compiled {
    let optional_old = flag(rule, "optionalOldSelf");
    let env = environment(decl, optional_old);
    let expression = text(rule, "rule");
    let program = (!expression.trim().is_empty()).then(|| boolean(&env, expression));
    let compiled = program.as_ref().and_then(|program| program.as_ref().ok());
    let message_text = text(rule, "messageExpression");
    let message_expression =
        (compiled.is_some() && !message_text.is_empty()).then(|| message(&env, message_text));
    let path = text(rule, "fieldPath");
    Compiled {
        uses_old: compiled.is_some_and(|program| program.refers_to("oldSelf")),
        program,
        message_expression,
        expression: expression.trim().to_owned(),
        message: text(rule, "message").trim().to_owned(),
        message_text: message_text.to_owned(),
        reason: text(rule, "reason").to_owned(),
        field: field_path(path, schema, true).map_or_else(|_| String::new(), |(place, _)| place),
        optional_old,
    }
}

fn environment(decl: &Arc<DeclType>, optional_old: bool) -> Env {
    let env = Env::kubernetes().declare("self", decl.clone());
    match optional_old {
        true => env.variable("oldSelf", Type::optional(decl.cel_type())),
        false => env.declare("oldSelf", decl.clone()),
    }
}

fn boolean(env: &Env, expression: &str) -> Result<Program, String> {
    let program = env.compile(expression).map_err(|error| described(&error))?;
    match program.output() {
        Type::Bool => Ok(program),
        _ => Err("cel expression must evaluate to a bool".to_owned()),
    }
}

fn message(env: &Env, expression: &str) -> Result<Program, String> {
    let program = env.compile(expression);
    let program =
        program.map_err(|error| format!("messageExpression {}", described_message(&error)))?;
    match program.output() {
        Type::String => Ok(program),
        _ => Err("messageExpression must evaluate to a string".to_owned()),
    }
}

fn described(error: &CompileError) -> String {
    match error {
        CompileError::Issues(issues) => format!("compilation failed: {issues}"),
        CompileError::Constant(error) => format!("program instantiation failed: {error}"),
    }
}

fn described_message(error: &CompileError) -> String {
    match error {
        CompileError::Issues(issues) => format!("compilation failed: {issues}"),
        CompileError::Constant(error) => format!("instantiation failed: {error}"),
    }
}
