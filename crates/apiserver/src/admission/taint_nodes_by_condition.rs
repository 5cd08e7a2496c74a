//! TaintNodesByCondition: a new node takes no pods until the node controller has seen it ready.
//!
//! Counterpart: `plugin/pkg/admission/nodetaint`.

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_api::Status;

use super::{Plugin, Request};

pub struct TaintNodesByCondition;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates("", "nodes")
    }

    async fn mutate(&self, _: &Request<'_>, node: &mut Value) -> Result<(), Status> {
        let taint = json!({ "key": NOT_READY, "effect": "NoSchedule" });
        match node.pointer_mut("/spec/taints").and_then(Value::as_array_mut) {
            Some(taints)
                if taints
                    .iter()
                    .any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule") => {}
            Some(taints) => taints.push(taint),
            None => node["spec"]["taints"] = json!([taint]),
        }
        Ok(())
    }
}
