//! Subresources that lead out of the server: logs, exec, attach, port-forward, and the ground of proxies.
//!
//! Path -> [`Backend`] (the kubelet of the pod's node) -> one HTTP exchange handed through, upgrades spliced. Proxies are in
//! [`proxy`]. Counterpart: `pkg/registry/core/pod/rest` and `kubelet/client`. Invariant: bytes of a stream are never looked at here,
//! and the client's credentials never reach the backend.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use http::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use http::request::Parts;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use skiff_api::{GroupResource, Reason, Status};

use super::{connect_options, proxy};
use crate::call::Call;
use crate::objects;
use crate::pki::Leaf;
use crate::reply::{Body, BoxError};
use crate::request_info::RequestInfo;
use crate::server::Server;
use crate::webhook::{Destination, Io, Trust, client_tls, dial, meaning_of};

/// Resource, its connecting subresources.
const CONNECT: &[(&str, &[&str])] = &[
    ("pods", &["log", "exec", "attach", "portforward", "proxy"]),
    ("nodes", &["proxy"]),
    ("services", &["proxy"]),
];

pub const KUBELET_PORT: u16 = 10250;

const LONGEST_REFUSAL: usize = 50_000;

/// Where a connection leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub host: String,
    pub port: u16,
    pub scheme: Scheme,
    pub path_and_query: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    /// Anything that speaks TLS: pods and services are proxied without knowing their CA, as upstream does.
    Https,
    /// A kubelet of this cluster: its certificate is checked and ours is shown.
    Kubelet,
}

impl Scheme {
    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
            Scheme::Kubelet => KUBELET_PORT,
        }
    }
}

pub fn is_connect(info: &RequestInfo) -> bool {
    info.is_resource
        && info.group.is_empty()
        && CONNECT.iter().any(|(resource, subs)| {
            *resource == info.resource && subs.contains(&info.subresource.as_str())
        })
}

pub async fn run<B>(call: &Call, parts: Parts, body: B) -> Result<Response<Body>, Status>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    connect_options::admit(call).await?;
    let sub = call.info.subresource.as_str();
    if sub == "proxy" {
        return proxy::run(call, parts, body).await;
    }
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let Some(backend) = pod_on_kubelet(call, sub, &query).await? else { return Ok(no_content()) };
    let answer = hand_on(call, &backend, parts, body, None).await;
    let answer = answer.map_err(|error| unreachable(&backend, &*error))?;
    match sub == "log" && is_refusal(answer.status()) {
        true => Err(log_refused(call, answer).await),
        false => Ok(answer),
    }
}

fn is_refusal(code: StatusCode) -> bool {
    !(StatusCode::OK..=StatusCode::PARTIAL_CONTENT).contains(&code)
}

/// What a kubelet says of a log it does not show is plain text, of which a client would only show the code.
async fn log_refused(call: &Call, answer: Response<Body>) -> Status {
    let code = answer.status();
    let body = Limited::new(answer.into_body(), LONGEST_REFUSAL).collect().boxed().await;
    let said = match body {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(error) => return Status::internal(error),
    };
    match code {
        StatusCode::BAD_REQUEST => Status::bad_request(said),
        StatusCode::INTERNAL_SERVER_ERROR => Status::internal(said),
        _ => {
            let reason = match code {
                StatusCode::NOT_FOUND => Reason::NotFound,
                _ => Reason::Unknown,
            };
            let message = format!("{} ( pods/log {})", meaning_of(code, &said), call.info.name);
            Status::new(code.as_u16(), reason, message)
        }
    }
}

/// The log of a pod that no node has taken.
fn no_content() -> Response<Body> {
    let mut answer = Response::new(crate::reply::empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// One request to the backend, which it knows by `host` or by its address, and what it answers.
pub async fn hand_on<B>(
    call: &Call,
    backend: &Backend,
    parts: Parts,
    body: B,
    host: Option<&str>,
) -> Result<Response<Body>, BoxError>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    tracing::debug!(?backend, "connecting");
    let io = connect(&call.server, backend).await?;
    let mut request = outgoing(backend, parts, body)?;
    if let Some(host) = host.filter(|host| !host.is_empty()) {
        request.headers_mut().insert(HOST, host.parse()?);
    }
    match request.headers().contains_key(UPGRADE) {
        true => upgrade(request, io).await,
        false => exchange(request, io).await,
    }
}

// === where to ===

/// A stream of a pod's container, served by the kubelet of its node; `None` if there is none yet, and that is an answer.
async fn pod_on_kubelet(call: &Call, sub: &str, query: &str) -> Result<Option<Backend>, Status> {
    let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
    let pod = object(call, "pods", namespace, name).await?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or("");
    let container = container_of(call, &pod, sub)?;
    if node.is_empty() && sub == "log" {
        return Ok(None);
    }
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let kubelet = kubelet(call, node).await?;
    let path = match sub {
        "log" => format!("/containerLogs/{namespace}/{name}/{container}{query}"),
        "portforward" => format!("/portForward/{namespace}/{name}{query}"),
        sub => format!("/{sub}/{namespace}/{name}/{container}{}", streams_query(query)),
    };
    Ok(Some(Backend { path_and_query: path, ..kubelet }))
}

/// kubelets know `input`, `output` and `error` where the API says `stdin`, `stdout` and `stderr`.
fn streams_query(query: &str) -> String {
    const NAMES: &[(&str, &str)] = &[("stdin", "input"), ("stdout", "output"), ("stderr", "error")];
    let renamed = query.trim_start_matches('?').split('&').filter_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let yes = !matches!(value.to_ascii_lowercase().as_str(), "" | "0" | "false");
        match NAMES.iter().find(|(name, _)| *name == key) {
            Some((_, kubelet)) => yes.then(|| format!("{kubelet}=1")),
            None if key == "tty" => yes.then(|| "tty=1".to_owned()),
            None if key == "container" || key.is_empty() => None,
            None => Some(pair.to_owned()),
        }
    });
    format!("?{}", renamed.collect::<Vec<_>>().join("&"))
}

