//! The PodSpec, shared by Pods and every kind with a Pod template: its defaults here, its
//! validation by topic in the modules below.
//!
//! Counterpart: `pkg/apis/core/v1/defaults.go`, `SetDefaults_PodSpec` and what it reaches.

mod containers;
mod environment;
mod handlers;
mod mounts;
mod network;
mod overlaps;
mod pod_resources;
mod ports;
pub mod projected;
mod scheduling;
pub mod security;
mod system;
#[cfg(test)]
mod tests;
pub mod validate;
pub mod volume_sources;
pub mod volumes;
pub mod warnings;

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Value, json};

use pod_resources::default_pod_resources;
pub use scheduling::{validate_taint_effect, validate_tolerations};
use volumes::Volumes;

use super::fill::{Object, each, made, made_at, object, set};

/// The lists of containers, in the order in which upstream visits them.
pub const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Fills in a PodSpec, whichever kind it stands in.
pub fn default_pod_spec(spec: &mut Object) {
    set(spec, "dnsPolicy", "ClusterFirst");
    set(spec, "restartPolicy", "Always");
    set(spec, "terminationGracePeriodSeconds", 30);
    set(spec, "schedulerName", "default-scheduler");
    made(spec, "securityContext");
    mirror_service_account(spec);
    for field in CONTAINER_LISTS {
        each(spec, field).for_each(default_container);
    }
    each(spec, "volumes").for_each(default_volume);
}

/// The template of a workload at `spec.template`.
pub fn default_template(root: &mut Value, pointer: &str) {
    if let Some(spec) = made_at(root, pointer) {
        default_pod_spec(spec);
    }
}

/// What holds for Pods and not for templates: requests follow limits, service links are on, and
/// with the node's network a container's port is the node's.
pub fn default_running_pod(spec: &mut Object) {
    set(spec, "enableServiceLinks", true);
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for field in ["initContainers", "containers"] {
        for container in each(spec, field) {
            default_requests(container);
            if host_network {
                each(container, "ports").for_each(default_host_port);
            }
        }
    }
    default_pod_resources(spec);
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are kept equal.
pub fn mirror_service_account(spec: &mut Object) {
    let name = ["serviceAccountName", "serviceAccount"]
        .iter()
        .find_map(|field| spec.get(*field).filter(|name| name.as_str() != Some("")))
        .cloned();
    if let Some(name) = name {
        spec.insert("serviceAccountName".into(), name.clone());
        spec.insert("serviceAccount".into(), name);
    }
}

/// Turns `matchLabelKeys` and `mismatchLabelKeys` into requirements on this Pod's own labels.
pub fn merge_label_keys(mut spec: Object, labels: &Value) -> Object {
    if let Some(affinity) = object(&mut spec, "affinity") {
        for of in ["podAffinity", "podAntiAffinity"] {
            let Some(terms) = object(affinity, of) else { continue };
            let required = "requiredDuringSchedulingIgnoredDuringExecution";
            each(terms, required).for_each(|term| require_own_labels(term, labels));
            for weighted in each(terms, "preferredDuringSchedulingIgnoredDuringExecution") {
                if let Some(term) = object(weighted, "podAffinityTerm") {
                    require_own_labels(term, labels);
                }
            }
        }
    }
    each(&mut spec, "topologySpreadConstraints").for_each(|term| require_own_labels(term, labels));
    spec
}

fn require_own_labels(term: &mut Object, labels: &Value) {
    let mut found = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        let keys = term.get(field).and_then(Value::as_array).into_iter().flatten();
        for key in keys.filter_map(Value::as_str) {
            if let Some(value) = labels.get(key) {
                found.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    let Some(selector) = object(term, "labelSelector").filter(|_| !found.is_empty()) else {
        return;
    };
    let expressions = selector.entry("matchExpressions").or_insert_with(|| json!([]));
    if let Some(expressions) = expressions.as_array_mut() {
        expressions.extend(found);
    }
}

/// Takes out of a PodSpec what belongs to features that are off by default.
pub fn drop_disabled_fields(spec: &mut Object) {
    spec.remove("schedulingGroup");
    for list in CONTAINER_LISTS {
        for container in each(spec, list) {
            let Some(lifecycle) = object(container, "lifecycle") else { continue };
            if lifecycle.remove("stopSignal").is_some() && lifecycle.is_empty() {
                container.remove("lifecycle");
            }
        }
    }
    for volume in each(spec, "volumes") {
        let Some(projected) = object(volume, "projected") else { continue };
        for source in each(projected, "sources") {
            source.remove("clusterTrustBundle");
            source.remove("podCertificate");
        }
    }
}

fn default_container(container: &mut Object) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or("");
    let policy = pull_policy(image);
    set(container, "imagePullPolicy", policy);
    set(container, "terminationMessagePath", "/dev/termination-log");
    set(container, "terminationMessagePolicy", "File");
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = object(container, probe) {
            default_probe(probe);
        }
    }
    if let Some(lifecycle) = object(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(get) = object(lifecycle, hook).and_then(|hook| object(hook, "httpGet")) {
                default_http_get(get);
            }
        }
    }
    for var in each(container, "env") {
        let Some(from) = object(var, "valueFrom") else { continue };
        if let Some(field) = object(from, "fieldRef") {
            set(field, "apiVersion", "v1");
        }
        if let Some(file) = object(from, "fileKeyRef") {
            set(file, "optional", false);
        }
    }
}

