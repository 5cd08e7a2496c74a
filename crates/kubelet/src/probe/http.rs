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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// Answers each connection by its path, and says what it was asked.
    async fn server() -> (u16, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (asked, seen) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = vec![0; 4096];
                let n = stream.read(&mut buffer).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&buffer[..n]).into_owned();
                let answer = match head.split(' ').nth(1).unwrap_or_default() {
                    "/ok" => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
                    "/moved" => "HTTP/1.1 302 Found\r\nlocation: /ok\r\ncontent-length: 0\r\n\r\n",
                    "/away" => {
                        "HTTP/1.1 302 Found\r\nlocation: http://192.0.2.1/\r\ncontent-length: 0\r\n\r\n"
                    }
                    "/hang" => {
                        tokio::time::sleep(Duration::from_secs(60)).await;
                        ""
                    }
                    _ => "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
                };
                let _ = asked.send(head);
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (port, seen)
    }

    async fn ask(port: u16, path: &str) -> Result<String, String> {
        let action = json!({ "path": path, "port": "web", "httpHeaders": [{ "name": "X-Own", "value": "1" }] });
        let action: HTTPGetAction = serde_json::from_value(action).expect("an action");
        let container = json!({ "name": "c", "ports": [{ "name": "web", "containerPort": port }] });
        let container: Container = serde_json::from_value(container).expect("a container");
        let request = Request::resolve(&action, &container, "127.0.0.1".into()).expect("resolved");
        get(&request, Duration::from_millis(300)).await
    }

    #[tokio::test]
    async fn judges_answers() {
        let (port, mut seen) = server().await;
        assert_eq!(ask(port, "/ok").await.as_deref(), Ok("hi"));
        let head = seen.recv().await.expect("asked").to_lowercase();
        assert!(head.contains("x-own: 1") && head.contains("user-agent: kube-probe/"), "{head}");
        assert_eq!(ask(port, "moved").await.as_deref(), Ok("hi"));
        assert!(
            ask(port, "/away").await.is_ok(),
            "a redirect elsewhere counts and is not followed"
        );
        assert_eq!(ask(port, "/bad").await.unwrap_err(), "HTTP probe failed with statuscode: 503");
        let hang = ask(port, "/hang").await.unwrap_err();
        assert!(hang.contains("context deadline exceeded"), "{hang}");
    }

    #[tokio::test]
    async fn says_where_nobody_listens() {
        let expected =
            "Get \"http://127.0.0.1:1/ok\": dial tcp 127.0.0.1:1: connect: connection refused";
        assert_eq!(ask(1, "/ok").await.unwrap_err(), expected);
    }
}
