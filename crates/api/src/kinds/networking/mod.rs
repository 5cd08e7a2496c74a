//! The networking.k8s.io group.

mod ingress;
mod ingress_class;
mod ip_address;
mod network_policy;
mod service_cidr;

use std::sync::Arc;

use crate::kind::Strategy;

pub(super) fn strategy(kind: &str) -> Option<Arc<dyn Strategy>> {
    Some(match kind {
        "Ingress" => Arc::new(ingress::Ingress),
        "IngressClass" => Arc::new(ingress_class::IngressClass),
        "IPAddress" => Arc::new(ip_address::IPAddress),
        "NetworkPolicy" => Arc::new(network_policy::NetworkPolicy),
        "ServiceCIDR" => Arc::new(service_cidr::ServiceCIDR),
        _ => return None,
    })
}
