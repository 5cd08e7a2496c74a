//! Runs and stops the pod sandbox.
//!
//! Differs from upstream: the node's `resolv.conf` is read anew for each sandbox, so a change of it needs no restart.

use std::sync::atomic::Ordering;

use k8s_openapi::api::{core::v1::PodSpec, node::v1::RuntimeClass};
use kube::Api;
use skiff_runtime::{PodSandboxConfig, UserNamespace};

use super::{Outcome, StepError, StepInput};
use crate::{
    container::sandbox::sandbox_config, context::NodeContext, events::EventType,
    pod::desired::DesiredPod,
};

pub async fn run(ctx: &NodeContext, input: &StepInput, attempt: u32) -> Result<Outcome, StepError> {
    if let Some(dead) = &input.sandbox {
        // Its network has to be given back before the next one asks for an address.
        ctx.runtime
            .stop_pod_sandbox(&dead.id)
            .await
            .map_err(|e| StepError::setup("KillPodSandboxError", e))?;
    }
    let pod = &input.pod;
    if let Err(why) = ctx.claims.prepare(&ctx.client, pod).await {
        let message = format!("Failed to prepare dynamic resources: {why}");
        ctx.recorder.pod(pod, EventType::Warning, "FailedPrepareDynamicResources", message);
        return Err(StepError::setup("ContainerCreating", why));
    }
    let node_resolv_conf =
        tokio::fs::read_to_string(&ctx.config.resolv_conf).await.unwrap_or_default();
    let users = users(ctx, pod).await?;
    let config = PodSandboxConfig {
        runtime_handler: runtime_handler(ctx, pod).await?,
        ..sandbox_config(pod, attempt, &ctx.config, &node_resolv_conf, users)
    };
    if let Err(error) = tokio::fs::create_dir_all(&config.log_directory).await {
        return Err(StepError::setup(
            "CreatePodSandboxError",
            format!("create pod log directory: {error}"),
        ));
    }
    match ctx.runtime.run_pod_sandbox(config).await {
        Ok(_) => Ok(Outcome::SandboxChanged),
        Err(error) => Err(refused(ctx, pod, &error)),
    }
}

/// Running such a pod by the default handler would take away what its class is there for.
async fn runtime_handler(ctx: &NodeContext, pod: &DesiredPod) -> Result<String, StepError> {
    let class = pod.spec().runtime_class_name.as_deref().unwrap_or_default();
    if class.is_empty() {
        return Ok(String::new());
    }
    match Api::<RuntimeClass>::all(ctx.client.clone()).get(class).await {
        Ok(class) => Ok(class.handler),
        Err(kube::Error::Api(status)) => Err(refused(ctx, pod, &status.message)),
        Err(error) => {
            let why = format!("failed to lookup RuntimeClass {class}: {error}");
            Err(refused(ctx, pod, &why))
        }
    }
}

/// Running such a pod as the node's users would silently take away the protection it asks for.
async fn users(ctx: &NodeContext, pod: &DesiredPod) -> Result<Option<UserNamespace>, StepError> {
    if !pod.has_own_users() {
        return Ok(None);
    }
    ctx.users.started.fetch_add(1, Ordering::Relaxed);
    let supported = ctx.runtime.features().await.is_ok_and(|features| features.user_namespaces);
    let users = match supported {
        true => ctx.users.claim(&pod.key.uid).map_err(|error| error.to_string()),
        false => Err(no_user_namespaces(pod.spec())),
    };
    users.map(Some).map_err(|why| refused(ctx, pod, &why))
}

fn refused(ctx: &NodeContext, pod: &DesiredPod, error: &dyn std::fmt::Display) -> StepError {
    let message = format!("Failed to create pod sandbox: {error}");
    ctx.recorder.pod(pod, EventType::Warning, "FailedCreatePodSandBox", message);
    StepError::setup("CreatePodSandboxError", error.to_string())
}

fn no_user_namespaces(spec: &PodSpec) -> String {
    let who = match spec.runtime_class_name.as_deref() {
        None | Some("") => "runtime".to_owned(),
        Some(class) => format!("RuntimeClass handler {class:?}"),
    };
    format!("can't set `spec.hostUsers: false`, {who} does not support user namespaces")
}

pub async fn stop(ctx: &NodeContext, id: &str) -> Result<Outcome, StepError> {
    match ctx.runtime.stop_pod_sandbox(id).await {
        Ok(()) => Ok(Outcome::SandboxChanged),
        Err(error) => Err(StepError::setup("KillPodSandboxError", error)),
    }
}
