//! Sets of fields, as `managedFields` hold them.
//!
//! `{"f:spec":{"f:replicas":{}}}` <-> [`Set`]. A step is kept in its encoded form (`f:name`,
//! `k:{"name":"a"}`, `v:"x"`, `i:0`), so reading and writing is moving. An empty object is a member;
//! `.` marks a member that has members below it. Counterpart: `structured-merge-diff/fieldpath`.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::de::IgnoredAny;
use serde_json::{Map, Value};

/// Fields below one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set(BTreeMap<String, Entry>);

/// One step: whether the place itself is a member, and the members below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub member: bool,
    pub below: Set,
}

// === impl Set ===

impl Set {
    /// Reads a FieldsV1 value.
    pub fn decode(fields: &Value) -> Option<Set> {
        let map = fields.as_object()?;
        let entries = map.iter().filter(|(step, _)| *step != ".");
        entries
            .map(|(step, below)| {
                is_step(step).then_some(())?;
                let below_map = below.as_object()?;
                let member = below_map.is_empty() || below_map.contains_key(".");
                Some((step.clone(), Entry { member, below: Set::decode(below)? }))
            })
            .collect::<Option<_>>()
            .map(Set)
    }

    /// Writes a FieldsV1 value.
    pub fn encode(self) -> Value {
        Value::Object(self.encode_into(Map::new()))
    }

    fn encode_into(self, mut out: Map<String, Value>) -> Map<String, Value> {
        for (step, entry) in self.0 {
            let mut below = Map::new();
            if entry.member && !entry.below.is_empty() {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            out.insert(step, Value::Object(entry.below.encode_into(below)));
        }
        out
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts an entry in; an empty one leaves no trace.
    pub fn put(&mut self, step: String, entry: Entry) {
        if !entry.is_empty() {
            self.0.insert(step, entry);
        }
    }

    /// The set with the one member that these steps lead to.
    pub fn of_path(steps: &[&str]) -> Set {
        let mut set = Set::default();
        if let Some((first, rest)) = steps.split_first() {
            let entry = Entry { member: rest.is_empty(), below: Set::of_path(rest) };
            set.put((*first).to_owned(), entry);
        }
        set
    }

    /// Whether the step stands anywhere on the way to a member.
    pub fn has_step(&self, step: &str) -> bool {
        self.0.contains_key(step) || self.0.values().any(|entry| entry.below.has_step(step))
    }

    pub fn get(&self, step: &str) -> Option<&Entry> {
        self.0.get(step)
    }

    pub fn union(mut self, other: Set) -> Set {
        for (step, theirs) in other.0 {
            match self.0.remove(&step) {
                None => drop(self.0.insert(step, theirs)),
                Some(ours) => {
                    let member = ours.member || theirs.member;
                    let below = ours.below.union(theirs.below);
                    self.0.insert(step, Entry { member, below });
                }
            }
        }
        self
    }

    pub fn intersection(&self, other: &Set) -> Set {
        let mut out = Set::default();
        for (step, ours) in &self.0 {
            if let Some(theirs) = other.0.get(step) {
                let member = ours.member && theirs.member;
                let below = ours.below.intersection(&theirs.below);
                out.put(step.clone(), Entry { member, below });
            }
        }
        out
    }

    /// Members of this set that are no members of the other.
    pub fn difference(mut self, other: &Set) -> Set {
        self.subtract(other);
        self
    }

    fn subtract(&mut self, other: &Set) {
        self.reduce(other, |ours, theirs| {
            ours.member &= !theirs.member;
            ours.below.subtract(&theirs.below);
        });
    }

    /// Like [`Set::difference`], but a member of the other takes everything below it along.
    pub fn without(mut self, other: &Set) -> Set {
        self.cut(other);
        self
    }

    fn cut(&mut self, other: &Set) {
        self.reduce(other, |ours, theirs| match theirs.member {
            true => *ours = Entry::default(),
            false => ours.below.cut(&theirs.below),
        });
    }

    /// Takes from what both have; what is empty then goes. The other set is the small one mostly.
    fn reduce(&mut self, other: &Set, take: impl Fn(&mut Entry, &Entry)) {
        for (step, theirs) in &other.0 {
            let Some(ours) = self.0.get_mut(step) else { continue };
            take(ours, theirs);
            if ours.is_empty() {
                self.0.remove(step);
            }
        }
    }

    /// The entries, to change whether their place is a member.
    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = (&String, &mut Entry)> {
        self.0.iter_mut()
    }

    /// The paths of the members, printed: `.spec.containers[name="a"].image`. At every level members
    /// come before what is below them.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths("", &mut paths);
        paths
    }

    fn collect_paths(&self, above: &str, paths: &mut Vec<String>) {
        let path = |step: &str| format!("{above}{}", printed(step));
        let members = self.0.iter().filter(|(_, entry)| entry.member);
        paths.extend(members.map(|(step, _)| path(step)));
        for (step, entry) in &self.0 {
            entry.below.collect_paths(&path(step), paths);
        }
    }
}

// === impl Entry ===

impl Entry {
    pub fn leaf() -> Entry {
        Entry { member: true, below: Set::default() }
    }

