//! The runtime's verbs as calls of CRI.
//!
//! Counterpart: `k8s.io/cri-client/pkg`.
//! Invariant: a pod's group exists before its sandbox and goes after its last one.

use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use skiff_grpc::{Code, Status};
use skiff_runtime::{
    AttachRequest, ContainerConfig, ContainerEvent, ContainerStats, ContainerStatus, Error,
    ExecRequest, ExecSyncOutput, LinuxContainerResources, PodSandboxConfig, PodSandboxState,
    PodSandboxStatus, Result, Runtime, RuntimeFeatures, StreamSession, Version,
};
use skiff_streams::StreamOptions;
use tokio::{net::TcpStream, sync::broadcast};

use super::{
    RemoteRuntime, TIMEOUT,
    kept::{KeptContainer, KeptSandbox, keep, take},
    streams,
};
use crate::{api, convert::whole_seconds, error::error_of};

/// How many statuses are asked for at once.
const AT_ONCE: usize = 16;
const SANDBOX: &str = "pod sandbox";
const CONTAINER: &str = "container";

fn id(id: &str) -> api::Id {
    api::Id { id: id.to_owned() }
}

/// What an idempotent verb answers for something that is gone.
pub fn gone_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A list's objects may be gone when their statuses are asked for.
pub fn if_there<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl Runtime for RemoteRuntime {
    async fn version(&self) -> Result<Version> {
        let answer = self.remote_version().await?;
        let api::VersionResponse { runtime_name, runtime_version, .. } = answer;
        Ok(Version { runtime_name, runtime_version })
    }

    async fn unready(&self) -> Result<Option<String>> {
        let answer = self.status().await?;
        Ok(unready(&answer.status.unwrap_or_default().conditions))
    }

    async fn features(&self) -> Result<RuntimeFeatures> {
        let answer = self.status().await?;
        let handlers = answer.runtime_handlers;
        let default = handlers.into_iter().find(|handler| handler.name.is_empty());
        let handler = default.and_then(|handler| handler.features).unwrap_or_default();
        Ok(RuntimeFeatures {
            user_namespaces: handler.user_namespaces,
            recursive_read_only_mounts: handler.recursive_read_only_mounts,
            supplemental_groups_policy: answer
                .features
                .is_some_and(|features| features.supplemental_groups_policy),
        })
    }

    async fn run_pod_sandbox(&self, mut config: PodSandboxConfig) -> Result<String> {
        let cgroup = config.linux.cgroup_parent.clone();
        self.set_cgroup_resources(&cgroup, config.linux.resources.clone()).await?;
        let kept = KeptSandbox::of(&config, self.cgroups.full_path(&cgroup));
        config.linux.cgroup_parent = kept.cgroup_parent.clone();
        keep(&kept, &mut config.annotations);
        let runtime_handler = config.runtime_handler.clone();
        let request = api::RunPodSandboxRequest { config: Some(config.into()), runtime_handler };
        // Twice the usual time, as upstream: networks are set up in it.
        let answer = self.call_for(TIMEOUT * 2, "RunPodSandbox", &request).await;
        let answer: api::Id = answer.map_err(|status| error_of(status, SANDBOX, ""))?;
        Ok(answer.id)
    }

    async fn stop_pod_sandbox(&self, sandbox: &str) -> Result<()> {
        gone_is_fine(self.call("StopPodSandbox", &id(sandbox), (SANDBOX, sandbox)).await)
    }

    async fn remove_pod_sandbox(&self, sandbox: &str) -> Result<()> {
        self.stop_pod_sandbox(sandbox).await?;
        let kept = if_there(self.sandbox(sandbox).await)?.map(|(_, kept)| kept);
        let removed = self.call("RemovePodSandbox", &id(sandbox), (SANDBOX, sandbox)).await;
        gone_is_fine(removed)?;
        self.forget(sandbox);
        match kept {
            Some(kept) => self.remove_cgroup(&kept.cgroup).await,
            None => Ok(()),
        }
    }

    async fn pod_sandbox_status(&self, sandbox: &str) -> Result<PodSandboxStatus> {
        Ok(self.sandbox(sandbox).await?.0)
    }

    async fn list_pod_sandboxes(&self) -> Result<Vec<PodSandboxStatus>> {
        let all = self.sandboxes(None).await?;
        let statuses = stream::iter(all)
            .map(|one| async move { if_there(self.pod_sandbox_status(&one.id).await) })
            .buffered(AT_ONCE);
        statuses.try_filter_map(|one| async { Ok(one) }).try_collect().await
    }

    /// Its containers get theirs one by one; the pod's group is ours.
    async fn update_pod_sandbox_resources(
        &self,
        sandbox: &str,
        resources: LinuxContainerResources,
    ) -> Result<()> {
        let (status, kept) = self.sandbox(sandbox).await?;
        self.set_cgroup_resources(&kept.cgroup, resources.clone()).await?;
        self.remember_update(sandbox, status.resources, &resources);
        Ok(())
    }

    async fn set_cgroup_resources(
        &self,
        path: &str,
        resources: LinuxContainerResources,
    ) -> Result<()> {
        let path = path.to_owned();
        self.with_cgroups(move |cgroups| cgroups.set(&path, &resources)).await?
    }

    async fn create_container(&self, sandbox: &str, mut config: ContainerConfig) -> Result<String> {
        keep(&KeptContainer::of(&config), &mut config.annotations);
        let sandbox_config = self.sandbox_config(sandbox).await?;
        config.linux.security.namespaces.user = sandbox_config.linux.namespaces.user.clone();
        let request = api::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config.into()),
            sandbox_config: Some(sandbox_config.into()),
        };
        let answer: api::Id = self.call("CreateContainer", &request, (SANDBOX, sandbox)).await?;
        Ok(answer.id)
    }

    async fn start_container(&self, container: &str) -> Result<()> {
        self.call("StartContainer", &id(container), (CONTAINER, container)).await
    }

    async fn stop_container(&self, container: &str, grace: Duration) -> Result<()> {
        let timeout = whole_seconds(grace);
        let request = api::StopContainerRequest { container_id: container.to_owned(), timeout };
        let longest = grace.saturating_add(TIMEOUT);
        let stopped = self.call_for(longest, "StopContainer", &request).await;
        gone_is_fine(stopped.map_err(|status| error_of(status, CONTAINER, container)))
    }

    async fn remove_container(&self, container: &str) -> Result<()> {
        let removed = self.call("RemoveContainer", &id(container), (CONTAINER, container)).await;
        self.forget(container);
        gone_is_fine(removed)
    }

    async fn container_status(&self, container: &str) -> Result<ContainerStatus> {
        let listed = self.containers(Some(container)).await?.into_iter().next();
        let unknown = || Error::NotFound { kind: CONTAINER, id: container.to_owned() };
        self.status_of(listed.ok_or_else(unknown)?).await
    }

    async fn list_containers(&self) -> Result<Vec<ContainerStatus>> {
        let all = self.containers(None).await?;
        let statuses = stream::iter(all)
            .map(|one| async move { if_there(self.status_of(one).await) })
            .buffered(AT_ONCE);
        statuses.try_filter_map(|one| async { Ok(one) }).try_collect().await
    }

    async fn update_container_resources(
        &self,
        container: &str,
        resources: LinuxContainerResources,
    ) -> Result<()> {
        let before = self.container_status(container).await?.resources;
        let request = api::UpdateContainerResourcesRequest {
            container_id: container.to_owned(),
            linux: Some(resources.clone().into()),
            annotations: Default::default(),
        };
        let verb = "UpdateContainerResources";
        let _: () = self.call(verb, &request, (CONTAINER, container)).await?;
        self.remember_update(container, before, &resources);
        Ok(())
    }

    async fn reopen_container_log(&self, container: &str) -> Result<()> {
        let about = (CONTAINER, container);
        self.call("ReopenContainerLog", &id(container), about).await
    }

    async fn exec_sync(
        &self,
        container: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecSyncOutput> {
        let request = api::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.to_vec(),
            timeout: timeout.map_or(0, whole_seconds),
        };
        // Without a limit of its own a command has as long as it takes.
        let longest = timeout.map(|timeout| timeout.saturating_add(TIMEOUT));
        let path = format!("{}ExecSync", api::RUNTIME_SERVICE);
        let answer: Result<api::ExecSyncResponse, Status> =
            self.runtime.unary(&path, &request, longest).await;
        let answer = answer.map_err(|status| match status.code {
            Code::DeadlineExceeded => Error::ExecTimeout { command: command.join(" ") },
            _ => error_of(status, CONTAINER, container),
        })?;
        let api::ExecSyncResponse { stdout, stderr, exit_code } = answer;
        Ok(ExecSyncOutput { stdout, stderr, exit_code })
    }

    async fn exec(&self, container: &str, request: ExecRequest) -> Result<StreamSession> {
        let ExecRequest { command, stdin, stdout, stderr, tty } = request;
        let container_id = container.to_owned();
        let request = api::ExecRequest { container_id, cmd: command, tty, stdin, stdout, stderr };
        let answer: api::StreamResponse =
            self.call("Exec", &request, (CONTAINER, container)).await?;
        streams::connect(&answer.url, StreamOptions { stdin, stdout, stderr, tty }).await
    }

    async fn attach(&self, container: &str, request: AttachRequest) -> Result<StreamSession> {
        let AttachRequest { stdin, stdout, stderr, tty } = request;
        let container_id = container.to_owned();
        let request = api::AttachRequest { container_id, stdin, tty, stdout, stderr };
        let answer: api::StreamResponse =
            self.call("Attach", &request, (CONTAINER, container)).await?;
        streams::connect(&answer.url, StreamOptions { stdin, stdout, stderr, tty }).await
    }

    /// Into the sandbox's network namespace, where the runtime says that there is one: a refusal is known before the first byte.
    async fn dial(&self, sandbox: &str, port: u16) -> Result<TcpStream> {
        let status = self.pod_sandbox_status(sandbox).await?;
        let failed = |reason: String| Error::Network { id: sandbox.to_owned(), reason };
        if status.state == PodSandboxState::NotReady {
            return Err(failed("the sandbox is not running".to_owned()));
        }
        let on_node = status.namespaces.network == skiff_runtime::NamespaceMode::Node;
        if status.netns.is_none() && !on_node {
            return Err(failed("the runtime does not tell its network namespace".to_owned()));
        }
        let dialled = skiff_runtime::dial(status.netns, port).await;
        dialled.map_err(|error| failed(format!("dial localhost:{port}: {error}")))
    }

    async fn container_stats(&self, container: &str) -> Result<ContainerStats> {
        let listed = self.containers(Some(container)).await?.into_iter().next();
        let sandbox = listed.map(|listed| listed.pod_sandbox_id).unwrap_or_default();
        let answer: api::ContainerStatsResponse =
            self.call("ContainerStats", &id(container), (CONTAINER, container)).await?;
        Ok(answer.stats.unwrap_or_default().in_sandbox(sandbox))
    }

    async fn list_container_stats(&self) -> Result<Vec<ContainerStats>> {
        let request = api::ListContainerStatsRequest { filter: None };
        let (listed, answer) = tokio::try_join!(
            self.containers(None),
            self.call::<api::ListContainerStatsResponse>(
                "ListContainerStats",
                &request,
                (CONTAINER, "")
            ),
        )?;
        let sandbox_of = |stats: &api::ContainerStats| {
            let container = stats.attributes.as_ref().map(|attributes| &attributes.id);
            let listed = listed.iter().find(|one| Some(&one.id) == container);
            listed.map(|one| one.pod_sandbox_id.clone()).unwrap_or_default()
        };
        let all = answer.stats.into_iter().map(|stats| {
            let sandbox = sandbox_of(&stats);
            stats.in_sandbox(sandbox)
        });
        Ok(all.collect())
    }

    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.events.subscribe()
    }
}

