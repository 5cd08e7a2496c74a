//! Objects seen through their schema as trees of owned places.
//!
//! How a struct, map or list is owned (whole, by field, by key, by value) is decided here once, by
//! [`Shape`]; the walks over it compare two objects, list the fields of one, merge one into another,
//! remove fields, and check an applied configuration. Counterpart: `structured-merge-diff/typed`.

use serde_json::{Map, Value};

use super::set::{Entry, Set, field_step, key_step, printed, value_step};
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

/// What differs between two objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

// === impl Comparison ===

impl Comparison {
    /// Whether an entry of a keyed list is among the changes that has none of the keys.
    pub fn has_unkeyed(&self) -> bool {
        let unkeyed = key_step(Map::new());
        [&self.added, &self.modified, &self.removed].iter().any(|set| set.has_step(&unkeyed))
    }
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

// === compare ===

/// What differs between two objects. `None`: there is nothing at that place.
pub fn compare(old: &Value, new: &Value, schema: &StructSchema) -> Comparison {
    let mut out = Differences::default();
    out.compare(Some(old), Some(new), Shape::Struct(schema));
    Comparison { added: out.added.below, modified: out.modified.below, removed: out.removed.below }
}

#[derive(Default)]
struct Differences {
    added: Entry,
    modified: Entry,
    removed: Entry,
}

impl Differences {
    fn compare(&mut self, old: Option<&Value>, new: Option<&Value>, shape: Shape<'_>) {
        let inside = match (shape.view_of(old), shape.view_of(new)) {
            (View::Map(old), View::Map(new)) => self.maps(old, new, shape),
            (View::Map(old), View::Null) => self.maps(old, &Map::new(), shape),
            (View::Null, View::Map(new)) => self.maps(&Map::new(), new, shape),
            (View::List(old), View::List(new)) => self.lists(old, new, shape),
            (View::List(old), View::Null) => self.lists(old, &[], shape),
            (View::Null, View::List(new)) => self.lists(&[], new, shape),
            _ => false,
        };
        match (old, new) {
            (None, Some(_)) => self.added.member = true,
            (Some(_), None) => self.removed.member = true,
            (Some(old), Some(new)) if !inside && old != new => self.replaced(old, new, shape),
            _ => {}
        }
    }

    /// One side is owned whole, or they are of different types.
    fn replaced(&mut self, old: &Value, new: &Value, shape: Shape<'_>) {
        let mut gone = Differences::default();
        let mut come = Differences::default();
        if !matches!(shape.view(old), View::Leaf) {
            gone.compare(Some(old), None, shape);
        }
        if !matches!(shape.view(new), View::Leaf) {
            come.compare(None, Some(new), shape);
        }
        self.removed.below = gone.removed.below;
        self.added.below = come.added.below;
        self.modified.member = true;
    }

    /// False if both are empty, which makes the place a leaf.
    fn maps(
        &mut self,
        old: &Map<String, Value>,
        new: &Map<String, Value>,
        shape: Shape<'_>,
    ) -> bool {
        // Most fields of most writes are as they were: no step is made for them.
        for (name, value) in old.iter().filter(|(name, value)| new.get(*name) != Some(*value)) {
            self.child(field_step(name), Some(value), new.get(name), shape.child(name));
        }
        for (name, value) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
            self.child(field_step(name), None, Some(value), shape.child(name));
        }
        !(old.is_empty() && new.is_empty())
    }

    fn lists(&mut self, old: &[Value], new: &[Value], shape: Shape<'_>) -> bool {
        if old == new {
            return !old.is_empty();
        }
        let before = indexed(old, shape);
        let after = indexed(new, shape);
        for (step, items) in &before {
            match (items.as_slice(), find(&after, step)) {
                ([one], None) => self.child(step.clone(), Some(one), None, Some(shape.items())),
                ([one], Some([other])) => {
                    self.child(step.clone(), Some(one), Some(other), Some(shape.items()));
                }
                (many, others) => self.repeated(step, many, others.unwrap_or_default()),
            }
        }
        for (step, items) in after.iter().filter(|(step, _)| find(&before, step).is_none()) {
            match items.as_slice() {
                [one] => self.child(step.clone(), None, Some(one), Some(shape.items())),
                many => self.repeated(step, &[], many),
            }
        }
        !(old.is_empty() && new.is_empty())
    }

