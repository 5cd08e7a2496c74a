//! Authorisation: who may do what.
//!
//! User + [`Attributes`] -> allowed or not, and why. The authorisers are asked in the order of
//! [`decide`]: superusers, the node authoriser, RBAC; the first that allows decides. Counterpart:
//! `k8s.io/apiserver/pkg/authorization`. Invariant: nothing is allowed because something failed.

pub mod escalation;
pub mod node;
pub mod rbac;
pub mod rules;

use skiff_api::{GroupResource, Status};

use crate::request_info::RequestInfo;
use crate::server::Server;
use crate::user::{PRIVILEGED_GROUP, UserInfo};

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    pub verb: String,
    pub is_resource: bool,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub path: String,
}

#[derive(Clone, Debug, Default)]
pub struct Decision {
    pub allowed: bool,
    /// Why it is allowed, or what kept it from being decided.
    pub reason: String,
}

/// Refuses what is not allowed with upstream's 403.
pub async fn require(
    server: &Server,
    user: &UserInfo,
    attributes: &Attributes,
) -> Result<(), Status> {
    let decision = decide(server, user, attributes).await?;
    match decision.allowed {
        true => Ok(()),
        false => Err(forbidden(user, attributes, &decision.reason)),
    }
}

pub async fn decide(
    server: &Server,
    user: &UserInfo,
    attributes: &Attributes,
) -> Result<Decision, Status> {
    if user.is_in(PRIVILEGED_GROUP) {
        return Ok(Decision { allowed: true, reason: String::new() });
    }
    if let Some(node) = user.node_name()
        && node::allows(server, node, attributes).await?
    {
        return Ok(Decision { allowed: true, reason: String::new() });
    }
    Ok(server.rbac.policy(server).await?.decide(user, attributes))
}

// === impl Attributes ===

impl From<&RequestInfo> for Attributes {
    fn from(info: &RequestInfo) -> Attributes {
        Attributes {
            verb: info.verb.clone(),
            is_resource: info.is_resource,
            group: info.group.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            path: info.path.clone(),
        }
    }
}

impl Attributes {
    /// `pods/log`, as rules name it.
    pub fn resource_path(&self) -> String {
        match self.subresource.is_empty() {
            true => self.resource.clone(),
            false => format!("{}/{}", self.resource, self.subresource),
        }
    }
}

fn forbidden(user: &UserInfo, attributes: &Attributes, reason: &str) -> Status {
    let mut why = denial(user, attributes);
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    let resource = GroupResource::new(&attributes.group, &attributes.resource);
    Status::forbidden(&resource, &attributes.name, &why)
}

/// `User "x" cannot list resource "pods" in API group "" in the namespace "y"`.
fn denial(user: &UserInfo, attributes: &Attributes) -> String {
    let Attributes { verb, namespace, group, path, .. } = attributes;
    if !attributes.is_resource {
        return format!("User {:?} cannot {verb} path {path:?}", user.name);
    }
    let place = match namespace.is_empty() {
        true => "at the cluster scope".to_owned(),
        false => format!("in the namespace {namespace:?}"),
    };
    let resource = attributes.resource_path();
    format!(
        "User {:?} cannot {verb} resource {resource:?} in API group {group:?} {place}",
        user.name
    )
}
