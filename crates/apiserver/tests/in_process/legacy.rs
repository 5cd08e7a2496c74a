//! Manifests that still speak versions upstream has stopped serving.

use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use skiff_apiserver::ApiServerConfig;

use crate::common::{Client, Cluster};

const EXTENSIONS: &str = "/apis/extensions/v1beta1/namespaces/default/ingresses";
const NETWORKING: &str = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";

async fn cluster() -> (Cluster, Client) {
    let cluster =
        crate::common::cluster_with(|config| ApiServerConfig { legacy_apis: true, ..config }).await;
    let admin = cluster.admin();
    (cluster, admin)
}

fn ingress(version: &str) -> Value {
    json!({ "apiVersion": version, "kind": "Ingress", "metadata": { "name": "old" }, "spec": { "rules": [
        { "host": "a.test", "http": { "paths": [{ "path": "/", "backend": { "serviceName": "web", "servicePort": 80 } }] } }] } })
}

#[tokio::test]
async fn an_old_ingress_is_stored_as_a_current_one_and_read_back_in_either_version() {
    let (_cluster, admin) = cluster().await;
    let answer = admin.post(EXTENSIONS, &ingress("extensions/v1beta1")).await;
    assert_eq!(
        answer.headers["warning"],
        "299 - \"extensions/v1beta1 Ingress is deprecated in v1.14+, unavailable in v1.22+; use networking.k8s.io/v1 Ingress\""
    );
    answer.created();
    let now = admin.get(&format!("{NETWORKING}/old")).await.ok();
    let path = &now["spec"]["rules"][0]["http"]["paths"][0];
    assert_eq!(now["apiVersion"], "networking.k8s.io/v1");
    assert_eq!(path["backend"], json!({ "service": { "name": "web", "port": { "number": 80 } } }));
    assert_eq!(path["pathType"], "ImplementationSpecific");
    let old = admin.get(&format!("{EXTENSIONS}/old")).await.ok();
    assert_eq!(old["apiVersion"], "extensions/v1beta1");
    assert_eq!(
        old["spec"]["rules"][0]["http"]["paths"][0]["backend"],
        json!({ "serviceName": "web", "servicePort": 80 })
    );
}

#[tokio::test]
async fn old_manifests_are_patched_and_applied_in_their_own_words() {
    let (_cluster, admin) = cluster().await;
    let path = "/apis/networking.k8s.io/v1beta1/namespaces/default/ingresses/old";
    let apply = Request::patch(format!("{path}?fieldManager=kubectl"))
        .header("content-type", "application/apply-patch+yaml")
        .body(Full::new(ingress("networking.k8s.io/v1beta1").to_string().into()));
    admin.request(apply.expect("a request")).await.created();
    let patch =
        json!({ "spec": { "backend": { "serviceName": "fallback", "servicePort": "http" } } });
    admin.patch(path, "strategic-merge-patch+json", &patch).await.ok();
    let now = admin.get(&format!("{NETWORKING}/old")).await.ok();
    assert_eq!(
        now["spec"]["defaultBackend"],
        json!({ "service": { "name": "fallback", "port": { "name": "http" } } })
    );
    assert_eq!(now["spec"]["rules"][0]["host"], "a.test");
    admin.delete(path).await.ok();
    assert_eq!(admin.get(&format!("{NETWORKING}/old")).await.status, 404);
}

#[tokio::test]
async fn old_cron_jobs_and_budgets_are_taken_too() {
    let (_cluster, admin) = cluster().await;
    let job = json!({ "apiVersion": "batch/v1beta1", "kind": "CronJob", "metadata": { "name": "c" }, "spec": { "schedule": "@daily",
        "jobTemplate": { "spec": { "template": { "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": "i" }] } } } } } });
    admin.post("/apis/batch/v1beta1/namespaces/default/cronjobs", &job).await.created();
    let now = admin.get("/apis/batch/v1/namespaces/default/cronjobs/c").await.ok();
    assert_eq!(now["spec"]["concurrencyPolicy"], "Allow");
    let budget = json!({ "apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": { "name": "b" },
        "spec": { "minAvailable": 1, "selector": {} } });
    admin
        .post("/apis/policy/v1beta1/namespaces/default/poddisruptionbudgets", &budget)
        .await
        .created();
    let now = admin.get("/apis/policy/v1/namespaces/default/poddisruptionbudgets/b").await.ok();
    assert_eq!(now["spec"]["selector"], Value::Null, "an empty selector selected nothing");
}

#[tokio::test]
async fn discovery_maps_them_and_prefers_the_current_ones() {
    let (_cluster, admin) = cluster().await;
    let groups = admin.get("/apis").await.ok();
    let groups = groups["groups"].as_array().expect("a list").clone();
    let place = |name: &str| groups.iter().position(|group| group["name"] == name).expect("served");
    assert!(place("networking.k8s.io") < place("extensions"));
    let networking = &groups[place("networking.k8s.io")];
    assert_eq!(networking["preferredVersion"]["version"], "v1");
    assert_eq!(networking["versions"][1]["version"], "v1beta1");
    let list = admin.get("/apis/extensions/v1beta1").await.ok();
    assert_eq!(list["resources"][0]["name"], "ingresses");
    for document in ["/openapi/v2", "/openapi/v3", "/openapi/v3/apis/extensions/v1beta1"] {
        assert_eq!(admin.get(document).await.status, 200, "{document}");
    }
}

#[tokio::test]
async fn without_the_flag_they_are_not_there() {
    let cluster = crate::common::cluster().await;
    let answer = cluster.admin().get(EXTENSIONS).await;
    assert_eq!((answer.status.as_u16(), &answer.bytes[..]), (404, &b"404 page not found\n"[..]));
    assert_eq!(cluster.admin().get("/apis/batch/v1beta1").await.status, 404);
}
