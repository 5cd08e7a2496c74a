//! A CSI driver for tests: volumes are directories, brought to pods by real bind mounts.
//!
//! Usage: `csi-driver KUBELET_DIR STATE_DIR`. Volumes are below STATE_DIR, and so is `calls`, a line for each call about a volume.
//! It speaks as much of identity, registration and node service as the hostpath driver of the CSI project does; volumes that come
//! without a staging path are inline ones, which get a file system in memory.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use e2e::plugin::{Directories, PluginInfo, listen, registration};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use prost::Message;
use skiff_grpc::{Code, Router, Status};
use tokio_util::sync::CancellationToken;

const NAME: &str = "disk.example.com";
/// Staging, statistics, expansion.
const CAPABILITIES: [i32; 3] = [1, 2, 3];
const TOTAL: i64 = 1 << 30;

#[derive(Clone, PartialEq, Message)]
struct NodeInfo {
    #[prost(string, tag = "1")]
    node_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Capabilities {
    #[prost(message, repeated, tag = "1")]
    capabilities: Vec<Capability>,
}

#[derive(Clone, PartialEq, Message)]
struct Capability {
    #[prost(message, optional, tag = "1")]
    rpc: Option<Rpc>,
}

#[derive(Clone, PartialEq, Message)]
struct Rpc {
    #[prost(int32, tag = "1")]
    kind: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Stage {
    #[prost(string, tag = "1")]
    volume: String,
    #[prost(string, tag = "3")]
    staging: String,
}

#[derive(Clone, PartialEq, Message)]
struct Publish {
    #[prost(string, tag = "1")]
    volume: String,
    #[prost(string, tag = "3")]
    staging: String,
    #[prost(string, tag = "4")]
    target: String,
    #[prost(bool, tag = "6")]
    read_only: bool,
    #[prost(btree_map = "string, string", tag = "8")]
    context: BTreeMap<String, String>,
}

/// Unpublishing, unstaging, asking for statistics.
#[derive(Clone, PartialEq, Message)]
struct VolumeAt {
    #[prost(string, tag = "1")]
    volume: String,
    #[prost(string, tag = "2")]
    path: String,
}

#[derive(Clone, PartialEq, Message)]
struct Expand {
    #[prost(string, tag = "1")]
    volume: String,
    #[prost(string, tag = "2")]
    path: String,
    #[prost(message, optional, tag = "3")]
    range: Option<Range>,
}

#[derive(Clone, PartialEq, Message)]
struct Range {
    #[prost(int64, tag = "1")]
    required: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Stats {
    #[prost(message, repeated, tag = "1")]
    usage: Vec<Usage>,
}

#[derive(Clone, PartialEq, Message)]
struct Usage {
    #[prost(int64, tag = "1")]
    available: i64,
    #[prost(int64, tag = "2")]
    total: i64,
    #[prost(int64, tag = "3")]
    used: i64,
    #[prost(int32, tag = "4")]
    unit: i32,
}

struct Driver {
    directories: Directories,
}

type Answer = Result<(), Status>;

// === impl Driver ===

impl Driver {
    fn stage(&self, request: &Stage) -> Answer {
        self.directories.note(&format!("stage {}", request.volume));
        let volume = self.directories.state.join("volumes").join(&request.volume);
        std::fs::create_dir_all(&volume).map_err(internal)?;
        bind(&volume, Path::new(&request.staging))
    }

    fn publish(&self, request: &Publish) -> Answer {
        let pod = request.context.get("csi.storage.k8s.io/pod.name").cloned().unwrap_or_default();
        self.directories.note(&format!("publish {} {pod}", request.volume));
        let target = Path::new(&request.target);
        std::fs::create_dir_all(target).map_err(internal)?;
        if !request.staging.is_empty() {
            bind(Path::new(&request.staging), target)?;
        } else if !is_mounted(target) {
            mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), None::<&str>)
                .map_err(internal)?;
        }
        if request.read_only {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            mount(None::<&str>, target, None::<&str>, flags, None::<&str>).map_err(internal)?;
        }
        Ok(())
    }

