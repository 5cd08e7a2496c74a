//! NodeRestriction: a kubelet writes its own Node, its own pods' status and its own Lease, and nothing of others.
//!
//! Counterpart: `plugin/pkg/admission/noderestriction`. Invariant: the user name says which node it is; no field of an object does.

use futures::future::BoxFuture;
use serde_json::Value;
use skiff_api::Status;
use skiff_api::meta::meta;

use super::{Operation, Plugin, Request};

pub struct NodeRestriction;

/// Labels under `kubernetes.io` that a kubelet may set on its node.
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "node.kubernetes.io/windows-build",
];
const OWN_PREFIXES: &[&str] = &["kubelet.kubernetes.io/", "node.kubernetes.io/"];

impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.user.node_name().is_some()
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'a>,
        object: &'a Value,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let node = request.user.node_name().unwrap_or("");
        let verdict = match (request.kind.group.as_str(), request.kind.resource.as_str()) {
            ("", "nodes") => on_node(request, node, object),
            ("", "pods") => on_pod(request, node, object),
            ("coordination.k8s.io", "leases") => on_lease(request, node, object),
            _ => Ok(()),
        };
        Box::pin(async move { verdict })
    }
}

fn on_node(request: &Request<'_>, node: &str, object: &Value) -> Result<(), Status> {
    let name = if request.name.is_empty() { meta(object).name() } else { &request.name };
    if name != node {
        let why = format!("node {node:?} is not allowed to modify node {name:?}");
        return Err(request.forbidden(object, &why));
    }
    if request.operation == Operation::Update && request.subresource.is_empty() {
        let old = request.old.unwrap_or(&Value::Null);
        if object["spec"]["taints"] != old["spec"]["taints"] {
            return Err(request
                .forbidden(object, &format!("node {node:?} is not allowed to modify taints")));
        }
    }
    let forbidden = forbidden_labels(request.old, object);
    match forbidden.is_empty() {
        true => Ok(()),
        false => {
            let why = format!("is not allowed to modify labels: {}", forbidden.join(", "));
            Err(request.forbidden(object, &why))
        }
    }
}

/// Labels of others that differ from before.
fn forbidden_labels(old: Option<&Value>, new: &Value) -> Vec<String> {
    let of = |object: Option<&Value>, key: &str| {
        object.and_then(|object| meta(object).label(key)).map(str::to_owned)
    };
    let all = [old, Some(new)]
        .into_iter()
        .flatten()
        .filter_map(|object| meta(object).labels())
        .flat_map(|labels| labels.keys());
    let mut changed: Vec<String> =
        all.filter(|key| of(old, key) != of(Some(new), key) && !may_set(key)).cloned().collect();
    changed.sort();
    changed.dedup();
    changed
}

fn may_set(label: &str) -> bool {
    let Some((namespace, _)) = label.split_once('/') else { return true };
    let reserved = |of: &str| namespace == of || namespace.ends_with(&format!(".{of}"));
    if namespace.ends_with("node-restriction.kubernetes.io") {
        return false;
    }
    !(reserved("kubernetes.io") || reserved("k8s.io"))
        || OWN_LABELS.contains(&label)
        || OWN_PREFIXES.iter().any(|prefix| label.starts_with(prefix))
}

fn on_pod(request: &Request<'_>, node: &str, object: &Value) -> Result<(), Status> {
    let shown = if object.is_null() { request.old.unwrap_or(object) } else { object };
    match (request.operation, request.subresource) {
        (Operation::Create, "") => {
            if meta(object).annotation("kubernetes.io/config.mirror").is_none() {
                let why = format!(
                    "pod does not have {:?} annotation, node {node:?} can only create mirror pods",
                    "kubernetes.io/config.mirror"
                );
                return Err(request.forbidden(object, &why));
            }
            bound_here(request, node, shown, "create pods")
        }
        (Operation::Delete, _) => {
            bound_here(request, node, request.old.unwrap_or(&Value::Null), "delete pods")
        }
        (Operation::Update, "status") => {
            bound_here(request, node, request.old.unwrap_or(&Value::Null), "update status for pods")
        }
        (Operation::Update, "") => Err(request.forbidden(object, "can only update pod status")),
        _ => Ok(()),
    }
}

fn bound_here(request: &Request<'_>, node: &str, pod: &Value, what: &str) -> Result<(), Status> {
    match pod["spec"]["nodeName"] == node {
        true => Ok(()),
        false => Err(request.forbidden(
            pod,
            &format!("node {node:?} can only {what} with spec.nodeName set to itself"),
        )),
    }
}

fn on_lease(request: &Request<'_>, node: &str, object: &Value) -> Result<(), Status> {
    let name = if request.name.is_empty() { meta(object).name() } else { &request.name };
    if request.namespace != "kube-node-lease" {
        let why = format!("can only access leases in the {:?} system namespace", "kube-node-lease");
        return Err(request.forbidden(object, &why));
    }
    match name == node {
        true => Ok(()),
        false => Err(request.forbidden(
            object,
            "can only access node lease with the same name as the requesting node",
        )),
    }
}
