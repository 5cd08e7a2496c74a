//! The AdmissionReview that a webhook gets, and what must be true of the one it sends back.
//!
//! Counterpart: `plugin/webhook/request`. Differs from upstream: `admission.k8s.io/v1beta1` is not spoken; a webhook that accepts
//! nothing newer cannot be called.

use serde_json::{Map, Value, json};
use skiff_api::{KindDef, Status};

use crate::admission::Request;
use crate::admission::matching::Match;
use crate::admission::versions;

const API_VERSION: &str = "admission.k8s.io/v1";

/// The whole review; its uid ties the answer to it.
pub fn of(request: &Request<'_>, found: &Match, shown: &Value, uid: &str) -> Result<Value, Status> {
    let old = request.old.unwrap_or(&Value::Null);
    let mut attributes = attributes(request, found, shown);
    attributes["uid"] = uid.into();
    attributes["object"] = shown.clone();
    attributes["oldObject"] = versions::shown(request, &found.kind, old)?;
    Ok(json!({ "kind": "AdmissionReview", "apiVersion": API_VERSION, "request": attributes }))
}

/// Everything about a request but the objects: what expressions know as `request`.
pub fn attributes(request: &Request<'_>, found: &Match, object: &Value) -> Value {
    let mut attributes = json!({
        "kind": kind(request, &found.kind),
        "resource": resource(&found.kind),
        "requestKind": kind(request, request.requested),
        "requestResource": resource(request.requested),
        "operation": request.operation.name(),
        "userInfo": user(request),
        "dryRun": request.dry_run,
        "options": request.options(),
    });
    let optional = [
        ("subResource", request.subresource),
        ("requestSubResource", request.subresource),
        ("name", request.attribute_name(object)),
        ("namespace", request.attribute_namespace(object)),
    ];
    for (field, text) in optional.into_iter().filter(|(_, text)| !text.is_empty()) {
        attributes[field] = text.into();
    }
    attributes
}

/// What the object is: a subresource may have a kind of its own.
fn kind(request: &Request<'_>, kind: &KindDef) -> Value {
    match request.part {
        Some(part) => json!({ "group": part.group, "version": part.version, "kind": part.kind }),
        None => json!({ "group": kind.group, "version": kind.version, "kind": kind.kind }),
    }
}

fn resource(kind: &KindDef) -> Value {
    json!({ "group": kind.group, "version": kind.version, "resource": kind.resource })
}

fn user(request: &Request<'_>) -> Value {
    let user = request.user;
    let mut info = Map::new();
    for (field, text) in [("username", &user.name), ("uid", &user.uid)] {
        if !text.is_empty() {
            info.insert(field.to_owned(), text.as_str().into());
        }
    }
    if !user.groups.is_empty() {
        info.insert("groups".to_owned(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        info.insert("extra".to_owned(), json!(user.extra));
    }
    info.into()
}

/// The response in a review that was sent back, if it answers what was asked.
pub fn response(review: &Value, uid: &str, mutating: bool) -> Result<Value, String> {
    let response = review.get("response").filter(|response| response.is_object());
    let response = response.ok_or("webhook response was absent")?;
    let answered = response["uid"].as_str().unwrap_or("");
    if answered != uid {
        return Err(format!("expected response.uid={uid:?}, got {answered:?}"));
    }
    let (version, kind) =
        (review["apiVersion"].as_str().unwrap_or(""), review["kind"].as_str().unwrap_or(""));
    if version != API_VERSION || kind != "AdmissionReview" {
        return Err(format!(
            "expected webhook response of {API_VERSION}, Kind=AdmissionReview, got {}, Kind={kind}",
            if version.is_empty() { "/" } else { version }
        ));
    }
    check_patch(response, mutating)?;
    Ok(response.clone())
}

fn check_patch(response: &Value, mutating: bool) -> Result<(), String> {
    let has_patch = response["patch"].as_str().is_some_and(|patch| !patch.is_empty());
    let patch_type = response["patchType"].as_str();
    let fault = match (mutating, has_patch, patch_type) {
        (true, true, None) => "webhook returned response.patch but not response.patchType",
        (true, false, Some(_)) => "webhook returned response.patchType but not response.patch",
        (true, _, Some("")) => r#"webhook returned invalid response.patchType of """#,
        (false, true, _) => "validating webhook may not return response.patch",
        (false, _, Some(_)) => "validating webhook may not return response.patchType",
        _ => return Ok(()),
    };
    Err(fault.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(response: Value, mutating: bool) -> String {
        check_patch(&response, mutating).expect_err("must be refused")
    }

    #[test]
    fn a_patch_needs_its_type_and_a_mutating_webhook() {
        let patch = json!({ "patch": "W10=" });
        assert_eq!(
            fault(patch.clone(), true),
            "webhook returned response.patch but not response.patchType"
        );
        assert_eq!(fault(patch, false), "validating webhook may not return response.patch");
        let only_type = json!({ "patchType": "JSONPatch" });
        assert_eq!(
            fault(only_type, true),
            "webhook returned response.patchType but not response.patch"
        );
        let whole = json!({ "patch": "W10=", "patchType": "JSONPatch" });
        assert_eq!(check_patch(&whole, true), Ok(()));
    }
}
