//! ResourceSlices as the scheduler sees them: the devices a driver offers, and from where they can be used.
//!
//! Invariant: attributes and capacities have their full names, `domain/name`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, DeviceTaint, ResourceSlice};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use skiff_api::scheduling::{NodeTerm, node_terms, resources};

use super::DeviceId;
use crate::listers::Listed;
use crate::node_info::NodeInfo;

#[derive(Clone, Debug, Default)]
pub struct SliceInfo {
    pub name: String,
    pub driver: String,
    pub pool: String,
    pub generation: i64,
    /// How many slices of this generation the pool has.
    pub slices: usize,
    /// `None`: every device says for itself.
    pub reach: Option<Reach>,
    pub devices: Vec<DeviceInfo>,
    /// What devices of the pool share: set and counter, with how much there is.
    pub counters: Vec<((String, String), i64)>,
}

#[derive(Clone, Debug)]
pub struct DeviceInfo {
    pub id: DeviceId,
    pub attributes: BTreeMap<String, Attribute>,
    pub capacity: BTreeMap<String, Quantity>,
    pub taints: Vec<DeviceTaint>,
    pub reach: Option<Reach>,
    /// A claim that has it allocated is bound to the node where it was.
    pub binds_to_node: bool,
    /// Somebody must say that it is ready before a pod can be bound.
    pub has_binding_conditions: bool,
    pub shareable: bool,
    /// How much it takes of what the pool's devices share.
    pub consumes: Vec<((String, String), i64)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    Int(i64),
    Bool(bool),
    Text(String),
    Version(String),
    /// Of a kind that is not known here.
    Unknown,
}

/// From which nodes something can be used.
#[derive(Clone, Debug)]
pub enum Reach {
    Node(String),
    All,
    Nodes { terms: Vec<NodeTerm>, selector: NodeSelector },
}

// === impl SliceInfo ===

impl SliceInfo {
    pub fn of(slice: ResourceSlice) -> Listed<SliceInfo> {
        let ResourceSlice { metadata, spec } = slice;
        let (driver, pool) = (spec.driver, spec.pool);
        let devices = spec.devices.into_iter().flatten();
        let facts = SliceInfo {
            name: metadata.name.clone().unwrap_or_default(),
            devices: devices.map(|device| DeviceInfo::of(device, &driver, &pool.name)).collect(),
            generation: pool.generation,
            slices: usize::try_from(pool.resource_slice_count).unwrap_or(usize::MAX),
            reach: Reach::of(spec.node_name, spec.all_nodes, spec.node_selector),
            counters: spec
                .shared_counters
                .into_iter()
                .flatten()
                .flat_map(|set| {
                    let counters = set.counters.into_iter();
                    counters.map(move |(name, counter)| ((set.name.clone(), name), counter.value))
                })
                .map(|(name, value)| (name, resources::value(&value).unwrap_or(0)))
                .collect(),
            driver,
            pool: pool.name,
        };
        Listed::new(metadata, facts)
    }

    /// From where one of its devices can be used.
    pub fn reach_of<'a>(&'a self, device: &'a DeviceInfo) -> Option<&'a Reach> {
        self.reach.as_ref().or(device.reach.as_ref())
    }
}

impl DeviceInfo {
    fn of(device: Device, driver: &str, pool: &str) -> DeviceInfo {
        let full = |name: String| match name.contains('/') {
            true => name,
            false => format!("{driver}/{name}"),
        };
        let consumes = device.consumes_counters.into_iter().flatten().flat_map(|consumed| {
            let counters = consumed.counters.into_iter();
            counters
                .map(move |(name, counter)| ((consumed.counter_set.clone(), name), counter.value))
        });
        let (attributes, capacity) = (device.attributes, device.capacity);
        DeviceInfo {
            attributes: attributes
                .into_iter()
                .flatten()
                .map(|(name, value)| (full(name), Attribute::of(value)))
                .collect(),
            capacity: capacity
                .into_iter()
                .flatten()
                .map(|(name, c)| (full(name), c.value))
                .collect(),
            taints: device.taints.unwrap_or_default(),
            reach: Reach::of(device.node_name, device.all_nodes, device.node_selector),
            binds_to_node: device.binds_to_node == Some(true),
            has_binding_conditions: device.binding_conditions.is_some_and(|all| !all.is_empty()),
            shareable: device.allow_multiple_allocations == Some(true),
            consumes: consumes
                .map(|(name, value)| (name, resources::value(&value).unwrap_or(i64::MAX)))
                .collect(),
            id: DeviceId { driver: driver.into(), pool: pool.into(), device: device.name },
        }
    }
}

// === impl Attribute ===

impl Attribute {
    fn of(attribute: DeviceAttribute) -> Attribute {
        let DeviceAttribute { int, bool, string, version, .. } = attribute;
        let value = int.map(Attribute::Int).or(bool.map(Attribute::Bool));
        let value = value.or(string.map(Attribute::Text)).or(version.map(Attribute::Version));
        value.unwrap_or(Attribute::Unknown)
    }
}

// === impl Reach ===

impl Reach {
    fn of(
        node: Option<String>,
        all: Option<bool>,
        selector: Option<NodeSelector>,
    ) -> Option<Reach> {
        if let Some(node) = node.filter(|node| !node.is_empty()) {
            return Some(Reach::Node(node));
        }
        match selector {
            Some(selector) => Some(Reach::Nodes { terms: node_terms(&selector), selector }),
            None => (all == Some(true)).then_some(Reach::All),
        }
    }

    pub fn includes(&self, node: &NodeInfo) -> bool {
        match self {
            Reach::Node(name) => name == node.name(),
            Reach::All => true,
            Reach::Nodes { terms, .. } => {
                terms.iter().any(|term| term.matches(node.name(), &node.facts.labels))
            }
        }
    }
}
