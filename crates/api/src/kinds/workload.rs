//! What the kinds with a Pod template and a selector share: template cells and selector text.

use serde_json::Value;

use super::fill::{list, text};
use crate::field::{ErrorList, Path};

/// `Containers`, `Images` and `Pod Labels` of the template at a pointer.
pub fn template_cell(object: &Value, template: &str, column: &str) -> Value {
    let containers = list(object, &format!("{template}/spec/containers")).iter();
    match column {
        "Containers" => joined(containers.map(|container| text(container, "/name"))),
        "Images" => joined(containers.map(|container| text(container, "/image"))),
        "Pod Labels" => pairs(object.pointer(&format!("{template}/metadata/labels"))).into(),
        _ => Value::Null,
    }
}

/// The cells of a workload whose template stands at `/spec/template`.
pub fn workload_cell(object: &Value, column: &str) -> Value {
    match column {
        "Selector" => label_selector(object.pointer("/spec/selector")).into(),
        _ => template_cell(object, "/spec/template", column),
    }
}

/// A map as `a=b,c=d`, or `<none>`.
pub fn pairs(map: Option<&Value>) -> String {
    let Some(map) = map.and_then(Value::as_object).filter(|map| !map.is_empty()) else {
        return "<none>".to_owned();
    };
    let pairs: Vec<String> =
        map.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    pairs.join(",")
}

/// A LabelSelector as the command line shows it: `a=b,c in (d,e),!f`.
pub fn label_selector(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return "<none>".to_owned() };
    let mut terms: Vec<(String, String)> = Vec::new();
    if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
        for (key, value) in labels {
            terms.push((key.clone(), format!("{key}={}", value.as_str().unwrap_or(""))));
        }
    }
    for expression in list(selector, "/matchExpressions") {
        let key = text(expression, "/key").to_owned();
        let mut values: Vec<&str> =
            list(expression, "/values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let term = match text(expression, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.clone(),
            _ => format!("!{key}"),
        };
        terms.push((key, term));
    }
    terms.sort();
    match terms.is_empty() {
        true => "<none>".to_owned(),
        false => terms.into_iter().map(|(_, term)| term).collect::<Vec<_>>().join(","),
    }
}

fn joined<'a>(texts: impl Iterator<Item = &'a str>) -> Value {
    texts.collect::<Vec<_>>().join(",").into()
}

/// `spec.selector` may not change once given.
pub fn validate_selector_unchanged(object: &Value, old: &Value, errors: &mut ErrorList) {
    let (new, was) = (object.pointer("/spec/selector"), old.pointer("/spec/selector"));
    if new != was {
        let spec = Path::new("spec");
        let shown = new.cloned().unwrap_or_default();
        errors.invalid(&spec.child("selector"), shown, "field is immutable");
    }
}
