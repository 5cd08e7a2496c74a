//! Volumes of a CSI driver, from its registration to the last pod that used them.

use std::{path::PathBuf, time::Duration};

use serde_json::{Value, json};

use crate::{
    Node, PATIENCE, container,
    fake_csi_driver::{FakeCsiDriver, NAME},
    one_container,
};

const CSI_NODES: &str = "/apis/storage.k8s.io/v1/csinodes";
const CSI_DRIVERS: &str = "/apis/storage.k8s.io/v1/csidrivers";
const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";
const VOLUMES: &str = "/api/v1/persistentvolumes";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const NODES: &str = "/api/v1/nodes";

impl Node {
    fn driver(&self) -> FakeCsiDriver {
        FakeCsiDriver::start(&self.dir.join("kubelet"))
    }

    /// A bound claim `data`, and what a pod says to use it.
    fn create_claim(&self) {
        let csi = json!({ "driver": NAME, "volumeHandle": "disk-1", "fsType": "ext4",
            "volumeAttributes": { "tier": "fast" },
            "nodeStageSecretRef": { "namespace": "vault", "name": "stage" } });
        self.api.put(VOLUMES, json!({ "metadata": { "name": "pv-1" },
            "spec": { "csi": csi, "accessModes": ["ReadWriteOnce"], "claimRef": { "uid": "claim-uid" },
                "capacity": { "storage": "1Gi" } } }));
        self.api.put(
            CLAIMS,
            json!({
            "metadata": { "name": "data", "namespace": "default", "uid": "claim-uid" },
            "spec": { "volumeName": "pv-1" },
            "status": { "phase": "Bound", "capacity": { "storage": "1Gi" } } }),
        );
        // "key" is "secret".
        self.api.put(
            "/api/v1/namespaces/vault/secrets",
            json!({
            "metadata": { "name": "stage", "namespace": "vault" }, "data": { "key": "c2VjcmV0" } }),
        );
    }

    /// Says that the volume of the claim has grown, and that it is this node's turn.
    fn grow_claim(&self, size: &str) {
        let mut volume = self.api.get(VOLUMES, "pv-1").expect("it is there");
        volume["spec"]["capacity"] = json!({ "storage": size });
        self.api.put(VOLUMES, volume);
        let mut claim = self.api.get(CLAIMS, "data").expect("it is there");
        claim["status"]["allocatedResources"] = json!({ "storage": size });
        claim["status"]["allocatedResourceStatuses"] = json!({ "storage": "NodeResizePending" });
        claim["status"]["conditions"] =
            json!([{ "type": "FileSystemResizePending", "status": "True" }]);
        self.api.put(CLAIMS, claim);
    }

    fn describe_driver(&self, spec: Value) {
        self.api.put(CSI_DRIVERS, json!({ "metadata": { "name": NAME }, "spec": spec }));
    }

    pub async fn until_true(&self, what: &str, is_it: impl Fn() -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !is_it() {
            assert!(tokio::time::Instant::now() < deadline, "{what} did not come");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn in_use(&self) -> Value {
        self.api
            .get(NODES, "node")
            .map(|node| node["status"]["volumesInUse"].clone())
            .unwrap_or_default()
    }

    /// Where the container `app` finds its volume on the host.
    fn mounted(&self) -> PathBuf {
        let config = self.runtime.config("app").expect("created");
        let at = |path: &std::path::Path| path == std::path::Path::new("/data");
        config.mounts.into_iter().find(|m| at(&m.container_path)).expect("a mount").host_path
    }
}

fn with_volume(source: Value) -> Value {
    let mut spec = one_container();
    spec["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/data" }]);
    let mut volume = source;
    volume["name"] = json!("v");
    spec["volumes"] = json!([volume]);
    spec
}

fn with_claim() -> Value {
    with_volume(json!({ "persistentVolumeClaim": { "claimName": "data" } }))
}

fn inline() -> Value {
    with_volume(json!({ "csi": { "driver": NAME, "volumeAttributes": { "size": "1Gi" } } }))
}

