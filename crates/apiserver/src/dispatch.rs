//! From an authorised request to the one function that answers it.
//!
//! Verb and subresource pick the function; the kind is only an argument. Counterpart: `endpoints/installer.go`, which
//! registers the same choices as routes. Invariant: what is not in a kind's facts is not served: an
//! unknown resource or subresource is 404, a verb it lacks is 405.

use std::sync::Arc;

use http::Method;
use http::header::ACCEPT;
use skiff_api::kinds::legacy;
use skiff_api::status::Details;
use skiff_api::{KindDef, Reason, Status};

use crate::call::Call;
use crate::negotiate::{self, Media};
use crate::reply::Reply;
use crate::{component_statuses, nonresource, reviews, subresources, verbs};

pub async fn run(call: &Call, method: &Method, media: &Option<Media>) -> Result<Reply, Status> {
    if !call.info.is_resource {
        return nonresource::run(call).await;
    }
    let kind = match call.kind() {
        Ok(kind) => kind,
        Err(unknown) => return unknown_kind(call, unknown),
    };
    if kind.custom && is_misplaced(call, &kind) {
        return Ok(nonresource::not_found());
    }
    check_scope(call, &kind)?;
    let part = call.info.subresource.as_str();
    let is_served = match part.is_empty() {
        true => kind.has_verb(&call.info.verb) || is_unwatchable_list(call, &kind),
        false => kind.subresource(part).is_some(),
    };
    if is_served {
        warn_of_deprecation(call, &kind);
    }
    if call.info.subresource.is_empty() {
        resource(call, kind, method, media).await
    } else {
        subresource(call, kind, media).await
    }
}

/// Only built-in resources have routes that look at the `Accept` header too.
fn check_accept(call: &Call, kind: &KindDef, media: &Option<Media>) -> Result<(), Status> {
    let collection = matches!(call.info.verb.as_str(), "list" | "watch");
    if !kind.custom {
        negotiate::check_route(call.header(ACCEPT), collection)?;
    }
    match media {
        Some(_) => Ok(()),
        None if call.info.verb == "watch" => Err(Media::not_streamable()),
        None => Err(Media::not_acceptable()),
    }
}

/// Kinds that are on their way out, and what to use instead.
const DEPRECATED: &[(&str, &str, &str)] = &[
    (
        "",
        "endpoints",
        "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
    ),
    ("", "componentstatuses", "v1 ComponentStatus is deprecated in v1.19+"),
];

fn warn_of_deprecation(call: &Call, kind: &KindDef) {
    let found = DEPRECATED
        .iter()
        .find(|(group, resource, _)| *group == kind.group && *resource == kind.resource);
    if let Some((.., text)) = found {
        call.warn(*text);
    }
    if let Some(text) = legacy::warning(kind) {
        call.warn(text);
    }
    let versioning = kind.versioning.as_ref();
    if let Some(text) = versioning.and_then(|versioning| versioning.deprecation.as_deref()) {
        call.warn(text);
    }
}

/// A path of no known kind belongs to nobody, or to one of our own groups.
fn unknown_kind(call: &Call, unknown: Status) -> Result<Reply, Status> {
    match nonresource::has_builtin(&call.server.kinds(), &call.info.group) {
        true => Err(unknown),
        false => Ok(nonresource::not_found()),
    }
}

fn is_in_namespace(call: &Call) -> bool {
    !call.info.namespace.is_empty() && call.info.resource != "namespaces"
}

/// A path into a namespace for a kind that lives in none.
fn is_misplaced(call: &Call, kind: &KindDef) -> bool {
    !kind.namespaced && is_in_namespace(call)
}

/// Namespaced objects live in a namespace, others do not.
fn check_scope(call: &Call, kind: &KindDef) -> Result<(), Status> {
    let info = &call.info;
    let in_namespace = is_in_namespace(call);
    let names_object = !info.name.is_empty()
        && !matches!(info.verb.as_str(), "list" | "watch" | "deletecollection");
    match (kind.namespaced, in_namespace) {
        (false, true) => Err(Status::no_such_path()),
        (true, false) if names_object => Err(Status::no_such_path()),
        (true, false) if matches!(info.verb.as_str(), "create" | "deletecollection") => {
            Err(Status::method_not_allowed())
        }
        _ => Ok(()),
    }
}

