//! DynamicResources: a pod goes where the devices of its claims are, or where there are devices for them.
//!
//! Claims with an allocation tie the pod to where it can be used; those without are given devices when the node is chosen
//! (`reservations`). Counterpart: `plugins/dynamicresources`. Differs from upstream: what was found at a node while
//! filtering is found again for the one that is chosen, so that nothing is kept for the others; extended resources are
//! not satisfied by device classes.
//! Invariant: a pod is not tried before all its claims are there.

use std::collections::HashSet;

use skiff_api::scheduling::StandsFor;

use crate::devices::{
    Chosen, ClaimInfo, DeviceId, Offer, Question, Reservation, reservation, search,
};
use crate::framework::{
    ClusterEvent, Cycle, EventKind, Filter, Gated, Plugin, PreFilter, Reasons, Score, Verdict,
    normalise_to_highest,
};
use crate::listers::{Key, Listers};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub const NAME: &str = "DynamicResources";

/// A request has so many alternatives at most; the first counts most.
const ALTERNATIVES_MAX: usize = 8;

pub struct DynamicResources;

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pre_enqueue(&self, pod: &PodInfo, listers: &Listers) -> Result<(), Gated> {
        claims(pod, listers).map(drop).map_err(|_| Gated)
    }

    fn filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        if cycle.pod.device_claims.is_empty() {
            return PreFilter::Skip;
        }
        match Needs::of(cycle.pod, cycle.listers) {
            Ok(needs) if needs.is_empty() => PreFilter::Skip,
            Ok(needs) => PreFilter::Check(Box::new(needs)),
            Err(reason) => PreFilter::Reject(reason.into()),
        }
    }

    fn weight(&self) -> i64 {
        2
    }

    /// Only where there is a choice of devices is one node better than another.
    fn score<'a>(&self, cycle: Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        if cycle.pod.device_claims.is_empty() {
            return None;
        }
        let needs = Needs::of(cycle.pod, cycle.listers).ok()?;
        let mut unallocated = needs.unallocated.iter();
        let choice = unallocated.any(|claim| claim.requests.iter().any(|one| one.has_choice));
        choice.then(|| Box::new(needs) as Box<dyn Score>)
    }

    fn hears(&self) -> &'static [EventKind] {
        &[
            EventKind::NodeAdded,
            EventKind::NodeUpdated,
            EventKind::PodUpdated,
            EventKind::ResourceClaim,
            EventKind::ResourceSlice,
            EventKind::DeviceClass,
        ]
    }

    fn may_help(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::NodeUpdated { before, now } => before.labels != now.facts.labels,
            ClusterEvent::ResourceClaim { namespace, name, frees } => {
                *frees || pod.namespace == *namespace && names(pod, name)
            }
            _ => true,
        }
    }
}

fn names(pod: &PodInfo, claim: &str) -> bool {
    pod.device_claims.iter().any(|one| one.claim() == Some(claim))
}

/// The claims of a pod, or what is wrong with one.
fn claims<'a>(pod: &PodInfo, listers: &'a Listers) -> Result<Vec<&'a ClaimInfo>, String> {
    let namespace = &pod.namespace;
    let mut claims: Vec<&ClaimInfo> = Vec::new();
    for entry in &pod.device_claims {
        if entry.stands_for == StandsFor::Awaited {
            return Err(format!("pod \"{namespace}/{}\": ResourceClaim not created yet", pod.name));
        }
        let Some(name) = entry.claim() else { continue };
        let claim = listers.resource_claims.get(namespace, name);
        let claim =
            claim.ok_or_else(|| format!("could not find ResourceClaim \"{namespace}/{name}\""))?;
        if claim.terminating {
            return Err(format!("resourceclaim {name:?} is being deleted"));
        }
        let own = matches!(entry.stands_for, StandsFor::Own(_));
        if own && claim.owner.as_ref() != Some(&pod.uid) {
            return Err(format!(
                "ResourceClaim {namespace}/{name} was not created for Pod {namespace}/{} (Pod is not owner)",
                pod.name
            ));
        }
        if claims.iter().all(|known| known.uid != claim.uid) {
            claims.push(claim);
        }
    }
    Ok(claims)
}

/// What a pod's claims need of a node.
struct Needs<'a> {
    listers: &'a Listers,
    allocated: Vec<&'a ClaimInfo>,
    unallocated: Vec<&'a ClaimInfo>,
    taken: HashSet<&'a DeviceId>,
    offer: Offer<'a>,
}

// === impl Needs ===

