//! What two-variable comprehensions build maps with. Counterpart: cel-go's `ext/comprehensions.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Args, Row, no_overload, row};
use crate::error::EvalError;
use crate::value::{Evaluated, Key, Map, Value};

pub(super) const TABLE: &[Row] = &[
    row("cel.@mapInsert", "@mapInsert_map_key_value", "(map(K, V), K, V) -> map(K, V)", insert),
    row("cel.@mapInsert", "@mapInsert_map_map", "(map(K, V), map(K, V)) -> map(K, V)", insert),
];

fn insert<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::Map(map), key, value] => {
            let mut entries = owned(map)?;
            add(&mut entries, key_of(key)?, value.clone())?;
            Ok(Value::map(entries))
        }
        [Value::Map(map), Value::Map(more)] => {
            let mut entries = owned(map)?;
            for (key, value) in more.iter() {
                add(&mut entries, key, value?)?;
            }
            Ok(Value::map(entries))
        }
        _ => no_overload(),
    }
}

/// Adds the entries to a map nobody else holds, without copying it.
pub(crate) fn insert_into<'a>(
    map: &mut Arc<BTreeMap<Key, Value<'a>>>,
    added: &[Value<'a>],
) -> Result<(), EvalError> {
    let entries = Arc::make_mut(map);
    match added {
        [key, value] => add(entries, key_of(key)?, value.clone()),
        [Value::Map(more)] => more.iter().try_for_each(|(key, value)| add(entries, key, value?)),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn owned<'a>(map: &Map<'a>) -> Result<BTreeMap<Key, Value<'a>>, EvalError> {
    map.iter().map(|(key, value)| Ok((key, value?))).collect()
}

fn key_of(key: &Value<'_>) -> Result<Key, EvalError> {
    Key::of(key).ok_or(EvalError::NoSuchOverload)
}

fn add<'a>(
    entries: &mut BTreeMap<Key, Value<'a>>,
    key: Key,
    value: Value<'a>,
) -> Result<(), EvalError> {
    if entries.contains_key(&key) {
        return Err(EvalError::other(format!("insert failed: key {key} already exists")));
    }
    entries.insert(key, value);
    Ok(())
}
