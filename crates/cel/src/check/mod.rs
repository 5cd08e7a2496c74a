//! Tells whether an expression makes sense, and what its type is.
//!
//! A tree and declarations in; the type of every node and what every name and call refers to out,
//! or all mistakes with where they are. Counterpart: cel-go's `checker`, whose messages are kept.
//! Invariant: a node that fails to check has the type `Error`, which agrees with everything, so
//! that one mistake is reported once.

mod collection;
mod solve;
mod validate;

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{Ast, Call, Expr, ExprId, Kind, Literal, Select, op};
use crate::env::{Env, Found};
use crate::library::{Function, Overload};
use crate::source::Issues;
use crate::types::{Type, join};

use self::solve::Solver;

/// A tree with everything known about its nodes, by their number.
#[derive(Debug)]
pub(crate) struct Checked {
    pub ast: Ast,
    pub types: Vec<Type>,
    pub references: HashMap<ExprId, Reference>,
}

/// What a name or call turned out to mean.
#[derive(Clone, Debug)]
pub(crate) enum Reference {
    /// A variable, by its full name.
    Variable(String),
    /// The name of a type.
    Type(Type),
    Call {
        overloads: Vec<Arc<Overload>>,
        /// The target was part of the function's name, as in `optional.of(x)`.
        qualified: bool,
    },
}

pub(crate) fn check(ast: Ast, env: &Env, text: &str) -> Result<Checked, Issues> {
    let mut checker = Checker {
        env,
        offsets: &ast.offsets,
        types: vec![None; ast.offsets.len()],
        references: HashMap::new(),
        scopes: Vec::new(),
        solver: Solver::default(),
        issues: Issues::new(text),
    };
    checker.check(&ast.root);
    let Checker { types, references, solver, issues, .. } = checker;
    let types = types.into_iter().map(|t| t.map_or(Type::Error, |t| solver.resolve(&t))).collect();
    let checked = issues.into_result(Checked { ast, types, references })?;
    let mut issues = Issues::new(text);
    validate::validate(&checked, &mut issues);
    issues.into_result(checked)
}

// === impl Checked ===

impl Checked {
    pub fn type_of(&self, expr: &Expr) -> &Type {
        &self.types[expr.id]
    }

    pub fn overloads(&self, expr: &Expr) -> &[Arc<Overload>] {
        match self.references.get(&expr.id) {
            Some(Reference::Call { overloads, .. }) => overloads,
            _ => &[],
        }
    }

    /// What a call is made on, unless that was part of the function's name.
    pub fn target<'c>(&self, expr: &Expr, call: &'c Call) -> Option<&'c Expr> {
        match self.references.get(&expr.id) {
            Some(Reference::Call { qualified: true, .. }) => None,
            _ => call.target.as_ref(),
        }
    }
}

struct Checker<'e> {
    env: &'e Env,
    offsets: &'e [Option<usize>],
    types: Vec<Option<Type>>,
    references: HashMap<ExprId, Reference>,
    /// Variables of comprehensions, innermost last.
    scopes: Vec<(String, Type)>,
    solver: Solver,
    issues: Issues,
}

// === impl Checker: what is known ===

impl Checker<'_> {
    fn type_of(&self, expr: &Expr) -> Type {
        self.types[expr.id].clone().unwrap_or(Type::Error)
    }

    fn set_type(&mut self, expr: &Expr, found: Type) {
        self.types[expr.id] = Some(found);
    }

    fn report(&mut self, id: ExprId, message: String) {
        self.issues.report(self.offsets[id], message);
    }

    fn undeclared(&mut self, expr: &Expr, name: &str) {
        self.report(expr.id, format!("undeclared reference to '{name}' (in container '')"));
        self.set_type(expr, Type::Error);
    }

    fn mismatch(&mut self, expr: &Expr, expected: &Type, found: &Type) {
        self.report(expr.id, format!("expected type '{expected}' but found '{found}'"));
    }

    /// What a name stands for; one that starts with a dot is none of a comprehension's.
    fn lookup(&self, name: &str) -> Option<Found> {
        let local = self.scopes.iter().rev().find(|(local, _)| local == name);
        if let Some((name, found)) = local {
            return Some(Found::Variable(name.clone(), found.clone()));
        }
        self.env.find(name.strip_prefix('.').unwrap_or(name))
    }

    fn refer(&mut self, expr: &Expr, found: Found) {
        match found {
            Found::Variable(name, kind) => {
                self.references.insert(expr.id, Reference::Variable(name));
                self.set_type(expr, kind);
            }
            Found::Type(kind) => {
                self.references.insert(expr.id, Reference::Type(kind.clone()));
                self.set_type(expr, Type::type_of(kind));
            }
        }
    }
}

// === impl Checker: nodes ===

