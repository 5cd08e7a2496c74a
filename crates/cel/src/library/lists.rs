//! Lists. Counterpart: `library/lists.go` of `k8s.io/apiserver` and cel-go's `ext/lists.go`
//! (version 3).

use std::cmp::Ordering;

use super::{Args, Row, no_overload, row};
use crate::cost::Cost;
use crate::error::EvalError;
use crate::value::{Evaluated, List, Value};

/// A list longer than this is not made of nothing.
const RANGE_LIMIT: i64 = 10_000_000;

macro_rules! for_types {
    ($name:literal, $call:expr, $cost:expr, $($id:literal $signature:literal)*) => {
        &[$(row($name, $id, $signature, $call).costs($cost)),*]
    };
}

const IS_SORTED: &[Row] = for_types!("isSorted", is_sorted, Cost::Traverse,
    "list_int_is_sorted_bool" "list(int).() -> bool"
    "list_uint_is_sorted_bool" "list(uint).() -> bool"
    "list_double_is_sorted_bool" "list(double).() -> bool"
    "list_bool_is_sorted_bool" "list(bool).() -> bool"
    "list_duration_is_sorted_bool" "list(duration).() -> bool"
    "list_timestamp_is_sorted_bool" "list(timestamp).() -> bool"
    "list_string_is_sorted_bool" "list(string).() -> bool"
    "list_bytes_is_sorted_bool" "list(bytes).() -> bool");

const MIN: &[Row] = for_types!("min", |args| extreme(args, "min", Ordering::Less), Cost::Traverse,
    "list_int_min_int" "list(int).() -> int"
    "list_uint_min_uint" "list(uint).() -> uint"
    "list_double_min_double" "list(double).() -> double"
    "list_bool_min_bool" "list(bool).() -> bool"
    "list_duration_min_duration" "list(duration).() -> duration"
    "list_timestamp_min_timestamp" "list(timestamp).() -> timestamp"
    "list_string_min_string" "list(string).() -> string"
    "list_bytes_min_bytes" "list(bytes).() -> bytes");

const MAX: &[Row] = for_types!("max", |args| extreme(args, "max", Ordering::Greater), Cost::Traverse,
    "list_int_max_int" "list(int).() -> int"
    "list_uint_max_uint" "list(uint).() -> uint"
    "list_double_max_double" "list(double).() -> double"
    "list_bool_max_bool" "list(bool).() -> bool"
    "list_duration_max_duration" "list(duration).() -> duration"
    "list_timestamp_max_timestamp" "list(timestamp).() -> timestamp"
    "list_string_max_string" "list(string).() -> string"
    "list_bytes_max_bytes" "list(bytes).() -> bytes");

const SORT: &[Row] = &[
    row("sort", "list_int_sort", "list(int).() -> list(int)", sort).costs(Cost::Pairs(0, false)),
    row("sort", "list_uint_sort", "list(uint).() -> list(uint)", sort).costs(Cost::Pairs(0, false)),
    row("sort", "list_double_sort", "list(double).() -> list(double)", sort)
        .costs(Cost::Pairs(0, false)),
    row("sort", "list_bool_sort", "list(bool).() -> list(bool)", sort).costs(Cost::Pairs(0, false)),
    row("sort", "list_duration_sort", "list(duration).() -> list(duration)", sort)
        .costs(Cost::Pairs(0, false)),
    row("sort", "list_timestamp_sort", "list(timestamp).() -> list(timestamp)", sort)
        .costs(Cost::Pairs(0, false)),
    row("sort", "list_string_sort", "list(string).() -> list(string)", sort)
        .costs(Cost::Pairs(0, true)),
    row("sort", "list_bytes_sort", "list(bytes).() -> list(bytes)", sort)
        .costs(Cost::Pairs(0, true)),
];

