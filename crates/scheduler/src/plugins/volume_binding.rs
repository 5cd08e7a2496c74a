//! VolumeBinding: a pod goes where its volumes are, or where volumes for its claims can be.
//!
//! Counterpart: `plugins/volumebinding`. Bound claims tie the pod to their volumes' nodes; claims that wait for their
//! first consumer are given a volume, or are marked for provisioning, when the node is chosen (`claim_steps`).
//! Invariant: a volume is promised to one claim only.

use skiff_api::scheduling::{NodeTerm, Selector};

use crate::framework::{
    ClusterEvent, Cycle, EventKind, Filter, Plugin, PreFilter, Reasons, Verdict,
};
use crate::listers::{Capacity, Claim, Class, Listers, Volume};
use crate::node_info::NodeInfo;
use crate::pod_info::{ClaimName, PodInfo};

const NO_VOLUME: &str = "node(s) didn't find available persistent volumes to bind";

pub struct VolumeBinding;

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        if cycle.pod.claims.is_empty() {
            return PreFilter::Skip;
        }
        match Claims::of(cycle.pod, cycle.listers) {
            Ok(claims) => PreFilter::Check(Box::new(claims)),
            Err(reason) => PreFilter::Reject(reason.into()),
        }
    }

    fn hears(&self) -> &'static [EventKind] {
        &[
            EventKind::NodeAdded,
            EventKind::NodeUpdated,
            EventKind::VolumeClaim,
            EventKind::Volume,
            EventKind::StorageClass,
            EventKind::CsiNode,
            EventKind::CsiDriver,
            EventKind::StorageCapacity,
        ]
    }

    fn may_help(&self, _: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::Changed(_) | ClusterEvent::NodeAdded(_) => true,
            ClusterEvent::NodeUpdated { before, now } => before.labels != now.facts.labels,
            _ => false,
        }
    }
}

/// The claims of a pod, looked up.
struct Claims<'a> {
    listers: &'a Listers,
    bound: Vec<&'a Volume>,
    /// Bound to a volume that is not there.
    lost: bool,
    waiting: Vec<Waiting<'a>>,
}

/// A claim whose volume is chosen together with the node.
struct Waiting<'a> {
    name: &'a str,
    claim: &'a Claim,
}

/// What must be written before the pod can be bound.
#[derive(Debug, PartialEq)]
pub enum ClaimStep {
    /// Promise an existing volume to the claim, as long as the volume is what it was.
    Promise { volume: String, version: String, claim: String, uid: String },
    /// Have a volume made for the claim at the node.
    Provision { claim: String },
}

// === impl Claims ===

impl<'a> Claims<'a> {
    /// The error is why no node will do for now.
    fn of(pod: &'a PodInfo, listers: &'a Listers) -> Result<Claims<'a>, String> {
        let mut claims = Claims { listers, bound: Vec::new(), lost: false, waiting: Vec::new() };
        let mut immediate = false;
        for ClaimName { name, ephemeral } in &pod.claims {
            let claim = listers.claims.get(&pod.namespace, name).ok_or_else(|| match ephemeral {
                true => format!(
                    "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                ),
                false => format!("persistentvolumeclaim {name:?} not found"),
            })?;
            if claim.terminating {
                return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            let volume = claim.volume.as_ref().filter(|_| claim.bound);
            match volume.map(|volume| listers.volumes.get("", volume)) {
                Some(Some(volume)) => claims.bound.push(volume),
                Some(None) => claims.lost = true,
                // Named by its user: the volume controller binds it, whatever the class says.
                None if claim.volume.is_some() || !waits(claim, listers) => immediate = true,
                None => claims.waiting.push(Waiting { name, claim }),
            }
        }
        match immediate {
            true => Err("pod has unbound immediate PersistentVolumeClaims".into()),
            false => Ok(claims),
        }
    }

    /// How every waiting claim would get its volume at the node, or why one cannot.
    fn steps(&self, node: &NodeInfo) -> Result<Vec<ClaimStep>, &'static str> {
        let mut steps: Vec<ClaimStep> = Vec::new();
        for waiting in &self.waiting {
            let taken = |volume: &str| {
                steps.iter().any(
                    |step| matches!(step, ClaimStep::Promise { volume: name, .. } if name == volume),
                )
            };
            let step = match self.smallest_match(waiting.claim, node, taken) {
                Some((name, volume)) => ClaimStep::Promise {
                    volume: name.to_owned(),
                    version: volume.resource_version.clone(),
                    claim: waiting.name.to_owned(),
                    uid: waiting.claim.uid.clone(),
                },
                None => {
                    self.can_provision(waiting.claim, node)?;
                    ClaimStep::Provision { claim: waiting.name.to_owned() }
                }
            };
            steps.push(step);
        }
        Ok(steps)
    }

