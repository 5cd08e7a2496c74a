//! Starts one container: image, configuration, creation, start, post-start hook.
//!
//! Counterpart: `startContainer` of `pkg/kubelet/kuberuntime/kuberuntime_container.go`; reasons and event texts are
//! upstream's.
//! Invariant: when this returns an error before the runtime has the container, nothing is left behind but
//! directories that the next try uses again.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use skiff_runtime::{Image, LinuxContainerResources, PodSandboxStatus};

use super::{
    Outcome, StepError, StepInput,
    hook::{self, HookTarget},
};
use crate::{
    config::SwapBehavior,
    container::{
        config::{Resolved, container_config},
        env::{EnvSources, environment},
        resources::{
            container_resources, hugepage_limits, memory_policy, oom_score_adj, swap_limit,
        },
        security::{NodeSeccomp, security_context},
    },
    context::NodeContext,
    events::EventType,
    image::pull::Ensure,
    objects::{ObjectCache, references},
    pod::desired::{DesiredContainer, DesiredPod},
    volume::{devices, image as image_volumes, mounts},
};

pub async fn run(
    ctx: &NodeContext,
    input: &StepInput,
    name: &str,
    attempt: u32,
) -> Result<Outcome, StepError> {
    let container = input
        .pod
        .container(name)
        .ok_or_else(|| StepError::setup("CreateContainerConfigError", "no such container"))?;
    let sandbox = input
        .sandbox
        .as_ref()
        .ok_or_else(|| StepError::setup("CreateContainerError", "no sandbox"))?;
    let start = Start { ctx, input, pod: &input.pod, container, sandbox, attempt };
    let image = Ensure::of_container(ctx, &input.pod, container).run().await?;
    let volumes = image_volumes::images(ctx, &input.pod, container).await?;
    let id = start.create(&image, &volumes).await?;
    start.start(&id).await?;
    start.post_start(&id).await?;
    let resources = container.spec.resources.clone().unwrap_or_default();
    Ok(Outcome::ContainerStarted { id, resources })
}

struct Start<'a> {
    ctx: &'a NodeContext,
    input: &'a StepInput,
    pod: &'a DesiredPod,
    container: &'a DesiredContainer,
    sandbox: &'a PodSandboxStatus,
    attempt: u32,
}

// === impl Start ===

