//! Which ResourceClaim each entry of a pod's `spec.resourceClaims` stands for.
//!
//! Spec and status of a pod in, one `PodClaim` per entry out. Counterpart: `dynamic-resource-allocation/resourceclaim`.
//! Asked by whoever makes claims from templates, by the scheduler, which has devices allocated to them, and by the node.

use k8s_openapi::api::core::v1::{PodSpec, PodStatus};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodClaim {
    /// What the pod calls it.
    pub entry: String,
    pub stands_for: StandsFor,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StandsFor {
    /// A claim that somebody made, of this name; pods may share it.
    Shared(String),
    /// A claim of this name that was made from a template, for this pod alone.
    Own(String),
    /// A claim that is still to be made from a template.
    Awaited,
    /// Whoever makes claims has said that none is needed.
    Nothing,
}

// === impl PodClaim ===

impl PodClaim {
    pub fn all(spec: &PodSpec, status: Option<&PodStatus>) -> Vec<PodClaim> {
        let told = status.and_then(|status| status.resource_claim_statuses.as_ref());
        let entries = spec.resource_claims.iter().flatten().map(|entry| {
            let told = told.into_iter().flatten().find(|told| told.name == entry.name);
            let stands_for = match (&entry.resource_claim_name, told) {
                (Some(name), _) => StandsFor::Shared(name.clone()),
                (None, None) => StandsFor::Awaited,
                (None, Some(told)) => match &told.resource_claim_name {
                    Some(name) => StandsFor::Own(name.clone()),
                    None => StandsFor::Nothing,
                },
            };
            PodClaim { entry: entry.name.clone(), stands_for }
        });
        entries.collect()
    }

    /// The name of the claim, if there is one.
    pub fn claim(&self) -> Option<&str> {
        match &self.stands_for {
            StandsFor::Shared(name) | StandsFor::Own(name) => Some(name),
            StandsFor::Awaited | StandsFor::Nothing => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduling::yaml;
    use k8s_openapi::api::core::v1::Pod;

    #[test]
    fn an_entry_stands_for_a_named_claim_or_for_what_the_status_tells() {
        let pod: Pod = yaml(
            "{spec: {containers: [], resourceClaims: [{name: a, resourceClaimName: gpus}, {name: b, resourceClaimTemplateName: t}, \
             {name: c, resourceClaimTemplateName: t}, {name: d, resourceClaimTemplateName: t}]}, \
             status: {resourceClaimStatuses: [{name: b, resourceClaimName: p-b-x2x2x}, {name: c}]}}",
        );
        let claims = PodClaim::all(&pod.spec.unwrap(), pod.status.as_ref());
        let stands_for: Vec<_> = claims.iter().map(|claim| claim.stands_for.clone()).collect();
        let own = StandsFor::Own("p-b-x2x2x".into());
        let shared = StandsFor::Shared("gpus".into());
        assert_eq!(stands_for, [shared, own, StandsFor::Nothing, StandsFor::Awaited]);
        assert_eq!(claims[1].claim(), Some("p-b-x2x2x"));
        assert_eq!(claims[3].claim(), None);
    }
}
