//! ResourceClaims and DeviceClasses as the scheduler sees them.
//!
//! Wire objects in, decided facts out: every request as a list of alternatives, selectors compiled, what is allocated by
//! device. Invariant: a request has at least one alternative, or nothing can satisfy it.

use std::sync::Arc;

use k8s_openapi::api::resource::v1::{
    AllocationResult, CapacityRequirements, DeviceClaimConfiguration, DeviceClass,
    DeviceClassConfiguration, DeviceConstraint, DeviceRequest, DeviceToleration,
    ExactDeviceRequest, ResourceClaim,
};
use skiff_api::scheduling::{NodeTerm, node_terms, resources};

use super::DeviceId;
use super::selector::Selector;
use crate::listers::Listed;

#[derive(Clone, Debug, Default)]
pub struct ClaimInfo {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// The uid of its controller: the pod it was made for.
    pub owner: Option<String>,
    pub terminating: bool,
    pub requests: Vec<Request>,
    pub constraints: Vec<Constraint>,
    pub configs: Vec<DeviceClaimConfiguration>,
    pub allocation: Option<Allocation>,
    /// The uids of those who may use what is allocated.
    pub reserved_for: Vec<String>,
}

/// What is allocated already.
#[derive(Clone, Debug, Default)]
pub struct Allocation {
    /// Those that nobody else may have.
    pub devices: Vec<DeviceId>,
    /// One must match; none at all: usable from anywhere.
    pub nodes: Option<Vec<NodeTerm>>,
    /// What the devices were given for: requests, with the alternative that was chosen.
    pub requests: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub name: String,
    /// Whether there is a choice, so that results name the alternative too.
    pub has_choice: bool,
    /// Best first.
    pub alternatives: Vec<Ask>,
}

/// One way to satisfy a request.
#[derive(Clone, Debug)]
pub struct Ask {
    /// How results and constraints call it: `request`, or `request/alternative`.
    pub reference: String,
    pub class: String,
    pub selectors: Vec<Arc<Selector>>,
    pub amount: Amount,
    pub admin: bool,
    pub tolerations: Option<Vec<DeviceToleration>>,
    /// What a device must be able to hold, by name.
    pub capacity: Vec<(String, i64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    Exactly(usize),
    /// All that match, and none of them taken.
    All,
}

#[derive(Clone, Debug)]
pub struct Constraint {
    /// Empty: all.
    requests: Vec<String>,
    pub attribute: String,
    pub rule: Rule,
}

/// What the devices' values of an attribute must be among themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Equal,
    Distinct,
}

#[derive(Clone, Debug, Default)]
pub struct ClassInfo {
    pub selectors: Vec<Arc<Selector>>,
    pub configs: Vec<DeviceClassConfiguration>,
}

/// What is to be written into a claim before its pod can be bound.
#[derive(Clone, Debug)]
pub struct Reservation {
    pub namespace: String,
    pub claim: String,
    pub uid: String,
    /// `None`: allocated already, so that only the pod is entered.
    pub allocation: Option<AllocationResult>,
    /// The devices of `allocation` that nobody else may have now.
    pub devices: Vec<DeviceId>,
}

// === impl ClaimInfo ===

impl ClaimInfo {
    pub fn of(claim: ResourceClaim) -> Listed<ClaimInfo> {
        let ResourceClaim { metadata, spec, status } = claim;
        let (devices, status) = (spec.devices.unwrap_or_default(), status.unwrap_or_default());
        let owners = metadata.owner_references.iter().flatten();
        let controller = owners.into_iter().find(|owner| owner.controller == Some(true));
        let reserved = status.reserved_for.into_iter().flatten();
        let facts = ClaimInfo {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            owner: controller.map(|owner| owner.uid.clone()),
            terminating: metadata.deletion_timestamp.is_some(),
            requests: devices.requests.into_iter().flatten().map(Request::of).collect(),
            constraints: devices
                .constraints
                .into_iter()
                .flatten()
                .filter_map(Constraint::of)
                .collect(),
            configs: devices.config.unwrap_or_default(),
            allocation: status.allocation.map(Allocation::of),
            reserved_for: reserved.map(|consumer| consumer.uid).collect(),
        };
        Listed::new(metadata, facts)
    }

    pub fn is_reserved_for(&self, uid: &str) -> bool {
        self.reserved_for.iter().any(|one| one == uid)
    }
}

impl Allocation {
    fn of(result: AllocationResult) -> Allocation {
        let results = result.devices.and_then(|devices| devices.results).unwrap_or_default();
        let taken = results.iter().filter(|device| device.admin_access != Some(true));
        Allocation {
            devices: taken
                .map(|one| DeviceId {
                    driver: one.driver.clone(),
                    pool: one.pool.clone(),
                    device: one.device.clone(),
                })
                .collect(),
            nodes: result.node_selector.as_ref().map(node_terms),
            requests: results.into_iter().map(|device| device.request).collect(),
        }
    }
}

// === impl Request ===

impl Request {
    fn of(request: DeviceRequest) -> Request {
        let name = request.name;
        if let Some(exactly) = request.exactly {
            let ask = Ask::of(name.clone(), exactly);
            return Request { name, has_choice: false, alternatives: vec![ask] };
        }
        let alternatives = request.first_available.into_iter().flatten().map(|sub| {
            let exactly = ExactDeviceRequest {
                admin_access: None,
                allocation_mode: sub.allocation_mode,
                capacity: sub.capacity,
                count: sub.count,
                device_class_name: sub.device_class_name,
                selectors: sub.selectors,
                tolerations: sub.tolerations,
            };
            Ask::of(format!("{name}/{}", sub.name), exactly)
        });
        Request { alternatives: alternatives.collect(), has_choice: true, name }
    }
}

impl Ask {
    fn of(reference: String, request: ExactDeviceRequest) -> Ask {
        let amount = match request.allocation_mode.as_deref() {
            Some("All") => Amount::All,
            _ => Amount::Exactly(request.count.and_then(|n| usize::try_from(n).ok()).unwrap_or(1)),
        };
        Ask {
            reference,
            class: request.device_class_name,
            selectors: Selector::all(request.selectors),
            amount,
            admin: request.admin_access == Some(true),
            tolerations: request.tolerations,
            capacity: request.capacity.map(capacity).unwrap_or_default(),
        }
    }
}

/// What is no quantity cannot be held.
fn capacity(required: CapacityRequirements) -> Vec<(String, i64)> {
    let requests = required.requests.into_iter().flatten();
    requests.map(|(name, size)| (name, resources::value(&size).unwrap_or(i64::MAX))).collect()
}

// === impl Constraint ===

impl Constraint {
    fn of(constraint: DeviceConstraint) -> Option<Constraint> {
        let requests = constraint.requests.unwrap_or_default();
        let (attribute, rule) = match (constraint.match_attribute, constraint.distinct_attribute) {
            (Some(attribute), _) => (attribute, Rule::Equal),
            (None, Some(attribute)) => (attribute, Rule::Distinct),
            (None, None) => return None,
        };
        Some(Constraint { requests, attribute, rule })
    }

    /// Whether it is about devices for this request.
    pub fn concerns(&self, request: &Request, ask: &Ask) -> bool {
        self.requests.is_empty()
            || self.requests.iter().any(|name| *name == request.name || *name == ask.reference)
    }
}

// === impl ClassInfo ===

impl ClassInfo {
    pub fn of(class: DeviceClass) -> Listed<ClassInfo> {
        let selectors = Selector::all(class.spec.selectors);
        let facts = ClassInfo { selectors, configs: class.spec.config.unwrap_or_default() };
        Listed::new(class.metadata, facts)
    }
}
