//! HorizontalPodAutoscaler between v2 and v1, which has fields for one metric and carries the rest
//! in annotations, spelt as v1 once had them.
//!
//! Object of one version -> object of the other, in place. Counterpart:
//! `pkg/apis/autoscaling/v1/conversion.go`. Invariant: what v2 says survives the way to v1 and back.

use serde_json::{Value, json};

use crate::internal::printed;
use crate::kinds::fill::{Object, int, made, made_at, object_at, set, text};
use crate::meta::meta_mut;

pub const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
/// Every annotation that stands for fields of v2.
pub const CARRIERS: &[&str] = &[METRICS, CURRENT_METRICS, CONDITIONS, BEHAVIOR];
/// The utilisation aimed at where nothing is said.
pub const UTILIZATION: i64 = 80;

pub fn cpu_metric(utilization: i64) -> Value {
    json!({
        "type": "Resource",
        "resource": {
            "name": "cpu",
            "target": { "type": "Utilization", "averageUtilization": utilization },
        },
    })
}

// === how v1 spells metrics ===

/// What of a field is written where v2 has none.
#[derive(Clone, Copy)]
enum Absent {
    LeftOut,
    /// A quantity that v1 cannot leave out.
    Zero,
    EmptyText,
}

use Absent::{EmptyText, LeftOut, Zero};

/// A field of v1, where v2 has it, and what stands for nothing. In the order v1 writes them.
type Spelling = (&'static str, &'static str, Absent);

