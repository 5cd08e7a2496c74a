//! Which node a claim's directory goes to, what the volume of it looks like, and when both go. Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    LocalVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_api::scheduling::{Labels, Requirement};

use super::PROVISIONER;
use crate::node;
use crate::persistent_volume::facts::{
    self, PROVISIONED_BY, PROVISIONERS, SELECTED_NODE, annotation, claim_class, claim_spec,
    reclaim_policy, reference_of, volume_phase, volume_spec,
};

/// Keeps a volume until its directory is gone.
const FINALIZER: &str = "skiff.dev/host-path-provisioner";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Why a claim cannot be served.
#[derive(Debug, PartialEq)]
pub struct Refusal(pub String);

/// What to do with a volume.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Disposal {
    Keep,
    /// Its user deletes it, and the data is to stay.
    LetGo,
    /// Directory and volume.
    Remove,
}

/// Handed over to this provisioner, and without a volume.
pub fn is_ours(claim: &PersistentVolumeClaim) -> bool {
    PROVISIONERS.iter().any(|key| annotation(&claim.metadata, key) == Some(PROVISIONER))
        && facts::volume_name(claim).is_none()
        && claim.metadata.deletion_timestamp.is_none()
}

pub fn volume_name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default())
}

/// Named so that a person who looks at the node's disk knows whose it is.
pub fn directory(claim: &PersistentVolumeClaim) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let whose = format!("{}_{}", text(&claim.metadata.namespace), text(&claim.metadata.name));
    // A name of a file has room for 255 bytes; the volume's own name makes it unique.
    let whose: String = whose.chars().take(200).collect();
    format!("{}_{whose}", volume_name(claim))
}

/// Whether a directory can be what the claim asks for.
pub fn check(claim: &PersistentVolumeClaim, class: &StorageClass) -> Result<(), Refusal> {
    let spec = claim_spec(claim);
    let refusal = match () {
        () if facts::mode(spec.volume_mode.as_ref()) != "Filesystem" => {
            "a directory cannot be a raw block device"
        }
        () if spec.selector.is_some() => "claim Selector is not supported",
        () if class.mount_options.as_ref().is_some_and(|options| !options.is_empty()) => {
            "mount options are not supported"
        }
        () => return Ok(()),
    };
    Err(Refusal(refusal.to_owned()))
}

/// The node that the scheduler chose; for a class that does not wait, the one that holds the fewest volumes.
pub fn choose_node(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    nodes: &[Arc<Node>],
    volumes: &[Arc<PersistentVolume>],
) -> Result<String, Refusal> {
    if let Some(selected) = annotation(&claim.metadata, SELECTED_NODE) {
        return Ok(selected.to_owned());
    }
    let name = |node: &Arc<Node>| node.metadata.name.clone().unwrap_or_default();
    let held = |node: &str| {
        volumes.iter().filter(|volume| place(volume).is_some_and(|(at, _)| at == node)).count()
    };
    let able = nodes.iter().filter(|node| is_able(node) && is_allowed(node, class)).map(name);
    let chosen = able.min_by_key(|node| (held(node), node.clone()));
    chosen.ok_or_else(|| Refusal("no node is ready to hold the volume".into()))
}

fn is_able(node: &Node) -> bool {
    let schedulable = node.spec.as_ref().is_none_or(|spec| spec.unschedulable != Some(true));
    schedulable && node::is_ready(node)
}

/// Within one of the class's topologies, if it names any.
fn is_allowed(node: &Node, class: &StorageClass) -> bool {
    let none = Labels::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let topologies = class.allowed_topologies.as_deref().unwrap_or_default();
    let within = |term: &k8s_openapi::api::core::v1::TopologySelectorTerm| {
        let mut wanted = term.match_label_expressions.iter().flatten();
        wanted.all(|one| Requirement::is_in(&one.key, one.values.clone()).matches(labels))
    };
    topologies.is_empty() || topologies.iter().any(within)
}

/// The volume that is promised to the claim: `path` of `node`, and of no other.
pub fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: &str,
    path: &str,
) -> PersistentVolume {
    let asked = claim_spec(claim);
    let capacity = asked.resources.as_ref().and_then(|resources| resources.requests.clone());
    let metadata = ObjectMeta {
        name: Some(volume_name(claim)),
        annotations: Some([(PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())].into()),
        finalizers: Some(vec![FINALIZER.to_owned()]),
        ..ObjectMeta::default()
    };
    let spec = PersistentVolumeSpec {
        access_modes: asked.access_modes.clone(),
        capacity,
        claim_ref: Some(reference_of(claim)),
        local: Some(LocalVolumeSource { path: path.to_owned(), fs_type: None }),
        node_affinity: Some(only(node)),
        persistent_volume_reclaim_policy: class.reclaim_policy.clone(),
        storage_class_name: Some(claim_class(claim).to_owned()),
        volume_mode: Some("Filesystem".into()),
        ..PersistentVolumeSpec::default()
    };
    PersistentVolume { metadata, spec: Some(spec), status: None }
}

fn only(node: &str) -> VolumeNodeAffinity {
    let here = NodeSelectorRequirement {
        key: HOSTNAME.into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![here]), ..Default::default() };
    VolumeNodeAffinity { required: Some(NodeSelector { node_selector_terms: vec![term] }) }
}

