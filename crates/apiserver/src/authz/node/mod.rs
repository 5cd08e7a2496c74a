//! The node authoriser: a kubelet reads what the pods bound to its node refer to, and no more.
//!
//! A node's request -> allowed, or no opinion and why. What the [`Graph`] says decides about objects that belong to pods;
//! everything else is the default role `system:node`. NodeRestriction narrows the writes afterwards.
//! Counterpart: `plugin/pkg/auth/authorizer/node`. Invariant: the user name alone says which node asks.

mod graph;

use std::sync::LazyLock;

use skiff_api::Status;

use super::rules::PolicyRule;
use super::{Attributes, Decision};
use crate::bootstrap;
use crate::follow::Followed;
use crate::objects::store_status;
use crate::server::Server;
use graph::{Graph, What};

/// The graph of one server.
pub type NodeGraph = Followed<Graph>;

/// What every kubelet may do.
static NODE_RULES: LazyLock<Vec<PolicyRule>> =
    LazyLock::new(|| bootstrap::default_cluster_role("system:node"));

const LEASE_NAMESPACE: &str = "kube-node-lease";

/// What is still open after looking at the request alone.
#[derive(Debug, PartialEq)]
enum Verdict {
    Allow,
    No(String),
    /// Allowed if the named object leads to the node.
    IfRelated(What),
}

pub async fn decide(
    server: &Server,
    node: &str,
    attributes: &Attributes,
) -> Result<Decision, Status> {
    match judge(node, attributes) {
        Verdict::Allow => Ok(Decision::allow("")),
        Verdict::No(reason) => Ok(Decision::no_opinion(reason)),
        Verdict::IfRelated(_) if attributes.name.is_empty() => {
            Ok(Decision::no_opinion("No Object name found"))
        }
        Verdict::IfRelated(what) => {
            let graph = server.node_graph.current(&server.store).await.map_err(store_status)?;
            let related = graph.view().leads(what, &attributes.namespace, &attributes.name, node);
            Ok(match related {
                true => Decision::allow(""),
                false => Decision::no_opinion(format!(
                    "no relationship found between node '{node}' and this object"
                )),
            })
        }
    }
}

fn judge(node: &str, asked: &Attributes) -> Verdict {
    if !asked.is_resource {
        return by_role(asked);
    }
    match (asked.group.as_str(), asked.resource.as_str()) {
        ("", "secrets") => reads(asked, What::Secret),
        ("", "configmaps") => reads(asked, What::ConfigMap),
        ("", "persistentvolumeclaims") if asked.subresource == "status" => claim_status(asked),
        ("", "persistentvolumeclaims") => gets(asked, What::Claim),
        ("", "persistentvolumes") => gets(asked, What::Volume),
        ("resource.k8s.io", "resourceclaims") => gets(asked, What::ResourceClaim),
        ("storage.k8s.io", "volumeattachments") => gets(asked, What::VolumeAttachment),
        ("", "serviceaccounts") => service_account(asked),
        ("coordination.k8s.io", "leases") => lease(node, asked),
        ("storage.k8s.io", "csinodes") => csi_node(node, asked),
        ("resource.k8s.io", "resourceslices") => resource_slice(node, asked),
        ("", "nodes") => own_node(node, asked),
        ("", "pods") => pod(node, asked),
        // Not served by default, and so not for nodes.
        ("certificates.k8s.io", "podcertificaterequests") => no(""),
        _ => by_role(asked),
    }
}

fn no(reason: impl Into<String>) -> Verdict {
    Verdict::No(reason.into())
}

fn by_role(asked: &Attributes) -> Verdict {
    match NODE_RULES.iter().any(|rule| rule.allows(asked)) {
        true => Verdict::Allow,
        false => no(""),
    }
}

fn reads(asked: &Attributes, what: What) -> Verdict {
    if !matches!(asked.verb.as_str(), "get" | "list" | "watch") {
        return no("can only read resources of this type");
    }
    if !asked.subresource.is_empty() {
        return no("cannot read subresource");
    }
    if asked.namespace.is_empty() {
        return no("can only read namespaced object of this type");
    }
    Verdict::IfRelated(what)
}

fn gets(asked: &Attributes, what: What) -> Verdict {
    if asked.verb != "get" {
        return no("can only get individual resources of this type");
    }
    if !asked.subresource.is_empty() {
        return no("cannot get subresource");
    }
    Verdict::IfRelated(what)
}

fn claim_status(asked: &Attributes) -> Verdict {
    match asked.verb.as_str() {
        "update" | "patch" => Verdict::IfRelated(What::Claim),
        _ => no("can only get/update/patch this type"),
    }
}

fn service_account(asked: &Attributes) -> Verdict {
    if asked.verb == "get" && asked.subresource.is_empty() {
        return reads(asked, What::ServiceAccount);
    }
    if asked.verb != "create" || asked.name.is_empty() {
        return no("can only create tokens for individual service accounts");
    }
    match asked.subresource.as_str() {
        "token" => Verdict::IfRelated(What::ServiceAccount),
        _ => no("can only create token subresource of serviceaccount"),
    }
}

