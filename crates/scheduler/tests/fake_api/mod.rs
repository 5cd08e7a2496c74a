//! An API server just large enough for a scheduler: objects in memory, watches, bindings, status patches, events.
//!
//! A `tower` service under an ordinary `kube::Client`; shared by the in-process tests and the throughput example.

#![allow(dead_code, reason = "each user needs its own part of it")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

type Answer = UnsyncBoxBody<Bytes, Infallible>;

#[derive(Clone)]
pub struct FakeApi(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    revision: watch::Sender<u64>,
}

#[derive(Default)]
pub struct State {
    revision: u64,
    /// By `resource/namespace/name`.
    pub objects: BTreeMap<String, Value>,
    watchers: Vec<(String, mpsc::UnboundedSender<Bytes>)>,
    pub bindings: usize,
    /// So many further bindings are answered with an error.
    pub refuse_bindings: usize,
    /// Seed of the trouble that watches have; none for 0.
    pub chaos: u64,
    /// A line that is told after the next one, unless that is about the same object: its resource, uid and text.
    held_back: Vec<(String, Value, Bytes)>,
}

// === impl FakeApi ===

impl FakeApi {
    pub fn new() -> FakeApi {
        let inner = Inner { state: Mutex::default(), revision: watch::channel(0).0 };
        FakeApi(Arc::new(inner))
    }

    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// Creates or replaces an object; fills in what a server would.
    pub fn put(&self, resource: &str, object: Value) {
        self.change(|state| state.put(resource, object));
    }

    pub fn put_yaml(&self, resource: &str, yaml: &str) {
        let object = serde_saphyr::from_str(yaml).expect("test objects are YAML");
        self.put(resource, object);
    }

