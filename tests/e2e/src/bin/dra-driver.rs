//! A driver of devices for claims, for tests: it prepares any claim by naming one CDI device.
//!
//! Usage: `dra-driver KUBELET_DIR STATE_DIR`. `STATE_DIR/calls` has a line for each call about a claim.

use std::{collections::BTreeMap, io::Write, path::PathBuf};

use prost::Message;
use skiff_grpc::{Router, Status};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

const NAME: &str = "gpu.example.com";
const CDI_DEVICE: &str = "example.com/gpu=zero";
const SERVICE: &str = "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin";

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct PluginInfo {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, repeated, tag = "4")]
    versions: Vec<String>,
}

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

fn answer(state: PathBuf, call: &'static str, devices: bool) -> impl Fn(Claims) -> Done {
    move |request| {
        let mut calls =
            std::fs::OpenOptions::new().create(true).append(true).open(state.join("calls"));
        let calls = calls.as_mut().expect("the state is writable");
        writeln!(calls, "{call}").expect("the state is writable");
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
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [kubelet, state] = &args[..] else { panic!("dra-driver KUBELET_DIR STATE_DIR") };
    let listener = UnixListener::bind(kubelet.join("plugins_registry/gpu.sock")).expect("a socket");
    let info = PluginInfo {
        kind: "DRAPlugin".into(),
        name: NAME.into(),
        versions: vec!["v1.DRAPlugin".into()],
    };
    let router = Router::default()
        .unary("/pluginregistration.Registration/GetInfo", move |_: Empty| {
            std::future::ready(Ok(info.clone()))
        })
        .unary("/pluginregistration.Registration/NotifyRegistrationStatus", |_: Empty| async {
            Ok(Empty {})
        })
        .unary(format!("{SERVICE}/NodePrepareResources"), answer(state.clone(), "prepare", true))
        .unary(
            format!("{SERVICE}/NodeUnprepareResources"),
            answer(state.clone(), "give back", false),
        );
    router.serve(listener, CancellationToken::new()).await;
}
