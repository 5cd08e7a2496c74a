//! TokenReview and SelfSubjectReview: whose token this is, and who is asking.

use serde_json::{Value, json};
use skiff_api::field::{ErrorList, Path};
use skiff_api::{KindDef, Status};

use super::text;
use crate::authn;
use crate::call::Call;

pub async fn of_token(call: &Call, kind: &KindDef, object: &mut Value) -> Result<(), Status> {
    let token = text(&object["spec"], "token").to_owned();
    if token.is_empty() {
        let mut errors = ErrorList::default();
        errors.required(&Path::new("spec").child("token"), "");
        tracing::debug!(kind = kind.kind, "a review without a token");
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let wanted: Vec<String> = object["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    object["status"] = match authn::token_user(&call.server, &token, &wanted).await {
        Ok((user, audiences)) => {
            json!({ "authenticated": true, "user": user.to_value(), "audiences": audiences })
        }
        Err(error) => json!({ "user": {}, "error": error }),
    };
    Ok(())
}

pub fn of_self(call: &Call, object: &mut Value) {
    object["metadata"]["creationTimestamp"] =
        skiff_api::time::format(skiff_api::time::now()).into();
    object["status"] = json!({ "userInfo": call.user.to_value() });
}