#[tokio::test]
async fn a_driver_is_published_while_its_socket_is_there() {
    let node = Node::start("csi-register").await;
    node.until_true("the CSINode", || node.api.get(CSI_NODES, "node").is_some()).await;
    let owner =
        node.api.get(CSI_NODES, "node").expect("it is there")["metadata"]["ownerReferences"][0]
            .clone();
    assert_eq!((&owner["kind"], &owner["name"]), (&json!("Node"), &json!("node")));
    let drivers = || {
        node.api.get(CSI_NODES, "node").map(|o| o["spec"]["drivers"].clone()).unwrap_or_default()
    };
    let driver = node.driver();
    node.until_true("the driver", || drivers()[0]["name"] == NAME).await;
    let entry = &drivers()[0];
    assert_eq!(entry["nodeID"], "disk-node-1");
    assert_eq!(entry["topologyKeys"], json!(["topology.disk.example.com/rack"]));
    assert_eq!(entry["allocatable"]["count"], 8);
    let object = node.api.get(NODES, "node").expect("the node");
    assert_eq!(object["metadata"]["labels"]["topology.disk.example.com/rack"], "r1");
    let ids = &object["metadata"]["annotations"]["csi.volume.kubernetes.io/nodeid"];
    assert_eq!(ids, &json!(format!("{{\"{NAME}\":\"disk-node-1\"}}")));
    let told = || driver.asked().iter().any(|a| a.method == "NotifyRegistrationStatus");
    node.until_true("the notice", told).await;
    assert_eq!(driver.last("NotifyRegistrationStatus").text(1), "1");
    drop(driver);
    node.until_true("the end of the entry", || drivers().as_array().is_none_or(Vec::is_empty))
        .await;
}

#[tokio::test]
async fn a_driver_that_cannot_say_where_it_is_is_told_why_it_is_not_registered() {
    let node = Node::start("csi-refused").await;
    let driver = node.driver();
    driver.refuse("NodeGetInfo", "no such rack");
    let told = || driver.asked().iter().any(|a| a.method == "NotifyRegistrationStatus");
    node.until_true("the notice", told).await;
    let said = driver.last("NotifyRegistrationStatus").text(2);
    assert_eq!(
        said,
        "plugin registration failed with err: rpc error: code = Internal desc = no such rack"
    );
}

#[tokio::test]
async fn a_volume_waits_for_its_driver_and_for_its_attachment() {
    let node = Node::start("csi-attach").await;
    node.create_claim();
    node.create("web", with_claim());
    let said = "MountVolume.MountDevice failed for volume \"pv-1\" : kubernetes.io/csi: attacher.MountDevice failed to \
                create newCsiDriverClient: driver name disk.example.com not found in the list of registered CSI drivers";
    node.until_true("the event", || node.api.event_messages().iter().any(|m| m == said)).await;
    let driver = node.driver();
    node.until_true("its being in use", || {
        node.in_use() == json!(["kubernetes.io/csi/disk.example.com^disk-1"])
    })
    .await;
    assert!(
        driver.calls().is_empty(),
        "nothing is asked of a driver before the volume is attached"
    );
    // sha256 of handle, driver and node
    let name = "csi-e04aeebddea347d1c738b8e4fa0685939b3fe1a67bc2e102faba98f9d5c0ccad";
    node.api.put(ATTACHMENTS, json!({ "metadata": { "name": name },
        "spec": { "attacher": NAME, "nodeName": "node", "source": { "persistentVolumeName": "pv-1" } },
        "status": { "attached": true, "attachmentMetadata": { "device": "sdb" } } }));
    node.until_ready("web").await;
    assert_eq!(driver.calls(), ["NodeStageVolume", "NodePublishVolume"]);
    let staged = driver.last("NodeStageVolume");
    assert_eq!(staged.text(1), "disk-1");
    assert_eq!(staged.map(2), ["device=sdb"]);
    assert_eq!(
        (staged.map(5), staged.map(6)),
        (vec!["key=secret".into()], vec!["tier=fast".into()])
    );
    let published = driver.last("NodePublishVolume");
    assert_eq!(published.text(3), staged.text(3), "published from where it was staged");
    assert!(published.text(4).ends_with("/volumes/kubernetes.io~csi/pv-1/mount"));
    assert!(published.map(7).is_empty(), "the secret was for staging");
    let content = std::fs::read_to_string(node.mounted().join("hello")).expect("a file");
    assert_eq!(content, "from the driver");

    node.delete("web");
    node.until("web", "deletion", Value::is_null).await;
    assert_eq!(driver.calls()[2..], ["NodeUnpublishVolume", "NodeUnstageVolume"]);
    node.until_true("its being out of use", || node.in_use() == json!([])).await;
    let staging = node.dir.join("kubelet/plugins/kubernetes.io/csi").join(NAME);
    assert_eq!(staging.read_dir().expect("a directory").count(), 0);
}

