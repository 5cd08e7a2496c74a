//! Validation of values by an OpenAPI schema, with upstream's messages.
//!
//! Schema -> [`Rule`], compiled once; rule + value -> field errors. Counterpart: `kube-openapi`'s
//! validators and `listtype.ValidateListSetsAndMaps`. `x-kubernetes-validations` (CEL) are not evaluated:
//! their place is the end of [`Rule::value`], where a node's own checks are done.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use regex::Regex;
use serde_json::Value;

use super::structural::flag;
use super::{list, text, texts};
use crate::field::{ErrorList, Path};
use crate::{time, validation};

/// One compiled schema node.
#[derive(Default)]
pub struct Rule {
    of: String,
    int_or_string: bool,
    nullable: bool,
    embedded: bool,
    format: String,
    choices: Vec<Value>,
    minimum: Option<Bound>,
    maximum: Option<Bound>,
    multiple_of: Option<f64>,
    /// Least and most characters, items or properties, by the type of the value.
    lengths: (Option<u64>, Option<u64>),
    items_count: (Option<u64>, Option<u64>),
    properties_count: (Option<u64>, Option<u64>),
    pattern: Option<Regex>,
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
        let properties = node.get("properties").and_then(Value::as_object).into_iter().flatten();
        Ok(Rule {
            of: text(node, "type").to_owned(),
            int_or_string: flag(node, "x-kubernetes-int-or-string"),
            nullable: flag(node, "nullable"),
            embedded: flag(node, "x-kubernetes-embedded-resource"),
            format: text(node, "format").to_owned(),
            choices: list(node, "enum").to_vec(),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: number("multipleOf"),
            lengths: (count("minLength"), count("maxLength")),
            items_count: (count("minItems"), count("maxItems")),
            properties_count: (count("minProperties"), count("maxProperties")),
            pattern: pattern(text(node, "pattern"))?,
            required: texts(node, "required"),
            properties: properties
                .map(|(name, child)| Ok((name.clone(), Rule::compile(child)?)))
                .collect::<Result<_, String>>()?,
            additional: one("additionalProperties")?,
            items: one("items")?,
            all_of: many("allOf")?,
            any_of: many("anyOf")?,
            one_of: many("oneOf")?,
            not: one("not")?,
            list_type: text(node, "x-kubernetes-list-type").to_owned(),
            list_keys: texts(node, "x-kubernetes-list-map-keys"),
        })
    }
}

fn pattern(text: &str) -> Result<Option<Regex>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    Regex::new(text).map(Some).map_err(|error| error.to_string())
}

// === validating ===

impl Rule {
    /// Validates a whole object, whose metadata is validated elsewhere.
    pub fn validate_root(&self, object: &Value, errors: &mut ErrorList) {
        self.object(object, &Path::ROOT, errors);
        self.junctors(object, &Path::ROOT, errors);
        self.lists(object, &Path::ROOT, errors);
    }

    /// Validates a value, such as a default, on its own.
    pub fn validate(&self, value: &Value, at: &Path<'_>, errors: &mut ErrorList) {
        self.value(value, at, errors);
        self.lists(value, at, errors);
    }

    fn value(&self, value: &Value, at: &Path<'_>, errors: &mut ErrorList) {
        if value.is_null() && self.nullable {
            return;
        }
        if !self.type_fits(value) {
            return self.wrong_type(value, at, errors);
        }
        self.choice(value, at, errors);
        match value {
            Value::String(text) => self.string(text, at, errors),
            Value::Number(number) => self.number(number.as_f64().unwrap_or(0.0), value, at, errors),
            Value::Array(items) => self.array(items, at, errors),
            Value::Object(_) => self.object(value, at, errors),
            _ => {}
        }
        self.junctors(value, at, errors);
    }

    fn type_fits(&self, value: &Value) -> bool {
        let found = type_name(value);
        if self.int_or_string {
            return matches!(found, "integer" | "string");
        }
        match self.of.as_str() {
            "" => true,
            "number" => matches!(found, "number" | "integer"),
            wanted => wanted == found,
        }
    }

