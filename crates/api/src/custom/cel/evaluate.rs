//! Rules held against an object.
//!
//! At each node its own rules first, then those below. Everything spends from one budget; running out ends the run.

use serde_json::Value;
use skiff_cel::{EvalError, PER_CALL_LIMIT, Program, Value as Cel};

use super::super::rules::Before;
use super::{Compiled, Rules};
use crate::field::{ErrorList, ErrorType, FieldError, Path};

/// The longest message that an expression may make, in bytes.
const MAX_MESSAGE: usize = 5 * 1024;
const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// The run is over.
pub struct Exhausted;

pub struct Run<'e> {
    pub budget: u64,
    pub errors: &'e mut ErrorList,
}

/// The old value of a node, and what decides whether its faults are forgiven.
#[derive(Clone, Copy)]
pub struct Correlation<'a> {
    before: Option<Before<'a>>,
    /// Whether faults of what is unchanged are forgiven.
    ratchets: bool,
    /// The nearest node above whose old value is known.
    above: Option<(Before<'a>, &'a Value)>,
}

// === impl Correlation ===

impl<'a> Correlation<'a> {
    pub fn root(before: Option<Before<'a>>, ratchets: bool) -> Correlation<'a> {
        Correlation { before, ratchets, above: None }
    }

    fn below(&self, value: &'a Value, before: Option<Before<'a>>) -> Correlation<'a> {
        let here = self.before.filter(|_| self.ratchets).map(|before| (before, value));
        Correlation { before, ratchets: self.ratchets, above: here.or(self.above) }
    }

