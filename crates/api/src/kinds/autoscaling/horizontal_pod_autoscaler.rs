//! HorizontalPodAutoscaler: stored as v2; v1 knows one metric and keeps the rest in annotations.
//!
//! Counterparts: `SetDefaults_HorizontalPodAutoscaler`, `ValidateHorizontalPodAutoscaler`,
//! `pkg/apis/autoscaling/v1/conversion.go`, `formatHPAMetrics`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{GroupVersion, KindDef, Strategy};
use crate::kinds::at::At;
use crate::kinds::fill::{Object, int, list, made, object, object_at, set, text};
use crate::kinds::resources::quantity;
use crate::kinds::selectors::validate_label_selector;
use crate::meta::{meta, meta_mut};
use crate::validation::path_segment;

pub struct HorizontalPodAutoscaler;

/// How v1 carries what it has no fields for.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
/// The utilisation aimed at where nothing is said.
const UTILIZATION: i64 = 80;

impl Strategy for HorizontalPodAutoscaler {
    fn default(&self, root: &mut Value) {
        let v1 = text(root, "/apiVersion") == "autoscaling/v1";
        let has_metrics = meta(root).annotation(METRICS).is_some();
        let Some(spec) = object_at(root, "/spec") else { return };
        set(spec, "minReplicas", 1);
        if v1 {
            if !has_metrics {
                set(spec, "targetCPUUtilizationPercentage", UTILIZATION);
            }
            return;
        }
        if spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            spec.insert("metrics".into(), json!([cpu_metric(UTILIZATION)]));
        }
        if let Some(behavior) = object(spec, "behavior") {
            default_behavior(behavior);
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = match object.pointer("/spec/targetCPUUtilizationPercentage") {
            Some(_) => json!({ "currentReplicas": 0, "desiredReplicas": 0 }),
            None => json!({ "desiredReplicas": 0, "currentMetrics": null }),
        };
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        validate_spec(&root.child("spec"), errors);
    }

    fn validate_status_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        let status = At::root(object);
        status.child("status").not_negative_each(errors, &["currentReplicas", "desiredReplicas"]);
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        let of = |field: &str| text(object, &format!("/spec/scaleTargetRef/{field}"));
        match column {
            "Reference" => format!("{}/{}", of("kind"), of("name")).into(),
            "Targets" => targets(object).into(),
            "MinPods" => match int(object, "/spec/minReplicas") {
                Some(least) => least.to_string().into(),
                None => "<unset>".into(),
            },
            "MaxPods" => int(object, "/spec/maxReplicas").unwrap_or(0).into(),
            "Replicas" => int(object, "/status/currentReplicas").unwrap_or(0).into(),
            _ => Value::Null,
        }
    }

    fn convert(&self, object: &mut Value, to: &GroupVersion) -> Result<(), String> {
        match to.version.as_str() {
            "v1" => to_v1(object),
            _ => to_v2(object),
        }
        object["apiVersion"] = to.to_string().into();
        Ok(())
    }
}

fn cpu_metric(utilization: i64) -> Value {
    json!({
        "type": "Resource",
        "resource": {
            "name": "cpu",
            "target": { "type": "Utilization", "averageUtilization": utilization },
        },
    })
}

/// Up at once by doubling or four Pods, down by whatever is too much.
fn default_behavior(behavior: &mut Object) {
    if let Some(up) = made(behavior, "scaleUp") {
        set(up, "stabilizationWindowSeconds", 0);
        set(up, "selectPolicy", "Max");
        let policies = json!([
            { "type": "Pods", "value": 4, "periodSeconds": 15 },
            { "type": "Percent", "value": 100, "periodSeconds": 15 },
        ]);
        set(up, "policies", policies);
    }
    if let Some(down) = made(behavior, "scaleDown") {
        set(down, "selectPolicy", "Max");
        set(down, "policies", json!([{ "type": "Percent", "value": 100, "periodSeconds": 15 }]));
    }
}

// === versions ===

fn is_cpu(metric: &Value) -> bool {
    text(metric, "/type") == "Resource" && text(metric, "/resource/name") == "cpu"
}

