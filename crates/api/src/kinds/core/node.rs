//! Node: capacity follows into allocatable, and what a Table shows.

use crate::field::{ErrorList, Path};
use crate::internal::printed;
use crate::kinds::at::At;
use crate::kinds::pod_spec::validate_taint_effect;
use crate::kinds::resources::validate_amount;
use crate::kinds::rules::{cidr, parse_cidr};
use crate::validation::{label_value, qualified_name};
use std::collections::HashSet;

use serde_json::Value;

use crate::kind::{KindDef, Strategy};
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
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        validate_taints(&root, errors);
        validate_ranges(&root.child("spec").child("podCIDRs"), errors);
        avoid_pods(object, errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
        let (root, old) = (At::root(object), At::root(old));
        let (spec, was) = (root.child("spec"), old.child("spec"));
        for (field, detail) in [
            ("podCIDRs", "node updates may not change podCIDR except from \"\" to valid"),
            ("providerID", "node updates may not change providerID except from \"\" to valid"),
        ] {
            if !was.child(field).is_empty() && spec.child(field).value != was.child(field).value {
                spec.child(field).forbidden(errors, detail);
            }
        }
    }

    fn validate_status_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let status = root.child("status");
        let addresses = status.child("addresses");
        for (index, address) in addresses.items().enumerate() {
            if addresses.list()[..index].contains(address.value) {
                address.duplicate(errors);
            }
        }
        for field in ["capacity", "allocatable"] {
            for (name, amount) in status.child(field).entries() {
                validate_amount(name, &amount, errors);
            }
        }
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
            "Kernel-Version" => known(text(object, "/status/nodeInfo/kernelVersion")).into(),
            "Container-Runtime" => {
                known(text(object, "/status/nodeInfo/containerRuntimeVersion")).into()
            }
            _ => Value::Null,
        }
    }
}

/// `podCIDR` is the first of `podCIDRs`.
fn lead_with_range(spec: &mut Object) {
    let Some(first) = spec.get("podCIDR").filter(|range| range.as_str() != Some("")).cloned()
    else {
        return;
    };
    let led = spec.get("podCIDRs").and_then(|ranges| ranges.get(0)) == Some(&first);
    if !led {
        spec.insert("podCIDRs".into(), Value::from(vec![first]));
    }
}

fn known(value: &str) -> &str {
    if value.is_empty() { "<unknown>" } else { value }
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
    let before = errors.0.len();
    ranges.items().for_each(|range| range.obeys(errors, cidr));
    let parsed: Vec<_> = ranges.items().filter_map(|range| parse_cidr(range.text())).collect();
    if errors.0.len() > before || parsed.len() < 2 {
        return;
    }
    let v4 = parsed.iter().filter(|(address, _)| address.is_ipv4()).count();
    if parsed.len() > 2 || v4 != 1 {
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
