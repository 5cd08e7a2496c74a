//! Paths that name no resource: health, version, discovery, OpenAPI, metrics, OIDC keys.
//!
//! Counterpart: `pkg/server/routes` and `endpoints/discovery`.

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};
use skiff_api::{Kinds, Reason, Status, codec, discovery};

use crate::aggregate;
use crate::call::Call;
use crate::encryption;
use crate::flow_control;
use crate::health;
use crate::negotiate::{self, Media, check_produced, check_route};
use crate::reply::{Reply, empty, with_type};
use crate::zpages;

const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
const VERSION: &str = include_str!("../facts/version.json");
const ROOT_PATHS: &str = include_str!("../facts/root-paths.json");

pub async fn run(call: &Call) -> Result<Reply, Status> {
    let path = call.info.path.trim_end_matches('/');
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match parts.as_slice() {
        ["" | "index.html"] if call.info.path != "//" => Ok(Reply::json(&root_paths(call))),
        ["version"] => version(call),
        ["healthz" | "livez" | "readyz", ..] if call.info.path.ends_with('/') => Ok(not_found()),
        ["healthz" | "livez" | "readyz", ..] => health::run(call, &parts).await,
        ["statusz" | "flagz"] if !takes_text(call.header(ACCEPT)) => Err(not_text()),
        ["statusz"] => Ok(Reply::text(StatusCode::OK, zpages::statusz())),
        ["flagz"] => Ok(Reply::text(StatusCode::OK, zpages::flagz(&call.server))),
        ["metrics", "slis"] => Ok(Reply::Response(with_type(
            StatusCode::OK,
            METRICS,
            health::as_metrics(call).await.into(),
        ))),
        ["metrics"] => Ok(Reply::Response(with_type(
            StatusCode::OK,
            METRICS,
            crate::metrics::text(&call.server).await.into(),
        ))),
        ["debug", "api_priority_and_fairness", name] => {
            match flow_control::dump(&call.server.flow_control, name) {
                Some(table) => Ok(Reply::text(StatusCode::OK, table)),
                None => Ok(not_found()),
            }
        }
        ["api", ..] | ["apis", ..] => discover(call, &parts),
        [".well-known", "openid-configuration"] => Ok(cached(
            "application/json",
            &call.server.authn.tokens.openid_configuration(&address(call)),
        )),
        ["skiff", "v1", "secrets-encryption", rest @ ..] => encryption::run(call, rest).await,
        ["openid", "v1", "jwks"] => {
            const KEYS: &str = "application/jwk-set+json";
            check_produced(call.header(ACCEPT), &[KEYS])?;
            Ok(cached(KEYS, &call.server.authn.tokens.jwks()))
        }
        ["debug", "pprof", ..] => {
            Ok(Reply::text(StatusCode::NOT_FOUND, "profiles are not built into this server\n"))
        }
        ["openapi", "v2"] if call.info.path.ends_with('/') => Ok(not_found()),
        ["openapi", rest @ ..] => crate::openapi::run(call, rest).await,
        _ => Ok(not_found()),
    }
}

/// Pages for people come as text; their forms for machines are not served.
fn takes_text(accept: &str) -> bool {
    let ranges = negotiate::ranges(if accept.trim().is_empty() { "*/*" } else { accept });
    ranges.iter().any(|range| range.includes("text/plain"))
}

fn not_text() -> Status {
    let message = "only the following media types are accepted: application/json, application/yaml, text/plain";
    Status::new(406, Reason::NotAcceptable, message)
}

/// The one path of its kind that refuses other methods and media types.
fn version(call: &Call) -> Result<Reply, Status> {
    require_get(call)?;
    check_produced(call.header(ACCEPT), &["application/json"])?;
    Ok(Reply::json(&parsed(VERSION)))
}

fn require_get(call: &Call) -> Result<(), Status> {
    match call.info.verb.as_str() {
        "get" => Ok(()),
        _ => Err(Status::method_not_allowed()),
    }
}

/// What anyone may keep for an hour.
fn cached(content_type: &str, value: &Value) -> Reply {
    let mut response = with_type(StatusCode::OK, content_type, value.to_string().into());
    let hour = HeaderValue::from_static("public, max-age=3600");
    response.headers_mut().insert(CACHE_CONTROL, hour);
    Reply::Response(response)
}