const SORT_BY: &str = "@sortByAssociatedKeys";
const SORTS_BY: &[Row] = &[
    row(SORT_BY, "list_int_sortByAssociatedKeys", "list(T).(list(int)) -> list(T)", sort_by)
        .costs(Cost::Pairs(1, false)),
    row(SORT_BY, "list_uint_sortByAssociatedKeys", "list(T).(list(uint)) -> list(T)", sort_by)
        .costs(Cost::Pairs(1, false)),
    row(SORT_BY, "list_double_sortByAssociatedKeys", "list(T).(list(double)) -> list(T)", sort_by)
        .costs(Cost::Pairs(1, false)),
    row(SORT_BY, "list_bool_sortByAssociatedKeys", "list(T).(list(bool)) -> list(T)", sort_by)
        .costs(Cost::Pairs(1, false)),
    row(
        SORT_BY,
        "list_duration_sortByAssociatedKeys",
        "list(T).(list(duration)) -> list(T)",
        sort_by,
    )
    .costs(Cost::Pairs(1, false)),
    row(
        SORT_BY,
        "list_timestamp_sortByAssociatedKeys",
        "list(T).(list(timestamp)) -> list(T)",
        sort_by,
    )
    .costs(Cost::Pairs(1, false)),
    row(SORT_BY, "list_string_sortByAssociatedKeys", "list(T).(list(string)) -> list(T)", sort_by)
        .costs(Cost::Pairs(1, true)),
    row(SORT_BY, "list_bytes_sortByAssociatedKeys", "list(T).(list(bytes)) -> list(T)", sort_by)
        .costs(Cost::Pairs(1, true)),
];

const KUBERNETES: &[Row] = &[
    row("sum", "list_int_sum_int", "list(int).() -> int", |args| sum(args, Value::Int(0)))
        .costs(Cost::Traverse),
    row("sum", "list_uint_sum_uint", "list(uint).() -> uint", |args| sum(args, Value::Uint(0)))
        .costs(Cost::Traverse),
    row("sum", "list_double_sum_double", "list(double).() -> double", |args| {
        sum(args, Value::Double(0.0))
    })
    .costs(Cost::Traverse),
    row("sum", "list_duration_sum_duration", "list(duration).() -> duration", |args| {
        sum(args, Value::Duration(0))
    })
    .costs(Cost::Traverse),
    row("indexOf", "list_a_index_of_int", "list(A).(A) -> int", index_of).costs(Cost::Traverse),
    row("lastIndexOf", "list_a_last_index_of_int", "list(A).(A) -> int", last_index_of)
        .costs(Cost::Traverse),
];

const EXTENDED: &[Row] = &[
    row("slice", "list_slice", "list(T).(int, int) -> list(T)", slice).costs(Cost::Slice),
    row("flatten", "list_flatten", "list(list(T)).() -> list(T)", flatten).costs(Cost::Flatten),
    row("flatten", "list_flatten_int", "list(dyn).(int) -> list(dyn)", flatten)
        .costs(Cost::Flatten),
    row("lists.range", "lists_range", "(int) -> list(int)", range).costs(Cost::Range),
    row("reverse", "list_reverse", "list(T).() -> list(T)", reverse).costs(Cost::Copy),
    row("distinct", "list_distinct", "list(T).() -> list(T)", distinct)
        .costs(Cost::Pairs(0, false)),
];

pub(super) const TABLES: [&[Row]; 7] = [IS_SORTED, MIN, MAX, KUBERNETES, EXTENDED, SORT, SORTS_BY];

// === Kubernetes ===

fn is_sorted<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    let elements = list.to_vec()?;
    for pair in elements.windows(2) {
        if pair[0].compare(&pair[1])?.is_gt() {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

fn sum<'a>(args: Args<'_, 'a>, zero: Value<'a>) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    list.iter().try_fold(zero, |sum, element| super::operators::add(&[sum, element?]))
}

