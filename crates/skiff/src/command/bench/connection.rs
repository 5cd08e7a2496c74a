//! One client's connection: TLS with the kubeconfig's credentials, HTTP/1.1, kept alive.

use std::path::Path;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// As much as TLS sends in one piece. The TLS library alone would ask the socket for 4 KB at a time.
const RECORD: usize = 17 << 10;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the kubeconfig cannot be used: {0}")]
    Kubeconfig(String),
    #[error("cannot reach {server}")]
    Connect {
        server: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the connection broke")]
    Http(#[from] hyper::Error),
    #[error("{method} {path} answered {status}: {body}")]
    Answer { method: Method, path: String, status: StatusCode, body: String },
}

/// A server and how to prove who we are.
#[derive(Clone)]
pub struct Target {
    host: String,
    port: u16,
    tls: TlsConnector,
    token: Option<String>,
}

pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    token: Option<String>,
}

// === impl Target ===

impl Target {
    pub async fn from_kubeconfig(path: Option<&Path>) -> Result<Target, Error> {
        let broken = |error: &dyn std::fmt::Display| Error::Kubeconfig(error.to_string());
        let file = match path {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        }
        .map_err(|error| broken(&error))?;
        let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .map_err(|error| broken(&error))?;
        let mut roots = RootCertStore::empty();
        for der in config.root_cert.iter().flatten() {
            let certificate = CertificateDer::from(der.clone());
            roots.add(certificate).map_err(|error| broken(&error))?;
        }
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let client = match identity(&config)? {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key),
            None => Ok(builder.with_no_client_auth()),
        }
        .map_err(|error| broken(&error))?;
        let token = config.auth_info.token.as_ref().map(|token| {
            use secrecy::ExposeSecret;
            token.expose_secret().to_owned()
        });
        Ok(Target {
            host: config.cluster_url.host().unwrap_or("localhost").to_owned(),
            port: config.cluster_url.port_u16().unwrap_or(443),
            tls: TlsConnector::from(Arc::new(client)),
            token,
        })
    }

    pub fn server(&self) -> String {
        format!("https://{}:{}", self.host, self.port)
    }

    pub async fn connect(&self) -> Result<Connection, Error> {
        let tls = self.dial().await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        tokio::spawn(connection);
        Ok(Connection { sender, host: self.host.clone(), token: self.token.clone() })
    }

    /// A connection that nothing was said on yet.
    pub async fn dial(&self) -> Result<TlsStream<BufReader<TcpStream>>, Error> {
        let failed = |source| Error::Connect { server: self.server(), source };
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        let name = ServerName::try_from(self.host.clone())
            .map_err(|error| Error::Kubeconfig(error.to_string()))?;
        let tcp = BufReader::with_capacity(RECORD, tcp);
        self.tls.connect(name, tcp).await.map_err(failed)
    }
}

type ClientIdentity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(config: &kube::Config) -> Result<Option<ClientIdentity>, Error> {
    use base64::Engine;
    use secrecy::ExposeSecret;
    let broken = |error: &dyn std::fmt::Display| Error::Kubeconfig(error.to_string());
    let decode =
        |data: &str| base64::prelude::BASE64_STANDARD.decode(data).map_err(|error| broken(&error));
    let auth = &config.auth_info;
    let certificate = match (&auth.client_certificate_data, &auth.client_certificate) {
        (Some(data), _) => decode(data)?,
        (None, Some(path)) => std::fs::read(path).map_err(|error| broken(&error))?,
        (None, None) => return Ok(None),
    };
    let key = match (&auth.client_key_data, &auth.client_key) {
        (Some(data), _) => decode(data.expose_secret())?,
        (None, Some(path)) => std::fs::read(path).map_err(|error| broken(&error))?,
        (None, None) => return Err(Error::Kubeconfig("a certificate without a key".into())),
    };
    let chain = CertificateDer::pem_slice_iter(&certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| broken(&error))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| broken(&error))?;
    Ok(Some((chain, key)))
}

// === impl Connection ===

impl Connection {
    /// Sends and reads the whole answer; anything but 2xx is an error.
    pub async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<Bytes, Error> {
        let response = self.send(method.clone(), path, body.into()).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        match status.is_success() {
            true => Ok(body),
            false => Err(Error::Answer {
                method,
                path: path.to_owned(),
                status,
                body: String::from_utf8_lossy(&body).into_owned(),
            }),
        }
    }

    /// Sends and leaves the body to be read as it comes.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .header("user-agent", "skiff-bench");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).expect("paths are plain");
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }
}
