//! Node: capacity follows into allocatable, and what a Table shows.

use serde_json::Value;

use crate::kind::{KindDef, Strategy};
use crate::kinds::fill::{flag, list, object_at, set, text};
use crate::meta::meta;

pub struct Node;

impl Strategy for Node {
    fn default(&self, object: &mut Value) {
        let Some(status) = object_at(object, "/status") else { return };
        if let Some(capacity) = status.get("capacity").cloned() {
            set(status, "allocatable", capacity);
        }
    }

    /// A kubelet registers its node together with the status.
    fn prepare_for_create(&self, _kind: &KindDef, _object: &mut Value) {}

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
