//! The audit events of one request, written as it passes its stages.
//!
//! Invariant: the last event of a request is written exactly once, however the request ends.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use http::StatusCode;
use http::header::{HeaderMap, USER_AGENT};
use serde_json::{Map, Value, json};
use skiff_api::Status;
use skiff_api::meta::meta;

use super::Asked;
use super::log::Log;
use super::policy::{Level, Stage, Terms};
use crate::request_info::RequestInfo;
use crate::user::UserInfo;

pub struct Trail {
    log: Arc<Log>,
    terms: Terms,
    event: Mutex<Event>,
}

/// What is known so far.
struct Event {
    head: Map<String, Value>,
    object_ref: Option<Value>,
    status: Option<Value>,
    request: Option<Value>,
    response: Option<Value>,
    annotations: BTreeMap<String, String>,
    received: String,
}

/// Writes the last event when the answer has been sent, or given up.
pub struct Ending(pub Arc<Trail>);

const LONGEST_AGENT: usize = 1024;

// === impl Trail ===

impl Trail {
    pub fn new(
        log: Arc<Log>,
        terms: Terms,
        user: &UserInfo,
        info: &RequestInfo,
        asked: &Asked<'_>,
    ) -> Trail {
        let mut head = Map::new();
        let mut set = |field: &str, value: Value| drop(head.insert(field.to_owned(), value));
        set("level", json!(format!("{:?}", terms.level)));
        set("auditID", asked.id.into());
        set("requestURI", asked.uri.path_and_query().map_or("/", |path| path.as_str()).into());
        set("verb", info.verb.as_str().into());
        set("user", user.to_value());
        set("sourceIPs", json!(sources(asked.headers, asked.peer)));
        let agent = asked.headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
        if let Some(agent) = agent {
            set("userAgent", agent.chars().take(LONGEST_AGENT).collect::<String>().into());
        }
        let event = Event {
            head,
            object_ref: info.is_resource.then(|| object_ref(info)),
            status: None,
            request: None,
            response: None,
            annotations: BTreeMap::new(),
            received: now(),
        };
        let trail = Trail { log, terms, event: Mutex::new(event) };
        trail.write(Stage::RequestReceived);
        trail
    }

    pub fn impersonated(&self, user: &UserInfo) {
        self.lock().head.insert("impersonatedUser".to_owned(), user.to_value());
    }

    /// A key that was told already keeps its first value.
    pub fn annotate(&self, key: &str, value: &str) {
        self.lock().annotations.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }

    /// A created object's name is told from [`Level::Metadata`] on, unless the path has one.
    pub fn wants_names(&self) -> bool {
        self.wants_request()
            || self.lock().object_ref.as_ref().is_some_and(|told| told["name"].is_null())
    }

    fn wants_request(&self) -> bool {
        self.terms.level >= Level::Request
    }

    pub fn wants_response(&self) -> bool {
        self.terms.level >= Level::RequestResponse
    }

    /// The object that was sent. Its name is told at every level.
    pub fn request(&self, mut object: Value) {
        let mut event = self.lock();
        if let Some(reference) = &mut event.object_ref {
            name_object(reference, &object);
        }
        if self.wants_request() {
            self.without_managed_fields(&mut object);
            event.request = Some(object);
        }
    }

    pub fn response(&self, mut object: Value) {
        if self.wants_response() {
            self.without_managed_fields(&mut object);
            self.lock().response = Some(object);
        }
    }

