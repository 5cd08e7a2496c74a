//! Decides whether one type may stand for another, solving for type variables on the way.
//!
//! Counterpart: cel-go's `checker/types.go`. Invariant: what a failed attempt has learnt is
//! forgotten; no variable is solved by a type it occurs in.

use std::sync::Arc;

use crate::library::Overload;
use crate::types::Type;

#[derive(Debug, Default)]
pub(super) struct Solver {
    /// What each variable stands for, as far as known.
    known: Vec<Option<Type>>,
    /// Changes since the attempt began, to be undone when it fails.
    changes: Vec<(usize, Option<Type>)>,
}

// === impl Solver ===

impl Solver {
    pub fn fresh(&mut self) -> Type {
        self.known.push(None);
        Type::Var(self.known.len() - 1)
    }

    /// Parameters and result of an overload, with variables of their own.
    pub fn instantiate(&mut self, overload: &Overload) -> (Vec<Type>, Type) {
        let first = self.known.len();
        self.known.resize(first + overload.vars, None);
        let params = overload.params.iter().map(|param| shift(param, first)).collect();
        (params, shift(&overload.result, first))
    }

    /// Whether `b` may stand where `a` is expected, or the other way round.
    pub fn assign(&mut self, a: &Type, b: &Type) -> bool {
        self.attempt(|solver| solver.agree(a, b))
    }

    pub fn assign_all(&mut self, a: &[Type], b: &[Type]) -> bool {
        self.attempt(|solver| solver.all_agree(a, b))
    }

    fn attempt(&mut self, agree: impl FnOnce(&mut Self) -> bool) -> bool {
        self.changes.clear();
        let agreed = agree(self);
        if !agreed {
            for (var, before) in std::mem::take(&mut self.changes).into_iter().rev() {
                self.known[var] = before;
            }
        }
        agreed
    }

    /// The type with known variables replaced.
    pub fn substitute(&self, kind: &Type) -> Type {
        self.replace(kind, &Type::Var)
    }

    /// The type with known variables replaced and unknown ones being `dyn`.
    pub fn resolve(&self, kind: &Type) -> Type {
        self.replace(kind, &|_| Type::Dyn)
    }

    fn replace(&self, kind: &Type, unknown: &dyn Fn(usize) -> Type) -> Type {
        map_vars(kind, &|var| match &self.known[var] {
            Some(known) => self.replace(known, unknown),
            None => unknown(var),
        })
    }

    /// The one of two agreeing types that tells less.
    pub fn most_general(&self, a: Type, b: Type) -> Type {
        if less_specific(&a, &b) { a } else { b }
    }

    fn all_agree(&mut self, a: &[Type], b: &[Type]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| self.agree(a, b))
    }

    fn agree(&mut self, a: &Type, b: &Type) -> bool {
        if let Type::Var(var) = b {
            let solved = self.known[*var].is_some();
            if self.solve(*var, a) {
                return true;
            }
            if solved {
                return false;
            }
        }
        if let Type::Var(var) = a {
            return self.solve(*var, b);
        }
        if a.is_dyn_or_error() || b.is_dyn_or_error() {
            return true;
        }
        match (a, b) {
            (Type::Null, other) | (other, Type::Null) => nullable(other),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(a), Type::List(b)) => self.agree(a, b),
            (Type::Map(key, value), Type::Map(other_key, other_value)) => {
                self.agree(key, other_key) && self.agree(value, other_value)
            }
            (Type::Opaque(name, params), Type::Opaque(other_name, other_params)) => {
                name == other_name && self.all_agree(params, other_params)
            }
            (a, b) => a == b,
        }
    }

    /// Makes `var` stand for `kind`, or for what both it and `kind` can be.
    fn solve(&mut self, var: usize, kind: &Type) -> bool {
        if *kind == Type::Var(var) {
            return true;
        }
        let solution = match self.known[var].clone() {
            Some(known) if known == *kind => return true,
            Some(known) => {
                if !self.agree(kind, &known) {
                    return false;
                }
                let general = self.most_general(kind.clone(), known);
                // The types agree even where the variable cannot be made to say so.
                if self.occurs(var, &general) {
                    return true;
                }
                general
            }
            None if self.occurs(var, kind) => return false,
            None => kind.clone(),
        };
        self.changes.push((var, self.known[var].take()));
        self.known[var] = Some(solution);
        true
    }

    fn occurs(&self, var: usize, within: &Type) -> bool {
        match within {
            Type::Var(other) if *other == var => true,
            Type::Var(other) => {
                self.known[*other].as_ref().is_some_and(|known| self.occurs(var, known))
            }
            Type::List(element) => self.occurs(var, element),
            Type::Map(key, value) => self.occurs(var, key) || self.occurs(var, value),
            Type::Type(Some(inner)) => self.occurs(var, inner),
            Type::Opaque(_, params) => params.iter().any(|param| self.occurs(var, param)),
            _ => false,
        }
    }
}

/// Types whose values may be absent.
fn nullable(kind: &Type) -> bool {
    matches!(
        kind,
        Type::Null | Type::Object(_) | Type::Opaque(..) | Type::Duration | Type::Timestamp
    )
}

fn less_specific(a: &Type, b: &Type) -> bool {
    if a.is_dyn() || matches!(a, Type::Var(_)) {
        return true;
    }
    if b.is_dyn() || matches!(b, Type::Var(_)) {
        return false;
    }
    match (a, b) {
        (Type::List(a), Type::List(b)) => less_specific(a, b),
        (Type::Map(key, value), Type::Map(other_key, other_value)) => {
            less_specific(key, other_key) && less_specific(value, other_value)
        }
        (Type::Opaque(name, params), Type::Opaque(other_name, other_params)) => {
            name == other_name
                && params.len() == other_params.len()
                && params.iter().zip(&**other_params).all(|(a, b)| less_specific(a, b))
        }
        (Type::Type(_), Type::Type(_)) => true,
        (a, b) => a == b,
    }
}

fn shift(kind: &Type, by: usize) -> Type {
    map_vars(kind, &|var| Type::Var(var + by))
}

fn map_vars(kind: &Type, replace: &dyn Fn(usize) -> Type) -> Type {
    let map = |inner: &Arc<Type>| Arc::new(map_vars(inner, replace));
    match kind {
        Type::Var(var) => replace(*var),
        Type::List(element) => Type::List(map(element)),
        Type::Map(key, value) => Type::Map(map(key), map(value)),
        Type::Type(Some(inner)) => Type::Type(Some(map(inner))),
        Type::Opaque(name, params) if !params.is_empty() => {
            Type::Opaque(name.clone(), params.iter().map(|p| map_vars(p, replace)).collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_attempt_leaves_nothing_behind() {
        let mut solver = Solver::default();
        let var = solver.fresh();
        assert!(!solver.assign_all(&[Type::Int, Type::Int], &[var.clone(), Type::String]));
        assert_eq!(solver.resolve(&var), Type::Dyn);
        assert!(solver.assign(&Type::Int, &var));
        assert_eq!(solver.resolve(&var), Type::Int);
    }

    #[test]
    fn a_variable_is_not_solved_by_itself() {
        let mut solver = Solver::default();
        let var = solver.fresh();
        assert!(!solver.assign(&Type::list(var.clone()), &var));
    }
}
