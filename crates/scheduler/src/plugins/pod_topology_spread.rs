//! PodTopologySpread: siblings are spread over domains. Declared constraints filter (DoNotSchedule) or score
//! (ScheduleAnyway); pods that declare none are spread over zones and nodes by score.
//!
//! Counterpart: `plugins/podtopologyspread` with the system defaults (zone 5, hostname 3).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::framework::{
    ClusterEvent, Cycle, EventKind, Filter, MAX_SCORE, Plugin, PreFilter, Reasons, Score, Verdict,
};
use crate::groups::Matching;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::pod_terms::Spread;
use crate::profile::SpreadArgs;
use crate::zoning::{Rules, Zoning};

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// What is preferred for pods that declare nothing: other nodes and zones than their siblings'.
const SYSTEM_DEFAULTS: [(&str, i64); 2] = [(HOSTNAME, 3), (ZONE, 5)];

/// The score of a node that lacks a key, until it is normalised to zero.
const NO_DOMAIN: i64 = i64::MIN;

pub struct PodTopologySpread;

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        let required: Vec<_> = constraints(cycle).into_iter().filter(|s| s.required).collect();
        if required.is_empty() {
            return PreFilter::Skip;
        }
        PreFilter::Check(Box::new(Skews::of(cycle, required)))
    }

    fn weight(&self) -> i64 {
        2
    }

    fn score<'a>(
        &self,
        cycle: Cycle<'a>,
        feasible: &[&'a NodeInfo],
    ) -> Option<Box<dyn Score + 'a>> {
        let preferred: Vec<_> = constraints(cycle).into_iter().filter(|s| !s.required).collect();
        if preferred.is_empty() {
            return None;
        }
        let system = matches!(cycle.profile.args.spread, SpreadArgs::System);
        let needs_keys = !cycle.pod.spread.is_empty() || !system;
        Some(Box::new(Crowding::of(cycle, feasible, preferred, needs_keys)))
    }

    fn hears(&self) -> &'static [EventKind] {
        &[
            EventKind::NodeAdded,
            EventKind::NodeUpdated,
            EventKind::PodPlaced,
            EventKind::PodLeft,
            EventKind::PodTerminating,
            EventKind::PodUpdated,
        ]
    }

    fn may_help(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::PodPlaced(other)
            | ClusterEvent::PodLeft(other)
            | ClusterEvent::PodTerminating(other) => {
                other.namespace == pod.namespace
                    && pod.spread.iter().any(|spread| spread.selector.matches(&other.labels))
            }
            ClusterEvent::NodeUpdated { before, now } => {
                before.labels != now.facts.labels || before.taints != now.facts.taints
            }
            ClusterEvent::NodeAdded(_) | ClusterEvent::PodUpdated => true,
            ClusterEvent::Changed(_) | ClusterEvent::ResourceClaim { .. } => false,
        }
    }
}

/// The pod's own constraints, or the profile's for pods that declare none.
fn constraints(cycle: Cycle<'_>) -> Vec<Spread> {
    if !cycle.pod.spread.is_empty() {
        return cycle.pod.spread.clone();
    }
    let by_default = match &cycle.profile.args.spread {
        SpreadArgs::System => {
            SYSTEM_DEFAULTS.map(|(key, skew)| Spread::preferred(key, skew)).into()
        }
        SpreadArgs::List(list) => list.clone(),
    };
    if by_default.is_empty() {
        return Vec::new();
    }
    let Some(siblings) = cycle.listers.siblings(cycle.pod) else { return Vec::new() };
    by_default.into_iter().map(|spread| Spread { selector: siblings.clone(), ..spread }).collect()
}

fn siblings<'a>(cycle: Cycle<'a>, spread: Spread) -> Matching<'a> {
    let namespace = &cycle.pod.namespace;
    cycle.cache.groups().matching(move |group| spread.counts(group, namespace))
}

/// How many siblings of the pod every domain has.
fn siblings_by_domain(cycle: Cycle<'_>, spread: &Spread, zoning: &Zoning) -> Vec<i64> {
    let mut counts = vec![0; zoning.len()];
    for (place, pods) in siblings(cycle, spread.clone()).places() {
        if let Some(domain) = zoning.counted(place) {
            counts[domain] += pods;
        }
    }
    counts
}

/// The filter: how full every domain of every required constraint is.
struct Skews<'a> {
    cycle: Cycle<'a>,
    skews: Vec<Skew>,
}

struct Skew {
    spread: Spread,
    zoning: Arc<Zoning>,
    /// By domain.
    counts: Vec<i64>,
    /// How many domains have each count: the least of them is asked for at every node.
    domains: BTreeMap<i64, usize>,
    /// The pod counts as its own sibling once it is placed.
    own: i64,
}

// === impl Skews ===

