//! Values expressions work with.
//!
//! JSON stays where it is: a list or map of an object under validation is a reference to it and
//! what is declared about it, and becomes CEL values one element at a time, when asked for.
//! Counterpart: cel-go's `common/types`, `UnstructuredToVal`.
//! Invariant: making a value of JSON costs nothing that grows with the JSON.

mod compare;
mod json;
mod key;
mod timestamp;

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::decl::DeclType;
use crate::error::EvalError;
use crate::library;
use crate::types::Type;

pub(crate) use compare::{concat_lists, contains};
pub use key::Key;
pub use timestamp::Timestamp;

#[derive(Clone, Debug)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Arc<[u8]>),
    /// Nanoseconds.
    Duration(i64),
    Timestamp(Timestamp),
    List(List<'a>),
    Map(Map<'a>),
    /// An object an expression has made.
    Object(Arc<Object<'a>>),
    Optional(Option<Arc<Value<'a>>>),
    Type(Arc<Type>),
    /// A value of a library.
    Opaque(Arc<dyn Opaque>),
}

/// Text, borrowed from the data or the work of an expression.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    Borrowed(&'a str),
    Shared(Arc<str>),
}

#[derive(Clone, Debug)]
pub enum List<'a> {
    Made(Arc<Vec<Value<'a>>>),
    /// With the declaration of the list.
    Json(&'a [Json], Option<&'a DeclType>),
}

#[derive(Clone, Debug)]
pub enum Map<'a> {
    Made(Arc<BTreeMap<Key, Value<'a>>>),
    /// A map of maps that answers an empty one for what is not in it.
    Open(Arc<BTreeMap<Key, Value<'a>>>),
    /// With the declaration of the map or object.
    Json(&'a serde_json::Map<String, Json>, Option<&'a DeclType>),
}

#[derive(Clone, Debug)]
pub struct Object<'a> {
    pub type_name: Arc<str>,
    pub fields: BTreeMap<String, Value<'a>>,
}

/// A value whose inside only the library that made it knows.
pub trait Opaque: fmt::Debug + Send + Sync {
    fn cel_type(&self) -> Type;
    fn equals(&self, other: &dyn Opaque) -> bool;
    /// What `size` would be: some costs depend on it.
    fn size(&self) -> u64 {
        1
    }
    fn as_any(&self) -> &dyn Any;
}

pub(crate) type Evaluated<'a> = Result<Value<'a>, EvalError>;

// === impl Value ===

impl<'a> Value<'a> {
    pub fn text(text: &'a str) -> Value<'a> {
        Value::String(Text::Borrowed(text))
    }

    pub fn string(text: impl Into<Arc<str>>) -> Value<'a> {
        Value::String(Text::Shared(text.into()))
    }

    pub fn list(elements: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List::Made(Arc::new(elements)))
    }

    pub fn map(entries: BTreeMap<Key, Value<'a>>) -> Value<'a> {
        Value::Map(Map::Made(Arc::new(entries)))
    }

    /// A map of maps that answers an empty one for what is not in it, as the attributes of a device do.
    pub fn open_map(entries: BTreeMap<Key, Value<'a>>) -> Value<'a> {
        Value::Map(Map::Open(Arc::new(entries)))
    }

    /// `None` when the text is no quantity.
    pub fn quantity(text: &str) -> Option<Value<'static>> {
        library::quantity(text)
    }

    /// `None` when the text is no semantic version.
    pub fn semver(text: &str) -> Option<Value<'static>> {
        library::semver(text)
    }

    pub fn some(value: Value<'a>) -> Value<'a> {
        Value::Optional(Some(Arc::new(value)))
    }

    pub fn opaque(value: impl Opaque + 'static) -> Value<'a> {
        Value::Opaque(Arc::new(value))
    }

    /// The library value inside, if it is one of `T`.
    pub fn downcast<T: 'static>(&self) -> Option<&T> {
        match self {
            Value::Opaque(value) => value.as_any().downcast_ref(),
            _ => None,
        }
    }

    /// The type as far as the value itself tells: what lists and maps hold is unknown.
    pub fn cel_type(&self) -> Type {
        match self {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Uint(_) => Type::Uint,
            Value::Double(_) => Type::Double,
            Value::String(_) => Type::String,
            Value::Bytes(_) => Type::Bytes,
            Value::Duration(_) => Type::Duration,
            Value::Timestamp(_) => Type::Timestamp,
            Value::List(_) => Type::list(Type::Dyn),
            Value::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Value::Object(object) => Type::Object(object.type_name.clone()),
            Value::Optional(_) => Type::optional(Type::Dyn),
            Value::Type(_) => Type::Type(None),
            Value::Opaque(value) => value.cel_type(),
        }
    }

    /// What `size()` counts, where it counts anything.
    pub fn size(&self) -> Option<u64> {
        Some(match self {
            Value::String(text) => text.chars().count() as u64,
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::List(list) => list.len() as u64,
            Value::Map(map) => map.len() as u64,
            _ => return None,
        })
    }

    /// The size costs are reckoned by.
    pub(crate) fn cost_size(&self) -> u64 {
        match self {
            Value::Optional(Some(inner)) => inner.cost_size(),
            Value::Opaque(value) => value.size(),
            other => other.size().unwrap_or(1),
        }
    }

    pub(crate) fn is_zero(&self) -> bool {
        match self {
            Value::Null | Value::Optional(None) => true,
            Value::Bool(value) => !value,
            Value::Int(value) | Value::Duration(value) => *value == 0,
            Value::Uint(value) => *value == 0,
            Value::Double(value) => *value == 0.0,
            Value::Timestamp(_) | Value::Type(_) | Value::Opaque(_) => false,
            Value::Optional(Some(inner)) => inner.is_zero(),
            Value::Object(object) => object.fields.is_empty(),
            sized => sized.size() == Some(0),
        }
    }
}

// === impl Text ===

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl<'a> From<Cow<'a, str>> for Value<'a> {
    fn from(text: Cow<'a, str>) -> Value<'a> {
        match text {
            Cow::Borrowed(text) => Value::text(text),
            Cow::Owned(text) => Value::string(text),
        }
    }
}

// === impl List ===

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        match self {
            List::Made(elements) => elements.len(),
            List::Json(elements, _) => elements.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `None` past the end.
    pub fn get(&self, index: usize) -> Option<Evaluated<'a>> {
        match self {
            List::Made(elements) => elements.get(index).cloned().map(Ok),
            List::Json(elements, decl) => {
                elements.get(index).map(|json| Value::typed(json, json::element(*decl)))
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Evaluated<'a>> + '_ {
        (0..self.len()).map_while(|index| self.get(index))
    }

    pub fn to_vec(&self) -> Result<Vec<Value<'a>>, EvalError> {
        self.iter().collect()
    }
}

// === impl Map ===

impl<'a> Map<'a> {
    pub fn len(&self) -> usize {
        match self {
            Map::Made(entries) | Map::Open(entries) => entries.len(),
            Map::Json(entries, _) => entries.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value under the key, `None` when there is none.
    pub fn get(&self, key: &Key) -> Option<Evaluated<'a>> {
        match self {
            Map::Made(entries) => entries.get(key).cloned().map(Ok),
            Map::Open(entries) => Some(Ok(entries.get(key).cloned().unwrap_or_else(empty_map))),
            Map::Json(..) => self.field(key.as_str()?),
        }
    }

    /// The value under a key that is text.
    pub fn field(&self, name: &str) -> Option<Evaluated<'a>> {
        match self {
            Map::Made(entries) => entries.get(&name as &dyn key::Lookup).cloned().map(Ok),
            Map::Open(entries) => {
                let found = entries.get(&name as &dyn key::Lookup).cloned();
                Some(Ok(found.unwrap_or_else(empty_map)))
            }
            Map::Json(entries, decl) => json::field(entries, *decl, name),
        }
    }

    /// Whether the key is there, whatever the map answers for one that is not.
    pub fn contains(&self, key: &Key) -> bool {
        match self {
            Map::Open(entries) => entries.contains_key(key),
            Map::Made(_) | Map::Json(..) => self.get(key).is_some(),
        }
    }

    pub fn keys(&self) -> Vec<Key> {
        match self {
            Map::Made(entries) | Map::Open(entries) => entries.keys().cloned().collect(),
            Map::Json(entries, decl) => json::keys(entries, *decl),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (Key, Evaluated<'a>)> + '_ {
        self.keys().into_iter().filter_map(|key| self.get(&key).map(|value| (key, value)))
    }
}

fn empty_map<'a>() -> Value<'a> {
    Value::map(BTreeMap::new())
}
