//! Pod sandboxes: a directory, a cgroup, a shim, a network attachment.
//!
//! Counterpart: containerd's `sandbox_run.go`, `sandbox_stop.go`, `sandbox_remove.go`.
//! Invariant: the network is given back while the namespace still exists, and a failed run leaves
//! nothing.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use nix::libc::SIGKILL;

use super::{
    Embedded,
    build::is_build,
    record::{SANDBOX_FILE, SandboxRecord, new_id},
    shim_client::{self, ShimClient},
};
use crate::{
    cri::{
        ContainerEventKind, LinuxContainerResources, NamespaceMode, NamespaceOptions,
        PodSandboxConfig, UserNamespace,
    },
    error::{Error, IoContext, Result},
    files,
    network::Attachment,
    procfs::ProcessId,
    shim::{SPEC_FILE, SandboxSpec, protocol::Request},
};

/// How long a shim may take to end after it was told to.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Sandbox {
    pub dir: PathBuf,
    record: Mutex<SandboxRecord>,
    shim: Mutex<Option<Arc<ShimClient>>>,
    /// Stop and remove happen one at a time.
    lifecycle: tokio::sync::Mutex<()>,
}

// === impl Sandbox ===

impl Sandbox {
    pub fn new(dir: PathBuf, record: SandboxRecord, shim: Option<Arc<ShimClient>>) -> Self {
        Sandbox {
            dir,
            record: Mutex::new(record),
            shim: Mutex::new(shim),
            lifecycle: Default::default(),
        }
    }

    pub fn record(&self) -> MutexGuard<'_, SandboxRecord> {
        self.record.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn shim(&self) -> Result<Arc<ShimClient>> {
        let shim = self.shim.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        shim.ok_or_else(|| Error::ShimGone { id: self.record().id.clone() })
    }

    pub fn set_shim(&self, shim: Option<Arc<ShimClient>>) {
        *self.shim.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = shim;
    }

    pub fn save(&self) -> Result<()> {
        let record = self.record().clone();
        files::write_json(&self.dir.join(SANDBOX_FILE), &record)
    }

    fn attachment(&self) -> Option<Attachment> {
        attachment(&self.record())
    }
}

/// `None` on the node's network, where there is nothing to attach, and on one of its own, which nothing leads to.
fn attachment(record: &SandboxRecord) -> Option<Attachment> {
    let config = &record.config;
    (config.linux.namespaces.network == NamespaceMode::Pod).then(|| Attachment {
        sandbox_id: record.id.clone(),
        metadata: config.metadata.clone(),
        netns: record.netns(),
        port_mappings: config.port_mappings.clone(),
    })
}

impl Embedded {
    pub(super) async fn run_sandbox(&self, config: PodSandboxConfig) -> Result<String> {
        check(&config)?;
        let id = new_id()?;
        let dir = self.sandboxes_dir().join(&id);
        let result = self.bring_up(&id, &dir, config.clone()).await;
        if let Err(error) = &result {
            tracing::debug!(sandbox = id, %error, "undoing a sandbox that could not be run");
            let cgroup = cgroup_path(&id, &config);
            let cleanup = move |this: &Embedded| {
                this.cgroups.handle(&cgroup).remove();
                files::remove_tree(&dir)
            };
            self.blocking(cleanup).await?;
        }
        result
    }

    async fn bring_up(&self, id: &str, dir: &Path, config: PodSandboxConfig) -> Result<String> {
        let spec = sandbox_spec(id, &config, self.shim_cgroup.clone());
        let (at, own_id, given) = (dir.to_owned(), id.to_owned(), config.clone());
        self.blocking(move |this| this.prepare(&own_id, &at, &given, &spec)).await?;
        let shim = shim_client::spawn(&self.shim, id, dir).await?;
        let record = SandboxRecord {
            id: id.to_owned(),
            config,
            created_at: SystemTime::now(),
            shim: shim.clone(),
            ips: Vec::new(),
            // Not ready before its network is; a daemon killed in between finds something to
            // remove.
            stopped: true,
        };
        let result = self.connect_up(dir, record).await;
        if result.is_err() {
            shim.kill();
        }
        result.map(|()| id.to_owned())
    }

