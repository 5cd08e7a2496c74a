//! Pod: defaults, quality of service, graceful deletion, and the status column people read most.
//!
//! Counterpart: `pkg/registry/core/pod/strategy.go` and `printPod`.

use serde_json::{Value, json};

use crate::age;
use crate::kind::{KindDef, Strategy, keep};
use crate::kinds::fill::{flag, int, list, object_at, text};
use crate::kinds::pod_spec::{default_pod_spec, default_running_pod};
use crate::meta::meta;

pub struct Pod;

impl Strategy for Pod {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object_at(object, "/spec") else { return };
        default_running_pod(spec);
        default_pod_spec(spec);
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        let qos = qos_class(object);
        object["status"] = json!({ "phase": "Pending", "qosClass": qos });
        if !list(object, "/spec/schedulingGates").is_empty() {
            object["status"]["conditions"] = json!([{
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null,
                "lastTransitionTime": null,
            }]);
        }
    }

    fn prepare_for_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep(object, old, "status");
    }

    /// `qosClass` is decided once, when the Pod is made.
    fn prepare_for_status_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep(object, old, "spec");
        if let Some(class) = old.pointer("/status/qosClass") {
            object["status"]["qosClass"] = class.clone();
        }
    }

    /// A Pod that no node has taken, or that has ended, is deleted at once.
    fn grace_period(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        let ended = matches!(text(object, "/status/phase"), "Failed" | "Succeeded");
        if text(object, "/spec/nodeName").is_empty() || ended {
            return Some(0);
        }
        let wanted =
            requested.or_else(|| int(object, "/spec/terminationGracePeriodSeconds")).unwrap_or(30);
        // A negative period is upstream's "at once, but not forced": one second.
        Some(if wanted < 0 { 1 } else { wanted })
    }

    fn selectable_fields(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("spec.nodeName", "/spec/nodeName"),
            ("spec.restartPolicy", "/spec/restartPolicy"),
            ("spec.schedulerName", "/spec/schedulerName"),
            ("spec.serviceAccountName", "/spec/serviceAccountName"),
            ("spec.hostNetwork", "/spec/hostNetwork"),
            ("status.phase", "/status/phase"),
            ("status.podIP", "/status/podIP"),
            ("status.nominatedNodeName", "/status/nominatedNodeName"),
        ]
    }

    fn cell(&self, object: &Value, column: &str, now: i64) -> Value {
        match column {
            "Ready" => ready_containers(object).into(),
            "Status" => status_text(object).into(),
            "Restarts" => restarts(object, now).into(),
            "IP" => or_none(text(object, "/status/podIP")),
            "Node" => or_none(text(object, "/spec/nodeName")),
            "Nominated Node" => or_none(text(object, "/status/nominatedNodeName")),
            "Readiness Gates" => readiness_gates(object).into(),
            _ => Value::Null,
        }
    }
}

fn or_none(value: &str) -> Value {
    if value.is_empty() { "<none>".into() } else { value.into() }
}

/// Guaranteed: every container limits cpu and memory and requests as much. BestEffort: none asks
/// for either. Burstable otherwise.
pub fn qos_class(pod: &Value) -> &'static str {
    let containers = list(pod, "/spec/initContainers").iter().chain(list(pod, "/spec/containers"));
    let (mut any, mut all) = (false, true);
    let pod_level = pod.get("spec").filter(|spec| spec.pointer("/resources/limits").is_some());
    for holder in pod_level.into_iter().chain(containers) {
        for resource in ["cpu", "memory"] {
            let limit = quantity(holder, "limits", resource);
            let request = quantity(holder, "requests", resource).or(limit);
            any |= limit.is_some() || request.is_some();
            all &= limit.is_some() && limit == request;
        }
        if pod_level.is_some() {
            break;
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// A quantity that is there and not zero; canonical text compares as equal.
fn quantity<'a>(holder: &'a Value, side: &str, resource: &str) -> Option<&'a str> {
    let text = holder.pointer(&format!("/resources/{side}/{resource}"))?.as_str()?;
    (text != "0").then_some(text)
}

// === what `kubectl get pods` shows ===

fn is_sidecar(pod: &Value, name: &str) -> bool {
    list(pod, "/spec/initContainers").iter().any(|container| {
        text(container, "/name") == name && text(container, "/restartPolicy") == "Always"
    })
}

/// `ready/total`, sidecars included.
fn ready_containers(pod: &Value) -> String {
    let sidecars = list(pod, "/spec/initContainers")
        .iter()
        .filter(|container| text(container, "/restartPolicy") == "Always")
        .count();
    let total = list(pod, "/spec/containers").len() + sidecars;
    let running =
        |status: &&Value| flag(status, "/ready") && status.pointer("/state/running").is_some();
    let ready = list(pod, "/status/containerStatuses").iter().filter(running).count();
    let ready_sidecars = list(pod, "/status/initContainerStatuses")
        .iter()
        .filter(|status| flag(status, "/ready") && flag(status, "/started"))
        .filter(|status| is_sidecar(pod, text(status, "/name")))
        .count();
    format!("{}/{total}", ready + ready_sidecars)
}

