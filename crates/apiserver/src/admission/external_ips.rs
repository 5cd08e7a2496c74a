//! DenyServiceExternalIPs: Services take no addresses that nobody gave them.
//!
//! Counterpart: `plugin/pkg/admission/network/denyserviceexternalips`. Off unless asked for.

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::Status;

use super::{Operation, Plugin, Request};

pub struct DenyServiceExternalIPs;

#[async_trait]
impl Plugin for DenyServiceExternalIPs {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        let written = matches!(request.operation, Operation::Create | Operation::Update);
        written && request.is("", "services")
    }

    async fn validate(&self, request: &Request<'_>, service: &Value) -> Result<(), Status> {
        let before = request.old.map(addresses).unwrap_or_default();
        let kept = addresses(service).iter().all(|address| before.contains(address));
        let why = "Use of external IPs is denied by admission control";
        let refused = (!kept).then(|| request.forbidden(service, why));
        refused.map_or(Ok(()), Err)
    }
}

fn addresses(service: &Value) -> &[Value] {
    service["spec"]["externalIPs"].as_array().map_or(&[], Vec::as_slice)
}
