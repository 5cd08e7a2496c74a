//! What one Service asks of this node's dataplane.
//!
//! A Service and its EndpointSlices come in, each parsed once into the few fields that matter; out comes an
//! [`Intent`]: every address and port where the Service answers, with the endpoints behind it.
//! Counterparts: pkg/proxy/serviceport.go, endpointslicecache.go and topology.go.
//!
//! Invariant: pure. The same inputs give the same intent, with endpoints in ascending order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use skiff_services::{Reader, ServiceKey};

use crate::nft::Protocol;

/// Another implementation serves a Service that carries this label.
const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// What the API server defaults `sessionAffinityConfig.clientIP.timeoutSeconds` to.
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;

/// Reads Services as the proxy of one node does.
pub struct Planner {
    pub node: String,
}

/// Where a packet for a Service arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    pub clients: Clients,
    /// Absent for a node port: any address of the node.
    pub address: Option<Ipv4Addr>,
    pub protocol: Protocol,
    pub port: u16,
}

/// Whose packets a frontend is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Clients {
    Any,
    /// Pods and this node, which reach every endpoint of a Service whose external traffic stays local.
    Cluster,
}

/// The address and port of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    pub address: Ipv4Addr,
    pub port: u16,
}

/// What becomes of a packet when there is no endpoint to send it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The Service has no endpoint anywhere: tell the client.
    Reject,
    /// The traffic policy is Local and the endpoints are elsewhere: another node may answer, so stay silent.
    Drop,
}

/// What is behind a frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    pub endpoints: BTreeSet<Destination>,
    /// For how many seconds a client keeps its endpoint.
    pub affinity: Option<u32>,
    /// The client's address is replaced by the node's, so that the reply comes back through it.
    pub masquerade: bool,
    pub refusal: Refusal,
}

/// Everything one Service asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Intent {
    pub frontends: BTreeMap<Frontend, Backend>,
    /// Addresses of endpoints on this node, which may call the Service and be answered by themselves.
    pub local_endpoints: BTreeSet<Ipv4Addr>,
}

/// The part of a Service that decides, one entry per port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceInfo {
    ports: Vec<ServicePortInfo>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ServicePortInfo {
    name: String,
    protocol: Protocol,
    /// Frontends inside the cluster, and those that face the outside.
    internal: Vec<Frontend>,
    external: Vec<Frontend>,
    internal_local: bool,
    external_local: bool,
    affinity: Option<u32>,
}

/// The part of an EndpointSlice that decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SliceInfo {
    ports: Vec<(String, Protocol, u16)>,
    endpoints: Vec<EndpointInfo>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct EndpointInfo {
    address: Ipv4Addr,
    local: bool,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Ready,
    /// Terminating but still serving: used only when nothing is ready.
    Draining,
}

// === parsing ===

impl Reader for Planner {
    type Service = ServiceInfo;
    type Slice = SliceInfo;
    type Made = Intent;

    fn service(&self, service: &Service) -> Option<ServiceInfo> {
        ServiceInfo::parse(service)
    }

    fn slice(&self, slice: &EndpointSlice) -> SliceInfo {
        SliceInfo::parse(slice, &self.node)
    }

    fn make<'a>(
        &self,
        _: &ServiceKey,
        service: &ServiceInfo,
        slices: impl Iterator<Item = &'a SliceInfo> + Clone,
    ) -> Intent {
        plan(service, slices)
    }
}

impl ServiceInfo {
    /// None for a Service that needs nothing here: headless, external, or another implementation's.
    pub fn parse(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let labels = service.metadata.labels.as_ref();
        let elsewhere = labels.is_some_and(|labels| labels.contains_key(SERVICE_PROXY_NAME));
        let cluster_ips = cluster_ips(spec);
        if elsewhere || cluster_ips.is_empty() || spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        let external_ips = external_ips(service, spec);
        let ports = spec.ports.iter().flatten();
        let ports = ports.filter_map(|port| parse_port(spec, port, &cluster_ips, &external_ips));
        Some(Self { ports: ports.collect() })
    }
}