fn restarts(pod: &Value, now: i64) -> String {
    let initializing = initializing(pod).is_some();
    let counted: Vec<&Value> = list(pod, "/status/initContainerStatuses")
        .iter()
        .filter(|status| initializing || is_sidecar(pod, text(status, "/name")))
        .chain(list(pod, "/status/containerStatuses").iter().filter(|_| !initializing))
        .collect();
    let total: i64 = counted.iter().filter_map(|status| int(status, "/restartCount")).sum();
    let last = counted
        .iter()
        .map(|status| text(status, "/lastState/terminated/finishedAt"))
        .filter(|time| !time.is_empty())
        .max();
    match last {
        Some(time) if total > 0 => format!("{total} ({} ago)", age::since(time, now)),
        _ => total.to_string(),
    }
}

/// The one word (or two) that says how a Pod is doing.
fn status_text(pod: &Value) -> String {
    let mut reason = match text(pod, "/status/reason") {
        "" => text(pod, "/status/phase").to_owned(),
        reason => reason.to_owned(),
    };
    let gated = |condition: &&Value| {
        text(condition, "/type") == "PodScheduled"
            && text(condition, "/reason") == "SchedulingGated"
    };
    if list(pod, "/status/conditions").iter().any(|condition| gated(&condition)) {
        reason = "SchedulingGated".to_owned();
    }
    match initializing(pod) {
        Some(text) => reason = text,
        None => reason = running_reason(pod).unwrap_or(reason),
    }
    if reason == "Completed" && has_running_container(pod) {
        reason = if is_ready(pod) { "Running".into() } else { "NotReady".into() };
    }
    match meta(pod).deletion_timestamp() {
        Some(_) if text(pod, "/status/reason") == "NodeLost" => "Unknown".to_owned(),
        Some(_) if !matches!(text(pod, "/status/phase"), "Failed" | "Succeeded") => {
            "Terminating".to_owned()
        }
        _ => reason,
    }
}

/// `Init:...` while an init container is still to finish; `None` once all are done.
fn initializing(pod: &Value) -> Option<String> {
    let total = list(pod, "/spec/initContainers").len();
    for (at, status) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
        if int(status, "/state/terminated/exitCode") == Some(0) {
            continue;
        }
        if is_sidecar(pod, text(status, "/name")) && flag(status, "/started") {
            continue;
        }
        if status.pointer("/state/terminated").is_some() {
            return Some(format!("Init:{}", terminated_reason(status)));
        }
        let waiting = text(status, "/state/waiting/reason");
        if !waiting.is_empty() && waiting != "PodInitializing" {
            return Some(format!("Init:{waiting}"));
        }
        return Some(format!("Init:{at}/{total}"));
    }
    None
}

/// The last container with something to say wins, as the loop upstream runs backwards.
fn running_reason(pod: &Value) -> Option<String> {
    let speaks = |status: &Value| match text(status, "/state/waiting/reason") {
        "" if status.pointer("/state/terminated").is_some() => Some(terminated_reason(status)),
        "" => None,
        waiting => Some(waiting.to_owned()),
    };
    list(pod, "/status/containerStatuses").iter().find_map(speaks)
}

fn terminated_reason(status: &Value) -> String {
    let reason = text(status, "/state/terminated/reason");
    match int(status, "/state/terminated/signal") {
        _ if !reason.is_empty() => reason.to_owned(),
        Some(signal) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", int(status, "/state/terminated/exitCode").unwrap_or(0)),
    }
}

fn has_running_container(pod: &Value) -> bool {
    list(pod, "/status/containerStatuses")
        .iter()
        .any(|status| flag(status, "/ready") && status.pointer("/state/running").is_some())
}

fn is_ready(pod: &Value) -> bool {
    list(pod, "/status/conditions").iter().any(|condition| {
        text(condition, "/type") == "Ready" && text(condition, "/status") == "True"
    })
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let met = gates.iter().filter(|gate| {
        list(pod, "/status/conditions").iter().any(|condition| {
            text(condition, "/type") == text(gate, "/conditionType")
                && text(condition, "/status") == "True"
        })
    });
    format!("{}/{}", met.count(), gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"resources": resources}]}});
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&pod(json!({"limits": both, "requests": both}))), "Guaranteed");
    }

    #[test]
    fn a_crash_loop_is_what_the_status_column_says() {
        let pod = json!({
            "spec": {"containers": [{"name": "c"}]},
            "status": {"phase": "Running", "containerStatuses": [{
                "name": "c", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:00Z"}},
            }]},
        });
        assert_eq!(status_text(&pod), "CrashLoopBackOff");
        assert_eq!(ready_containers(&pod), "0/1");
        assert_eq!(restarts(&pod, 1_767_225_610), "2 (10s ago)");
    }
}
