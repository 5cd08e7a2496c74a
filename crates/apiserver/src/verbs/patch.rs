//! `patch`: a change instead of a whole object, in four languages.
//!
//! Current state + patch -> new state, started over when another write came between. Counterpart:
//! `endpoints/handlers/patch.go`.

use std::sync::Arc;

use http::header::CONTENT_TYPE;
use serde_json::Value;
use skiff_api::codec::Target;
use skiff_api::meta::meta;
use skiff_api::patch::{Language, Patch, PatchError};
use skiff_api::status::Details;
use skiff_api::{KindDef, Reason, Status, Subresource};

use super::update::reply;
use super::write::{Proposed, Write};
use crate::call::Call;
use crate::ownership;
use crate::reply::Reply;

pub async fn run(
    call: &Call,
    kind: Arc<KindDef>,
    sub: Option<&Subresource>,
) -> Result<Reply, Status> {
    let given = call.header(CONTENT_TYPE).split(';').next().unwrap_or("").trim();
    let language = language(given).filter(|it| !(kind.custom && *it == Language::Strategic));
    let applies = given == "application/apply-patch+yaml";
    if language.is_none() && !applies {
        return Err(unsupported(&kind, given));
    }
    let subresource = sub.map_or("", |sub| sub.name.as_str());
    let write = Write::new(call, kind.clone(), subresource, call.write_options("PatchOptions")?);
    let name = call.info.name.as_str();
    let outcome = match language {
        None => {
            let intent = ownership::Intent::read(&write)?;
            write.update(name, |current| intent.propose(&write, current)).await?
        }
        Some(language) => {
            let patch = Patch::read(language, &call.body, write.options.validation.strictness());
            write.update(name, |current| propose(&write, &patch, current)).await?
        }
    };
    Ok(reply(kind, outcome))
}

/// The patch languages but server-side apply.
pub fn language(media_type: &str) -> Option<Language> {
    match media_type {
        "application/json-patch+json" => Some(Language::Json),
        "application/merge-patch+json" => Some(Language::Merge),
        "application/strategic-merge-patch+json" => Some(Language::Strategic),
        _ => None,
    }
}

/// A route takes several types of which it knows one, which the patch then cannot be.
fn unsupported(kind: &KindDef, given: &str) -> Status {
    const CUSTOM: &str =
        "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
    const ALL: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";
    if kind.custom {
        return crate::call::unsupported_media_type("", CUSTOM);
    }
    if given.split(',').any(|one| ALL.split(", ").any(|known| known == one.trim())) {
        return crate::call::unsupported_media_type("", ALL);
    }
    let status = Status::new(415, Reason::UnsupportedMediaType, "415: Unsupported Media Type");
    status.with_details(Details::default())
}

/// A patch that cannot be read is only told once there is something to patch.
fn propose(
    write: &Write<'_>,
    patch: &Result<Patch, PatchError>,
    current: Option<Value>,
) -> Result<Proposed, Status> {
    let name = write.call.info.name.as_str();
    let current = current.ok_or_else(|| Status::not_found(&write.kind.group_resource(), name))?;
    let patch = patch.as_ref().map_err(|error| error.clone().into_status())?;
    let before = meta(&current).resource_version().to_owned();
    let target = Target::of(&write.kind);
    let decoded = patch.apply(current, &target)?;
    write.empties.note(&decoded);
    let mut object = write.accept(decoded, &target)?;
    let fixed = meta(&object).resource_version() != before;
    write.check_namespace(&mut object)?;
    check_name(write, &object)?;
    Ok(Proposed { object, owned: false, fixed })
}

/// A patch does not rename an object.
fn check_name(write: &Write<'_>, object: &Value) -> Result<(), Status> {
    let info = &write.call.info;
    match meta(object).name() {
        "" => Err(Status::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            info.name
        ))),
        name if name != info.name => Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            info.name
        ))),
        _ => Ok(()),
    }
}
