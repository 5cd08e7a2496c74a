//! What `kubectl get pods` shows of a Pod: how many containers are ready, in which state it is, how
//! often it restarted.
//!
//! Counterpart: `printPod`.

use serde_json::Value;

use crate::age;
use crate::kinds::fill::{flag, int, list, text};
use crate::meta::meta;

pub fn cell(object: &Value, column: &str, now: i64) -> Value {
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

fn or_none(value: &str) -> Value {
    if value.is_empty() { "<none>".into() } else { value.into() }
}

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
    use serde_json::json;

    use super::*;

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
