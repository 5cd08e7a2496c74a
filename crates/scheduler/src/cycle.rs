//! One scheduling cycle: a pod and the cache in, a node or the reason why there is none out. Pure and synchronous.
//!
//! Counterpart: `schedule_one.go` (schedulePod, findNodesThatFitPod, prioritizeNodes, selectHost).
//! Invariant: a chosen node passed every filter against the cache as it is now.

use crate::cache::Cache;
use crate::framework::{Cycle, Filter, PreFilter, Reasons, Verdict};
use crate::listers::Listers;
use crate::node_info::NodeInfo;
use crate::plugins::{PLUGINS, PluginSet};
use crate::pod_info::PodInfo;
use crate::preemption;

/// A search stops early only when it has found at least so many nodes.
const MIN_FEASIBLE_NODES: usize = 100;
const MIN_PERCENTAGE: usize = 5;

#[derive(Debug, PartialEq)]
pub enum Outcome {
    Placed { node: String },
    Unschedulable { message: String, rejected_by: PluginSet },
}

/// What outlives a cycle: where the next search starts, and how ties are broken.
pub struct Scheduling {
    /// 0 means: decide by the size of the cluster.
    pub percentage_of_nodes_to_score: usize,
    pub start: usize,
    pub chance: Chance,
}

/// A small generator (xorshift) for breaking ties; seeded, so that tests repeat.
pub struct Chance(pub u64);

// === impl Chance ===

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// The filters that have something to say about the pod, with the place of their plugin.
type Filters<'a> = Vec<(usize, Box<dyn Filter + 'a>)>;

/// What a search found out.
struct Search<'a> {
    feasible: Vec<&'a NodeInfo>,
    reasons: Reasons,
    rejected_by: PluginSet,
    /// Nodes that an eviction could make fit.
    resolvable: Vec<&'a NodeInfo>,
}

// === impl Scheduling ===

impl Scheduling {
    pub fn schedule(&mut self, pod: &PodInfo, cache: &Cache, listers: &Listers) -> Outcome {
        if cache.len() == 0 {
            return Outcome::Unschedulable {
                message: "no nodes available to schedule pods".into(),
                rejected_by: PluginSet::all(),
            };
        }
        let cycle = Cycle { pod, cache, listers };
        let filters = match prepare(cycle) {
            Ok(filters) => filters,
            Err(outcome) => return outcome,
        };
        let search = self.search(cycle, &filters);
        match search.feasible.as_slice() {
            [] => no_fit(cycle, &search),
            [node] => Outcome::Placed { node: node.name().to_owned() },
            feasible => {
                let totals = totals(cycle, feasible);
                Outcome::Placed { node: feasible[self.best(&totals)].name().to_owned() }
            }
        }
    }

    /// Asks nodes in turn, from where the last search ended, until enough fit.
    fn search<'a>(&mut self, cycle: Cycle<'a>, filters: &Filters<'a>) -> Search<'a> {
        let nodes = cycle.cache.len();
        let mut search = Search {
            feasible: Vec::new(),
            reasons: Reasons::default(),
            rejected_by: PluginSet::default(),
            resolvable: Vec::new(),
        };
        if let Some((place, names)) =
            filters.iter().find_map(|(place, filter)| Some((*place, filter.only()?)))
        {
            search.ask_only(cycle, filters, place, names);
            return search;
        }
        let wanted = self.nodes_to_find(nodes);
        search.feasible.reserve(wanted.min(nodes));
        let mut asked = 0;
        while asked < nodes && search.feasible.len() < wanted {
            search.ask(cycle.cache.at((self.start + asked) % nodes), filters);
            asked += 1;
        }
        self.start = (self.start + asked) % nodes;
        search
    }

    fn nodes_to_find(&self, nodes: usize) -> usize {
        if nodes < MIN_FEASIBLE_NODES {
            return nodes;
        }
        let percentage = match self.percentage_of_nodes_to_score {
            0 => 50_usize.saturating_sub(nodes / 125).max(MIN_PERCENTAGE),
            given => given,
        };
        (nodes * percentage / 100).max(MIN_FEASIBLE_NODES)
    }

