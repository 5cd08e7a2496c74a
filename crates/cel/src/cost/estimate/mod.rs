//! Bounds of what an expression costs, before any data is seen.
//!
//! A checked tree and the declarations of its variables in, the least and the most an evaluation
//! may cost out. Counterpart: cel-go's `checker/cost.go`.
//! Invariant: walks the tree once; every node is visited with the sizes of its parts known.

mod calls;

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{Call, Entry, Expr, ExprId, Fold, Kind, Literal, Select, op};
use crate::check::{Checked, Reference};
use crate::decl::{DeclType, Step};
use crate::library::Overload;
use crate::types::Type;

use super::{Cost, LIST_COST, MAP_COST, Range, STRUCT_COST};

type Decls = HashMap<String, Arc<DeclType>>;
/// From a variable to a part of it: names of fields, `@items`, `@keys`, `@values`, `@indices`.
type Path = Vec<String>;

pub(crate) fn estimate(checked: &Checked, decls: &Decls) -> Range {
    let mut estimator = Estimator {
        checked,
        decls,
        paths: HashMap::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
        locals: Vec::new(),
    };
    estimator.cost(&checked.ast.root)
}

/// Sizes of what is inside a list or map.
#[derive(Clone, Copy, Debug)]
struct Entries {
    list: bool,
    key: Range,
    value: Range,
}

impl Entries {
    fn union(self, other: Entries) -> Entries {
        let Entries { list, key, value } = self;
        Entries { list, key: key.union(other.key), value: value.union(other.value) }
    }
}

/// A variable of a comprehension.
struct Local {
    name: String,
    path: Path,
    size: Option<Range>,
    entries: Option<Entries>,
}

struct Estimator<'c> {
    checked: &'c Checked,
    decls: &'c Decls,
    paths: HashMap<ExprId, Path>,
    sizes: HashMap<ExprId, Range>,
    entries: HashMap<ExprId, Entries>,
    locals: Vec<Local>,
}

// === impl Estimator: nodes ===

