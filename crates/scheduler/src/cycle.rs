//! One scheduling cycle: a pod and the cache in, a node or the reason why there is none out. Pure and synchronous.
//!
//! Counterpart: `schedule_one.go` (schedulePod, findNodesThatFitPod, prioritizeNodes, selectHost).
//! Invariant: a chosen node passed every filter against the cache as it is now.

use crate::extenders::Verdict;
use crate::filters::{Filters, Rejection};
use crate::framework::{Cycle, Judgement, Reasons};
use crate::listers::Key;
use crate::node_info::NodeInfo;
use crate::plugins::{PLUGINS, PluginSet, dynamic_resources};
use crate::preemption::{self, Nomination};

/// A search stops early only when it has found at least so many nodes.
const MIN_FEASIBLE_NODES: usize = 100;
const MIN_PERCENTAGE: usize = 5;

const NO_CLAIMS: &str = "no new claims to deallocate";

#[derive(Debug)]
pub enum Outcome {
    Placed {
        node: String,
    },
    /// These would do, if the extenders agree.
    ToBeJudged {
        nodes: Vec<String>,
    },
    Unschedulable {
        message: String,
        rejected_by: PluginSet,
        nomination: Nomination,
        /// A claim to take the devices from, so that it can be given others.
        deallocate: Option<Key>,
    },
}

/// What outlives a cycle: where the next search starts, and how ties are broken.
pub struct Scheduling {
    pub start: usize,
    pub chance: Chance,
}

/// A small generator (xorshift) for breaking ties; seeded, so that tests repeat.
pub struct Chance(pub u64);

// === impl Chance ===

impl Chance {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What a search found out.
#[derive(Default)]
struct Search<'a> {
    feasible: Vec<&'a NodeInfo>,
    reasons: Reasons,
    rejected_by: PluginSet,
    /// Nodes that an eviction could make fit.
    resolvable: Vec<&'a NodeInfo>,
}

// === impl Scheduling ===

impl Scheduling {
    pub fn schedule(&mut self, cycle: Cycle<'_>) -> Outcome {
        if cycle.cache.len() == 0 {
            return Outcome::Unschedulable {
                message: "no nodes available to schedule pods".into(),
                rejected_by: PluginSet::all(),
                nomination: Nomination::Keep,
                deallocate: None,
            };
        }
        let mut filters = match Filters::of(cycle) {
            Ok(filters) => filters,
            Err(rejection) => return no_fit_anywhere(cycle, rejection),
        };
        let search = self.search(cycle, &mut filters);
        match search.feasible.as_slice() {
            [] => self.no_fit(cycle, filters, &search),
            feasible if matches!(cycle.extension.nodes, Judgement::Wanted) => {
                let nodes = feasible.iter().map(|node| node.name().to_owned()).collect();
                Outcome::ToBeJudged { nodes }
            }
            [node] => Outcome::Placed { node: node.name().to_owned() },
            feasible => {
                let totals = totals(cycle, feasible);
                Outcome::Placed { node: feasible[self.best(&totals)].name().to_owned() }
            }
        }
    }

    fn search<'a>(&mut self, cycle: Cycle<'a>, filters: &mut Filters<'a>) -> Search<'a> {
        let mut search = Search::default();
        // Room may have been made there for this very pod.
        let promised = cycle.nominations.node_of(&cycle.pod.uid);
        if let Some(node) = promised.and_then(|name| cycle.cache.node(name)) {
            search.ask(cycle, node, filters);
            if !search.feasible.is_empty() {
                return search;
            }
            search = Search::default();
        }
        match filters.only() {
            Some((place, names)) => search.ask_only(cycle, filters, place, &names),
            None => self.ask_in_turn(cycle, filters, &mut search),
        }
        search
    }