fn to_v1(hpa: &mut Value) {
    let mut carried: Vec<(&str, Value)> = Vec::new();
    if let Some(spec) = object_at(hpa, "/spec") {
        let metrics = spec.remove("metrics").unwrap_or_default();
        let metrics = metrics.as_array().cloned().unwrap_or_default();
        let target = "/resource/target/averageUtilization";
        let cpu = metrics.iter().find(|metric| is_cpu(metric) && int(metric, target).is_some());
        if let Some(utilization) = cpu.and_then(|metric| int(metric, target)) {
            spec.insert("targetCPUUtilizationPercentage".into(), utilization.into());
        }
        let rest: Vec<Value> =
            metrics.iter().filter(|metric| Some(*metric) != cpu).cloned().collect();
        if !rest.is_empty() {
            carried.push((METRICS, rest.into()));
        }
        if let Some(behavior) = spec.remove("behavior") {
            carried.push((BEHAVIOR, behavior));
        }
    }
    if let Some(status) = object_at(hpa, "/status") {
        let current = status.remove("currentMetrics").unwrap_or_default();
        let current = current.as_array().cloned().unwrap_or_default();
        let used = "/resource/current/averageUtilization";
        if let Some(utilization) =
            current.iter().find(|metric| is_cpu(metric)).and_then(|metric| int(metric, used))
        {
            status.insert("currentCPUUtilizationPercentage".into(), utilization.into());
        }
        if !current.is_empty() {
            carried.push((CURRENT_METRICS, current.into()));
        }
        if let Some(conditions) = status.remove("conditions") {
            carried.push((CONDITIONS, conditions));
        }
        set(status, "currentReplicas", 0);
    }
    if carried.is_empty() {
        return;
    }
    if let Some(annotations) = meta_mut(hpa).and_then(|meta| made(meta, "annotations")) {
        for (key, value) in carried {
            annotations.insert(key.into(), value.to_string().into());
        }
    }
}

fn to_v2(hpa: &mut Value) {
    let carried = |hpa: &mut Value, key: &str| -> Option<Value> {
        let annotations = object_at(hpa, "/metadata/annotations")?;
        let text = annotations.remove(key)?;
        if annotations.is_empty() {
            meta_mut(hpa)?.remove("annotations");
        }
        serde_json::from_str(text.as_str()?).ok()
    };
    let rest = carried(hpa, METRICS);
    let behavior = carried(hpa, BEHAVIOR);
    let current = carried(hpa, CURRENT_METRICS);
    let conditions = carried(hpa, CONDITIONS);
    if let Some(spec) = object_at(hpa, "/spec") {
        let mut metrics = rest.and_then(|rest| rest.as_array().cloned()).unwrap_or_default();
        if let Some(cpu) = spec.remove("targetCPUUtilizationPercentage").and_then(|v| v.as_i64()) {
            metrics.insert(0, cpu_metric(cpu));
        }
        if !metrics.is_empty() {
            spec.insert("metrics".into(), metrics.into());
        }
        if let Some(behavior) = behavior {
            spec.insert("behavior".into(), behavior);
        }
    }
    if let Some(status) = object_at(hpa, "/status") {
        status.remove("currentCPUUtilizationPercentage");
        status.insert("currentMetrics".into(), current.unwrap_or_default());
        if let Some(conditions) = conditions {
            status.insert("conditions".into(), conditions);
        }
    }
}

// === cells ===

/// `cpu: <unknown>/80%, 20/100 + 1 more...`
fn targets(hpa: &Value) -> String {
    if let Some(cpu) = int(hpa, "/spec/targetCPUUtilizationPercentage") {
        return format!("cpu: {}/{cpu}%", percent(hpa, "/status/currentCPUUtilizationPercentage"));
    }
    let metrics = list(hpa, "/spec/metrics");
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let current = list(hpa, "/status/currentMetrics");
    let shown: Vec<String> =
        metrics.iter().enumerate().map(|(at, metric)| target(metric, current.get(at))).collect();
    match shown.len() {
        1 | 2 => shown.join(", "),
        more => format!("{} + {} more...", shown[..2].join(", "), more - 2),
    }
}

fn percent(object: &Value, pointer: &str) -> String {
    int(object, pointer).map_or("<unknown>".to_owned(), |number| format!("{number}%"))
}

