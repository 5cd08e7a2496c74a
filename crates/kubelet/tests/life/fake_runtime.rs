//! A container runtime without containers: states change when told to, events follow.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use skiff_runtime::*;
use tokio::{net::TcpStream, sync::broadcast};

#[derive(Default)]
struct State {
    next: u32,
    sandboxes: BTreeMap<String, PodSandboxStatus>,
    containers: BTreeMap<String, (ContainerStatus, ContainerConfig)>,
    calls: Vec<String>,
    /// Exit codes of the commands that probes and hooks run; none: 0.
    exec_exit: i32,
    /// Users who may pull; `""` is anybody.
    pullers: Vec<String>,
    pulled: bool,
    /// CPU shares of the groups above pods.
    cgroups: BTreeMap<String, u64>,
}

pub struct FakeRuntime {
    state: Mutex<State>,
    events: broadcast::Sender<ContainerEvent>,
    pub image_present: std::sync::atomic::AtomicBool,
    /// Whether pods may have users of their own.
    pub user_namespaces: std::sync::atomic::AtomicBool,
}

// === impl FakeRuntime ===

impl FakeRuntime {
    pub fn new() -> Arc<Self> {
        let events = broadcast::channel(256).0;
        Arc::new(FakeRuntime {
            state: Mutex::default(),
            events,
            image_present: true.into(),
            user_namespaces: false.into(),
        })
    }

    /// Ends the newest running container of that name.
    pub fn exit(&self, name: &str, code: i32) {
        let id = {
            let mut state = self.state.lock().expect("no panic");
            let running = state.containers.values_mut().map(|(s, _)| s);
            let found = running
                .filter(|s| s.metadata.name == name && s.state == ContainerState::Running)
                .last();
            let status = found.expect("a running container");
            end(status, code);
            status.id.clone()
        };
        self.emit(&id, ContainerEventKind::Stopped { exit_code: code, oom_killed: false });
    }

    pub fn set_exec_exit(&self, code: i32) {
        self.state.lock().expect("no panic").exec_exit = code;
    }

    pub fn allow_pulls_by(&self, user: &str) {
        self.state.lock().expect("no panic").pullers.push(user.into());
    }

    pub fn calls(&self) -> Vec<String> {
        self.state.lock().expect("no panic").calls.clone()
    }

    pub fn config(&self, name: &str) -> Option<ContainerConfig> {
        let state = self.state.lock().expect("no panic");
        state
            .containers
            .values()
            .rev()
            .find(|(s, _)| s.metadata.name == name)
            .map(|(_, c)| c.clone())
    }

    pub fn shares_of(&self, cgroup: &str) -> Option<u64> {
        self.state.lock().expect("no panic").cgroups.get(cgroup).copied()
    }

    pub fn is_empty(&self) -> bool {
        let state = self.state.lock().expect("no panic");
        state.sandboxes.is_empty() && state.containers.is_empty()
    }

    fn call(&self, text: String) -> std::sync::MutexGuard<'_, State> {
        let mut state = self.state.lock().expect("no panic");
        state.calls.push(text);
        state
    }

    fn emit(&self, id: &str, kind: ContainerEventKind) {
        let state = self.state.lock().expect("no panic");
        let Some((status, _)) = state.containers.get(id) else { return };
        let pod_uid = state.sandboxes[&status.sandbox_id].metadata.uid.clone();
        let event = ContainerEvent {
            kind,
            sandbox_id: status.sandbox_id.clone(),
            container_id: id.into(),
            pod_uid,
        };
        let _ = self.events.send(event);
    }
}

fn end(status: &mut ContainerStatus, code: i32) {
    status.state = ContainerState::Exited;
    status.exit_code = Some(code);
    status.finished_at = Some(SystemTime::now());
    status.reason = if code == 0 { "Completed".into() } else { "Error".into() };
}

