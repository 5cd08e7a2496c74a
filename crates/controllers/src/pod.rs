//! Facts about a pod that several controllers ask for, with upstream's exact meaning.
//!
//! Counterpart: `pkg/api/v1/pod/util.go` and `controller_utils.go`. Pure: pod (and a moment) in, answer out.

use std::cmp::Reverse;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};

pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

pub fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// The claims a pod names, and those that are made for its ephemeral volumes.
pub fn claims(pod: &Pod) -> impl Iterator<Item = String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(claim_of_ephemeral(pod, &volume.name)),
        (None, None) => None,
    })
}

/// The name of the claim that is made for an ephemeral volume.
pub fn claim_of_ephemeral(pod: &Pod, volume: &str) -> String {
    format!("{}-{volume}", pod.metadata.name.as_deref().unwrap_or_default())
}

pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Counts as a replica: neither finished nor on its way out.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_terminating(pod)
}

pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// When the pod last became ready; none while it is not.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// Ready for at least `min_ready_seconds`.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    is_ready(pod)
        && (min_ready_seconds == 0
            || available_in(pod, min_ready_seconds, now) == Some(Duration::ZERO))
}

/// How long until a ready pod counts as available; none if it is not ready at all.
pub fn available_in(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    let due = ready_since(pod)?.as_millisecond() + i64::from(min_ready_seconds) * 1000;
    let left = due - now.as_millisecond();
    Some(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
}

/// The most often restarted container decides, as in upstream's deletion order.
pub fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).max().unwrap_or(0)
}

/// How far a pod has come: scheduled, running, ready. What has come less far is missed less.
pub fn progress(pod: &Pod) -> (bool, u8, bool) {
    let phase = match phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    (node_name(pod).is_some(), phase, is_ready(pod))
}

/// How well a pod has proved itself: long ready, seldom restarted, old. Seconds are as fine as the API's timestamps get.
pub fn record(pod: &Pod) -> (Reverse<Option<i64>>, Reverse<i32>, Reverse<Option<i64>>) {
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second());
    let ready = ready_since(pod).map(|time| time.as_second());
    (Reverse(ready), Reverse(restarts(pod)), Reverse(created))
}
