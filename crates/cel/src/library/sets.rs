//! Lists as sets. Counterpart: cel-go's `ext/sets.go`.

use super::{Args, Row, no_overload, row};
use crate::cost::Cost;
use crate::error::EvalError;
use crate::value::{Evaluated, List, Value, contains};

pub(super) const TABLE: &[Row] = &[
    row("sets.contains", "list_sets_contains_list", "(list(T), list(T)) -> bool", |args| {
        sets(args, |a, b| all_in(b, a))
    })
    .costs(Cost::Product(1.0)),
    row("sets.equivalent", "list_sets_equivalent_list", "(list(T), list(T)) -> bool", |args| {
        sets(args, |a, b| Ok(all_in(b, a)? && all_in(a, b)?))
    })
    .costs(Cost::Product(2.0)),
    row("sets.intersects", "list_sets_intersects_list", "(list(T), list(T)) -> bool", |args| {
        sets(args, intersect)
    })
    .costs(Cost::Product(1.0)),
];

type Relation = for<'a> fn(&List<'a>, &List<'a>) -> Result<bool, EvalError>;

fn sets<'a>(args: Args<'_, 'a>, relation: Relation) -> Evaluated<'a> {
    match args {
        [Value::List(a), Value::List(b)] => Ok(Value::Bool(relation(a, b)?)),
        _ => no_overload(),
    }
}

fn all_in<'a>(part: &List<'a>, whole: &List<'a>) -> Result<bool, EvalError> {
    let whole = Value::List(whole.clone());
    for element in part.iter() {
        if !contains(&whole, &element?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn intersect<'a>(a: &List<'a>, b: &List<'a>) -> Result<bool, EvalError> {
    let b = Value::List(b.clone());
    for element in a.iter() {
        if contains(&b, &element?)? {
            return Ok(true);
        }
    }
    Ok(false)
}
