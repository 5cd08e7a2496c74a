//! Functions: what they are called, which types they take, what they do, what they cost.
//!
//! Each library is one file with one table; a row names the function, its overload, its signature
//! as text, and the Rust function behind it. Counterpart: cel-go's `stdlib` and `ext`,
//! `k8s.io/apiserver/pkg/cel/library`.
//! Invariant: a function answers arguments of the wrong kind with `NoSuchOverload`, which makes
//! the next overload of that name be tried.

pub(crate) mod authorizer;
mod collections;
mod comprehension;
mod convert;
mod format;
pub(crate) mod formatting;
mod ip;
mod jsonpatch;
mod lists;
mod operators;
mod optional;
mod quantity;
mod regex;
mod semver;
mod sets;
mod signature;
mod strings;
pub(crate) mod time;
mod url;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use crate::cost::Cost;
use crate::error::EvalError;
use crate::types::Type;
use crate::value::{Evaluated, Value};

pub(crate) use self::comprehension::insert_into;
pub(crate) use self::convert::type_value;
pub(crate) use self::quantity::value as quantity;
pub(crate) use self::regex::compile as compile_regex;
pub(crate) use self::semver::value as semver;

/// The work of a function: arguments in, the one it is called on first.
pub(crate) type Call = for<'a> fn(&[Value<'a>]) -> Evaluated<'a>;

/// What a function is given.
pub(crate) type Args<'v, 'a> = &'v [Value<'a>];

/// One row of a library's table.
pub(crate) struct Row {
    name: &'static str,
    id: &'static str,
    /// `(int, string) -> bool`, or `list(T).(T) -> int` for what is called on a value.
    signature: &'static str,
    call: Call,
    cost: Cost,
}

/// The answer to arguments a function is not made for.
pub(crate) fn no_overload<'a>() -> Evaluated<'a> {
    Err(EvalError::NoSuchOverload)
}

pub(crate) const fn row(
    name: &'static str,
    id: &'static str,
    signature: &'static str,
    call: Call,
) -> Row {
    Row { name, id, signature, call, cost: Cost::Fixed(1) }
}

impl Row {
    pub(crate) const fn costs(self, cost: Cost) -> Row {
        Row { cost, ..self }
    }
}

/// All overloads of one name, in the order they are tried.
#[derive(Debug)]
pub(crate) struct Function {
    pub name: &'static str,
    pub overloads: Vec<Arc<Overload>>,
}

#[derive(Debug)]
pub(crate) struct Overload {
    /// The name of the function.
    pub function: &'static str,
    pub id: &'static str,
    /// Whether it is called on its first parameter.
    pub member: bool,
    pub params: Vec<Type>,
    pub result: Type,
    /// How many type variables the signature has.
    pub vars: usize,
    pub call: Call,
    pub cost: Cost,
}

pub(crate) type Functions = HashMap<&'static str, Arc<Function>>;

/// The order of libraries is the order in which overloads of one name are tried.
static KUBERNETES: [&[Row]; 17] = [
    operators::TABLE,
    convert::TABLE,
    collections::TABLE,
    time::TABLE,
    url::TABLE,
    regex::TABLE,
    authorizer::TABLE,
    optional::TABLE,
    quantity::TABLE,
    strings::TABLE,
    sets::TABLE,
    ip::TABLE,
    ip::CIDR,
    format::TABLE,
    comprehension::TABLE,
    semver::TABLE,
    jsonpatch::TABLE,
];

/// Every function Kubernetes has.
pub(crate) fn kubernetes() -> Arc<Functions> {
    static FUNCTIONS: LazyLock<Arc<Functions>> = LazyLock::new(|| {
        Arc::new(collect(KUBERNETES.iter().chain(&lists::TABLES).flat_map(|table| table.iter())))
    });
    FUNCTIONS.clone()
}

fn collect<'r>(rows: impl Iterator<Item = &'r Row>) -> Functions {
    let mut functions: HashMap<&'static str, Function> = HashMap::new();
    for row in rows {
        let function = functions
            .entry(row.name)
            .or_insert_with(|| Function { name: row.name, overloads: Vec::new() });
        function.overloads.push(Arc::new(signature::overload(row)));
    }
    functions.into_iter().map(|(name, function)| (name, Arc::new(function))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overloads_have_names_of_their_own() {
        let functions = kubernetes();
        for function in functions.values() {
            let mut ids: Vec<_> = function.overloads.iter().map(|o| o.id).collect();
            ids.sort();
            let count = ids.len();
            ids.dedup();
            assert_eq!(ids.len(), count, "{}", function.name);
        }
    }
}
