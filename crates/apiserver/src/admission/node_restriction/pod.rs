//! What a kubelet may do to pods: mirror its static ones, report on, evict and delete those bound to it.

use serde_json::Value;
use skiff_api::kinds::api_reference;
use skiff_api::meta::meta;
use skiff_api::{GroupResource, Status};

use super::{Refusal, Verdict, differs, refuse};
use crate::admission::{Operation, Request};
use crate::objects;

const MIRROR: &str = "kubernetes.io/config.mirror";

pub async fn judge(request: &Request<'_>, node: &str, object: &Value) -> Verdict {
    match request.subresource {
        "" => match request.operation {
            Operation::Create => on_create(request, node, object).await,
            Operation::Delete => bound(request.old, node, "can only delete pods"),
            other => refuse(format!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                other.name()
            )),
        },
        "status" => on_status(request, node, object),
        "eviction" => on_eviction(request, node).await,
        other => refuse(format!(
            "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
        )),
    }
}

fn bound(pod: Option<&Value>, node: &str, what: &str) -> Verdict {
    match pod.is_some_and(|pod| pod["spec"]["nodeName"] == node) {
        true => Ok(()),
        false => refuse(format!("node {node:?} {what} with spec.nodeName set to itself")),
    }
}

async fn on_create(request: &Request<'_>, node: &str, pod: &Value) -> Verdict {
    if meta(pod).annotation(MIRROR).is_none() {
        return refuse(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    bound(Some(pod), node, "can only create pods")?;
    check_owner(request, node, pod).await?;
    match api_reference(pod) {
        Some(resource) => {
            refuse(format!("node {node:?} can not create pods that reference {resource}"))
        }
        None => Ok(()),
    }
}

/// A mirror pod belongs to its node, and to nobody else.
async fn check_owner(request: &Request<'_>, node: &str, pod: &Value) -> Verdict {
    let owners = pod["metadata"]["ownerReferences"].as_array().map_or(&[][..], Vec::as_slice);
    let can_only = |what: &str| refuse(format!("node {node:?} can only create pods with {what}"));
    let owner = match owners {
        [] => return can_only("an owner reference set to itself"),
        [owner] => owner,
        _ => return can_only("a single owner reference set to itself"),
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return can_only("an owner reference set to itself");
    }
    if owner["controller"] != true {
        return can_only("a controller owner reference set to itself");
    }
    if owner["blockOwnerDeletion"] == true {
        return refuse(format!(
            "node {node:?} must not set blockOwnerDeletion on an owner reference"
        ));
    }
    let found = objects::find(request.server, "minions", "", node).await?;
    let found = found.ok_or_else(|| Status::not_found(&GroupResource::new("", "nodes"), node))?;
    let (given, is) = (owner["uid"].as_str().unwrap_or(""), meta(&found).uid());
    match given == is {
        true => Ok(()),
        false => refuse(format!("node {node} UID mismatch: expected {given} got {is}")),
    }
}

fn on_status(request: &Request<'_>, node: &str, pod: &Value) -> Verdict {
    if request.operation != Operation::Update {
        return refuse(format!("unexpected operation {:?}", request.operation.name()));
    }
    bound(request.old, node, "can only update pod status for pods")?;
    let old = request.old.unwrap_or(&Value::Null);
    for (pointer, what) in [
        ("/metadata/labels", "labels through pod status"),
        ("/status/resourceClaimStatuses", "resource claim statues"),
        ("/status/extendedResourceClaimStatus", "extended resource claim status"),
    ] {
        if differs(old, pod, pointer) {
            return refuse(format!("node {node:?} cannot update {what}"));
        }
    }
    Ok(())
}

async fn on_eviction(request: &Request<'_>, node: &str) -> Verdict {
    if request.operation != Operation::Create {
        return refuse(format!("unexpected operation {}", request.operation.name()));
    }
    let pod = objects::find(request.server, "pods", request.namespace, &request.name).await?;
    let missing = || Status::not_found(&GroupResource::new("", "pods"), &request.name);
    let pod = pod.ok_or_else(missing)?;
    match pod["spec"]["nodeName"] == node {
        true => Ok(()),
        false => Err(Refusal::Forbidden(format!(
            "node {node} can only evict pods with spec.nodeName set to itself"
        ))),
    }
}
