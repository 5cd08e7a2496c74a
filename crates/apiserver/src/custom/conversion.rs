//! Stored custom objects as objects of the version that is asked for, and back.
//!
//! Stored bytes -> pruned and defaulted by the schema they were stored under, if that changed since -> converted, all of a list
//! in one call where a webhook does it -> pruned again. Counterpart: `apiserver/conversion` and the codec of
//! `customresource_handler.go`. Invariant: a kind with one version whose schema has not changed costs two comparisons.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use skiff_api::codec::{self, Target};
use skiff_api::field::{ErrorList, Path};
use skiff_api::kind::ConversionWebhook;
use skiff_api::meta::meta;
use skiff_api::validation::validate_label;
use skiff_api::{KindDef, Reason, Status, default};

use crate::server::Server;
use crate::webhook::{ClientConfig, Post};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Whether what was stored at this revision is what this version shows.
pub fn is_as_stored(kind: &KindDef, revision: u64) -> bool {
    stored_since(kind).is_some_and(|since| revision > since)
}

/// The revision after which what is stored is what this version shows; none if it never is.
pub fn stored_since(kind: &KindDef) -> Option<u64> {
    let storage = &kind.storage_version;
    let alike = storage.version == kind.version && storage.group == kind.group;
    alike.then(|| kind.versioning.as_ref().map_or(0, |versioning| versioning.edition.since))
}

/// Stored objects, decoded, as objects of a version.
pub async fn from_stored(
    server: &Server,
    kind: &Arc<KindDef>,
    objects: Vec<(Value, u64)>,
) -> Result<Vec<Value>, Status> {
    let kinds = server.kinds();
    let mut fresh = Vec::with_capacity(objects.len());
    for (object, revision) in objects {
        let since = kind.versioning.as_ref().map_or(0, |versioning| versioning.edition.since);
        let said = object["apiVersion"].as_str().unwrap_or("");
        let version = said.rsplit('/').next().unwrap_or("");
        fresh.push(match kinds.defined(&kind.group, version, &kind.resource) {
            Some(stored) if revision <= since => refreshed(object, stored)?,
            _ => object,
        });
    }
    convert(server, kind, fresh).await
}

/// Pruned and defaulted by the schema of its version as it is now.
fn refreshed(object: Value, kind: &KindDef) -> Result<Value, Status> {
    let decoded = codec::decode_value(object, &Target::of(kind)).map_err(Status::internal)?;
    let mut object = decoded.object;
    default::apply(&mut object, kind);
    Ok(object)
}

/// Objects of any version as objects of this one.
pub async fn convert(
    server: &Server,
    kind: &KindDef,
    mut objects: Vec<Value>,
) -> Result<Vec<Value>, Status> {
    let version = kind.api_version();
    let differs = |object: &Value| object["apiVersion"] != version.as_str();
    let changed: Vec<usize> = objects
        .iter()
        .enumerate()
        .filter(|(_, object)| differs(object))
        .map(|(at, _)| at)
        .collect();
    if changed.is_empty() {
        return Ok(objects);
    }
    match kind.versioning.as_ref().and_then(|versioning| versioning.webhook.as_ref()) {
        None => changed.iter().for_each(|at| objects[*at]["apiVersion"] = version.as_str().into()),
        Some(webhook) => {
            let given: Vec<Value> = changed.iter().map(|at| objects[*at].clone()).collect();
            let converted = ask(server, webhook, kind, given).await?;
            for (at, object) in changed.iter().zip(converted) {
                objects[*at] = object;
            }
        }
    }
    for at in changed {
        // Another version may know fewer fields.
        let decoded = codec::decode_value(objects[at].take(), &Target::of(kind));
        objects[at] = decoded.map_err(Status::internal)?.object;
    }
    Ok(objects)
}