impl Checker<'_> {
    fn check(&mut self, expr: &Expr) {
        match &expr.kind {
            Kind::Literal(literal) => self.set_type(expr, literal_type(literal)),
            Kind::Ident(name) => match self.lookup(name) {
                Some(found) => self.refer(expr, found),
                None => self.undeclared(expr, name),
            },
            Kind::Select(select) => self.check_select(expr, select),
            Kind::Call(call) => self.check_call(expr, call),
            Kind::List(elements) => self.check_list(expr, elements),
            Kind::Map(entries) => self.check_map(expr, entries),
            Kind::Struct(made) => self.check_struct(expr, made),
            Kind::Fold(fold) => self.check_fold(expr, fold),
        }
    }

    fn check_select(&mut self, expr: &Expr, select: &Select) {
        // Dots may belong to a name before they select a field.
        let named = expr.qualified_name().and_then(|name| self.lookup(&name));
        if let Some(found) = named {
            return self.refer(expr, found);
        }
        let field = self.field_type(expr, &select.operand, &select.field, false);
        self.set_type(expr, if select.test { Type::Bool } else { field });
    }

    fn field_type(&mut self, expr: &Expr, operand: &Expr, field: &str, optional: bool) -> Type {
        self.check(operand);
        let operand = self.solver.substitute(&self.type_of(operand));
        let (target, was_optional) = match operand.as_optional() {
            Some(inner) => (inner.clone(), true),
            None => (operand, false),
        };
        let found = match &target {
            Type::Map(_, value) => (**value).clone(),
            Type::Object(name) => self.declared_field(expr.id, name, field),
            Type::Var(_) => {
                self.solver.assign(&Type::Dyn, &target);
                Type::Dyn
            }
            other => {
                if !other.is_dyn_or_error() {
                    let message = format!("type '{other}' does not support field selection");
                    self.report(expr.id, message);
                }
                Type::Dyn
            }
        };
        let found = self.solver.substitute(&found);
        if was_optional || optional { Type::optional(found) } else { found }
    }

    fn declared_field(&mut self, id: ExprId, object: &str, field: &str) -> Type {
        match self.env.find_field(object, field) {
            Some(found) => found,
            None => {
                self.report(id, format!("undefined field '{field}'"));
                Type::Error
            }
        }
    }

    fn check_call(&mut self, expr: &Expr, call: &Call) {
        if call.function == op::OPT_SELECT {
            return self.check_optional_select(expr, call);
        }
        call.args.iter().for_each(|arg| self.check(arg));
        let Some(target) = &call.target else {
            let name = call.function.strip_prefix('.').unwrap_or(&call.function);
            return match self.env.function(name) {
                Some(function) => self.resolve(expr, &function, None, &call.args, false),
                None => self.undeclared(expr, &call.function),
            };
        };
        // `a.b(c)` is the function `a.b` where there is one, otherwise `b` called on `a`.
        let qualified = target.qualified_name().map(|prefix| format!("{prefix}.{}", call.function));
        let function = qualified.and_then(|name| self.env.function(name.trim_start_matches('.')));
        if let Some(function) = function {
            return self.resolve(expr, &function, None, &call.args, true);
        }
        self.check(target);
        match self.env.function(&call.function) {
            Some(function) => self.resolve(expr, &function, Some(target), &call.args, false),
            None => self.undeclared(expr, &call.function),
        }
    }

    fn check_optional_select(&mut self, expr: &Expr, call: &Call) {
        let [operand, Expr { kind: Kind::Literal(Literal::String(field)), .. }] = &call.args[..]
        else {
            unreachable!("the parser makes optional selections of an operand and a literal")
        };
        let found = self.field_type(expr, operand, field, true);
        self.set_type(expr, found);
        let function = self.env.function(op::OPT_SELECT).expect("optionals are always available");
        let overloads = function.overloads.clone();
        self.references.insert(expr.id, Reference::Call { overloads, qualified: false });
    }

    /// Finds the overloads that may be meant; their results decide on the type.
    fn resolve(
        &mut self,
        expr: &Expr,
        function: &Function,
        target: Option<&Expr>,
        args: &[Expr],
        qualified: bool,
    ) {
        if matches!(function.name, op::AND | op::OR) {
            return self.resolve_logic(expr, function, args);
        }
        let types: Vec<Type> =
            target.into_iter().chain(args).map(|arg| self.type_of(arg)).collect();
        let mut overloads = Vec::new();
        let mut result: Option<Type> = None;
        for overload in &function.overloads {
            if overload.member != target.is_some() {
                continue;
            }
            let (params, returned) = self.solver.instantiate(overload);
            if !self.solver.assign_all(&types, &params) {
                continue;
            }
            overloads.push(overload.clone());
            let returned = self.solver.substitute(&returned);
            result = Some(match result {
                None => returned,
                Some(known) if known.is_dyn() || known == returned => known,
                Some(_) => Type::Dyn,
            });
        }
        match result {
            Some(result) => {
                self.set_type(expr, result);
                self.references.insert(expr.id, Reference::Call { overloads, qualified });
            }
            None => self.no_overload(expr, function.name, &types, target.is_some()),
        }
    }

    fn no_overload(&mut self, expr: &Expr, name: &str, types: &[Type], member: bool) {
        let types: Vec<Type> = types.iter().map(|t| self.solver.resolve(t)).collect();
        let signature = match types.split_first() {
            Some((target, args)) if member => format!("{target}.({})", join(args)),
            _ => format!("({})", join(&types)),
        };
        let message = format!("found no matching overload for '{name}' applied to '{signature}'");
        self.report(expr.id, message);
        self.set_type(expr, Type::Error);
    }

    fn resolve_logic(&mut self, expr: &Expr, function: &Function, args: &[Expr]) {
        let mut agree = true;
        for arg in args {
            let found = self.type_of(arg);
            if !self.solver.assign(&found, &Type::Bool) {
                self.mismatch(arg, &Type::Bool, &found);
                agree = false;
            }
        }
        self.set_type(expr, if agree { Type::Bool } else { Type::Error });
        let overloads = function.overloads.clone();
        self.references.insert(expr.id, Reference::Call { overloads, qualified: false });
    }
}

fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}
