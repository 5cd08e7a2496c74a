//! InterPodAffinity: what a pod asks of the pods around it, and what placed pods ask of it.
//!
//! Counterpart: `plugins/interpodaffinity`. Required terms filter; preferred terms of either side, and required
//! affinity of placed pods, score.

use crate::framework::{
    ClusterEvent, Cycle, EventKind, Filter, MAX_SCORE, Plugin, PreFilter, Reasons, Score, Verdict,
};
use crate::groups::{GroupId, Matching};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::pod_terms::{PodAffinity, PodTerm};
use crate::topology::Domains;

pub struct InterPodAffinity;

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        let required = Required::of(cycle);
        let nothing = required.affinity.is_empty()
            && required.anti_affinity.is_empty()
            && required.refused.is_empty();
        if nothing { PreFilter::Skip } else { PreFilter::Check(Box::new(required)) }
    }

    fn weight(&self) -> i64 {
        2
    }

    fn score<'a>(&self, cycle: Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        let drawn = drawn(cycle);
        (!drawn.is_empty()).then(|| Box::new(Preferred(drawn)) as Box<dyn Score>)
    }

    fn hears(&self) -> &'static [EventKind] {
        &[
            EventKind::NodeAdded,
            EventKind::NodeUpdated,
            EventKind::PodPlaced,
            EventKind::PodLeft,
            EventKind::PodUpdated,
            EventKind::Namespace,
        ]
    }

    fn may_help(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            // A neighbour that was asked for, or one less that stood in the way.
            ClusterEvent::PodPlaced(_) => !pod.affinity.required.is_empty(),
            ClusterEvent::PodLeft(left) => {
                !pod.affinity.required_anti.is_empty() || !left.affinity.required_anti.is_empty()
            }
            ClusterEvent::NodeAdded(_) | ClusterEvent::PodUpdated => true,
            ClusterEvent::NodeUpdated { before, now } => before.labels != now.facts.labels,
            ClusterEvent::Changed(_) => true,
            ClusterEvent::PodTerminating(_) | ClusterEvent::ResourceClaim { .. } => false,
        }
    }
}

struct Required<'a> {
    cycle: Cycle<'a>,
    affinity: &'a [PodTerm],
    anti_affinity: &'a [PodTerm],
    /// Where pods are that match every affinity term.
    wanted: Domains<'a>,
    /// The pod matches its own terms: it may be the first of its group when nobody else does.
    like_itself: bool,
    avoided: Domains<'a>,
    /// Where placed pods refuse this one.
    refused: Domains<'a>,
}

// === impl Required ===

impl<'a> Required<'a> {
    fn of(cycle: Cycle<'a>) -> Required<'a> {
        let own = &cycle.pod.affinity;
        let mut required = Required {
            cycle,
            affinity: &own.required,
            anti_affinity: &own.required_anti,
            wanted: Domains::default(),
            like_itself: own.required.iter().all(|term| about(term, cycle)),
            avoided: Domains::default(),
            refused: Domains::default(),
        };
        let refusals = |affinity: &'a PodAffinity| {
            affinity.required_anti.iter().map(|term| (term, 1)).collect()
        };
        Asked::of(cycle, refusals).add_to(&mut required.refused, cycle);
        if !required.affinity.is_empty() || !required.anti_affinity.is_empty() {
            required.look_around(cycle);
        }
        required
    }

    /// What the newcomer finds.
    fn look_around(&mut self, cycle: Cycle<'a>) {
        let nodes = cycle.cache.nodes();
        if !self.affinity.is_empty() {
            for (place, found) in matching(cycle, self.affinity).places() {
                for term in self.affinity {
                    self.wanted.add(&nodes[place], &term.topology_key, found);
                }
            }
        }
        for term in self.anti_affinity {
            for (place, found) in matching(cycle, std::slice::from_ref(term)).places() {
                self.avoided.add(&nodes[place], &term.topology_key, found);
            }
        }
    }

    fn near_wanted(&self, node: &NodeInfo) -> bool {
        let keyed = |term: &PodTerm| node.facts.labels.contains_key(&term.topology_key);
        let near = |term: &PodTerm| self.wanted.at(node, &term.topology_key) > 0;
        self.affinity.iter().all(keyed)
            && (self.affinity.iter().all(near) || self.like_itself && self.wanted.total() == 0)
    }
}

