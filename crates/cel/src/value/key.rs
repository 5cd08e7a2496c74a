//! Keys of maps.
//!
//! Counterpart: what cel-go accepts as map keys. Invariant: keys that are equal as CEL values are
//! equal as keys, whatever kinds of number they are.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use super::Value;

#[derive(Clone, Debug)]
pub enum Key {
    Bool(bool),
    Int(i64),
    Uint(u64),
    /// Never NaN, which is equal to no key.
    Double(f64),
    String(Arc<str>),
}

// === impl Key ===

impl Key {
    /// The key a value is, if it can be one.
    pub fn of(value: &Value<'_>) -> Option<Key> {
        Some(match value {
            Value::Bool(value) => Key::Bool(*value),
            Value::Int(value) => Key::Int(*value),
            Value::Uint(value) => Key::Uint(*value),
            Value::String(text) => Key::String(Arc::from(&**text)),
            Value::Double(value) if !value.is_nan() => Key::Double(*value),
            _ => return None,
        })
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Key::String(text) => Some(text),
            _ => None,
        }
    }
}

/// What keys are ordered by. Text comes first, so that a map of text can be searched by `&str`.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order<'k> {
    Text(&'k str),
    Bool(bool),
    /// The whole number below, and the bits of what is above it.
    Number(i128, u64),
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key {}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Bool(value) => write!(f, "{value}"),
            Key::Int(value) => write!(f, "{value}"),
            Key::Uint(value) => write!(f, "{value}"),
            Key::Double(value) => write!(f, "{value}"),
            Key::String(text) => f.write_str(text),
        }
    }
}

impl From<Key> for Value<'_> {
    fn from(key: Key) -> Self {
        match key {
            Key::Bool(value) => Value::Bool(value),
            Key::Int(value) => Value::Int(value),
            Key::Uint(value) => Value::Uint(value),
            Key::Double(value) => Value::Double(value),
            Key::String(text) => Value::string(text),
        }
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Key {
        Key::String(Arc::from(text))
    }
}

/// What a map can be searched by, so that a lookup by text makes no key.
pub(crate) trait Lookup {
    fn order(&self) -> Order<'_>;
}

impl Lookup for Key {
    fn order(&self) -> Order<'_> {
        match self {
            Key::Bool(value) => Order::Bool(*value),
            Key::Int(value) => Order::Number(i128::from(*value), 0),
            Key::Uint(value) => Order::Number(i128::from(*value), 0),
            // Positive doubles are ordered as their bits are.
            Key::Double(value) => {
                Order::Number(value.floor() as i128, (value - value.floor()).abs().to_bits())
            }
            Key::String(text) => Order::Text(text),
        }
    }
}

impl Lookup for &str {
    fn order(&self) -> Order<'_> {
        Order::Text(self)
    }
}

impl<'k> Borrow<dyn Lookup + 'k> for Key {
    fn borrow(&self) -> &(dyn Lookup + 'k) {
        self
    }
}

impl Ord for dyn Lookup + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for dyn Lookup + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Lookup + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for dyn Lookup + '_ {}
