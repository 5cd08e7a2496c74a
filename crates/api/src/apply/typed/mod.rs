//! Objects seen through their schema as trees of owned places.
//!
//! How a struct, map or list is owned (whole, by field, by key, by value) is decided here once, by
//! [`Shape`]; the walks over it compare two objects, list the fields of one, merge one into another,
//! remove fields, and check an applied configuration. Counterpart: `structured-merge-diff/typed`.

mod check;
mod compare;
mod merge;

use serde_json::{Map, Value};

pub use check::check;
pub use compare::{Comparison, compare};
pub use merge::{atomics, merge};

use super::set::{Entry, Set, field_step, key_step, value_step};
use crate::default;
use crate::schema::{AnyForm, Field, ListType, Schema, StructSchema};

/// How a place is owned.
#[derive(Clone, Copy)]
pub enum Shape<'a> {
    Leaf,
    /// A struct with these fields.
    Struct(&'a StructSchema),
    /// A map of entries with one schema.
    Map(&'a Schema),
    /// A list of scalars, each owned by its value.
    SetList,
    /// A list of objects, each owned by its keys.
    KeyedList(&'a [String], &'a Schema),
    /// No schema: maps are owned by field, lists and scalars whole.
    Deduced,
}

// === impl Shape ===

impl<'a> Shape<'a> {
    pub fn of(schema: &'a Schema) -> Shape<'a> {
        match schema {
            Schema::Struct(of) if of.atomic => Shape::Leaf,
            Schema::Struct(of) => Shape::Struct(of),
            Schema::Map(map) if map.atomic => Shape::Leaf,
            Schema::Map(map) => Shape::Map(&map.values),
            Schema::List(list) => match &list.topology {
                ListType::Atomic => Shape::Leaf,
                ListType::Set => Shape::SetList,
                ListType::Map(keys) => Shape::KeyedList(keys, &list.items),
            },
            Schema::Any(AnyForm::Unknown) => Shape::Deduced,
            _ => Shape::Leaf,
        }
    }

    fn of_field(field: &'a Field) -> Shape<'a> {
        match &field.schema {
            Schema::Struct(of) if field.granular => Shape::Struct(of),
            schema => Shape::of(schema),
        }
    }

    /// The shape of a field or map entry; `None` if the schema does not know it.
    fn child(self, name: &str) -> Option<Shape<'a>> {
        match self {
            Shape::Struct(of) => match of.field(name) {
                Some(field) => Some(Shape::of_field(field)),
                None => of.apply_unknown.then_some(Shape::Deduced),
            },
            Shape::Map(values) => Some(Shape::of(values)),
            Shape::Deduced => Some(Shape::Deduced),
            _ => None,
        }
    }

    fn items(self) -> Shape<'a> {
        match self {
            Shape::KeyedList(_, items) => Shape::of(items),
            _ => Shape::Leaf,
        }
    }

    /// Names of fields are members on their own; map keys are not known to the schema.
    fn knows(self, name: &str) -> bool {
        matches!(self, Shape::Struct(of) if of.field(name).is_some())
    }

    /// What this value is to the walks: a map or list is looked into unless it is owned whole.
    fn view<'v>(self, value: &'v Value) -> View<'v> {
        match (self, value) {
            (Shape::Struct(_) | Shape::Map(_) | Shape::Deduced, Value::Object(map)) => {
                View::Map(map)
            }
            (Shape::SetList | Shape::KeyedList(..), Value::Array(items)) => View::List(items),
            (Shape::Leaf, _) => View::Leaf,
            (_, Value::Null) => View::Null,
            _ => View::Leaf,
        }
    }

    fn view_of<'v>(self, side: Option<&'v Value>) -> View<'v> {
        side.map_or(View::Null, |value| self.view(value))
    }

    /// The step that leads to an entry of a list.
    fn step_to(self, item: &Value) -> String {
        match self {
            Shape::KeyedList(keys, items) => key_step(keys_of(item, keys, items)),
            _ => value_step(item),
        }
    }
}

/// Whether a place lies in a list that is compared whole, where empty differs from absent.
pub fn is_in_whole_list(pointer: &str, schema: &StructSchema) -> bool {
    let mut fields = Some(schema);
    let mut steps = pointer.split('/').skip(1);
    while let (Some(of), Some(name)) = (fields, steps.next()) {
        let Some(field) = of.field(name) else { return false };
        fields = match &field.schema {
            Schema::Struct(of) => Some(of),
            Schema::List(list) if steps.next().is_some() => match (&list.topology, &list.items) {
                (ListType::Atomic, _) => return true,
                (_, Schema::Struct(of)) => Some(of),
                _ => None,
            },
            _ => None,
        };
    }
    false
}

