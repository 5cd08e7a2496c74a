//! The rules that all Services of the cluster add up to, and how one change alters the kernel's copy.
//!
//! [`Ruleset::set`] takes a Service's new [`Intent`] and marks the frontends it touches; [`Ruleset::take_delta`] turns
//! those into the elements to delete and to add. Counterpart: the per-chain diffing of pkg/proxy/nftables.
//! Differs from upstream: a frontend is one element of a verdict map and one element per endpoint, addressed by slot
//! number, so there is nothing per Service or per endpoint but elements.
//!
//! Invariant: after a delta is applied, the kernel's elements are exactly `installed`; slots 0..n of a frontend are all
//! filled, and an endpoint changes its slot only to fill a hole.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

use skiff_services::ServiceKey;

use super::plan::{Backend, Clients, Destination, Frontend, Intent, Refusal};
use crate::nft::Protocol;

/// What all frontends with the same number of endpoints and the same treatment share: one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Balancer {
    pub endpoints: u32,
    pub masquerade: bool,
    pub affinity: Option<u32>,
    pub clients: Clients,
    /// The packet's own destination is not part of the frontend.
    pub node_port: bool,
}

/// What the kernel holds for a frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Installed {
    Balanced { balancer: Balancer, slots: Vec<Destination> },
    Refused(Refusal),
}

/// A change of set elements.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Delta {
    pub delete: Elements,
    pub add: Elements,
    /// Frontends that lost an endpoint or gained their first one, with the endpoints they have now.
    pub disturbed: BTreeMap<Frontend, BTreeSet<Destination>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Elements {
    pub balanced: Vec<(Frontend, Balancer)>,
    pub slots: Vec<(Frontend, u32, Destination)>,
    pub refused: Vec<(Frontend, Refusal)>,
    pub hairpin: Vec<Ipv4Addr>,
}

#[derive(Debug, Default)]
pub struct Ruleset {
    intents: HashMap<ServiceKey, Intent>,
    /// Who wants each frontend. Two Services may claim an external address; the first in order has it.
    claims: HashMap<Frontend, BTreeSet<ServiceKey>>,
    local_endpoints: HashMap<Ipv4Addr, usize>,
    installed: HashMap<Frontend, Installed>,
    installed_hairpin: BTreeSet<Ipv4Addr>,
    touched: BTreeSet<Frontend>,
    touched_hairpin: BTreeSet<Ipv4Addr>,
}

// === impl Ruleset ===

impl Ruleset {
    /// Replaces what a Service asks for; an empty intent withdraws it.
    pub fn set(&mut self, key: &ServiceKey, intent: Intent) {
        if self.intents.get(key) == Some(&intent) {
            return;
        }
        if let Some(old) = self.intents.remove(key) {
            self.withdraw(key, &old);
        }
        if intent != Intent::default() {
            self.claim(key, &intent);
            self.intents.insert(key.clone(), intent);
        }
    }

    fn withdraw(&mut self, key: &ServiceKey, intent: &Intent) {
        for frontend in intent.frontends.keys() {
            self.touched.insert(*frontend);
            let claimants =
                self.claims.get_mut(frontend).expect("every frontend of an intent is claimed");
            claimants.remove(key);
            if claimants.is_empty() {
                self.claims.remove(frontend);
            }
        }
        for address in &intent.local_endpoints {
            self.touched_hairpin.insert(*address);
            let count =
                self.local_endpoints.get_mut(address).expect("every local endpoint is counted");
            *count -= 1;
            if *count == 0 {
                self.local_endpoints.remove(address);
            }
        }
    }

    fn claim(&mut self, key: &ServiceKey, intent: &Intent) {
        for frontend in intent.frontends.keys() {
            self.touched.insert(*frontend);
            self.claims.entry(*frontend).or_default().insert(key.clone());
        }
        for address in &intent.local_endpoints {
            self.touched_hairpin.insert(*address);
            *self.local_endpoints.entry(*address).or_default() += 1;
        }
    }

    pub fn services(&self) -> usize {
        self.intents.len()
    }

    /// Declares the kernel's copy empty, so that the next delta writes everything.
    pub fn forget_installed(&mut self) {
        self.installed.clear();
        self.installed_hairpin.clear();
        self.touched = self.claims.keys().copied().collect();
        self.touched_hairpin = self.local_endpoints.keys().copied().collect();
    }

    /// What to change in the kernel. The caller applies it, or calls [`Self::forget_installed`].
    pub fn take_delta(&mut self) -> Delta {
        let mut delta = Delta::default();
        for frontend in std::mem::take(&mut self.touched) {
            let old = self.installed.remove(&frontend);
            let new =
                self.effective(&frontend).map(|backend| install(&frontend, backend, old.as_ref()));
            delta.frontend(frontend, old.as_ref(), new.as_ref());
            self.installed.extend(new.map(|new| (frontend, new)));
        }
        for address in std::mem::take(&mut self.touched_hairpin) {
            self.hairpin(address, &mut delta);
        }
        delta
    }

