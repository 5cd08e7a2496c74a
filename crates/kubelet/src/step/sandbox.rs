//! Runs and stops the pod sandbox.
//!
//! Differs from upstream: the node's `resolv.conf` is read anew for each sandbox, so a change of it needs no restart.

use super::{Outcome, StepError, StepInput};
use crate::{container::sandbox::sandbox_config, context::NodeContext, events::EventType};

pub async fn run(ctx: &NodeContext, input: &StepInput, attempt: u32) -> Result<Outcome, StepError> {
    if let Some(dead) = &input.sandbox {
        // Its network has to be given back before the next one asks for an address.
        ctx.runtime
            .stop_pod_sandbox(&dead.id)
            .await
            .map_err(|e| StepError::setup("KillPodSandboxError", e))?;
    }
    let pod = &input.pod;
    let node_resolv_conf =
        tokio::fs::read_to_string(&ctx.config.resolv_conf).await.unwrap_or_default();
    let config = sandbox_config(pod, attempt, &ctx.config, &node_resolv_conf);
    if let Err(error) = tokio::fs::create_dir_all(&config.log_directory).await {
        return Err(StepError::setup(
            "CreatePodSandboxError",
            format!("create pod log directory: {error}"),
        ));
    }
    match ctx.runtime.run_pod_sandbox(config).await {
        Ok(_) => Ok(Outcome::SandboxChanged),
        Err(error) => {
            let message = format!("Failed to create pod sandbox: {error}");
            ctx.recorder.pod(pod, EventType::Warning, "FailedCreatePodSandBox", message);
            Err(StepError::setup("CreatePodSandboxError", error))
        }
    }
}

pub async fn stop(ctx: &NodeContext, id: &str) -> Result<Outcome, StepError> {
    match ctx.runtime.stop_pod_sandbox(id).await {
        Ok(()) => Ok(Outcome::SandboxChanged),
        Err(error) => Err(StepError::setup("KillPodSandboxError", error)),
    }
}
