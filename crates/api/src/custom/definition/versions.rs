//! `spec.versions`: names, flags, schemas, subresources, columns and selectable fields.
//!
//! Counterpart: the version part of `apiextensions/validation`. Upstream's internal form keeps what all versions have in
//! common once, outside of the list, and reports its faults there.

use serde_json::Value;

use super::super::structural::flag;
use super::super::{list, text, texts};
use super::printed;
use super::schema;
use crate::field::{ErrorList, Path};
use crate::validation::dns_1035_label;

const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: &[&str] =
    &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const MAX_SELECTABLE: usize = 8;

/// What is the same in all versions.
pub struct Shared {
    pub schema: bool,
    pub subresources: bool,
    pub columns: bool,
    pub selectable: bool,
}

impl Shared {
    pub fn of(spec: &Value) -> Shared {
        let versions = list(spec, "versions");
        let same = |field: &str| {
            versions.iter().all(|version| version.get(field) == versions[0].get(field))
        };
        Shared {
            schema: same("schema"),
            subresources: same("subresources"),
            columns: same("additionalPrinterColumns"),
            selectable: same("selectableFields"),
        }
    }
}

/// Every version has a schema.
pub fn missing_schemas(spec: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let place = at.child("versions");
    for (index, version) in list(spec, "versions").iter().enumerate() {
        if schema_of(version).is_none() {
            errors.required(&place.index(index).child("schema").child("openAPIV3Schema"), "");
        }
    }
}

fn schema_of(version: &Value) -> Option<&Value> {
    version.pointer("/schema/openAPIV3Schema").filter(|schema| !schema.is_null())
}

fn has_status(version: &Value) -> bool {
    version.pointer("/subresources/status").is_some_and(Value::is_object)
}

/// Each version on its own, then all of them together.
pub fn validate(
    spec: &Value,
    old: Option<&Value>,
    shared: &Shared,
    at: &Path<'_>,
    errors: &mut ErrorList,
) {
    let (versions, place) = (list(spec, "versions"), at.child("versions"));
    for (index, version) in versions.iter().enumerate() {
        let place = place.index(index);
        let faults = dns_1035_label(text(version, "name"));
        if !faults.is_empty() {
            errors.invalid(&place.child("name"), text(version, "name"), faults.join(","));
        }
        one(version, is_unchanged(version, old), shared, &place, errors);
    }
    let given = || match spec.get("versions") {
        Some(versions @ Value::Array(_)) => printed::versions(versions, shared),
        _ => Value::Null,
    };
    let repeats = (1..versions.len())
        .any(|at| versions[..at].iter().any(|other| other["name"] == versions[at]["name"]));
    if repeats {
        errors.invalid(&place, given(), "must contain unique version names");
    }
    if versions.iter().filter(|version| flag(version, "storage")).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.invalid(&place, given(), detail);
    }
    // The first version used to be the only one, and is looked at there once more.
    let first = versions.first().map_or("", |version| text(version, "name"));
    let faults = dns_1035_label(first);
    if !first.is_empty() && !faults.is_empty() {
        errors.invalid(&at.child("version"), first, faults.join(","));
    }
}

/// Whether the version had this schema before.
fn is_unchanged(version: &Value, old: Option<&Value>) -> bool {
    let mut versions = old.map_or(&[][..], |old| list(old, "versions")).iter();
    versions.any(|was| was["name"] == version["name"] && was.get("schema") == version.get("schema"))
}

fn one(version: &Value, unchanged: bool, shared: &Shared, at: &Path<'_>, errors: &mut ErrorList) {
    deprecation_warning(version, &at.child("deprecationWarning"), errors);
    if let Some(schema) = schema_of(version).filter(|_| !shared.schema) {
        let place = at.child("schema");
        schema::validate(schema, has_status(version), unchanged, &place, errors);
    }
    if !shared.subresources {
        subresources(version, at, errors);
    }
    if !shared.columns {
        columns(version, at, errors);
    }
    if !shared.selectable && shared.schema {
        let detail = "may only be set when `version.schema.openAPIV3Schema` is not included";
        selectable_elsewhere(version, detail, at, errors);
    } else if !shared.selectable {
        selectable(version, at, errors);
    }
}

/// What all versions have in common.
pub fn validate_shared(
    spec: &Value,
    old: Option<&Value>,
    shared: &Shared,
    at: &Path<'_>,
    errors: &mut ErrorList,
) {
    let Some(version) = list(spec, "versions").first() else { return };
    if let Some(schema) = schema_of(version).filter(|_| shared.schema) {
        let any_status = list(spec, "versions").iter().any(has_status);
        let unchanged = is_unchanged(version, old);
        schema::validate(schema, any_status, unchanged, &at.child("validation"), errors);
    }
    if shared.subresources {
        subresources(version, at, errors);
    }
    if shared.columns {
        columns(version, at, errors);
    }
    if shared.selectable && !shared.schema {
        let detail = "may only be set when validations.schema is included";
        selectable_elsewhere(version, detail, at, errors);
    } else if shared.selectable {
        selectable(version, at, errors);
    }
}

