//! Pods that extenders have a say in: a whole scheduler, an API server in memory, and extenders that listen on loopback.

mod fake_api;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use fake_api::FakeApi;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use skiff_scheduler::SchedulerConfig;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Answers verbs by a function, and remembers what it was asked.
struct Extender {
    url: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

type Answers = fn(&str, &Value) -> Option<Value>;

// === impl Extender ===

impl Extender {
    /// No answer is an error of the server.
    async fn start(answers: Answers) -> Extender {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/scheduler", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let extender = Extender { url, asked: asked.clone() };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let asked = asked.clone();
                let service = service_fn(move |request| answer(request, answers, asked.clone()));
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        extender
    }

    fn asked(&self, verb: &str) -> Vec<Value> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(of, _)| of == verb).map(|(_, args)| args.clone()).collect()
    }

    /// A scheduler that asks it, with these settings more.
    fn scheduler(&self, api: &FakeApi, settings: &str) -> DropGuard {
        let config = SchedulerConfig::from_yaml(&format!(
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n\
             extenders: [{{urlPrefix: '{}', {settings}}}]\n",
            self.url
        ));
        let shutdown = CancellationToken::new();
        tokio::spawn(skiff_scheduler::run(api.client(), config.unwrap(), shutdown.clone()));
        shutdown.drop_guard()
    }
}

async fn answer(
    request: Request<Incoming>,
    answers: Answers,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let verb = request.uri().path().strip_prefix("/scheduler/").unwrap().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let args: Value = serde_json::from_slice(&body).unwrap();
    let (code, body) = match answers(&verb, &args) {
        Some(result) => (StatusCode::OK, result.to_string()),
        None => (StatusCode::INTERNAL_SERVER_ERROR, "out of order".into()),
    };
    asked.lock().unwrap().push((verb, args));
    Ok(Response::builder().status(code).body(Full::new(body.into())).unwrap())
}

fn nodes(api: &FakeApi, names: &[&str]) {
    for name in names {
        api.put(
            "nodes",
            json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
                "status": {"allocatable": {"cpu": "2", "memory": "8Gi", "pods": "110"}}}),
        );
    }
}

fn pod(name: &str, priority: i32, requests: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "default"},
        "spec": {"schedulerName": "default-scheduler", "priority": priority,
            "containers": [{"name": "main", "resources": {"requests": requests}}]}})
}

#[tokio::test]
async fn a_node_that_an_extender_refuses_is_not_taken_and_the_reason_is_told() {
    let extender = Extender::start(|_, args| {
        let items = args["Nodes"]["items"].as_array().unwrap().iter();
        let good: Vec<_> = items.filter(|node| node["metadata"]["name"] == "good").collect();
        Some(json!({"nodes": {"items": good}, "failedNodes": {"bad": "no licence"}}))
    })
    .await;
    let api = FakeApi::new();
    nodes(&api, &["bad"]);
    let _running = extender.scheduler(&api, "filterVerb: filter");
    api.put("pods", pod("web", 0, json!({"cpu": "1"})));
    let condition = api.until("a condition", |state| state.condition_of("web").cloned()).await;
    let message = condition["message"].as_str().unwrap();
    assert!(message.starts_with("0/1 nodes are available: 1 no licence. "), "{message}");
    nodes(&api, &["good"]);
    let node = api.until("the binding", |state| state.node_of("web")).await;
    assert_eq!(node, "good");
    let asked = &extender.asked("filter")[0];
    assert_eq!(asked["Pod"]["metadata"]["name"], "web");
    assert_eq!(asked["NodeNames"], Value::Null);
}

#[tokio::test]
async fn scores_of_an_extender_decide_between_equal_nodes() {
    let extender = Extender::start(|_, args| {
        let names = args["NodeNames"].as_array().unwrap().iter();
        let score = |name: &Value| if name == "c" { 10 } else { 0 };
        Some(names.map(|name| json!({"Host": name, "Score": score(name)})).collect())
    })
    .await;
    let api = FakeApi::new();
    nodes(&api, &["a", "b", "c", "d"]);
    let settings = "prioritizeVerb: prioritize, weight: 5, nodeCacheCapable: true";
    let _running = extender.scheduler(&api, settings);
    api.put("pods", pod("web", 0, json!({"cpu": "1"})));
    assert_eq!(api.until("the binding", |state| state.node_of("web")).await, "c");
    assert_eq!(extender.asked("prioritize")[0]["Nodes"], Value::Null);
}

