//! What can be wrong with a PodSpec and with a Pod template.
//!
//! Counterparts: `ValidatePodSpec`, `ValidatePodTemplateSpec`. The order of the calls is the order
//! in which upstream reports faults.

use serde_json::Value;

use super::containers::{
    Surroundings, validate_containers, validate_host_network_ports, validate_init_containers,
};
use super::network::{validate_dns_config, validate_dns_policy, validate_host_aliases};
use super::scheduling::{
    validate_affinity, validate_readiness_gates, validate_scheduling_gates,
    validate_spread_constraints, validate_tolerations,
};
use super::security::{validate_host_users, validate_os, validate_pod_security};
use super::volumes::validate_volumes;
use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::resources::{validate_amount, validate_container_resource_name};
use crate::kinds::selectors::is_everything;
use crate::selector::Labels;
use crate::validation::{dns_label, dns_subdomain, validate_annotations};

pub fn validate_pod_spec(spec: &At, errors: &mut ErrorList) {
    let list = spec.child("volumes");
    let volumes = validate_volumes(&list, errors);
    let around = Surroundings {
        volumes: &volumes,
        grace: spec.child("terminationGracePeriodSeconds").int(),
        host_network: spec.flag_of("hostNetwork"),
        host_users: spec.value.get("hostUsers") != Some(&Value::Bool(false)),
    };
    validate_containers(spec, &around, errors);
    validate_init_containers(spec, &around, errors);
    if around.host_network {
        validate_host_network_ports(spec, errors);
    }
    let restart_policy = spec.child("restartPolicy");
    restart_policy.needed_one_of(errors, &["Always", "OnFailure", "Never"]);
    validate_dns_policy(&spec.child("dnsPolicy"), errors);
    spec.child("nodeSelector").labels(errors);
    validate_pod_security(spec, errors);
    validate_affinity(&spec.child("affinity"), errors);
    validate_dns_config(spec, errors);
    validate_readiness_gates(&spec.child("readinessGates"), errors);
    validate_scheduling_gates(&spec.child("schedulingGates"), errors);
    validate_spread_constraints(&spec.child("topologySpreadConstraints"), errors);
    validate_host_users(spec, errors);
    validate_names(spec, errors);
    validate_tolerations(&spec.child("tolerations"), errors);
    validate_host_aliases(&spec.child("hostAliases"), errors);
    for name in ["priorityClassName", "runtimeClassName"] {
        spec.child(name).obeys_if_set(errors, dns_subdomain);
    }
    let preemption = spec.child("preemptionPolicy");
    preemption.one_of_if_set(errors, &["PreemptLowerPriority", "Never"]);
    validate_overhead(&spec.child("overhead"), errors);
    validate_os(spec, errors);
}

fn validate_names(spec: &At, errors: &mut ErrorList) {
    spec.child("serviceAccountName").obeys_if_set(errors, dns_subdomain);
    spec.child("nodeName").obeys_if_set(errors, dns_subdomain);
    spec.child("activeDeadlineSeconds").between(errors, 1..=i64::from(i32::MAX));
    spec.child("hostname").obeys_if_set(errors, dns_label);
    spec.child("subdomain").obeys_if_set(errors, dns_label);
}

/// Overheads are held against the rules of limits, and reported as such.
pub fn validate_overhead(overhead: &At, errors: &mut ErrorList) {
    let limits = overhead.under("limits");
    for (name, amount) in limits.entries() {
        validate_container_resource_name(name, &amount, errors);
        validate_amount(name, &amount, errors);
    }
}

/// A template as PodTemplates and the controllers of Pods hold it.
pub fn validate_template(template: &At, errors: &mut ErrorList) {
    validate_template_meta(template, errors);
    let spec = template.child("spec");
    validate_pod_spec(&spec, errors);
    if !spec.child("ephemeralContainers").is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        spec.child("ephemeralContainers").forbidden(errors, detail);
    }
}

/// Labels and annotations, which upstream reports one step further up than they stand.
pub fn validate_template_meta(template: &At, errors: &mut ErrorList) {
    let meta = template.child("metadata");
    At::new(meta.child("labels").value, template.path).under("labels").labels(errors);
    let annotations = At::new(meta.child("annotations").value, template.path);
    let annotations = annotations.under("annotations");
    validate_annotations(annotations.map(), errors, &annotations.path);
}

/// The template of a controller named `kind`, whose Pods always restart and are found by `selector`.
pub fn validate_controlled_template(
    template: &At,
    selector: &At,
    kind: &str,
    errors: &mut ErrorList,
) {
    if !validate_selected(template, selector, errors) {
        return selector.invalid(errors, "invalid label selector");
    }
    validate_template(template, errors);
    validate_running_always(template, kind, errors);
}

/// Pods that a controller keeps up may not end by themselves.
pub fn validate_running_always(template: &At, kind: &str, errors: &mut ErrorList) {
    let spec = template.child("spec");
    let restart = spec.child("restartPolicy");
    if restart.text() != "Always" {
        restart.not_supported(errors, &["Always"]);
    }
    if spec.has("activeDeadlineSeconds") {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        spec.child("activeDeadlineSeconds").forbidden(errors, detail);
    }
}

/// The selector must find the Pods that are made of the template. False if it is no selector,
/// which is the caller's to report.
pub fn validate_selected(template: &At, selector: &At, errors: &mut ErrorList) -> bool {
    let meta = template.child("metadata");
    let labels = meta.child("labels");
    let Ok(wanted) = Labels::from_object(selector.value) else { return false };
    if !is_everything(selector) && !wanted.matches(labels.map()) {
        labels.invalid(errors, "`selector` does not match template `labels`");
    }
    true
}