fn target(metric: &Value, current: Option<&Value>) -> String {
    let kind = text(metric, "/type");
    let field = match kind {
        "ContainerResource" => "containerResource".to_owned(),
        kind => kind.to_lowercase(),
    };
    let at = |part: &str, name: &str| format!("/{field}/{part}/{name}");
    let now = current.unwrap_or(&Value::Null);
    let amount = |name: &str| match text(now, &at("current", name)) {
        "" => "<unknown>".to_owned(),
        amount => amount.to_owned(),
    };
    let label = match kind {
        "Resource" | "ContainerResource" => {
            format!("{}: ", text(metric, &format!("/{field}/name")))
        }
        _ => String::new(),
    };
    let average = text(metric, &at("target", "averageValue"));
    if !average.is_empty() {
        let suffix = if matches!(kind, "External" | "Object") { " (avg)" } else { "" };
        return format!("{label}{}/{average}{suffix}", amount("averageValue"));
    }
    match int(metric, &at("target", "averageUtilization")) {
        Some(wanted) => {
            format!("{label}{}/{wanted}%", percent(now, &at("current", "averageUtilization")))
        }
        None if kind == "Resource" || kind == "ContainerResource" => {
            format!("{label}<unknown>/<auto>")
        }
        None => format!("{}/{}", amount("value"), text(metric, &at("target", "value"))),
    }
}

// === validation ===

const METRIC_TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
const WINDOW_MAX: i64 = 3600;
const PERIOD_MAX: i64 = 1800;

fn validate_spec(spec: &At, errors: &mut ErrorList) {
    let (least, most) = (spec.child("minReplicas"), spec.child("maxReplicas"));
    if least.is_set() && least.int() < 1 {
        least.invalid(errors, "must be greater than or equal to 1");
    }
    if most.int() < 1 {
        most.required(errors, "must be set and greater than 0");
    }
    if least.is_set() && most.int() < least.int() {
        most.invalid_as(errors, most.int(), "must be greater than or equal to `minReplicas`");
    }
    let target = spec.child("scaleTargetRef");
    target.child("kind").needed_and_obeys(errors, path_segment);
    target.child("name").needed_and_obeys(errors, path_segment);
    validate_metrics(&spec.child("metrics"), least.is_set() && least.int() == 0, errors);
    let behavior = spec.child("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        let rules = behavior.child(direction);
        if rules.is_set() {
            validate_rules(&rules, errors);
        }
    }
}

fn validate_metrics(metrics: &At, to_zero: bool, errors: &mut ErrorList) {
    metrics.items().for_each(|metric| validate_metric(&metric, errors));
    let from_outside = |metric: &Value| matches!(text(metric, "/type"), "Object" | "External");
    if to_zero && !metrics.list().iter().any(from_outside) {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        metrics.forbidden(errors, detail);
    }
}

/// The field that belongs to a type of metric.
const SOURCES: &[(&str, &str)] = &[
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("External", "external"),
    ("ContainerResource", "containerResource"),
];

fn validate_metric(metric: &At, errors: &mut ErrorList) {
    let of = metric.child("type");
    if of.is_empty() {
        of.required(errors, "must specify a metric source type");
    }
    let Some((_, wanted)) = SOURCES.iter().find(|(kind, _)| *kind == of.text()) else {
        of.not_supported(errors, METRIC_TYPES);
        return of.not_supported(errors, METRIC_TYPES);
    };
    if !metric.has(wanted) {
        let detail = "must populate information for the given metric source";
        return metric.child(wanted).required(errors, detail);
    }
    for (kind, field) in SOURCES.iter().filter(|(_, field)| metric.has(field)) {
        let source = metric.child(field);
        if field != wanted {
            let detail = "must populate the given metric source only";
            source.forbidden(errors, detail);
            continue;
        }
        validate_metric_source(kind, &source, errors);
    }
}

fn validate_metric_source(kind: &str, source: &At, errors: &mut ErrorList) {
    let identifier = source.child("metric");
    match kind {
        "Resource" | "ContainerResource" => {
            source.child("name").needed(errors);
            if kind == "ContainerResource" {
                source.child("container").needed(errors);
            }
        }
        _ => {
            if kind == "Object" {
                let object = source.child("describedObject");
                object.child("kind").needed_and_obeys(errors, path_segment);
                object.child("name").needed_and_obeys(errors, path_segment);
            }
            identifier.child("name").needed_and_obeys(errors, path_segment);
            validate_label_selector(&identifier.child("selector"), errors);
        }
    }
    let target = source.child("target");
    validate_target(&target, errors);
    target_of_kind(kind, &target, errors);
}

