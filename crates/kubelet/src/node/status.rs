//! The Node object of this machine.
//!
//! Consumes configuration, machine and pressure, emits labels and `v1.NodeStatus`. Counterpart:
//! `pkg/kubelet/nodestatus/setters.go`. Pure; reasons and messages are upstream's.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
        NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus,
        NodeSwapStatus, NodeSystemInfo,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, Time},
    },
};
use serde_json::{Value, json};
use skiff_runtime::{Image, RuntimeFeatures, Version};

use super::machine::Machine;
use crate::{
    config::{KUBELET_VERSION, KubeletConfig},
    device_plugin::inventory::Count,
    eviction::Condition,
};

const MAX_NAMES_PER_IMAGE: usize = 5;

/// What changes while the machine runs.
#[derive(Debug, Clone, Default)]
pub struct Readings {
    pub images: Vec<Image>,
    pub runtime: Option<Version>,
    pub features: RuntimeFeatures,
    /// Why the runtime cannot be used, if it cannot.
    pub runtime_error: Option<String>,
    pub conditions: BTreeSet<Condition>,
    /// The node is about to end.
    pub going: bool,
    /// Unique names of volumes that have to stay attached.
    pub volumes_in_use: Vec<String>,
    /// What plugins offer.
    pub devices: Vec<Count>,
    /// The capacity that the API server knows of, whoever told it.
    pub known_capacity: BTreeMap<String, Quantity>,
}

pub fn node(config: &KubeletConfig, machine: &Machine) -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels(config, machine)),
            annotations: Some(
                [("volumes.kubernetes.io/controller-managed-attach-detach".into(), "true".into())]
                    .into(),
            ),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: config.pod_cidr.clone(),
            pod_cidrs: config.pod_cidr.clone().map(|cidr| vec![cidr]),
            taints: (!config.register_with_taints.is_empty())
                .then(|| config.register_with_taints.clone()),
            ..NodeSpec::default()
        }),
        status: None,
    }
}

pub fn labels(config: &KubeletConfig, machine: &Machine) -> BTreeMap<String, String> {
    let mut labels = config.node_labels.clone();
    let own = [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", machine.architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", machine.architecture),
    ];
    labels.extend(own.map(|(k, v)| (k.to_owned(), v.to_owned())));
    labels
}

/// `previous` gives the transition times of conditions that stay as they were.
pub fn status(
    config: &KubeletConfig,
    machine: &Machine,
    readings: &Readings,
    previous: &NodeStatus,
    now: Timestamp,
) -> NodeStatus {
    let capacity = with_devices(machine.capacity(), readings, |it| it.capacity);
    let mut allocatable = with_devices(machine.allocatable(), readings, |it| it.allocatable);
    allocatable.extend(advertised(&readings.known_capacity, &capacity));
    NodeStatus {
        addresses: Some(addresses(config)),
        allocatable: Some(allocatable),
        capacity: Some(capacity),
        conditions: Some(conditions(readings, previous, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: config.port.into() }),
        }),
        features: Some(NodeFeatures {
            supplemental_groups_policy: Some(readings.features.supplemental_groups_policy),
        }),
        images: Some(images(&readings.images, config.status_max_images)),
        node_info: Some(node_info(machine, readings)),
        runtime_handlers: Some(vec![default_handler(&readings.features)]),
        volumes_in_use: volumes_in_use(readings, previous),
        ..NodeStatus::default()
    }
}

/// A resource whose plugin is gone is told of with none, since the API server would keep what it knows.
fn with_devices(
    mut resources: BTreeMap<String, Quantity>,
    readings: &Readings,
    number: fn(&Count) -> usize,
) -> BTreeMap<String, Quantity> {
    let devices = readings.devices.iter();
    resources.extend(devices.map(|it| (it.resource.clone(), Quantity(number(it).to_string()))));
    resources
}

