//! How the kubelet proves who it is, and whose certificates it believes: from the cluster's keys.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use skiff_apiserver::{Leaf, Pki};
use skiff_kubelet::ServingConfig;

use super::Result;

pub fn kubelet(pki: &Pki, node: &str, address: IpAddr) -> Result<ServingConfig> {
    let identity = pki.identity(&Leaf::kubelet_serving(node, vec![address]))?;
    let key = any_supported_type(&identity.key()?)?;
    let certified = CertifiedKey::new(identity.chain()?, key);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pki.ca_pem().as_bytes()) {
        roots.add(certificate?)?;
    }
    Ok(ServingConfig {
        certificate: Arc::new(SingleCertAndKey::from(certified)),
        client_ca: Arc::new(roots),
    })
}
