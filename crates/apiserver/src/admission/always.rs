//! AlwaysDeny: nothing is changed any more. Off unless asked for, as upstream's.
//!
//! Counterpart: `plugin/pkg/admission/deny`.

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::Status;

use super::{Plugin, Request};

pub struct AlwaysDeny;

#[async_trait]
impl Plugin for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    fn handles(&self, _: &Request<'_>) -> bool {
        true
    }

    async fn mutate(&self, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        let why = "admission control is denying all modifications";
        Err(request.forbidden(object, why))
    }
}
