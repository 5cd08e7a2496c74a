//! How the kubelet proves who it is, and whose certificates it believes: from the cluster's keys.
//!
//! The certificate is looked at again now and then while connections come in, and replaced before it ends.
//! Counterpart: the kubelet's `--rotate-server-certificates`.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use skiff_apiserver::{ApiServer, Leaf};
use skiff_kubelet::ServingConfig;

use super::Result;

/// How often the certificate is looked at, at most.
const LOOK: Duration = Duration::from_secs(3600);

pub fn kubelet(api: &ApiServer, node: &str, address: IpAddr) -> Result<ServingConfig> {
    let leaf = Leaf::kubelet_serving(node, vec![address]);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(api.pki().ca_pem().as_bytes()) {
        roots.add(certificate?)?;
    }
    let current = Mutex::new((Instant::now(), certified(api, &leaf)?));
    Ok(ServingConfig {
        certificate: Arc::new(Renewed { api: api.clone(), leaf, current }),
        client_ca: Arc::new(roots),
    })
}

/// A certificate that is never shown past its time.
struct Renewed {
    api: ApiServer,
    leaf: Leaf,
    current: Mutex<(Instant, Arc<CertifiedKey>)>,
}

impl std::fmt::Debug for Renewed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Renewed({})", self.leaf.file)
    }
}

impl ResolvesServerCert for Renewed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0.elapsed() > LOOK {
            match certified(&self.api, &self.leaf) {
                Ok(fresh) => *current = (Instant::now(), fresh),
                Err(error) => tracing::warn!(%error, "the kubelet's certificate cannot be renewed"),
            }
        }
        Some(current.1.clone())
    }
}

fn certified(api: &ApiServer, leaf: &Leaf) -> Result<Arc<CertifiedKey>> {
    let identity = api.pki().identity(leaf)?;
    let key = any_supported_type(&identity.key()?)?;
    Ok(Arc::new(CertifiedKey::new(identity.chain()?, key)))
}
