//! Node: capacity follows into allocatable, and what a Table shows.

use crate::field::{ErrorList, Path};
use crate::internal::printed;
use crate::kinds::at::At;
use crate::kinds::pod_spec::validate_taint_effect;
use crate::kinds::resources::validate_amount;
use crate::kinds::rules::{parse_cidr, strict_cidr};
use crate::validation::{DNS_SUBDOMAIN_MAX, label_value, qualified_name};
use std::collections::HashSet;

use serde_json::Value;

use crate::kind::{KindDef, Strategy, keep};
use crate::kinds::fill::{Object, flag, list, object_at, set, text};
use crate::meta::meta;

pub struct Node;

impl Strategy for Node {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object_at(object, "/spec") {
            lead_with_range(spec);
        }
        let Some(status) = object_at(object, "/status") else { return };
        if let Some(capacity) = status.get("capacity").cloned() {
            set(status, "allocatable", capacity);
        }
    }

    /// A kubelet registers its node together with the status.
    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        if let Some(spec) = object_at(object, "/spec") {
            spec.remove("configSource");
        }
        if let Some(status) = object_at(object, "/status") {
            status.remove("config");
        }
    }

    fn prepare_for_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep(object, old, "status");
        drop_unless_in_use(object, old, "/spec", "configSource");
    }

    fn prepare_for_status_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep(object, old, "spec");
        drop_unless_in_use(object, old, "/status", "config");
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        avoid_pods(object, errors);
        validate_taints(&root, errors);
        let status = root.child("status");
        validate_resources(&status, errors);
        validate_features(&status.child("declaredFeatures"), errors);
        validate_ranges(&root.child("spec").child("podCIDRs"), errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
        validate_change(object, old, errors);
    }

    fn validate_status_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        validate_change(object, old, errors);
    }

    fn warnings(&self, object: &Value, _old: Option<&Value>) -> Vec<String> {
        let root = At::root(object);
        let spec = root.child("spec");
        let mut warnings = Vec::new();
        if !spec.text_of("externalID").is_empty() {
            warnings.push(
                "spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned(),
            );
        }
        warnings
    }

    fn selectable_fields(&self) -> &'static [(&'static str, &'static str)] {
        &[("spec.unschedulable", "/spec/unschedulable")]
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Status" => status_text(object).into(),
            "Roles" => roles(object).into(),
            "Version" => text(object, "/status/nodeInfo/kubeletVersion").into(),
            "Internal-IP" => address(object, "InternalIP").into(),
            "External-IP" => address(object, "ExternalIP").into(),
            "OS-Image" => known(text(object, "/status/nodeInfo/osImage")).into(),
            "Kernel-Version" => kernel(object).into(),
            "Container-Runtime" => {
                known(text(object, "/status/nodeInfo/containerRuntimeVersion")).into()
            }
            _ => Value::Null,
        }
    }
}

/// `podCIDR` is the first of `podCIDRs`; where they differ, the older field is meant.
fn lead_with_range(spec: &mut Object) {
    let single = spec.get("podCIDR").filter(|range| range.as_str() != Some("")).cloned();
    let first = spec.get("podCIDRs").and_then(|ranges| ranges.get(0)).cloned();
    match (single, first) {
        (None, Some(first)) => drop(spec.insert("podCIDR".into(), first)),
        (Some(single), first) if first.as_ref() != Some(&single) => {
            spec.insert("podCIDRs".into(), Value::from(vec![single]));
        }
        _ => {}
    }
}

fn drop_unless_in_use(object: &mut Value, old: &Value, holder: &str, field: &str) {
    let in_use = old.pointer(holder).is_some_and(|holder| holder.get(field).is_some());
    if let Some(holder) = object_at(object, holder).filter(|_| !in_use) {
        holder.remove(field);
    }
}

fn known(value: &str) -> &str {
    if value.is_empty() { "<unknown>" } else { value }
}

/// The version, and the architecture behind it.
fn kernel(node: &Value) -> String {
    let version = known(text(node, "/status/nodeInfo/kernelVersion"));
    match text(node, "/status/nodeInfo/architecture") {
        "" => version.to_owned(),
        architecture => format!("{version} ({architecture})"),
    }
}

