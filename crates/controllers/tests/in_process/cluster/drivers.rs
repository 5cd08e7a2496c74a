//! Parts that are not in this process, as far as controllers can tell: a kubelet, and the attacher of a storage driver.
//!
//! Each watches what it is responsible for and answers as the real one would in the end. Scheduled pods run, deleted pods
//! end, and so do those that say in an annotation how; volumes are attached at the second attempt and detached at the first.

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// How a pod ends once it runs: its last phase, as an annotation.
const ENDS: &str = "test/ends";
/// Keeps an attachment until its volume is detached.
const ATTACHER: &str = "external-attacher/test";

pub async fn kubelet(client: Client, shutdown: CancellationToken) {
    let mut pods = watcher(Api::<Pod>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .applied_objects()
        .boxed();
    let mut next_ip = 0u32;
    while let Some(Some(pod)) = shutdown.run_until_cancelled(pods.next()).await {
        let Ok(pod) = pod else { continue };
        let (name, namespace) =
            (pod.metadata.name.unwrap_or_default(), pod.metadata.namespace.unwrap_or_default());
        let api = Api::<Pod>::namespaced(client.clone(), &namespace);
        let scheduled = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let ends = pod.metadata.annotations.as_ref().and_then(|all| all.get(ENDS));
        if pod.metadata.deletion_timestamp.is_some() {
            let _ = api.delete(&name, &DeleteParams::default().grace_period(0)).await;
        } else if scheduled && phase == Some("Pending") {
            next_ip += 1;
            let ip = format!("10.244.{}.{}", next_ip / 250, next_ip % 250 + 1);
            let status = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now()}]});
            tell(&api, &name, status).await;
        } else if let (Some(last), Some("Running")) = (ends, phase) {
            tell(&api, &name, json!({"phase": last})).await;
        }
    }
}

async fn tell(pods: &Api<Pod>, name: &str, status: Value) {
    let patch = Patch::Strategic(json!({ "status": status }));
    let _ = pods.patch_status(name, &PatchParams::default(), &patch).await;
}

fn now() -> Time {
    Time(jiff::Timestamp::now())
}

pub async fn attacher(client: Client, shutdown: CancellationToken) {
    let api = Api::<VolumeAttachment>::all(client);
    let mut attachments = watcher(api.clone(), watcher::Config::default())
        .default_backoff()
        .applied_objects()
        .boxed();
    let params = PatchParams::default();
    while let Some(Some(attachment)) = shutdown.run_until_cancelled(attachments.next()).await {
        let Ok(attachment) = attachment else { continue };
        let name = attachment.metadata.name.clone().unwrap_or_default();
        // Whoever is gone meanwhile needs no answer.
        let _ = match next(&attachment) {
            Some(Answer::Metadata(patch)) => api.patch(&name, &params, &Patch::Merge(patch)).await,
            Some(Answer::Status(patch)) => {
                api.patch_status(&name, &params, &Patch::Merge(json!({ "status": patch }))).await
            }
            None => continue,
        };
    }
}

enum Answer {
    Metadata(Value),
    Status(Value),
}

fn next(attachment: &VolumeAttachment) -> Option<Answer> {
    let held = attachment.metadata.finalizers.iter().flatten().any(|held| held == ATTACHER);
    let finalizers = |all: Value| Some(Answer::Metadata(json!({"metadata": {"finalizers": all}})));
    if attachment.metadata.deletion_timestamp.is_some() {
        return if held { finalizers(Value::Null) } else { None };
    }
    let status = attachment.status.clone().unwrap_or_default();
    match (held, status.attached, status.attach_error) {
        (false, ..) => finalizers(json!([ATTACHER])),
        (true, true, _) => None,
        (true, false, None) => {
            let error = json!({"time": now(), "message": "not at the first attempt"});
            Some(Answer::Status(json!({"attached": false, "attachError": error})))
        }
        (true, false, Some(_)) => {
            Some(Answer::Status(json!({"attached": true, "attachError": null})))
        }
    }
}
