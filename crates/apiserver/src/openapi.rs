//! `/openapi/v3` and `/openapi/v2`: the served API as OpenAPI documents.
//!
//! Counterpart: `kube-openapi/pkg/handler3`.

use skiff_api::Status;

use crate::call::Call;
use crate::nonresource::not_found;
use crate::reply::Reply;

pub fn run(_call: &Call, _rest: &[&str]) -> Result<Reply, Status> {
    Ok(not_found())
}
