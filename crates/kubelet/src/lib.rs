//! The node agent: pods on this node.
//!
//! Consumes the pods bound to this node through a `kube::Client`, drives a CRI-shaped [`skiff_runtime::Runtime`],
//! emits their status, events, and an HTTPS API for logs, exec and port-forward. Counterpart: `cmd/kubelet` and
//! `pkg/kubelet`.
//!
//! How the parts meet: [`pod::manager`] keeps one [`pod::worker`] per pod; a worker asks the pure [`pod::plan`] what
//! to do, runs the answer as [`step`]s, and reports what the pure [`pod::status`] says.
//!
//! Invariant: an ordinary client of the API server, with no way around it; nothing here polls a container, and what
//! runs when the agent ends goes on running.

mod allocation;
mod config;
mod configuration;
mod container;
mod context;
mod csi;
mod device_plugin;
mod directory_watch;
mod dra;
mod events;
mod eviction;
mod healthz;
mod image;
mod logs;
mod node;
mod objects;
mod orphans;
mod plugin_registration;
mod pod;
mod probe;
mod qos;
mod server;
mod shutdown;
pub mod simulated;
mod static_pods;
mod step;
mod user_namespaces;
mod volume;

use std::{future::Future, io, sync::Arc};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, reflector, watcher},
};
use skiff_api::scheduling::resources::Resources;
use skiff_runtime::Runtime;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};

use allocation::Allocations;
pub use config::{
    CredentialProviderPaths, ImageGarbage, KUBELET_VERSION, KubeletConfig, LogRotation,
    ServingConfig, SwapBehavior,
};
pub use configuration::{ConfigurationError, Fault, KubeletConfiguration};
use context::NodeContext;
use csi::Drivers;
use device_plugin::DeviceManager;
use dra::ClaimManager;
use events::EventRecorder;
use eviction::{Conditions, Evicted};
pub use eviction::{EvictionConfig, EvictionStatements, ThresholdError};
pub use image::keyring::{Keyring, KeyringError};
use image::{credential_provider::CredentialProviders, garbage::ImageCollector, pull::PullSlots};
use node::machine::Machine;
use objects::ReferencedObjects;
use pod::{
    ending::Endings,
    manager::{Inbox, PodIndex, PodManager},
};
use shutdown::Going;
pub use shutdown::ShutdownGrace;
use user_namespaces::UserNamespaces;
use volume::token::TokenSource;

/// The node agent, built but not yet running.
pub struct Kubelet {
    ctx: Arc<NodeContext>,
    index: PodIndex,
    tasks: JoinSet<()>,
    inbox: Inbox,
}

// === impl Kubelet ===

impl Kubelet {
    /// Binds the parts together. Nothing is asked of the API server or the runtime before [`Kubelet::run`].
    /// Fails when the directories cannot be made, or credential providers are not as configured.
    pub fn build(
        config: KubeletConfig,
        client: Client,
        runtime: Arc<dyn Runtime>,
    ) -> io::Result<Self> {
        node::machine::check(&config).map_err(io::Error::other)?;
        std::fs::create_dir_all(config.pods_dir())?;
        std::fs::create_dir_all(&config.log_dir)?;
        let mut tasks = JoinSet::new();
        let (recorder, send_events) = EventRecorder::new(client.clone(), &config.node_name);
        tasks.spawn(send_events);
        let (services, writer) = reflector::store();
        tasks.spawn(follow_services(client.clone(), writer));
        let (notify, changed) = mpsc::unbounded_channel();
        let (notify_granted, granted) = mpsc::unbounded_channel();
        let (endings, ended) = Endings::channel();
        let machine = Machine::read(&config);
        let allocatable = Resources::of(&machine.allocatable());
        let ctx = Arc::new(NodeContext {
            allocations: Allocations::new(allocatable, config.pods_dir(), notify_granted)
                .allowing(config.allowed_unsafe_sysctls.clone()),
            machine,
            recorder,
            csi: Drivers::new(notify.clone()),
            devices: DeviceManager::read(config.device_plugins_dir()),
            claims: ClaimManager::read(&config.root_dir),
            objects: ReferencedObjects::new(client.clone(), notify),
            services,
            tokens: TokenSource::new(client.clone()),
            pull_slots: PullSlots::new(
                config.serialize_image_pulls,
                config.max_parallel_image_pulls,
            ),
            credential_providers: credential_providers(&config)?,
            images: ImageCollector::default(),
            conditions: Conditions::default(),
            evicted: Evicted::default(),
            users: UserNamespaces::read(config.pods_dir(), config.ids_per_pod),
            going: Going::default(),
            endings,
            config,
            client,
            runtime,
        });
        let statics = follow_manifests(&mut tasks, &ctx.config);
        let inbox = Inbox { changed, granted, ended, statics };
        Ok(Kubelet { ctx, index: PodIndex::default(), tasks, inbox })
    }

    /// Serves the agent's API on `listener` from now on; needs [`KubeletConfig::serving`].
    pub fn serve(&mut self, listener: TcpListener) -> io::Result<()> {
        let api = server::Server::new(self.ctx.clone(), self.index.clone())?;
        self.tasks.spawn(api.run(listener));
        Ok(())
    }

    /// Runs until `stop` resolves. Pods are left running and the next start adopts them, unless
    /// [`KubeletConfig::shutdown`] grants them time to end.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        volume::csi::adopt(&self.ctx).await;
        let manager = PodManager::new(self.ctx.clone(), self.index.clone());
        self.tasks.spawn(manager.run(self.inbox));
        self.tasks.spawn(node::agent::run(self.ctx.clone()));
        self.tasks.spawn(plugin_registration::run(self.ctx.clone()));
        self.tasks.spawn(device_plugin::registry::run(self.ctx.clone()));
        self.tasks.spawn(device_plugin::pod_resources::run(self.ctx.clone(), self.index.clone()));
        self.tasks.spawn(qos::run(self.ctx.clone()));
        self.tasks.spawn(logs::rotation::run(self.ctx.clone()));
        self.tasks.spawn(image::garbage::run(self.ctx.clone()));
        self.tasks.spawn(eviction::run(self.ctx.clone(), self.index.clone()));
        if self.ctx.config.healthz.port() != 0 {
            self.tasks.spawn(healthz::run(self.ctx.config.healthz));
        }
        stop.await;
        shutdown::end_pods(&self.ctx, &self.index).await;
        self.tasks.shutdown().await;
    }
}

fn credential_providers(config: &KubeletConfig) -> io::Result<CredentialProviders> {
    match &config.credential_providers {
        None => Ok(CredentialProviders::default()),
        Some(given) => {
            CredentialProviders::read(&given.config, &given.bin_dir).map_err(io::Error::other)
        }
    }
}

/// Pods of the directory of manifests, if there is one.
fn follow_manifests(
    tasks: &mut JoinSet<()>,
    config: &KubeletConfig,
) -> Option<mpsc::Receiver<static_pods::Pods>> {
    let dir = config.static_pod_path.clone()?;
    let (sender, pods) = mpsc::channel(1);
    tasks.spawn(static_pods::directory::follow(dir, config.node_name.clone(), sender));
    Some(pods)
}

/// Services feed only the environment variables of new containers.
async fn follow_services(client: Client, writer: reflector::store::Writer<Service>) {
    let services: Api<Service> = Api::all(client);
    let stream = watcher(services, watcher::Config::default()).default_backoff();
    reflector(writer, stream)
        .for_each(|event| async move {
            if let Err(error) = event {
                tracing::warn!(%error, "watch on services broke, will resume");
            }
        })
        .await;
}