fn status_text(node: &Value) -> String {
    let ready = list(node, "/status/conditions")
        .iter()
        .find(|condition| text(condition, "/type") == "Ready");
    let word = match ready.map(|condition| text(condition, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    match flag(node, "/spec/unschedulable") {
        true => format!("{word},SchedulingDisabled"),
        false => word.to_owned(),
    }
}

/// From the labels `node-role.kubernetes.io/<role>` and the older `kubernetes.io/role=<role>`.
fn roles(node: &Value) -> String {
    let labels = meta(node).labels().into_iter().flatten();
    let mut roles: Vec<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn address<'a>(node: &'a Value, of: &str) -> &'a str {
    list(node, "/status/addresses")
        .iter()
        .find(|address| text(address, "/type") == of)
        .map_or("<none>", |address| text(address, "/address"))
}

// === validation ===

/// Faults of a change, of the node or of what is reported of it.
fn validate_change(object: &Value, old: &Value, errors: &mut ErrorList) {
    let (root, old) = (At::root(object), At::root(old));
    let (spec, was, status) = (root.child("spec"), old.child("spec"), root.child("status"));
    avoid_pods(object, errors);
    validate_resources(&status, errors);
    validate_features(&status.child("declaredFeatures"), errors);
    let addresses = status.child("addresses");
    for (index, address) in addresses.items().enumerate() {
        if addresses.list()[..index].contains(address.value) {
            address.duplicate(errors);
        }
    }
    for (field, detail) in [
        ("podCIDRs", "node updates may not change podCIDR except from \"\" to valid"),
        ("providerID", "node updates may not change providerID except from \"\" to valid"),
    ] {
        if !was.child(field).is_empty() && spec.child(field).value != was.child(field).value {
            spec.child(field).forbidden(errors, detail);
        }
    }
    validate_taints(&root, errors);
    if spec.text_of("externalID") != was.text_of("externalID") {
        spec.child("externalID").forbidden(errors, "may not be updated");
    }
}

fn validate_resources(status: &At, errors: &mut ErrorList) {
    for field in ["capacity", "allocatable"] {
        let amounts = status.child(field);
        for (name, amount) in amounts.entries() {
            // Upstream takes the name for a field here, not for a key.
            let place = amounts.path.child(name);
            validate_amount(name, &At::new(amount.value, place), errors);
        }
    }
}

/// Features by name, sorted: an upper camel case word, and more after slashes.
fn validate_features(features: &At, errors: &mut ErrorList) {
    const FORM: &str = "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes";
    let well_formed = |text: &str| {
        text.starts_with(|first: char| first.is_ascii_uppercase())
            && text.split('/').all(|part| {
                !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
            })
    };
    let mut items = features.items().peekable();
    while let Some(feature) = items.next() {
        let text = feature.text();
        if text.len() > DNS_SUBDOMAIN_MAX {
            let detail = format!(
                "invalid feature name {text:?}: must be no more than {DNS_SUBDOMAIN_MAX} characters"
            );
            feature.invalid(errors, detail);
        } else if !well_formed(text) {
            feature.invalid_as(errors, text, format!("invalid feature name {text:?}: {FORM}"));
        }
        match items.peek() {
            Some(next) if next.text() == text => next.duplicate(errors),
            Some(next) if next.text() < text => {
                next.invalid(errors, "list must be sorted alphabetically");
            }
            _ => {}
        }
    }
}

/// Upstream reports taints as if they stood in the metadata.
fn validate_taints(root: &At, errors: &mut ErrorList) {
    let taints = root.child("spec");
    let taints = taints.child("taints");
    let metadata = Path::new("metadata");
    let taints = At::new(taints.value, metadata.child("taints"));
    let mut seen = HashSet::new();
    for taint in taints.items() {
        let key = taint.child("key");
        for fault in qualified_name(key.text()) {
            key.invalid_as(errors, key.text(), fault);
        }
        taint.child("value").obeys(errors, label_value);
        validate_taint_effect(&taint.child("effect"), errors);
        if !seen.insert((key.text().to_owned(), taint.text_of("effect").to_owned())) {
            let place = &taint.path;
            errors.duplicate_because(
                place,
                taint.value.clone(),
                "taints must be unique by key and effect pair",
            );
            errors.print_last(printed("core.Taint", taint.value));
        }
    }
}

fn validate_ranges(ranges: &At, errors: &mut ErrorList) {
    ranges.items().for_each(|range| range.obeys(errors, strict_cidr));
    let parsed: Vec<_> = ranges.items().map(|range| parse_cidr(range.text())).collect();
    if parsed.len() < 2 {
        return;
    }
    if let Some(at) = parsed.iter().position(Option::is_none) {
        let text = ranges.list()[at].as_str().unwrap_or_default();
        let why = format!("invalid CIDR[{at}]: <nil> (invalid CIDR address: {text})");
        let detail = format!("invalid PodCIDRs. failed to check with dual stack with error:{why}");
        errors.internal(&ranges.path, detail);
    }
    let v4 = parsed.iter().flatten().filter(|(address, _)| address.is_ipv4()).count();
    let dual = v4 == 1 && parsed.iter().flatten().count() == 2;
    if parsed.len() > 2 || !dual {
        ranges.invalid(errors, "may specify no more than one CIDR for each IP family");
    }
}

fn avoid_pods(node: &Value, errors: &mut ErrorList) {
    const KEY: &str = "scheduler.alpha.kubernetes.io/preferAvoidPods";
    let Some(text) = meta(node).annotation(KEY) else { return };
    if let Err(fault) = crate::codec::parse_json(text.as_bytes()) {
        let metadata = Path::new("metadata");
        errors.invalid(&metadata.child("annotations").child("AvoidPods"), KEY, fault.to_string());
    }
}
