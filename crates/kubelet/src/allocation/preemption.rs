//! Who makes room for a critical pod that does not fit.
//!
//! Consumes the pods that may go with what they were granted, and what is lacking; emits the few whose end suffices.
//! Counterpart: `pkg/kubelet/preemption`.
//! Invariant: pure; nobody goes whose class could be spared, and the guaranteed are spared before the burstable, those
//! before the best-effort.

use std::fmt;

use skiff_api::scheduling::resources::Resources;

use crate::container::resources::QosClass;

/// A pod that may go.
#[derive(Debug)]
pub struct Candidate<'a> {
    pub uid: &'a str,
    pub qos: QosClass,
    pub requests: &'a Resources,
}

/// So much of a resource is lacking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub resource: String,
    pub quantity: i64,
}

/// What all pods that may go do not make up for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct NotEnough(Vec<Need>);

/// The pods whose end makes up for the needs.
pub fn choose(candidates: Vec<Candidate<'_>>, needs: &[Need]) -> Result<Vec<String>, NotEnough> {
    let unmet = rest(needs, &candidates);
    if !unmet.is_empty() {
        return Err(NotEnough(unmet));
    }
    let (best_effort, others): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|one| one.qos == QosClass::BestEffort);
    let (burstable, guaranteed): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|one| one.qos == QosClass::Burstable);
    // Of each class only what is left when all of the lesser classes and the chosen of the greater went.
    let after = rest(&rest(needs, &best_effort), &burstable);
    let guaranteed = closest(guaranteed, after);
    let after = rest(&rest(needs, &best_effort), &guaranteed);
    let burstable = closest(burstable, after);
    let after = rest(&rest(needs, &burstable), &guaranteed);
    let best_effort = closest(best_effort, after);
    let chosen = best_effort.into_iter().chain(burstable).chain(guaranteed);
    Ok(chosen.map(|one| one.uid.to_owned()).collect())
}

/// One after another the pod that leaves the least to be done; of equals the smaller.
fn closest<'a>(mut pods: Vec<Candidate<'a>>, mut needs: Vec<Need>) -> Vec<Candidate<'a>> {
    let mut chosen = Vec::new();
    while !needs.is_empty() {
        let size = |one: &Candidate<'_>| (one.requests.memory, one.requests.milli_cpu);
        let best = pods.iter().enumerate().min_by(|(_, a), (_, b)| {
            distance(&needs, a).total_cmp(&distance(&needs, b)).then(size(a).cmp(&size(b)))
        });
        let Some(at) = best.map(|(at, _)| at) else { break };
        let pod = pods.swap_remove(at);
        needs = rest(&needs, std::slice::from_ref(&pod));
        chosen.push(pod);
    }
    chosen
}

/// Every need weighs the same, however large its numbers are.
fn distance(needs: &[Need], pod: &Candidate<'_>) -> f64 {
    let left = needs.iter().map(|need| {
        let left = (need.quantity - amount(pod.requests, &need.resource)).max(0);
        (left as f64 / need.quantity as f64).powi(2)
    });
    left.sum()
}

/// What the end of these pods leaves to be done.
fn rest(needs: &[Need], pods: &[Candidate<'_>]) -> Vec<Need> {
    let left = needs.iter().filter_map(|need| {
        let freed: i64 = pods.iter().map(|pod| amount(pod.requests, &need.resource)).sum();
        let quantity = need.quantity - freed;
        (quantity > 0).then(|| Need { resource: need.resource.clone(), quantity })
    });
    left.collect()
}

fn amount(requests: &Resources, resource: &str) -> i64 {
    match resource {
        "pods" => requests.pods,
        "cpu" => requests.milli_cpu,
        "memory" => requests.memory,
        "ephemeral-storage" => requests.ephemeral_storage,
        name => requests.scalar(name),
    }
}

// === impl NotEnough ===

impl fmt::Display for NotEnough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no set of running pods found to reclaim resources: [")?;
        for Need { resource, quantity } in &self.0 {
            write!(f, "(res: {resource}, q: {quantity}), ")?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use QosClass::{BestEffort, Burstable, Guaranteed};

    fn check(
        pods: &[(&str, QosClass, i64, i64)],
        needs: &[(&str, i64)],
        expected: Result<&[&str], &str>,
    ) {
        let requests: Vec<Resources> = pods
            .iter()
            .map(|(.., milli_cpu, memory)| Resources {
                milli_cpu: *milli_cpu,
                memory: *memory,
                pods: 1,
                ..Resources::default()
            })
            .collect();
        let candidates = pods.iter().zip(&requests);
        let candidates =
            candidates.map(|((uid, qos, ..), requests)| Candidate { uid, qos: *qos, requests });
        let needs: Vec<Need> = needs
            .iter()
            .map(|(name, quantity)| Need { resource: (*name).to_owned(), quantity: *quantity })
            .collect();
        let chosen = choose(candidates.collect(), &needs).map_err(|error| error.to_string());
        let expected =
            expected.map(|uids| uids.iter().map(|uid| (*uid).to_owned()).collect::<Vec<_>>());
        assert_eq!(chosen, expected.map_err(str::to_owned), "{pods:?} {needs:?}");
    }

    #[test]
    fn the_lesser_class_goes_as_far_as_it_suffices() {
        let pods = [
            ("best", BestEffort, 0, 0),
            ("burst", Burstable, 100, 100),
            ("guar", Guaranteed, 100, 100),
        ];
        check(&pods, &[("pods", 1)], Ok(&["best"]));
        check(&pods, &[("cpu", 100)], Ok(&["burst"]));
        check(&pods, &[("cpu", 150)], Ok(&["burst", "guar"]));
        check(&pods, &[("pods", 3)], Ok(&["best", "burst", "guar"]));
        check(&pods, &[], Ok(&[]));
    }

    #[test]
    fn of_a_class_few_and_small_pods_go() {
        let pods = [
            ("small", Burstable, 100, 100),
            ("fitting", Burstable, 300, 300),
            ("large", Burstable, 900, 900),
            ("wide", Burstable, 300, 900),
        ];
        check(&pods, &[("cpu", 300)], Ok(&["fitting"]));
        check(&pods, &[("cpu", 300), ("memory", 400)], Ok(&["wide"]));
        check(&pods, &[("cpu", 1000)], Ok(&["large", "small"]));
    }

    #[test]
    fn nobody_goes_in_vain() {
        let told = "no set of running pods found to reclaim resources: [(res: cpu, q: 50), ]";
        check(&[("burst", Burstable, 100, 100)], &[("cpu", 150), ("memory", 50)], Err(told));
    }
}
