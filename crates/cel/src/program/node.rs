//! The form expressions are evaluated in.
//!
//! Names are resolved, constants computed, and what loops build is built in place.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::library::Overload;
use crate::value::{Key, Value};

#[derive(Debug)]
pub(super) enum Node {
    Constant(Value<'static>),
    Variable(String),
    /// A field of a variable, worked out when asked for.
    VariableField {
        variable: String,
        field: String,
    },
    /// A variable of a comprehension, by its place on the stack.
    Local(usize),
    Select {
        operand: Box<Node>,
        field: String,
        how: Select,
    },
    Index {
        operand: Box<Node>,
        index: Box<Node>,
        optional: bool,
    },
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Conditional(Box<[Node; 3]>),
    Equal {
        sides: Box<[Node; 2]>,
        negated: bool,
    },
    /// `or` and `orValue`, which look at their argument only when there is no value.
    OrElse {
        optional: Box<Node>,
        other: Box<Node>,
        unwrap: bool,
    },
    NotStrictlyFalse(Box<Node>),
    /// `in` with a list that is known.
    OneOf {
        value: Box<Node>,
        set: BTreeSet<Key>,
    },
    Call(Box<Call>),
    List(Vec<(Node, bool)>),
    Map(Vec<MapEntry>),
    Struct {
        name: Arc<str>,
        fields: Vec<StructField>,
    },
    Fold(Box<Fold>),
    /// A variable on the stack while the body is evaluated.
    Bind {
        init: Box<Node>,
        body: Box<Node>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Select {
    Value,
    Presence,
    Optional,
}

#[derive(Debug)]
pub(super) struct Call {
    pub function: &'static str,
    pub overloads: Vec<Arc<Overload>>,
    pub args: Vec<Node>,
}

#[derive(Debug)]
pub(super) struct MapEntry {
    pub key: Node,
    pub value: Node,
    pub optional: bool,
}

#[derive(Debug)]
pub(super) struct StructField {
    pub name: String,
    pub value: Node,
    pub optional: bool,
}

/// A loop. Its accumulator is on the stack below its variables.
#[derive(Debug)]
pub(super) struct Fold {
    pub range: Node,
    pub two: bool,
    pub init: Node,
    pub condition: Node,
    pub step: Step,
    pub result: Node,
}

#[derive(Debug)]
pub(super) enum Step {
    /// The accumulator becomes the value of this.
    Become(Node),
    /// The accumulator grows by this, where the filter holds.
    Grow { filter: Option<Node>, by: Growth },
}

#[derive(Debug)]
pub(super) enum Growth {
    /// An element of a list.
    Element(Node),
    /// A key and a value, or a map, that go into a map.
    Entry(Vec<Node>),
}
