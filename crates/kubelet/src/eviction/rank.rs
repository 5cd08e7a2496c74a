//! Who goes first when the node is short of something.
//!
//! Consumes the pods with what they use, emits the one to end and why it was this one. Counterpart: the ranking
//! functions and `evictionMessage` of `pkg/kubelet/eviction/helpers.go`; messages are upstream's.
//! Invariant: pure; those beyond their requests go before those within, then the less important, then the greedier;
//! a critical pod never goes.

use std::{cmp::Reverse, sync::Arc};

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use skiff_api::{
    quantity::Quantity,
    scheduling::resources::{PodRequests, value},
};

use super::{
    pressure::Starved,
    threshold::Signal,
    usage::{ContainerUsage, Disk, PodUsage},
};
use crate::{
    container::resources::SYSTEM_CRITICAL_PRIORITY,
    pod::ending::Ending,
    static_pods::{is_mirror, is_static},
};

pub const REASON: &str = "Evicted";
/// What a pod gets to end where there is no time: enough to close a file.
pub const IMMEDIATELY: SignedDuration = SignedDuration::from_secs(1);

#[derive(Debug)]
pub struct Candidate {
    pub pod: Arc<Pod>,
    pub usage: PodUsage,
}

/// How choosing is done on this node.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Images and what containers write have a disk of their own.
    pub dedicated_image_fs: bool,
    pub max_pod_grace: SignedDuration,
}

/// The pod to end, if there is one that may be ended.
pub fn choose(
    candidates: &[Candidate],
    starved: &Starved,
    terms: Terms,
) -> Option<(Arc<Pod>, Ending)> {
    let signal = starved.threshold.signal;
    let may_go = candidates.iter().filter(|candidate| !is_critical(&candidate.pod));
    let victim = may_go.min_by_key(|candidate| rank(candidate, signal, terms))?;
    let spec = victim.pod.spec.as_ref()?;
    let grace = match starved.threshold.is_hard() {
        true => IMMEDIATELY,
        false => {
            let own = spec.termination_grace_period_seconds.map(SignedDuration::from_secs);
            own.map_or(terms.max_pod_grace, |own| own.min(terms.max_pod_grace))
        }
    };
    let message = message(starved, victim, spec);
    Some((victim.pod.clone(), Ending { reason: REASON, message, grace, disruption: true }))
}

/// Ends of this node's own making spare them. Counterpart: `IsCriticalPod`.
pub fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || is_mirror(pod) || priority(pod) >= SYSTEM_CRITICAL_PRIORITY
}

fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

/// The smallest goes first.
fn rank(
    candidate: &Candidate,
    signal: Signal,
    terms: Terms,
) -> (Reverse<bool>, i32, Reverse<i128>) {
    let (used, requested) = used_and_requested(candidate, signal, terms);
    let beyond = i128::from(used) - i128::from(requested);
    let exceeds = signal != Signal::PidAvailable && beyond > 0;
    (Reverse(exceeds), priority(&candidate.pod), Reverse(beyond))
}

fn used_and_requested(candidate: &Candidate, signal: Signal, terms: Terms) -> (u64, i64) {
    let usage = &candidate.usage;
    let requested = |resource| {
        let spec = candidate.pod.spec.as_ref();
        spec.map_or(0, |s| PodRequests::of(s, &PodStatus::default()).declared.amount(resource))
    };
    let disk = || -> Disk {
        let on_images = matches!(signal, Signal::ImagefsAvailable | Signal::ImagefsInodesFree);
        match (terms.dedicated_image_fs, on_images) {
            (true, true) => usage.rootfs(),
            (true, false) => usage.node_disk(),
            (false, _) => [usage.rootfs(), usage.node_disk()].into_iter().sum(),
        }
    };
    match signal {
        Signal::MemoryAvailable => (usage.memory, requested("memory")),
        Signal::PidAvailable => (usage.processes, 0),
        Signal::NodefsAvailable | Signal::ImagefsAvailable => {
            (disk().bytes, requested("ephemeral-storage"))
        }
        Signal::NodefsInodesFree | Signal::ImagefsInodesFree => (disk().inodes, 0),
    }
}

/// What was short, by how much, and which containers of the pod use more than they asked for.
fn message(starved: &Starved, victim: &Candidate, spec: &PodSpec) -> String {
    let signal = starved.threshold.signal;
    let resource = signal.resource();
    let amount = |count: u64| quantity(signal.is_bytes(), count);
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        amount(starved.threshold.amount.of(starved.reading.capacity)),
        amount(starved.reading.available)
    );
    let whole = spec.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(resource));
    if let Some(request) = whole.filter(|_| signal == Signal::MemoryAvailable) {
        text += &format!(
            "Pod {} was using {}, request is {}, has larger consumption of {resource}. ",
            victim.pod.metadata.name.as_deref().unwrap_or_default(),
            quantity(true, victim.usage.memory),
            request.0
        );
    }
    let declared = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    for usage in &victim.usage.containers {
        if let Some(container) = declared().find(|c| c.name == usage.name)
            && let Some(excess) = excess(usage, container, signal)
        {
            text += &excess;
        }
    }
    text
}

fn excess(usage: &ContainerUsage, container: &Container, signal: Signal) -> Option<String> {
    let resource = signal.resource();
    let used = match resource {
        "memory" => usage.memory,
        "ephemeral-storage" => usage.rootfs.bytes + usage.logs.bytes,
        _ => return None,
    };
    let request = container.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(resource));
    let requested = request.and_then(value).unwrap_or(0);
    (i128::from(used) > i128::from(requested)).then(|| {
        format!(
            "Container {} was using {}, request is {}, has larger consumption of {resource}. ",
            usage.name,
            quantity(true, used),
            request.map_or("0", |request| request.0.as_str())
        )
    })
}

fn quantity(bytes: bool, count: u64) -> Quantity {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    if bytes { Quantity::from_bytes(count) } else { Quantity::from_units(count) }
}
