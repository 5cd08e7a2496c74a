//! An API server in memory, just large enough for a node agent: objects by path, watches, patches of status.
//!
//! Strategic merges know one merge key (`conditions` by `type`); everything else of a list is replaced.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Map, Value, json};
use tokio::sync::broadcast;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

#[derive(Clone)]
struct Change {
    collection: String,
    kind: &'static str,
    object: Value,
}

#[derive(Default)]
struct State {
    revision: u64,
    /// By collection (`/api/v1/namespaces/ns/pods`) and name.
    objects: BTreeMap<(String, String), Value>,
    writes: Vec<String>,
}

#[derive(Clone)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    changes: broadcast::Sender<Change>,
}

struct Target {
    collection: String,
    name: Option<String>,
    subresource: Option<String>,
}

// === impl FakeApi ===

impl FakeApi {
    pub fn new() -> Self {
        FakeApi { state: Arc::default(), changes: broadcast::channel(1024).0 }
    }

    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    pub fn put(&self, collection: &str, mut object: Value) {
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        let mut state = self.state.lock().expect("no panic");
        state.revision += 1;
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", state.revision));
        }
        let known = state.objects.insert((collection.into(), name), object.clone()).is_some();
        let kind = if known { "MODIFIED" } else { "ADDED" };
        let _ = self.changes.send(Change { collection: collection.into(), kind, object });
    }

    pub fn remove(&self, collection: &str, name: &str) -> Option<Value> {
        let mut state = self.state.lock().expect("no panic");
        state.revision += 1;
        let object = state.objects.remove(&(collection.into(), name.into()))?;
        let change =
            Change { collection: collection.into(), kind: "DELETED", object: object.clone() };
        let _ = self.changes.send(change);
        Some(object)
    }

    pub fn get(&self, collection: &str, name: &str) -> Option<Value> {
        self.state.lock().expect("no panic").objects.get(&(collection.into(), name.into())).cloned()
    }

    /// What the events say, in no order.
    pub fn event_messages(&self) -> Vec<String> {
        let state = self.state.lock().expect("no panic");
        let events = state.objects.iter().filter(|((of, _), _)| of.ends_with("/events"));
        events.filter_map(|(_, e)| Some(e["message"].as_str()?.to_owned())).collect()
    }

    /// Method and path of every write so far.
    pub fn writes(&self) -> Vec<String> {
        self.state.lock().expect("no panic").writes.clone()
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let target = target(parts.uri.path());
        if parts.method != Method::GET {
            let line = format!("{} {}", parts.method, parts.uri.path());
            self.state.lock().expect("no panic").writes.push(line);
        }
        match (parts.method, target.name.clone()) {
            (Method::GET, None) if query.contains("watch=true") => self.watch(&target, &query),
            (Method::GET, None) => self.list(&target, &query),
            (Method::GET, Some(name)) => object(self.get(&target.collection, &name)),
            (Method::POST, Some(_)) => token(),
            (Method::POST, None) => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                if self.get(&target.collection, &name).is_some() {
                    return failure(StatusCode::CONFLICT);
                }
                self.put(&target.collection, body);
                object(self.get(&target.collection, &name))
            }
            (Method::PATCH, Some(name)) => self.patch(&target, &name, body),
            (Method::DELETE, Some(name)) => object(self.remove(&target.collection, &name)),
            _ => failure(StatusCode::METHOD_NOT_ALLOWED),
        }
    }

    fn patch(&self, target: &Target, name: &str, mut body: Value) -> Answer {
        let Some(mut known) = self.get(&target.collection, name) else {
            return failure(StatusCode::NOT_FOUND);
        };
        if let Some(uid) = body["metadata"]["uid"].as_str()
            && known["metadata"]["uid"] != uid
        {
            return failure(StatusCode::CONFLICT);
        }
        if target.subresource.as_deref() == Some("status") {
            body = json!({ "status": body["status"] });
        }
        merge(&mut known, body);
        self.put(&target.collection, known);
        object(self.get(&target.collection, name))
    }

    fn list(&self, target: &Target, query: &str) -> Answer {
        let state = self.state.lock().expect("no panic");
        let items: Vec<Value> = state
            .objects
            .iter()
            .filter(|((collection, _), o)| {
                covers(&target.collection, collection) && selects(query, o)
            })
            .map(|(_, o)| o.clone())
            .collect();
        let meta = json!({ "resourceVersion": state.revision.to_string() });
        whole(
            StatusCode::OK,
            &json!({ "kind": "List", "apiVersion": "v1", "metadata": meta, "items": items }),
        )
    }

    fn watch(&self, target: &Target, query: &str) -> Answer {
        let from: u64 =
            parameter(query, "resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
        let state = self.state.lock().expect("no panic");
        let newer = |o: &Value| {
            o["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()) > Some(from)
        };
        let missed: Vec<Change> = state
            .objects
            .iter()
            .filter(|(_, o)| newer(o))
            .map(|((c, _), o)| Change { collection: c.clone(), kind: "ADDED", object: o.clone() })
            .collect();
        let later = stream::unfold(self.changes.subscribe(), |mut changes| async move {
            Some((changes.recv().await.ok()?, changes))
        });
        let (collection, query) = (target.collection.clone(), query.to_owned());
        let lines = stream::iter(missed).chain(later).filter_map(move |change| {
            let wanted = covers(&collection, &change.collection) && selects(&query, &change.object);
            let line = wanted
                .then(|| format!("{}\n", json!({ "type": change.kind, "object": change.object })));
            async move { line.map(|l| Ok(Frame::data(Bytes::from(l)))) }
        });
        Response::new(StreamBody::new(lines).boxed_unsync())
    }
}

/// `/api/v1/namespaces/ns/pods/name/status` and its shorter forms.
fn target(path: &str) -> Target {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let group = if segments[0] == "api" { 2 } else { 3 };
    let rest = &segments[group..];
    let fixed =
        if rest.first() == Some(&"namespaces") && rest.len() > 2 { group + 3 } else { group + 1 };
    Target {
        collection: format!("/{}", segments[..fixed].join("/")),
        name: segments.get(fixed).map(|s| (*s).to_owned()),
        subresource: segments.get(fixed + 1).map(|s| (*s).to_owned()),
    }
}

/// A collection of all namespaces covers that of one.
fn covers(wanted: &str, collection: &str) -> bool {
    let kind = |c: &str| c.rsplit('/').next().map(str::to_owned);
    wanted == collection || (!wanted.contains("/namespaces/") && kind(wanted) == kind(collection))
}

fn parameter(query: &str, name: &str) -> Option<String> {
    let pair = query.split('&').find_map(|p| p.strip_prefix(&format!("{name}=")))?;
    Some(pair.replace("%3D", "="))
}

fn selects(query: &str, object: &Value) -> bool {
    let Some(selector) = parameter(query, "fieldSelector") else { return true };
    let (field, value) = selector.split_once('=').expect("field=value");
    let pointer = format!("/{}", field.replace('.', "/"));
    object.pointer(&pointer).and_then(Value::as_str) == Some(value)
}

fn merge(known: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else { return };
    let known = known.as_object_mut().expect("an object");
    for (key, value) in patch {
        match value {
            Value::Null => drop(known.remove(&key)),
            Value::Object(_) => merge(known.entry(key).or_insert_with(|| Map::new().into()), value),
            Value::Array(items) if key == "conditions" => {
                let list = known.entry(key).or_insert_with(|| json!([]));
                merge_conditions(list.as_array_mut().expect("a list"), items);
            }
            Value::Array(items) => {
                let items: Vec<Value> =
                    items.into_iter().filter(|i| i["$patch"].is_null()).collect();
                known.insert(key, items.into());
            }
            value => drop(known.insert(key, value)),
        }
    }
}

fn merge_conditions(known: &mut Vec<Value>, items: Vec<Value>) {
    for item in items {
        if item["$patch"] == "delete" {
            known.retain(|k| k["type"] != item["type"]);
            continue;
        }
        match known.iter_mut().find(|k| k["type"] == item["type"]) {
            Some(k) => merge(k, item),
            None => known.push(item),
        }
    }
}

fn token() -> Answer {
    let status = json!({ "token": "a-token", "expirationTimestamp": "2099-01-01T00:00:00Z" });
    let answer = json!({ "metadata": {}, "spec": { "audiences": [] }, "status": status });
    whole(StatusCode::CREATED, &answer)
}

fn object(found: Option<Value>) -> Answer {
    match found {
        Some(value) => whole(StatusCode::OK, &value),
        None => failure(StatusCode::NOT_FOUND),
    }
}

fn failure(code: StatusCode) -> Answer {
    let reason = code.canonical_reason().unwrap_or_default().replace(' ', "");
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code.as_u16(), "reason": reason, "message": reason,
    });
    whole(code, &status)
}

fn whole(code: StatusCode, value: &Value) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync());
    *response.status_mut() = code;
    response
}
