//! Finding devices at one node for all claims of a pod: every order is tried until one works out.
//!
//! Claims without an allocation, classes and the node's pools in -> the devices of each claim, nothing, or the reason why
//! the question makes no sense. Requests come in order, alternatives best first, devices in the order of their pools, so
//! that the first solution is the wanted one. Counterpart: `allocator_*.go`.
//! Invariant: what was tried and did not work out leaves no trace.

use std::collections::HashSet;

use k8s_openapi::api::resource::v1::DeviceTaint;
use skiff_api::scheduling::{resources, tolerates_device};

use super::claim::{Amount, Ask, ClaimInfo, ClassInfo, Constraint, Request, Rule};
use super::offer::{Offer, Offered, Pool, PoolState};
use super::slice::Attribute;
use super::{DeviceId, selector::Selector};
use crate::listers::Lister;
use crate::node_info::NodeInfo;

/// As many devices fit into the status of a claim.
const RESULTS_MAX: usize = 32;

/// How many devices are tried before the search is given up.
const TRIES_MAX: usize = 200_000;

/// A device for a claim.
#[derive(Clone, Copy)]
pub struct Chosen<'a> {
    pub claim: usize,
    pub request: &'a Request,
    pub ask: &'a Ask,
    pub offered: Offered<'a>,
}

/// What is asked, of whom and where.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    pub claims: &'a [&'a ClaimInfo],
    pub classes: &'a Lister<ClassInfo>,
    pub offer: &'a Offer<'a>,
    pub taken: &'a HashSet<&'a DeviceId>,
    pub node: &'a NodeInfo,
}

/// The devices of all claims, in order of claims and their requests; `None` when there are not enough.
pub fn search<'a>(question: Question<'a>) -> Result<Option<Vec<Chosen<'a>>>, String> {
    let pools = question.offer.pools(question.node);
    let mut search = Search { question, wanted: Vec::new(), chosen: Vec::new(), tries: 0 };
    for claim in question.claims {
        let requests = claim.requests.iter();
        let wanted = requests.map(|request| {
            let asks = request.alternatives.iter();
            asks.map(|ask| candidates(question, &pools, claim, ask)).collect()
        });
        search.wanted.push(wanted.collect::<Result<_, String>>()?);
    }
    if search.claim(0) {
        return Ok(Some(search.chosen));
    }
    if search.tries >= TRIES_MAX {
        let node = question.node.name();
        return Err(format!("node {node}: timed out trying to allocate devices"));
    }
    match pools.iter().any(|pool| pool.state == PoolState::Invalid) {
        true => Err("invalid resource pools were encountered".into()),
        false => Ok(None),
    }
}

/// The devices that match an ask, taken or not.
fn candidates<'a>(
    question: Question<'a>,
    pools: &[&'a Pool<'a>],
    claim: &ClaimInfo,
    ask: &Ask,
) -> Result<Vec<Offered<'a>>, String> {
    let at = || format!("claim {}/{}", claim.namespace, claim.name);
    let missing = || {
        format!(
            "{}, request {}: could not retrieve device class {}",
            at(),
            ask.reference,
            ask.class
        )
    };
    let class = question.classes.get("", &ask.class).ok_or_else(missing)?;
    let mut found = Vec::new();
    for pool in pools {
        let state = match pool.state {
            PoolState::Complete => None,
            PoolState::Incomplete => Some("being updated"),
            PoolState::Invalid => Some("invalid"),
        };
        match state {
            Some(state) if ask.amount == Amount::All => {
                let pool = format!("{}/{}", pool.driver, pool.name);
                let asks = format!("{}, request {}: asks for all devices", at(), ask.reference);
                return Err(format!("{asks}, but resource pool {pool} is currently {state}"));
            }
            Some(_) => continue,
            None => {}
        }
        for (slice, device) in pool.devices(question.node) {
            let offered = Offered { device, slice, pool };
            if !device.has_binding_conditions
                && selected(&class.selectors, offered, || format!("class {}", ask.class))?
                && selected(&ask.selectors, offered, at)?
                && holds(ask, offered)
            {
                found.push(offered);
            }
        }
    }
    Ok(found)
}

