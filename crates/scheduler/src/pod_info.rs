//! Everything scheduling wants to know of a pod, decided once when the pod is seen.
//!
//! API object in, integers and compiled selectors out; the object itself is not kept. Counterpart: `framework.PodInfo`.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Affinity, Container, Pod, PodAffinityTerm, PodSpec, Toleration, TopologySpreadConstraint,
    WeightedPodAffinityTerm,
};

use crate::resources::{Resources, pod_requests, pod_requests_for_scoring};
use crate::selectors::{Labels, NodeTerm, Requirement, Selector};

#[derive(Clone, Debug, Default)]
pub struct PodInfo {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub resource_version: Option<String>,
    pub labels: Labels,
    pub created: Timestamp,
    pub priority: i32,
    pub scheduler_name: String,
    /// Where the pod runs already, or must run because it says so.
    pub node_name: Option<String>,
    pub gated: bool,
    pub terminating: bool,
    pub finished: bool,
    pub requests: Resources,
    pub scoring_requests: Resources,
    pub ports: Vec<HostPort>,
    pub images: Vec<String>,
    pub tolerations: Vec<Toleration>,
    pub node_affinity: NodeAffinity,
    pub pod_affinity: PodAffinity,
    pub spread: Vec<Spread>,
    /// Names of PersistentVolumeClaims; generic ephemeral volumes by the name their claim will have.
    pub claims: Vec<String>,
    /// Kind, name of the managing owner.
    pub owner: Option<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

#[derive(Clone, Debug, Default)]
pub struct NodeAffinity {
    pub selector: Selector,
    /// Some: at least one must match, so an empty list matches nothing.
    pub required: Option<Vec<NodeTerm>>,
    pub preferred: Vec<(i64, NodeTerm)>,
}

#[derive(Clone, Debug, Default)]
pub struct PodAffinity {
    pub required: Vec<PodTerm>,
    pub required_anti: Vec<PodTerm>,
    /// Weight is negative for anti-affinity.
    pub preferred: Vec<(i64, PodTerm)>,
}

#[derive(Clone, Debug)]
pub struct PodTerm {
    pub selector: Selector,
    pub namespaces: Vec<String>,
    pub namespace_selector: Selector,
    pub topology_key: String,
}

#[derive(Clone, Debug)]
pub struct Spread {
    pub max_skew: i64,
    pub topology_key: String,
    /// DoNotSchedule, against ScheduleAnyway.
    pub required: bool,
    pub selector: Selector,
    pub min_domains: i64,
    pub honor_affinity: bool,
    pub honor_taints: bool,
}

// === impl PodInfo ===

impl PodInfo {
    pub fn new(pod: &Pod) -> PodInfo {
        let meta = &pod.metadata;
        let nothing = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&nothing);
        let labels = meta.labels.clone().unwrap_or_default();
        let namespace = meta.namespace.clone().unwrap_or_default();
        let name = meta.name.clone().unwrap_or_default();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let owner =
            meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        PodInfo {
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone(),
            created: meta.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            priority: spec.priority.unwrap_or(0),
            scheduler_name: spec
                .scheduler_name
                .clone()
                .unwrap_or_else(|| "default-scheduler".into()),
            node_name: spec.node_name.clone().filter(|node| !node.is_empty()),
            gated: spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()),
            terminating: meta.deletion_timestamp.is_some(),
            finished: matches!(phase, Some("Succeeded" | "Failed")),
            requests: pod_requests(pod),
            scoring_requests: pod_requests_for_scoring(pod),
            ports: host_ports(spec),
            images: containers(spec).filter_map(|container| container.image.clone()).collect(),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            node_affinity: node_affinity(spec),
            pod_affinity: pod_affinity(spec.affinity.as_ref(), &namespace, &labels),
            spread: spec
                .topology_spread_constraints
                .iter()
                .flatten()
                .map(|c| spread(c, &labels))
                .collect(),
            claims: claims(spec, &name),
            owner: owner.map(|owner| (owner.kind.clone(), owner.name.clone())),
            labels,
            namespace,
            name,
        }
    }

    pub fn arc(pod: &Pod) -> Arc<PodInfo> {
        Arc::new(PodInfo::new(pod))
    }
}

// === impl PodTerm ===