/// Node and name of the directory behind a volume of this provisioner.
pub fn place(volume: &PersistentVolume) -> Option<(String, String)> {
    let ours = annotation(&volume.metadata, PROVISIONED_BY) == Some(PROVISIONER);
    let spec = volume_spec(volume);
    let required = spec.node_affinity.as_ref()?.required.as_ref()?;
    let term = required.node_selector_terms.first()?.match_expressions.as_ref()?.first()?;
    let node = term.values.as_ref()?.first().filter(|_| ours)?;
    let directory = spec.local.as_ref()?.path.rsplit('/').next()?;
    Some((node.clone(), directory.to_owned()))
}

pub fn disposal(volume: &PersistentVolume) -> Disposal {
    let held = volume.metadata.finalizers.iter().flatten().any(|name| name == FINALIZER);
    let deleted = reclaim_policy(volume) == "Delete";
    match volume_phase(volume) {
        _ if !held || place(volume).is_none() => Disposal::Keep,
        "Released" | "Failed" if deleted => Disposal::Remove,
        "Bound" => Disposal::Keep,
        _ if volume.metadata.deletion_timestamp.is_none() => Disposal::Keep,
        _ if deleted => Disposal::Remove,
        _ => Disposal::LetGo,
    }
}

/// Whoever else holds the volume back.
pub fn other_finalizers(volume: &PersistentVolume) -> Vec<&String> {
    volume.metadata.finalizers.iter().flatten().filter(|name| *name != FINALIZER).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn claim(more: &str) -> PersistentVolumeClaim {
        yaml(&format!(
            "{{metadata: {{name: data, namespace: ns, uid: u, annotations: {{volume.kubernetes.io/storage-provisioner: {PROVISIONER}{more}}}}}, \
             spec: {{accessModes: [ReadWriteOnce], storageClassName: standard, resources: {{requests: {{storage: 1Gi}}}}}}}}"
        ))
    }

    fn class() -> StorageClass {
        yaml(&format!(
            "{{metadata: {{name: standard}}, provisioner: {PROVISIONER}, reclaimPolicy: Delete}}"
        ))
    }

    fn node(name: &str, ready: &str, more: &str) -> Arc<Node> {
        Arc::new(yaml(&format!(
            "{{metadata: {{name: {name}, labels: {{zone: {name}}}}}, spec: {{{more}}}, \
             status: {{conditions: [{{type: Ready, status: '{ready}'}}]}}}}"
        )))
    }

    #[test]
    fn the_chosen_node_is_the_schedulers_or_the_emptiest() {
        let nodes = [
            node("a", "True", ""),
            node("b", "True", ""),
            node("c", "False", ""),
            node("d", "True", "unschedulable: true"),
        ];
        let held = [Arc::new(volume(&claim(""), &class(), "a", "/v/pvc-u_ns_data"))];
        let choose =
            |claim: &_, class: &_, nodes: &[Arc<Node>]| choose_node(claim, class, nodes, &held);
        assert_eq!(choose(&claim(""), &class(), &nodes), Ok("b".into()));
        let selected = claim(", volume.kubernetes.io/selected-node: c");
        assert_eq!(choose(&selected, &class(), &nodes), Ok("c".into()));
        assert!(choose(&claim(""), &class(), &nodes[2..]).is_err());
        let mut zoned = class();
        zoned.allowed_topologies =
            Some(yaml("[{matchLabelExpressions: [{key: zone, values: [a]}]}]"));
        assert_eq!(choose(&claim(""), &zoned, &nodes), Ok("a".into()));
    }

    #[test]
    fn what_a_directory_cannot_be_is_refused() {
        assert_eq!(check(&claim(""), &class()), Ok(()));
        let mut raw = claim("");
        raw.spec.as_mut().unwrap().volume_mode = Some("Block".into());
        assert!(check(&raw, &class()).is_err());
        let mut mounted = class();
        mounted.mount_options = Some(vec!["ro".into()]);
        assert!(check(&claim(""), &mounted).is_err());
    }

    #[test]
    fn a_volume_goes_with_its_claim_when_its_policy_says_so() {
        #[track_caller]
        fn check(phase: &str, policy: &str, deleting: bool, expected: Disposal) {
            let mut volume = volume(&claim(""), &class(), "a", "/v/pvc-u_ns_data");
            assert_eq!(place(&volume), Some(("a".into(), "pvc-u_ns_data".into())));
            volume.spec.as_mut().unwrap().persistent_volume_reclaim_policy = Some(policy.into());
            volume.status = Some(yaml(&format!("{{phase: {phase}}}")));
            volume.metadata.deletion_timestamp = deleting.then(|| yaml("'2026-01-01T00:00:00Z'"));
            assert_eq!(disposal(&volume), expected, "{phase} {policy} {deleting}");
        }
        check("Bound", "Delete", false, Disposal::Keep);
        check("Bound", "Delete", true, Disposal::Keep);
        check("Pending", "Delete", false, Disposal::Keep);
        check("Released", "Delete", false, Disposal::Remove);
        check("Released", "Retain", false, Disposal::Keep);
        check("Released", "Retain", true, Disposal::LetGo);
        check("Available", "Delete", true, Disposal::Remove);
    }
}
