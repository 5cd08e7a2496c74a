//! Evicts pods whose devices carry NoExecute taints that their claims do not tolerate, at once or when the toleration runs out.
//!
//! Pod, its claims and the slices with their devices in -> delete now, delete at a moment, or leave alone. Counterpart:
//! `pkg/controller/devicetainteviction`. Differs from upstream: DeviceTaintRules are off by default there, and not known here.
//! Invariant: only a pod that a claim is reserved for goes, and only for the newest word on the device.

use std::sync::Arc;

use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    DeviceRequestAllocationResult, DeviceTaint, DeviceToleration, ResourceClaim, ResourceSlice,
};
use skiff_api::scheduling::tolerates_device;

use crate::node_lifecycle::taint_eviction::{Eviction, until};
use crate::pod;
use crate::resource_claim::{claims_of, reserved_for};
use crate::runtime::{Action, Caches, ControllerDef, Ctx, Delta, Key, Result};

const NO_EXECUTE: &str = "NoExecute";

const EVICTION: Eviction = Eviction {
    reason: "DeletionByDeviceTaintManager",
    message: "Device Taint manager: deleting due to NoExecute taint",
    event: "DeviceTaintManagerEviction",
    note: |_| "Marking for deletion".to_owned(),
};

pub const DEF: ControllerDef = ControllerDef {
    name: "device-taint-eviction-controller",
    workers: 8,
    watches: |edges| {
        edges.mapped::<Pod>(|_, delta| {
            let news = delta.new.filter(|new| {
                !claims_of(new).is_empty() && delta.old.is_none_or(|old| uses(old) != uses(new))
            });
            news.map(|pod| Key::of(pod.as_ref())).into_iter().collect()
        });
        edges.mapped::<ResourceClaim>(|_, delta| match delta.new {
            Some(new) if delta.old.is_none_or(|old| old.status != new.status) => users(new),
            _ => Vec::new(),
        });
        edges.mapped::<ResourceSlice>(users_of_slice);
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

/// What of a pod matters here.
fn uses(pod: &Pod) -> (Option<&str>, Vec<Key>) {
    (pod::node_name(pod), claims_of(pod))
}

/// The pods a claim is reserved for.
fn users(claim: &ResourceClaim) -> Vec<Key> {
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let pods = reserved_for(claim).iter().filter(|user| user.resource == "pods");
    pods.map(|user| Key::new(namespace, &user.name)).collect()
}

/// A taint that goes concerns nobody: whoever waits for its moment looks again then.
fn users_of_slice(caches: &Caches, delta: &Delta<ResourceSlice>) -> Vec<Key> {
    let evicts = |slice: &ResourceSlice| {
        let devices = slice.spec.devices.iter().flatten();
        let tainted = devices.flat_map(|device| {
            evicting(device.taints.as_deref()).map(|taint| (device.name.clone(), taint.clone()))
        });
        (slice.spec.pool.generation, tainted.collect::<Vec<_>>())
    };
    let Some(slice) = delta.new.filter(|slice| !evicts(slice).1.is_empty()) else {
        return Vec::new();
    };
    if delta.old.is_some_and(|old| evicts(old) == evicts(slice)) {
        return Vec::new();
    }
    let claims = caches.store::<ResourceClaim>().all();
    let here = claims.iter().filter(|claim| allocated(claim).iter().any(|one| is_of(one, slice)));
    here.flat_map(|claim| users(claim)).collect()
}

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let pod = ctx.lister::<Pod>().get(&key);
    let Some(pod) = pod.filter(|pod| pod::node_name(pod).is_some() && !pod::is_terminating(pod))
    else {
        return Ok(Action::Done);
    };
    let claims = ctx.lister::<ResourceClaim>();
    let claims: Vec<_> = claims_of(&pod).iter().filter_map(|claim| claims.get(claim)).collect();
    let slices = ctx.lister::<ResourceSlice>().all();
    let now = ctx.now();
    match evict_at(&pod, &claims, &slices, now) {
        None => Ok(Action::Done),
        Some(at) if at > now => Ok(Action::After(until(at, now))),
        Some(_) => EVICTION.carry_out(&ctx, &pod).await,
    }
}

// === decisions ===

/// When the pod has to go; none if it may stay.
fn evict_at(
    pod: &Pod,
    claims: &[Arc<ResourceClaim>],
    slices: &[Arc<ResourceSlice>],
    now: Timestamp,
) -> Option<Timestamp> {
    let is_this = |uid: &str| pod.metadata.uid.as_deref() == Some(uid);
    let own = claims.iter().filter(|claim| reserved_for(claim).iter().any(|by| is_this(&by.uid)));
    let results = own.flat_map(|claim| allocated(claim));
    let moments = results.flat_map(|result| {
        let tolerations = result.tolerations.as_deref().unwrap_or_default();
        let taints = evicting(taints_of(result, slices));
        taints.filter_map(move |taint| evicted_by(taint, tolerations, now))
    });
    moments.min()
}

fn evicted_by(
    taint: &DeviceTaint,
    tolerations: &[DeviceToleration],
    now: Timestamp,
) -> Option<Timestamp> {
    // One that is for every effect lets a pod onto the device, and does not keep it there.
    let bearing = tolerations.iter().filter(|toleration| {
        toleration.effect.as_deref() == Some(NO_EXECUTE) && tolerates_device(toleration, taint)
    });
    // One without an end is for ever, whatever the others say.
    let seconds: Vec<i64> =
        bearing.map(|toleration| toleration.toleration_seconds).collect::<Option<_>>()?;
    let added = taint.time_added.as_ref().map_or(now, |time| time.0);
    let borne = seconds.into_iter().min().unwrap_or(0).max(0);
    // A moment beyond the calendar never comes.
    added.checked_add(SignedDuration::from_secs(borne)).ok()
}

fn evicting(taints: Option<&[DeviceTaint]>) -> impl Iterator<Item = &DeviceTaint> {
    taints.unwrap_or_default().iter().filter(|taint| taint.effect == NO_EXECUTE)
}

/// What the newest generation of its pool says of a device.
fn taints_of<'a>(
    result: &DeviceRequestAllocationResult,
    slices: &'a [Arc<ResourceSlice>],
) -> Option<&'a [DeviceTaint]> {
    let pool = || slices.iter().filter(|slice| is_of(result, slice));
    let newest = pool().map(|slice| slice.spec.pool.generation).max()?;
    let current = pool().filter(|slice| slice.spec.pool.generation == newest);
    let mut devices = current.flat_map(|slice| slice.spec.devices.iter().flatten());
    devices.find(|device| device.name == result.device)?.taints.as_deref()
}