    pub fn delete(&self, key: &str) {
        self.change(|state| state.delete(key));
    }

    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.state.lock().unwrap();
        let result = change(&mut state);
        self.0.revision.send_replace(state.revision);
        result
    }

    /// Waits until `found` finds what it looks for, for ten seconds at most.
    pub async fn until<T>(&self, what: &str, found: impl Fn(&State) -> Option<T>) -> T {
        let mut revision = self.0.revision.subscribe();
        let waiting = async {
            loop {
                if let Some(result) = found(&self.0.state.lock().unwrap()) {
                    return result;
                }
                revision.changed().await.expect("the sender lives as long as the API");
            }
        };
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, waiting).await.unwrap_or_else(|_| panic!("never saw {what}"))
    }

    async fn answer(&self, request: Request<Body>) -> Response<Answer> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.expect("bodies are in memory").to_bytes();
        let path: Vec<_> = parts.uri.path().trim_matches('/').split('/').collect();
        let query = parts.uri.query().unwrap_or_default();
        match (parts.method.as_str(), path.as_slice()) {
            ("POST", ["api", "v1", "namespaces", ns, "pods", name, "binding"]) => {
                self.bind(&format!("pods/{ns}/{name}"), &parse(&body))
            }
            ("PATCH", [.., "namespaces", ns, resource, name]) => {
                self.merge(&format!("{resource}/{ns}/{name}"), &parse(&body))
            }
            ("PATCH", ["api", "v1", "namespaces", ns, "pods", name, "status"]) => {
                self.set_condition(&format!("pods/{ns}/{name}"), &parse(&body))
            }
            ("DELETE", ["api", "v1", "namespaces", ns, "pods", name]) => {
                self.ask_to_go(&format!("pods/{ns}/{name}"))
            }
            ("POST", [.., "namespaces", _, resource]) => {
                self.put(resource, parse(&body));
                reply(StatusCode::CREATED, &parse(&body))
            }
            // What was missed is not kept: the client has to list again.
            ("GET", _) if query.contains("watch=true") && !query.contains("sendInitialEvents") => {
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "message": "too old resource version", "reason": "Expired", "code": 410});
                reply(StatusCode::OK, &json!({"type": "ERROR", "object": status}))
            }
            ("GET", [.., resource]) if query.contains("watch=true") => self.watch(resource),
            ("GET", ["api", "v1", "namespaces", ns, "pods", name]) => {
                self.read(&format!("pods/{ns}/{name}"))
            }
            ("GET", ["api", "v1", resource]) => self.list(resource),
            other => panic!("the fake API does not serve {other:?}?{query}"),
        }
    }

    fn bind(&self, key: &str, binding: &Value) -> Response<Answer> {
        self.change(|state| {
            if state.refuse_bindings > 0 {
                state.refuse_bindings -= 1;
                return failure(StatusCode::INTERNAL_SERVER_ERROR, "out of order");
            }
            let Some(mut pod) = state.objects.get(key).cloned() else {
                return failure(StatusCode::NOT_FOUND, "no such pod");
            };
            assert_eq!(pod["metadata"]["uid"], binding["metadata"]["uid"]);
            assert_eq!(pod["spec"]["nodeName"], Value::Null, "{key} is bound twice");
            pod["spec"]["nodeName"] = binding["target"]["name"].clone();
            state.bindings += 1;
            state.put("pods", pod);
            reply(StatusCode::CREATED, &json!({"kind": "Status", "status": "Success"}))
        })
    }

    /// Pods end when the test has the node say so.
    fn ask_to_go(&self, key: &str) -> Response<Answer> {
        self.change(|state| {
            let Some(mut pod) = state.objects.get(key).cloned() else {
                return failure(StatusCode::NOT_FOUND, "no such pod");
            };
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            state.put("pods", pod.clone());
            reply(StatusCode::OK, &pod)
        })
    }

    fn set_condition(&self, key: &str, patch: &Value) -> Response<Answer> {
        self.change(|state| {
            let Some(mut pod) = state.objects.get(key).cloned() else {
                return failure(StatusCode::NOT_FOUND, "no such pod");
            };
            merge(&mut pod["status"], &patch["status"]);
            state.put("pods", pod.clone());
            reply(StatusCode::OK, &pod)
        })
    }

    fn merge(&self, key: &str, patch: &Value) -> Response<Answer> {
        self.change(|state| {
            let Some(mut object) = state.objects.get(key).cloned() else {
                return failure(StatusCode::NOT_FOUND, "no such object");
            };
            merge(&mut object, patch);
            let resource = key.split('/').next().expect("keys have parts");
            state.put(resource, object.clone());
            reply(StatusCode::OK, &object)
        })
    }

    fn read(&self, key: &str) -> Response<Answer> {
        match self.0.state.lock().unwrap().objects.get(key) {
            Some(object) => reply(StatusCode::OK, object),
            None => failure(StatusCode::NOT_FOUND, "no such object"),
        }
    }

    fn list(&self, resource: &str) -> Response<Answer> {
        let state = self.0.state.lock().unwrap();
        let prefix = format!("{resource}/");
        let listed = state.objects.iter().filter(|(key, _)| key.starts_with(&prefix));
        let items: Vec<_> = listed.map(|(_, object)| object).collect();
        reply(StatusCode::OK, &json!({"kind": "List", "apiVersion": "v1", "items": items}))
    }

    fn watch(&self, resource: &str) -> Response<Answer> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.0.state.lock().unwrap();
        let prefix = format!("{resource}/");
        for (_, object) in
            state.objects.range(prefix.clone()..).take_while(|(k, _)| k.starts_with(&prefix))
        {
            sender.send(line("ADDED", object)).expect("the receiver is here");
        }
        let mark = json!({"metadata": {"resourceVersion": state.revision.to_string(),
            "annotations": {"k8s.io/initial-events-end": "true"}}});
        sender.send(line("BOOKMARK", &typed(resource, mark))).expect("the receiver is here");
        state.watchers.push((resource.to_owned(), sender));
        let lines = tokio_stream(receiver).map(|bytes| Ok(http_body::Frame::data(bytes)));
        Response::new(StreamBody::new(lines).boxed_unsync())
    }
}

// === impl State ===

