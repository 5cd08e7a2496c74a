//! The tree an expression is parsed into, macros already expanded.
//!
//! Counterpart: cel-go's `common/ast`. Every node has a number; what later stages learn about a
//! node (type, overloads, size) lives in tables indexed by it, so the tree itself never changes.
//! Invariant: numbers are unique within a tree and smaller than its `offsets` is long.

use std::sync::Arc;

pub(crate) type ExprId = usize;

/// A parsed expression and where each of its nodes stands in the text.
#[derive(Debug)]
pub(crate) struct Ast {
    pub root: Expr,
    /// Byte offset of each node, by its number.
    pub offsets: Vec<Option<usize>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub id: ExprId,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Literal(Literal),
    Ident(String),
    Select(Box<Select>),
    Call(Box<Call>),
    List(Vec<Element>),
    Map(Vec<Entry>),
    Struct(Struct),
    Fold(Box<Fold>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
}

#[derive(Clone, Debug)]
pub(crate) struct Select {
    pub operand: Expr,
    pub field: String,
    /// Whether only the field's presence is asked for, as `has()` does.
    pub test: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub function: String,
    pub target: Option<Expr>,
    pub args: Vec<Expr>,
}

#[derive(Clone, Debug)]
pub(crate) struct Element {
    pub value: Expr,
    pub optional: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: Expr,
    pub value: Expr,
    pub optional: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Struct {
    pub name: String,
    pub fields: Vec<Field>,
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub id: ExprId,
    pub name: String,
    pub value: Expr,
    pub optional: bool,
}

/// A loop over a list or map: `accu` starts as `init`, becomes `step` for each element while
/// `condition` holds, and `result` is the value of the whole.
///
/// `cel.bind` is a fold over the empty list whose accumulator is the bound variable.
#[derive(Clone, Debug)]
pub(crate) struct Fold {
    pub range: Expr,
    pub var: String,
    /// The value beside the key or index held by `var`, in the two-variable form.
    pub var2: Option<String>,
    pub accu: String,
    pub init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

/// Names operators have as functions.
pub(crate) mod op {
    pub const CONDITIONAL: &str = "_?_:_";
    pub const AND: &str = "_&&_";
    pub const OR: &str = "_||_";
    pub const NOT: &str = "!_";
    pub const EQUALS: &str = "_==_";
    pub const NOT_EQUALS: &str = "_!=_";
    pub const ADD: &str = "_+_";
    pub const NEGATE: &str = "-_";
    pub const INDEX: &str = "_[_]";
    pub const OPT_INDEX: &str = "_[?_]";
    pub const OPT_SELECT: &str = "_?._";
    pub const NOT_STRICTLY_FALSE: &str = "@not_strictly_false";
}

// === impl Expr ===

impl Expr {
    /// `a.b.c` when the expression is nothing but names joined by dots.
    pub fn qualified_name(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(name) => Some(name.clone()),
            Kind::Select(select) if !select.test => {
                Some(format!("{}.{}", select.operand.qualified_name()?, select.field))
            }
            _ => None,
        }
    }

    pub fn as_ident(&self) -> Option<&str> {
        match &self.kind {
            Kind::Ident(name) => Some(name),
            _ => None,
        }
    }

    /// Calls `visit` on this node and all below it, parents first.
    pub fn walk<'e>(&'e self, visit: &mut dyn FnMut(&'e Expr)) {
        visit(self);
        match &self.kind {
            Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select(select) => select.operand.walk(visit),
            Kind::Call(call) => call.target.iter().chain(&call.args).for_each(|e| e.walk(visit)),
            Kind::List(elements) => elements.iter().for_each(|e| e.value.walk(visit)),
            Kind::Map(entries) => entries.iter().for_each(|entry| {
                entry.key.walk(visit);
                entry.value.walk(visit);
            }),
            Kind::Struct(made) => made.fields.iter().for_each(|field| field.value.walk(visit)),
            Kind::Fold(fold) => {
                let Fold { range, init, condition, step, result, .. } = &**fold;
                [range, init, condition, step, result].into_iter().for_each(|e| e.walk(visit));
            }
        }
    }
}

// === impl Fold ===

impl Fold {
    /// Whether this is a variable binding rather than a loop.
    pub fn is_bind(&self) -> bool {
        matches!(&self.range.kind, Kind::List(elements) if elements.is_empty())
            && matches!(self.condition.kind, Kind::Literal(Literal::Bool(false)))
            && self.accu != crate::macros::ACCUMULATOR
    }
}
