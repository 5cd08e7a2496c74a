//! Claims, volumes and attribute classes from their binding to their deletion, against the real API server.

use k8s_openapi::api::core::v1::{Event, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttachment, VolumeAttributesClass};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::cluster::{TestCluster, count, json_path};

fn claim(class: Option<&str>) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
            "storageClassName": "none", "volumeAttributesClassName": class}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_in_use_goes_with_its_last_pod() {
    let cluster = TestCluster::start("claim-in-use").await;
    cluster.create::<PersistentVolumeClaim>("default", claim(None)).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "user"}, "spec": {"nodeName": "n1",
        "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "work:1"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
    cluster.create::<Pod>("default", pod).await;
    let claims = cluster.api::<PersistentVolumeClaim>("default");
    let left = claims.delete("data", &DeleteParams::default()).await.expect("accepted");
    let left = left.left().expect("the claim stays for now");
    assert_eq!(left.metadata.finalizers, Some(vec!["kubernetes.io/pvc-protection".to_owned()]));
    // The class shows that the controllers have come by: it goes, and the claim does not.
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass", "metadata": {"name": "fast"},
        "driverName": "d.example.com", "parameters": {"speed": "high"}});
    cluster.create_cluster::<VolumeAttributesClass>(class).await;
    let classes = cluster.cluster_api::<VolumeAttributesClass>();
    classes.delete("fast", &DeleteParams::default()).await.expect("accepted");
    cluster
        .eventually("the class is gone", async |c| {
            let classes = c.cluster_api::<VolumeAttributesClass>();
            classes.get_opt("fast").await.expect("answered").is_none()
        })
        .await;
    assert_eq!(count::<PersistentVolumeClaim>(&cluster, "default").await, 1);
    let pods = cluster.api::<Pod>("default");
    pods.delete("user", &DeleteParams::default().grace_period(0)).await.expect("accepted");
    cluster
        .eventually("the claim is gone", async |c| {
            count::<PersistentVolumeClaim>(c, "default").await == 0
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_goes_with_the_last_claim_that_names_it_and_a_free_volume_at_once() {
    let cluster = TestCluster::start("class-in-use").await;
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass", "metadata": {"name": "fast"},
        "driverName": "d.example.com", "parameters": {"speed": "high"}});
    cluster.create_cluster::<VolumeAttributesClass>(class).await;
    cluster.create::<PersistentVolumeClaim>("default", claim(Some("fast"))).await;
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "none",
            "hostPath": {"path": "/tmp/pv"}}});
    cluster.create_cluster::<PersistentVolume>(volume).await;
    let classes = cluster.cluster_api::<VolumeAttributesClass>();
    classes.delete("fast", &DeleteParams::default()).await.expect("accepted");
    let volumes = cluster.cluster_api::<PersistentVolume>();
    volumes.delete("pv", &DeleteParams::default()).await.expect("accepted");
    cluster
        .eventually("the volume is gone", async |c| {
            let volumes = c.cluster_api::<PersistentVolume>();
            volumes.get_opt("pv").await.expect("answered").is_none()
        })
        .await;
    assert!(classes.get_opt("fast").await.expect("answered").is_some(), "a claim names it");
    let claims = cluster.api::<PersistentVolumeClaim>("default");
    claims.delete("data", &DeleteParams::default()).await.expect("accepted");
    cluster
        .eventually("the class is gone", async |c| {
            let classes = c.cluster_api::<VolumeAttributesClass>();
            classes.get_opt("fast").await.expect("answered").is_none()
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_bound_on_both_sides_and_leaves_its_volume_released() {
    let cluster = TestCluster::start("binding").await;
    cluster.create::<PersistentVolumeClaim>("default", claim(None)).await;
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"},
        "spec": {"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "none",
            "hostPath": {"path": "/tmp/pv"}}});
    cluster.create_cluster::<PersistentVolume>(volume).await;
    cluster
        .eventually("the claim is bound", async |c| {
            let claim = c.api::<PersistentVolumeClaim>("default").get("data").await.unwrap();
            json_path(&claim, "/status/phase") == json!("Bound")
        })
        .await;
    let claim = cluster.api::<PersistentVolumeClaim>("default").get("data").await.unwrap();
    assert_eq!(json_path(&claim, "/spec/volumeName"), json!("pv"));
    assert_eq!(json_path(&claim, "/status/capacity/storage"), json!("2Gi"));
    let volumes = cluster.cluster_api::<PersistentVolume>();
    let bound = volumes.get("pv").await.unwrap();
    assert_eq!(json_path(&bound, "/spec/claimRef/uid"), json!(claim.metadata.uid));
    // Another controller tells of it.
    cluster
        .eventually("the volume is bound", async |c| {
            let volume = c.cluster_api::<PersistentVolume>().get("pv").await.unwrap();
            json_path(&volume, "/status/phase") == json!("Bound")
        })
        .await;
    let claims = cluster.api::<PersistentVolumeClaim>("default");
    claims.delete("data", &DeleteParams::default()).await.expect("accepted");
    cluster
        .eventually("the volume is released", async |c| {
            let volume = c.cluster_api::<PersistentVolume>().get("pv").await.unwrap();
            json_path(&volume, "/status/phase") == json!("Released")
        })
        .await;
    cluster.stop().await;
}

