//! Autoscalers and the metrics that somebody else serves: custom and external metrics by aggregation.
//!
//! The test is the other server. It says what it is told to, until it says nothing or is no longer registered.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Event, Pod, Service};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use skiff_apiserver::{Backend, Body};

use crate::cluster::{TestCluster, json_path};

const CUSTOM: (&str, &str) = ("custom.metrics.k8s.io", "v1beta2");
const EXTERNAL: (&str, &str) = ("external.metrics.k8s.io", "v1beta1");

/// A server of metrics: what each pod, the Service `web` and the queue outside have.
struct Adapter {
    client: Client,
    says: Mutex<Says>,
}

#[derive(Clone, Default)]
struct Says {
    each_pod: &'static str,
    service: &'static str,
    queue: Vec<&'static str>,
    is_silent: bool,
}

// === impl Adapter ===

impl Adapter {
    async fn of(cluster: &TestCluster, says: Says) -> Arc<Adapter> {
        let adapter = Arc::new(Adapter { client: cluster.client(), says: Mutex::new(says) });
        cluster.aggregate("adapter", adapter.clone()).await;
        for (group, version) in [CUSTOM, EXTERNAL] {
            let spec = json!({"group": group, "version": version, "groupPriorityMinimum": 100,
                "versionPriority": 100, "insecureSkipTLSVerify": true,
                "service": {"namespace": "default", "name": "adapter"}});
            let name = format!("{version}.{group}");
            let service = json!({"metadata": {"name": name}, "spec": spec});
            cluster.create_cluster::<APIService>(service).await;
        }
        adapter
    }

    fn say(&self, change: impl FnOnce(&mut Says)) {
        change(&mut self.says.lock().expect("no panic happens while it is locked"));
    }
}

impl Backend for Adapter {
    fn answer(&self, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let says = self.says.lock().expect("no panic happens while it is locked").clone();
        let (client, uri) = (self.client.clone(), request.uri().clone());
        let answer = async move {
            let found = match says.is_silent {
                true => Err(503),
                false => metrics(&client, &says, &uri).await.ok_or(404),
            };
            let (code, text) = match found {
                Ok(list) => (200, list.to_string()),
                Err(code) => (code, "nothing to say".to_owned()),
            };
            let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
            let response = Response::builder().status(code).body(body.boxed_unsync());
            response.expect("a response is valid")
        };
        answer.boxed()
    }
}

/// What stands at a path; the discovery of both groups names no resources.
async fn metrics(client: &Client, says: &Says, uri: &http::Uri) -> Option<Value> {
    let value = |value: &str, of: Value| json!({"describedObject": of, "metric": {"name": "m"}, "timestamp": Timestamp::now(), "value": value});
    let items: Vec<Value> = match uri.path().strip_prefix("/apis/")? {
        "custom.metrics.k8s.io/v1beta2" | "external.metrics.k8s.io/v1beta1" => {
            return Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "resources": []}));
        }
        "custom.metrics.k8s.io/v1beta2/namespaces/default/pods/*/requests" => {
            let selected =
                uri.query().is_some_and(|query| query.contains("labelSelector=app%3Dweb"));
            let web = ListParams::default().labels("app=web");
            let pods = Api::<Pod>::default_namespaced(client.clone()).list(&web).await.ok()?;
            let pods = pods.items.iter().filter(|_| selected);
            pods.map(|pod| value(says.each_pod, json!({"kind": "Pod", "name": pod.metadata.name})))
                .collect()
        }
        "custom.metrics.k8s.io/v1beta2/namespaces/default/services/web/requests" => {
            vec![value(says.service, json!({"kind": "Service", "name": "web"}))]
        }
        "external.metrics.k8s.io/v1beta1/namespaces/default/queue" => {
            says.queue.iter().map(|one| value(one, Value::Null)).collect()
        }
        _ => return None,
    };
    Some(json!({"kind": "MetricValueList", "items": items}))
}

// === what is scaled ===

