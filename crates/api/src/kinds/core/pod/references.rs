//! Whether a pod needs other objects of the API.
//!
//! Pods that a node runs of its own, and the mirror pods that stand for them, must need none. Counterpart:
//! `HasAPIObjectReference` of `pkg/api/pod`; what it calls each is in messages.

use serde_json::Value;

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

/// The first kind of object that the pod refers to.
pub fn api_reference(pod: &Value) -> Option<&'static str> {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_are_found_wherever_they_are() {
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
            assert_eq!(api_reference(&json!({ "spec": spec })), found, "{spec}");
        }
    }
}
