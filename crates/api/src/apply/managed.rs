//! Who owns which fields: the entries of `metadata.managedFields`.
//!
//! JSON entries <-> [`Managed`]. Ownership moves by two operations, update and apply; this file holds
//! what both share. Counterpart: `structured-merge-diff/merge` and `managedfields/internal`.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::Manager;
use super::set::Set;
use super::typed::Comparison;

/// More entries of plain updates than these are merged into one, oldest first.
const MAX_UPDATERS: usize = 10;
const MERGED_UPDATERS: &str = "ancient-changes";

/// Fields nobody owns.
static UNOWNED: LazyLock<Set> = LazyLock::new(|| {
    let metadata = [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ];
    let mut below: Map<String, Value> =
        metadata.iter().map(|name| (format!("f:{name}"), json!({}))).collect();
    below.insert(".".to_owned(), json!({}));
    let all = json!({"f:apiVersion": {}, "f:kind": {}, "f:metadata": below});
    Set::decode(&all).expect("a field set")
});

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Owner {
    pub manager: String,
    pub operation: Operation,
    pub api_version: String,
    pub subresource: String,
    pub time: String,
    pub set: Set,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Managed(pub Vec<Owner>);

/// A field that another manager owns.
#[derive(Clone, Debug)]
pub struct Conflicts<'a> {
    pub owner: &'a Owner,
    pub set: Set,
}

// === impl Managed ===

impl Managed {
    /// Reads the entries; `None` if any is malformed. Of two that say who they are alike the later counts.
    pub fn decode(entries: &[Value]) -> Option<Managed> {
        let mut owners: Vec<Owner> = Vec::with_capacity(entries.len());
        for owner in entries.iter().map(Owner::decode) {
            let owner = owner?;
            match owners.iter_mut().find(|known| known.is_same_as(&owner)) {
                Some(known) => *known = owner,
                None => owners.push(owner),
            }
        }
        Some(Managed(owners))
    }

    /// Writes the entries: applies first, then by time.
    pub fn encode(mut self) -> Value {
        self.0.sort_by(|a, b| a.order().cmp(&b.order()));
        self.0.into_iter().map(Owner::encode).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn find(&self, manager: &Manager, operation: Operation) -> Option<&Owner> {
        self.0.iter().find(|owner| owner.is(manager, operation))
    }

    /// Gives a manager exactly this set; an empty one removes it. The time is left as it was.
    pub fn set(&mut self, manager: &Manager, operation: Operation, set: Set) {
        let set = set.difference(&UNOWNED);
        let at = self.0.iter().position(|owner| owner.is(manager, operation));
        match (at, set.is_empty()) {
            (Some(at), true) => drop(self.0.remove(at)),
            (None, true) => {}
            (Some(at), false) => {
                self.0[at].set = set;
                self.0[at].api_version.clone_from(&manager.api_version);
            }
            (None, false) => self.0.push(Owner {
                manager: manager.name.clone(),
                operation,
                api_version: manager.api_version.clone(),
                subresource: manager.subresource.clone(),
                time: String::new(),
                set,
            }),
        }
    }

    pub fn touch(&mut self, manager: &Manager, operation: Operation) {
        if let Some(owner) = self.0.iter_mut().find(|owner| owner.is(manager, operation)) {
            owner.time.clone_from(&manager.time);
        }
    }

    /// Takes what changed away from everyone but the entry that `keeps`.
    pub fn take_away(&mut self, changes: &Comparison, keeps: impl Fn(&Owner) -> bool) {
        for owner in self.0.iter_mut().filter(|owner| !keeps(owner)) {
            owner.set = std::mem::take(&mut owner.set)
                .difference(&changes.modified)
                .difference(&changes.added)
                .difference(&changes.removed);
        }
        self.0.retain(|owner| !owner.set.is_empty());
    }

    /// What the changes would take away from everyone but the entry that `keeps`, by owner.
    pub fn conflicts(
        &self,
        changes: &Comparison,
        keeps: impl Fn(&Owner) -> bool,
    ) -> Vec<Conflicts<'_>> {
        let written = changes.modified.clone().union(changes.added.clone());
        self.0
            .iter()
            .filter(|owner| !keeps(owner))
            .map(|owner| Conflicts { owner, set: owner.set.intersection(&written) })
            .filter(|conflicts| !conflicts.set.is_empty())
            .collect()
    }

    /// The changes are now the manager's, by a plain update.
    pub fn record_update(&mut self, changes: Comparison, manager: &Manager) {
        self.take_away(&changes, |_| false);
        let taken = changes.modified.union(changes.added).difference(&UNOWNED);
        if taken.is_empty() {
            return;
        }
        let before = self.find(manager, Operation::Update).map(|owner| owner.set.clone());
        self.set(manager, Operation::Update, before.unwrap_or_default().union(taken));
        self.touch(manager, Operation::Update);
    }

