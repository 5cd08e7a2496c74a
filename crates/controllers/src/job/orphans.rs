//! Frees pods that wait to be counted by a Job that will not count them any more.
//!
//! A pod with the tracking finalizer in -> the finalizer goes, if its Job is finished or gone, or it has no controller.
//! Counterpart: the orphan queue of `pkg/controller/job`.
//! Invariant: pods of a Job that somebody else manages are left alone.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use super::picture::is_tracked;
use super::{NAME, end, is_ours, untrack};
use crate::runtime::{Action, ControllerDef, Ctx, Key, Result, controller_of};

pub const DEF: ControllerDef = ControllerDef {
    name: NAME,
    workers: 5,
    watches: |edges| {
        edges.mapped::<Pod>(|_, delta| {
            let tracked = delta.new.filter(|pod| is_tracked(pod));
            tracked.map(|pod| Key::of(pod.as_ref())).into_iter().collect()
        });
        edges.mapped::<Job>(|caches, delta| {
            let job = delta.latest();
            if delta.new.is_some_and(|job| end(job).is_none()) {
                return Vec::new();
            }
            let pods = caches.store::<Pod>();
            let pods = pods.owned_by(job.metadata.uid.as_deref().unwrap_or_default());
            pods.iter().filter(|pod| is_tracked(pod)).map(|pod| Key::of(pod.as_ref())).collect()
        });
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let pod = ctx.lister::<Pod>().get(&key);
    let Some(pod) = pod.filter(|pod| is_tracked(pod)) else { return Ok(Action::Done) };
    let job = controller_of(&pod.metadata)
        .and_then(|owner| ctx.lister::<Job>().get(&Key::new(&key.namespace, &owner.name)));
    if is_orphan(&pod, job.as_deref()) {
        untrack(&ctx, &[pod]).await?;
    }
    Ok(Action::Done)
}

/// `job`: the Job that has the name of the pod's controller.
fn is_orphan(pod: &Pod, job: Option<&Job>) -> bool {
    let Some(owner) = controller_of(&pod.metadata) else { return true };
    if owner.kind != "Job" || owner.api_version != "batch/v1" {
        return false;
    }
    match job.filter(|job| job.metadata.uid.as_ref() == Some(&owner.uid)) {
        Some(job) => is_ours(job) && end(job).is_some(),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn only_pods_that_nobody_will_count_are_freed() {
        let pod = |kind: &str| -> Pod {
            yaml(&format!(
                "{{metadata: {{ownerReferences: [{{apiVersion: batch/v1, kind: {kind}, name: j, uid: u, controller: true}}]}}}}"
            ))
        };
        let job = |changes: &str| -> Job { yaml(&format!("{{metadata: {{uid: u}}, {changes}}}")) };
        let running = job("status: {}");
        let finished = job("status: {conditions: [{type: Complete, status: 'True'}]}");
        let foreign = job(
            "spec: {managedBy: example.com/x, template: {}}, status: {conditions: [{type: Failed, status: 'True'}]}",
        );
        let another: Job = yaml("{metadata: {uid: other}, status: {}}");
        assert!(!is_orphan(&pod("Job"), Some(&running)));
        assert!(is_orphan(&pod("Job"), Some(&finished)));
        assert!(!is_orphan(&pod("Job"), Some(&foreign)));
        assert!(is_orphan(&pod("Job"), Some(&another)));
        assert!(is_orphan(&pod("Job"), None));
        assert!(!is_orphan(&pod("Other"), None));
        assert!(is_orphan(&yaml("{metadata: {}}"), None));
    }
}
