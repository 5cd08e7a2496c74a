//! Requests to pods, services and nodes by way of this server.
//!
//! `/api/v1/namespaces/x/pods/web:8080/proxy/status?full=1` -> `GET /status?full=1` of that pod -> its answer, with its links led
//! back through here. Counterpart: `UpgradeAwareHandler` and `Transport` of `apimachinery/pkg/util/proxy`. Invariant: what follows
//! the proxy in the path goes on byte for byte, and nothing of the client's credentials does.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION,
    UPGRADE,
};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use skiff_api::Status;

use super::connect::{self, Backend};
use super::links::Links;
use super::pages::{Encoding, rewritten};
use super::targets;
use crate::call::Call;
use crate::path::Peer;
use crate::reply::{self, Body, BoxError};

const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What a page may do to other origins is not for what is proxied to say.
const CORS: [HeaderName; 4] = [
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN,
];

pub async fn run<B>(call: &Call, mut parts: Parts, body: B) -> Result<Response<Body>, Status>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut backend = match call.info.resource.as_str() {
        "pods" => targets::pod(call).await?,
        "services" => targets::service(call).await?,
        _ => targets::node(call).await?,
    };
    let path = parts.uri.path().to_owned();
    let (prefix, rest) = split(&path, call.info.rest.len());
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let upgrade = parts.headers.contains_key(UPGRADE);
    if rest.is_empty() && !upgrade && matches!(parts.method, Method::GET | Method::HEAD) {
        return moved(&format!("{path}/{query}"));
    }
    backend.path_and_query = format!("{}{rest}{query}", if rest.is_empty() { "/" } else { "" });
    let asked = host_of(&parts);
    forward_headers(&mut parts, prefix, rest);
    let links = Links::new(prefix, format!("{}:{}", backend.host, backend.port), asked.clone());
    let headless = parts.method == Method::HEAD;
    let answer = connect::hand_on(call, &backend, parts, body, Some(&asked)).await;
    match answer {
        Ok(response) if upgrade => Ok(response),
        Ok(response) => Ok(led_back(response, links, headless)),
        Err(error) => Err(unreachable(&backend, upgrade, &*error)),
    }
}

/// The path up to the proxy, and what follows it in so many segments.
fn split(path: &str, segments: usize) -> (&str, &str) {
    let open = path.strip_suffix('/').unwrap_or(path);
    let slashes = open.rmatch_indices('/').map(|(at, _)| at);
    let end = match segments {
        0 => open.len(),
        count => slashes.take(count).last().unwrap_or(open.len()),
    };
    path.split_at(end)
}