fn missing(kind: &'static str, id: &str) -> Error {
    Error::NotFound { kind, id: id.into() }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn version(&self) -> Result<Version> {
        Ok(Version { runtime_name: "skiff".into(), runtime_version: "0".into() })
    }

    async fn features(&self) -> Result<RuntimeFeatures> {
        let user_namespaces = self.user_namespaces.load(std::sync::atomic::Ordering::Relaxed);
        Ok(RuntimeFeatures { user_namespaces, ..RuntimeFeatures::default() })
    }

    async fn run_pod_sandbox(&self, config: PodSandboxConfig) -> Result<String> {
        let mut state = self.call(format!("run sandbox {}", config.metadata.attempt));
        if !config.runtime_handler.is_empty() {
            let reason = format!("no runtime for {:?} is configured", config.runtime_handler);
            return Err(Error::InvalidConfig { what: "runtime handler", reason });
        }
        state.next += 1;
        let id = format!("sandbox-{}", state.next);
        let status = PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata,
            state: PodSandboxState::Ready,
            created_at: SystemTime::now(),
            ips: vec!["10.0.0.7".parse().expect("an address")],
            namespaces: config.linux.namespaces,
            labels: config.labels,
            annotations: config.annotations,
            netns: None,
            resources: config.linux.resources,
        };
        state.sandboxes.insert(id.clone(), status);
        Ok(id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let mut state = self.call("stop sandbox".into());
        if let Some(sandbox) = state.sandboxes.get_mut(id) {
            sandbox.state = PodSandboxState::NotReady;
        }
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        let mut state = self.call("remove sandbox".into());
        state.sandboxes.remove(id);
        state.containers.retain(|_, (c, _)| c.sandbox_id != id);
        Ok(())
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus> {
        let state = self.state.lock().expect("no panic");
        state.sandboxes.get(id).cloned().ok_or_else(|| missing("sandbox", id))
    }

    async fn list_pod_sandboxes(&self) -> Result<Vec<PodSandboxStatus>> {
        Ok(self.state.lock().expect("no panic").sandboxes.values().cloned().collect())
    }

    async fn set_cgroup_resources(
        &self,
        path: &str,
        resources: LinuxContainerResources,
    ) -> Result<()> {
        let mut state = self.state.lock().expect("no panic");
        state.cgroups.insert(path.into(), resources.cpu_shares);
        Ok(())
    }

    async fn update_pod_sandbox_resources(
        &self,
        id: &str,
        resources: LinuxContainerResources,
    ) -> Result<()> {
        let mut state = self.call(format!("resize sandbox to {}", resources.memory_limit_bytes));
        let sandbox = state.sandboxes.get_mut(id).ok_or_else(|| missing("sandbox", id))?;
        sandbox.resources.update(&resources);
        Ok(())
    }

    async fn create_container(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String> {
        let mut state =
            self.call(format!("create {} {}", config.metadata.name, config.metadata.attempt));
        state.next += 1;
        let id = format!("container-{:04}", state.next);
        let status = ContainerStatus {
            id: id.clone(),
            sandbox_id: sandbox_id.into(),
            metadata: config.metadata.clone(),
            state: ContainerState::Created,
            created_at: SystemTime::now(),
            started_at: None,
            finished_at: None,
            exit_code: None,
            reason: String::new(),
            message: String::new(),
            image: config.image.clone(),
            image_ref: "sha256:0".into(),
            image_id: "sha256:0".into(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            log_path: config.log_path.clone(),
            resources: config.linux.resources.clone(),
            user: None,
            pid: None,
            stop_signal: String::new(),
        };
        state.containers.insert(id.clone(), (status, config));
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        {
            let mut state = self.call(format!("start {id}"));
            let (status, _) =
                state.containers.get_mut(id).ok_or_else(|| missing("container", id))?;
            status.state = ContainerState::Running;
            status.started_at = Some(SystemTime::now());
        }
        self.emit(id, ContainerEventKind::Started);
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        {
            let mut state = self.call(String::new());
            let Some((status, _)) = state.containers.get_mut(id) else { return Ok(()) };
            let name = status.metadata.name.clone();
            end(status, 143);
            state.calls.push(format!("stop {name} {}", grace.as_secs()));
        }
        self.emit(id, ContainerEventKind::Stopped { exit_code: 143, oom_killed: false });
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.call(format!("remove {id}")).containers.remove(id);
        Ok(())
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        let state = self.state.lock().expect("no panic");
        state.containers.get(id).map(|(s, _)| s.clone()).ok_or_else(|| missing("container", id))
    }

    async fn list_containers(&self) -> Result<Vec<ContainerStatus>> {
        Ok(self
            .state
            .lock()
            .expect("no panic")
            .containers
            .values()
            .map(|(s, _)| s.clone())
            .collect())
    }

    async fn update_container_resources(
        &self,
        id: &str,
        resources: LinuxContainerResources,
    ) -> Result<()> {
        let mut state = self.call(format!("resize container to {}", resources.memory_limit_bytes));
        let (status, _) = state.containers.get_mut(id).ok_or_else(|| missing("container", id))?;
        status.resources.update(&resources);
        Ok(())
    }

    async fn reopen_container_log(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn exec_sync(
        &self,
        _: &str,
        command: &[String],
        _: Option<Duration>,
    ) -> Result<ExecSyncOutput> {
        let state = self.call(format!("exec {}", command.join(" ")));
        Ok(ExecSyncOutput { exit_code: state.exec_exit, ..ExecSyncOutput::default() })
    }

    async fn exec(&self, id: &str, _: ExecRequest) -> Result<StreamSession> {
        Err(missing("container", id))
    }

    async fn attach(&self, id: &str, _: AttachRequest) -> Result<StreamSession> {
        Err(missing("container", id))
    }

    async fn dial(&self, sandbox_id: &str, _: u16) -> Result<TcpStream> {
        Err(missing("sandbox", sandbox_id))
    }

    async fn container_stats(&self, id: &str) -> Result<ContainerStats> {
        Err(missing("container", id))
    }

    async fn list_container_stats(&self) -> Result<Vec<ContainerStats>> {
        Ok(Vec::new())
    }

    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.events.subscribe()
    }
}

#[async_trait]
impl ImageService for FakeRuntime {
    async fn list_images(&self) -> Result<Vec<Image>> {
        Ok(Vec::new())
    }

    async fn image_status(&self, _: &str) -> Result<Option<Image>> {
        let pulled = self.state.lock().expect("no panic").pulled;
        let present = pulled || self.image_present.load(std::sync::atomic::Ordering::Relaxed);
        Ok(present.then(|| Image { id: "sha256:0".into(), ..Image::default() }))
    }

    async fn pull_image(&self, request: PullImage) -> Result<String> {
        let user = request.auth.map(|auth| auth.username).unwrap_or_default();
        let mut state = self.call(format!("pull {} as {user:?}", request.reference));
        let allowed = state.pullers.contains(&user);
        state.pulled |= allowed;
        match allowed {
            true => Ok("sha256:0".into()),
            false => Err(missing("image", &request.reference)),
        }
    }

    async fn remove_image(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn load_image(&self, _: &Path) -> Result<Vec<Image>> {
        Ok(Vec::new())
    }

    async fn image_fs_info(&self) -> Result<FilesystemUsage> {
        Err(missing("filesystem", "images"))
    }
}
