//! NamespaceLifecycle: nothing is made in a namespace that is missing or going, and four namespaces stay.
//!
//! Counterpart: `k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle`.

use std::borrow::Cow;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;
use skiff_api::status::{Cause, Details};
use skiff_api::{GroupResource, Status};

use super::{Operation, Plugin, Request};
use crate::objects;

pub struct NamespaceLifecycle;

/// What is looked at of a namespace.
#[derive(Deserialize)]
struct Namespace<'a> {
    #[serde(borrow, default)]
    status: NamespaceStatus<'a>,
}

#[derive(Default, Deserialize)]
struct NamespaceStatus<'a> {
    #[serde(default)]
    phase: Cow<'a, str>,
}

/// What the phase of a namespace that goes away reads like.
const TERMINATING: &str = "Terminating";
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        match request.operation {
            Operation::Create => !request.namespace.is_empty(),
            Operation::Delete => request.is("", "namespaces"),
            Operation::Update | Operation::Connect => false,
        }
    }

    async fn mutate(&self, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        check(request, object).await
    }

    async fn validate(&self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        check(request, object).await
    }
}

async fn check(request: &Request<'_>, object: &Value) -> Result<(), Status> {
    if request.operation == Operation::Delete {
        return match IMMORTAL.contains(&request.name.as_str()) {
            true => Err(request.forbidden(object, "this namespace may not be deleted")),
            false => Ok(()),
        };
    }
    let namespace = request.namespace;
    let key = format!("/registry/namespaces/{namespace}");
    let Some(entry) = objects::read(request.server, &key).await? else {
        return Err(Status::not_found(&GroupResource::new("", "namespaces"), namespace));
    };
    if !is_terminating(&entry.value)? || is_review(request) {
        return Ok(());
    }
    let why = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    let mut status = request.forbidden(object, &why);
    let cause = Cause {
        reason: "NamespaceTerminating".to_owned(),
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".to_owned(),
    };
    let details: &mut Details = status.details.get_or_insert_default();
    details.causes.push(cause);
    Err(status)
}

/// Every create asks twice. A namespace that does not even hold the word need not be decoded.
fn is_terminating(stored: &[u8]) -> Result<bool, Status> {
    if memchr::memmem::find(stored, TERMINATING.as_bytes()).is_none() {
        return Ok(false);
    }
    let found: Namespace<'_> = serde_json::from_slice(stored).map_err(Status::internal)?;
    Ok(found.status.phase == TERMINATING)
}

/// Asking who may do what is fine until the end.
fn is_review(request: &Request<'_>) -> bool {
    request.kind.group == "authorization.k8s.io"
}
