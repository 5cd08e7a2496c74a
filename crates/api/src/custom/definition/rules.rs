//! CEL rules of a definition: they must compile, and not cost too much.
//!
//! A rule's cost is estimated from the bounds that the schema sets, and multiplied by how often the schema lets its node
//! appear. Counterpart: `apiextensions/validation/cel_validation.go`. Budgets: [`RULE_LIMIT`] for a rule, [`SCHEMA_LIMIT`] for
//! all rules of a schema.

use serde_json::Value;
use skiff_cel::{DeclType, MAX_REQUEST_SIZE};

use super::super::cel::{Compiled, compile, declaration};
use super::super::structural::flag;
use super::super::{list, text};
use super::printed::field_path;
use crate::field::{ErrorList, Path};
use crate::internal;

const RULE_LIMIT: u64 = 10_000_000;
const SCHEMA_LIMIT: u64 = 100_000_000;
const REASONS: &[&str] =
    &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
/// How many rules are named when all together cost too much.
const NAMED: usize = 4;

/// What the schemas around a node say of its rules.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// How often the node can appear; none if nothing bounds it.
    pub times: Option<u64>,
    /// The outermost list whose entries cannot be told to be the same after an update.
    pub uncorrelated: Option<String>,
}

/// The costs of all rules of a schema.
pub struct Costs {
    total: u64,
    /// The most expensive ones, with their places.
    most: Vec<(u64, String)>,
    /// A schema that was accepted before may keep rules that are too expensive by themselves.
    pub unchanged: bool,
}

// === impl Surroundings ===

impl Surroundings {
    pub fn root() -> Surroundings {
        Surroundings { times: Some(1), uncorrelated: None }
    }

    /// What a schema says to those below it.
    pub fn below(&self, schema: &Value) -> Surroundings {
        let bound = |field: &str| {
            schema.get(field).and_then(Value::as_i64).map(|n| u64::try_from(n).unwrap_or(0))
        };
        let is_map = schema.get("additionalProperties").is_some_and(|it| !it.is_null());
        let factor = match text(schema, "type") {
            "object" if is_map => bound("maxProperties"),
            "array" => bound("maxItems"),
            _ => Some(1),
        };
        let times = self.times.zip(factor).map(|(times, factor)| times.saturating_mul(factor));
        Surroundings { times, uncorrelated: self.uncorrelated.clone() }
    }

    /// As [`Surroundings::below`], for the entries of a list.
    pub fn items(&self, schema: &Value, at: &Path<'_>) -> Surroundings {
        let mut below = self.below(schema);
        if text(schema, "x-kubernetes-list-type") != "map" && below.uncorrelated.is_none() {
            below.uncorrelated = Some(at.to_string());
        }
        below
    }

    fn multiply(&self, cost: u64, decl: &DeclType) -> u64 {
        // Unbounded, as many as fit into a request with a comma between them.
        let times = self.times.unwrap_or(MAX_REQUEST_SIZE / (decl.min_size + 1));
        cost.saturating_mul(times)
    }
}

// === impl Costs ===

impl Costs {
    pub fn new(unchanged: bool) -> Costs {
        Costs { total: 0, most: Vec::new(), unchanged }
    }

    fn add(&mut self, cost: u64, at: String) {
        self.total = self.total.saturating_add(cost);
        if cost >= SCHEMA_LIMIT / 100 {
            self.most.push((cost, at));
            self.most.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
            self.most.truncate(NAMED);
        }
    }

