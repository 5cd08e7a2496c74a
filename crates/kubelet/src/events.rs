//! Events about pods and the node.
//!
//! Consumes what happened, emits `v1.Event` objects; the same thing happening again raises the count of the first.
//! Counterpart: `k8s.io/client-go/tools/record`.
//! Differs from upstream: one queue per node, and a storm drops the newest rather than blocking whoever reports.
//! Invariant: reporting never waits and never fails its caller.

use std::{borrow::Cow, collections::HashMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::mpsc;

use crate::pod::desired::{DesiredContainer, DesiredPod};

const QUEUE: usize = 1000;
const REMEMBERED: usize = 4096;
/// After this long a repetition is a new event.
const AGGREGATION_WINDOW: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Occurrence {
    about: (String, String, String, String, String),
    kind: EventType,
    reason: String,
    message: String,
}

#[derive(Debug)]
struct Report {
    about: ObjectReference,
    kind: EventType,
    reason: Cow<'static, str>,
    message: String,
    at: Timestamp,
}

struct Remembered {
    name: String,
    namespace: String,
    count: i32,
    last: Timestamp,
}

/// Where parts of the agent report to. Cheap to clone.
#[derive(Clone)]
pub struct EventRecorder {
    queue: mpsc::Sender<Report>,
}

// === impl EventRecorder ===

impl EventRecorder {
    /// The recorder, and the future that sends what it is told.
    pub fn new(
        client: Client,
        node_name: &str,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, mut reports) = mpsc::channel::<Report>(QUEUE);
        let mut sink = EventSink { client, node_name: node_name.to_owned(), seen: HashMap::new() };
        let run = async move {
            while let Some(report) = reports.recv().await {
                sink.send(report).await;
            }
        };
        (EventRecorder { queue }, run)
    }

    pub fn pod(
        &self,
        pod: &DesiredPod,
        kind: EventType,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        self.report(pod_reference(pod, None), kind, reason.into(), message.into());
    }

    pub fn container(
        &self,
        pod: &DesiredPod,
        container: &DesiredContainer,
        kind: EventType,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        self.report(
            pod_reference(pod, Some(container.field_path())),
            kind,
            reason.into(),
            message.into(),
        );
    }

    /// About an object of the core group.
    pub fn object(
        &self,
        about: (&str, &ObjectMeta),
        kind: EventType,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        let (of, meta) = about;
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some(of.into()),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            resource_version: meta.resource_version.clone(),
            uid: meta.uid.clone(),
            ..ObjectReference::default()
        };
        self.report(about, kind, reason.into(), message.into());
    }

    /// Events about a node name it by its name as uid too, as upstream's do.
    pub fn node(
        &self,
        name: &str,
        kind: EventType,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some(name.into()),
            uid: Some(name.into()),
            ..ObjectReference::default()
        };
        self.report(about, kind, reason.into(), message.into());
    }

    fn report(
        &self,
        about: ObjectReference,
        kind: EventType,
        reason: Cow<'static, str>,
        message: String,
    ) {
        let report = Report { about, kind, reason, message, at: Timestamp::now() };
        if let Err(error) = self.queue.try_send(report) {
            tracing::debug!(%error, "event dropped");
        }
    }
}

fn pod_reference(pod: &DesiredPod, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        field_path,
        kind: Some("Pod".into()),
        name: Some(pod.key.name.clone()),
        namespace: Some(pod.key.namespace.clone()),
        resource_version: pod.object.metadata.resource_version.clone(),
        uid: Some(pod.key.uid.clone()),
    }
}

struct EventSink {
    client: Client,
    node_name: String,
    seen: HashMap<Occurrence, Remembered>,
}

// === impl EventSink ===

impl EventSink {
    async fn send(&mut self, report: Report) {
        let key = occurrence(&report);
        let repeated = self
            .seen
            .get(&key)
            .is_some_and(|r| report.at.duration_since(r.last).unsigned_abs() < AGGREGATION_WINDOW);
        let outcome = if repeated {
            self.repeat(&key, &report).await
        } else {
            self.first(key, &report).await
        };
        if let Err(error) = outcome {
            tracing::debug!(reason = %report.reason, %error, "event not recorded");
        }
    }

    async fn repeat(&mut self, key: &Occurrence, report: &Report) -> kube::Result<()> {
        let remembered = self.seen.get_mut(key).expect("the caller found it");
        remembered.count += 1;
        remembered.last = report.at;
        let api: Api<Event> = Api::namespaced(self.client.clone(), &remembered.namespace);
        let body = json!({ "count": remembered.count, "lastTimestamp": Time(seconds(report.at)) });
        let patched =
            api.patch(&remembered.name, &PatchParams::default(), &Patch::Merge(body)).await;
        if patched.is_err() {
            self.seen.remove(key);
        }
        patched.map(drop)
    }

    async fn first(&mut self, key: Occurrence, report: &Report) -> kube::Result<()> {
        if self.seen.len() >= REMEMBERED {
            self.seen.retain(|_, r| {
                report.at.duration_since(r.last).unsigned_abs() < AGGREGATION_WINDOW
            });
        }
        let namespace = report.about.namespace.clone().unwrap_or_else(|| "default".into());
        let name = format!(
            "{}.{:x}",
            report.about.name.as_deref().unwrap_or("node"),
            report.at.as_nanosecond()
        );
        let event = self.event(&name, &namespace, report);
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        api.create(&PostParams::default(), &event).await?;
        if self.seen.len() < REMEMBERED {
            self.seen.insert(key, Remembered { name, namespace, count: 1, last: report.at });
        }
        Ok(())
    }

    fn event(&self, name: &str, namespace: &str, report: &Report) -> Event {
        let at = Time(seconds(report.at));
        Event {
            count: Some(1),
            first_timestamp: Some(at.clone()),
            involved_object: report.about.clone(),
            last_timestamp: Some(at),
            message: Some(report.message.clone()),
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some(namespace.into()),
                ..ObjectMeta::default()
            },
            reason: Some(report.reason.to_string()),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(self.node_name.clone()),
            source: Some(EventSource {
                component: Some("kubelet".into()),
                host: Some(self.node_name.clone()),
            }),
            type_: Some(format!("{:?}", report.kind)),
            ..Event::default()
        }
    }
}

fn occurrence(report: &Report) -> Occurrence {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let about = &report.about;
    Occurrence {
        about: (
            text(&about.kind),
            text(&about.namespace),
            text(&about.name),
            text(&about.uid),
            text(&about.field_path),
        ),
        kind: report.kind,
        reason: report.reason.to_string(),
        message: report.message.clone(),
    }
}

fn seconds(t: Timestamp) -> Timestamp {
    Timestamp::from_second(t.as_second()).unwrap_or(t)
}
