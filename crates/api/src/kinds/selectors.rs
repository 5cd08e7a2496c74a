//! What can be wrong with the selectors that objects hold: for labels and for nodes.
//!
//! Counterparts: `ValidateLabelSelector` and `ValidateNodeSelector`.

use super::at::At;
use super::rules::label_name;
use crate::field::ErrorList;
use crate::validation::{dns_subdomain, label_value};

const BAD_OPERATOR: &str = "not a valid selector operator";
const NEED_VALUES: &str = "must be specified when `operator` is 'In' or 'NotIn'";
const NO_VALUES: &str = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";

pub fn validate_label_selector(selector: &At, errors: &mut ErrorList) {
    selector.child("matchLabels").labels(errors);
    for requirement in selector.child("matchExpressions").items() {
        let values = requirement.child("values");
        match requirement.text_of("operator") {
            "In" | "NotIn" if values.is_empty() => values.required(errors, NEED_VALUES),
            "Exists" | "DoesNotExist" if !values.is_empty() => values.forbidden(errors, NO_VALUES),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            operator => {
                requirement.child("operator").invalid_as(errors, operator, BAD_OPERATOR);
            }
        }
        requirement.child("key").obeys(errors, label_name);
        values.items().for_each(|value| value.obeys(errors, label_value));
    }
}

/// Whether a selector selects everything, as one without any requirement does.
pub fn is_everything(selector: &At) -> bool {
    selector.is_set()
        && selector.child("matchLabels").is_empty()
        && selector.child("matchExpressions").is_empty()
}

pub fn validate_node_selector(selector: &At, errors: &mut ErrorList) {
    let terms = selector.child("nodeSelectorTerms");
    if terms.is_empty() {
        terms.required(errors, "must have at least one node selector term");
    }
    for term in terms.items() {
        validate_node_selector_term(&term, errors);
    }
}

/// A term that must hold.
fn validate_node_selector_term(term: &At, errors: &mut ErrorList) {
    for requirement in term.child("matchExpressions").items() {
        node_requirement(&requirement, errors);
        let values = requirement.child("values");
        values.items().for_each(|value| value.obeys(errors, label_value));
    }
    node_fields(term, errors);
}

/// A term that is only preferred: values that no label can have are merely never met.
pub fn validate_preference(term: &At, errors: &mut ErrorList) {
    let expressions = term.child("matchExpressions");
    expressions.items().for_each(|requirement| node_requirement(&requirement, errors));
    node_fields(term, errors);
}

fn node_fields(term: &At, errors: &mut ErrorList) {
    let fields = term.child("matchFields");
    fields.items().for_each(|requirement| node_field_requirement(&requirement, errors));
}

fn node_requirement(requirement: &At, errors: &mut ErrorList) {
    let values = requirement.child("values");
    match requirement.text_of("operator") {
        "In" | "NotIn" if values.is_empty() => values.required(errors, NEED_VALUES),
        "Exists" | "DoesNotExist" if !values.is_empty() => values.forbidden(errors, NO_VALUES),
        "Gt" | "Lt" if values.list().len() != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            values.required(errors, detail);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        operator => requirement.child("operator").invalid_as(errors, operator, BAD_OPERATOR),
    }
    requirement.child("key").obeys(errors, label_name);
}

fn node_field_requirement(requirement: &At, errors: &mut ErrorList) {
    let values = requirement.child("values");
    match requirement.text_of("operator") {
        "In" | "NotIn" if values.list().len() == 1 => {}
        "In" | "NotIn" => {
            let detail =
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            values.required(errors, detail);
        }
        operator => requirement.child("operator").invalid_as(errors, operator, BAD_OPERATOR),
    }
    match requirement.text_of("key") {
        "metadata.name" => {
            values.items().for_each(|value| value.obeys(errors, dns_subdomain));
        }
        key => {
            let detail = "not a valid field selector key";
            requirement.child("key").invalid_as(errors, key, detail);
        }
    }
}
