//! `serviceaccounts/token`: a TokenRequest answered with a signed, bound token.
//!
//! Request + service account + perhaps what it is bound to -> claims -> token. Counterpart:
//! `pkg/registry/core/serviceaccount/storage/token.go`. Invariant: a token outlives nothing that it is bound to.

use http::StatusCode;
use serde_json::{Value, json};
use skiff_api::codec::Target;
use skiff_api::field::{ErrorList, Path};
use skiff_api::meta::meta;
use skiff_api::{GroupKind, GroupResource, Status};

use crate::admission::{self, Operation, Request};
use crate::authn::service_account::{Audience, Binding, Claims, ObjectRef};
use crate::call::Call;
use crate::objects;
use crate::reply::Reply;
use crate::verbs::write::set;

const SHORTEST: i64 = 600;
const LONGEST: i64 = 1 << 32;
const DEFAULT: i64 = 3600;
/// What kubelets ask for on behalf of pods: such a token may live on while clients learn to read it anew.
const EXTENDABLE: i64 = 60 * 60 + 7;
const EXTENDED: i64 = 365 * 24 * 60 * 60;

pub async fn run(call: &Call) -> Result<Reply, Status> {
    let target = Target::known("authentication.k8s.io", "v1", "TokenRequest")
        .ok_or_else(Status::no_such_path)?;
    let mut request = call.decode_order(&target)?;
    let resource = call.kind()?;
    let part = resource.subresource("token").ok_or_else(Status::no_such_path)?;
    let mut admitted = Request::of_part(call, &resource, part, Operation::Create);
    admission::mutate(&mut admitted, &mut request).await?;
    request["spec"]["expirationSeconds"] = seconds(&request).into();
    crate::ownership::track_token(call, &mut request)?;
    check_place(call, &request)?;
    let account = find(call, "serviceaccounts", &call.info.namespace, &call.info.name).await?;
    let now = skiff_api::time::now();
    settle(call, &mut request, &account, now)?;
    check(&request)?;
    admission::validate(&admitted, &request).await?;
    let binding = bind(call, &request["spec"]["boundObjectRef"], &account).await?;
    shorten(call, &mut request);
    let claims = claims(call, &request, binding, now);
    let token = call.server.authn.tokens.issue(&claims).map_err(Status::internal)?;
    let expires = skiff_api::time::format(now + seconds(&request));
    request["status"] = json!({ "token": token, "expirationTimestamp": expires });
    Ok(Reply::Value { code: StatusCode::CREATED, value: request })
}

/// A body that names a place names the path's.
fn check_place(call: &Call, request: &Value) -> Result<(), Status> {
    let (info, given) = (&call.info, meta(request));
    if !given.namespace().is_empty() && given.namespace() != info.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if given.name().is_empty() || given.name() == info.name {
        return Ok(());
    }
    let mut errors = ErrorList::default();
    let why = "must match the service account name if specified";
    errors.invalid(&Path::new("metadata").child("name"), given.name(), why);
    Err(Status::invalid(&kind(), &info.name, errors))
}

fn kind() -> GroupKind {
    GroupKind::new("authentication.k8s.io", "TokenRequest")
}

/// Fills in what the request leaves open.
fn settle(call: &Call, request: &mut Value, account: &Value, now: i64) -> Result<(), Status> {
    let own = meta(account);
    let uid = meta(request).uid().to_owned();
    if !uid.is_empty() && uid != own.uid() {
        let why = format!(
            "the UID in the token request ({uid}) does not match the UID of the service account ({})",
            own.uid()
        );
        let resource = GroupResource::new("authentication.k8s.io", "TokenRequest");
        return Err(Status::conflict(&resource, own.name(), &why));
    }
    if !request["metadata"].is_object() {
        request["metadata"] = json!({});
    }
    for (field, value) in [("name", own.name()), ("namespace", own.namespace()), ("uid", own.uid())]
    {
        set(request, field, value.into());
    }
    set(request, "creationTimestamp", skiff_api::time::format(now).into());
    let spec = &mut request["spec"];
    if spec["audiences"].as_array().is_none_or(Vec::is_empty) {
        spec["audiences"] = json!(call.server.authn.tokens.audiences());
    }
    if spec.get("boundObjectRef").is_none() {
        spec["boundObjectRef"] = Value::Null;
    }
    Ok(())
}