impl<'a> Skews<'a> {
    /// Only nodes that have the keys of all constraints count for any of them.
    fn of(cycle: Cycle<'a>, required: Vec<Spread>) -> Skews<'a> {
        let keys: Vec<String> = required.iter().map(|spread| spread.topology_key.clone()).collect();
        let skews = required.into_iter().map(|spread| Skew::of(cycle, spread, &keys)).collect();
        Skews { cycle, skews }
    }
}

impl Skew {
    fn of(cycle: Cycle<'_>, spread: Spread, keys: &[String]) -> Skew {
        let zoning = cycle.cache.zoning(Rules::of(&spread, keys.to_vec(), cycle.pod));
        let counts = siblings_by_domain(cycle, &spread, &zoning);
        let mut domains = BTreeMap::new();
        counts.iter().for_each(|count| *domains.entry(*count).or_insert(0) += 1);
        let own = i64::from(spread.selector.matches(&cycle.pod.labels));
        Skew { spread, zoning, counts, domains, own }
    }

    /// With fewer domains than asked for, the missing ones are the emptiest.
    fn fewest(&self) -> i64 {
        match (self.zoning.len() as i64) < self.spread.min_domains {
            true => 0,
            false => self.domains.first_key_value().map_or(0, |(count, _)| *count),
        }
    }

    fn shift(&mut self, domain: usize, by: i64) {
        let Some(count) = self.counts.get_mut(domain) else { return };
        if let Some(domains) = self.domains.get_mut(count) {
            *domains -= 1;
            if *domains == 0 {
                self.domains.remove(count);
            }
        }
        *count += by;
        *self.domains.entry(*count).or_insert(0) += 1;
    }
}

impl Filter for Skews<'_> {
    fn check(&self, node: &NodeInfo, reasons: &mut Reasons) -> Verdict {
        for skew in &self.skews {
            if !node.facts.labels.contains_key(&skew.spread.topology_key) {
                reasons.add(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                );
                return Verdict::Unresolvable;
            }
            let here = skew.zoning.domain(node).map_or(0, |domain| skew.counts[domain]);
            if here + skew.own - skew.fewest() > skew.spread.max_skew {
                reasons.add("node(s) didn't match pod topology spread constraints");
                return Verdict::Unschedulable;
            }
        }
        Verdict::Fits
    }

    fn shift(&mut self, other: &PodInfo, node: &NodeInfo, by: i64) {
        let pod = self.cycle.pod;
        for skew in &mut self.skews {
            let counts = other.namespace == pod.namespace
                && !other.terminating
                && skew.spread.selector.matches(&other.labels);
            if let Some(domain) = skew.zoning.counted(node.place).filter(|_| counts) {
                skew.shift(domain, by);
            }
        }
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
    siblings: Siblings<'a>,
    /// More domains make each of them weigh more.
    weight: f64,
}

enum Siblings<'a> {
    /// Each node is asked itself: there are as many hostnames as nodes.
    OfNode(Matching<'a>),
    OfDomain(Arc<Zoning>, Vec<i64>),
}

// === impl Crowding ===

impl<'a> Crowding<'a> {
    fn of(
        cycle: Cycle<'a>,
        feasible: &[&'a NodeInfo],
        preferred: Vec<Spread>,
        needs_keys: bool,
    ) -> Crowding<'a> {
        let keys: Vec<String> = match needs_keys {
            true => preferred.iter().map(|spread| spread.topology_key.clone()).collect(),
            false => Vec::new(),
        };
        let has_keys =
            |node: &&NodeInfo| keys.iter().all(|key| node.facts.labels.contains_key(key));
        let feasible: Vec<_> = feasible.iter().copied().filter(has_keys).collect();
        let by = |spread| CrowdedBy::of(cycle, &feasible, &keys, spread);
        Crowding { spreads: preferred.into_iter().map(by).collect(), needs_keys }
    }
}

impl<'a> CrowdedBy<'a> {
    fn of(
        cycle: Cycle<'a>,
        feasible: &[&'a NodeInfo],
        keys: &[String],
        spread: Spread,
    ) -> CrowdedBy<'a> {
        let (siblings, domains) = if spread.topology_key == HOSTNAME {
            (Siblings::OfNode(siblings(cycle, spread.clone())), feasible.len())
        } else {
            let zoning = cycle.cache.zoning(Rules::of(&spread, keys.to_vec(), cycle.pod));
            let counts = siblings_by_domain(cycle, &spread, &zoning);
            let domains: HashSet<_> =
                feasible.iter().filter_map(|node| zoning.domain(node)).collect();
            (Siblings::OfDomain(zoning, counts), domains.len())
        };
        CrowdedBy { spread, siblings, weight: (domains as f64 + 2.0).ln() }
    }

    fn at(&self, node: &NodeInfo) -> Option<f64> {
        if !node.facts.labels.contains_key(&self.spread.topology_key) {
            return None;
        }
        let siblings = match &self.siblings {
            Siblings::OfNode(matching) => matching.count(&node.groups),
            Siblings::OfDomain(zoning, counts) => {
                zoning.domain(node).map_or(0, |domain| counts[domain])
            }
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
