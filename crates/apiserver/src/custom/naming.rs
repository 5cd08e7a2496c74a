//! Which of the names that a definition asks for it gets, and the conditions that say so.
//!
//! Definition + names that others of its group have -> status. Pure but for [`taken`] and [`waiting`], which read the
//! others. Counterpart: `controller/status`, `controller/establish` and `controller/apiapproval`. Invariant: a name that was
//! accepted is kept until its definition asks for another.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skiff_api::Status;
use skiff_api::custom::definition::{
    APPROVAL, Approval, approval_of, approval_reason, is_protected,
};
use skiff_api::meta::meta;

use super::{definitions, place};
use crate::server::Server;

/// Names of resources and kinds that other definitions of a group have.
#[derive(Default)]
pub struct Taken {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

/// What the other definitions of the group have.
pub async fn taken(server: &Server, definition: &Value) -> Result<Taken, Status> {
    let (group, _) = place(definition);
    let mut taken = Taken::default();
    if definition["spec"]["names"] == definition["status"]["acceptedNames"] {
        return Ok(taken);
    }
    for other in definitions(server, &group).await? {
        if meta(&other).name() != meta(definition).name() {
            taken.add(&other["status"]["acceptedNames"]);
        }
    }
    Ok(taken)
}

/// The keys of definitions that have not got all names they want.
pub async fn waiting(server: &Server, group: &str) -> Result<Vec<String>, Status> {
    let unsettled = |it: &Value| {
        it["spec"]["names"] != it["status"]["acceptedNames"]
            && meta(it).deletion_timestamp().is_none()
    };
    let found = definitions(server, group).await?;
    let waiting = found.iter().filter(|definition| unsettled(definition));
    Ok(waiting.map(|definition| format!("{}{}", super::PREFIX, meta(definition).name())).collect())
}

/// The definition with the status it deserves.
pub fn with_status(taken: &Taken, definition: &Value) -> Value {
    let mut new = definition.clone();
    if new["spec"]["names"] != new["status"]["acceptedNames"] {
        let refused = accept(taken, &mut new);
        match &refused {
            None => set_condition(
                &mut new,
                "NamesAccepted",
                "True",
                "NoConflicts",
                "no conflicts found",
            ),
            Some((reason, why)) => set_condition(&mut new, "NamesAccepted", "False", reason, why),
        }
        if refused.is_some() && !has_condition(&new, "Established") {
            let why = "not all names are accepted";
            set_condition(&mut new, "Established", "False", "NotAccepted", why);
        }
    }
    if is_true(&new, "NamesAccepted") && !is_established(&new) {
        let why = "the initial names have been accepted";
        set_condition(&mut new, "Established", "True", "InitialNamesAccepted", why);
    }
    conform(&mut new);
    new
}

/// Accepts every name that is free; the last one that is not is the reason given.
fn accept(taken: &Taken, definition: &mut Value) -> Option<(&'static str, String)> {
    let wanted = definition["spec"]["names"].clone();
    let has = definition["status"]["acceptedNames"].clone();
    let mut accepted = has.clone();
    let mut refused = None;
    for (field, names, reason) in [
        ("plural", &taken.resources, "PluralConflict"),
        ("singular", &taken.resources, "SingularConflict"),
        ("shortNames", &taken.resources, "ShortNamesConflict"),
        ("kind", &taken.kinds, "KindConflict"),
        ("listKind", &taken.kinds, "ListKindConflict"),
    ] {
        let mine = texts(&has[field]);
        let in_use: Vec<String> = texts(&wanted[field])
            .into_iter()
            .filter(|name| !mine.contains(name) && names.contains(*name))
            .map(|name| format!("{name:?} is already in use"))
            .collect();
        match in_use.as_slice() {
            [] => copy(&wanted, &mut accepted, field),
            [one] => refused = Some((reason, one.clone())),
            many => refused = Some((reason, format!("[{}]", many.join(", ")))),
        }
    }
    copy(&wanted, &mut accepted, "categories");
    definition["status"]["acceptedNames"] = accepted;
    refused
}

/// One name or several.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        value => value.as_str().into_iter().filter(|text| !text.is_empty()).collect(),
    }
}

fn copy(from: &Value, to: &mut Value, field: &str) {
    match (from.get(field), to.as_object_mut()) {
        (Some(value), _) => to[field] = value.clone(),
        (None, Some(map)) => drop(map.remove(field)),
        (None, None) => {}
    }
}