/// The versions that may be stored must be among those of the spec.
pub fn stored(object: &Value, errors: &mut ErrorList) {
    let status = Path::new("status");
    let place = status.child("storedVersions");
    let (versions, given) =
        (list(&object["spec"], "versions"), &object["status"]["storedVersions"]);
    let stored = texts(&object["status"], "storedVersions");
    if stored.is_empty() {
        return errors.invalid(&place, given.clone(), "must have at least one stored version");
    }
    let storage = versions.iter().filter(|version| flag(version, "storage"));
    for name in storage.map(|version| text(version, "name")) {
        if !stored.iter().any(|have| have == name) {
            let detail = format!("must have the storage version {name}");
            errors.invalid(&place, given.clone(), detail);
        }
    }
    for (index, name) in stored.iter().enumerate() {
        if !versions.iter().any(|version| text(version, "name") == name) {
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.invalid(&place.index(index), name.as_str(), detail);
        }
    }
}

fn deprecation_warning(version: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let Some(warning) = version["deprecationWarning"].as_str() else { return };
    let mut refuse = |why: &str| errors.invalid(at, warning, why);
    if !flag(version, "deprecated") {
        return refuse("can only be set for deprecated versions");
    }
    if warning.len() > 256 {
        refuse("must be <= 256 characters long");
    }
    if warning.is_empty() {
        refuse("must not be an empty string");
    }
    let is_printable = |c: char| c == ' ' || !(c.is_control() || c.is_whitespace());
    if let Some((at, _)) = warning.char_indices().find(|(_, c)| !is_printable(*c)) {
        refuse(&format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {at}"
        ));
    }
}

// === subresources ===

fn subresources(version: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let Some(scale) = version.pointer("/subresources/scale").filter(|scale| scale.is_object())
    else {
        return;
    };
    let subresources = at.child("subresources");
    let place = subresources.child("scale");
    for (field, under, required) in [
        ("specReplicasPath", &[".spec."][..], true),
        ("statusReplicasPath", &[".status."], true),
        ("labelSelectorPath", &[".spec.", ".status."], false),
    ] {
        let (path, place) = (text(scale, field), place.child(field));
        match path {
            "" if required => errors.required(&place, ""),
            "" => {}
            path if !path.starts_with('.') => {
                errors.invalid(&place, path, "must be a simple json path starting with .");
            }
            path if !under.iter().any(|under| path.starts_with(under)) => {
                let under = match under {
                    [one] => one.trim_end_matches('.'),
                    _ => "either .spec or .status",
                };
                errors.invalid(&place, path, format!("should be a json path under {under}"));
            }
            _ => {}
        }
    }
}

// === columns ===

fn columns(version: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let place = at.child("additionalPrinterColumns");
    for (index, each) in list(version, "additionalPrinterColumns").iter().enumerate() {
        column(each, &place.index(index), errors);
    }
}

fn column(column: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    if text(column, "name").is_empty() {
        errors.required(&at.child("name"), "");
    }
    let one_of = |allowed: &[&str]| format!("must be one of {}", allowed.join(","));
    match text(column, "type") {
        "" => errors.required(&at.child("type"), one_of(COLUMN_TYPES)),
        of if !COLUMN_TYPES.contains(&of) => {
            errors.invalid(&at.child("type"), of, one_of(COLUMN_TYPES));
        }
        _ => {}
    }
    match text(column, "format") {
        "" => {}
        format if COLUMN_FORMATS.contains(&format) => {}
        format => errors.invalid(&at.child("format"), format, one_of(COLUMN_FORMATS)),
    }
    match text(column, "jsonPath") {
        "" => errors.required(&at.child("JSONPath"), ""),
        path if !path.starts_with('.') => {
            let detail = "must be a simple json path starting with .";
            errors.invalid(&at.child("JSONPath"), path, detail);
        }
        _ => {}
    }
}

// === selectable fields ===

/// Selectable fields are to stand where the schema does: with each version, or with all of them.
fn selectable_elsewhere(version: &Value, detail: &str, at: &Path<'_>, errors: &mut ErrorList) {
    if !list(version, "selectableFields").is_empty() {
        errors.invalid(&at.child("selectableFields"), "", detail);
    }
}

fn selectable(version: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let fields = list(version, "selectableFields");
    let (Some(schema), place) = (schema_of(version), at.child("selectableFields")) else { return };
    let mut seen: Vec<&str> = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let place = place.index(index);
        let (path, place) = (text(field, "jsonPath"), place.child("jsonPath"));
        if path.is_empty() {
            errors.required(&place, "");
            continue;
        }
        let leaf = match printed::field_path(path, schema, false) {
            Ok((_, leaf)) => leaf,
            Err(why) => {
                errors.invalid(&place, path, format!("is an invalid path: {why}"));
                continue;
            }
        };
        if path == ".metadata" || path.starts_with(".metadata.") {
            errors.invalid(&place, path, "must not point to fields in metadata");
        }
        if !matches!(text(leaf, "type"), "string" | "boolean" | "integer") {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.invalid(&place, path, detail);
        }
        match seen.contains(&path) {
            true => errors.duplicate(&place, path),
            false => seen.push(path),
        }
    }
    if seen.len() > MAX_SELECTABLE {
        errors.too_many(&place, seen.len(), MAX_SELECTABLE);
    }
}
