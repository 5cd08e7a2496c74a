//! AlwaysDeny: nothing is changed any more. Off unless asked for, as upstream's.
//!
//! Counterpart: `plugin/pkg/admission/deny`.

use futures::future::BoxFuture;
use serde_json::Value;
use skiff_api::Status;

use super::{Plugin, Request};

pub struct AlwaysDeny;

impl Plugin for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    fn handles(&self, _: &Request<'_>) -> bool {
        true
    }

    fn mutate<'a>(
        &'a self,
        request: &'a Request<'a>,
        object: &'a mut Value,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let why = "admission control is denying all modifications";
        Box::pin(async move { Err(request.forbidden(object, why)) })
    }
}
