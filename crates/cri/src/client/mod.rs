//! A runtime behind a CRI socket, as the kubelet's `Runtime`.
//!
//! The trait's verbs -> CRI calls, and the groups of pods, which a CRI runtime leaves to the node agent. Counterpart:
//! `k8s.io/cri-client` and the cgroup manager of the kubelet. One file per subject: [`verbs`] and [`images`] the traits, [`events`]
//! what happens by itself, [`streams`] exec and attach, [`kept`] what CRI would forget.
//! Invariant: nothing is kept here that the runtime does not keep too; another process may take over at any moment.

mod events;
mod images;
mod kept;
mod streams;
mod verbs;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use prost::Message;
use skiff_grpc::{Channel, Status};
use skiff_runtime::{ContainerEvent, Error, LinuxContainerResources, PodCgroups, Result};
use tokio::sync::broadcast;

use crate::{
    api::{self, IMAGE_SERVICE, MAX_MESSAGE, RUNTIME_SERVICE},
    error::error_of,
};

/// How long a call may take that waits for no container; upstream's `runtimeRequestTimeout`.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How many events a slow subscriber may lag before it must list again.
const EVENT_BACKLOG: usize = 4096;

pub struct RemoteConfig {
    /// The socket of the runtime service.
    pub runtime: PathBuf,
    /// The socket of the image service, mostly the same.
    pub images: PathBuf,
    /// The part of the cgroup tree that belongs to this node; `/` for all of it.
    pub cgroup_root: String,
}

pub struct RemoteRuntime {
    runtime: Channel,
    images: Channel,
    cgroups: Arc<PodCgroups>,
    /// Limits given since the start, by sandbox or container: not all runtimes tell them in a status.
    updated: Mutex<HashMap<String, LinuxContainerResources>>,
    events: broadcast::Sender<ContainerEvent>,
}

/// The path of an endpoint such as `unix:///run/containerd/containerd.sock`.
pub fn socket_of(endpoint: &str) -> Result<PathBuf> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    match Path::new(path).is_absolute() {
        true => Ok(path.into()),
        false => Err(Error::InvalidConfig {
            what: "container runtime endpoint",
            reason: format!(
                "{endpoint:?} is not a unix socket, such as unix:///run/containerd/containerd.sock"
            ),
        }),
    }
}

// === impl RemoteRuntime ===

impl RemoteRuntime {
    /// Fails when nobody answers CRI v1 at the socket; afterwards the runtime may come and go.
    pub async fn open(config: RemoteConfig) -> Result<Arc<Self>> {
        let channel = |socket| Channel::unix(socket).max_message(MAX_MESSAGE);
        let runtime = Arc::new(RemoteRuntime {
            runtime: channel(config.runtime),
            images: channel(config.images),
            cgroups: Arc::new(PodCgroups::open(&config.cgroup_root)?),
            updated: Mutex::default(),
            events: broadcast::Sender::new(EVENT_BACKLOG),
        });
        runtime.remote_version().await?;
        tokio::spawn(events::watch(Arc::downgrade(&runtime)));
        Ok(runtime)
    }

    async fn remote_version(&self) -> Result<api::VersionResponse> {
        let request = api::VersionRequest { version: "v1".to_owned() };
        self.call("Version", &request, ("runtime", "")).await
    }

    /// A call about something that has a kind and an id.
    async fn call<A: Message + Default>(
        &self,
        verb: &str,
        request: &impl Message,
        (kind, id): (&'static str, &str),
    ) -> Result<A> {
        let answer = self.call_for(TIMEOUT, verb, request).await;
        answer.map_err(|status| error_of(status, kind, id))
    }

    async fn call_for<A: Message + Default>(
        &self,
        timeout: Duration,
        verb: &str,
        request: &impl Message,
    ) -> Result<A, Status> {
        self.runtime.unary(&format!("{RUNTIME_SERVICE}{verb}"), request, Some(timeout)).await
    }

    /// Groups are changed off the async threads: the kernel may take its time.
    async fn with_cgroups<T: Send + 'static>(
        &self,
        work: impl FnOnce(&PodCgroups) -> T + Send + 'static,
    ) -> Result<T> {
        let cgroups = self.cgroups.clone();
        tokio::task::spawn_blocking(move || work(&cgroups)).await.map_err(|_| Error::Shutdown)
    }

    /// Pulls take as long as they take: `None` for those.
    async fn image_call<A: Message + Default>(
        &self,
        timeout: Option<Duration>,
        verb: &str,
        request: &impl Message,
    ) -> Result<A, Status> {
        self.images.unary(&format!("{IMAGE_SERVICE}{verb}"), request, timeout).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_unix_sockets() {
        let expected = PathBuf::from("/run/c.sock");
        assert_eq!(socket_of("unix:///run/c.sock").expect("a url"), expected);
        assert_eq!(socket_of("/run/c.sock").expect("a path"), expected);
        for refused in ["tcp://127.0.0.1:1", "run/c.sock", "unix://c.sock", ""] {
            assert!(socket_of(refused).is_err(), "{refused:?}");
        }
    }
}