/// One call to the webhook for all objects.
async fn ask(
    server: &Server,
    webhook: &ConversionWebhook,
    kind: &KindDef,
    objects: Vec<Value>,
) -> Result<Vec<Value>, Status> {
    let from = described(&objects[0]);
    let failed = |why: String| {
        Status::new(500, Reason::Unknown, format!("conversion webhook for {from} failed: {why}"))
    };
    let review = webhook.review_versions.iter().find(|it| matches!(it.as_str(), "v1" | "v1beta1"));
    let Some(review) = review else {
        return Err(Status::new(500, Reason::Unknown, "no supported conversion review versions"));
    };
    let uid = uuid::Uuid::new_v4().to_string();
    let body = json!({
        "kind": "ConversionReview",
        "apiVersion": format!("apiextensions.k8s.io/{review}"),
        "request": { "uid": uid, "desiredAPIVersion": kind.api_version(), "objects": objects },
    });
    let config = ClientConfig::read(&webhook.client).map_err(|error| failed(error.to_string()))?;
    let post = Post {
        config: &config,
        body: Bytes::from(body.to_string()),
        timeout: TIMEOUT,
        tell_timeout: true,
        headers: http::HeaderMap::new(),
    };
    let answer = server.webhooks.post(post).await.map_err(|error| failed(error.to_string()))?;
    let converted = converted(answer, review, &uid).map_err(failed)?;
    if converted.len() != objects.len() {
        let (got, wanted) = (converted.len(), objects.len());
        let why =
            format!("conversion webhook for {from} returned {got} objects, expected {wanted}");
        return Err(Status::new(500, Reason::Unknown, why));
    }
    let several = objects.len() > 1;
    let each = objects.iter().zip(converted).enumerate();
    each.map(|(at, (original, object))| {
        accept(original, object, kind, several.then_some(at)).map_err(|why| {
            Status::new(
                500,
                Reason::Unknown,
                format!("conversion webhook for {from} returned {why}"),
            )
        })
    })
    .collect()
}

/// `group/version, Kind=Kind`
fn described(object: &Value) -> String {
    let text = |field: &str| object[field].as_str().unwrap_or("");
    format!("{}, Kind={}", text("apiVersion"), text("kind"))
}

/// What an answer holds, if it is one to this request.
fn converted(answer: Value, review: &str, uid: &str) -> Result<Vec<Value>, String> {
    let text = |pointer: &str| answer.pointer(pointer).and_then(Value::as_str).unwrap_or("");
    let (version, wanted) = (text("/apiVersion"), format!("apiextensions.k8s.io/{review}"));
    if review == "v1" && (version != wanted || text("/kind") != "ConversionReview") {
        let kind = text("/kind");
        return Err(format!(
            "expected webhook response of {wanted}, Kind=ConversionReview, got {version}, Kind={kind}"
        ));
    }
    if !answer["response"].is_object() {
        return Err("no response provided".to_owned());
    }
    let given = text("/response/uid");
    if review == "v1" && given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    match (text("/response/result/status"), text("/response/result/message")) {
        ("Success", _) => {}
        (status, "") => {
            return Err(format!("response.result.status was '{status}', not 'Success'"));
        }
        (_, message) => return Err(message.to_owned()),
    }
    Ok(answer["response"]["convertedObjects"].as_array().cloned().unwrap_or_default())
}

/// A converted object with the metadata of the one that was sent; only labels and annotations may change.
fn accept(
    original: &Value,
    mut object: Value,
    kind: &KindDef,
    index: Option<usize>,
) -> Result<Value, String> {
    let place = index.map_or_else(String::new, |at| format!(" in object at index {at}"));
    let object_at = match index {
        Some(at) => format!("invalid converted object at index {at}"),
        None => "invalid object".to_owned(),
    };
    let typed = |what: &str, wanted: &str, got: &str| {
        let at = index.map_or("invalid object at index 0".to_owned(), |_| object_at.clone());
        Err(format!("{at}: invalid {what} (expected {wanted}, received {got})"))
    };
    let text = |object: &Value, field: &str| object[field].as_str().unwrap_or("").to_owned();
    let (wanted, got) = (kind.api_version(), text(&object, "apiVersion"));
    if wanted != got {
        return typed("groupVersion", &wanted, &got);
    }
    let (wanted, got) = (text(original, "kind"), text(&object, "kind"));
    if wanted != got {
        return typed("kind", &wanted, &got);
    }
    let (was, is) = (meta(original), meta(&object));
    for (field, was, is) in [
        ("name", was.name(), is.name()),
        ("namespace", was.namespace(), is.namespace()),
        ("UID", was.uid(), is.uid()),
    ] {
        if was != is {
            return Err(format!("{object_at}: must have the same {field}: {was} != {is}"));
        }
    }
    let metadata =
        restored(original, &object).map_err(|why| format!("invalid metadata{place}: {why}"))?;
    object["metadata"] = metadata;
    Ok(object)
}

