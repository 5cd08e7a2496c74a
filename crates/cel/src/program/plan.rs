//! From a checked tree to what is evaluated.
//!
//! Counterpart: cel-go's `interpreter/planner.go` and `decorators.go`.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::ast::{self, Expr, Kind, Literal, op};
use crate::check::{Checked, Reference};
use crate::error::EvalError;
use crate::library::{compile_regex, type_value};
use crate::macros::ACCUMULATOR;
use crate::value::{Key, Value};

use super::eval;
use super::node::{Call, Fold, Growth, MapEntry, Node, Select, Step, StructField};

/// What is to be evaluated, unless it is certain to fail.
pub(super) fn plan(checked: &Checked) -> Result<Node, EvalError> {
    let mut planner = Planner { checked, locals: Vec::new(), broken: None };
    let root = planner.node(&checked.ast.root);
    planner.broken.map_or(Ok(root), Err)
}

/// All variables an expression mentions.
pub(super) fn variables(checked: &Checked) -> BTreeSet<String> {
    let referred = checked.references.values().filter_map(|reference| match reference {
        Reference::Variable(name) => Some(name.clone()),
        _ => None,
    });
    referred.collect()
}

struct Planner<'c> {
    checked: &'c Checked,
    /// Variables of comprehensions around the node, innermost last.
    locals: Vec<String>,
    /// The first constant that cannot be.
    broken: Option<EvalError>,
}

// === impl Planner ===

