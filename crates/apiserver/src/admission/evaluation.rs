//! Expressions at work: a request as values, match conditions, variables worked out when they are asked for.
//!
//! [`Expression`] + [`Evaluation`] -> a value, or why there is none. Counterpart: `apiserver/pkg/admission/plugin/cel` (`condition.go`,
//! `activation.go`, `composition.go`) and `webhook/matchconditions`. Invariant: what one
//! evaluation may cost is bounded for each expression and for all of them together.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value as Json;
use skiff_api::kinds::admissionregistration::expressions::{
    AUTHORIZER, NAMESPACE, Purpose, REQUEST, REQUEST_RESOURCE, Scope,
};
use skiff_cel::{Activation, EvalError, PER_CALL_LIMIT, Program, Value};

use super::asking::RequestAuthorizer;

/// An expression as it was written, and as it runs.
pub struct Expression {
    pub text: String,
    program: Result<Program, String>,
}

pub struct Variable {
    name: String,
    expression: Expression,
}

/// `matchConditions`.
pub struct Conditions(Vec<Expression>);

/// What expressions are shown.
pub struct Subject {
    pub object: Json,
    pub old: Json,
    pub request: Json,
    pub namespace: Json,
    pub authorizer: Arc<RequestAuthorizer>,
}

/// One round of evaluations over one subject, with one budget.
pub struct Evaluation<'a> {
    subject: &'a Subject,
    params: Option<&'a Json>,
    variables: &'a [Variable],
    known: RefCell<HashMap<&'a str, Result<Value<'a>, EvalError>>>,
    /// What is left; none once it was overdrawn.
    budget: Cell<Option<u64>>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// This expression has no value.
    Expression(String),
    /// Neither this nor any later one is evaluated.
    OutOfBudget,
}

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

// === impl Expression ===

impl Expression {
    pub fn read(text: &Json, scope: &Scope, purpose: Purpose) -> Expression {
        let text = text.as_str().unwrap_or("").to_owned();
        let program = scope.compile(&text, purpose);
        Expression { text, program }
    }
}

// === impl Variable ===

impl Variable {
    pub fn read(variable: &Json, scope: &mut Scope) -> Variable {
        let text = |field: &str| variable[field].as_str().unwrap_or("").to_owned();
        let (name, text) = (text("name"), text("expression"));
        let program = scope.add_variable(&name, &text);
        Variable { name, expression: Expression { text, program } }
    }
}

// === impl Failure ===

impl Failure {
    pub fn into_message(self) -> String {
        match self {
            Failure::Expression(message) => message,
            Failure::OutOfBudget => OUT_OF_BUDGET.to_owned(),
        }
    }
}

// === impl Conditions ===