/// A list that was asked for as a watch, of what can only be listed.
fn is_unwatchable_list(call: &Call, kind: &KindDef) -> bool {
    call.info.verb == "watch"
        && call.query.flag("watch")
        && !kind.has_verb("watch")
        && kind.has_verb("list")
}

/// The one kind whose objects are found out when they are asked for.
fn is_component_status(kind: &KindDef) -> bool {
    kind.group.is_empty() && kind.resource == "componentstatuses"
}

async fn resource(
    call: &Call,
    kind: Arc<KindDef>,
    method: &Method,
    media: &Option<Media>,
) -> Result<Reply, Status> {
    let info = &call.info;
    check_method(method, !path_has_name(call), &kind)?;
    if is_unwatchable_list(call, &kind) {
        let resource = kind.group_resource();
        let details = Details {
            group: resource.group.clone(),
            kind: resource.resource.clone(),
            ..Details::default()
        };
        let why = format!("watch is not supported on resources of kind {:?}", resource.to_string());
        return Err(Status::new(405, Reason::MethodNotAllowed, why).with_details(details));
    }
    if !kind.has_verb(&info.verb) {
        return Err(Status::method_not_allowed());
    }
    check_accept(call, &kind, media)?;
    if let Some(review) = reviews::of(&kind) {
        return review.create(call, kind).await;
    }
    match info.verb.as_str() {
        "get" if is_component_status(&kind) => component_statuses::get(call, kind).await,
        "list" if is_component_status(&kind) => component_statuses::list(call, kind).await,
        "get" => verbs::get::run(call, kind).await,
        "list" => verbs::list::run(call, kind).await,
        "watch" => verbs::watch::run(call, kind).await,
        "create" => verbs::create::run(call, kind).await,
        "update" => verbs::update::run(call, kind, None).await,
        "patch" => verbs::patch::run(call, kind, None).await,
        "delete" => verbs::delete::run(call, kind).await,
        "deletecollection" => verbs::delete::run_collection(call, kind).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// POST is for collections, PUT and PATCH for objects. An object of a kind without any named
/// path (reviews) does not exist at all.
fn check_method(method: &Method, collection: bool, kind: &KindDef) -> Result<(), Status> {
    let named = ["get", "update", "patch", "delete"].iter().any(|verb| kind.has_verb(verb));
    match (collection, method) {
        (false, _) if !named => Err(Status::no_such_path()),
        (true, &Method::PUT | &Method::PATCH) | (false, &Method::POST) => {
            Err(Status::method_not_allowed())
        }
        // Routes are for one method each, and built-in kinds have none for this one.
        (_, &Method::HEAD) if !kind.custom => Err(Status::method_not_allowed()),
        _ => Ok(()),
    }
}

/// A list by `metadata.name` has a name, but its path has none.
fn path_has_name(call: &Call) -> bool {
    let info = &call.info;
    let selects = call.query.text("fieldSelector").contains("metadata.name");
    match info.verb.as_str() {
        "list" | "deletecollection" => false,
        "watch" if selects => false,
        _ => !info.name.is_empty(),
    }
}

async fn subresource(
    call: &Call,
    kind: Arc<KindDef>,
    media: &Option<Media>,
) -> Result<Reply, Status> {
    let info = &call.info;
    let Some(sub) = kind.subresource(&info.subresource).cloned() else {
        return Err(match kind.custom {
            true => Status::not_found(&kind.group_resource(), &info.name),
            false => Status::no_such_path(),
        });
    };
    if !info.rest.is_empty() {
        return Err(Status::no_such_path());
    }
    if !sub.verbs.contains(&info.verb) {
        return Err(Status::method_not_allowed());
    }
    check_accept(call, &kind, media)?;
    match (sub.name.as_str(), info.verb.as_str()) {
        ("scale", _) => subresources::scale::run(call, kind).await,
        ("binding", _) => subresources::binding::run(call, &info.name).await,
        ("eviction", _) => subresources::eviction::run(call, kind).await,
        ("token", _) => subresources::token::run(call).await,
        (_, "get") => verbs::get::run(call, kind).await,
        (_, "update") => verbs::update::run(call, kind, Some(&sub)).await,
        (_, "patch") => verbs::patch::run(call, kind, Some(&sub)).await,
        _ => Err(Status::method_not_allowed()),
    }
}
