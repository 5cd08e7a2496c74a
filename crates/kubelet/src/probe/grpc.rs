//! gRPC health checks: `grpc.health.v1.Health/Check`.
//!
//! Host, port and service -> healthy, or why not. Counterpart: `pkg/probe/grpc`.
//! Invariant: only SERVING is healthy.

use std::time::Duration;

use skiff_grpc::{Channel, Status};

use super::attempt::tcp;

const SERVING: usize = 1;
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const MAX_ANSWER: usize = 4096;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

pub async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Result<(), String> {
    let ask = async {
        let stream = tcp(host, port, timeout).await?;
        let failed = |error: Status| format!("error: health rpc probe failed: {error}");
        let answer = ask(stream, &format!("{host}:{port}"), service).await.map_err(failed)?;
        healthy(answer.status)
    };
    match tokio::time::timeout(timeout, ask).await {
        Ok(result) => result,
        Err(_) => Err(format!(
            "timeout: failed to connect service \"{host}:{port}\" within {}s",
            timeout.as_secs()
        )),
    }
}

async fn ask(
    stream: tokio::net::TcpStream,
    authority: &str,
    service: &str,
) -> Result<HealthCheckResponse, Status> {
    let channel = Channel::over(stream, authority).await?;
    let channel = channel.user_agent("kube-probe/1.36").max_message(MAX_ANSWER);
    let request = HealthCheckRequest { service: service.to_owned() };
    channel.unary("/grpc.health.v1.Health/Check", &request, None).await
}

fn healthy(status: i32) -> Result<(), String> {
    let number = usize::try_from(status).unwrap_or_default();
    match number {
        SERVING => Ok(()),
        _ => {
            let name = STATUSES.get(number).unwrap_or(&STATUSES[0]);
            Err(format!("service unhealthy (responded with {name:?})"))
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn only_a_serving_service_is_healthy() {
        let answer = |bytes: &[u8]| HealthCheckResponse::decode(bytes).expect("it reads").status;
        assert_eq!(healthy(answer(&[8, 1])), Ok(()));
        for (sent, name) in [(&[][..], "UNKNOWN"), (&[8, 2], "NOT_SERVING"), (&[8, 9], "UNKNOWN")] {
            let text = format!("service unhealthy (responded with \"{name}\")");
            assert_eq!(healthy(answer(sent)), Err(text));
        }
    }
}