    fn wrong_type(&self, value: &Value, at: &Path<'_>, errors: &mut ErrorList) {
        let found = type_name(value);
        let wanted = if self.int_or_string { "integer,string" } else { &self.of };
        let place = place(at);
        errors.type_invalid(
            at,
            found,
            format!("{place} in body must be of type {wanted}: {found:?}"),
        );
        if wanted == "integer" && found == "number" {
            let detail =
                format!("Checked value must be of type integer (default format) in {place}");
            errors.invalid(&Path::ROOT, "", detail);
        }
    }

    fn choice(&self, value: &Value, at: &Path<'_>, errors: &mut ErrorList) {
        if self.choices.is_empty() || self.choices.contains(value) {
            return;
        }
        let supported: Vec<String> = self
            .choices
            .iter()
            .map(|choice| choice.as_str().map_or_else(|| choice.to_string(), str::to_owned))
            .collect();
        let supported: Vec<&str> = supported.iter().map(String::as_str).collect();
        errors.not_supported(at, value.clone(), &supported);
    }

    /// The first fault alone, as upstream stops at it.
    fn string(&self, text: &str, at: &Path<'_>, errors: &mut ErrorList) {
        if !has_format(&self.format, text) {
            let detail = format!("{} in body must be of type {}: {text:?}", place(at), self.format);
            errors.type_invalid(at, text, detail);
            return;
        }
        let length = text.chars().count() as u64;
        match self.lengths {
            (_, Some(max)) if length > max => errors.too_long(at, max as usize),
            (Some(min), _) if length < min => {
                let detail = format!("{} in body should be at least {min} chars long", place(at));
                errors.invalid(at, text, detail);
            }
            _ => {
                if let Some(pattern) = self.pattern.as_ref().filter(|it| !it.is_match(text)) {
                    let detail = format!("{} in body should match '{pattern}'", place(at));
                    errors.invalid(at, text, detail);
                }
            }
        }
    }

    fn number(&self, number: f64, value: &Value, at: &Path<'_>, errors: &mut ErrorList) {
        let place = place(at);
        if let Some(factor) = self.multiple_of {
            if factor < 1.0 && number == 0.0 {
                let detail = format!("factor MultipleOf declared for {place} must be positive: 0");
                errors.invalid(at, value.clone(), detail);
            } else if !is_whole(number / factor) {
                let detail = format!("{place} in body should be a multiple of {factor}");
                errors.invalid(at, value.clone(), detail);
            }
        }
        let bounds = [(&self.maximum, "less", 1.0), (&self.minimum, "greater", -1.0)];
        for (bound, word, sign) in bounds {
            let Some(Bound { limit, exclusive }) = bound else { continue };
            let beyond = (number - limit) * sign;
            if beyond > 0.0 || (*exclusive && beyond == 0.0) {
                let or_equal = if *exclusive { "" } else { " or equal to" };
                let detail = format!("{place} in body should be {word} than{or_equal} {limit}");
                errors.invalid(at, value.clone(), detail);
            }
        }
    }

    fn array(&self, items: &[Value], at: &Path<'_>, errors: &mut ErrorList) {
        if let Some(rule) = &self.items {
            for (index, item) in items.iter().enumerate() {
                rule.value(item, &at.index(index), errors);
            }
        }
        let count = items.len() as u64;
        match self.items_count {
            (Some(min), _) if count < min => {
                let detail = format!("{} in body should have at least {min} items", place(at));
                errors.invalid(at, count, detail);
            }
            (_, Some(max)) if count > max => errors.too_many(at, items.len(), max as usize),
            _ => {}
        }
    }

    fn object(&self, object: &Value, at: &Path<'_>, errors: &mut ErrorList) {
        let Value::Object(map) = object else { return };
        let count = map.len() as u64;
        match self.properties_count {
            (Some(min), _) if count < min => {
                let detail = format!("{} in body should have at least {min} properties", place(at));
                errors.invalid(at, count, detail);
            }
            (_, Some(max)) if count > max => errors.too_many(at, map.len(), max as usize),
            _ => {}
        }
        let implied: &[&str] = if self.embedded { &["apiVersion", "kind"] } else { &[] };
        let required = self.required.iter().map(String::as_str).chain(implied.iter().copied());
        for name in required.filter(|name| !map.contains_key(*name)) {
            errors.required(&at.child(name), "");
        }
        for (name, value) in map {
            let rule = self.properties.get(name).or(self.additional.as_deref());
            if let Some(rule) = rule {
                rule.value(value, &at.child(name), errors);
            }
        }
    }

