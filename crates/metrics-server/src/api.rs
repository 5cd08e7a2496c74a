//! The paths of the metrics API and what they answer.
//!
//! Path and selector -> nodes or pods with what they use -> an object, a list or a Table.
//! Counterpart: `pkg/api` of metrics-server. Invariant: what has not been measured is not shown, rather than shown as zero.

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use skiff_api::quantity::Quantity;
use skiff_api::{GroupResource, Status};

use super::scrape::{Scraper, Usage};
use super::{GROUP, VERSION, table};

/// What is asked for.
#[derive(Debug, PartialEq)]
enum Wanted<'a> {
    Resources,
    Nodes,
    Node(&'a str),
    Pods(Option<&'a str>),
    Pod(&'a str, &'a str),
}

pub async fn answer(scraper: &Scraper, request: &Request<()>) -> Response<Bytes> {
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let as_table = accept.is_some_and(|accept| accept.contains("as=Table"));
    match find(scraper, request).await {
        Ok(value) if as_table && value["kind"] != "APIResourceList" => {
            json_response(StatusCode::OK, &table::of(&value))
        }
        Ok(value) => json_response(StatusCode::OK, &value),
        Err(status) => {
            let code = StatusCode::from_u16(status.code);
            let code = code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            json_response(code, &status.to_value())
        }
    }
}

fn json_response(code: StatusCode, value: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(value.to_string()));
    *response.status_mut() = code;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

async fn find(scraper: &Scraper, request: &Request<()>) -> Result<Value, Box<Status>> {
    let wanted = wanted(request.uri().path()).ok_or_else(|| Box::new(Status::no_such_path()))?;
    if request.method() != http::Method::GET {
        return Err(Box::new(Status::method_not_allowed()));
    }
    let selector = parameter(request.uri().query().unwrap_or(""), "labelSelector");
    match wanted {
        Wanted::Resources => Ok(resources()),
        Wanted::Nodes => Ok(list("NodeMetricsList", nodes(scraper, &selector).await?)),
        Wanted::Node(name) => pick(nodes(scraper, "").await?, "nodes", name),
        Wanted::Pods(namespace) => {
            Ok(list("PodMetricsList", pods(scraper, namespace, &selector).await?))
        }
        Wanted::Pod(namespace, name) => {
            pick(pods(scraper, Some(namespace), "").await?, "pods", name)
        }
    }
}

fn wanted(path: &str) -> Option<Wanted<'_>> {
    let rest = path.strip_prefix("/apis/metrics.k8s.io/v1beta1")?;
    let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
    Some(match parts[..] {
        [] => Wanted::Resources,
        ["nodes"] => Wanted::Nodes,
        ["nodes", name] => Wanted::Node(name),
        ["pods"] => Wanted::Pods(None),
        ["namespaces", namespace, "pods"] => Wanted::Pods(Some(namespace)),
        ["namespaces", namespace, "pods", name] => Wanted::Pod(namespace, name),
        _ => return None,
    })
}

/// A parameter of a query, decoded.
fn parameter(query: &str, name: &str) -> String {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next();
    let mut bytes = Vec::new();
    let mut rest = value.unwrap_or("").bytes();
    while let Some(byte) = rest.next() {
        let hex = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => match (hex(rest.next()), hex(rest.next())) {
                (Some(high), Some(low)) => (high * 16 + low) as u8,
                _ => b'%',
            },
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn resources() -> Value {
    let resource = |name: &str, kind: &str, namespaced: bool| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]});
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": format!("{GROUP}/{VERSION}"),
        "resources": [resource("nodes", "NodeMetrics", false), resource("pods", "PodMetrics", true)],
    })
}

