//! A place in an object while it is validated: the value there, and how upstream spells the path.
//!
//! The vocabulary of every kind's `validate`: walk down with [`At::child`] and [`At::items`], then
//! state rules, which push faults onto an [`ErrorList`]. An absent field is a place as well: its
//! text is empty, its number 0 and its list empty, as a Go zero value would be.
//! Counterparts: `field.Path` passed around in `pkg/apis/*/validation`, and its small validators.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::alike::alike;
use crate::field::{ErrorList, Path};
use crate::validation;

pub const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
pub const POSITIVE: &str = "must be greater than zero";
pub const IMMUTABLE: &str = "field is immutable";

#[derive(Clone, Copy)]
pub struct At<'v, 'p> {
    pub value: &'v Value,
    pub path: Path<'p>,
}

// === walking ===

impl<'v, 'p> At<'v, 'p> {
    pub fn root(object: &'v Value) -> At<'v, 'p> {
        At { value: object, path: Path::ROOT }
    }

    /// A value that stands elsewhere than its path says, as in some of upstream's messages.
    pub fn new(value: &'v Value, path: Path<'p>) -> At<'v, 'p> {
        At { value, path }
    }

    pub fn child<'b>(&'b self, name: &'b str) -> At<'v, 'b> {
        At { value: self.value.get(name).unwrap_or(&Value::Null), path: self.path.child(name) }
    }

    /// A member of a map, at `path[key]`.
    pub fn child_key<'b>(&'b self, key: &'b str) -> At<'v, 'b> {
        At { value: self.value.get(key).unwrap_or(&Value::Null), path: self.path.key(key) }
    }

    /// The same value, reported one step further down.
    pub fn under<'b>(&'b self, name: &'b str) -> At<'v, 'b> {
        At { value: self.value, path: self.path.child(name) }
    }

    pub fn items<'b>(&'b self) -> impl DoubleEndedIterator<Item = At<'v, 'b>> + ExactSizeIterator {
        let path = &self.path;
        self.list().iter().enumerate().map(move |(at, value)| At { value, path: path.index(at) })
    }

    /// The members of a map, each at `path[key]`.
    pub fn entries<'b>(&'b self) -> impl Iterator<Item = (&'v str, At<'v, 'b>)> {
        let path = &self.path;
        let map = self.value.as_object().into_iter().flatten();
        map.map(move |(key, value)| (key.as_str(), At { value, path: path.key(key) }))
    }
}

// === reading ===

impl<'v> At<'v, '_> {
    pub fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Whether a member is there and not null.
    pub fn has(&self, name: &str) -> bool {
        self.value.get(name).is_some_and(|value| !value.is_null())
    }

    pub fn text(&self) -> &'v str {
        self.value.as_str().unwrap_or_default()
    }

    pub fn text_of(&self, name: &str) -> &'v str {
        self.value.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn int(&self) -> i64 {
        self.value.as_i64().unwrap_or_default()
    }

    pub fn flag(&self) -> bool {
        self.value.as_bool().unwrap_or_default()
    }

    pub fn flag_of(&self, name: &str) -> bool {
        self.value.get(name).and_then(Value::as_bool).unwrap_or_default()
    }

    pub fn list(&self) -> &'v [Value] {
        self.value.as_array().map_or(&[], Vec::as_slice)
    }

    pub fn map(&self) -> Option<&'v Map<String, Value>> {
        self.value.as_object()
    }

    /// Absent, or text, list or map with nothing in it.
    pub fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        }
    }
}

// === reporting ===

impl At<'_, '_> {
    pub fn invalid(&self, errors: &mut ErrorList, detail: impl Into<String>) {
        errors.invalid(&self.path, self.value.clone(), detail);
    }

    /// Reports another value than the one here.
    pub fn invalid_as(
        &self,
        errors: &mut ErrorList,
        shown: impl Into<Value>,
        detail: impl Into<String>,
    ) {
        errors.invalid(&self.path, shown, detail);
    }

    /// Says what is wrong here without showing the value.
    pub fn invalid_unshown(&self, errors: &mut ErrorList, detail: impl Into<String>) {
        errors.invalid_unshown(&self.path, detail);
    }

