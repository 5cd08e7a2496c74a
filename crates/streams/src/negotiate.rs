//! Chooses the protocol of an upgrade request: request headers in, [`Negotiated`] or an error answer out.
//!
//! The two tables below are the whole policy: what each endpoint offers over which upgrade. The
//! client's order of preference decides among them, as upstream. Counterpart: `httpstream.Handshake`
//! (SPDY) and the handshake of `wsstream` and `golang.org/x/net/websocket`.
//!
//! Invariant: the 101 answer names exactly the protocol that will be spoken.

use std::future::Future;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use sha1::{Digest, Sha1};

use crate::Error;

pub(crate) const HEADER_PROTOCOL: &str = "x-stream-protocol-version";
pub(crate) const HEADER_ACCEPTED_PROTOCOLS: &str = "x-accepted-stream-protocol-versions";
pub(crate) const HEADER_WEBSOCKET_PROTOCOL: &str = "sec-websocket-protocol";
pub(crate) const HEADER_WEBSOCKET_VERSION: &str = "sec-websocket-version";
pub(crate) const HEADER_WEBSOCKET_KEY: &str = "sec-websocket-key";
pub(crate) const SPDY_31: &str = "SPDY/3.1";

/// Which subresource is asked for; the same protocol name means different things to each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// exec and attach.
    RemoteCommand,
    PortForward,
    /// An answer in messages that go one way.
    Messages,
    /// The same for events, which look alike whatever protocol the client names: it hears its own word back.
    Events,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upgrade {
    WebSocket,
    Spdy,
}

/// How bytes are laid out on the upgraded connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// WebSocket messages that start with a channel number.
    Channels(Codec),
    /// WebSocket messages as they are.
    Messages(Codec),
    /// SPDY frames directly on the connection.
    Spdy,
    /// SPDY frames inside binary WebSocket messages.
    SpdyInWebSocket,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Binary,
    Base64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Protocol {
    pub name: &'static str,
    pub upgrade: Upgrade,
    pub framing: Framing,
    /// 1 to 5: 3 adds terminal resizing, 4 the JSON status, 5 the close signal of channels.
    pub version: u8,
}

const fn channels(name: &'static str, codec: Codec, version: u8) -> Protocol {
    Protocol { name, upgrade: Upgrade::WebSocket, framing: Framing::Channels(codec), version }
}

const fn spdy(name: &'static str, version: u8) -> Protocol {
    Protocol { name, upgrade: Upgrade::Spdy, framing: Framing::Spdy, version }
}

/// The empty name is a client that asked for none, which old clients of both kinds do.
const REMOTE_COMMAND: &[Protocol] = &[
    channels("v5.channel.k8s.io", Codec::Binary, 5),
    channels("v4.channel.k8s.io", Codec::Binary, 4),
    channels("v4.base64.channel.k8s.io", Codec::Base64, 4),
    channels("channel.k8s.io", Codec::Binary, 1),
    channels("base64.channel.k8s.io", Codec::Base64, 1),
    channels("", Codec::Binary, 1),
    // Over SPDY version 5 is version 4: the close signal it adds is a matter of channels.
    spdy("v5.channel.k8s.io", 4),
    spdy("v4.channel.k8s.io", 4),
    spdy("v3.channel.k8s.io", 3),
    spdy("v2.channel.k8s.io", 2),
    spdy("channel.k8s.io", 1),
    spdy("", 1),
];

const PORT_FORWARD: &[Protocol] = &[
    Protocol {
        name: "SPDY/3.1+portforward.k8s.io",
        upgrade: Upgrade::WebSocket,
        framing: Framing::SpdyInWebSocket,
        version: 1,
    },
    channels("v4.channel.k8s.io", Codec::Binary, 4),
    channels("v4.base64.channel.k8s.io", Codec::Base64, 4),
    channels("", Codec::Binary, 4),
    spdy("portforward.k8s.io", 1),
    spdy("", 1),
];

const fn messages(name: &'static str, codec: Codec) -> Protocol {
    Protocol { name, upgrade: Upgrade::WebSocket, framing: Framing::Messages(codec), version: 1 }
}

const MESSAGES: &[Protocol] = &[
    messages("", Codec::Binary),
    messages("binary.k8s.io", Codec::Binary),
    messages("base64.binary.k8s.io", Codec::Base64),
];

/// Subprotocols that begin so carry a browser's credentials and choose nothing.
const BEARER: &str = "base64url.bearer.authorization.k8s.io.";

/// The protocol both sides will speak. Send [`Negotiated::response`], then wait for
/// [`Negotiated::upgraded`] and hand its connection to `RemoteCommand` or `PortForward`.
#[derive(Debug, Clone)]
pub struct Negotiated {
    pub(crate) endpoint: Endpoint,
    pub(crate) protocol: Protocol,
    websocket_accept: Option<HeaderValue>,
    /// What the client hears of the protocol; nothing if it named none.
    agreed: Option<HeaderValue>,
}

