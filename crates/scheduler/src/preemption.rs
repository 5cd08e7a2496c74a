//! What can be done for a pod that fits nowhere: which pods of lower priority, on which node, would have to go for it.
//!
//! The filters and the nodes they turned down in, a node with its victims out, or the reason why there is none. A dry
//! run takes every less important pod off a node and lets as many as possible stay, the ones guarded by a disruption
//! budget first. Counterpart: `plugins/defaultpreemption` and `framework/preemption`.
//! Invariant: nothing is evicted here; a victim is less important than the pod it makes room for.

use std::cmp::Reverse;
use std::sync::Arc;

use jiff::Timestamp;

use crate::cycle::Chance;
use crate::filters::Filters;
use crate::framework::{Cycle, Reasons};
use crate::listers::Budget;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

/// What becomes of the node that a pod was promised.
#[derive(Clone, Debug, Default)]
pub enum Nomination {
    /// Nothing is known that would change it.
    #[default]
    Keep,
    Clear,
    /// Promised once the victims are gone.
    Set {
        node: String,
        victims: Vec<Arc<PodInfo>>,
    },
    /// Extenders want to agree to the victims first.
    Propose(Vec<Candidate>),
}

/// A node that would do without some of its pods.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub node: String,
    /// The most important first; never empty.
    pub victims: Vec<Arc<PodInfo>>,
    /// How many of them go against their disruption budget.
    pub violations: usize,
}

/// What came of trying: the promise, and what to add to the message about the pod.
pub struct Attempt {
    pub nomination: Nomination,
    pub message: String,
}

/// `resolvable` are the nodes that a filter turned down for what is on them; `hopeless` says that the promised node was
/// turned down for good.
pub fn preempt<'a>(
    cycle: Cycle<'a>,
    filters: &mut Filters<'a>,
    resolvable: &[&'a NodeInfo],
    chance: &mut Chance,
) -> Attempt {
    if let Some(reason) = ineligible(cycle, resolvable) {
        return Attempt { nomination: Nomination::Keep, message: reason.into() };
    }
    let mut reasons = Reasons::default();
    let (candidates, asked) = dry_run(cycle, filters, resolvable, chance, &mut reasons);
    let nomination = match cycle.extension.victims && !candidates.is_empty() {
        true => Nomination::Propose(candidates),
        false => choose(candidates),
    };
    let message = match nomination {
        Nomination::Clear => hopeless(cycle, reasons, asked),
        _ => String::new(),
    };
    Attempt { nomination, message }
}

/// The promise of the best candidate's node, if there is one.
pub fn choose(candidates: Vec<Candidate>) -> Nomination {
    match best(candidates) {
        Some(Candidate { node, victims, .. }) => Nomination::Set { node, victims },
        None => Nomination::Clear,
    }
}

/// Why no node would do, whatever was evicted.
pub fn hopeless(cycle: Cycle<'_>, mut reasons: Reasons, asked: usize) -> String {
    let nodes = cycle.cache.len();
    if nodes > asked {
        reasons.add_many("Preemption is not helpful for scheduling", nodes - asked);
    }
    format!("0/{nodes} nodes are available: {}.", reasons.sentence())
}

