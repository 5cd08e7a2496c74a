//! An object under admission, at the version someone wants to see.
//!
//! Plugins work on the stored version; webhooks and policies are shown the one their rule matched, and what they change comes back.
//! Counterpart: `admission.VersionedAttributes`.

use std::sync::Arc;

use serde_json::Value;
use skiff_api::codec::{Target, decode_value, strict_text};
use skiff_api::{KindDef, Status, default};

use super::Request;
use crate::objects;

/// A copy of the object at `kind`'s version; `Null` stays what it is, and so does the body of a subresource, which
/// has one version only.
pub fn shown(request: &Request<'_>, kind: &Arc<KindDef>, object: &Value) -> Result<Value, Status> {
    match object.is_null() || request.part.is_some() {
        true => Ok(object.clone()),
        false => objects::value_at_version(kind, object.clone()),
    }
}

/// Takes a changed object back: what its kind does not know is dropped, or refused if `strict`; what is missing is defaulted.
pub fn taken_back(
    request: &Request<'_>,
    kind: &Arc<KindDef>,
    changed: Value,
    strict: bool,
) -> Result<Value, Status> {
    if let Some(part) = request.part {
        let target = Target::known(&part.group, &part.version, &part.kind);
        let target = target.ok_or_else(|| Status::internal("a subresource of no known kind"))?;
        return decode_value(changed, &target).map(|d| d.object).map_err(Status::internal);
    }
    let decoded = decode_value(changed, &Target::of(kind)).map_err(Status::internal)?;
    if let (true, Some(found)) = (strict, strict_text(&decoded.strict)) {
        return Err(Status::internal(found));
    }
    let mut object = decoded.object;
    default::apply(&mut object, kind);
    let stored = request.kind;
    if kind.group == stored.group && kind.version == stored.version {
        return Ok(object);
    }
    let mut object = objects::value_at_version(stored, object)?;
    default::apply(&mut object, stored);
    Ok(object)
}
