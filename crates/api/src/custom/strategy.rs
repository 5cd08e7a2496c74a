//! The strategy of every custom kind: what its definition says, as hooks of the one request path.
//!
//! Counterpart: `registry/customresource`. The order of faults is upstream's: type, schema, scale, embedded objects, lists, CEL
//! rules. Invariant: an update is not refused for what it leaves as it was.

use std::sync::OnceLock;

use serde_json::Value;

use super::cel::{self, Rules};
use super::columns::Cell;
use super::rules::{Before, Rule};
use super::text;
use crate::field::{ErrorList, Path};
use crate::kind::{FieldPaths, KindDef, META_AND_SPEC, ScalePaths, Strategy};
use crate::meta::meta;
use crate::validation::qualified_name;

pub struct Custom {
    pub kind: String,
    pub api_version: String,
    pub rule: Rule,
    pub schema: Value,
    /// CEL rules, compiled when the first object meets them.
    pub rules: OnceLock<Option<Rules>>,
    pub columns: Vec<Cell>,
    pub has_status: bool,
    pub scale: Option<ScalePaths>,
}

impl Strategy for Custom {
    fn status_resets(&self) -> FieldPaths {
        META_AND_SPEC
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        if self.has_wrong_type(object, errors) {
            return;
        }
        self.rule.validate(object, None, &Path::ROOT, errors);
        self.scale_spec(object, errors);
        self.scale_status(object, errors);
        self.rule.validate_embedded(object, &Path::ROOT, errors);
        self.rule.validate_lists(object, &Path::ROOT, errors);
        self.rules(object, None, errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        if self.has_wrong_type(object, errors) {
            return;
        }
        let before = Before { value: old, rule: &self.rule };
        self.rule.validate(object, Some(before), &Path::ROOT, errors);
        self.scale_spec(object, errors);
        self.scale_status(object, errors);
        self.rule.validate_embedded(object, &Path::ROOT, errors);
        self.new_repetitions(object, old, errors);
        self.rules(object, Some(before), errors);
    }

    fn validate_status_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        if self.has_wrong_type(object, errors) {
            return;
        }
        if let (Some(status), Some(rule)) = (object.get("status"), self.rule.property("status")) {
            let before = old.get("status").map(|old| Before { value: old, rule });
            rule.validate(status, before, &Path::new("status"), errors);
        }
        self.scale_status(object, errors);
        self.new_repetitions(object, old, errors);
        self.rules(object, Some(Before { value: old, rule: &self.rule }), errors);
    }

    fn counts_generation(&self, _kind: &KindDef) -> bool {
        true
    }

    /// Everything counts that is not metadata, and not status where that is a subresource.
    fn generation_changes(&self, _kind: &KindDef, object: &Value, old: &Value) -> bool {
        let counted = |object: &Value| -> Vec<(String, Value)> {
            let skip = |name: &str| name == "metadata" || (name == "status" && self.has_status);
            let fields = object.as_object().into_iter().flatten();
            fields.filter(|(name, _)| !skip(name)).map(|(n, v)| (n.clone(), v.clone())).collect()
        };
        counted(object) != counted(old)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    /// Finalizers that are new and could collide with someone else's.
    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let known: Vec<&str> = old.map(|old| meta(old).finalizers().collect()).unwrap_or_default();
        let mut new: Vec<&str> =
            meta(object).finalizers().filter(|name| !known.contains(name)).collect();
        new.sort_unstable();
        new.dedup();
        new.into_iter().flat_map(finalizer_warnings).collect()
    }

    fn cell(&self, object: &Value, column: &str, now: i64) -> Value {
        let cell = self.columns.iter().find(|cell| cell.name == column);
        cell.map_or(Value::Null, |cell| cell.show(object, now))
    }
}

// === impl Custom ===

impl Custom {
    fn rules(&self, object: &Value, before: Option<Before<'_>>, errors: &mut ErrorList) {
        let Some(rules) = self.rules.get_or_init(|| Rules::read(&self.schema, true)) else {
            return;
        };
        match cel::blocking(errors) {
            Some(blocked) => errors.0.push(blocked),
            None => rules.validate(object, before, true, &Path::ROOT, errors),
        }
    }

