//! StorageClass: how volumes of a kind are made.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::Strategy;
use crate::kinds::at::At;
use crate::kinds::fill::{flag, set, text};
use crate::kinds::rules::label_name;
use crate::validation::qualified_name;

pub struct StorageClass;

const PARAMETERS_MAX: usize = 512;
const PARAMETER_BYTES_MAX: usize = 256 * 1024;

impl Strategy for StorageClass {
    fn default(&self, object: &mut Value) {
        if let Some(root) = object.as_object_mut() {
            set(root, "reclaimPolicy", "Delete");
            set(root, "volumeBindingMode", "Immediate");
        }
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let provisioner = root.child("provisioner");
        if provisioner.needed(errors) {
            let lower = provisioner.text().to_lowercase();
            for fault in qualified_name(&lower) {
                provisioner.invalid_as(errors, lower.as_str(), fault);
            }
        }
        validate_parameters(&root.child("parameters"), true, errors);
        let policy = root.child("reclaimPolicy");
        if !policy.is_empty() {
            policy.one_of(errors, &["Delete", "Retain"]);
        }
        let modes = ["Immediate", "WaitForFirstConsumer"];
        let mode = root.child("volumeBindingMode");
        match mode.is_set() {
            true => mode.one_of(errors, &modes),
            false => mode.required(errors, ""),
        }
        validate_topologies(&root.child("allowedTopologies"), errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
        let (root, old) = (At::root(object), At::root(old));
        for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            root.child(field).unchanged(errors, &old.child(field));
        }
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Provisioner" => text(object, "/provisioner").into(),
            "ReclaimPolicy" => text(object, "/reclaimPolicy").into(),
            "VolumeBindingMode" => text(object, "/volumeBindingMode").into(),
            "AllowVolumeExpansion" => flag(object, "/allowVolumeExpansion").into(),
            _ => Value::Null,
        }
    }
}

/// Shared with VolumeAttributesClasses, which cannot do without any.
pub(super) fn validate_parameters(parameters: &At, may_be_empty: bool, errors: &mut ErrorList) {
    let count = parameters.map().map_or(0, |map| map.len());
    if count > PARAMETERS_MAX {
        return errors.too_long(&parameters.path, PARAMETERS_MAX);
    }
    if count == 0 && !may_be_empty {
        parameters.required(errors, "must contain at least one key/value pair");
    }
    let mut size = 0;
    for (key, value) in parameters.entries() {
        if key.is_empty() {
            parameters.invalid_as(errors, key, "field can not be empty.");
        }
        size += key.len() + value.text().len();
    }
    if size > PARAMETER_BYTES_MAX {
        errors.too_long(&parameters.path, PARAMETER_BYTES_MAX);
    }
}

fn validate_topologies(topologies: &At, errors: &mut ErrorList) {
    let mut terms = Vec::new();
    for topology in topologies.items() {
        let expressions = topology.child("matchLabelExpressions");
        let mut keys = HashSet::new();
        for expression in expressions.items() {
            let (key, values) = (expression.child("key"), expression.child("values"));
            values.needed(errors);
            let mut seen = HashSet::new();
            for value in values.items() {
                if !seen.insert(value.text()) {
                    value.duplicate(errors);
                }
            }
            for fault in label_name(key.text()) {
                key.invalid_as(errors, key.text(), fault);
            }
            if !keys.insert(key.text()) {
                key.duplicate(errors);
            }
        }
        // Upstream compares with as many empty terms as there are terms, and with those before.
        let term = by_key(&expressions);
        let empty = if term.is_empty() { topologies.list().len() } else { 0 };
        let same = terms.iter().filter(|other| **other == term).count();
        (0..empty + same).for_each(|_| errors.duplicate(&expressions.path, ""));
        terms.push(term);
    }
}

/// The values that a term allows for each key.
fn by_key<'v>(expressions: &At<'v, '_>) -> BTreeMap<&'v str, BTreeSet<&'v str>> {
    let values = |expression: &'v Value| -> BTreeSet<&'v str> {
        expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let expressions = expressions.list().iter();
    expressions.map(|e| (e["key"].as_str().unwrap_or_default(), values(e))).collect()
}
