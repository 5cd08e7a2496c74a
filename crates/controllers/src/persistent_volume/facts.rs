//! What claims and volumes say of each other, and whether one would do for the other.
//!
//! Counterpart: `component-helpers/storage/volume`. Pure.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::core::v1::{PersistentVolumeClaimSpec, PersistentVolumeSpec};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_api::quantity::Quantity;
use skiff_api::scheduling::{Labels, Selector};

/// On a claim: its binding is complete. What breaks it afterwards is a loss.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On either side: not its user but this controller chose the other side.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a volume: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: who is to make its volume; the second is what older provisioners read.
pub const PROVISIONERS: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
/// On a claim: the node that the scheduler chose for its first consumer.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a class: claims that name none are of it.
const IS_DEFAULT: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
/// On either side, from before `storageClassName`.
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

static NO_CLAIM: LazyLock<PersistentVolumeClaimSpec> = LazyLock::new(Default::default);
static NO_VOLUME: LazyLock<PersistentVolumeSpec> = LazyLock::new(Default::default);

pub fn claim_spec(claim: &PersistentVolumeClaim) -> &PersistentVolumeClaimSpec {
    claim.spec.as_ref().unwrap_or(&NO_CLAIM)
}

pub fn volume_spec(volume: &PersistentVolume) -> &PersistentVolumeSpec {
    volume.spec.as_ref().unwrap_or(&NO_VOLUME)
}

pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Empty: a claim that is never provisioned for, or a volume of no class.
pub fn claim_class(claim: &PersistentVolumeClaim) -> &str {
    let named = claim_spec(claim).storage_class_name.as_deref();
    annotation(&claim.metadata, BETA_CLASS).or(named).unwrap_or_default()
}

/// Neither a class nor, as an empty name does, that it wants none: the default class may still be filled in.
pub fn names_no_class(claim: &PersistentVolumeClaim) -> bool {
    claim_spec(claim).storage_class_name.is_none()
        && annotation(&claim.metadata, BETA_CLASS).is_none()
}

/// Of the classes marked as default the youngest, then the first by name.
pub fn default_class<C: std::borrow::Borrow<StorageClass>>(classes: &[C]) -> Option<String> {
    let metas = classes.iter().map(|class| &class.borrow().metadata);
    let marked =
        metas.filter(|meta| IS_DEFAULT.iter().any(|key| annotation(meta, key) == Some("true")));
    let order = |meta: &&ObjectMeta| {
        (std::cmp::Reverse(meta.creation_timestamp.as_ref().map(|time| time.0)), meta.name.clone())
    };
    marked.min_by_key(order).and_then(|meta| meta.name.clone())
}

pub fn volume_class(volume: &PersistentVolume) -> &str {
    let named = volume_spec(volume).storage_class_name.as_deref();
    annotation(&volume.metadata, BETA_CLASS).or(named).unwrap_or_default()
}

pub fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim_spec(claim).volume_name.as_deref().filter(|name| !name.is_empty())
}

pub fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume_spec(volume).claim_ref.as_ref()
}

/// The uid that a volume is promised to; none also while only the claim's name is known.
pub fn promised_uid(volume: &PersistentVolume) -> Option<&str> {
    claim_ref(volume)?.uid.as_deref().filter(|uid| !uid.is_empty())
}

/// The claim's whole identity, as a volume that is promised to it holds it.
pub fn reference_of(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolumeClaim".into()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

/// What becomes of the volume's data after its claim.
pub fn reclaim_policy(volume: &PersistentVolume) -> &str {
    volume_spec(volume).persistent_volume_reclaim_policy.as_deref().unwrap_or("Retain")
}

pub fn volume_phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Whether the volume is promised to the claim, by name and, once it is known, by uid.
pub fn is_promised_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|to| {
        to.name == claim.metadata.name
            && to.namespace == claim.metadata.namespace
            && promised_uid(volume).is_none_or(|uid| Some(uid) == claim.metadata.uid.as_deref())
    })
}

/// Whether claims of the class wait until a pod that uses them is being scheduled.
pub fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

fn size(amounts: Option<&BTreeMap<String, resource::Quantity>>) -> Quantity {
    let storage = amounts.and_then(|amounts| amounts.get("storage"));
    storage.and_then(|amount| amount.0.parse().ok()).unwrap_or_default()
}

pub fn volume_size(volume: &PersistentVolume) -> Quantity {
    size(volume_spec(volume).capacity.as_ref())
}

pub fn asked_size(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim_spec(claim).resources.as_ref();
    size(resources.and_then(|resources| resources.requests.as_ref()))
}

/// What a bound claim has by now.
pub fn capacity(claim: &PersistentVolumeClaim) -> Quantity {
    size(claim.status.as_ref().and_then(|status| status.capacity.as_ref()))
}

pub fn mode(of: Option<&String>) -> &str {
    of.map_or("Filesystem", String::as_str)
}

/// Why the volume would not do for a claim that names it; none if it would.
pub fn misfit(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    let (offered, asked) = (volume_spec(volume), claim_spec(claim));
    let named = |name: Option<&String>| name.filter(|name| !name.is_empty()).cloned();
    let attributes = named(offered.volume_attributes_class_name.as_ref())
        == named(asked.volume_attributes_class_name.as_ref());
    let modes = offered.access_modes.as_deref().unwrap_or_default();
    let reason = match () {
        () if volume.metadata.deletion_timestamp.is_some() => {
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            return Some(format!("the volume is marked for deletion {name:?}"));
        }
        () if volume_size(volume) < asked_size(claim) => "requested PV is too small",
        () if volume_class(volume) != claim_class(claim) => "storageClassName does not match",
        () if !attributes => "volumeAttributesClassName does not match",
        () if mode(offered.volume_mode.as_ref()) != mode(asked.volume_mode.as_ref()) => {
            "incompatible volumeMode"
        }
        () if !asked.access_modes.iter().flatten().all(|mode| modes.contains(mode)) => {
            "incompatible accessMode"
        }
        () => return None,
    };
    Some(reason.to_owned())
}

