//! Calls that are not calls: `has`, `all`, `map`, `optMap`, `cel.bind` and their kin.
//!
//! The call in, the tree it stands for out, at parse time. Counterpart: the macros of cel-go's
//! `parser` and of its `comprehensions`, `optional`, `lists` and `bindings` libraries.
//! Invariant: nodes a macro makes stand where the macro was called.

use crate::ast::{Call, Element, Entry, Expr, Field, Fold, Kind, Literal, Select, Struct, op};
use crate::parser::{Parser, Stop};

/// The accumulator of loops; no name a user can write.
pub(crate) const ACCUMULATOR: &str = "@result";
const UNUSED: &str = "#unused";
const SORT_INPUT: &str = "@__sortBy_input__";

/// Syntax that is not always available.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Features {
    pub quoted_identifiers: bool,
    pub bindings: bool,
}

type Expanded = Result<Expr, Stop>;
pub(crate) type Expand = fn(&mut Builder<'_, '_>, Option<Expr>, Vec<Expr>) -> Expanded;

/// Name, whether it is called on something, number of arguments, expansion.
const MACROS: [(&str, bool, usize, Expand); 20] = [
    ("has", false, 1, has),
    ("all", true, 2, |b, target, args| quantifier(b, Quantifier::All, target, args)),
    ("exists", true, 2, |b, target, args| quantifier(b, Quantifier::Exists, target, args)),
    ("exists_one", true, 2, |b, target, args| quantifier(b, Quantifier::One, target, args)),
    ("existsOne", true, 2, |b, target, args| quantifier(b, Quantifier::One, target, args)),
    ("map", true, 2, map),
    ("map", true, 3, map),
    ("filter", true, 2, filter),
    ("all", true, 3, |b, target, args| quantifier(b, Quantifier::All, target, args)),
    ("exists", true, 3, |b, target, args| quantifier(b, Quantifier::Exists, target, args)),
    ("exists_one", true, 3, |b, target, args| quantifier(b, Quantifier::One, target, args)),
    ("existsOne", true, 3, |b, target, args| quantifier(b, Quantifier::One, target, args)),
    ("transformList", true, 3, transform_list),
    ("transformList", true, 4, transform_list),
    ("transformMap", true, 3, |b, target, args| transform_map(b, target, args, false)),
    ("transformMap", true, 4, |b, target, args| transform_map(b, target, args, false)),
    ("transformMapEntry", true, 3, |b, target, args| transform_map(b, target, args, true)),
    ("transformMapEntry", true, 4, |b, target, args| transform_map(b, target, args, true)),
    ("optMap", true, 2, |b, target, args| opt_map(b, target, args, "optMap")),
    ("optFlatMap", true, 2, |b, target, args| opt_map(b, target, args, "optFlatMap")),
];

pub(crate) fn find(
    function: &str,
    receiver: bool,
    args: usize,
    features: Features,
) -> Option<Expand> {
    match (function, receiver, args) {
        ("sortBy", true, 2) => return Some(sort_by),
        ("bind", true, 3) if features.bindings => return Some(bind),
        _ => {}
    }
    let found = MACROS
        .iter()
        .find(|(name, on, count, _)| *name == function && *on == receiver && *count == args);
    found.map(|(.., expand)| *expand)
}

/// Makes nodes at the place of one macro call.
pub(crate) struct Builder<'p, 't> {
    pub parser: &'p mut Parser<'t>,
    pub offset: usize,
}

// === impl Builder ===

impl Builder<'_, '_> {
    fn node(&mut self, kind: Kind) -> Expanded {
        self.parser.new_node(self.offset, kind)
    }

    fn literal(&mut self, literal: Literal) -> Expanded {
        self.node(Kind::Literal(literal))
    }

    fn ident(&mut self, name: &str) -> Expanded {
        self.node(Kind::Ident(name.to_owned()))
    }

    fn accu(&mut self) -> Expanded {
        self.ident(ACCUMULATOR)
    }