fn extreme<'a>(args: Args<'_, 'a>, name: &str, preferred: Ordering) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    let mut best: Option<Value<'a>> = None;
    for element in list.iter() {
        let element = element?;
        let better = match &best {
            None => true,
            Some(best) => element.compare(best)? == preferred,
        };
        if better {
            best = Some(element);
        }
    }
    best.ok_or_else(|| EvalError::other(format!("{name} called on empty list")))
}

fn index_of<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let [Value::List(list), wanted] = args else { return no_overload() };
    let found = list.iter().position(|element| element.is_ok_and(|e| e.equals(wanted)));
    Ok(Value::Int(found.map_or(-1, |at| at as i64)))
}

fn last_index_of<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let [Value::List(list), wanted] = args else { return no_overload() };
    let elements = list.to_vec()?;
    let found = elements.iter().rposition(|element| element.equals(wanted));
    Ok(Value::Int(found.map_or(-1, |at| at as i64)))
}

// === extended ===

fn slice<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let [Value::List(list), Value::Int(start), Value::Int(end)] = args else {
        return no_overload();
    };
    let why =
        |reason: &str| Err(EvalError::other(format!("cannot slice({start}, {end}), {reason}")));
    let (Ok(from), Ok(to)) = (usize::try_from(*start), usize::try_from(*end)) else {
        return why("negative indexes not supported");
    };
    if from > to {
        return why("start index must be less than or equal to end index");
    }
    if to > list.len() {
        return why(&format!("list is length {}", list.len()));
    }
    (from..to).filter_map(|at| list.get(at)).collect::<Result<_, _>>().map(Value::list)
}

fn flatten<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let (list, depth) = match args {
        [Value::List(list)] => (list, 1),
        [Value::List(list), Value::Int(depth)] => (list, *depth),
        _ => return no_overload(),
    };
    if depth < 0 {
        return Err(EvalError::other("level must be non-negative"));
    }
    let mut out = Vec::new();
    flatten_into(list, depth, &mut out)?;
    Ok(Value::list(out))
}

fn flatten_into<'a>(
    list: &List<'a>,
    depth: i64,
    out: &mut Vec<Value<'a>>,
) -> Result<(), EvalError> {
    for element in list.iter() {
        match element? {
            Value::List(inner) if depth > 0 => flatten_into(&inner, depth - 1, out)?,
            other => out.push(other),
        }
    }
    Ok(())
}

fn range<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::Int(end)] if *end > RANGE_LIMIT => Err(EvalError::CostLimitExceeded),
        [Value::Int(end)] => Ok(Value::list((0..*end).map(Value::Int).collect())),
        _ => no_overload(),
    }
}

fn reverse<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    let mut elements = list.to_vec()?;
    elements.reverse();
    Ok(Value::list(elements))
}

fn distinct<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    let mut kept: Vec<Value<'a>> = Vec::new();
    for element in list.iter() {
        let element = element?;
        if !kept.iter().any(|other| other.equals(&element)) {
            kept.push(element);
        }
    }
    Ok(Value::list(kept))
}

fn sort<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [list @ Value::List(_)] => sort_by(&[list.clone(), list.clone()]),
        _ => no_overload(),
    }
}

fn sort_by<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let [Value::List(list), Value::List(keys)] = args else { return no_overload() };
    let keys = keys.to_vec()?;
    if keys.len() != list.len() {
        return Err(EvalError::other(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, \
             but got {} and {} elements respectively",
            list.len(),
            keys.len()
        )));
    }
    if let Some(first) = keys.first() {
        first.compare(first).map_err(|_| EvalError::other("list elements must be comparable"))?;
        if keys.iter().any(|key| key.cel_type() != first.cel_type()) {
            return Err(EvalError::other("list elements must have the same type"));
        }
    }
    let mut pairs: Vec<_> = keys.into_iter().zip(list.to_vec()?).collect();
    pairs.sort_by(|(a, _), (b, _)| a.compare(b).unwrap_or(Ordering::Equal));
    Ok(Value::list(pairs.into_iter().map(|(_, element)| element).collect()))
}