fn list(kind: &str, items: Vec<Value>) -> Value {
    json!({"kind": kind, "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {}, "items": items})
}

fn pick(items: Vec<Value>, resource: &str, name: &str) -> Result<Value, Box<Status>> {
    let found = items.into_iter().find(|item| item["metadata"]["name"] == name);
    found.ok_or_else(|| Box::new(Status::not_found(&GroupResource::new(GROUP, resource), name)))
}

async fn nodes(scraper: &Scraper, selector: &str) -> Result<Vec<Value>, Box<Status>> {
    let nodes = scraper.nodes(selector).await.map_err(unread)?;
    let names = nodes.iter().filter_map(|node| node.metadata.name.clone());
    let usage = scraper.usage(names).await;
    let metrics = nodes.iter().filter_map(|node: &Node| {
        let scrape = usage.get(node.metadata.name.as_ref()?)?;
        let mut metrics = measured("NodeMetrics", &node.metadata, scrape.at, scrape.window());
        metrics["usage"] = usage_value(scrape.node);
        Some(metrics)
    });
    Ok(metrics.collect())
}

async fn pods(
    scraper: &Scraper,
    namespace: Option<&str>,
    selector: &str,
) -> Result<Vec<Value>, Box<Status>> {
    let pods = scraper.pods(namespace, selector).await.map_err(unread)?;
    let node_of = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let nodes: std::collections::BTreeSet<String> = pods.iter().filter_map(node_of).collect();
    let usage = scraper.usage(nodes).await;
    let metrics = pods.iter().filter_map(|pod| {
        let of_pod = usage.get(&node_of(pod)?)?.pod(pod.metadata.uid.as_ref()?)?;
        let mut metrics = measured("PodMetrics", &pod.metadata, of_pod.at, of_pod.window);
        let containers = of_pod.containers.into_iter();
        let containers =
            containers.map(|(name, usage)| json!({"name": name, "usage": usage_value(usage)}));
        metrics["containers"] = containers.collect();
        Some(metrics)
    });
    Ok(metrics.collect())
}

fn measured(kind: &str, meta: &ObjectMeta, at: Timestamp, window: SignedDuration) -> Value {
    let at = Timestamp::from_second(at.as_second()).unwrap_or(at);
    let mut value = json!({
        "kind": kind,
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": {"name": meta.name, "creationTimestamp": at},
        "timestamp": at,
        "window": format!("{:.3}s", window.as_secs_f64()),
    });
    if let Some(namespace) = &meta.namespace {
        value["metadata"]["namespace"] = json!(namespace);
    }
    if let Some(labels) = &meta.labels {
        value["metadata"]["labels"] = json!(labels);
    }
    value
}

fn usage_value(usage: Usage) -> Value {
    let cpu = match usage.nano_cores {
        0 => "0".to_owned(),
        nano => format!("{nano}n"),
    };
    let kibibytes = i64::try_from(usage.working_set / 1024 * 1024).unwrap_or(i64::MAX);
    json!({"cpu": cpu, "memory": Quantity::from_bytes(kibibytes).to_string()})
}

/// The API server's own refusal goes on as it is.
fn unread(error: kube::Error) -> Box<Status> {
    Box::new(match error {
        kube::Error::Api(status) if status.code == 400 => {
            Status::bad_request(status.message.clone())
        }
        other => Status::internal(other),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_what_is_wanted() {
        let root = "/apis/metrics.k8s.io/v1beta1";
        for (path, expected) in [
            ("", Some(Wanted::Resources)),
            ("/nodes", Some(Wanted::Nodes)),
            ("/nodes/n", Some(Wanted::Node("n"))),
            ("/pods", Some(Wanted::Pods(None))),
            ("/namespaces/ns/pods", Some(Wanted::Pods(Some("ns")))),
            ("/namespaces/ns/pods/p", Some(Wanted::Pod("ns", "p"))),
            ("/services", None),
        ] {
            assert_eq!(wanted(&format!("{root}{path}")), expected, "{path}");
        }
        assert_eq!(wanted("/apis/apps/v1"), None);
    }

    #[test]
    fn parameters_are_decoded() {
        let query = "limit=5&labelSelector=app%3Dweb%2Ctier+in+%28a%29";
        assert_eq!(parameter(query, "labelSelector"), "app=web,tier in (a)");
        assert_eq!(parameter(query, "other"), "");
    }

    #[test]
    fn usage_is_written_as_quantities() {
        let usage = usage_value(Usage { nano_cores: 1_234_567, working_set: 5 * 1024 * 1024 + 7 });
        assert_eq!(usage, json!({"cpu": "1234567n", "memory": "5Mi"}));
    }
}
