//! Pod: defaults, quality of service, graceful deletion, and the status column people read most.
//!
//! Counterpart: `pkg/registry/core/pod/strategy.go` and `printPod`.

use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::pod_spec::CONTAINER_LISTS;
use crate::kinds::pod_spec::merge_label_keys;
use crate::kinds::pod_spec::security::{
    APPARMOR_PREFIX, profile_of_annotation, validate_profile_annotations, validate_profiles_agree,
};
use crate::kinds::pod_spec::validate::{Context, validate_pod_spec, validate_trimmed_image};
use crate::kinds::pod_spec::volumes::validate_own_claims;
use crate::kinds::pod_spec::warnings::{USE_APPARMOR_FIELD, warn_pod};
use crate::validation::{dns_label, dns_subdomain};
use serde_json::{Value, json};

use crate::age;
use crate::kind::{KindDef, Strategy, keep};
use crate::kinds::fill::{flag, int, list, made, made_at, object_at, set, text};
use crate::kinds::pod_spec::{default_pod_spec, default_running_pod};
use crate::meta::meta;
use crate::time;

pub struct Pod;

impl Strategy for Pod {
    fn default(&self, object: &mut Value) {
        let Some(spec) = made_at(object, "/spec") else { return };
        default_running_pod(spec);
        default_pod_spec(spec);
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        if let Some(spec) = object_at(object, "/spec").cloned() {
            let labels = object.pointer("/metadata/labels").cloned().unwrap_or_default();
            object["spec"] = Value::Object(merge_label_keys(spec, &labels));
        }
        take_apparmor_annotations(object);
        if int(object, "/spec/terminationGracePeriodSeconds").is_some_and(|grace| grace < 0) {
            object["spec"]["terminationGracePeriodSeconds"] = json!(1);
        }
        let qos = qos_class(object);
        object["status"] = json!({ "phase": "Pending", "qosClass": qos });
        if !list(object, "/spec/schedulingGates").is_empty() {
            object["status"]["conditions"] = json!([{
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null,
                "lastTransitionTime": time::format(time::now()),
            }]);
        }
    }

    fn prepare_for_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep(object, old, "status");
    }

    /// `qosClass` is decided once, when the Pod is made; a status that leaves it out keeps it.
    fn prepare_for_status_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep(object, old, "spec");
        if let (Some(class), Some(status)) =
            (old.pointer("/status/qosClass"), object_at(object, "/status"))
        {
            set(status, "qosClass", class.clone());
        }
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        validate_pod(object, errors);
        let root = At::root(object);
        let (metadata, spec) = (root.child("metadata"), root.child("spec"));
        if !spec.child("ephemeralContainers").is_empty() {
            spec.child("ephemeralContainers").forbidden(errors, "cannot be set on create");
        }
        if !spec.child("schedulingGates").is_empty() && !spec.text_of("nodeName").is_empty() {
            let detail = "cannot be set until all schedulingGates have been cleared";
            spec.child("nodeName").forbidden(errors, detail);
        }
        validate_profiles_agree(&metadata.child("annotations"), &spec, errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        validate_pod(object, errors);
        validate_spec_change(&At::root(object).child("spec"), &At::root(old).child("spec"), errors);
    }

    fn validate_status_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        let (root, old) = (At::root(object), At::root(old));
        let (status, was) = (root.child("status"), old.child("status"));
        let nominated = status.child("nominatedNodeName");
        nominated.obeys_if_set(errors, dns_subdomain);
        status.child("qosClass").unchanged(errors, &was.child("qosClass"));
    }

    /// Annotations are spoken of before they become fields.
    fn warnings_before_create(&self, object: &Value) -> Vec<String> {
        let fields = profiles_from_annotations(object).into_iter();
        let warn = |key: String| format!("metadata.annotations[{key}]: {USE_APPARMOR_FIELD}");
        fields.map(|annotation| warn(annotation.key)).collect()
    }

    /// Of changes nobody is warned: it is not people who make them.
    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some() {
            return Vec::new();
        }
        let root = At::root(object);
        let mut warnings = Vec::new();
        let faults = dns_label(meta(object).name());
        if !faults.is_empty() {
            warnings.push(format!(
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
                faults.join(" ")
            ));
        }
        warn_pod(&root.child("metadata"), &root.child("spec"), Context::Pod, &mut warnings);
        warnings
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

// === profiles that annotations speak of ===

/// An annotation about a container that has no profile of its own, and the profile to give it:
/// none if the annotation makes no sense.
struct ProfileAnnotation {
    key: String,
    list: &'static str,
    index: usize,
    profile: Option<Value>,
}

