//! VolumeZone: a pod goes to the zones its volumes are labelled with.
//!
//! Counterpart: `plugins/volumezone`. Volumes of today say it by node affinity, which VolumeBinding heeds.

use crate::framework::{
    ClusterEvent, Cycle, EventKind, Filter, Plugin, PreFilter, Reasons, Verdict,
};
use crate::listers::ZONE_LABELS;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub struct VolumeZone;

type Zones<'a> = Vec<&'a (String, Vec<String>)>;

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        match zones(cycle) {
            Err(reason) => PreFilter::Reject(reason.into()),
            Ok(zones) if zones.is_empty() => PreFilter::Skip,
            Ok(zones) => PreFilter::Check(Box::new(InZones(zones))),
        }
    }

    fn hears(&self) -> &'static [EventKind] {
        &[
            EventKind::NodeAdded,
            EventKind::NodeUpdated,
            EventKind::VolumeClaim,
            EventKind::Volume,
            EventKind::StorageClass,
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

/// What the pod's volumes ask of a node's zone; the error is why no node will do. Claims without a volume are the
/// business of VolumeBinding, which stands before.
fn zones(cycle: Cycle<'_>) -> Result<Zones<'_>, String> {
    let mut zones = Vec::new();
    for claim in cycle.pod.claims.iter().filter(|claim| !claim.ephemeral) {
        let known = cycle.listers.claims.get(&cycle.pod.namespace, &claim.name);
        let Some(name) = known.and_then(|claim| claim.volume.as_deref()) else { continue };
        let volume = cycle.listers.volumes.get("", name);
        let volume = volume.ok_or_else(|| format!("persistentvolume {name:?} not found"))?;
        zones.extend(&volume.zones);
    }
    Ok(zones)
}

struct InZones<'a>(Zones<'a>);

impl Filter for InZones<'_> {
    fn check(&self, node: &NodeInfo, reasons: &mut Reasons) -> Verdict {
        let labels = &node.facts.labels;
        // A cluster without zones puts no constraint on anything.
        if !ZONE_LABELS.iter().any(|key| labels.contains_key(*key)) {
            return Verdict::Fits;
        }
        let inside = |(key, values): &&(String, Vec<String>)| {
            let value = labels.get(key).or_else(|| labels.get(today(key)));
            value.is_some_and(|value| values.contains(value))
        };
        if self.0.iter().all(inside) {
            return Verdict::Fits;
        }
        reasons.add("node(s) had no available volume zone");
        Verdict::Unresolvable
    }
}

/// The name that a label of old has today.
fn today(key: &str) -> &str {
    match key {
        "failure-domain.beta.kubernetes.io/zone" => "topology.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region" => "topology.kubernetes.io/region",
        key => key,
    }
}