/// Relative links of a page would otherwise lead out of the proxy.
fn moved(location: &str) -> Result<Response<Body>, Status> {
    let mut response = Response::new(reply::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(LOCATION, location.parse().map_err(Status::internal)?);
    Ok(response)
}

/// The server's name as the client knows it.
fn host_of(parts: &Parts) -> String {
    let named = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    named.or(parts.uri.authority().map(Authority::as_str)).unwrap_or("").to_owned()
}

fn forward_headers(parts: &mut Parts, prefix: &str, rest: &str) {
    if let Ok(uri) = HeaderValue::try_from(format!("{prefix}{rest}")) {
        parts.headers.insert(FORWARDED_URI, uri);
    }
    if let Some(Peer(peer)) = parts.extensions.get::<Peer>() {
        let before = parts.headers.get(&FORWARDED_FOR).and_then(|before| before.to_str().ok());
        let through = before.map(|before| format!("{before}, ")).unwrap_or_default();
        if let Ok(through) = HeaderValue::try_from(format!("{through}{peer}")) {
            parts.headers.insert(FORWARDED_FOR, through);
        }
    }
}

/// The answer, as it should look from outside of the proxy.
fn led_back(mut response: Response<Body>, links: Links, headless: bool) -> Response<Body> {
    let headers = response.headers_mut();
    CORS.iter().for_each(|name| drop(headers.remove(name)));
    if let Some(location) = headers.get(LOCATION).and_then(|location| location.to_str().ok()) {
        let led = links.through(location).and_then(|led| led.parse().ok());
        led.map(|led| headers.insert(LOCATION, led));
        return response;
    }
    match page_encoding(headers) {
        Some(encoding) if !headless => {
            headers.remove(CONTENT_LENGTH);
            response.map(|body| rewritten(body, links, encoding))
        }
        _ => response,
    }
}

/// How a web page is encoded; none if the answer is no page, or one that cannot be read.
fn page_encoding(headers: &HeaderMap) -> Option<Encoding> {
    let text = |name| headers.get(name).map_or(Some(""), |value| value.to_str().ok());
    let kind = text(CONTENT_TYPE)?.split(';').next()?.trim();
    match (kind, text(CONTENT_ENCODING)?) {
        ("text/html", "") => Some(Encoding::Plain),
        ("text/html", "gzip") => Some(Encoding::Gzip),
        _ => None,
    }
}

fn unreachable(backend: &Backend, upgrade: bool, error: &dyn std::fmt::Display) -> Status {
    match upgrade {
        true => connect::unreachable(backend, error),
        false => Status::unavailable(format!(
            "error trying to reach service: {}:{}: {error}",
            backend.host, backend.port
        )),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[test]
    fn a_path_is_split_behind_the_proxy() {
        let check = |path, segments, expected| assert_eq!(split(path, segments), expected);
        check("/api/v1/nodes/n/proxy", 0, ("/api/v1/nodes/n/proxy", ""));
        check("/api/v1/nodes/n/proxy/", 0, ("/api/v1/nodes/n/proxy", "/"));
        check("/api/v1/nodes/n/proxy/a/b", 2, ("/api/v1/nodes/n/proxy", "/a/b"));
        check("/api/v1/nodes/n/proxy/a%2Fb/", 1, ("/api/v1/nodes/n/proxy", "/a%2Fb/"));
    }

    async fn through_proxy(headers: &[(&str, &str)], body: &'static str) -> Response<Bytes> {
        let mut response = Response::new(reply::full(Bytes::from_static(body.as_bytes())));
        for (name, value) in headers {
            let name: HeaderName = name.parse().expect("a name");
            response.headers_mut().insert(name, value.parse().expect("a value"));
        }
        let links = Links::new("/p", "10.0.0.7:80".to_owned(), String::new());
        let (parts, body) = led_back(response, links, false).into_parts();
        Response::from_parts(parts, body.collect().await.expect("read").to_bytes())
    }

    #[tokio::test]
    async fn a_redirect_stays_within_the_proxy() {
        let answer = through_proxy(&[("location", "/login")], "").await;
        assert_eq!(answer.headers()[LOCATION], "/p/login");
        let answer = through_proxy(&[("location", "https://example.com/")], "").await;
        assert_eq!(answer.headers()[LOCATION], "https://example.com/");
    }

    #[tokio::test]
    async fn pages_are_rewritten_and_nothing_else_is() {
        let link = r#"<a href="/x">test</a>"#;
        let page = [("content-type", "text/html; charset=utf-8"), ("content-length", "21")];
        let answer = through_proxy(&page, link).await;
        assert_eq!(answer.body(), r#"<a href="/p/x">test</a>"#);
        assert_eq!(answer.headers().get(CONTENT_LENGTH), None);
        let answer = through_proxy(&[("content-type", "text/plain")], link).await;
        assert_eq!(answer.body(), link);
        let unread = [("content-type", "text/html"), ("content-encoding", "br")];
        assert_eq!(through_proxy(&unread, link).await.body(), link);
    }

    #[tokio::test]
    async fn what_is_proxied_opens_this_server_to_no_other_origin() {
        let answer = through_proxy(&[("access-control-allow-origin", "*")], "").await;
        assert_eq!(answer.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN), None);
    }
}
