//! All controllers and the scheduler against the real API server in one process; only the kubelet is played by the test.
//!
//! Each test drives the cluster as a user would and waits for the state that upstream would reach.

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Pod, ReplicationController, ResourceQuota, Service,
    ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::cluster::{TestCluster, count, json_path};

fn web(replicas: i32, image: &str) -> serde_json::Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": image}]}}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_furnished() {
    let cluster = TestCluster::start("furnished").await;
    cluster
        .eventually("default service account", async |c| {
            c.api::<ServiceAccount>("default").get_opt("default").await.unwrap().is_some()
        })
        .await;
    cluster
        .eventually("root CA", async |c| {
            let map = c.api::<ConfigMap>("kube-system").get_opt("kube-root-ca.crt").await.unwrap();
            map.and_then(|map| map.data).is_some_and(|data| data["ca.crt"] == "TEST CA")
        })
        .await;
    cluster.stop().await;
}

/// Such a condition is valid, and is stored as it came.
#[tokio::test(flavor = "multi_thread")]
async fn a_condition_without_a_time_stops_no_other_service() {
    let cluster = TestCluster::start("timeless").await;
    let service = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": [{"port": 80}]}})
    };
    cluster.create::<Service>("default", service("timeless")).await;
    let condition = json!({"type": "Told", "status": "True", "reason": "Test", "message": "", "lastTransitionTime": null});
    let status = Patch::Merge(json!({"status": {"conditions": [condition]}}));
    let services = cluster.api::<Service>("default");
    services.patch_status("timeless", &PatchParams::default(), &status).await.expect("accepted");
    cluster.create::<Service>("default", service("later")).await;
    cluster
        .eventually("slices of the later service", async |c| {
            let ours = ListParams::default().labels("kubernetes.io/service-name=later");
            !c.api::<EndpointSlice>("default").list(&ours).await.unwrap().items.is_empty()
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_runs_rolls_scales_and_is_collected() {
    let cluster = TestCluster::start("deployment").await;
    cluster.add_node("n1").await;
    cluster.add_node("n2").await;
    cluster
        .create::<Service>(
            "default",
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}),
        )
        .await;
    cluster.create::<Deployment>("default", web(3, "app:1")).await;

    let deployments = cluster.api::<Deployment>("default");
    cluster
        .eventually("three available replicas", async |c| {
            let web = c.api::<Deployment>("default").get("web").await.unwrap();
            json_path(&web, "/status/availableReplicas") == json!(3)
                && json_path(&web, "/status/updatedReplicas") == json!(3)
        })
        .await;
    cluster
        .eventually("three endpoints in both APIs", async |c| {
            let ours = ListParams::default().labels("kubernetes.io/service-name=web");
            let slices = c.api::<EndpointSlice>("default").list(&ours).await.unwrap().items;
            let endpoints: usize =
                slices.iter().map(|slice| slice.endpoints.iter().flatten().count()).sum();
            let legacy = c.api::<Endpoints>("default").get_opt("web").await.unwrap();
            let legacy: usize = legacy
                .iter()
                .flat_map(|e| e.subsets.iter().flatten())
                .map(|subset| subset.addresses.iter().flatten().count())
                .sum();
            (slices.len(), endpoints, legacy) == (1, 3, 3)
        })
        .await;
    let nodes: std::collections::BTreeSet<_> = cluster
        .list::<Pod>("default")
        .await
        .into_iter()
        .filter_map(|pod| pod.spec.and_then(|spec| spec.node_name))
        .collect();
    assert_eq!(nodes.len(), 2, "replicas are spread over both nodes");

    let merge = PatchParams::default();
    deployments.patch("web", &merge, &Patch::Merge(web(3, "app:2"))).await.unwrap();
    cluster
        .eventually("all pods of the new image", async |c| {
            let pods = c.list::<Pod>("default").await;
            pods.len() == 3
                && pods.iter().all(|pod| {
                    pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("app:2")
                })
        })
        .await;
    let sets = cluster.list::<ReplicaSet>("default").await;
    assert_eq!(sets.len(), 2, "the old replica set stays for undo");

    deployments
        .patch("web", &merge, &Patch::Merge(json!({"spec": {"replicas": 5}})))
        .await
        .unwrap();
    cluster.eventually("five pods", async |c| count::<Pod>(c, "default").await == 5).await;
    let events = cluster.list::<Event>("default").await;
    let said = |text: &str| {
        events.iter().any(|event| event.message.as_deref().is_some_and(|m| m.contains(text)))
    };
    assert!(said("Scaled up replica set web-"), "the deployment says what it does");
    assert!(said("Created pod: web-"), "the replica set says what it does");

    deployments.delete("web", &DeleteParams::background()).await.unwrap();
    cluster
        .eventually("everything collected", async |c| {
            count::<Pod>(c, "default").await == 0 && count::<ReplicaSet>(c, "default").await == 0
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replication_controller_keeps_adopts_and_releases_pods() {
    let cluster = TestCluster::start("replication-controller").await;
    cluster.add_node("n1").await;
    let pod = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "rc"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "i"}]}})
    };
    cluster.create::<Pod>("default", pod("orphan")).await;
    let template = json!({"metadata": {"labels": {"app": "rc"}}, "spec": pod("")["spec"]});
    cluster
        .create::<ReplicationController>(
            "default",
            json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "rc"},
                "spec": {"replicas": 2, "selector": {"app": "rc"}, "template": template}}),
        )
        .await;
    cluster
        .eventually("two ready pods, one of them the orphan", async |c| {
            let rc = c.api::<ReplicationController>("default").get("rc").await.unwrap();
            let orphan = c.api::<Pod>("default").get("orphan").await.unwrap();
            json_path(&rc, "/status/readyReplicas") == json!(2)
                && json_path(&orphan, "/metadata/ownerReferences/0/name") == json!("rc")
        })
        .await;
    let relabel = Patch::Merge(json!({"metadata": {"labels": {"app": "other"}}}));
    let pods = cluster.api::<Pod>("default");
    pods.patch("orphan", &PatchParams::default(), &relabel).await.unwrap();
    cluster
        .eventually("the relabelled pod is let go and replaced", async |c| {
            let pods = c.list::<Pod>("default").await;
            let free = |pod: &Pod| pod.metadata.owner_references.as_ref().is_none_or(Vec::is_empty);
            pods.len() == 3 && pods.iter().filter(|pod| free(pod)).count() == 1
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_once_all_is_well() {
    let cluster = TestCluster::start("quiet").await;
    cluster.add_node("n1").await;
    cluster.create::<Deployment>("default", web(3, "app:1")).await;
    cluster
        .eventually("three available replicas", async |c| {
            let web = c.api::<Deployment>("default").get("web").await.unwrap();
            json_path(&web, "/status/availableReplicas") == json!(3)
        })
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let before = cluster.revision().await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(cluster.revision().await, before, "a settled cluster writes nothing");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_in_the_foreground_waits_for_dependents_and_orphaning_keeps_them() {
    let cluster = TestCluster::start("deletion").await;
    cluster.add_node("n1").await;
    let deployments = cluster.api::<Deployment>("default");
    cluster.create::<Deployment>("default", web(2, "app:1")).await;
    cluster.eventually("two pods", async |c| count::<Pod>(c, "default").await == 2).await;
    deployments.delete("web", &DeleteParams::foreground()).await.unwrap();
    cluster
        .eventually("all gone", async |c| {
            count::<Pod>(c, "default").await
                + count::<ReplicaSet>(c, "default").await
                + count::<Deployment>(c, "default").await
                == 0
        })
        .await;

    cluster.create::<Deployment>("default", web(2, "app:1")).await;
    cluster.eventually("two pods again", async |c| count::<Pod>(c, "default").await == 2).await;
    deployments.delete("web", &DeleteParams::orphan()).await.unwrap();
    cluster
        .eventually("only the deployment gone", async |c| {
            let sets = c.list::<ReplicaSet>("default").await;
            count::<Deployment>(c, "default").await == 0
                && sets.len() == 1
                && sets[0].metadata.owner_references.as_ref().is_none_or(Vec::is_empty)
        })
        .await;
    assert_eq!(count::<Pod>(&cluster, "default").await, 2);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_namespace_is_emptied_first() {
    let cluster = TestCluster::start("namespace").await;
    cluster.add_node("n1").await;
    cluster
        .create_cluster::<Namespace>(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}),
        )
        .await;
    cluster
        .eventually("its account", async |c| {
            c.api::<ServiceAccount>("team").get_opt("default").await.unwrap().is_some()
        })
        .await;
    cluster.create::<Deployment>("team", web(2, "app:1")).await;
    cluster.eventually("two pods", async |c| count::<Pod>(c, "team").await == 2).await;
    cluster.cluster_api::<Namespace>().delete("team", &DeleteParams::default()).await.unwrap();
    cluster
        .eventually("namespace gone", async |c| {
            c.cluster_api::<Namespace>().get_opt("team").await.unwrap().is_none()
        })
        .await;
    assert_eq!(count::<Pod>(&cluster, "team").await, 0);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pods_use_outlives_them_in_a_deleted_namespace() {
    let cluster = TestCluster::start("ordered").await;
    cluster
        .create_cluster::<Namespace>(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}),
        )
        .await;
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/held"]},
        "spec": {"containers": [{"name": "c", "image": "app:1"}]}});
    let pods = cluster.api::<Pod>("team");
    cluster
        .eventually("a pod", async |_| {
            let pod = serde_json::from_value(held.clone()).unwrap();
            pods.create(&PostParams::default(), &pod).await.is_ok()
        })
        .await;
    cluster.create::<ConfigMap>("team", json!({"metadata": {"name": "used"}})).await;
    cluster.cluster_api::<Namespace>().delete("team", &DeleteParams::default()).await.unwrap();
    cluster
        .eventually("its condition", async |c| {
            let namespace = c.cluster_api::<Namespace>().get("team").await.unwrap();
            let conditions = namespace.status.and_then(|status| status.conditions);
            conditions.iter().flatten().any(|one| one.type_ == "NamespaceDeletionContentFailure")
        })
        .await;
    assert!(pods.get("held").await.unwrap().metadata.deletion_timestamp.is_some());
    assert!(cluster.api::<ConfigMap>("team").get_opt("used").await.unwrap().is_some());
    let released = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    pods.patch("held", &PatchParams::default(), &released).await.unwrap();
    cluster
        .eventually("namespace gone", async |c| {
            c.cluster_api::<Namespace>().get_opt("team").await.unwrap().is_none()
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_knows_what_is_used_and_gets_back_what_is_deleted() {
    let cluster = TestCluster::start("quota").await;
    let hard = json!({"pods": "1", "configmaps": "9", "count/deployments.apps": "2"});
    cluster
        .create::<ResourceQuota>(
            "default",
            json!({"apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": "q"}, "spec": {"hard": hard}}),
        )
        .await;
    let used = async |c: &TestCluster, of: &str| {
        let quota = c.api::<ResourceQuota>("default").get("q").await.unwrap();
        let used = quota.status.and_then(|status| status.used).unwrap_or_default();
        used.get(of).map(|amount| amount.0.clone())
    };
    cluster
        .eventually("kube-root-ca.crt counted", async |c| {
            used(c, "configmaps").await.as_deref() == Some("1")
        })
        .await;
    cluster.create::<Deployment>("default", web(2, "app:1")).await;
    cluster
        .eventually("one pod of two, one deployment", async |c| {
            used(c, "pods").await.as_deref() == Some("1")
                && used(c, "count/deployments.apps").await.as_deref() == Some("1")
        })
        .await;
    assert_eq!(count::<Pod>(&cluster, "default").await, 1);
    cluster.api::<Deployment>("default").delete("web", &DeleteParams::default()).await.unwrap();
    cluster
        .eventually("all given back", async |c| {
            used(c, "pods").await.as_deref() == Some("0")
                && used(c, "count/deployments.apps").await.as_deref() == Some("0")
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_fits_nowhere_says_why_and_starts_when_it_fits() {
    let cluster = TestCluster::start("unschedulable").await;
    cluster.create::<Pod>("default", json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "big"},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}}}],
                 "nodeSelector": {"disk": "ssd"}}})).await;
    let condition = async |c: &TestCluster, text: &str| {
        let pod = c.api::<Pod>("default").get("big").await.unwrap();
        let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
        conditions.iter().any(|condition| {
            condition.type_ == "PodScheduled"
                && condition.message.as_deref().is_some_and(|m| m.contains(text))
        })
    };
    cluster.eventually("no nodes", async |c| condition(c, "no nodes available").await).await;
    cluster.add_node("n1").await;
    cluster
        .eventually("no match", async |c| {
            condition(
                c,
                "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
            )
            .await
        })
        .await;
    cluster.label_node("n1", "disk", "ssd").await;
    cluster
        .eventually("running", async |c| {
            let pod = c.api::<Pod>("default").get("big").await.unwrap();
            json_path(&pod, "/spec/nodeName") == json!("n1")
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_a_policys_kinds_is_told_in_its_status() {
    let cluster = TestCluster::start("typechecking").await;
    let rule = json!({ "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"],
        "resources": ["deployments"] });
    let policy = json!({ "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy", "metadata": { "name": "odd" }, "spec": {
            "matchConstraints": { "resourceRules": [rule] },
            "validations": [{ "expression": "object.spec.replicas > 1" }, { "expression": "object.foo < 1" }],
    } });
    cluster.create_cluster::<ValidatingAdmissionPolicy>(policy).await;
    let policies = cluster.cluster_api::<ValidatingAdmissionPolicy>();
    let told = json!([{
        "fieldRef": "spec.validations[1].expression",
        "warning": "apps/v1, Kind=Deployment: ERROR: <input>:1:7: undefined field 'foo'\n | object.foo < 1\n | ......^\n",
    }]);
    cluster
        .eventually("warned", async |_| {
            let policy = policies.get("odd").await.unwrap();
            json_path(&policy, "/status/observedGeneration") == json!(1)
                && json_path(&policy, "/status/typeChecking/expressionWarnings") == told
        })
        .await;
    cluster.stop().await;
}