impl RemoteRuntime {
    async fn status(&self) -> Result<api::StatusResponse> {
        self.call("Status", &api::StatusRequest { verbose: false }, ("runtime", "")).await
    }

    /// A sandbox as it is now, and what was kept of how it was made.
    async fn sandbox(&self, sandbox: &str) -> Result<(PodSandboxStatus, KeptSandbox)> {
        // Only a verbose status tells the network namespace.
        let request =
            api::PodSandboxStatusRequest { pod_sandbox_id: sandbox.to_owned(), verbose: true };
        let answer: api::PodSandboxStatusResponse =
            self.call("PodSandboxStatus", &request, (SANDBOX, sandbox)).await?;
        let mut status = PodSandboxStatus::from(answer);
        let kept: KeptSandbox = take(&mut status.annotations).unwrap_or_default();
        status.resources = self.updated(sandbox).unwrap_or_else(|| kept.resources.clone());
        Ok((status, kept))
    }

    /// The config a sandbox was made with, as far as its containers depend on it.
    async fn sandbox_config(&self, sandbox: &str) -> Result<PodSandboxConfig> {
        let (status, kept) = self.sandbox(sandbox).await?;
        let mut config = PodSandboxConfig {
            metadata: status.metadata,
            hostname: kept.hostname,
            log_directory: kept.log_directory,
            labels: status.labels,
            annotations: status.annotations,
            ..PodSandboxConfig::default()
        };
        config.linux.cgroup_parent = kept.cgroup_parent;
        config.linux.namespaces = status.namespaces;
        config.linux.privileged = kept.privileged;
        config.linux.resources = status.resources;
        Ok(config)
    }

