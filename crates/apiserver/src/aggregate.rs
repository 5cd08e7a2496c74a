//! Aggregated API servers: group-versions that an APIService hands to a Service.
//!
//! Counterpart: `kube-aggregator`. The proxy itself comes later; until then such a path answers 503, clearly.

use serde_json::Value;
use skiff_api::meta::meta;
use skiff_api::{Reason, Status};

use crate::call::Call;
use crate::objects;

/// The APIService that owns the path's group and version, if it names a Service.
pub async fn owner(call: &Call) -> Result<Option<Value>, Status> {
    let info = &call.info;
    if info.group.is_empty() {
        return Ok(None);
    }
    let name = format!("{}.{}", info.version, info.group);
    let found =
        objects::find(&call.server, "apiregistration.k8s.io/apiservices", "", &name).await?;
    Ok(found.filter(|service| service["spec"]["service"].is_object()))
}

pub fn unavailable(service: &Value) -> Status {
    tracing::debug!(service = meta(service).name(), "aggregated API servers are not proxied yet");
    Status::new(503, Reason::ServiceUnavailable, "service unavailable")
}