fn selected(
    selectors: &[std::sync::Arc<Selector>],
    offered: Offered<'_>,
    of: impl Fn() -> String,
) -> Result<bool, String> {
    for (at, selector) in selectors.iter().enumerate() {
        let selects = selector.selects(offered.device);
        if !selects.map_err(|why| format!("{}: selector #{at}: {why}", of()))? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn holds(ask: &Ask, offered: Offered<'_>) -> bool {
    ask.capacity.iter().all(|(name, needed)| {
        let full = match name.contains('/') {
            true => name.clone(),
            false => format!("{}/{name}", offered.device.id.driver),
        };
        let size = offered.device.capacity.get(&full).and_then(resources::value);
        size.is_some_and(|size| size >= *needed)
    })
}

struct Search<'a> {
    question: Question<'a>,
    /// The devices that match, by claim, request and alternative.
    wanted: Vec<Vec<Vec<Vec<Offered<'a>>>>>,
    chosen: Vec<Chosen<'a>>,
    tries: usize,
}

/// Where the search stands: an alternative of a request of a claim.
#[derive(Clone, Copy)]
struct Place {
    claim: usize,
    request: usize,
    alternative: usize,
}

// === impl Search ===

impl<'a> Search<'a> {
    fn claim(&mut self, claim: usize) -> bool {
        claim == self.question.claims.len() || self.request(claim, 0)
    }

    fn request(&mut self, claim: usize, request: usize) -> bool {
        let Some(asked) = self.question.claims[claim].requests.get(request) else {
            return self.claim(claim + 1);
        };
        (0..asked.alternatives.len()).any(|alternative| {
            let place = Place { claim, request, alternative };
            match asked.alternatives[alternative].amount {
                Amount::Exactly(count) => self.some(place, 0, count),
                Amount::All => self.all(place),
            }
        })
    }

    /// `left` more of the candidates from `from` on, and then whatever comes after.
    fn some(&mut self, place: Place, from: usize, left: usize) -> bool {
        if left == 0 {
            return self.request(place.claim, place.request + 1);
        }
        let end = self.candidates(place).len();
        for at in from..end {
            if end - at < left {
                return false;
            }
            if self.choose(place, at) {
                if self.some(place, at + 1, left - 1) {
                    return true;
                }
                self.chosen.pop();
            }
        }
        false
    }

    /// Every candidate, and then whatever comes after.
    fn all(&mut self, place: Place) -> bool {
        let before = self.chosen.len();
        let count = self.candidates(place).len();
        let found = count > 0
            && (0..count).all(|at| self.choose(place, at))
            && self.request(place.claim, place.request + 1);
        if !found {
            self.chosen.truncate(before);
        }
        found
    }

    fn candidates(&self, place: Place) -> &[Offered<'a>] {
        &self.wanted[place.claim][place.request][place.alternative]
    }

    /// Takes the candidate, if nothing speaks against it.
    fn choose(&mut self, place: Place, at: usize) -> bool {
        self.tries += 1;
        let request = &self.question.claims[place.claim].requests[place.request];
        let chosen = Chosen {
            claim: place.claim,
            request,
            ask: &request.alternatives[place.alternative],
            offered: self.candidates(place)[at],
        };
        let fits = self.tries < TRIES_MAX
            && self.of_claim(place.claim).count() < RESULTS_MAX
            && self.is_free(&chosen)
            && is_tolerated(&chosen)
            && self.leaves_enough(&chosen)
            && self.keeps_constraints(&chosen);
        if fits {
            self.chosen.push(chosen);
        }
        fits
    }

    fn of_claim(&self, claim: usize) -> impl Iterator<Item = &Chosen<'a>> {
        self.chosen.iter().filter(move |other| other.claim == claim)
    }

    /// Whoever has admin access shares a device with anybody, and has it once per claim.
    fn is_free(&self, chosen: &Chosen<'a>) -> bool {
        let id = &chosen.offered.device.id;
        if chosen.ask.admin {
            return self.of_claim(chosen.claim).all(|other| other.offered.device.id != *id);
        }
        let mut others = self.chosen.iter().filter(|other| !other.ask.admin);
        !self.question.taken.contains(id) && others.all(|other| other.offered.device.id != *id)
    }

    /// Whether the pool has what the device takes of what its devices share.
    fn leaves_enough(&self, chosen: &Chosen<'a>) -> bool {
        let Offered { device, pool, .. } = chosen.offered;
        device.consumes.iter().all(|(counter, amount)| {
            let here = self.chosen.iter().filter(|other| std::ptr::eq(other.offered.pool, pool));
            let consumed = here.flat_map(|other| &other.offered.device.consumes);
            let promised: i64 =
                consumed.filter(|(other, _)| other == counter).map(|(_, amount)| amount).sum();
            let left = pool.counters.get(counter).copied().unwrap_or(0);
            left.saturating_sub(promised) >= *amount
        })
    }

    fn keeps_constraints(&self, chosen: &Chosen<'a>) -> bool {
        let claim = self.question.claims[chosen.claim];
        let concerning =
            claim.constraints.iter().filter(|rule| rule.concerns(chosen.request, chosen.ask));
        let mut rules = concerning.map(|rule| (rule, attribute(rule, chosen)));
        rules.all(|(rule, value)| {
            let Some(value) = value else { return false };
            let mut others = self
                .of_claim(chosen.claim)
                .filter(|other| rule.concerns(other.request, other.ask))
                .filter_map(|other| attribute(rule, other));
            match rule.rule {
                Rule::Equal => others.all(|other| other == value),
                Rule::Distinct => others.all(|other| other != value),
            }
        })
    }
}

fn attribute<'a>(constraint: &Constraint, chosen: &Chosen<'a>) -> Option<&'a Attribute> {
    chosen.offered.device.attributes.get(&constraint.attribute)
}

fn is_tolerated(chosen: &Chosen<'_>) -> bool {
    let tolerations = chosen.ask.tolerations.as_deref().unwrap_or_default();
    let keep_away = |taint: &&DeviceTaint| matches!(&*taint.effect, "NoSchedule" | "NoExecute");
    let mut taints = chosen.offered.device.taints.iter().filter(keep_away);
    taints.all(|taint| tolerations.iter().any(|toleration| tolerates_device(toleration, taint)))
}
