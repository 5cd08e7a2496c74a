//! ResourceClaims around the life of pods: made from templates when a pod asks, given back when no pod needs them.
//!
//! `pods` makes what a pod's templates call for, tells the pod of it, and reserves claims for pods that never met the
//! scheduler; `claims` takes back reservations of pods that are done, then the devices, then claims made for such a pod.
//! Counterpart: `pkg/controller/resourceclaim`. Differs from upstream: claims of PodGroups are an alpha feature, and off.
//! Invariant: a claim loses its devices only when the last pod it was reserved for is known to be done.

mod claims;
mod pods;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate,
};
use skiff_api::scheduling::PodClaim;

use crate::pod;
use crate::runtime::{Caches, ControllerDef, Delta, Key, controller_of};

const NAME: &str = "resource-claim-controller";

/// Keeps a claim while devices are allocated to it.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

/// On a generated claim: which entry of its pod it is for.
const ENTRY: &str = "resource.kubernetes.io/pod-claim-name";

/// As many may have a claim reserved.
const RESERVED_MAX: usize = 256;

pub const PODS: ControllerDef = ControllerDef {
    name: NAME,
    workers: 10,
    watches: |edges| {
        edges.mapped::<Pod>(|_, delta| {
            let pod = delta.latest();
            let claims = pod_claims(pod);
            claims.first().map(|_| Key::of(pod.as_ref())).into_iter().collect()
        });
        edges.mapped::<ResourceClaim>(users_of_claim);
        edges.mapped::<ResourceClaimTemplate>(users_of_template);
    },
    reconcile: |ctx, key| pods::reconcile(ctx, key).boxed(),
};

pub const CLAIMS: ControllerDef = ControllerDef {
    name: NAME,
    workers: 10,
    watches: |edges| {
        edges.primary::<ResourceClaim>();
        edges.mapped::<Pod>(|_, delta| match delta.new {
            Some(pod) if !is_done(pod) => Vec::new(),
            _ => claims_of(delta.latest()),
        });
    },
    reconcile: |ctx, key| claims::reconcile(ctx, key).boxed(),
};

fn pod_claims(pod: &Pod) -> Vec<PodClaim> {
    pod.spec.iter().flat_map(|spec| PodClaim::all(spec, pod.status.as_ref())).collect()
}

pub fn claims_of(pod: &Pod) -> Vec<Key> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let claims = pod_claims(pod);
    claims.iter().filter_map(PodClaim::claim).map(|claim| Key::new(namespace, claim)).collect()
}

/// A generated claim concerns its pod; any other, the pods that name it.
fn users_of_claim(caches: &Caches, delta: &Delta<ResourceClaim>) -> Vec<Key> {
    let claim = Key::of(delta.latest().as_ref());
    if let Some(owner) = controller_of(&delta.latest().metadata) {
        return vec![Key::new(claim.namespace, &owner.name)];
    }
    pods_where(caches, &claim.namespace, |pod| claims_of(pod).contains(&claim))
}

fn users_of_template(caches: &Caches, delta: &Delta<ResourceClaimTemplate>) -> Vec<Key> {
    let template = Key::of(delta.latest().as_ref());
    pods_where(caches, &template.namespace, |pod| {
        let entries = pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten());
        let mut named = entries.filter_map(|entry| entry.resource_claim_template_name.as_ref());
        named.any(|name| *name == template.name)
    })
}

fn pods_where(caches: &Caches, namespace: &str, test: impl Fn(&Pod) -> bool) -> Vec<Key> {
    let pods = caches.store::<Pod>().in_namespace(namespace);
    pods.iter().filter(|pod| test(pod)).map(|pod| Key::of(pod.as_ref())).collect()
}

/// Will not run any more, or never will.
fn is_done(pod: &Pod) -> bool {
    pod::is_terminal(pod) || pod::is_terminating(pod) && pod::node_name(pod).is_none()
}

pub fn reserved_for(claim: &ResourceClaim) -> &[ResourceClaimConsumerReference] {
    let status = claim.status.as_ref();
    status.and_then(|status| status.reserved_for.as_deref()).unwrap_or_default()
}

fn is_allocated(claim: &ResourceClaim) -> bool {
    claim.status.as_ref().is_some_and(|status| status.allocation.is_some())
}