    async fn status_of(&self, listed: api::Container) -> Result<ContainerStatus> {
        let request =
            api::ContainerStatusRequest { container_id: listed.id.clone(), verbose: false };
        let answer: api::ContainerStatusResponse =
            self.call("ContainerStatus", &request, (CONTAINER, &listed.id)).await?;
        let tells_resources = answer.status.as_ref().is_some_and(|one| one.resources.is_some());
        let mut status = answer.status.unwrap_or_default().of_listed(listed);
        if let Some(kept) = take::<KeptContainer>(&mut status.annotations) {
            status.image = kept.image;
            if status.stop_signal.is_empty() {
                status.stop_signal = kept.stop_signal;
            }
            if !tells_resources {
                status.resources = self.updated(&status.id).unwrap_or(kept.resources);
            }
        }
        Ok(status)
    }

    /// Unless another sandbox of the pod is in it.
    async fn remove_cgroup(&self, cgroup: &str) -> Result<()> {
        for other in self.sandboxes(None).await? {
            let mut annotations = other.annotations;
            if take(&mut annotations).is_some_and(|kept: KeptSandbox| kept.cgroup == cgroup) {
                return Ok(());
            }
        }
        let cgroup = cgroup.to_owned();
        match cgroup.is_empty() {
            true => Ok(()),
            false => self.with_cgroups(move |cgroups| cgroups.remove(&cgroup)).await,
        }
    }

