//! Evaluates a planned expression.
//!
//! Nodes and an activation in; a value and what it cost out. Counterpart: cel-go's `interpreter`.
//! Errors are values until an operator looks at them: `&&`, `||` and the loops made of them pass
//! over an error when the other side decides.
//! Invariant: running out of budget is passed over by nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ast::op;
use crate::cost::{LIST_COST, MAP_COST, Meter, STRUCT_COST};
use crate::error::EvalError;
use crate::library::{insert_into, no_overload};
use crate::value::{Evaluated, Key, List, Map, Object, Value};

use super::node::{Call, Fold, Growth, MapEntry, Node, Select, Step, StructField};
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
    locals: Vec<Evaluated<'a>>,
    meter: Meter,
}

// === impl Evaluator ===

impl<'a> Evaluator<'_, 'a> {
    fn eval(&mut self, node: &Node) -> Evaluated<'a> {
        match node {
            Node::Constant(value) => Ok(value.clone()),
            Node::Variable(name) => {
                self.meter.charge(1)?;
                self.activation.variable(name).unwrap_or_else(|| Err(no_variable(name)))
            }
            Node::VariableField { variable, field } => self.variable_field(variable, field),
            Node::Local(place) => {
                self.meter.charge(1)?;
                self.locals[*place].clone()
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
                let value = self.eval(init);
                self.locals.push(value);
                let result = self.eval(body);
                self.locals.pop();
                result
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

    fn select(&mut self, operand: &Node, field: &str, how: Select) -> Evaluated<'a> {
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
            Select::Presence => Ok(Value::Bool(find(&operand, field).is_some())),
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
    fn eval_attribute(&mut self, node: &Node) -> Evaluated<'a> {
        let value = self.eval(node)?;
        if !is_attribute(node) {
            self.meter.charge(1)?;
        }
        Ok(value)
    }

    fn index(&mut self, operand: &Node, index: &Node, optional: bool) -> Evaluated<'a> {
        let operand = self.eval_attribute(operand)?;
        let by = index;
        let index = self.eval(by)?;
        // A name that says where is part of what is looked at.
        self.meter.refund(u64::from(is_attribute(by)));
        let whole = match (operand, optional) {
            (Value::Optional(None), _) => return Ok(Value::Optional(None)),
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
    fn logic(&mut self, a: &Node, b: &Node, decides: bool) -> Evaluated<'a> {
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
            (Err(error), _) | (_, Err(error)) => Err(error),
            _ => no_overload(),
        }
    }

    fn conditional(&mut self, parts: &[Node; 3]) -> Evaluated<'a> {
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

    fn not_strictly_false(&mut self, inner: &Node) -> Evaluated<'a> {
        let value = self.eval(inner);
        self.meter.charge(1)?;
        match value {
            Err(EvalError::CostLimitExceeded) => value,
            Ok(Value::Bool(value)) => Ok(Value::Bool(value)),
            _ => Ok(Value::Bool(true)),
        }
    }

    fn equal(&mut self, sides: &[Node; 2], negated: bool) -> Evaluated<'a> {
        match (self.eval(&sides[0]), self.eval(&sides[1])) {
            (Ok(a), Ok(b)) => {
                self.meter.charge_equality(&a, &b)?;
                if a.is_incomparable_with(&b) {
                    return no_overload();
                }
                Ok(Value::Bool(a.equals(&b) != negated))
            }
            (Err(error), _) | (_, Err(error)) => {
                self.meter.charge(1)?;
                Err(error)
            }
        }
    }

    fn or_else(&mut self, optional: &Node, other: &Node, unwrap: bool) -> Evaluated<'a> {
        match self.eval(optional)? {
            Value::Optional(Some(inner)) if unwrap => Ok((*inner).clone()),
            some @ Value::Optional(Some(_)) => Ok(some),
            Value::Optional(None) => self.eval(other),
            // What turns out to be no optional at all is its own value.
            value => Ok(value),
        }
    }

    // --- calls ---

    fn call(&mut self, call: &Call) -> Evaluated<'a> {
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

    fn list(&mut self, elements: &[(Node, bool)]) -> Evaluated<'a> {
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

    fn map(&mut self, entries: &[MapEntry]) -> Evaluated<'a> {
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

    fn structure(&mut self, name: &Arc<str>, fields: &[StructField]) -> Evaluated<'a> {
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

    // --- loops ---

    fn fold(&mut self, fold: &Fold) -> Evaluated<'a> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init);
        let accu = self.locals.len();
        self.locals.push(init);
        let result = match &range {
            Value::List(list) => self.fold_list(fold, list),
            Value::Map(map) => self.fold_map(fold, map),
            other => Err(not_iterable(other, fold.two)),
        };
        let result = result.and_then(|()| self.eval(&fold.result));
        self.locals.truncate(accu);
        result
    }

    fn fold_list(&mut self, fold: &Fold, list: &List<'a>) -> Result<(), EvalError> {
        for (index, element) in list.iter().enumerate() {
            let go_on = match fold.two {
                true => self.turn(fold, [Ok(Value::Int(index as i64)), element])?,
                false => self.turn(fold, [element])?,
            };
            if !go_on {
                break;
            }
        }
        Ok(())
    }

    fn fold_map(&mut self, fold: &Fold, map: &Map<'a>) -> Result<(), EvalError> {
        for (key, value) in map.iter() {
            let go_on = match fold.two {
                true => self.turn(fold, [Ok(key.into()), value])?,
                false => self.turn(fold, [Ok(key.into())])?,
            };
            if !go_on {
                break;
            }
        }
        Ok(())
    }

    /// One turn of a loop; false when it was the last.
    fn turn<const N: usize>(
        &mut self,
        fold: &Fold,
        vars: [Evaluated<'a>; N],
    ) -> Result<bool, EvalError> {
        let accu = self.locals.len() - 1;
        self.locals.extend(vars);
        let go_on = matches!(self.eval(&fold.condition)?, Value::Bool(true));
        if go_on {
            match &fold.step {
                Step::Become(step) => {
                    let value = self.eval(step);
                    if let Err(EvalError::CostLimitExceeded) = value {
                        return Err(EvalError::CostLimitExceeded);
                    }
                    self.locals[accu] = value;
                }
                Step::Grow { filter, by } => self.grow(accu, filter.as_ref(), by)?,
            }
        }
        self.locals.truncate(accu + 1);
        Ok(go_on)
    }

    /// Adds to the accumulator in place. Costs what making a new one would.
    fn grow(&mut self, accu: usize, filter: Option<&Node>, by: &Growth) -> Result<(), EvalError> {
        if let Some(filter) = filter {
            match self.eval(filter)? {
                Value::Bool(true) => {}
                Value::Bool(false) => return self.meter.charge(0),
                _ => return Err(EvalError::NoSuchOverload),
            }
        }
        // The accumulator is read, and the sum or the insertion is a call.
        self.meter.charge(2)?;
        match by {
            Growth::Element(element) => {
                // A list of a constant is a constant.
                if !matches!(element, Node::Constant(_)) {
                    self.meter.charge(LIST_COST)?;
                }
                let element = self.eval(element)?;
                match &mut self.locals[accu] {
                    Ok(Value::List(List::Made(made))) => Arc::make_mut(made).push(element),
                    _ => return Err(EvalError::NoSuchOverload),
                }
            }
            Growth::Entry(parts) => {
                let parts: Vec<_> =
                    parts.iter().map(|part| self.eval(part)).collect::<Result<_, _>>()?;
                match &mut self.locals[accu] {
                    Ok(Value::Map(Map::Made(made))) => insert_into(made, &parts)?,
                    _ => return Err(EvalError::NoSuchOverload),
                }
            }
        }
        Ok(())
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

// === parts of values ===

/// The field, if the value has it.
fn find<'a>(value: &Value<'a>, field: &str) -> Option<Evaluated<'a>> {
    match value {
        Value::Map(map) => map.field(field),
        Value::Object(object) => object.fields.get(field).cloned().map(Ok),
        Value::Optional(inner) => find(inner.as_ref()?, field),
        _ => None,
    }
}