/// An annotation that says what holds for the whole Pod anyway is not there.
fn profiles_from_annotations(pod: &Value) -> Vec<ProfileAnnotation> {
    let mut found = Vec::new();
    let annotations = pod.pointer("/metadata/annotations").and_then(Value::as_object);
    let Some(annotations) = annotations else { return found };
    if text(pod, "/spec/os/name") == "windows" {
        return found;
    }
    let of_pod = pod.pointer("/spec/securityContext/appArmorProfile");
    for list_name in CONTAINER_LISTS {
        let containers = list(pod, &format!("/spec/{list_name}"));
        for (index, container) in containers.iter().enumerate() {
            let key = format!("{APPARMOR_PREFIX}{}", text(container, "/name"));
            let Some(annotation) = annotations.get(&key).and_then(Value::as_str) else { continue };
            if container.pointer("/securityContext/appArmorProfile").is_some() {
                continue;
            }
            let profile = apparmor_field(annotation);
            if profile.is_none() || profile.as_ref() != of_pod {
                found.push(ProfileAnnotation { key, list: list_name, index, profile });
            }
        }
    }
    found
}

fn apparmor_field(annotation: &str) -> Option<Value> {
    let (of, name) = profile_of_annotation(annotation)?;
    match name {
        Some(name) if name.is_empty() || name.trim() != name => None,
        Some(name) => Some(json!({ "type": of, "localhostProfile": name })),
        None => Some(json!({ "type": of })),
    }
}

/// A container without a profile of its own takes the annotation's.
fn take_apparmor_annotations(pod: &mut Value) {
    for annotation in profiles_from_annotations(pod) {
        let Some(profile) = annotation.profile else { continue };
        let pointer = format!("/spec/{}/{}", annotation.list, annotation.index);
        let container = object_at(pod, &pointer);
        if let Some(context) = container.and_then(|container| made(container, "securityContext")) {
            context.insert("appArmorProfile".into(), profile);
        }
    }
}

// === what may be wrong with a Pod and not with a template ===

/// What holds for a Pod at any time of its life.
fn validate_pod(object: &Value, errors: &mut ErrorList) {
    let root = At::root(object);
    let (metadata, spec) = (root.child("metadata"), root.child("spec"));
    validate_annotations(&metadata.child("annotations"), &spec, errors);
    validate_own_claims(meta(object).name(), &spec.child("volumes"), errors);
    validate_pod_spec(&spec, Context::Pod, errors);
    tokens_need_an_account(&spec, errors);
    for list in ["containers", "initContainers"] {
        for container in spec.child(list).items() {
            validate_trimmed_image(&container, errors);
        }
    }
}

const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Annotations that mean something to the server.
fn validate_annotations(annotations: &At, spec: &At, errors: &mut ErrorList) {
    let mirror = annotations.child_key(MIRROR);
    if mirror.is_set() && spec.text_of("nodeName").is_empty() {
        mirror.invalid(errors, "must set spec.nodeName if mirror pod annotation is set");
    }
    let cost = annotations.child_key(DELETION_COST);
    // A number is written in one way only: no sign but minus, no zero in front.
    let plain = cost.text().parse::<i32>().is_ok_and(|number| number.to_string() == cost.text());
    if cost.is_set() && !plain {
        cost.invalid(errors, "must be a 32bit integer");
    }
    validate_profile_annotations(annotations, spec, errors);
}

fn tokens_need_an_account(spec: &At, errors: &mut ErrorList) {
    if !spec.text_of("serviceAccountName").is_empty() {
        return;
    }
    for volume in spec.child("volumes").items() {
        for source in volume.child("projected").child("sources").items() {
            if source.has("serviceAccountToken") {
                let detail = "must not be specified when serviceAccountName is not set";
                source.child("serviceAccountToken").forbidden(errors, detail);
            }
        }
    }
}

const ONLY_THESE_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// A Pod's spec is fixed but for a few fields, each with a rule of its own.
fn validate_spec_change(spec: &At, old: &At, errors: &mut ErrorList) {
    let before = errors.0.len();
    for field in ["containers", "initContainers"] {
        let (now, was) = (spec.child(field), old.child(field));
        if now.list().len() != was.list().len() {
            now.forbidden(errors, "pod updates may not add or remove containers");
        }
    }
    if errors.0.len() > before {
        return;
    }
    deadline_change(
        &spec.child("activeDeadlineSeconds"),
        &old.child("activeDeadlineSeconds"),
        errors,
    );
    tolerations_only_grow(&spec.child("tolerations"), &old.child("tolerations"), errors);
    gates_only_shrink(&spec.child("schedulingGates"), &old.child("schedulingGates"), errors);
    if errors.0.len() == before && mutable_parts_from(old.value, spec.value) != *old.value {
        spec.forbidden(errors, ONLY_THESE_CHANGE);
    }
}

