//! exec, attach, port-forward and run: a client's streams joined to a container's.
//!
//! Counterpart: `pkg/kubelet/server/server.go`. Invariant: which pod and container is meant is decided here; how bytes are carried,
//! in `skiff_cri`, which serves the same protocols.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use skiff_cri::{forward, join};
use skiff_runtime::{AttachRequest, ContainerState, ContainerStatus, ExecRequest, PodSandboxState};
use skiff_streams::{
    Endpoint, Negotiated, PortForward, RemoteCommand, StreamOptions, forwarded_ports,
};

use super::{Body, Refusal, query, target::ContainerTarget, text};
use crate::context::NodeContext;

pub async fn remote_command(
    ctx: &Arc<NodeContext>,
    target: ContainerTarget,
    is_exec: bool,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let query_text = request.uri().query().unwrap_or_default().to_owned();
    let options = StreamOptions::from_query(&query_text).map_err(refused)?;
    let command: Vec<String> = query::values(&query_text, "command").collect();
    if is_exec && command.is_empty() {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "you must specify at least one command for the container",
        ));
    }
    let container = running(ctx, &target).await?;
    let tty = is_exec && options.tty || !is_exec && wants_tty(&target);
    let negotiated =
        skiff_streams::negotiate(&request, Endpoint::RemoteCommand).map_err(refused)?;
    let upgraded = Negotiated::upgraded(&mut request);
    let response = negotiated.response().map(empty);
    let ctx = ctx.clone();
    tokio::spawn(async move {
        let session = async {
            let streams = RemoteCommand::accept(upgraded.await?, &negotiated, options).await?;
            let StreamOptions { stdin, stdout, stderr, .. } = options;
            let opened = if is_exec {
                ctx.runtime
                    .exec(&container.id, ExecRequest { command, stdin, stdout, stderr, tty })
                    .await
            } else {
                ctx.runtime
                    .attach(&container.id, AttachRequest { stdin, stdout, stderr, tty })
                    .await
            };
            join(streams, opened).await
        };
        if let Err(error) = session.await {
            tracing::debug!(%error, "stream ended early");
        }
    });
    Ok(response)
}

fn wants_tty(target: &ContainerTarget) -> bool {
    target.pod.container(&target.container).is_some_and(|c| c.spec.tty.unwrap_or(false))
}

async fn running(ctx: &NodeContext, target: &ContainerTarget) -> Result<ContainerStatus, Refusal> {
    let containers = ctx.runtime.list_containers().await.map_err(Refusal::internal)?;
    let sandboxes = ctx.runtime.list_pod_sandboxes().await.map_err(Refusal::internal)?;
    let ours = |c: &ContainerStatus| {
        sandboxes.iter().any(|s| s.id == c.sandbox_id && s.metadata.uid == target.pod.key.uid)
    };
    let found = containers.into_iter().find(|c| {
        c.metadata.name == target.container && c.state == ContainerState::Running && ours(c)
    });
    found.ok_or_else(|| {
        let message = format!("container not found ({:?})", target.container);
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    })
}

pub async fn port_forward(
    ctx: &Arc<NodeContext>,
    uid: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let sandboxes = ctx.runtime.list_pod_sandboxes().await.map_err(Refusal::internal)?;
    let sandbox =
        sandboxes.into_iter().find(|s| s.metadata.uid == uid && s.state == PodSandboxState::Ready);
    let sandbox = sandbox.ok_or_else(|| Refusal::internal("the pod's sandbox is not running"))?;
    let query_text = request.uri().query().unwrap_or_default().to_owned();
    let negotiated = skiff_streams::negotiate(&request, Endpoint::PortForward).map_err(refused)?;
    let ports = if query_text.is_empty() {
        Vec::new()
    } else {
        forwarded_ports(&query_text).map_err(refused)?
    };
    let upgraded = Negotiated::upgraded(&mut request);
    let response = negotiated.response().map(empty);
    let ctx = ctx.clone();
    tokio::spawn(async move {
        let session = async {
            let mut session = PortForward::accept(upgraded.await?, &negotiated, &ports).await?;
            let mut connections = tokio::task::JoinSet::new();
            while let Some(connection) = session.next().await {
                let (ctx, sandbox) = (ctx.clone(), sandbox.id.clone());
                connections
                    .spawn(async move { forward(&*ctx.runtime, &sandbox, connection).await });
                while connections.try_join_next().is_some() {}
            }
            Ok::<(), skiff_streams::Error>(())
        };
        if let Err(error) = session.await {
            tracing::debug!(%error, "port-forward ended early");
        }
    });
    Ok(response)
}

/// Runs a command to its end and answers with all it wrote.
pub async fn run(
    ctx: &NodeContext,
    target: &ContainerTarget,
    query_text: &str,
) -> Result<Response<Body>, Refusal> {
    let container = running(ctx, target).await?;
    let command = query::value(query_text, "cmd").unwrap_or_default();
    let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    if command.is_empty() {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "no command given"));
    }
    let output =
        ctx.runtime.exec_sync(&container.id, &command, None).await.map_err(Refusal::internal)?;
    let all = [output.stdout, output.stderr].concat();
    if output.exit_code != 0 {
        let message =
            format!("command exited with {}: {}", output.exit_code, String::from_utf8_lossy(&all));
        return Err(Refusal::internal(message));
    }
    Ok(text(all))
}

fn refused(error: skiff_streams::Error) -> Refusal {
    Refusal::new(error.status_code(), error.to_string())
}

fn empty(body: http_body_util::Empty<bytes::Bytes>) -> Body {
    body.map_err(|never| match never {}).boxed()
}
