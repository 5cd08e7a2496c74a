//! The embedded runtime: no daemon but this process, no binary but this one.
//!
//! Consumes CRI verbs, decides files, cgroups and shim requests, emits container events.
//! Counterpart: containerd with its CRI plugin. One file per subject: [`sandboxes`],
//! [`containers`], [`exec`], [`recovery`]; [`spec`] takes every decision about a container as one
//! function of its inputs.
//! Invariant: memory is a cache of the directory tree (see [`record`]); what a kill -9 interrupts
//! is either absent or complete to the next daemon.

mod build;
mod containers;
mod exec;
mod images;
mod record;
mod recovery;
mod sandboxes;
mod shim_client;
mod spec;
mod streams;

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, RwLock, Weak},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{net::TcpStream, sync::broadcast};

use self::{
    build::is_build,
    record::{Container, Phase},
    sandboxes::Sandbox,
};
pub use build::{BuildNetwork, BuildOptions};
pub use shim_client::ShimCommand;
pub use streams::dial;

use crate::{
    cgroup::{self, Cgroups},
    cri::*,
    error::{Error, IoContext, Result},
    files,
    image::{ImageRecord, ImageStore, Registries},
    network::SandboxNetwork,
    process::users,
};

/// How many events a slow subscriber may lag before it must list again.
const EVENT_BACKLOG: usize = 4096;

/// What the runtime is built from.
pub struct EmbeddedConfig {
    /// Everything it keeps: images, layers, sandboxes.
    pub root: PathBuf,
    /// The part of the cgroup tree that belongs to this node, such as `/skiff/node-1`; `/` for all
    /// of it.
    pub cgroup_root: String,
    pub network: Arc<dyn SandboxNetwork>,
    pub shim: ShimCommand,
    /// How registries are reached; a file that may be missing, read for every pull.
    pub registries: Option<PathBuf>,
}

/// The runtime. Cheap to share; dropping it leaves every container running.
pub struct Embedded {
    root: PathBuf,
    network: Arc<dyn SandboxNetwork>,
    shim: ShimCommand,
    cgroups: Cgroups,
    shim_cgroup: cgroup::Handle,
    images: Arc<ImageStore>,
    registries: Registries,
    sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    /// Read while a container is made of an image's layers, written while unused layers are
    /// deleted.
    layer_users: RwLock<()>,
    events: broadcast::Sender<ContainerEvent>,
    features: RuntimeFeatures,
    /// For tasks that must not keep the runtime alive.
    this: Weak<Embedded>,
}

// === impl Embedded ===

impl Embedded {
    /// Opens the directory and finds again what runs from an earlier life.
    pub async fn open(config: EmbeddedConfig) -> Result<Arc<Self>> {
        files::create_private_dir(&config.root.join("sandboxes"))?;
        // Mount options and the shim's working directory need it so.
        let root = config.root.canonicalize().at("resolve", &config.root)?;
        let cgroups = Cgroups::detect(&config.cgroup_root)?;
        let shim_cgroup = cgroups.create("shims")?;
        let missing = cgroups.missing();
        if !missing.is_empty() {
            tracing::warn!(controllers = ?missing, "this machine keeps no limits of these kinds for pods");
        }
        let features = features(&root);
        let images = Arc::new(ImageStore::open(&root)?);
        let registries = Registries::new(images.clone(), config.registries);
        let runtime = Arc::new_cyclic(|this| Embedded {
            root,
            network: config.network,
            shim: config.shim,
            cgroups,
            shim_cgroup,
            images,
            registries,
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            layer_users: RwLock::default(),
            events: broadcast::Sender::new(EVENT_BACKLOG),
            features,
            this: this.clone(),
        });
        runtime.recover().await?;
        runtime.remove_builds().await?;
        runtime.collect_layers();
        Ok(runtime)
    }

