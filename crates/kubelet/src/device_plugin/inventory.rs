//! Which devices there are, and who has which.
//!
//! What plugins say and what containers were given -> what the node has, and which devices a container may get. Counterpart: the
//! sets of `pkg/kubelet/cm/devicemanager/manager.go` with `pod_devices.go`; the reasons are upstream's.
//! Invariant: pure; a device is with one container at a time, but for init containers, which hand theirs on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use skiff_grpc::Channel;

use super::messages::{ContainerAllocateResponse, Device, DevicePluginOptions};

const HEALTHY: &str = "Healthy";
/// A plugin that is gone may come back within this; then nobody has missed its devices.
const GRACE: Duration = Duration::from_secs(300);

pub type Ids = BTreeSet<String>;

#[derive(Default)]
pub struct Inventory {
    pub resources: BTreeMap<String, Resource>,
    /// By uid, container and resource.
    pub pods: BTreeMap<String, BTreeMap<String, BTreeMap<String, Allocated>>>,
}

/// The devices of one plugin.
#[derive(Default)]
pub struct Resource {
    pub devices: BTreeMap<String, Device>,
    pub plugin: Plugin,
}

#[derive(Default)]
pub enum Plugin {
    Connected(Endpoint),
    /// Since then.
    Left(Instant),
    /// For so long that its devices count no more.
    #[default]
    Forgotten,
}

/// How a plugin is reached. One that registers anew is another.
#[derive(Clone)]
pub struct Endpoint {
    pub channel: Arc<Channel>,
    pub options: DevicePluginOptions,
    pub generation: u64,
}

/// What one container has of one resource.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Allocated {
    /// By NUMA node; `-1` are those of none.
    pub ids: BTreeMap<i64, Ids>,
    pub response: ContainerAllocateResponse,
}

/// How many devices a container asks for, and of what.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    pub uid: &'a str,
    pub container: &'a str,
    pub resource: &'a str,
    pub count: usize,
}

/// The devices that a container may get.
#[derive(Debug, PartialEq, Eq)]
pub struct Choice {
    /// Taken over from containers before it.
    pub taken: Ids,
    /// Free ones, of which `needed` are still to be chosen.
    pub available: Ids,
    pub needed: usize,
}

/// What the node has of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    pub resource: String,
    pub capacity: usize,
    pub allocatable: usize,
}

// === impl Inventory ===

impl Inventory {
    /// Plugins of these resources are there, or were.
    pub fn knows(&self, resource: &str) -> bool {
        self.resources.contains_key(resource)
    }

    pub fn counts(&self, now: Instant) -> Vec<Count> {
        let count = |(name, resource): (&String, &Resource)| {
            let present = !resource.is_forgotten(now);
            Count {
                resource: name.clone(),
                capacity: if present { resource.devices.len() } else { 0 },
                allocatable: resource.healthy().len(),
            }
        };
        self.resources.iter().map(count).collect()
    }

    /// What a container may get; nothing if it has what it asks for. `reusable` were given to containers of the pod that have
    /// ended before this one starts.
    pub fn choose(&self, wish: Wish<'_>, reusable: &Ids) -> Result<Option<Choice>, String> {
        let Wish { uid, container, resource, count } = wish;
        let has = self.allocated(uid, container, resource).map(Allocated::all);
        if let Some(has) = &has
            && has.len() != count
        {
            return Err(format!(
                "pod {uid:?} container {container:?} changed request for resource {resource:?} from {} to {count}",
                has.len()
            ));
        }
        let known = self.resources.get(resource);
        let known =
            known.ok_or_else(|| format!("cannot allocate unregistered device {resource}"))?;
        let healthy = known.healthy();
        if healthy.is_empty() {
            return Err(format!(
                "no healthy devices present; cannot allocate unhealthy devices {resource}"
            ));
        }
        if has.as_ref().is_some_and(|has| !has.is_subset(&healthy)) {
            return Err(format!(
                "previously allocated devices are no longer healthy; cannot allocate unhealthy devices {resource}"
            ));
        }
        if has.is_some() || count == 0 {
            return Ok(None);
        }
        let taken: Ids = reusable.iter().take(count).cloned().collect();
        let needed = count - taken.len();
        let in_use = self.in_use(resource);
        let available: Ids = healthy.difference(&in_use).cloned().collect();
        if available.len() < needed {
            return Err(format!(
                "requested number of devices unavailable for {resource}. Requested: {needed}, Available: {}",
                available.len()
            ));
        }
        Ok(Some(Choice { taken, available, needed }))
    }

    pub fn allocated(&self, uid: &str, container: &str, resource: &str) -> Option<&Allocated> {
        self.pods.get(uid)?.get(container)?.get(resource)
    }

    fn in_use(&self, resource: &str) -> Ids {
        let containers = self.pods.values().flat_map(BTreeMap::values);
        containers.filter_map(|of| of.get(resource)).flat_map(Allocated::all).collect()
    }

