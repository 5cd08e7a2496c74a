//! Tells the API what the scheduler decided: a binding, or why there is none; and the Event for either.
//!
//! Counterpart: the DefaultBinder plugin, `handleSchedulingFailure` and the events.k8s.io recorder.
//! Invariant: a pod is bound by its uid, so that a later pod of the same name is never bound by mistake.

use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Request;
use kube::{Api, Client};
use serde_json::json;

use crate::pod_info::PodInfo;

/// Writes on behalf of the scheduler.
#[derive(Clone)]
pub struct Binder {
    pub client: Client,
    pub scheduler_name: String,
    pub instance: String,
}

// === impl Binder ===

impl Binder {
    /// Binds the pod to the node.
    pub async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), kube::Error> {
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(pod.name.clone()),
                namespace: Some(pod.namespace.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".into()),
                name: Some(node.into()),
                ..Default::default()
            },
        };
        let body = serde_json::to_vec(&binding).map_err(kube::Error::SerdeError)?;
        let pods = Request::new(format!("/api/v1/namespaces/{}/pods", pod.namespace));
        let request = pods.create_subresource("binding", &pod.name, &PostParams::default(), body);
        self.client.request_text(request.map_err(kube::Error::BuildRequest)?).await?;
        let note = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
        self.record(pod, "Normal", "Scheduled", note).await;
        Ok(())
    }

    /// Says on the pod itself and in an Event why it is not scheduled.
    pub async fn report_failure(&self, pod: &PodInfo, reason: &str, message: String) {
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "lastTransitionTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now()),
        });
        let patch = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}});
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace);
        if let Err(error) =
            api.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await
        {
            tracing::debug!(pod = %pod.name, %error, "condition was not written");
        }
        self.record(pod, "Warning", "FailedScheduling", message).await;
    }

    async fn record(&self, pod: &PodInfo, type_: &str, reason: &str, note: String) {
        let now = Timestamp::now();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", pod.name, unique_nanos(now))),
                namespace: Some(pod.namespace.clone()),
                ..ObjectMeta::default()
            },
            action: Some(if reason == "Scheduled" { "Binding" } else { "Scheduling" }.into()),
            event_time: Some(MicroTime(now)),
            note: Some(note),
            reason: Some(reason.into()),
            regarding: Some(ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(pod.name.clone()),
                namespace: Some(pod.namespace.clone()),
                uid: Some(pod.uid.clone()),
                resource_version: pod.resource_version.clone(),
                field_path: None,
            }),
            reporting_controller: Some(self.scheduler_name.clone()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(type_.into()),
            ..Event::default()
        };
        let api = Api::<Event>::namespaced(self.client.clone(), &pod.namespace);
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::debug!(pod = %pod.name, %error, "event was not recorded");
        }
    }
}

/// Event names are made from the time; two events of one nanosecond must still differ.
fn unique_nanos(now: Timestamp) -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = u64::try_from(now.as_nanosecond()).unwrap_or(0);
    let last =
        LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)));
    now.max(last.expect("the update never refuses") + 1)
}
