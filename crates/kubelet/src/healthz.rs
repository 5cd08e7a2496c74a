//! `/healthz` in the clear, on a port of its own, for whoever minds the agent from the node itself.
//!
//! Counterpart: the health server of `cmd/kubelet`. Differs from upstream: there is none unless a `KubeletConfiguration` asks for it.
//! Invariant: it tells nothing but that the agent is there, so nobody has to say who they are.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use skiff_grpc::serve_each;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// The port may yet become free.
const RETRY: Duration = Duration::from_secs(5);

/// Runs for ever.
pub async fn run(address: SocketAddr) {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => tracing::warn!(%address, %error, "health is not told"),
        }
        tokio::time::sleep(RETRY).await;
    };
    serve(listener).await;
}

async fn serve(listener: TcpListener) {
    serve_each(|cx| listener.poll_accept(cx), CancellationToken::new(), connection).await;
}

async fn connection(stream: TcpStream) {
    let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(&request))));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "connection ended");
    }
}

fn answer(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path().trim_end_matches('/');
    let (code, text) = match (request.method(), path) {
        (&Method::GET | &Method::HEAD, "/healthz" | "/healthz/ping") => (StatusCode::OK, "ok"),
        _ => (StatusCode::NOT_FOUND, "404 page not found\n"),
    };
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = code;
    answer
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer
    }

    #[tokio::test]
    async fn health_is_told_and_nothing_else() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let server = tokio::spawn(serve(listener));
        let healthy = ask(address, "/healthz").await;
        assert!(
            healthy.starts_with("HTTP/1.1 200") && healthy.ends_with("\r\n\r\nok"),
            "{healthy}"
        );
        let other = ask(address, "/pods").await;
        assert!(other.starts_with("HTTP/1.1 404"), "{other}");
        server.abort();
    }
}
