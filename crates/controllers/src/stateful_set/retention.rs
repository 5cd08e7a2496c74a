//! Who takes a claim along when it goes: nobody, the StatefulSet, or the pod that a scale-down ends.
//!
//! Counterpart: the claim owner references of `stateful_set_utils.go`. Pure.
//! Invariant: references of others are never touched, and a claim that somebody else controls is left to them.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;

use super::identity::{ordinal, ordinals, spec};
use crate::claims::reference_to;

/// The references that the claim of a pod should have, or none if they are right as they are.
pub fn corrected(
    set: &StatefulSet,
    pod: &Pod,
    claim: &PersistentVolumeClaim,
) -> Option<Vec<OwnerReference>> {
    let present = claim.metadata.owner_references.as_deref().unwrap_or_default();
    // Left by an earlier pod or set of this name: the collector is about to take the claim.
    if is_stale(present, set) || is_stale(present, pod) {
        return None;
    }
    let mut wanted: Vec<OwnerReference> = present
        .iter()
        .filter(|reference| !names(reference, set) && !names(reference, pod))
        .cloned()
        .collect();
    if !wanted.iter().any(|reference| reference.controller == Some(true)) {
        wanted.extend(owner(set, pod));
    }
    (!same(present, &wanted)).then_some(wanted)
}

/// The reference for the claim of a pod that is about to be created.
pub fn initial(set: &StatefulSet) -> Option<OwnerReference> {
    deletes(set, When::Deleted).then(|| reference_to(set))
}

/// Whether a claim belongs to a pod of the same name that is no more: its collection has to be waited for.
pub fn awaits_collection(set: &StatefulSet, pod_name: &str, claim: &PersistentVolumeClaim) -> bool {
    let mut references = claim.metadata.owner_references.iter().flatten();
    deletes(set, When::Scaled)
        && references.any(|reference| reference.kind == "Pod" && reference.name == pod_name)
}

/// Someone other than set and pod controls the claim, although the policy asks to have it deleted.
pub fn is_foreign(set: &StatefulSet, pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let mut references = claim.metadata.owner_references.iter().flatten();
    (deletes(set, When::Deleted) || deletes(set, When::Scaled))
        && references.any(|reference| {
            let ours = names(reference, set) || names(reference, pod);
            reference.controller == Some(true) && !ours
        })
}

#[derive(Clone, Copy)]
enum When {
    Deleted,
    Scaled,
}

fn deletes(set: &StatefulSet, when: When) -> bool {
    let policy = spec(set).persistent_volume_claim_retention_policy.as_ref();
    let what = policy.and_then(|policy| match when {
        When::Deleted => policy.when_deleted.as_deref(),
        When::Scaled => policy.when_scaled.as_deref(),
    });
    what == Some("Delete")
}

fn owner(set: &StatefulSet, pod: &Pod) -> Option<OwnerReference> {
    let scaled_down = !ordinal(set, pod).is_some_and(|at| ordinals(set).contains(&at));
    if scaled_down && deletes(set, When::Scaled) {
        return Some(reference_to(pod));
    }
    deletes(set, When::Deleted).then(|| reference_to(set))
}

fn names<K: Resource<DynamicType = ()>>(reference: &OwnerReference, object: &K) -> bool {
    reference.kind == K::kind(&())
        && reference.api_version == K::api_version(&())
        && Some(&reference.name) == object.meta().name.as_ref()
}

fn is_stale<K: Resource<DynamicType = ()>>(references: &[OwnerReference], object: &K) -> bool {
    references.iter().any(|reference| {
        names(reference, object) && Some(&reference.uid) != object.meta().uid.as_ref()
    })
}

fn same(present: &[OwnerReference], wanted: &[OwnerReference]) -> bool {
    let key = |reference: &OwnerReference| (reference.uid.clone(), reference.controller);
    present.len() == wanted.len()
        && wanted.iter().all(|one| present.iter().any(|other| key(one) == key(other)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn set(deleted: &str, scaled: &str) -> StatefulSet {
        yaml(&format!(
            "{{metadata: {{name: web, uid: set}}, spec: {{replicas: 2, selector: {{}}, template: {{}},
               persistentVolumeClaimRetentionPolicy: {{whenDeleted: {deleted}, whenScaled: {scaled}}}}}}}"
        ))
    }

    fn pod(ordinal: i32) -> Pod {
        yaml(&format!("{{metadata: {{name: web-{ordinal}, uid: pod-{ordinal}}}}}"))
    }

    fn claim(references: &str) -> PersistentVolumeClaim {
        yaml(&format!("{{metadata: {{name: data-web-0, ownerReferences: [{references}]}}}}"))
    }

    fn owners(set: &StatefulSet, pod: &Pod, claim: &PersistentVolumeClaim) -> Option<Vec<String>> {
        let references = corrected(set, pod, claim)?;
        Some(references.into_iter().map(|reference| reference.uid).collect())
    }

    const SET: &str =
        "{apiVersion: apps/v1, kind: StatefulSet, name: web, uid: set, controller: true}";
    const POD_0: &str = "{apiVersion: v1, kind: Pod, name: web-0, uid: pod-0, controller: true}";

    #[test]
    fn each_policy_names_its_owner() {
        let table = [
            ("Retain", "Retain", 0, None),
            ("Retain", "Retain", 2, None),
            ("Delete", "Retain", 0, Some("set")),
            ("Delete", "Retain", 2, Some("set")),
            ("Retain", "Delete", 0, None),
            ("Retain", "Delete", 2, Some("pod-2")),
            ("Delete", "Delete", 0, Some("set")),
            ("Delete", "Delete", 2, Some("pod-2")),
        ];
        for (deleted, scaled, at, owner) in table {
            let found = owners(&set(deleted, scaled), &pod(at), &claim(""));
            let wanted = owner.map(|owner| vec![owner.to_owned()]);
            assert_eq!(found, wanted, "whenDeleted {deleted}, whenScaled {scaled}, pod {at}");
        }
    }

    #[test]
    fn a_changed_policy_takes_its_references_back() {
        let retain = set("Retain", "Retain");
        assert_eq!(owners(&retain, &pod(0), &claim(SET)), Some(vec![]));
        assert_eq!(owners(&retain, &pod(0), &claim(POD_0)), Some(vec![]));
        assert_eq!(owners(&set("Delete", "Retain"), &pod(0), &claim(SET)), None);
    }

    #[test]
    fn references_of_others_stay() {
        let other = "{apiVersion: v1, kind: ConfigMap, name: c, uid: other}";
        let found = owners(&set("Delete", "Retain"), &pod(0), &claim(other));
        assert_eq!(found, Some(vec!["other".into(), "set".into()]));
        let controller = "{apiVersion: v1, kind: ConfigMap, name: c, uid: other, controller: true}";
        assert_eq!(owners(&set("Delete", "Retain"), &pod(0), &claim(controller)), None);
        assert!(is_foreign(&set("Delete", "Retain"), &pod(0), &claim(controller)));
    }

    #[test]
    fn a_claim_of_an_earlier_pod_is_waited_for() {
        let stale = "{apiVersion: v1, kind: Pod, name: web-0, uid: earlier, controller: true}";
        assert_eq!(owners(&set("Delete", "Delete"), &pod(0), &claim(stale)), None);
        assert!(awaits_collection(&set("Retain", "Delete"), "web-0", &claim(stale)));
        assert!(!awaits_collection(&set("Retain", "Retain"), "web-0", &claim(stale)));
    }
}
