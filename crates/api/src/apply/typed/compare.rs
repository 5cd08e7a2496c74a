//! What differs between two objects, as the sets of places that were added, changed or removed.
//!
//! Counterpart: `structured-merge-diff/typed/compare.go`.

use serde_json::{Map, Value};

use super::{Shape, View, find, indexed};
use crate::apply::set::{Entry, Set, field_step, key_step};
use crate::schema::StructSchema;

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
        let sides = [&mut self.added, &mut self.modified, &mut self.removed];
        for (side, found) in sides.into_iter().zip([below.added, below.modified, below.removed]) {
            if !found.is_empty() {
                side.below.put(step.clone(), found);
            }
        }
    }
}
