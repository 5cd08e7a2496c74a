//! What a scheduling plugin is, and one scheduling cycle over all of them.
//!
//! A `Plugin` looks at a pod once and returns a `Judge` for it, or nothing if it has nothing to say about this pod;
//! the judge filters and scores nodes. Counterpart: `pkg/scheduler/framework` (PreFilter, Filter, PreScore, Score,
//! NormalizeScore in one object). Invariant: a judge never changes the cluster; filtering allocates only on rejection.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::cluster::{Cluster, ClusterEvent, NodeInfo};
use crate::pod_info::PodInfo;

pub const MAX_SCORE: i64 = 100;

/// Below this many nodes all are examined; above, a share that shrinks as the cluster grows.
const ALWAYS_EXAMINED: usize = 100;

pub trait Plugin: Send + Sync {
    fn name(&self) -> &'static str;

    /// How much its score counts; zero for plugins that only filter.
    fn weight(&self) -> i64 {
        0
    }

    /// The changes after which a pod it rejected may fit.
    fn retry_on(&self) -> &'static [ClusterEvent];

    /// Looks at the pod. `Ok(None)`: no opinion on any node. `Err`: no node will do, whatever the node.
    fn judge<'a>(
        &self,
        pod: &'a PodInfo,
        cluster: &'a Cluster,
    ) -> Result<Option<Box<dyn Judge + 'a>>, Reason>;
}

/// One plugin's opinion about one pod.
pub trait Judge {
    fn filter(&self, _node: &NodeInfo) -> Result<(), Reasons> {
        Ok(())
    }

    fn score(&self, _node: &NodeInfo) -> i64 {
        0
    }

    /// Brings raw scores into 0..=100.
    fn normalize(&self, _scores: &mut [i64]) {}
}

pub type Reason = Cow<'static, str>;

/// Why a node was rejected; nearly always for one reason.
#[derive(Clone, Debug, PartialEq)]
pub enum Reasons {
    One(Reason),
    Many(Vec<Reason>),
}

impl From<&'static str> for Reasons {
    fn from(reason: &'static str) -> Reasons {
        Reasons::One(Cow::Borrowed(reason))
    }
}

/// Why no node will do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unschedulable {
    pub nodes: usize,
    /// Said about the pod as a whole.
    pub general: Option<Reason>,
    /// Number of nodes by reason.
    pub reasons: BTreeMap<Reason, usize>,
    /// The plugins that rejected: their `retry_on` decides when to try again.
    pub plugins: Vec<&'static str>,
}

impl std::fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nodes == 0 && self.general.is_none() {
            return f.write_str("no nodes available to schedule pods");
        }
        write!(f, "0/{} nodes are available: ", self.nodes)?;
        if let Some(general) = &self.general {
            return write!(f, "{general}.");
        }
        let mut parts: Vec<String> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        parts.sort();
        write!(f, "{}.", parts.join(", "))
    }
}

/// The list of plugins, and where the last cycle stopped looking.
pub struct Framework {
    plugins: &'static [&'static dyn Plugin],
    next_start: usize,
}

type Seat<'a> = (&'static dyn Plugin, Box<dyn Judge + 'a>);

// === impl Framework ===

impl Framework {
    pub fn new(plugins: &'static [&'static dyn Plugin]) -> Framework {
        Framework { plugins, next_start: 0 }
    }

    pub fn retry_on(&self, plugin: &str) -> &'static [ClusterEvent] {
        self.plugins
            .iter()
            .find(|known| known.name() == plugin)
            .map_or(&[], |known| known.retry_on())
    }

    /// Chooses a node for the pod.
    pub fn schedule(&mut self, pod: &PodInfo, cluster: &Cluster) -> Result<String, Unschedulable> {
        let mut failure =
            Unschedulable { nodes: cluster.nodes().len(), ..Unschedulable::default() };
        let judges = match self.judges(pod, cluster, &mut failure) {
            Some(judges) => judges,
            None => return Err(failure),
        };
        let feasible = self.filter(&judges, cluster, &mut failure);
        match feasible.as_slice() {
            [] => Err(failure),
            [only] => Ok(only.name.clone()),
            several => Ok(best(&judges, several, self.next_start).name.clone()),
        }
    }

    fn judges<'a>(
        &self,
        pod: &'a PodInfo,
        cluster: &'a Cluster,
        failure: &mut Unschedulable,
    ) -> Option<Vec<Seat<'a>>> {
        let mut judges: Vec<Seat<'a>> = Vec::with_capacity(self.plugins.len());
        for plugin in self.plugins {
            match plugin.judge(pod, cluster) {
                Ok(None) => {}
                Ok(Some(judge)) => judges.push((*plugin, judge)),
                Err(reason) => {
                    failure.general = Some(reason);
                    failure.plugins.push(plugin.name());
                    return None;
                }
            }
        }
        Some(judges)
    }

    /// Nodes that every judge accepts; starts where the last cycle stopped, so that all nodes get their turn.
    fn filter<'a>(
        &mut self,
        judges: &[Seat<'_>],
        cluster: &'a Cluster,
        failure: &mut Unschedulable,
    ) -> Vec<&'a NodeInfo> {
        let nodes = cluster.nodes();
        let enough = enough_nodes(nodes.len());
        let start = if nodes.is_empty() { 0 } else { self.next_start % nodes.len() };
        let mut feasible = Vec::with_capacity(enough);
        let mut examined = 0;
        for node in nodes[start..].iter().chain(&nodes[..start]) {
            examined += 1;
            match judges
                .iter()
                .find_map(|(plugin, judge)| Some((plugin, judge.filter(node).err()?)))
            {
                None => feasible.push(node),
                Some((plugin, reasons)) => failure.reject(plugin.name(), reasons),
            }
            if feasible.len() == enough {
                break;
            }
        }
        self.next_start = start + examined;
        feasible
    }
}

