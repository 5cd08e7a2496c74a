//! One walk over a value: types, bounds, patterns, choices, junctors.
//!
//! The order of checks at a node is upstream's, as its faults are reported in it: type, junctors, text, format, number,
//! list, choices, object. Junctors that fail report the branch that came closest, so every check also counts matches.
//! Counterpart: `kube-openapi/pkg/validation/validate`.

use serde_json::{Map, Value};

use super::Rule;
use super::before::Before;
use super::numbers;
use super::place::Place;
use crate::field::{ErrorType, FieldError, Path};

/// What a walk found, and by how many matching checks the value came close.
#[derive(Default)]
pub struct Findings {
    pub errors: Vec<FieldError>,
    matches: usize,
}

/// One walk; every field is named below `below`.
#[derive(Clone, Copy)]
pub struct Run<'r> {
    pub below: &'r Path<'r>,
}

// === impl Findings ===

impl Findings {
    fn merge(&mut self, other: Findings) {
        self.errors.extend(other.errors);
        self.matches += other.matches;
    }

    fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }

    /// Branches of junctors repeat what others found.
    fn without_repetitions(mut self) -> Findings {
        let mut seen = std::collections::HashSet::new();
        self.errors.retain(|error| seen.insert(error.to_string()));
        self
    }
}

// === impl Run ===

