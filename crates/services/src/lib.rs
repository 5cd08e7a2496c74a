//! Services with their EndpointSlices, kept by watch for what serves them: a node's service proxy, the cluster's DNS.
//!
//! [`changes`] follows the API server; a [`Catalog`] keeps what its [`Reader`] reads in the objects, and says for which Services
//! that is another than before. Counterparts: `pkg/proxy/servicechangetracker.go` and `endpointschangetracker.go`.
//! Invariant: knows neither the kernel nor DNS.

mod catalog;
mod mirror;
mod watch;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

pub use catalog::{Catalog, Reader};
pub use watch::{Change, changes};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Namespace and name of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    pub namespace: String,
    pub name: String,
}

// === impl ServiceKey ===

impl ServiceKey {
    pub fn of_service(service: &Service) -> Option<ServiceKey> {
        let (namespace, name) =
            (service.metadata.namespace.clone()?, service.metadata.name.clone()?);
        Some(ServiceKey { namespace, name })
    }

    /// The Service that a slice belongs to.
    pub fn of_slice(slice: &EndpointSlice) -> Option<ServiceKey> {
        let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
        Some(ServiceKey { namespace: slice.metadata.namespace.clone()?, name: name.clone() })
    }
}

impl std::fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
