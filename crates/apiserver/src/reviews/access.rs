//! SubjectAccessReview in its three forms: may this user do that.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use skiff_api::Status;
use skiff_api::field::{ErrorList, Path};

use super::{invalid, text};
use crate::authz::{self, Attributes};
use crate::call::Call;
use crate::user::UserInfo;

const GROUP: &str = "authorization.k8s.io";

pub async fn of_self(call: &Call, object: &mut Value) -> Result<(), Status> {
    let mut errors = ErrorList::default();
    check_attributes(&object["spec"], &mut errors);
    decide(call, object, errors, call.user.clone()).await
}

/// `namespace` is given for the form that lives in one.
pub async fn of_subject(
    call: &Call,
    object: &mut Value,
    namespace: Option<&str>,
) -> Result<(), Status> {
    let mut errors = ErrorList::default();
    check_attributes(&object["spec"], &mut errors);
    let spec = &object["spec"];
    let at = Path::new("spec");
    let groups = texts(&spec["groups"]);
    if text(spec, "user").is_empty() && groups.is_empty() {
        errors.invalid(&at.child("user"), "", "at least one of user or group must be specified");
    }
    if let Some(namespace) = namespace {
        check_local(spec, namespace, &mut errors);
    }
    let extra: BTreeMap<String, Vec<String>> = spec["extra"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, values)| (key.to_lowercase(), texts(values)))
        .collect();
    let user = UserInfo {
        name: text(spec, "user").to_owned(),
        uid: text(spec, "uid").to_owned(),
        groups,
        extra,
    };
    decide(call, object, errors, user).await?;
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = namespace.into();
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
    let decision = authz::decide(&call.server, &user, &attributes(&object["spec"])).await?;
    object["status"] = json!({ "allowed": decision.allowed });
    if !decision.reason.is_empty() {
        object["status"]["reason"] = decision.reason.into();
    }
    Ok(())
}

fn check_attributes(spec: &Value, errors: &mut ErrorList) {
    let at = Path::new("spec");
    let (resource, other) =
        (spec["resourceAttributes"].is_object(), spec["nonResourceAttributes"].is_object());
    if resource && other {
        let why = "cannot be specified in combination with resourceAttributes";
        errors.invalid(
            &at.child("nonResourceAttributes"),
            shown(&spec["nonResourceAttributes"]),
            why,
        );
    } else if !resource && !other {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.invalid(&at.child("resourceAttributes"), Value::Null, why);
    }
}

fn check_local(spec: &Value, namespace: &str, errors: &mut ErrorList) {
    let at = Path::new("spec");
    let resource = at.child("resourceAttributes");
    if spec["nonResourceAttributes"].is_object() {
        errors.invalid(
            &at.child("nonResourceAttributes"),
            shown(&spec["nonResourceAttributes"]),
            "disallowed on this kind of request",
        );
    } else if text(&spec["resourceAttributes"], "namespace") != namespace {
        errors.invalid(
            &resource.child("namespace"),
            text(&spec["resourceAttributes"], "namespace"),
            "must match metadata.namespace",
        );
    }
}

/// Upstream prints its internal struct, whose fields are upper case.
fn shown(attributes: &Value) -> Value {
    json!({ "Path": text(attributes, "path"), "Verb": text(attributes, "verb") })
}

fn attributes(spec: &Value) -> Attributes {
    if let Some(path) = spec["nonResourceAttributes"].as_object() {
        let of = |field: &str| path.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
        return Attributes { verb: of("verb"), path: of("path"), ..Attributes::default() };
    }
    let of = |field: &str| text(&spec["resourceAttributes"], field).to_owned();
    Attributes {
        verb: of("verb"),
        is_resource: true,
        group: of("group"),
        resource: of("resource"),
        subresource: of("subresource"),
        namespace: of("namespace"),
        name: of("name"),
        path: String::new(),
    }
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
