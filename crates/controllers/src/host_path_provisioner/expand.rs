//! Claims of this provisioner that ask for more than they have.
//!
//! A bound claim and its volume in; [`Step`] by step the volume's capacity and the claim's status out. Counterpart: the
//! `external-resizer` that comes with CSI drivers, whose conditions, statuses and events these are. A directory has no size, so
//! there is nothing for the node to do. Invariant: what has been begun is on the claim before the volume grows, and a claim
//! never shows more than its volume has.

use std::sync::Arc;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use serde_json::{Value, json};

use super::{NAME, plan::place};
use crate::persistent_volume::facts::{
    asked_size, capacity, is_promised_to, volume_name, volume_size,
};
use crate::runtime::{Action, ControllerDef, Ctx, Key, Result};

const IN_PROGRESS: &str = "ControllerResizeInProgress";
/// Conditions of a claim that speak of its expansion.
const CONDITIONS: [&str; 4] =
    ["ControllerResizeError", "FileSystemResizePending", "NodeResizeError", "Resizing"];

pub const DEF: ControllerDef = ControllerDef {
    name: NAME,
    workers: 2,
    watches: |edges| {
        edges.primary::<PersistentVolumeClaim>();
        edges.reads::<PersistentVolume>();
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

/// What is to be done next for a claim to get what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Announce,
    GrowVolume,
    Finish,
}

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    loop {
        let Some(claim) = ctx.lister::<PersistentVolumeClaim>().get(&key) else { break };
        let volume = volume_name(&claim).map(Key::cluster);
        let Some(volume) = volume.and_then(|key| ctx.lister::<PersistentVolume>().get(&key)) else {
            break;
        };
        let Some(step) = next(&claim, &volume) else { break };
        take(&ctx, &key, &claim, &volume, step).await?;
    }
    Ok(Action::Done)
}

fn next(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Step> {
    let status = claim.status.as_ref()?;
    let ours = status.phase.as_deref() == Some("Bound")
        && is_promised_to(volume, claim)
        && place(volume).is_some();
    let wanted = asked_size(claim);
    if !ours || wanted <= capacity(claim) {
        return None;
    }
    let allocated = status.allocated_resources.as_ref().and_then(|it| it.get("storage"));
    let announced = allocated.and_then(|it| it.0.parse().ok()) == Some(wanted);
    let stage = status.allocated_resource_statuses.as_ref().and_then(|it| it.get("storage"));
    Some(match () {
        () if !announced || stage.map(String::as_str) != Some(IN_PROGRESS) => Step::Announce,
        () if volume_size(volume) < wanted => Step::GrowVolume,
        () => Step::Finish,
    })
}

async fn take(
    ctx: &Ctx,
    key: &Key,
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
    step: Step,
) -> Result<()> {
    let size = asked_size(claim).to_string();
    match step {
        Step::Announce => {
            ctx.patch_status::<PersistentVolumeClaim>(key, &announced(&size, ctx.now())).await?;
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            let message = format!("External resizer is resizing volume {name}");
            ctx.recorder.normal(claim, "Resizing", message);
        }
        Step::GrowVolume => {
            let patch = json!({ "spec": { "capacity": { "storage": size } } });
            ctx.patch::<PersistentVolume>(&Key::of(volume), &patch).await?;
        }
        Step::Finish => {
            ctx.patch_status::<PersistentVolumeClaim>(key, &finished(&size)).await?;
            ctx.recorder.normal(claim, "VolumeResizeSuccessful", "Resize volume succeeded");
        }
    }
    Ok(())
}

fn announced(size: &str, now: Timestamp) -> Value {
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    json!({ "status": {
        "allocatedResources": { "storage": size },
        "allocatedResourceStatuses": { "storage": IN_PROGRESS },
        "conditions": [{ "type": "Resizing", "status": "True", "lastTransitionTime": now }],
    } })
}

fn finished(size: &str) -> Value {
    let gone = CONDITIONS.map(|kind| json!({ "$patch": "delete", "type": kind }));
    json!({ "status": {
        "capacity": { "storage": size },
        "allocatedResources": { "storage": size },
        "allocatedResourceStatuses": { "storage": null },
        "conditions": gone,
    } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn claim(asked: &str, status: &str) -> PersistentVolumeClaim {
        yaml(&format!(
            "{{metadata: {{name: data, namespace: ns, uid: u}}, spec: {{volumeName: pv, resources: {{requests: {{storage: {asked}}}}}}}, \
             status: {{phase: Bound, {status}}}}}"
        ))
    }

    fn volume(size: &str, by: &str) -> PersistentVolume {
        yaml(&format!(
            "{{metadata: {{name: pv, annotations: {{pv.kubernetes.io/provisioned-by: {by}}}}}, spec: {{capacity: {{storage: {size}}}, \
             claimRef: {{namespace: ns, name: data, uid: u}}, local: {{path: /v/pv}}, nodeAffinity: {{required: {{nodeSelectorTerms: \
             [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [n1]}}]}}]}}}}}}}}"
        ))
    }

    const OURS: &str = super::super::PROVISIONER;
    const BEGUN: &str = "capacity: {storage: 1Gi}, allocatedResources: {storage: 2Gi}, \
                         allocatedResourceStatuses: {storage: ControllerResizeInProgress}";

    #[test]
    fn a_claim_that_asks_for_more_is_announced_then_its_volume_grows_then_it_is_told() {
        let small = volume("1Gi", OURS);
        assert_eq!(next(&claim("2Gi", "capacity: {storage: 1Gi}"), &small), Some(Step::Announce));
        assert_eq!(next(&claim("2Gi", BEGUN), &small), Some(Step::GrowVolume));
        assert_eq!(next(&claim("2Gi", BEGUN), &volume("2Gi", OURS)), Some(Step::Finish));
        let done = "capacity: {storage: 2Gi}, allocatedResources: {storage: 2Gi}";
        assert_eq!(next(&claim("2Gi", done), &volume("2Gi", OURS)), None);
    }

    #[test]
    fn a_request_that_grows_once_more_meanwhile_is_announced_anew() {
        assert_eq!(next(&claim("3Gi", BEGUN), &volume("2Gi", OURS)), Some(Step::Announce));
    }

    #[test]
    fn volumes_of_others_and_claims_that_have_enough_are_left_alone() {
        let asks = claim("2Gi", "capacity: {storage: 1Gi}");
        assert_eq!(next(&asks, &volume("1Gi", "disks.example.com")), None);
        assert_eq!(next(&claim("1Gi", "capacity: {storage: 2Gi}"), &volume("2Gi", OURS)), None);
    }
}