#[tokio::test]
async fn a_volume_is_staged_once_for_all_its_pods() {
    let node = Node::start("csi-shared").await;
    node.describe_driver(json!({ "attachRequired": false, "fsGroupPolicy": "None",
        "volumeLifecycleModes": ["Persistent"] }));
    node.create_claim();
    let driver = node.driver();
    for pod in ["one", "two"] {
        node.create(pod, with_claim());
        node.until_ready(pod).await;
    }
    assert_eq!(driver.calls(), ["NodeStageVolume", "NodePublishVolume", "NodePublishVolume"]);
    for pod in ["one", "two"] {
        node.delete(pod);
        node.until(pod, "deletion", Value::is_null).await;
    }
    let ends = ["NodeUnpublishVolume", "NodeUnpublishVolume", "NodeUnstageVolume"];
    assert_eq!(driver.calls()[3..], ends);
}

#[tokio::test]
async fn an_inline_volume_knows_its_pod_and_outlives_the_agent() {
    let mut node = Node::start("csi-inline").await;
    node.describe_driver(json!({ "podInfoOnMount": true, "volumeLifecycleModes": ["Ephemeral"],
        "tokenRequests": [{ "audience": "vault" }] }));
    let driver = node.driver();
    node.create("web", inline());
    node.until_ready("web").await;
    let published = driver.last("NodePublishVolume");
    let context = published.map(8);
    for wanted in
        ["size=1Gi", "csi.storage.k8s.io/ephemeral=true", "csi.storage.k8s.io/pod.name=web"]
    {
        assert!(context.iter().any(|entry| entry == wanted), "{wanted} in {context:?}");
    }
    let tokens = r#"csi.storage.k8s.io/serviceAccount.tokens={"vault":{"expirationTimestamp":"2099-01-01T00:00:00Z","token":"a-token"}}"#;
    assert!(context.iter().any(|entry| entry == tokens), "{context:?}");

    node.stop_agent().await;
    node.start_agent();
    node.until_ready("web").await;
    node.delete("web");
    node.until("web", "deletion", Value::is_null).await;
    assert_eq!(driver.calls(), ["NodePublishVolume", "NodeUnpublishVolume"]);
    assert_eq!(driver.last("NodeUnpublishVolume").text(1), published.text(1));
}

#[tokio::test]
async fn a_pod_stays_until_its_driver_has_let_go() {
    let node = Node::start("csi-away").await;
    node.describe_driver(json!({ "volumeLifecycleModes": ["Ephemeral"] }));
    let driver = node.driver();
    node.create("web", inline());
    node.until_ready("web").await;
    let mounted = node.mounted();
    drop(driver);
    node.until_true("the driver's leaving", || {
        let object = node.api.get(CSI_NODES, "node").expect("it is there");
        object["spec"]["drivers"].as_array().is_none_or(Vec::is_empty)
    })
    .await;
    node.delete("web");
    node.until("web", "the containers' end", |p| container(p)["state"]["terminated"].is_object())
        .await;
    assert!(mounted.exists(), "nothing is taken away from under a driver");
    let driver = node.driver();
    node.until("web", "deletion", Value::is_null).await;
    assert_eq!(driver.calls(), ["NodeUnpublishVolume"]);
}

#[tokio::test]
async fn what_a_driver_says_becomes_the_event() {
    let node = Node::start("csi-error").await;
    node.describe_driver(json!({ "volumeLifecycleModes": ["Ephemeral"] }));
    let driver = node.driver();
    driver.refuse("NodePublishVolume", "disk full");
    node.create("web", inline());
    let said =
        "MountVolume.SetUp failed for volume \"v\" : rpc error: code = Internal desc = disk full";
    node.until_true("the event", || node.api.event_messages().iter().any(|m| m == said)).await;
    node.delete("web");
    node.until("web", "deletion", Value::is_null).await;
    assert!(
        driver.calls().contains(&"NodeUnpublishVolume".to_owned()),
        "it may have come half way"
    );
}

