//! Evaluates a planned expression.
//!
//! Nodes and an activation in; a value and what it cost out. Counterpart: cel-go's `interpreter`.
//! Errors are values until an operator looks at them: `&&`, `||` and the loops made of them pass
//! over an error when the other side decides.
//! Invariant: running out of budget is passed over by nothing.

mod errors;
mod loops;
mod parts;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cost::{LIST_COST, MAP_COST, Meter, STRUCT_COST};
use crate::error::EvalError;
use crate::library::no_overload;
use crate::value::{Evaluated, Key, Object, Value};

use self::errors::{no_such_overload, not_optional};
use self::parts::{at_index, find, missing, select};
use super::node::{Call, MapEntry, Node, Select, StructField};
use super::{Activation, Outcome, no_variable};

/// Arguments most calls have at most; they need no allocation.
const FEW: usize = 3;

pub(super) fn evaluate<'a>(
    root: &Node,
    activation: &dyn Activation<'a>,
    limit: u64,
) -> Outcome<'a> {
    let mut evaluator = Evaluator { activation, locals: Vec::new(), meter: Meter::new(limit) };
    let value = evaluator.eval(root);
    Outcome { value, cost: evaluator.meter.cost() }
}

/// The value of something made of constants.
pub(super) fn constant(node: &Node) -> Evaluated<'static> {
    let nothing: [(&str, Value<'static>); 0] = [];
    evaluate(node, &nothing, u64::MAX).value
}

struct Evaluator<'v, 'a> {
    activation: &'v dyn Activation<'a>,
    /// Variables of comprehensions. An accumulator may hold an error that is still passed over.
    locals: Vec<Local<'v, 'a>>,
    meter: Meter,
}

enum Local<'v, 'a> {
    Ready(Evaluated<'a>),
    /// What a binding is bound to, until somebody asks.
    Bound(&'v Node),
}

// === impl Evaluator ===

impl<'v, 'a> Evaluator<'v, 'a> {
    fn eval(&mut self, node: &'v Node) -> Evaluated<'a> {
        match node {
            Node::Constant(value) => Ok(value.clone()),
            Node::Variable(name) => {
                self.meter.charge(1)?;
                self.activation.variable(name).unwrap_or_else(|| Err(no_variable(name)))
            }
            Node::VariableField { variable, field } => self.variable_field(variable, field),
            Node::Local(place) => {
                self.meter.charge(1)?;
                self.local(*place)
            }
            Node::Select { operand, field, how } => self.select(operand, field, *how),
            Node::Index { operand, index, optional } => self.index(operand, index, *optional),
            Node::And(a, b) => self.logic(a, b, false),
            Node::Or(a, b) => self.logic(a, b, true),
            Node::Conditional(parts) => self.conditional(parts),
            Node::Equal { sides, negated } => self.equal(sides, *negated),
            Node::OrElse { optional, other, unwrap } => self.or_else(optional, other, *unwrap),
            Node::NotStrictlyFalse(inner) => self.not_strictly_false(inner),
            Node::OneOf { value, set } => {
                let key = Key::of(&self.eval(value)?);
                Ok(Value::Bool(key.is_some_and(|key| set.contains(&key))))
            }
            Node::Call(call) => self.call(call),
            Node::List(elements) => self.list(elements),
            Node::Map(entries) => self.map(entries),
            Node::Struct { name, fields } => self.structure(name, fields),
            Node::Fold(fold) => self.fold(fold),
            Node::Bind { init, body } => {
                self.locals.push(Local::Bound(init));
                let result = self.eval(body);
                self.locals.pop();
                result
            }
        }
    }

    /// A binding is worked out by the first who asks. What it refers to is below it on the stack
    /// and still there.
    fn local(&mut self, place: usize) -> Evaluated<'a> {
        match &self.locals[place] {
            Local::Ready(value) => value.clone(),
            Local::Bound(node) => {
                let value = self.eval(node);
                self.locals[place] = Local::Ready(value.clone());
                value
            }
        }
    }

    // --- parts of values ---

    fn variable_field(&mut self, variable: &str, field: &str) -> Evaluated<'a> {
        self.meter.charge(2)?;
        if let Some(value) = self.activation.field(variable, field) {
            return value;
        }
        let whole =
            self.activation.variable(variable).unwrap_or_else(|| Err(no_variable(variable)));
        select(whole?, field)
    }

    fn select(&mut self, operand: &'v Node, field: &str, how: Select) -> Evaluated<'a> {
        let operand = match self.eval_attribute(operand) {
            Ok(operand) => operand,
            Err(error) => {
                // Asking whether something is there is free; so is finding out that it cannot be.
                self.meter.refund(u64::from(how == Select::Presence));
                return Err(error);
            }
        };
        match how {
            Select::Value => {
                let absent = matches!(operand, Value::Optional(None));
                self.meter.charge(u64::from(!absent))?;
                select(operand, field)
            }
            Select::Presence => Ok(Value::Bool(find(&operand, field).transpose()?.is_some())),
            Select::Optional => {
                let found = find(&operand, field).transpose()?;
                self.optional(found)
            }
        }
    }

    /// What is not there costs nothing.
    fn optional(&mut self, found: Option<Value<'a>>) -> Evaluated<'a> {
        if found.is_some() {
            self.meter.charge(1)?;
        }
        Ok(Value::Optional(found.map(Arc::new)))
    }

    /// What something is selected from: anything but a name is one step more.
    fn eval_attribute(&mut self, node: &'v Node) -> Evaluated<'a> {
        let value = self.eval(node)?;
        if !is_attribute(node) {
            self.meter.charge(1)?;
        }
        Ok(value)
    }

    fn index(&mut self, operand: &'v Node, index: &'v Node, optional: bool) -> Evaluated<'a> {
        let operand = self.eval_attribute(operand)?;
        if let Value::Optional(None) = operand {
            return Ok(operand);
        }
        let by = index;
        let index = self.eval(by)?;
        // A name that says where is part of what is looked at.
        self.meter.refund(u64::from(is_attribute(by)));
        let whole = match (operand, optional) {
            (Value::Optional(Some(inner)), _) => (*inner).clone(),
            (operand, true) => operand,
            (operand, false) => {
                self.meter.charge(1)?;
                let found = at_index(&operand, &index)?;
                return found.unwrap_or_else(|| Err(missing(&operand, &index)));
            }
        };
        let found = at_index(&whole, &index)?.transpose()?;
        self.optional(found)
    }

    // --- logic ---

    /// `&&` is decided by `false`, `||` by `true`, whatever the other side is.
    fn logic(&mut self, a: &'v Node, b: &'v Node, decides: bool) -> Evaluated<'a> {
        let first = self.eval(a);
        if let Ok(Value::Bool(value)) = first
            && value == decides
        {
            return Ok(Value::Bool(decides));
        }
        if let Err(EvalError::CostLimitExceeded) = first {
            return first;
        }
        let second = self.eval(b);
        match (first, second) {
            (_, Ok(Value::Bool(value))) if value == decides => Ok(Value::Bool(decides)),
            (_, Err(EvalError::CostLimitExceeded)) => Err(EvalError::CostLimitExceeded),
            (Ok(Value::Bool(_)), Ok(Value::Bool(_))) => Ok(Value::Bool(!decides)),
            (Err(error), _) | (Ok(Value::Bool(_)), Err(error)) => Err(error),
            _ => no_overload(),
        }
    }

    fn conditional(&mut self, parts: &'v [Node; 3]) -> Evaluated<'a> {
        let [condition, then, otherwise] = parts;
        let chosen = match self.eval(condition)? {
            Value::Bool(true) => then,
            Value::Bool(false) => otherwise,
            _ => return no_overload(),
        };
        let value = self.eval(chosen)?;
        if is_attribute(chosen) {
            self.meter.refund(1);
        }
        Ok(value)
    }

    fn not_strictly_false(&mut self, inner: &'v Node) -> Evaluated<'a> {
        let value = self.eval(inner);
        self.meter.charge(1)?;
        match value {
            Err(EvalError::CostLimitExceeded) => value,
            Ok(Value::Bool(value)) => Ok(Value::Bool(value)),
            _ => Ok(Value::Bool(true)),
        }
    }

    fn equal(&mut self, sides: &'v [Node; 2], negated: bool) -> Evaluated<'a> {
        match (self.eval(&sides[0]), self.eval(&sides[1])) {
            (Ok(a), Ok(b)) => {
                self.meter.charge_equality(&a, &b)?;
                if !negated && a.is_incomparable_with(&b) {
                    return no_overload();
                }
                Ok(Value::Bool(a.equals(&b) != negated))
            }
            (Err(error), other) | (other, Err(error)) => {
                let size = other.map_or(1, |other| other.cost_size());
                self.meter.charge(u64::from(size > 0))?;
                Err(error)
            }
        }
    }

    fn or_else(&mut self, optional: &'v Node, other: &'v Node, unwrap: bool) -> Evaluated<'a> {
        match self.eval(optional)? {
            Value::Optional(Some(inner)) if unwrap => Ok((*inner).clone()),
            some @ Value::Optional(Some(_)) => Ok(some),
            Value::Optional(None) => self.eval(other),
            // What turns out to be no optional at all is its own value.
            value => Ok(value),
        }
    }

    // --- calls ---

    fn call(&mut self, call: &'v Call) -> Evaluated<'a> {
        if call.args.len() > FEW {
            let args: Vec<_> =
                call.args.iter().map(|arg| self.eval(arg)).collect::<Result<_, _>>()?;
            return self.dispatch(call, &args);
        }
        let mut args = [const { Value::Null }; FEW];
        let mut failed = None;
        for (place, arg) in args.iter_mut().zip(&call.args) {
            match self.eval(arg) {
                Ok(value) => *place = value,
                Err(EvalError::CostLimitExceeded) => return Err(EvalError::CostLimitExceeded),
                Err(error) if call.args.len() == FEW => return Err(error),
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        let args = &args[..call.args.len()];
        match failed {
            None => self.dispatch(call, args),
            // A call of one or two arguments is paid for even if it cannot be made.
            Some(error) => {
                self.pay(call, args, None)?;
                Err(error)
            }
        }
    }

    /// The first overload that takes arguments of these kinds.
    fn dispatch(&mut self, call: &Call, args: &[Value<'a>]) -> Evaluated<'a> {
        for overload in &call.overloads {
            match (overload.call)(args) {
                Err(EvalError::NoSuchOverload) => continue,
                result => {
                    self.pay(call, args, result.as_ref().ok())?;
                    return result;
                }
            }
        }
        self.pay(call, args, None)?;
        Err(no_such_overload(call, args))
    }

    fn pay(
        &mut self,
        call: &Call,
        args: &[Value<'a>],
        result: Option<&Value<'a>>,
    ) -> Result<(), EvalError> {
        self.meter.charge_call(&call.overloads, args, result)
    }

    // --- making values ---

    fn list(&mut self, elements: &'v [(Node, bool)]) -> Evaluated<'a> {
        self.meter.charge(LIST_COST)?;
        let mut made = Vec::with_capacity(elements.len());
        for (element, optional) in elements {
            match (self.eval(element)?, optional) {
                (value, false) => made.push(value),
                (Value::Optional(Some(inner)), true) => made.push((*inner).clone()),
                (Value::Optional(None), true) => {}
                (value, true) => return Err(not_optional("list element", &value)),
            }
        }
        Ok(Value::list(made))
    }

    fn map(&mut self, entries: &'v [MapEntry]) -> Evaluated<'a> {
        self.meter.charge(MAP_COST)?;
        let mut made = BTreeMap::new();
        for MapEntry { key, value, optional } in entries {
            let key = self.eval(key)?;
            let Some(key) = Key::of(&key) else {
                return Err(EvalError::other("unsupported key type"));
            };
            match (self.eval(value)?, optional) {
                (value, false) => drop(made.insert(key, value)),
                (Value::Optional(Some(inner)), true) => drop(made.insert(key, (*inner).clone())),
                (Value::Optional(None), true) => drop(made.remove(&key)),
                (value, true) => return Err(not_optional(&format!("entry '{key}'"), &value)),
            }
        }
        Ok(Value::map(made))
    }

    fn structure(&mut self, name: &Arc<str>, fields: &'v [StructField]) -> Evaluated<'a> {
        self.meter.charge(STRUCT_COST)?;
        let mut made = BTreeMap::new();
        for StructField { name, value, optional } in fields {
            match (self.eval(value)?, optional) {
                (value, false) => drop(made.insert(name.clone(), value)),
                (Value::Optional(Some(inner)), true) => {
                    drop(made.insert(name.clone(), (*inner).clone()));
                }
                (Value::Optional(None), true) => {}
                (value, true) => return Err(not_optional(&format!("entry '{name}'"), &value)),
            }
        }
        Ok(Value::Object(Arc::new(Object { type_name: name.clone(), fields: made })))
    }
}

/// Whether the node is a name, or what is selected from one.
fn is_attribute(node: &Node) -> bool {
    matches!(
        node,
        Node::Variable(_)
            | Node::VariableField { .. }
            | Node::Local(_)
            | Node::Select { .. }
            | Node::Index { .. }
    )
}
