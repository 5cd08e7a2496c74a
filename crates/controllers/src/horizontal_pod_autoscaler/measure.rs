//! What the metrics APIs say: of resources, of pods, of other objects, and of the world outside.
//!
//! A metric's name and selectors -> a request to `metrics.k8s.io`, `custom.metrics.k8s.io` or `external.metrics.k8s.io`,
//! whoever serves them -> values in thousandths. Counterpart: `podautoscaler/metrics/client.go`.
//! Invariant: no values is an error, not a zero.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, MetricIdentifier};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::core::Selector;
use serde::Deserialize;
use serde_json::Value;
use skiff_api::quantity;

use super::ratio::{Sample, Samples};
use crate::runtime::{Ctx, Error, Result};
use crate::scale::Target;

const CUSTOM: &str = "custom.metrics.k8s.io";
/// Versions of custom metrics that are understood, the preferred one first.
const CUSTOM_VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];
/// What a metric is taken over if it does not say so.
const DEFAULT_WINDOW: SignedDuration = SignedDuration::from_secs(60);

#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

#[derive(Deserialize)]
struct PodMetrics {
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    timestamp: Timestamp,
    window: String,
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    name: String,
    usage: std::collections::BTreeMap<String, Quantity>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricValue {
    described_object: Option<DescribedObject>,
    timestamp: Timestamp,
    window_seconds: Option<i64>,
    value: Quantity,
}

#[derive(Deserialize)]
struct DescribedObject {
    name: String,
}

/// What pods use of a resource, all containers together or one of them.
pub async fn of_resource(
    ctx: &Ctx,
    namespace: &str,
    pods: &str,
    resource: &str,
    container: Option<&str>,
) -> Result<Samples> {
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods");
    let asked = Asked { api: "resource", what: "pods.metrics.k8s.io" };
    let list: List<PodMetrics> = get(ctx, &path, &[("labelSelector", pods)], &asked).await?;
    let list = not_empty(list, "resource")?;
    let samples = list.into_iter().filter_map(|metrics| {
        let meant = metrics
            .containers
            .iter()
            .filter(|one| container.is_none_or(|container| one.name == container));
        let values: Option<Vec<i64>> =
            meant.map(|one| one.usage.get(resource).and_then(milli)).collect();
        let values = values.filter(|values| !values.is_empty())?;
        let window = metrics.window.parse().unwrap_or(DEFAULT_WINDOW);
        let sample = Sample { at: metrics.timestamp, window, value: values.iter().sum() };
        Some((metrics.metadata.name?, sample))
    });
    Ok(samples.collect())
}

/// What pods say of a metric of their own.
pub async fn of_pods(
    ctx: &Ctx,
    namespace: &str,
    pods: &str,
    metric: &MetricIdentifier,
) -> Result<Samples> {
    let version = custom_version(ctx).await?;
    let name = &metric.name;
    let path = format!("/apis/{CUSTOM}/{version}/namespaces/{namespace}/pods/*/{name}");
    let selector = text(metric)?;
    let query = [("labelSelector", pods), ("metricLabelSelector", &selector)];
    let asked = Asked { api: "custom", what: &format!("pods.{CUSTOM} *") };
    let list: List<MetricValue> = get(ctx, &path, &query, &asked).await?;
    let samples = not_empty(list, "custom")?.into_iter().filter_map(|metric| {
        let window = metric.window_seconds.map_or(DEFAULT_WINDOW, SignedDuration::from_secs);
        let value = milli(&metric.value)?;
        Some((metric.described_object?.name, Sample { at: metric.timestamp, window, value }))
    });
    Ok(samples.collect())
}

/// What one object says of a metric.
pub async fn of_object(
    ctx: &Ctx,
    namespace: &str,
    object: &CrossVersionObjectReference,
    metric: &MetricIdentifier,
) -> Result<i64> {
    let version = custom_version(ctx).await?;
    let api_version = object.api_version.as_deref().unwrap_or("v1");
    let name = &metric.name;
    let root = format!("/apis/{CUSTOM}/{version}/namespaces/{namespace}");
    let (path, asked) = if object.kind == "Namespace" && api_version == "v1" {
        (format!("{root}/metrics/{name}"), format!("metrics.{CUSTOM} {name}"))
    } else {
        let described = Target { api_version, kind: &object.kind, namespace, name: &object.name };
        let plural = described.resource(ctx).await?.plural;
        let resource = described.group_resource(&plural);
        let asked = format!("{resource}.{CUSTOM} {}", object.name);
        (format!("{root}/{resource}/{}/{name}", object.name), asked)
    };
    let asked = Asked { api: "custom", what: &asked };
    let selector = text(metric)?;
    let list: List<MetricValue> =
        get(ctx, &path, &[("metricLabelSelector", &selector)], &asked).await?;
    match list.items.as_slice() {
        [metric] => Ok(milli(&metric.value).unwrap_or(0)),
        several => Err(unread(
            "custom",
            &format!(
                "the custom metrics API server returned {} results when we asked for exactly one",
                several.len()
            ),
        )),
    }
}

/// The sum of an external metric's series.
pub async fn of_the_world(ctx: &Ctx, namespace: &str, metric: &MetricIdentifier) -> Result<i64> {
    let name = &metric.name;
    let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{name}");
    let selector = text(metric)?;
    let asked = Asked { api: "external", what: &format!("{name}.external.metrics.k8s.io") };
    let list: List<MetricValue> = get(ctx, &path, &[("labelSelector", &selector)], &asked).await?;
    Ok(not_empty(list, "external")?.iter().filter_map(|metric| milli(&metric.value)).sum())
}

pub fn milli(quantity: &Quantity) -> Option<i64> {
    quantity.0.parse::<quantity::Quantity>().ok().map(quantity::Quantity::milli)
}

/// The version that the server of custom metrics prefers, or else one that is understood.
async fn custom_version(ctx: &Ctx) -> Result<&'static str> {
    let request = http::Request::get(format!("/apis/{CUSTOM}")).body(Vec::new());
    let request = request.map_err(|error| unread("custom", &error.to_string()))?;
    let group = match ctx.client.request::<Value>(request).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let why = format!("no custom metrics API ({CUSTOM}) registered");
            return Err(unread("custom", &why));
        }
        answer => answer.map_err(|error| unread("custom", &error.to_string()))?,
    };
    chosen(&group).ok_or_else(|| unread("custom", "no known available metric versions found"))
}