/// `Always` for a moving tag, `IfNotPresent` for a fixed one.
fn pull_policy(image: &str) -> &'static str {
    if !is_image_name(image) {
        return "IfNotPresent";
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    let digest = name.contains('@');
    match name.split('@').next().unwrap_or(name).split_once(':') {
        Some((_, "latest")) if !digest => "Always",
        None if !digest => "Always",
        _ => "IfNotPresent",
    }
}

/// Whether a registry could be asked for it: a path of lower case parts, a tag, a digest, the first
/// part being a host if it looks like one.
fn is_image_name(image: &str) -> bool {
    static NAME: LazyLock<Regex> = LazyLock::new(|| {
        let host = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?";
        let part = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*";
        let digest = "[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}";
        let pattern =
            format!(r"^(?:{host}/)?{part}(?:/{part})*(?::[\w][\w.-]{{0,127}})?(?:@{digest})?$");
        Regex::new(&pattern).expect("a pattern of ours")
    });
    const HEX_OF_DIGEST: usize = 64;
    let bare_digest = image.len() == HEX_OF_DIGEST
        && image.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    // A name without a registry is one of Docker's, and counts as such.
    const LONGEST: usize = 255;
    let name = image.split('@').next().unwrap_or(image);
    let name = name
        .rsplit_once(':')
        .map_or(name, |(name, tag)| if tag.contains('/') { image } else { name });
    let implied = match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => 0,
        Some(_) => "docker.io/".len(),
        None => "docker.io/library/".len(),
    };
    NAME.is_match(image) && !bare_digest && name.len() + implied <= LONGEST
}

fn default_probe(probe: &mut Object) {
    set(probe, "timeoutSeconds", 1);
    set(probe, "periodSeconds", 10);
    set(probe, "successThreshold", 1);
    set(probe, "failureThreshold", 3);
    if let Some(get) = object(probe, "httpGet") {
        default_http_get(get);
    }
    if let Some(grpc) = object(probe, "grpc") {
        set(grpc, "service", "");
    }
}

fn default_http_get(get: &mut Object) {
    set(get, "path", "/");
    set(get, "scheme", "HTTP");
}

fn default_host_port(port: &mut Object) {
    if let Some(number) = port.get("containerPort").cloned() {
        set(port, "hostPort", number);
    }
}

/// A limit without a request is also the request.
fn default_requests(holder: &mut Object) {
    let Some(resources) = object(holder, "resources") else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    let Some(requests) = made(resources, "requests") else { return };
    for (name, quantity) in limits {
        requests.entry(name).or_insert(quantity);
    }
}

fn default_volume(volume: &mut Object) {
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".into(), Value::Object(Object::new()));
    }
    for (source, mode) in [("secret", 420), ("configMap", 420), ("downwardAPI", 420)] {
        if let Some(source) = object(volume, source) {
            set(source, "defaultMode", mode);
            default_downward_items(source);
        }
    }
    if let Some(path) = object(volume, "hostPath") {
        set(path, "type", "");
    }
    if let Some(disk) = object(volume, "azureDisk") {
        set(disk, "readOnly", false);
    }
    if let Some(projected) = object(volume, "projected") {
        set(projected, "defaultMode", 420);
        each(projected, "sources").for_each(default_projection);
    }
    if let Some(template) =
        object(volume, "ephemeral").and_then(|source| object(source, "volumeClaimTemplate"))
        && let Some(spec) = object(template, "spec")
    {
        set(spec, "volumeMode", "Filesystem");
    }
    if let Some(image) = object(volume, "image") {
        let reference = image.get("reference").and_then(Value::as_str).unwrap_or("");
        let policy = pull_policy(reference);
        set(image, "pullPolicy", policy);
    }
}

fn default_projection(source: &mut Object) {
    if let Some(token) = object(source, "serviceAccountToken") {
        set(token, "expirationSeconds", 3600);
    }
    if let Some(downward) = object(source, "downwardAPI") {
        default_downward_items(downward);
    }
    if let Some(certificate) = object(source, "podCertificate") {
        set(certificate, "maxExpirationSeconds", 86400);
    }
}

fn default_downward_items(source: &mut Object) {
    for item in each(source, "items") {
        if let Some(field) = object(item, "fieldRef") {
            set(field, "apiVersion", "v1");
        }
    }
}

#[cfg(test)]
mod image_tests {
    use super::*;

    #[test]
    fn a_moving_tag_is_always_pulled() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:0123", "IfNotPresent"),
            ("Nginx", "IfNotPresent"),
            ("a b", "IfNotPresent"),
            ("registry.example:5000/a/b_c", "Always"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
