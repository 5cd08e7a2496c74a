//! What can be wrong with a PodSpec and with a Pod template.
//!
//! Counterparts: `ValidatePodSpec`, `ValidatePodTemplateSpec`. The order of the calls is the order
//! in which upstream reports faults.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::Volumes;
pub use super::containers::validate_trimmed_image;
use super::containers::{
    Surroundings, validate_containers, validate_ephemeral_containers, validate_init_containers,
};
use super::environment::validate_file_key_volumes;
use super::network::{validate_dns_config, validate_dns_policy, validate_host_aliases};
use super::pod_resources::validate_pod_resources;
use super::ports::validate_host_network_ports;
use super::scheduling::{
    validate_affinity, validate_readiness_gates, validate_scheduling_gates,
    validate_spread_constraints, validate_tolerations,
};
use super::security::{validate_host_users, validate_pod_security};
use super::system::{validate_host_processes, validate_os};
use super::volumes::validate_volumes;
use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::resources::{Holder, validate_requirements};
use crate::kinds::selectors::is_everything;
use crate::selector::Labels;
use crate::validation::{dns_label, dns_subdomain, validate_annotations};

/// What a PodSpec stands in: some rules wait until a Pod is made of a template.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Context {
    Pod,
    Template,
}

pub fn validate_pod_spec(spec: &At, context: Context, errors: &mut ErrorList) {
    let list = spec.child("volumes");
    let volumes = validate_volumes(&list, context, errors);
    validate_claims(&spec.child("resourceClaims"), errors);
    let around = surroundings(spec, &volumes);
    validate_containers(spec, &around, errors);
    validate_init_containers(spec, &around, errors);
    validate_ephemeral_containers(spec, &around, errors);
    validate_pod_resources(spec, &around.claims, errors);
    if spec.flag_of("hostNetwork") {
        validate_host_network_ports(spec, context == Context::Pod, errors);
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
    validate_host_processes(spec, errors);
    validate_host_users(spec, errors);
    validate_names(spec, errors);
    validate_tolerations(&spec.child("tolerations"), errors);
    validate_host_aliases(&spec.child("hostAliases"), errors);
    spec.child("priorityClassName").obeys_if_set(errors, dns_subdomain);
    spec.child("runtimeClassName").obeys_if_given(errors, dns_subdomain);
    let preemption = spec.child("preemptionPolicy");
    if preemption.is_set() {
        preemption.needed_one_of(errors, &["PreemptLowerPriority", "Never"]);
    }
    validate_overhead(&spec.child("overhead"), errors);
    validate_os(spec, errors);
    validate_file_key_volumes(spec, errors);
}

fn surroundings<'a>(spec: &At<'a, '_>, volumes: &'a Volumes<'a>) -> Surroundings<'a> {
    let claims = spec.child("resourceClaims").list().iter();
    let mut claims: Vec<&str> = claims.filter_map(|claim| claim["name"].as_str()).collect();
    claims.retain(|name| !name.is_empty());
    claims.sort_unstable();
    claims.dedup();
    Surroundings {
        volumes,
        claims,
        grace: spec.child("terminationGracePeriodSeconds").int(),
        restart_policy: spec.text_of("restartPolicy"),
        host_users: spec.value.get("hostUsers") != Some(&Value::Bool(false)),
    }
}

/// The claims of devices that a Pod has, each by a name of its own.
fn validate_claims(claims: &At, errors: &mut ErrorList) {
    const FIELDS: [&str; 2] = ["resourceClaimName", "resourceClaimTemplateName"];
    let mut names = HashSet::new();
    for claim in claims.items() {
        let name = claim.child("name");
        match name.text() {
            "" => name.required(errors, ""),
            text if names.contains(text) => name.duplicate(errors),
            text => {
                name.obeys(errors, dns_label);
                names.insert(text);
            }
        }
        let detail = match FIELDS.iter().filter(|field| claim.has(field)).count() {
            0 => "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            1 => "",
            _ => {
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            }
        };
        if !detail.is_empty() {
            claim.invalid(errors, detail);
        }
        FIELDS.iter().for_each(|field| claim.child(field).obeys_if_given(errors, dns_subdomain));
    }
}

fn validate_names(spec: &At, errors: &mut ErrorList) {
    validate_hostname_override(spec, errors);
    spec.child("serviceAccountName").obeys_if_set(errors, dns_subdomain);
    spec.child("nodeName").obeys_if_set(errors, dns_subdomain);
    spec.child("activeDeadlineSeconds").between(errors, 1..=i64::from(i32::MAX));
    spec.child("hostname").obeys_if_set(errors, dns_label);
    spec.child("subdomain").obeys_if_set(errors, dns_label);
}

fn validate_hostname_override(spec: &At, errors: &mut ErrorList) {
    const LONGEST: usize = 64;
    let name = spec.child("hostnameOverride");
    if !name.is_set() {
        return;
    }
    for field in ["setHostnameAsFQDN", "hostNetwork"] {
        if spec.flag_of(field) {
            name.forbidden(errors, format!("may not be specified when {field} is true"));
        }
    }
    if name.text().len() > LONGEST {
        errors.too_long(&name.path, LONGEST);
    }
    name.obeys(errors, dns_subdomain);
}

/// What runs a Pod costs resources too: held against the rules of a container's limits.
pub fn validate_overhead(overhead: &At, errors: &mut ErrorList) {
    let as_limits = json!({ "limits": overhead.value });
    if overhead.is_set() {
        let requirements = At::new(&as_limits, overhead.path);
        validate_requirements(&requirements, Holder::Container, &[], errors);
    }
}

/// A template as PodTemplates and the controllers of Pods hold it.
pub fn validate_template(template: &At, errors: &mut ErrorList) {
    validate_template_labels(template, errors);
    let spec = template.child("spec");
    validate_pod_spec(&spec, Context::Template, errors);
    if !spec.child("ephemeralContainers").is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        spec.child("ephemeralContainers").forbidden(errors, detail);
    }
}

/// Labels and annotations, which upstream reports one step further up than they stand.
pub fn validate_template_labels(template: &At, errors: &mut ErrorList) {
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
    validate_restarting_template(template, kind, errors);
}

/// A template whose Pods always restart.
pub fn validate_restarting_template(template: &At, kind: &str, errors: &mut ErrorList) {
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
