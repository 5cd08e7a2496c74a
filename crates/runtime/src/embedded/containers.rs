//! Containers: created here as files, started and ended by the shim.
//!
//! Counterpart: containerd's `container_create.go`, `container_start.go`, `container_stop.go`,
//! `container_remove.go`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use nix::libc::SIGKILL;
use tokio::time::timeout;

use super::{
    Embedded,
    record::{CONTAINER_FILE, Container, ContainerRecord, Phase, new_id},
    sandboxes::{Sandbox, cgroup_path},
    spec::{self, Inputs, device_rules, signal_number},
};
use crate::{
    cri::{
        ContainerConfig, ContainerEventKind, ContainerStats, LinuxContainerResources,
        NamespaceMode, PodSandboxConfig, UserNamespace,
    },
    error::{Error, IoContext, Result},
    files,
    image::ImageRecord,
    overlay::inherit_root,
    process::{ImageSource, LayersSpec},
    shim::{
        CONTAINER_SPEC_FILE,
        protocol::{Failure, Request},
    },
};

const DEFAULT_STOP_SIGNAL: &str = "SIGTERM";
/// How long a killed container may take to be seen dead (a process in uninterruptible sleep).
const KILL_TIMEOUT: Duration = Duration::from_secs(30);

impl Embedded {
    // --- create ---

    pub(super) fn create(&self, sandbox: &Sandbox, config: ContainerConfig) -> Result<String> {
        let (sandbox_id, pod) = {
            let record = sandbox.record();
            (record.id.clone(), record.config.clone())
        };
        sandbox.shim()?;
        let _layers_stay = self.layer_users.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let image = self
            .images
            .find(&config.image)
            .ok_or_else(|| Error::ImageNotFound(config.image.clone()))?;
        let mounted = self.mounted_images(&config)?;
        let id = new_id()?;
        let dir = sandbox.dir.join("containers").join(&id);
        let mut record = record(&id, &sandbox_id, &pod, config, &image)?;
        record.mounted_layers =
            mounted.iter().flatten().flat_map(|image| image.layers.clone()).collect();
        let result = self.lay_out(sandbox, &pod, &image, &mounted, record, &dir);
        match result {
            Ok(container) => {
                self.containers().insert(id.clone(), Arc::new(container));
                self.publish(ContainerEventKind::Created, &sandbox_id, &id);
                Ok(id)
            }
            Err(error) => {
                self.cgroups.handle(&format!("{}/{id}", cgroup_path(&sandbox_id, &pod))).remove();
                // The first error is the one to report.
                let _ = files::remove_tree(&dir);
                Err(error)
            }
        }
    }

    fn lay_out(
        &self,
        sandbox: &Sandbox,
        pod: &PodSandboxConfig,
        image: &ImageRecord,
        mounted: &[Option<ImageRecord>],
        record: ContainerRecord,
        dir: &Path,
    ) -> Result<Container> {
        let config = &record.config;
        let users = pod.linux.namespaces.user.as_ref();
        let rootfs = self.lay_out_layers(&record.layers, dir.to_owned(), users)?;
        let mounts = config.mounts.iter().zip(mounted).enumerate();
        let image_mounts: Result<Vec<Option<ImageSource>>> = mounts
            .map(|(index, (mount, image))| {
                let (Some(mount), Some(image)) = (&mount.image, image) else { return Ok(None) };
                let dir = dir.join("images").join(index.to_string());
                let files = self.lay_out_layers(&image.layers, dir, users)?;
                Ok(Some(ImageSource { files, sub_path: mount.sub_path.clone() }))
            })
            .collect();
        let spec = spec::build(Inputs {
            id: &record.id,
            config,
            image: &image.config,
            hostname: &hostname(pod),
            pod_files: pod_files(sandbox, pod),
            rootfs,
            image_mounts: image_mounts?,
            log_path: record.log_path.clone(),
            cgroup: self.cgroups.handle(&record.cgroup),
            target: self.target(config),
        })?;
        let group = self.cgroups.create(&record.cgroup)?;
        group.apply(&config.linux.resources)?;
        group.restrict_devices(&device_rules(config))?;
        files::write_json(&dir.join(CONTAINER_SPEC_FILE), &spec)?;
        // Last: a directory without it was never created.
        files::write_json(&dir.join(CONTAINER_FILE), &record)?;
        Ok(Container::new(record, dir.to_owned(), Phase::Created))
    }