    fn updated(&self, id: &str) -> Option<LinuxContainerResources> {
        self.updated.lock().expect("no holder panics").get(id).cloned()
    }

    fn remember_update(
        &self,
        id: &str,
        mut before: LinuxContainerResources,
        change: &LinuxContainerResources,
    ) {
        before.update(change);
        self.updated.lock().expect("no holder panics").insert(id.to_owned(), before);
    }

    fn forget(&self, id: &str) {
        self.updated.lock().expect("no holder panics").remove(id);
    }
}

/// In upstream's words.
fn unready(conditions: &[api::RuntimeCondition]) -> Option<String> {
    let needed = [("RuntimeReady", "runtime"), ("NetworkReady", "runtime network")];
    needed.into_iter().find_map(|(kind, what)| {
        let condition = conditions.iter().find(|condition| condition.kind == kind);
        match condition {
            Some(condition) if condition.status => None,
            Some(api::RuntimeCondition { reason, message, .. }) => Some(format!(
                "container {what} not ready: {kind}=false reason:{reason} message:{message}"
            )),
            None => Some(format!("container {what} not ready: {kind} is not told")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_a_runtime_from_running_pods_is_told_as_upstream_tells_it() {
        let condition = |kind: &str, status: bool| api::RuntimeCondition {
            kind: kind.into(),
            status,
            reason: "NetworkPluginNotReady".into(),
            message: "cni plugin not initialized".into(),
        };
        let ready = condition("RuntimeReady", true);
        assert_eq!(unready(&[ready.clone(), condition("NetworkReady", true)]), None);
        let why = "container runtime network not ready: NetworkReady=false \
                   reason:NetworkPluginNotReady message:cni plugin not initialized";
        assert_eq!(unready(&[ready, condition("NetworkReady", false)]).as_deref(), Some(why));
    }
}