fn parse_port(
    spec: &ServiceSpec,
    port: &ServicePort,
    cluster_ips: &[Ipv4Addr],
    external_ips: &[Ipv4Addr],
) -> Option<ServicePortInfo> {
    let protocol = Protocol::from_api(port.protocol.as_deref())?;
    let number = u16::try_from(port.port).ok()?;
    let at = |address: &Ipv4Addr| Frontend {
        clients: Clients::Any,
        address: Some(*address),
        protocol,
        port: number,
    };
    let node_port =
        port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    let node_port =
        node_port.map(|port| Frontend { clients: Clients::Any, address: None, protocol, port });
    Some(ServicePortInfo {
        name: port.name.clone().unwrap_or_default(),
        protocol,
        internal: cluster_ips.iter().map(at).collect(),
        external: external_ips.iter().map(at).chain(node_port).collect(),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        affinity: affinity(spec),
    })
}

fn cluster_ips(spec: &ServiceSpec) -> Vec<Ipv4Addr> {
    let listed = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    listed.filter_map(|ip| ip.parse().ok()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// External and load-balancer addresses that this node answers for.
fn external_ips(service: &Service, spec: &ServiceSpec) -> Vec<Ipv4Addr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    // A balancer in mode Proxy delivers to node ports and wants to see every packet itself.
    let ingress = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    let ingress = ingress.filter_map(|ingress| ingress.ip.as_ref());
    let restricted = spec.load_balancer_source_ranges.iter().flatten().next().is_some();
    if restricted {
        tracing::warn!(
            service = %ServiceKey::of_service(service).map(|key| key.to_string()).unwrap_or_default(),
            "loadBalancerSourceRanges is not supported: its load-balancer addresses are left closed"
        );
    }
    let ingress = ingress.filter(|_| !restricted);
    let listed = spec.external_ips.iter().flatten().chain(ingress);
    listed.filter_map(|ip| ip.parse().ok()).collect::<BTreeSet<_>>().into_iter().collect()
}

fn affinity(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds =
        config.and_then(|client| client.timeout_seconds).unwrap_or(DEFAULT_AFFINITY_SECONDS);
    u32::try_from(seconds).ok()
}

impl SliceInfo {
    /// An empty slice for an address family other than IPv4.
    pub fn parse(slice: &EndpointSlice, node: &str) -> Self {
        if slice.address_type != "IPv4" {
            return Self::default();
        }
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            let number = u16::try_from(port.port?).ok()?;
            Some((
                port.name.clone().unwrap_or_default(),
                Protocol::from_api(port.protocol.as_deref())?,
                number,
            ))
        });
        let endpoints = slice
            .endpoints
            .iter()
            .flatten()
            .filter_map(|endpoint| EndpointInfo::parse(endpoint, node));
        Self { ports: ports.collect(), endpoints: endpoints.collect() }
    }
}

impl EndpointInfo {
    fn parse(endpoint: &Endpoint, node: &str) -> Option<Self> {
        // The addresses of one endpoint are interchangeable; upstream uses the first.
        let address = endpoint.addresses.first()?.parse().ok()?;
        let local = endpoint.node_name.as_deref() == Some(node);
        Some(Self { address, local, phase: Phase::parse(endpoint)? })
    }
}

impl Phase {
    fn parse(endpoint: &Endpoint) -> Option<Self> {
        let conditions = endpoint.conditions.as_ref();
        let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
        let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
        let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
        match (ready, serving && terminating) {
            (true, _) => Some(Self::Ready),
            (false, true) => Some(Self::Draining),
            (false, false) => None,
        }
    }
}

// === planning ===

