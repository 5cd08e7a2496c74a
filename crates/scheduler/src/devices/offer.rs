//! What is offered: all slices, gathered to pools, of which only the newest generation counts.
//!
//! Slices and what is allocated in -> per node, its pools with their devices. Counterpart: `pools_*.go`.
//! Invariant: nothing is given out of a pool of which a slice is missing, or which names a device twice.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::DeviceId;
use super::slice::{DeviceInfo, Reach, SliceInfo};
use crate::node_info::NodeInfo;

pub struct Offer<'a> {
    pools: Vec<Pool<'a>>,
    /// Places of the pools whose every device is tied to one node, by that node.
    local: HashMap<&'a str, Vec<usize>>,
    /// Places of all others.
    wide: Vec<usize>,
}

pub struct Pool<'a> {
    pub driver: &'a str,
    pub name: &'a str,
    pub state: PoolState,
    /// By name.
    slices: Vec<&'a SliceInfo>,
    /// What is left of what the pool's devices share.
    pub counters: HashMap<&'a (String, String), i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolState {
    Complete,
    /// The driver is publishing it right now.
    Incomplete,
    /// It contradicts itself.
    Invalid,
}

/// A device that can be used from the node in question.
#[derive(Clone, Copy)]
pub struct Offered<'a> {
    pub device: &'a DeviceInfo,
    pub slice: &'a SliceInfo,
    pub pool: &'a Pool<'a>,
}

// === impl Offer ===

impl<'a> Offer<'a> {
    pub fn of(
        slices: impl Iterator<Item = &'a SliceInfo>,
        taken: &HashSet<&DeviceId>,
    ) -> Offer<'a> {
        let mut pools: BTreeMap<(&str, &str), Vec<&SliceInfo>> = BTreeMap::new();
        for slice in slices {
            let pool = pools.entry((&slice.driver, &slice.pool)).or_default();
            let newest = pool.first().map_or(i64::MIN, |first| first.generation);
            if slice.generation > newest {
                pool.clear();
            }
            if slice.generation >= newest {
                pool.push(slice);
            }
        }
        let pools =
            pools.into_iter().map(|((driver, name), slices)| Pool::of(driver, name, slices, taken));
        let mut offer = Offer { pools: pools.collect(), local: HashMap::new(), wide: Vec::new() };
        for (place, pool) in offer.pools.iter().enumerate() {
            match pool.only_node() {
                Some(node) => offer.local.entry(node).or_default().push(place),
                None => offer.wide.push(place),
            }
        }
        offer
    }

    /// The pools that matter to a node, in the order in which they are drawn from.
    pub fn pools(&self, node: &NodeInfo) -> Vec<&Pool<'a>> {
        let local = self.local.get(node.name()).into_iter().flatten();
        let mut places: Vec<usize> = local.chain(&self.wide).copied().collect();
        places.sort_unstable();
        let pools = places.into_iter().map(|place| &self.pools[place]);
        pools.filter(|pool| pool.matters_to(node)).collect()
    }
}

// === impl Pool ===

impl<'a> Pool<'a> {
    fn of(
        driver: &'a str,
        name: &'a str,
        mut slices: Vec<&'a SliceInfo>,
        taken: &HashSet<&DeviceId>,
    ) -> Pool<'a> {
        slices.sort_by(|one, other| one.name.cmp(&other.name));
        let mut counters: HashMap<_, _> = HashMap::new();
        for (counter, value) in slices.iter().flat_map(|slice| &slice.counters) {
            counters.insert(counter, *value);
        }
        let devices = || slices.iter().flat_map(|slice| &slice.devices);
        for device in devices().filter(|device| taken.contains(&device.id)) {
            for (counter, amount) in &device.consumes {
                if let Some(left) = counters.get_mut(counter) {
                    *left -= amount;
                }
            }
        }
        let mut names = HashSet::new();
        let unique = devices().all(|device| names.insert(&device.id.device));
        let counted = |device: &DeviceInfo| {
            device.consumes.iter().all(|(counter, _)| counters.contains_key(counter))
        };
        let state = match slices.len() == slices.first().map_or(0, |slice| slice.slices) {
            false => PoolState::Incomplete,
            true if unique && devices().all(counted) => PoolState::Complete,
            true => PoolState::Invalid,
        };
        Pool { driver, name, state, counters, slices }
    }

    /// The node to which every slice is tied, if there is one.
    fn only_node(&self) -> Option<&'a str> {
        let mut nodes = self.slices.iter().map(|slice| match &slice.reach {
            Some(Reach::Node(node)) if slice.counters.is_empty() => Some(node.as_str()),
            _ => None,
        });
        let first = nodes.next().flatten()?;
        nodes.all(|node| node == Some(first)).then_some(first)
    }

    fn matters_to(&self, node: &NodeInfo) -> bool {
        self.slices.iter().any(|slice| {
            !slice.counters.is_empty()
                || slice.reach.as_ref().is_some_and(|reach| reach.includes(node))
                || slice.reach.is_none() && slice.devices.iter().any(|one| usable(slice, one, node))
        })
    }

    /// The devices that can be used from the node.
    pub fn devices<'p>(
        &'p self,
        node: &'p NodeInfo,
    ) -> impl Iterator<Item = (&'a SliceInfo, &'a DeviceInfo)> + 'p {
        let all = self.slices.iter().flat_map(|slice| {
            let slice = *slice;
            slice.devices.iter().map(move |device| (slice, device))
        });
        all.filter(|(slice, device)| usable(slice, device, node))
    }
}

fn usable(slice: &SliceInfo, device: &DeviceInfo, node: &NodeInfo) -> bool {
    slice.reach_of(device).is_some_and(|reach| reach.includes(node))
}
