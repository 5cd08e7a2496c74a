//! The objects that tell users and charts of what lives in this process: Service `kube-dns` and
//! where it is answered.
//!
//! Applied by server-side apply at every start, so that an upgrade brings them up to date.

use std::net::SocketAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::terms::Terms;

const NAMESPACE: &str = "kube-system";

/// Makes DNS at `address` the one that pods ask.
pub async fn apply_dns(client: Client, terms: &Terms, address: SocketAddr) -> kube::Result<()> {
    let params = PatchParams::apply("skiff").force();
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let ports = |key: &str, port: u16| {
        json!([
            { "name": "dns", "protocol": "UDP", key: port },
            { "name": "dns-tcp", "protocol": "TCP", key: port },
        ])
    };
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kube-dns",
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
            "ports": ports("port", 53),
        },
    });
    services.patch("kube-dns", &params, &Patch::Apply(service)).await?;
    let slices: Api<EndpointSlice> = Api::namespaced(client, NAMESPACE);
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("kube-dns-{}", terms.node_name),
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
        "ports": ports("port", address.port()),
    });
    slices.patch(&format!("kube-dns-{}", terms.node_name), &params, &Patch::Apply(slice)).await?;
    Ok(())
}
