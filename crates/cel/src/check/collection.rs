//! Checks what makes lists, maps and objects, and what goes through them.

use super::{Checker, Type};
use crate::ast::{Element, Entry, Expr, Fold, Struct};
use crate::env::Found;

impl Checker<'_> {
    pub(super) fn check_list(&mut self, expr: &Expr, elements: &[Element]) {
        let mut joined = None;
        for Element { value, optional } in elements {
            self.check(value);
            let found = self.unwrapped(value, *optional);
            joined = Some(self.join(joined, found));
        }
        let element = joined.unwrap_or_else(|| self.solver.fresh());
        self.set_type(expr, Type::list(element));
    }

    pub(super) fn check_map(&mut self, expr: &Expr, entries: &[Entry]) {
        let (mut keys, mut values) = (None, None);
        for Entry { key, value, optional } in entries {
            self.check(key);
            let found = self.type_of(key);
            keys = Some(self.join(keys, found));
            self.check(value);
            let found = self.unwrapped(value, *optional);
            values = Some(self.join(values, found));
        }
        let key = keys.unwrap_or_else(|| self.solver.fresh());
        let value = values.unwrap_or_else(|| self.solver.fresh());
        self.set_type(expr, Type::map(key, value));
    }

    /// The type of a value, or of what is inside when it is only added if present.
    fn unwrapped(&mut self, value: &Expr, optional: bool) -> Type {
        let found = self.type_of(value);
        if !optional {
            return found;
        }
        if let Some(inner) = found.as_optional() {
            return inner.clone();
        }
        if !found.is_dyn() {
            self.mismatch(value, &Type::optional(found.clone()), &found);
        }
        found
    }

    /// The common type of what came before and what comes now. Literals of several types are
    /// refused later, where that is not what is wanted.
    fn join(&mut self, before: Option<Type>, now: Type) -> Type {
        match before {
            None => now,
            Some(before) if self.solver.assign(&before, &now) => {
                self.solver.most_general(before, now)
            }
            Some(_) => Type::Dyn,
        }
    }

    pub(super) fn check_struct(&mut self, expr: &Expr, made: &Struct) {
        let Some(found) = self.env.find(made.name.trim_start_matches('.')) else {
            return self.undeclared(expr, &made.name);
        };
        let object = match found {
            Found::Type(kind @ Type::Object(_)) => kind,
            Found::Type(kind) => {
                self.report(expr.id, format!("'{}' is not a message type", kind.name()));
                Type::Error
            }
            Found::Variable(_, kind) => {
                self.report(expr.id, format!("'{}' is not a type", kind.name()));
                Type::Error
            }
        };
        self.set_type(expr, object.clone());
        for field in &made.fields {
            self.check(&field.value);
            let expected = match &object {
                Type::Object(name) => self.declared_field(field.id, name, &field.name),
                _ => Type::Error,
            };
            let found = self.unwrapped(&field.value, field.optional);
            if !self.solver.assign(&expected, &found) {
                let message = format!(
                    "expected type of field '{}' is '{expected}' but provided type is '{found}'",
                    field.name
                );
                self.report(field.id, message);
            }
        }
    }

    pub(super) fn check_fold(&mut self, expr: &Expr, fold: &Fold) {
        self.check(&fold.range);
        self.check(&fold.init);
        let accu = self.type_of(&fold.init);
        let outside = self.scopes.len();
        self.scopes.push((fold.accu.clone(), accu.clone()));
        let (var, var2) = self.loop_types(fold);
        let inside = self.scopes.len();
        self.scopes.push((fold.var.clone(), var));
        if let Some(name) = &fold.var2 {
            self.scopes.push((name.clone(), var2));
        }
        self.check(&fold.condition);
        self.require(&fold.condition, &Type::Bool);
        self.check(&fold.step);
        self.require(&fold.step, &accu);
        self.scopes.truncate(inside);
        self.check(&fold.result);
        self.scopes.truncate(outside);
        let result = self.solver.substitute(&self.type_of(&fold.result));
        self.set_type(expr, result);
    }

    /// The types of a loop's variables. With one, it is the element or the key.
    fn loop_types(&mut self, fold: &Fold) -> (Type, Type) {
        let range = self.solver.substitute(&self.type_of(&fold.range));
        match &range {
            Type::List(element) => match fold.var2 {
                Some(_) => (Type::Int, (**element).clone()),
                None => ((**element).clone(), Type::Dyn),
            },
            Type::Map(key, value) => ((**key).clone(), (**value).clone()),
            Type::Dyn | Type::Error | Type::Var(_) => {
                self.solver.assign(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be \
                     list, map, or dynamic)"
                );
                self.report(fold.range.id, message);
                (Type::Error, Type::Error)
            }
        }
    }

    fn require(&mut self, expr: &Expr, expected: &Type) {
        let found = self.type_of(expr);
        if !self.solver.assign(expected, &found) {
            self.mismatch(expr, expected, &found);
        }
    }
}
