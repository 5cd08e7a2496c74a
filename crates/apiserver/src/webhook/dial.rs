//! One connection out: TCP, then TLS where it is asked for.
//!
//! [`Destination`] -> a stream, or a [`DialError`] in the words of Go's net and crypto/tls, which users of webhooks know by
//! heart. Invariant: connecting takes no longer than [`CONNECT_TIMEOUT`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Which address, and how to speak to who answers there.
pub struct Destination {
    pub host: String,
    pub port: u16,
    /// The name to be proved, and how; plain TCP without.
    pub tls: Option<(String, Arc<ClientConfig>)>,
}

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("dial tcp: lookup {0}: no such host")]
    NoSuchHost(String),
    #[error("dial tcp {address}: {reason}")]
    Connect { address: SocketAddr, reason: String },
    #[error("dial tcp {0}: i/o timeout")]
    Timeout(String),
    #[error("net/http: TLS handshake timeout")]
    HandshakeTimeout,
    #[error("{0}")]
    Tls(String),
    #[error("{0}")]
    Resolve(#[from] super::ResolveError),
}

pub async fn dial(destination: &Destination) -> Result<Box<dyn Io>, DialError> {
    let tcp = connect(&destination.host, destination.port).await?;
    let Some((name, config)) = &destination.tls else { return Ok(Box::new(tcp)) };
    let server = ServerName::try_from(name.trim_matches(['[', ']']).to_owned())
        .map_err(|error| DialError::Tls(error.to_string()))?;
    let handshake = TlsConnector::from(config.clone()).connect(server, tcp);
    let timed = tokio::time::timeout(CONNECT_TIMEOUT, handshake).await;
    match timed.map_err(|_| DialError::HandshakeTimeout)? {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(DialError::Tls(handshake_text(&error, name))),
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, DialError> {
    let host = host.trim_matches(['[', ']']);
    let no_such_host = || DialError::NoSuchHost(host.to_owned());
    let mut addresses: Vec<SocketAddr> =
        tokio::net::lookup_host((host, port)).await.map_err(|_| no_such_host())?.collect();
    // Upstream prefers the family that its own cluster speaks.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let mut last = no_such_host();
    for address in addresses {
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => {
                let _ = tcp.set_nodelay(true);
                return Ok(tcp);
            }
            Ok(Err(error)) => {
                last = DialError::Connect { address, reason: connect_text(&error) };
            }
            Err(_) => last = DialError::Timeout(address.to_string()),
        }
    }
    Err(last)
}

/// `connect: connection refused`, as the C library and Go say it.
fn connect_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    format!("connect: {}", text.to_lowercase())
}

fn handshake_text(error: &std::io::Error, wanted: &str) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(fault)) => {
            format!("tls: failed to verify certificate: x509: {}", certificate_text(fault, wanted))
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            "http: server gave HTTP response to HTTPS client".to_owned()
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("remote error: tls: {}", spaced(&format!("{alert:?}")))
        }
        Some(other) => format!("tls: {other}"),
        None if error.kind() == std::io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        None => error.to_string(),
    }
}

fn certificate_text(fault: &CertificateError, wanted: &str) -> String {
    match fault {
        CertificateError::UnknownIssuer => "certificate signed by unknown authority".to_owned(),
        CertificateError::NotValidForNameContext { presented, .. } => names_text(presented, wanted),
        CertificateError::ExpiredContext { time, not_after } => {
            let (now, end) = (rfc3339(time.as_secs()), rfc3339(not_after.as_secs()));
            format!(
                "certificate has expired or is not yet valid: current time {now} is after {end}"
            )
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let (now, start) = (rfc3339(time.as_secs()), rfc3339(not_before.as_secs()));
            format!(
                "certificate has expired or is not yet valid: current time {now} is before {start}"
            )
        }
        other => other.to_string(),
    }
}

/// What a certificate is good for, where that is not what was wanted.
fn names_text(presented: &[String], wanted: &str) -> String {
    let quoted = |kind: &str| -> Vec<String> {
        let own = presented.iter().filter_map(|name| name.strip_prefix(kind));
        own.map(|name| name.trim_matches(['(', ')', '"']).to_owned()).collect()
    };
    let (names, addresses) = (quoted("DnsName"), quoted("IpAddress"));
    if wanted.parse::<std::net::IpAddr>().is_ok() && addresses.is_empty() {
        return format!(
            "cannot validate certificate for {wanted} because it doesn't contain any IP SANs"
        );
    }
    let valid = if names.is_empty() { addresses } else { names };
    match valid.is_empty() {
        true => {
            format!("certificate is not valid for any names, but wanted to match {wanted}")
        }
        false => format!("certificate is valid for {}, not {wanted}", valid.join(", ")),
    }
}

fn rfc3339(seconds: u64) -> String {
    skiff_api::time::format(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// `BadCertificate` -> `bad certificate`.
fn spaced(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !out.is_empty() {
            out.push(' ');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_for_other_names_lists_them() {
        let presented = ["DnsName(\"a.n.svc\")".to_owned(), "DnsName(\"b\")".to_owned()];
        let text = names_text(&presented, "c.n.svc");
        assert_eq!(text, "certificate is valid for a.n.svc, b, not c.n.svc");
        let text = names_text(&presented, "10.0.0.1");
        assert_eq!(
            text,
            "cannot validate certificate for 10.0.0.1 because it doesn't contain any IP SANs"
        );
    }

    #[test]
    fn alerts_are_words() {
        assert_eq!(spaced("BadCertificate"), "bad certificate");
    }

    #[tokio::test]
    async fn a_closed_port_refuses() {
        let destination = Destination { host: "127.0.0.1".to_owned(), port: 1, tls: None };
        let error = dial(&destination).await.err().expect("nobody listens there");
        assert_eq!(error.to_string(), "dial tcp 127.0.0.1:1: connect: connection refused");
    }
}