    /// The images that mounts show, in the order of the mounts.
    fn mounted_images(&self, config: &ContainerConfig) -> Result<Vec<Option<ImageRecord>>> {
        let find =
            |id: &String| self.images.find(id).ok_or_else(|| Error::ImageNotFound(id.clone()));
        let wanted = config.mounts.iter().map(|mount| mount.image.as_ref().map(|image| &image.id));
        wanted.map(|id| id.map(find).transpose()).collect()
    }

    /// Makes what an overlay of these layers needs. What is written over them belongs to the pod's own users, if it has
    /// any.
    fn lay_out_layers(
        &self,
        layers: &[String],
        dir: PathBuf,
        users: Option<&UserNamespace>,
    ) -> Result<LayersSpec> {
        for part in ["upper", "work", "rootfs"] {
            files::create_dir(&dir.join(part), 0o755)?;
        }
        let (layers_dir, upper) = (self.images.layers_dir(), dir.join("upper"));
        if let Some(top) = layers.first() {
            inherit_root(&layers_dir.join(top), &upper).at("prepare", &upper)?;
        }
        if let Some(users) = users {
            give_to(users, &upper).at("prepare", upper)?;
        }
        Ok(LayersSpec { layers_dir, layers: layers.to_vec(), dir })
    }

    fn target(&self, config: &ContainerConfig) -> Option<i32> {
        let id = config.linux.security.namespaces.target_id.as_ref()?;
        let target = self.container(id).ok()?;
        let pid = target.phase.borrow().run().map(|run| run.process.pid);
        pid.filter(|_| target.is_running())
    }

    // --- start ---

    pub(super) async fn start(&self, container: &Container) -> Result<()> {
        let record = &container.record;
        if !matches!(*container.phase.borrow(), Phase::Created) {
            return Err(wrong_state(container, "start"));
        }
        let sandbox = self.sandbox(&record.sandbox_id)?;
        let answer = sandbox.shim()?.tell(Request::Start { container: record.id.clone() }).await?;
        match answer {
            Ok(()) => {
                self.advance(container, Phase::read(&container.dir)?);
                Ok(())
            }
            Err(failure) => {
                self.note_exit(container);
                let reason = describe(failure);
                Err(Error::StartFailed { id: record.id.clone(), reason })
            }
        }
    }

    // --- stop and remove ---

    pub(super) async fn stop(&self, container: &Container, grace: Duration) -> Result<()> {
        if !container.is_running() {
            return Ok(());
        }
        let record = &container.record;
        if !grace.is_zero() {
            let signal = signal_number(&record.stop_signal).unwrap_or(nix::libc::SIGTERM);
            self.signal(container, signal, false).await;
            if timeout(grace, wait_exited(container)).await.is_ok() {
                return Ok(());
            }
        }
        self.signal(container, SIGKILL, true).await;
        timeout(KILL_TIMEOUT, wait_exited(container))
            .await
            .map_err(|_| wrong_state(container, "stop"))
    }

    /// A failure means it is over already, or its shim is gone; both end in an exit that is waited
    /// for.
    async fn signal(&self, container: &Container, signal: i32, all: bool) {
        let record = &container.record;
        let request = Request::Signal { container: record.id.clone(), signal, all };
        match self.sandbox(&record.sandbox_id).and_then(|sandbox| sandbox.shim()) {
            Ok(shim) => {
                if let Err(error) = shim.tell(request).await {
                    tracing::debug!(container = record.id, %error, "cannot signal");
                }
            }
            Err(error) => {
                tracing::debug!(container = record.id, %error, "cannot signal");
                self.bury(container);
            }
        }
    }

    pub(super) async fn remove(&self, container: Arc<Container>) -> Result<()> {
        self.stop(&container, Duration::ZERO).await?;
        self.blocking(move |this| {
            let record = &container.record;
            this.cgroups.handle(&record.cgroup).remove();
            files::remove_tree(&container.dir)?;
            this.publish(ContainerEventKind::Deleted, &record.sandbox_id, &record.id);
            this.containers().remove(&record.id);
            this.collect_layers();
            Ok(())
        })
        .await
    }

    // --- the rest ---

    pub(super) async fn reopen_log(&self, container: &Container) -> Result<()> {
        let record = &container.record;
        let shim = self.sandbox(&record.sandbox_id)?.shim()?;
        let answer = shim.tell(Request::ReopenLog { container: record.id.clone() }).await?;
        answer.map_err(|_| wrong_state(container, "reopening its log"))
    }

