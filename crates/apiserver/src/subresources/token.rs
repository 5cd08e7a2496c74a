//! `serviceaccounts/token`: a TokenRequest answered with a signed, bound token.
//!
//! Counterpart: `pkg/registry/core/serviceaccount/storage/token.go`.

use http::StatusCode;
use serde_json::{Value, json};
use skiff_api::codec::{self, Target};
use skiff_api::field::{ErrorList, Path};
use skiff_api::meta::meta;
use skiff_api::{GroupKind, GroupResource, Status};

use crate::admission::{self, Operation, Request};
use crate::authn::service_account::{Audience, Binding, Claims, ObjectRef};
use crate::call::Call;
use crate::objects;
use crate::reply::Reply;

const SHORTEST: i64 = 600;
const LONGEST: i64 = 1 << 32;
const DEFAULT: i64 = 3600;

pub async fn run(call: &Call) -> Result<Reply, Status> {
    let target = Target::known("authentication.k8s.io", "v1", "TokenRequest")
        .ok_or_else(Status::no_such_path)?;
    let mut request = codec::decode(&call.body, call.body_format()?, &target)?.object;
    let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
    let account = objects::find(&call.server, "serviceaccounts", namespace, name).await?;
    let account = account
        .ok_or_else(|| Status::not_found(&GroupResource::new("", "serviceaccounts"), name))?;
    admit(call, &mut request).await?;
    let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT);
    check(&request, seconds)?;
    request["spec"]["expirationSeconds"] = seconds.into();
    let audiences = audiences(call, &request);
    let mut binding = Binding {
        namespace: namespace.to_owned(),
        serviceaccount: reference(&account),
        ..Binding::default()
    };
    bind(call, &request["spec"]["boundObjectRef"], name, &mut binding).await?;
    let now = skiff_api::time::now();
    let claims = Claims {
        aud: Audience::Many(audiences.clone()),
        exp: now + seconds,
        iat: now,
        nbf: now,
        iss: call.server.tokens.issuer().to_owned(),
        jti: uuid::Uuid::new_v4().to_string(),
        sub: format!("system:serviceaccount:{namespace}:{name}"),
        kubernetes: binding,
    };
    let token = call.server.tokens.issue(&claims).map_err(Status::internal)?;
    crate::ownership::track_token(call, &mut request)?;
    let managed = request["metadata"]["managedFields"].take();
    request["metadata"] = json!({ "name": name, "namespace": namespace, "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": skiff_api::time::format(now), "managedFields": managed });
    request["spec"]["audiences"] = json!(audiences);
    request["spec"]["expirationSeconds"] = seconds.into();
    if request["spec"].get("boundObjectRef").is_none() {
        request["spec"]["boundObjectRef"] = Value::Null;
    }
    request["status"] =
        json!({ "token": token, "expirationTimestamp": skiff_api::time::format(now + seconds) });
    Ok(Reply::Value { code: StatusCode::CREATED, value: request })
}

async fn admit(call: &Call, request: &mut Value) -> Result<(), Status> {
    let kind = call.kind()?;
    let part = kind.subresource("token").ok_or_else(Status::no_such_path)?;
    admission::admit_part(Request::of_part(call, &kind, part, Operation::Create), request).await
}

fn check(request: &Value, seconds: i64) -> Result<(), Status> {
    let mut errors = ErrorList::default();
    let spec = Path::new("spec");
    let path = spec.child("expirationSeconds");
    if seconds < SHORTEST {
        errors.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > LONGEST {
        errors.invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(
            &GroupKind::new("authentication.k8s.io", "TokenRequest"),
            meta(request).name(),
            errors,
        )),
    }
}

fn audiences(call: &Call, request: &Value) -> Vec<String> {
    let asked: Vec<String> = request["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    if asked.is_empty() { call.server.tokens.audiences().to_vec() } else { asked }
}

/// Ties the token to the life of a pod, secret or node.
async fn bind(call: &Call, to: &Value, account: &str, binding: &mut Binding) -> Result<(), Status> {
    if !to.is_object() {
        return Ok(());
    }
    let text = |field: &str| to[field].as_str().unwrap_or("");
    let (version, kind, name, uid) = (text("apiVersion"), text("kind"), text("name"), text("uid"));
    let (resource, namespace) = match (version, kind) {
        ("v1", "Pod") => ("pods", call.info.namespace.as_str()),
        ("v1", "Secret") => ("secrets", call.info.namespace.as_str()),
        ("v1", "Node") => ("nodes", ""),
        _ => {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            return Err(Status::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    let stored = if resource == "nodes" { "minions" } else { resource };
    let object = objects::find(&call.server, stored, namespace, name).await?;
    let object =
        object.ok_or_else(|| Status::not_found(&GroupResource::new("", resource), name))?;
    if !uid.is_empty() && uid != meta(&object).uid() {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(&GroupResource::new("", kind), name, &why));
    }
    let bound = Some(reference(&object));
    match resource {
        "pods" => {
            if object["spec"]["serviceAccountName"] != account {
                let given = object["spec"]["serviceAccountName"].as_str().unwrap_or("");
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name {given:?}."
                )));
            }
            binding.pod = bound;
            binding.node = node_of(call, &object).await?;
        }
        "secrets" => binding.secret = bound,
        _ => binding.node = bound,
    }
    Ok(())
}

async fn node_of(call: &Call, pod: &Value) -> Result<Option<ObjectRef>, Status> {
    let name = pod["spec"]["nodeName"].as_str().unwrap_or("");
    if name.is_empty() {
        return Ok(None);
    }
    let node = objects::find(&call.server, "minions", "", name).await?;
    Ok(Some(
        node.as_ref().map_or(ObjectRef { name: name.to_owned(), uid: String::new() }, reference),
    ))
}

fn reference(object: &Value) -> ObjectRef {
    ObjectRef { name: meta(object).name().to_owned(), uid: meta(object).uid().to_owned() }
}
