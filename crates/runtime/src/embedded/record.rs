//! The daemon's records: what was asked for, kept beside what the shim writes about what became of
//! it.
//!
//! Layout of a sandbox: `sandbox.json` (here), `shim-spec.json`, `shim.sock`, `shim.log`,
//! `resolv.conf`, `hostname`, and per container `containers/<id>/` with `container.json` (here),
//! `spec.json`, `run.json`, `exit.json` (shim), `upper`, `work`, `rootfs`. Invariant: deleting a
//! directory deletes everything the runtime knew of its subject.

use std::{
    io::Read,
    net::IpAddr,
    path::Path,
    sync::{Mutex, MutexGuard},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    cri::{
        ContainerConfig, ContainerState, ContainerStatus, LinuxContainerResources,
        PodSandboxConfig, PodSandboxState, PodSandboxStatus,
    },
    error::{IoContext, Result},
    files,
    procfs::ProcessId,
    shim::{ContainerRun, EXIT_FILE, ExitRecord, RUN_FILE},
};

pub(super) const SANDBOX_FILE: &str = "sandbox.json";
pub(super) const CONTAINER_FILE: &str = "container.json";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SandboxRecord {
    pub id: String,
    pub config: PodSandboxConfig,
    pub created_at: SystemTime,
    pub shim: ProcessId,
    pub ips: Vec<IpAddr>,
    pub stopped: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    pub id: String,
    pub sandbox_id: String,
    pub config: ContainerConfig,
    pub created_at: SystemTime,
    pub image_id: String,
    pub image_ref: String,
    /// Kept alive for as long as the container is.
    pub layers: Vec<String>,
    /// Those of images that it mounts: kept as well.
    #[serde(default)]
    pub mounted_layers: Vec<String>,
    pub stop_signal: String,
    pub log_path: std::path::PathBuf,
    pub cgroup: String,
}

/// Where a container stands. It only moves down this list.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// To `Running` by a start, to `Exited` by one that failed.
    Created,
    /// To `Exited` when the shim says so, or is gone.
    Running(ContainerRun),
    Exited {
        run: Option<ContainerRun>,
        exit: ExitRecord,
    },
}

/// A container and the means to wait for its next phase.
pub(super) struct Container {
    pub record: ContainerRecord,
    pub dir: std::path::PathBuf,
    pub phase: watch::Sender<Phase>,
    /// As last updated.
    resources: Mutex<LinuxContainerResources>,
}

// === impl SandboxRecord ===

impl SandboxRecord {
    pub fn status(&self) -> PodSandboxStatus {
        let ready = !self.stopped && self.shim.is_alive();
        let options = self.config.linux.namespaces.clone();
        let own_network = options.network != crate::cri::NamespaceMode::Node;
        PodSandboxStatus {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: if ready { PodSandboxState::Ready } else { PodSandboxState::NotReady },
            created_at: self.created_at,
            ips: self.ips.clone(),
            namespaces: options,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            netns: (ready && own_network).then(|| self.netns()),
            resources: self.config.linux.resources.clone(),
        }
    }

    pub fn netns(&self) -> std::path::PathBuf {
        format!("/proc/{}/ns/net", self.shim.pid).into()
    }
}

// === impl Phase ===

impl Phase {
    /// As the shim's files tell it.
    pub fn read(dir: &Path) -> Result<Self> {
        let run: Option<ContainerRun> = files::read_json(&dir.join(RUN_FILE))?;
        let exit: Option<ExitRecord> = files::read_json(&dir.join(EXIT_FILE))?;
        Ok(match (run, exit) {
            (run, Some(exit)) => Phase::Exited { run, exit },
            (Some(run), None) => Phase::Running(run),
            (None, None) => Phase::Created,
        })
    }

    pub fn run(&self) -> Option<&ContainerRun> {
        match self {
            Phase::Created => None,
            Phase::Running(run) => Some(run),
            Phase::Exited { run, .. } => run.as_ref(),
        }
    }

    pub fn exit(&self) -> Option<&ExitRecord> {
        match self {
            Phase::Exited { exit, .. } => Some(exit),
            _ => None,
        }
    }

    pub fn is_later_than(&self, other: &Phase) -> bool {
        let rank = |phase: &Phase| match phase {
            Phase::Created => 0,
            Phase::Running(_) => 1,
            Phase::Exited { .. } => 2,
        };
        rank(self) > rank(other)
    }

    pub fn state(&self) -> ContainerState {
        match self {
            Phase::Created => ContainerState::Created,
            Phase::Running(_) => ContainerState::Running,
            Phase::Exited { .. } => ContainerState::Exited,
        }
    }
}

// === impl Container ===

impl Container {
    pub fn new(record: ContainerRecord, dir: std::path::PathBuf, phase: Phase) -> Self {
        let resources = Mutex::new(record.config.linux.resources.clone());
        Container { record, dir, phase: watch::Sender::new(phase), resources }
    }

    pub fn resources(&self) -> MutexGuard<'_, LinuxContainerResources> {
        self.resources.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn is_running(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Running(_))
    }

    pub fn status(&self) -> ContainerStatus {
        let (record, phase) = (&self.record, self.phase.borrow().clone());
        let exit = phase.exit();
        ContainerStatus {
            id: record.id.clone(),
            sandbox_id: record.sandbox_id.clone(),
            metadata: record.config.metadata.clone(),
            state: phase.state(),
            created_at: record.created_at,
            started_at: phase.run().map(|run| run.started_at),
            finished_at: exit.map(|exit| exit.finished_at),
            exit_code: exit.map(|exit| exit.exit_code),
            reason: exit.map(reason).unwrap_or_default().to_owned(),
            message: exit.and_then(|exit| exit.start_error.clone()).unwrap_or_default(),
            image: record.config.image.clone(),
            image_ref: record.image_ref.clone(),
            image_id: record.image_id.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
            mounts: record.config.mounts.clone(),
            log_path: record.log_path.clone(),
            resources: self.resources().clone(),
            user: phase.run().map(|run| run.user.clone()),
            pid: phase.run().filter(|_| exit.is_none()).map(|run| run.process.pid),
            stop_signal: record.stop_signal.clone(),
        }
    }
}

fn reason(exit: &ExitRecord) -> &'static str {
    match exit {
        ExitRecord { start_error: Some(_), .. } => "StartError",
        ExitRecord { oom_killed: true, .. } => "OOMKilled",
        ExitRecord { exit_code: 0, .. } => "Completed",
        _ => "Error",
    }
}

/// 64 hexadecimal digits, as every runtime's ids are.
pub(super) fn new_id() -> Result<String> {
    let mut random = [0u8; 32];
    let source = Path::new("/dev/urandom");
    std::fs::File::open(source)
        .and_then(|mut file| file.read_exact(&mut random))
        .at("read", source)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}
