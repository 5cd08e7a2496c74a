//! What makes a pod of a StatefulSet itself: its ordinal, its name, its labels, its claims.
//!
//! Counterpart: `stateful_set_utils.go`. Pure. Invariant: name, labels and claims follow from set and ordinal alone, so
//! a pod that is made again is the same pod to its peers and finds its data.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodSpec, PodTemplateSpec, Volume,
};

use crate::history::REVISION_LABEL;
use crate::pod_control::pod_from_template;

const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

pub fn spec(set: &StatefulSet) -> &StatefulSetSpec {
    set.spec.as_ref().expect("the API server stores no stateful set without a spec")
}

pub fn set_name(set: &StatefulSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

/// The ordinal of a pod that bears this set's name, none for any other.
pub fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let name = pod.metadata.name.as_deref()?;
    let digits = name.strip_prefix(set_name(set))?.strip_prefix('-')?;
    let ordinal = digits.parse().ok()?;
    (ordinal >= 0 && pod_name(set, ordinal) == name).then_some(ordinal)
}

pub fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set_name(set))
}

pub fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    let volume = template.metadata.name.as_deref().unwrap_or_default();
    format!("{volume}-{}", pod_name(set, ordinal))
}

/// The ordinals that the set wants pods for.
pub fn ordinals(set: &StatefulSet) -> std::ops::Range<i32> {
    let start = spec(set).ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    start..start.saturating_add(spec(set).replicas.unwrap_or(1).max(0))
}

pub fn claim_templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    spec(set).volume_claim_templates.as_deref().unwrap_or_default()
}

pub fn revision(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get(REVISION_LABEL).map(String::as_str)
}

/// The pod of an ordinal, as it has to be created.
pub fn new_pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let mut pod = pod_from_template(template, set);
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(pod_name(set, ordinal));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(REVISION_LABEL.into(), revision.into());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(pod_name(set, ordinal));
    spec.subdomain = self::spec(set).service_name.clone().filter(|name| !name.is_empty());
    identify(set, &mut pod, ordinal);
    pod
}

/// Gives a pod the labels and claims of its ordinal; one that has them stays as it is.
pub fn identify(set: &StatefulSet, pod: &mut Pod, ordinal: i32) {
    let labels = pod.metadata.labels.get_or_insert_default();
    if labels.get(POD_NAME_LABEL) != Some(&pod_name(set, ordinal)) {
        labels.insert(POD_NAME_LABEL.into(), pod_name(set, ordinal));
        labels.insert(POD_INDEX_LABEL.into(), ordinal.to_string());
    }
    let spec = pod.spec.get_or_insert_default();
    if !has_claims(set, spec, ordinal) {
        mount_claims(set, spec, ordinal);
    }
}

fn has_claims(set: &StatefulSet, spec: &PodSpec, ordinal: i32) -> bool {
    claim_templates(set).iter().all(|template| {
        let mounted = spec.volumes.iter().flatten().find(|volume| volume_of(template, volume));
        let source = mounted.and_then(|volume| volume.persistent_volume_claim.as_ref());
        source.is_some_and(|source| source.claim_name == claim_name(set, template, ordinal))
    })
}

fn mount_claims(set: &StatefulSet, spec: &mut PodSpec, ordinal: i32) {
    let templates = claim_templates(set);
    let mut volumes: Vec<Volume> = templates
        .iter()
        .map(|template| Volume {
            name: template.metadata.name.clone().unwrap_or_default(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(set, template, ordinal),
                read_only: None,
            }),
            ..Volume::default()
        })
        .collect();
    // A claim takes the place of a volume of the template with its name.
    let others = spec.volumes.take().into_iter().flatten();
    volumes.extend(others.filter(|volume| !templates.iter().any(|claim| volume_of(claim, volume))));
    spec.volumes = Some(volumes);
}

fn volume_of(template: &PersistentVolumeClaim, volume: &Volume) -> bool {
    template.metadata.name.as_ref() == Some(&volume.name)
}

/// The claims of an ordinal, as they have to be created.
pub fn new_claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let selector: BTreeMap<_, _> = spec(set).selector.match_labels.clone().unwrap_or_default();
    let claims = claim_templates(set).iter().map(|template| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(set, template, ordinal));
        claim.metadata.namespace = set.metadata.namespace.clone();
        claim.metadata.labels.get_or_insert_default().extend(selector.clone());
        claim.status = None;
        claim
    });
    claims.collect()
}
