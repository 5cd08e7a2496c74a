//! Volumes: a pod goes where its bound volumes can be reached, and waits while a claim is not bound.
//!
//! Differs from upstream: claims of a `WaitForFirstConsumer` class do not take part in the choice of the node; they
//! wait, with a message that says so, until a provisioner binds them.

use std::borrow::Cow;

use crate::cluster::{Cluster, ClusterEvent, NodeInfo, Volume};
use crate::framework::{Judge, Plugin, Reason, Reasons};
use crate::pod_info::PodInfo;

pub struct VolumeBinding;

struct Opinion<'a>(Vec<&'a Volume>);

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::StorageChanged, ClusterEvent::NodeAdded, ClusterEvent::NodeLabels]
    }

    fn judge<'a>(
        &self,
        pod: &'a PodInfo,
        cluster: &'a Cluster,
    ) -> Result<Option<Box<dyn Judge + 'a>>, Reason> {
        let mut volumes = Vec::new();
        for name in &pod.claims {
            let claim = cluster.claims.get(&(pod.namespace.clone(), name.clone()));
            let claim = claim
                .ok_or_else(|| Cow::Owned(format!("persistentvolumeclaim {name:?} not found")))?;
            if claim.terminating {
                return Err(Cow::Owned(format!("persistentvolumeclaim {name:?} is being deleted")));
            }
            let Some(volume) = claim.volume.as_ref().filter(|_| claim.bound) else {
                return Err(unbound(
                    claim.class.as_ref().and_then(|class| cluster.classes.get(class)).copied(),
                ));
            };
            volumes.push(cluster.volumes.get(volume).ok_or_else(|| {
                Cow::Owned(format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"))
            })?);
        }
        volumes.retain(|volume| volume.node_terms.is_some());
        Ok((!volumes.is_empty()).then(|| Box::new(Opinion(volumes)) as Box<dyn Judge>))
    }
}

fn unbound(waits_for_consumer: Option<bool>) -> Reason {
    Cow::Borrowed(match waits_for_consumer {
        Some(true) => "pod has unbound PersistentVolumeClaims waiting for a provisioner",
        Some(false) | None => "pod has unbound immediate PersistentVolumeClaims",
    })
}

impl Judge for Opinion<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Reasons> {
        let reaches = |volume: &&Volume| {
            volume.node_terms.iter().flatten().any(|term| term.matches(&node.name, &node.labels))
        };
        match self.0.iter().all(reaches) {
            true => Ok(()),
            false => Err("node(s) had volume node affinity conflict".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{choose, cluster};
    use super::*;

    #[test]
    fn pods_follow_their_volumes() {
        let mut nodes = cluster(
            &["{metadata: {name: a, labels: {h: a}}}", "{metadata: {name: b, labels: {h: b}}}"],
            &[],
        );
        let pod = "{spec: {containers: [], volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}}";
        let check = |nodes: &Cluster| choose(&[&VolumeBinding], nodes, pod);
        assert!(check(&nodes).unwrap_err().contains("persistentvolumeclaim \"data\" not found"));
        let key = || ("ns".to_owned(), "data".to_owned());
        nodes.set_claim(key(), &serde_saphyr::from_str("{spec: {}}").unwrap());
        assert!(
            check(&nodes).unwrap_err().contains("pod has unbound immediate PersistentVolumeClaims")
        );
        nodes.set_claim(
            key(),
            &serde_saphyr::from_str("{spec: {volumeName: pv}, status: {phase: Bound}}").unwrap(),
        );
        let local = "{spec: {nodeAffinity: {required: {nodeSelectorTerms: [
            {matchExpressions: [{key: h, operator: In, values: [b]}]}]}}}}";
        nodes.set_volume("pv".into(), &serde_saphyr::from_str(local).unwrap());
        assert_eq!(check(&nodes).unwrap(), "b");
    }
}