    pub fn refused(&self, status: &Status) {
        let mut value = status.to_value();
        if self.wants_response() {
            self.lock().response = Some(value.clone());
        }
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|field, _| field != "kind" && field != "apiVersion");
        }
        self.lock().status = Some(value);
    }

    /// The answer's head is on its way.
    pub fn answered(&self, code: StatusCode, goes_on: bool) {
        let told = json!({ "metadata": {}, "code": code.as_u16() });
        self.lock().status.get_or_insert(told);
        if goes_on {
            self.write(Stage::ResponseStarted);
        }
    }

    pub fn panicked(&self) {
        self.refused(&Status::internal("APIServer panic'd"));
        self.write(Stage::Panic);
    }

    fn without_managed_fields(&self, object: &mut Value) {
        if !self.terms.omit_managed_fields {
            return;
        }
        let forget = |object: &mut Value| {
            if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                meta.remove("managedFields");
            }
        };
        forget(object);
        let items = object.get_mut("items").and_then(Value::as_array_mut);
        items.into_iter().flatten().for_each(forget);
    }

    fn write(&self, stage: Stage) {
        if !self.terms.records(stage) {
            return;
        }
        let line = self.lock().at(stage).to_string();
        self.log.write(line);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Event> {
        self.event.lock().expect("no panic while held")
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.write(Stage::ResponseComplete);
    }
}

// === impl Event ===

impl Event {
    /// The event as of now.
    fn at(&self, stage: Stage) -> Value {
        let mut out = Map::new();
        out.insert("kind".to_owned(), "Event".into());
        out.insert("apiVersion".to_owned(), "audit.k8s.io/v1".into());
        out.insert("stage".to_owned(), format!("{stage:?}").into());
        out.extend(self.head.clone());
        let optional = [
            ("objectRef", &self.object_ref),
            ("responseStatus", &self.status),
            ("requestObject", &self.request),
            ("responseObject", &self.response),
        ];
        for (field, value) in optional {
            if let Some(value) = value {
                out.insert(field.to_owned(), value.clone());
            }
        }
        out.insert("requestReceivedTimestamp".to_owned(), self.received.as_str().into());
        out.insert("stageTimestamp".to_owned(), now().into());
        if !self.annotations.is_empty() {
            out.insert("annotations".to_owned(), json!(self.annotations));
        }
        out.into()
    }
}

fn object_ref(info: &RequestInfo) -> Value {
    let fields = [
        ("resource", &info.resource),
        ("namespace", &info.namespace),
        ("name", &info.name),
        ("apiGroup", &info.group),
        ("apiVersion", &info.version),
        ("subresource", &info.subresource),
    ];
    let told = fields.into_iter().filter(|(_, text)| !text.is_empty());
    told.map(|(field, text)| (field.to_owned(), Value::from(text.as_str())))
        .collect::<Map<_, _>>()
        .into()
}

/// What a path does not say about an object that is created.
fn name_object(reference: &mut Value, object: &Value) {
    let about = meta(object);
    for (field, text) in [
        ("name", about.name()),
        ("namespace", about.namespace()),
        ("uid", about.uid()),
        ("resourceVersion", about.resource_version()),
    ] {
        if reference[field].is_null() && !text.is_empty() {
            reference[field] = text.into();
        }
    }
}

/// Where a request came from: what proxies on the way say, and who connected.
fn sources(headers: &HeaderMap, peer: Option<IpAddr>) -> Vec<String> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let mut sources: Vec<IpAddr> =
        header("x-forwarded-for").split(',').filter_map(|part| part.trim().parse().ok()).collect();
    let real = header("x-real-ip").trim().parse().ok();
    for address in [real, peer].into_iter().flatten() {
        if !sources.contains(&address) {
            sources.push(address);
        }
    }
    sources.iter().map(IpAddr::to_string).collect()
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_on_the_way_are_named_first() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", "10.0.0.1, junk, 10.0.0.2".parse().expect("a value"));
        headers.insert("x-real-ip", "10.0.0.1".parse().expect("a value"));
        let peer = Some(IpAddr::from([127, 0, 0, 1]));
        assert_eq!(sources(&headers, peer), ["10.0.0.1", "10.0.0.2", "127.0.0.1"]);
    }

    #[test]
    fn a_created_object_names_itself() {
        let mut reference = json!({ "resource": "pods", "namespace": "x" });
        name_object(
            &mut reference,
            &json!({ "metadata": { "name": "p", "namespace": "y", "uid": "u" } }),
        );
        assert_eq!(
            reference,
            json!({ "resource": "pods", "namespace": "x", "name": "p", "uid": "u" })
        );
    }
}
