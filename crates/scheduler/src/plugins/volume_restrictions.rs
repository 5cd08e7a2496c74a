//! VolumeRestrictions: disks that pods of a node cannot share, and claims that one pod of the cluster has to itself.
//!
//! Counterpart: `plugins/volumerestrictions`.

use crate::framework::{
    ClusterEvent, Cycle, EventKind, Filter, Plugin, PreFilter, Reasons, Verdict,
};
use crate::listers::Listers;
use crate::node_info::NodeInfo;
use crate::pod_info::{Disk, PodInfo};

pub struct VolumeRestrictions;

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        let pod = cycle.pod;
        if pod.disks.is_empty() && pod.claims.is_empty() {
            return PreFilter::Skip;
        }
        let exclusive = match exclusive_claims(pod, cycle.listers) {
            Ok(exclusive) => exclusive,
            Err(missing) => return PreFilter::Reject(missing.into()),
        };
        let placed = cycle.cache.nodes().iter().flat_map(|node| &node.pods);
        let users = match exclusive.is_empty() {
            true => 0,
            false => placed.map(|other| uses(other, &pod.namespace, &exclusive)).sum(),
        };
        if pod.disks.is_empty() && users == 0 {
            return PreFilter::Skip;
        }
        PreFilter::Check(Box::new(Restricted { pod, exclusive, users }))
    }

    fn hears(&self) -> &'static [EventKind] {
        &[EventKind::NodeAdded, EventKind::PodLeft, EventKind::VolumeClaim]
    }

    fn may_help(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::PodLeft(left) => {
                shares(&pod.disks, &left.disks)
                    || pod.namespace == left.namespace
                        && left.claims.iter().any(|claim| pod.claims.contains(claim))
            }
            ClusterEvent::NodeAdded(_) => !pod.disks.is_empty(),
            ClusterEvent::Changed(_) => true,
            _ => false,
        }
    }
}

struct Restricted<'a> {
    pod: &'a PodInfo,
    exclusive: Vec<&'a str>,
    /// How many uses of exclusive claims there are by placed pods.
    users: i64,
}

impl Filter for Restricted<'_> {
    fn check(&self, node: &NodeInfo, reasons: &mut Reasons) -> Verdict {
        if node.pods.iter().any(|other| shares(&self.pod.disks, &other.disks)) {
            reasons.add("node(s) had no available disk");
            return Verdict::Unschedulable;
        }
        if self.users > 0 {
            reasons.add(
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
            );
            return Verdict::Unschedulable;
        }
        Verdict::Fits
    }

    fn shift(&mut self, other: &PodInfo, _: &NodeInfo, by: i64) {
        self.users += by * uses(other, &self.pod.namespace, &self.exclusive);
    }
}

fn shares(disks: &[Disk], others: &[Disk]) -> bool {
    disks.iter().any(|disk| others.iter().any(|other| disk.conflicts(other)))
}

/// The pod's claims that only one pod may use; the error names one that is not there.
fn exclusive_claims<'a>(pod: &'a PodInfo, listers: &Listers) -> Result<Vec<&'a str>, String> {
    let mut exclusive = Vec::new();
    for claim in pod.claims.iter().filter(|claim| !claim.ephemeral) {
        let name = claim.name.as_str();
        let known = listers.claims.get(&pod.namespace, name);
        let known = known.ok_or_else(|| format!("persistentvolumeclaim {name:?} not found"))?;
        if known.access_modes.iter().any(|mode| mode == "ReadWriteOncePod") {
            exclusive.push(name);
        }
    }
    Ok(exclusive)
}

fn uses(other: &PodInfo, namespace: &str, exclusive: &[&str]) -> i64 {
    if other.namespace != namespace {
        return 0;
    }
    let named = |claim: &&crate::pod_info::ClaimName| exclusive.contains(&claim.name.as_str());
    other.claims.iter().filter(named).count() as i64
}
