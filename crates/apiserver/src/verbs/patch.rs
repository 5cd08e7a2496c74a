//! `patch`: a change instead of a whole object, in four languages.
//!
//! Current state + patch -> new state, started over when another write came between. Counterpart:
//! `endpoints/handlers/patch.go`.

use std::sync::Arc;

use http::header::CONTENT_TYPE;
use serde_json::Value;
use skiff_api::codec::{Target, decode_value, strict_text};
use skiff_api::meta::meta;
use skiff_api::patch::{self, PatchError};
use skiff_api::status::Details;
use skiff_api::{KindDef, Reason, Status, Subresource};

use super::update::reply;
use super::write::{Proposed, Write};
use crate::call::{Call, FieldValidation};
use crate::ownership;
use crate::reply::Reply;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Json,
    Merge,
    Strategic,
    Apply,
}

pub async fn run(
    call: &Call,
    kind: Arc<KindDef>,
    sub: Option<&Subresource>,
) -> Result<Reply, Status> {
    let language = language(call, &kind)?;
    let subresource = sub.map_or("", |sub| sub.name.as_str());
    let write = Write::new(call, kind.clone(), subresource, call.write_options("PatchOptions")?);
    let name = call.info.name.as_str();
    let outcome = match language {
        Language::Apply => {
            let intent = ownership::Intent::read(&write)?;
            write.update(name, |current| intent.propose(&write, current)).await?
        }
        _ => write.update(name, |current| propose(&write, language, current)).await?,
    };
    Ok(reply(kind, outcome))
}

fn language(call: &Call, kind: &KindDef) -> Result<Language, Status> {
    let given = call.header(CONTENT_TYPE).split(';').next().unwrap_or("").trim();
    match given {
        "application/json-patch+json" => Ok(Language::Json),
        "application/merge-patch+json" => Ok(Language::Merge),
        "application/strategic-merge-patch+json" if !kind.custom => Ok(Language::Strategic),
        "application/apply-patch+yaml" | "application/apply-patch+json" => Ok(Language::Apply),
        _ => Err(unsupported()),
    }
}

fn unsupported() -> Status {
    let status = Status::new(415, Reason::UnsupportedMediaType, "415: Unsupported Media Type");
    status.with_details(Details::default())
}

fn propose(
    write: &Write<'_>,
    language: Language,
    current: Option<Value>,
) -> Result<Proposed, Status> {
    let name = write.call.info.name.as_str();
    let current = current.ok_or_else(|| Status::not_found(&write.kind.group_resource(), name))?;
    let before = meta(&current).resource_version().to_owned();
    let document = apply(write, language, current).map_err(PatchError::into_status)?;
    let fixed = meta(&document).resource_version() != before;
    let shown = match language {
        Language::Strategic => shown_patch(&write.call.body),
        _ => document.to_string(),
    };
    let target = Target::of(&write.kind);
    let decoded = decode_value(document, &target)
        .map_err(|error| patch::invalid_result(shown.clone(), &error.to_string()))?;
    if let (FieldValidation::Strict, Some(found)) =
        (write.options.validation, strict_text(&decoded.strict))
    {
        return Err(patch::invalid_result(shown, &found));
    }
    let mut object = write.accept(decoded, &target)?;
    write.check_namespace(&mut object)?;
    check_name(write, &object)?;
    Ok(Proposed { object, owned: false, fixed })
}

/// A strategic patch is shown instead of what it made.
fn shown_patch(body: &[u8]) -> String {
    patch::strategic::parse(body)
        .map(|patch| patch::go_syntax(&Value::Object(patch)))
        .unwrap_or_default()
}

fn apply(write: &Write<'_>, language: Language, current: Value) -> Result<Value, PatchError> {
    let body = &write.call.body;
    match language {
        Language::Json => patch::json::apply(current, body),
        Language::Merge => patch::merge::apply(current, body),
        Language::Strategic | Language::Apply => {
            patch::strategic::apply(current, body, &write.kind.schema)
        }
    }
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
