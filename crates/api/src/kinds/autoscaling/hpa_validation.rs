//! What can be wrong with a HorizontalPodAutoscaler.
//!
//! Counterpart: `ValidateHorizontalPodAutoscaler`. Its order is the order of the faults here.

use serde_json::Value;

use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::fill::{int, list, text};
use crate::kinds::resources::{quantity, validate_container_resource_name};
use crate::validation::{dns_label, path_segment};

const METRIC_TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
const WINDOW_MAX: i64 = 3600;
const PERIOD_MAX: i64 = 1800;

pub fn validate_spec(spec: &At, old: Option<&Value>, errors: &mut ErrorList) {
    replicas(spec, old, errors);
    let target = spec.child("scaleTargetRef");
    let same = |field| {
        old.is_some_and(|old| {
            text(old, &format!("/scaleTargetRef/{field}")) == target.text_of(field)
        })
    };
    let versions = match target.text_of("kind") {
        _ if same("apiVersion") && same("kind") => Versions::Any,
        "ReplicationController" => Versions::Core,
        _ => Versions::OfGroups,
    };
    validate_reference(&target, versions, errors);
    validate_metrics(spec, versions_of_objects(old), errors);
    let behavior = spec.child("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        let rules = behavior.child(direction);
        if rules.is_set() {
            validate_rules(&rules, errors);
        }
    }
}

/// An old object may be scaled to zero and stay so.
fn replicas(spec: &At, old: Option<&Value>, errors: &mut ErrorList) {
    let (least, most) = (spec.child("minReplicas"), spec.child("maxReplicas"));
    let bound = match old.and_then(|old| int(old, "/minReplicas")) {
        Some(0) => 0,
        _ => 1,
    };
    if least.is_set() && least.int() < bound {
        least.invalid(errors, format!("must be greater than or equal to {bound}"));
    }
    match most.int() {
        0 => most.required(errors, "must be set and greater than 0"),
        1.. => {}
        _ => most.invalid(errors, "must be greater than or equal to 1"),
    }
    if least.is_set() && most.int() < least.int() {
        most.invalid_as(errors, most.int(), "must be greater than or equal to `minReplicas`");
    }
}

/// Which API versions a reference may have.
#[derive(Clone, Copy, PartialEq)]
enum Versions {
    OfGroups,
    /// Those without a group as well.
    Core,
    /// What an older release let through.
    Any,
}

fn validate_reference(to: &At, versions: Versions, errors: &mut ErrorList) {
    to.child("kind").needed_and_obeys(errors, path_segment);
    to.child("name").needed_and_obeys(errors, path_segment);
    let version = to.child("apiVersion");
    if let Some(fault) = version_fault(version.text(), versions) {
        version.invalid_as(errors, version.text(), fault);
    }
}

fn version_fault(version: &str, versions: Versions) -> Option<String> {
    match version.split('/').count() {
        _ if versions == Versions::Any => None,
        1 | 2 if versions == Versions::Core || version.find('/').is_some_and(|at| at > 0) => None,
        1 | 2 => Some("apiVersion must specify API group".to_owned()),
        _ => Some(format!("unexpected GroupVersion string: {version}")),
    }
}

fn versions_of_objects(old: Option<&Value>) -> Versions {
    let metrics = old.map_or(&[][..], |old| list(old, "/metrics"));
    let was_bad = metrics.iter().filter(|metric| text(metric, "/type") == "Object").any(|metric| {
        version_fault(text(metric, "/object/describedObject/apiVersion"), Versions::Core).is_some()
    });
    if was_bad { Versions::Any } else { Versions::Core }
}

// === metrics ===