    fn junctors(&self, value: &Value, at: &Path<'_>, errors: &mut ErrorList) {
        let holds = |rule: &&Rule| {
            let mut found = ErrorList::default();
            rule.value(value, at, &mut found);
            found.is_empty()
        };
        let place = place(at);
        let mut refuse = |why: &str| errors.invalid(at, "", format!("{place:?} must {why}"));
        if !self.any_of.is_empty() && !self.any_of.iter().any(|rule| holds(&rule)) {
            refuse("validate at least one schema (anyOf)");
        }
        if !self.one_of.is_empty() {
            match self.one_of.iter().filter(holds).count() {
                0 => refuse("validate one and only one schema (oneOf). Found none valid"),
                1 => {}
                n => refuse(&format!(
                    "validate one and only one schema (oneOf). Found {n} valid alternatives"
                )),
            }
        }
        if !self.all_of.is_empty() && !self.all_of.iter().all(|rule| holds(&rule)) {
            refuse("validate all the schemas (allOf)");
        }
        if self.not.as_deref().is_some_and(|rule| holds(&rule)) {
            refuse("not validate the schema (not)");
        }
    }

    /// Entries of sets and keyed lists may not repeat.
    fn lists(&self, value: &Value, at: &Path<'_>, errors: &mut ErrorList) {
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    let rule = self.properties.get(name).or(self.additional.as_deref());
                    if let Some(rule) = rule {
                        rule.lists(value, &at.child(name), errors);
                    }
                }
            }
            Value::Array(items) => {
                self.repeats(items, at, errors);
                if let Some(rule) = &self.items {
                    for (index, item) in items.iter().enumerate() {
                        rule.lists(item, &at.index(index), errors);
                    }
                }
            }
            _ => {}
        }
    }

    fn repeats(&self, items: &[Value], at: &Path<'_>, errors: &mut ErrorList) {
        let identity = |item: &Value| match self.list_type.as_str() {
            "set" => Some(item.clone()),
            "map" => {
                let keys = self.list_keys.iter();
                let found = keys.filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
                Some(Value::Object(found.collect()))
            }
            _ => None,
        };
        let mut seen: Vec<Value> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let Some(identity) = identity(item) else { return };
            match seen.contains(&identity) {
                true => errors.duplicate(&at.index(index), identity),
                false => seen.push(identity),
            }
        }
    }
}

/// The place as messages name it: nothing for the object itself.
fn place(at: &Path<'_>) -> String {
    let text = at.to_string();
    if text == "<nil>" { String::new() } else { text }
}

pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) => match number.as_f64().is_none_or(is_whole) {
            true => "integer",
            false => "number",
        },
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_whole(number: f64) -> bool {
    (number - number.round()).abs() < 1e-9
}

/// Unknown formats say nothing.
fn has_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => time::parse(text).is_ok(),
        "date" => time::parse(&format!("{text}T00:00:00Z")).is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => is_uuid(text),
        "hostname" => validation::dns_subdomain(&text.to_lowercase()).is_empty(),
        "email" => {
            text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
        }
        "uri" => text.split_once(':').is_some_and(|(scheme, _)| is_scheme(scheme)),
        "byte" => is_base64(text),
        "duration" => is_duration(text),
        _ => true,
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    match (address.parse::<IpAddr>(), bits.parse::<u8>()) {
        (Ok(IpAddr::V4(_)), Ok(bits)) => bits <= 32,
        (Ok(IpAddr::V6(_)), Ok(bits)) => bits <= 128,
        _ => false,
    }
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    matches!(parts.len(), 6 | 8 | 20)
        && parts.iter().all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_uuid(text: &str) -> bool {
    let bare: String = text.chars().filter(|c| *c != '-').collect();
    bare.len() == 32 && bare.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn is_base64(text: &str) -> bool {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}

/// Go's durations: `1h30m`, `1.5s`, `-2us`.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let unit = ["ns", "us", "µs", "ms", "s", "m", "h", "d", "w"]
            .into_iter()
            .find(|unit| rest[digits..].starts_with(unit));
        match (rest[..digits].parse::<f64>(), unit) {
            (Ok(_), Some(unit)) => rest = &rest[digits + unit.len()..],
            _ => return false,
        }
    }
    true
}