    fn effective(&self, frontend: &Frontend) -> Option<&Backend> {
        let winner = self.claims.get(frontend)?.first()?;
        self.intents.get(winner)?.frontends.get(frontend)
    }

    fn hairpin(&mut self, address: Ipv4Addr, delta: &mut Delta) {
        if self.local_endpoints.contains_key(&address) {
            if self.installed_hairpin.insert(address) {
                delta.add.hairpin.push(address);
            }
        } else if self.installed_hairpin.remove(&address) {
            delta.delete.hairpin.push(address);
        }
    }
}

fn install(frontend: &Frontend, backend: &Backend, old: Option<&Installed>) -> Installed {
    if backend.endpoints.is_empty() {
        return Installed::Refused(backend.refusal);
    }
    let balancer = Balancer {
        endpoints: u32::try_from(backend.endpoints.len()).expect("there are fewer pods than 2^32"),
        masquerade: backend.masquerade,
        affinity: backend.affinity,
        clients: frontend.clients,
        node_port: frontend.address.is_none(),
    };
    Installed::Balanced {
        balancer,
        slots: assign_slots(old.map_or(&[], Installed::slots), &backend.endpoints),
    }
}

/// Keeps every endpoint that stays in its slot, then fills holes with newcomers, then with those from the end.
fn assign_slots(old: &[Destination], wanted: &BTreeSet<Destination>) -> Vec<Destination> {
    let known: BTreeSet<_> = old.iter().collect();
    let mut newcomers = wanted.iter().filter(|endpoint| !known.contains(endpoint)).copied();
    let kept = old.iter().map(|endpoint| wanted.contains(endpoint).then_some(*endpoint));
    let mut slots: Vec<Option<Destination>> =
        kept.map(|slot| slot.or_else(|| newcomers.next())).collect();
    slots.extend(newcomers.map(Some));
    while let Some(hole) = slots.iter().position(Option::is_none) {
        // A hole at the end fills itself with nothing, and is gone.
        slots.swap_remove(hole);
    }
    slots.into_iter().flatten().collect()
}

impl Installed {
    fn slots(&self) -> &[Destination] {
        match self {
            Self::Balanced { slots, .. } => slots,
            Self::Refused(_) => &[],
        }
    }
}

impl Delta {
    pub fn is_empty(&self) -> bool {
        self.delete == Elements::default() && self.add == Elements::default()
    }

    /// Whether `destination` is no longer where packets for this address (none for a node port) and port go.
    pub fn lost(
        &self,
        address: Option<Ipv4Addr>,
        protocol: Protocol,
        port: u16,
        destination: Destination,
    ) -> bool {
        let at = |clients| self.disturbed.get(&Frontend { clients, address, protocol, port });
        let mut disturbed = [Clients::Any, Clients::Cluster].into_iter().filter_map(at).peekable();
        disturbed.peek().is_some() && disturbed.all(|endpoints| !endpoints.contains(&destination))
    }

    fn frontend(&mut self, frontend: Frontend, old: Option<&Installed>, new: Option<&Installed>) {
        if old == new {
            return;
        }
        let (before, after) = (slots(old), slots(new));
        for slot in 0..before.len().max(after.len()) {
            let (was, is) = (before.get(slot), after.get(slot));
            if was != is {
                let element = |destination: &Destination| (frontend, slot as u32, *destination);
                self.delete.slots.extend(was.map(element));
                self.add.slots.extend(is.map(element));
            }
        }
        if verdict(old) != verdict(new) {
            self.delete.verdict(frontend, old);
            self.add.verdict(frontend, new);
        }
        let now: BTreeSet<_> = after.iter().copied().collect();
        if before.is_empty() || before.iter().any(|endpoint| !now.contains(endpoint)) {
            self.disturbed.insert(frontend, now);
        }
    }
}

fn slots(installed: Option<&Installed>) -> &[Destination] {
    installed.map_or(&[], Installed::slots)
}

fn verdict(installed: Option<&Installed>) -> Option<Result<Balancer, Refusal>> {
    installed.map(|installed| match installed {
        Installed::Balanced { balancer, .. } => Ok(*balancer),
        Installed::Refused(refusal) => Err(*refusal),
    })
}

