//! What each metric of an autoscaler asks for.
//!
//! A metric's specification and its target's pods -> the size it asks for and its current value, or why it cannot be told.
//! Counterpart: `computeReplicasForMetric` and its kin. Invariant: one metric that fails does not hide the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricStatus, HorizontalPodAutoscalerSpec,
    MetricIdentifier, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus,
    ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use skiff_api::quantity;
use skiff_api::selector::Labels;

use super::measure::{self, milli};
use super::ratio::{self, Answer, Goal, Samples, Tolerance};
use crate::runtime::{Ctx, Key};

pub struct Evaluation {
    pub proposals: Vec<Proposal>,
    pub failures: Vec<Failure>,
    /// One for each metric in the order of the specification, which is how readers tell them apart; empty where one failed.
    pub statuses: Vec<MetricStatus>,
    pub total: usize,
}

pub struct Proposal {
    pub replicas: i32,
    /// As messages name it.
    pub metric: String,
}

#[derive(Debug, PartialEq)]
pub struct Failure {
    pub reason: &'static str,
    pub message: String,
    /// The message with what was tried before it.
    pub context: String,
}

/// What every metric of one look is judged by.
struct Judge<'a> {
    ctx: &'a Ctx,
    namespace: &'a str,
    selector: String,
    pods: Vec<Arc<Pod>>,
    tolerance: Tolerance,
    /// The size asked for, and the size there is.
    current: i32,
    present: i32,
    now: Timestamp,
}

type Told = Result<(Proposal, MetricStatus), Why>;

/// Why a metric could not be told.
struct Why {
    message: String,
    /// What was being done, where errors name it and conditions do not.
    doing: Option<String>,
}

pub async fn evaluate(
    ctx: &Ctx,
    key: &Key,
    spec: &HorizontalPodAutoscalerSpec,
    scale: &Scale,
    now: Timestamp,
) -> Evaluation {
    let metrics = spec.metrics.as_deref().unwrap_or_default();
    let total = metrics.len();
    let judge = match Judge::new(ctx, key, spec, scale, now) {
        Ok(judge) => judge,
        Err(message) => {
            let context = message.clone();
            let failures = vec![Failure { reason: "InvalidSelector", message, context }];
            let (proposals, statuses) = (Vec::new(), Vec::new());
            return Evaluation { proposals, failures, statuses, total };
        }
    };
    let (mut proposals, mut failures, mut statuses) = (Vec::new(), Vec::new(), Vec::new());
    for metric in metrics {
        let told = judge.metric(metric).await;
        statuses.push(told.as_ref().map_or_else(|_| MetricStatus::default(), |it| it.1.clone()));
        match told {
            Ok((proposal, _)) => proposals.push(proposal),
            Err(failure) => failures.push(failure),
        }
    }
    Evaluation { proposals, failures, statuses, total }
}

// === impl Why ===

impl From<String> for Why {
    fn from(message: String) -> Why {
        Why { message, doing: None }
    }
}

impl From<&str> for Why {
    fn from(message: &str) -> Why {
        message.to_owned().into()
    }
}

impl Why {
    fn doing(self, what: String) -> Why {
        Why { doing: Some(what), ..self }
    }
}

// === impl Judge ===

