//! A request of an aggregated group-version, handed to its server.
//!
//! The request as it came, with the user's name for credentials -> the answer as it comes back. Upgrades (exec, watches over
//! WebSocket) are spliced. Counterpart: `handler_proxy.go`. Invariant: the client's own credentials go no further than here.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HOST, LOCATION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use http_body_util::BodyExt;

use super::remote::{Remote, identify};
use crate::reply::{Body, BoxError, Reply, empty, with_type};
use crate::server::Server;
use crate::user::UserInfo;

const PLAIN: &str = "text/plain; charset=utf-8";

pub async fn run<B>(
    server: &Server,
    remote: &Remote,
    user: &UserInfo,
    parts: Parts,
    body: B,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if !remote.available() {
        return unavailable("service unavailable");
    }
    match forward(server, remote, user, parts, body).await {
        Ok(response) => checked(response),
        Err(error) => {
            tracing::debug!(%error, name = remote.name, "an aggregated API server did not answer");
            unavailable(&error.to_string())
        }
    }
}

pub fn unavailable(text: &str) -> Response<Body> {
    with_type(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{text}\n").into())
}

async fn forward<B>(
    server: &Server,
    remote: &Remote,
    user: &UserInfo,
    mut parts: Parts,
    body: B,
) -> Result<Response<Body>, BoxError>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    strip(&mut parts.headers);
    identify(&mut parts.headers, user);
    parts.version = http::Version::HTTP_11;
    if parts.headers.contains_key(UPGRADE) {
        parts.uri = path.parse()?;
        let io = remote.dial(server).await?;
        let request = Request::from_parts(parts, body.map_err(Into::into).boxed_unsync());
        let response = skiff_streams::proxy_upgrade(request, io).await?;
        return Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync()));
    }
    parts.uri = remote.uri(&path)?;
    parts.headers.remove(HOST);
    parts.headers.remove(CONNECTION);
    let request = Request::from_parts(parts, body.map_err(Into::into).boxed_unsync());
    let mut response = remote.send(request).await?;
    response.headers_mut().remove(CONNECTION);
    Ok(response)
}

/// What was meant for this server only.
fn strip(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    let ours: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    ours.iter().for_each(|name| drop(headers.remove(name)));
}

/// A redirect would lead a client, or this server's certificate, to wherever the other side likes.
fn checked(response: Response<Body>) -> Response<Body> {
    let redirects = response.status().is_redirection() && response.headers().contains_key(LOCATION);
    match redirects {
        true => {
            let text = "the backend attempted to redirect this request, which is not permitted\n";
            with_type(StatusCode::BAD_GATEWAY, PLAIN, text.into())
        }
        false => response,
    }
}

/// A document of the remote server that clients ask this one for.
pub async fn document(remote: &Remote, path: &str, accept: &'static str) -> Reply {
    match remote.fetch(path, accept).await {
        Ok((code, headers, bytes)) if code.is_success() => {
            let kind =
                headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            Reply::Response(with_type(code, kind.unwrap_or("application/json"), bytes))
        }
        Ok((code, ..)) => {
            let mut response = Response::new(empty());
            *response.status_mut() = code;
            Reply::Response(response)
        }
        Err(_) => Reply::Response(unavailable("service unavailable")),
    }
}
