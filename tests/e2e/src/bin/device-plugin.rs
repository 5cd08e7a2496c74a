//! A device plugin for tests: devices are the lines of a file.
//!
//! Usage: `device-plugin KUBELET_DIR STATE_DIR`. `STATE_DIR/devices` has an id and its health in each line, and may change. A container
//! gets `/dev/dongle`, the ids in `DONGLES`, and STATE_DIR at `/dongle`. When the agent removes the socket, as it does when it
//! starts, the plugin registers again.

use std::{collections::BTreeMap, path::Path, time::Duration};

use e2e::plugin::{Directories, listen};
use futures::{StreamExt, stream};
use prost::Message;
use skiff_grpc::{Channel, Router};
use tokio_util::sync::CancellationToken;

const RESOURCE: &str = "example.com/dongle";
const SOCKET: &str = "dongle.sock";
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone, PartialEq, Message)]
struct Register {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    endpoint: String,
    #[prost(string, tag = "3")]
    resource: String,
}

#[derive(Clone, PartialEq, Message)]
struct Devices {
    #[prost(message, repeated, tag = "1")]
    devices: Vec<Device>,
}

#[derive(Clone, PartialEq, Message)]
struct Device {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    health: String,
}

#[derive(Clone, PartialEq, Message)]
struct Allocate {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Ids>,
}

#[derive(Clone, PartialEq, Message)]
struct Ids {
    #[prost(string, repeated, tag = "1")]
    ids: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Allocated {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Container>,
}

#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(btree_map = "string, string", tag = "1")]
    envs: BTreeMap<String, String>,
    #[prost(message, repeated, tag = "2")]
    mounts: Vec<Mount>,
    #[prost(message, repeated, tag = "3")]
    devices: Vec<Node>,
}

#[derive(Clone, PartialEq, Message)]
struct Mount {
    #[prost(string, tag = "1")]
    container_path: String,
    #[prost(string, tag = "2")]
    host_path: String,
    #[prost(bool, tag = "3")]
    read_only: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, tag = "1")]
    container_path: String,
    #[prost(string, tag = "2")]
    host_path: String,
    #[prost(string, tag = "3")]
    permissions: String,
}

fn devices(state: &Path) -> Devices {
    let lines = std::fs::read_to_string(state.join("devices")).unwrap_or_default();
    let pairs = lines.lines().filter_map(|line| line.split_once(' '));
    let device = |(id, health): (&str, &str)| Device { id: id.into(), health: health.into() };
    Devices { devices: pairs.map(device).collect() }
}

fn container(state: &Path, ids: &Ids) -> Container {
    Container {
        envs: [("DONGLES".to_owned(), ids.ids.join(","))].into(),
        mounts: vec![Mount {
            container_path: "/dongle".into(),
            host_path: state.display().to_string(),
            read_only: true,
        }],
        devices: vec![Node {
            container_path: "/dev/dongle".into(),
            host_path: "/dev/zero".into(),
            permissions: "r".into(),
        }],
    }
}

fn service(state: &Path) -> Router {
    let (listed, allocating) = (state.to_owned(), state.to_owned());
    Router::default()
        .unary("/v1beta1.DevicePlugin/GetDevicePluginOptions", async |()| Ok(()))
        .unary("/v1beta1.DevicePlugin/Allocate", move |request: Allocate| {
            let containers = request.containers.iter().map(|ids| container(&allocating, ids));
            std::future::ready(Ok(Allocated { containers: containers.collect() }))
        })
        .server_streaming("/v1beta1.DevicePlugin/ListAndWatch", move |()| {
            let state = listed.clone();
            let lists = stream::unfold(None, move |last| {
                let state = state.clone();
                async move {
                    loop {
                        let now = devices(&state);
                        if last.as_ref() != Some(&now) {
                            return Some((Ok(now.clone()), Some(now)));
                        }
                        tokio::time::sleep(LOOK_EVERY).await;
                    }
                }
            });
            std::future::ready(Ok(lists.boxed()))
        })
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let Directories { kubelet, state } = Directories::of_arguments();
    let dir = kubelet.join("device-plugins");
    loop {
        let socket = dir.join(SOCKET);
        let Ok(listener) = listen(&socket) else {
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        };
        let stop = CancellationToken::new();
        let serving = tokio::spawn(service(&state).serve(listener, stop.clone()));
        let request = Register {
            version: "v1beta1".into(),
            endpoint: SOCKET.into(),
            resource: RESOURCE.into(),
        };
        let agent = Channel::unix(dir.join("kubelet.sock"));
        let register = "/v1beta1.Registration/Register";
        let registered: Result<(), _> = agent.unary(register, &request, None).await;
        // An agent that is just starting is asked again.
        while registered.is_ok() && socket.exists() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        stop.cancel();
        let _ = serving.await;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