/// On create the name is in the object, where NodeRestriction looks.
fn lease(node: &str, asked: &Attributes) -> Verdict {
    if !matches!(asked.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if asked.namespace != LEASE_NAMESPACE {
        return no(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
    }
    if asked.verb != "create" && asked.name != node {
        return no("can only access node lease with the same name as the requesting node");
    }
    Verdict::Allow
}

fn csi_node(node: &str, asked: &Attributes) -> Verdict {
    if !matches!(asked.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if !asked.subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if asked.verb != "create" && asked.name != node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    Verdict::Allow
}

fn resource_slice(node: &str, asked: &Attributes) -> Verdict {
    if !asked.subresource.is_empty() {
        return no("cannot authorize ResourceSlice subresources");
    }
    match asked.verb.as_str() {
        "create" => Verdict::Allow,
        "get" | "update" | "patch" | "delete" => Verdict::IfRelated(What::ResourceSlice),
        "watch" | "list" | "deletecollection" if asked.selects_field("spec.nodeName", node) => {
            Verdict::Allow
        }
        "watch" | "list" | "deletecollection" => {
            no("can only list/watch/deletecollection resourceslices with nodeName field selector")
        }
        _ => no(
            "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
        ),
    }
}

/// By name and not by the graph: a kubelet looks for its Node before it makes it.
fn own_node(node: &str, asked: &Attributes) -> Verdict {
    match (asked.subresource.as_str(), asked.verb.as_str()) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Verdict::Allow,
        ("", "get" | "list" | "watch") => match asked.name.as_str() {
            own if own == node => Verdict::Allow,
            "" => no(format!("node '{node}' cannot read all nodes, only its own Node object")),
            other => no(format!("node '{node}' cannot read '{other}', only its own Node object")),
        },
        _ => no(""),
    }
}

fn pod(node: &str, asked: &Attributes) -> Verdict {
    match (asked.subresource.as_str(), asked.verb.as_str()) {
        ("", "get") => Verdict::IfRelated(What::Pod),
        ("", "list" | "watch") if asked.selects_field("spec.nodeName", node) => Verdict::Allow,
        ("", "list" | "watch") if !asked.name.is_empty() => Verdict::IfRelated(What::Pod),
        ("", "list" | "watch") => no("can only list/watch pods with spec.nodeName field selector"),
        ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
            Verdict::Allow
        }
        _ => no(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::FieldRequirement;

    fn ask(text: &str) -> Attributes {
        let mut words = text.split(' ');
        let mut word = || words.next().unwrap_or("").trim_matches('-').to_owned();
        let (verb, path, namespace, name) = (word(), word(), word(), word());
        let (group, resource) = path.split_once(':').unwrap_or(("", &path));
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb,
            is_resource: true,
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace,
            name,
            ..Attributes::default()
        }
    }

    #[test]
    fn each_resource_has_its_own_rule() {
        let table = [
            ("get secrets n key", Verdict::IfRelated(What::Secret)),
            ("list secrets - -", no("can only read namespaced object of this type")),
            ("create secrets n -", no("can only read resources of this type")),
            ("list persistentvolumes - -", no("can only get individual resources of this type")),
            ("patch persistentvolumeclaims/status n c", Verdict::IfRelated(What::Claim)),
            ("get serviceaccounts n a", Verdict::IfRelated(What::ServiceAccount)),
            ("create serviceaccounts/token n a", Verdict::IfRelated(What::ServiceAccount)),
            (
                "list serviceaccounts n -",
                no("can only create tokens for individual service accounts"),
            ),
            ("get coordination.k8s.io:leases kube-node-lease me", Verdict::Allow),
            (
                "get coordination.k8s.io:leases kube-system me",
                no("can only access leases in the \"kube-node-lease\" system namespace"),
            ),
            (
                "update storage.k8s.io:csinodes - other",
                no("can only access CSINode with the same name as the requesting node"),
            ),
            ("get nodes - me", Verdict::Allow),
            ("get nodes - other", no("node 'me' cannot read 'other', only its own Node object")),
            ("list nodes - -", no("node 'me' cannot read all nodes, only its own Node object")),
            ("delete nodes - me", no("")),
            ("get pods n p", Verdict::IfRelated(What::Pod)),
            ("list pods - -", no("can only list/watch pods with spec.nodeName field selector")),
            ("create pods/eviction n p", Verdict::Allow),
            ("create pods/exec n p", no("")),
            ("list services - -", Verdict::Allow),
            ("list apps:deployments - -", no("")),
        ];
        for (asked, verdict) in table {
            assert_eq!(judge("me", &ask(asked)), verdict, "{asked}");
        }
    }

    #[test]
    fn a_list_restricted_to_the_node_is_allowed() {
        let restricted = |node: &str| Attributes {
            field_selector: vec![FieldRequirement {
                field: "spec.nodeName".to_owned(),
                value: node.to_owned(),
                equal: true,
            }],
            ..ask("list pods - -")
        };
        assert_eq!(judge("me", &restricted("me")), Verdict::Allow);
        assert!(matches!(judge("me", &restricted("other")), Verdict::No(_)));
    }
}
