//! Validation of values by an OpenAPI schema, with upstream's messages.
//!
//! Schema -> [`Rule`], compiled once; rule + value (+ the value it replaces) -> field errors. Faults of what an update
//! leaves as it was are forgiven. Counterpart: `kube-openapi`'s validators, `apiserver/validation/ratcheting` and
//! `schema/listtype`. CEL rules live in [`super::cel`].

mod before;
mod check;
mod embedded;
pub(super) mod formats;
mod lists;
mod numbers;
mod place;

use std::collections::BTreeMap;

use serde_json::Value;

use super::pattern::Pattern;
use super::structural::flag;
use super::{list, text, texts};
use crate::field::{ErrorList, Path};

pub(super) use before::Before;
pub(super) use numbers::printed;
use place::Place;

/// One compiled schema node.
#[derive(Default)]
pub struct Rule {
    of: String,
    int_or_string: bool,
    nullable: bool,
    embedded: bool,
    /// Empty for what is no format of the type.
    format: String,
    check: Option<formats::Check>,
    choices: Vec<Value>,
    minimum: Option<Bound>,
    maximum: Option<Bound>,
    multiple_of: Option<f64>,
    /// Least and most characters, items or properties, by the type of the value.
    lengths: (Option<u64>, Option<u64>),
    items_count: (Option<u64>, Option<u64>),
    properties_count: (Option<u64>, Option<u64>),
    pattern: Option<Pattern>,
    required: Vec<String>,
    properties: BTreeMap<String, Rule>,
    additional: Option<Box<Rule>>,
    items: Option<Box<Rule>>,
    all_of: Vec<Rule>,
    any_of: Vec<Rule>,
    one_of: Vec<Rule>,
    not: Option<Box<Rule>>,
    list_type: String,
    list_keys: Vec<String>,
    /// Whether there are sets, keyed lists or embedded objects here or below.
    holds_lists: bool,
    holds_embedded: bool,
}

struct Bound {
    limit: f64,
    exclusive: bool,
}

// === compiling ===

impl Rule {
    pub fn compile(node: &Value) -> Result<Rule, String> {
        let number = |field: &str| node.get(field).and_then(Value::as_f64);
        let count = |field: &str| node.get(field).and_then(Value::as_u64);
        let bound = |field: &str, exclusive: &str| {
            number(field).map(|limit| Bound { limit, exclusive: flag(node, exclusive) })
        };
        let one = |field: &str| -> Result<Option<Box<Rule>>, String> {
            let child = node.get(field).filter(|child| child.is_object());
            child.map(Rule::compile).transpose().map(|rule| rule.map(Box::new))
        };
        let many = |field: &str| -> Result<Vec<Rule>, String> {
            list(node, field).iter().map(Rule::compile).collect()
        };
        let (of, format) = (text(node, "type"), text(node, "format"));
        let known = formats::is_recognized(of, format);
        let rule = Rule {
            of: of.to_owned(),
            int_or_string: flag(node, "x-kubernetes-int-or-string"),
            nullable: flag(node, "nullable"),
            embedded: flag(node, "x-kubernetes-embedded-resource"),
            format: if known { format.to_owned() } else { String::new() },
            check: formats::check(format).filter(|_| known),
            choices: list(node, "enum").to_vec(),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: number("multipleOf"),
            lengths: (count("minLength"), count("maxLength")),
            items_count: (count("minItems"), count("maxItems")),
            properties_count: (count("minProperties"), count("maxProperties")),
            pattern: Some(text(node, "pattern"))
                .filter(|text| !text.is_empty())
                .map(Pattern::parse)
                .transpose()?,
            required: texts(node, "required"),
            properties: properties(node)?,
            additional: one("additionalProperties")?,
            items: one("items")?,
            all_of: many("allOf")?,
            any_of: many("anyOf")?,
            one_of: many("oneOf")?,
            not: one("not")?,
            list_type: text(node, "x-kubernetes-list-type").to_owned(),
            list_keys: texts(node, "x-kubernetes-list-map-keys"),
            ..Rule::default()
        };
        Ok(rule.knowing_what_it_holds())
    }

    fn knowing_what_it_holds(mut self) -> Rule {
        let is_keyed = matches!(self.list_type.as_str(), "set" | "map");
        self.holds_lists = is_keyed || self.below().any(|rule| rule.holds_lists);
        self.holds_embedded = self.embedded || self.below().any(|rule| rule.holds_embedded);
        self
    }

    /// The rules of what stands directly below a value.
    fn below(&self) -> impl Iterator<Item = &Rule> {
        let only = self.additional.as_deref().into_iter().chain(self.items.as_deref());
        self.properties.values().chain(only)
    }

    /// The rule for a field or a key of a map.
    pub fn field(&self, name: &str) -> Option<&Rule> {
        self.properties.get(name).or(self.additional.as_deref())
    }

    pub fn property(&self, name: &str) -> Option<&Rule> {
        self.properties.get(name)
    }
}

fn properties(node: &Value) -> Result<BTreeMap<String, Rule>, String> {
    let properties = node.get("properties").and_then(Value::as_object).into_iter().flatten();
    properties.map(|(name, child)| Ok((name.clone(), Rule::compile(child)?))).collect()
}

// === validating ===

impl Rule {
    /// Validates a value as what stands at `below`; faults of what is still as it was `before` are forgiven.
    pub fn validate(
        &self,
        value: &Value,
        before: Option<Before<'_>>,
        below: &Path<'_>,
        errors: &mut ErrorList,
    ) {
        let found = check::Run { below }.value(self, value, &Place::ROOT, before);
        errors.0.extend(found.errors);
    }

    /// The faults of embedded objects' type and metadata.
    pub fn validate_embedded(&self, value: &Value, below: &Path<'_>, errors: &mut ErrorList) {
        if self.holds_embedded {
            embedded::validate(self, value, below, errors);
        }
    }

    /// Repeated entries of sets and keyed lists.
    pub fn validate_lists(&self, value: &Value, below: &Path<'_>, errors: &mut ErrorList) {
        if self.holds_lists {
            lists::validate(self, value, below, errors);
        }
    }
}