impl Planner<'_> {
    fn boxed(&mut self, expr: &Expr) -> Box<Node> {
        Box::new(self.node(expr))
    }

    fn node(&mut self, expr: &Expr) -> Node {
        match self.checked.references.get(&expr.id) {
            Some(Reference::Variable(name)) => return self.variable(name),
            Some(Reference::Type(kind)) if !matches!(expr.kind, Kind::Struct(_)) => {
                return Node::Constant(type_value(kind.clone()));
            }
            _ => {}
        }
        match &expr.kind {
            Kind::Literal(literal) => Node::Constant(constant(literal)),
            Kind::Ident(name) => self.variable(name),
            Kind::Select(select) => {
                let how = if select.test { Select::Presence } else { Select::Value };
                self.select(&select.operand, &select.field, how)
            }
            Kind::Call(call) => self.call(expr, call),
            Kind::List(elements) => {
                let nodes = elements.iter().map(|e| (self.node(&e.value), e.optional)).collect();
                folded(Node::List(nodes)).unwrap_or_else(|(node, _)| node)
            }
            Kind::Map(entries) => {
                let entry = |entry: &ast::Entry| MapEntry {
                    key: self.node(&entry.key),
                    value: self.node(&entry.value),
                    optional: entry.optional,
                };
                folded(Node::Map(entries.iter().map(entry).collect()))
                    .unwrap_or_else(|(node, _)| node)
            }
            Kind::Struct(made) => self.structure(expr, made),
            Kind::Fold(fold) => self.fold(fold),
        }
    }

    fn variable(&self, name: &str) -> Node {
        match self.locals.iter().rposition(|local| local == name) {
            Some(place) => Node::Local(place),
            None => Node::Variable(name.to_owned()),
        }
    }

    fn select(&mut self, operand: &Expr, field: &str, how: Select) -> Node {
        let operand = self.node(operand);
        match operand {
            Node::Variable(variable) if how == Select::Value => {
                Node::VariableField { variable, field: field.to_owned() }
            }
            operand => Node::Select { operand: Box::new(operand), field: field.to_owned(), how },
        }
    }

    fn call(&mut self, expr: &Expr, call: &ast::Call) -> Node {
        let [first, second] = [0, 1].map(|at| call.args.get(at));
        match (&call.function[..], first, second) {
            (op::AND, Some(a), Some(b)) => Node::And(self.boxed(a), self.boxed(b)),
            (op::OR, Some(a), Some(b)) => Node::Or(self.boxed(a), self.boxed(b)),
            (op::EQUALS | op::NOT_EQUALS, Some(a), Some(b)) => Node::Equal {
                sides: Box::new([self.node(a), self.node(b)]),
                negated: call.function == op::NOT_EQUALS,
            },
            (op::CONDITIONAL, Some(a), Some(b)) => {
                Node::Conditional(Box::new([self.node(a), self.node(b), self.node(&call.args[2])]))
            }
            (op::NOT_STRICTLY_FALSE, Some(a), _) => Node::NotStrictlyFalse(self.boxed(a)),
            (op::INDEX | op::OPT_INDEX, Some(a), Some(b)) => Node::Index {
                operand: self.boxed(a),
                index: self.boxed(b),
                optional: call.function == op::OPT_INDEX,
            },
            (op::OPT_SELECT, Some(operand), Some(field)) => match &field.kind {
                Kind::Literal(Literal::String(name)) => {
                    self.select(operand, name, Select::Optional)
                }
                _ => unreachable!("the parser writes fields as literals"),
            },
            _ => self.function(expr, call),
        }
    }

    fn function(&mut self, expr: &Expr, call: &ast::Call) -> Node {
        let target = self.checked.target(expr, call);
        let overloads = self.checked.overloads(expr).to_vec();
        if let (Some(target), "or" | "orValue", [other]) =
            (target, &call.function[..], &call.args[..])
        {
            return Node::OrElse {
                optional: self.boxed(target),
                other: self.boxed(other),
                unwrap: call.function == "orValue",
            };
        }
        let args: Vec<_> = target.into_iter().chain(&call.args).map(|arg| self.node(arg)).collect();
        if let [overload] = &overloads[..]
            && overload.id == "in_list"
            && let Some(set) = constant_set(&args[1])
        {
            if set.is_empty() {
                return Node::Constant(Value::Bool(false));
            }
            let value = args.into_iter().next().expect("in has two sides");
            return Node::OneOf { value: Box::new(value), set };
        }
        let function = overloads.first().map_or("", |overload| overload.function);
        if let ("find" | "findAll", Some(Node::Constant(Value::String(pattern)))) =
            (function, args.get(1))
            && let Err(why) = compile_regex(pattern)
        {
            self.broken.get_or_insert(EvalError::Other(why));
        }
        let node = Node::Call(Box::new(Call { function, overloads, args }));
        let converts = matches!(
            function,
            "bool"
                | "bytes"
                | "double"
                | "duration"
                | "dyn"
                | "int"
                | "string"
                | "timestamp"
                | "type"
                | "uint"
        );
        if converts { self.converted(node) } else { node }
    }

    /// A conversion of a constant is done now; one that fails makes the expression useless.
    fn converted(&mut self, node: Node) -> Node {
        match folded(node) {
            Ok(node) => node,
            Err((node, error)) => {
                self.broken.get_or_insert(error);
                node
            }
        }
    }

    fn structure(&mut self, expr: &Expr, made: &ast::Struct) -> Node {
        let field = |field: &ast::Field| StructField {
            name: field.name.clone(),
            value: self.node(&field.value),
            optional: field.optional,
        };
        let fields = made.fields.iter().map(field).collect();
        Node::Struct { name: Arc::from(self.checked.type_of(expr).name()), fields }
    }

    fn fold(&mut self, fold: &ast::Fold) -> Node {
        if fold.is_bind() {
            let init = self.boxed(&fold.init);
            self.locals.push(fold.accu.clone());
            let body = self.boxed(&fold.result);
            self.locals.pop();
            return Node::Bind { init, body };
        }
        let range = self.node(&fold.range);
        let init = self.node(&fold.init);
        let outside = self.locals.len();
        self.locals.push(fold.accu.clone());
        self.locals.push(fold.var.clone());
        self.locals.extend(fold.var2.clone());
        let condition = self.node(&fold.condition);
        let step = self.step(&fold.step);
        self.locals.truncate(outside + 1);
        let result = self.node(&fold.result);
        self.locals.truncate(outside);
        let two = fold.var2.is_some();
        Node::Fold(Box::new(Fold { range, two, init, condition, step, result }))
    }

    /// Steps that add to the accumulator need not copy it.
    fn step(&mut self, step: &Expr) -> Step {
        if let Some(by) = self.growth(step) {
            return Step::Grow { filter: None, by };
        }
        if let Kind::Call(call) = &step.kind
            && let (op::CONDITIONAL, [filter, then, otherwise]) =
                (&call.function[..], &call.args[..])
            && otherwise.as_ident() == Some(ACCUMULATOR)
            && let Some(by) = self.growth(then)
        {
            return Step::Grow { filter: Some(self.node(filter)), by };
        }
        Step::Become(self.node(step))
    }

    fn growth(&mut self, step: &Expr) -> Option<Growth> {
        let Kind::Call(call) = &step.kind else { return None };
        let (accu, added) = call.args.split_first()?;
        if accu.as_ident() != Some(ACCUMULATOR) {
            return None;
        }
        match (&call.function[..], added) {
            (op::ADD, [Expr { kind: Kind::List(elements), .. }]) => match &elements[..] {
                [ast::Element { value, optional: false }] => {
                    Some(Growth::Element(self.node(value)))
                }
                _ => None,
            },
            ("cel.@mapInsert", added) => {
                Some(Growth::Entry(added.iter().map(|arg| self.node(arg)).collect()))
            }
            _ => None,
        }
    }
}

fn constant(literal: &Literal) -> Value<'static> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(value) => Value::Int(*value),
        Literal::Uint(value) => Value::Uint(*value),
        Literal::Double(value) => Value::Double(*value),
        Literal::String(text) => Value::string(text.clone()),
        Literal::Bytes(bytes) => Value::Bytes(bytes.clone()),
    }
}

/// What is made of constants only becomes a constant, or what it fails with.
fn folded(node: Node) -> Result<Node, (Node, EvalError)> {
    let constant = |node: &Node| matches!(node, Node::Constant(_));
    let ready = match &node {
        Node::List(elements) => elements.iter().all(|(element, _)| constant(element)),
        Node::Map(entries) => entries.iter().all(|e| constant(&e.key) && constant(&e.value)),
        Node::Call(call) => call.args.len() == 1 && call.args.iter().all(constant),
        _ => false,
    };
    match ready.then(|| eval::constant(&node)) {
        None => Ok(node),
        Some(Ok(value)) => Ok(Node::Constant(value)),
        Some(Err(error)) => Err((node, error)),
    }
}

/// The elements of a list that is known, if they can be searched for.
fn constant_set(list: &Node) -> Option<BTreeSet<Key>> {
    let Node::Constant(Value::List(list)) = list else { return None };
    list.iter().map(|element| Key::of(&element.ok()?)).collect()
}