impl<'a> Judge<'a> {
    fn new(
        ctx: &'a Ctx,
        key: &'a Key,
        spec: &HorizontalPodAutoscalerSpec,
        scale: &Scale,
        now: Timestamp,
    ) -> Result<Judge<'a>, String> {
        let status = scale.status.as_ref();
        let selector = status.and_then(|status| status.selector.clone()).unwrap_or_default();
        if selector.is_empty() {
            return Err("selector is required".into());
        }
        let labels = Labels::parse(&selector).map_err(|fault| {
            format!(
                "couldn't convert selector into a corresponding internal selector object: {}",
                fault.message
            )
        })?;
        let mut pods = ctx.lister::<Pod>().in_namespace(&key.namespace);
        pods.retain(|pod| {
            let own = pod.metadata.labels.as_ref();
            labels.matches_by(|label| own.and_then(|own| own.get(label)).map(String::as_str))
        });
        Ok(Judge {
            ctx,
            namespace: &key.namespace,
            selector,
            pods,
            tolerance: Tolerance::of(spec),
            current: scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0),
            present: status.map_or(0, |status| status.replicas),
            now,
        })
    }

    async fn metric(&self, spec: &MetricSpec) -> Result<(Proposal, MetricStatus), Failure> {
        let (reason, tried, told) = match spec.type_.as_str() {
            "Resource" => {
                let name = spec.resource.as_ref().map(|one| one.name.clone()).unwrap_or_default();
                let tried = format!("failed to get {name} resource metric value");
                ("FailedGetResourceMetric", tried, self.resource(spec).await)
            }
            "ContainerResource" => {
                let container = spec.container_resource.as_ref();
                let name = container.map(|one| one.container.clone()).unwrap_or_default();
                let tried = format!("failed to get {name} container metric value");
                ("FailedGetContainerResourceMetric", tried, self.resource(spec).await)
            }
            "Pods" => {
                let tried = "failed to get pods metric value".to_owned();
                ("FailedGetPodsMetric", tried, self.of_pods(spec).await)
            }
            "Object" => {
                let tried = "failed to get object metric value".to_owned();
                ("FailedGetObjectMetric", tried, self.object(spec).await)
            }
            "External" => {
                let name = spec.external.as_ref().map(|one| one.metric.name.clone());
                let tried =
                    format!("failed to get {} external metric value", name.unwrap_or_default());
                ("FailedGetExternalMetric", tried, self.external(spec).await)
            }
            other => {
                let message = format!("unknown metric source type {other:?}");
                ("InvalidMetricSourceType", String::new(), Err(message.into()))
            }
        };
        told.map_err(|Why { message, doing }| {
            let steps = [Some(tried).filter(|tried| !tried.is_empty()), doing];
            let steps = steps.into_iter().flatten().chain([message.clone()]);
            Failure { reason, message, context: steps.collect::<Vec<_>>().join(": ") }
        })
    }

    /// CPU or memory, of whole pods or of one container in each.
    async fn resource(&self, spec: &MetricSpec) -> Told {
        let (name, container, target) = match (&spec.resource, &spec.container_resource) {
            (Some(one), _) => (&one.name, None, &one.target),
            (None, Some(one)) => (&one.name, Some(one.container.as_str()), &one.target),
            (None, None) => return Err("the metric names no resource".into()),
        };
        let place = if container.is_some() { "container resource" } else { "resource" };
        let told = async {
            let samples =
                measure::of_resource(self.ctx, self.namespace, &self.selector, name, container);
            let samples = samples.await.map_err(|error| {
                format!("unable to get metrics for resource {name}: {}", error.message())
            })?;
            let requests;
            let goal = match (target.average_value.as_ref().and_then(milli), target.average_utilization) {
                (Some(average), _) => Goal::Average(average),
                (None, Some(percent)) => {
                    requests = requests_of(&self.pods, name, container)?;
                    Goal::Utilization { percent, requests: &requests }
                }
                (None, None) => return Err("invalid resource metric source: neither an average utilization nor an average value target was set".to_owned()),
            };
            self.answer(samples, goal, name == "cpu")
        };
        let asked = if target.average_value.is_some() { "usage" } else { "utilization" };
        let answer: Answer =
            told.await.map_err(|why: String| format!("failed to get {name} {asked}: {why}"))?;
        let current = MetricValueStatus {
            average_utilization: answer.utilization,
            average_value: Some(quantity(answer.average)),
            value: None,
        };
        let metric = match answer.utilization {
            Some(_) => format!("{name} {place} utilization (percentage of request)"),
            None => format!("{name} {place}"),
        };
        let mut status = MetricStatus { type_: spec.type_.clone(), ..MetricStatus::default() };
        match container {
            None => status.resource = Some(ResourceMetricStatus { current, name: name.clone() }),
            Some(container) => {
                let container = container.to_owned();
                let one = ContainerResourceMetricStatus { container, current, name: name.clone() };
                status.container_resource = Some(one);
            }
        }
        Ok((Proposal { replicas: answer.replicas, metric }, status))
    }

    async fn of_pods(&self, spec: &MetricSpec) -> Told {
        let source = spec.pods.as_ref().ok_or("the metric names no metric of pods")?;
        let name = &source.metric.name;
        let samples = measure::of_pods(self.ctx, self.namespace, &self.selector, &source.metric);
        let samples = samples
            .await
            .map_err(|error| format!("unable to get metric {name}: {}", error.message()))?;
        let average = source.target.average_value.as_ref().and_then(milli).unwrap_or(0);
        let answer = self.answer(samples, Goal::Average(average), false)?;
        let current = value_status(None, Some(answer.average));
        let pods = PodsMetricStatus { current, metric: source.metric.clone() };
        let metric = format!("pods metric {name}");
        let status = MetricStatus { type_: "Pods".into(), pods: Some(pods), ..Default::default() };
        Ok((Proposal { replicas: answer.replicas, metric }, status))
    }

    async fn object(&self, spec: &MetricSpec) -> Told {
        let source = spec.object.as_ref().ok_or("the metric names no object")?;
        let (object, name) = (&source.described_object, &source.metric.name);
        let used = measure::of_object(self.ctx, self.namespace, object, &source.metric);
        let is_shared = source.target.average_value.is_some();
        let used = used.await.map_err(|error| {
            let place = format!("{} {}/{}", object.kind, self.namespace, object.name);
            let why: Why =
                format!("unable to get metric {name}: {} on {place}", error.message()).into();
            match is_shared {
                true => why.doing(format!("failed to get {name} object metric")),
                false => why,
            }
        })?;
        let (replicas, current) = self.shared(used, &source.target);
        // Upstream calls it external, too.
        let metric = match is_shared {
            true => external_name(&source.metric),
            false => format!("{} metric {name}", object.kind),
        };
        let described_object = object.clone();
        let status =
            ObjectMetricStatus { current, described_object, metric: source.metric.clone() };
        let status =
            MetricStatus { type_: "Object".into(), object: Some(status), ..Default::default() };
        Ok((Proposal { replicas, metric }, status))
    }

    async fn external(&self, spec: &MetricSpec) -> Told {
        let source = spec.external.as_ref().ok_or("the metric names no external metric")?;
        let name = &source.metric.name;
        let used = measure::of_the_world(self.ctx, self.namespace, &source.metric).await;
        let used = used.map_err(|error| {
            let selector = shown(source.metric.selector.as_ref());
            let place = format!("{}/{name}/{selector}", self.namespace);
            let why = format!("unable to get external metric {place}: {}", error.message());
            Why::from(why).doing(match source.target.average_value {
                Some(_) => format!("failed to get {name} external metric"),
                None => format!("failed to get external metric {name}"),
            })
        })?;
        let (replicas, current) = self.shared(used, &source.target);
        let status = ExternalMetricStatus { current, metric: source.metric.clone() };
        let status =
            MetricStatus { type_: "External".into(), external: Some(status), ..Default::default() };
        Ok((Proposal { replicas, metric: external_name(&source.metric) }, status))
    }

    fn answer(&self, samples: Samples, goal: Goal, is_cpu: bool) -> Result<Answer, String> {
        if self.pods.is_empty() {
            return Err("no pods returned by selector while calculating replica count".into());
        }
        let when = (is_cpu, self.now);
        ratio::answer(&self.pods, samples, goal, self.current, self.tolerance, when)
    }

    /// A value that all pods answer for together, as a whole or each for its part.
    fn shared(&self, used: i64, target: &MetricTarget) -> (i32, MetricValueStatus) {
        if let Some(average) = target.average_value.as_ref().and_then(milli) {
            let present = f64::from(self.present);
            let ratio = used as f64 / (average as f64 * present);
            let replicas = match self.tolerance.covers(ratio) {
                true => self.present,
                false => (used as f64 / average as f64).ceil() as i32,
            };
            let each = (used as f64 / present).ceil() as i64;
            return (replicas, value_status(None, Some(each)));
        }
        let whole = target.value.as_ref().and_then(milli).unwrap_or(0);
        let ratio = used as f64 / whole as f64;
        let replicas = ratio::by_ratio(ratio, self.current, &self.pods, self.tolerance);
        (replicas, value_status(Some(used), None))
    }
}

