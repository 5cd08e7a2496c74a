//! HorizontalPodAutoscaler: stored as v2; v1 knows one metric and keeps the rest in annotations.
//!
//! Counterparts: `SetDefaults_HorizontalPodAutoscaler`, `formatHPAMetrics`.

use serde_json::{Value, json};

use super::hpa_validation::validate_spec;
use super::versions::{CARRIERS, METRICS, UTILIZATION, cpu_metric, to_v1, to_v2};
use crate::field::ErrorList;
use crate::kind::{GroupVersion, KindDef, Strategy};
use crate::kinds::at::At;
use crate::kinds::fill::{Object, int, list, made, object, object_at, set, text};
use crate::meta::meta;

pub struct HorizontalPodAutoscaler;

impl Strategy for HorizontalPodAutoscaler {
    fn defaults_keep_empties(&self) -> bool {
        true
    }

    fn tells_empty_from_absent(&self) -> bool {
        true
    }

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
        validate_spec(&At::root(object).child("spec"), None, errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        validate_spec(&At::root(object).child("spec"), old.get("spec"), errors);
    }

    fn validate_status_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        let status = At::root(object);
        status.child("status").not_negative_each(errors, &["currentReplicas", "desiredReplicas"]);
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        let of = |field: &str| text(object, &format!("/spec/scaleTargetRef/{field}"));
        match column {
            "Reference" => format!("{}/{}", of("kind"), of("name")).into(),
            "Targets" if text(object, "/apiVersion") == "autoscaling/v1" => {
                let mut whole = object.clone();
                to_v2(&mut whole);
                targets(&whole).into()
            }
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

    fn metadata_hides(&self) -> &'static [&'static str] {
        CARRIERS
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

// === cells ===

/// `cpu: <unknown>/80%, 20/100 + 1 more...`
fn targets(hpa: &Value) -> String {
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