impl Run<'_> {
    pub fn value(
        self,
        rule: &Rule,
        value: &Value,
        at: &Place<'_>,
        before: Option<Before<'_>>,
    ) -> Findings {
        let mut found = self.node(rule, value, at, before);
        if !found.is_valid() && before.is_some_and(|before| before.is_unchanged(value)) {
            found.errors.clear();
        }
        found
    }

    /// A branch of a junctor: what is below it may be forgiven, the branch itself not.
    fn node(
        self,
        rule: &Rule,
        value: &Value,
        at: &Place<'_>,
        before: Option<Before<'_>>,
    ) -> Findings {
        let mut found = Findings::default();
        if value.is_null() {
            self.of_type(rule, value, at, &mut found);
            self.choice(rule, value, at, &mut found);
            return found;
        }
        if !rule.of.is_empty() || rule.int_or_string || !rule.format.is_empty() {
            self.of_type(rule, value, at, &mut found);
        }
        self.junctors(rule, value, at, before, &mut found);
        match value {
            Value::String(text) => self.text(rule, text, at, &mut found),
            Value::Number(number) => {
                let faults = numbers::faults(rule, number, at, self.below);
                found.matches += 2;
                found.errors.extend(faults);
            }
            Value::Array(items) => self.array(rule, items, at, before, &mut found),
            _ => {}
        }
        self.choice(rule, value, at, &mut found);
        if let Value::Object(map) = value {
            self.object(rule, map, at, before, &mut found);
        }
        // Choices and junctors are asked of every value, and the node counts itself.
        found.matches += 3;
        if rule.has_junctors() { found.without_repetitions() } else { found }
    }

    fn of_type(self, rule: &Rule, value: &Value, at: &Place<'_>, found: &mut Findings) {
        match rule.type_fault(value) {
            None => found.matches += 2,
            Some((wanted, is)) => {
                found.matches += 1;
                let detail = format!("{} in body must be of type {wanted}: {is:?}", at.name());
                found.errors.push(self.fault(ErrorType::TypeInvalid, at, Some(is.into()), detail));
            }
        }
    }

    fn choice(self, rule: &Rule, value: &Value, at: &Place<'_>, found: &mut Findings) {
        if rule.choices.is_empty() || rule.choices.iter().any(|choice| is_choice(value, choice)) {
            return;
        }
        let shown = |choice: &Value| match choice {
            Value::String(text) => format!("{text:?}"),
            other => format!("{:?}", other.to_string()),
        };
        let supported: Vec<String> = rule.choices.iter().map(shown).collect();
        let detail = format!("supported values: {}", supported.join(", "));
        found.errors.push(self.fault(ErrorType::NotSupported, at, Some(value.clone()), detail));
    }

    /// The first fault alone, as upstream stops at it; then the format.
    fn text(self, rule: &Rule, text: &str, at: &Place<'_>, found: &mut Findings) {
        found.matches += 1;
        let length = text.chars().count() as u64;
        let invalid =
            |detail: String| self.fault(ErrorType::Invalid, at, Some(text.into()), detail);
        let error = match (rule.lengths, &rule.pattern) {
            ((_, Some(max)), _) if length > max => Some(self.too_long(at, max)),
            ((Some(min), _), _) if length < min => {
                Some(invalid(format!("{} in body should be at least {min} chars long", at.name())))
            }
            (_, Some(pattern)) if !pattern.is_match(text) => {
                Some(invalid(format!("{} in body should match '{}'", at.name(), pattern.text())))
            }
            _ => None,
        };
        found.errors.extend(error);
        if let Some(check) = rule.check {
            found.matches += 1;
            if !check(text) {
                let detail =
                    format!("{} in body must be of type {}: {text:?}", at.name(), rule.format);
                found.errors.push(self.fault(
                    ErrorType::TypeInvalid,
                    at,
                    Some(text.into()),
                    detail,
                ));
            }
        }
    }

    fn array(
        self,
        rule: &Rule,
        items: &[Value],
        at: &Place<'_>,
        before: Option<Before<'_>>,
        found: &mut Findings,
    ) {
        if let Some(of_item) = &rule.items {
            let entries = before.and_then(|before| before.entries());
            for (index, item) in items.iter().enumerate() {
                let before = entries.as_ref().and_then(|entries| entries.find(item));
                found.merge(self.value(of_item, item, &at.index(index), before));
            }
        }
        let count = items.len() as u64;
        if let Some(min) = rule.items_count.0.filter(|min| count < *min) {
            let detail = format!("{} in body should have at least {min} items", at.name());
            found.errors.push(self.fault(ErrorType::Invalid, at, Some(count.into()), detail));
        }
        if let Some(max) = rule.items_count.1.filter(|max| count > *max) {
            found.errors.push(self.too_many(at, count, max));
        }
        found.matches += 2;
    }

    fn object(
        self,
        rule: &Rule,
        map: &Map<String, Value>,
        at: &Place<'_>,
        before: Option<Before<'_>>,
        found: &mut Findings,
    ) {
        let count = map.len() as u64;
        if let Some(min) = rule.properties_count.0.filter(|min| count < *min) {
            let detail = format!("{} in body should have at least {min} properties", at.name());
            found.errors.push(self.fault(ErrorType::Invalid, at, Some(count.into()), detail));
        }
        if let Some(max) = rule.properties_count.1.filter(|max| count > *max) {
            found.errors.push(self.too_many(at, count, max));
        }
        if let Some(of_entry) = &rule.additional {
            let others = map.iter().filter(|(name, _)| !rule.properties.contains_key(*name));
            for (name, value) in others {
                let before = before.and_then(|before| before.field(name));
                found.merge(self.value(of_entry, value, &at.entry(name), before));
            }
        }
        // The versions before and after differ where an update speaks another than what is stored.
        let is_type = |name: &str| {
            at.is_root() && self.below.is_root() && matches!(name, "kind" | "apiVersion")
        };
        for (name, of_field) in &rule.properties {
            let Some(value) = map.get(name) else { continue };
            let before = before.and_then(|before| before.field(name)).filter(|_| !is_type(name));
            found.merge(self.value(of_field, value, &at.property(name), before));
        }
        for name in rule.required.iter().filter(|name| !map.contains_key(*name)) {
            let place = at.entry(name);
            found.errors.push(self.fault(ErrorType::Required, &place, None, String::new()));
        }
        found.matches += 1;
    }

    // --- junctors ---

    fn junctors(
        self,
        rule: &Rule,
        value: &Value,
        at: &Place<'_>,
        before: Option<Before<'_>>,
        found: &mut Findings,
    ) {
        found.matches += 1;
        if !rule.has_junctors() {
            return;
        }
        let each = |branches: &[Rule]| -> Vec<Findings> {
            branches.iter().map(|branch| self.node(branch, value, at, before)).collect()
        };
        if !rule.any_of.is_empty() {
            self.any_of(each(&rule.any_of), at, found);
        }
        if !rule.one_of.is_empty() {
            self.one_of(each(&rule.one_of), at, found);
        }
        if !rule.all_of.is_empty() {
            self.all_of(each(&rule.all_of), at, found);
        }
        if rule.not.as_deref().is_some_and(|not| self.node(not, value, at, before).is_valid()) {
            found.errors.push(self.composite(at, "must not validate the schema (not)"));
        }
    }

    fn any_of(self, branches: Vec<Findings>, at: &Place<'_>, found: &mut Findings) {
        if !branches.iter().any(Findings::is_valid) {
            found.errors.push(self.composite(at, "must validate at least one schema (anyOf)"));
        }
        if let Some(closest) = closest(branches) {
            found.merge(closest);
        }
    }

    fn one_of(self, branches: Vec<Findings>, at: &Place<'_>, found: &mut Findings) {
        let why = match branches.iter().filter(|branch| branch.is_valid()).count() {
            1 => {
                closest(branches).into_iter().for_each(|valid| found.merge(valid));
                return;
            }
            0 => "Found none valid".to_owned(),
            many => format!("Found {many} valid alternatives"),
        };
        let why = format!("must validate one and only one schema (oneOf). {why}");
        found.errors.push(self.composite(at, &why));
        // With several valid ones there is nothing more to say.
        if let Some(failed) = closest(branches).filter(|closest| !closest.is_valid()) {
            found.merge(failed);
        }
    }

    fn all_of(self, branches: Vec<Findings>, at: &Place<'_>, found: &mut Findings) {
        let (all, valid) = (branches.len(), branches.iter().filter(|b| b.is_valid()).count());
        branches.into_iter().for_each(|branch| found.merge(branch));
        if valid < all {
            let none = if valid == 0 { ". None validated" } else { "" };
            let why = format!("must validate all the schemas (allOf){none}");
            found.errors.push(self.composite(at, &why));
        }
    }

    // --- faults ---

    fn fault(
        self,
        kind: ErrorType,
        at: &Place<'_>,
        bad_value: Option<Value>,
        detail: String,
    ) -> FieldError {
        FieldError { kind, field: at.field(self.below), bad_value, printed: None, detail }
    }

    /// A fault of no single field: it is reported for the whole.
    fn composite(self, at: &Place<'_>, why: &str) -> FieldError {
        let detail = format!("{:?} {why}", at.name());
        self.fault(ErrorType::Invalid, &Place::ROOT, Some("".into()), detail)
    }

    fn too_long(self, at: &Place<'_>, max: u64) -> FieldError {
        let unit = if max == 1 { "byte" } else { "bytes" };
        let detail = format!("may not be more than {max} {unit}");
        self.fault(ErrorType::TooLong, at, None, detail)
    }

    fn too_many(self, at: &Place<'_>, count: u64, max: u64) -> FieldError {
        let unit = if max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {max} {unit}");
        self.fault(ErrorType::TooMany, at, Some(count.into()), detail)
    }
}