/// The field that belongs to a type of metric, in the order in which upstream looks for them.
const SOURCES: &[(&str, &str)] = &[
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

fn validate_metrics(spec: &At, versions: Versions, errors: &mut ErrorList) {
    let metrics = spec.child("metrics");
    metrics.items().for_each(|metric| validate_metric(&metric, versions, errors));
    let from_outside = |metric: &Value| matches!(text(metric, "/type"), "Object" | "External");
    let to_zero = spec.value.get("minReplicas") == Some(&Value::from(0));
    if to_zero && !metrics.list().iter().any(from_outside) {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        metrics.forbidden(errors, detail);
    }
}

fn validate_metric(metric: &At, versions: Versions, errors: &mut ErrorList) {
    let of = metric.child("type");
    if of.is_empty() {
        of.required(errors, "must specify a metric source type");
    }
    let wanted = SOURCES.iter().find(|(kind, _)| *kind == of.text()).map(|(_, field)| *field);
    if wanted.is_none() {
        of.not_supported(errors, METRIC_TYPES);
    }
    let present: Vec<_> = SOURCES.iter().filter(|(_, field)| metric.has(field)).collect();
    if let Some((kind, field)) = present.first() {
        validate_source(kind, &metric.child(field), versions, errors);
    }
    match wanted {
        None => of.not_supported(errors, METRIC_TYPES),
        Some(wanted) if !metric.has(wanted) => {
            let detail = "must populate information for the given metric source";
            metric.child(wanted).required(errors, detail);
        }
        Some(_) => {}
    }
    if present.len() > 1 {
        for (_, field) in present.iter().filter(|(_, field)| Some(*field) != wanted) {
            metric.child(field).forbidden(errors, "must populate the given metric source only");
        }
    }
}

fn validate_source(kind: &str, source: &At, versions: Versions, errors: &mut ErrorList) {
    match kind {
        "Resource" => {
            let name = source.child("name");
            if name.is_empty() {
                name.required(errors, "must specify a resource name");
            }
        }
        "ContainerResource" => validate_container_source(source, errors),
        _ => {
            if kind == "Object" {
                validate_reference(&source.child("describedObject"), versions, errors);
            }
            let identifier = source.child("metric");
            let name = identifier.child("name");
            match name.is_empty() {
                true => name.required(errors, "must specify a metric name"),
                false => name.obeys(errors, path_segment),
            }
        }
    }
    let target = source.child("target");
    validate_target(&target, errors);
    target_of_kind(kind, &target, errors);
}

fn validate_container_source(source: &At, errors: &mut ErrorList) {
    let (name, container) = (source.child("name"), source.child("container"));
    match name.is_empty() {
        true => name.required(errors, "must specify a resource name"),
        false => validate_container_resource_name(name.text(), &name, errors),
    }
    match container.is_empty() {
        true => container.required(errors, "must specify a container"),
        false => container.obeys(errors, dns_label),
    }
}

fn validate_target(target: &At, errors: &mut ErrorList) {
    let of = target.child("type");
    if of.is_empty() {
        of.required(errors, "must specify a metric target type");
    }
    if !["Utilization", "Value", "AverageValue"].contains(&of.text()) {
        of.invalid_as(errors, of.text(), "must be either Utilization, Value, or AverageValue");
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

// === behaviour ===

fn validate_rules(rules: &At, errors: &mut ErrorList) {
    let window = rules.child("stabilizationWindowSeconds");
    if window.int() < 0 {
        window.invalid(errors, "must be greater than or equal to zero");
    }
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
    use crate::kinds::at::tests::{check, check_update};

    const PATH: &str = "autoscaling/v2/horizontalpodautoscalers";

    fn scaler(version: &str, more: &str) -> String {
        format!(
            "spec: {{scaleTargetRef: {{kind: Deployment, name: d, apiVersion: {version}}}, {more}}}"
        )
    }

    #[test]
    fn bounds() {
        check(PATH, &scaler("apps/v1", "maxReplicas: 3"), &[]);
        check(
            PATH,
            &scaler("apps/v1", "minReplicas: 5, maxReplicas: 3"),
            &["spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`"],
        );
        check(
            PATH,
            &scaler("apps/v1", "maxReplicas: -1"),
            &[
                "spec.maxReplicas: Invalid value: -1: must be greater than or equal to 1",
                "spec.maxReplicas: Invalid value: -1: must be greater than or equal to `minReplicas`",
            ],
        );
    }

    #[test]
    fn what_is_scaled_has_a_group_unless_it_never_had() {
        let at = "spec.scaleTargetRef.apiVersion: Invalid value";
        let old = scaler("v1", "maxReplicas: 3");
        check(PATH, &old, &[&format!("{at}: \"v1\": apiVersion must specify API group")]);
        check(
            PATH,
            &scaler("a/b/c", "maxReplicas: 3"),
            &[&format!("{at}: \"a/b/c\": unexpected GroupVersion string: a/b/c")],
        );
        check_update(PATH, &old, &scaler("v1", "maxReplicas: 4"), &[]);
    }

    #[test]
    fn a_metric_has_the_source_of_its_type_and_no_other() {
        let metric = "{type: Pods, resource: {name: cpu, target: {type: Utilization, averageUtilization: 5}}}";
        check(
            PATH,
            &scaler("apps/v1", &format!("maxReplicas: 3, metrics: [{metric}]")),
            &[
                "spec.metrics[0].pods: Required value: must populate information for the given metric source",
            ],
        );
    }
}
