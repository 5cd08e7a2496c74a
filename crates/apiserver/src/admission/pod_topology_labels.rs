//! PodTopologyLabels: a pod learns zone and region of its node, as labels it can read through the downward API.
//!
//! Binding, or pod with a node -> the node's topology labels copied. Counterpart: `plugin/pkg/admission/podtopologylabels`.

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_api::Status;
use skiff_api::meta::{meta, meta_mut};

use super::{Operation, Plugin, Request};
use crate::objects;

pub struct PodTopologyLabels;

const LABELS: &[&str] = &["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

#[async_trait]
impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        let of_pods = request.kind.group.is_empty() && request.kind.resource == "pods";
        of_pods
            && request.operation == Operation::Create
            && matches!(request.subresource, "" | "binding")
    }

    async fn mutate(&self, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        let node = match request.subresource {
            "" => &object["spec"]["nodeName"],
            _ if object["target"]["kind"] != "Node" => return Ok(()),
            _ => &object["target"]["name"],
        };
        let name = node.as_str().unwrap_or("");
        if name.is_empty() {
            return Ok(());
        }
        if let Some(node) = objects::find(request.server, "minions", "", name).await? {
            copy(&node, object);
        }
        Ok(())
    }
}

fn copy(node: &Value, object: &mut Value) {
    for label in LABELS {
        if let (Some(value), Some(meta)) = (meta(node).label(label), meta_mut(object)) {
            let labels = meta.entry("labels").or_insert_with(|| json!({}));
            labels[*label] = value.into();
        }
    }
}