    /// Entries that share their keys are owned as one.
    fn repeated(&mut self, step: &str, old: &[&Value], new: &[&Value]) {
        let side = match (old.is_empty(), new.is_empty()) {
            (true, _) => &mut self.added,
            (_, true) => &mut self.removed,
            _ if old == new => return,
            _ => &mut self.modified,
        };
        side.below.put(step.to_owned(), Entry::leaf());
    }

    fn child(
        &mut self,
        step: String,
        old: Option<&Value>,
        new: Option<&Value>,
        shape: Option<Shape<'_>>,
    ) {
        let mut below = Differences::default();
        below.compare(old, new, shape.unwrap_or(Shape::Deduced));
        self.added.below.put(step.clone(), below.added);
        self.modified.below.put(step.clone(), below.modified);
        self.removed.below.put(step, below.removed);
    }
}

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

// === merge ===

/// Lays a configuration over an object; what the configuration does not speak of stays.
pub fn merge(live: &Value, config: &Value, schema: &StructSchema) -> Value {
    merge_at(live, config, Shape::Struct(schema))
}

fn merge_at(live: &Value, config: &Value, shape: Shape<'_>) -> Value {
    match (shape.view(live), shape.view(config)) {
        (View::Map(old), View::Map(new)) => {
            let mut out = old.clone();
            for (name, value) in new {
                let merged = match old.get(name) {
                    Some(old) => merge_at(old, value, shape.child(name).unwrap_or(Shape::Deduced)),
                    None => value.clone(),
                };
                out.insert(name.clone(), merged);
            }
            Value::Object(out)
        }
        (View::List(old), View::List(new)) => Value::Array(merge_lists(old, new, shape)),
        // Nothing in particular is said of what is there.
        (View::Map(old), View::Null) if !old.is_empty() => live.clone(),
        (View::List(old), View::Null) if !old.is_empty() => live.clone(),
        _ => config.clone(),
    }
}

/// Where an object has lists, maps or structs that are owned whole.
pub fn atomics(object: &Value, schema: &StructSchema) -> Vec<String> {
    let mut found = Vec::new();
    atomic_fields(object, schema, "", &mut found);
    found
}

fn atomic_fields(object: &Value, schema: &StructSchema, at: &str, found: &mut Vec<String>) {
    for (name, value) in object.as_object().into_iter().flatten() {
        if let Some(field) = schema.field(name) {
            atomics_at(value, &field.schema, &format!("{at}.{name}"), found);
        }
    }
}

fn atomics_at(value: &Value, schema: &Schema, at: &str, found: &mut Vec<String>) {
    match (schema, value) {
        (Schema::Struct(of), Value::Object(_)) => {
            found.extend(of.atomic.then(|| at.to_owned()));
            atomic_fields(value, of, at, found);
        }
        (Schema::Map(of), Value::Object(entries)) => {
            found.extend(of.atomic.then(|| at.to_owned()));
            for (key, value) in entries {
                atomics_at(value, &of.values, &format!("{at}.{key}"), found);
            }
        }
        (Schema::List(of), Value::Array(items)) => {
            found.extend((of.topology == ListType::Atomic).then(|| at.to_owned()));
            for (index, item) in items.iter().enumerate() {
                atomics_at(item, &of.items, &format!("{at}[{index}]"), found);
            }
        }
        _ => {}
    }
}

/// The order of the configuration holds among what both have; what only the object has keeps its
/// place between them.
fn merge_lists(old: &[Value], new: &[Value], shape: Shape<'_>) -> Vec<Value> {
    let before = indexed(old, shape);
    let after = indexed(new, shape);
    let mut shared: Vec<&str> = after
        .iter()
        .filter(|(step, _)| find(&before, step).is_some())
        .map(|(step, _)| step.as_str())
        .rev()
        .collect();
    let mut merged: Vec<&str> = Vec::new();
    let mut out = Vec::with_capacity(old.len() + new.len());
    let (mut left, mut right) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let take_left = match (left.peek(), right.peek()) {
            (None, None) => return out,
            (Some((step, _)), Some((other, _))) if step == other => {
                left.next();
                false
            }
            (Some((step, _)), Some(_)) if find(&after, step).is_some() => {
                // Shared: out of turn it is skipped, as it comes where the configuration puts it.
                if merged.contains(&step.as_str()) || shared.last() != Some(&step.as_str()) {
                    left.next();
                    continue;
                }
                false
            }
            (Some((step, _)), None) if find(&after, step).is_some() => {
                left.next();
                continue;
            }
            (Some(_), _) => true,
            (None, Some(_)) => false,
        };
        if take_left {
            if let Some((_, items)) = left.next() {
                out.extend(items.iter().map(|item| (*item).clone()));
            }
        } else if let Some((step, items)) = right.next() {
            merged.push(step);
            if shared.last() == Some(&step.as_str()) {
                shared.pop();
            }
            let Some(item) = items.last() else { continue };
            out.push(match find(&before, step).and_then(<[_]>::first) {
                Some(live) => merge_at(live, item, shape.items()),
                None => (*item).clone(),
            });
        }
    }
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