impl Estimator<'_> {
    fn cost(&mut self, expr: &Expr) -> Range {
        match &expr.kind {
            Kind::Literal(_) => Range::exactly(0),
            Kind::Ident(name) => {
                let known = self.local(name).map(|local| local.path.clone());
                let path = known.unwrap_or_else(|| vec![name.clone()]);
                self.paths.insert(expr.id, path);
                Range::exactly(1)
            }
            Kind::Select(select) => self.select(expr, select),
            Kind::Call(call) => self.call(expr, call),
            Kind::List(elements) => {
                let values: Vec<_> = elements.iter().map(|element| &element.value).collect();
                let (cost, value) = self.parts(&values);
                let key = Range::exactly(1);
                self.entries.insert(expr.id, Entries { list: true, key, value });
                cost.plus(Range::exactly(LIST_COST))
            }
            Kind::Map(entries) => self.map(expr, entries),
            Kind::Struct(made) => {
                let costs = made.fields.iter().map(|field| self.cost(&field.value));
                costs.fold(Range::exactly(STRUCT_COST), Range::plus)
            }
            Kind::Fold(fold) if fold.is_bind() => self.bind(expr, fold),
            Kind::Fold(fold) => self.fold(expr, fold),
        }
    }

    /// The cost of all, and the size any may have.
    fn parts(&mut self, parts: &[&Expr]) -> (Range, Range) {
        let mut cost = Range::exactly(0);
        let none = Range { min: if parts.is_empty() { 0 } else { u64::MAX }, max: 0 };
        let size = parts.iter().fold(none, |size, part| {
            cost = cost.plus(self.cost(part));
            size.union(self.size_or_unknown(part))
        });
        (cost, size)
    }

    fn map(&mut self, expr: &Expr, entries: &[Entry]) -> Range {
        let keys: Vec<_> = entries.iter().map(|entry| &entry.key).collect();
        let values: Vec<_> = entries.iter().map(|entry| &entry.value).collect();
        let (key_cost, key) = self.parts(&keys);
        let (value_cost, value) = self.parts(&values);
        self.entries.insert(expr.id, Entries { list: false, key, value });
        key_cost.plus(value_cost).plus(Range::exactly(MAP_COST))
    }

    fn select(&mut self, expr: &Expr, select: &Select) -> Range {
        if let Some(Reference::Variable(name)) = self.checked.references.get(&expr.id) {
            self.paths.insert(expr.id, vec![name.clone()]);
            return Range::exactly(1);
        }
        let cost = self.cost(&select.operand);
        if select.test {
            return cost;
        }
        let mut path = self.path(&select.operand);
        path.push(select.field.clone());
        self.paths.insert(expr.id, path);
        match self.checked.type_of(&select.operand) {
            Type::Map(..) | Type::Object(_) => cost.plus(Range::exactly(1)),
            _ => cost,
        }
    }

    fn bind(&mut self, expr: &Expr, fold: &Fold) -> Range {
        let cost = self.cost(&fold.range).plus(self.cost(&fold.init));
        self.push_value(&fold.accu, &fold.init);
        let cost = cost.plus(self.cost(&fold.result));
        self.locals.pop();
        if let Some(size) = self.size(&fold.result) {
            self.sizes.insert(expr.id, size);
        }
        if let Some(entries) = self.entries_of(&fold.result) {
            self.entries.insert(expr.id, entries);
        }
        cost
    }

    fn fold(&mut self, expr: &Expr, fold: &Fold) -> Range {
        let cost = self.cost(&fold.range).plus(self.cost(&fold.init));
        let outside = self.locals.len();
        self.push_value(&fold.accu, &fold.init);
        match &fold.var2 {
            Some(second) => {
                self.push_part(&fold.var, &fold.range, false);
                self.push_part(second, &fold.range, true);
            }
            None => {
                let of_list = self.is_list(&fold.range);
                self.push_part(&fold.var, &fold.range, of_list);
            }
        }
        let turn = self.cost(&fold.condition).plus(self.cost(&fold.step));
        self.locals.truncate(outside + 1);
        let cost = cost.plus(self.cost(&fold.result));
        self.locals.truncate(outside);
        let turns = self.size_or_unknown(&fold.range);
        match &fold.init.kind {
            Kind::Literal(_) => {
                if let Some(size) = self.size(&fold.init) {
                    self.sizes.insert(expr.id, size);
                }
            }
            Kind::List(_) | Kind::Map(_) => {
                self.sizes.insert(expr.id, turns);
                if let Some(entries) = self.entries_of(&fold.step) {
                    self.entries.insert(expr.id, entries);
                }
            }
            _ => {}
        }
        cost.plus(turns.times(turn))
    }

    fn call(&mut self, expr: &Expr, call: &Call) -> Range {
        if call.function == "dyn" && call.target.is_none() {
            let arg = &call.args[0];
            let cost = self.cost(arg).plus(Range::exactly(1));
            if let Some(size) = self.size(arg) {
                self.sizes.insert(expr.id, size);
            }
            if let Some(entries) = self.entries_of(arg) {
                self.entries.insert(expr.id, entries);
            }
            return cost;
        }
        let costs: Vec<Range> = call.args.iter().map(|arg| self.cost(arg)).collect();
        let target = self.checked.target(expr, call);
        let target_cost = target.map_or(Range::exactly(0), |target| self.cost(target));
        let args: Vec<&Expr> = target.into_iter().chain(&call.args).collect();
        let overloads = self.checked.overloads(expr);
        if overloads.is_empty() {
            return Range::exactly(0);
        }
        let mut cost = Range { min: u64::MAX, max: 0 };
        let mut size: Option<Range> = None;
        for overload in overloads {
            let (one, result) = self.overload(expr, overload, &args, &costs);
            cost = cost.union(one);
            size = match (size, result) {
                (Some(a), Some(b)) => Some(a.union(b)),
                (a, b) => a.or(b),
            };
            if let "index_list" | "index_map" = overload.id {
                size = self.entries_of(args[0]).map(|entries| entries.value);
                let mut path = self.path(args[0]);
                let list = overload.id == "index_list";
                path.push(if list { "@items" } else { "@values" }.to_owned());
                self.paths.insert(expr.id, path);
            }
            size = size.or_else(|| self.size(expr));
        }
        if let Some(size) = size {
            self.sizes.insert(expr.id, size);
        }
        target_cost.plus(cost)
    }

    /// The cost of one overload, its arguments included, and the size of what it yields.
    fn overload(
        &mut self,
        expr: &Expr,
        overload: &Overload,
        args: &[&Expr],
        costs: &[Range],
    ) -> (Range, Option<Range>) {
        let all = costs.iter().fold(Range::exactly(0), |sum, cost| sum.plus(*cost));
        match overload.function {
            op::AND | op::OR => (Range { min: costs[0].min, max: all.max }, None),
            op::CONDITIONAL => {
                let (then, otherwise) = (args[1], args[2]);
                if let (Some(a), Some(b)) = (self.entries_of(then), self.entries_of(otherwise)) {
                    self.entries.insert(expr.id, a.union(b));
                }
                let size = self.size_or_unknown(then).union(self.size_or_unknown(otherwise));
                (costs[0].plus(costs[1].union(costs[2])), Some(size))
            }
            _ => {
                if let Cost::Concat | Cost::ConcatLists = overload.cost
                    && let (Some(a), Some(b)) = (self.entries_of(args[0]), self.entries_of(args[1]))
                {
                    self.entries.insert(expr.id, a.union(b));
                }
                let (cost, size) = self.work(overload.cost, args);
                (cost.plus(all), size)
            }
        }
    }
}

