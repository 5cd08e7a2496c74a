//! Every workload controller on a bad day: whatever happens to watches and writes, what was asked for is reached.
//!
//! A workload is a row of `workloads`: how it begins, how it is changed, and how it must end.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::Resource;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use skiff_controllers::runtime::Object;

use crate::cluster::TestCluster;
use crate::cluster::chaos::Chaos;

/// Its objects, from first to last: the second state is asked for before the first is reached.
struct Workload {
    app: &'static str,
    states: [Value; 2],
    /// How many pods there are in the end, and of which image.
    pods: usize,
    image: &'static str,
}

/// `more` is laid over a spec with selector and template.
fn state(kind: &str, app: &str, image: &str, more: Value) -> Value {
    let selector = match kind {
        "ReplicationController" => json!({"app": app}),
        _ => json!({"matchLabels": {"app": app}}),
    };
    let mut spec = json!({"selector": selector, "template": {"metadata": {"labels": {"app": app}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": image}]}}});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    let version = if kind == "ReplicationController" { "v1" } else { "apps/v1" };
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": app}, "spec": spec})
}

fn workload(
    kind: &str,
    app: &'static str,
    [before, after]: [Value; 2],
    image: &'static str,
    pods: usize,
) -> Workload {
    let states = [state(kind, app, "app:1", before), state(kind, app, image, after)];
    Workload { app, states, pods, image }
}

async fn run<K: Object + Resource<Scope = NamespaceResourceScope>>(
    cluster: &TestCluster,
    workload: Workload,
) {
    let [before, after] = workload.states;
    cluster.create::<K>("default", before).await;
    let changed = cluster.api::<K>("default");
    changed.patch(workload.app, &PatchParams::default(), &Patch::Merge(after)).await.unwrap();
    let reached = async |c: &TestCluster| {
        let pods = c.list::<Pod>("default").await;
        let ours: Vec<&Pod> = pods.iter().filter(|pod| is_of(pod, workload.app)).collect();
        ours.len() == workload.pods && ours.iter().all(|pod| runs(pod, workload.image))
    };
    cluster.eventually(workload.app, reached).await;
}

fn is_of(pod: &Pod, app: &str) -> bool {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get("app")).is_some_and(|of| of == app)
}

fn runs(pod: &Pod, image: &str) -> bool {
    let spec = pod.spec.as_ref().expect("a pod has a spec");
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    spec.containers[0].image.as_deref() == Some(image)
        && phase == Some("Running")
        && pod.metadata.deletion_timestamp.is_none()
}

async fn a_bad_day(seed: u64) {
    let cluster =
        TestCluster::start_with(&format!("chaos-{seed}"), Some(Chaos::of_seed(seed))).await;
    cluster.add_node("n1").await;
    cluster.add_node("n2").await;
    let sized = |from: i32, to: i32| [json!({"replicas": from}), json!({"replicas": to})];
    let parallel = || json!({"replicas": 3, "podManagementPolicy": "Parallel"});
    tokio::join!(
        run::<Deployment>(&cluster, workload("Deployment", "deployment", sized(2, 4), "app:2", 4)),
        run::<ReplicationController>(
            &cluster,
            workload("ReplicationController", "controller", sized(5, 2), "app:1", 2)
        ),
        run::<StatefulSet>(&cluster, workload("StatefulSet", "ordered", sized(2, 3), "app:2", 3)),
        run::<StatefulSet>(
            &cluster,
            workload("StatefulSet", "parallel", [parallel(), json!({"replicas": 2})], "app:2", 2)
        ),
        run::<DaemonSet>(
            &cluster,
            workload("DaemonSet", "daemons", [json!({}), json!({})], "app:2", 2)
        ),
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads_are_reached_whatever_happens_to_watches_and_writes() {
    for seed in 1..=3 {
        a_bad_day(seed).await;
    }
}