fn restored(original: &Value, converted: &Value) -> Result<Value, String> {
    let given = match converted.get("metadata") {
        Some(Value::Object(given)) => given,
        Some(other) => {
            return Err(format!("invalid metadata of type {} in converted object", go_type(other)));
        }
        None => return Err("missing metadata in converted object".to_owned()),
    };
    let mut metadata = original["metadata"].as_object().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        match given.get(field).filter(|value| !value.is_null()) {
            None => drop(metadata.remove(field)),
            Some(value) => {
                let entries = entries(field, value)?;
                if metadata.get(field).and_then(Value::as_object) != Some(entries) {
                    well_formed(field, entries)?;
                }
                metadata.insert(field.to_owned(), value.clone());
            }
        }
    }
    Ok(Value::Object(metadata))
}

fn entries<'v>(field: &str, value: &'v Value) -> Result<&'v Map<String, Value>, String> {
    let Some(entries) = value.as_object() else {
        let of = go_type(value);
        return Err(format!("invalid metadata.{field} of type {of} in converted object"));
    };
    match entries.iter().find(|(_, value)| !value.is_string()) {
        None => Ok(entries),
        Some((key, value)) => {
            let of = go_type(value);
            Err(format!(
                "metadata.{field}[{key}] must be a string, but is {of} in converted object"
            ))
        }
    }
}

fn well_formed(field: &str, entries: &Map<String, Value>) -> Result<(), String> {
    let mut errors = ErrorList::default();
    let metadata = Path::new("metadata");
    match field {
        "labels" => {
            for (key, value) in entries {
                let value = value.as_str().unwrap_or("");
                validate_label(key, value, &mut errors, &metadata.child("labels"));
            }
        }
        _ => {
            for key in entries.keys() {
                for fault in skiff_api::validation::qualified_name(&key.to_lowercase()) {
                    errors.invalid(&metadata.child("annotation"), key.as_str(), fault);
                }
            }
        }
    }
    let faults: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
    match faults.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_to_another_request_are_refused() {
        let answer = |response: Value| json!({ "kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response });
        let success = json!({ "status": "Success" });
        for (given, wanted) in [
            (answer(json!({ "uid": "1", "result": success, "convertedObjects": [{}] })), Ok(1)),
            (
                answer(json!({ "uid": "2", "result": success })),
                Err(r#"expected response.uid="1", got "2""#),
            ),
            (
                answer(json!({ "uid": "1", "result": { "status": "Failed", "message": "no" } })),
                Err("no"),
            ),
            (
                answer(json!({ "uid": "1", "result": {} })),
                Err("response.result.status was '', not 'Success'"),
            ),
            (answer(Value::Null), Err("no response provided")),
            (
                json!({}),
                Err(
                    "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got , Kind=",
                ),
            ),
        ] {
            let found = converted(given, "v1", "1").map(|objects| objects.len());
            assert_eq!(found, wanted.map_err(str::to_owned));
        }
    }

    #[test]
    fn only_labels_and_annotations_of_metadata_are_the_webhooks() {
        let original = json!({ "metadata": { "name": "x", "uid": "1", "labels": { "a": "b" }, "generation": 3 } });
        let given =
            json!({ "metadata": { "name": "x", "generation": 9, "annotations": { "c": "d" } } });
        let wanted =
            json!({ "name": "x", "uid": "1", "generation": 3, "annotations": { "c": "d" } });
        assert_eq!(restored(&original, &given), Ok(wanted));
        let bad = json!({ "metadata": { "labels": { "a": 1 } } });
        let why = "metadata.labels[a] must be a string, but is int64 in converted object";
        assert_eq!(restored(&original, &bad), Err(why.to_owned()));
    }
}