impl Filter for Required<'_> {
    fn check(&self, node: &NodeInfo, reasons: &mut Reasons) -> Verdict {
        if !self.near_wanted(node) {
            reasons.add("node(s) didn't match pod affinity rules");
            return Verdict::Unresolvable;
        }
        if self.avoided.sum(node) > 0 {
            reasons.add("node(s) didn't match pod anti-affinity rules");
            return Verdict::Unschedulable;
        }
        if self.refused.sum(node) > 0 {
            reasons.add("node(s) didn't satisfy existing pods anti-affinity rules");
            return Verdict::Unschedulable;
        }
        Verdict::Fits
    }

    fn shift(&mut self, other: &PodInfo, node: &NodeInfo, by: i64) {
        let is_about = |term: &PodTerm| {
            let labels_of = |name: &str| self.cycle.listers.namespace_labels(name);
            term.matches(&other.namespace, &other.labels, labels_of)
        };
        if !self.affinity.is_empty() && self.affinity.iter().all(is_about) {
            for term in self.affinity {
                self.wanted.shift(node, &term.topology_key, by);
            }
        }
        for term in self.anti_affinity.iter().filter(|term| is_about(term)) {
            self.avoided.shift(node, &term.topology_key, by);
        }
        for term in other.affinity.required_anti.iter().filter(|term| about(term, self.cycle)) {
            self.refused.shift(node, &term.topology_key, by);
        }
    }
}

/// Whether a term is about the pod of this cycle.
fn about(term: &PodTerm, cycle: Cycle<'_>) -> bool {
    let pod = cycle.pod;
    term.matches(&pod.namespace, &pod.labels, |name| cycle.listers.namespace_labels(name))
}

/// The placed pods that every one of the terms is about.
fn matching<'a>(cycle: Cycle<'a>, terms: &'a [PodTerm]) -> Matching<'a> {
    cycle.cache.groups().matching(move |group| {
        let labels_of = |name: &str| cycle.listers.namespace_labels(name);
        terms.iter().all(|term| term.matches(&group.namespace, &group.labels, labels_of))
    })
}

/// What placed pods ask about the pod of this cycle, by group: topology keys and weights.
struct Asked<'a>(Vec<(GroupId, Vec<(&'a str, i64)>)>);

// === impl Asked ===

impl<'a> Asked<'a> {
    fn of(
        cycle: Cycle<'a>,
        terms: impl Fn(&'a PodAffinity) -> Vec<(&'a PodTerm, i64)>,
    ) -> Asked<'a> {
        let mut asked = Vec::new();
        for (id, group) in cycle.cache.groups().with_affinity() {
            let terms = terms(&group.affinity).into_iter();
            let about = terms.filter(|(term, _)| about(term, cycle));
            let about: Vec<_> = about.map(|(term, weight)| (&*term.topology_key, weight)).collect();
            if !about.is_empty() {
                asked.push((id, about));
            }
        }
        Asked(asked)
    }

    fn add_to(&self, domains: &mut Domains<'a>, cycle: Cycle<'a>) {
        let (nodes, groups) = (cycle.cache.nodes(), cycle.cache.groups());
        for (id, asked) in &self.0 {
            for (place, pods) in groups.places(*id) {
                for (key, weight) in asked {
                    domains.add(&nodes[place], key, weight * pods);
                }
            }
        }
    }
}

/// How strongly each domain draws the pod, by its own preferences and those of placed pods.
fn drawn(cycle: Cycle<'_>) -> Domains<'_> {
    let own = &cycle.pod.affinity;
    let mut drawn = Domains::default();
    for preferred in &own.preferred {
        let nodes = cycle.cache.nodes();
        for (place, found) in matching(cycle, std::slice::from_ref(&preferred.term)).places() {
            drawn.add(&nodes[place], &preferred.term.topology_key, found * preferred.weight);
        }
    }
    let args = &cycle.profile.args.inter_pod_affinity;
    let modest = own.preferred.is_empty() && args.ignore_preferred_terms_of_existing_pods;
    Asked::of(cycle, |affinity| draws(affinity, args.hard_pod_affinity_weight, modest))
        .add_to(&mut drawn, cycle);
    drawn
}

/// Required affinity of placed pods draws a little, preferred affinity by its weight (unless only the former counts).
fn draws(affinity: &PodAffinity, hard_weight: i64, modest: bool) -> Vec<(&PodTerm, i64)> {
    let hard = affinity.required.iter().filter(|_| hard_weight > 0);
    let hard = hard.map(|term| (term, hard_weight));
    let soft = affinity.preferred.iter().filter(|_| !modest);
    hard.chain(soft.map(|preferred| (&preferred.term, preferred.weight))).collect()
}

struct Preferred<'a>(Domains<'a>);

impl Score for Preferred<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        self.0.sum(node)
    }

    fn normalise(&self, scores: &mut [i64], _: &[&NodeInfo]) {
        let highest = scores.iter().copied().max().unwrap_or(0);
        let lowest = scores.iter().copied().min().unwrap_or(0);
        for score in scores {
            let above = *score - lowest;
            *score = if highest > lowest { MAX_SCORE * above / (highest - lowest) } else { 0 };
        }
    }
}
