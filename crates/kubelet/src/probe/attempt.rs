//! One question to one container, in whichever way its probe asks. Counterpart: `pkg/probe`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Probe;
use skiff_runtime::PodSandboxStatus;
use tokio::net::TcpStream;

use super::{grpc, http, port};
use crate::{
    context::NodeContext,
    pod::desired::{DesiredContainer, DesiredPod},
};

/// A failure says what `kubectl describe` shows after "probe failed:".
pub enum Answer {
    Success,
    Failure(String),
}

pub struct Target {
    pub pod: Arc<DesiredPod>,
    pub container: DesiredContainer,
    pub container_id: String,
    sandbox: Option<PodSandboxStatus>,
}

// === impl Target ===

impl Target {
    pub fn new(
        pod: Arc<DesiredPod>,
        container: DesiredContainer,
        container_id: String,
        sandbox: Option<PodSandboxStatus>,
    ) -> Self {
        Target { pod, container, container_id, sandbox }
    }

    pub async fn ask(&self, ctx: &NodeContext, probe: &Probe, timeout: Duration) -> Answer {
        let result = if let Some(exec) = &probe.exec {
            self.exec(ctx, exec.command.as_deref().unwrap_or_default(), timeout).await
        } else {
            let host = port::host(&self.pod, self.sandbox.as_ref(), &ctx.config.node_ips);
            self.dial(probe, host, timeout).await
        };
        match result {
            Ok(()) => Answer::Success,
            Err(output) => Answer::Failure(output),
        }
    }

    async fn exec(
        &self,
        ctx: &NodeContext,
        command: &[String],
        timeout: Duration,
    ) -> Result<(), String> {
        match ctx.runtime.exec_sync(&self.container_id, command, Some(timeout)).await {
            Ok(output) if output.exit_code == 0 => Ok(()),
            Ok(output) => {
                Err(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
            }
            Err(skiff_runtime::Error::ExecTimeout { .. }) => Err(format!(
                "command timed out: {command:?} timed out after {}s",
                timeout.as_secs()
            )),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn dial(&self, probe: &Probe, host: String, timeout: Duration) -> Result<(), String> {
        let spec = &self.container.spec;
        if let Some(action) = &probe.http_get {
            let request = http::Request::resolve(action, spec, host)?;
            return http::get(&request, timeout).await.map(drop);
        }
        if let Some(action) = &probe.tcp_socket {
            let port = port::resolve(&action.port, spec)?;
            let host = action.host.clone().filter(|h| !h.is_empty()).unwrap_or(host);
            return tcp(&host, port, timeout).await.map(drop);
        }
        if let Some(action) = &probe.grpc {
            let port =
                u16::try_from(action.port).map_err(|_| format!("invalid port {}", action.port))?;
            let service = action.service.as_deref().unwrap_or_default();
            return grpc::check(&host, port, service, timeout).await;
        }
        Err("missing probe handler".into())
    }
}

/// Connects, with Go's words for what goes wrong.
pub async fn tcp(host: &str, port: u16, timeout: Duration) -> Result<TcpStream, String> {
    let shown =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let connect = async {
        match host.parse() {
            Ok(ip) => TcpStream::connect(SocketAddr::new(ip, port)).await,
            Err(_) => TcpStream::connect((host, port)).await,
        }
    };
    match tokio::time::timeout(timeout, connect).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Err(format!("dial tcp {shown}: connect: connection refused"))
        }
        Ok(Err(error)) => Err(format!("dial tcp {shown}: {error}")),
        Err(_) => Err(format!("dial tcp {shown}: i/o timeout")),
    }
}