async fn start(name: &str, metrics: Value) -> TestCluster {
    let cluster = TestCluster::start(name).await;
    cluster.add_node("n1").await;
    let template = json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "app:1"}]}});
    let spec =
        json!({"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    let web = json!({"metadata": {"name": "web"}, "spec": spec});
    cluster.create::<Deployment>("default", web).await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
    cluster.create::<Service>("default", service).await;
    let at_once = json!({"scaleDown": {"stabilizationWindowSeconds": 0}});
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let autoscaler = json!({"metadata": {"name": "web"}, "spec": {"scaleTargetRef": target,
        "minReplicas": 1, "maxReplicas": 9, "behavior": at_once, "metrics": metrics}});
    cluster.create::<HorizontalPodAutoscaler>("default", autoscaler).await;
    cluster
}

fn queue(target: Value) -> Value {
    json!({"type": "External", "external": {"metric": {"name": "queue"}, "target": target}})
}

fn requests_of_pods() -> Value {
    json!({"type": "Pods", "pods": {"metric": {"name": "requests"},
        "target": {"type": "AverageValue", "averageValue": "100"}}})
}

async fn autoscaler(cluster: &TestCluster) -> HorizontalPodAutoscaler {
    cluster.api("default").get("web").await.expect("there")
}

async fn size_becomes(cluster: &TestCluster, size: i32) {
    let reached = async |c: &TestCluster| {
        let web = c.api::<Deployment>("default").get("web").await.expect("there");
        json_path(&web, "/spec/replicas") == json!(size)
            && json_path(&web, "/status/readyReplicas") == json!(size)
    };
    cluster.eventually(&format!("{size} replicas"), reached).await;
}

/// Status and reason of `ScalingActive`, and its message from the colon on.
async fn is_active_becomes(cluster: &TestCluster, expected: (&str, &str, &str)) {
    let seen = Mutex::new(String::new());
    let reached = async |c: &TestCluster| {
        let status = autoscaler(c).await.status.unwrap_or_default();
        let all = status.conditions.unwrap_or_default();
        all.iter().any(|one| {
            let reason = one.reason.as_deref().unwrap_or_default();
            let message = one.message.as_deref().unwrap_or_default();
            *seen.lock().expect("one looks at a time") = format!("{reason}: {message}");
            tracing::info!(type_ = one.type_, reason, message, "a condition");
            let said = message.split_once(": ").map_or(message, |(_, said)| said);
            one.type_ == "ScalingActive" && (one.status.as_str(), reason, said) == expected
        })
    };
    cluster.eventually(&format!("{expected:?}"), reached).await;
}

// === tests ===

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_follows_a_queue_outside_until_nobody_tells_of_it_any_more() {
    let each = json!({"type": "AverageValue", "averageValue": "10"});
    let cluster = start("external-metrics", json!([queue(each)])).await;
    let _flies = cluster.let_time_fly();
    const UNREAD: &str = "unable to get external metric default/queue/nil: unable to fetch metrics from external metrics API: ";
    let missing = format!(
        "{UNREAD}the server could not find the requested resource (get queue.external.metrics.k8s.io)"
    );
    // Nobody serves such metrics yet.
    is_active_becomes(&cluster, ("False", "FailedGetExternalMetric", &missing)).await;

    let adapter = Adapter::of(&cluster, Says { queue: vec!["25", "15"], ..Says::default() }).await;
    size_becomes(&cluster, 4).await;
    let good = "the HPA was able to successfully calculate a replica count from external metric queue(nil)";
    is_active_becomes(&cluster, ("True", "ValidMetricFound", good)).await;
    let current = async |c: &TestCluster| {
        json_path(&autoscaler(c).await, "/status/currentMetrics/0/external/current/averageValue")
    };
    cluster.eventually("ten each", async |c| current(c).await == json!("10")).await;
    let events = cluster.list::<Event>("default").await;
    let said = "New size: 4; reason: external metric queue(nil) above target";
    assert!(events.iter().any(|event| event.message.as_deref() == Some(said)));
    adapter.say(|says| says.queue = vec!["20"]);
    size_becomes(&cluster, 2).await;

    adapter.say(|says| says.is_silent = true);
    let silent = format!(
        "{UNREAD}the server is currently unable to handle the request (get queue.external.metrics.k8s.io)"
    );
    is_active_becomes(&cluster, ("False", "FailedGetExternalMetric", &silent)).await;
    adapter.say(|says| says.is_silent = false);
    is_active_becomes(&cluster, ("True", "ValidMetricFound", good)).await;
    adapter.say(|says| says.queue.clear());
    let empty = "no metrics returned from external metrics API";
    let empty = format!("unable to get external metric default/queue/nil: {empty}");
    is_active_becomes(&cluster, ("False", "FailedGetExternalMetric", &empty)).await;
    let services = cluster.cluster_api::<APIService>();
    let name = format!("{}.{}", EXTERNAL.1, EXTERNAL.0);
    services.delete(&name, &DeleteParams::default()).await.expect("deleted");
    is_active_becomes(&cluster, ("False", "FailedGetExternalMetric", &missing)).await;
    size_becomes(&cluster, 2).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_follows_what_its_pods_and_an_object_say_of_themselves() {
    let service = json!({"kind": "Service", "name": "web", "apiVersion": "v1"});
    let object = json!({"type": "Object", "object": {"metric": {"name": "requests"},
        "describedObject": service, "target": {"type": "Value", "value": "1k"}}});
    let cluster = start("custom-metrics", json!([requests_of_pods(), object])).await;
    let _flies = cluster.let_time_fly();
    let missing = "unable to get metric requests: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered";
    is_active_becomes(&cluster, ("False", "FailedGetPodsMetric", missing)).await;

    let says = Says { each_pod: "150", service: "500", ..Says::default() };
    let adapter = Adapter::of(&cluster, says).await;
    size_becomes(&cluster, 3).await;
    let found = |metric: &str| {
        format!("the HPA was able to successfully calculate a replica count from {metric}")
    };
    adapter.say(|says| says.each_pod = "100");
    is_active_becomes(&cluster, ("True", "ValidMetricFound", &found("pods metric requests"))).await;
    // Three replicas serve half as much again as they should.
    adapter.say(|says| says.service = "1500");
    size_becomes(&cluster, 5).await;
    adapter.say(|says| (says.each_pod, says.service) = ("50", "1000"));
    let of_service = found("Service metric requests");
    is_active_becomes(&cluster, ("True", "ValidMetricFound", &of_service)).await;
    let is_shown = async |c: &TestCluster| {
        let status = json!(autoscaler(c).await.status);
        let current = |at: usize| &status["currentMetrics"][at];
        current(0)["pods"]["current"]["averageValue"] == "50"
            && current(1)["object"]["current"]["value"] == "1k"
    };
    cluster.eventually("both are shown", is_shown).await;

    adapter.say(|says| says.is_silent = true);
    let silent = "unable to get metric requests: unable to fetch metrics from custom metrics API: the server is currently unable to handle the request (get pods.custom.metrics.k8s.io *)";
    is_active_becomes(&cluster, ("False", "FailedGetPodsMetric", silent)).await;
    size_becomes(&cluster, 5).await;
    cluster.stop().await;
}

/// `kubectl get hpa` reads the current value of the second metric from the second place.
#[tokio::test(flavor = "multi_thread")]
async fn a_metric_that_fails_keeps_its_place_among_the_others() {
    let whole = json!({"type": "Value", "value": "10"});
    let cluster = start("one-metric-fails", json!([queue(whole), requests_of_pods()])).await;
    let _flies = cluster.let_time_fly();
    let _adapter = Adapter::of(&cluster, Says { each_pod: "150", ..Says::default() }).await;
    size_becomes(&cluster, 9).await;
    let status = json!(autoscaler(&cluster).await.status);
    assert_eq!(status["currentMetrics"][0], json!({"type": ""}));
    assert_eq!(status["currentMetrics"][1]["pods"]["current"]["averageValue"], "150");
    cluster.stop().await;
}
