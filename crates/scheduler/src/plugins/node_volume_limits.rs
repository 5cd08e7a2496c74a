//! NodeVolumeLimits: no CSI driver of a node has more volumes attached than it says it can.
//!
//! Counterpart: `plugins/nodevolumelimits`. Differs from upstream: volumes of drivers that were moved out of the tree are
//! counted when their PersistentVolume says CSI, not translated.

use std::collections::{BTreeMap, BTreeSet};

use crate::framework::{
    ClusterEvent, Cycle, EventKind, Filter, Plugin, PreFilter, Reasons, Verdict,
};
use crate::listers::Listers;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub struct NodeVolumeLimits;

/// The driver, and what it calls the volume.
type Attached<'a> = BTreeSet<(&'a str, String)>;

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        let wanted = volumes(cycle.pod, cycle.listers);
        if wanted.is_empty() {
            return PreFilter::Skip;
        }
        PreFilter::Check(Box::new(Limits { listers: cycle.listers, wanted }))
    }

    fn hears(&self) -> &'static [EventKind] {
        &[
            EventKind::NodeAdded,
            EventKind::PodLeft,
            EventKind::VolumeClaim,
            EventKind::Volume,
            EventKind::CsiNode,
            EventKind::VolumeAttachment,
        ]
    }

    fn may_help(&self, _: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::PodLeft(left) => !left.claims.is_empty(),
            ClusterEvent::Changed(_) | ClusterEvent::NodeAdded(_) => true,
            _ => false,
        }
    }
}

struct Limits<'a> {
    listers: &'a Listers,
    wanted: Attached<'a>,
}

impl Filter for Limits<'_> {
    fn check(&self, node: &NodeInfo, reasons: &mut Reasons) -> Verdict {
        let Some(limits) = self.listers.csi_nodes.get("", node.name()) else {
            return Verdict::Fits;
        };
        let attached = self.attached(node);
        let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
        for (driver, _) in attached.union(&self.wanted) {
            *counts.entry(driver).or_default() += 1;
        }
        let adds = |driver: &str| {
            self.wanted.iter().any(|volume| volume.0 == driver && !attached.contains(volume))
        };
        let over = |(driver, count): (&&str, &i64)| {
            limits.get(*driver).is_some_and(|limit| count > limit) && adds(driver)
        };
        if counts.iter().any(over) {
            reasons.add("node(s) exceed max volume count");
            return Verdict::Unschedulable;
        }
        Verdict::Fits
    }
}

// === impl Limits ===

impl<'a> Limits<'a> {
    /// What the node's pods use, and what is still attached though nobody uses it.
    fn attached(&self, node: &NodeInfo) -> Attached<'a> {
        let mut attached = Attached::new();
        for pod in node.pods.iter().filter(|pod| !pod.claims.is_empty()) {
            attached.extend(volumes(pod, self.listers));
        }
        let here = self.listers.attachments.iter().filter(|(_, a)| a.node == node.name());
        let volumes = here.filter_map(|(_, a)| self.listers.volumes.get("", &a.volume));
        let named = volumes.filter_map(|volume| volume.csi.as_ref());
        attached.extend(named.map(|(driver, handle)| (driver.as_str(), handle.clone())));
        attached
    }
}

/// The CSI volumes of a pod's claims. One that is not made yet counts for the driver that will make it.
fn volumes<'a>(pod: &PodInfo, listers: &'a Listers) -> Attached<'a> {
    let claims = pod.claims.iter().filter_map(|claim| {
        let known = listers.claims.get(&pod.namespace, &claim.name)?;
        let volume = known.volume.as_ref().and_then(|volume| listers.volumes.get("", volume));
        match volume {
            Some(volume) => volume.csi.as_ref().map(|(driver, name)| (&**driver, name.clone())),
            None => {
                let class = listers.classes.get("", &known.class)?;
                Some((&*class.provisioner, format!("{}/{}", pod.namespace, claim.name)))
            }
        }
    });
    claims.collect()
}