/// What a Service with these slices asks for.
pub fn plan<'a>(
    service: &ServiceInfo,
    slices: impl Iterator<Item = &'a SliceInfo> + Clone,
) -> Intent {
    let mut intent = Intent::default();
    for port in &service.ports {
        let endpoints = || slices.clone().flat_map(|slice| slice.endpoints_of(port));
        let everywhere = choose(endpoints());
        let here = choose(endpoints().filter(|(endpoint, _)| endpoint.local));
        intent.local_endpoints.extend(here.iter().map(|destination| destination.address));

        let backend = |local: bool, masquerade: bool| Backend {
            endpoints: if local { here.clone() } else { everywhere.clone() },
            affinity: port.affinity,
            masquerade,
            refusal: if local && !everywhere.is_empty() { Refusal::Drop } else { Refusal::Reject },
        };
        let internal =
            port.internal.iter().map(|frontend| (*frontend, backend(port.internal_local, false)));
        let external = port
            .external
            .iter()
            .map(|frontend| (*frontend, backend(port.external_local, !port.external_local)));
        let from_cluster =
            port.external.iter().filter(|_| port.external_local && here != everywhere).map(
                |frontend| {
                    (Frontend { clients: Clients::Cluster, ..*frontend }, backend(false, false))
                },
            );
        intent.frontends.extend(external.chain(from_cluster).chain(internal));
    }
    intent
}

impl SliceInfo {
    /// The slice's endpoints for a Service port: matched by name, since target ports are resolved in the slice.
    fn endpoints_of<'a>(
        &'a self,
        port: &ServicePortInfo,
    ) -> impl Iterator<Item = (&'a EndpointInfo, Destination)> {
        let found = self
            .ports
            .iter()
            .find(|(name, protocol, _)| (name, protocol) == (&port.name, &port.protocol));
        found.into_iter().flat_map(|(_, _, port)| {
            self.endpoints
                .iter()
                .map(|endpoint| (endpoint, Destination { address: endpoint.address, port: *port }))
        })
    }
}