#[tokio::test]
async fn an_extender_that_fails_holds_up_pods_unless_it_is_ignorable() {
    let extender = Extender::start(|_, _| None).await;
    let api = FakeApi::new();
    nodes(&api, &["a"]);
    let strict = extender.scheduler(&api, "filterVerb: filter");
    api.put("pods", pod("web", 0, json!({"cpu": "1"})));
    let condition = api.until("a condition", |state| state.condition_of("web").cloned()).await;
    assert_eq!(condition["reason"], "SchedulerError");
    let expected = format!("failed filter with extender at URL {}/filter, code 500", extender.url);
    assert_eq!(condition["message"], expected);
    drop(strict);
    let _lenient = extender.scheduler(&api, "filterVerb: filter, ignorable: true");
    api.until("the binding", |state| state.node_of("web")).await;
}

#[tokio::test]
async fn only_pods_that_ask_for_its_resource_concern_an_extender_and_it_counts_that_itself() {
    let extender = Extender::start(|verb, args| {
        assert_eq!(verb, "filter");
        Some(json!({"nodeNames": args["NodeNames"]}))
    })
    .await;
    let api = FakeApi::new();
    nodes(&api, &["a"]);
    let settings = "filterVerb: filter, nodeCacheCapable: true, \
        managedResources: [{name: example.com/fpga, ignoredByScheduler: true}]";
    let _running = extender.scheduler(&api, settings);
    api.put("pods", pod("plain", 0, json!({"cpu": "1"})));
    api.until("the first binding", |state| state.node_of("plain")).await;
    assert!(extender.asked("filter").is_empty());
    // No node has any of it as far as the API knows.
    api.put("pods", pod("special", 0, json!({"example.com/fpga": "1"})));
    api.until("the second binding", |state| state.node_of("special")).await;
    assert_eq!(extender.asked("filter")[0]["NodeNames"], json!(["a"]));
}

#[tokio::test]
async fn an_extender_that_binds_is_left_to_do_it() {
    let extender = Extender::start(|_, _| Some(json!({"error": "not today"}))).await;
    let api = FakeApi::new();
    nodes(&api, &["a"]);
    let _running = extender.scheduler(&api, "bindVerb: bind");
    api.put("pods", pod("web", 0, json!({"cpu": "1"})));
    let condition = api.until("a condition", |state| state.condition_of("web").cloned()).await;
    assert_eq!(condition["message"], "binding rejected: not today");
    let asked = &extender.asked("bind")[0];
    assert_eq!((&asked["PodName"], &asked["Node"]), (&json!("web"), &json!("a")));
    assert!(asked["PodUID"].as_str().is_some_and(|uid| uid.starts_with("uid-")));
    api.change(|state| assert_eq!(state.bindings, 0));
}

#[tokio::test]
async fn victims_that_an_extender_does_not_agree_to_stay() {
    let extender = Extender::start(|_, args| {
        let mut victims = args["NodeNameToMetaVictims"].clone();
        victims.as_object_mut().unwrap().remove("a");
        Some(json!({"nodeNameToMetaVictims": victims}))
    })
    .await;
    let api = FakeApi::new();
    nodes(&api, &["a", "b"]);
    for (name, priority, node) in [("least", 1, "a"), ("lesser", 2, "b")] {
        let mut placed = pod(name, priority, json!({"cpu": "2"}));
        placed["spec"]["nodeName"] = node.into();
        api.put("pods", placed);
    }
    let _running = extender.scheduler(&api, "preemptVerb: preempt, nodeCacheCapable: true");
    api.put("pods", pod("important", 10, json!({"cpu": "2"})));
    let going = api.until("a victim", |state| {
        let pods = state.objects.values();
        let mut going = pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_string());
        going.next().map(|pod| pod["metadata"]["name"].clone())
    });
    assert_eq!(going.await, "lesser");
}