enum View<'v> {
    Leaf,
    /// Null where a map or list could be: an empty one.
    Null,
    Map(&'v Map<String, Value>),
    List(&'v [Value]),
}

/// The keys of an entry; one that is left out has its default.
fn keys_of(item: &Value, keys: &[String], items: &Schema) -> Map<String, Value> {
    let default = |key: &str| match items {
        Schema::Struct(of) => default::of_key(of, key),
        _ => None,
    };
    let key_of = |key: &String| {
        let value = item.get(key).filter(|value| !value.is_null()).cloned();
        Some((key.clone(), value.or_else(|| default(key))?))
    };
    keys.iter().filter_map(key_of).collect()
}

/// The entries of a list by the steps that lead to them; several with one step stand together.
type Indexed<'v> = Vec<(String, Vec<&'v Value>)>;

fn indexed<'v>(items: &'v [Value], shape: Shape<'_>) -> Indexed<'v> {
    let mut out: Indexed<'v> = Vec::with_capacity(items.len());
    for item in items {
        let step = shape.step_to(item);
        match out.iter_mut().find(|(known, _)| *known == step) {
            Some((_, same)) => same.push(item),
            None => out.push((step, vec![item])),
        }
    }
    out
}

fn find<'a, 'v>(items: &'a Indexed<'v>, step: &str) -> Option<&'a [&'v Value]> {
    items.iter().find(|(known, _)| known == step).map(|(_, same)| same.as_slice())
}

// === the fields of one object ===

/// The fields a configuration speaks of.
pub fn fields(object: &Value, schema: &StructSchema) -> Set {
    fields_of(object, Shape::Struct(schema)).below
}

fn fields_of(value: &Value, shape: Shape<'_>) -> Entry {
    let mut entry = Entry::default();
    match shape.view(value) {
        View::Leaf => entry.member = true,
        View::Null => {}
        View::Map(map) => {
            for (name, value) in map {
                let child = shape.child(name).unwrap_or(Shape::Deduced);
                let mut below = fields_of(value, child);
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                below.member |= empty || !shape.knows(name);
                entry.below.put(field_step(name), below);
            }
        }
        View::List(items) => {
            for item in items {
                let mut below = fields_of(item, shape.items());
                below.member = true;
                entry.below.put(shape.step_to(item), below);
            }
        }
    }
    entry
}

// === remove ===

/// Removes these fields, with everything below them.
pub fn remove(object: &mut Value, fields: &Set, schema: &StructSchema) {
    remove_at(object, fields, Shape::Struct(schema));
}

fn remove_at(value: &mut Value, fields: &Set, shape: Shape<'_>) {
    if matches!(shape.view(value), View::Leaf | View::Null) {
        return;
    }
    match value {
        Value::Object(map) => map.retain(|name, value| match fields.get(&field_step(name)) {
            Some(entry) if entry.member => false,
            // What is emptied stays, as an empty map or list.
            Some(entry) => {
                remove_at(value, &entry.below, shape.child(name).unwrap_or(Shape::Deduced));
                true
            }
            None => true,
        }),
        Value::Array(items) => items.retain_mut(|item| match fields.get(&shape.step_to(item)) {
            Some(entry) if entry.member => false,
            Some(entry) => {
                remove_at(item, &entry.below, shape.items());
                true
            }
            None => true,
        }),
        _ => {}
    }
}

/// Makes every struct field on the way to a member a member too (map keys and list entries aside),
/// so that a struct stays as long as something in it does. An object's metadata stays in any case: it
/// holds what nobody owns, such as the name.
pub fn with_fields_on_the_way(mut set: Set, schema: &StructSchema) -> Set {
    add_fields_on_the_way(&mut set, Shape::Struct(schema));
    for (_, entry) in set.entries_mut().filter(|(step, _)| *step == "f:metadata") {
        entry.member = false;
    }
    set
}

fn add_fields_on_the_way(set: &mut Set, shape: Shape<'_>) {
    for (step, entry) in set.entries_mut() {
        let below = match step.strip_prefix("f:") {
            Some(name) => {
                entry.member |= shape.knows(name);
                shape.child(name).unwrap_or(Shape::Deduced)
            }
            None => shape.items(),
        };
        add_fields_on_the_way(&mut entry.below, below);
    }
}

#[cfg(test)]
mod tests;
