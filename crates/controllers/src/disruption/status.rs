//! The status of a PodDisruptionBudget.
//!
//! Budget, pods and demand in -> status, evicted pods that did not go, and when the next is overdue.
//! Counterpart: `updatePdbStatus`, `buildDisruptedPodMap`. Pure.
//! Invariant: an evicted pod counts as gone until it is gone, or until it has had two minutes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::expected::Demand;
use crate::pod;

const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_secs(120);
const DISRUPTION_ALLOWED: &str = "DisruptionAllowed";

#[derive(Debug)]
pub struct Books {
    pub status: PodDisruptionBudgetStatus,
    pub overdue: Vec<Arc<Pod>>,
    pub wait: Option<Duration>,
}

pub fn books(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    demand: &Demand,
    now: Timestamp,
) -> Books {
    let old = budget.status.clone().unwrap_or_default();
    let (mut leaving, mut overdue, mut next) = (BTreeMap::new(), Vec::new(), None);
    for pod in pods.iter().filter(|pod| !pod::is_terminating(pod)) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let Some(evicted) = old.disrupted_pods.as_ref().and_then(|all| all.get(&name)) else {
            continue;
        };
        let due = evicted.0.saturating_add(DELETION_TIMEOUT).unwrap_or(evicted.0);
        if due < now {
            overdue.push(pod.clone());
        } else {
            next = next.map_or(Some(due), |next: Timestamp| Some(next.min(due)));
            leaving.insert(name, evicted.clone());
        }
    }
    let staying = |pod: &&Arc<Pod>| {
        let name = pod.metadata.name.as_ref();
        !pod::is_terminating(pod) && !name.is_some_and(|name| leaving.contains_key(name))
    };
    let healthy = pods.iter().filter(staying).filter(|pod| pod::is_ready(pod)).count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    let spare = (healthy - demand.desired_healthy).max(0);
    let allowed = if demand.expected > 0 { spare } else { 0 };
    let (shown, reason) = match allowed {
        0 => ("False", "InsufficientPods"),
        _ => ("True", "SufficientPods"),
    };
    let generation = budget.metadata.generation;
    let conditions = with_condition(old.conditions, shown, reason, "", generation, now);
    let status = PodDisruptionBudgetStatus {
        conditions: Some(conditions),
        current_healthy: Some(healthy),
        desired_healthy: Some(demand.desired_healthy),
        disrupted_pods: (!leaving.is_empty()).then_some(leaving),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(demand.expected),
        observed_generation: generation,
    };
    // A second later, so that the time has surely passed.
    let wait = next.map(|due| {
        let left = u64::try_from(due.duration_since(now).as_secs()).unwrap_or(0);
        Duration::from_secs(left + 1)
    });
    Books { status, overdue, wait }
}

/// When the demand cannot be told: what was counted stays, and nothing may be disrupted.
pub fn unknown(
    budget: &PodDisruptionBudget,
    why: &str,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let old = budget.status.clone().unwrap_or_default();
    let observed = old.observed_generation;
    let conditions =
        with_condition(old.conditions.clone(), "False", "SyncFailed", why, observed, now);
    PodDisruptionBudgetStatus { conditions: Some(conditions), disruptions_allowed: Some(0), ..old }
}

fn with_condition(
    conditions: Option<Vec<Condition>>,
    status: &str,
    reason: &str,
    message: &str,
    observed_generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions = conditions.unwrap_or_default();
    let mut new = Condition {
        type_: DISRUPTION_ALLOWED.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation,
        last_transition_time: Time(now),
    };
    match conditions.iter_mut().find(|old| old.type_ == DISRUPTION_ALLOWED) {
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time.clone();
            }
            *old = new;
        }
        None => conditions.push(new),
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Dice, yaml};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + second).unwrap()
    }

    fn pod(name: &str, ready: bool) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        Arc::new(yaml(&format!(
            "{{metadata: {{name: {name}}}, status: {{phase: Running, conditions: [{{type: Ready, status: '{ready}'}}]}}}}"
        )))
    }

    fn demand(expected: i32, desired_healthy: i32) -> Demand {
        Demand { expected, desired_healthy, unmanaged: Vec::new() }
    }

    fn budget(disrupted: &str) -> PodDisruptionBudget {
        yaml(&format!(
            "{{metadata: {{name: b, generation: 3}}, status: {{currentHealthy: 0, desiredHealthy: 0, disruptionsAllowed: 0,
               expectedPods: 0, disruptedPods: {disrupted}}}}}"
        ))
    }

    #[test]
    fn what_is_well_beyond_the_demand_may_go() {
        for (expected, desired, ready, allowed) in
            [(3, 2, 3, 1), (3, 2, 2, 0), (3, 2, 1, 0), (3, 0, 3, 3), (0, 0, 0, 0)]
        {
            let pods: Vec<_> = (0..3).map(|n| pod(&format!("p{n}"), n < ready)).collect();
            let books = books(&budget("{}"), &pods, &demand(expected, desired), at(0));
            assert_eq!(
                books.status.disruptions_allowed,
                Some(allowed),
                "{expected} {desired} {ready}"
            );
            let condition = &books.status.conditions.unwrap()[0];
            let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
            assert_eq!(condition.reason, reason);
        }
    }

    #[test]
    fn an_evicted_pod_counts_as_gone_for_two_minutes() {
        let pods = [pod("a", true), pod("b", true)];
        let budget = budget(&format!("{{a: '{}', gone: '{}'}}", at(0), at(0)));
        let early = books(&budget, &pods, &demand(2, 1), at(30));
        assert_eq!((early.status.current_healthy, early.overdue.len()), (Some(1), 0));
        assert_eq!(early.status.disrupted_pods.unwrap().len(), 1);
        assert_eq!(early.wait, Some(Duration::from_secs(91)));
        let late = books(&budget, &pods, &demand(2, 1), at(121));
        assert_eq!((late.status.current_healthy, late.overdue.len()), (Some(2), 1));
        assert_eq!((late.status.disrupted_pods, late.wait), (None, None));
    }

    #[test]
    fn an_unknown_demand_lets_nothing_go_and_says_why() {
        let mut known = budget("{}");
        known.status.as_mut().unwrap().disruptions_allowed = Some(2);
        let status = unknown(&known, "found no controllers", at(0));
        assert_eq!((status.disruptions_allowed, status.observed_generation), (Some(0), None));
        let condition = &status.conditions.unwrap()[0];
        assert_eq!(
            (condition.reason.as_str(), condition.message.as_str()),
            ("SyncFailed", "found no controllers")
        );
    }

    #[test]
    fn books_kept_twice_are_the_same() {
        let mut dice = Dice::new(7);
        for _ in 0..500 {
            let names = ["a", "b", "c", "d"];
            let pods: Vec<_> = names.iter().map(|name| pod(name, dice.below(2) == 0)).collect();
            let evicted = names.map(|name| format!("{name}: '{}'", at(dice.below(200) as i64)));
            let mut budget = budget(&format!("{{{}}}", evicted[..dice.below(5)].join(", ")));
            let demand = demand(dice.below(5) as i32, dice.below(5) as i32);
            let now = at(150 + dice.below(100) as i64);
            budget.status = Some(books(&budget, &pods, &demand, now).status);
            let again = books(&budget, &pods, &demand, now);
            assert_eq!(budget.status, Some(again.status));
        }
    }
}