fn chosen(group: &Value) -> Option<&'static str> {
    let preferred = group["preferredVersion"]["version"].as_str();
    let served = group["versions"].as_array().into_iter().flatten();
    let mut offered = preferred.into_iter().chain(served.filter_map(|it| it["version"].as_str()));
    offered.find_map(|version| CUSTOM_VERSIONS.into_iter().find(|known| *known == version))
}

fn text(metric: &MetricIdentifier) -> Result<String> {
    let Some(selector) = metric.selector.clone() else { return Ok(String::new()) };
    let selector = Selector::try_from(selector)
        .map_err(|error| Error::Invalid(format!("invalid metric selector: {error}")))?;
    Ok(selector.to_string())
}

/// Which API is asked, and for what, as errors name it.
#[derive(Clone, Copy)]
struct Asked<'a> {
    api: &'static str,
    what: &'a str,
}

/// What client libraries say of an answer that says nothing itself.
const SILENT: [(u16, &str); 4] = [
    (401, "the server has asked for the client to provide credentials"),
    (404, "the server could not find the requested resource"),
    (429, "the server has received too many requests and has asked us to try again later"),
    (503, "the server is currently unable to handle the request"),
];

/// What the client says the reason is when an answer is no Status.
const NOT_A_STATUS: &str = "Failed to parse error data";

fn unread(api: &str, why: &str) -> Error {
    Error::Invalid(format!("unable to fetch metrics from {api} metrics API: {why}"))
}

fn not_empty<T>(list: List<T>, api: &str) -> Result<Vec<T>> {
    match list.items.is_empty() {
        true => Err(Error::Invalid(format!("no metrics returned from {api} metrics API"))),
        false => Ok(list.items),
    }
}

async fn get<T: serde::de::DeserializeOwned>(
    ctx: &Ctx,
    path: &str,
    query: &[(&str, &str)],
    asked: &Asked<'_>,
) -> Result<T> {
    let given = query.iter().filter(|(_, value)| !value.is_empty());
    let query: Vec<String> =
        given.map(|(key, value)| format!("{key}={}", escaped(value))).collect();
    let uri =
        if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) };
    let request = http::Request::get(uri).body(Vec::new());
    let request = request.map_err(|error| unread(asked.api, &error.to_string()))?;
    let answer = ctx.client.request::<T>(request).await;
    answer.map_err(|error| unread(asked.api, &reason(error, asked.what)))
}

fn reason(error: kube::Error, what: &str) -> String {
    let kube::Error::Api(status) = error else { return error.to_string() };
    // No Status, but a text of whoever stood in the way.
    let is_silent = status.reason == NOT_A_STATUS;
    let silent = SILENT.iter().find(|(code, _)| *code == status.code && is_silent);
    silent.map_or_else(|| status.message.clone(), |(_, text)| format!("{text} (get {what})"))
}

/// As it may stand in a query.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escape = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn the_preferred_version_is_taken_if_it_is_understood() {
        let group = |preferred: &str, served: &str| {
            let text =
                format!("{{preferredVersion: {{version: {preferred}}}, versions: [{served}]}}");
            chosen(&yaml(&text))
        };
        assert_eq!(group("v1beta1", "{version: v1beta1}, {version: v1beta2}"), Some("v1beta1"));
        assert_eq!(group("v9", "{version: v9}, {version: v1beta2}"), Some("v1beta2"));
        assert_eq!(group("v9", "{version: v9}"), None);
    }
}