fn is_of(result: &DeviceRequestAllocationResult, slice: &ResourceSlice) -> bool {
    result.driver == slice.spec.driver && result.pool == slice.spec.pool.name
}

fn allocated(claim: &ResourceClaim) -> &[DeviceRequestAllocationResult] {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    let devices = allocation.and_then(|allocation| allocation.devices.as_ref());
    devices.and_then(|devices| devices.results.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    const ADDED: &str = "2026-01-01T00:00:00Z";

    fn slice(generation: u32, devices: &str) -> Arc<ResourceSlice> {
        let pool = format!("{{name: p, generation: {generation}, resourceSliceCount: 1}}");
        Arc::new(yaml(&format!("{{spec: {{driver: d, pool: {pool}, devices: {devices}}}}}")))
    }

    fn claim(user: &str, tolerations: &str) -> Arc<ResourceClaim> {
        let user = format!("{{resource: pods, name: pod, uid: {user}}}");
        let result =
            format!("{{request: r, driver: d, pool: p, device: g0, tolerations: {tolerations}}}");
        Arc::new(yaml(&format!(
            "{{spec: {{}}, status: {{reservedFor: [{user}], allocation: {{devices: {{results: [{result}]}}}}}}}}"
        )))
    }

    /// Seconds after the taint was added at which a pod has to go.
    fn leaves(claim: Arc<ResourceClaim>, slices: &[Arc<ResourceSlice>]) -> Option<i64> {
        let pod: Pod = yaml("{metadata: {uid: u}, spec: {nodeName: n, containers: []}}");
        let added: Timestamp = ADDED.parse().unwrap();
        let at = evict_at(&pod, &[claim], slices, added + SignedDuration::from_secs(7))?;
        Some(at.duration_since(added).as_secs())
    }

    #[test]
    fn tolerations_delay_or_prevent_eviction() {
        let taint = format!("{{key: broken, effect: NoExecute, timeAdded: '{ADDED}'}}");
        let slices = [slice(1, &format!("[{{name: g0, taints: [{taint}]}}]"))];
        for (tolerations, expected) in [
            ("[]", Some(0)),
            ("[{key: other, operator: Exists, effect: NoExecute}]", Some(0)),
            ("[{key: broken, operator: Exists}]", Some(0)),
            ("[{key: broken, operator: Exists, effect: NoExecute}]", None),
            ("[{operator: Exists, effect: NoExecute, tolerationSeconds: 30}]", Some(30)),
            ("[{operator: Exists, effect: NoExecute, tolerationSeconds: -5}]", Some(0)),
            (
                "[{operator: Exists, effect: NoExecute, tolerationSeconds: 30}, {key: broken, operator: Exists, effect: NoExecute}]",
                None,
            ),
            (
                "[{operator: Exists, effect: NoExecute, tolerationSeconds: 9223372036854775807}]",
                None,
            ),
        ] {
            assert_eq!(leaves(claim("u", tolerations), &slices), expected, "{tolerations}");
        }
        assert_eq!(leaves(claim("another", "[]"), &slices), None, "it is not reserved for the pod");
    }

    #[test]
    fn only_what_the_newest_generation_says_of_the_device_counts() {
        let tainted = "[{name: g0, taints: [{key: broken, effect: NoExecute}]}]";
        let healthy = "[{name: g0, taints: [{key: busy, effect: NoSchedule}]}]";
        let other = "[{name: g1, taints: [{key: broken, effect: NoExecute}]}]";
        let check = |slices: &[_]| leaves(claim("u", "[]"), slices);
        assert_eq!(check(&[]), None);
        assert_eq!(check(&[slice(1, tainted)]), Some(7), "a taint without a time is new");
        assert_eq!(check(&[slice(1, tainted), slice(2, healthy)]), None);
        assert_eq!(check(&[slice(2, healthy), slice(2, other)]), None);
    }
}