/// Chooses the best protocol the client and this crate have in common.
pub fn negotiate<B>(request: &Request<B>, endpoint: Endpoint) -> Result<Negotiated, Error> {
    let headers = request.headers();
    let upgrade = requested_upgrade(headers).ok_or(Error::NotAnUpgrade)?;
    let websocket_accept = match upgrade {
        Upgrade::WebSocket => Some(websocket_accept(request)?),
        Upgrade::Spdy => None,
    };
    let asked = comma_separated(
        headers,
        match upgrade {
            Upgrade::WebSocket => HEADER_WEBSOCKET_PROTOCOL,
            Upgrade::Spdy => HEADER_PROTOCOL,
        },
    );
    let mut asked: Vec<String> =
        asked.into_iter().filter(|name| !name.starts_with(BEARER)).collect();
    let mut agreed = None;
    if endpoint == Endpoint::Events {
        agreed = only(std::mem::take(&mut asked))?;
    }
    let protocol = choose(endpoint, upgrade, asked)?;
    if !protocol.name.is_empty() {
        agreed = Some(HeaderValue::from_static(protocol.name));
    }
    Ok(Negotiated { endpoint, protocol, websocket_accept, agreed })
}

/// The one protocol a client may name where none is chosen from: browsers hang up unless they hear it back.
fn only(asked: Vec<String>) -> Result<Option<HeaderValue>, Error> {
    match &asked[..] {
        [] => Ok(None),
        [name] => HeaderValue::from_str(name)
            .map(Some)
            .map_err(|_| Error::BadHandshake("sec-websocket-protocol is malformed")),
        _ => Err(Error::BadHandshake("one websocket protocol may be named")),
    }
}

// === impl Negotiated ===

impl Negotiated {
    /// The name both sides agreed on, as clients write it; empty when the client named none.
    pub fn protocol_name(&self) -> &'static str {
        self.protocol.name
    }

    /// The 101 answer that starts the chosen protocol.
    pub fn response(&self) -> Response<Empty<Bytes>> {
        let mut response = Response::new(Empty::new());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        let (upgrade, protocol_header) = match self.protocol.upgrade {
            Upgrade::WebSocket => ("websocket", HEADER_WEBSOCKET_PROTOCOL),
            Upgrade::Spdy => (SPDY_31, HEADER_PROTOCOL),
        };
        headers.insert(header::UPGRADE, HeaderValue::from_static(upgrade));
        if let Some(accept) = &self.websocket_accept {
            headers.insert("sec-websocket-accept", accept.clone());
        }
        if let Some(agreed) = &self.agreed {
            headers.insert(protocol_header, agreed.clone());
        }
        response
    }

    /// The connection, once the 101 answer has been sent. Call it before the request is dropped;
    /// await it in a task of its own, for it completes only after the handler has returned.
    pub fn upgraded<B>(
        request: &mut Request<B>,
    ) -> impl Future<Output = Result<TokioIo<Upgraded>, Error>> + Send + 'static {
        let upgrade = hyper::upgrade::on(request);
        async move { Ok(TokioIo::new(upgrade.await?)) }
    }
}

fn choose(endpoint: Endpoint, upgrade: Upgrade, asked: Vec<String>) -> Result<Protocol, Error> {
    let chosen = if asked.is_empty() {
        protocol_named(endpoint, upgrade, "")
    } else {
        asked.iter().find_map(|name| protocol_named(endpoint, upgrade, name))
    };
    chosen.ok_or_else(|| Error::NoCommonProtocol {
        client: asked,
        server: offered(endpoint, upgrade)
            .map(|offer| offer.name)
            .filter(|name| !name.is_empty())
            .collect(),
    })
}

pub(crate) fn protocol_named(endpoint: Endpoint, upgrade: Upgrade, name: &str) -> Option<Protocol> {
    offered(endpoint, upgrade).find(|offer| offer.name == name).copied()
}

fn offered(endpoint: Endpoint, upgrade: Upgrade) -> impl Iterator<Item = &'static Protocol> {
    let table = match endpoint {
        Endpoint::RemoteCommand => REMOTE_COMMAND,
        Endpoint::PortForward => PORT_FORWARD,
        Endpoint::Messages | Endpoint::Events => MESSAGES,
    };
    table.iter().filter(move |offer| offer.upgrade == upgrade)
}

fn requested_upgrade(headers: &HeaderMap) -> Option<Upgrade> {
    let connection = comma_separated(headers, header::CONNECTION.as_str());
    if !connection.iter().any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return None;
    }
    let upgrade = comma_separated(headers, header::UPGRADE.as_str());
    upgrade.iter().find_map(|name| {
        if name.eq_ignore_ascii_case("websocket") {
            Some(Upgrade::WebSocket)
        } else if name.eq_ignore_ascii_case(SPDY_31) {
            Some(Upgrade::Spdy)
        } else {
            None
        }
    })
}

fn websocket_accept<B>(request: &Request<B>) -> Result<HeaderValue, Error> {
    if request.method() != Method::GET {
        return Err(Error::WebSocketMethod);
    }
    let headers = request.headers();
    if headers.get(HEADER_WEBSOCKET_VERSION).is_none_or(|v| v != "13") {
        return Err(Error::WebSocketVersion);
    }
    let key = headers
        .get(HEADER_WEBSOCKET_KEY)
        .filter(|key| !key.is_empty())
        .ok_or(Error::BadHandshake("sec-websocket-key is required"))?;
    Ok(accept_key(key.as_bytes()))
}

/// RFC 6455 section 4.2.2: the proof that the server read the client's key.
pub(crate) fn accept_key(key: &[u8]) -> HeaderValue {
    let mut digest = Sha1::new();
    digest.update(key);
    digest.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    HeaderValue::try_from(STANDARD.encode(digest.finalize()))
        .expect("base64 is a valid header value")
}

/// The values of a header that may be repeated, comma separated, or both.
pub(crate) fn comma_separated(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|value| !value.is_empty())
        .map(str::to_owned)
        .collect()
}