    /// Type and version of the object differ in ways that do not show.
    fn field(&self, value: &'a Value, name: &str) -> Correlation<'a> {
        let before = self.before.and_then(|before| before.field(name));
        if self.above.is_none() && matches!(name, "kind" | "apiVersion") {
            return Correlation { before, ratchets: false, above: None };
        }
        self.below(value, before)
    }

    fn forgives(&self, value: &Value) -> bool {
        match (self.before, self.above) {
            _ if !self.ratchets => false,
            (Some(before), _) => before.is_unchanged(value),
            (None, Some((before, value))) => before.is_unchanged(value),
            (None, None) => false,
        }
    }
}

// === impl Run ===

impl Run<'_> {
    pub fn node<'a>(
        &mut self,
        rules: &'a Rules,
        value: &'a Value,
        old: &Correlation<'a>,
        at: &Path<'_>,
    ) -> Result<(), Exhausted> {
        if value.is_null() {
            return Ok(());
        }
        self.own(rules, value, old, at)?;
        match value {
            Value::Array(items) => {
                let Some(of_item) = &rules.items else { return Ok(()) };
                let entries = old.before.and_then(|before| before.entries());
                for (index, item) in items.iter().enumerate() {
                    let before = entries.as_ref().and_then(|entries| entries.find(item));
                    self.node(of_item, item, &old.below(value, before), &at.index(index))?;
                }
            }
            Value::Object(map) => {
                for (name, child) in map {
                    if let Some(of_entry) = &rules.additional {
                        self.node(of_entry, child, &old.field(value, name), &at.key(name))?;
                    }
                    if let Some(of_field) = rules.properties.get(name) {
                        self.node(of_field, child, &old.field(value, name), &at.child(name))?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The rules of the node itself.
    fn own<'a>(
        &mut self,
        rules: &'a Rules,
        value: &'a Value,
        old: &Correlation<'a>,
        at: &Path<'_>,
    ) -> Result<(), Exhausted> {
        if rules.own.is_empty() {
            return Ok(());
        }
        if self.budget == 0 {
            self.errors.invalid(at, rules.of.as_str(), OUT_OF_BUDGET);
            return Err(Exhausted);
        }
        for rule in &rules.own {
            match &rule.program {
                None => {}
                Some(Err(why)) => {
                    let detail = format!("rule compile error: {why}");
                    self.errors.invalid(at, rules.of.as_str(), detail);
                }
                Some(Ok(_)) if rule.uses_old && old.before.is_none() && !rule.optional_old => {}
                Some(Ok(program)) => {
                    let node = Node { rules, rule, value, old, at };
                    self.rule(&node, program)?;
                }
            }
        }
        Ok(())
    }

    fn rule(&mut self, node: &Node<'_, '_>, program: &Program) -> Result<(), Exhausted> {
        let said = node.rule.name();
        let (outcome, cost) = match node.variables() {
            Ok(variables) => {
                let outcome = program.evaluate(&variables, PER_CALL_LIMIT);
                (outcome.value.map(|value| matches!(value, Cel::Bool(true))), outcome.cost)
            }
            Err(error) => (Err(error), 0),
        };
        self.spend(cost).map_err(|Exhausted| self.stop(node, OUT_OF_BUDGET.to_owned()))?;
        match outcome {
            Ok(true) => Ok(()),
            Ok(false) => self.broken(node),
            Err(error @ EvalError::CostLimitExceeded) => {
                let why = "no further validation rules will be run due to call cost exceeds limit for rule";
                Err(self.stop(node, format!("'{error}': {why}: {said}")))
            }
            Err(error @ (EvalError::NoSuchOverload | EvalError::NoSuchFunction(_))) => {
                let why = "call arguments did not match a supported operator, function or macro signature for rule";
                self.stop(node, format!("'{error}': {why}: {said}"));
                Ok(())
            }
            Err(error) => {
                self.stop(node, format!("{error} evaluating rule: {said}"));
                Ok(())
            }
        }
    }

    fn spend(&mut self, cost: u64) -> Result<(), Exhausted> {
        self.budget = self.budget.checked_sub(cost).ok_or(Exhausted)?;
        Ok(())
    }

    /// A fault of evaluating: the type stands for the value.
    fn stop(&mut self, node: &Node<'_, '_>, detail: String) -> Exhausted {
        self.errors.invalid(node.at, node.rules.of.as_str(), detail);
        Exhausted
    }

    /// The rule says no.
    fn broken(&mut self, node: &Node<'_, '_>) -> Result<(), Exhausted> {
        let place = match node.rule.field.as_str() {
            "" => node.at.to_string(),
            field => node.at.child(field).to_string(),
        };
        let made = match &node.rule.message_expression {
            Some(Ok(program)) => self.message(node, program, &place)?,
            _ => None,
        };
        let fault = node.fault(place, made.unwrap_or_else(|| node.rule.default_message()));
        if !node.rule.uses_old && node.old.forgives(node.value) {
            self.errors.warn(fault.to_string());
        } else {
            self.errors.0.push(fault);
        }
        Ok(())
    }

    /// The message that an expression makes, if it makes one that can be shown.
    fn message(
        &mut self,
        node: &Node<'_, '_>,
        program: &Program,
        place: &str,
    ) -> Result<Option<String>, Exhausted> {
        let Ok(variables) = node.variables() else { return Ok(None) };
        let outcome = program.evaluate(&variables, PER_CALL_LIMIT);
        let given_up = |detail: String| FieldError {
            kind: ErrorType::Invalid,
            field: place.to_owned(),
            bad_value: Some(node.rules.of.as_str().into()),
            printed: None,
            detail,
        };
        if self.spend(outcome.cost).is_err() {
            let why = "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run";
            self.errors.0.push(given_up(why.to_owned()));
            return Err(Exhausted);
        }
        match outcome.value {
            Ok(Cel::String(text)) => Ok(shown(&text)),
            Err(EvalError::CostLimitExceeded) => {
                let source = &node.rule.message_text;
                let why = "no further validation rules will be run due to call cost exceeds limit for messageExpression";
                self.errors.0.push(given_up(format!("{why}: {source:?}")));
                Err(Exhausted)
            }
            _ => Ok(None),
        }
    }
}

/// A message is one line, neither empty nor too long.
fn shown(message: &str) -> Option<String> {
    let message = message.trim();
    let fits = !message.is_empty() && message.len() <= MAX_MESSAGE && !message.contains('\n');
    fits.then(|| message.to_owned())
}

/// A rule at the value it is about.
struct Node<'a, 'p> {
    rules: &'a Rules,
    rule: &'a Compiled,
    value: &'a Value,
    old: &'p Correlation<'a>,
    at: &'p Path<'p>,
}

// === impl Node ===

impl<'a> Node<'a, '_> {
    fn variables(&self) -> Result<Vec<(&'static str, Cel<'a>)>, EvalError> {
        let decl = self.rules.decl.as_deref().expect("a node with rules is declared");
        let mut variables = vec![("self", Cel::declared(self.value, decl)?)];
        if !self.rule.uses_old {
            return Ok(variables);
        }
        let old = self.old.before.map(|before| Cel::declared(before.value, decl)).transpose()?;
        let old = match (self.rule.optional_old, old) {
            (true, Some(old)) => Some(Cel::some(old)),
            (true, None) => Some(Cel::Optional(None)),
            (false, old) => old,
        };
        variables.extend(old.map(|old| ("oldSelf", old)));
        Ok(variables)
    }

    /// What is wrong, under the reason that the rule gives. Objects and lists are not shown.
    fn fault(&self, field: String, detail: String) -> FieldError {
        let shows = !matches!(self.rules.of.as_str(), "object" | "array");
        let value = shows.then(|| self.value.clone());
        let (kind, bad_value, detail) = match self.rule.reason.as_str() {
            "FieldValueForbidden" => (ErrorType::Forbidden, None, detail),
            "FieldValueRequired" => (ErrorType::Required, None, detail),
            "FieldValueDuplicate" => (ErrorType::Duplicate, value, String::new()),
            _ => (ErrorType::Invalid, value, detail),
        };
        FieldError { kind, field, bad_value, printed: None, detail }
    }
}

// === impl Compiled ===

impl Compiled {
    /// How messages name the rule.
    fn name(&self) -> &str {
        if self.message.is_empty() { &self.expression } else { &self.message }
    }

    fn default_message(&self) -> String {
        match self.message.is_empty() {
            true => format!("failed rule: {}", self.expression),
            false => self.message.clone(),
        }
    }
}