    fn prepare(
        &self,
        id: &str,
        dir: &Path,
        config: &PodSandboxConfig,
        spec: &SandboxSpec,
    ) -> Result<()> {
        files::create_private_dir(&dir.join("containers"))?;
        let group = self.cgroups.create(&cgroup_path(id, config))?;
        group.apply(&config.linux.resources)?;
        if let Some(content) = &config.resolv_conf {
            write_public(&dir.join("resolv.conf"), content)?;
        }
        if !spec.host_network {
            write_public(&dir.join("hostname"), &format!("{}\n", config.hostname))?;
        }
        files::write_json(&dir.join(SPEC_FILE), spec)
    }

    /// From a shim that serves to a sandbox that is ready.
    async fn connect_up(&self, dir: &Path, mut record: SandboxRecord) -> Result<()> {
        let id = record.id.clone();
        // Before the network: a daemon killed from here on finds the shim and what it must detach.
        files::write_json(&dir.join(SANDBOX_FILE), &record)?;
        let shim = ShimClient::connect(&id, dir, self.listener()).await?;
        if let Some(attachment) = attachment(&record) {
            let attached = self.network.attach(&attachment).await;
            match attached {
                Ok(ips) => record.ips = ips,
                Err(error) => {
                    // What was half attached goes too; the first error is the one to report.
                    let _ = self.network.detach(&attachment).await;
                    return Err(Error::Network { id, reason: error.to_string() });
                }
            }
        }
        record.stopped = false;
        let sandbox = Sandbox::new(dir.to_owned(), record, Some(shim));
        sandbox.save()?;
        self.sandboxes().insert(id, Arc::new(sandbox));
        Ok(())
    }

    pub(super) fn update_sandbox(
        &self,
        sandbox: &Sandbox,
        change: &LinuxContainerResources,
    ) -> Result<()> {
        let id = sandbox.record().id.clone();
        let cgroup = cgroup_path(&id, &sandbox.record().config);
        self.cgroups.handle(&cgroup).apply(change)?;
        sandbox.record().config.linux.resources.update(change);
        sandbox.save()
    }

    pub(super) async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let Ok(sandbox) = self.sandbox(id) else {
            return Ok(());
        };
        let _one_at_a_time = sandbox.lifecycle.lock().await;
        self.stop_locked(&sandbox).await
    }

    async fn stop_locked(&self, sandbox: &Arc<Sandbox>) -> Result<()> {
        let id = sandbox.record().id.clone();
        let was_running = !std::mem::replace(&mut sandbox.record().stopped, true);
        sandbox.save()?;
        for container in self.containers_of(&id) {
            self.stop(&container, Duration::ZERO).await?;
        }
        if let Some(attachment) = sandbox.attachment() {
            let detached = self.network.detach(&attachment).await;
            detached
                .map_err(|error| Error::Network { id: id.clone(), reason: error.to_string() })?;
        }
        self.end_shim(sandbox).await;
        if was_running {
            self.publish(ContainerEventKind::SandboxStopped, &id, &id);
        }
        Ok(())
    }

    async fn end_shim(&self, sandbox: &Sandbox) {
        let process: ProcessId = sandbox.record().shim.clone();
        if let Ok(shim) = sandbox.shim() {
            // A shim that is gone has done what it is asked.
            let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, shim.tell(Request::Shutdown)).await;
            sandbox.set_shim(None);
        }
        let deadline = tokio::time::Instant::now() + SHUTDOWN_TIMEOUT;
        while process.is_alive() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        process.kill();
    }

    pub(super) async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let Ok(sandbox) = self.sandbox(id) else {
            return Ok(());
        };
        let _one_at_a_time = sandbox.lifecycle.lock().await;
        self.stop_locked(&sandbox).await?;
        for container in self.containers_of(id) {
            self.remove(container).await?;
        }
        let cgroup = cgroup_path(id, &sandbox.record().config);
        let dir = sandbox.dir.clone();
        self.blocking(move |this| {
            this.cgroups.handle(&cgroup).remove();
            files::remove_tree(&dir)
        })
        .await?;
        self.publish(ContainerEventKind::Deleted, id, id);
        self.sandboxes().remove(id);
        Ok(())
    }

    /// The shim died, was killed, or was told to end: whatever it parented is over.
    pub(super) fn note_shim_gone(&self, sandbox: &Arc<Sandbox>) {
        sandbox.set_shim(None);
        let (id, expected) = {
            let record = sandbox.record();
            (record.id.clone(), record.stopped)
        };
        let Some(this) = self.this.upgrade() else {
            return;
        };
        let sandbox = sandbox.clone();
        tokio::task::spawn_blocking(move || {
            for container in this.containers_of(&id) {
                this.bury(&container);
            }
            if !expected {
                sandbox.record().stopped = true;
                if let Err(error) = sandbox.save() {
                    tracing::warn!(sandbox = id, %error, "cannot record that its shim is gone");
                }
                this.publish(ContainerEventKind::SandboxStopped, &id, &id);
            }
        });
    }

    /// Ends what a dead shim left of a container, and writes down what nobody else will.
    pub(super) fn bury(&self, container: &super::record::Container) {
        if !container.is_running() {
            return;
        }
        let group = self.cgroups.handle(&container.record.cgroup);
        group.kill_all();
        let record = crate::shim::ExitRecord {
            exit_code: 128 + SIGKILL,
            oom_killed: group.oom_kills() > 0,
            finished_at: SystemTime::now(),
            start_error: None,
        };
        let file = container.dir.join(crate::shim::EXIT_FILE);
        if !file.exists()
            && let Err(error) = files::write_json(&file, &record)
        {
            tracing::warn!(container = container.record.id, %error, "cannot record how it ended");
        }
        self.note_exit(container);
    }
}

