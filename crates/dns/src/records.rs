//! The records of one Service.
//!
//! A Service and its EndpointSlices come in, each parsed once; owner names with their data come out, including the
//! reverse names of its addresses. Counterpart: findServices in plugin/kubernetes of CoreDNS.
//!
//! Invariant: pure, and without duplicates.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SRV};
use hickory_proto::rr::{LowerName, Name, RData};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use skiff_services::{Reader, ServiceKey};

/// Reads Services as the records of a cluster domain.
pub struct Recorder {
    pub zone: Name,
}

/// The part of a Service that has records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceInfo {
    /// Reached by its own addresses.
    Addressed { addresses: Vec<IpAddr>, ports: Vec<PortInfo> },
    /// Reached by its endpoints' addresses.
    Headless { publish_not_ready: bool },
    /// Another name for something outside.
    External { target: Name },
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortInfo {
    name: String,
    protocol: String,
    number: u16,
}

/// The part of an EndpointSlice that has records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceInfo {
    ports: Vec<PortInfo>,
    endpoints: Vec<EndpointInfo>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct EndpointInfo {
    /// Its label below the Service's name.
    label: String,
    address: IpAddr,
    ready: bool,
}

/// An owner name and one of its records.
pub type Entry = (LowerName, RData);

// === parsing ===

impl Reader for Recorder {
    type Service = ServiceInfo;
    type Slice = SliceInfo;
    type Made = Vec<Entry>;

    fn service(&self, service: &Service) -> Option<ServiceInfo> {
        ServiceInfo::parse(service)
    }

    fn slice(&self, slice: &EndpointSlice) -> SliceInfo {
        SliceInfo::parse(slice)
    }

    fn make<'a>(
        &self,
        key: &ServiceKey,
        service: &ServiceInfo,
        slices: impl Iterator<Item = &'a SliceInfo> + Clone,
    ) -> Vec<Entry> {
        records(key, service, slices, &self.zone)
    }
}

impl ServiceInfo {
    pub fn parse(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            let mut target = Name::from_ascii(spec.external_name.as_deref()?).ok()?;
            target.set_fqdn(true);
            return Some(Self::External { target });
        }
        if spec.cluster_ip.as_deref() == Some("None") {
            return Some(Self::Headless {
                publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
            });
        }
        let listed = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        let addresses: BTreeSet<_> = listed.filter_map(|ip| ip.parse().ok()).collect();
        let ports = spec.ports.iter().flatten().filter_map(PortInfo::of_service).collect();
        (!addresses.is_empty())
            .then(|| Self::Addressed { addresses: addresses.into_iter().collect(), ports })
    }
}

impl PortInfo {
    fn of_service(port: &ServicePort) -> Option<Self> {
        Self::parse(port.name.as_deref(), port.protocol.as_deref(), port.port)
    }

    /// None for a port without a name, which has no SRV record.
    fn parse(name: Option<&str>, protocol: Option<&str>, number: i32) -> Option<Self> {
        let name = name.filter(|name| !name.is_empty())?.to_string();
        let protocol = protocol.unwrap_or("TCP").to_ascii_lowercase();
        Some(Self { name, protocol, number: u16::try_from(number).ok()? })
    }
}

impl SliceInfo {
    pub fn parse(slice: &EndpointSlice) -> Self {
        let ports = slice.ports.iter().flatten();
        let ports = ports.filter_map(|port| {
            PortInfo::parse(port.name.as_deref(), port.protocol.as_deref(), port.port?)
        });
        let endpoints = slice.endpoints.iter().flatten().flat_map(EndpointInfo::parse);
        Self { ports: ports.collect(), endpoints: endpoints.collect() }
    }
}

impl EndpointInfo {
    fn parse(endpoint: &Endpoint) -> impl Iterator<Item = Self> {
        let ready =
            endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
        let addresses = endpoint.addresses.iter().filter_map(|address| address.parse().ok());
        addresses.map(move |address: IpAddr| {
            let label = endpoint.hostname.clone().filter(|hostname| !hostname.is_empty());
            Self { label: label.unwrap_or_else(|| dashed(address)), address, ready }
        })
    }
}

/// The label of an endpoint without a hostname.
fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