// === impl Estimator: sizes ===

impl Estimator<'_> {
    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|local| local.name == name)
    }

    fn push_value(&mut self, name: &str, value: &Expr) {
        let local = Local {
            name: name.to_owned(),
            path: self.path(value),
            size: self.size(value),
            entries: self.entries_of(value),
        };
        self.locals.push(local);
    }

    /// A variable that goes through the keys or the values of a range.
    fn push_part(&mut self, name: &str, range: &Expr, value: bool) {
        let entries = self.entries_of(range);
        let step = match (value, self.is_list(range)) {
            (true, true) => "@items",
            (true, false) => "@values",
            (false, true) => "@indices",
            (false, false) => "@keys",
        };
        let mut path = self.path(range);
        path.push(step.to_owned());
        let size = entries.map(|entries| if value { entries.value } else { entries.key });
        self.locals.push(Local { name: name.to_owned(), path, size, entries: None });
    }

    fn is_list(&self, range: &Expr) -> bool {
        match self.entries_of(range) {
            Some(entries) => entries.list,
            None => matches!(self.checked.type_of(range), Type::List(_)),
        }
    }

    fn path(&self, expr: &Expr) -> Path {
        let local = expr.as_ident().and_then(|name| self.local(name));
        match local {
            Some(local) => local.path.clone(),
            None => self.paths.get(&expr.id).cloned().unwrap_or_default(),
        }
    }

    fn entries_of(&self, expr: &Expr) -> Option<Entries> {
        let local = || self.local(expr.as_ident()?)?.entries;
        self.entries.get(&expr.id).copied().or_else(local)
    }

    fn size(&mut self, expr: &Expr) -> Option<Range> {
        if let Some(size) = self.sizes.get(&expr.id) {
            return Some(*size);
        }
        if let Some(size) = literal_size(expr) {
            return Some(Range::exactly(size));
        }
        if let Some(size) = self.declared(&self.path(expr)) {
            self.sizes.insert(expr.id, size);
            return Some(size);
        }
        if is_scalar(self.checked.type_of(expr)) {
            return Some(Range::exactly(1));
        }
        self.local(expr.as_ident()?)?.size
    }

    fn size_or_unknown(&mut self, expr: &Expr) -> Range {
        self.size(expr).unwrap_or(Range::UNKNOWN)
    }

    /// What is declared about the size of a part of a variable.
    ///
    /// What else can be named, such as a type, is as large as `self`: that makes
    /// `type(self.x) == int` cheap, as upstream has it.
    fn declared(&self, path: &[String]) -> Option<Range> {
        let (variable, steps) = path.split_first()?;
        let mut decl = &**self.decls.get(variable).or_else(|| self.decls.get("self"))?;
        for (at, step) in steps.iter().enumerate() {
            match decl.step(step)? {
                Step::To(next) => decl = next,
                // Keys are text of any length; nothing is inside.
                Step::Key if at + 1 == steps.len() => return Some(Range { min: 0, max: 0 }),
                Step::Key => return None,
            }
        }
        Some(Range { min: 0, max: decl.max_elements })
    }

    /// The size of the elements of a list.
    fn element_size(&self, list: &Expr) -> Range {
        let mut path = self.path(list);
        if path.is_empty() {
            return Range::UNKNOWN;
        }
        path.push("@items".to_owned());
        self.declared(&path).unwrap_or(Range::UNKNOWN)
    }
}

fn literal_size(expr: &Expr) -> Option<u64> {
    Some(match &expr.kind {
        Kind::Literal(Literal::String(text)) => text.chars().count() as u64,
        Kind::Literal(Literal::Bytes(bytes)) => bytes.len() as u64,
        Kind::Literal(_) => 1,
        Kind::List(elements) => elements.len() as u64,
        Kind::Map(entries) => entries.len() as u64,
        _ => return None,
    })
}

fn is_scalar(kind: &Type) -> bool {
    match kind {
        Type::Bool | Type::Double | Type::Duration => true,
        Type::Int | Type::Timestamp | Type::Uint => true,
        other => other.as_optional().is_some_and(is_scalar),
    }
}