/// Type of metric, its field in both versions, and the fields in that.
type Kind = (&'static str, &'static str, &'static [Spelling]);

const SOURCES: &[Kind] = &[
    (
        "Object",
        "object",
        &[
            ("target", "/describedObject", LeftOut),
            ("metricName", "/metric/name", EmptyText),
            ("targetValue", "/target/value", Zero),
            ("selector", "/metric/selector", LeftOut),
            ("averageValue", "/target/averageValue", LeftOut),
        ],
    ),
    (
        "Pods",
        "pods",
        &[
            ("metricName", "/metric/name", EmptyText),
            ("targetAverageValue", "/target/averageValue", Zero),
            ("selector", "/metric/selector", LeftOut),
        ],
    ),
    (
        "Resource",
        "resource",
        &[
            ("name", "/name", EmptyText),
            ("targetAverageUtilization", "/target/averageUtilization", LeftOut),
            ("targetAverageValue", "/target/averageValue", LeftOut),
        ],
    ),
    (
        "ContainerResource",
        "containerResource",
        &[
            ("name", "/name", EmptyText),
            ("targetAverageUtilization", "/target/averageUtilization", LeftOut),
            ("targetAverageValue", "/target/averageValue", LeftOut),
            ("container", "/container", EmptyText),
        ],
    ),
    (
        "External",
        "external",
        &[
            ("metricName", "/metric/name", EmptyText),
            ("metricSelector", "/metric/selector", LeftOut),
            ("targetValue", "/target/value", LeftOut),
            ("targetAverageValue", "/target/averageValue", LeftOut),
        ],
    ),
];

const STATUSES: &[Kind] = &[
    (
        "Object",
        "object",
        &[
            ("target", "/describedObject", LeftOut),
            ("metricName", "/metric/name", EmptyText),
            ("currentValue", "/current/value", Zero),
            ("selector", "/metric/selector", LeftOut),
            ("averageValue", "/current/averageValue", LeftOut),
        ],
    ),
    (
        "Pods",
        "pods",
        &[
            ("metricName", "/metric/name", EmptyText),
            ("currentAverageValue", "/current/averageValue", Zero),
            ("selector", "/metric/selector", LeftOut),
        ],
    ),
    (
        "Resource",
        "resource",
        &[
            ("name", "/name", EmptyText),
            ("currentAverageUtilization", "/current/averageUtilization", LeftOut),
            ("currentAverageValue", "/current/averageValue", Zero),
        ],
    ),
    (
        "ContainerResource",
        "containerResource",
        &[
            ("name", "/name", EmptyText),
            ("currentAverageUtilization", "/current/averageUtilization", LeftOut),
            ("currentAverageValue", "/current/averageValue", Zero),
            ("container", "/container", EmptyText),
        ],
    ),
    (
        "External",
        "external",
        &[
            ("metricName", "/metric/name", EmptyText),
            ("metricSelector", "/metric/selector", LeftOut),
            ("currentValue", "/current/value", Zero),
            ("currentAverageValue", "/current/averageValue", LeftOut),
        ],
    ),
];

/// Metrics as v1's JSON, whose order is Go's.
fn spelt(metrics: &[Value], kinds: &[Kind]) -> String {
    let metrics: Vec<String> = metrics.iter().map(|metric| spelt_metric(metric, kinds)).collect();
    format!("[{}]", metrics.join(","))
}

fn spelt_metric(metric: &Value, kinds: &[Kind]) -> String {
    let mut members = vec![format!("\"type\":{}", json!(text(metric, "/type")))];
    for (_, field, spelling) in kinds {
        let Some(of) = metric.get(field) else { continue };
        let inside = spelling.iter().filter_map(|(name, place, absent)| {
            let value = of.pointer(place).filter(|value| !value.is_null());
            let shown = match (value, absent) {
                (Some(value), _) if place.ends_with("selector") => {
                    printed("meta.LabelSelector", value)
                }
                (Some(value), _) if *place == "/describedObject" => reference(value),
                (Some(value), _) => value.to_string(),
                (None, LeftOut) => return None,
                (None, Zero) => "\"0\"".to_owned(),
                (None, EmptyText) => "\"\"".to_owned(),
            };
            Some(format!("{name:?}:{shown}"))
        });
        let inside: Vec<String> = inside.collect();
        members.push(format!("{field:?}:{{{}}}", inside.join(",")));
    }
    format!("{{{}}}", members.join(","))
}

fn reference(to: &Value) -> String {
    let (kind, name) = (json!(text(to, "/kind")), json!(text(to, "/name")));
    match text(to, "/apiVersion") {
        "" => format!("{{\"kind\":{kind},\"name\":{name}}}"),
        version => format!("{{\"kind\":{kind},\"name\":{name},\"apiVersion\":{version:?}}}"),
    }
}

/// Metrics from v1's JSON; `None` if it is none.
fn read(text: &str, kinds: &[Kind]) -> Option<Vec<Value>> {
    let metrics: Vec<Value> = serde_json::from_str(text).ok()?;
    Some(metrics.iter().map(|metric| read_metric(metric, kinds)).collect())
}

fn read_metric(metric: &Value, kinds: &[Kind]) -> Value {
    let mut read = json!({"type": text(metric, "/type")});
    for (_, field, spelling) in kinds {
        let Some(of) = metric.get(field) else { continue };
        read[*field] = json!({});
        for (name, place, _) in *spelling {
            let Some(value) = of.get(name).filter(|value| !value.is_null()) else { continue };
            let (above, last) = place.rsplit_once('/').unwrap_or_default();
            if let Some(inside) = made_at(&mut read[*field], above) {
                inside.insert(last.to_owned(), value.clone());
            }
        }
    }
    read
}

/// v1 says what a metric aims at by the fields it sets alone.
fn name_target(metric: &mut Value) {
    for (of, field, _) in SOURCES {
        let Some(target) =
            object_at(metric, &format!("/{field}")).and_then(|of| made(of, "target"))
        else {
            continue;
        };
        let by_average = target.contains_key("averageValue");
        let by_utilization = target.contains_key("averageUtilization");
        let kind = match *of {
            "Resource" | "ContainerResource" if by_utilization => "Utilization",
            "Object" if !by_average => "Value",
            "External" if target.contains_key("value") => "Value",
            _ => "AverageValue",
        };
        target.insert("type".to_owned(), kind.into());
        // v1 cannot leave this one out, so that zero is nothing.
        if *of == "Object" && by_average && target.get("value") == Some(&json!("0")) {
            target.remove("value");
        }
    }
}

// === to v1 ===

fn is_cpu(metric: &Value) -> bool {
    text(metric, "/type") == "Resource" && text(metric, "/resource/name") == "cpu"
}

fn taken(object: Option<&mut Object>, field: &str) -> Vec<Value> {
    let list = object.and_then(|object| object.remove(field));
    list.and_then(|list| list.as_array().cloned()).unwrap_or_default()
}

pub fn to_v1(hpa: &mut Value) {
    let mut carried: Vec<(&str, String)> = Vec::new();
    let utilization = |metric: &Value| {
        int(metric, "/resource/target/averageUtilization").filter(|_| is_cpu(metric))
    };
    let metrics = taken(object_at(hpa, "/spec"), "metrics");
    let others: Vec<Value> =
        metrics.iter().filter(|metric| utilization(metric).is_none()).cloned().collect();
    if !others.is_empty() {
        carried.push((METRICS, spelt(&others, SOURCES)));
    }
    if let Some(spec) = object_at(hpa, "/spec") {
        if let Some(utilization) = metrics.iter().find_map(utilization) {
            spec.insert("targetCPUUtilizationPercentage".into(), utilization.into());
        }
        if let Some(behavior) = spec.remove("behavior") {
            let behavior = printed("autoscaling.HorizontalPodAutoscalerBehavior", &behavior);
            carried.push((BEHAVIOR, behavior));
        }
    }
    let current = taken(object_at(hpa, "/status"), "currentMetrics");
    if !current.is_empty() {
        carried.push((CURRENT_METRICS, spelt(&current, STATUSES)));
    }
    let conditions = taken(object_at(hpa, "/status"), "conditions");
    if !conditions.is_empty() {
        let conditions: Vec<String> = conditions.iter().map(spelt_condition).collect();
        carried.push((CONDITIONS, format!("[{}]", conditions.join(","))));
    }
    if let Some(status) = object_at(hpa, "/status") {
        let used = "/resource/current/averageUtilization";
        let cpu = current.iter().rev().filter(|metric| is_cpu(metric));
        if let Some(utilization) = cpu.filter_map(|metric| int(metric, used)).next() {
            status.insert("currentCPUUtilizationPercentage".into(), utilization.into());
        }
        set(status, "currentReplicas", 0);
    }
    carry(hpa, carried);
}

/// In v1's order, what is empty left out but the time.
fn spelt_condition(condition: &Value) -> String {
    let member = |name: &str| condition.get(name).map(|value| format!("{name:?}:{value}"));
    let time = condition.get("lastTransitionTime").unwrap_or(&Value::Null);
    let members = [
        member("type"),
        member("status"),
        Some(format!("\"lastTransitionTime\":{time}")),
        member("reason"),
        member("message"),
    ];
    format!("{{{}}}", members.into_iter().flatten().collect::<Vec<_>>().join(","))
}

fn carry(hpa: &mut Value, carried: Vec<(&str, String)>) {
    if let Some(annotations) = object_at(hpa, "/metadata/annotations") {
        annotations.retain(|key, _| !CARRIERS.contains(&key.as_str()));
    }
    if carried.is_empty() {
        return;
    }
    if let Some(annotations) = meta_mut(hpa).and_then(|meta| made(meta, "annotations")) {
        annotations.extend(carried.into_iter().map(|(key, value)| (key.to_owned(), value.into())));
    }
}

// === to v2 ===

pub fn to_v2(hpa: &mut Value) {
    let mut metrics =
        unloaded(hpa, METRICS).and_then(|text| read(&text, SOURCES)).unwrap_or_default();
    metrics.iter_mut().for_each(name_target);
    let current = unloaded(hpa, CURRENT_METRICS).and_then(|text| read(&text, STATUSES));
    let behavior = unloaded(hpa, BEHAVIOR).and_then(|text| serde_json::from_str(&text).ok());
    let conditions: Option<Value> =
        unloaded(hpa, CONDITIONS).and_then(|text| serde_json::from_str(&text).ok());
    if let Some(spec) = object_at(hpa, "/spec") {
        let cpu = spec.remove("targetCPUUtilizationPercentage");
        metrics.extend(cpu.as_ref().and_then(Value::as_i64).map(cpu_metric));
        if !metrics.is_empty() {
            spec.insert("metrics".into(), metrics.into());
        }
        if let Some(behavior) = behavior.map(uncapitalized).filter(|found| *found != json!({})) {
            spec.insert("behavior".into(), behavior);
        }
    }
    if let Some(status) = object_at(hpa, "/status") {
        let cpu = status.remove("currentCPUUtilizationPercentage");
        let cpu = cpu.filter(|cpu| !cpu.is_null()).map(|cpu| {
            let current = json!({"averageUtilization": cpu});
            vec![json!({"type": "Resource", "resource": {"name": "cpu", "current": current}})]
        });
        let current = current.or(cpu).map_or(Value::Null, Value::from);
        status.insert("currentMetrics".into(), current);
        if let Some(conditions) = conditions {
            status.insert("conditions".into(), conditions);
        }
    }
}

fn unloaded(hpa: &mut Value, key: &str) -> Option<String> {
    let annotations = object_at(hpa, "/metadata/annotations")?;
    let text = annotations.remove(key)?;
    if annotations.is_empty() {
        meta_mut(hpa)?.remove("annotations");
    }
    Some(text.as_str()?.to_owned())
}

/// The behaviour is carried under Go's names.
fn uncapitalized(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let small = |name: String| {
                let (first, rest) = name.split_at(name.len().min(1));
                first.to_lowercase() + rest
            };
            let members = members.into_iter().filter(|(_, value)| !value.is_null());
            members.map(|(name, value)| (small(name), uncapitalized(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(uncapitalized).collect(),
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(v2: &Value) -> (Value, Value) {
        let mut v1 = v2.clone();
        to_v1(&mut v1);
        let mut back = v1.clone();
        to_v2(&mut back);
        (v1, back)
    }

    #[test]
    fn the_older_version_carries_what_it_has_no_fields_for() {
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "Exists"}]});
        let pods = json!({"type": "Pods", "pods": {"metric": {"name": "q", "selector": selector}, "target": {"type": "AverageValue", "averageValue": "10"}}});
        let object = json!({"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "r"}, "target": {"type": "Value", "value": "5"}}});
        let v2 = json!({
            "metadata": {"name": "h"},
            "spec": {
                "maxReplicas": 3,
                "metrics": [pods, object, cpu_metric(70)],
                "behavior": {"scaleUp": {"selectPolicy": "Max", "policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}]}},
            },
            "status": {"currentReplicas": 1, "currentMetrics": null},
        });
        let (v1, back) = there_and_back(&v2);
        assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"], 70);
        assert_eq!(
            v1["metadata"]["annotations"][METRICS],
            r#"[{"type":"Pods","pods":{"metricName":"q","targetAverageValue":"10","selector":{"matchLabels":{"a":"b"},"matchExpressions":[{"key":"k","operator":"Exists"}]}}},{"type":"Object","object":{"target":{"kind":"Service","name":"s"},"metricName":"r","targetValue":"5"}}]"#
        );
        assert_eq!(
            v1["metadata"]["annotations"][BEHAVIOR],
            r#"{"ScaleUp":{"StabilizationWindowSeconds":null,"SelectPolicy":"Max","Policies":[{"Type":"Pods","Value":4,"PeriodSeconds":60}],"Tolerance":null},"ScaleDown":null}"#
        );
        assert_eq!(back, v2);
    }

    #[test]
    fn usage_and_conditions_are_carried_with_their_raw_values() {
        let mut v1 = json!({"status": {"currentCPUUtilizationPercentage": 30}});
        to_v2(&mut v1);
        v1["status"]["conditions"] = json!([{"type": "A", "status": "True", "reason": "R"}]);
        let (v1, _) = there_and_back(&v1);
        assert_eq!(v1["status"]["currentCPUUtilizationPercentage"], 30);
        assert_eq!(
            v1["metadata"]["annotations"][CURRENT_METRICS],
            r#"[{"type":"Resource","resource":{"name":"cpu","currentAverageUtilization":30,"currentAverageValue":"0"}}]"#
        );
        assert_eq!(
            v1["metadata"]["annotations"][CONDITIONS],
            r#"[{"type":"A","status":"True","lastTransitionTime":null,"reason":"R"}]"#
        );
    }
}
