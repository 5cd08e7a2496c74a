//! TokenReview and SelfSubjectReview: whose token this is, and who is asking.

use serde_json::{Value, json};
use skiff_api::Status;

use super::text;
use crate::authn::{self, Authenticated};
use crate::call::Call;

pub async fn of_token(call: &Call, object: &mut Value) -> Result<(), Status> {
    let token = text(&object["spec"], "token").to_owned();
    if token.is_empty() {
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
        Ok(Authenticated { user, audiences }) => {
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
