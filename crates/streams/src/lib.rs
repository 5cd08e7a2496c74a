//! The streaming protocols of exec, attach and port-forward, for whoever serves them and for clients.
//!
//! An upgrade request goes in; byte streams that any tokio code can read and write come out:
//! [`negotiate`] picks the protocol and builds the 101 answer, [`RemoteCommand`], [`PortForward`] and
//! [`send_messages`] drive the upgraded connection, [`proxy_upgrade`] hands a request on to another server unchanged.
//!
//! Counterpart: `k8s.io/streaming`, `k8s.io/kubelet/pkg/cri/streaming` and `moby/spdystream`.
//! Differs from upstream: SPDY flow control windows are honoured once the peer uses them, and a
//! tunnelled port-forward (`SPDY/3.1+portforward.k8s.io`) is served here, not by a translator in between.
//!
//! Invariant: nothing here knows pods or containers; memory per stream and per session is bounded,
//! and a full buffer stops reading from the peer.
//!
//! A server's handler, in full:
//!
//! ```
//! use http::{Request, Response};
//! use skiff_streams::{CommandStatus, Endpoint, Error, Negotiated, RemoteCommand, StreamOptions};
//! use tokio::io::AsyncWriteExt;
//!
//! fn exec<B>(mut request: Request<B>) -> Result<Response<http_body_util::Empty<bytes::Bytes>>, Error> {
//!     let options = StreamOptions::from_query(request.uri().query().unwrap_or_default())?;
//!     let negotiated = skiff_streams::negotiate(&request, Endpoint::RemoteCommand)?;
//!     let upgraded = Negotiated::upgraded(&mut request);
//!     let response = negotiated.response();
//!     tokio::spawn(async move {
//!         let streams = RemoteCommand::accept(upgraded.await?, &negotiated, options).await?;
//!         if let Some(mut stdout) = streams.stdout {
//!             stdout.write_all(b"hello").await?;
//!         }
//!         streams.status.finish(CommandStatus::Success).await
//!     });
//!     Ok(response)
//! }
//! ```

mod channels;
pub mod client;
mod error;
mod messages;
mod mux;
mod negotiate;
mod port_forward;
mod proxy;
mod remote_command;
mod spdy;
mod websocket;

pub use error::Error;
pub use messages::send_messages;
pub use mux::{Incoming, Outgoing};
pub use negotiate::{Endpoint, Negotiated, negotiate};
pub use port_forward::{DataStream, ForwardedConnection, PortForward, forwarded_ports};
pub use proxy::{ProxyBody, proxy_upgrade};
pub use remote_command::{
    CommandStatus, ErrorStream, RemoteCommand, RemoteCommandStreams, StreamOptions, TerminalSize,
};