/// What an administrator has patched into the capacity: all of it may be given to pods.
fn advertised(
    known: &BTreeMap<String, Quantity>,
    own: &BTreeMap<String, Quantity>,
) -> BTreeMap<String, Quantity> {
    let others = known.iter().filter(|(resource, _)| !own.contains_key(*resource));
    others.map(|(resource, quantity)| (resource.clone(), quantity.clone())).collect()
}

/// The one of pods that name no RuntimeClass.
fn default_handler(features: &RuntimeFeatures) -> NodeRuntimeHandler {
    NodeRuntimeHandler {
        name: Some(String::new()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
            user_namespaces: Some(features.user_namespaces),
        }),
    }
}

/// A node that never had any says nothing of them.
fn volumes_in_use(readings: &Readings, previous: &NodeStatus) -> Option<Vec<String>> {
    let worth_telling = !readings.volumes_in_use.is_empty() || previous.volumes_in_use.is_some();
    worth_telling.then(|| readings.volumes_in_use.clone())
}

fn addresses(config: &KubeletConfig) -> Vec<NodeAddress> {
    let address = |type_: &str, address: String| NodeAddress { address, type_: type_.into() };
    let ips = config.node_ips.iter().map(|ip| address("InternalIP", ip.to_string()));
    ips.chain([address("Hostname", config.node_name.clone())]).collect()
}

/// The largest ones, as many as are to be told of.
fn images(images: &[Image], most: Option<usize>) -> Vec<ContainerImage> {
    let mut images: Vec<&Image> = images.iter().collect();
    images.sort_by_key(|i| (std::cmp::Reverse(i.size), i.id.clone()));
    let shown = images.into_iter().take(most.unwrap_or(usize::MAX)).map(|image| ContainerImage {
        names: Some(
            image
                .repo_digests
                .iter()
                .chain(&image.repo_tags)
                .take(MAX_NAMES_PER_IMAGE)
                .cloned()
                .collect(),
        ),
        size_bytes: i64::try_from(image.size).ok(),
    });
    shown.collect()
}

