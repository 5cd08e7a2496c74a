//! What was found for a claim, in the words of its status: devices, the configuration that applies, where it can be used.
//!
//! Counterpart: the second half of `Allocate`. Invariant: a claim that has a device of one node is tied to that node.

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::api::resource::v1::{
    AllocationResult, DeviceAllocationConfiguration, DeviceAllocationResult,
    DeviceRequestAllocationResult,
};

use super::claim::{ClaimInfo, ClassInfo, Reservation};
use super::search::Chosen;
use super::slice::Reach;
use crate::listers::Lister;

/// `chosen` are the devices of this claim.
pub fn reservation(
    claim: &ClaimInfo,
    chosen: &[Chosen<'_>],
    classes: &Lister<ClassInfo>,
    node: &str,
) -> Reservation {
    let taken = chosen.iter().filter(|device| !device.ask.admin);
    let devices = DeviceAllocationResult {
        results: some(chosen.iter().map(device_result).collect()),
        config: some(configs(claim, chosen, classes)),
    };
    let allocation = AllocationResult {
        allocation_timestamp: None,
        devices: Some(devices),
        node_selector: node_selector(chosen, node),
    };
    Reservation {
        namespace: claim.namespace.clone(),
        claim: claim.name.clone(),
        uid: claim.uid.clone(),
        allocation: Some(allocation),
        devices: taken.map(|device| device.offered.device.id.clone()).collect(),
    }
}

fn some<T>(all: Vec<T>) -> Option<Vec<T>> {
    (!all.is_empty()).then_some(all)
}

fn device_result(chosen: &Chosen<'_>) -> DeviceRequestAllocationResult {
    let id = chosen.offered.device.id.clone();
    DeviceRequestAllocationResult {
        request: chosen.ask.reference.clone(),
        driver: id.driver,
        pool: id.pool,
        device: id.device,
        admin_access: chosen.ask.admin.then_some(true),
        tolerations: chosen.ask.tolerations.clone(),
        ..DeviceRequestAllocationResult::default()
    }
}

/// That of the classes, once per class and for all requests that name it, then that of the claim.
fn configs(
    claim: &ClaimInfo,
    chosen: &[Chosen<'_>],
    classes: &Lister<ClassInfo>,
) -> Vec<DeviceAllocationConfiguration> {
    let mut asks: Vec<_> = chosen.iter().map(|device| (device.request, device.ask)).collect();
    asks.dedup_by(|one, other| one.1.reference == other.1.reference);
    let mut by_class: Vec<(&str, Vec<String>)> = Vec::new();
    for (_, ask) in &asks {
        match by_class.iter_mut().find(|(class, _)| *class == ask.class) {
            Some((_, requests)) => requests.push(ask.reference.clone()),
            None => by_class.push((&ask.class, vec![ask.reference.clone()])),
        }
    }
    let of_classes = by_class.into_iter().flat_map(|(class, requests)| {
        let configs = classes.get("", class).map(|class| class.configs.as_slice());
        configs.unwrap_or_default().iter().map(move |config| DeviceAllocationConfiguration {
            source: "FromClass".into(),
            requests: Some(requests.clone()),
            opaque: config.opaque.clone(),
        })
    });
    let applies = |requests: &[String]| {
        requests.is_empty()
            || asks.iter().any(|(request, ask)| {
                requests.iter().any(|name| *name == request.name || *name == ask.reference)
            })
    };
    let of_claim = claim
        .configs
        .iter()
        .filter(|config| applies(config.requests.as_deref().unwrap_or_default()));
    let of_claim = of_claim.map(|config| DeviceAllocationConfiguration {
        source: "FromClaim".into(),
        requests: config.requests.clone(),
        opaque: config.opaque.clone(),
    });
    of_classes.chain(of_claim).collect()
}

/// From where the chosen devices can be used together; none: from everywhere.
fn node_selector(chosen: &[Chosen<'_>], node: &str) -> Option<NodeSelector> {
    let mut all = NodeSelectorTerm::default();
    for device in chosen {
        let reach = device.offered.slice.reach_of(device.offered.device);
        match reach {
            Some(Reach::Node(_)) => return Some(only(node)),
            _ if device.offered.device.binds_to_node => return Some(only(node)),
            Some(Reach::Nodes { selector, .. }) => {
                // Validation allows one term.
                for term in selector.node_selector_terms.iter().take(1) {
                    add(&mut all.match_fields, &term.match_fields);
                    add(&mut all.match_expressions, &term.match_expressions);
                }
            }
            Some(Reach::All) | None => {}
        }
    }
    (all != NodeSelectorTerm::default()).then(|| NodeSelector { node_selector_terms: vec![all] })
}

fn add(to: &mut Option<Vec<NodeSelectorRequirement>>, from: &Option<Vec<NodeSelectorRequirement>>) {
    for requirement in from.iter().flatten() {
        let known = to.get_or_insert_default();
        if !known.contains(requirement) {
            known.push(requirement.clone());
        }
    }
}

fn only(node: &str) -> NodeSelector {
    let name = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.into()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![name]), match_expressions: None };
    NodeSelector { node_selector_terms: vec![term] }
}
