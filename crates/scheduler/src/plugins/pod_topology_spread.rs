//! PodTopologySpread: siblings are spread over domains. Declared constraints filter (DoNotSchedule) or score
//! (ScheduleAnyway); pods that declare none are spread over zones and nodes by score.
//!
//! Counterpart: `plugins/podtopologyspread` with the system defaults (zone 5, hostname 3).

use std::collections::HashMap;

use crate::framework::{
    ClusterEvent, Cycle, Filter, MAX_SCORE, Plugin, PreFilter, Reasons, Score, Verdict,
};
use crate::groups::Matching;
use crate::node_info::NodeInfo;
use crate::plugins::taint_toleration;
use crate::pod_info::PodInfo;
use crate::pod_terms::Spread;

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// The score of a node that lacks a key, until it is normalised to zero.
const NO_DOMAIN: i64 = i64::MIN;

pub struct PodTopologySpread;

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        let required: Vec<_> = cycle.pod.spread.iter().filter(|spread| spread.required).collect();
        if required.is_empty() {
            return PreFilter::Skip;
        }
        PreFilter::Check(Box::new(Skews::of(cycle, &required)))
    }

    fn weight(&self) -> i64 {
        2
    }

    fn score<'a>(
        &self,
        cycle: Cycle<'a>,
        feasible: &[&'a NodeInfo],
    ) -> Option<Box<dyn Score + 'a>> {
        let declared = !cycle.pod.spread.is_empty();
        let preferred: Vec<Spread> = match declared {
            true => cycle.pod.spread.iter().filter(|spread| !spread.required).cloned().collect(),
            false => system_defaults(cycle),
        };
        if preferred.is_empty() {
            return None;
        }
        Some(Box::new(Crowding::of(cycle, feasible, preferred, declared)))
    }

    fn may_help(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::PodPlaced(other) | ClusterEvent::PodLeft(other) => {
                other.namespace == pod.namespace
                    && pod.spread.iter().any(|spread| spread.selector.matches(&other.labels))
            }
            ClusterEvent::NodeUpdated { before, now } => {
                before.labels != now.facts.labels || before.taints != now.facts.taints
            }
            ClusterEvent::NodeAdded(_) | ClusterEvent::PodUpdated => true,
            ClusterEvent::NamespaceChanged | ClusterEvent::StorageChanged => false,
        }
    }
}

fn system_defaults(cycle: Cycle<'_>) -> Vec<Spread> {
    let Some(siblings) = cycle.listers.siblings(cycle.pod) else { return Vec::new() };
    vec![
        Spread::system_default(HOSTNAME, 3, siblings.clone()),
        Spread::system_default(ZONE, 5, siblings),
    ]
}

/// Whether the pods of a node count, by the constraint's inclusion policies.
fn included(spread: &Spread, pod: &PodInfo, node: &NodeInfo) -> bool {
    (!spread.honor_affinity || pod.node_affinity.matches(node.name(), &node.facts.labels))
        && (!spread.honor_taints || taint_toleration::untolerated(pod, node).is_none())
}

fn siblings<'a>(cycle: Cycle<'a>, spread: Spread) -> Matching<'a> {
    let namespace = &cycle.pod.namespace;
    cycle.cache.groups().matching(move |group| spread.counts(group, namespace))
}

/// The filter: how full every domain of every required constraint is.
struct Skews<'a>(Vec<Skew<'a>>);

struct Skew<'a> {
    spread: &'a Spread,
    counts: HashMap<&'a str, i64>,
    fewest: i64,
    /// The pod counts as its own sibling once it is placed.
    own: i64,
}

// === impl Skews ===

impl<'a> Skews<'a> {
    /// Only nodes that have the keys of all constraints count for any of them.
    fn of(cycle: Cycle<'a>, required: &[&'a Spread]) -> Skews<'a> {
        let has_keys = |node: &&NodeInfo| {
            required.iter().all(|spread| node.facts.labels.contains_key(&spread.topology_key))
        };
        let nodes: Vec<_> = cycle.cache.nodes().iter().filter(has_keys).collect();
        Skews(required.iter().map(|spread| Skew::of(cycle, spread, &nodes)).collect())
    }
}