    /// An object of another kind or version is not looked into.
    fn has_wrong_type(&self, object: &Value, errors: &mut ErrorList) -> bool {
        let mut wrong = false;
        for (field, wanted) in [("kind", &self.kind), ("apiVersion", &self.api_version)] {
            let given = text(object, field);
            if given != wanted {
                errors.invalid(&Path::new(field), given, format!("must be {wanted}"));
                wrong = true;
            }
        }
        wrong
    }

    /// Lists that repeat entries already may go on doing so.
    fn new_repetitions(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        let repetitions = |object: &Value| {
            let mut found = ErrorList::default();
            self.rule.validate_lists(object, &Path::ROOT, &mut found);
            found
        };
        let found = repetitions(object);
        if !found.is_empty() && repetitions(old).is_empty() {
            errors.0.extend(found.0);
        }
    }

    fn scale_spec(&self, object: &Value, errors: &mut ErrorList) {
        if let Some(scale) = &self.scale {
            replicas(object, &scale.spec_replicas, errors);
        }
    }

    fn scale_status(&self, object: &Value, errors: &mut ErrorList) {
        let Some(scale) = &self.scale else { return };
        replicas(object, &scale.status_replicas, errors);
        let Some(pointer) = &scale.selector else { return };
        if let Err(fault) = at(object, pointer, Value::is_string, "string") {
            errors.invalid(&Path::new(&pointer.replace('/', ".")), "", fault);
        }
    }
}

/// A count of replicas must be one.
fn replicas(object: &Value, pointer: &str, errors: &mut ErrorList) {
    let place = pointer.replace('/', ".");
    let place = Path::new(&place);
    match at(object, pointer, Value::is_i64, "int64") {
        Err(fault) => errors.invalid(&place, 0, fault),
        Ok(count) => match count.and_then(Value::as_i64).unwrap_or(0) {
            ..0 => {
                let count = count.cloned().unwrap_or_default();
                errors.invalid(&place, count, "should be a non-negative integer");
            }
            count if count > i64::from(i32::MAX) => {
                let detail = format!("should be less than or equal to {}", i32::MAX);
                errors.invalid(&place, count, detail);
            }
            _ => {}
        },
    }
}

/// The value at a pointer, if there is one; something of another type on the way or at the end is a fault, in the
/// words of Go's accessors.
pub fn at<'v>(
    object: &'v Value,
    pointer: &str,
    fits: impl Fn(&Value) -> bool,
    wanted: &str,
) -> Result<Option<&'v Value>, String> {
    let mut value = object;
    let mut path = String::new();
    for name in pointer.split('/').skip(1) {
        let Some(map) = value.as_object() else {
            return Err(accessor_error(&path, value, "map[string]interface{}"));
        };
        path.push('.');
        path.push_str(name);
        match map.get(name) {
            None => return Ok(None),
            Some(next) => value = next,
        }
    }
    match fits(value) {
        true => Ok(Some(value)),
        false => Err(accessor_error(&path, value, wanted)),
    }
}

fn accessor_error(path: &str, value: &Value, wanted: &str) -> String {
    let (shown, of) = match value {
        Value::Null => ("<nil>".to_owned(), "<nil>"),
        Value::Bool(truth) => (truth.to_string(), "bool"),
        Value::Number(number) if number.is_i64() => (number.to_string(), "int64"),
        number @ Value::Number(_) => (super::rules::printed(number), "float64"),
        Value::String(text) => (text.clone(), "string"),
        list @ Value::Array(_) => (go_print(list), "[]interface {}"),
        map @ Value::Object(_) => (go_print(map), "map[string]interface {}"),
    };
    format!("{path} accessor error: {shown} is of the type {of}, expected {wanted}")
}

/// Maps and lists as `%v` prints them.
fn go_print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_print).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let entries: Vec<String> =
                map.iter().map(|(name, value)| format!("{name}:{}", go_print(value))).collect();
            format!("map[{}]", entries.join(" "))
        }
        number => super::rules::printed(number),
    }
}

fn finalizer_warnings(name: &str) -> Vec<String> {
    const STANDARD: &[&str] = &["orphan", "foregroundDeletion", "kubernetes"];
    let warn = |why: &str| format!("metadata.finalizers: {name:?}: {why}");
    let mut warnings: Vec<String> = qualified_name(name).iter().map(|fault| warn(fault)).collect();
    if !name.contains('/') && !STANDARD.contains(&name) {
        let path = if name.contains('.') { " including a path (/)" } else { "" };
        warnings.push(warn(&format!(
            "prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other finalizer writers"
        )));
    }
    warnings
}
