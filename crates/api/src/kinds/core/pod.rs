//! Pod: defaults, quality of service, graceful deletion, and the status column people read most.
//!
//! Counterpart: `pkg/registry/core/pod/strategy.go` and `printPod`.

mod cells;
mod changes;
mod references;
mod status;

pub use references::api_reference;

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
use crate::validation::dns_label;
use serde_json::{Value, json};

use crate::kind::{FieldPaths, KindDef, Strategy, keep};
use crate::kinds::fill::{Object, int, list, made, made_at, object_at, set, text};
use crate::kinds::pod_spec::{default_pod_spec, default_running_pod, drop_disabled_fields};
use crate::meta::meta;
use crate::time;
use changes::{
    validate_annotation_change, validate_ephemeral_change, validate_resize, validate_spec_change,
};
use status::{keep_generations, status_warnings, validate_status};

pub struct Pod;

impl Strategy for Pod {
    fn status_resets(&self) -> FieldPaths {
        &[&["f:spec"], &["f:metadata", "f:deletionTimestamp"], &["f:metadata", "f:ownerReferences"]]
    }

    fn without_tables(&self) -> &'static [&'static str] {
        &["binding", "ephemeralcontainers", "eviction", "resize"]
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = made_at(object, "/spec") else { return };
        default_running_pod(spec);
        default_pod_spec(spec);
        if let Some(status) = object_at(object, "/status") {
            lead_with_address(status);
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        if let Some(spec) = object_at(object, "/spec").cloned() {
            let labels = object.pointer("/metadata/labels").cloned().unwrap_or_default();
            object["spec"] = Value::Object(merge_label_keys(spec, &labels));
        }
        drop_disabled(object);
        take_apparmor_annotations(object);
        if int(object, "/spec/terminationGracePeriodSeconds").is_some_and(|grace| grace < 0) {
            object["spec"]["terminationGracePeriodSeconds"] = json!(1);
        }
        let said = text(object, "/status/qosClass").to_owned();
        let qos = if said.is_empty() { qos_class(object).to_owned() } else { said };
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
        drop_disabled(object);
    }

    /// `qosClass` is decided once, when the Pod is made; a status that leaves it out keeps it.
    fn prepare_for_status_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep(object, old, "spec");
        drop_disabled(object);
        if let (Some(class), Some(status)) =
            (old.pointer("/status/qosClass"), object_at(object, "/status"))
        {
            set(status, "qosClass", class.clone());
        }
        keep_generations(object, old);
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
        validate_changed_annotations(object, old, errors);
        validate_spec_change(&At::root(object).child("spec"), &At::root(old).child("spec"), errors);
    }

    fn validate_part_update(
        &self,
        part: &str,
        object: &Value,
        old: &Value,
        errors: &mut ErrorList,
    ) {
        validate_pod(object, errors);
        match part {
            "resize" => validate_resize(object, old, errors),
            _ => {
                validate_changed_annotations(object, old, errors);
                validate_ephemeral_change(object, old, errors);
            }
        }
    }

    fn validate_status_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        validate_changed_annotations(object, old, errors);
        validate_status(object, old, errors);
    }

    fn status_warnings(&self, object: &Value) -> Vec<String> {
        status_warnings(object)
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
            ("status.podIPs", "/status/podIP"),
            ("status.nominatedNodeName", "/status/nominatedNodeName"),
        ]
    }

    fn cell(&self, object: &Value, column: &str, now: i64) -> Value {
        cells::cell(object, column, now)
    }
}

/// `podIP` is the first of `podIPs`; where they differ, the older field is meant.
fn lead_with_address(status: &mut Object) {
    let single = status.get("podIP").and_then(Value::as_str).unwrap_or_default().to_owned();
    let first = status.get("podIPs").and_then(|list| list.get(0)?.get("ip")).cloned();
    match first {
        Some(first) if single.is_empty() => drop(status.insert("podIP".into(), first)),
        first if !single.is_empty() && first.as_ref() != Some(&json!(single)) => {
            status.insert("podIPs".into(), json!([{ "ip": single }]));
        }
        _ => {}
    }
}

/// Fields of features that are off by default: clients may send them, and nothing comes of it.
fn drop_disabled(pod: &mut Value) {
    if let Some(spec) = object_at(pod, "/spec") {
        drop_disabled_fields(spec);
    }
    if let Some(status) = object_at(pod, "/status") {
        status.remove("nodeAllocatableResourceClaimStatuses");
    }
}

/// Guaranteed: every container limits cpu and memory and requests as much. BestEffort: none asks
/// for either. Burstable otherwise.
pub fn qos_class(pod: &Value) -> &'static str {
    let containers = list(pod, "/spec/initContainers").iter().chain(list(pod, "/spec/containers"));
    let (mut any, mut all) = (false, true);
    let pod_level = pod.get("spec").filter(|spec| spec.pointer("/resources").is_some());
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

fn validate_changed_annotations(object: &Value, old: &Value, errors: &mut ErrorList) {
    let (root, was) = (At::root(object), At::root(old));
    let (metadata, was) = (root.child("metadata"), was.child("metadata"));
    let annotations = metadata.child("annotations");
    validate_annotation_change(&annotations, &was.child("annotations"), errors);
    validate_annotations(&annotations, &root.child("spec"), errors);
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::at::tests::check;

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
}