/// What Go's mux says of a path nobody registered.
pub fn not_found() -> Reply {
    Reply::text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// Whether the group is one of this server's own.
pub fn has_builtin(kinds: &Kinds, group: &str) -> bool {
    kinds.iter().any(|kind| !kind.custom && kind.group == group)
}

fn discover(call: &Call, parts: &[&str]) -> Result<Reply, Status> {
    let (kinds, view) = (call.server.kinds(), call.server.aggregator.view());
    // The lists of groups have no route that looks at the header, and foreign groups have none at all.
    if matches!(parts, ["api", ..])
        || matches!(parts, ["apis", group, _] if has_builtin(&kinds, group))
    {
        check_route(call.header(ACCEPT), false)?;
    }
    if call.media().is_none() {
        return Err(Media::not_acceptable());
    }
    // The documents of groups answer to any method, others do not.
    match parts {
        ["api", ..] => require_get(call)?,
        ["apis", group, _] if has_builtin(&kinds, group) => require_get(call)?,
        _ => {}
    }
    let aggregated = wants_aggregated(call);
    let value = match parts {
        ["api"] if aggregated.is_some() => {
            return Ok(tagged(call, &discovery::aggregated_core(&kinds), aggregated));
        }
        ["apis"] if aggregated.is_some() => {
            return Ok(tagged(
                call,
                &aggregate::discovery::aggregated_groups(&view, &kinds),
                aggregated,
            ));
        }
        ["api"] => Some(discovery::api_versions(&address(call))),
        ["apis"] => Some(aggregate::discovery::group_list(&view, &kinds)),
        ["apis", group] => match aggregate::discovery::group(&view, &kinds, group) {
            Some(value) => Some(value),
            None => return Ok(not_found()),
        },
        ["api", version] => discovery::resource_list(&kinds, "", version),
        ["apis", group, version] => discovery::resource_list(&kinds, group, version),
        _ => None,
    };
    match (value, parts) {
        (Some(value), _) => Ok(Reply::value(value)),
        // Only in the groups of this server does an unknown version get a Status.
        (None, ["apis", group, _]) if !has_builtin(&kinds, group) => Ok(not_found()),
        (None, _) => Err(Status::no_such_path()),
    }
}

/// The content type of aggregated discovery, if the client prefers it.
fn wants_aggregated(call: &Call) -> Option<String> {
    call.header(ACCEPT).split(',').find_map(|range| {
        let wanted = range.contains("g=apidiscovery.k8s.io")
            && range.contains("as=APIGroupDiscoveryList")
            && range.contains("v=v2");
        let plain = range.trim() == "application/json";
        match (wanted && !range.contains("v=v2beta1"), plain) {
            (true, _) => {
                let yaml = range.trim().starts_with("application/yaml");
                let of = if yaml { "application/yaml" } else { "application/json" };
                Some(Some(format!("{of};g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")))
            }
            (false, true) => Some(None),
            _ => None,
        }
    })?
}

/// An answer that a client may keep until its tag changes.
fn tagged(call: &Call, value: &Value, content_type: Option<String>) -> Reply {
    use sha2::{Digest, Sha512};
    let is_yaml = content_type.as_deref().is_some_and(|of| of.starts_with("application/yaml"));
    let text: Bytes = if is_yaml { codec::to_yaml(value) } else { value.to_string().into() };
    let digest = crate::authn::x509::hex(&Sha512::digest(&text)).to_uppercase();
    let tag = format!("\"{digest}\"");
    if call.header(IF_NONE_MATCH) == tag {
        let mut response = http::Response::new(empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Reply::Response(response);
    }
    let mut response =
        with_type(StatusCode::OK, content_type.as_deref().unwrap_or("application/json"), text);
    if let Ok(value) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, value);
    }
    response.headers_mut().insert("vary", HeaderValue::from_static("Accept"));
    Reply::Response(response)
}

fn address(call: &Call) -> String {
    let config = &call.server.config;
    format!("{}:{}", config.advertise_address, config.port)
}

/// The recorded list, with the groups that are served now.
fn root_paths(call: &Call) -> Value {
    let mut paths: Vec<String> = parsed(ROOT_PATHS)["paths"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    for (group, versions) in
        aggregate::discovery::groups(&call.server.aggregator.view(), &call.server.kinds())
    {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
    }
    paths.sort();
    paths.dedup();
    json!({ "paths": paths })
}

fn parsed(fact: &str) -> Value {
    serde_json::from_str(fact).expect("facts are valid JSON")
}
