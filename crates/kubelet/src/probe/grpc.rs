//! gRPC health checks: `grpc.health.v1.Health/Check`.
//!
//! Host, port and service -> healthy, or why not. Counterpart: `pkg/probe/grpc`.
//! Invariant: only SERVING is healthy.

use std::time::Duration;

use skiff_api::codec::wire::{Payload, Reader, Writer};

use super::attempt::tcp;
use crate::grpc::Call;

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
    let call = Call {
        authority,
        method: "/grpc.health.v1.Health/Check",
        user_agent: "kube-probe/1.36",
        message: &question(service),
        max_answer: MAX_ANSWER,
    };
    let failed = |error: &dyn std::fmt::Display| format!("error: health rpc probe failed: {error}");
    let answer = call.run(stream).await.map_err(|error| failed(&error))?;
    match status(&answer) {
        Some(SERVING) => Ok(()),
        Some(other) => {
            let name =
                usize::try_from(other).ok().and_then(|i| STATUSES.get(i)).unwrap_or(&"UNKNOWN");
            Err(format!("service unhealthy (responded with {name:?})"))
        }
        None => Err(failed(&"malformed answer")),
    }
}

fn question(service: &str) -> Vec<u8> {
    let mut message = Writer::default();
    if !service.is_empty() {
        message.bytes(1, service.as_bytes());
    }
    message.0
}

/// The status of an answer; a message without the field says UNKNOWN.
fn status(message: &[u8]) -> Option<u64> {
    let mut reader = Reader(message);
    let mut status = 0;
    while let Some((number, payload)) = reader.field().ok()? {
        if let (1, Payload::Varint(value)) = (number, payload) {
            status = value;
        }
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_and_reads() {
        assert!(question("").is_empty());
        assert_eq!(question("db"), [0x0a, 2, b'd', b'b']);
        assert_eq!(status(&[8, 1]), Some(1));
        assert_eq!(status(&[]), Some(0));
        assert_eq!(status(&[8, 0x80]), None);
    }
}