fn node_info(machine: &Machine, readings: &Readings) -> NodeSystemInfo {
    let runtime = readings.runtime.as_ref();
    NodeSystemInfo {
        architecture: machine.architecture.into(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version: runtime
            .map(|v| format!("{}://{}", v.runtime_name, v.runtime_version))
            .unwrap_or_default(),
        kernel_version: machine.kernel_version.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: KUBELET_VERSION.into(),
        machine_id: machine.machine_id.clone(),
        operating_system: "linux".into(),
        os_image: machine.os_image.clone(),
        system_uuid: machine.system_uuid.clone(),
        swap: i64::try_from(machine.swap_bytes)
            .ok()
            .filter(|bytes| *bytes > 0)
            .map(|bytes| NodeSwapStatus { capacity: Some(bytes) }),
    }
}

fn conditions(readings: &Readings, previous: &NodeStatus, now: Timestamp) -> Vec<NodeCondition> {
    let going = readings.going.then(|| "node is shutting down".to_owned());
    let ready = match going.or(readings.runtime_error.clone()) {
        None => ("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned()),
        Some(why) => ("Ready", false, "KubeletNotReady", why),
    };
    let pressure =
        |condition: Condition, reasons: (&'static str, &'static str), what: (&str, &str)| {
            let on = readings.conditions.contains(&condition);
            let (reason, what) = if on { (reasons.0, what.0) } else { (reasons.1, what.1) };
            (condition.name(), on, reason, format!("kubelet has {what}"))
        };
    let memory = pressure(
        Condition::Memory,
        ("KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"),
        ("insufficient memory available", "sufficient memory available"),
    );
    let disk = pressure(
        Condition::Disk,
        ("KubeletHasDiskPressure", "KubeletHasNoDiskPressure"),
        ("disk pressure", "no disk pressure"),
    );
    let pid = pressure(
        Condition::Pid,
        ("KubeletHasInsufficientPID", "KubeletHasSufficientPID"),
        ("insufficient PID available", "sufficient PID available"),
    );
    [memory, disk, pid, ready].map(|c| condition(c, previous, now)).into()
}

fn condition(
    (kind, on, reason, message): (&str, bool, &str, String),
    previous: &NodeStatus,
    now: Timestamp,
) -> NodeCondition {
    let status = if on { "True" } else { "False" };
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let before =
        previous.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == status);
    NodeCondition {
        last_heartbeat_time: Some(now.clone()),
        last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or(Some(now)),
        message: Some(message),
        reason: Some(reason.into()),
        status: status.into(),
        type_: kind.into(),
    }
}

/// Whether two statuses say the same, heartbeats aside.
pub fn same(a: &NodeStatus, b: &NodeStatus) -> bool {
    let bare = |s: &NodeStatus| {
        let mut s = s.clone();
        s.conditions.iter_mut().flatten().for_each(|c| c.last_heartbeat_time = None);
        s
    };
    bare(a) == bare(b)
}

/// The patch that makes `wanted` of what was reported. Conditions and resources of other owners stay, but what is no
/// longer allocatable has to be named.
pub fn patch(reported: &NodeStatus, wanted: &NodeStatus) -> Value {
    let mut body = json!({ "status": wanted });
    let lost = |resource: &&String| {
        !wanted.allocatable.as_ref().is_some_and(|now| now.contains_key(*resource))
    };
    for resource in reported.allocatable.iter().flat_map(BTreeMap::keys).filter(lost) {
        body["status"]["allocatable"][resource] = Value::Null;
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions_move_only_on_a_flip() {
        let (t0, t1) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(60).expect("a time"));
        let first = NodeStatus {
            conditions: Some(conditions(&Readings::default(), &NodeStatus::default(), t0)),
            ..NodeStatus::default()
        };
        let readings = Readings { conditions: [Condition::Memory].into(), ..Readings::default() };
        let second = conditions(&readings, &first, t1);
        let changed: Vec<&str> = second
            .iter()
            .filter(|c| c.last_transition_time == Some(Time(t1)))
            .map(|c| c.type_.as_str())
            .collect();
        assert_eq!(changed, ["MemoryPressure"]);
        assert_eq!(second[0].reason.as_deref(), Some("KubeletHasInsufficientMemory"));
        assert_eq!((second[3].type_.as_str(), second[3].status.as_str()), ("Ready", "True"));
    }

    fn quantities(of: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
        of.iter().map(|(name, value)| ((*name).into(), Quantity((*value).into()))).collect()
    }

    #[test]
    fn what_was_patched_into_the_capacity_could_not_be_asked_for() {
        let config = KubeletConfig::new("node", Vec::new());
        let known_capacity = quantities(&[("cpu", "64000"), ("example.com/dongle", "4")]);
        let readings = Readings { known_capacity, ..Readings::default() };
        let (machine, none) = (Machine::read(&config), NodeStatus::default());
        let told = status(&config, &machine, &readings, &none, Timestamp::UNIX_EPOCH);
        let allocatable = told.allocatable.expect("a node says what it has");
        assert_eq!(allocatable.get("example.com/dongle"), Some(&Quantity("4".into())));
        assert_eq!(allocatable.get("cpu"), machine.allocatable().get("cpu"));
    }

    #[test]
    fn what_left_the_capacity_leaves_what_is_allocatable() {
        let with = |resources| NodeStatus {
            allocatable: Some(quantities(resources)),
            ..NodeStatus::default()
        };
        let (before, after) =
            (with(&[("cpu", "2"), ("example.com/dongle", "4")]), with(&[("cpu", "2")]));
        let allocatable = |body: Value| body["status"]["allocatable"].clone();
        let gone = json!({ "cpu": "2", "example.com/dongle": null });
        assert_eq!(allocatable(patch(&before, &after)), gone);
        assert_eq!(allocatable(patch(&after, &after)), json!({ "cpu": "2" }));
    }
}