    /// Merges the oldest updaters of each version until there are few enough.
    pub fn cap_updaters(&mut self) {
        let mut updaters: Vec<Owner> = Vec::new();
        let mut rest: Vec<Owner> = Vec::new();
        for owner in std::mem::take(&mut self.0) {
            match owner.operation {
                Operation::Update => updaters.push(owner),
                Operation::Apply => rest.push(owner),
            }
        }
        updaters.sort_by(|a, b| a.order().cmp(&b.order()));
        let mut at = 0;
        while updaters.len() > MAX_UPDATERS && at < updaters.len() {
            let version = updaters[at].api_version.clone();
            match updaters[..at].iter().position(|owner| owner.api_version == version) {
                Some(first) => {
                    let merged = updaters.remove(at);
                    let bucket = &mut updaters[first];
                    bucket.manager = MERGED_UPDATERS.to_owned();
                    bucket.subresource.clear();
                    bucket.time = merged.time;
                    bucket.set = std::mem::take(&mut bucket.set).union(merged.set);
                }
                None => at += 1,
            }
        }
        self.0 = rest;
        self.0.append(&mut updaters);
    }
}

// === impl Owner ===

impl Owner {
    fn decode(entry: &Value) -> Option<Owner> {
        let text = |field| entry.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let operation = match text("operation").as_str() {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        if text("fieldsType") != "FieldsV1" {
            return None;
        }
        Some(Owner {
            manager: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            set: entry.get("fieldsV1").map_or_else(|| Some(Set::default()), Set::decode)?,
        })
    }

    fn encode(self) -> Value {
        let mut entry = Map::new();
        let mut put = |field: &str, value: Value| drop(entry.insert(field.to_owned(), value));
        put("operation", self.operation_text().into());
        put("manager", self.manager.into());
        put("apiVersion", self.api_version.into());
        put("fieldsType", "FieldsV1".into());
        put("fieldsV1", self.set.encode());
        for (field, text) in [("time", self.time), ("subresource", self.subresource)] {
            if !text.is_empty() {
                put(field, text.into());
            }
        }
        Value::Object(entry)
    }

    fn operation_text(&self) -> &'static str {
        match self.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }

    /// An applier is the same whatever version it speaks.
    pub fn is(&self, manager: &Manager, operation: Operation) -> bool {
        self.operation == operation
            && self.manager == manager.name
            && self.subresource == manager.subresource
            && (operation == Operation::Apply || self.api_version == manager.api_version)
    }

    fn is_same_as(&self, other: &Owner) -> bool {
        (self.operation, &self.manager, &self.subresource)
            == (other.operation, &other.manager, &other.subresource)
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    fn order(&self) -> (Operation, &str, &str, &str, &str) {
        (self.operation, &self.time, &self.manager, &self.api_version, &self.subresource)
    }

    /// How a conflict names the owner: `"a" with subresource "status" using v1`.
    pub fn described(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_updaters_are_merged_by_version() {
        let owner = |at: usize| Owner {
            manager: format!("m{at}"),
            operation: Operation::Update,
            api_version: "v1".to_owned(),
            subresource: String::new(),
            time: format!("2026-01-01T00:00:{at:02}Z"),
            set: Set::decode(&json!({format!("f:a{at}"): {}})).expect("a set"),
        };
        let mut managed = Managed((0..13).map(owner).collect());
        managed.cap_updaters();
        assert_eq!(managed.0.len(), MAX_UPDATERS);
        let bucket = managed.0.iter().find(|o| o.manager == MERGED_UPDATERS).expect("a bucket");
        assert_eq!(bucket.set.paths(), [".a0", ".a1", ".a2", ".a3"]);
        assert_eq!(bucket.time, "2026-01-01T00:00:03Z");
    }

    #[test]
    fn an_entry_that_comes_twice_counts_as_it_came_last() {
        let entry = |field: &str| {
            json!({"manager": "m", "operation": "Apply", "apiVersion": "v1",
            "fieldsType": "FieldsV1", "fieldsV1": {(format!("f:{field}")): {}}})
        };
        let managed = Managed::decode(&[entry("a"), entry("b")]).expect("well-formed");
        assert_eq!(managed.encode(), json!([entry("b")]));
    }

    #[test]
    fn malformed_entries_are_told() {
        let good = json!({"manager": "m", "operation": "Update", "apiVersion": "v1",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:a": {}}});
        assert!(Managed::decode(std::slice::from_ref(&good)).is_some());
        for (field, value) in [
            ("operation", json!("Bogus")),
            ("fieldsType", json!("")),
            ("fieldsV1", json!({"x": 1})),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            assert_eq!(Managed::decode(&[bad]), None, "{field}");
        }
    }
}
