//! `/skiff/v1/secrets-encryption`: what `skiff secrets-encrypt` talks to.
//!
//! GET says what is sealed with what; POST to `/rotate` or `/reencrypt` seals again and answers when that is done. Reached
//! like any path that is no resource: by who may `get` or `post` it. No counterpart upstream.

use http::StatusCode;
use serde_json::json;
use skiff_api::Status;

use super::rotation::RotationError;
use crate::call::Call;
use crate::nonresource::not_found;
use crate::objects::store_status;
use crate::reply::Reply;

pub async fn run(call: &Call, rest: &[&str]) -> Result<Reply, Status> {
    let encryption = &call.server.encryption;
    let changed = match (call.info.verb.as_str(), rest) {
        ("get" | "head", []) => {
            let status = encryption.status().await.map_err(store_status)?;
            return Ok(Reply::json(&json!(status)));
        }
        ("post", ["rotate"]) => encryption.rotate().await,
        ("post", ["reencrypt"]) => encryption.reencrypt().await,
        (_, [] | ["rotate" | "reencrypt"]) => return Err(Status::method_not_allowed()),
        _ => return Ok(not_found()),
    };
    match changed {
        Ok(values) => {
            Ok(Reply::Value { code: StatusCode::OK, value: json!({ "reencrypted": values }) })
        }
        Err(RotationError::NotManaged) => {
            Err(Status::bad_request(RotationError::NotManaged.to_string()))
        }
        Err(error) => Err(Status::internal(error)),
    }
}