    fn smallest_match(
        &self,
        claim: &Claim,
        node: &NodeInfo,
        taken: impl Fn(&str) -> bool,
    ) -> Option<(&'a str, &'a Volume)> {
        let volumes = self.listers.volumes.iter();
        let fitting = volumes.filter(|((_, name), volume)| {
            volume.available && !taken(name) && suits(volume, claim) && reaches(volume, node)
        });
        let smallest = fitting.min_by_key(|(_, volume)| volume.size);
        smallest.map(|((_, name), volume)| (name.as_str(), volume))
    }

    fn can_provision(&self, claim: &Claim, node: &NodeInfo) -> Result<(), &'static str> {
        let class = self.listers.classes.get("", &claim.class).ok_or(NO_VOLUME)?;
        let here = |topologies: &Vec<Selector>| {
            topologies.iter().any(|topology| topology.matches(&node.facts.labels))
        };
        // A provisioner cannot make a volume to match labels.
        let able = class.provisions
            && claim.selector.0.is_empty()
            && class.topologies.as_ref().is_none_or(here);
        match able {
            false => Err(NO_VOLUME),
            true if self.has_room(class, claim, node) => Ok(()),
            true => Err("node(s) did not have enough free storage"),
        }
    }

    /// Only drivers that publish what is left are asked.
    fn has_room(&self, class: &Class, claim: &Claim, node: &NodeInfo) -> bool {
        let driver = self.listers.csi_drivers.get("", &class.provisioner);
        if driver.is_none_or(|driver| !driver.storage_capacity) {
            return true;
        }
        let suffices = |capacity: &Capacity| {
            let near = |nodes: &Selector| nodes.matches(&node.facts.labels);
            capacity.class == claim.class
                && capacity.limit.is_some_and(|limit| limit >= claim.size)
                && capacity.nodes.as_ref().is_some_and(near)
        };
        self.listers.capacities.iter().any(|(_, capacity)| suffices(capacity))
    }
}

impl Filter for Claims<'_> {
    fn check(&self, node: &NodeInfo, reasons: &mut Reasons) -> Verdict {
        if self.lost {
            reasons
                .add("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)");
            return Verdict::Unresolvable;
        }
        if !self.bound.iter().all(|volume| reaches(volume, node)) {
            reasons.add("node(s) didn't match PersistentVolume's node affinity");
            return Verdict::Unresolvable;
        }
        match self.steps(node) {
            Err(reason) => {
                reasons.add(reason);
                Verdict::Unresolvable
            }
            Ok(_) => Verdict::Fits,
        }
    }
}

/// What must be written for the pod's claims once the node is chosen. Empty if all are bound.
pub fn claim_steps(pod: &PodInfo, listers: &Listers, node: &NodeInfo) -> Vec<ClaimStep> {
    let claims = Claims::of(pod, listers).ok();
    claims.and_then(|claims| claims.steps(node).ok()).unwrap_or_default()
}

/// Whether every claim of the pod has its volume.
pub fn all_bound(pod: &PodInfo, listers: &Listers) -> bool {
    Claims::of(pod, listers).is_ok_and(|claims| claims.waiting.is_empty())
}

fn waits(claim: &Claim, listers: &Listers) -> bool {
    listers.classes.get("", &claim.class).is_some_and(|class| class.waits_for_consumer)
}

fn reaches(volume: &Volume, node: &NodeInfo) -> bool {
    let any = |terms: &Vec<NodeTerm>| {
        terms.iter().any(|term| term.matches(node.name(), &node.facts.labels))
    };
    volume.node_terms.as_ref().is_none_or(any)
}

fn suits(volume: &Volume, claim: &Claim) -> bool {
    volume.class == claim.class
        && volume.volume_mode == claim.volume_mode
        && volume.size >= claim.size
        && claim.access_modes.iter().all(|mode| volume.access_modes.contains(mode))
        && claim.selector.matches(&volume.labels)
}
