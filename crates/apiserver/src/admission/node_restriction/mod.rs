//! NodeRestriction: a kubelet writes its own Node, its own pods' status and its own Lease, and nothing of others.
//!
//! A node's write -> admitted, or refused with the reason. What the node authoriser could not see because it is in the object
//! is judged here, a file for each large subject. Counterpart: `plugin/pkg/admission/noderestriction`.
//! Invariant: the user name says which node it is; no field of an object does.

mod labels;
mod pod;
mod token;

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::Status;
use skiff_api::meta::meta;

use super::{Operation, Plugin, Request};

pub struct NodeRestriction;

const LEASE_NAMESPACE: &str = "kube-node-lease";

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.user.node_name().is_some()
    }

    /// Changes nothing, but comes before validation, so that a node learns nothing from faults in what is not its own.
    async fn mutate(&self, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        let node = request.user.node_name().unwrap_or("");
        judge(request, node, object).await.map_err(|refusal| match refusal {
            Refusal::Forbidden(why) => request.forbidden(object, &why),
            Refusal::Status(status) => status,
        })
    }
}

/// Why a write is not admitted.
enum Refusal {
    Forbidden(String),
    /// Something that the decision needs is not there.
    Status(Status),
}

type Verdict = Result<(), Refusal>;

fn refuse(why: impl Into<String>) -> Verdict {
    Err(Refusal::Forbidden(why.into()))
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Refusal {
        Refusal::Status(status)
    }
}

async fn judge(request: &Request<'_>, node: &str, object: &Value) -> Verdict {
    match (request.kind.group.as_str(), request.kind.resource.as_str()) {
        ("", "pods") => pod::judge(request, node, object).await,
        ("", "nodes") => on_node(request, node, object),
        ("", "persistentvolumeclaims") => on_claim(request, node, object),
        ("", "serviceaccounts") if is_token(request) => token::judge(request, node, object).await,
        ("certificates.k8s.io", "podcertificaterequests") => {
            refuse("PodCertificateRequest feature gate is disabled")
        }
        ("certificates.k8s.io", "certificatesigningrequests") => {
            on_signing_request(request, node, object)
        }
        ("coordination.k8s.io", "leases") => on_lease(request, node, object),
        ("storage.k8s.io", "csinodes") if named(request, object) != node => {
            refuse("can only access CSINode with the same name as the requesting node")
        }
        ("resource.k8s.io", "resourceslices") => on_slice(request, node, object),
        _ => Ok(()),
    }
}

fn is_token(request: &Request<'_>) -> bool {
    request.operation == Operation::Create && request.subresource == "token"
}

/// The name of what is written; that of a new object is in the object.
fn named<'a>(request: &'a Request<'_>, object: &'a Value) -> &'a str {
    match request.operation {
        Operation::Create if request.subresource.is_empty() => meta(object).name(),
        _ => &request.name,
    }
}

