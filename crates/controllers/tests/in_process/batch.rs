//! Jobs and what starts, ends and protects them, against the real API server in one process.
//!
//! Containers come to their end when the test says so; everything else is as in a cluster.

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::cluster::{TestCluster, count, json_path};

fn job(name: &str, spec: Value) -> Value {
    let mut job =
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec});
    job["spec"]["template"] = json!({"spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "work:1"}]}});
    job
}

/// Lets every running pod of a Job end.
async fn finish(cluster: &TestCluster, job: &str, phase: &str) {
    let pods = cluster.api::<Pod>("default");
    let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::now());
    let code = i32::from(phase == "Failed");
    let status = json!({"status": {"phase": phase, "containerStatuses": [{"name": "c", "image": "work:1",
        "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": code, "finishedAt": now, "startedAt": now}}}]}});
    for pod in cluster.list::<Pod>("default").await {
        let ours = pod
            .metadata
            .labels
            .iter()
            .flatten()
            .any(|(key, value)| key == "batch.kubernetes.io/job-name" && value == job);
        if ours && json_path(&pod, "/status/phase") == json!("Running") {
            let name = pod.metadata.name.unwrap();
            let patch = Patch::Strategic(&status);
            pods.patch_status(&name, &PatchParams::default(), &patch).await.expect("accepted");
        }
    }
}

async fn condition(cluster: &TestCluster, job: &str, type_: &str) -> Option<String> {
    let job = cluster.api::<Job>("default").get(job).await.expect("there");
    let conditions = job.status.and_then(|status| status.conditions).unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition.type_ == type_)?;
    found.reason.filter(|_| found.status == "True")
}

async fn running(cluster: &TestCluster) -> usize {
    let pods = cluster.list::<Pod>("default").await;
    pods.iter().filter(|pod| json_path(*pod, "/status/phase") == json!("Running")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_counts_its_pods_and_is_deleted_with_them_in_time() {
    let cluster = TestCluster::start("job").await;
    cluster.add_node("n1").await;
    let spec = json!({"completions": 3, "parallelism": 2, "completionMode": "Indexed", "ttlSecondsAfterFinished": 0});
    cluster.create::<Job>("default", job("sum", spec)).await;
    cluster.eventually("two indexes at work", async |c| running(c).await == 2).await;
    finish(&cluster, "sum", "Succeeded").await;
    cluster.eventually("the third index", async |c| running(c).await == 1).await;
    let names: Vec<String> = cluster
        .list::<Pod>("default")
        .await
        .into_iter()
        .filter_map(|pod| pod.spec.and_then(|spec| spec.hostname))
        .collect();
    assert_eq!(names, ["sum-0", "sum-1", "sum-2"]);
    finish(&cluster, "sum", "Succeeded").await;
    cluster
        .eventually("nothing left", async |c| {
            count::<Job>(c, "default").await + count::<Pod>(c, "default").await == 0
        })
        .await;
    let events = cluster.list::<Event>("default").await;
    assert!(events.iter().any(|event| event.reason.as_deref() == Some("Completed")));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_says_so_and_frees_its_pods() {
    let cluster = TestCluster::start("job-fails").await;
    cluster.add_node("n1").await;
    let spec = json!({"completions": 2, "parallelism": 2, "backoffLimit": 0});
    cluster.create::<Job>("default", job("doomed", spec)).await;
    cluster.eventually("two pods", async |c| running(c).await == 2).await;
    let first = cluster.list::<Pod>("default").await.remove(0).metadata.name.unwrap();
    let status = json!({"status": {"phase": "Failed"}});
    let pods = cluster.api::<Pod>("default");
    pods.patch_status(&first, &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
    cluster
        .eventually("the end", async |c| {
            condition(c, "doomed", "Failed").await.as_deref() == Some("BackoffLimitExceeded")
        })
        .await;
    let doomed = cluster.api::<Job>("default").get("doomed").await.unwrap();
    assert_eq!(json_path(&doomed, "/status/failed"), json!(2));
    let tracked = cluster.list::<Pod>("default").await;
    assert!(tracked.iter().all(|pod| pod.metadata.finalizers.is_none()), "no pod waits any more");
    cluster.api::<Job>("default").delete("doomed", &DeleteParams::background()).await.unwrap();
    cluster.eventually("pods gone", async |c| count::<Pod>(c, "default").await == 0).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cron_job_starts_what_is_due_and_remembers_it() {
    let cluster = TestCluster::start("cron").await;
    cluster.add_node("n1").await;
    let template = job("", json!({}))["spec"]["template"].clone();
    let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick"},
        "spec": {"schedule": "@every 1s", "jobTemplate": {"spec": {"template": template}}, "concurrencyPolicy": "Forbid"}});
    cluster.create::<CronJob>("default", cron).await;
    cluster.eventually("a pod at work", async |c| running(c).await == 1).await;
    let started = cluster.list::<Job>("default").await.remove(0);
    let name = started.metadata.name.unwrap();
    let tick = cluster.api::<CronJob>("default").get("tick").await.unwrap();
    assert_eq!(json_path(&tick, "/status/active/0/name"), json!(name));
    assert!(
        started
            .metadata
            .annotations
            .unwrap()
            .contains_key("batch.kubernetes.io/cronjob-scheduled-timestamp")
    );
    finish(&cluster, &name, "Succeeded").await;
    cluster
        .eventually("the success", async |c| {
            let tick = c.api::<CronJob>("default").get("tick").await.unwrap();
            json_path(&tick, "/status/lastSuccessfulTime").is_string()
        })
        .await;
    cluster.stop().await;
}
