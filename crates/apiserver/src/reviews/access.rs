//! SubjectAccessReview in its three forms: may this user do that.
//!
//! Counterpart: `pkg/registry/authorization`. Invariant: a review says what an equal request would be told.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use skiff_api::Status;
use skiff_api::field::{ErrorList, Path};

use super::{attributes, invalid, text};
use crate::authz::{self, Opinion};
use crate::call::Call;
use crate::user::UserInfo;

const GROUP: &str = "authorization.k8s.io";

pub async fn of_self(call: &Call, object: &mut Value) -> Result<(), Status> {
    let mut errors = ErrorList::default();
    attributes::check(&object["spec"], &mut errors);
    attributes::check_selectors(&object["spec"], &mut errors);
    check_metadata(object, "must be empty", &mut errors);
    decide(call, object, errors, call.user.clone()).await
}

/// `namespace` is given for the form that lives in one.
pub async fn of_subject(
    call: &Call,
    object: &mut Value,
    namespace: Option<&str>,
) -> Result<(), Status> {
    if let Some(namespace) = namespace {
        settle_namespace(object, namespace)?;
    }
    let mut errors = ErrorList::default();
    let spec = &object["spec"];
    attributes::check(spec, &mut errors);
    let groups = texts(&spec["groups"]);
    if text(spec, "user").is_empty() && groups.is_empty() {
        let at = Path::new("spec");
        errors.invalid(&at.child("user"), "", "at least one of user or group must be specified");
    }
    attributes::check_selectors(spec, &mut errors);
    match namespace {
        None => check_metadata(object, "must be empty", &mut errors),
        Some(namespace) => {
            check_metadata(object, "must be empty except for namespace", &mut errors);
            check_local(spec, namespace, &mut errors);
        }
    }
    let user = UserInfo {
        name: text(spec, "user").to_owned(),
        uid: text(spec, "uid").to_owned(),
        groups,
        extra: extra(&spec["extra"]),
    };
    decide(call, object, errors, user).await
}

/// The object's namespace is the request's.
fn settle_namespace(object: &mut Value, namespace: &str) -> Result<(), Status> {
    match text(&object["metadata"], "namespace") {
        "" => object["metadata"]["namespace"] = namespace.into(),
        given if given != namespace => {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        _ => {}
    }
    Ok(())
}

async fn decide(
    call: &Call,
    object: &mut Value,
    errors: ErrorList,
    user: UserInfo,
) -> Result<(), Status> {
    if !errors.is_empty() {
        return Err(invalid(GROUP, errors));
    }
    let (asked, fault) = attributes::read(&object["spec"]);
    let decision = authz::decide(&call.server, &user, &asked).await?;
    let mut status = json!({ "allowed": decision.is_allowed() });
    if decision.opinion == Opinion::Deny {
        status["denied"] = true.into();
    }
    for (field, text) in [("reason", decision.reason), ("evaluationError", fault)] {
        if !text.is_empty() {
            status[field] = text.into();
        }
    }
    object["status"] = status;
    Ok(())
}

/// A question has no name, and nothing else that an object would have.
fn check_metadata(object: &Value, why: &str, errors: &mut ErrorList) {
    let allowed: &[&str] = if why.ends_with("namespace") {
        &["managedFields", "namespace"]
    } else {
        &["managedFields"]
    };
    let Some(meta) = object["metadata"].as_object() else { return };
    if meta.iter().any(|(field, value)| !allowed.contains(&field.as_str()) && is_set(value)) {
        errors.invalid_printed(&Path::new("metadata"), print_meta(meta), why);
    }
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

/// Metadata in the order of upstream's struct.
fn print_meta(meta: &Map<String, Value>) -> String {
    const ORDER: &[&str] = &[
        "name",
        "generateName",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "labels",
        "annotations",
        "ownerReferences",
        "finalizers",
    ];
    const ENTRY: &[&str] =
        &["manager", "operation", "apiVersion", "time", "fieldsType", "fieldsV1", "subresource"];
    let managed = meta.get("managedFields").and_then(Value::as_array);
    let entries: Vec<String> = managed
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .map(|one| print(one, ENTRY))
        .collect();
    let mut shown = print(meta, ORDER);
    if !entries.is_empty() {
        shown.pop();
        shown.push_str(&format!(",\"managedFields\":[{}]}}", entries.join(",")));
    }
    shown
}

fn print(map: &Map<String, Value>, order: &[&str]) -> String {
    let field = |name: &&str| Some(format!("\"{name}\":{}", map.get(*name)?));
    format!("{{{}}}", order.iter().filter_map(field).collect::<Vec<_>>().join(","))
}

fn check_local(spec: &Value, namespace: &str, errors: &mut ErrorList) {
    let at = Path::new("spec");
    let resource = at.child("resourceAttributes");
    if spec["resourceAttributes"].is_object()
        && text(&spec["resourceAttributes"], "namespace") != namespace
    {
        errors.invalid(
            &resource.child("namespace"),
            text(&spec["resourceAttributes"], "namespace"),
            "must match metadata.namespace",
        );
    }
    if spec["nonResourceAttributes"].is_object() {
        errors.invalid(
            &at.child("nonResourceAttributes"),
            attributes::shown(spec),
            "disallowed on this kind of request",
        );
    }
}

fn extra(given: &Value) -> BTreeMap<String, Vec<String>> {
    let entries = given.as_object().into_iter().flatten();
    entries.map(|(key, values)| (key.to_lowercase(), texts(values))).collect()
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