    fn list(&mut self, values: Vec<Expr>) -> Expanded {
        let element = |value| Element { value, optional: false };
        self.node(Kind::List(values.into_iter().map(element).collect()))
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expanded {
        self.parser.plain_call(self.offset, function, None, args)
    }

    fn member_call(&mut self, function: &str, target: Expr, args: Vec<Expr>) -> Expanded {
        self.parser.plain_call(self.offset, function, Some(target), args)
    }

    fn fold(&mut self, fold: Fold) -> Expanded {
        self.node(Kind::Fold(Box::new(fold)))
    }

    /// `step` when the filter holds, otherwise the accumulator as it was.
    fn filtered(&mut self, filter: Option<Expr>, step: Expr) -> Expanded {
        let Some(filter) = filter else { return Ok(step) };
        let accu = self.accu()?;
        self.call(op::CONDITIONAL, vec![filter, step, accu])
    }

    /// A variable holding `init` while `body` is evaluated.
    fn binding(&mut self, name: &str, init: Expr, body: Expr) -> Expanded {
        let fold = Fold {
            range: self.list(Vec::new())?,
            var: UNUSED.to_owned(),
            var2: None,
            accu: name.to_owned(),
            init,
            condition: self.literal(Literal::Bool(false))?,
            step: self.ident(name)?,
            result: body,
        };
        self.fold(fold)
    }

    /// Nothing but a stand-in: the mistake is reported at `at`.
    fn mistake(&mut self, at: &Expr, message: &str) -> Expanded {
        let offset = self.parser.offset_of(at).unwrap_or(self.offset);
        self.parser.report_and_go_on(offset, message)
    }

    /// The same tree with nodes of its own.
    fn copy(&mut self, expr: &Expr) -> Expanded {
        let offset = self.parser.offset_of(expr).unwrap_or(self.offset);
        let kind = match &expr.kind {
            Kind::Literal(_) | Kind::Ident(_) => expr.kind.clone(),
            Kind::Select(select) => {
                let Select { operand, field, test } = &**select;
                let operand = self.copy(operand)?;
                Kind::Select(Box::new(Select { operand, field: field.clone(), test: *test }))
            }
            Kind::Call(call) => {
                let Call { function, target, args } = &**call;
                let target = target.as_ref().map(|target| self.copy(target)).transpose()?;
                let args = args.iter().map(|arg| self.copy(arg)).collect::<Result<_, _>>()?;
                Kind::Call(Box::new(Call { function: function.clone(), target, args }))
            }
            Kind::List(elements) => {
                let copy = |element: &Element| {
                    let value = self.copy(&element.value)?;
                    Ok(Element { value, optional: element.optional })
                };
                Kind::List(elements.iter().map(copy).collect::<Result<_, _>>()?)
            }
            Kind::Map(entries) => {
                let copy = |entry: &Entry| {
                    let (key, value) = (self.copy(&entry.key)?, self.copy(&entry.value)?);
                    Ok(Entry { key, value, optional: entry.optional })
                };
                Kind::Map(entries.iter().map(copy).collect::<Result<_, _>>()?)
            }
            Kind::Struct(made) => Kind::Struct(self.copy_struct(made)?),
            Kind::Fold(fold) => Kind::Fold(Box::new(self.copy_fold(fold)?)),
        };
        self.parser.new_node(offset, kind)
    }

    fn copy_struct(&mut self, made: &Struct) -> Result<Struct, Stop> {
        let copy = |field: &Field| {
            let value = self.copy(&field.value)?;
            let id = self.ident(&field.name)?.id;
            Ok(Field { id, name: field.name.clone(), value, optional: field.optional })
        };
        let fields = made.fields.iter().map(copy).collect::<Result<_, _>>()?;
        Ok(Struct { name: made.name.clone(), fields })
    }

    fn copy_fold(&mut self, fold: &Fold) -> Result<Fold, Stop> {
        Ok(Fold {
            range: self.copy(&fold.range)?,
            var: fold.var.clone(),
            var2: fold.var2.clone(),
            accu: fold.accu.clone(),
            init: self.copy(&fold.init)?,
            condition: self.copy(&fold.condition)?,
            step: self.copy(&fold.step)?,
            result: self.copy(&fold.result)?,
        })
    }
}

// === expansions ===

#[derive(Clone, Copy, PartialEq)]
enum Quantifier {
    All,
    Exists,
    One,
}

fn has(b: &mut Builder<'_, '_>, _: Option<Expr>, args: Vec<Expr>) -> Expanded {
    match &args[0].kind {
        Kind::Select(select) => {
            let test = Select { test: true, ..(**select).clone() };
            b.node(Kind::Select(Box::new(test)))
        }
        _ => b.mistake(&args[0], "invalid argument to has() macro"),
    }
}

/// The variables of a loop.
struct Vars {
    first: String,
    second: Option<String>,
}

/// What is wrong, and with which argument.
type Mistake = (Expr, String);

fn var(arg: &Expr, message: &str) -> Result<String, Mistake> {
    match arg.as_ident() {
        None => Err((arg.clone(), message.to_owned())),
        Some(ACCUMULATOR | "__result__") => {
            let message = "iteration variable overwrites accumulator variable";
            Err((arg.clone(), message.to_owned()))
        }
        Some(name) => Ok(name.to_owned()),
    }
}

/// Takes one variable off the front of the arguments.
fn one_var(args: &mut Vec<Expr>, message: &str) -> Result<Vars, Mistake> {
    Ok(Vars { first: var(&args.remove(0), message)?, second: None })
}

/// Takes two variables off the front of the arguments.
fn two_vars(args: &mut Vec<Expr>) -> Result<Vars, Mistake> {
    let (first_arg, second_arg) = (args.remove(0), args.remove(0));
    let first = var(&first_arg, "argument must be a simple name")?;
    let second = var(&second_arg, "argument must be a simple name")?;
    if first == second {
        return Err((second_arg, format!("duplicate variable name: {first}")));
    }
    Ok(Vars { first, second: Some(second) })
}

fn quantifier(
    b: &mut Builder<'_, '_>,
    kind: Quantifier,
    target: Option<Expr>,
    mut args: Vec<Expr>,
) -> Expanded {
    let vars = match args.len() {
        3 => two_vars(&mut args),
        _ => one_var(&mut args, "argument must be a simple name"),
    };
    let Vars { first, second } = match vars {
        Ok(vars) => vars,
        Err((at, message)) => return b.mistake(&at, &message),
    };
    let predicate = args.remove(0);
    let (init, condition, step, result) = match kind {
        Quantifier::One => exactly_one(b, predicate)?,
        all_or_exists => short_circuiting(b, all_or_exists == Quantifier::All, predicate)?,
    };
    let range = target.expect("quantifiers have a target");
    let accu = ACCUMULATOR.to_owned();
    b.fold(Fold { range, var: first, var2: second, accu, init, condition, step, result })
}

type Parts = (Expr, Expr, Expr, Expr);

fn short_circuiting(b: &mut Builder<'_, '_>, all: bool, predicate: Expr) -> Result<Parts, Stop> {
    let init = b.literal(Literal::Bool(all))?;
    let accu = b.accu()?;
    let go_on = if all { accu } else { b.call(op::NOT, vec![accu])? };
    let condition = b.call(op::NOT_STRICTLY_FALSE, vec![go_on])?;
    let accu = b.accu()?;
    let step = b.call(if all { op::AND } else { op::OR }, vec![accu, predicate])?;
    Ok((init, condition, step, b.accu()?))
}

fn exactly_one(b: &mut Builder<'_, '_>, predicate: Expr) -> Result<Parts, Stop> {
    let init = b.literal(Literal::Int(0))?;
    let condition = b.literal(Literal::Bool(true))?;
    let (accu, one) = (b.accu()?, b.literal(Literal::Int(1))?);
    let more = b.call(op::ADD, vec![accu, one])?;
    let step = b.filtered(Some(predicate), more)?;
    let (accu, one) = (b.accu()?, b.literal(Literal::Int(1))?);
    Ok((init, condition, step, b.call(op::EQUALS, vec![accu, one])?))
}

/// A loop that appends to a list.
fn collect(
    b: &mut Builder<'_, '_>,
    target: Option<Expr>,
    Vars { first, second }: Vars,
    filter: Option<Expr>,
    element: Expr,
) -> Expanded {
    let init = b.list(Vec::new())?;
    let condition = b.literal(Literal::Bool(true))?;
    let (accu, element) = (b.accu()?, b.list(vec![element])?);
    let step = b.call(op::ADD, vec![accu, element])?;
    let step = b.filtered(filter, step)?;
    let range = target.expect("loops have a target");
    let result = b.accu()?;
    let accu = ACCUMULATOR.to_owned();
    b.fold(Fold { range, var: first, var2: second, accu, init, condition, step, result })
}

fn map(b: &mut Builder<'_, '_>, target: Option<Expr>, mut args: Vec<Expr>) -> Expanded {
    let vars = match one_var(&mut args, "argument is not an identifier") {
        Ok(vars) => vars,
        Err((at, message)) => return b.mistake(&at, &message),
    };
    let filter = (args.len() == 2).then(|| args.remove(0));
    collect(b, target, vars, filter, args.remove(0))
}

fn filter(b: &mut Builder<'_, '_>, target: Option<Expr>, mut args: Vec<Expr>) -> Expanded {
    let element = args[0].clone();
    let vars = match one_var(&mut args, "argument is not an identifier") {
        Ok(vars) => vars,
        Err((at, message)) => return b.mistake(&at, &message),
    };
    collect(b, target, vars, Some(args.remove(0)), element)
}

fn transform_list(b: &mut Builder<'_, '_>, target: Option<Expr>, mut args: Vec<Expr>) -> Expanded {
    let vars = match two_vars(&mut args) {
        Ok(vars) => vars,
        Err((at, message)) => return b.mistake(&at, &message),
    };
    let filter = (args.len() == 2).then(|| args.remove(0));
    collect(b, target, vars, filter, args.remove(0))
}

/// With `entry`, each step yields an entry; otherwise a value for the key that is kept.
fn transform_map(
    b: &mut Builder<'_, '_>,
    target: Option<Expr>,
    mut args: Vec<Expr>,
    entry: bool,
) -> Expanded {
    let Vars { first, second } = match two_vars(&mut args) {
        Ok(vars) => vars,
        Err((at, message)) => return b.mistake(&at, &message),
    };
    let filter = (args.len() == 2).then(|| args.remove(0));
    let made = args.remove(0);
    let init = b.node(Kind::Map(Vec::new()))?;
    let condition = b.literal(Literal::Bool(true))?;
    let accu = b.accu()?;
    let arguments = if entry { vec![accu, made] } else { vec![accu, b.ident(&first)?, made] };
    let step = b.call("cel.@mapInsert", arguments)?;
    let step = b.filtered(filter, step)?;
    let range = target.expect("loops have a target");
    let result = b.accu()?;
    let accu = ACCUMULATOR.to_owned();
    b.fold(Fold { range, var: first, var2: second, accu, init, condition, step, result })
}

/// `optMap` wraps what the body yields; `optFlatMap` expects it to be an optional already.
fn opt_map(
    b: &mut Builder<'_, '_>,
    target: Option<Expr>,
    mut args: Vec<Expr>,
    name: &str,
) -> Expanded {
    let Some(var) = args[0].as_ident().map(str::to_owned) else {
        return b.mistake(&args[0], &format!("{name}() variable name must be a simple identifier"));
    };
    let target = target.expect("optional macros have a target");
    let copy = b.copy(&target)?;
    let has = b.member_call("hasValue", target, Vec::new())?;
    let value = b.member_call("value", copy, Vec::new())?;
    let mut some = b.binding(&var, value, args.remove(1))?;
    if name == "optMap" {
        some = b.call("optional.of", vec![some])?;
    }
    let none = b.call("optional.none", Vec::new())?;
    b.call(op::CONDITIONAL, vec![has, some, none])
}

fn sort_by(b: &mut Builder<'_, '_>, target: Option<Expr>, args: Vec<Expr>) -> Expanded {
    let target = target.expect("sortBy has a target");
    if matches!(target.kind, Kind::Literal(_) | Kind::Map(_) | Kind::Struct(_)) {
        let message = "sortBy can only be applied to a list, identifier, comprehension, call or \
                       select expression";
        return b.mistake(&target, message);
    }
    let input = b.ident(SORT_INPUT)?;
    let keys = map(b, Some(input), args)?;
    let input = b.ident(SORT_INPUT)?;
    let sorted = b.member_call("@sortByAssociatedKeys", input, vec![keys])?;
    b.binding(SORT_INPUT, target, sorted)
}

fn bind(b: &mut Builder<'_, '_>, target: Option<Expr>, mut args: Vec<Expr>) -> Expanded {
    let target = target.expect("bind is called on cel");
    if target.as_ident() != Some("cel") {
        return b.member_call("bind", target, args);
    }
    let Some(var) = args[0].as_ident().map(str::to_owned) else {
        return b.mistake(&args[0], "cel.bind() variable names must be simple identifiers");
    };
    let body = args.remove(2);
    b.binding(&var, args.remove(1), body)
}