impl Elements {
    fn verdict(&mut self, frontend: Frontend, installed: Option<&Installed>) {
        match verdict(installed) {
            Some(Ok(balancer)) => self.balanced.push((frontend, balancer)),
            Some(Err(refusal)) => self.refused.push((frontend, refusal)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRONTEND: Frontend = Frontend {
        clients: Clients::Any,
        address: Some(Ipv4Addr::new(10, 96, 0, 10)),
        protocol: Protocol::Tcp,
        port: 80,
    };

    fn key(name: &str) -> ServiceKey {
        ServiceKey { namespace: "default".to_string(), name: name.to_string() }
    }

    fn endpoint(last: u8) -> Destination {
        Destination { address: Ipv4Addr::new(10, 42, 0, last), port: 8080 }
    }

    fn intent(endpoints: &[u8]) -> Intent {
        let endpoints = endpoints.iter().map(|last| endpoint(*last)).collect();
        let backend =
            Backend { endpoints, affinity: None, masquerade: false, refusal: Refusal::Reject };
        Intent {
            frontends: BTreeMap::from([(FRONTEND, backend)]),
            local_endpoints: BTreeSet::new(),
        }
    }

    fn slot(index: u32, last: u8) -> (Frontend, u32, Destination) {
        (FRONTEND, index, endpoint(last))
    }

    #[test]
    fn removing_an_endpoint_moves_only_the_last_one() {
        let mut rules = Ruleset::default();
        rules.set(&key("a"), intent(&[1, 2, 3, 4]));
        assert_eq!(rules.take_delta().add.slots.len(), 4);

        rules.set(&key("a"), intent(&[1, 3, 4]));
        let delta = rules.take_delta();
        assert_eq!(delta.delete.slots, [slot(1, 2), slot(3, 4)]);
        assert_eq!(delta.add.slots, [slot(1, 4)]);
        assert_eq!(delta.add.balanced.len(), 1);
        assert_eq!(delta.disturbed.keys().collect::<Vec<_>>(), [&FRONTEND]);
    }

    #[test]
    fn a_replaced_endpoint_takes_the_slot_and_the_chain_stays() {
        let mut rules = Ruleset::default();
        rules.set(&key("a"), intent(&[1, 2]));
        rules.take_delta();
        rules.set(&key("a"), intent(&[2, 9]));
        let delta = rules.take_delta();
        assert_eq!((delta.delete.slots, delta.add.slots), (vec![slot(0, 1)], vec![slot(0, 9)]));
        assert!(delta.add.balanced.is_empty() && delta.delete.balanced.is_empty());
    }

    #[test]
    fn nothing_changed_means_an_empty_delta() {
        let mut rules = Ruleset::default();
        rules.set(&key("a"), intent(&[1, 2]));
        rules.take_delta();
        rules.set(&key("a"), intent(&[2, 1]));
        assert!(rules.take_delta().is_empty());
        rules.forget_installed();
        assert_eq!(rules.take_delta().add.slots.len(), 2);
    }

    #[test]
    fn without_endpoints_a_frontend_is_refused() {
        let mut rules = Ruleset::default();
        rules.set(&key("a"), intent(&[1]));
        rules.take_delta();
        rules.set(&key("a"), intent(&[]));
        let delta = rules.take_delta();
        assert_eq!(delta.add.refused, [(FRONTEND, Refusal::Reject)]);
        assert_eq!((delta.delete.slots.len(), delta.delete.balanced.len()), (1, 1));
        rules.set(&key("a"), Intent::default());
        assert_eq!(rules.take_delta().delete.refused, [(FRONTEND, Refusal::Reject)]);
        assert_eq!(rules.services(), 0);
    }

    #[test]
    fn a_frontend_claimed_twice_goes_to_the_next_when_its_holder_leaves() {
        let mut rules = Ruleset::default();
        rules.set(&key("b"), intent(&[2]));
        rules.set(&key("a"), intent(&[1]));
        assert_eq!(rules.take_delta().add.slots, [slot(0, 1)]);
        rules.set(&key("a"), Intent::default());
        let delta = rules.take_delta();
        assert_eq!((delta.delete.slots, delta.add.slots), (vec![slot(0, 1)], vec![slot(0, 2)]));
    }

    #[test]
    fn slots_are_dense_and_stable_for_any_change() {
        let all: Vec<u8> = (0..6).collect();
        let subsets = || {
            (0..64u32)
                .map(|bits| all.iter().filter(move |i| bits >> **i & 1 == 1).map(|i| endpoint(*i)))
        };
        for old in subsets() {
            let old: Vec<_> = old.collect();
            for new in subsets() {
                let new: BTreeSet<_> = new.collect();
                let slots = assign_slots(&old, &new);
                assert_eq!(slots.iter().copied().collect::<BTreeSet<_>>(), new);
                assert_eq!(slots.len(), new.len());
                let moved = slots
                    .iter()
                    .zip(&old)
                    .filter(|(is, was)| is != was && new.contains(was))
                    .count();
                assert_eq!(moved, 0, "an endpoint that stays below the new length keeps its slot");
            }
        }
    }
}
