//! Counts what each ResourceQuota limits and writes it into the quota's status.
//!
//! Quota + the namespace's objects -> `status.hard` and `status.used`. Admission charges every write before it is stored; this
//! controller gives back what deletions free and corrects what a failed write left charged.
//! Counterpart: `pkg/controller/resourcequota`. It differs in what it watches: a resource that no quota names is neither
//! watched nor listed, and there is no periodic recount.
//! Invariant: a charge is never lost. One made while counting changes the quota's revision, which the write names; one whose
//! object is not stored yet shows as a count below what is charged, and such a count is believed only if it holds.

mod counting;
mod watches;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service,
};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::runtime::{Action, ControllerDef, Ctx, Delta, Edges, Key, Object, Result};
use watches::Watches;

pub const DEF: ControllerDef = ControllerDef {
    name: "resourcequota-controller",
    workers: 5,
    watches: |edges| {
        edges.primary::<ResourceQuota>();
        measured::<Pod>(edges);
        measured::<Service>(edges);
        measured::<PersistentVolumeClaim>(edges);
        measured::<ResourceClaim>(edges);
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

/// A kind whose objects count for more than one each: a change concerns the quotas of its namespace.
fn measured<K: Object>(edges: &mut Edges) {
    edges.mapped::<K>(|caches, delta| {
        let namespace = delta.latest().meta().namespace.as_deref().unwrap_or_default();
        let quotas = caches.store::<ResourceQuota>().in_namespace(namespace);
        // Measuring is dear, and most namespaces have no quota.
        if quotas.is_empty() || !changes_usage(delta) {
            return Vec::new();
        }
        quotas.iter().map(|quota| Key::of(quota.as_ref())).collect()
    });
}

/// An update that changes neither what is asked for nor whether the object has ended, such as a heartbeat, does not.
fn changes_usage<K: Object>(delta: &Delta<K>) -> bool {
    let (Some(old), Some(new)) = (delta.old, delta.new) else { return true };
    old.meta().generation != new.meta().generation
        || counting::of(old.as_ref()) != counting::of(new.as_ref())
}

/// Longer than a write takes from its charge to being seen in the caches.
const SETTLES: Duration = Duration::from_millis(250);

type Used = BTreeMap<String, Quantity>;

/// Quotas that were charged more than was found: at which revision, and since when.
#[derive(Default)]
struct Doubts(Mutex<HashMap<Key, (Option<String>, Instant)>>);

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let watches = ctx.memory::<Watches>();
    let Some(quota) = ctx.lister::<ResourceQuota>().get(&key) else {
        watches.forget(&key);
        ctx.memory::<Doubts>()
            .0
            .lock()
            .expect("nothing panics while the doubts are locked")
            .remove(&key);
        return Ok(Action::Done);
    };
    let counted = counting::Namespace::new(&ctx, &key.namespace).count(&quota).await?;
    watches.keep(&ctx, &key, counted.counted_by_number);
    let charged = charged(&quota);
    let lower = is_lower(&counted.used, &charged);
    let doubtful = lower && !ctx.memory::<Doubts>().is_settled(&key, &quota);
    let used = if doubtful { highest(counted.used, charged) } else { counted.used };
    if let Some(quota) = plan(&quota, used) {
        ctx.update_status(&quota).await?;
    }
    Ok(if doubtful { Action::After(SETTLES) } else { Action::Done })
}

fn charged(quota: &ResourceQuota) -> Used {
    quota.status.as_ref().and_then(|status| status.used.clone()).unwrap_or_default()
}

fn amount(quantity: &Quantity) -> Option<skiff_api::quantity::Quantity> {
    quantity.0.parse().ok()
}

fn is_lower(counted: &Used, charged: &Used) -> bool {
    counted.iter().any(|(name, found)| {
        charged.get(name).is_some_and(|charged| amount(found) < amount(charged))
    })
}

/// What is counted, or charged if that is more.
fn highest(mut counted: Used, charged: Used) -> Used {
    for (name, charged) in charged {
        if let Some(found) = counted.get_mut(&name)
            && amount(found) < amount(&charged)
        {
            *found = charged;
        }
    }
    counted
}

/// The quota with its status as it should be, if it is not.
fn plan(quota: &ResourceQuota, used: Used) -> Option<ResourceQuota> {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
    let status = ResourceQuotaStatus { hard: Some(hard), used: Some(used) };
    let known = quota.status.clone().unwrap_or_default();
    let known = ResourceQuotaStatus {
        hard: Some(known.hard.unwrap_or_default()),
        used: Some(known.used.unwrap_or_default()),
    };
    (known != status).then(|| ResourceQuota { status: Some(status), ..quota.clone() })
}

// === impl Doubts ===

impl Doubts {
    /// Whether the quota has been as it is for long enough that everything charged is stored or has failed.
    fn is_settled(&self, key: &Key, quota: &ResourceQuota) -> bool {
        let mut doubts = self.0.lock().expect("nothing panics while the doubts are locked");
        let revision = quota.metadata.resource_version.clone();
        let doubt = doubts.entry(key.clone()).or_insert((revision.clone(), Instant::now()));
        if doubt.0 != revision {
            *doubt = (revision, Instant::now());
        }
        let settled = doubt.1.elapsed() >= SETTLES;
        if settled {
            doubts.remove(key);
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn status_follows_the_spec_and_the_count_and_is_then_left_alone() {
        let quota: ResourceQuota = yaml(
            "{metadata: {name: q, namespace: n}, spec: {hard: {pods: '5'}}, status: {hard: {pods: '3'}, used: {pods: '1'}}}",
        );
        let used = BTreeMap::from([("pods".to_owned(), Quantity("2".into()))]);
        let planned = plan(&quota, used.clone()).expect("the status is behind");
        let status = planned.status.clone().expect("a status");
        assert_eq!(status.hard, Some(BTreeMap::from([("pods".to_owned(), Quantity("5".into()))])));
        assert_eq!(status.used, Some(used.clone()));
        assert_eq!(plan(&planned, used), None);
    }

    #[test]
    fn a_charge_whose_object_is_not_stored_yet_is_not_given_back() {
        let used = |pods: &str| Used::from([("pods".to_owned(), Quantity(pods.into()))]);
        assert!(is_lower(&used("0"), &used("1")) && !is_lower(&used("2"), &used("1")));
        assert_eq!(highest(used("0"), used("1")), used("1"));
        assert_eq!(highest(used("2"), used("1")), used("2"));
        let quota: ResourceQuota = yaml("{metadata: {name: q, resourceVersion: '7'}}");
        let doubts = Doubts::default();
        assert!(!doubts.is_settled(&Key::new("n", "q"), &quota), "a first doubt is a doubt");
    }

    #[test]
    fn a_heartbeat_of_a_pod_concerns_no_quota() {
        let pod = |status: &str| -> Arc<Pod> {
            Arc::new(yaml(&format!(
                "{{metadata: {{name: p}}, spec: {{containers: [{{name: c}}]}}, status: {status}}}"
            )))
        };
        let (running, ready) = (pod("{phase: Running}"), pod("{phase: Running, podIP: 10.0.0.1}"));
        let ended = pod("{phase: Succeeded}");
        assert!(!changes_usage(&Delta { old: Some(&running), new: Some(&ready) }));
        assert!(changes_usage(&Delta { old: Some(&running), new: Some(&ended) }));
        assert!(changes_usage(&Delta { old: Some(&running), new: None }));
    }
}
