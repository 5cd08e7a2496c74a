//! Devices from a template to a running pod and back: controllers, scheduler and the real API server together.

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::api::resource::v1::{
    DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice,
};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::cluster::{TestCluster, count, json_path};

/// One node with one GPU, and a template that asks for one.
async fn start(name: &str) -> TestCluster {
    let cluster = TestCluster::start(name).await;
    cluster.add_node("n1").await;
    let by_driver = json!({"cel": {"expression": "device.driver == 'gpu.example.com'"}});
    let class = json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": "gpu"},
        "spec": {"selectors": [by_driver]}});
    cluster.create_cluster::<DeviceClass>(class).await;
    let pool = json!({"name": "n1", "generation": 1, "resourceSliceCount": 1});
    let slice = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "n1-gpus"},
        "spec": {"driver": "gpu.example.com", "nodeName": "n1", "pool": pool, "devices": [{"name": "g0"}]}});
    cluster.create_cluster::<ResourceSlice>(slice).await;
    let request = json!({"name": "r", "exactly": {"deviceClassName": "gpu"}});
    let template = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": "one"},
        "spec": {"spec": {"devices": {"requests": [request]}}}});
    cluster.create::<ResourceClaimTemplate>("default", template).await;
    cluster
}

fn pod(name: &str, claim: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "resourceClaims": [claim],
            "containers": [{"name": "c", "image": "work:1", "resources": {"claims": [{"name": "gpu"}]}}]}})
}

fn from_template() -> Value {
    json!({"name": "gpu", "resourceClaimTemplateName": "one"})
}

async fn phase(cluster: &TestCluster, pod: &str) -> Value {
    json_path(&cluster.api::<Pod>("default").get(pod).await.unwrap(), "/status/phase")
}

async fn delete_pod(cluster: &TestCluster, name: &str) {
    let params = DeleteParams::default().grace_period(0);
    cluster.api::<Pod>("default").delete(name, &params).await.expect("accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_gets_the_device_of_its_template_and_the_next_one_waits_for_it() {
    let cluster = start("devices").await;
    cluster.create::<Pod>("default", pod("first", from_template())).await;
    cluster.eventually("first runs", async |c| phase(c, "first").await == "Running").await;
    let first = cluster.api::<Pod>("default").get("first").await.unwrap();
    let name = json_path(&first, "/status/resourceClaimStatuses/0/resourceClaimName");
    let name = name.as_str().expect("the pod knows its claim");
    assert!(name.starts_with("first-gpu-"), "{name}");
    let claim = cluster.api::<ResourceClaim>("default").get(name).await.unwrap();
    let device = json_path(&claim, "/status/allocation/devices/results/0");
    let expected =
        json!({"request": "r", "driver": "gpu.example.com", "pool": "n1", "device": "g0"});
    assert_eq!(device, expected);
    assert_eq!(json_path(&claim, "/status/reservedFor/0/uid"), json!(first.metadata.uid));
    let finalizers = claim.metadata.finalizers.unwrap_or_default();
    assert_eq!(finalizers, ["resource.kubernetes.io/delete-protection"]);

    cluster.create::<Pod>("default", pod("second", from_template())).await;
    cluster
        .eventually("second says why it waits", async |c| {
            let second = c.api::<Pod>("default").get("second").await.unwrap();
            let said = json_path(&second, "/status/conditions/0/message");
            said.as_str().is_some_and(|said| {
                said.starts_with("0/1 nodes are available: 1 cannot allocate all claims. still not schedulable, preemption: ")
            })
        })
        .await;
    delete_pod(&cluster, "first").await;
    cluster.eventually("second runs", async |c| phase(c, "second").await == "Running").await;
    delete_pod(&cluster, "second").await;
    cluster
        .eventually("no claim is left", async |c| count::<ResourceClaim>(c, "default").await == 0)
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_claim_is_shared_and_loses_its_device_with_its_last_pod() {
    let cluster = start("shared-devices").await;
    let named = || json!({"name": "gpu", "resourceClaimName": "both"});
    cluster.create::<Pod>("default", pod("early", named())).await;
    let request = json!({"name": "r", "exactly": {"deviceClassName": "gpu"}});
    let claim = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "both"},
        "spec": {"devices": {"requests": [request]}}});
    cluster.create::<ResourceClaim>("default", claim).await;
    cluster.create::<Pod>("default", pod("late", named())).await;
    for name in ["early", "late"] {
        cluster.eventually("both run", async |c| phase(c, name).await == "Running").await;
    }
    delete_pod(&cluster, "early").await;
    cluster
        .eventually("one reservation is left", async |c| {
            let claim = c.api::<ResourceClaim>("default").get("both").await.unwrap();
            json_path(&claim, "/status/reservedFor").as_array().map(Vec::len) == Some(1)
        })
        .await;
    delete_pod(&cluster, "late").await;
    cluster
        .eventually("the device is free and the claim can go", async |c| {
            let claim = c.api::<ResourceClaim>("default").get("both").await.unwrap();
            json_path(&claim, "/status/allocation").is_null()
                && claim.metadata.finalizers.unwrap_or_default().is_empty()
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_leave_tainted_devices_unless_their_claims_tolerate_that() {
    let cluster = start("tainted-devices").await;
    let offer = async |devices: Value| {
        let slices = cluster.cluster_api::<ResourceSlice>();
        let patch = Patch::Merge(json!({"spec": {"devices": devices}}));
        slices.patch("n1-gpus", &PatchParams::default(), &patch).await.expect("accepted");
    };
    offer(json!([{"name": "g0"}, {"name": "g1"}])).await;
    let tolerations = json!([{"key": "broken", "operator": "Exists", "effect": "NoExecute"}]);
    let request =
        json!({"name": "r", "exactly": {"deviceClassName": "gpu", "tolerations": tolerations}});
    let claim = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "any"},
        "spec": {"devices": {"requests": [request]}}});
    cluster.create::<ResourceClaim>("default", claim).await;
    let stays = pod("stays", json!({"name": "gpu", "resourceClaimName": "any"}));
    cluster.create::<Pod>("default", stays).await;
    cluster.create::<Pod>("default", pod("leaves", from_template())).await;
    for name in ["stays", "leaves"] {
        cluster.eventually("both run", async |c| phase(c, name).await == "Running").await;
    }
    let taints = json!([{"key": "broken", "effect": "NoExecute"}]);
    offer(json!([{"name": "g0", "taints": taints}, {"name": "g1", "taints": taints}])).await;
    cluster
        .eventually("one is evicted, with an event", async |c| {
            let events = c.list::<Event>("default").await;
            let told = events.iter().any(|event| {
                event.reason.as_deref() == Some("DeviceTaintManagerEviction")
                    && event.involved_object.name.as_deref() == Some("leaves")
            });
            told && c.api::<Pod>("default").get_opt("leaves").await.unwrap().is_none()
        })
        .await;
    let stays = cluster.api::<Pod>("default").get("stays").await.unwrap();
    assert!(stays.metadata.deletion_timestamp.is_none());
    cluster.stop().await;
}
