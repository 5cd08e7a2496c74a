//! Which protocol is chosen, and how a request that cannot be upgraded is answered.

use http::{Request, StatusCode};
use skiff_streams::{Endpoint, Error, negotiate};

fn request(headers: &[(&str, &str)]) -> Request<()> {
    let mut builder = Request::get("/");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap()
}

fn websocket(protocols: &[&str]) -> Request<()> {
    let mut headers = vec![
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    headers.extend(protocols.iter().map(|name| ("sec-websocket-protocol", *name)));
    request(&headers)
}

fn spdy(protocols: &[&str]) -> Request<()> {
    let mut headers = vec![("connection", "upgrade"), ("upgrade", "SPDY/3.1")];
    headers.extend(protocols.iter().map(|name| ("X-Stream-Protocol-Version", *name)));
    request(&headers)
}

#[test]
fn the_clients_first_known_protocol_is_chosen() {
    use Endpoint::{PortForward, RemoteCommand};
    let check = |request: &Request<()>, endpoint, expected: &str| {
        let negotiated = negotiate(request, endpoint).unwrap();
        assert_eq!(negotiated.protocol_name(), expected);
        let response = negotiated.response();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        let named = ["sec-websocket-protocol", "x-stream-protocol-version"]
            .iter()
            .find_map(|name| response.headers().get(*name));
        assert_eq!(named.map_or("", |name| name.to_str().unwrap()), expected);
    };
    let v5 = "v5.channel.k8s.io";
    check(&websocket(&[v5]), RemoteCommand, v5);
    check(
        &websocket(&["v9.channel.k8s.io, v4.channel.k8s.io", v5]),
        RemoteCommand,
        "v4.channel.k8s.io",
    );
    check(&websocket(&["base64.channel.k8s.io"]), RemoteCommand, "base64.channel.k8s.io");
    check(&websocket(&[]), RemoteCommand, "");
    check(&spdy(&["v4.channel.k8s.io", "v3.channel.k8s.io"]), RemoteCommand, "v4.channel.k8s.io");
    check(&spdy(&["v2.channel.k8s.io,channel.k8s.io"]), RemoteCommand, "v2.channel.k8s.io");
    check(&spdy(&[]), RemoteCommand, "");
    let tunnelled = "SPDY/3.1+portforward.k8s.io";
    check(&websocket(&[tunnelled]), PortForward, tunnelled);
    check(&spdy(&["portforward.k8s.io"]), PortForward, "portforward.k8s.io");
}

/// Events look alike in every protocol, but a browser that named one hangs up unless it is named back.
#[test]
fn a_watch_hears_the_protocol_it_named() {
    let named = |protocols: &[&str]| {
        let negotiated = negotiate(&websocket(protocols), Endpoint::Events)?;
        let response = negotiated.response();
        let name = response.headers().get("sec-websocket-protocol");
        Ok::<_, Error>(name.map(|name| name.to_str().unwrap().to_owned()))
    };
    assert_eq!(named(&[]).unwrap(), None);
    assert_eq!(named(&["some.thing"]).unwrap().as_deref(), Some("some.thing"));
    let with_token = "base64url.bearer.authorization.k8s.io.eHg, binary.k8s.io";
    assert_eq!(named(&[with_token]).unwrap().as_deref(), Some("binary.k8s.io"));
    assert_eq!(named(&["one, other"]).unwrap_err().status_code(), StatusCode::BAD_REQUEST);
}

#[test]
fn refusals_have_upstreams_codes() {
    let check = |request: &Request<()>, endpoint, code: u16| {
        let error = negotiate(request, endpoint).unwrap_err();
        assert_eq!(error.response().status().as_u16(), code, "{error}");
        error
    };
    let unknown = spdy(&["v9.channel.k8s.io"]);
    let error = check(&unknown, Endpoint::RemoteCommand, 403);
    let accepted = error.response();
    let accepted = accepted.headers().get_all("x-accepted-stream-protocol-versions");
    assert_eq!(accepted.iter().next().unwrap(), "v5.channel.k8s.io");
    check(&websocket(&["portforward.k8s.io"]), Endpoint::PortForward, 403);
    check(&request(&[]), Endpoint::RemoteCommand, 400);
    check(&request(&[("upgrade", "websocket")]), Endpoint::RemoteCommand, 400);
    let no_key = request(&[
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
    ]);
    check(&no_key, Endpoint::RemoteCommand, 400);
    let old = request(&[
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "8"),
    ]);
    let error = check(&old, Endpoint::RemoteCommand, 400);
    assert_eq!(error.response().headers()["sec-websocket-version"], "13");
    assert!(matches!(error, Error::WebSocketVersion));
}
