//! The node authoriser: a kubelet reads what the pods bound to its node refer to, and no more.
//!
//! Counterpart: `plugin/pkg/auth/authorizer/node`. Differs from upstream: instead of a graph kept in memory, the pods of
//! the one namespace asked about are looked through. What any kubelet may do besides (its Node, pods, events, leases) is
//! the role `system:node`, here [`NODE_RULES`].

use serde_json::Value;
use skiff_api::Status;
use skiff_store::RangeRequest;

use super::Attributes;
use crate::server::Server;

/// (group, resource path, verbs): what every kubelet may do; NodeRestriction narrows the writes to its own objects.
const NODE_RULES: &[(&str, &str, &[&str])] = &[
    ("authentication.k8s.io", "tokenreviews", &["create"]),
    ("authorization.k8s.io", "subjectaccessreviews", &["create"]),
    ("authorization.k8s.io", "localsubjectaccessreviews", &["create"]),
    ("", "services", &["get", "list", "watch"]),
    ("", "nodes", &["create", "get", "list", "watch", "update", "patch"]),
    ("", "nodes/status", &["update", "patch"]),
    ("", "events", &["create", "update", "patch"]),
    ("events.k8s.io", "events", &["create", "update", "patch"]),
    ("", "pods", &["get", "list", "watch", "create", "delete"]),
    ("", "pods/status", &["update", "patch"]),
    ("", "pods/eviction", &["create"]),
    ("certificates.k8s.io", "certificatesigningrequests", &["create", "get", "list", "watch"]),
    ("coordination.k8s.io", "leases", &["get", "create", "update", "patch", "delete"]),
    ("storage.k8s.io", "volumeattachments", &["get"]),
    ("storage.k8s.io", "csidrivers", &["get", "list", "watch"]),
    ("storage.k8s.io", "csinodes", &["get", "create", "update", "patch", "delete"]),
    ("node.k8s.io", "runtimeclasses", &["get", "list", "watch"]),
];

/// Where a pod names what its node may read: resource, and the pointers of the names.
const REFERENCES: &[&str] = &["secrets", "configmaps", "persistentvolumeclaims", "serviceaccounts"];

pub async fn allows(server: &Server, node: &str, attributes: &Attributes) -> Result<bool, Status> {
    if !attributes.is_resource {
        return Ok(false);
    }
    let path = attributes.resource_path();
    let reads = matches!(attributes.verb.as_str(), "get" | "list" | "watch");
    let token = path == "serviceaccounts/token" && attributes.verb == "create";
    if attributes.group.is_empty()
        && REFERENCES.contains(&attributes.resource.as_str())
        && (reads || token)
    {
        return refers(server, node, attributes).await;
    }
    if attributes.group.is_empty() && path == "persistentvolumes" && attributes.verb == "get" {
        return Ok(true);
    }
    let own_lease_only =
        attributes.resource == "leases" && attributes.namespace != "kube-node-lease";
    Ok(!own_lease_only
        && NODE_RULES.iter().any(|(group, resource, verbs)| {
            *group == attributes.group
                && *resource == path
                && verbs.contains(&attributes.verb.as_str())
        }))
}

/// Whether some pod bound to the node refers to the object.
async fn refers(server: &Server, node: &str, attributes: &Attributes) -> Result<bool, Status> {
    if attributes.name.is_empty() || attributes.namespace.is_empty() {
        return Ok(false);
    }
    let request = RangeRequest::prefix(format!("/registry/pods/{}/", attributes.namespace));
    let pods = server.store.range(request).await.map_err(Status::internal)?;
    for entry in pods.entries {
        let pod = skiff_api::codec::decode_stored(&entry.value)?;
        if pod["spec"]["nodeName"] == node && names(&pod, &attributes.resource, &attributes.name) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn names(pod: &Value, resource: &str, name: &str) -> bool {
    let spec = &pod["spec"];
    match resource {
        "serviceaccounts" => spec["serviceAccountName"] == name,
        "persistentvolumeclaims" => claims(pod).any(|claim| claim == name),
        "secrets" => named_within(
            spec,
            &["secretName", "secretRef", "secretKeyRef", "secret", "imagePullSecrets"],
            name,
        ),
        _ => named_within(spec, &["configMap", "configMapRef", "configMapKeyRef"], name),
    }
}

fn claims(pod: &Value) -> impl Iterator<Item = String> {
    let own = pod["metadata"]["name"].as_str().unwrap_or("");
    pod["spec"]["volumes"].as_array().into_iter().flatten().filter_map(move |volume| {
        match volume["persistentVolumeClaim"]["claimName"].as_str() {
            Some(name) => Some(name.to_owned()),
            None => volume
                .get("ephemeral")
                .and_then(|_| Some(format!("{own}-{}", volume["name"].as_str()?))),
        }
    })
}

/// Looks for `{field: name}`, `{field: {name: name}}` and lists of them, at any depth.
fn named_within(value: &Value, fields: &[&str], name: &str) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| named_within(item, fields, name)),
        Value::Object(map) => map.iter().any(|(field, value)| {
            (fields.contains(&field.as_str()) && is_name(value, name))
                || named_within(value, fields, name)
        }),
        _ => false,
    }
}

fn is_name(value: &Value, name: &str) -> bool {
    match value {
        Value::String(text) => text == name,
        Value::Array(items) => items.iter().any(|item| is_name(item, name)),
        Value::Object(map) => ["name", "secretName"]
            .iter()
            .any(|field| map.get(*field).is_some_and(|have| have == name)),
        _ => false,
    }
}
