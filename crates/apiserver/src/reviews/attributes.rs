//! What an access review asks about: checked, and read as [`Attributes`].
//!
//! `spec` -> faults, or attributes and what had to be ignored. Counterparts: `pkg/apis/authorization/validation` and
//! `pkg/registry/authorization/util`. Invariant: a selector that cannot be understood widens the question, never narrows it.

use serde_json::{Value, json};
use skiff_api::field::{ErrorList, Path};
use skiff_api::selector::{FieldRequirement, Labels};
use skiff_api::validation::{label_value, qualified_name};

use super::text;
use crate::authz::Attributes;

/// Upstream gives the parent of a selector as one name with dots in it.
const RESOURCE: &str = "spec.resourceAttributes";

pub fn check(spec: &Value, errors: &mut ErrorList) {
    let at = Path::new("spec");
    let (resource, other) =
        (spec["resourceAttributes"].is_object(), spec["nonResourceAttributes"].is_object());
    if resource && other {
        let why = "cannot be specified in combination with resourceAttributes";
        errors.invalid(&at.child("nonResourceAttributes"), shown(spec), why);
    } else if !resource && !other {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.invalid(&at.child("resourceAttributes"), Value::Null, why);
    }
}

pub fn check_selectors(spec: &Value, errors: &mut ErrorList) {
    let asked = &spec["resourceAttributes"];
    let root = Path::new(RESOURCE);
    for (name, requirement) in [
        ("fieldSelector", check_field as fn(&Value, &Path<'_>, &mut ErrorList)),
        ("labelSelector", check_label),
    ] {
        let selector = &asked[name];
        if !selector.is_object() {
            continue;
        }
        let at = root.child(name);
        let (raw, list) = (text(selector, "rawSelector"), requirements(selector));
        if !raw.is_empty() && !list.is_empty() {
            let why = "may not specified at the same time as requirements";
            errors.invalid(&at.child("rawSelector"), raw, why);
        }
        let needed = at.child("requirements");
        if raw.is_empty() && list.is_empty() {
            let why = format!("when {at} is specified, requirements or rawSelector is required");
            errors.required(&needed, why);
        }
        for (index, one) in list.iter().enumerate() {
            requirement(one, &needed.index(index), errors);
        }
    }
}

fn check_field(requirement: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    if text(requirement, "key").is_empty() {
        errors.required(&at.child("key"), "must be specified");
    }
    check_values(requirement, at, errors);
}

fn check_label(requirement: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    check_values(requirement, at, errors);
    let key = text(requirement, "key");
    for fault in qualified_name(key) {
        errors.invalid(&at.child("key"), key, fault);
    }
    let path = at.child("values");
    for (index, value) in values(requirement).into_iter().enumerate() {
        for fault in label_value(value) {
            errors.invalid(&path.index(index), value, fault);
        }
    }
}

/// An operator of a later release is let through, and ignored when the question is asked.
fn check_values(requirement: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let path = at.child("values");
    match (text(requirement, "operator"), values(requirement).is_empty()) {
        ("In" | "NotIn", true) => {
            errors.required(&path, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        ("Exists" | "DoesNotExist", false) => errors
            .forbidden(&path, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
        _ => {}
    }
}

/// Upstream prints its internal struct, whose fields are upper case.
pub fn shown(spec: &Value) -> Value {
    let asked = &spec["nonResourceAttributes"];
    json!({ "Path": text(asked, "path"), "Verb": text(asked, "verb") })
}

/// What is asked, and what of it is not understood.
pub fn read(spec: &Value) -> (Attributes, String) {
    if spec["nonResourceAttributes"].is_object() {
        let of = |field: &str| text(&spec["nonResourceAttributes"], field).to_owned();
        let asked = Attributes { verb: of("verb"), path: of("path"), ..Attributes::default() };
        return (asked, String::new());
    }
    let asked = &spec["resourceAttributes"];
    let of = |field: &str| text(asked, field).to_owned();
    let mut faults = Vec::new();
    let version = if of("version").is_empty() { "*".to_owned() } else { of("version") };
    let attributes = Attributes {
        verb: of("verb"),
        is_resource: true,
        group: of("group"),
        version,
        resource: of("resource"),
        subresource: of("subresource"),
        namespace: of("namespace"),
        name: of("name"),
        path: String::new(),
        field_selector: fields(&asked["fieldSelector"], &mut faults),
        label_selector: labels(&asked["labelSelector"], &mut faults),
    };
    (attributes, faults.join("; "))
}

fn fields(selector: &Value, faults: &mut Vec<String>) -> Vec<FieldRequirement> {
    let list = requirements(selector);
    let (read, complete) = if list.is_empty() {
        match FieldRequirement::parse_all(text(selector, "rawSelector")) {
            Ok(read) => (read, true),
            Err(_) => (Vec::new(), false),
        }
    } else {
        let read: Vec<FieldRequirement> = list.iter().filter_map(field).collect();
        let complete = read.len() == list.len();
        (read, complete)
    };
    note(complete, read.is_empty(), "fieldSelector", faults);
    read
}

fn field(requirement: &Value) -> Option<FieldRequirement> {
    let equal = match text(requirement, "operator") {
        "In" => true,
        "NotIn" => false,
        _ => return None,
    };
    match values(requirement).as_slice() {
        [value] => Some(FieldRequirement {
            field: text(requirement, "key").to_owned(),
            value: (*value).to_owned(),
            equal,
        }),
        _ => None,
    }
}

fn labels(selector: &Value, faults: &mut Vec<String>) -> Labels {
    let list = requirements(selector);
    if list.is_empty() {
        let read = Labels::parse(text(selector, "rawSelector"));
        note(read.is_ok(), true, "labelSelector", faults);
        return read.unwrap_or_default();
    }
    let good: Vec<&Value> = list
        .iter()
        .filter(|one| Labels::from_object(&json!({ "matchExpressions": [one] })).is_ok())
        .collect();
    note(good.len() == list.len(), good.is_empty(), "labelSelector", faults);
    Labels::from_object(&json!({ "matchExpressions": good })).unwrap_or_default()
}

fn note(complete: bool, nothing: bool, what: &str, faults: &mut Vec<String>) {
    if !complete {
        let extent = if nothing { "ignored" } else { "partially ignored" };
        faults.push(format!("{RESOURCE}.{what} {extent} due to parse error"));
    }
}

fn requirements(selector: &Value) -> &[Value] {
    selector["requirements"].as_array().map_or(&[], Vec::as_slice)
}

fn values(requirement: &Value) -> Vec<&str> {
    requirement["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(field_selector: Value) -> (Attributes, String) {
        read(&json!({ "resourceAttributes": { "verb": "list", "fieldSelector": field_selector } }))
    }

    #[test]
    fn what_is_not_understood_is_left_out_and_said() {
        let one = json!({ "key": "a", "operator": "In", "values": ["b"] });
        let (attributes, fault) = asked(json!({ "requirements": [one] }));
        assert!(attributes.selects_field("a", "b") && fault.is_empty());
        let new = json!({ "key": "a", "operator": "Sounds", "values": ["b"] });
        let (attributes, fault) = asked(json!({ "requirements": [one, new] }));
        assert!(attributes.selects_field("a", "b"));
        assert_eq!(
            fault,
            "spec.resourceAttributes.fieldSelector partially ignored due to parse error"
        );
        let (attributes, fault) = asked(json!({ "rawSelector": "a" }));
        assert!(attributes.field_selector.is_empty());
        assert_eq!(fault, "spec.resourceAttributes.fieldSelector ignored due to parse error");
    }
}
