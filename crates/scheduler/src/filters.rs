//! The filters that have something to say about one pod, and how a node is asked: as it is, and as it will be.
//!
//! Pods that were promised a node (nominated) are counted as if they were there already, so that what was cleared for
//! them is not taken by others. Counterpart: `RunFilterPluginsWithNominatedPods` and the PreFilter extensions.
//! Invariant: what-ifs are undone before the next node is asked.

use std::sync::Arc;

use crate::framework::{Cycle, Filter, PreFilter, Reasons, Verdict};
use crate::node_info::NodeInfo;
use crate::plugins::PluginSet;
use crate::pod_info::PodInfo;

pub struct Filters<'a> {
    cycle: Cycle<'a>,
    /// With the place of their plugin.
    all: Vec<(usize, Box<dyn Filter + 'a>)>,
}

/// A plugin that knows before any node is asked that none will do.
pub struct Rejection {
    pub reason: String,
    pub by: PluginSet,
}

/// Which plugin turned a node down.
#[derive(Debug)]
pub struct Refusal {
    pub place: usize,
    pub resolvable: bool,
}

// === impl Filters ===

impl<'a> Filters<'a> {
    pub fn of(cycle: Cycle<'a>) -> Result<Filters<'a>, Rejection> {
        let mut all = Vec::with_capacity(cycle.profile.filters().len());
        for (place, plugin) in cycle.profile.filters() {
            match plugin.filter(cycle) {
                PreFilter::Skip => {}
                PreFilter::Check(filter) => all.push((*place, filter)),
                PreFilter::Reject(reason) => {
                    let by = PluginSet::one(*place);
                    return Err(Rejection { reason: reason.into_owned(), by });
                }
            }
        }
        Ok(Filters { cycle, all })
    }

    /// The only nodes worth asking, if a plugin knows them by name, and which plugin.
    pub fn only(&self) -> Option<(usize, Vec<String>)> {
        self.all.iter().find_map(|(place, filter)| {
            let names = filter.only()?.iter().map(|name| (*name).to_owned());
            Some((*place, names.collect()))
        })
    }

    /// Asks the node as it will be when the pods promised to it have come, then as it is.
    pub fn check(&mut self, node: &NodeInfo, reasons: &mut Reasons) -> Result<(), Refusal> {
        let expected = self.expected(node);
        if !expected.is_empty() {
            let mut later = node.clone();
            expected.iter().for_each(|pod| self.add(&mut later, pod.clone()));
            let verdict = self.ask(&later, reasons);
            expected.iter().for_each(|pod| self.remove(&mut later, pod));
            verdict?;
        }
        self.ask(node, reasons)
    }

    /// The pods promised to the node that this one must not push aside.
    fn expected(&self, node: &NodeInfo) -> Vec<Arc<PodInfo>> {
        let pod = self.cycle.pod;
        let promised = self.cycle.nominations.on(node.name()).iter();
        let matter = |other: &&Arc<PodInfo>| other.priority >= pod.priority && other.uid != pod.uid;
        promised.filter(matter).cloned().collect()
    }

    /// The first filter that turns the node down ends its check.
    fn ask(&self, node: &NodeInfo, reasons: &mut Reasons) -> Result<(), Refusal> {
        for (place, filter) in &self.all {
            match filter.check(node, reasons) {
                Verdict::Fits => {}
                Verdict::Unschedulable => return Err(Refusal { place: *place, resolvable: true }),
                Verdict::Unresolvable => return Err(Refusal { place: *place, resolvable: false }),
            }
        }
        Ok(())
    }

    // --- what if ---

    pub fn add(&mut self, node: &mut NodeInfo, pod: Arc<PodInfo>) {
        self.shift(&pod, node, 1);
        node.hold(pod);
    }

    pub fn remove(&mut self, node: &mut NodeInfo, pod: &PodInfo) {
        node.release(&pod.uid);
        self.shift(pod, node, -1);
    }

    /// Undoes a removal for the filters, when the changed node itself is of no more use.
    pub fn put_back(&mut self, node: &NodeInfo, pod: &PodInfo) {
        self.shift(pod, node, 1);
    }

    fn shift(&mut self, pod: &PodInfo, node: &NodeInfo, by: i64) {
        self.all.iter_mut().for_each(|(_, filter)| filter.shift(pod, node, by));
    }
}