    /// One of the highest, by chance.
    fn best(&mut self, totals: &[i64]) -> usize {
        let (mut best, mut ties) = (0, 1);
        for (at, total) in totals.iter().enumerate().skip(1) {
            if *total > totals[best] {
                (best, ties) = (at, 1);
            } else if *total == totals[best] {
                ties += 1;
                if self.chance.below(ties) == 0 {
                    best = at;
                }
            }
        }
        best
    }
}

fn prepare(cycle: Cycle<'_>) -> Result<Filters<'_>, Outcome> {
    let mut filters = Vec::with_capacity(PLUGINS.len());
    for (place, plugin) in PLUGINS.iter().enumerate() {
        match plugin.filter(cycle) {
            PreFilter::Skip => {}
            PreFilter::Check(filter) => filters.push((place, filter)),
            PreFilter::Reject(reason) => {
                let mut rejected_by = PluginSet::default();
                rejected_by.insert(place);
                let message = preemption::message(cycle, &reason, &[]);
                return Err(Outcome::Unschedulable { message, rejected_by });
            }
        }
    }
    Ok(filters)
}

// === impl Search ===

impl<'a> Search<'a> {
    /// The first filter that turns the node down ends its check.
    fn ask(&mut self, node: &'a NodeInfo, filters: &Filters<'a>) {
        for (place, filter) in filters {
            match filter.check(node, &mut self.reasons) {
                Verdict::Fits => continue,
                Verdict::Unschedulable => self.resolvable.push(node),
                Verdict::Unresolvable => {}
            }
            self.rejected_by.insert(*place);
            return;
        }
        self.feasible.push(node);
    }

    /// Asks the nodes that a plugin named; all others are out for its sake.
    fn ask_only(&mut self, cycle: Cycle<'a>, filters: &Filters<'a>, place: usize, names: &[&str]) {
        let nodes: Vec<_> = names.iter().filter_map(|name| cycle.cache.node(name)).collect();
        nodes.iter().for_each(|node| self.ask(node, filters));
        let others = cycle.cache.len() - nodes.len();
        if others > 0 {
            self.rejected_by.insert(place);
            let plugin = PLUGINS[place].name();
            self.reasons.add_many(format!("node(s) didn't satisfy plugin(s) [{plugin}]"), others);
        }
    }
}

/// The weighted sum of all scores, node by node.
fn totals<'a>(cycle: Cycle<'a>, feasible: &[&'a NodeInfo]) -> Vec<i64> {
    let mut totals = vec![0; feasible.len()];
    let mut scores = vec![0; feasible.len()];
    for plugin in PLUGINS {
        let Some(score) = plugin.score(cycle, feasible) else { continue };
        for (slot, node) in scores.iter_mut().zip(feasible) {
            *slot = score.score(node);
        }
        score.normalise(&mut scores, feasible);
        for (total, score) in totals.iter_mut().zip(&scores) {
            *total += score * plugin.weight();
        }
    }
    totals
}

fn no_fit(cycle: Cycle<'_>, search: &Search<'_>) -> Outcome {
    let message = preemption::message(cycle, &search.reasons.sentence(), &search.resolvable);
    Outcome::Unschedulable { message, rejected_by: search.rejected_by }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::node_info::NodeFacts;
    use crate::pod_info::HostPort;
    use crate::resources::{PodRequests, Resources};

    fn amount(milli_cpu: u64, memory: u64, gpus: u64) -> Resources {
        let scalars = if gpus == 0 { Vec::new() } else { vec![("gpu".into(), gpus as i64)] };
        let (milli_cpu, memory) = (milli_cpu as i64, memory as i64);
        Resources { milli_cpu, memory, scalars, ..Resources::default() }
    }

    fn node(name: usize, chance: &mut Chance) -> NodeFacts {
        let mut allocatable = amount(chance.below(3000), chance.below(5) * 1000, chance.below(3));
        allocatable.pods = chance.below(6) as i64;
        NodeFacts { name: format!("n{name}"), allocatable, ..NodeFacts::default() }
    }

    fn pod(uid: usize, chance: &mut Chance) -> PodInfo {
        let declared = amount(chance.below(1200), chance.below(2) * 900, chance.below(5) / 3);
        let ports = match chance.below(4) {
            0 => vec![HostPort { address: String::new(), protocol: "TCP".into(), port: 80 }],
            _ => Vec::new(),
        };
        let requests = PodRequests { declared, ..PodRequests::default() };
        PodInfo { uid: format!("p{uid}"), requests, ports, ..PodInfo::default() }
    }

    #[track_caller]
    fn check(cache: &Cache) {
        for node in cache.nodes() {
            let mut sum = Resources::default();
            node.pods.iter().for_each(|pod| sum.add(&pod.requests.declared));
            let (all, used) = (&node.facts.allocatable, &node.requested);
            assert_eq!((sum.milli_cpu, sum.memory), (used.milli_cpu, used.memory));
            assert_eq!(sum.scalar("gpu"), used.scalar("gpu"));
            assert!(used.milli_cpu <= all.milli_cpu && used.memory <= all.memory, "{node:?}");
            assert!(used.scalar("gpu") <= all.scalar("gpu"), "{node:?}");
            assert!(node.pods.len() as i64 <= all.pods, "{node:?}");
            assert!(node.ports.len() <= 1, "{node:?}");
            let grouped: u32 = node.groups.iter().map(|(_, pods)| pods).sum();
            assert_eq!(grouped as usize, node.pods.len());
        }
    }

    /// Whatever comes and goes: no node holds more than it has, and none is left out that would do.
    #[test]
    fn never_overcommits_and_never_gives_up_too_early() {
        for seed in 1..=300 {
            let mut chance = Chance(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed));
            let mut cache = Cache::default();
            (0..1 + chance.below(8) as usize).for_each(|n| {
                cache.set_node(node(n, &mut chance));
            });
            cache.settle();
            let listers = Listers::default();
            let mut scheduling =
                Scheduling { percentage_of_nodes_to_score: 0, start: 0, chance: Chance(seed) };
            for uid in 0..60 {
                if chance.below(3) == 0 {
                    cache.remove_pod(&format!("p{}", chance.below(uid as u64 + 1)));
                }
                let mut pod = pod(uid, &mut chance);
                match scheduling.schedule(&pod, &cache, &listers) {
                    Outcome::Placed { node } => {
                        pod.node_name = Some(node);
                        cache.assume(Arc::new(pod));
                    }
                    Outcome::Unschedulable { message, .. } => {
                        let room = cache.nodes().iter().find(|node| has_room(node, &pod));
                        assert!(room.is_none(), "{room:?} would do: {message}");
                    }
                }
                check(&cache);
            }
        }
    }

    fn has_room(node: &NodeInfo, pod: &PodInfo) -> bool {
        let mut after = node.requested.clone();
        after.add(&pod.requests.declared);
        let (all, asked) = (&node.facts.allocatable, &pod.requests.declared);
        let enough = |asked: i64, after: i64, all: i64| asked == 0 || after <= all;
        enough(asked.milli_cpu, after.milli_cpu, all.milli_cpu)
            && enough(asked.memory, after.memory, all.memory)
            && enough(asked.scalar("gpu"), after.scalar("gpu"), all.scalar("gpu"))
            && (node.pods.len() as i64) < all.pods
            && (pod.ports.is_empty() || node.ports.is_empty())
    }

    #[test]
    fn a_large_cluster_is_searched_in_part() {
        let scheduling = |percentage| Scheduling {
            percentage_of_nodes_to_score: percentage,
            start: 0,
            chance: Chance(1),
        };
        for (percentage, nodes, wanted) in [
            (0, 99, 99),
            (0, 100, 100),
            (0, 1000, 420),
            (0, 5000, 500),
            (0, 10_000, 500),
            (10, 5000, 500),
            (100, 5000, 5000),
            (1, 5000, 100),
        ] {
            assert_eq!(scheduling(percentage).nodes_to_find(nodes), wanted, "{nodes} nodes");
        }
    }
}