fn on_node(request: &Request<'_>, node: &str, object: &Value) -> Verdict {
    let name = named(request, object);
    if name != node {
        return refuse(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let has_source = !object["spec"]["configSource"].is_null();
    match (request.operation, request.old) {
        (Operation::Create, _) => {
            if has_source {
                return refuse(format!(
                    "node {node:?} is not allowed to create pods with a non-nil configSource"
                ));
            }
            let forbidden = labels::forbidden(None, object);
            if !forbidden.is_empty() {
                let listed = forbidden.join(", ");
                return refuse(format!(
                    "node {node:?} is not allowed to set the following labels: {listed}"
                ));
            }
        }
        (Operation::Update, Some(old)) => return on_node_update(node, old, object, has_source),
        _ => {}
    }
    Ok(())
}

fn on_node_update(node: &str, old: &Value, new: &Value, has_source: bool) -> Verdict {
    if has_source && new["spec"]["configSource"] != old["spec"]["configSource"] {
        return refuse(format!(
            "node {node:?} is not allowed to update configSource to a new non-nil configSource"
        ));
    }
    for (what, pointer) in
        [("taints", "/spec/taints"), ("ownerReferences", "/metadata/ownerReferences")]
    {
        if differs(old, new, pointer) {
            return refuse(format!("node {node:?} is not allowed to modify {what}"));
        }
    }
    let forbidden = labels::forbidden(Some(old), new);
    match forbidden.is_empty() {
        true => Ok(()),
        false => refuse(format!("is not allowed to modify labels: {}", forbidden.join(", "))),
    }
}

/// Whether a value changed; absent, null and empty are the same.
fn differs(old: &Value, new: &Value, pointer: &str) -> bool {
    let settled = |object: &Value| match object.pointer(pointer) {
        None | Some(Value::Null) => None,
        Some(Value::Array(list)) if list.is_empty() => None,
        Some(Value::Object(map)) if map.is_empty() => None,
        Some(other) => Some(other.clone()),
    };
    settled(old) != settled(new)
}

/// What a kubelet may say about a claim: how large it is, and what is being done about it.
const OWN_CLAIM_STATUS: &[&str] =
    &["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"];

fn on_claim(request: &Request<'_>, node: &str, object: &Value) -> Verdict {
    if request.subresource != "status" {
        return refuse("may only update PVC status");
    }
    let Some(old) = request.old.filter(|_| request.operation == Operation::Update) else {
        return refuse(format!("unexpected operation {:?}", request.operation.name()));
    };
    let rest = |claim: &Value| {
        let mut claim = claim.clone();
        if let Some(status) = claim["status"].as_object_mut() {
            status.retain(|field, _| !OWN_CLAIM_STATUS.contains(&field.as_str()));
        }
        if let Some(meta) = claim["metadata"].as_object_mut() {
            meta.retain(|field, _| field != "resourceVersion" && field != "managedFields");
        }
        claim
    };
    match rest(old) == rest(object) {
        true => Ok(()),
        false => refuse(format!(
            "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
        )),
    }
}

fn on_lease(request: &Request<'_>, node: &str, object: &Value) -> Verdict {
    if request.namespace != LEASE_NAMESPACE {
        let why = format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace");
        return refuse(why);
    }
    match named(request, object) == node {
        true => Ok(()),
        false => refuse("can only access node lease with the same name as the requesting node"),
    }
}

fn on_slice(request: &Request<'_>, node: &str, object: &Value) -> Verdict {
    let (slice, verb) = match request.operation {
        Operation::Create => (object, "create"),
        Operation::Delete => (request.old.unwrap_or(&Value::Null), "delete"),
        _ => return Ok(()),
    };
    match slice["spec"]["nodeName"] == node {
        true => Ok(()),
        false => refuse(format!(
            "can only {verb} ResourceSlice with the same NodeName as the requesting node"
        )),
    }
}

/// A node asks for certificates in its own name.
fn on_signing_request(request: &Request<'_>, node: &str, object: &Value) -> Verdict {
    const SIGNERS: &[&str] =
        &["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
    let signer = object["spec"]["signerName"].as_str().unwrap_or("");
    if request.operation != Operation::Create || !SIGNERS.contains(&signer) {
        return Ok(());
    }
    let wanted = format!("system:node:{node}");
    match common_name(object["spec"]["request"].as_str().unwrap_or("")) {
        None => refuse("unable to parse csr: PEM block type must be CERTIFICATE REQUEST"),
        Some(name) if name != wanted => {
            refuse(format!("can only create a node CSR with CN={wanted}"))
        }
        Some(_) => Ok(()),
    }
}

/// Whose certificate is asked for, in base64 of PEM.
fn common_name(request: &str) -> Option<String> {
    use base64::Engine;
    use rustls::pki_types::CertificateSigningRequestDer;
    use rustls::pki_types::pem::PemObject;
    use x509_parser::prelude::{FromDer, X509CertificationRequest};
    let pem = base64::prelude::BASE64_STANDARD.decode(request).ok()?;
    let der = CertificateSigningRequestDer::from_pem_slice(&pem).ok()?;
    let (_, asked) = X509CertificationRequest::from_der(&der).ok()?;
    let subject = &asked.certification_request_info.subject;
    let name = subject.iter_common_name().next().and_then(|name| name.as_str().ok());
    Some(name.unwrap_or("").to_owned())
}
