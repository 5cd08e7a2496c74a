//! An API server of a few objects, in memory: enough list and watch for a `kube::Client` to follow.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The resources it knows: plural, group and version, kind.
const RESOURCES: [(&str, &str, &str); 2] =
    [("services", "v1", "Service"), ("endpointslices", "discovery.k8s.io/v1", "EndpointSlice")];

#[derive(Clone, Default)]
pub struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<(String, String), Value>,
    /// Every event so far, by plural; its position is its revision.
    events: Vec<(String, Bytes)>,
    watchers: Vec<(String, UnboundedSender<Bytes>)>,
}

impl FakeApi {
    pub fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let response = api.answer(&request);
            async move { Ok::<_, Infallible>(response) }
        });
        Client::new(service, "default")
    }

    /// Creates or replaces every object of a YAML stream.
    pub fn apply(&self, yaml: &str) {
        for document in yaml.split("\n---").filter(|document| !document.trim().is_empty()) {
            let object: Value = serde_saphyr::from_str(document).expect("a test's YAML is valid");
            let kind = object["kind"].as_str().expect("kind");
            let (plural, ..) =
                RESOURCES.iter().find(|(.., known)| *known == kind).expect("a known kind");
            self.record(plural, "MODIFIED", object);
        }
    }

    pub fn count(&self, plural: &str) -> usize {
        self.0.lock().unwrap().objects.keys().filter(|(of, _)| of == plural).count()
    }

    pub fn delete(&self, plural: &str, name: &str) {
        let key = (plural.to_string(), name.to_string());
        let object = self.0.lock().unwrap().objects.remove(&key).expect("the object exists");
        self.record(plural, "DELETED", object);
    }

    fn record(&self, plural: &str, event: &str, mut object: Value) {
        let mut state = self.0.lock().unwrap();
        let revision = state.events.len() + 1;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        object["metadata"]["namespace"] = json!("default");
        let name = object["metadata"]["name"].as_str().expect("name").to_string();
        let line = Bytes::from(format!("{}\n", json!({"type": event, "object": object})));
        if event != "DELETED" {
            state.objects.insert((plural.to_string(), name), object);
        }
        state.events.push((plural.to_string(), line.clone()));
        state.watchers.retain(|(of, watcher)| of != plural || watcher.send(line.clone()).is_ok());
    }

    fn answer(&self, request: &Request<Body>) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let path = request.uri().path();
        let (plural, version, kind) = RESOURCES
            .into_iter()
            .find(|(plural, ..)| path.ends_with(plural))
            .expect("a known path");
        let query = request.uri().query().unwrap_or_default();
        let lines = if query.contains("watch=true") {
            self.watch(plural, query)
        } else {
            self.list(plural, version, kind)
        };
        let frames = futures::stream::unfold(lines, |mut lines| async {
            let line = lines.recv().await?;
            Some((Ok(Frame::data(line)), lines))
        });
        Response::new(StreamBody::new(frames.boxed()).boxed_unsync())
    }

    fn list(&self, plural: &str, version: &str, kind: &str) -> UnboundedReceiver<Bytes> {
        let state = self.0.lock().unwrap();
        let items: Vec<_> = state
            .objects
            .iter()
            .filter(|((of, _), _)| of == plural)
            .map(|(_, object)| object)
            .collect();
        let metadata = json!({"resourceVersion": state.events.len().to_string()});
        let list = json!({"apiVersion": version, "kind": format!("{kind}List"), "metadata": metadata, "items": items});
        let (sender, receiver) = unbounded_channel();
        sender.send(Bytes::from(list.to_string())).expect("the receiver is here");
        receiver
    }

    fn watch(&self, plural: &str, query: &str) -> UnboundedReceiver<Bytes> {
        let since = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion="));
        let since: usize = since.and_then(|revision| revision.parse().ok()).unwrap_or_default();
        let mut state = self.0.lock().unwrap();
        let (sender, receiver) = unbounded_channel();
        for (_, line) in state.events.iter().skip(since).filter(|(of, _)| of == plural) {
            sender.send(line.clone()).expect("the receiver is here");
        }
        state.watchers.push((plural.to_string(), sender));
        receiver
    }
}
