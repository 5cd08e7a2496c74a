//! Claims of generic ephemeral volumes: made for a pod, owned by it, and gone with it.
//!
//! Pods in, one claim per ephemeral volume out, named `<pod>-<volume>`. Counterpart: `pkg/controller/volume/ephemeral`.
//! Invariant: a claim of that name that belongs to somebody else is never taken.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::claims::reference_to;
use crate::pod;
use crate::runtime::{Action, ControllerDef, Ctx, Error, Key, Result, controller_of};

pub const DEF: ControllerDef = ControllerDef {
    name: "ephemeral-volume-controller",
    workers: 4,
    watches: |edges| {
        edges.mapped::<Pod>(|_, delta| {
            let pod = delta.latest();
            claims(pod).next().map(|_| Key::of(pod.as_ref())).into_iter().collect()
        });
        edges.owned::<PersistentVolumeClaim, Pod>();
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(pod) = ctx.lister::<Pod>().get(&key).filter(|pod| pod::is_active(pod)) else {
        return Ok(Action::Done);
    };
    for claim in claims(&pod) {
        if let Err(error) = keep(&ctx, &pod, &claim).await {
            let name = claim.metadata.name.unwrap_or_default();
            ctx.recorder.warning(
                pod.as_ref(),
                "FailedBinding",
                format!("ephemeral volume claim {name}: {}", error.message()),
            );
            return Err(error);
        }
    }
    Ok(Action::Done)
}

async fn keep(ctx: &Ctx, pod: &Pod, claim: &PersistentVolumeClaim) -> Result<()> {
    let key = Key::of(claim);
    match ctx.lister::<PersistentVolumeClaim>().get(&key) {
        None => ctx.create(claim).await.map(drop),
        Some(there) if is_of(&there, pod) => Ok(()),
        Some(_) => Err(Error::Invalid(format!(
            "PVC {key} was not created for pod {} (pod is not owner)",
            Key::of(pod)
        ))),
    }
}

fn is_of(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    controller_of(&claim.metadata).map(|owner| &owner.uid) == pod.metadata.uid.as_ref()
}

/// The claims that the pod's volumes call for.
fn claims(pod: &Pod) -> impl Iterator<Item = PersistentVolumeClaim> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| {
        let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
        let asked = template.metadata.clone().unwrap_or_default();
        let metadata = ObjectMeta {
            name: Some(pod::claim_of_ephemeral(pod, &volume.name)),
            namespace: pod.metadata.namespace.clone(),
            owner_references: Some(vec![reference_to(pod)]),
            labels: asked.labels,
            annotations: asked.annotations,
            ..ObjectMeta::default()
        };
        Some(PersistentVolumeClaim { metadata, spec: Some(template.spec.clone()), status: None })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn each_ephemeral_volume_gets_a_claim_that_the_pod_owns() {
        let pod: Pod = yaml(
            "{metadata: {name: web, namespace: ns, uid: u}, spec: {containers: [], volumes: [{name: plain, emptyDir: {}}, \
             {name: scratch, ephemeral: {volumeClaimTemplate: {metadata: {labels: {a: b}}, spec: {accessModes: [ReadWriteOnce]}}}}]}}",
        );
        let claims: Vec<PersistentVolumeClaim> = claims(&pod).collect();
        let [claim] = claims.as_slice() else { panic!("one claim, not {claims:?}") };
        assert_eq!(Key::of(claim), Key::new("ns", "web-scratch"));
        assert_eq!(claim.metadata.labels, Some([("a".into(), "b".into())].into()));
        assert!(is_of(claim, &pod));
        let later = yaml("{metadata: {name: web, namespace: ns, uid: later}}");
        assert!(!is_of(claim, &later), "a pod of the same name that came later");
    }
}