fn external_name(metric: &MetricIdentifier) -> String {
    format!("external metric {}({})", metric.name, shown(metric.selector.as_ref()))
}

/// A selector as Go prints one, for messages that people search for.
fn shown(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let labels = selector.match_labels.iter().flatten();
    let labels: String = labels.map(|(key, value)| format!("{key}: {value},")).collect();
    let rules = selector.match_expressions.iter().flatten().map(|rule| {
        let values = rule.values.as_deref().unwrap_or_default().join(" ");
        let LabelSelectorRequirement { key, operator, .. } = rule;
        format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{values}],}},")
    });
    let rules: String = rules.collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{rules}}},}}"
    )
}

fn value_status(value: Option<i64>, average: Option<i64>) -> MetricValueStatus {
    MetricValueStatus {
        average_utilization: None,
        average_value: average.map(quantity),
        value: value.map(quantity),
    }
}

fn quantity(milli: i64) -> Quantity {
    Quantity(quantity::Quantity::from_milli(milli).to_string())
}

/// What each pod requests of a resource, in thousandths. A container that requests nothing has no utilization.
fn requests_of(
    pods: &[Arc<Pod>],
    resource: &str,
    container: Option<&str>,
) -> Result<BTreeMap<String, i64>, String> {
    let mut requests = BTreeMap::new();
    for pod in pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let mut meant = lasting(pod)
            .filter(|one| container.is_none_or(|container| one.name == container))
            .peekable();
        if let Some(container) = container.filter(|_| meant.peek().is_none()) {
            return Err(format!("container {container} not found in Pod {name}"));
        }
        let sum = meant.map(|one| {
            let requested = one.resources.as_ref().and_then(|all| all.requests.as_ref());
            let requested = requested.and_then(|all| all.get(resource)).and_then(milli);
            requested.ok_or_else(|| {
                format!("missing request for {resource} in container {} of Pod {name}", one.name)
            })
        });
        let sum = sum.sum::<Result<i64, String>>()?;
        requests.insert(name, sum);
    }
    Ok(requests)
}

