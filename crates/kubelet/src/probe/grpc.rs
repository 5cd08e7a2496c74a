//! gRPC health checks: `grpc.health.v1.Health/Check` over plain HTTP/2.
//!
//! Counterpart: `pkg/probe/grpc`. The two messages are small enough to be framed here:
//! request field 1 is the service name, response field 1 is the status, of which 1 means SERVING.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::attempt::tcp;

const SERVING: u64 = 1;
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const MAX_ANSWER: usize = 4096;

pub async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Result<(), String> {
    let ask = async {
        let stream = tcp(host, port, timeout).await?;
        exchange(stream, &format!("{host}:{port}"), service).await
    };
    match tokio::time::timeout(timeout, ask).await {
        Ok(result) => result,
        Err(_) => Err(format!(
            "timeout: failed to connect service \"{host}:{port}\" within {}s",
            timeout.as_secs()
        )),
    }
}

async fn exchange(
    stream: tokio::net::TcpStream,
    authority: &str,
    service: &str,
) -> Result<(), String> {
    let text = |e: &dyn std::fmt::Display| format!("error: health rpc probe failed: {e}");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|e| text(&e))?;
    tokio::spawn(connection);
    let request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "kube-probe/1.36")
        .body(Full::new(frame(service)))
        .map_err(|e| text(&e))?;
    let response = sender.send_request(request).await.map_err(|e| text(&e))?;
    let early = response.headers().get("grpc-status").cloned();
    let body =
        Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|e| text(&e))?;
    let late = body.trailers().and_then(|t| t.get("grpc-status")).cloned();
    match early.or(late).as_ref().map(|v| v.as_bytes()) {
        Some(b"0") | None => {}
        Some(code) => return Err(text(&format!("grpc status {}", String::from_utf8_lossy(code)))),
    }
    match status(&body.to_bytes()) {
        Some(SERVING) => Ok(()),
        Some(other) => {
            let name =
                usize::try_from(other).ok().and_then(|i| STATUSES.get(i)).unwrap_or(&"UNKNOWN");
            Err(format!("service unhealthy (responded with {name:?})"))
        }
        None => Err(text(&"malformed answer")),
    }
}

/// Uncompressed flag, length, then the message.
fn frame(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put(message);
    framed.freeze()
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// The status of a framed answer; a message without the field says UNKNOWN.
fn status(framed: &[u8]) -> Option<u64> {
    let message = framed.get(5..)?;
    match message.split_first() {
        None => Some(0),
        Some((0x08, rest)) => {
            let end = rest.iter().position(|b| b & 0x80 == 0)?;
            (end < 10)
                .then(|| rest[..=end].iter().rev().fold(0u64, |n, b| n << 7 | u64::from(b & 0x7f)))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_reads() {
        assert_eq!(frame("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(frame("db").as_ref(), [0, 0, 0, 0, 4, 0x0a, 2, b'd', b'b']);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(status(&[0, 0]), None);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 0x80]), None);
    }
}
