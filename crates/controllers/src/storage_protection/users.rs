//! Who uses a claim, a volume or an attribute class.
//!
//! Objects in -> names of what they hold on to. Counterpart: `podUsesPVC`, `getPVCReferencedVACNames`. Pure.
//! Invariant: a pod that was placed on a node uses its claims until it is gone, however it ended.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};

use crate::pod;

/// A pod without a node does not count: no node starts a pod whose claim is being deleted.
pub fn uses_claim(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    if node.is_empty() {
        return false;
    }
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.any(|volume| {
        let named = volume.persistent_volume_claim.as_ref();
        named.is_some_and(|source| source.claim_name == name)
            || (volume.ephemeral.is_some()
                && owns(pod, claim)
                && pod::claim_of_ephemeral(pod, &volume.name) == name)
    })
}

/// Whether a claim was made for this pod, rather than being there before under the same name.
fn owns(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let owners = claim.metadata.owner_references.iter().flatten();
    let mut controllers = owners.filter(|owner| owner.controller == Some(true));
    controllers.any(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref())
}

pub fn is_bound(volume: &PersistentVolume) -> bool {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

/// The class a claim asks for, has, and is on its way to.
pub fn classes_of_claim(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &str> {
    let asked = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let status = claim.status.as_ref();
    let has = status.and_then(|status| status.current_volume_attributes_class_name.as_deref());
    let target = status
        .and_then(|status| status.modify_volume_status.as_ref())
        .and_then(|modify| modify.target_volume_attributes_class_name.as_deref());
    [asked, has, target].into_iter().flatten().filter(|name| !name.is_empty())
}

pub fn class_of_volume(volume: &PersistentVolume) -> Option<&str> {
    let name = volume.spec.as_ref()?.volume_attributes_class_name.as_deref()?;
    Some(name).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn a_pod_on_a_node_uses_what_it_names_and_what_was_made_for_it() {
        let claim: PersistentVolumeClaim = yaml(
            "{metadata: {name: p-data, ownerReferences: [{apiVersion: v1, kind: Pod, name: p, uid: u, controller: true}]}}",
        );
        let foreign: PersistentVolumeClaim = yaml("{metadata: {name: p-data}}");
        let pod = |node: &str, volume: &str| -> Pod {
            yaml(&format!(
                "{{metadata: {{name: p, uid: u}}, spec: {{containers: [], {node} volumes: [{volume}]}}, status: {{phase: Succeeded}}}}"
            ))
        };
        let named = "{name: v, persistentVolumeClaim: {claimName: p-data}}";
        let made = "{name: data, ephemeral: {}}";
        assert!(uses_claim(&pod("nodeName: n,", named), &foreign));
        assert!(!uses_claim(&pod("", named), &foreign), "not placed");
        assert!(uses_claim(&pod("nodeName: n,", made), &claim));
        assert!(!uses_claim(&pod("nodeName: n,", made), &foreign), "somebody else's");
        assert!(!uses_claim(&pod("nodeName: n,", "{name: v, emptyDir: {}}"), &claim));
        let claims: Vec<String> = pod::claims(&pod("", &format!("{named}, {made}"))).collect();
        assert_eq!(claims, ["p-data", "p-data"]);
    }

    #[test]
    fn a_claim_holds_every_class_it_is_with_or_on_its_way_to() {
        let claim: PersistentVolumeClaim = yaml(
            "{spec: {volumeAttributesClassName: a}, status: {currentVolumeAttributesClassName: b,
               modifyVolumeStatus: {status: InProgress, targetVolumeAttributesClassName: c}}}",
        );
        assert_eq!(classes_of_claim(&claim).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(classes_of_claim(&yaml("{}")).count(), 0);
        let volume: PersistentVolume = yaml("{spec: {volumeAttributesClassName: ''}}");
        assert_eq!(class_of_volume(&volume), None);
    }
}
