//! What deserves a warning in a Pod, or in a template, without being wrong.
//!
//! Counterpart: `pkg/api/pod/warnings.go`. The order of the calls is the order in which upstream
//! warns.

use std::collections::HashMap;

use super::CONTAINER_LISTS;
use super::overlaps::warn_overlapping_paths;
use super::security::{APPARMOR_PREFIX, SECCOMP_POD, SECCOMP_PREFIX, profile_of_annotation};
use super::validate::Context;
use crate::kinds::at::At;
use crate::kinds::core::persistent_volume_claim::warn_claim_spec;
use crate::kinds::resources::warn_fractional;
use crate::kinds::rules::ip_warning;
use crate::validation::label_value;

/// Sources on their way out: field, what upstream calls it, and since when.
const VOLUMES: &[(&str, &str, &str)] = &[
    (
        "photonPersistentDisk",
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Node labels that have been renamed.
const NODE_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

const ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];

const USE_SECCOMP_FIELD: &str =
    "non-functional in v1.27+; use the \"seccompProfile\" field instead";
pub const USE_APPARMOR_FIELD: &str =
    "deprecated since v1.30; use the \"appArmorProfile\" field instead";
const NOTHING_SELECTED: &str = "a null labelSelector results in matching no pod";

/// Why a label of nodes should not be relied on any more.
pub fn deprecated_node_label(key: &str) -> Option<&'static str> {
    NODE_LABELS.iter().find(|(label, _)| *label == key).map(|(_, text)| *text)
}

pub fn warn_pod(meta: &At, spec: &At, context: Context, warnings: &mut Vec<String>) {
    let annotations = meta.child("annotations");
    node_labels(spec, warnings);
    spread_constraints(spec, warnings);
    for (key, text) in ANNOTATIONS {
        warn_if_set(&annotations.child_key(key), text, warnings);
    }
    volumes(spec, warnings);
    warn_overlapping_paths(&spec.child("volumes"), warnings);
    host_aliases(spec, warnings);
    pull_secrets(spec, warnings);
    for name in ["memory", "ephemeral-storage"] {
        warn_fractional(&spec.child("overhead").child_key(name), warnings);
    }
    let profile = spec.child("securityContext");
    if !profile.has("seccompProfile") {
        warn_if_set(&annotations.child_key(SECCOMP_POD), USE_SECCOMP_FIELD, warnings);
    }
    for list in CONTAINER_LISTS {
        for container in spec.child(list).items() {
            profile_annotations(&annotations, spec, &container, context, warnings);
            fractional_bytes(&container, warnings);
            duplicate_env(&container, warnings);
        }
    }
    ports(spec, warnings);
    port_names(spec, warnings);
    let grace = spec.child("terminationGracePeriodSeconds");
    if grace.int() < 0 {
        let text = "must be >= 0; negative values are invalid and will be treated as 1";
        warnings.push(format!("{}: {text}", grace.path));
    }
    pod_affinity(spec, warnings);
    addresses(spec, warnings);
}

fn warn_if_set(at: &At, text: &str, warnings: &mut Vec<String>) {
    if at.is_set() {
        warnings.push(format!("{}: {text}", at.path));
    }
}

// === where it runs ===

fn node_labels(spec: &At, warnings: &mut Vec<String>) {
    for (key, at) in spec.child("nodeSelector").entries() {
        if let Some(text) = deprecated_node_label(key) {
            warnings.push(format!("{}: {text}", at.path));
        }
    }
    let affinity = spec.child("affinity");
    let affinity = affinity.child("nodeAffinity");
    let required = affinity.child("requiredDuringSchedulingIgnoredDuringExecution");
    for term in required.child("nodeSelectorTerms").items() {
        warn_node_selector_term(&term, warnings);
    }
    for term in affinity.child("preferredDuringSchedulingIgnoredDuringExecution").items() {
        let preference = term.child("preference");
        warn_node_selector_term(&preference, warnings);
        label_values(&preference, warnings);
    }
}

