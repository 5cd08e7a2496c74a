//! Approved requests for the cluster's own signers become certificates.
//!
//! A request -> terms for whoever holds the CA's key -> the certificate, or the condition `Failed` if the signer issues no
//! such thing. Counterpart: `pkg/controller/certificates/signer`. Invariant: the key of the CA is not known here.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use super::request::{CLIENT, NODE_CLIENT, NODE_SERVING};
use super::{Asked, with_condition};
use crate::runtime::{Ctx, Error, Result};

/// What a certificate is to say beside what its request says.
#[derive(Clone, Debug)]
pub struct CertificateTerms {
    /// The request, DER encoded.
    pub request: Vec<u8>,
    /// In the words of the API: `client auth`, `digital signature`, ...
    pub usages: Vec<String>,
    pub lifetime: Duration,
}

/// Signs with the CA's key; PEM, or why not.
pub type CertificateSigner = Arc<dyn Fn(&CertificateTerms) -> Result<String, String> + Send + Sync>;

const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const SHORTEST: Duration = Duration::from_secs(10 * 60);

/// Whether nothing is left to do for now.
pub async fn run(ctx: &Ctx, request: &CertificateSigningRequest) -> Result<bool> {
    let spec = &request.spec;
    let Some(signer) = &ctx.config.certificate_signer else { return Ok(true) };
    if ![CLIENT, NODE_CLIENT, NODE_SERVING].contains(&spec.signer_name.as_str()) {
        return Ok(true);
    }
    let asked = Asked::read(request).map_err(Error::Invalid)?;
    let usages = spec.usages.clone().unwrap_or_default();
    if let Some(fault) = asked.fault(&spec.signer_name, &usages) {
        let failed =
            with_condition(request, "Failed", "SignerValidationFailure", &fault, ctx.now());
        ctx.update_status(&failed).await?;
        return Ok(true);
    }
    let terms = CertificateTerms {
        request: asked.der,
        usages,
        lifetime: lifetime(spec.expiration_seconds),
    };
    let pem = signer(&terms).map_err(Error::Invalid)?;
    let mut issued = request.clone();
    issued.status.get_or_insert_default().certificate = Some(ByteString(pem.into_bytes()));
    ctx.update_status(&issued).await?;
    Ok(true)
}

fn lifetime(asked: Option<i32>) -> Duration {
    let Some(seconds) = asked else { return LONGEST };
    let asked = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    asked.clamp(SHORTEST, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_between_ten_minutes_and_a_year() {
        assert_eq!(lifetime(None), LONGEST);
        assert_eq!(lifetime(Some(1)), SHORTEST);
        assert_eq!(lifetime(Some(3600)), Duration::from_secs(3600));
        assert_eq!(lifetime(Some(i32::MAX)), LONGEST);
    }
}
