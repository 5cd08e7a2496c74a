//! What deserves a warning in a PodSpec, or in a template, without being wrong.
//!
//! Counterpart: `pkg/api/pod/warnings.go`.

use crate::kinds::at::At;
use crate::kinds::resources::quantity;
use crate::quantity::Quantity;

const VOLUMES: &[(&str, &str)] = &[
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
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
];

pub fn warn_pod_spec(spec: &At, warnings: &mut Vec<String>) {
    node_labels(spec, warnings);
    volumes(spec, warnings);
    for secret in spec.child("imagePullSecrets").items() {
        if secret.text_of("name").is_empty() {
            let name = secret.child("name");
            warnings.push(format!("{}: invalid empty name \"\"", name.path));
        }
    }
    for field in ["initContainers", "containers"] {
        for container in spec.child(field).items() {
            duplicate_env(&container, warnings);
            duplicate_ports(&container, warnings);
            fractional_bytes(&container, warnings);
        }
    }
}

fn node_labels(spec: &At, warnings: &mut Vec<String>) {
    for (key, at) in spec.child("nodeSelector").entries() {
        if let Some((_, text)) = NODE_LABELS.iter().find(|(label, _)| *label == key) {
            warnings.push(format!("{}: {text}", at.path));
        }
    }
}

fn volumes(spec: &At, warnings: &mut Vec<String>) {
    for volume in spec.child("volumes").items() {
        for (source, text) in VOLUMES.iter().filter(|(source, _)| volume.has(source)) {
            warnings.push(format!("{}: {text}", volume.child(source).path));
        }
    }
}

fn duplicate_env(container: &At, warnings: &mut Vec<String>) {
    let mut seen: Vec<&str> = Vec::new();
    let env = container.child("env");
    for var in env.items() {
        let name = var.value["name"].as_str().unwrap_or_default();
        if seen.contains(&name) {
            let text = "which may be dropped when using apply";
            warnings.push(format!("{}: hides previous definition of {name:?}, {text}", var.path));
        } else {
            seen.push(name);
        }
    }
}

fn duplicate_ports(container: &At, warnings: &mut Vec<String>) {
    let ports = container.child("ports");
    for (index, port) in ports.items().enumerate() {
        let same = |field: &str, other: &At| {
            port.value.get(field).unwrap_or(&serde_json::Value::Null) == other.child(field).value
        };
        let first = ports.items().take(index).find(|other| {
            ["containerPort", "protocol", "hostIP", "hostPort"].iter().all(|f| same(f, other))
        });
        if let Some(first) = first {
            warnings.push(format!("{}: duplicate port definition with {}", port.path, first.path));
        }
    }
}

fn fractional_bytes(container: &At, warnings: &mut Vec<String>) {
    let resources = container.child("resources");
    for side in ["limits", "requests"] {
        let side = resources.child(side);
        for (name, at) in side.entries() {
            if matches!(name, "memory" | "ephemeral-storage") {
                warn_fractional_bytes(&at, warnings);
            }
        }
    }
}

pub fn warn_fractional_bytes(at: &At, warnings: &mut Vec<String>) {
    let Some(amount) = quantity(at.value) else { return };
    if amount != Quantity::from_units(amount.units()) {
        let detail = format!("fractional byte value \"{amount}\" is invalid, must be an integer");
        warnings.push(format!("{}: {detail}", at.path));
    }
}