    /// Asks nodes in turn, from where the last search ended, until enough fit.
    fn ask_in_turn<'a>(
        &mut self,
        cycle: Cycle<'a>,
        filters: &mut Filters<'a>,
        search: &mut Search<'a>,
    ) {
        let nodes = cycle.cache.len();
        let wanted = nodes_to_find(cycle.profile.percentage_of_nodes_to_score, nodes);
        search.feasible.reserve(wanted.min(nodes));
        let mut asked = 0;
        while asked < nodes && search.feasible.len() < wanted {
            search.ask(cycle, cycle.cache.at((self.start + asked) % nodes), filters);
            asked += 1;
        }
        self.start = (self.start + asked) % nodes;
    }

    fn no_fit<'a>(
        &mut self,
        cycle: Cycle<'a>,
        mut filters: Filters<'a>,
        search: &Search<'a>,
    ) -> Outcome {
        let nodes = cycle.cache.len();
        let mut message = format!("0/{nodes} nodes are available: {}.", search.reasons.sentence());
        let mut nomination = Nomination::Keep;
        let (deallocate, said) = deallocation(cycle, search.rejected_by);
        if cycle.profile.preempts {
            let attempt =
                preemption::preempt(cycle, &mut filters, &search.resolvable, &mut self.chance);
            add_post_filter(&mut message, said, &attempt.message);
            nomination = attempt.nomination;
        }
        Outcome::Unschedulable { message, rejected_by: search.rejected_by, nomination, deallocate }
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

/// A percentage of 0 means: decide by the size of the cluster.
fn nodes_to_find(percentage: usize, nodes: usize) -> usize {
    if nodes < MIN_FEASIBLE_NODES {
        return nodes;
    }
    let percentage = match percentage {
        0 => 50_usize.saturating_sub(nodes / 125).max(MIN_PERCENTAGE),
        given => given,
    };
    (nodes * percentage / 100).max(MIN_FEASIBLE_NODES)
}

/// What deallocating claims and preemption have to say, after why the pod fits nowhere. A promise says nothing.
fn add_post_filter(message: &mut String, claims: &str, preemption: &str) {
    if !preemption.is_empty() {
        message.push_str(&format!(" {claims}, preemption: {preemption}"));
    }
}

/// Whether the pod's claims had better be given other devices, and what is said of it.
fn deallocation(cycle: Cycle<'_>, rejected_by: PluginSet) -> (Option<Key>, &'static str) {
    if cycle.pod.device_claims.is_empty() {
        return (None, NO_CLAIMS);
    }
    let turned_away = rejected_by.iter().any(|plugin| plugin.name() == dynamic_resources::NAME);
    match turned_away.then(|| dynamic_resources::to_deallocate(cycle)).flatten() {
        Some(claim) => (Some(claim), "deallocation of ResourceClaim completed"),
        None => (None, "still not schedulable"),
    }
}

fn no_fit_anywhere(cycle: Cycle<'_>, rejection: Rejection) -> Outcome {
    let nodes = cycle.cache.len();
    let mut message = format!("0/{nodes} nodes are available: {}.", rejection.reason);
    let mut nomination = Nomination::Keep;
    if cycle.profile.preempts {
        let ineligible = preemption::ineligible(cycle, &[]);
        nomination = if ineligible.is_some() { Nomination::Keep } else { Nomination::Clear };
        let why = ineligible.map(str::to_owned);
        let why = why.unwrap_or_else(|| preemption::hopeless(cycle, Reasons::default(), 0));
        add_post_filter(&mut message, NO_CLAIMS, &why);
    }
    Outcome::Unschedulable { message, rejected_by: rejection.by, nomination, deallocate: None }
}

// === impl Search ===

impl<'a> Search<'a> {
    fn ask(&mut self, cycle: Cycle<'a>, node: &'a NodeInfo, filters: &mut Filters<'a>) {
        match filters.check(node, &mut self.reasons) {
            Ok(()) => self.hear_extenders(cycle, node),
            Err(refusal) => {
                self.rejected_by.insert(refusal.place);
                if refusal.resolvable {
                    self.resolvable.push(node);
                }
            }
        }
    }

    /// Takes a node that the plugins agree to, unless extenders refused it or have not seen it.
    fn hear_extenders(&mut self, cycle: Cycle<'a>, node: &'a NodeInfo) {
        let Judgement::Given(verdicts) = cycle.extension.nodes else {
            return self.feasible.push(node);
        };
        match verdicts.of(node.name()) {
            Some(Verdict::Kept { .. }) => self.feasible.push(node),
            Some(Verdict::Refused { reason }) => {
                self.rejected_by = self.rejected_by.or(PluginSet::EXTENDERS);
                self.reasons.add(reason.clone());
            }
            // It came, or began to fit, while they were asked.
            None => self.rejected_by = self.rejected_by.or(PluginSet::EXTENDERS),
        }
    }

    /// Asks the nodes that a plugin named; all others are out for its sake.
    fn ask_only(
        &mut self,
        cycle: Cycle<'a>,
        filters: &mut Filters<'a>,
        place: usize,
        names: &[String],
    ) {
        let nodes: Vec<_> = names.iter().filter_map(|name| cycle.cache.node(name)).collect();
        nodes.iter().for_each(|node| self.ask(cycle, node, filters));
        let others = cycle.cache.len() - nodes.len();
        if others > 0 {
            self.rejected_by.insert(place);
            let plugin = PLUGINS[place].name();
            self.reasons.add_many(format!("node(s) didn't satisfy plugin(s) [{plugin}]"), others);
        }
    }
}

/// What extenders add to a node's score.
fn extra(cycle: Cycle<'_>, node: &NodeInfo) -> i64 {
    let Judgement::Given(verdicts) = cycle.extension.nodes else { return 0 };
    match verdicts.of(node.name()) {
        Some(Verdict::Kept { score }) => *score,
        _ => 0,
    }
}

/// The weighted sum of all scores, node by node.
fn totals<'a>(cycle: Cycle<'a>, feasible: &[&'a NodeInfo]) -> Vec<i64> {
    let mut totals: Vec<i64> = feasible.iter().map(|node| extra(cycle, node)).collect();
    let mut scores = vec![0; feasible.len()];
    for (plugin, weight) in cycle.profile.scores() {
        let Some(score) = plugin.score(cycle, feasible) else { continue };
        for (slot, node) in scores.iter_mut().zip(feasible) {
            *slot = score.score(node);
        }
        score.normalise(&mut scores, feasible);
        for (total, score) in totals.iter_mut().zip(&scores) {
            *total += score * weight;
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cache::Cache;
    use crate::framework::Extension;
    use crate::listers::Listers;
    use crate::node_info::NodeFacts;
    use crate::nominations::Nominations;
    use crate::pod_info::{HostPort, PodInfo};
    use crate::profile::Profile;
    use skiff_api::scheduling::resources::{PodRequests, Resources};

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
            let (nominations, profile) = (Nominations::default(), Profile::default());
            let mut scheduling = Scheduling { start: 0, chance: Chance(seed) };
            for uid in 0..60 {
                if chance.below(3) == 0 {
                    cache.remove_pod(&format!("p{}", chance.below(uid as u64 + 1)));
                }
                let mut pod = pod(uid, &mut chance);
                let cycle = Cycle {
                    pod: &pod,
                    cache: &cache,
                    listers: &listers,
                    nominations: &nominations,
                    profile: &profile,
                    extension: Extension::default(),
                };
                match scheduling.schedule(cycle) {
                    Outcome::Placed { node } => {
                        pod.node_name = Some(node);
                        cache.assume(Arc::new(pod));
                    }
                    Outcome::ToBeJudged { nodes } => panic!("nobody asked for {nodes:?}"),
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
            assert_eq!(nodes_to_find(percentage, nodes), wanted, "{nodes} nodes");
        }
    }
}