async fn phase(claims: &kube::Api<PersistentVolumeClaim>, name: &str) -> String {
    let claim = claims.get(name).await.expect("there");
    claim.status.and_then(|status| status.phase).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_takes_the_closest_volume_which_is_released_after_it() {
    let cluster = TestCluster::start("closest").await;
    for (name, size) in [("large", "8Gi"), ("close", "2Gi"), ("small", "512Mi")] {
        let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "none",
                "hostPath": {"path": "/data"}}});
        cluster.create_cluster::<PersistentVolume>(volume).await;
    }
    // Claims and volumes are heard of by watches of their own: who has told of a volume's phase knows it.
    cluster
        .eventually("every volume is known", async |c| {
            let found = c.cluster_api::<PersistentVolume>().list(&ListParams::default()).await;
            found.expect("answered").items.iter().all(|volume| {
                let status = volume.status.as_ref();
                status.and_then(|status| status.phase.as_deref()) == Some("Available")
            })
        })
        .await;
    cluster.create::<PersistentVolumeClaim>("default", claim(None)).await;
    let claims = cluster.api::<PersistentVolumeClaim>("default");
    cluster.eventually("bound", async |_| phase(&claims, "data").await == "Bound").await;
    let bound = claims.get("data").await.expect("there");
    assert_eq!(bound.spec.expect("a spec").volume_name.as_deref(), Some("close"));
    let capacity = bound.status.expect("a status").capacity.expect("a capacity");
    assert_eq!(capacity["storage"].0, "2Gi");
    claims.delete("data", &DeleteParams::default()).await.expect("accepted");
    cluster
        .eventually("released", async |c| {
            let volume = c.cluster_api::<PersistentVolume>().get("close").await.expect("there");
            volume.status.and_then(|status| status.phase).as_deref() == Some("Released")
        })
        .await;
    // Data of somebody else is on it: a claim of the same name does not get it.
    cluster.create::<PersistentVolumeClaim>("default", claim(None)).await;
    cluster.eventually("bound again", async |_| phase(&claims, "data").await == "Bound").await;
    let bound = claims.get("data").await.expect("there");
    assert_eq!(bound.spec.expect("a spec").volume_name.as_deref(), Some("large"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_grows_is_told_which_driver_is_waited_for() {
    let cluster = TestCluster::start("growing").await;
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "none"},
        "provisioner": "ebs.csi.aws.com", "allowVolumeExpansion": true, "volumeBindingMode": "WaitForFirstConsumer"});
    cluster.create_cluster::<StorageClass>(class).await;
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "none",
            "claimRef": {"namespace": "default", "name": "data"}, "awsElasticBlockStore": {"volumeID": "vol-1"}}});
    cluster.create_cluster::<PersistentVolume>(volume).await;
    cluster.create::<PersistentVolumeClaim>("default", claim(None)).await;
    let claims = cluster.api::<PersistentVolumeClaim>("default");
    cluster.eventually("bound", async |_| phase(&claims, "data").await == "Bound").await;
    let larger = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    claims.patch("data", &PatchParams::default(), &Patch::Merge(larger)).await.expect("accepted");
    cluster
        .eventually("the driver is named", async |_| {
            let claim = claims.get("data").await.expect("there");
            let resizer = "/metadata/annotations/volume.kubernetes.io~1storage-resizer";
            json_path(&claim, resizer) == json!("ebs.csi.aws.com")
        })
        .await;
    cluster
        .eventually("the event is there", async |c| {
            let events = c.list::<Event>("default").await;
            events.iter().any(|event| event.reason.as_deref() == Some("ExternalExpanding"))
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_hands_claims_to_its_provisioner_and_ephemeral_volumes_get_claims() {
    let cluster = TestCluster::start("provisioning").await;
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "disks"},
        "provisioner": "disks.example.com"});
    cluster.create_cluster::<StorageClass>(class).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "user"}, "spec": {
        "containers": [{"name": "c", "image": "work:1"}],
        "volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "disks",
            "resources": {"requests": {"storage": "1Gi"}}}}}}]}});
    cluster.create::<Pod>("default", pod).await;
    let claims = cluster.api::<PersistentVolumeClaim>("default");
    cluster
        .eventually("the provisioner is named", async |_| {
            let claim = claims.get_opt("user-scratch").await.expect("answered");
            let annotations = claim.and_then(|claim| claim.metadata.annotations);
            annotations.is_some_and(|annotations| {
                annotations.get("volume.kubernetes.io/storage-provisioner").map(String::as_str)
                    == Some("disks.example.com")
            })
        })
        .await;
    assert_eq!(phase(&claims, "user-scratch").await, "Pending");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drivers_volume_is_attached_for_its_pod_and_detached_after_it() {
    let cluster = TestCluster::start("attach").await;
    cluster.add_node("n1").await;
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "none",
            "csi": {"driver": "disk.example.com", "volumeHandle": "disk-1"}}});
    cluster.create_cluster::<PersistentVolume>(volume).await;
    cluster.create::<PersistentVolumeClaim>("default", claim(None)).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "user"}, "spec": {"nodeName": "n1",
        "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "work:1"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
    cluster.create::<Pod>("default", pod).await;
    let name = skiff_api::csi::attachment_name("disk.example.com", "disk-1", "n1");
    let attachments = cluster.cluster_api::<VolumeAttachment>();
    let is_there = async || attachments.get_opt(&name).await.expect("answered").is_some();
    cluster.eventually("the attachment is made", async |_| is_there().await).await;
    cluster
        .eventually("the node has it", async |c| {
            let node = c.cluster_api::<Node>().get("n1").await.expect("the node");
            let attached = node.status.and_then(|status| status.volumes_attached);
            attached.is_some_and(|it| it[0].name == "kubernetes.io/csi/disk.example.com^disk-1")
        })
        .await;
    let pods = cluster.api::<Pod>("default");
    pods.delete("user", &DeleteParams::default().grace_period(0)).await.expect("accepted");
    cluster.eventually("the attachment is gone", async |_| !is_there().await).await;
    cluster.stop().await;
}
