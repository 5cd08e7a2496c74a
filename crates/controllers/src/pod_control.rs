//! Making and ending the pods of a workload, with the events that tell of it.
//!
//! Counterpart: `PodControlInterface` and slowStartBatch of `pkg/controller`.
//! Invariant: the first batch of creates with a failure is the last, so what must fail fails once, not five hundred times.

use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::claims::reference_to;
use crate::runtime::{Ctx, Object, Result};

/// The most pods created or deleted by one reconcile; the rest follows in the next.
pub const BURST: usize = 500;
/// Creates start with this many at a time, and double.
const FIRST_BATCH: usize = 1;
pub const CONCURRENT_WRITES: usize = 50;

/// The pod that a controller makes from its template: named after the owner, owned by it.
pub fn pod_from_template<K: Object>(template: &PodTemplateSpec, owner: &K) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: owner.meta().namespace.clone(),
            generate_name: owner.meta().name.as_ref().map(|name| format!("{name}-")),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![reference_to(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Creates in doubling batches.
pub async fn create_pods<K: Object>(ctx: &Ctx, owner: &K, pods: Vec<Pod>) -> Result<()> {
    let (mut left, mut batch) = (pods.as_slice(), FIRST_BATCH);
    while !left.is_empty() {
        let (now, later) = left.split_at(batch.min(left.len()));
        let creates = now.iter().map(|pod| create_pod(ctx, owner, pod));
        futures::future::join_all(creates).await.into_iter().collect::<Result<()>>()?;
        (left, batch) = (later, batch * 2);
    }
    Ok(())
}

async fn create_pod<K: Object>(ctx: &Ctx, owner: &K, pod: &Pod) -> Result<()> {
    match ctx.create(pod).await {
        Ok(pod) => {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            ctx.recorder.normal(owner, "SuccessfulCreate", format!("Created pod: {name}"));
            Ok(())
        }
        Err(error) => {
            if !error.namespace_terminating() {
                let message = format!("Error creating: {}", error.message());
                ctx.recorder.warning(owner, "FailedCreate", message);
            }
            Err(error)
        }
    }
}

/// Deletes all of them; one failure does not keep the others.
pub async fn delete_pods<K: Object>(ctx: &Ctx, owner: &K, pods: Vec<Arc<Pod>>) -> Result<()> {
    let deletes =
        futures::stream::iter(pods).map(|pod| async move { delete_pod(ctx, owner, &pod).await });
    let outcomes: Vec<Result<()>> = deletes.buffer_unordered(CONCURRENT_WRITES).collect().await;
    outcomes.into_iter().collect()
}

async fn delete_pod<K: Object>(ctx: &Ctx, owner: &K, pod: &Pod) -> Result<()> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    match ctx.delete(pod).await {
        Ok(()) => ctx.recorder.normal(owner, "SuccessfulDelete", format!("Deleted pod: {name}")),
        Err(error) if error.is_not_found() => {}
        Err(error) => {
            let message = format!("Error deleting: {}", error.message());
            ctx.recorder.warning(owner, "FailedDelete", message);
            return Err(error);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;
    use k8s_openapi::api::apps::v1::ReplicaSet;

    #[test]
    fn pods_carry_template_and_owner() {
        let set: ReplicaSet = yaml("{metadata: {name: web, namespace: ns, uid: u}}");
        let template = yaml("{metadata: {labels: {app: web}}, spec: {containers: []}}");
        let pod = pod_from_template(&template, &set);
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("web-"));
        assert_eq!(pod.metadata.labels.as_ref().unwrap()["app"], "web");
        let owner = &pod.metadata.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.controller, owner.block_owner_deletion), (Some(true), Some(true)));
    }
}
