//! Hands an upgrade request on to another server, unchanged, and splices the two connections.
//!
//! Input: a client's request and a connection to the upstream server. Output: the upstream's answer;
//! after a 101, bytes flow both ways until both sides are done. Counterpart: `UpgradeAwareHandler`.
//!
//! Invariant: nothing is interpreted. An answer other than 101 reaches the client as it is.

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, combinators::BoxBody};
use hyper::body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

use crate::Error;

/// Per direction of a spliced connection.
const BUFFER: usize = 64 * 1024;

pub type ProxyBody = BoxBody<Bytes, hyper::Error>;

/// Forwards `request` over `upstream` and returns the answer for the client.
pub async fn proxy_upgrade<B, IO>(
    mut request: Request<B>,
    upstream: IO,
) -> Result<Response<ProxyBody>, Error>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let client = hyper::upgrade::on(&mut request);
    // To a server, as opposed to a proxy, a request names its path only.
    if let Some(path) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = Uri::from(path);
    }
    let (mut sender, connection) = http1::handshake(TokioIo::new(upstream)).await?;
    tokio::spawn(connection.with_upgrades());
    let mut response = sender.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response.map(BodyExt::boxed));
    }
    let server = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        if let Err(error) = splice(client, server).await {
            tracing::debug!(%error, "proxied stream ended");
        }
    });
    Ok(response.map(|_| Empty::new().map_err(|never| match never {}).boxed()))
}

async fn splice(
    client: hyper::upgrade::OnUpgrade,
    server: hyper::upgrade::OnUpgrade,
) -> Result<(), Error> {
    let mut server = TokioIo::new(server.await?);
    let mut client = TokioIo::new(client.await?);
    copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await?;
    Ok(())
}