fn select<'a>(value: Value<'a>, field: &str) -> Evaluated<'a> {
    match (&value, find(&value, field)) {
        (Value::Optional(_), found) => Ok(Value::Optional(found.transpose()?.map(Arc::new))),
        (_, Some(found)) => found,
        (_, None) => Err(EvalError::NoSuchKey(field.to_owned())),
    }
}

/// What is at an index or under a key, if anything is.
fn at_index<'a>(value: &Value<'a>, index: &Value<'a>) -> Result<Option<Evaluated<'a>>, EvalError> {
    match value {
        Value::List(list) => {
            let place = match index {
                Value::Int(place) => usize::try_from(*place).ok(),
                Value::Uint(place) => usize::try_from(*place).ok(),
                Value::Double(place) if place.fract() == 0.0 && *place >= 0.0 => {
                    Some(*place as usize)
                }
                Value::Double(place) => {
                    let message = format!("unsupported index value {place} in list");
                    return Err(EvalError::other(message));
                }
                other => {
                    let kind = other.cel_type();
                    let message = format!("unsupported index type '{}' in list", kind.name());
                    return Err(EvalError::other(message));
                }
            };
            Ok(place.and_then(|place| list.get(place)))
        }
        Value::Map(map) => Ok(Key::of(index).and_then(|key| map.get(&key))),
        Value::Object(object) => match index {
            Value::String(field) => Ok(object.fields.get(&**field).cloned().map(Ok)),
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}

fn missing(value: &Value<'_>, index: &Value<'_>) -> EvalError {
    match (value, index) {
        (Value::List(_), Value::Int(place)) => EvalError::IndexOutOfBounds(*place),
        (Value::List(_), Value::Uint(place)) => EvalError::IndexOutOfBounds(*place as i64),
        (Value::List(_), Value::Double(place)) => EvalError::IndexOutOfBounds(*place as i64),
        (_, key) => EvalError::NoSuchKey(Key::of(key).map_or_else(String::new, |k| k.to_string())),
    }
}

// === errors ===

fn not_optional(what: &str, value: &Value<'_>) -> EvalError {
    let shown = crate::library::formatting::to_text(value);
    EvalError::other(format!("cannot initialize optional {what} from non-optional value {shown}"))
}

fn not_iterable(range: &Value<'_>, two: bool) -> EvalError {
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
fn no_such_overload(call: &Call, args: &[Value<'_>]) -> EvalError {
    let function = call.function;
    if matches!(function, "@in" | "contains" | "startsWith" | "endsWith" | "matches" | "!_") {
        return EvalError::NoSuchOverload;
    }
    if function.starts_with('_') || function == "-_" {
        return match args.first() {
            Some(first) if knows(first, function) => EvalError::NoSuchOverload,
            _ => EvalError::NoSuchFunction(function.to_owned()),
        };
    }
    if matches!(function, "size" | "sort" | "@sortByAssociatedKeys") {
        return EvalError::NoSuchFunction(function.to_owned());
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