/// The first valid branch, else the first of those with the most matches.
fn closest(branches: Vec<Findings>) -> Option<Findings> {
    let mut best: Option<Findings> = None;
    for branch in branches {
        let better = match &best {
            None => true,
            Some(best) if best.is_valid() => false,
            Some(best) => branch.is_valid() || branch.matches > best.matches,
        };
        if better {
            best = Some(branch);
        }
    }
    best
}

/// Numbers are compared as the choice is written: 1.5 chooses 1.
fn is_choice(value: &Value, choice: &Value) -> bool {
    match (value, choice) {
        (Value::Null, _) => false,
        (Value::Number(value), Value::Number(choice)) => match (choice.as_i64(), value.as_f64()) {
            (Some(choice), Some(float)) if value.is_f64() => float.trunc() == choice as f64,
            _ => value.as_f64() == choice.as_f64(),
        },
        (value, choice) => value == choice,
    }
}

// === types ===

impl Rule {
    fn has_junctors(&self) -> bool {
        self.not.is_some()
            || !(self.any_of.is_empty() && self.one_of.is_empty() && self.all_of.is_empty())
    }

    fn types(&self) -> Vec<&str> {
        match (self.int_or_string, self.of.as_str()) {
            (true, _) => vec!["integer", "string"],
            (false, "") => Vec::new(),
            (false, of) => vec![of],
        }
    }

    /// What type was wanted and what it is, if they differ. A format takes the place of the type in messages about numbers
    /// and the like; text with a format is left to the format, and so are lists.
    fn type_fault(&self, value: &Value) -> Option<(String, &'static str)> {
        let types = self.types();
        let wants = |of: &str| types.contains(&of);
        let found = type_name(value);
        if value.is_null() {
            return (!types.is_empty() && !self.nullable).then(|| (types.join(","), found));
        }
        let is_whole = value.as_f64().is_some_and(numbers::is_whole);
        let fits = wants(found)
            || (found == "number" && is_whole && wants("integer"))
            || (found == "integer" && wants("number"));
        let is_text = matches!(value, Value::String(_) | Value::Array(_));
        match (self.format.is_empty(), is_text) {
            _ if fits => None,
            (false, true) if !wants("number") && !wants("integer") => None,
            (false, false) if self.format != number_format(found) => {
                Some((self.format.clone(), number_format(found)))
            }
            _ => Some((types.join(","), found)),
        }
    }
}

/// The format that Go's types imply.
fn number_format(found: &str) -> &'static str {
    match found {
        "integer" => "int64",
        "number" => "float64",
        _ => "",
    }
}

pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