impl<'a> Needs<'a> {
    /// The error is why no node will do for now.
    fn of(pod: &PodInfo, listers: &'a Listers) -> Result<Needs<'a>, String> {
        let claims = claims(pod, listers)?;
        let (allocated, unallocated): (Vec<_>, Vec<_>) =
            claims.into_iter().partition(|claim| claim.allocation.is_some());
        unallocated.iter().try_for_each(|claim| can_be_allocated(claim, listers))?;
        let taken = match unallocated.is_empty() {
            true => HashSet::new(),
            false => listers.taken_devices(),
        };
        let slices = listers.resource_slices.iter().map(|(_, slice)| slice);
        let slices = slices.filter(|_| !unallocated.is_empty());
        let offer = Offer::of(slices, &taken);
        Ok(Needs { listers, allocated, unallocated, taken, offer })
    }

    fn is_empty(&self) -> bool {
        self.allocated.is_empty() && self.unallocated.is_empty()
    }

    /// The devices for all claims without any; `None` if the node has too few.
    fn search<'n>(&'n self, node: &'n NodeInfo) -> Result<Option<Vec<Chosen<'n>>>, String> {
        search(Question {
            claims: &self.unallocated,
            classes: &self.listers.device_classes,
            offer: &self.offer,
            taken: &self.taken,
            node,
        })
    }
}

fn can_be_allocated(claim: &ClaimInfo, listers: &Listers) -> Result<(), String> {
    let (namespace, name) = (&claim.namespace, &claim.name);
    if listers.allocating.contains_key(&(namespace.clone(), name.clone())) {
        return Err(format!(
            "resource claim {namespace}/{name} is in the process of being allocated"
        ));
    }
    for request in &claim.requests {
        if request.alternatives.is_empty() {
            let request = &request.name;
            return Err(format!(
                "resource claim {namespace}/{name}, request {request}: unknown request type"
            ));
        }
        for ask in &request.alternatives {
            if listers.device_classes.get("", &ask.class).is_none() {
                let (request, class) = (&ask.reference, &ask.class);
                return Err(format!("request {request}: device class {class} does not exist"));
            }
        }
    }
    Ok(())
}

impl Filter for Needs<'_> {
    fn check(&self, node: &NodeInfo, reasons: &mut Reasons) -> Verdict {
        if !self.allocated.iter().all(|claim| reaches(claim, node)) {
            reasons.add("resourceclaim not available on the node");
            return Verdict::Unresolvable;
        }
        match self.search(node) {
            Ok(Some(_)) => return Verdict::Fits,
            Ok(None) => reasons.add("cannot allocate all claims"),
            Err(why) => reasons.add(why),
        }
        Verdict::Unresolvable
    }
}

impl Score for Needs<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let chosen = self.search(node).ok().flatten().unwrap_or_default();
        let new = self.unallocated.iter().enumerate().map(|(at, claim)| {
            let of_claim = chosen.iter().filter(|device| device.claim == at);
            worth(claim, &of_claim.map(|device| &*device.ask.reference).collect())
        });
        let old = self.allocated.iter().map(|claim| {
            let requests = claim.allocation.iter().flat_map(|allocation| &allocation.requests);
            worth(claim, &requests.map(String::as_str).collect())
        });
        new.chain(old).sum()
    }

    fn normalise(&self, scores: &mut [i64], _: &[&NodeInfo]) {
        normalise_to_highest(scores, false);
    }
}

/// The earlier an alternative stands, the better.
fn worth(claim: &ClaimInfo, chosen: &HashSet<&str>) -> i64 {
    let choices = claim.requests.iter().filter(|request| request.has_choice);
    let alternatives = choices.flat_map(|request| request.alternatives.iter().enumerate());
    let chosen = alternatives.filter(|(_, ask)| chosen.contains(&*ask.reference));
    chosen.map(|(at, _)| (ALTERNATIVES_MAX - at.min(ALTERNATIVES_MAX)) as i64).sum()
}

fn reaches(claim: &ClaimInfo, node: &NodeInfo) -> bool {
    let nodes = claim.allocation.as_ref().and_then(|allocation| allocation.nodes.as_ref());
    nodes.is_none_or(|terms| terms.iter().any(|term| term.matches(node.name(), &node.facts.labels)))
}

/// What must be written into the pod's claims once the node is chosen.
pub fn reservations(pod: &PodInfo, listers: &Listers, node: &NodeInfo) -> Vec<Reservation> {
    if pod.device_claims.is_empty() {
        return Vec::new();
    }
    let Ok(needs) = Needs::of(pod, listers) else { return Vec::new() };
    let chosen = needs.search(node).ok().flatten().unwrap_or_default();
    let new = needs.unallocated.iter().enumerate().map(|(at, claim)| {
        let of_claim: Vec<_> = chosen.iter().filter(|one| one.claim == at).copied().collect();
        reservation(claim, &of_claim, &listers.device_classes, node.name())
    });
    let shared = needs.allocated.iter().filter(|claim| !claim.is_reserved_for(&pod.uid));
    let shared = shared.map(|claim| Reservation {
        namespace: claim.namespace.clone(),
        claim: claim.name.clone(),
        uid: claim.uid.clone(),
        allocation: None,
        devices: Vec::new(),
    });
    new.chain(shared).collect()
}

/// PostFilter: a claim of the pod whose devices are out of reach of some node and that nobody else uses. Without them it
/// can be given others.
pub fn to_deallocate(cycle: Cycle<'_>) -> Option<Key> {
    let claims = claims(cycle.pod, cycle.listers).ok()?;
    let idle = |claim: &&ClaimInfo| claim.reserved_for.iter().all(|uid| *uid == cycle.pod.uid);
    let allocated = claims.into_iter().filter(|claim| claim.allocation.is_some()).filter(idle);
    let mut tied =
        allocated.filter(|claim| cycle.cache.nodes().iter().any(|node| !reaches(claim, node)));
    tied.next().map(|claim| (claim.namespace.clone(), claim.name.clone()))
}