/// The container that is named, or the only one.
fn container_of(call: &Call, pod: &Value, sub: &str) -> Result<String, Status> {
    if sub == "portforward" {
        return Ok(String::new());
    }
    let name = skiff_api::meta::meta(pod).name();
    let names = |list: &str| -> Vec<String> {
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        containers.filter_map(|container| container["name"].as_str()).map(str::to_owned).collect()
    };
    let (own, init, extra) =
        (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let asked = call.query.text("container");
    if !asked.is_empty() {
        let known = [&own, &init, &extra].iter().any(|list| list.iter().any(|have| have == asked));
        return match known {
            true => Ok(asked.to_owned()),
            false => {
                Err(Status::bad_request(format!("container {asked} is not valid for pod {name}")))
            }
        };
    }
    let default = skiff_api::meta::meta(pod).annotation("kubectl.kubernetes.io/default-container");
    match (own.as_slice(), default) {
        ([one], _) => Ok(one.clone()),
        ([], _) => {
            Err(Status::bad_request(format!("a container name must be specified for pod {name}")))
        }
        (_, Some(default)) if sub != "log" && own.iter().any(|have| have == default) => {
            Ok(default.to_owned())
        }
        _ => {
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                own.join(" ")
            );
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(Status::bad_request(message))
        }
    }
}

pub async fn kubelet(call: &Call, node: &str) -> Result<Backend, Status> {
    let object = object(call, "minions", "", node).await.map_err(|status| match status.code {
        404 => Status::not_found(&GroupResource::new("", "nodes"), node),
        _ => status,
    })?;
    let addresses = || object["status"]["addresses"].as_array().into_iter().flatten();
    let of = |kind: &str| {
        addresses()
            .find(|address| address["type"] == kind)
            .and_then(|address| address["address"].as_str())
    };
    let preferred = ["InternalIP", "ExternalIP", "Hostname", "InternalDNS"];
    let host = preferred.iter().find_map(|kind| of(kind)).ok_or_else(|| {
        Status::internal(format!(
            "no preferred addresses found; known addresses: {}",
            object["status"]["addresses"]
        ))
    })?;
    let port = object["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        .as_u64()
        .and_then(|port| u16::try_from(port).ok());
    Ok(Backend {
        host: host.to_owned(),
        port: port.filter(|port| *port > 0).unwrap_or(KUBELET_PORT),
        scheme: Scheme::Kubelet,
        path_and_query: String::new(),
    })
}

async fn object(call: &Call, under: &str, namespace: &str, name: &str) -> Result<Value, Status> {
    let found = objects::find(&call.server, under, namespace, name).await?;
    found.ok_or_else(|| {
        Status::not_found(&GroupResource::new("", call.info.resource.as_str()), name)
    })
}

// === the exchange ===

async fn connect(server: &Server, backend: &Backend) -> Result<Box<dyn Io>, BoxError> {
    let tls = match backend.scheme {
        Scheme::Http => None,
        Scheme::Https => Some(client_tls(&Trust::Anything, None)?),
        Scheme::Kubelet => {
            let own = server.pki.identity(&Leaf::apiserver_kubelet_client())?;
            Some(client_tls(&Trust::Bundle(server.pki.ca_pem().as_bytes().into()), Some(&own))?)
        }
    };
    let tls = tls.map(|config| (backend.host.clone(), Arc::new(config)));
    let destination = Destination { host: backend.host.clone(), port: backend.port, tls };
    Ok(dial(&destination).await?)
}

/// The client's request, addressed to the backend, without what was meant for this server only.
fn outgoing<B>(backend: &Backend, mut parts: Parts, body: B) -> Result<Request<Body>, BoxError>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    parts.uri = backend.path_and_query.parse::<Uri>()?;
    parts.version = http::Version::HTTP_11;
    parts.headers.remove(AUTHORIZATION);
    let impersonation: Vec<_> = parts
        .headers
        .keys()
        .filter(|name| name.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    impersonation.iter().for_each(|name| drop(parts.headers.remove(name)));
    if !parts.headers.contains_key(UPGRADE) {
        parts.headers.remove(CONNECTION);
    }
    let host = format!("{}:{}", backend.host, backend.port);
    parts.headers.insert(HOST, host.parse()?);
    Ok(Request::from_parts(parts, body.map_err(Into::into).boxed_unsync()))
}

async fn exchange(request: Request<Body>, io: Box<dyn Io>) -> Result<Response<Body>, BoxError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a backend connection ended");
        }
    });
    let mut response = sender.send_request(request).await?;
    response.headers_mut().remove(CONNECTION);
    Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync()))
}

async fn upgrade(request: Request<Body>, io: Box<dyn Io>) -> Result<Response<Body>, BoxError> {
    let response = skiff_streams::proxy_upgrade(request, io).await?;
    Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync()))
}

pub fn unreachable(backend: &Backend, error: &dyn std::fmt::Display) -> Status {
    let Backend { host, port, .. } = backend;
    Status::internal(format!("error dialing backend: {host}:{port}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_named_as_kubelets_do() {
        let query =
            "?command=sh&command=-c&container=web&stdin=true&stdout=true&stderr=false&tty=true";
        assert_eq!(streams_query(query), "?command=sh&command=-c&input=1&output=1&tty=1");
    }
}