impl Start<'_> {
    fn event(&self, kind: EventType, reason: &'static str, message: impl Into<String>) {
        self.ctx.recorder.container(self.pod, self.container, kind, reason, message);
    }

    /// `volumes` are the images of the volumes that are images, by volume.
    async fn create(
        &self,
        image: &Image,
        volumes: &HashMap<String, String>,
    ) -> Result<String, StepError> {
        let config_error = |error: String| {
            self.event(EventType::Warning, "Failed", format!("Error: {error}"));
            StepError {
                policy: crate::pod::backoff::SETUP,
                repairable: true,
                ..StepError::container("CreateContainerConfigError", error)
            }
        };
        let resolved = self.resolve(image, volumes).await.map_err(config_error)?;
        let config = container_config(self.pod, self.container, resolved);
        let created = self.ctx.runtime.create_container(&self.sandbox.id, config).await;
        let id = created.map_err(|error| {
            self.event(EventType::Warning, "Failed", format!("Error: {error}"));
            StepError::container("CreateContainerError", error)
        })?;
        self.event(
            EventType::Normal,
            "Created",
            format!("Container created: {}", self.container.name()),
        );
        Ok(id)
    }

    /// Everything that the container's spec refers to.
    async fn resolve(
        &self,
        image: &Image,
        volumes: &HashMap<String, String>,
    ) -> Result<Resolved, String> {
        let mut plugins =
            self.ctx.devices.prepare(&self.pod.key.uid, self.container.name()).await?;
        plugins.add_cdi_devices(&self.ctx.claims.cdi_devices(self.pod, self.container)?)?;
        let env = with_defaults(self.environment().await?, plugins.envs);
        let security = self.security(image)?;
        let mut mounts = mounts::mounts(
            self.ctx,
            self.pod,
            self.container,
            self.sandbox,
            self.attempt,
            &env,
            volumes,
        )
        .await?;
        mounts.extend(plugins.mounts);
        let mut devices = devices::devices(self.ctx, self.pod, self.container).await?;
        devices.extend(plugins.devices);
        Ok(Resolved {
            attempt: self.attempt,
            env,
            mounts,
            resources: self.resources(),
            security,
            devices,
            annotations: plugins.annotations,
        })
    }

    fn resources(&self) -> LinuxContainerResources {
        let (spec, container) = (self.pod.spec(), &self.container.spec);
        let machine = &self.ctx.machine;
        LinuxContainerResources {
            oom_score_adj: oom_score_adj(spec, self.pod.qos, container, machine.memory_bytes),
            hugepage_limits: hugepage_limits(container, machine.hugepages.keys()),
            unified: memory_policy(self.swap()),
            ..container_resources(spec, container)
        }
    }

    fn swap(&self) -> u64 {
        let machine = &self.ctx.machine;
        match self.ctx.config.swap {
            SwapBehavior::NoSwap => 0,
            SwapBehavior::LimitedSwap => swap_limit(
                self.pod.spec(),
                &self.container.spec,
                machine.memory_bytes,
                machine.swap_bytes,
            ),
        }
    }

    async fn environment(&self) -> Result<Vec<(String, String)>, String> {
        let wanted = references(self.pod.spec());
        let objects = &self.ctx.objects;
        let namespace = &self.pod.key.namespace;
        let sources = EnvSources {
            pod: self.pod,
            config_maps: gather(&objects.config_maps, namespace, &wanted.config_maps).await?,
            secrets: gather(&objects.secrets, namespace, &wanted.secrets).await?,
            services: self.services().await?,
            node_name: &self.ctx.config.node_name,
            node_ips: &self.ctx.config.node_ips,
            pod_ips: if self.pod.host_network() {
                &self.ctx.config.node_ips
            } else {
                &self.sandbox.ips
            },
            allocatable: &self.ctx.machine.allocatable(),
        };
        environment(&self.container.spec, &sources).map_err(|e| e.to_string())
    }

    /// The services, once the first list of them has come.
    async fn services(&self) -> Result<Vec<Arc<k8s_openapi::api::core::v1::Service>>, String> {
        const PATIENCE: Duration = Duration::from_secs(10);
        match tokio::time::timeout(PATIENCE, self.ctx.services.wait_until_ready()).await {
            Ok(Ok(())) => Ok(self.ctx.services.state()),
            _ => {
                Err("services have not yet been read at least once, cannot construct envvars"
                    .into())
            }
        }
    }

    fn security(
        &self,
        image: &Image,
    ) -> Result<skiff_runtime::LinuxContainerSecurityContext, String> {
        let target = match &self.container.target {
            Some(target) => {
                let running = self.input.containers.iter().find(|c| {
                    c.metadata.name == *target && c.state == skiff_runtime::ContainerState::Running
                });
                Some(
                    running
                        .ok_or_else(|| format!("unable to find target container {target:?}"))?
                        .id
                        .clone(),
                )
            }
            None => None,
        };
        let root = self.ctx.config.root_dir.join("seccomp");
        let seccomp = NodeSeccomp { root: &root, default: self.ctx.config.seccomp_default };
        let mut security =
            security_context(self.pod, &self.container.spec, image, target, &seccomp)
                .map_err(|e| e.to_string())?;
        security.namespaces.user.clone_from(&self.sandbox.namespaces.user);
        Ok(security)
    }

    async fn start(&self, id: &str) -> Result<(), StepError> {
        if let Err(error) = self.ctx.runtime.start_container(id).await {
            self.event(EventType::Warning, "Failed", format!("Error: {error}"));
            return Err(StepError::crashed("RunContainerError", error));
        }
        self.event(
            EventType::Normal,
            "Started",
            format!("Container started: {}", self.container.name()),
        );
        Ok(())
    }

    /// A container whose hook fails is killed and counts as crashed.
    async fn post_start(&self, id: &str) -> Result<(), StepError> {
        let lifecycle = self.container.spec.lifecycle.as_ref();
        let Some(handler) = lifecycle.and_then(|l| l.post_start.as_ref()) else {
            return Ok(());
        };
        let target = HookTarget {
            pod: self.pod,
            container: self.container,
            id,
            sandbox: Some(self.sandbox),
        };
        let Err(error) = hook::run(self.ctx, handler, &target).await else {
            return Ok(());
        };
        self.event(
            EventType::Warning,
            "FailedPostStartHook",
            format!("PostStartHook failed: {error}"),
        );
        let grace = Duration::try_from(self.pod.grace()).unwrap_or_default();
        if let Err(error) = self.ctx.runtime.stop_container(id, grace).await {
            tracing::warn!(id, %error, "container with a failed post-start hook not stopped");
        }
        Err(StepError::crashed("PostStartHookError", error))
    }
}

/// What plugins set comes first, and counts where the container itself says nothing.
fn with_defaults(
    own: Vec<(String, String)>,
    mut defaults: Vec<(String, String)>,
) -> Vec<(String, String)> {
    defaults.retain(|(name, _)| own.iter().all(|(known, _)| known != name));
    defaults.extend(own);
    defaults
}

/// The objects of one kind that exist.
async fn gather<K>(
    cache: &ObjectCache<K>,
    namespace: &str,
    names: &std::collections::BTreeSet<String>,
) -> Result<BTreeMap<String, Arc<K>>, String>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let mut found = BTreeMap::new();
    for name in names {
        if let Some(object) = cache.get(namespace, name).await? {
            found.insert(name.clone(), object);
        }
    }
    Ok(found)
}