/// Groups of the project itself say whether their API was reviewed.
fn conform(definition: &mut Value) {
    let (group, _) = place(definition);
    if !is_protected(&group) {
        return;
    }
    let annotation = meta(definition).annotation(APPROVAL).unwrap_or("").to_owned();
    let (status, reason) = match approval_of(&annotation) {
        Approval::Missing => ("False", "MissingAnnotation"),
        Approval::Invalid => ("False", "InvalidAnnotation"),
        Approval::Bypassed => ("False", "UnapprovedAnnotation"),
        Approval::Given => ("True", "ApprovedAnnotation"),
    };
    let of = "KubernetesAPIApprovalPolicyConformant";
    set_condition(definition, of, status, reason, &approval_reason(&annotation));
}

// === impl Taken ===

impl Taken {
    fn add(&mut self, names: &Value) {
        for field in ["plural", "singular", "shortNames"] {
            self.resources.extend(texts(&names[field]).into_iter().map(str::to_owned));
        }
        for field in ["kind", "listKind"] {
            self.kinds.extend(texts(&names[field]).into_iter().map(str::to_owned));
        }
    }
}

// === conditions ===

fn conditions(definition: &Value) -> impl Iterator<Item = &Value> {
    definition["status"]["conditions"].as_array().into_iter().flatten()
}

fn has_condition(definition: &Value, of: &str) -> bool {
    conditions(definition).any(|condition| condition["type"] == of)
}

pub fn is_true(definition: &Value, of: &str) -> bool {
    conditions(definition).any(|condition| condition["type"] == of && condition["status"] == "True")
}

pub fn is_established(definition: &Value) -> bool {
    is_true(definition, "Established")
}

/// The time is that of the last change of status.
pub fn set_condition(definition: &mut Value, of: &str, status: &str, reason: &str, message: &str) {
    let mut condition = json!({
        "type": of,
        "status": status,
        "lastTransitionTime": skiff_api::time::format(skiff_api::time::now()),
        "reason": reason,
        "message": message,
    });
    if !definition["status"]["conditions"].is_array() {
        definition["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = definition["status"]["conditions"].as_array_mut() else { return };
    match conditions.iter_mut().find(|have| have["type"] == of) {
        Some(have) => {
            if have["status"] == status {
                condition["lastTransitionTime"] = have["lastTransitionTime"].clone();
            }
            *have = condition;
        }
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Value {
        json!({ "spec": { "group": "x.test", "names": { "plural": "things", "kind": "Thing", "listKind": "ThingList", "singular": "thing", "shortNames": ["th"] } },
            "status": { "acceptedNames": { "plural": "", "kind": "" }, "conditions": null } })
    }

    fn reason(definition: &Value, of: &str) -> Value {
        conditions(definition)
            .find(|it| it["type"] == of)
            .map(|it| it["reason"].clone())
            .unwrap_or_default()
    }

    #[test]
    fn a_definition_without_rivals_is_established_once() {
        let settled = with_status(&Taken::default(), &definition());
        assert!(is_established(&settled));
        assert_eq!(settled["status"]["acceptedNames"]["plural"], "things");
        assert_eq!(with_status(&Taken::default(), &settled), settled);
    }

    #[test]
    fn a_kind_that_is_taken_is_not_accepted_but_the_other_names_are() {
        let mut taken = Taken::default();
        taken.add(&json!({ "plural": "others", "kind": "Thing" }));
        let settled = with_status(&taken, &definition());
        assert!(!is_established(&settled));
        assert_eq!(reason(&settled, "NamesAccepted"), "KindConflict");
        assert_eq!(reason(&settled, "Established"), "NotAccepted");
        assert_eq!(
            settled["status"]["acceptedNames"],
            json!({ "plural": "things", "singular": "thing",
            "shortNames": ["th"], "kind": "", "listKind": "ThingList" })
        );
    }

    #[test]
    fn an_established_definition_stays_so_when_it_asks_for_a_name_that_is_taken() {
        let mut settled = with_status(&Taken::default(), &definition());
        settled["spec"]["names"]["shortNames"] = json!(["po", "th"]);
        let mut taken = Taken::default();
        taken.add(&json!({ "shortNames": ["po"] }));
        let settled = with_status(&taken, &settled);
        assert!(is_established(&settled));
        assert_eq!(reason(&settled, "NamesAccepted"), "ShortNamesConflict");
        assert_eq!(settled["status"]["acceptedNames"]["shortNames"], json!(["th"]));
    }
}
