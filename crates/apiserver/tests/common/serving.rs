//! A server on a port of its own, and connections to it as an administrator.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use skiff_apiserver::Leaf;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

pub struct Serving {
    pub cluster: super::Cluster,
    pub port: u16,
    pub stop: CancellationToken,
    pub served: tokio::task::JoinHandle<std::io::Result<()>>,
}

pub async fn serving() -> Serving {
    let cluster = super::cluster().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (server, stop) = (cluster.server.clone(), CancellationToken::new());
    let stopped = stop.clone().cancelled_owned();
    let served = tokio::spawn(async move { server.serve(listener, stopped).await });
    Serving { cluster, port, stop, served }
}

impl Serving {
    /// A connection on which nothing has been said yet, for `h2` or `http/1.1`.
    pub async fn dial(&self, protocol: &str) -> TlsStream<TcpStream> {
        let pki = self.cluster.server.pki();
        let identity =
            pki.issue(&Leaf::client("test", "admin", &["system:masters"])).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(pki.ca_pem().as_bytes()).expect("PEM"))
            .expect("a CA");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("protocols")
            .with_root_certificates(roots)
            .with_client_auth_cert(
                identity.chain().expect("a chain"),
                identity.key().expect("a key"),
            )
            .expect("an identity");
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let tcp = TcpStream::connect(("127.0.0.1", self.port)).await.expect("a connection");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("localhost").expect("a name");
        connector.connect(name, tcp).await.expect("TLS")
    }

    /// An HTTP/2 connection.
    pub async fn connect(&self) -> hyper::client::conn::http2::SendRequest<Empty<Bytes>> {
        let tls = self.dial("h2").await;
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
                .await
                .expect("HTTP/2");
        tokio::spawn(connection);
        sender
    }
}