    pub fn give(&mut self, wish: Wish<'_>, ids: Ids, response: ContainerAllocateResponse) {
        let devices = self.resources.get(wish.resource).map(|resource| &resource.devices);
        let mut by_node: BTreeMap<i64, Ids> = BTreeMap::new();
        for id in ids {
            let topology = devices.and_then(|devices| devices.get(&id)?.topology.as_ref());
            let nodes = topology.map(|it| it.nodes.iter().map(|node| node.id).collect());
            let nodes: Vec<i64> = nodes.filter(|it: &Vec<i64>| !it.is_empty()).unwrap_or(vec![-1]);
            for node in nodes {
                by_node.entry(node).or_default().insert(id.clone());
            }
        }
        let pod = self.pods.entry(wish.uid.to_owned()).or_default();
        let container = pod.entry(wish.container.to_owned()).or_default();
        container.insert(wish.resource.to_owned(), Allocated { ids: by_node, response });
    }

    /// The plugin of that generation is gone; its devices are not to be had until it comes back.
    pub fn plugin_left(&mut self, name: &str, generation: u64, now: Instant) -> bool {
        let Some(resource) = self.resources.get_mut(name) else { return false };
        let is_it =
            matches!(&resource.plugin, Plugin::Connected(it) if it.generation == generation);
        if is_it {
            resource.plugin = Plugin::Left(now);
        }
        is_it
    }
}

// === impl Resource ===

impl Resource {
    /// Those that may be given out now.
    pub fn healthy(&self) -> Ids {
        match self.plugin {
            Plugin::Connected(_) => {
                let healthy = self.devices.values().filter(|device| device.health == HEALTHY);
                healthy.map(|device| device.id.clone()).collect()
            }
            _ => Ids::new(),
        }
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        match self.plugin {
            Plugin::Connected(_) => false,
            Plugin::Left(since) => now.duration_since(since) >= GRACE,
            Plugin::Forgotten => true,
        }
    }
}

// === impl Allocated ===

impl Allocated {
    pub fn all(&self) -> Ids {
        self.ids.values().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "example.com/dongle";

    fn device(id: &str, health: &str) -> (String, Device) {
        (id.into(), Device { id: id.into(), health: health.into(), topology: None })
    }

    fn inventory(devices: &[(&str, &str)]) -> Inventory {
        let endpoint = Endpoint {
            channel: Arc::new(Channel::unix("/nowhere")),
            options: DevicePluginOptions::default(),
            generation: 7,
        };
        let resource = Resource {
            devices: devices.iter().map(|(id, health)| device(id, health)).collect(),
            plugin: Plugin::Connected(endpoint),
        };
        Inventory { resources: [(NAME.to_owned(), resource)].into(), ..Inventory::default() }
    }

    fn wish(container: &str, count: usize) -> Wish<'_> {
        Wish { uid: "u", container, resource: NAME, count }
    }

    fn ids(ids: &[&str]) -> Ids {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn only_healthy_devices_that_nobody_has_are_given() {
        let mut inventory = inventory(&[("a", HEALTHY), ("b", "Unhealthy"), ("c", HEALTHY)]);
        let choice = inventory.choose(wish("one", 1), &Ids::new()).expect("there are");
        let choice = choice.expect("it has none yet");
        assert_eq!((choice.available, choice.needed), (ids(&["a", "c"]), 1));
        inventory.give(wish("one", 1), ids(&["a"]), ContainerAllocateResponse::default());
        assert_eq!(inventory.choose(wish("one", 1), &Ids::new()), Ok(None), "it has one");
        let error = inventory.choose(wish("two", 2), &Ids::new()).expect_err("too many");
        assert_eq!(
            error,
            "requested number of devices unavailable for example.com/dongle. Requested: 2, Available: 1"
        );
        let count = Count { resource: NAME.into(), capacity: 3, allocatable: 2 };
        assert_eq!(inventory.counts(Instant::now()), [count]);
    }

    #[test]
    fn devices_of_an_init_container_are_handed_on() {
        let mut inventory = inventory(&[("a", HEALTHY)]);
        inventory.give(wish("init", 1), ids(&["a"]), ContainerAllocateResponse::default());
        let choice = inventory.choose(wish("app", 1), &ids(&["a"])).expect("it is free by then");
        let choice = choice.expect("it has none yet");
        assert_eq!((choice.taken, choice.needed), (ids(&["a"]), 0));
    }

    #[test]
    fn a_plugin_that_has_left_has_nothing_to_give_and_is_forgotten_in_time() {
        let mut inventory = inventory(&[("a", HEALTHY)]);
        let now = Instant::now();
        assert!(!inventory.plugin_left(NAME, 6, now), "another has come since");
        assert!(inventory.plugin_left(NAME, 7, now));
        let counted = |inventory: &Inventory, at| {
            let counts = inventory.counts(at);
            (counts[0].capacity, counts[0].allocatable)
        };
        assert_eq!(counted(&inventory, now), (1, 0));
        assert_eq!(counted(&inventory, now + GRACE), (0, 0));
        let error = inventory.choose(wish("app", 1), &Ids::new()).expect_err("none");
        assert!(error.starts_with("no healthy devices present"), "{error}");
        let unknown = Wish { resource: "example.com/other", ..wish("app", 1) };
        let error = inventory.choose(unknown, &Ids::new()).expect_err("none");
        assert_eq!(error, "cannot allocate unregistered device example.com/other");
    }
}
