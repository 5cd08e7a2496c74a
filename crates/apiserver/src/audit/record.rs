//! What the request path tells the trail about objects: the one that was sent and the one that was answered.
//!
//! Nothing is decoded unless the policy asks for it.

use serde_json::Value;
use skiff_api::Status;
use skiff_api::codec::{self, Format, Target};

use crate::call::Call;
use crate::encode;
use crate::reply::Reply;

/// The body of the request, as JSON.
pub fn request(call: &Call) {
    let Some(trail) = &call.trail else { return };
    if call.body.is_empty() || !trail.wants_names() {
        return;
    }
    if let Some(object) = body(call) {
        trail.request(object);
    }
}

/// A patch is told as it is; anything else as the object it decodes to.
fn body(call: &Call) -> Option<Value> {
    let format = call.body_format().unwrap_or(Format::Json);
    match format {
        Format::Json => serde_json::from_slice(&call.body).ok(),
        Format::Yaml => codec::parse_yaml(&call.body).ok().map(|(node, _)| node.into_value()),
        _ => {
            let kind = call.kind().ok()?;
            let decoded = codec::decode(&call.body, format, &Target::of(&kind));
            decoded.ok().map(|decoded| decoded.object)
        }
    }
}

/// The answer, before it takes the form that the client wants.
pub fn reply(call: &Call, reply: &Reply) {
    let Some(trail) = call.trail.as_ref().filter(|trail| trail.wants_response()) else { return };
    let object = match reply {
        Reply::Object { bytes, .. } => serde_json::from_slice(bytes).ok(),
        Reply::Value { value, .. } => Some(value.clone()),
        Reply::List(list) => serde_json::from_slice(&encode::list_bytes(list)).ok(),
        Reply::Response(_) => None,
    };
    if let Some(object) = object {
        trail.response(object);
    }
}

pub fn refusal(call: &Call, status: &Status) {
    if let Some(trail) = &call.trail {
        trail.refused(status);
    }
}
