//! Claims of devices: prepared by their driver before the pod starts, given back after it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use prost::Message;
use serde_json::{Value, json};
use skiff_grpc::{Router, Status};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::{Node, one_container};

const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
const DRIVER: &str = "gpu.example.com";
const SERVICE: &str = "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin";

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
    #[prost(string, tag = "3")]
    name: String,
}

/// Each claim with nothing to say of it.
#[derive(Clone, PartialEq, Message)]
struct Done {
    #[prost(btree_map = "string, message", tag = "1")]
    claims: BTreeMap<String, ()>,
}

/// Serves registration and claims on one socket; gone when dropped.
struct Driver {
    calls: Arc<Mutex<Vec<String>>>,
    socket: PathBuf,
    stop: CancellationToken,
}

// === impl Driver ===

impl Driver {
    fn start(root: &Path) -> Self {
        let socket = root.join("plugins_registry/gpu.sock");
        std::fs::create_dir_all(socket.parent().expect("it has one")).expect("a directory");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let (calls, stop) = (Arc::<Mutex<Vec<String>>>::default(), CancellationToken::new());
        let answer = |call: &'static str| {
            let calls = calls.clone();
            move |request: Claims| {
                let names = request.claims.iter().map(|claim| format!("{call} {}", claim.name));
                calls.lock().expect("no panic").extend(names);
                let claims = request.claims.into_iter().map(|claim| (claim.uid, ()));
                std::future::ready(Ok::<_, Status>(Done { claims: claims.collect() }))
            }
        };
        let router = Router::default()
            .unary("/pluginregistration.Registration/GetInfo", |()| async {
                Ok(PluginInfo {
                    kind: "DRAPlugin".into(),
                    name: DRIVER.into(),
                    versions: vec!["v1.DRAPlugin".into()],
                })
            })
            .unary("/pluginregistration.Registration/NotifyRegistrationStatus", |()| async {
                Ok(())
            })
            .unary(format!("{SERVICE}/NodePrepareResources"), answer("prepare"))
            .unary(format!("{SERVICE}/NodeUnprepareResources"), answer("unprepare"));
        tokio::spawn(router.serve(listener, stop.clone()));
        Driver { calls, socket, stop }
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("no panic").clone()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Node {
    /// A claim that is allocated, and reserved for the pods.
    fn reserve_claim(&self, pods: &[&str]) {
        let uid = |name: &&str| {
            self.api.get(crate::PODS, name).expect("the pod")["metadata"]["uid"].clone()
        };
        let users: Vec<Value> = pods
            .iter()
            .map(|name| json!({ "resource": "pods", "name": name, "uid": uid(name) }))
            .collect();
        let result = json!({ "request": "one", "driver": DRIVER, "pool": "node", "device": "0" });
        let status =
            json!({ "allocation": { "devices": { "results": [result] } }, "reservedFor": users });
        let metadata = json!({ "name": "gpu", "namespace": "default", "uid": "claim-uid" });
        self.api.put(CLAIMS, json!({ "metadata": metadata, "spec": {}, "status": status }));
    }
}

fn with_claim() -> Value {
    let mut spec = one_container();
    spec["resourceClaims"] = json!([{ "name": "mine", "resourceClaimName": "gpu" }]);
    spec["containers"][0]["resources"] = json!({ "claims": [{ "name": "mine" }] });
    spec
}

#[tokio::test]
async fn a_claim_is_prepared_once_for_all_its_pods_and_given_back_after_the_last() {
    let mut node = Node::start("dra").await;
    node.create("one", with_claim());
    node.create("two", with_claim());
    node.reserve_claim(&["one", "two"]);
    let said = "Failed to prepare dynamic resources: DRA driver gpu.example.com is not registered";
    node.until_true("the event", || node.api.event_messages().iter().any(|m| m == said)).await;
    assert!(node.runtime.is_empty(), "nothing starts without its devices");
    let driver = Driver::start(&node.dir.join("kubelet"));
    node.until_ready("one").await;
    node.until_ready("two").await;
    assert_eq!(driver.calls(), ["prepare gpu"]);
    node.delete("one");
    node.until("one", "deletion", Value::is_null).await;
    assert_eq!(driver.calls(), ["prepare gpu"], "the other still has it");

    node.stop_agent().await;
    node.start_agent();
    node.until_ready("two").await;
    node.delete("two");
    node.until("two", "deletion", Value::is_null).await;
    assert_eq!(driver.calls(), ["prepare gpu", "unprepare gpu"]);
}

#[tokio::test]
async fn a_claim_of_others_is_not_for_the_pod() {
    let node = Node::start("dra-others").await;
    let _driver = Driver::start(&node.dir.join("kubelet"));
    node.create("web", with_claim());
    node.reserve_claim(&[]);
    let said = |message: &String| {
        message.starts_with("Failed to prepare dynamic resources: pod web (")
            && message.ends_with(") is not allowed to use ResourceClaim gpu (claim-uid)")
    };
    node.until_true("the event", || node.api.event_messages().iter().any(said)).await;
    assert!(node.runtime.is_empty());
}