/// Why the pod may not preempt, or not again yet.
pub fn ineligible(cycle: Cycle<'_>, resolvable: &[&NodeInfo]) -> Option<&'static str> {
    if cycle.pod.never_preempts {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let promised = cycle.nominations.node_of(&cycle.pod.uid)?;
    // Turned down for good: there is nothing to wait for on that node.
    let node = resolvable.iter().find(|node| node.name() == promised)?;
    let leaving = |other: &Arc<PodInfo>| other.preempted && lower(other, cycle.pod);
    let waits = node.pods.iter().any(leaving);
    waits.then_some("not eligible due to a terminating pod on the nominated node.")
}

fn lower(other: &PodInfo, pod: &PodInfo) -> bool {
    other.priority < pod.priority
}

/// Tries nodes from a random one on until enough candidates are known, one of which keeps to all budgets. Answers also
/// how many nodes were asked in vain.
fn dry_run<'a>(
    cycle: Cycle<'a>,
    filters: &mut Filters<'a>,
    resolvable: &[&'a NodeInfo],
    chance: &mut Chance,
    reasons: &mut Reasons,
) -> (Vec<Candidate>, usize) {
    let wanted = candidates_to_find(cycle, resolvable.len());
    let start = chance.below(resolvable.len().max(1) as u64) as usize;
    let (mut candidates, mut harmless, mut refused) = (Vec::new(), false, 0);
    for at in 0..resolvable.len() {
        let node = resolvable[(start + at) % resolvable.len()];
        match victims_on(cycle, filters, node, reasons) {
            Some(candidate) => {
                harmless |= candidate.violations == 0;
                candidates.push(candidate);
                if harmless && candidates.len() >= wanted {
                    break;
                }
            }
            None => refused += 1,
        }
    }
    (candidates, refused)
}

fn candidates_to_find(cycle: Cycle<'_>, nodes: usize) -> usize {
    let args = &cycle.profile.args.preemption;
    let share = nodes * args.min_candidate_nodes_percentage / 100;
    share.max(args.min_candidate_nodes_absolute).min(nodes)
}

/// The fewest pods to take off the node, or nothing if that would not help; then the reasons say why.
fn victims_on<'a>(
    cycle: Cycle<'a>,
    filters: &mut Filters<'a>,
    node: &'a NodeInfo,
    reasons: &mut Reasons,
) -> Option<Candidate> {
    let mut lesser: Vec<_> =
        node.pods.iter().filter(|pod| lower(pod, cycle.pod)).cloned().collect();
    if lesser.is_empty() {
        reasons.add("No preemption victims found for incoming pod");
        return None;
    }
    lesser.sort_by_key(importance);
    let mut without = node.clone();
    lesser.iter().for_each(|pod| filters.remove(&mut without, pod));
    let candidate = match filters.check(&without, reasons) {
        Ok(()) => Some(reprieve(cycle, filters, &mut without, lesser.clone())),
        Err(_) => None,
    };
    // What stayed was put back already.
    let gone = candidate.as_ref().map_or(lesser.as_slice(), |found| &found.victims);
    gone.iter().for_each(|pod| filters.put_back(node, pod));
    candidate
}

/// Lets the most important pods stay as long as there is room, those guarded by a budget before all others.
fn reprieve<'a>(
    cycle: Cycle<'a>,
    filters: &mut Filters<'a>,
    node: &mut NodeInfo,
    lesser: Vec<Arc<PodInfo>>,
) -> Candidate {
    let guarded = violating(cycle, &lesser);
    let mut victims = Vec::new();
    let mut violations = 0;
    let order = [true, false].into_iter().flat_map(|first| {
        let chosen = lesser.iter().zip(&guarded).filter(move |(_, guarded)| **guarded == first);
        chosen.map(move |(pod, _)| (pod, first))
    });
    for (pod, guarded) in order {
        filters.add(node, pod.clone());
        if filters.check(node, &mut Reasons::default()).is_err() {
            filters.remove(node, pod);
            victims.push(pod.clone());
            violations += usize::from(guarded);
        }
    }
    victims.sort_by_key(importance);
    Candidate { node: node.name().to_owned(), victims, violations }
}

/// The most important first: by priority, then by how long it runs.
fn importance(pod: &Arc<PodInfo>) -> (Reverse<i32>, Timestamp) {
    (Reverse(pod.priority), pod.started.unwrap_or(Timestamp::MAX))
}

/// Which of the pods would go against a disruption budget if they all went, in order.
fn violating(cycle: Cycle<'_>, pods: &[Arc<PodInfo>]) -> Vec<bool> {
    let mut left: Vec<(&str, &Budget, i64)> = Vec::new();
    for ((namespace, _), budget) in cycle.listers.budgets.iter() {
        left.push((namespace, budget, budget.allowed));
    }
    let violates = |pod: &Arc<PodInfo>| {
        let mut violated = false;
        for (namespace, budget, allowed) in &mut left {
            if *namespace == pod.namespace && budget.guards(&pod.name, &pod.labels) {
                *allowed -= 1;
                violated |= *allowed < 0;
            }
        }
        violated
    };
    pods.iter().map(violates).collect()
}

/// The candidate that does the least harm; among equals the first.
fn best(candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.into_iter().min_by_key(harm)
}

/// Broken budgets, then the highest priority among the victims, then their sum, their number, and how long the most
/// important of them have been running.
fn harm(candidate: &Candidate) -> (usize, i32, i128, usize, Reverse<Timestamp>) {
    let victims = &candidate.victims;
    let highest = victims.first().map_or(i32::MIN, |pod| pod.priority);
    // Counted from the lowest priority there is, so that more victims never make a smaller sum.
    let sum = victims.iter().map(|pod| i128::from(pod.priority) - i128::from(i32::MIN)).sum();
    let started = victims.iter().filter(|pod| pod.priority == highest).map(|pod| pod.started);
    let earliest = started.map(|started| started.unwrap_or(Timestamp::MAX)).min();
    let earliest = earliest.unwrap_or(Timestamp::MAX);
    (candidate.violations, highest, sum, victims.len(), Reverse(earliest))
}

