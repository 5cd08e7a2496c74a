//! HTTP probes and hooks: one request over its own connection, certificates unverified as upstream.
//!
//! Counterpart: `pkg/probe/http`. Invariant: any answer from 200 to 399 is a success; no more than 10 KB of a body is
//! read.

use std::{sync::Arc, time::Duration};

use ::http::{HeaderName, HeaderValue, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::{attempt::tcp, port};

const MAX_BODY: usize = 10 * 1024;
const MAX_REDIRECTS: usize = 10;

#[derive(Debug, Clone)]
pub struct Request {
    host: String,
    port: u16,
    tls: bool,
    path: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

// === impl Request ===

impl Request {
    /// `host` is used unless the action names one.
    pub fn resolve(
        action: &HTTPGetAction,
        container: &Container,
        host: String,
    ) -> Result<Self, String> {
        let mut headers = Vec::new();
        for h in action.http_headers.iter().flatten() {
            let name = HeaderName::from_bytes(h.name.as_bytes()).map_err(|e| e.to_string())?;
            headers.push((name, HeaderValue::from_str(&h.value).map_err(|e| e.to_string())?));
        }
        let path = action.path.as_deref().unwrap_or("/");
        Ok(Request {
            host: action.host.clone().filter(|h| !h.is_empty()).unwrap_or(host),
            port: port::resolve(&action.port, container)?,
            tls: action.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("HTTPS")),
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            headers,
        })
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    fn url(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.path)
    }

    fn build(&self) -> Result<::http::Request<Empty<Bytes>>, String> {
        let mut request =
            ::http::Request::get(&self.path).body(Empty::new()).map_err(|e| e.to_string())?;
        let headers = request.headers_mut();
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        let defaults = [
            (header::HOST, self.authority()),
            (header::USER_AGENT, "kube-probe/1.36".into()),
            (header::ACCEPT, "*/*".into()),
        ];
        for (name, value) in defaults {
            let value = HeaderValue::from_str(&value).map_err(|e| e.to_string())?;
            headers.entry(name).or_insert(value);
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        Ok(request)
    }

    /// Where a redirect on the same host leads; elsewhere is not followed.
    fn redirected(&self, location: &str) -> Option<Request> {
        let uri: Uri = location.parse().ok()?;
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        match uri.host() {
            None => Some(Request { path, ..self.clone() }),
            Some(host) if host == self.host => {
                let tls = uri.scheme_str() == Some("https");
                let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
                Some(Request { path, tls, port, ..self.clone() })
            }
            Some(_) => None,
        }
    }
}

/// Asks; the error is what the event shows.
pub async fn get(request: &Request, timeout: Duration) -> Result<String, String> {
    let mut current = request.clone();
    let follow = async {
        for _ in 0..=MAX_REDIRECTS {
            let (status, location, body) = once(&current, timeout).await?;
            match location.and_then(|l| current.redirected(&l)) {
                Some(next) if status.is_redirection() => current = next,
                _ if status.is_success() || status.is_redirection() => return Ok(body),
                _ => return Err(format!("HTTP probe failed with statuscode: {}", status.as_u16())),
            }
        }
        Err(format!("stopped after {MAX_REDIRECTS} redirects"))
    };
    match tokio::time::timeout(timeout, follow).await {
        Ok(result) => result,
        Err(_) => Err(format!(
            "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            request.url()
        )),
    }
}

async fn once(
    request: &Request,
    timeout: Duration,
) -> Result<(::http::StatusCode, Option<String>, String), String> {
    let prefixed = |e: &dyn std::fmt::Display| format!("Get \"{}\": {e}", request.url());
    let stream = tcp(&request.host, request.port, timeout).await.map_err(|e| prefixed(&e))?;
    if !request.tls {
        return exchange(request, stream).await.map_err(|e| prefixed(&e));
    }
    let connector = TlsConnector::from(unverified());
    let name = ServerName::try_from(request.host.clone()).map_err(|e| prefixed(&e))?;
    let stream = connector.connect(name, stream).await.map_err(|e| prefixed(&e))?;
    exchange(request, stream).await.map_err(|e| prefixed(&e))
}

async fn exchange(
    request: &Request,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<(::http::StatusCode, Option<String>, String), String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    // Ends with the connection, which the probe's answer or its timeout closes.
    let driver = tokio::spawn(connection);
    let abort = AbortOnDrop(driver.abort_handle());
    let response = sender.send_request(request.build()?).await.map_err(|e| e.to_string())?;
    let status = response.status();
    let location =
        response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok()).map(str::to_owned);
    // A body that is too long or breaks off does not change the verdict.
    let body = Limited::new(response.into_body(), MAX_BODY)
        .collect()
        .await
        .map(|b| b.to_bytes())
        .unwrap_or_default();
    drop(abort);
    Ok((status, location, String::from_utf8_lossy(&body).into_owned()))
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn unverified() -> Arc<ClientConfig> {
    static CONFIG: std::sync::OnceLock<Arc<ClientConfig>> = std::sync::OnceLock::new();
    let make = || {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let schemes = provider.signature_verification_algorithms.supported_schemes();
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider supports its own default versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(schemes)))
            .with_no_client_auth();
        Arc::new(config)
    };
    CONFIG.get_or_init(make).clone()
}

/// A probe asks whether the server answers, not who it is.
#[derive(Debug)]
struct AnyCertificate(Vec<SignatureScheme>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
