//! Carries a pod's status to the API server.
//!
//! Consumes statuses as they are decided, emits one strategic-merge patch of the difference at a time.
//! Counterpart: `pkg/kubelet/status/status_manager.go`.
//! Invariant: while a patch is under way newer statuses replace each other, and the last one is always written
//! unless the pod is gone; nothing is sent when nothing differs.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Map, Value, json};
use tokio::{sync::watch, task::JoinHandle};

use super::{desired::PodKey, resize};

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// Lists whose entries a strategic merge would keep although they are gone from the new value.
const REPLACED_LISTS: [&str; 2] = ["podIPs", "hostIPs"];

#[derive(Clone, Default)]
struct Numbered {
    number: u64,
    status: PodStatus,
}

/// One per pod; writing happens in a task of its own, which ends with the writer.
pub struct StatusWriter {
    uid: String,
    desired: watch::Sender<Numbered>,
    written: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

// === impl StatusWriter ===

impl StatusWriter {
    /// `known` is the status the API server is believed to hold.
    pub fn spawn(client: Client, key: &PodKey, known: PodStatus) -> Self {
        let (desired, wanted) = watch::channel(Numbered::default());
        let (done, written) = watch::channel(0);
        let api = Api::namespaced(client, &key.namespace);
        let patcher = Patcher { api, key: key.clone(), known, wanted, done };
        let uid = key.uid.clone();
        StatusWriter { uid, desired, written, task: tokio::spawn(patcher.run()) }
    }

    /// Of the object it writes to.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    pub fn write(&self, status: PodStatus) {
        self.desired.send_if_modified(|d| {
            let differs = d.number == 0 || d.status != status;
            if differs {
                *d = Numbered { number: d.number + 1, status };
            }
            differs
        });
    }

    /// Resolves when everything written so far has reached the API server, or the pod is gone there.
    pub fn flushed(&self) -> impl Future<Output = ()> + Send + Sync + 'static {
        let goal = self.desired.borrow().number;
        let mut written = self.written.clone();
        async move {
            // An error means that the patcher ended, which it does when the pod is gone.
            let _ = written.wait_for(|n| *n >= goal).await;
        }
    }
}

impl Drop for StatusWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Patcher {
    api: Api<Pod>,
    key: PodKey,
    known: PodStatus,
    wanted: watch::Receiver<Numbered>,
    done: watch::Sender<u64>,
}

// === impl Patcher ===

impl Patcher {
    async fn run(mut self) {
        let mut retry = FIRST_RETRY;
        while self.wanted.changed().await.is_ok() {
            loop {
                let wanted = self.wanted.borrow_and_update().clone();
                match self.patch(&wanted.status).await {
                    Ok(()) => {
                        self.done.send_replace(wanted.number);
                        retry = FIRST_RETRY;
                        break;
                    }
                    // 404 and a uid conflict both say that this pod is no longer there to be described.
                    Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {
                        return;
                    }
                    Err(error) => {
                        tracing::warn!(pod = %self.key, %error, "status not written, will retry")
                    }
                }
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(LAST_RETRY);
            }
        }
    }

    async fn patch(&mut self, status: &PodStatus) -> kube::Result<()> {
        let Some(difference) = difference(&self.known, status) else {
            return Ok(());
        };
        let body = json!({ "metadata": { "uid": self.key.uid }, "status": difference });
        let params = PatchParams::default();
        let pod = self.api.patch_status(&self.key.name, &params, &Patch::Strategic(body)).await?;
        self.known = pod.status.unwrap_or_default();
        Ok(())
    }
}

/// The strategic-merge patch that turns `known` into `wanted`, leaving other owners' conditions alone.
/// `None`: nothing to do.
fn difference(known: &PodStatus, wanted: &PodStatus) -> Option<Value> {
    let (known, wanted) = (object(known), object(wanted));
    let mut patch = Map::new();
    for (field, value) in &wanted {
        match known.get(field) {
            Some(before) if before == value => {}
            before if field == "conditions" => {
                let changed = changed_conditions(before, value);
                if !changed.is_empty() {
                    patch.insert(field.clone(), changed.into());
                }
            }
            Some(before) if REPLACED_LISTS.contains(&field.as_str()) && !is_empty(before) => {
                let directive = json!({ "$patch": "replace" });
                let items = std::iter::once(directive)
                    .chain(value.as_array().into_iter().flatten().cloned());
                patch.insert(field.clone(), items.collect());
            }
            _ => {
                patch.insert(field.clone(), value.clone());
            }
        }
    }
    for field in known.keys().filter(|f| is_ours(f) && !wanted.contains_key(*f)) {
        patch.insert(field.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// The conditions that differ, with vanished members named as null, and those of a resize that is over.
fn changed_conditions(known: Option<&Value>, wanted: &Value) -> Vec<Value> {
    let known: Vec<&Map<String, Value>> = entries(known);
    let gone = resize::CONDITIONS.into_iter().filter(|kind| {
        let has =
            |list: &[&Map<String, Value>]| list.iter().any(|c| c.get("type") == Some(&json!(kind)));
        has(&known) && !has(&entries(Some(wanted)))
    });
    let gone: Vec<Value> = gone.map(|kind| json!({ "$patch": "delete", "type": kind })).collect();
    let differing = entries(Some(wanted)).into_iter().filter_map(|condition| {
        let before = known.iter().find(|k| k.get("type") == condition.get("type"));
        if before.is_some_and(|b| *b == condition) {
            return None;
        }
        let vanished =
            before.into_iter().flat_map(|b| b.keys()).filter(|k| !condition.contains_key(*k));
        let mut patch = condition.clone();
        patch.extend(vanished.map(|k| (k.clone(), Value::Null)));
        Some(Value::Object(patch))
    });
    differing.chain(gone).collect()
}

fn entries(list: Option<&Value>) -> Vec<&Map<String, Value>> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object).collect()
}

fn object(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => unreachable!("a status serializes to an object"),
    }
}

fn is_empty(list: &Value) -> bool {
    list.as_array().is_none_or(Vec::is_empty)
}

/// Fields of the status that others write: resource claims, the scheduler's nomination, resizing.
fn is_ours(field: &str) -> bool {
    !matches!(
        field,
        "nominatedNodeName"
            | "resourceClaimStatuses"
            | "extendedResourceClaimStatus"
            | "resize"
            | "resources"
            | "allocatedResources"
            | "nodeAllocatableResourceClaimStatuses"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(yaml: Value) -> PodStatus {
        serde_json::from_value(yaml).expect("a pod status")
    }

    #[test]
    fn says_only_what_differs() {
        let known = status(json!({
            "phase": "Pending", "message": "old", "podIPs": [{"ip": "10.0.0.1"}],
            "conditions": [
                {"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
                {"type": "example.com/gate", "status": "True"},
                {"type": "Initialized", "status": "True"},
            ],
        }));
        let wanted = status(json!({
            "phase": "Running", "podIPs": [{"ip": "10.0.0.2"}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}],
        }));
        let expected = json!({
            "phase": "Running", "message": null, "podIPs": [{"$patch": "replace"}, {"ip": "10.0.0.2"}],
            "conditions": [{"type": "Ready", "status": "True", "reason": null}],
        });
        assert_eq!(difference(&known, &wanted), Some(expected));
        assert_eq!(difference(&wanted, &wanted), None);
    }
}