impl PodTerm {
    /// Whether the term is about this pod; `namespace_labels` are those of the pod's namespace.
    pub fn matches(&self, pod: &PodInfo, namespace_labels: &Labels) -> bool {
        let namespace = self.namespaces.contains(&pod.namespace)
            || self.namespace_selector.matches(namespace_labels);
        namespace && self.selector.matches(&pod.labels)
    }
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars =
        sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports =
        sidecars.chain(&spec.containers).flat_map(|container| container.ports.iter().flatten());
    let host = spec.host_network == Some(true);
    ports
        .filter_map(|port| {
            let number =
                port.host_port.filter(|port| *port > 0).or(host.then_some(port.container_port))?;
            Some(HostPort {
                ip: port
                    .host_ip
                    .clone()
                    .filter(|ip| !ip.is_empty())
                    .unwrap_or_else(|| "0.0.0.0".into()),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                port: number,
            })
        })
        .collect()
}

fn node_affinity(spec: &PodSpec) -> NodeAffinity {
    let selector = spec.node_selector.as_ref().map(Selector::from_map).unwrap_or_default();
    let Some(affinity) =
        spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref())
    else {
        return NodeAffinity { selector, ..NodeAffinity::default() };
    };
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref();
    let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
    NodeAffinity {
        selector,
        required: required.map(|required| {
            required.node_selector_terms.iter().filter_map(NodeTerm::new).collect()
        }),
        preferred: preferred
            .filter_map(|term| Some((i64::from(term.weight), NodeTerm::new(&term.preference)?)))
            .collect(),
    }
}

fn pod_affinity(affinity: Option<&Affinity>, namespace: &str, labels: &Labels) -> PodAffinity {
    let mut all = PodAffinity::default();
    let Some(affinity) = affinity else { return all };
    let term = |term: &PodAffinityTerm| pod_term(term, namespace, labels);
    let weighted = |sign: i64, weighted: &WeightedPodAffinityTerm| {
        (
            sign * i64::from(weighted.weight),
            pod_term(&weighted.pod_affinity_term, namespace, labels),
        )
    };
    if let Some(with) = &affinity.pod_affinity {
        all.required.extend(
            with.required_during_scheduling_ignored_during_execution.iter().flatten().map(term),
        );
        let preferred = with.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        all.preferred.extend(preferred.map(|term| weighted(1, term)));
    }
    if let Some(against) = &affinity.pod_anti_affinity {
        all.required_anti.extend(
            against.required_during_scheduling_ignored_during_execution.iter().flatten().map(term),
        );
        let preferred =
            against.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        all.preferred.extend(preferred.map(|term| weighted(-1, term)));
    }
    all
}

fn pod_term(term: &PodAffinityTerm, namespace: &str, labels: &Labels) -> PodTerm {
    let mut selector = Selector::from_labels(term.label_selector.as_ref());
    require_label_keys(&mut selector, term.match_label_keys.as_deref(), "In", labels);
    require_label_keys(&mut selector, term.mismatch_label_keys.as_deref(), "NotIn", labels);
    let mut namespaces = term.namespaces.clone().unwrap_or_default();
    if namespaces.is_empty() && term.namespace_selector.is_none() {
        namespaces.push(namespace.to_owned());
    }
    PodTerm {
        selector,
        namespaces,
        namespace_selector: Selector::from_labels(term.namespace_selector.as_ref()),
        topology_key: term.topology_key.clone(),
    }
}

fn require_label_keys(
    selector: &mut Selector,
    keys: Option<&[String]>,
    operator: &str,
    labels: &Labels,
) {
    for key in keys.into_iter().flatten() {
        if let Some(value) = labels.get(key) {
            selector.require(Requirement::new(key, operator, std::slice::from_ref(value)));
        }
    }
}

fn spread(constraint: &TopologySpreadConstraint, labels: &Labels) -> Spread {
    let mut selector = Selector::from_labels(constraint.label_selector.as_ref());
    require_label_keys(&mut selector, constraint.match_label_keys.as_deref(), "In", labels);
    Spread {
        max_skew: i64::from(constraint.max_skew),
        topology_key: constraint.topology_key.clone(),
        required: constraint.when_unsatisfiable == "DoNotSchedule",
        selector,
        min_domains: constraint.min_domains.map_or(1, i64::from),
        honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
        honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
    }
}

fn claims(spec: &PodSpec, pod: &str) -> Vec<String> {
    let volumes = spec.volumes.iter().flatten();
    let named = |volume: &k8s_openapi::api::core::v1::Volume| {
        let claim = volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone());
        claim.or_else(|| volume.ephemeral.as_ref().map(|_| format!("{pod}-{}", volume.name)))
    };
    volumes.filter_map(named).collect()
}
