//! `x-kubernetes-validations`: rules in CEL that objects of a custom kind must keep.
//!
//! Schema -> [`Rules`], a tree beside [`super::rules`] that holds only nodes with rules at or below them; rules + object (+ the
//! object it replaces) -> faults, and warnings where only what an update left alone is at fault. Counterpart:
//! `apiextensions-apiserver/pkg/apiserver/schema/cel`. Invariant: all rules of an object together cost at most
//! [`RUNTIME_BUDGET`]; rules about a change run only where old and new can be told to be the same thing.

mod compile;
mod evaluate;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use skiff_cel::{DeclType, RUNTIME_BUDGET};

pub(super) use compile::{Compiled, compile};

use super::rules::Before;
use super::structural::flag;
use super::{list, text};
use crate::field::{ErrorList, ErrorType, FieldError, Path};
use evaluate::{Correlation, Run};

/// The rules of a schema node and of those below it.
pub struct Rules {
    /// The type of the node, which stands for its value in faults.
    of: String,
    decl: Option<Arc<DeclType>>,
    own: Vec<Compiled>,
    properties: BTreeMap<String, Rules>,
    additional: Option<Box<Rules>>,
    items: Option<Box<Rules>>,
}

// === impl Rules ===

impl Rules {
    /// None if there are no rules at all. With `is_root`, the schema is a whole object's.
    pub fn read(schema: &Value, is_root: bool) -> Option<Rules> {
        let rules = list(schema, "x-kubernetes-validations");
        let is_object = is_root || flag(schema, "x-kubernetes-embedded-resource");
        let decl = (!rules.is_empty()).then(|| declaration(schema, is_object)).flatten();
        let below = |field: &str| {
            let child = schema.get(field).filter(|child| child.is_object())?;
            Rules::read(child, false).map(Box::new)
        };
        let properties = schema.get("properties").and_then(Value::as_object);
        let properties = properties.into_iter().flatten();
        let read = Rules {
            of: text(schema, "type").to_owned(),
            own: match &decl {
                Some(decl) => rules.iter().map(|rule| compile(rule, schema, decl)).collect(),
                None => Vec::new(),
            },
            decl,
            properties: properties
                .filter_map(|(name, child)| Some((name.clone(), Rules::read(child, false)?)))
                .collect(),
            additional: below("additionalProperties"),
            items: below("items"),
        };
        let is_empty = read.own.is_empty()
            && read.properties.is_empty()
            && read.additional.is_none()
            && read.items.is_none();
        (!is_empty).then_some(read)
    }

    /// Validates a value as what stands at `at`. What an update leaves as it was is only warned of, if it `ratchets`.
    pub fn validate(
        &self,
        value: &Value,
        before: Option<Before<'_>>,
        ratchets: bool,
        at: &Path<'_>,
        errors: &mut ErrorList,
    ) {
        let mut run = Run { budget: RUNTIME_BUDGET, errors };
        // Out of budget, the run has said so.
        let _ = run.node(self, value, &Correlation::root(before, ratchets), at);
    }
}

/// What expressions may know of a node's values.
pub fn declaration(schema: &Value, is_object: bool) -> Option<Arc<DeclType>> {
    DeclType::from_schema(schema, is_object).map(|decl| Arc::new(decl.named("selfType")))
}

/// A fault without which rules would be held against data that they cannot expect.
pub fn blocking(errors: &ErrorList) -> Option<FieldError> {
    const BLOCKING: &[ErrorType] = &[
        ErrorType::NotSupported,
        ErrorType::Required,
        ErrorType::TooLong,
        ErrorType::TooMany,
        ErrorType::TypeInvalid,
    ];
    let blocks = errors.0.iter().any(|error| BLOCKING.contains(&error.kind));
    blocks.then(|| FieldError {
        kind: ErrorType::Invalid,
        field: Path::ROOT.to_string(),
        bad_value: Some(Value::Null),
        printed: None,
        detail: "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation".to_owned(),
    })
}

#[cfg(test)]
mod tests;
