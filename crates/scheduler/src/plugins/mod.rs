//! One file per plugin, and the list that says which run and in which order.

pub mod dynamic_resources;
mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_balanced_allocation;
mod node_resources_fit;
mod node_unschedulable;
mod node_volume_limits;
mod pod_topology_spread;
mod scheduling_gates;
pub mod taint_toleration;
#[cfg(test)]
mod tests;
pub mod volume_binding;
mod volume_restrictions;
mod volume_zone;

use std::sync::LazyLock;

use crate::framework::{EventKind, Plugin};

/// The default profile. Order is meaning: filters run from the top and the first that turns a node down ends its
/// check, so cheap and decisive ones stand first; a message names the first reason only.
pub const PLUGINS: &[&dyn Plugin] = &[
    &scheduling_gates::SchedulingGates,
    &node_unschedulable::NodeUnschedulable,
    &node_name::NodeName,
    &taint_toleration::TaintToleration,
    &node_affinity::NodeAffinity,
    &node_ports::NodePorts,
    &node_resources_fit::NodeResourcesFit,
    &volume_restrictions::VolumeRestrictions,
    &node_volume_limits::NodeVolumeLimits,
    &volume_binding::VolumeBinding,
    &volume_zone::VolumeZone,
    &pod_topology_spread::PodTopologySpread,
    &inter_pod_affinity::InterPodAffinity,
    &dynamic_resources::DynamicResources,
    &node_resources_balanced_allocation::NodeResourcesBalancedAllocation,
    &image_locality::ImageLocality,
];

/// A set of plugins, by their place in `PLUGINS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PluginSet(u32);

// === impl PluginSet ===

impl PluginSet {
    pub fn all() -> PluginSet {
        PluginSet((1 << PLUGINS.len()) - 1)
    }

    /// Not a plugin: an extender had a say. Whatever happens may change its mind.
    pub const EXTENDERS: PluginSet = PluginSet(1 << 31);

    pub fn one(place: usize) -> PluginSet {
        PluginSet(1 << place)
    }

    /// The plugins that asked to hear of such an event.
    pub fn hearing(kind: EventKind) -> PluginSet {
        static HEARING: LazyLock<[PluginSet; EventKind::COUNT]> = LazyLock::new(|| {
            let mut hearing = [PluginSet::EXTENDERS; EventKind::COUNT];
            for (place, plugin) in PLUGINS.iter().enumerate() {
                plugin.hears().iter().for_each(|kind| hearing[*kind as usize].insert(place));
            }
            hearing
        });
        HEARING[kind as usize]
    }

    /// The plugins that are in both sets.
    pub fn and(self, other: PluginSet) -> PluginSet {
        PluginSet(self.0 & other.0)
    }

    pub fn or(self, other: PluginSet) -> PluginSet {
        PluginSet(self.0 | other.0)
    }

    pub fn insert(&mut self, place: usize) {
        self.0 |= 1 << place;
    }

    pub fn set(&mut self, place: usize, on: bool) {
        self.0 = if on { self.0 | 1 << place } else { self.0 & !(1 << place) };
    }

    pub fn contains(self, place: usize) -> bool {
        self.0 & 1 << place != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = &'static dyn Plugin> {
        let named = PLUGINS.iter().enumerate().filter(move |(place, _)| self.contains(*place));
        named.map(|(_, plugin)| *plugin)
    }
}
