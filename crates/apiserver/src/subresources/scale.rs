//! `scale`: the replica count of anything that has one, as an `autoscaling/v1 Scale`.
//!
//! [`ScalePaths`] say where a kind keeps its counts; they are a table for built-in kinds and come from the definition for custom ones.
//! Counterpart: the `ScaleREST` of each workload.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};
use skiff_api::age;
use skiff_api::apply;
use skiff_api::codec::{self, Target, decode_stored};
use skiff_api::field::{ErrorList, Path};
use skiff_api::kind::ScalePaths;
use skiff_api::meta::meta;
use skiff_api::patch::{Patch, PatchError};
use skiff_api::selector::Labels;
use skiff_api::table::{IncludeObject, head_of_object};
use skiff_api::{GroupKind, KindDef, Status};

use crate::call::Call;
use crate::objects;
use crate::ownership;
use crate::reply::Reply;
use crate::subresources::scale_owners;
use crate::verbs::patch;
use crate::verbs::write::{Facet, Proposed, Write, set};

/// Stands for a count that was never set.
const NO_COUNT: i32 = i32::MIN;

pub async fn run(call: &Call, kind: Arc<KindDef>) -> Result<Reply, Status> {
    let paths = paths(&kind);
    match call.info.verb.as_str() {
        "get" => read(call, &kind, &paths).await,
        _ => write(call, kind, &paths).await,
    }
}

async fn read(call: &Call, kind: &Arc<KindDef>, paths: &ScalePaths) -> Result<Reply, Status> {
    let name = call.info.name.as_str();
    let entry = objects::read(&call.server, &kind.key(&call.info.namespace, name)).await?;
    let entry = entry.ok_or_else(|| Status::not_found(&kind.group_resource(), name))?;
    let object = objects::value(&call.server, kind, &entry.value, entry.mod_revision).await?;
    if kind.custom && !has_count(&object, paths)? {
        let why = format!("the spec replicas field {:?} does not exist", dotted(paths));
        return Err(Status::internal(why));
    }
    Ok(Reply::value(scale_of(&object, paths)))
}

async fn write(call: &Call, kind: Arc<KindDef>, paths: &ScalePaths) -> Result<Reply, Status> {
    let name = call.info.name.as_str();
    let is_update = call.info.verb == "update";
    let options = call.write_options(if is_update { "UpdateOptions" } else { "PatchOptions" })?;
    let write = Write::new(call, kind.clone(), "scale", options).through(paths);
    // The body of an update is read before anything is looked for.
    let given = if is_update { Some(asked(&write, Value::Null)?) } else { None };
    let outcome = write
        .update(name, |current| {
            let current = current.ok_or_else(|| Status::not_found(&kind.group_resource(), name))?;
            scaled(&write, paths, given.as_ref(), current)
        })
        .await?;
    let value = scale_of(&decode_stored(&outcome.bytes)?, paths);
    Ok(Reply::Value { code: StatusCode::OK, value })
}

/// The object with the count that is asked for.
fn scaled(
    write: &Write<'_>,
    paths: &ScalePaths,
    given: Option<&Value>,
    mut object: Value,
) -> Result<Proposed, Status> {
    let kind = &write.kind;
    let had_count = !kind.custom || has_count(&object, paths)?;
    let mut before = scale_of(&object, paths);
    if !had_count {
        before["spec"]["replicas"] = NO_COUNT.into();
    }
    let scale = settled(write, paths, given, &before, &mut object)?;
    check(kind, &scale, &write.call.info.name)?;
    if !had_count && scale["spec"]["replicas"] == NO_COUNT {
        let why = format!("the spec replicas field {:?} cannot be empty", dotted(paths));
        return Err(Status::bad_request(why));
    }
    paths.put(&mut object, &scale);
    let fixed = hand_on_preconditions(&scale, &mut object, &write.call.info.verb);
    Ok(Proposed { object, owned: true, fixed })
}

/// The Scale that is asked for; who owns the count then is written into `object`.
fn settled(
    write: &Write<'_>,
    paths: &ScalePaths,
    given: Option<&Value>,
    before: &Value,
    object: &mut Value,
) -> Result<Value, Status> {
    let (kind, place) = (&write.kind, paths.spec_replicas.as_str());
    let manager = ownership::manager(write);
    if let Some(config) = applied(write)? {
        let how = (manager, write.options.force);
        return scale_owners::apply(kind, object, place, before, &config, how);
    }
    let scale = match given {
        Some(scale) => scale.clone(),
        None => asked(write, before.clone())?,
    };
    scale_owners::settle(kind, object, place, before, &scale, manager);
    Ok(scale)
}

/// Gives `object` the revision and the identity that the Scale is for; whether it names a revision.
fn hand_on_preconditions(scale: &Value, object: &mut Value, verb: &str) -> bool {
    let (given, live) = (meta(scale).resource_version(), meta(object).resource_version());
    let named = !given.is_empty() && (verb == "update" || given != live);
    if named {
        set(object, "resourceVersion", given.into());
    }
    let uid = meta(scale).uid();
    if verb == "update" && !uid.is_empty() {
        set(object, "uid", uid.into());
    }
    named
}

impl Facet for ScalePaths {
    fn show(&self, object: &Value) -> Value {
        scale_of(object, self)
    }

    fn put(&self, object: &mut Value, scale: &Value) {
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        set_at(object, &self.spec_replicas, replicas.into());
    }
}