impl Unschedulable {
    fn reject(&mut self, plugin: &'static str, reasons: Reasons) {
        if !self.plugins.contains(&plugin) {
            self.plugins.push(plugin);
        }
        let reasons = match reasons {
            Reasons::One(reason) => vec![reason],
            Reasons::Many(reasons) => reasons,
        };
        reasons.into_iter().for_each(|reason| *self.reasons.entry(reason).or_default() += 1);
    }
}

/// The node with the highest weighted sum; of equals, one that depends on the cycle, so that load spreads.
fn best<'a>(judges: &[Seat<'_>], nodes: &[&'a NodeInfo], turn: usize) -> &'a NodeInfo {
    let mut totals = vec![0; nodes.len()];
    let mut scores = vec![0; nodes.len()];
    for (plugin, judge) in judges.iter().filter(|(plugin, _)| plugin.weight() > 0) {
        for (score, node) in scores.iter_mut().zip(nodes) {
            *score = judge.score(node);
        }
        judge.normalize(&mut scores);
        for (total, score) in totals.iter_mut().zip(&scores) {
            *total += score * plugin.weight();
        }
    }
    let highest = totals.iter().copied().max().unwrap_or(0);
    let winners = totals.iter().filter(|total| **total == highest).count();
    let mut winners_left = turn % winners.max(1);
    let chosen = totals.iter().position(|total| {
        *total == highest && {
            let mine = winners_left == 0;
            winners_left = winners_left.wrapping_sub(1);
            mine
        }
    });
    nodes[chosen.expect("at least one node has the highest score")]
}

/// How many feasible nodes are enough (upstream's adaptive percentageOfNodesToScore).
fn enough_nodes(all: usize) -> usize {
    if all <= ALWAYS_EXAMINED {
        return all;
    }
    let percent = 50usize.saturating_sub(all / 125).max(5);
    (all * percent / 100).max(ALWAYS_EXAMINED)
}

/// Scales scores to 0..=100 by the largest one; `reverse` makes the largest the worst.
pub fn normalize_by_largest(scores: &mut [i64], reverse: bool) {
    let largest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if largest == 0 { 0 } else { *score * MAX_SCORE / largest };
        *score = if reverse { MAX_SCORE - scaled } else { scaled };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_clusters_are_sampled() {
        assert_eq!(enough_nodes(50), 50);
        assert_eq!(enough_nodes(1000), 420);
        assert_eq!(enough_nodes(5000), 500);
        assert_eq!(enough_nodes(10_000), 500);
    }

    #[test]
    fn failures_read_like_upstream() {
        let mut failure = Unschedulable { nodes: 3, ..Unschedulable::default() };
        failure.reject(
            "NodeResourcesFit",
            Reasons::Many(vec!["Insufficient memory".into(), "Insufficient cpu".into()]),
        );
        failure.reject("NodeResourcesFit", "Insufficient cpu".into());
        failure.reject("NodeUnschedulable", "node(s) were unschedulable".into());
        assert_eq!(
            failure.to_string(),
            "0/3 nodes are available: 1 Insufficient memory, 1 node(s) were unschedulable, 2 Insufficient cpu."
        );
        assert_eq!(failure.plugins, ["NodeResourcesFit", "NodeUnschedulable"]);
        assert_eq!(Unschedulable::default().to_string(), "no nodes available to schedule pods");
    }
}