    pub fn required(&self, errors: &mut ErrorList, detail: &str) {
        errors.required(&self.path, detail);
    }

    pub fn forbidden(&self, errors: &mut ErrorList, detail: impl Into<String>) {
        errors.forbidden(&self.path, detail);
    }

    pub fn duplicate(&self, errors: &mut ErrorList) {
        errors.duplicate(&self.path, self.value.clone());
    }

    pub fn not_supported(&self, errors: &mut ErrorList, supported: &[&str]) {
        let shown = if self.is_set() { self.value.clone() } else { "".into() };
        errors.not_supported(&self.path, shown, supported);
    }
}

// === rules ===

impl At<'_, '_> {
    /// Must not be empty; says whether it is not.
    pub fn needed(&self, errors: &mut ErrorList) -> bool {
        if self.is_empty() {
            self.required(errors, "");
        }
        !self.is_empty()
    }

    /// The text must pass a rule that lists faults.
    pub fn obeys(&self, errors: &mut ErrorList, rule: fn(&str) -> Vec<String>) {
        let text = self.text();
        rule(text).into_iter().for_each(|fault| errors.invalid(&self.path, text, fault));
    }

    /// As [`At::obeys`], for a field that may be left out, or be empty as well.
    pub fn obeys_if_set(&self, errors: &mut ErrorList, rule: fn(&str) -> Vec<String>) {
        if !self.is_empty() {
            self.obeys(errors, rule);
        }
    }

    /// As [`At::obeys`], for a field that may be left out and not be empty.
    pub fn obeys_if_given(&self, errors: &mut ErrorList, rule: fn(&str) -> Vec<String>) {
        if self.is_set() {
            self.obeys(errors, rule);
        }
    }

    /// As [`At::obeys`], for a field that may not be left out.
    pub fn needed_and_obeys(&self, errors: &mut ErrorList, rule: fn(&str) -> Vec<String>) {
        if self.needed(errors) {
            self.obeys(errors, rule);
        }
    }

    /// One of a closed set; empty counts as none of them.
    pub fn one_of(&self, errors: &mut ErrorList, supported: &[&str]) {
        if !supported.contains(&self.text()) {
            self.not_supported(errors, supported);
        }
    }

    pub fn one_of_if_set(&self, errors: &mut ErrorList, supported: &[&str]) {
        if self.is_set() {
            self.one_of(errors, supported);
        }
    }

    /// One of a closed set, and required if empty.
    pub fn needed_one_of(&self, errors: &mut ErrorList, supported: &[&str]) {
        if self.needed(errors) {
            self.one_of(errors, supported);
        }
    }

    pub fn not_negative(&self, errors: &mut ErrorList) {
        if self.int() < 0 {
            self.invalid(errors, NOT_NEGATIVE);
        }
    }

    pub fn positive(&self, errors: &mut ErrorList) {
        if self.int() <= 0 {
            self.invalid_as(errors, self.int(), POSITIVE);
        }
    }

    /// `must be between 1 and 5, inclusive`, for a number that is there.
    pub fn between(&self, errors: &mut ErrorList, range: RangeInclusive<i64>) {
        if self.is_set() && !range.contains(&self.int()) {
            let (from, to) = (range.start(), range.end());
            self.invalid(errors, format!("must be between {from} and {to}, inclusive"));
        }
    }

    pub fn port(&self, errors: &mut ErrorList) {
        for fault in validation::port_number(self.int()) {
            self.invalid_as(errors, self.int(), fault);
        }
    }

    /// A number of a port or the name of one.
    pub fn port_or_name(&self, errors: &mut ErrorList) {
        match self.value {
            Value::String(_) => self.obeys(errors, validation::port_name),
            _ => self.port(errors),
        }
    }

    /// The same as in the old object.
    pub fn unchanged(&self, errors: &mut ErrorList, old: &At) {
        if !alike(self.value, old.value) {
            self.invalid(errors, IMMUTABLE);
        }
    }