/// The configuration of a server-side apply, if the request is one.
fn applied(write: &Write<'_>) -> Result<Option<Value>, Status> {
    let (call, kind) = (write.call, &write.kind);
    if call.info.verb != "patch" || media_type(call) != "application/apply-patch+yaml" {
        return Ok(None);
    }
    if kind.custom {
        let target =
            Target::known("autoscaling", "v1", "Scale").ok_or_else(Status::no_such_path)?;
        return Err(not_applicable(call, &target));
    }
    let (config, _) = apply::decode_config(&call.body, &scale_owners::scale_of(kind))?;
    Ok(Some(config))
}

fn media_type(call: &Call) -> &str {
    call.header(http::header::CONTENT_TYPE).split(';').next().unwrap_or("").trim()
}

/// The Scale that the body is, or that it makes of the current one.
fn asked(write: &Write<'_>, before: Value) -> Result<Value, Status> {
    let call = write.call;
    let target = Target::known("autoscaling", "v1", "Scale").ok_or_else(Status::no_such_path)?;
    if call.info.verb == "update" {
        return write.accept(codec::decode(&call.body, call.body_format()?, &target)?, &target);
    }
    let given = media_type(call);
    let language = patch::language(given)
        .ok_or_else(|| crate::call::unsupported_media_type(given, PATCHES))?;
    let patch = Patch::read(language, &call.body, write.options.validation.strictness())
        .map_err(PatchError::into_status)?;
    write.accept(patch.apply(before, &target)?, &target)
}

/// Upstream takes an applied Scale of a custom kind for an object of that kind.
fn not_applicable(call: &Call, target: &Target<'_>) -> Status {
    let given = codec::decode(&call.body, codec::Format::Yaml, target).map(|it| it.object);
    let given = given.unwrap_or_default();
    let (namespace, name) = (meta(&given).namespace().to_owned(), meta(&given).name().to_owned());
    let why = format!(
        "failed to convert new object ({namespace}/{name}; autoscaling/v1, Kind=Scale) to proper version: request to convert CR to an invalid group/version: autoscaling/v1"
    );
    Status::new(500, skiff_api::Reason::Unknown, why)
}

const PATCHES: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";

/// Objects of custom kinds are held to their own schema.
fn check(kind: &KindDef, scale: &Value, name: &str) -> Result<(), Status> {
    let given = meta(scale).name();
    if !given.is_empty() && given != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    let mut errors = ErrorList::default();
    if replicas < 0 && !kind.custom {
        let path = Path::new("spec");
        errors.invalid(&path.child("replicas"), replicas, "must be greater than or equal to 0");
        return Err(Status::invalid(&GroupKind::new("autoscaling", "Scale"), given, errors));
    }
    Ok(())
}

fn scale_of(object: &Value, paths: &ScalePaths) -> Value {
    let of = meta(object);
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": of.name(),
            "namespace": of.namespace(),
            "uid": of.uid(),
            "resourceVersion": of.resource_version(),
            "creationTimestamp": of.creation_timestamp(),
        },
        "spec": {},
        "status": { "replicas": count(object, &paths.status_replicas) },
    });
    let wanted = count(object, &paths.spec_replicas);
    if wanted != 0 {
        scale["spec"]["replicas"] = wanted.into();
    }
    let selector = paths.selector.as_ref().and_then(|pointer| object.pointer(pointer));
    if let Some(text) = selector.and_then(selector_text).filter(|text| !text.is_empty()) {
        scale["status"]["selector"] = text.into();
    }
    scale
}

/// A Scale as a Table, which shows the metadata of the Scale rather than of what it scales.
pub fn table(scale: &Value, include: IncludeObject, now: i64) -> Value {
    let column = |(name, kind): (&str, &str)| json!({"name": name, "type": kind, "format": "", "description": "", "priority": 0});
    let columns =
        [("Name", "string"), ("Desired", "integer"), ("Available", "integer"), ("Age", "string")];
    let of = meta(scale);
    let cells = json!([
        of.name(),
        count(scale, "/spec/replicas"),
        count(scale, "/status/replicas"),
        age::since(of.creation_timestamp(), now),
    ]);
    let object = match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": scale["metadata"],
        }),
        IncludeObject::Object => scale.clone(),
    };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": head_of_object(scale),
        "columnDefinitions": columns.map(column),
        "rows": [{"cells": cells, "object": object}],
    })
}

/// Whether a custom object says how many replicas it wants.
fn has_count(object: &Value, paths: &ScalePaths) -> Result<bool, Status> {
    let found = skiff_api::custom::at(object, &paths.spec_replicas, Value::is_i64, "int64");
    found
        .map(|count| count.is_some())
        .map_err(|why| Status::new(500, skiff_api::Reason::Unknown, why))
}

fn dotted(paths: &ScalePaths) -> String {
    paths.spec_replicas.replace('/', ".")
}

fn count(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

fn selector_text(selector: &Value) -> Option<String> {
    match selector {
        Value::String(text) => Some(text.clone()),
        Value::Object(map)
            if map.contains_key("matchLabels") || map.contains_key("matchExpressions") =>
        {
            Labels::from_object(selector).ok().map(|labels| labels.to_string())
        }
        Value::Object(map) => Some(Labels::from_map(map).to_string()),
        _ => None,
    }
}

fn paths(kind: &KindDef) -> ScalePaths {
    kind.scale.clone().unwrap_or_else(|| ScalePaths {
        spec_replicas: "/spec/replicas".to_owned(),
        status_replicas: "/status/replicas".to_owned(),
        selector: Some("/spec/selector".to_owned()),
    })
}

/// Sets a value and makes the objects on the way to it.
pub fn set_at(object: &mut Value, pointer: &str, value: Value) {
    let mut place = object;
    for step in pointer.split('/').skip(1) {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[step];
    }
    *place = value;
}