    pub fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

// === steps ===

pub fn field_step(name: &str) -> String {
    format!("f:{name}")
}

pub fn value_step(value: &Value) -> String {
    format!("v:{value}")
}

pub fn key_step(keys: Map<String, Value>) -> String {
    format!("k:{}", Value::Object(keys))
}

fn is_step(step: &str) -> bool {
    match step.split_once(':') {
        Some(("f", _)) => true,
        Some(("v", text)) => serde_json::from_str::<IgnoredAny>(text).is_ok(),
        Some(("k", text)) => {
            text.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok()
        }
        Some(("i", text)) => text.parse::<i64>().is_ok(),
        _ => false,
    }
}

/// A step as conflicts and validation print it: `.name`, `[name="a"]`, `[="x"]`, `[0]`.
pub fn printed(step: &str) -> String {
    match step.split_once(':') {
        Some(("k", text)) => {
            let keys: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
            let mut out = String::from("[");
            for (at, (name, value)) in keys.iter().enumerate() {
                let comma = if at > 0 { "," } else { "" };
                write!(out, "{comma}{name}={value}").expect("text grows");
            }
            out + "]"
        }
        Some(("v", text)) => format!("[={text}]"),
        Some(("i", text)) => format!("[{text}]"),
        Some((_, name)) => format!(".{name}"),
        None => step.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(value: Value) -> Set {
        Set::decode(&value).expect("a field set")
    }

    #[test]
    fn sets_are_read_and_written_alike() {
        let value = json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:name": {}}},
            "f:set": {"v:\"x\"": {}}, "f:none": {}}});
        assert_eq!(set(value.clone()).encode(), value);
        assert_eq!(
            set(value).paths(),
            [
                ".spec.none",
                r#".spec.containers[name="a"]"#,
                r#".spec.containers[name="a"].name"#,
                r#".spec.set[="x"]"#
            ]
        );
        for bad in [json!({"x": {}}), json!({"k:nope": {}}), json!({"f:a": 1}), json!([])] {
            assert_eq!(Set::decode(&bad), None, "{bad}");
        }
    }

    #[test]
    fn set_algebra() {
        let a = || set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
        let b = || set(json!({"f:a": {"f:b": {}, "f:d": {}}}));
        assert_eq!(a().union(b()), set(json!({"f:a": {".": {}, "f:b": {}, "f:d": {}}, "f:c": {}})));
        assert_eq!(a().intersection(&b()), set(json!({"f:a": {"f:b": {}}})));
        assert_eq!(a().difference(&b()), set(json!({"f:a": {}, "f:c": {}})));
        assert_eq!(a().without(&set(json!({"f:a": {}}))), set(json!({"f:c": {}})));
    }
}