impl Conditions {
    pub fn read(conditions: &Json, has_params: bool) -> Conditions {
        let scope = Scope::of_conditions(has_params);
        let list = conditions.as_array().into_iter().flatten();
        let read = |condition: &Json| {
            Expression::read(&condition["expression"], &scope, Purpose::Condition)
        };
        Conditions(list.map(read).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every condition holds. One that is false decides, whatever the others fail at.
    pub fn hold(&self, evaluation: &Evaluation<'_>) -> Result<bool, String> {
        let mut failures = Vec::new();
        for condition in &self.0 {
            match evaluation.evaluate(condition) {
                Ok(Value::Bool(false)) => return Ok(false),
                Ok(_) => {}
                Err(Failure::Expression(message)) => failures.push(message),
                Err(out) => return Err(out.into_message()),
            }
        }
        match failures.as_slice() {
            [] => Ok(true),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

// === impl Evaluation ===

impl<'a> Evaluation<'a> {
    pub fn new(
        subject: &'a Subject,
        params: Option<&'a Json>,
        variables: &'a [Variable],
        budget: u64,
    ) -> Evaluation<'a> {
        let known = RefCell::default();
        Evaluation { subject, params, variables, known, budget: Cell::new(Some(budget)) }
    }

    /// What is left for further expressions.
    pub fn budget(&self) -> u64 {
        self.budget.get().unwrap_or(0)
    }

    pub fn evaluate(&self, expression: &Expression) -> Result<Value<'a>, Failure> {
        let program = expression.program.as_ref();
        let program =
            program.map_err(|fault| Failure::Expression(format!("compilation error: {fault}")))?;
        let outcome = program.evaluate(self, PER_CALL_LIMIT);
        self.pay(outcome.cost);
        self.budget.get().ok_or(Failure::OutOfBudget)?;
        outcome.value.map_err(|error| {
            let text = &expression.text;
            Failure::Expression(format!("expression '{text}' resulted in error: {error}"))
        })
    }

    fn pay(&self, cost: u64) {
        self.budget.set(self.budget.get().and_then(|left| left.checked_sub(cost)));
    }

    fn work_out(&self, variable: &'a Variable) -> Result<Value<'a>, EvalError> {
        let name = &variable.name;
        let program = variable.expression.program.as_ref().map_err(|fault| {
            EvalError::other(format!("composited variable {name:?} fails to compile: {fault}"))
        })?;
        let outcome = program.evaluate(self, PER_CALL_LIMIT);
        // Overdrawn, the expression that asks is the last one.
        self.pay(outcome.cost);
        outcome.value.map_err(|error| {
            EvalError::other(format!("composited variable {name:?} fails to evaluate: {error}"))
        })
    }
}

impl<'a> Activation<'a> for Evaluation<'a> {
    fn variable(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        let subject = self.subject;
        match name {
            "object" => Some(Ok(Value::from(&subject.object))),
            "oldObject" => Some(Ok(Value::from(&subject.old))),
            "request" => Some(Value::declared(&subject.request, &REQUEST)),
            "namespaceObject" => Some(Value::declared(&subject.namespace, &NAMESPACE)),
            "params" => Some(Ok(self.params.map_or(Value::Null, Value::from))),
            AUTHORIZER => Some(Ok(Value::authorizer(subject.authorizer.clone()))),
            REQUEST_RESOURCE => {
                let question = subject.authorizer.about_request();
                Some(Ok(Value::resource_check(subject.authorizer.clone(), question)))
            }
            _ => None,
        }
    }

    fn field(&self, variable: &str, field: &str) -> Option<Result<Value<'a>, EvalError>> {
        if variable != "variables" {
            return None;
        }
        let variable = self.variables.iter().find(|variable| variable.name == field)?;
        if let Some(known) = self.known.borrow().get(variable.name.as_str()) {
            return Some(known.clone());
        }
        let value = self.work_out(variable);
        self.known.borrow_mut().insert(&variable.name, value.clone());
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn subject(object: Json) -> Subject {
        let authorizer = Arc::new(RequestAuthorizer::of_nobody());
        Subject { object, old: Json::Null, request: json!({}), namespace: Json::Null, authorizer }
    }

    fn conditions(texts: &[&str]) -> Conditions {
        let list: Vec<Json> = texts.iter().map(|text| json!({ "expression": text })).collect();
        Conditions::read(&json!(list), false)
    }

    #[test]
    fn a_false_condition_decides_before_an_error_does() {
        let subject = subject(json!({ "metadata": {} }));
        let hold = |texts: &[&str]| {
            let evaluation = Evaluation::new(&subject, None, &[], PER_CALL_LIMIT);
            conditions(texts).hold(&evaluation)
        };
        assert_eq!(hold(&["object.metadata.none == 'x'", "false"]), Ok(false));
        assert_eq!(hold(&["true", "has(object.metadata)"]), Ok(true));
        let why = "expression 'object.metadata.none == 'x'' resulted in error: no such key: none";
        assert_eq!(hold(&["object.metadata.none == 'x'"]), Err(why.to_owned()));
    }

    #[test]
    fn variables_are_worked_out_once_and_only_when_asked_for() {
        let mut scope = Scope::of_policy(false);
        let variable = |name: &str, text: &str, scope: &mut Scope| {
            Variable::read(&json!({ "name": name, "expression": text }), scope)
        };
        let variables = [
            variable("good", "size(object.list)", &mut scope),
            variable("bad", "object.none", &mut scope),
        ];
        let subject = subject(json!({ "list": [1, 2] }));
        let evaluation = Evaluation::new(&subject, None, &variables, PER_CALL_LIMIT);
        let fine = Expression::read(&json!("variables.good == 2"), &scope, Purpose::Condition);
        assert!(matches!(evaluation.evaluate(&fine), Ok(Value::Bool(true))));
        let bad = Expression::read(&json!("variables.bad == 2"), &scope, Purpose::Condition);
        let why = "expression 'variables.bad == 2' resulted in error: composited variable \"bad\" fails to evaluate: no such key: none";
        assert_eq!(evaluation.evaluate(&bad).err(), Some(Failure::Expression(why.to_owned())));
    }

    #[test]
    fn a_budget_that_is_spent_ends_the_round() {
        let subject = subject(json!({ "list": [1, 2, 3] }));
        let scope = Scope::of_policy(false);
        let text = json!("object.list.all(i, i > 0)");
        let expression = Expression::read(&text, &scope, Purpose::Condition);
        let evaluation = Evaluation::new(&subject, None, &[], 2);
        assert_eq!(evaluation.evaluate(&expression).err(), Some(Failure::OutOfBudget));
    }
}
