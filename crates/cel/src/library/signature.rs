//! Reads the signatures of the libraries' tables.
//!
//! `list(T).(int) -> optional(T)`: the type a function is called on, parameters, result. Single
//! capitals are type variables. Invariant: tables are ours, so a signature that cannot be read is
//! a broken table and panics; a test reads all of them.

use std::sync::Arc;

use super::{Overload, Row};
use crate::types::Type;

/// Library types that have parameters or are not equal to `null`.
const OPAQUE: [&str; 2] = ["net.IP", "net.CIDR"];

pub(super) fn overload(row: &Row) -> Overload {
    let mut reader = Reader { rest: row.signature, vars: Vec::new() };
    let mut params = Vec::new();
    let member = !reader.rest.starts_with('(');
    if member {
        params.push(reader.read());
        reader.skip(".");
    }
    params.extend(reader.list());
    reader.skip("->");
    let result = reader.read();
    assert!(reader.rest.is_empty(), "{}: left over: {}", row.id, reader.rest);
    Overload {
        function: row.name,
        id: row.id,
        member,
        params,
        result,
        vars: reader.vars.len(),
        call: row.call,
        cost: row.cost,
    }
}

struct Reader<'s> {
    rest: &'s str,
    vars: Vec<&'s str>,
}

impl<'s> Reader<'s> {
    fn skip(&mut self, text: &str) {
        let rest = self.rest.trim_start().strip_prefix(text);
        self.rest = rest.unwrap_or_else(|| panic!("{text} expected: {}", self.rest)).trim_start();
    }

    fn list(&mut self) -> Vec<Type> {
        self.skip("(");
        let mut types = Vec::new();
        while !self.rest.starts_with(')') {
            types.push(self.read());
            if self.rest.starts_with(',') {
                self.skip(",");
            }
        }
        self.skip(")");
        types
    }

    fn read(&mut self) -> Type {
        let end = self
            .rest
            .char_indices()
            .find(|(at, c)| match c {
                // A dot is part of a name, unless it precedes the parameters.
                '.' => self.rest[at + 1..].starts_with('('),
                c => !c.is_alphanumeric() && *c != '_',
            })
            .map_or(self.rest.len(), |(at, _)| at);
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        let params = if rest.starts_with('(') { self.list() } else { Vec::new() };
        self.named(name, params)
    }

    fn named(&mut self, name: &'s str, params: Vec<Type>) -> Type {
        let mut params = params.into_iter();
        let mut param = || params.next().unwrap_or_else(|| panic!("{name} needs a parameter"));
        match name {
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "duration" => Type::Duration,
            "timestamp" => Type::Timestamp,
            "null" => Type::Null,
            "dyn" => Type::Dyn,
            "list" => Type::list(param()),
            "map" => Type::map(param(), param()),
            "optional" => Type::optional(param()),
            "type" => Type::type_of(param()),
            name if name.len() == 1 => self.var(name),
            name if OPAQUE.contains(&name) => Type::Opaque(Arc::from(name), Arc::from([])),
            name if name.contains('.') => Type::object(name),
            name => panic!("no such type: {name}"),
        }
    }

    fn var(&mut self, name: &'s str) -> Type {
        let known = self.vars.iter().position(|var| *var == name);
        Type::Var(known.unwrap_or_else(|| {
            self.vars.push(name);
            self.vars.len() - 1
        }))
    }
}
