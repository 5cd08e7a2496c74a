//! How many pods to make, or which to lose.
//!
//! The set, its pods and those of its siblings in -> at most one `Scale` out.
//! Counterpart: `manageReplicas` and `ActivePodsWithRanks`. Pure.
//! Invariant: pods that end or have ended count as nothing, and a set on its way out is left alone.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::kinds::Replicated;
use crate::pod;
use crate::pod_control::BURST;

#[derive(Debug, PartialEq)]
pub enum Scale {
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

/// Create what is missing or delete what is too much, within one burst. Only who must go depends on the siblings.
pub fn scale<K: Replicated>(
    set: &K,
    members: &[Arc<Pod>],
    siblings: impl FnOnce() -> Vec<Arc<Pod>>,
) -> Option<Scale> {
    if set.meta().deletion_timestamp.is_some() {
        return None;
    }
    let active = || members.iter().filter(|pod| pod::is_active(pod));
    let (have, wanted) = (active().count(), replicas(set));
    match have.cmp(&wanted) {
        Ordering::Less => Some(Scale::Create((wanted - have).min(BURST))),
        Ordering::Equal => None,
        Ordering::Greater => {
            let active = active().cloned().collect();
            Some(Scale::Delete(first_to_go(active, &siblings(), (have - wanted).min(BURST))))
        }
    }
}

pub fn replicas<K: Replicated>(set: &K) -> usize {
    usize::try_from(set.replicas().unwrap_or(1)).unwrap_or(0)
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

/// Smaller goes first: unscheduled, then pending, then not ready, then cheap, then crowded, then young.
fn deletion_rank(pod: &Pod, on_node: &HashMap<&str, usize>) -> impl Ord + use<> {
    let crowd = pod::node_name(pod).and_then(|node| on_node.get(node)).copied().unwrap_or(0);
    (pod::progress(pod), deletion_cost(pod), Reverse(crowd), pod::record(pod))
}

fn deletion_cost(pod: &Pod) -> i64 {
    let annotations = pod.metadata.annotations.as_ref();
    let cost = annotations.and_then(|all| all.get("controller.kubernetes.io/pod-deletion-cost"));
    cost.and_then(|cost| cost.parse::<i32>().ok()).map_or(0, i64::from)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{member, set};
    use super::*;
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn deleted(ops: Option<Scale>) -> Vec<String> {
        match ops {
            Some(Scale::Delete(pods)) => {
                pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect()
            }
            other => panic!("expected deletes, got {other:?}"),
        }
    }

    #[test]
    fn missing_pods_are_created_and_finished_ones_do_not_count() {
        let pods = [member("a", "{}"), member("b", "{status: {phase: Failed}}")];
        assert_eq!(scale(&set(), &pods, || pods.to_vec()), Some(Scale::Create(2)));
        let pods = [member("a", "{}"), member("b", "{}"), member("c", "{}")];
        assert_eq!(scale(&set(), &pods, || pods.to_vec()), None, "a second look does nothing");
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
            assert_eq!(deleted(scale(&set(), &pods, || pods.to_vec())), ["spare"], "{why}");
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
        assert_eq!(deleted(scale(&set(), &pods, || siblings)), ["d"]);
    }

    #[test]
    fn a_set_on_its_way_out_makes_nothing() {
        let mut going = set();
        going.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(scale(&going, &[], Vec::new), None);
    }
}
