//! NodeResourcesFit: what is left of every resource must cover the pod's requests; emptier nodes are better.
//!
//! Counterpart: `plugins/noderesources/fit.go` with its three scoring strategies; the default prefers the emptier node.
//! Invariant: a pod that passes leaves no resource of the node below zero.

use std::borrow::Cow;

use crate::framework::{
    ClusterEvent, Cycle, EventKind, Filter, MAX_SCORE, Plugin, PreFilter, Reasons, Score, Verdict,
};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::profile::{FitArgs, ScoringStrategy, WeightedResource};
use skiff_api::scheduling::resources::{PodRequests, Resources};

pub struct NodeResourcesFit;

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        let (wanted, args) = (&cycle.pod.requests.declared, &cycle.profile.args.fit);
        PreFilter::Check(Box::new(Fit { wanted, args }))
    }

    fn score<'a>(&self, cycle: Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        Some(Box::new(Allocation { pod: &cycle.pod.requests, args: &cycle.profile.args.fit }))
    }

    fn hears(&self) -> &'static [EventKind] {
        &[EventKind::NodeAdded, EventKind::NodeUpdated, EventKind::PodLeft, EventKind::PodUpdated]
    }

    fn may_help(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        let wanted = &pod.requests.declared;
        match event {
            ClusterEvent::PodLeft(_) | ClusterEvent::PodUpdated => true,
            ClusterEvent::NodeAdded(node) => !exceeds(wanted, &node.facts.allocatable),
            ClusterEvent::NodeUpdated { before, now } => {
                before.allocatable != now.facts.allocatable
                    && !exceeds(wanted, &now.facts.allocatable)
            }
            _ => false,
        }
    }
}

struct Fit<'a> {
    wanted: &'a Resources,
    args: &'a FitArgs,
}

impl Filter for Fit<'_> {
    fn check(&self, node: &NodeInfo, reasons: &mut Reasons) -> Verdict {
        if self.fits(node, reasons) {
            return Verdict::Fits;
        }
        // An empty node of this size would not do either.
        match exceeds(self.wanted, &node.facts.allocatable) {
            true => Verdict::Unresolvable,
            false => Verdict::Unschedulable,
        }
    }
}

// === impl Fit ===

impl Fit<'_> {
    /// Tells every resource that falls short, not just the first.
    fn fits(&self, node: &NodeInfo, reasons: &mut Reasons) -> bool {
        let (wanted, all, used) = (self.wanted, &node.facts.allocatable, &node.requested);
        let mut fits = true;
        let mut short = |reason: Cow<'static, str>| {
            reasons.add(reason);
            fits = false;
        };
        if node.pods.len() as i64 + 1 > all.pods {
            short("Too many pods".into());
        }
        for (name, wanted, free) in [
            ("Insufficient cpu", wanted.milli_cpu, all.milli_cpu - used.milli_cpu),
            ("Insufficient memory", wanted.memory, all.memory - used.memory),
            (
                "Insufficient ephemeral-storage",
                wanted.ephemeral_storage,
                all.ephemeral_storage - used.ephemeral_storage,
            ),
        ] {
            if wanted > 0 && wanted > free {
                short(name.into());
            }
        }
        for (name, wanted) in wanted.scalars.iter().filter(|(name, _)| !self.ignores(name)) {
            if *wanted > 0 && *wanted > all.scalar(name) - used.scalar(name) {
                short(format!("Insufficient {name}").into());
            }
        }
        fits
    }

    /// An extender looks after it.
    fn ignores(&self, resource: &str) -> bool {
        let group = resource.split('/').next().unwrap_or_default();
        self.args.ignored_resources.iter().any(|ignored| ignored == resource)
            || self.args.ignored_resource_groups.iter().any(|ignored| ignored == group)
    }
}

fn exceeds(wanted: &Resources, all: &Resources) -> bool {
    wanted.milli_cpu > all.milli_cpu
        || wanted.memory > all.memory
        || wanted.ephemeral_storage > all.ephemeral_storage
        || wanted.scalars.iter().any(|(name, wanted)| *wanted > all.scalar(name))
}

/// The score: the mean over the resources of how much of each is taken, as the strategy likes it.
struct Allocation<'a> {
    pod: &'a PodRequests,
    args: &'a FitArgs,
}

impl Score for Allocation<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for resource in &self.args.resources {
            let Some((all, used)) = share(resource, self.pod, node) else { continue };
            let score = self.args.strategy.score(all, used);
            // What scores nothing does not count against a ratio.
            let ratio = matches!(self.args.strategy, ScoringStrategy::RequestedToCapacityRatio(_));
            if score > 0 || !ratio {
                sum += score * resource.weight;
                weights += resource.weight;
            }
        }
        match &self.args.strategy {
            _ if weights == 0 => 0,
            ScoringStrategy::RequestedToCapacityRatio(_) => {
                (sum as f64 / weights as f64).round() as i64
            }
            _ => sum / weights,
        }
    }
}

/// What the node has of a resource, and what would be taken of it with the pod; `None` if it does not matter.
fn share(resource: &WeightedResource, pod: &PodRequests, node: &NodeInfo) -> Option<(i64, i64)> {
    let (all, used, wanted) = (&node.facts.allocatable, &node.requested, &pod.declared);
    let (all, used) = match resource.name.as_str() {
        "cpu" => (all.milli_cpu, node.assumed_milli_cpu + pod.assumed_milli_cpu),
        "memory" => (all.memory, node.assumed_memory + pod.assumed_memory),
        "ephemeral-storage" => {
            (all.ephemeral_storage, used.ephemeral_storage + wanted.ephemeral_storage)
        }
        name if wanted.scalar(name) == 0 => return None,
        name => (all.scalar(name), used.scalar(name) + wanted.scalar(name)),
    };
    (all > 0).then_some((all, used))
}

// === impl ScoringStrategy ===

impl ScoringStrategy {
    fn score(&self, all: i64, used: i64) -> i64 {
        match self {
            ScoringStrategy::LeastAllocated if used > all => 0,
            ScoringStrategy::LeastAllocated => (all - used) * MAX_SCORE / all,
            ScoringStrategy::MostAllocated => used.min(all) * MAX_SCORE / all,
            ScoringStrategy::RequestedToCapacityRatio(shape) => {
                on_line(shape, if used > all { 100 } else { used * 100 / all })
            }
        }
    }
}

/// The height at `x` of the line through points of utilisation and score from 0 to 10, flat beyond its ends.
fn on_line(shape: &[(i64, i64)], x: i64) -> i64 {
    let scaled = |score: i64| score * MAX_SCORE / 10;
    let Some(right) = shape.iter().position(|(point, _)| x <= *point) else {
        return shape.last().map_or(0, |(_, score)| scaled(*score));
    };
    let (to, high) = shape[right];
    let Some((from, low)) = right.checked_sub(1).map(|left| shape[left]) else {
        return scaled(high);
    };
    scaled(low) + (scaled(high) - scaled(low)) * (x - from) / (to - from)
}