#[cfg(test)]
mod tests {
    use crate::cycle::{Chance, Outcome, Scheduling};
    use crate::preemption::Nomination;
    use crate::testing::stage;

    /// Which node is promised for which victims, or what is said.
    #[track_caller]
    fn check(scene: &str, expected: &str) {
        let stage = stage(scene);
        let mut scheduling = Scheduling { start: 0, chance: Chance(7) };
        let outcome = scheduling.schedule(stage.cycle());
        let said = match outcome {
            Outcome::Placed { node } => format!("placed on {node}"),
            Outcome::ToBeJudged { nodes } => panic!("nobody asked for {nodes:?}"),
            Outcome::Unschedulable { message, nomination, .. } => match nomination {
                Nomination::Keep | Nomination::Clear => message,
                Nomination::Propose(candidates) => panic!("nobody asked for {candidates:?}"),
                Nomination::Set { node, victims } => {
                    let victims: Vec<_> = victims.iter().map(|pod| &*pod.name).collect();
                    format!("{node}: {}", victims.join(" "))
                }
            },
        };
        assert_eq!(said, expected);
    }

    fn nodes(names: &[&str]) -> String {
        let node = |name: &&str| {
            format!(
                "- {{metadata: {{name: {name}, labels: {{kubernetes.io/hostname: {name}, zone: z}}}}, \
                 status: {{allocatable: {{cpu: '4', memory: 1Gi, pods: '10'}}}}}}"
            )
        };
        format!("nodes:\n{}\n", names.iter().map(node).collect::<Vec<_>>().join("\n"))
    }

    fn pod(name: &str, node: &str, priority: i32, cpu: &str, more: &str) -> String {
        format!(
            "{{metadata: {{name: {name}, labels: {{app: {name}}}}}, spec: {{nodeName: '{node}', \
             priority: {priority}, containers: [{{name: c, resources: {{requests: {{cpu: '{cpu}'}}}}}}]{more}}}}}"
        )
    }

    fn placed(pods: &[String]) -> String {
        format!("placed: [{}]\n", pods.join(", "))
    }

    fn incoming(cpu: &str, more: &str) -> String {
        format!("pod: {}\n", pod("incoming", "", 10, cpu, more))
    }

    #[test]
    fn as_few_as_possible_go_and_the_least_important() {
        let pods = [("p1", 1, "1"), ("p5", 5, "1"), ("p3", 3, "2")];
        let pods = pods.map(|(name, priority, cpu)| pod(name, "a", priority, cpu, ""));
        check(&(nodes(&["a"]) + &placed(&pods) + &incoming("1", "")), "a: p1");
        check(&(nodes(&["a"]) + &placed(&pods) + &incoming("3", "")), "a: p3 p1");
    }

    #[test]
    fn the_node_with_the_lowest_victim_is_chosen_before_the_one_with_fewer() {
        let pods = [
            pod("big", "a", 5, "4", ""),
            pod("small-1", "b", 1, "2", ""),
            pod("small-2", "b", 2, "2", ""),
        ];
        check(&(nodes(&["a", "b"]) + &placed(&pods) + &incoming("4", "")), "b: small-2 small-1");
    }

    #[test]
    fn among_equals_the_node_whose_victim_started_last_is_chosen() {
        let started = |name: &str, node: &str, at: &str| {
            let pod = pod(name, node, 1, "4", "");
            format!("{}, status: {{startTime: '{at}'}}}}", &pod[..pod.len() - 1])
        };
        let pods = [
            started("old", "a", "2026-01-01T00:00:00Z"),
            started("new", "b", "2026-01-02T00:00:00Z"),
        ];
        check(&(nodes(&["a", "b"]) + &placed(&pods) + &incoming("4", "")), "b: new");
    }

