//! A driver of devices for claims, for tests: it prepares any claim by naming one CDI device.
//!
//! Usage: `dra-driver KUBELET_DIR STATE_DIR`. `STATE_DIR/calls` has a line for each call about a claim.

use std::{collections::BTreeMap, sync::Arc};

use e2e::plugin::{Directories, PluginInfo, listen, registration};
use prost::Message;
use skiff_grpc::Status;
use tokio_util::sync::CancellationToken;

const NAME: &str = "gpu.example.com";
const CDI_DEVICE: &str = "example.com/gpu=zero";
const SERVICE: &str = "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin";

#[derive(Clone, PartialEq, Message)]
struct Claims {
    #[prost(message, repeated, tag = "1")]
    claims: Vec<Claim>,
}

#[derive(Clone, PartialEq, Message)]
struct Claim {
    #[prost(string, tag = "2")]
    uid: String,
}

/// The answer to both calls; to have devices does no harm when they are given back.
#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(btree_map = "string, message", tag = "1")]
    claims: BTreeMap<String, Prepared>,
}

#[derive(Clone, PartialEq, Message)]
struct Prepared {
    #[prost(message, repeated, tag = "1")]
    devices: Vec<Device>,
}

#[derive(Clone, PartialEq, Message)]
struct Device {
    #[prost(string, tag = "2")]
    pool: String,
    #[prost(string, tag = "3")]
    device: String,
    #[prost(string, repeated, tag = "4")]
    cdi_devices: Vec<String>,
}

fn answer(
    directories: &Arc<Directories>,
    call: &'static str,
    devices: bool,
) -> impl Fn(Claims) -> Done + use<> {
    let directories = directories.clone();
    move |request| {
        directories.note(call);
        let device = || Device {
            pool: "node".into(),
            device: "zero".into(),
            cdi_devices: vec![CDI_DEVICE.into()],
        };
        let prepared = || Prepared { devices: devices.then(device).into_iter().collect() };
        let claims = request.claims.into_iter().map(|claim| (claim.uid, prepared()));
        std::future::ready(Ok(Answer { claims: claims.collect() }))
    }
}

type Done = std::future::Ready<Result<Answer, Status>>;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let directories = Arc::new(Directories::of_arguments());
    let socket = directories.kubelet.join("plugins_registry/gpu.sock");
    let info = PluginInfo {
        kind: "DRAPlugin".into(),
        name: NAME.into(),
        versions: vec!["v1.DRAPlugin".into()],
        ..PluginInfo::default()
    };
    let router = registration(info)
        .unary(format!("{SERVICE}/NodePrepareResources"), answer(&directories, "prepare", true))
        .unary(
            format!("{SERVICE}/NodeUnprepareResources"),
            answer(&directories, "give back", false),
        );
    router.serve(listen(&socket).expect("a socket"), CancellationToken::new()).await;
}