fn validate_target(target: &At, errors: &mut ErrorList) {
    let of = target.child("type");
    if of.is_empty() {
        of.required(errors, "must specify a metric target type");
    } else if !["Utilization", "Value", "AverageValue"].contains(&of.text()) {
        of.invalid(errors, "must be either Utilization, Value, or AverageValue");
    }
    for field in ["value", "averageValue"] {
        let amount = target.child(field);
        let number = quantity(amount.value);
        if let Some(number) = number.filter(|number| number.is_zero() || number.is_negative()) {
            amount.invalid_as(errors, number.to_string(), "must be positive");
        }
    }
    let utilization = target.child("averageUtilization");
    if utilization.is_set() && utilization.int() < 1 {
        utilization.invalid(errors, "must be greater than 0");
    }
}

fn target_of_kind(kind: &str, target: &At, errors: &mut ErrorList) {
    let (average, value) = (target.child("averageValue"), target.child("value"));
    let utilization = target.child("averageUtilization");
    match kind {
        "Resource" | "ContainerResource" => match (utilization.is_set(), average.is_set()) {
            (false, false) => {
                let detail = "must set either a target raw value or a target utilization";
                utilization.required(errors, detail);
            }
            (true, true) => {
                let detail = "may not set both a target raw value and a target utilization";
                average.forbidden(errors, detail);
            }
            _ => {}
        },
        "Pods" if !average.is_set() => {
            average.required(errors, "must specify a positive target averageValue");
        }
        "Object" if !average.is_set() && !value.is_set() => {
            average.required(errors, "must set either a target value or averageValue");
        }
        "External" => match (value.is_set(), average.is_set()) {
            (false, false) => {
                let detail = "must set either a target value for metric or a per-pod target";
                average.required(errors, detail);
            }
            (true, true) => {
                let detail = "may not set both a target value for metric and a per-pod target";
                value.forbidden(errors, detail);
            }
            _ => {}
        },
        _ => {}
    }
}

fn validate_rules(rules: &At, errors: &mut ErrorList) {
    let window = rules.child("stabilizationWindowSeconds");
    window.not_negative(errors);
    if window.int() > WINDOW_MAX {
        window.invalid(errors, format!("must be less than or equal to {WINDOW_MAX}"));
    }
    rules.child("selectPolicy").one_of_if_set(errors, &["Disabled", "Max", "Min"]);
    let policies = rules.child("policies");
    if policies.is_empty() {
        policies.required(errors, "must specify at least one Policy");
    }
    for policy in policies.items() {
        policy.child("type").one_of(errors, &["Percent", "Pods"]);
        policy.child("value").positive(errors);
        let period = policy.child("periodSeconds");
        period.positive(errors);
        if period.int() > PERIOD_MAX {
            period.invalid(errors, format!("must be less than or equal to {PERIOD_MAX}"));
        }
    }
    let tolerance = rules.child("tolerance");
    if quantity(tolerance.value).is_some_and(|tolerance| tolerance.is_negative()) {
        tolerance.invalid(errors, "must be greater than or equal to 0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::at::tests::check;

    #[test]
    fn the_older_version_carries_what_it_has_no_fields_for() {
        let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}});
        let v2 = json!({
            "apiVersion": "autoscaling/v2",
            "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "metrics": [cpu_metric(70), memory]},
        });
        let mut object = v2.clone();
        let strategy = HorizontalPodAutoscaler;
        strategy.convert(&mut object, &GroupVersion::new("autoscaling", "v1")).expect("converts");
        assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], 70);
        assert_eq!(object["metadata"]["annotations"][METRICS], json!([memory]).to_string());
        strategy.convert(&mut object, &GroupVersion::new("autoscaling", "v2")).expect("converts");
        assert_eq!(object, v2);
    }

    #[test]
    fn bounds_and_targets() {
        let spec =
            |more: &str| format!("spec: {{scaleTargetRef: {{kind: Deployment, name: d}}, {more}}}");
        check("autoscaling/v2/horizontalpodautoscalers", &spec("maxReplicas: 3"), &[]);
        check(
            "autoscaling/v2/horizontalpodautoscalers",
            &spec("minReplicas: 5, maxReplicas: 3"),
            &["spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`"],
        );
    }
}