#[tokio::test]
async fn a_volume_that_has_grown_is_expanded_before_its_pod_starts() {
    let node = Node::start("csi-grown").await;
    node.describe_driver(
        json!({ "attachRequired": false, "volumeLifecycleModes": ["Persistent"] }),
    );
    node.create_claim();
    node.grow_claim("2Gi");
    let driver = node.driver();
    node.create("web", with_claim());
    node.until_ready("web").await;
    assert_eq!(driver.calls(), ["NodeStageVolume", "NodePublishVolume", "NodeExpandVolume"]);
    let (asked, staged) = (driver.last("NodeExpandVolume"), driver.last("NodeStageVolume"));
    assert_eq!((asked.text(1), asked.text(4)), ("disk-1".into(), staged.text(3)));
    assert_eq!(asked.text(2), driver.last("NodePublishVolume").text(4));
    let claim = node.api.get(CLAIMS, "data").expect("it is there");
    assert_eq!(claim["status"]["capacity"]["storage"], "2Gi");
    assert_eq!(claim["status"]["allocatedResourceStatuses"], json!({}));
    assert_eq!(claim["status"]["conditions"], json!([]));
    let said = "MountVolume.NodeExpandVolume succeeded for volume \"pv-1\" node";
    let twice = || node.api.event_messages().iter().filter(|m| *m == said).count() == 2;
    node.until_true("the events of pod and claim", twice).await;
}

#[tokio::test]
async fn a_volume_that_grows_while_it_is_in_use_is_expanded_in_place() {
    let node = Node::start("csi-grows").await;
    node.describe_driver(
        json!({ "attachRequired": false, "volumeLifecycleModes": ["Persistent"] }),
    );
    node.create_claim();
    let driver = node.driver();
    node.create("web", with_claim());
    node.until_ready("web").await;
    node.grow_claim("3Gi");
    // Any change of what volumes may show has them looked at; else it takes a minute.
    let mut pod = node.api.get(crate::PODS, "web").expect("the pod");
    pod["metadata"]["annotations"] = json!({ "look": "again" });
    node.api.put(crate::PODS, pod);
    let size =
        || node.api.get(CLAIMS, "data").expect("there")["status"]["capacity"]["storage"].clone();
    node.until_true("the growth", || size() == "3Gi").await;
    assert_eq!(driver.calls()[2..], ["NodeExpandVolume"]);
}

#[tokio::test]
async fn a_driver_that_cannot_expand_keeps_the_pod_waiting_and_the_claim_says_why() {
    let node = Node::start("csi-too-large").await;
    node.describe_driver(
        json!({ "attachRequired": false, "volumeLifecycleModes": ["Persistent"] }),
    );
    node.create_claim();
    node.grow_claim("2Gi");
    let driver = node.driver();
    driver.refuse("NodeExpandVolume", "no room");
    node.create("web", with_claim());
    let said = "MountVolume.Setup failed while expanding volume for volume \"pv-1\" : Expander.NodeExpand failed to \
                expand the volume : rpc error: code = Internal desc = no room";
    node.until_true("the event", || node.api.event_messages().iter().any(|m| m == said)).await;
    let claim = node.api.get(CLAIMS, "data").expect("it is there");
    assert_eq!(claim["status"]["capacity"]["storage"], "1Gi");
    let conditions = claim["status"]["conditions"].as_array().expect("conditions");
    let error = conditions.iter().find(|c| c["type"] == "NodeResizeError").expect("an error");
    assert!(error["message"].as_str().is_some_and(|m| m.ends_with("no room")), "{error}");
}

#[tokio::test]
async fn a_raw_device_is_published_as_a_file_and_taken_back() {
    let node = Node::start("csi-block").await;
    node.describe_driver(
        json!({ "attachRequired": false, "volumeLifecycleModes": ["Persistent"] }),
    );
    node.create_claim();
    let mut volume = node.api.get(VOLUMES, "pv-1").expect("it is there");
    volume["spec"]["volumeMode"] = json!("Block");
    node.api.put(VOLUMES, volume);
    let driver = node.driver();
    let mut spec = with_claim();
    spec["containers"][0]["volumeMounts"] = Value::Null;
    node.create("web", spec);
    node.until_ready("web").await;
    let target = driver.last("NodePublishVolume").text(4);
    assert!(target.ends_with("/volumes/kubernetes.io~csi/pv-1/device"), "{target}");
    node.delete("web");
    node.until("web", "deletion", Value::is_null).await;
    assert_eq!(driver.calls()[2..], ["NodeUnpublishVolume", "NodeUnstageVolume"]);
    assert!(!std::path::Path::new(&target).exists());
}
