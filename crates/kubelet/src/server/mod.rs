//! The node agent's own HTTPS API, on port 10250.
//!
//! Consumes requests of the API server and of monitoring, decides who asks and whether they may, answers with logs,
//! streams, statistics and health. Counterpart: `pkg/kubelet/server`.
//! Invariant: every path needs an authenticated and authorised caller; there is no read-only port.

mod auth;
mod debug;
mod host_path_volumes;
mod logs;
mod query;
mod stats;
mod streams;
mod target;
mod volume_stats;

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::server::WebPkiClientVerifier;
use skiff_grpc::serve_each;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use self::auth::{Authorizer, Caller};
use crate::{context::NodeContext, pod::manager::PodIndex};

type Body = BoxBody<Bytes, io::Error>;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Server {
    ctx: Arc<NodeContext>,
    index: PodIndex,
    authorizer: Authorizer,
    samples: stats::Samples,
    acceptor: TlsAcceptor,
}

/// An answer other than success, as plain text.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Refusal {
    code: StatusCode,
    message: String,
}

// === impl Server ===

impl Server {
    pub fn new(ctx: Arc<NodeContext>, index: PodIndex) -> io::Result<Self> {
        let serving = ctx.config.serving.clone();
        let serving =
            serving.ok_or_else(|| io::Error::other("no serving certificate is configured"))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(serving.client_ca, provider.clone())
                .allow_unauthenticated()
                .build()
                .map_err(io::Error::other)?;
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(serving.certificate);
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let authorizer = Authorizer::new(ctx.client.clone(), &ctx.config.node_name);
        Ok(Server { ctx, index, authorizer, samples: stats::Samples::default(), acceptor })
    }

    pub async fn run(self, listener: TcpListener) {
        let server = Arc::new(self);
        let connection = |stream| server.clone().connection(stream);
        serve_each(|cx| listener.poll_accept(cx), CancellationToken::new(), connection).await;
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        // Else the first answer waits for the peer's delayed acknowledgement of the handshake's end, 40 ms.
        let _ = stream.set_nodelay(true);
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(stream));
        let Ok(Ok(stream)) = handshake.await else { return };
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let caller = certificate.and_then(|c| Caller::from_certificate(c));
        let service = service_fn(move |request| {
            let (server, caller) = (self.clone(), caller.clone());
            async move { Ok::<_, Infallible>(server.answer(request, caller).await) }
        });
        let builder = auto::Builder::new(TokioExecutor::new());
        if let Err(error) =
            builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await
        {
            tracing::debug!(error, "connection ended");
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        caller: Option<Caller>,
    ) -> Response<Body> {
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let outcome = match self.authorizer.admit(&request, caller).await {
            Ok(()) => self.route(request).await,
            Err(refusal) => Err(refusal),
        };
        outcome.unwrap_or_else(|refusal| {
            tracing::debug!(%method, path, code = refusal.code.as_u16(), message = refusal.message, "refused");
            refusal.response()
        })
    }

    async fn route(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let path = request.uri().path().to_owned();
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let get = request.method() == Method::GET;
        let streaming = get || request.method() == Method::POST;
        match segments.as_slice() {
            ["healthz"] | ["healthz", "ping" | "log" | "syncloop"] if get => Ok(text("ok")),
            ["pods"] if get => debug::pods(&self.index),
            ["configz"] if get => debug::configz(&self.ctx.config),
            ["metrics"] if get => stats::metrics(&self).await,
            ["metrics", "resource"] if get => stats::resource_metrics(&self).await,
            ["stats", "summary"] if get => stats::summary(&self).await,
            ["containerLogs", namespace, pod, container] if get => {
                let query = request.uri().query().unwrap_or_default();
                let found = target::container(&self, namespace, pod, None, container)?;
                logs::serve(&self.ctx, &found, query).await
            }
            [verb @ ("exec" | "attach"), namespace, pod, rest @ ..] if streaming => {
                let (uid, container) = uid_and_container(rest)?;
                let found = target::container(&self, namespace, pod, uid, container)?;
                let command = *verb == "exec";
                streams::remote_command(&self.ctx, found, command, request).await
            }
            ["portForward", namespace, pod, rest @ ..] if streaming => {
                let found = target::pod(&self, namespace, pod, rest.first().copied())?;
                streams::port_forward(&self.ctx, &found.uid, request).await
            }
            ["run", namespace, pod, rest @ ..] if request.method() == Method::POST => {
                let (uid, container) = uid_and_container(rest)?;
                let found = target::container(&self, namespace, pod, uid, container)?;
                streams::run(&self.ctx, &found, request.uri().query().unwrap_or_default()).await
            }
            ["hostPathVolumes", name] => {
                host_path_volumes::serve(&self.ctx.config.root_dir, request.method(), name).await
            }
            ["logs", ..] => Err(Refusal::new(
                StatusCode::NOT_IMPLEMENTED,
                "logs of the node itself are not served",
            )),
            ["checkpoint", ..] => {
                Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "containers cannot be checkpointed"))
            }
            _ => Err(Refusal::new(StatusCode::NOT_FOUND, "404 page not found")),
        }
    }
}

/// `[container]`, or `[uid, container]` as older clients write it.
fn uid_and_container<'a>(rest: &[&'a str]) -> Result<(Option<&'a str>, &'a str), Refusal> {
    match rest {
        [container] => Ok((None, container)),
        [uid, container] => Ok((Some(uid), container)),
        _ => Err(Refusal::new(StatusCode::NOT_FOUND, "404 page not found")),
    }
}

// === impl Refusal ===

impl Refusal {
    fn new(code: StatusCode, message: impl Into<String>) -> Self {
        Refusal { code, message: message.into() }
    }

    fn internal(error: impl ToString) -> Self {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }

    fn response(&self) -> Response<Body> {
        let mut response = text(self.message.clone());
        *response.status_mut() = self.code;
        response
    }
}

fn whole(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).map_err(|never| match never {}).boxed()
}

fn typed(kind: &'static str, content: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(whole(content));
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

fn text(content: impl Into<Bytes>) -> Response<Body> {
    typed("text/plain; charset=utf-8", content)
}

fn json(value: &impl serde::Serialize) -> Result<Response<Body>, Refusal> {
    Ok(typed("application/json", serde_json::to_vec(value).map_err(Refusal::internal)?))
}
