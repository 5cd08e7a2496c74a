//! The value that an update replaces, followed down beside the new one.
//!
//! Fields are told apart by name, entries of keyed lists by their keys; entries of other lists cannot be followed.
//! Counterpart: `cel/common.CorrelatedObject`, on which both ratcheting and transition rules (`oldSelf`) stand.

use std::collections::HashMap;

use serde_json::Value;

use super::Rule;

/// An old value, with the rule of its place.
#[derive(Clone, Copy)]
pub struct Before<'a> {
    pub value: &'a Value,
    pub rule: &'a Rule,
}

/// The entries of an old keyed list, by their keys.
pub struct Entries<'a> {
    by_key: HashMap<String, &'a Value>,
    list: &'a Rule,
}

// === impl Before ===

impl<'a> Before<'a> {
    pub fn field(&self, name: &str) -> Option<Before<'a>> {
        Some(Before { value: self.value.get(name)?, rule: self.rule.field(name)? })
    }

    /// The entries of a keyed list, if this is one.
    pub fn entries(&self) -> Option<Entries<'a>> {
        Entries::of(self.rule, self.value)
    }

    /// Whether the new value says the same. Entries of keyed lists may have changed places; what has no rule counts as
    /// changed.
    pub fn is_unchanged(&self, new: &Value) -> bool {
        match (self.value, new) {
            (Value::Object(old), Value::Object(new)) => {
                old.len() == new.len()
                    && new.iter().all(|(name, value)| {
                        self.field(name).is_some_and(|old| old.is_unchanged(value))
                    })
            }
            (Value::Array(old), Value::Array(new)) => match self.entries() {
                None => old == new,
                Some(entries) => {
                    let same =
                        |value| entries.find(value).is_some_and(|old| old.is_unchanged(value));
                    old.len() == new.len() && new.iter().all(same)
                }
            },
            (old, new) => old == new,
        }
    }
}

// === impl Entries ===

impl<'a> Entries<'a> {
    /// The old entries of a keyed list, by key; of entries with the same key, the first.
    pub fn of(list: &'a Rule, old: &'a Value) -> Option<Entries<'a>> {
        let items = old.as_array().filter(|_| list.list_type == "map" && list.items.is_some())?;
        let mut by_key = HashMap::with_capacity(items.len());
        for item in items {
            by_key.entry(key(&list.list_keys, item)).or_insert(item);
        }
        Some(Entries { by_key, list })
    }

    pub fn find(&self, new: &Value) -> Option<Before<'a>> {
        let value = self.by_key.get(&key(&self.list.list_keys, new))?;
        Some(Before { value, rule: self.list.items.as_deref()? })
    }
}

fn key(keys: &[String], item: &Value) -> String {
    let parts: Vec<Option<&Value>> = keys.iter().map(|key| item.get(key)).collect();
    serde_json::to_string(&parts).unwrap_or_default()
}