fn seconds(request: &Value) -> i64 {
    request["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT)
}

fn check(request: &Value) -> Result<(), Status> {
    let mut errors = ErrorList::default();
    let (spec, seconds) = (Path::new("spec"), seconds(request));
    let path = spec.child("expirationSeconds");
    if seconds < SHORTEST {
        errors.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > LONGEST {
        errors.invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(&kind(), "", errors)) }
}

/// Ties the token to the life of a pod, secret or node.
async fn bind(call: &Call, to: &Value, account: &Value) -> Result<Binding, Status> {
    let namespace = call.info.namespace.as_str();
    let mut binding = Binding {
        namespace: namespace.to_owned(),
        serviceaccount: reference(account),
        ..Binding::default()
    };
    if !to.is_object() {
        return Ok(binding);
    }
    let text = |field: &str| to[field].as_str().unwrap_or("");
    let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
    let (kind, name) = (text("kind"), text("name"));
    let object = match (group, kind) {
        ("", "Pod") => find(call, "pods", namespace, name).await?,
        ("", "Secret") => find(call, "secrets", namespace, name).await?,
        ("", "Node") => find(call, "nodes", "", name).await?,
        _ => {
            return Err(Status::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    let bound = Some(reference(&object));
    match kind {
        "Pod" => {
            check_account(&object, meta(account).name())?;
            (binding.pod, binding.node) = (bound, node_of(call, &object).await?);
        }
        "Secret" => binding.secret = bound,
        _ => binding.node = bound,
    }
    check_uid(group, kind, text("uid"), &object)?;
    Ok(binding)
}

fn check_account(pod: &Value, account: &str) -> Result<(), Status> {
    match pod["spec"]["serviceAccountName"] == account {
        true => Ok(()),
        false => Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
        ))),
    }
}

fn check_uid(group: &str, kind: &str, uid: &str, object: &Value) -> Result<(), Status> {
    if uid.is_empty() || uid == meta(object).uid() {
        return Ok(());
    }
    let why = format!(
        "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
    );
    Err(Status::conflict(&GroupResource::new(group, kind), meta(object).name(), &why))
}

/// For the information of those who read the token: a node that is gone is named all the same.
async fn node_of(call: &Call, pod: &Value) -> Result<Option<ObjectRef>, Status> {
    let name = pod["spec"]["nodeName"].as_str().unwrap_or("");
    if name.is_empty() {
        return Ok(None);
    }
    let node = objects::find(&call.server, "minions", "", name).await?;
    let nameless = || ObjectRef { name: name.to_owned(), uid: String::new() };
    Ok(Some(node.as_ref().map_or_else(nameless, reference)))
}

/// What this server grants at most.
fn shorten(call: &Call, request: &mut Value) {
    let asked = seconds(request);
    if let Some(most) =
        call.server.config.authentication.max_token_expiration.filter(|most| asked > *most)
    {
        call.warn(format!("requested expiration of {asked} seconds shortened to {most} seconds"));
        request["spec"]["expirationSeconds"] = most.into();
    }
}

fn claims(call: &Call, request: &Value, mut binding: Binding, now: i64) -> Claims {
    let tokens = &call.server.authn.tokens;
    let listed = request["spec"]["audiences"].as_array().into_iter().flatten();
    let audiences: Vec<String> = listed.filter_map(Value::as_str).map(str::to_owned).collect();
    let mut expires = now + seconds(request);
    let own = audiences.iter().all(|audience| tokens.audiences().contains(audience));
    if call.server.config.authentication.extend_token_expiration
        && binding.pod.is_some()
        && seconds(request) == EXTENDABLE
        && own
    {
        binding.warnafter = Some(expires);
        expires = now + EXTENDED;
    }
    Claims {
        aud: Audience::Many(audiences),
        exp: expires,
        iat: now,
        nbf: now,
        iss: tokens.issuer().to_owned(),
        jti: uuid::Uuid::new_v4().to_string(),
        sub: format!("system:serviceaccount:{}:{}", binding.namespace, binding.serviceaccount.name),
        kubernetes: binding,
    }
}

async fn find(call: &Call, resource: &str, namespace: &str, name: &str) -> Result<Value, Status> {
    let stored = if resource == "nodes" { "minions" } else { resource };
    let found = objects::find(&call.server, stored, namespace, name).await?;
    found.ok_or_else(|| Status::not_found(&GroupResource::new("", resource), name))
}

fn reference(object: &Value) -> ObjectRef {
    ObjectRef { name: meta(object).name().to_owned(), uid: meta(object).uid().to_owned() }
}