    fn take_down(&self, call: &str, request: &VolumeAt) -> Answer {
        self.directories.note(&format!("{call} {}", request.volume));
        let path = Path::new(&request.path);
        while is_mounted(path) {
            umount2(path, MntFlags::empty()).map_err(internal)?;
        }
        match std::fs::remove_dir(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(internal(error)),
            _ => Ok(()),
        }
    }

    fn expand(&self, request: &Expand) -> Answer {
        let size = request.range.as_ref().map_or(0, |range| range.required);
        self.directories.note(&format!("expand {} {size}", request.volume));
        match is_mounted(Path::new(&request.path)) {
            true => Ok(()),
            false => Err(Status::new(Code::NotFound, "the volume is not there")),
        }
    }

    fn stats(&self, request: &VolumeAt) -> Result<Stats, Status> {
        let entries = std::fs::read_dir(&request.path).map_err(internal)?.flatten();
        let sizes = entries.filter_map(|entry| i64::try_from(entry.metadata().ok()?.len()).ok());
        let used: i64 = sizes.sum();
        Ok(Stats { usage: vec![Usage { available: TOTAL - used, total: TOTAL, used, unit: 1 }] })
    }
}

fn internal(error: impl std::fmt::Display) -> Status {
    Status::new(Code::Internal, error.to_string())
}

fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

fn bind(from: &Path, to: &Path) -> Answer {
    if !is_mounted(to) {
        mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(internal)?;
    }
    Ok(())
}

fn node_service(driver: &Arc<Driver>) -> Router {
    let [stage, publish, unpublish, unstage, expand, stats] =
        std::array::from_fn(|_| driver.clone());
    let capability = |kind| Capability { rpc: Some(Rpc { kind }) };
    let capabilities = Capabilities { capabilities: CAPABILITIES.map(capability).into() };
    let node_id = || NodeInfo { node_id: "here".into() };
    Router::default()
        .unary("/csi.v1.Node/NodeGetInfo", move |()| async move { Ok(node_id()) })
        .unary("/csi.v1.Node/NodeGetCapabilities", move |()| {
            let capabilities = capabilities.clone();
            async move { Ok(capabilities) }
        })
        .unary("/csi.v1.Node/NodeStageVolume", move |it| std::future::ready(stage.stage(&it)))
        .unary("/csi.v1.Node/NodePublishVolume", move |it| std::future::ready(publish.publish(&it)))
        .unary("/csi.v1.Node/NodeUnpublishVolume", move |it| {
            std::future::ready(unpublish.take_down("unpublish", &it))
        })
        .unary("/csi.v1.Node/NodeUnstageVolume", move |it| {
            std::future::ready(unstage.take_down("unstage", &it))
        })
        .unary("/csi.v1.Node/NodeExpandVolume", move |it| std::future::ready(expand.expand(&it)))
        .unary("/csi.v1.Node/NodeGetVolumeStats", move |it| std::future::ready(stats.stats(&it)))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let directories = Directories::of_arguments();
    // Short names: a socket's path has room for 107 bytes.
    let endpoint = directories.kubelet.join("plugins/disk/csi.sock");
    let socket = directories.kubelet.join("plugins_registry/disk.sock");
    for socket in [&endpoint, &socket] {
        std::fs::create_dir_all(socket.parent().expect("it has one")).expect("a directory");
    }
    let (at, stop) = (|socket| listen(socket).expect("a socket"), CancellationToken::new);
    let info = PluginInfo {
        kind: "CSIPlugin".into(),
        name: NAME.into(),
        endpoint: endpoint.display().to_string(),
        versions: vec!["1.0.0".into()],
    };
    let node = node_service(&Arc::new(Driver { directories })).serve(at(&endpoint), stop());
    let registration = registration(info).serve(at(&socket), stop());
    tokio::join!(node, registration);
}