// === check ===

const NUMERIC: &str = "numeric (int or float)";

/// Faults of an applied configuration, each with its path, as upstream's typed validation prints them.
pub fn check(config: &Value, schema: &StructSchema) -> Vec<String> {
    let mut faults = Vec::new();
    check_struct(config, schema, "", &mut faults);
    faults
}

fn check_struct(value: &Value, schema: &StructSchema, at: &str, faults: &mut Vec<String>) {
    let Value::Object(map) = value else {
        if !value.is_null() {
            faults.push(expected(at, "map", value));
        }
        return;
    };
    for (name, value) in map {
        let at = format!("{at}{}", printed(&field_step(name)));
        match schema.field(name) {
            Some(field) => check_value(value, &field.schema, &at, faults),
            None if schema.apply_unknown => {}
            None => faults.push(format!("{at}: field not declared in schema")),
        }
    }
}

fn check_value(value: &Value, schema: &Schema, at: &str, faults: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    match (schema, value) {
        (Schema::Struct(of), value) => check_struct(value, of, at, faults),
        (Schema::Map(of), Value::Object(map)) => {
            for (name, value) in map {
                check_value(value, &of.values, &format!("{at}.{name}"), faults);
            }
        }
        (Schema::Map(_), other) => faults.push(expected(at, "map", other)),
        (Schema::List(list), Value::Array(items)) => {
            check_list(items, schema, &list.items, at, faults);
        }
        (Schema::List(_), other) => faults.push(expected(at, "list", other)),
        (Schema::String | Schema::Time | Schema::MicroTime | Schema::Bytes, other)
            if !other.is_string() =>
        {
            faults.push(expected(at, "string", other));
        }
        (Schema::Bool, other) if !other.is_boolean() => faults.push(expected(at, "boolean", other)),
        (Schema::Int32 | Schema::Int64 | Schema::Double, other) if !other.is_number() => {
            faults.push(expected(at, NUMERIC, other));
        }
        _ => {}
    }
}

fn check_list(list: &[Value], schema: &Schema, items: &Schema, at: &str, faults: &mut Vec<String>) {
    let shape = Shape::of(schema);
    let mut seen: Vec<String> = Vec::new();
    for (index, item) in list.iter().enumerate() {
        let step = match shape {
            Shape::KeyedList(keys, of) => keyed_item(item, keys, of),
            Shape::SetList => set_item(item).map_err(str::to_owned),
            _ => Ok(format!("i:{index}")),
        };
        let step = match step {
            Ok(step) => step,
            // Without a step there is no saying where, so the rest of the list goes unchecked.
            Err(why) => return faults.push(format!("{at}: element {index}: {why}")),
        };
        let place = format!("{at}{}", printed(&step));
        if seen.contains(&step) {
            faults.push(format!("{at}: duplicate entries for key {}", printed(&step)));
        }
        check_value(item, items, &place, faults);
        seen.push(step);
    }
}

/// The step to an entry that is known by its keys, of which it must have one at least.
fn keyed_item(item: &Value, keys: &[String], items: &Schema) -> Result<String, String> {
    match item {
        Value::Null => Err("associative list with keys may not have a null element".to_owned()),
        Value::Object(_) => match keys_of(item, keys, items) {
            found if found.is_empty() => {
                let names: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
                Err(format!(
                    "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                    names.join(" ")
                ))
            }
            found => Ok(key_step(found)),
        },
        _ => Err("associative list with keys may not have non-map elements".to_owned()),
    }
}

/// The step to an entry that is known by its value.
fn set_item(item: &Value) -> Result<String, &'static str> {
    match item {
        Value::Null => Err("associative list without keys has an element that's an explicit null"),
        Value::Object(_) => Err("associative list without keys has an element that's a map type"),
        Value::Array(_) => Err("not supported: associative list with lists as elements"),
        scalar => Ok(value_step(scalar)),
    }
}