    #[test]
    fn a_budget_is_kept_where_another_victim_does() {
        let budget = |allowed: i32| {
            format!(
                "budgets: [{{metadata: {{name: b}}, spec: {{selector: {{matchLabels: {{app: guarded}}}}}}, \
                 status: {{disruptionsAllowed: {allowed}, currentHealthy: 1, desiredHealthy: 1, expectedPods: 1}}}}]\n"
            )
        };
        let pods = [pod("guarded", "a", 1, "2", ""), pod("free", "a", 2, "2", "")];
        let scene =
            |allowed| nodes(&["a"]) + &placed(&pods) + &incoming("2", "") + &budget(allowed);
        check(&scene(0), "a: free");
        check(&scene(1), "a: guarded");
        let alone = nodes(&["a"]) + &placed(&pods[..1]) + &incoming("4", "") + &budget(0);
        check(&alone, "a: guarded");
    }

    #[test]
    fn nothing_helps_against_a_selector_or_a_node_that_is_too_small() {
        let pods = [pod("p1", "a", 1, "4", "")];
        let selector = ", nodeSelector: {zone: other}";
        check(
            &(nodes(&["a"]) + &placed(&pods) + &incoming("1", selector)),
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. no new claims to \
             deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
        );
        check(
            &(nodes(&["a"]) + &placed(&pods) + &incoming("5", "")),
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are \
             available: 1 Preemption is not helpful for scheduling.",
        );
    }

    #[test]
    fn what_the_more_important_hold_stays_out_of_reach() {
        let pods = [pod("high", "a", 20, "3", ""), pod("low", "a", 1, "1", "")];
        check(
            &(nodes(&["a"]) + &placed(&pods) + &incoming("2", "")),
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are \
             available: 1 Insufficient cpu.",
        );
    }

    #[test]
    fn a_pod_may_be_told_never_to_preempt() {
        let pods = [pod("p1", "a", 1, "4", "")];
        check(
            &(nodes(&["a"]) + &placed(&pods) + &incoming("1", ", preemptionPolicy: Never")),
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due \
             to preemptionPolicy=Never.",
        );
    }

    #[test]
    fn no_more_is_evicted_while_victims_are_leaving() {
        let leaving = "{metadata: {name: leaving, deletionTimestamp: '2026-01-01T00:00:00Z'}, spec: {nodeName: a, \
            priority: 1, containers: [{name: c, resources: {requests: {cpu: '4'}}}]}, status: {conditions: [{type: \
            DisruptionTarget, status: 'True', reason: PreemptionByScheduler}]}}";
        let promised = "nominated: [{metadata: {name: incoming}, spec: {priority: 10, containers: []}, status: {nominatedNodeName: a}}]\n";
        let mut stage =
            stage(&(nodes(&["a"]) + &placed(&[leaving.into()]) + &incoming("1", "") + promised));
        stage.nominations.set(stage.pod.clone(), "a");
        let outcome = Scheduling { start: 0, chance: Chance(7) }.schedule(stage.cycle());
        let Outcome::Unschedulable { message, nomination: Nomination::Keep, .. } = outcome else {
            panic!("{outcome:?}")
        };
        assert!(message.ends_with("not eligible due to a terminating pod on the nominated node."));
    }

    #[test]
    fn what_was_cleared_for_a_pod_is_not_taken_by_a_lesser_one() {
        let promised = |priority: i32| {
            let pod = pod("promised", "", priority, "3", "");
            format!("nominated: [{}, status: {{nominatedNodeName: a}}}}]\n", &pod[..pod.len() - 1])
        };
        let scene = |priority| nodes(&["a"]) + &incoming("2", "") + &promised(priority);
        check(
            &scene(10),
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are \
             available: 1 No preemption victims found for incoming pod.",
        );
        check(&scene(9), "placed on a");
    }

    #[test]
    fn victims_that_keep_the_pod_away_by_anti_affinity_go() {
        let anti = ", affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: zone, \
            labelSelector: {matchLabels: {app: rival}}}]}}";
        let pods = [pod("rival", "a", 1, "1", ""), pod("other", "a", 1, "1", "")];
        check(&(nodes(&["a"]) + &placed(&pods) + &incoming("1", anti)), "a: rival");
    }

    #[test]
    fn victims_that_crowd_a_domain_go() {
        let spread = ", topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, \
            whenUnsatisfiable: DoNotSchedule, labelSelector: {matchExpressions: [{key: app, operator: Exists}]}}]";
        let pods =
            [pod("x1", "a", 1, "1", ""), pod("x2", "a", 2, "1", ""), pod("high", "b", 20, "4", "")];
        check(&(nodes(&["a", "b"]) + &placed(&pods) + &incoming("1", spread)), "a: x1");
    }
}
