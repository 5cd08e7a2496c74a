//! The certificates.k8s.io group.

mod certificate_signing_request;

use std::sync::Arc;

use crate::kind::Strategy;

pub(super) fn strategy(kind: &str) -> Option<Arc<dyn Strategy>> {
    Some(match kind {
        "CertificateSigningRequest" => {
            Arc::new(certificate_signing_request::CertificateSigningRequest)
        }
        _ => return None,
    })
}
