//! What the scheduler writes: bindings of pods, volumes for their claims, the condition of a pod that fits nowhere, and
//! the eviction of those that make room.
//!
//! Counterpart: `plugins/defaultbinder` and `updatePod`. Writes run beside the scheduling task, so many at a time.
//! Invariant: a binding names the pod's uid, so a pod of the same name made later is never bound by mistake.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Request;
use kube::{Api, Client, Resource};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::plugins::volume_binding::ClaimStep;
use crate::pod_info::{Condition, PodInfo};

/// More at a time only wait for each other in the API server.
const WRITES_AT_A_TIME: usize = 64;

#[derive(Clone)]
pub struct Writer {
    client: Client,
    permits: Arc<Semaphore>,
}

// === impl Writer ===

impl Writer {
    pub fn new(client: Client) -> Writer {
        Writer { client, permits: Arc::new(Semaphore::new(WRITES_AT_A_TIME)) }
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Must be held while writing. The semaphore is never closed.
    pub async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.acquire().await.ok()
    }

    pub async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), kube::Error> {
        let _permit = self.permit().await;
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "target": {"kind": "Node", "name": node},
        });
        let body = serde_json::to_vec(&binding).expect("strings are always JSON");
        let request = Request::new(Pod::url_path(&(), Some(&pod.namespace)))
            .create_subresource("binding", &pod.name, &PostParams::default(), body)
            .map_err(kube::Error::BuildRequest)?;
        self.client.request_text(request).await.map(drop)
    }

    /// Takes the steps that get a pod's claims their volumes at the node.
    pub async fn settle_claims(
        &self,
        pod: &PodInfo,
        node: &str,
        steps: &[ClaimStep],
    ) -> Result<(), kube::Error> {
        let _permit = self.permit().await;
        let params = PatchParams::default();
        for step in steps {
            match step {
                ClaimStep::Promise { volume, version, claim, uid } => {
                    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                        "namespace": pod.namespace, "name": claim, "uid": uid});
                    let by = json!({"pv.kubernetes.io/bound-by-controller": "yes"});
                    let metadata = json!({"annotations": by, "resourceVersion": version});
                    let patch = json!({"metadata": metadata, "spec": {"claimRef": claim}});
                    let api = Api::<PersistentVolume>::all(self.client.clone());
                    api.patch(volume, &params, &Patch::Merge(patch)).await?;
                }
                ClaimStep::Provision { claim } => {
                    let selected = json!({"volume.kubernetes.io/selected-node": node});
                    let patch = json!({"metadata": {"annotations": selected}});
                    let api = Api::<PersistentVolumeClaim>::namespaced(
                        self.client.clone(),
                        &pod.namespace,
                    );
                    api.patch(claim, &params, &Patch::Merge(patch)).await?;
                }
            }
        }
        Ok(())
    }

    /// Tells why the pod has no node, and which one it is promised (`None`: that does not change).
    pub async fn set_condition(
        &self,
        pod: &PodInfo,
        wanted: &Condition,
        nominated: Option<&str>,
        now: Timestamp,
    ) -> Result<(), kube::Error> {
        let mut condition = json!({
            "type": "PodScheduled", "status": wanted.status, "lastProbeTime": null,
            "reason": wanted.reason, "message": wanted.message,
        });
        // The time of transition is kept as long as the status is the same.
        if pod.scheduled.as_ref().is_none_or(|before| before.status != wanted.status) {
            condition["lastTransitionTime"] = seconds(now).into();
        }
        let mut status = json!({"conditions": [observed(condition, pod)]});
        if let Some(node) = nominated {
            status["nominatedNodeName"] = named(node);
        }
        self.patch_status(pod, status).await
    }

    pub async fn withdraw_nomination(&self, pod: &PodInfo) -> Result<(), kube::Error> {
        self.patch_status(pod, json!({"nominatedNodeName": null})).await
    }

    /// Marks the pod as disrupted, for the controllers that count failures, and deletes it gracefully.
    pub async fn evict(
        &self,
        pod: &PodInfo,
        scheduler_name: &str,
        now: Timestamp,
    ) -> Result<(), kube::Error> {
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": format!("{scheduler_name}: preempting to accommodate a higher priority pod"),
            "lastTransitionTime": seconds(now),
        });
        let status = json!({"conditions": [observed(condition, pod)]});
        gone_is_fine(self.patch_status(pod, status).await)?;
        let _permit = self.permit().await;
        let uid = Preconditions { uid: Some(pod.uid.clone()), ..Preconditions::default() };
        let params = DeleteParams { preconditions: Some(uid), ..DeleteParams::default() };
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace);
        gone_is_fine(api.delete(&pod.name, &params).await.map(drop))
    }

    async fn patch_status(&self, pod: &PodInfo, status: Value) -> Result<(), kube::Error> {
        let _permit = self.permit().await;
        let patch = json!({"metadata": {"uid": pod.uid}, "status": status});
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace);
        let params = PatchParams::default();
        api.patch_status(&pod.name, &params, &Patch::Strategic(patch)).await.map(drop)
    }
}

/// A pod that is not there any more (or another of its name is) needs no eviction.
fn gone_is_fine(outcome: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match outcome {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        outcome => outcome,
    }
}

fn observed(mut condition: Value, pod: &PodInfo) -> Value {
    if let Some(generation) = pod.generation {
        condition["observedGeneration"] = generation.into();
    }
    condition
}

fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn named(node: &str) -> Value {
    if node.is_empty() { Value::Null } else { node.into() }
}
