//! Keeps as many pods of one template running as a ReplicaSet asks for.
//!
//! A ReplicaSet and the pods of its namespace in -> adopt, release, create, delete -> status.
//! Counterpart: `pkg/controller/replicaset`. Differs from upstream: no expectations ledger; the shared cache already
//! shows our own writes (see `runtime::store`).
//! Invariant: a pod is only deleted while this ReplicaSet is its controller.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{Selector, SelectorExt};
use serde_json::json;

use crate::conditions::{self, Condition};
use crate::pod;
use crate::runtime::{Action, ControllerDef, Ctx, Error, Key, Object, Result, controller_of};

/// The most pods created or deleted by one reconcile; the rest follows in the next.
const BURST_REPLICAS: usize = 500;
/// Creates start with this batch and double: a create that must fail fails once, not five hundred times.
const SLOW_START_BATCH: usize = 1;

pub const DEF: ControllerDef = ControllerDef {
    name: "replicaset-controller",
    workers: 5,
    watches: |edges| {
        edges.primary::<ReplicaSet>();
        edges.owned::<Pod, ReplicaSet>();
        // An orphan may be adopted by any ReplicaSet that selects it.
        edges.mapped::<Pod>(|caches, delta| {
            let Some(pod) = delta.new.filter(|pod| controller_of(&pod.metadata).is_none()) else {
                return Vec::new();
            };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let sets = caches.store::<ReplicaSet>().in_namespace(namespace);
            sets.iter().filter(|set| selects(set, pod)).map(|set| Key::of(set.as_ref())).collect()
        });
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

#[derive(Debug, PartialEq)]
enum Op {
    Adopt(Arc<Pod>),
    Release(Arc<Pod>),
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(set) = ctx.lister::<ReplicaSet>().get(&key) else {
        return Ok(Action::Done);
    };
    for op in membership(&set, &candidates(&ctx, &set)) {
        apply(&ctx, &set, op).await?;
    }
    let failure = match scale(&set, &members(&ctx, &set), &siblings(&ctx, &set)) {
        Some(op) => apply(&ctx, &set, op).await.err(),
        None => None,
    };
    let pods = members(&ctx, &set);
    let now = ctx.now();
    let status = status(&set, &pods, failure.as_ref(), now);
    if set.status.as_ref() != Some(&status)
        && (set.status.is_some() || status != ReplicaSetStatus::default())
    {
        ctx.update_status(&ReplicaSet { status: Some(status), ..set.as_ref().clone() }).await?;
    }
    match failure {
        Some(error) if !error.namespace_terminating() => Err(error),
        _ => Ok(next_look(&set, &pods, now)),
    }
}

/// Pods that are or may become ours: those we control and the orphans we select.
fn candidates(ctx: &Ctx, set: &ReplicaSet) -> Vec<Arc<Pod>> {
    let pods = ctx.lister::<Pod>();
    let mut found = pods.owned_by(uid(set));
    found.extend(pods.orphans(set.metadata.namespace.as_deref().unwrap_or_default()));
    found
}

fn members(ctx: &Ctx, set: &ReplicaSet) -> Vec<Arc<Pod>> {
    let mut pods = ctx.lister::<Pod>().owned_by(uid(set));
    pods.retain(|pod| is_member(set, pod));
    pods
}

/// Every pod of the ReplicaSets of the same Deployment: where they run decides which of ours goes first.
fn siblings(ctx: &Ctx, set: &ReplicaSet) -> Vec<Arc<Pod>> {
    let Some(owner) = controller_of(&set.metadata) else {
        return members(ctx, set);
    };
    let sets = ctx.lister::<ReplicaSet>().owned_by(&owner.uid);
    sets.iter().flat_map(|sibling| members(ctx, sibling)).collect()
}

// === decisions ===

fn uid(set: &ReplicaSet) -> &str {
    set.metadata.uid.as_deref().unwrap_or_default()
}

fn is_member(set: &ReplicaSet, pod: &Pod) -> bool {
    controller_of(&pod.metadata).is_some_and(|owner| owner.uid == uid(set))
}

fn selects(set: &ReplicaSet, pod: &Pod) -> bool {
    let Some(spec) = &set.spec else { return false };
    let Ok(selector) = Selector::try_from(spec.selector.clone()) else {
        return false;
    };
    let nothing = Default::default();
    !selector.selects_all() && selector.matches(pod.metadata.labels.as_ref().unwrap_or(&nothing))
}

/// Adopt live orphans we select, release pods we no longer select. A ReplicaSet on its way out does neither.
fn membership(set: &ReplicaSet, candidates: &[Arc<Pod>]) -> Vec<Op> {
    if set.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let ops = candidates.iter().filter_map(|pod| match (is_member(set, pod), selects(set, pod)) {
        (true, false) => Some(Op::Release(pod.clone())),
        (false, true) if pod::is_active(pod) && controller_of(&pod.metadata).is_none() => {
            Some(Op::Adopt(pod.clone()))
        }
        _ => None,
    });
    ops.collect()
}

/// Create what is missing or delete what is too much, within one burst.
fn scale(set: &ReplicaSet, members: &[Arc<Pod>], siblings: &[Arc<Pod>]) -> Option<Op> {
    if set.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let active: Vec<Arc<Pod>> = members.iter().filter(|pod| pod::is_active(pod)).cloned().collect();
    let wanted = replicas(set);
    match active.len() {
        have if have < wanted => Some(Op::Create((wanted - have).min(BURST_REPLICAS))),
        have if have > wanted => {
            Some(Op::Delete(first_to_go(active, siblings, (have - wanted).min(BURST_REPLICAS))))
        }
        _ => None,
    }
}

fn replicas(set: &ReplicaSet) -> usize {
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    usize::try_from(wanted).unwrap_or(0)
}

/// The pods whose loss hurts least, in upstream's order (`ActivePodsWithRanks`).
fn first_to_go(mut pods: Vec<Arc<Pod>>, siblings: &[Arc<Pod>], count: usize) -> Vec<Arc<Pod>> {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in siblings.iter().filter(|pod| pod::is_active(pod)) {
        *on_node.entry(pod::node_name(pod).unwrap_or_default()).or_default() += 1;
    }
    pods.sort_by_cached_key(|pod| deletion_rank(pod, &on_node));
    pods.truncate(count);
    pods
}

type DeletionRank =
    (bool, u8, bool, i64, Reverse<usize>, Reverse<Option<i64>>, Reverse<i32>, Reverse<Option<i64>>);

/// Smaller goes first: unscheduled, then pending, then not ready, then cheap, then crowded, then young.
fn deletion_rank(pod: &Pod, on_node: &HashMap<&str, usize>) -> DeletionRank {
    let node = pod::node_name(pod);
    let phase = match pod::phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let crowd = node.and_then(|node| on_node.get(node)).copied().unwrap_or(0);
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| seconds(time.0));
    let ready = pod::ready_since(pod).map(seconds);
    (
        node.is_some(),
        phase,
        pod::is_ready(pod),
        deletion_cost(pod),
        Reverse(crowd),
        Reverse(ready),
        Reverse(pod::restarts(pod)),
        Reverse(created),
    )
}

/// Seconds are as fine as the API's timestamps get.
fn seconds(time: Timestamp) -> i64 {
    time.as_second()
}

fn deletion_cost(pod: &Pod) -> i64 {
    let annotations = pod.metadata.annotations.as_ref();
    let cost = annotations.and_then(|all| all.get("controller.kubernetes.io/pod-deletion-cost"));
    cost.and_then(|cost| cost.parse::<i32>().ok()).map_or(0, i64::from)
}

fn status(
    set: &ReplicaSet,
    members: &[Arc<Pod>],
    failure: Option<&Error>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let min_ready = min_ready_seconds(set);
    let template_labels = set
        .spec
        .as_ref()
        .and_then(|spec| spec.template.as_ref())
        .and_then(|template| template.metadata.as_ref().and_then(|meta| meta.labels.clone()));
    let active = || members.iter().filter(|pod| pod::is_active(pod));
    let labeled = active().filter(|pod| {
        let labels = pod.metadata.labels.as_ref();
        template_labels
            .iter()
            .flatten()
            .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
    });
    let terminating =
        members.iter().filter(|pod| pod::is_terminating(pod) && !pod::is_terminal(pod));
    let old = set.status.clone().unwrap_or_default();
    ReplicaSetStatus {
        replicas: count(active()),
        fully_labeled_replicas: non_zero(count(labeled)),
        ready_replicas: non_zero(count(active().filter(|pod| pod::is_ready(pod)))),
        available_replicas: non_zero(count(
            active().filter(|pod| pod::is_available(pod, min_ready, now)),
        )),
        terminating_replicas: Some(count(terminating)),
        observed_generation: set.metadata.generation,
        conditions: failure_condition(set, old.conditions, count(active()), failure, now),
    }
}

fn failure_condition(
    set: &ReplicaSet,
    old: Option<Vec<ReplicaSetCondition>>,
    have: i32,
    failure: Option<&Error>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut list = old.unwrap_or_default();
    match failure {
        Some(error) => {
            let creating = usize::try_from(have).unwrap_or(0) < replicas(set);
            let reason = if creating { "FailedCreate" } else { "FailedDelete" };
            conditions::set(
                &mut list,
                Condition::new("ReplicaFailure", "True", reason, &error.message(), now),
            );
        }
        None => conditions::remove(&mut list, "ReplicaFailure"),
    }
    (!list.is_empty()).then_some(list)
}

fn count<T>(items: impl Iterator<Item = T>) -> i32 {
    i32::try_from(items.count()).unwrap_or(i32::MAX)
}

/// The API leaves zero counts out.
fn non_zero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

fn min_ready_seconds(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
}

/// Ready pods become available by time alone: look again when the next one does.
fn next_look(set: &ReplicaSet, members: &[Arc<Pod>], now: Timestamp) -> Action {
    let waits = members.iter().filter(|pod| pod::is_active(pod));
    let waits = waits.filter_map(|pod| pod::available_in(pod, min_ready_seconds(set), now));
    waits.filter(|wait| *wait > Duration::ZERO).min().map_or(Action::Done, Action::After)
}

// === deeds ===

async fn apply(ctx: &Ctx, set: &ReplicaSet, op: Op) -> Result<()> {
    match op {
        Op::Adopt(pod) => adopt(ctx, set, &pod).await,
        Op::Release(pod) => release(ctx, set, &pod).await,
        Op::Create(count) => create_pods(ctx, set, count).await,
        Op::Delete(pods) => delete_pods(ctx, set, pods).await,
    }
}

async fn adopt(ctx: &Ctx, set: &ReplicaSet, pod: &Pod) -> Result<()> {
    let owner = kube::Resource::controller_owner_ref(set, &());
    let mut owner = owner.ok_or_else(|| Error::Invalid("replica set without a uid".into()))?;
    owner.block_owner_deletion = Some(true);
    let patch = json!({"metadata": {"uid": pod.metadata.uid, "ownerReferences": [owner]}});
    ignore_gone(ctx.patch_strategic::<Pod>(&Key::of(pod), &patch).await.map(|_| ()))
}

async fn release(ctx: &Ctx, set: &ReplicaSet, pod: &Pod) -> Result<()> {
    let reference = json!({"$patch": "delete", "uid": uid(set)});
    let patch = json!({"metadata": {"uid": pod.metadata.uid, "ownerReferences": [reference]}});
    ignore_gone(ctx.patch_strategic::<Pod>(&Key::of(pod), &patch).await.map(|_| ()))
}

fn ignore_gone(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

/// Creates in doubling batches; the first batch with a failure is the last.
async fn create_pods(ctx: &Ctx, set: &ReplicaSet, count: usize) -> Result<()> {
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    let template =
        template.ok_or_else(|| Error::Invalid("replica set without a template".into()))?;
    let pod = &pod_from_template(template, set);
    let (mut left, mut batch) = (count, SLOW_START_BATCH);
    while left > 0 {
        let size = batch.min(left);
        let creates = (0..size).map(|_| create_pod(ctx, set, pod));
        futures::future::join_all(creates).await.into_iter().collect::<Result<()>>()?;
        left -= size;
        batch *= 2;
    }
    Ok(())
}

async fn create_pod(ctx: &Ctx, set: &ReplicaSet, pod: &Pod) -> Result<()> {
    match ctx.create(pod).await {
        Ok(pod) => {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            ctx.recorder.normal(set, "SuccessfulCreate", format!("Created pod: {name}"));
            Ok(())
        }
        Err(error) => {
            if !error.namespace_terminating() {
                ctx.recorder.warning(
                    set,
                    "FailedCreate",
                    format!("Error creating: {}", error.message()),
                );
            }
            Err(error)
        }
    }
}

/// The pod that a controller makes from its template: named after the owner, owned by it.
pub fn pod_from_template<K: Object>(template: &PodTemplateSpec, owner: &K) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    let mut reference =
        owner.controller_owner_ref(&()).expect("a stored object has a name and a uid");
    reference.block_owner_deletion = Some(true);
    Pod {
        metadata: ObjectMeta {
            namespace: owner.meta().namespace.clone(),
            generate_name: owner.meta().name.as_ref().map(|name| format!("{name}-")),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![reference]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

async fn delete_pods(ctx: &Ctx, set: &ReplicaSet, pods: Vec<Arc<Pod>>) -> Result<()> {
    let deletes = futures::stream::iter(pods).map(|pod| async move {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match ctx.delete(pod.as_ref()).await {
            Ok(()) => ctx.recorder.normal(set, "SuccessfulDelete", format!("Deleted pod: {name}")),
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                ctx.recorder.warning(
                    set,
                    "FailedDelete",
                    format!("Error deleting: {}", error.message()),
                );
                return Err(error);
            }
        }
        Ok(())
    });
    let outcomes: Vec<Result<()>> = deletes.buffer_unordered(50).collect().await;
    outcomes.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    const SET: &str = "
        metadata: {name: web, namespace: ns, uid: set-1, generation: 2}
        spec:
          replicas: 3
          selector: {matchLabels: {app: web}}
          template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: i}]}}";

    fn set() -> ReplicaSet {
        yaml(SET)
    }

    /// A ready pod of the set, with changes laid over it.
    fn member(name: &str, changes: &str) -> Arc<Pod> {
        let mut pod: Pod = yaml(&format!(
            "{{metadata: {{name: {name}, namespace: ns, uid: {name}, labels: {{app: web}},
               ownerReferences: [{{apiVersion: apps/v1, kind: ReplicaSet, name: web, uid: set-1, controller: true}}]}},
               spec: {{nodeName: n1, containers: []}},
               status: {{phase: Running, conditions: [
                 {{type: Ready, status: 'True', lastTransitionTime: '2026-01-01T00:00:00Z'}}]}}}}"
        ));
        let changes: Pod = yaml(changes);
        k8s_openapi::DeepMerge::merge_from(&mut pod, changes);
        Arc::new(pod)
    }

    fn deleted(ops: Option<Op>) -> Vec<String> {
        match ops {
            Some(Op::Delete(pods)) => {
                pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect()
            }
            other => panic!("expected deletes, got {other:?}"),
        }
    }

    #[test]
    fn missing_pods_are_created_and_finished_ones_do_not_count() {
        let pods = [member("a", "{}"), member("b", "{status: {phase: Failed}}")];
        assert_eq!(scale(&set(), &pods, &pods), Some(Op::Create(2)));
        let pods = [member("a", "{}"), member("b", "{}"), member("c", "{}")];
        assert_eq!(scale(&set(), &pods, &pods), None, "a second look does nothing");
    }

    #[test]
    fn deletion_prefers_the_least_useful_pod() {
        for (spare, why) in [
            (
                "{metadata: {annotations: {controller.kubernetes.io/pod-deletion-cost: '-5'}}}",
                "cheap",
            ),
            ("{status: {phase: Pending}}", "pending"),
            ("{spec: {nodeName: '', containers: []}}", "unscheduled"),
            ("{status: {conditions: [{type: Ready, status: 'False'}]}}", "not ready"),
            (
                "{status: {conditions: [{type: Ready, status: 'True', lastTransitionTime: '2026-01-02T00:00:00Z'}]}}",
                "young",
            ),
        ] {
            let pods =
                [member("a", "{}"), member("b", "{}"), member("spare", spare), member("c", "{}")];
            assert_eq!(deleted(scale(&set(), &pods, &pods)), ["spare"], "{why}");
        }
    }

    #[test]
    fn deletion_prefers_the_node_crowded_with_siblings() {
        let pods = [member("a", "{}"), member("b", "{}"), member("c", "{}"), member("d", "{}")];
        let mut siblings = pods.to_vec();
        let crowded = member("x", "{spec: {nodeName: n2, containers: []}}");
        siblings.extend((0..9).map(|_| crowded.clone()));
        let mut pods = pods.to_vec();
        pods[3] = member("d", "{spec: {nodeName: n2, containers: []}}");
        assert_eq!(deleted(scale(&set(), &pods, &siblings)), ["d"]);
    }

    #[test]
    fn orphans_are_adopted_and_strangers_released() {
        let orphan: Arc<Pod> =
            Arc::new(yaml("{metadata: {name: o, namespace: ns, labels: {app: web}}}"));
        let stranger = member("s", "{metadata: {labels: {app: other}}}");
        let ops = membership(&set(), &[orphan.clone(), stranger.clone(), member("a", "{}")]);
        assert_eq!(ops, [Op::Adopt(orphan.clone()), Op::Release(stranger)]);
        let mut going = set();
        going.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
        assert_eq!(membership(&going, &[orphan]), []);
        assert_eq!(scale(&going, &[], &[]), None);
    }

    #[test]
    fn status_counts_and_min_ready_waits() {
        let mut set = set();
        set.spec.as_mut().unwrap().min_ready_seconds = Some(30);
        let pods = [member("a", "{}"), member("b", "{status: {phase: Succeeded}}")];
        let at = |second| {
            Timestamp::from_second(
                "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap().as_second() + second,
            )
            .unwrap()
        };
        let early = status(&set, &pods, None, at(10));
        assert_eq!(
            (early.replicas, early.ready_replicas, early.available_replicas),
            (1, Some(1), None)
        );
        assert_eq!(next_look(&set, &pods, at(10)), Action::After(Duration::from_secs(20)));
        assert_eq!(status(&set, &pods, None, at(30)).available_replicas, Some(1));
        assert_eq!(next_look(&set, &pods, at(30)), Action::Done);
    }

    #[test]
    fn failure_condition_comes_and_goes() {
        let error = Error::Invalid("quota".into());
        let mut failing = set();
        failing.status = Some(status(&failing, &[], Some(&error), Timestamp::UNIX_EPOCH));
        let condition = &failing.status.as_ref().unwrap().conditions.as_ref().unwrap()[0];
        assert_eq!(
            (condition.reason.as_deref(), condition.message.as_deref()),
            (Some("FailedCreate"), Some("quota"))
        );
        assert_eq!(status(&failing, &[], None, Timestamp::UNIX_EPOCH).conditions, None);
    }

    #[test]
    fn pods_carry_template_and_owner() {
        let set = set();
        let pod = pod_from_template(set.spec.as_ref().unwrap().template.as_ref().unwrap(), &set);
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("web-"));
        let owner = &pod.metadata.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.controller, owner.block_owner_deletion), (Some(true), Some(true)));
    }
}
