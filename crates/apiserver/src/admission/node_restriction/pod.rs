//! What a kubelet may do to pods: mirror its static ones, report on, evict and delete those bound to it.

use serde_json::Value;
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
    match referenced(pod) {
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

/// Volumes that ask the API for something, and what.
const VOLUMES: &[(&str, &str)] = &[
    ("/configMap", "configmaps (via configmap volumes)"),
    ("/secret", "secrets (via secret volumes)"),
    ("/csi", "csidrivers (via CSI volumes)"),
    ("/glusterfs", "endpoints (via glusterFS volumes)"),
    ("/persistentVolumeClaim", "persistentvolumeclaims"),
    ("/ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
    ("/azureFile", "secrets (via azureFile volumes)"),
];
const PROJECTED: &[(&str, &str)] = &[
    ("/configMap", "configmaps (via projected volumes)"),
    ("/secret", "secrets (via projected volumes)"),
    ("/serviceAccountToken", "serviceaccounts (via projected volumes)"),
    ("/clusterTrustBundle", "clustertrustbundles"),
    ("/podCertificate", "podcertificates"),
];
/// References in containers and volumes that name the resource alone.
const SECRETS: &[&str] = &["secretKeyRef", "secretRef", "nodePublishSecretRef"];
const CONFIG_MAPS: &[&str] = &["configMapKeyRef", "configMapRef"];

/// The first kind of object that the pod refers to: a mirror pod must need none.
fn referenced(pod: &Value) -> Option<&'static str> {
    let spec = &pod["spec"];
    let listed = |value: &'_ Value| value.as_array().is_some_and(|list| !list.is_empty());
    if spec["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        return Some("serviceaccounts");
    }
    let volumes = || spec["volumes"].as_array().into_iter().flatten();
    let in_volume = |pointer: &str| volumes().any(|volume| volume.pointer(pointer).is_some());
    let projected = |pointer: &str| {
        let sources =
            volumes().filter_map(|volume| volume.pointer("/projected/sources")?.as_array());
        sources.flatten().any(|source| source.pointer(pointer).is_some())
    };
    if listed(&spec["imagePullSecrets"])
        || ["/secret/secretName", "/azureFile/secretName"].iter().any(|at| in_volume(at))
        || projected("/secret")
        || within(spec, SECRETS)
    {
        return Some("secrets");
    }
    if in_volume("/configMap") || projected("/configMap") || within(spec, CONFIG_MAPS) {
        return Some("configmaps");
    }
    if listed(&spec["resourceClaims"]) {
        return Some("resourceclaims");
    }
    let volume = VOLUMES.iter().find(|(pointer, _)| in_volume(pointer));
    let found = volume.or_else(|| PROJECTED.iter().find(|(pointer, _)| projected(pointer)));
    found.map(|(_, resource)| *resource)
}

fn within(value: &Value, fields: &[&str]) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| within(item, fields)),
        Value::Object(map) => map.iter().any(|(field, value)| {
            (fields.contains(&field.as_str()) && value.is_object()) || within(value, fields)
        }),
        _ => false,
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mirror_pod_refers_to_nothing_in_the_api() {
        for (spec, found) in [
            (json!({ "volumes": [{ "name": "v", "hostPath": { "path": "/" } }] }), None),
            (json!({ "serviceAccountName": "a" }), Some("serviceaccounts")),
            (json!({ "imagePullSecrets": [{ "name": "s" }] }), Some("secrets")),
            (json!({ "containers": [{ "envFrom": [{ "secretRef": {} }] }] }), Some("secrets")),
            (
                json!({ "containers": [{ "env": [{ "valueFrom": { "configMapKeyRef": {} } }] }] }),
                Some("configmaps"),
            ),
            (json!({ "resourceClaims": [{ "name": "c" }] }), Some("resourceclaims")),
            (json!({ "volumes": [{ "csi": {} }] }), Some("csidrivers (via CSI volumes)")),
            (
                json!({ "volumes": [{ "projected": { "sources": [{ "serviceAccountToken": {} }] } }] }),
                Some("serviceaccounts (via projected volumes)"),
            ),
        ] {
            assert_eq!(referenced(&json!({ "spec": spec })), found, "{spec}");
        }
    }
}
