//! Where a Service's pods can be reached: the pure part that EndpointSlice and Endpoints controllers share.
//!
//! A Service and a pod in -> whether the pod is an endpoint, with which address, port numbers and conditions.
//! Counterpart: `endpointslice/util` and `pkg/controller/util/endpoint`.
//! Invariant: both APIs are derived from the same answers, so they never disagree about a pod.

pub mod legacy;
pub mod mirroring;
mod slice_op;
pub mod slices;
mod trigger;

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pod;
use crate::runtime::{Caches, Ctx, Delta, Key};

pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const HEADLESS: &str = "service.kubernetes.io/headless";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    IPv4,
    IPv6,
}

/// One port of a Service with its number on a particular pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResolvedPort {
    pub name: Option<String>,
    pub port: i32,
    pub protocol: String,
    pub app_protocol: Option<String>,
}

// === impl Family ===

impl Family {
    pub fn of(address: &str) -> Option<Family> {
        match address.parse().ok()? {
            IpAddr::V4(_) => Some(Family::IPv4),
            IpAddr::V6(_) => Some(Family::IPv6),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Family::IPv4 => "IPv4",
            Family::IPv6 => "IPv6",
        }
    }
}

/// The pods a Service selects; none for a Service without selector or without endpoints of its own.
pub fn selected_pods(ctx: &Ctx, service: &Service) -> Vec<Arc<Pod>> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let mut pods = ctx.lister::<Pod>().in_namespace(namespace);
    pods.retain(|pod| selects(service, pod));
    pods
}

/// Services whose endpoints a change of a pod may change.
pub fn services_of_pod(caches: &Caches, delta: &Delta<Pod>) -> Vec<Key> {
    if let (Some(old), Some(new)) = (delta.old, delta.new)
        && !matters(old, new)
    {
        return Vec::new();
    }
    let namespace = delta.latest().metadata.namespace.as_deref().unwrap_or_default();
    let services = caches.store::<Service>().in_namespace(namespace);
    let concerned =
        services.iter().filter(|service| delta.sides().any(|pod| selects(service, pod)));
    concerned.map(|service| Key::of(service.as_ref())).collect()
}

/// Whether two versions of a pod differ in anything an endpoint shows.
fn matters(old: &Pod, new: &Pod) -> bool {
    let ips = |pod: &Pod| pod.status.as_ref().and_then(|status| status.pod_ips.clone());
    old.metadata.labels != new.metadata.labels
        || pod::is_ready(old) != pod::is_ready(new)
        || pod::is_terminal(old) != pod::is_terminal(new)
        || pod::is_terminating(old) != pod::is_terminating(new)
        || pod::node_name(old) != pod::node_name(new)
        || ips(old) != ips(new)
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(selector) = selector(service) else { return false };
    let labels = pod.metadata.labels.as_ref();
    selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// The selector of a Service that has endpoints made for it.
pub fn selector(service: &Service) -> Option<&std::collections::BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    let external = spec.type_.as_deref() == Some("ExternalName");
    spec.selector.as_ref().filter(|selector| !selector.is_empty() && !external)
}

/// The controller that a slice says keeps it.
fn manager(slice: &EndpointSlice) -> Option<&str> {
    slice.metadata.labels.as_ref()?.get(MANAGED_BY).map(String::as_str)
}

fn service_of_slice(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(Key::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}

/// The families endpoints are made for. A headless Service without an answer yet counts as IPv4.
pub fn families(service: &Service) -> Vec<Family> {
    let named = service.spec.iter().flat_map(|spec| spec.ip_families.iter().flatten());
    let families: Vec<Family> = named
        .filter_map(|name| {
            [Family::IPv4, Family::IPv6].into_iter().find(|family| family.name() == name)
        })
        .collect();
    if families.is_empty() { vec![Family::IPv4] } else { families }
}

/// The pod's address of a family.
pub fn address(pod: &Pod, family: Family) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(&status.pod_ip);
    all.into_iter().find(|ip| Family::of(ip) == Some(family)).cloned()
}

/// Finished pods have no endpoint, and neither have terminating ones that the Service does not want to see.
pub fn is_endpoint(pod: &Pod, include_terminating: bool) -> bool {
    !pod::is_terminal(pod) && (include_terminating || !pod::is_terminating(pod))
}

pub fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// Service ports as numbers on this pod; a named port that the pod lacks is left out.
pub fn resolve_ports(service: &Service, pod: &Pod) -> Vec<ResolvedPort> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let resolved = ports.filter_map(|port| {
        Some(ResolvedPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: port_number(port, pod)?,
            protocol: protocol(port).to_owned(),
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn port_number(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        None | Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => return Some(port.port),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars =
        sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten());
    let named = |candidate: &&k8s_openapi::api::core::v1::ContainerPort| {
        candidate.name.as_deref() == Some(name)
            && candidate.protocol.as_deref().unwrap_or("TCP") == protocol(port)
    };
    ports.into_iter().find(named).map(|found| found.container_port)
}

/// The pod's own DNS name below the Service: for pods that ask for it with `hostname` and this `subdomain`.
pub fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let below = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    spec.hostname.clone().filter(|hostname| below && !hostname.is_empty())
}

pub fn target_ref(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

pub fn owner(service: &Service) -> Option<OwnerReference> {
    let mut owner = kube::Resource::controller_owner_ref(service, &())?;
    owner.block_owner_deletion = Some(true);
    Some(owner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn named_ports_are_resolved_per_pod() {
        let service: Service = yaml(
            "spec: {ports: [{name: web, port: 80, targetPort: http}, {name: raw, port: 90}, {name: no, port: 1, targetPort: gone}]}",
        );
        let pod: Pod =
            yaml("{spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}}");
        let ports: Vec<i32> = resolve_ports(&service, &pod).iter().map(|port| port.port).collect();
        assert_eq!(ports, [8080, 90]);
    }

    #[test]
    fn addresses_by_family() {
        let pod: Pod =
            yaml("{status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}}");
        assert_eq!(address(&pod, Family::IPv6).as_deref(), Some("fd00::1"));
        assert_eq!(address(&pod, Family::IPv4).as_deref(), Some("10.0.0.1"));
        assert_eq!(address(&yaml("{}"), Family::IPv4), None);
    }
}
