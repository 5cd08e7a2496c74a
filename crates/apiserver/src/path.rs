//! The request path: every request, from a socket or from this process, walks these stages in this order.
//!
//! audit id -> RequestInfo -> deadline -> authenticate -> audit -> impersonate -> flow control -> authorize -> body ->
//! dispatch -> encode.
//! Counterpart: `DefaultBuildHandlerChain`.
//! Invariant: a panic below becomes a 500 Status and never ends the connection or the process.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, BodyStream, LengthLimitError, Limited, StreamBody};
use skiff_api::Status;
use tokio_util::sync::CancellationToken;

use crate::aggregate;
use crate::audit::{Asked, Ending, Trail, record};
use crate::authn::x509::Shown;
use crate::authn::{self, impersonation};
use crate::authz::{self, Attributes};
use crate::call::Call;
use crate::config::Anonymous;
use crate::deadline;
use crate::message_socket::MessageSocket;
use crate::query::Query;
use crate::reply::{self, Body, BoxError};
use crate::request_info::RequestInfo;
use crate::server::Server;
use crate::typed::Lean;
use crate::user::{ANONYMOUS, UserInfo};
use crate::{dispatch, encode, subresources, warnings};

/// What the connection knows about the client.
#[derive(Clone)]
pub enum Caller {
    /// A part of this process.
    Known(UserInfo),
    /// A connection, with what its client certificate says.
    Remote(Option<Arc<Shown>>),
}

/// Where a connection comes from; carried by its requests.
#[derive(Clone, Copy)]
pub struct Peer(pub IpAddr);

/// Upstream's limit for request bodies.
pub const BODY_LIMIT: usize = 3 * 1024 * 1024;
/// For requests that have no deadline, which the others meet first.
const BODY_TIMEOUT: Duration = Duration::from_secs(90);

pub async fn handle<B>(
    server: Arc<Server>,
    caller: Caller,
    mut request: Request<B>,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let begun = Instant::now();
    let query = Query::parse(request.uri().query().unwrap_or(""));
    let info = RequestInfo::read(request.method(), request.uri().path(), &query);
    let dry_run = query.has("dryRun");
    let head_only = request.method() == http::Method::HEAD;
    let socket = match MessageSocket::take(&server, &info, &mut request) {
        Ok(socket) => socket,
        Err(status) => return reply::error(&status),
    };
    let passage = Passage::new(&server, &info, begun, request.headers());
    let walk = passage.walk_in_time(&caller, query, request);
    let response = match AssertUnwindSafe(walk).catch_unwind().await {
        Ok(response) => passage.ended(response),
        Err(_) => passage.panicked(),
    };
    server.metrics.requests.observe(&info, dry_run, response.status(), begun.elapsed());
    match socket {
        Some(socket) => socket.answer(response),
        None if head_only => response.map(|_| reply::empty()),
        None => response,
    }
}

/// One request on its way, as far as every stage needs it.
struct Passage<'a> {
    server: &'a Arc<Server>,
    info: &'a RequestInfo,
    begun: Instant,
    audit_id: HeaderValue,
    /// Set once it is known who asks, if the request is recorded.
    trail: OnceLock<Arc<Trail>>,
}