impl State {
    pub fn put(&mut self, resource: &str, object: Value) {
        self.revision += 1;
        let mut object = typed(resource, object);
        let meta = &mut object["metadata"];
        if !meta["uid"].is_string() {
            meta["uid"] = format!("uid-{}", self.revision).into();
            meta["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        meta["resourceVersion"] = self.revision.to_string().into();
        let namespace = meta["namespace"].as_str().unwrap_or_default();
        let key = format!(
            "{resource}/{namespace}/{}",
            meta["name"].as_str().expect("objects have names")
        );
        let event = if self.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        self.tell(resource, event, &object);
        self.objects.insert(key, object);
    }

    pub fn delete(&mut self, key: &str) {
        let object = self.objects.remove(key).expect("tests delete what there is");
        self.revision += 1;
        self.tell(key.split('/').next().expect("keys have parts"), "DELETED", &object);
    }

    pub fn node_of(&self, pod: &str) -> Option<String> {
        let pod = self.objects.get(&format!("pods/default/{pod}"))?;
        pod["spec"]["nodeName"].as_str().map(str::to_owned)
    }

    pub fn condition_of(&self, pod: &str) -> Option<&Value> {
        let pod = self.objects.get(&format!("pods/default/{pod}"))?;
        pod["status"]["conditions"].get(0)
    }

    pub fn event(&self, reason: &str) -> Option<&Value> {
        let mut events = self.objects.iter().filter(|(key, _)| key.starts_with("events/"));
        events.find(|(_, event)| event["reason"] == reason).map(|(_, event)| event)
    }

    fn tell(&mut self, resource: &str, event: &str, object: &Value) {
        let (line, uid) = (line(event, object), object["metadata"]["uid"].clone());
        if self.held_back.iter().any(|(_, held, _)| *held == uid) {
            self.send_held_back();
        }
        match self.trouble() {
            Trouble::None => self.send(resource, line),
            Trouble::Twice => {
                self.send(resource, line.clone());
                self.send(resource, line);
            }
            Trouble::Late => return self.held_back.push((resource.to_owned(), uid, line)),
            Trouble::Broken => self.watchers.retain(|(of, _)| of != resource),
        }
        self.send_held_back();
    }

    pub fn send_held_back(&mut self) {
        for (resource, _, line) in std::mem::take(&mut self.held_back) {
            self.send(&resource, line);
        }
    }

    fn send(&mut self, resource: &str, line: Bytes) {
        self.watchers.retain(|(of, watcher)| of != resource || watcher.send(line.clone()).is_ok());
    }

    fn trouble(&mut self) -> Trouble {
        if self.chaos == 0 {
            return Trouble::None;
        }
        self.chaos ^= self.chaos << 13;
        self.chaos ^= self.chaos >> 7;
        self.chaos ^= self.chaos << 17;
        match self.chaos % 64 {
            0 => Trouble::Broken,
            1..16 => Trouble::Twice,
            16..32 => Trouble::Late,
            _ => Trouble::None,
        }
    }
}

/// What may happen to an event on its way to the watchers.
enum Trouble {
    None,
    Twice,
    Late,
    /// It and all watches of its resource are lost.
    Broken,
}

fn typed(resource: &str, mut object: Value) -> Value {
    let (version, kind) = match resource {
        "pods" => ("v1", "Pod"),
        "nodes" => ("v1", "Node"),
        "namespaces" => ("v1", "Namespace"),
        "services" => ("v1", "Service"),
        "persistentvolumes" => ("v1", "PersistentVolume"),
        "persistentvolumeclaims" => ("v1", "PersistentVolumeClaim"),
        "replicationcontrollers" => ("v1", "ReplicationController"),
        "replicasets" => ("apps/v1", "ReplicaSet"),
        "statefulsets" => ("apps/v1", "StatefulSet"),
        "storageclasses" => ("storage.k8s.io/v1", "StorageClass"),
        "poddisruptionbudgets" => ("policy/v1", "PodDisruptionBudget"),
        "csinodes" => ("storage.k8s.io/v1", "CSINode"),
        "csidrivers" => ("storage.k8s.io/v1", "CSIDriver"),
        "csistoragecapacities" => ("storage.k8s.io/v1", "CSIStorageCapacity"),
        "volumeattachments" => ("storage.k8s.io/v1", "VolumeAttachment"),
        "resourceclaims" => ("resource.k8s.io/v1", "ResourceClaim"),
        "resourceslices" => ("resource.k8s.io/v1", "ResourceSlice"),
        "deviceclasses" => ("resource.k8s.io/v1", "DeviceClass"),
        "events" => ("events.k8s.io/v1", "Event"),
        other => panic!("the fake API does not know {other}"),
    };
    object["apiVersion"] = version.into();
    object["kind"] = kind.into();
    object
}

fn merge(object: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *object = patch.clone();
        return;
    };
    for (name, value) in fields {
        merge(&mut object[name], value);
    }
}

fn tokio_stream(
    mut receiver: mpsc::UnboundedReceiver<Bytes>,
) -> impl futures::Stream<Item = Bytes> {
    futures::stream::poll_fn(move |context| receiver.poll_recv(context))
}

fn line(event: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({"type": event, "object": object})).into()
}

fn parse(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("clients send JSON")
}

fn reply(code: StatusCode, body: &Value) -> Response<Answer> {
    let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
    Response::builder().status(code).body(body).expect("the parts are valid")
}

fn failure(code: StatusCode, message: &str) -> Response<Answer> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": message, "reason": "", "code": code.as_u16()});
    reply(code, &status)
}
