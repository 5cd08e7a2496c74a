//! Lifecycle hooks: exec, httpGet and sleep, after a start and before a stop.
//!
//! Counterpart: `pkg/kubelet/lifecycle/handlers.go`.

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;
use skiff_runtime::PodSandboxStatus;

use crate::{
    context::NodeContext,
    pod::desired::{DesiredContainer, DesiredPod},
    probe::{http, port},
};

const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

pub struct HookTarget<'a> {
    pub pod: &'a DesiredPod,
    pub container: &'a DesiredContainer,
    pub id: &'a str,
    pub sandbox: Option<&'a PodSandboxStatus>,
}

#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("command '{command}' exited with {exit_code}: {output}")]
    Exited { command: String, exit_code: i32, output: String },
    #[error(transparent)]
    Runtime(#[from] skiff_runtime::Error),
    #[error("{0}")]
    Http(String),
    #[error("invalid handler: none of exec, httpGet and sleep is given")]
    Invalid,
}

pub async fn run(
    ctx: &NodeContext,
    handler: &LifecycleHandler,
    target: &HookTarget<'_>,
) -> Result<(), HookError> {
    if let Some(exec) = &handler.exec {
        return exec_hook(ctx, exec.command.as_deref().unwrap_or_default(), target.id).await;
    }
    if let Some(action) = &handler.http_get {
        let host = port::host(target.pod, target.sandbox, &ctx.config.node_ips);
        let request = http::Request::resolve(action, &target.container.spec, host)
            .map_err(HookError::Http)?;
        let answer = http::get(&request, HTTP_TIMEOUT).await;
        return answer.map(drop).map_err(HookError::Http);
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0).unsigned_abs())).await;
        return Ok(());
    }
    Err(HookError::Invalid)
}

async fn exec_hook(ctx: &NodeContext, command: &[String], id: &str) -> Result<(), HookError> {
    let output = ctx.runtime.exec_sync(id, command, None).await?;
    if output.exit_code == 0 {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(HookError::Exited {
        command: command.join(" "),
        exit_code: output.exit_code,
        output: String::from_utf8_lossy(&text).trim_end().to_owned(),
    })
}