/// Containers that run as long as the pod does.
fn lasting(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| {
        let sidecars = spec.init_containers.iter().flatten();
        let sidecars = sidecars.filter(|one| one.restart_policy.as_deref() == Some("Always"));
        spec.containers.iter().chain(sidecars)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn selectors_are_shown_as_go_prints_them() {
        assert_eq!(shown(None), "nil");
        let selector: LabelSelector = yaml(
            "{matchLabels: {a: b, c: d}, matchExpressions: [{key: k, operator: In, values: [x, y]}]}",
        );
        assert_eq!(
            shown(Some(&selector)),
            "&LabelSelector{MatchLabels:map[string]string{a: b,c: d,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:k,Operator:In,Values:[x y],},},}"
        );
    }

    #[test]
    fn requests_are_those_of_containers_that_last() {
        let pod: Arc<Pod> = Arc::new(yaml(
            "{metadata: {name: p}, spec: {containers: [
               {name: a, resources: {requests: {cpu: 100m, memory: 1Ki}}}, {name: b, resources: {requests: {cpu: '1'}}}],
               initContainers: [{name: once}, {name: side, restartPolicy: Always, resources: {requests: {cpu: 50m}}}]}}",
        ));
        let of = |resource: &str, container| {
            requests_of(std::slice::from_ref(&pod), resource, container)
        };
        assert_eq!(of("cpu", None).unwrap()["p"], 1150);
        assert_eq!(of("cpu", Some("b")).unwrap()["p"], 1000);
        assert_eq!(
            of("memory", None).unwrap_err(),
            "missing request for memory in container b of Pod p"
        );
        assert_eq!(of("cpu", Some("c")).unwrap_err(), "container c not found in Pod p");
    }
}