pub fn warn_node_selector_term(term: &At, warnings: &mut Vec<String>) {
    for expression in term.child("matchExpressions").items() {
        let key = expression.child("key");
        if let Some(text) = deprecated_node_label(key.text()) {
            warnings.push(format!("{}: {} is {text}", key.path, key.text()));
        }
    }
}

/// What is only preferred may be nonsense.
fn label_values(term: &At, warnings: &mut Vec<String>) {
    for expression in term.child("matchExpressions").items() {
        for value in expression.child("values").items() {
            for fault in label_value(value.text()) {
                warnings.push(format!("{}: {} is invalid, {fault}", value.path, value.text()));
            }
        }
    }
}

fn spread_constraints(spec: &At, warnings: &mut Vec<String>) {
    for constraint in spec.child("topologySpreadConstraints").items() {
        let key = constraint.child("topologyKey");
        if let Some(text) = deprecated_node_label(key.text()) {
            warnings.push(format!("{}: {} is {text}", key.path, key.text()));
        }
        warn_null_selector(&constraint, warnings);
    }
}

fn warn_null_selector(holder: &At, warnings: &mut Vec<String>) {
    let selector = holder.child("labelSelector");
    if !selector.is_set() {
        warnings.push(format!("{}: {NOTHING_SELECTED}", selector.path));
    }
}

fn pod_affinity(spec: &At, warnings: &mut Vec<String>) {
    let affinity = spec.child("affinity");
    for kind in ["podAffinity", "podAntiAffinity"] {
        let terms = affinity.child(kind);
        for term in terms.child("requiredDuringSchedulingIgnoredDuringExecution").items() {
            warn_null_selector(&term, warnings);
        }
        for term in terms.child("preferredDuringSchedulingIgnoredDuringExecution").items() {
            warn_null_selector(&term.child("podAffinityTerm"), warnings);
        }
    }
}

// === what it is made of ===

fn volumes(spec: &At, warnings: &mut Vec<String>) {
    for volume in spec.child("volumes").items() {
        for (source, shown, text) in VOLUMES {
            if *source == "cephfs" && volume.has("ephemeral") {
                let source = volume.child("ephemeral");
                let template = source.child("volumeClaimTemplate");
                warn_claim_spec(&template.child("spec"), warnings);
            }
            let at = volume.child(source);
            warn_if_set(&At::new(at.value, volume.path.child(shown)), text, warnings);
        }
    }
}

fn host_aliases(spec: &At, warnings: &mut Vec<String>) {
    let mut seen: Vec<&str> = Vec::new();
    for alias in spec.child("hostAliases").items() {
        let address = alias.value["ip"].as_str().unwrap_or_default();
        if seen.contains(&address) {
            warnings.push(format!("{}: duplicate ip {address:?}", alias.child("ip").path));
        } else {
            seen.push(address);
        }
    }
}

fn pull_secrets(spec: &At, warnings: &mut Vec<String>) {
    let mut seen: Vec<&str> = Vec::new();
    for secret in spec.child("imagePullSecrets").items() {
        let name = secret.value["name"].as_str().unwrap_or_default();
        if seen.contains(&name) {
            warnings.push(format!("{}: duplicate name {name:?}", secret.child("name").path));
        } else {
            seen.push(name);
        }
    }
    for secret in spec.child("imagePullSecrets").items() {
        if secret.text_of("name").is_empty() {
            let name = secret.child("name");
            warnings.push(format!("{}: invalid empty name \"\"", name.path));
        }
    }
}

/// Profiles that annotations ask for, and no field.
fn profile_annotations(
    annotations: &At,
    spec: &At,
    container: &At,
    context: Context,
    warnings: &mut Vec<String>,
) {
    let name = container.text_of("name");
    let own = container.child("securityContext");
    if !own.has("seccompProfile") {
        let key = format!("{SECCOMP_PREFIX}{name}");
        warn_if_set(&annotations.child_key(&key), USE_SECCOMP_FIELD, warnings);
    }
    let key = format!("{APPARMOR_PREFIX}{name}");
    let annotation = annotations.child_key(&key);
    // A Pod's own annotations have become fields by now.
    if context == Context::Pod || own.has("appArmorProfile") {
        return;
    }
    let pod = spec.child("securityContext");
    let pod = pod.child("appArmorProfile");
    let said = profile_of_annotation(annotation.text());
    let same = said.is_some_and(|(of, name)| {
        of == pod.text_of("type") && name.unwrap_or_default() == pod.text_of("localhostProfile")
    });
    if !pod.is_set() || !same {
        warn_if_set(&annotation, USE_APPARMOR_FIELD, warnings);
    }
}