/// The ready endpoints, or when there are none, those that are still serving while they terminate.
fn choose<'a>(
    endpoints: impl Iterator<Item = (&'a EndpointInfo, Destination)>,
) -> BTreeSet<Destination> {
    let (mut ready, mut draining) = (BTreeSet::new(), BTreeSet::new());
    for (endpoint, destination) in endpoints {
        match endpoint.phase {
            Phase::Ready => ready.insert(destination),
            Phase::Draining => draining.insert(destination),
        };
    }
    if ready.is_empty() { draining } else { ready }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLICE: &str = "
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}, {name: admin, port: 9090}]
endpoints:
- {addresses: [10.42.1.1], nodeName: here}
- {addresses: [10.42.2.1], nodeName: there, conditions: {ready: true}}
- {addresses: [10.42.2.2], nodeName: there, conditions: {ready: false}}
- {addresses: [10.42.2.3], nodeName: there, conditions: {ready: false, serving: true, terminating: true}}
";

    /// One line per frontend: where, how, and to which endpoints.
    fn frontends(spec: &str, slice: &str) -> Vec<String> {
        let service = format!("metadata: {{name: web, namespace: default}}\n{spec}");
        let service: Service = serde_saphyr::from_str(&service).unwrap();
        let slice: EndpointSlice = serde_saphyr::from_str(slice).unwrap();
        let Some(info) = ServiceInfo::parse(&service) else {
            return vec!["nothing".to_string()];
        };
        let slice = SliceInfo::parse(&slice, "here");
        let intent = plan(&info, std::iter::once(&slice));
        intent.frontends.iter().map(|(frontend, backend)| describe(frontend, backend)).collect()
    }

    fn describe(frontend: &Frontend, backend: &Backend) -> String {
        let address = frontend.address.map_or("node".to_string(), |address| address.to_string());
        let mut text = format!("{}/{address}:{}", frontend.protocol.as_str(), frontend.port);
        text += if frontend.clients == Clients::Cluster { " from cluster" } else { "" };
        text += if backend.masquerade { " masquerade" } else { "" };
        text += &backend.affinity.map_or(String::new(), |seconds| format!(" sticky {seconds}"));
        text += " ->";
        for endpoint in &backend.endpoints {
            text += &format!(" {}:{}", endpoint.address, endpoint.port);
        }
        if backend.endpoints.is_empty() {
            text += &format!(" {:?}", backend.refusal);
        }
        text
    }

    #[track_caller]
    fn check(spec: &str, expected: &[&str]) {
        assert_eq!(frontends(spec, SLICE), expected);
    }

    #[test]
    fn every_kind_of_frontend() {
        check(
            "
spec: {type: LoadBalancer, clusterIP: 10.96.0.9, externalIPs: [203.0.113.1], ports: [{name: http, port: 80, nodePort: 30080}]}
status: {loadBalancer: {ingress: [{ip: 203.0.113.2}, {ip: 203.0.113.3, ipMode: Proxy}, {hostname: lb.example}]}}",
            &[
                "TCP/node:30080 masquerade -> 10.42.1.1:8080 10.42.2.1:8080",
                "TCP/10.96.0.9:80 -> 10.42.1.1:8080 10.42.2.1:8080",
                "TCP/203.0.113.1:80 masquerade -> 10.42.1.1:8080 10.42.2.1:8080",
                "TCP/203.0.113.2:80 masquerade -> 10.42.1.1:8080 10.42.2.1:8080",
            ],
        );
    }

    #[test]
    fn local_policies_use_local_endpoints_and_keep_sources() {
        let spec = "
spec: {clusterIP: 10.96.0.9, externalTrafficPolicy: Local, ports: [{name: http, port: 80, nodePort: 30080}]}";
        check(
            spec,
            &[
                "TCP/node:30080 -> 10.42.1.1:8080",
                "TCP/10.96.0.9:80 -> 10.42.1.1:8080 10.42.2.1:8080",
                "TCP/node:30080 from cluster -> 10.42.1.1:8080 10.42.2.1:8080",
            ],
        );
        let spec = "spec: {clusterIP: 10.96.0.9, internalTrafficPolicy: Local, ports: [{name: http, port: 80}]}";
        check(spec, &["TCP/10.96.0.9:80 -> 10.42.1.1:8080"]);
        let elsewhere = SLICE.replace("nodeName: here", "nodeName: there");
        assert_eq!(frontends(spec, &elsewhere), ["TCP/10.96.0.9:80 -> Drop"]);
    }

    #[test]
    fn endpoints_that_drain_are_used_for_want_of_ready_ones() {
        let spec = "spec: {clusterIP: 10.96.0.9, ports: [{name: admin, port: 90}]}";
        let draining = SLICE
            .replace("ready: true", "ready: false")
            .replace(", nodeName: here", ", conditions: {ready: false}");
        assert_eq!(frontends(spec, &draining), ["TCP/10.96.0.9:90 -> 10.42.2.3:9090"]);
        let none = draining.replace("serving: true", "serving: false");
        assert_eq!(frontends(spec, &none), ["TCP/10.96.0.9:90 -> Reject"]);
    }

    #[test]
    fn ports_are_matched_by_name_and_protocol() {
        let spec = "spec: {clusterIP: 10.96.0.9, ports: [{name: http, port: 80, protocol: UDP}, {name: other, port: 81}]}";
        check(spec, &["TCP/10.96.0.9:81 -> Reject", "UDP/10.96.0.9:80 -> Reject"]);
    }

    #[test]
    fn affinity_has_a_default_timeout() {
        let spec = "spec: {clusterIP: 10.96.0.9, sessionAffinity: ClientIP, ports: [{name: admin, port: 90}]}";
        check(spec, &["TCP/10.96.0.9:90 sticky 10800 -> 10.42.1.1:9090 10.42.2.1:9090"]);
    }

    #[test]
    fn services_that_need_nothing_here() {
        check("spec: {clusterIP: None, ports: [{name: http, port: 80}]}", &["nothing"]);
        check("spec: {type: ExternalName, externalName: example.com}", &["nothing"]);
        let restricted = "
spec: {clusterIP: 10.96.0.9, loadBalancerSourceRanges: [198.51.100.0/24], ports: [{name: admin, port: 90}]}
status: {loadBalancer: {ingress: [{ip: 203.0.113.2}]}}";
        check(restricted, &["TCP/10.96.0.9:90 -> 10.42.1.1:9090 10.42.2.1:9090"]);
    }
}
