//! A runtime of this process, served as CRI v1.
//!
//! gRPC calls at a Unix socket -> the verbs of a `Runtime` -> answers. Counterpart: the CRI plugin of containerd. One file per
//! subject: [`sandboxes`], [`containers`], [`images`], [`stats`], [`streams`], [`status`].
//! What is not in the two lists here is answered `Unimplemented`.
//! Invariant: what a socket asks for is what the kubelet of this node could ask for too, by the same trait.

mod containers;
mod filter;
mod images;
mod sandboxes;
mod stats;
mod status;
mod streams;

use std::{io, net::Ipv4Addr, path::Path, sync::Arc};

use prost::Message;
use skiff_grpc::{Router, Status};
use skiff_runtime::Runtime;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{IMAGE_SERVICE, MAX_MESSAGE, RUNTIME_SERVICE},
    server::streams::Streams,
};

pub struct CriServer {
    served: Arc<Served>,
    listener: UnixListener,
    stream_listener: TcpListener,
}

/// What every verb has at hand.
struct Served {
    runtime: Arc<dyn Runtime>,
    streams: Streams,
}

// === impl CriServer ===

impl CriServer {
    /// Takes the socket over from whoever had it, for root alone; nothing is answered yet.
    pub async fn bind(runtime: Arc<dyn Runtime>, socket: &Path) -> io::Result<Self> {
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(socket)?;
        std::fs::set_permissions(socket, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let stream_listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let streams = Streams::at(stream_listener.local_addr()?);
        let served = Arc::new(Served { runtime, streams });
        Ok(CriServer { served, listener, stream_listener })
    }

    /// Answers until `stop`.
    pub async fn serve(self, stop: CancellationToken) {
        let router = router(&self.served);
        let streams = streams::serve(self.served, self.stream_listener, stop.clone());
        tokio::join!(router.serve(self.listener, stop), streams);
    }
}

fn router(served: &Arc<Served>) -> Router {
    let router = Router::default().max_message(MAX_MESSAGE);
    let runtime = Service { router, served, prefix: RUNTIME_SERVICE }
        .verb("Version", status::version)
        .verb("Status", status::status)
        .verb("RuntimeConfig", status::runtime_config)
        .verb("RunPodSandbox", sandboxes::run)
        .verb("StopPodSandbox", sandboxes::stop)
        .verb("RemovePodSandbox", sandboxes::remove)
        .verb("PodSandboxStatus", sandboxes::status)
        .verb("ListPodSandbox", sandboxes::list)
        .verb("UpdatePodSandboxResources", sandboxes::update_resources)
        .verb("CreateContainer", containers::create)
        .verb("StartContainer", containers::start)
        .verb("StopContainer", containers::stop)
        .verb("RemoveContainer", containers::remove)
        .verb("ContainerStatus", containers::status)
        .verb("ListContainers", containers::list)
        .verb("UpdateContainerResources", containers::update_resources)
        .verb("ReopenContainerLog", containers::reopen_log)
        .verb("ExecSync", streams::exec_sync)
        .verb("Exec", streams::exec)
        .verb("Attach", streams::attach)
        .verb("PortForward", streams::port_forward)
        .verb("ContainerStats", stats::container)
        .verb("ListContainerStats", stats::containers)
        .verb("PodSandboxStats", stats::sandbox)
        .verb("ListPodSandboxStats", stats::sandboxes);
    let for_events = served.clone();
    let router = runtime.router.server_streaming(
        format!("{RUNTIME_SERVICE}GetContainerEvents"),
        move |()| {
            let events = status::events(for_events.clone());
            async { Ok(events) }
        },
    );
    let images = Service { router, served, prefix: IMAGE_SERVICE }
        .verb("ListImages", images::list)
        .verb("ImageStatus", images::status)
        .verb("PullImage", images::pull)
        .verb("RemoveImage", images::remove)
        .verb("ImageFsInfo", images::fs_info);
    images.router
}

struct Service<'a> {
    router: Router,
    served: &'a Arc<Served>,
    prefix: &'static str,
}

impl Service<'_> {
    fn verb<Q, A, F>(
        mut self,
        name: &str,
        handle: impl Fn(Arc<Served>, Q) -> F + Send + Sync + 'static,
    ) -> Self
    where
        Q: Message + Default + 'static,
        A: Message + 'static,
        F: Future<Output = Result<A, Status>> + Send + 'static,
    {
        let served = self.served.clone();
        let path = format!("{}{name}", self.prefix);
        self.router = self.router.unary(path, move |request| handle(served.clone(), request));
        self
    }
}
