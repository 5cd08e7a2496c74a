//! Whom a registry's host has to be, to be believed.
//!
//! Consumes the TLS part of a host's configuration, emits a client configuration. Counterpart: Go's
//! `crypto/tls` as containerd sets it up.
//! A certificate that signs itself and is configured as the authority is believed for the names and
//! the time it states, as in Go: that is what most private registries have.

use std::{
    fmt,
    path::Path,
    sync::{Arc, OnceLock},
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

use super::{config::TlsConfig, error::RegistryError};

pub(super) fn client_config(tls: &TlsConfig) -> Result<ClientConfig, RegistryError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3");
    let verifier = Verifier::new(tls, provider)?;
    let trusting = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    match (&tls.cert_file, &tls.key_file) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, error))?;
            trusting.with_client_auth_cert(chain, key).map_err(|error| bad(certificate, error))
        }
        _ => Ok(trusting.with_no_client_auth()),
    }
}

/// The machine's authorities; read once.
fn system_roots() -> RootCertStore {
    static SYSTEM: OnceLock<RootCertStore> = OnceLock::new();
    let read = || {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "cannot read an authority of this machine");
        }
        roots.add_parsable_certificates(found.certs);
        roots
    };
    SYSTEM.get_or_init(read).clone()
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let read = CertificateDer::pem_file_iter(file).map_err(|error| bad(file, error))?;
    let found: Result<Vec<_>, _> = read.collect();
    match found {
        Ok(found) if found.is_empty() => Err(bad(file, "it holds no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(bad(file, error)),
    }
}

fn bad(path: &Path, reason: impl fmt::Display) -> RegistryError {
    RegistryError::Config { path: path.to_owned(), reason: reason.to_string() }
}

// === Verifier ===

#[derive(Debug)]
struct Verifier {
    /// `None` believes anybody: what `insecure_skip_verify` asks for.
    chains: Option<Arc<WebPkiServerVerifier>>,
    /// Certificates configured as authorities.
    configured: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(tls: &TlsConfig, provider: Arc<CryptoProvider>) -> Result<Self, RegistryError> {
        if tls.insecure_skip_verify {
            return Ok(Verifier { chains: None, configured: Vec::new(), provider });
        }
        let mut roots = system_roots();
        let mut configured = Vec::new();
        if let Some(file) = &tls.ca_file {
            configured = certificates(file)?;
            roots.add_parsable_certificates(configured.clone());
        }
        if roots.is_empty() {
            // A chain verifier without any root does not exist.
            return Err(RegistryError::NoAuthority);
        }
        let built =
            WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone()).build();
        let chains = built.expect("there are roots, and no revocation lists");
        Ok(Verifier { chains: Some(chains), configured, provider })
    }

    /// A configured certificate of the host itself: its time and names are all there is to check.
    fn verify_itself(
        &self,
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let other = |error: x509_parser::nom::Err<x509_parser::error::X509Error>| {
            CertificateError::Other(OtherError(Arc::new(error)))
        };
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(other)?;
        let (validity, now) = (parsed.validity(), i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        if now < validity.not_before.timestamp() {
            return Err(CertificateError::NotValidYet.into());
        }
        if now > validity.not_after.timestamp() {
            return Err(CertificateError::Expired.into());
        }
        verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        Ok(ServerCertVerified::assertion())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chains) = &self.chains else { return Ok(ServerCertVerified::assertion()) };
        let verdict = chains.verify_server_cert(certificate, intermediates, name, ocsp, now);
        match verdict.is_err() && self.configured.iter().any(|one| one == certificate) {
            true => self.verify_itself(certificate, name, now),
            false => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A verifier that is configured with a certificate for `registry.test` that signs itself.
    fn configured() -> (Verifier, CertificateDer<'static>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["registry.test".to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let file = std::env::temp_dir().join(format!("skiff-trust-{}.pem", std::process::id()));
        std::fs::write(&file, certificate.pem()).unwrap();
        let tls = TlsConfig { ca_file: Some(file.clone()), ..TlsConfig::default() };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = Verifier::new(&tls, provider).unwrap();
        std::fs::remove_file(file).unwrap();
        (verifier, certificate.der().clone())
    }

    #[test]
    fn a_configured_certificate_that_signs_itself_was_refused() {
        let (verifier, certificate) = configured();
        let verify = |certificate: &CertificateDer<'_>, name: &str, now| {
            let name = ServerName::try_from(name.to_owned()).unwrap();
            verifier.verify_server_cert(certificate, &[], &name, &[], now)
        };
        verify(&certificate, "registry.test", UnixTime::now()).unwrap();
        let other_name = verify(&certificate, "other.test", UnixTime::now());
        assert!(other_name.is_err(), "{other_name:?}");
        let long_ago = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1));
        assert!(verify(&certificate, "registry.test", long_ago).is_err());
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["registry.test".to_owned()]).unwrap();
        let stranger = params.self_signed(&key).unwrap();
        assert!(verify(stranger.der(), "registry.test", UnixTime::now()).is_err());
    }
}
