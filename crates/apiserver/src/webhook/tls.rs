//! Whom to trust at the other end of a connection out, as rustls configurations.
//!
//! [`Trust`] and an identity to show -> a `rustls::ClientConfig`. Counterpart: `client-go/transport`'s TLS cache.
//! Differs from plain webpki as Go does: a certificate that is itself in the bundle is
//! trusted, self-signed or not; many webhooks are set up just so.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
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
    let known = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let accepts = match trust {
        Trust::Anything => Accepts::Anything,
        Trust::Bundle(pem) => Accepts::bundle(pem, provider)?,
        Trust::System => Accepts::bundle(&system_bundle(), provider)?,
    };
    let verifier = Arc::new(Verifier { accepts, known });
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    Ok(match identity {
        Some(own) => builder.with_client_auth_cert(own.chain()?, own.key()?)?,
        None => builder.with_no_client_auth(),
    })
}

fn system_bundle() -> Vec<u8> {
    SYSTEM_BUNDLES.iter().find_map(|path| std::fs::read(Path::new(path)).ok()).unwrap_or_default()
}

/// Signatures are judged alike whoever is trusted: the other side must hold the key of what it shows.
#[derive(Debug)]
struct Verifier {
    accepts: Accepts,
    known: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Accepts {
    Anything,
    /// A bundle without a certificate trusts nobody.
    Nothing,
    /// What leads to a certificate of the bundle, or is one of them.
    Bundle {
        members: Vec<CertificateDer<'static>>,
        chains: Arc<WebPkiServerVerifier>,
    },
}

// === impl Accepts ===

impl Accepts {
    fn bundle(pem: &[u8], provider: Arc<CryptoProvider>) -> Result<Accepts, BoxError> {
        let members: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(members.iter().cloned());
        if roots.is_empty() {
            return Ok(Accepts::Nothing);
        }
        let chains =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        Ok(Accepts::Bundle { members, chains })
    }
}

// === impl Verifier ===

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.accepts {
            Accepts::Anything => Ok(ServerCertVerified::assertion()),
            Accepts::Nothing => Err(CertificateError::UnknownIssuer.into()),
            Accepts::Bundle { members, .. } if members.iter().any(|member| member == shown) => {
                verify_member(shown, name, now)
            }
            Accepts::Bundle { chains, .. } => {
                chains.verify_server_cert(shown, intermediates, name, ocsp, now)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.known.supported_schemes()
    }
}

/// A certificate that is trusted by itself must still be in date and have the name.
fn verify_member(
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
