//! Which nodes a DaemonSet is for, and the pod that each of them gets.
//!
//! Counterpart: `NodeShouldRunDaemonPod` and `daemonset_util.go`. Pure.
//! Invariant: a pod is pinned to its node by required affinity on the node's name, so the scheduler places it there or
//! nowhere.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
};
use skiff_api::scheduling::{RequiredNodes, tolerates};

use crate::history::REVISION_LABEL;
use crate::pod;
use crate::pod_control::pod_from_template;

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
const TEMPLATE_GENERATION_LABEL: &str = "pod-template-generation";
const NODE_NAME_FIELD: &str = "metadata.name";

/// What daemons bear on any node: they are there to run on nodes in trouble, too.
const BORNE: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const BORNE_ON_HOST_NETWORK: (&str, &str) =
    ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// What a DaemonSet has to do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// Its pods must go.
    None,
    /// Pods that are there stay, no new one comes: a taint keeps them off.
    Stays,
    Runs,
}

pub fn spec(set: &DaemonSet) -> &DaemonSetSpec {
    set.spec.as_ref().expect("the API server stores no daemon set without a spec")
}

pub fn fit(set: &DaemonSet, node: &Node) -> Fit {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let template = spec(set).template.spec.clone().unwrap_or_default();
    let named = template.node_name.as_deref().filter(|named| !named.is_empty());
    let nothing = Default::default();
    let labels = node.metadata.labels.as_ref().unwrap_or(&nothing);
    if named.is_some_and(|named| named != name)
        || !RequiredNodes::of(&template).matches(name, labels)
    {
        return Fit::None;
    }
    let tolerations = with_daemon_tolerations(&template);
    let bears = |effects: &[&str]| {
        let mut taints =
            taints(node).iter().filter(|taint| effects.contains(&taint.effect.as_str()));
        taints.all(|taint| tolerations.iter().any(|toleration| tolerates(toleration, taint)))
    };
    match (bears(&["NoSchedule", "NoExecute"]), bears(&["NoExecute"])) {
        (true, _) => Fit::Runs,
        (false, true) => Fit::Stays,
        (false, false) => Fit::None,
    }
}

pub fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

fn with_daemon_tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let on_host = (spec.host_network == Some(true)).then_some(BORNE_ON_HOST_NETWORK);
    for (key, effect) in BORNE.into_iter().chain(on_host) {
        let borne = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        // One that the user limited in time is limited no more.
        all.retain(|other| !same_taint(other, &borne));
        all.push(borne);
    }
    all
}

fn same_taint(a: &Toleration, b: &Toleration) -> bool {
    (&a.key, &a.operator, &a.effect, &a.value) == (&b.key, &b.operator, &b.effect, &b.value)
}

/// The pod that runs the present template on a node.
pub fn new_pod(set: &DaemonSet, hash: &str, node: &str) -> Pod {
    let mut pod = pod_from_template(&spec(set).template, set);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(REVISION_LABEL.into(), hash.into());
    if let Some(generation) = template_generation(set) {
        labels.insert(TEMPLATE_GENERATION_LABEL.into(), generation.into());
    }
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(with_daemon_tolerations(spec));
    pin(spec, node);
    pod
}

fn template_generation(set: &DaemonSet) -> Option<&str> {
    set.metadata.annotations.as_ref()?.get(TEMPLATE_GENERATION).map(String::as_str)
}

fn pin(spec: &mut PodSpec, node: &str) {
    let by_name = NodeSelectorRequirement {
        key: NODE_NAME_FIELD.into(),
        operator: "In".into(),
        values: Some(vec![node.into()]),
    };
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    let required = &mut affinity.required_during_scheduling_ignored_during_execution;
    // The other terms have chosen the node; for its pod they are settled.
    required.get_or_insert_default().node_selector_terms =
        vec![NodeSelectorTerm { match_fields: Some(vec![by_name]), match_expressions: None }];
}

/// The node a pod runs on or is pinned to.
pub fn node_of(pod: &Pod) -> Option<String> {
    if let Some(name) = pod::node_name(pod) {
        return Some(name.to_owned());
    }
    let pinned = RequiredNodes::of(pod.spec.as_ref()?);
    match pinned.only_names()?.as_slice() {
        [name] => Some((*name).to_owned()),
        _ => None,
    }
}

/// Whether a pod is of the present template.
pub fn is_updated(set: &DaemonSet, hash: &str, pod: &Pod) -> bool {
    let label = |key: &str| pod.metadata.labels.as_ref()?.get(key).map(String::as_str);
    let generation = template_generation(set);
    label(REVISION_LABEL) == Some(hash)
        || (generation.is_some() && label(TEMPLATE_GENERATION_LABEL) == generation)
}