/// A deadline may be set or brought forward, never lifted.
fn deadline_change(deadline: &At, old: &At, errors: &mut ErrorList) {
    if !old.is_set() {
        return;
    }
    match deadline.is_set() {
        false => deadline.invalid(errors, "must not update from a positive integer to nil value"),
        true if deadline.int() > old.int() => {
            deadline.invalid(errors, "must be less than or equal to previous value");
        }
        true => {}
    }
}

fn tolerations_only_grow(tolerations: &At, old: &At, errors: &mut ErrorList) {
    let same = |a: &Value, b: &Value| {
        ["key", "operator", "value", "effect"]
            .iter()
            .all(|field| text(a, &format!("/{field}")) == text(b, &format!("/{field}")))
    };
    for was in old.list() {
        if !tolerations.list().iter().any(|now| same(now, was)) {
            let detail = "existing toleration can not be modified except its tolerationSeconds";
            tolerations.forbidden(errors, detail);
            return;
        }
    }
}

fn gates_only_shrink(gates: &At, old: &At, errors: &mut ErrorList) {
    if gates.list().iter().any(|gate| !old.list().contains(gate)) {
        let detail = "only deletion is allowed, but found new scheduling gate";
        let added = gates.list().iter().find(|gate| !old.list().contains(gate));
        let name = added.map_or("", |gate| text(gate, "/name"));
        gates.forbidden(errors, format!("{detail} '{name}'"));
    }
}

/// The new spec with everything that may change set back to what it was.
fn mutable_parts_from(old: &Value, new: &Value) -> Value {
    let mut spec = new.clone();
    for field in ["containers", "initContainers"] {
        let images = list(old, &format!("/{field}")).iter().map(|container| container.get("image"));
        let containers = spec.get_mut(field).and_then(Value::as_array_mut);
        for (container, image) in containers.into_iter().flatten().zip(images) {
            container["image"] = image.cloned().unwrap_or_default();
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        keep(&mut spec, old, field);
    }
    let grace = |spec: &Value| int(spec, "/terminationGracePeriodSeconds").unwrap_or(0);
    if grace(old) < 0 && grace(new) == 1 {
        keep(&mut spec, old, "terminationGracePeriodSeconds");
    }
    // While a Pod is held back by gates, where it may run can still be narrowed.
    if !list(old, "/schedulingGates").is_empty() {
        keep(&mut spec, old, "nodeSelector");
        keep(&mut spec, old, "affinity");
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::at::tests::{check, check_update};

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"resources": resources}]}});
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&pod(json!({"limits": both, "requests": both}))), "Guaranteed");
    }

    const PATH: &str = "v1/pods";

    #[test]
    fn containers_are_checked_in_upstreams_order() {
        check(
            PATH,
            "spec: {containers: [{name: C, image: i, ports: [{containerPort: 0}]}]}",
            &[
                "spec.containers[0].name: Invalid value: \"C\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                "spec.containers[0].ports[0].containerPort: Required value",
            ],
        );
        check(
            PATH,
            "spec: {containers: [{name: c, image: i, livenessProbe: {periodSeconds: -1}}]}",
            &[
                "spec.containers[0].livenessProbe: Required value: must specify a handler type",
                "spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            ],
        );
    }

    #[test]
    fn a_mount_of_a_faulty_volume_is_reported_too() {
        let volumes = "volumes: [{name: v, hostPath: {path: /a/../b}}]";
        let mounts = "volumeMounts: [{name: v, mountPath: /v, subPath: /x}]";
        check(
            PATH,
            &format!("spec: {{{volumes}, containers: [{{name: c, image: i, {mounts}}}]}}"),
            &[
                "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
                "spec.containers[0].volumeMounts.subPath: Invalid value: \"/x\": must be a relative path",
            ],
        );
    }

    #[test]
    fn of_a_spec_only_images_and_a_few_more_change() {
        let pod = |image: &str, more: &str| {
            format!("spec: {{containers: [{{name: c, image: \"{image}\"}}], {more}}}")
        };
        let old = pod("a:1", "activeDeadlineSeconds: 9");
        check_update(PATH, &old, &pod("b:1", "activeDeadlineSeconds: 5"), &[]);
        check_update(
            PATH,
            &old,
            &pod("a:1", "activeDeadlineSeconds: 10"),
            &[
                "spec.activeDeadlineSeconds: Invalid value: 10: must be less than or equal to previous value",
            ],
        );
        let forbidden = format!("spec: Forbidden: {ONLY_THESE_CHANGE}");
        check_update(
            PATH,
            &old,
            &pod("a:1", "activeDeadlineSeconds: 9, hostname: h"),
            &[&forbidden],
        );
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