    pub(super) fn update(
        &self,
        container: &Container,
        change: &LinuxContainerResources,
    ) -> Result<()> {
        let record = &container.record;
        self.cgroups.handle(&record.cgroup).apply(change)?;
        let mut resources = container.resources();
        resources.update(change);
        let mut record = record.clone();
        record.config.linux.resources = resources.clone();
        files::write_json(&container.dir.join(CONTAINER_FILE), &record)
    }

    pub(super) fn stats(&self, container: &Container) -> ContainerStats {
        let record = &container.record;
        let usage = self.cgroups.handle(&record.cgroup).usage();
        let (rootfs_used_bytes, rootfs_inodes_used) =
            files::disk_usage(&container.dir.join("upper"));
        ContainerStats {
            id: record.id.clone(),
            sandbox_id: record.sandbox_id.clone(),
            metadata: record.config.metadata.clone(),
            labels: record.config.labels.clone(),
            timestamp: SystemTime::now(),
            cpu: usage.cpu,
            memory_usage_bytes: usage.memory_usage,
            memory_working_set_bytes: usage.memory_working_set,
            memory_rss_bytes: usage.memory_rss,
            page_faults: usage.page_faults,
            major_page_faults: usage.major_page_faults,
            pids: usage.pids,
            pressure: usage.pressure,
            rootfs_used_bytes,
            rootfs_inodes_used,
        }
    }
}

/// The owner as the pod's users see it; one they do not have is their root.
fn give_to(users: &UserNamespace, path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{MetadataExt, chown};
    let found = std::fs::metadata(path)?;
    let owner = users.on_node(found.uid(), found.gid()).or_else(|| users.on_node(0, 0));
    let (uid, gid) = owner.unzip();
    chown(path, uid, gid)
}

pub(super) async fn wait_exited(container: &Container) {
    // The sender lives in the container, so the channel cannot close under us.
    let _ = container.phase.subscribe().wait_for(|phase| phase.exit().is_some()).await;
}

pub(super) fn wrong_state(container: &Container, verb: &'static str) -> Error {
    let state = format!("{:?}", container.phase.borrow().state()).to_lowercase();
    Error::WrongState { kind: "container", id: container.record.id.clone(), state, verb }
}

pub(super) fn describe(failure: Failure) -> String {
    match failure {
        Failure::NotFound => "it was removed".to_owned(),
        Failure::NotRunning => "container is not running".to_owned(),
        Failure::Process(reason) | Failure::Internal(reason) => reason,
    }
}

fn record(
    id: &str,
    sandbox_id: &str,
    pod: &PodSandboxConfig,
    config: ContainerConfig,
    image: &ImageRecord,
) -> Result<ContainerRecord> {
    let from_image = image.config.stop_signal.clone().filter(|signal| !signal.is_empty());
    let stop_signal =
        config.stop_signal.clone().or(from_image).unwrap_or(DEFAULT_STOP_SIGNAL.to_owned());
    if signal_number(&stop_signal).is_none() {
        return Err(Error::InvalidConfig {
            what: "stop signal",
            reason: format!("{stop_signal:?} is not one"),
        });
    }
    let log_path = match config.log_path.as_os_str().is_empty() {
        true => PathBuf::new(),
        false => pod.log_directory.join(&config.log_path),
    };
    Ok(ContainerRecord {
        id: id.to_owned(),
        sandbox_id: sandbox_id.to_owned(),
        created_at: SystemTime::now(),
        image_id: image.id.clone(),
        image_ref: image.image_ref(),
        layers: image.layers.clone(),
        mounted_layers: Vec::new(),
        stop_signal,
        log_path,
        cgroup: format!("{}/{id}", cgroup_path(sandbox_id, pod)),
        config,
    })
}

/// On the node's network the pod has the node's name.
fn hostname(pod: &PodSandboxConfig) -> String {
    if pod.linux.namespaces.network != NamespaceMode::Node {
        return pod.hostname.clone();
    }
    let own = nix::unistd::gethostname().unwrap_or_default();
    own.to_string_lossy().into_owned()
}

fn pod_files(sandbox: &Sandbox, pod: &PodSandboxConfig) -> Vec<(&'static str, PathBuf)> {
    let resolv_conf = match pod.resolv_conf {
        Some(_) => sandbox.dir.join("resolv.conf"),
        None => PathBuf::from("/etc/resolv.conf"),
    };
    let all = [("/etc/resolv.conf", resolv_conf), ("/etc/hostname", sandbox.dir.join("hostname"))];
    all.into_iter().filter(|(_, source)| source.exists()).collect()
}
