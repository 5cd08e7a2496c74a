//! The end of a pod: its API object, and then every trace of it here.
//!
//! Invariant: the object is deleted only after its final status was written, and only if it is still the same pod.

use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};

use super::{Outcome, StepError, StepInput};
use crate::{context::NodeContext, orphans::remove_dir, static_pods::is_static, volume};

/// A pod that the node runs by itself has no object; its mirror is seen to by others.
pub async fn delete(ctx: &NodeContext, mut input: StepInput) -> Result<Outcome, StepError> {
    if let Some(flushed) = input.flushed.take() {
        flushed.await;
    }
    if is_static(&input.pod.object) {
        return Ok(Outcome::PodDeleted);
    }
    let key = &input.pod.key;
    let api: Api<k8s_openapi::api::core::v1::Pod> =
        Api::namespaced(ctx.client.clone(), &key.namespace);
    let same_pod = Preconditions { uid: Some(key.uid.clone()), resource_version: None };
    let params = DeleteParams::default().grace_period(0).preconditions(same_pod);
    match api.delete(&key.name, &params).await {
        Ok(_) => Ok(Outcome::PodDeleted),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {
            Ok(Outcome::PodDeleted)
        }
        Err(error) => Err(StepError::setup("FailedDelete", error)),
    }
}

pub async fn remove(ctx: &NodeContext, input: &StepInput) -> Result<Outcome, StepError> {
    let key = &input.pod.key;
    let failed = |error: skiff_runtime::Error| StepError::setup("FailedRemove", error);
    let sandboxes = ctx.runtime.list_pod_sandboxes().await.map_err(failed)?;
    for sandbox in sandboxes.into_iter().filter(|s| s.metadata.uid == key.uid) {
        ctx.runtime.remove_pod_sandbox(&sandbox.id).await.map_err(failed)?;
    }
    volume::tear_down_pod(ctx, &key.uid)
        .await
        .map_err(|error| StepError::setup("FailedUnmount", error))?;
    remove_dir(&ctx.config.pod_log_dir(&key.namespace, &key.name, &key.uid)).await;
    Ok(Outcome::PodRemoved)
}
