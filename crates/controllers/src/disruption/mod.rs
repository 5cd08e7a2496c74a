//! Keeps the books of PodDisruptionBudgets: how many pods there should be, how many are well, how many may go.
//!
//! A budget and the pods it selects in -> status, which the eviction subresource spends from.
//! Counterpart: `pkg/controller/disruption`.
//! Invariant: when the number cannot be told, none may go.

mod expected;
mod stale;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::{Selector, SelectorExt};

use crate::runtime::{Action, ControllerDef, Ctx, Key, Result};
use status::Books;

pub use stale::DEF as STALE;

const NAME: &str = "disruption-controller";

pub const DEF: ControllerDef = ControllerDef {
    name: NAME,
    workers: 1,
    watches: |edges| {
        edges.primary::<PodDisruptionBudget>();
        edges.mapped::<Pod>(|caches, delta| {
            let namespace = delta.latest().metadata.namespace.as_deref().unwrap_or_default();
            let budgets = caches.store::<PodDisruptionBudget>().in_namespace(namespace);
            let concerned =
                budgets.iter().filter(|budget| delta.sides().any(|pod| covers(budget, pod)));
            concerned.map(|budget| Key::of(budget.as_ref())).collect()
        });
        expected::watches(edges);
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(budget) = ctx.lister::<PodDisruptionBudget>().get(&key) else {
        return Ok(Action::Done);
    };
    let mut pods = ctx.lister::<Pod>().in_namespace(&key.namespace);
    pods.retain(|pod| covers(&budget, pod));
    if pods.is_empty() {
        ctx.recorder.normal(budget.as_ref(), "NoPods", "No matching pods found");
    }
    let now = ctx.now();
    let (status, wait) = match expected::demand(&ctx, &budget, &pods).await {
        Ok(demand) => {
            if !demand.unmanaged.is_empty() {
                ctx.recorder.warning(budget.as_ref(), "UnmanagedPods", unmanaged(&budget));
            }
            let Books { status, overdue, wait } = status::books(&budget, &pods, &demand, now);
            for pod in overdue {
                let namespace = &key.namespace;
                let message = format!(
                    "Pod was expected by PDB {namespace}/{namespace} to be deleted but it wasn't"
                );
                ctx.recorder.warning(pod.as_ref(), "NotDeleted", message);
            }
            (status, wait)
        }
        Err(error) => {
            let message =
                format!("Failed to calculate the number of expected pods: {}", error.message());
            ctx.recorder.warning(budget.as_ref(), "CalculateExpectedPodCountFailed", message);
            (status::unknown(&budget, &error.message(), now), None)
        }
    };
    if budget.status.as_ref() != Some(&status) {
        let written = PodDisruptionBudget { status: Some(status), ..budget.as_ref().clone() };
        ctx.update_status(&written).await?;
    }
    Ok(wait.map_or(Action::Done, Action::After))
}

/// An empty selector covers every pod; none at all covers none.
fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.clone());
    let Some(Ok(selector)) = selector.map(Selector::try_from) else { return false };
    let nothing = BTreeMap::new();
    selector.matches(pod.metadata.labels.as_ref().unwrap_or(&nothing))
}

fn unmanaged(budget: &PodDisruptionBudget) -> String {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.clone());
    let selector = selector.and_then(|selector| Selector::try_from(selector).ok());
    let selector = selector.map(|selector| selector.to_string()).unwrap_or_default();
    format!(
        "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. \
         As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. \
         To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value."
    )
}