impl<'a> Skew<'a> {
    fn of(cycle: Cycle<'a>, spread: &'a Spread, nodes: &[&'a NodeInfo]) -> Skew<'a> {
        let matching = siblings(cycle, spread.clone());
        let mut counts: HashMap<&str, i64> = HashMap::new();
        for node in nodes.iter().filter(|node| included(spread, cycle.pod, node)) {
            let value = node.facts.labels[&spread.topology_key].as_str();
            *counts.entry(value).or_default() += matching.count(&node.groups);
        }
        // With fewer domains than asked for, the missing ones are the emptiest.
        let fewest = match (counts.len() as i64) < spread.min_domains {
            true => 0,
            false => counts.values().copied().min().unwrap_or(0),
        };
        let own = i64::from(spread.selector.matches(&cycle.pod.labels));
        Skew { spread, counts, fewest, own }
    }
}

impl Filter for Skews<'_> {
    fn check(&self, node: &NodeInfo, reasons: &mut Reasons) -> Verdict {
        for skew in &self.0 {
            let Some(value) = node.facts.labels.get(&skew.spread.topology_key) else {
                reasons.add(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                );
                return Verdict::Unresolvable;
            };
            let here = skew.counts.get(value.as_str()).copied().unwrap_or(0);
            if here + skew.own - skew.fewest > skew.spread.max_skew {
                reasons.add("node(s) didn't match pod topology spread constraints");
                return Verdict::Unschedulable;
            }
        }
        Verdict::Fits
    }
}

/// The score: how crowded the node's domains are with siblings, less being better.
struct Crowding<'a> {
    spreads: Vec<CrowdedBy<'a>>,
    /// Declared constraints: a node that lacks a key is worst.
    needs_keys: bool,
}

struct CrowdedBy<'a> {
    spread: Spread,
    matching: Matching<'a>,
    /// Per value of the key; of hostnames each node is asked itself, which saves a pass over the cluster.
    counts: HashMap<&'a str, i64>,
    /// More domains make each of them weigh more.
    weight: f64,
}

// === impl Crowding ===

impl<'a> Crowding<'a> {
    fn of(
        cycle: Cycle<'a>,
        feasible: &[&'a NodeInfo],
        preferred: Vec<Spread>,
        needs_keys: bool,
    ) -> Crowding<'a> {
        let keys: Vec<String> =
            preferred.iter().map(|spread| spread.topology_key.clone()).collect();
        let counts = |node: &&NodeInfo| {
            !needs_keys || keys.iter().all(|key| node.facts.labels.contains_key(key))
        };
        let feasible: Vec<_> = feasible.iter().copied().filter(counts).collect();
        let all = cycle.cache.nodes().iter().filter(counts);
        let by = |spread| CrowdedBy::of(cycle, &feasible, all.clone(), spread);
        Crowding { spreads: preferred.into_iter().map(by).collect(), needs_keys }
    }
}

impl<'a> CrowdedBy<'a> {
    fn of(
        cycle: Cycle<'a>,
        feasible: &[&'a NodeInfo],
        all: impl Iterator<Item = &'a NodeInfo>,
        spread: Spread,
    ) -> CrowdedBy<'a> {
        let matching = siblings(cycle, spread.clone());
        let mut counts = HashMap::new();
        if spread.topology_key != HOSTNAME {
            let values =
                feasible.iter().filter_map(|node| node.facts.labels.get(&spread.topology_key));
            counts.extend(values.map(|value| (value.as_str(), 0)));
        }
        let domains = if spread.topology_key == HOSTNAME { feasible.len() } else { counts.len() };
        if !counts.is_empty() {
            for node in all.filter(|node| included(&spread, cycle.pod, node)) {
                let value = node.facts.labels.get(&spread.topology_key);
                if let Some(count) = value.and_then(|value| counts.get_mut(value.as_str())) {
                    *count += matching.count(&node.groups);
                }
            }
        }
        CrowdedBy { spread, matching, counts, weight: (domains as f64 + 2.0).ln() }
    }

    fn at(&self, node: &NodeInfo) -> Option<f64> {
        let value = node.facts.labels.get(&self.spread.topology_key)?;
        let siblings = match self.spread.topology_key == HOSTNAME {
            true => self.matching.count(&node.groups),
            false => self.counts.get(value.as_str()).copied().unwrap_or(0),
        };
        // A large allowed skew evens out small differences.
        Some(siblings as f64 * self.weight + (self.spread.max_skew - 1) as f64)
    }
}

impl Score for Crowding<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let mut sum = 0.0;
        for by in &self.spreads {
            match by.at(node) {
                Some(crowding) => sum += crowding,
                None if self.needs_keys => return NO_DOMAIN,
                None => {}
            }
        }
        sum.round() as i64
    }

    fn normalise(&self, scores: &mut [i64], _: &[&NodeInfo]) {
        let known = || scores.iter().copied().filter(|score| *score != NO_DOMAIN);
        let (highest, lowest) = (known().max().unwrap_or(0), known().min().unwrap_or(0));
        for score in scores {
            *score = match *score {
                NO_DOMAIN => 0,
                _ if highest == 0 => MAX_SCORE,
                score => MAX_SCORE * (highest + lowest - score) / highest,
            };
        }
    }
}
