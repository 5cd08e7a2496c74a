//! The objects that tell users and charts of what lives in this process: Service `kube-dns`, where
//! it is answered, StorageClass `standard`, and what those behind them may do.
//!
//! Applied by server-side apply at every start, so that an upgrade brings them up to date; the class, which users change
//! to have another default, is made once.

use std::net::SocketAddr;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use skiff_controllers::{HOST_PATH_PROVISIONER, HOST_PATH_PROVISIONER_USER};

use super::dns_metrics;
use super::terms::Terms;

const NAMESPACE: &str = "kube-system";
const PROVISIONER_ROLE: &str = "system:controller:host-path-provisioner";
/// As which user DNS reads Services.
pub const DNS_USER: &str = "system:serviceaccount:kube-system:coredns";

/// Makes DNS at `address` the one that pods ask.
pub async fn apply_dns(client: Client, terms: &Terms, address: SocketAddr) -> kube::Result<()> {
    for (plural, object) in [
        ("clusterroles", dns_role()),
        ("clusterrolebindings", dns_role_binding()),
        ("services", dns_service(terms)),
        ("endpointslices", dns_endpoints(terms, address)),
    ] {
        apply(client.clone(), plural, &object).await?;
    }
    Ok(())
}

/// Makes directories of the nodes the storage of claims that name no other class.
pub async fn apply_storage(client: Client) -> kube::Result<()> {
    apply(client.clone(), "clusterroles", &provisioner_role()).await?;
    apply(client.clone(), "clusterrolebindings", &provisioner_role_binding()).await?;
    let classes: Api<StorageClass> = Api::all(client);
    match classes.create(&PostParams::default(), &storage_class()).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        made => made.map(drop),
    }
}

/// Says that the control plane runs on this node. A kubelet may not give itself such a label.
pub async fn label_control_plane(client: Client, node: &str) -> kube::Result<()> {
    let nodes: Api<Node> = Api::all(client);
    let labels = json!({ "node-role.kubernetes.io/control-plane": "" });
    let patch = Patch::Merge(json!({ "metadata": { "labels": labels } }));
    nodes.patch(node, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Takes over the fields that are given.
pub async fn apply(client: Client, plural: &str, object: &Value) -> kube::Result<()> {
    let params = PatchParams::apply("skiff").force();
    let name = text(object, "/metadata/name");
    api(client, plural, object).patch(name, &params, &Patch::Apply(object)).await?;
    Ok(())
}

/// Where an object of this kind and namespace is.
pub fn api(client: Client, plural: &str, object: &Value) -> Api<DynamicObject> {
    let (group, version) = text(object, "/apiVersion").rsplit_once('/').unwrap_or(("", "v1"));
    let kind = GroupVersionKind::gvk(group, version, text(object, "/kind"));
    let resource = ApiResource::from_gvk_with_plural(&kind, plural);
    match text(object, "/metadata/namespace") {
        "" => Api::all_with(client, &resource),
        namespace => Api::namespaced_with(client, namespace, &resource),
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

fn dns_role() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": "system:coredns" },
        "rules": [
            {
                "apiGroups": [""],
                "resources": ["services", "pods", "namespaces"],
                "verbs": ["list", "watch"],
            },
            {
                "apiGroups": ["discovery.k8s.io"],
                "resources": ["endpointslices"],
                "verbs": ["list", "watch"],
            },
        ],
    })
}

fn dns_role_binding() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": "system:coredns" },
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "system:coredns",
        },
        "subjects": [{ "kind": "ServiceAccount", "namespace": NAMESPACE, "name": "coredns" }],
    })
}

fn provisioner_role() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": PROVISIONER_ROLE },
        "rules": [
            {
                "apiGroups": [""],
                "resources": ["persistentvolumes"],
                "verbs": ["create", "delete", "get", "patch"],
            },
            { "apiGroups": [""], "resources": ["persistentvolumeclaims/status"], "verbs": ["patch"] },
            { "apiGroups": [""], "resources": ["nodes/proxy"], "verbs": ["update", "delete"] },
            { "apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"] },
        ],
    })
}

fn provisioner_role_binding() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": PROVISIONER_ROLE },
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": PROVISIONER_ROLE,
        },
        "subjects": [{
            "kind": "ServiceAccount",
            "namespace": NAMESPACE,
            "name": HOST_PATH_PROVISIONER_USER,
        }],
    })
}

fn storage_class() -> StorageClass {
    StorageClass {
        metadata: ObjectMeta {
            name: Some("standard".into()),
            annotations: Some(
                [("storageclass.kubernetes.io/is-default-class".into(), "true".into())].into(),
            ),
            ..ObjectMeta::default()
        },
        provisioner: HOST_PATH_PROVISIONER.into(),
        reclaim_policy: Some("Delete".into()),
        volume_binding_mode: Some("Immediate".into()),
        allow_volume_expansion: Some(true),
        ..StorageClass::default()
    }
}

fn dns_service(terms: &Terms) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kube-dns",
            "namespace": NAMESPACE,
            "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
            },
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": terms.cluster_dns,
            "clusterIPs": [terms.cluster_dns],
            "ports": ports(53),
        },
    })
}

fn dns_endpoints(terms: &Terms, address: SocketAddr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("kube-dns-{}", terms.node_name),
            "namespace": NAMESPACE,
            "labels": {
                "kubernetes.io/service-name": "kube-dns",
                "endpointslice.kubernetes.io/managed-by": "skiff",
            },
        },
        "addressType": "IPv4",
        "endpoints": [{
            "addresses": [address.ip()],
            "conditions": { "ready": true, "serving": true, "terminating": false },
            "nodeName": terms.node_name,
        }],
        "ports": ports(address.port()),
    })
}

fn ports(port: u16) -> Value {
    json!([
        { "name": "dns", "protocol": "UDP", "port": port },
        { "name": "dns-tcp", "protocol": "TCP", "port": port },
        { "name": "metrics", "protocol": "TCP", "port": dns_metrics::PORT },
    ])
}