    /// Fields by name that must not be negative.
    pub fn not_negative_each(&self, errors: &mut ErrorList, names: &[&str]) {
        names.iter().for_each(|name| self.child(name).not_negative(errors));
    }

    /// Labels that may be set on objects and asked for by selectors.
    pub fn labels(&self, errors: &mut ErrorList) {
        for (key, value) in self.map().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default();
            validation::validate_label(key, value, errors, &self.path);
        }
    }
}

#[cfg(test)]
pub mod tests {
    //! How the kinds' tests state a rule: an object as YAML, and the faults it must have.

    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::codec::{Format, Target, decode};
    use crate::{KindDef, default, internal, kinds};

    /// Creates the object as the request path does, and compares what is wrong with it.
    /// `path` is that of the kind: `apps/v1/deployments`.
    pub fn check(path: &str, yaml: &str, faults: &[&str]) {
        let kind = kind_at(path);
        let object = created(&kind, yaml);
        let mut errors = ErrorList::default();
        kind.strategy.validate(&object, &mut errors);
        compare(&kind, yaml, errors, faults);
    }

    /// Updates the first object to the second; faults of the change alone.
    pub fn check_update(path: &str, old: &str, new: &str, faults: &[&str]) {
        let kind = kind_at(path);
        let (old, mut new) = (created(&kind, old), read(&kind, new));
        kind.prepare_for_update(&mut new, &old);
        let mut errors = ErrorList::default();
        kind.strategy.validate_update(&new, &old, &mut errors);
        compare(&kind, &new.to_string(), errors, faults);
    }

    /// As [`check_update`], through a subresource that changes a part.
    pub fn check_part(path: &str, part: &str, old: &str, new: &str, faults: &[&str]) {
        let kind = kind_at(path);
        let (old, new) = (created(&kind, old), created(&kind, new));
        let mut errors = ErrorList::default();
        kind.strategy.validate_part_update(part, &new, &old, &mut errors);
        compare(&kind, &new.to_string(), errors, faults);
    }

    /// As [`check_update`], through the status subresource.
    pub fn check_status(path: &str, old: &str, new: &str, faults: &[&str]) {
        let kind = kind_at(path);
        let (old, mut new) = (read(&kind, old), read(&kind, new));
        kind.strategy.prepare_for_status_update(&kind, &mut new, &old);
        let mut errors = ErrorList::default();
        kind.strategy.validate_status_update(&new, &old, &mut errors);
        compare(&kind, &new.to_string(), errors, faults);
    }

    /// Warnings of a create.
    pub fn check_warnings(path: &str, yaml: &str, warnings: &[&str]) {
        let kind = kind_at(path);
        let object = created(&kind, yaml);
        assert_eq!(kind.strategy.warnings(&object, None), warnings, "{yaml}");
    }

    fn compare(kind: &KindDef, shown: &str, mut errors: ErrorList, faults: &[&str]) {
        internal::print_values(&kind.group_kind(), &mut errors);
        let found: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        assert_eq!(found, faults, "{shown}");
    }

    fn kind_at(path: &str) -> Arc<KindDef> {
        let (group, version, resource) = match path.split('/').collect::<Vec<_>>()[..] {
            [version, resource] => ("", version, resource),
            [group, version, resource] => (group, version, resource),
            _ => panic!("not the path of a kind: {path}"),
        };
        kinds::builtin().get(group, version, resource).expect("a built-in kind").clone()
    }

    fn created(kind: &KindDef, yaml: &str) -> Value {
        let mut object = read(kind, yaml);
        kind.prepare_for_create(&mut object);
        object
    }

    fn read(kind: &KindDef, yaml: &str) -> Value {
        let yaml = format!("apiVersion: {}\nkind: {}\n{yaml}", kind.api_version(), kind.kind);
        let decoded = decode(yaml.as_bytes(), Format::Yaml, &Target::of(kind)).expect("readable");
        assert_eq!(decoded.strict, Vec::<String>::new(), "{yaml}");
        let mut object = decoded.object;
        if object.get("metadata").is_none() {
            object["metadata"] = json!({"name": "x", "uid": "u"});
        }
        default::apply(&mut object, kind);
        object
    }
}