impl<'a> Passage<'a> {
    fn new(
        server: &'a Arc<Server>,
        info: &'a RequestInfo,
        begun: Instant,
        headers: &HeaderMap,
    ) -> Passage<'a> {
        Passage { server, info, begun, audit_id: audit_id(headers), trail: OnceLock::new() }
    }

    async fn walk_in_time<B>(
        &self,
        caller: &Caller,
        query: Query,
        request: Request<B>,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let limit = match deadline::of(self.info, &query) {
            Ok(limit) => limit,
            Err(status) => return self.refusal(&status),
        };
        let walk = self.walk(caller, query, request);
        let walked = match limit {
            Some(limit) if self.begun.elapsed() >= limit => return deadline::passed(),
            Some(limit) => tokio::time::timeout(limit, walk).await,
            None => Ok(walk.await),
        };
        match walked {
            Ok(answer) => answer.unwrap_or_else(|status| self.refusal(&status)),
            Err(_) => deadline::passed(),
        }
    }

    async fn walk<B>(
        &self,
        caller: &Caller,
        query: Query,
        request: Request<B>,
    ) -> Result<Response<Body>, Status>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let Passage { server, info, .. } = self;
        let authenticated = authenticate(server, caller, &info.path, request.headers()).await;
        server.metrics.access.authenticated(authenticated.as_ref().ok());
        let user = match authenticated {
            Ok(user) => user,
            Err(status) => {
                self.record(&UserInfo::default(), &request);
                return Err(status);
            }
        };
        self.record(&user, &request);
        let asked = || Attributes::of(info, &query);
        let impersonated =
            impersonation::impersonated(server, &user, request.headers(), asked).await?;
        if let (Some(trail), Some(other)) = (self.trail.get(), &impersonated) {
            trail.impersonated(other);
        }
        let user = impersonated.unwrap_or(user);
        let admitted = match server.flow_control.admit(&user, info, &query).await {
            Ok(admitted) => admitted,
            Err(refused) => return Ok(refused.response()),
        };
        let _in_flight = server.metrics.requests.begin(info);
        let mut response =
            self.serve(user, query, request).await.unwrap_or_else(|status| self.refusal(&status));
        if let Some(admitted) = &admitted {
            admitted.mark(response.headers_mut());
        }
        Ok(response)
    }

    /// What is left once the request has its seat. What takes over a connection is boxed: every request is as large as
    /// the largest that it might be.
    async fn serve<B>(
        &self,
        user: UserInfo,
        query: Query,
        request: Request<B>,
    ) -> Result<Response<Body>, Status>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let Passage { server, info, .. } = self;
        self.authorize(&user, &query).await?;
        let (mut parts, body) = request.into_parts();
        if let Some(remote) = server.aggregator.remote(info) {
            let answer = aggregate::proxy::run(server, &remote, &user, parts, body);
            return Ok(Box::pin(answer).await);
        }
        let trail = self.trail.get().cloned();
        let server = Arc::clone(server);
        if subresources::connect::is_connect(info) {
            let headers = parts.headers.clone();
            let call =
                Call::new(server, user, (*info).clone(), query, headers, Bytes::new(), trail);
            return Box::pin(subresources::connect::run(&call, parts, body)).await;
        }
        let body = read_body(body, &parts.headers).await?;
        let headers = std::mem::take(&mut parts.headers);
        let mut call = Call::new(server, user, (*info).clone(), query, headers, body, trail);
        call.lean = parts.extensions.get::<Lean>().is_some();
        self.answer(&call, &parts.method).await
    }

    async fn answer(&self, call: &Call, method: &http::Method) -> Result<Response<Body>, Status> {
        record::request(call);
        let media = call.media();
        let answer = match dispatch::run(call, method, &media).await {
            Ok(answer) => {
                record::reply(call, &answer);
                encode::response(call, media, answer).await
            }
            Err(status) => Err(status),
        };
        let mut response = answer.unwrap_or_else(|status| {
            record::refusal(call, &status);
            encode::refusal(&status, call.error_media())
        });
        warnings::add(call.take_warnings(), response.headers_mut());
        Ok(response)
    }

    async fn authorize(&self, user: &UserInfo, query: &Query) -> Result<(), Status> {
        let attributes = Attributes::of(self.info, query);
        let allowed = authz::require(self.server, user, &attributes).await;
        self.server.metrics.access.authorized(allowed.is_ok());
        if let Some(trail) = self.trail.get() {
            let (decision, reason) = match &allowed {
                Ok(decision) => ("allow", decision.reason.as_str()),
                Err(_) => ("forbid", ""),
            };
            trail.annotate("authorization.k8s.io/decision", decision);
            trail.annotate("authorization.k8s.io/reason", reason);
        }
        allowed.map(|_| ())
    }

    // --- the trail ---

    fn record<B>(&self, user: &UserInfo, request: &Request<B>) {
        let Some(audit) = &self.server.audit else { return };
        let asked = Asked {
            id: self.audit_id.to_str().unwrap_or(""),
            uri: request.uri(),
            headers: request.headers(),
            peer: request.extensions().get::<Peer>().map(|peer| peer.0),
        };
        if let Some(trail) = audit.begin(user, self.info, &asked) {
            let _ = self.trail.set(trail);
        }
    }

    fn refusal(&self, status: &Status) -> Response<Body> {
        if let Some(trail) = self.trail.get() {
            trail.refused(status);
        }
        reply::error(status)
    }

    /// The answer with what every answer says; its body ends the trail.
    fn ended(&self, mut response: Response<Body>) -> Response<Body> {
        self.sign(&mut response);
        if self.info.verb == "watch" && response.status().is_success() {
            let told = self.server.metrics.access.watch_events(self.info);
            response = until(response, self.server.stopping.clone(), told);
        }
        let Some(trail) = self.trail.get() else { return response };
        trail.answered(response.status(), self.info.is_long_running());
        let ending = Ending(trail.clone());
        response.map(|body| {
            body.map_frame(move |frame| {
                let _until_the_last = &ending;
                frame
            })
            .boxed_unsync()
        })
    }

    fn panicked(&self) -> Response<Body> {
        self.server.metrics.panics.fetch_add(1, Relaxed);
        tracing::error!(path = self.info.path, "a request handler panicked");
        if let Some(trail) = self.trail.get() {
            trail.panicked();
        }
        let mut response =
            reply::error(&Status::internal("this request caused apiserver to panic"));
        self.sign(&mut response);
        response
    }

    fn sign(&self, response: &mut Response<Body>) {
        let headers = response.headers_mut();
        headers.insert("audit-id", self.audit_id.clone());
        headers.entry("cache-control").or_insert(HeaderValue::from_static("no-cache, private"));
    }
}

