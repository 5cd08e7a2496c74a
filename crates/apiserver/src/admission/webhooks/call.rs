//! One question to one webhook, and what its answer means.
//!
//! [`Hook`] + object -> [`Reviewed`] (allowed, perhaps with a patch), or a [`Fault`]: denied, or not answered.
//! Counterpart: `callAttrMutatingHook` and `callHook` of upstream's dispatchers.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use skiff_api::patch::json::{Operation as Step, apply_or_explain};
use skiff_api::patch::{self, Strictness};
use skiff_api::{Reason, Status};

use super::hook::Hook;
use super::review;
use crate::admission::matching::Match;
use crate::admission::{Operation, Request, versions};
use crate::webhook::{CallError, Post};

/// Allowed.
#[derive(Debug, Default)]
pub struct Reviewed {
    patch: Option<Vec<Step>>,
}

pub enum Fault {
    Denied(Box<Status>),
    /// Why there is no answer, or none that makes sense.
    Unanswered(String),
}

pub async fn ask(
    hook: &Hook,
    request: &Request<'_>,
    found: &Match,
    shown: &Value,
) -> Result<Reviewed, Fault> {
    if request.dry_run && hook.has_side_effects() {
        let why = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(Fault::Denied(Box::new(Status::bad_request(why))));
    }
    if !hook.review_versions.iter().any(|version| version == "v1") {
        let why = "could not create admission objects: webhook does not accept known AdmissionReview versions (v1)";
        return Err(Fault::Unanswered(why.to_owned()));
    }
    let uid = uuid::Uuid::new_v4().to_string();
    let question = review::of(request, found, shown, &uid);
    let question = question.map_err(|status| Fault::Denied(Box::new(status)))?;
    let answer = post(hook, request, &question).await.map_err(Fault::Unanswered)?;
    let response = review::response(&answer, &uid, hook.mutating)
        .map_err(|why| Fault::Unanswered(format!("received invalid webhook response: {why}")))?;
    settle(hook, request, &response)
}

async fn post(hook: &Hook, request: &Request<'_>, question: &Value) -> Result<Value, String> {
    let client = hook.client.as_ref();
    let config = client.map_err(|error| format!("could not get REST client: {error}"))?;
    let post = Post {
        config,
        body: question.to_string().into(),
        timeout: hook.timeout,
        tell_timeout: true,
        headers: http::HeaderMap::new(),
    };
    request.server.webhooks.post(post).await.map_err(|error| match error {
        CallError::Config(error) => format!("could not get REST client: {error}"),
        error => format!("failed to call webhook: {error}"),
    })
}

/// Warnings and annotations are kept whatever the verdict.
fn settle(hook: &Hook, request: &Request<'_>, response: &Value) -> Result<Reviewed, Fault> {
    for warning in response["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        request.call.warn(warning);
    }
    for (key, value) in response["auditAnnotations"].as_object().into_iter().flatten() {
        request.annotate(&format!("{}/{key}", hook.name), value.as_str().unwrap_or(""));
    }
    if response["allowed"] != true {
        return Err(Fault::Denied(Box::new(denial(&hook.name, &response["status"]))));
    }
    let Some(text) = response["patch"].as_str().filter(|text| !text.is_empty()) else {
        return Ok(Reviewed::default());
    };
    let undecodable = |why: String| {
        Fault::Unanswered(format!("received undecodable patch in webhook response: {why}"))
    };
    let patch = BASE64_STANDARD.decode(text).map_err(|error| undecodable(error.to_string()))?;
    let (operations, _) = patch::json::read(&patch, Strictness::Ignore)
        .map_err(|error| undecodable(error.to_string()))?;
    if !operations.is_empty() && response["patchType"] != "JSONPatch" {
        let given = response["patchType"].as_str().unwrap_or("");
        return Err(Fault::Unanswered(format!("unsupported patch type {given:?}")));
    }
    Ok(Reviewed { patch: Some(operations).filter(|operations| !operations.is_empty()) })
}

/// The webhook's own Status, made one of failure that names it.
fn denial(webhook: &str, result: &Value) -> Status {
    let denied = format!("admission webhook {webhook:?} denied the request");
    let mut status = Status::from_value(result);
    status.code = status.code.max(400);
    status.message = match (status.message.as_str(), &status.reason) {
        ("", Reason::Unknown) => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {}", reason.as_str()),
        (message, _) => format!("{denied}: {message}"),
    };
    status
}

// === impl Reviewed ===

impl Reviewed {
    /// The object with the patch in it, as it is stored; `None` without a patch.
    pub fn patched(
        &self,
        hook: &Hook,
        request: &Request<'_>,
        found: &Match,
        shown: Value,
    ) -> Result<Option<Value>, Status> {
        let Some(patch) = &self.patch else { return Ok(None) };
        if request.operation == Operation::Delete {
            let why = format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                hook.name
            );
            return Err(Status::internal(why));
        }
        let patched = apply_or_explain(shown, patch).map_err(Status::internal)?;
        versions::taken_back(request, &found.kind, patched, false).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_denial_names_the_webhook_and_is_a_client_error() {
        let silent = denial("w.example.com", &Value::Null);
        assert_eq!(silent.code, 400);
        assert_eq!(
            silent.message,
            r#"admission webhook "w.example.com" denied the request without explanation"#
        );
        let told = denial("w", &json!({ "code": 402, "reason": "Broke", "message": "pay first" }));
        assert_eq!(told.code, 402);
        assert_eq!(told.reason, Reason::Other("Broke".to_owned()));
        assert_eq!(told.message, r#"admission webhook "w" denied the request: pay first"#);
        let reason = denial("w", &json!({ "reason": "Broke" }));
        assert_eq!(reason.message, r#"admission webhook "w" denied the request: Broke"#);
    }
}
