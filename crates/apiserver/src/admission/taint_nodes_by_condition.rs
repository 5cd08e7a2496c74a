//! TaintNodesByCondition: a new node takes no pods until the node controller has seen it ready.
//!
//! Counterpart: `plugin/pkg/admission/nodetaint`.

use futures::future::BoxFuture;
use serde_json::{Value, json};
use skiff_api::Status;

use super::{Plugin, Request};

pub struct TaintNodesByCondition;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates("", "nodes")
    }

    fn mutate<'a>(
        &'a self,
        _: &'a Request<'a>,
        node: &'a mut Value,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let taint = json!({ "key": NOT_READY, "effect": "NoSchedule" });
        match node.pointer_mut("/spec/taints").and_then(Value::as_array_mut) {
            Some(taints)
                if taints
                    .iter()
                    .any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule") => {}
            Some(taints) => taints.push(taint),
            None => node["spec"]["taints"] = json!([taint]),
        }
        Box::pin(async { Ok(()) })
    }
}