    /// What there is to say of all rules together.
    pub fn check(&self, at: &Path<'_>, errors: &mut ErrorList) {
        if self.total <= SCHEMA_LIMIT {
            return;
        }
        for (_, place) in &self.most {
            let detail = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            errors.forbidden(&Path::new(place), detail);
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.forbidden(at, too_expensive(what, self.total, SCHEMA_LIMIT));
    }
}

/// What a rule must look like before it is compiled.
pub fn form(rule: &Value, schema: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let (expression, message) = (text(rule, "rule"), text(rule, "message"));
    let has_breaks = |text: &str| text.contains(['\n', '\r']);
    if expression.trim().is_empty() {
        errors.required(&at.child("rule"), "rule is not specified");
    } else if !message.is_empty() && message.trim().is_empty() {
        errors.invalid(&at.child("message"), message, "must be non-empty if specified");
    } else if has_breaks(message.trim()) {
        errors.invalid(&at.child("message"), message, "must not contain line breaks");
    } else if has_breaks(expression.trim()) && message.trim().is_empty() {
        let detail = "message must be specified if rule contains line breaks";
        errors.required(&at.child("message"), detail);
    }
    let message_expression = text(rule, "messageExpression");
    if !message_expression.is_empty() && message_expression.trim().is_empty() {
        let detail = "messageExpression must be non-empty if specified";
        errors.required(&at.child("messageExpression"), detail);
    }
    if let Some(reason) = rule["reason"].as_str().filter(|reason| !REASONS.contains(reason)) {
        errors.not_supported(&at.child("reason"), reason, REASONS);
    }
    let (path, place) = (text(rule, "fieldPath"), at.child("fieldPath"));
    if !path.is_empty() && path.trim().is_empty() {
        errors.invalid(&place, path, "must be non-empty if specified");
    }
    if has_breaks(path) {
        errors.invalid(&place, path, "must not contain line breaks");
    }
    if !path.is_empty() && field_path(path, schema, true).is_err() {
        errors.invalid(&place, path, "must be a valid path");
    }
}

/// Compiles the rules of a node.
pub fn check(
    schema: &Value,
    is_object: bool,
    around: &Surroundings,
    costs: &mut Costs,
    at: &Path<'_>,
    errors: &mut ErrorList,
) {
    let rules = list(schema, "x-kubernetes-validations");
    let Some(decl) = (!rules.is_empty()).then(|| declaration(schema, is_object)).flatten() else {
        return;
    };
    let at = at.child("x-kubernetes-validations");
    for (index, rule) in rules.iter().enumerate() {
        let compiled = compile(rule, schema, &decl);
        let place = at.index(index);
        of_rule(rule, &compiled, around, &decl, costs, &place, errors);
        of_message(rule, &compiled, costs, &place.child("messageExpression"), errors);
        of_old(rule, &compiled, around, &place, errors);
    }
}

fn of_rule(
    rule: &Value,
    compiled: &Compiled,
    around: &Surroundings,
    decl: &DeclType,
    costs: &mut Costs,
    at: &Path<'_>,
    errors: &mut ErrorList,
) {
    let place = at.child("rule");
    match &compiled.program {
        None => {}
        Some(Ok(program)) => {
            let cost = around.multiply(program.estimate().max, decl);
            if !costs.unchanged && cost > RULE_LIMIT {
                errors.forbidden(&place, too_expensive("estimated rule cost", cost, RULE_LIMIT));
            }
            costs.add(cost, place.to_string());
        }
        Some(Err(why)) => errors.invalid_printed(&place, printed(rule), why.as_str()),
    }
}

fn of_message(
    rule: &Value,
    compiled: &Compiled,
    costs: &mut Costs,
    at: &Path<'_>,
    errors: &mut ErrorList,
) {
    match &compiled.message_expression {
        None => {}
        Some(Ok(program)) => {
            let cost = program.estimate().max;
            if !costs.unchanged && cost > RULE_LIMIT {
                let detail = too_expensive("estimated messageExpression cost", cost, RULE_LIMIT);
                errors.forbidden(at, detail);
            }
            costs.add(cost, at.to_string());
        }
        Some(Err(why)) => errors.invalid_printed(at, printed(rule), why.as_str()),
    }
}

fn of_old(
    rule: &Value,
    compiled: &Compiled,
    around: &Surroundings,
    at: &Path<'_>,
    errors: &mut ErrorList,
) {
    match (compiled.uses_old, &around.uncorrelated) {
        (true, Some(list)) => {
            let detail = format!(
                "oldSelf cannot be used on the uncorrelatable portion of the schema within {list}"
            );
            errors.invalid(&at.child("rule"), text(rule, "rule"), detail);
        }
        (false, _) if rule.get("optionalOldSelf").is_some_and(Value::is_boolean) => {
            let detail = "may not be set if oldSelf is not used in rule";
            errors.invalid(&at.child("optionalOldSelf"), flag(rule, "optionalOldSelf"), detail);
        }
        _ => {}
    }
}

fn printed(rule: &Value) -> String {
    internal::printed("apiextensions.ValidationRule", rule)
}

fn too_expensive(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        factor if factor > 100.0 => "more than 100x".to_owned(),
        // One digit would say 1.0.
        factor if factor < 1.5 => format!("{factor:.6}x"),
        factor => format!("{factor:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}