fn fractional_bytes(container: &At, warnings: &mut Vec<String>) {
    let resources = container.child("resources");
    for name in ["memory", "ephemeral-storage"] {
        for side in ["limits", "requests"] {
            warn_fractional(&resources.child(side).child_key(name), warnings);
        }
    }
}

/// A second definition may build on the first; anything else hides it.
fn duplicate_env(container: &At, warnings: &mut Vec<String>) {
    let mut seen: Vec<&str> = Vec::new();
    for var in container.child("env").items() {
        let name = var.value["name"].as_str().unwrap_or_default();
        if !seen.contains(&name) {
            seen.push(name);
            continue;
        }
        let (value, earlier) = (var.text_of("value"), format!("$({name})"));
        if var.has("valueFrom") || value == earlier || !value.contains(&earlier) {
            let text = "which may be dropped when using apply";
            warnings.push(format!("{}: hides previous definition of {name:?}, {text}", var.path));
        }
    }
}

// === ports ===

#[derive(Clone)]
struct Port {
    place: String,
    host: i64,
    host_ip: String,
}

fn ports(spec: &At, warnings: &mut Vec<String>) {
    let mut known: HashMap<(i64, String), Vec<Port>> = HashMap::new();
    for list in CONTAINER_LISTS {
        for container in spec.child(list).items() {
            for at in container.child("ports").items() {
                let port = Port {
                    place: at.path.to_string(),
                    host: at.child("hostPort").int(),
                    host_ip: at.text_of("hostIP").to_owned(),
                };
                let (number, protocol) = (at.child("containerPort").int(), at.text_of("protocol"));
                if !port.host_ip.is_empty() && port.host == 0 {
                    warnings.push(format!(
                        "{}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{number} Protocol:{protocol} HostIP:{}}}",
                        port.place, at.text_of("name"), port.host_ip
                    ));
                }
                let same = known.entry((number, protocol.to_owned())).or_default();
                warnings.extend(same.iter().filter_map(|other| clash(&port, other)));
                same.push(port);
            }
        }
    }
}

fn clash(port: &Port, other: &Port) -> Option<String> {
    let half_open = port.host_ip.is_empty() != other.host_ip.is_empty();
    let how = if port.host_ip == other.host_ip && port.host == other.host {
        "duplicate"
    } else if port.host == 0 || other.host == 0 {
        "overlapping"
    } else if port.host == other.host && half_open {
        "dangerously ambiguous"
    } else {
        return None;
    };
    Some(format!("{}: {how} port definition with {}", port.place, other.place))
}

fn port_names(spec: &At, warnings: &mut Vec<String>) {
    let mut known: HashMap<String, String> = HashMap::new();
    for list in CONTAINER_LISTS {
        for container in spec.child(list).items() {
            for port in container.child("ports").items() {
                let name = port.text_of("name");
                match known.get(name) {
                    _ if name.is_empty() => {}
                    Some(first) => warnings.push(format!(
                        "{}: duplicate port name {name:?} with {first}, services and probes that select ports by name will use {first}",
                        port.path
                    )),
                    None => drop(known.insert(name.to_owned(), port.path.to_string())),
                }
            }
        }
    }
}

// === addresses ===

fn addresses(spec: &At, warnings: &mut Vec<String>) {
    let resolver = spec.child("dnsConfig");
    let servers = resolver.child("nameservers");
    for server in servers.items() {
        warnings.extend(ip_warning(&server.path, server.text()));
    }
    for alias in spec.child("hostAliases").items() {
        let address = alias.child("ip");
        warnings.extend(ip_warning(&address.path, address.text()));
    }
}