/// Whether the claim's selector, if it has one, chooses the volume.
fn is_selected(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let none = Labels::new();
    let labels = volume.metadata.labels.as_ref().unwrap_or(&none);
    claim_spec(claim).selector.as_ref().is_none_or(|chosen| Selector::of(chosen).matches(labels))
}

/// The volume for an unbound claim: the one already promised to it, else (`any`) the closest fit of those nobody has: fewest
/// access modes beyond what is asked, then smallest.
pub fn best_match<'a, V: std::borrow::Borrow<PersistentVolume>>(
    claim: &PersistentVolumeClaim,
    volumes: &'a [V],
    any: bool,
) -> Option<&'a V> {
    let promised = volumes.iter().find(|volume| {
        let volume = (*volume).borrow();
        let modes = [&volume_spec(volume).volume_mode, &claim_spec(claim).volume_mode];
        is_promised_to(volume, claim)
            && volume.metadata.deletion_timestamp.is_none()
            && volume_size(volume) >= asked_size(claim)
            && mode(modes[0].as_ref()) == mode(modes[1].as_ref())
    });
    let fitting = volumes.iter().filter(|volume| {
        let volume = (*volume).borrow();
        any && claim_ref(volume).is_none()
            && volume_phase(volume) == "Available"
            && is_selected(volume, claim)
            && misfit(volume, claim).is_none()
    });
    let closest = || {
        fitting.min_by_key(|volume| {
            let modes = volume_spec((*volume).borrow()).access_modes.as_ref().map_or(0, Vec::len);
            (modes, volume_size((*volume).borrow()))
        })
    };
    promised.or_else(closest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn claim(spec: &str) -> PersistentVolumeClaim {
        yaml(&format!("{{metadata: {{name: data, namespace: ns, uid: c}}, spec: {{{spec}}}}}"))
    }

    fn volume(name: &str, spec: &str) -> PersistentVolume {
        yaml(&format!(
            "{{metadata: {{name: {name}, labels: {{name: {name}}}}}, spec: {{{spec}}}, status: {{phase: Available}}}}"
        ))
    }

    #[track_caller]
    fn chosen(asked: &str, any: bool, expected: Option<&str>) {
        let volumes = [
            volume("large", "capacity: {storage: 9Gi}, accessModes: [ReadWriteOnce]"),
            volume("many", "capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce, ReadWriteMany]"),
            volume("small", "capacity: {storage: 2Gi}, accessModes: [ReadWriteOnce]"),
            volume(
                "raw",
                "capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], volumeMode: Block",
            ),
            volume(
                "classy",
                "capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], storageClassName: fast",
            ),
            volume(
                "hers",
                "capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], claimRef: {namespace: ns, name: hers}",
            ),
        ];
        let found = best_match(&claim(asked), &volumes, any);
        assert_eq!(found.and_then(|volume| volume.metadata.name.as_deref()), expected, "{asked}");
    }

    #[test]
    fn the_youngest_class_that_is_marked_is_the_default() {
        let class = |name: &str, born: u32, marked: &str| -> StorageClass {
            yaml(&format!(
                "{{metadata: {{name: {name}, creationTimestamp: '202{born}-01-01T00:00:00Z', annotations: {{{marked}}}}}, provisioner: p}}"
            ))
        };
        let (ga, beta) = (
            "storageclass.kubernetes.io/is-default-class: 'true'",
            "storageclass.beta.kubernetes.io/is-default-class: 'true'",
        );
        let classes =
            [class("old", 1, ga), class("b", 2, beta), class("a", 2, ga), class("new", 3, "")];
        assert_eq!(default_class(&classes), Some("a".into()));
        assert_eq!(default_class(&classes[3..]), None);
        assert!(names_no_class(&claim("")));
        assert!(!names_no_class(&claim("storageClassName: ''")));
    }

    #[test]
    fn the_closest_volume_that_nobody_has_is_chosen() {
        let once = "accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}";
        chosen(once, true, Some("small"));
        chosen(once, false, None);
        chosen(
            "accessModes: [ReadWriteMany], resources: {requests: {storage: 1Gi}}",
            true,
            Some("many"),
        );
        chosen("resources: {requests: {storage: 3Gi}}", true, Some("large"));
        chosen("resources: {requests: {storage: 10Gi}}", true, None);
        chosen(&format!("{once}, volumeMode: Block"), true, Some("raw"));
        chosen(&format!("{once}, storageClassName: fast"), true, Some("classy"));
        chosen(&format!("{once}, selector: {{matchLabels: {{name: large}}}}"), true, Some("large"));
    }

    #[test]
    fn a_volume_that_was_promised_by_name_is_taken_whatever_else_there_is() {
        let theirs =
            volume("theirs", "capacity: {storage: 5Gi}, claimRef: {namespace: ns, name: data}");
        let earlier = volume(
            "earlier",
            "capacity: {storage: 5Gi}, claimRef: {namespace: ns, name: data, uid: before}",
        );
        let volumes = [earlier, volume("free", "capacity: {storage: 1Gi}"), theirs];
        let found = best_match(&claim("resources: {requests: {storage: 1Gi}}"), &volumes, false);
        assert_eq!(found.and_then(|volume| volume.metadata.name.as_deref()), Some("theirs"));
    }
}
