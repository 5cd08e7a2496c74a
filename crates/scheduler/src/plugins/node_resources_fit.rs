//! NodeResourcesFit: what is left of every resource must cover the pod's requests; emptier nodes are better.
//!
//! Counterpart: `plugins/noderesources/fit.go` with the LeastAllocated strategy over CPU and memory.
//! Invariant: a pod that passes leaves no resource of the node below zero.

use std::borrow::Cow;

use crate::framework::{
    ClusterEvent, Cycle, Filter, MAX_SCORE, Plugin, PreFilter, Reasons, Score, Verdict,
};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::resources::{PodRequests, Resources};

pub struct NodeResourcesFit;

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        PreFilter::Check(Box::new(Fit(&cycle.pod.requests.declared)))
    }

    fn score<'a>(&self, cycle: Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        Some(Box::new(LeastAllocated(&cycle.pod.requests)))
    }

    fn may_help(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        let wanted = &pod.requests.declared;
        match event {
            ClusterEvent::PodLeft(_) | ClusterEvent::PodUpdated => true,
            _ => event.node().is_some_and(|node| fits(wanted, node, &mut Reasons::default())),
        }
    }
}

struct Fit<'a>(&'a Resources);

impl Filter for Fit<'_> {
    fn check(&self, node: &NodeInfo, reasons: &mut Reasons) -> Verdict {
        if fits(self.0, node, reasons) {
            return Verdict::Fits;
        }
        // An empty node of this size would not do either.
        match exceeds(self.0, &node.facts.allocatable) {
            true => Verdict::Unresolvable,
            false => Verdict::Unschedulable,
        }
    }
}

/// Tells every resource that falls short, not just the first.
fn fits(wanted: &Resources, node: &NodeInfo, reasons: &mut Reasons) -> bool {
    let (all, used) = (&node.facts.allocatable, &node.requested);
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
    for (name, wanted) in &wanted.scalars {
        if *wanted > 0 && *wanted > all.scalar(name) - used.scalar(name) {
            short(format!("Insufficient {name}").into());
        }
    }
    fits
}

fn exceeds(wanted: &Resources, all: &Resources) -> bool {
    wanted.milli_cpu > all.milli_cpu
        || wanted.memory > all.memory
        || wanted.ephemeral_storage > all.ephemeral_storage
        || wanted.scalars.iter().any(|(name, wanted)| *wanted > all.scalar(name))
}

struct LeastAllocated<'a>(&'a PodRequests);

impl Score for LeastAllocated<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let all = &node.facts.allocatable;
        let shares = [
            (all.milli_cpu, node.assumed_milli_cpu + self.0.assumed_milli_cpu),
            (all.memory, node.assumed_memory + self.0.assumed_memory),
        ];
        let known = shares.iter().filter(|(all, _)| *all > 0);
        let (sum, count) = known.fold((0, 0), |(sum, count), (all, used)| {
            (sum + if used > all { 0 } else { (all - used) * MAX_SCORE / all }, count + 1)
        });
        if count == 0 { 0 } else { sum / count }
    }
}