fn check(config: &PodSandboxConfig) -> Result<()> {
    if !config.runtime_handler.is_empty() {
        let reason = format!("no runtime for {:?} is configured", config.runtime_handler);
        return Err(Error::InvalidConfig { what: "runtime handler", reason });
    }
    let namespaces = &config.linux.namespaces;
    let own = is_build(config).then_some(NamespaceMode::Container);
    for (kind, mode) in [("network", namespaces.network), ("ipc", namespaces.ipc)] {
        let allowed = [NamespaceMode::Pod, NamespaceMode::Node];
        if !allowed.contains(&mode) && own != Some(mode) {
            let reason = format!("{kind} cannot be {mode:?}");
            return Err(Error::InvalidConfig { what: "sandbox namespace", reason });
        }
    }
    match &namespaces.user {
        Some(users) => check_users(users, namespaces),
        None => Ok(()),
    }
}

/// Users that are not the node's may not own namespaces that are.
fn check_users(users: &UserNamespace, namespaces: &NamespaceOptions) -> Result<()> {
    let refuse = |reason: &str| {
        Err(Error::InvalidConfig { what: "user namespace", reason: reason.to_owned() })
    };
    let others = [namespaces.network, namespaces.pid, namespaces.ipc];
    if others.contains(&NamespaceMode::Node) {
        return refuse("the pod's other namespaces have to be its own as well");
    }
    if users.on_node(0, 0).is_none() {
        return refuse("root is not mapped");
    }
    Ok(())
}

fn sandbox_spec(
    id: &str,
    config: &PodSandboxConfig,
    shim_cgroup: crate::cgroup::Handle,
) -> SandboxSpec {
    let namespaces = &config.linux.namespaces;
    SandboxSpec {
        id: id.to_owned(),
        hostname: config.hostname.clone(),
        host_network: namespaces.network == NamespaceMode::Node,
        host_ipc: namespaces.ipc == NamespaceMode::Node,
        shared_pid: namespaces.pid == NamespaceMode::Pod,
        sysctls: config.linux.sysctls.clone(),
        users: namespaces.user.clone(),
        shim_cgroup,
    }
}

/// A sandbox without a parent has a group of its own.
pub(super) fn cgroup_path(id: &str, config: &PodSandboxConfig) -> String {
    match config.linux.cgroup_parent.as_str() {
        "" => format!("/pods/{id}"),
        parent => parent.to_owned(),
    }
}

/// Files every user in the pod reads.
fn write_public(path: &Path, content: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, content).at("write", path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).at("write", path)
}