// === records ===

/// Everything that is answered because of this Service. `zone` is the cluster domain.
pub fn records<'a>(
    key: &ServiceKey,
    service: &ServiceInfo,
    slices: impl Iterator<Item = &'a SliceInfo> + Clone,
    zone: &Name,
) -> Vec<Entry> {
    let Some(name) = child(&[&key.name, &key.namespace, "svc"], zone) else {
        return Vec::new();
    };
    match service {
        ServiceInfo::External { target } => {
            vec![(LowerName::new(&name), RData::CNAME(CNAME(target.clone())))]
        }
        ServiceInfo::Addressed { addresses, ports } => {
            let mut entries = of_addresses(&name, addresses, ports);
            entries.extend(of_endpoints(&name, slices, false));
            entries
        }
        ServiceInfo::Headless { publish_not_ready } => {
            let mut entries = of_endpoints(&name, slices.clone(), *publish_not_ready);
            entries.extend(of_headless(&name, slices, *publish_not_ready));
            entries
        }
    }
}

fn of_addresses(name: &Name, addresses: &[IpAddr], ports: &[PortInfo]) -> Vec<Entry> {
    let own = addresses.iter().map(|address| (LowerName::new(name), address_data(*address)));
    let reverse = addresses.iter().map(|address| pointer(*address, name));
    let services = ports.iter().filter_map(|port| {
        let owner = child(&[&format!("_{}", port.name), &format!("_{}", port.protocol)], name)?;
        Some((LowerName::new(&owner), RData::SRV(SRV::new(0, 100, port.number, name.clone()))))
    });
    own.chain(reverse).chain(services).collect()
}

/// Each endpoint's own name, and its address's reverse.
fn of_endpoints<'a>(
    name: &Name,
    slices: impl Iterator<Item = &'a SliceInfo>,
    unready: bool,
) -> Vec<Entry> {
    let endpoints: BTreeSet<_> = slices.flat_map(|slice| slice.serving(unready)).collect();
    let entries = endpoints.into_iter().filter_map(|endpoint| {
        let owner = child(&[&endpoint.label], name)?;
        Some([
            (LowerName::new(&owner), address_data(endpoint.address)),
            pointer(endpoint.address, &owner),
        ])
    });
    entries.flatten().collect()
}

/// What a headless Service answers under its own name: all endpoints, and a SRV record for each of their named ports.
fn of_headless<'a>(
    name: &Name,
    slices: impl Iterator<Item = &'a SliceInfo> + Clone,
    unready: bool,
) -> Vec<Entry> {
    let addresses: BTreeSet<_> = slices
        .clone()
        .flat_map(|slice| slice.serving(unready))
        .map(|endpoint| endpoint.address)
        .collect();
    let targets: BTreeSet<_> = slices
        .flat_map(|slice| {
            slice
                .serving(unready)
                .flat_map(|e| slice.ports.iter().map(move |port| (port, &e.label)))
        })
        .collect();
    let weight = |port: &PortInfo| {
        100 / targets.iter().filter(|(other, _)| *other == port).count().clamp(1, 100) as u16
    };
    let services = targets.iter().filter_map(|(port, label)| {
        let owner = child(&[&format!("_{}", port.name), &format!("_{}", port.protocol)], name)?;
        let target = child(&[label], name)?;
        Some((LowerName::new(&owner), RData::SRV(SRV::new(0, weight(port), port.number, target))))
    });
    let own = addresses.into_iter().map(|address| (LowerName::new(name), address_data(address)));
    own.chain(services).collect()
}

impl SliceInfo {
    fn serving(&self, unready: bool) -> impl Iterator<Item = &EndpointInfo> {
        self.endpoints.iter().filter(move |endpoint| endpoint.ready || unready)
    }
}

pub fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

fn pointer(address: IpAddr, name: &Name) -> Entry {
    (LowerName::new(&Name::from(address)), RData::PTR(PTR(name.clone())))
}

/// `labels` below `parent`; None when that is no domain name.
pub fn child(labels: &[&str], parent: &Name) -> Option<Name> {
    Name::from_labels(labels.iter().map(|label| label.as_bytes())).ok()?.append_domain(parent).ok()
}
