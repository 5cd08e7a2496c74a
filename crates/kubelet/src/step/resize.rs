//! Gives running containers the resources their pod was granted.
//!
//! Counterpart: `doPodResizeAction` of `pkg/kubelet/kuberuntime`.
//! Differs from upstream, which orders pod and containers by whether each total grows: the pod is first given the
//! looser of old and new, then each container its own, then the pod the new, which is right in every order.
//! Invariant: no memory limit goes below what is in use, which would have the kernel kill the container.

use k8s_openapi::api::core::v1::ResourceRequirements;
use skiff_runtime::{ContainerStatus, LinuxContainerResources};

use super::{Outcome, StepError, StepInput};
use crate::{
    container::resources::{container_resources, pod_resources},
    context::NodeContext,
    events::EventType,
    pod::{
        desired::DesiredContainer,
        resize::{as_update, message, widest},
    },
};

pub async fn run(
    ctx: &NodeContext,
    input: &StepInput,
    containers: &[String],
) -> Result<Outcome, StepError> {
    let resize = Resize { ctx, input };
    resize.all(containers).await.map_err(|error| {
        let pod = &input.pod;
        let generation = pod.object.metadata.generation.unwrap_or_default();
        let text = message("Pod resize error", pod, generation, Some(&error));
        ctx.recorder.pod(pod, EventType::Warning, "ResizeError", text);
        StepError::setup("Error", error)
    })
}

struct Resize<'a> {
    ctx: &'a NodeContext,
    input: &'a StepInput,
}

// === impl Resize ===

impl Resize<'_> {
    async fn all(&self, ids: &[String]) -> Result<Outcome, String> {
        let targets: Vec<(&ContainerStatus, &DesiredContainer)> = ids
            .iter()
            .filter_map(|id| {
                let status = self.input.containers.iter().find(|c| c.id == *id)?;
                Some((status, self.input.pod.container(&status.metadata.name)?))
            })
            .collect();
        self.check_memory(&targets).await?;
        let sandbox = self.input.sandbox.as_ref().ok_or("no sandbox")?;
        let whole = pod_resources(self.input.pod.spec());
        self.set_pod(&sandbox.id, &widest(&sandbox.resources, &whole)).await?;
        let mut given = Vec::new();
        for (status, container) in targets {
            given.push((status.id.clone(), self.set_container(status, container).await?));
        }
        self.set_pod(&sandbox.id, &whole).await?;
        Ok(Outcome::Resized { containers: given })
    }

    async fn set_pod(&self, id: &str, limits: &LinuxContainerResources) -> Result<(), String> {
        let updated = self.ctx.runtime.update_pod_sandbox_resources(id, as_update(limits)).await;
        updated.map_err(|error| error.to_string())
    }

    async fn set_container(
        &self,
        status: &ContainerStatus,
        container: &DesiredContainer,
    ) -> Result<ResourceRequirements, String> {
        let wanted = as_update(&container_resources(self.input.pod.spec(), &container.spec));
        let updated = self.ctx.runtime.update_container_resources(&status.id, wanted).await;
        updated.map_err(|error| error.to_string())?;
        Ok(container.spec.resources.clone().unwrap_or_default())
    }

    /// Refuses a memory limit below what the container uses now.
    async fn check_memory(
        &self,
        targets: &[(&ContainerStatus, &DesiredContainer)],
    ) -> Result<(), String> {
        let mut refused = Vec::new();
        for (status, container) in targets {
            let wanted = container_resources(self.input.pod.spec(), &container.spec);
            let limit = wanted.memory_limit_bytes;
            let before = status.resources.memory_limit_bytes;
            if limit <= 0 || (before > 0 && limit >= before) {
                continue;
            }
            let stats = self.ctx.runtime.container_stats(&status.id).await;
            let usage = stats.map_err(|error| error.to_string())?.memory_usage_bytes;
            if usage >= limit.unsigned_abs() {
                let name = container.name();
                refused.push(format!(
                    "attempting to set container {name:?} memory limit ({limit}) below current usage ({usage})"
                ));
            }
        }
        match refused.as_slice() {
            [] => Ok(()),
            [one] => Err(format!("cannot decrease memory limits: {one}")),
            many => Err(format!("cannot decrease memory limits: [{}]", many.join(", "))),
        }
    }
}