/// The value is shown as the reference implementation shows it: each type in a way of its own.
fn expected(at: &str, wanted: &str, found: &Value) -> String {
    let shown = crate::patch::go_syntax(found);
    match wanted {
        "string" => {
            format!("{at}: expected string, got &value.valueUnstructured{{Value:{shown}}}")
        }
        NUMERIC => format!("{at}: expected {NUMERIC}, got {}", crate::patch::go_type(found)),
        _ => format!("{at}: expected {wanted}, got &{{{shown}}}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::struct_named;

    fn pod() -> &'static StructSchema {
        struct_named("core.v1.Pod").expect("known")
    }

    #[test]
    fn new_places_are_added_with_everything_below() {
        let old = json!({"metadata": {}, "spec": {}});
        let new = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
            {"name": "c", "ports": [{"containerPort": 80}], "resources": {}, "args": ["x"]}],
            "nodeSelector": {"x": "y"}}});
        let wanted = json!({
            "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {
                "f:containers": {".": {}, "k:{\"name\":\"c\"}": {".": {}, "f:args": {}, "f:name": {},
                    "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                    "f:resources": {}}},
                "f:nodeSelector": {}}});
        let found = compare(&old, &new, pod());
        assert_eq!(found.added.encode(), wanted);
        assert!(found.modified.is_empty() && found.removed.is_empty());
        let back = compare(&new, &old, pod());
        assert_eq!(back.removed.encode(), wanted);
        assert_eq!(compare(&new, &new, pod()), Comparison::default());
    }

    #[test]
    fn configurations_merge_by_key_and_keep_order() {
        let live = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b"}, {"name": "c"}]}});
        let config = json!({"spec": {"containers": [{"name": "c"}, {"name": "a", "image": "2"}, {"name": "d"}]}});
        let merged = merge(&live, &config, pod());
        let names: Vec<&str> = merged["spec"]["containers"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|item| item["name"].as_str())
            .collect();
        assert_eq!(names, ["b", "c", "a", "d"]);
        assert_eq!(merged["spec"]["containers"][2]["image"], "2");
    }

    #[test]
    fn null_takes_nothing_from_a_struct_or_list_that_is_owned_in_parts() {
        let live = json!({"spec": {"containers": [{"name": "a"}], "securityContext": {"runAsUser": 1},
            "nodeSelector": {"a": "b"}}});
        let config =
            json!({"spec": {"containers": null, "securityContext": null, "nodeSelector": null}});
        let merged = merge(&live, &config, pod());
        assert_eq!(merged["spec"]["containers"], live["spec"]["containers"]);
        assert_eq!(merged["spec"]["securityContext"], live["spec"]["securityContext"]);
        assert_eq!(merged["spec"]["nodeSelector"], Value::Null);
    }

    #[test]
    fn configurations_are_checked() {
        let config = json!({"nope": 1, "metadata": {"labels": {"a": 1}}, "spec": {"containers": [
            {"image": "x"}, {"name": "a"}, {"name": "a"}]}});
        assert_eq!(
            check(&config, pod()),
            [
                ".metadata.labels.a: expected string, got &value.valueUnstructured{Value:1}",
                ".nope: field not declared in schema",
                // An entry without a name has an empty one.
                ".spec.containers: duplicate entries for key [name=\"a\"]",
            ]
        );
    }

    #[test]
    fn entries_that_no_step_leads_to_end_the_check_of_their_list() {
        for (spec, wanted) in [
            (
                json!({"containers": [null, {"name": 1}]}),
                ".spec.containers: element 0: associative list with keys may not have a null element",
            ),
            (
                json!({"containers": ["x"]}),
                ".spec.containers: element 0: associative list with keys may not have non-map elements",
            ),
            (json!({"containers": {"x": 1}}), ".spec.containers: expected list, got &{map[x:1]}"),
            (json!({"hostNetwork": "true"}), ".spec.hostNetwork: expected boolean, got &{true}"),
            (
                json!({"priority": "1"}),
                ".spec.priority: expected numeric (int or float), got string",
            ),
        ] {
            assert_eq!(check(&json!({"spec": spec}), pod()), [wanted]);
        }
        let node = struct_named("core.v1.Node").expect("known");
        let faults = |cidrs: Value| check(&json!({"spec": {"podCIDRs": cidrs}}), node);
        let of_set = |why: &str| [format!(".spec.podCIDRs: element 0: {why}")];
        assert_eq!(
            faults(json!([null, null])),
            of_set("associative list without keys has an element that's an explicit null")
        );
        assert_eq!(
            faults(json!([{}])),
            of_set("associative list without keys has an element that's a map type")
        );
        assert_eq!(
            faults(json!([[]])),
            of_set("not supported: associative list with lists as elements")
        );
    }
}