/// The answer as long as the server serves: a watch would otherwise hold up its end.
fn until(
    response: Response<Body>,
    stopping: CancellationToken,
    told: Arc<AtomicU64>,
) -> Response<Body> {
    response.map(|body| {
        let frames = BodyStream::new(body).take_until(stopping.cancelled_owned());
        let counted = frames.inspect(move |_| {
            told.fetch_add(1, Relaxed);
        });
        StreamBody::new(counted).boxed_unsync()
    })
}

async fn authenticate(
    server: &Arc<Server>,
    caller: &Caller,
    path: &str,
    headers: &HeaderMap,
) -> Result<UserInfo, Status> {
    let user = match caller {
        Caller::Known(user) => return Ok(user.clone()),
        Caller::Remote(certificate) => {
            authn::identify(server, certificate.as_deref(), headers).await?
        }
    };
    // Otherwise authorisation refuses what is not open, naming user and path as upstream does.
    let refused = || {
        let paths = &server.config.authentication.anonymous_paths;
        server.config.anonymous == Anonymous::Refused
            || !paths.is_empty() && !paths.iter().any(|open| open == path)
    };
    match user.name == ANONYMOUS && refused() {
        true => Err(Status::unauthorized()),
        false => Ok(user),
    }
}

async fn read_body<B>(body: B, headers: &HeaderMap) -> Result<Bytes, Status>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let declared =
        headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| length > BODY_LIMIT) {
        return Err(Status::too_large(BODY_LIMIT));
    }
    let collected =
        tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_LIMIT).collect()).await;
    match collected {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Status::too_large(BODY_LIMIT)),
        Ok(Err(error)) => {
            Err(Status::bad_request(format!("unable to read the request body: {error}")))
        }
        Err(_) => Err(Status::new(
            408,
            skiff_api::Reason::Timeout,
            "the request body did not arrive in time",
        )),
    }
}

/// The client's own id, or a new one: what ties logs on both sides together.
fn audit_id(headers: &HeaderMap) -> HeaderValue {
    headers.get("audit-id").cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).expect("an id is ASCII")
    })
}
