//! The request path: every request, from a socket or from this process, walks these stages in this order.
//!
//! audit id -> RequestInfo -> authenticate -> impersonate -> flow control -> authorize -> body -> dispatch -> encode.
//! Counterpart: `DefaultBuildHandlerChain`.
//! Invariant: a panic below becomes a 500 Status and never ends the connection or the process.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use skiff_api::Status;

use crate::aggregate;
use crate::authn::{self, impersonation};
use crate::authz::{self, Attributes};
use crate::call::Call;
use crate::config::Anonymous;
use crate::query::Query;
use crate::reply::{self, Body, BoxError};
use crate::request_info::RequestInfo;
use crate::server::Server;
use crate::user::{ANONYMOUS, UserInfo};
use crate::{dispatch, encode, subresources};

/// What the connection knows about the client.
#[derive(Clone)]
pub enum Caller {
    /// A part of this process.
    Known(UserInfo),
    /// A connection, with the user of its client certificate.
    Remote(Option<Arc<UserInfo>>),
}

/// Upstream's limit for request bodies.
pub const BODY_LIMIT: usize = 3 * 1024 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Reached without credentials, whatever RBAC says, unless anonymous requests are refused outright.
const OPEN_PATHS: &[&str] = &["/healthz", "/livez", "/readyz", "/version"];

pub async fn handle<B>(server: Arc<Server>, caller: Caller, request: Request<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let begun = Instant::now();
    let query = Query::parse(request.uri().query().unwrap_or(""));
    let info = RequestInfo::read(request.method(), request.uri().path(), &query);
    let dry_run = query.has("dryRun");
    let head_only = request.method() == http::Method::HEAD;
    let audit_id = audit_id(request.headers());
    let walk = walk(&server, &caller, &info, query, request);
    let mut response = match AssertUnwindSafe(walk).catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(status)) => reply::error(&status),
        Err(_) => {
            server.metrics.panics.fetch_add(1, Relaxed);
            tracing::error!(path = info.path, "a request handler panicked");
            reply::error(&Status::internal("this request caused apiserver to panic"))
        }
    };
    let headers = response.headers_mut();
    headers.insert("audit-id", audit_id);
    headers.entry("cache-control").or_insert(HeaderValue::from_static("no-cache, private"));
    server.metrics.requests.observe(&info, dry_run, response.status(), begun.elapsed());
    match head_only {
        true => response.map(|_| reply::empty()),
        false => response,
    }
}

async fn walk<B>(
    server: &Arc<Server>,
    caller: &Caller,
    info: &RequestInfo,
    query: Query,
    request: Request<B>,
) -> Result<Response<Body>, Status>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let user = authenticate(server, caller, request.headers()).await?;
    let asked = || Attributes::of(info, &query);
    let user = match impersonation::impersonated(server, &user, request.headers(), asked).await? {
        Some(other) => other,
        None => user,
    };
    let admitted = match server.flow_control.admit(&user, info, &query).await {
        Ok(admitted) => admitted,
        Err(refused) => return Ok(refused.response()),
    };
    let _in_flight = server.metrics.requests.begin(info);
    let mut response = serve(server, user, info, query, request)
        .await
        .unwrap_or_else(|status| reply::error(&status));
    if let Some(admitted) = &admitted {
        admitted.mark(response.headers_mut());
    }
    Ok(response)
}

/// What is left once the request has its seat.
async fn serve<B>(
    server: &Arc<Server>,
    user: UserInfo,
    info: &RequestInfo,
    query: Query,
    request: Request<B>,
) -> Result<Response<Body>, Status>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if !is_open(&info.path) {
        authz::require(server, &user, &Attributes::of(info, &query)).await?;
    }
    let (mut parts, body) = request.into_parts();
    if let Some(remote) = server.aggregator.remote(info) {
        return Ok(aggregate::proxy::run(server, &remote, &user, parts, body).await);
    }
    if subresources::connect::is_connect(info) {
        let headers = parts.headers.clone();
        let call = Call::new(server.clone(), user, info.clone(), query, headers, Bytes::new());
        return subresources::connect::run(&call, parts, body).await;
    }
    let body = read_body(body, &parts.headers).await?;
    let headers = std::mem::take(&mut parts.headers);
    let call = Call::new(server.clone(), user, info.clone(), query, headers, body);
    let media = call.media();
    let answer = match dispatch::run(&call, &parts.method, &media).await {
        Ok(answer) => encode::response(&call, media, answer).await,
        Err(status) => Err(status),
    };
    let mut response = answer.unwrap_or_else(|status| encode::refusal(&status, media));
    add_warnings(&call, response.headers_mut());
    Ok(response)
}

async fn authenticate(
    server: &Arc<Server>,
    caller: &Caller,
    headers: &HeaderMap,
) -> Result<UserInfo, Status> {
    let user = match caller {
        Caller::Known(user) => return Ok(user.clone()),
        Caller::Remote(certificate) => {
            authn::identify(server, certificate.as_deref(), headers).await?
        }
    };
    // Otherwise authorisation refuses what is not open, naming user and path as upstream does.
    match user.name == ANONYMOUS && server.config.anonymous == Anonymous::Refused {
        true => Err(Status::unauthorized()),
        false => Ok(user),
    }
}

fn is_open(path: &str) -> bool {
    OPEN_PATHS.iter().any(|open| {
        path == *open || path.strip_prefix(open).is_some_and(|rest| rest.starts_with('/'))
    })
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

fn add_warnings(call: &Call, headers: &mut HeaderMap) {
    for text in call.take_warnings() {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            headers.append("warning", value);
        }
    }
}
