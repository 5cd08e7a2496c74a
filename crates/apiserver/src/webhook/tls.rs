//! Whom to trust at the other end of a connection out, as rustls configurations.
//!
//! [`Trust`] and an identity to show -> a `rustls::ClientConfig`. Counterpart: `client-go/transport`'s TLS cache.
//! Differs from plain webpki as Go does: a certificate that is itself in the bundle is
//! trusted, self-signed or not; many webhooks are set up just so.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use crate::pki::Identity;
use crate::reply::BoxError;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Trust {
    /// The authorities the operating system trusts.
    System,
    /// PEM certificates.
    Bundle(Arc<[u8]>),
    /// Whatever is shown, as `insecureSkipTLSVerify` asks.
    Anything,
}

/// Where distributions keep their authorities.
const SYSTEM_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Built anew at each call: keep it as long as the connections it is for.
pub fn client_tls(trust: &Trust, identity: Option<&Identity>) -> Result<ClientConfig, BoxError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Anything => Arc::new(AnyCertificate(provider)),
        Trust::Bundle(pem) => bundle_verifier(pem, provider)?,
        Trust::System => bundle_verifier(&system_bundle(), provider)?,
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    Ok(match identity {
        Some(own) => builder.with_client_auth_cert(own.chain()?, own.key()?)?,
        None => builder.with_no_client_auth(),
    })
}

fn system_bundle() -> Vec<u8> {
    SYSTEM_BUNDLES.iter().find_map(|path| std::fs::read(Path::new(path)).ok()).unwrap_or_default()
}

fn bundle_verifier(
    pem: &[u8],
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, BoxError> {
    let certificates: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates.iter().cloned());
    if roots.is_empty() {
        return Ok(Arc::new(NoAuthority(provider)));
    }
    let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
    Ok(Arc::new(BundleVerifier { certificates, chains }))
}

/// Accepts what leads to a certificate of the bundle, or is one of them.
#[derive(Debug)]
struct BundleVerifier {
    certificates: Vec<CertificateDer<'static>>,
    chains: Arc<WebPkiServerVerifier>,
}

impl BundleVerifier {
    /// A certificate that is trusted by itself must still be in date and have the name.
    fn verify_member(
        &self,
        shown: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unreadable = || rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
        let (_, parsed) = x509_parser::parse_x509_certificate(shown).map_err(|_| unreadable())?;
        let at = |time: x509_parser::time::ASN1Time| {
            let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
            UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
        };
        let (not_before, not_after) =
            (at(parsed.validity().not_before), at(parsed.validity().not_after));
        if now < not_before {
            return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
        }
        if now > not_after {
            return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
        }
        verify_server_name(&ParsedCertificate::try_from(shown)?, name)?;
        Ok(ServerCertVerified::assertion())
    }
}

impl ServerCertVerifier for BundleVerifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.certificates.iter().any(|member| member == shown) {
            return self.verify_member(shown, name, now);
        }
        self.chains.verify_server_cert(shown, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Checks only that the other side holds the key of what it shows.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

/// An empty bundle trusts nobody.
#[derive(Debug)]
struct NoAuthority(Arc<CryptoProvider>);

/// Signatures are judged alike whoever is trusted.
macro_rules! verifier_by_signature {
    ($name:ident, $judge:expr) => {
        impl ServerCertVerifier for $name {
            fn verify_server_cert(
                &self,
                _: &CertificateDer<'_>,
                _: &[CertificateDer<'_>],
                _: &ServerName<'_>,
                _: &[u8],
                _: UnixTime,
            ) -> Result<ServerCertVerified, rustls::Error> {
                $judge
            }

            fn verify_tls12_signature(
                &self,
                message: &[u8],
                cert: &CertificateDer<'_>,
                signed: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, rustls::Error> {
                let known = &self.0.signature_verification_algorithms;
                rustls::crypto::verify_tls12_signature(message, cert, signed, known)
            }

            fn verify_tls13_signature(
                &self,
                message: &[u8],
                cert: &CertificateDer<'_>,
                signed: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, rustls::Error> {
                let known = &self.0.signature_verification_algorithms;
                rustls::crypto::verify_tls13_signature(message, cert, signed, known)
            }

            fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
                self.0.signature_verification_algorithms.supported_schemes()
            }
        }
    };
}

verifier_by_signature!(AnyCertificate, Ok(ServerCertVerified::assertion()));
verifier_by_signature!(NoAuthority, Err(CertificateError::UnknownIssuer.into()));