    fn sandboxes_dir(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    fn sandboxes(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Sandbox>>> {
        self.sandboxes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn containers(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        let found = self.sandboxes().get(id).cloned();
        found.ok_or_else(|| Error::NotFound { kind: "pod sandbox", id: id.to_owned() })
    }

    fn container(&self, id: &str) -> Result<Arc<Container>> {
        let found = self.containers().get(id).cloned();
        found.ok_or_else(|| Error::NotFound { kind: "container", id: id.to_owned() })
    }

    fn containers_of(&self, sandbox_id: &str) -> Vec<Arc<Container>> {
        let all = self.containers();
        all.values()
            .filter(|container| container.record.sandbox_id == sandbox_id)
            .cloned()
            .collect()
    }

    fn layers_in_use(&self) -> HashSet<String> {
        let containers = self.containers();
        let records = containers.values().map(|container| &container.record);
        records
            .flat_map(|record| record.layers.iter().chain(&record.mounted_layers))
            .cloned()
            .collect()
    }

    /// Deletes what no image names and no container uses.
    fn collect_layers(&self) {
        let _nobody_creates =
            self.layer_users.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.images.collect(&self.layers_in_use());
    }

    fn publish(&self, kind: ContainerEventKind, sandbox_id: &str, container_id: &str) {
        let sandbox = self.sandboxes().get(sandbox_id).cloned();
        let pod_uid =
            sandbox.map(|sandbox| sandbox.record().config.metadata.uid.clone()).unwrap_or_default();
        let (sandbox_id, container_id) = (sandbox_id.to_owned(), container_id.to_owned());
        // Nobody listening is fine: a listener that comes later lists first.
        let _ = self.events.send(ContainerEvent { kind, sandbox_id, container_id, pod_uid });
    }

    /// Runs work that waits for the disk or the kernel off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Embedded) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let this = self.this.upgrade().ok_or(Error::Shutdown)?;
        tokio::task::spawn_blocking(move || work(&this)).await.map_err(|_| Error::Shutdown)?
    }
}

/// Tried out, because it takes a kernel that maps owners, a file system that lets it, and leave to do so.
fn features(root: &Path) -> RuntimeFeatures {
    let tried = users::are_supported(root);
    if let Err(error) = &tried {
        tracing::info!(%error, "pods cannot have users of their own on this node");
    }
    RuntimeFeatures {
        user_namespaces: tried.is_ok(),
        recursive_read_only_mounts: true,
        supplemental_groups_policy: true,
    }
}

#[async_trait]
impl Runtime for Embedded {
    async fn version(&self) -> Result<Version> {
        let runtime_version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Version { runtime_name: "skiff".to_owned(), runtime_version })
    }

    async fn features(&self) -> Result<RuntimeFeatures> {
        Ok(self.features)
    }

    async fn run_pod_sandbox(&self, config: PodSandboxConfig) -> Result<String> {
        self.run_sandbox(config).await
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        self.stop_sandbox(id).await
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        self.remove_sandbox(id).await
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus> {
        Ok(self.sandbox(id)?.record().status())
    }

    async fn list_pod_sandboxes(&self) -> Result<Vec<PodSandboxStatus>> {
        let all: Vec<_> = self.sandboxes().values().cloned().collect();
        let records = all.iter().map(|sandbox| sandbox.record().clone());
        Ok(records.filter(|one| !is_build(&one.config)).map(|one| one.status()).collect())
    }

    async fn update_pod_sandbox_resources(
        &self,
        id: &str,
        resources: LinuxContainerResources,
    ) -> Result<()> {
        let sandbox = self.sandbox(id)?;
        self.blocking(move |this| this.update_sandbox(&sandbox, &resources)).await
    }

    async fn set_cgroup_resources(
        &self,
        path: &str,
        resources: LinuxContainerResources,
    ) -> Result<()> {
        let path = path.to_owned();
        self.blocking(move |this| this.cgroups.create(&path)?.apply(&resources)).await
    }

    async fn create_container(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String> {
        let sandbox = self.sandbox(sandbox_id)?;
        self.blocking(move |this| this.create(&sandbox, config)).await
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        self.start(&*self.container(id)?).await
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        match self.container(id) {
            Ok(container) => self.stop(&container, grace).await,
            Err(_) => Ok(()),
        }
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        match self.container(id) {
            Ok(container) => self.remove(container).await,
            Err(_) => Ok(()),
        }
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        Ok(self.container(id)?.status())
    }

    async fn list_containers(&self) -> Result<Vec<ContainerStatus>> {
        let pods: HashSet<String> =
            self.list_pod_sandboxes().await?.into_iter().map(|sandbox| sandbox.id).collect();
        let all: Vec<_> = self.containers().values().cloned().collect();
        let of_pods = all.iter().filter(|one| pods.contains(&one.record.sandbox_id));
        Ok(of_pods.map(|container| container.status()).collect())
    }

    async fn update_container_resources(
        &self,
        id: &str,
        resources: LinuxContainerResources,
    ) -> Result<()> {
        let container = self.container(id)?;
        self.blocking(move |this| this.update(&container, &resources)).await
    }

    async fn reopen_container_log(&self, id: &str) -> Result<()> {
        self.reopen_log(&*self.container(id)?).await
    }

    async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecSyncOutput> {
        self.run_to_end(&*self.container(id)?, command, timeout).await
    }

    async fn exec(&self, id: &str, request: ExecRequest) -> Result<StreamSession> {
        self.start_exec(&*self.container(id)?, request).await
    }

    async fn attach(&self, id: &str, request: AttachRequest) -> Result<StreamSession> {
        self.attach_to(&self.container(id)?, request).await
    }

    async fn dial(&self, sandbox_id: &str, port: u16) -> Result<TcpStream> {
        let status = self.pod_sandbox_status(sandbox_id).await?;
        let failed = |reason: String| Error::Network { id: sandbox_id.to_owned(), reason };
        if status.state == PodSandboxState::NotReady {
            return Err(failed("the sandbox is not running".to_owned()));
        }
        streams::dial(status.netns, port)
            .await
            .map_err(|error| failed(format!("dial localhost:{port}: {error}")))
    }

    async fn container_stats(&self, id: &str) -> Result<ContainerStats> {
        let container = self.container(id)?;
        self.blocking(move |this| Ok(this.stats(&container))).await
    }

    async fn list_container_stats(&self) -> Result<Vec<ContainerStats>> {
        let running: Vec<_> =
            self.containers().values().filter(|one| one.is_running()).cloned().collect();
        self.blocking(move |this| {
            Ok(running.iter().map(|container| this.stats(container)).collect())
        })
        .await
    }

    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.events.subscribe()
    }
}

#[async_trait]
impl ImageService for Embedded {
    async fn list_images(&self) -> Result<Vec<Image>> {
        Ok(self.images.list().iter().map(ImageRecord::to_image).collect())
    }

    async fn image_status(&self, reference: &str) -> Result<Option<Image>> {
        Ok(self.images.find(reference).as_ref().map(ImageRecord::to_image))
    }

    async fn pull_image(&self, request: PullImage) -> Result<String> {
        let pulled = self.registries.pull(request).await;
        // A tag that moved may have left layers that belong to nothing.
        self.blocking(|this| {
            this.collect_layers();
            Ok(())
        })
        .await?;
        Ok(pulled?.id)
    }

    async fn remove_image(&self, reference: &str) -> Result<()> {
        let reference = reference.to_owned();
        self.blocking(move |this| {
            this.images.remove(&reference)?;
            this.collect_layers();
            Ok(())
        })
        .await
    }

    async fn load_image(&self, archive: &Path) -> Result<Vec<Image>> {
        let archive = archive.to_owned();
        let load = move |this: &Embedded| {
            let loaded = this.images.load(&archive);
            // Whether it went well or not: a failed load leaves layers that belong to nothing.
            this.collect_layers();
            loaded
        };
        Ok(self.blocking(load).await?.iter().map(ImageRecord::to_image).collect())
    }

    async fn image_fs_info(&self) -> Result<FilesystemUsage> {
        self.blocking(|this| {
            let found = nix::sys::statvfs::statvfs(&this.root).at("measure", &this.root)?;
            let (used_bytes, inodes_used) = this.images.usage();
            Ok(FilesystemUsage {
                mountpoint: this.root.clone(),
                used_bytes,
                inodes_used,
                capacity_bytes: found.blocks() * found.fragment_size(),
                available_bytes: found.blocks_available() * found.fragment_size(),
                inodes: found.files(),
                inodes_free: found.files_available(),
            })
        })
        .await
    }
}

/// The shim's words become phases and events here.
impl shim_client::Listener for WeakRuntime {
    fn container_exited(&self, sandbox_id: &str, container: &str) {
        let Some(runtime) = self.0.upgrade() else {
            return;
        };
        match runtime.container(container) {
            Ok(container) => runtime.note_exit(&container),
            Err(error) => tracing::debug!(sandbox_id, %error, "a removed container ended"),
        }
    }

    fn shim_gone(&self, sandbox_id: &str) {
        let Some(runtime) = self.0.upgrade() else {
            return;
        };
        if let Ok(sandbox) = runtime.sandbox(sandbox_id) {
            runtime.note_shim_gone(&sandbox);
        }
    }
}

struct WeakRuntime(Weak<Embedded>);

impl Embedded {
    fn listener(&self) -> Arc<dyn shim_client::Listener> {
        Arc::new(WeakRuntime(self.this.clone()))
    }

    /// Reads what the shim wrote down and moves on from there.
    fn note_exit(&self, container: &Container) {
        match Phase::read(&container.dir) {
            Ok(phase) => self.advance(container, phase),
            Err(error) => {
                tracing::error!(container = container.record.id, %error, "cannot read how it ended");
            }
        }
    }

    /// Moves a container to a later phase and tells everybody, once, in order: the shim's word of
    /// an exit may overtake the answer to the start.
    fn advance(&self, container: &Container, phase: Phase) {
        let mut started = phase.run().is_some();
        let exit = phase.exit().map(|exit| (exit.exit_code, exit.oom_killed));
        let changed = container.phase.send_if_modified(|current| {
            started &= current.run().is_none();
            let moves = phase.is_later_than(current);
            if moves {
                *current = phase;
            }
            moves
        });
        let (sandbox_id, id) = (&container.record.sandbox_id, &container.record.id);
        if changed && started {
            self.publish(ContainerEventKind::Started, sandbox_id, id);
        }
        if let (true, Some((exit_code, oom_killed))) = (changed, exit) {
            self.publish(ContainerEventKind::Stopped { exit_code, oom_killed }, sandbox_id, id);
        }
    }
}
