//! Certificates for requests that somebody else made: what the controller behind CertificateSigningRequests asks for.
//!
//! A request's public key and names + terms -> a certificate of the cluster's CA. Counterpart:
//! `pkg/controller/certificates/authority`. Invariant: a certificate never outlives its CA, and is never one itself.

use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose as Purpose, IsCa,
    KeyUsagePurpose as Usage,
};
use rustls::pki_types::CertificateSigningRequestDer;
use time::Duration;

use super::{Pki, PkiError};

/// Clocks that run behind are forgiven so much.
const BACKDATED: Duration = Duration::minutes(5);

const KEY_USAGES: &[(&str, Usage)] = &[
    ("cert sign", Usage::KeyCertSign),
    ("content commitment", Usage::ContentCommitment),
    ("crl sign", Usage::CrlSign),
    ("data encipherment", Usage::DataEncipherment),
    ("decipher only", Usage::DecipherOnly),
    ("digital signature", Usage::DigitalSignature),
    ("encipher only", Usage::EncipherOnly),
    ("key agreement", Usage::KeyAgreement),
    ("key encipherment", Usage::KeyEncipherment),
    ("signing", Usage::DigitalSignature),
];

const PURPOSES: &[(&str, Purpose)] = &[
    ("any", Purpose::Any),
    ("client auth", Purpose::ClientAuth),
    ("code signing", Purpose::CodeSigning),
    ("email protection", Purpose::EmailProtection),
    ("ocsp signing", Purpose::OcspSigning),
    ("server auth", Purpose::ServerAuth),
    ("timestamping", Purpose::TimeStamping),
];

impl Pki {
    /// A certificate for a DER-encoded request, as PEM. `usages` are in the words of the API.
    pub fn sign_request(
        &self,
        request: &[u8],
        usages: &[String],
        lifetime: std::time::Duration,
    ) -> Result<String, PkiError> {
        let failed = |source| PkiError::Issue { name: "request".to_owned(), source };
        let der = CertificateSigningRequestDer::from(request);
        let mut request = CertificateSigningRequestParams::from_der(&der).map_err(failed)?;
        let params = &mut request.params;
        let now = self.now();
        params.not_before = now - BACKDATED;
        params.not_after = (now + lifetime - BACKDATED).min(self.ca.not_after);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = chosen(KEY_USAGES, usages);
        params.extended_key_usages = chosen(PURPOSES, usages);
        params.use_authority_key_identifier_extension = true;
        Ok(request.signed_by(&self.ca.issuer).map_err(failed)?.pem())
    }
}

fn chosen<T: Clone + PartialEq>(known: &[(&str, T)], wanted: &[String]) -> Vec<T> {
    let mut found: Vec<T> = Vec::new();
    for (name, usage) in known {
        if wanted.iter().any(|one| one == name) && !found.contains(usage) {
            found.push(usage.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn a_request_becomes_a_certificate_of_its_key_and_no_authority() {
        let dir = std::env::temp_dir().join(format!("skiff-sign-{}", uuid::Uuid::new_v4()));
        let pki = Pki::open(&dir).expect("made");
        let key = KeyPair::generate().expect("made");
        let mut asked = CertificateParams::new(vec!["one.test".to_owned()]).expect("a name");
        asked.distinguished_name.push(DnType::CommonName, "system:node:one");
        let request = asked.serialize_request(&key).expect("a request");
        let usages: Vec<String> = ["digital signature", "client auth"].map(str::to_owned).to_vec();
        let century = std::time::Duration::from_secs(100 * 365 * 24 * 60 * 60);
        let pem = pki.sign_request(request.der(), &usages, century).expect("signed");
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        let (_, cert) = x509_parser::parse_x509_certificate(&der).expect("a certificate");
        assert!(!cert.is_ca());
        assert_eq!(cert.validity().not_after.to_datetime(), pki.ca.not_after);
        let purposes = cert.extended_key_usage().expect("readable").expect("there").value;
        assert!(purposes.client_auth && !purposes.server_auth);
        let ca = CertificateDer::from_pem_slice(pki.ca_pem().as_bytes()).expect("PEM");
        let (_, ca) = x509_parser::parse_x509_certificate(&ca).expect("a certificate");
        assert_eq!(cert.issuer(), ca.subject());
        assert!(pki.sign_request(b"no request", &usages, century).is_err());
        std::fs::remove_dir_all(&dir).expect("ours to remove");
    }
}
