//! What can go wrong before streams exist, and the HTTP answer each failure deserves.
//!
//! Input: a failed negotiation or stream set-up. Output: an [`Error`], which [`Error::response`] turns
//! into upstream's status code and plain-text body. Once streams exist, failures are `std::io::Error`s.

use std::io;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

use crate::negotiate::{HEADER_ACCEPTED_PROTOCOLS, HEADER_WEBSOCKET_VERSION};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("unable to upgrade: missing upgrade headers in request")]
    NotAnUpgrade,
    #[error("unable to upgrade: {0}")]
    BadHandshake(&'static str),
    #[error("unable to upgrade: websocket version 13 is required")]
    WebSocketVersion,
    #[error("unable to upgrade: a websocket handshake must be a GET request")]
    WebSocketMethod,
    #[error(
        "unable to upgrade: unable to negotiate protocol: client supports {client:?}, server accepts {server:?}"
    )]
    NoCommonProtocol { client: Vec<String>, server: Vec<&'static str> },
    #[error("you must specify at least 1 of stdin, stdout, stderr")]
    NoStreams,
    #[error("query parameter \"port\" is required")]
    NoPorts,
    #[error("unable to parse {0:?} as a port")]
    InvalidPort(String),
    #[error("timed out waiting for client to create streams")]
    StreamTimeout,
    #[error("the peer closed the connection before all streams were created")]
    Disconnected,
    #[error("the peer refused to open a stream")]
    StreamRefused,
    #[error("the protocol {protocol:?} does not serve this endpoint")]
    WrongEndpoint { protocol: &'static str },
    #[error("the server answered {0}, not 101 Switching Protocols")]
    UpgradeRefused(StatusCode),
    #[error("http exchange failed")]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Error {
    /// The answer for a client whose request could not be upgraded.
    pub fn response(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(format!("{self}\n")));
        *response.status_mut() = self.status_code();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        match self {
            Error::NoCommonProtocol { server, .. } => {
                for protocol in server {
                    headers.append(HEADER_ACCEPTED_PROTOCOLS, HeaderValue::from_static(protocol));
                }
            }
            Error::WebSocketVersion => {
                headers.insert(HEADER_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            _ => {}
        }
        response
    }

    pub fn status_code(&self) -> StatusCode {
        match self {
            Error::NoCommonProtocol { .. } => StatusCode::FORBIDDEN,
            Error::WebSocketMethod => StatusCode::METHOD_NOT_ALLOWED,
            Error::NotAnUpgrade
            | Error::BadHandshake(_)
            | Error::WebSocketVersion
            | Error::NoStreams
            | Error::NoPorts
            | Error::InvalidPort(_) => StatusCode::BAD_REQUEST,
            Error::Http(_) | Error::UpgradeRefused(_) => StatusCode::BAD_GATEWAY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}
