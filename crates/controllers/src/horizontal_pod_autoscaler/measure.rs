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
    let list: List<PodMetrics> = get(ctx, &path, &[("labelSelector", pods)], "resource").await?;
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
    let list: List<MetricValue> = get(ctx, &path, &query, "custom").await?;
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
    let path = if object.kind == "Namespace" && api_version == "v1" {
        format!("{root}/metrics/{name}")
    } else {
        let described = Target { api_version, kind: &object.kind, namespace, name: &object.name };
        let plural = described.resource(ctx).await?.plural;
        format!("{root}/{}/{}/{name}", described.group_resource(&plural), object.name)
    };
    let selector = text(metric)?;
    let list: List<MetricValue> =
        get(ctx, &path, &[("metricLabelSelector", &selector)], "custom").await?;
    let first = not_empty(list, "custom")?.into_iter().next();
    Ok(first.and_then(|metric| milli(&metric.value)).unwrap_or(0))
}

/// The sum of an external metric's series.
pub async fn of_the_world(ctx: &Ctx, namespace: &str, metric: &MetricIdentifier) -> Result<i64> {
    let name = &metric.name;
    let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{name}");
    let selector = text(metric)?;
    let list: List<MetricValue> =
        get(ctx, &path, &[("labelSelector", &selector)], "external").await?;
    Ok(not_empty(list, "external")?.iter().filter_map(|metric| milli(&metric.value)).sum())
}

pub fn milli(quantity: &Quantity) -> Option<i64> {
    quantity.0.parse::<quantity::Quantity>().ok().map(quantity::Quantity::milli)
}

/// The version that the server of custom metrics prefers.
async fn custom_version(ctx: &Ctx) -> Result<String> {
    let group: Value = get(ctx, &format!("/apis/{CUSTOM}"), &[], "custom").await?;
    let preferred = group["preferredVersion"]["version"].as_str();
    preferred.map(str::to_owned).ok_or_else(|| {
        Error::Invalid(
            "unable to fetch metrics from custom metrics API: no version is served".into(),
        )
    })
}

fn text(metric: &MetricIdentifier) -> Result<String> {
    let Some(selector) = metric.selector.clone() else { return Ok(String::new()) };
    let selector = Selector::try_from(selector)
        .map_err(|error| Error::Invalid(format!("invalid metric selector: {error}")))?;
    Ok(selector.to_string())
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
    api: &str,
) -> Result<T> {
    let given = query.iter().filter(|(_, value)| !value.is_empty());
    let query: Vec<String> =
        given.map(|(key, value)| format!("{key}={}", escaped(value))).collect();
    let uri =
        if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) };
    let unread = |why: String| {
        Error::Invalid(format!("unable to fetch metrics from {api} metrics API: {why}"))
    };
    let request =
        http::Request::get(uri).body(Vec::new()).map_err(|error| unread(error.to_string()))?;
    ctx.client.request::<T>(request).await.map_err(|error| match error {
        kube::Error::Api(status) => unread(status.message.clone()),
        other => unread(other.to_string()),
    })
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
