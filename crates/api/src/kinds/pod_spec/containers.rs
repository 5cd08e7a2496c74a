//! What can be wrong with the containers of a PodSpec: names, images, policies, and what each of
//! the three lists of containers adds or forbids.
//!
//! Counterpart: `validateContainers`, `validateInitContainers`, `validateEphemeralContainers`. The
//! order of the calls is the order in which upstream reports faults.

use std::collections::HashSet;

use super::Volumes;
use super::environment::{validate_env, validate_env_from};
use super::handlers::{validate_lifecycle, validate_probes};
use super::mounts::{validate_devices, validate_mounts};
use super::ports::{validate_ports, validate_unique_host_ports};
use super::security::validate_container_security;
use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::resources::{Holder, validate_requirements};
use crate::validation::dns_label;

/// What containers are held against.
pub struct Surroundings<'a> {
    pub volumes: &'a Volumes<'a>,
    /// The names in `resourceClaims`, sorted.
    pub claims: Vec<&'a str>,
    pub grace: i64,
    pub restart_policy: &'a str,
    pub host_users: bool,
}

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;

pub fn validate_containers(spec: &At, around: &Surroundings<'_>, errors: &mut ErrorList) {
    let containers = spec.child("containers");
    if containers.is_empty() {
        containers.required(errors, "");
        return;
    }
    let mut names = HashSet::new();
    for container in containers.items() {
        validate_common(&container, around, errors);
        if !names.insert(container.text_of("name")) {
            container.child("name").duplicate(errors);
        }
        validate_lifecycle(&container.child("lifecycle"), around.grace, errors);
        validate_probes(&container, around.grace, errors);
        restart_policy(&container, errors);
    }
    validate_unique_host_ports(containers.items(), errors);
}

pub fn validate_init_containers(spec: &At, around: &Surroundings<'_>, errors: &mut ErrorList) {
    let containers = spec.child("initContainers");
    let mut names = names_of(spec, &["containers"]);
    for (index, container) in containers.items().enumerate() {
        validate_common(&container, around, errors);
        init_restart_policy(&container, errors);
        let name = container.text_of("name");
        if !name.is_empty() && !names.insert(name) {
            container.child("name").duplicate(errors);
        }
        // They run one by one; upstream numbers each as if it were alone.
        let alone = containers.path.index(0);
        validate_unique_host_ports(std::iter::once(At::new(container.value, alone)), errors);
        match container.text_of("restartPolicy") {
            "Always" => {
                validate_lifecycle(&container.child("lifecycle"), around.grace, errors);
                validate_probes(&container, around.grace, errors);
            }
            _ => {
                refuse_sidecar_fields(&container, errors);
                refuse_restart_on_resize(&containers, index, errors);
            }
        }
    }
}

/// Fields that a container added to look into a running Pod cannot have, in upstream's order.
const NOT_EPHEMERAL: &[&str] = &[
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

pub fn validate_ephemeral_containers(spec: &At, around: &Surroundings<'_>, errors: &mut ErrorList) {
    const CANNOT: &str = "cannot be set for an Ephemeral Container";
    let others = names_of(spec, &["containers", "initContainers"]);
    let mut names = others.clone();
    for container in spec.child("ephemeralContainers").items() {
        validate_common(&container, around, errors);
        validate_trimmed_image(&container, errors);
        if !names.insert(container.text_of("name")) {
            container.child("name").duplicate(errors);
        }
        let target = container.child("targetContainerName");
        if !target.is_empty() && !others.contains(target.text()) {
            errors.not_found(&target.path, target.text());
        }
        // A struct counts when it is given, but for resources, which every container has.
        let given = |field: &&&str| match container.child(field).map() {
            Some(_) if **field != "resources" => true,
            _ => !container.child(field).is_empty(),
        };
        for field in NOT_EPHEMERAL.iter().filter(given) {
            container.child(field).forbidden(errors, CANNOT);
        }
        for mount in container.child("volumeMounts").items() {
            for field in ["subPath", "subPathExpr"] {
                if !mount.child(field).is_empty() {
                    mount.child(field).forbidden(errors, CANNOT);
                }
            }
        }
    }
}

/// What holds in Pods and not yet in templates.
pub fn validate_trimmed_image(container: &At, errors: &mut ErrorList) {
    let image = container.child("image");
    if image.text().trim() != image.text() {
        image.invalid(errors, "must not have leading or trailing whitespace");
    }
}

fn names_of<'v>(spec: &At<'v, '_>, lists: &[&str]) -> HashSet<&'v str> {
    let lists = lists.iter().flat_map(|list| spec.child(list).list());
    lists.map(|container| container["name"].as_str().unwrap_or_default()).collect()
}

fn refuse_sidecar_fields(container: &At, errors: &mut ErrorList) {
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if container.has(field) {
            let detail = "may not be set for init containers without restartPolicy=Always";
            container.child(field).forbidden(errors, detail);
        }
    }
}

fn refuse_restart_on_resize(containers: &At, index: usize, errors: &mut ErrorList) {
    let Some(container) = containers.items().nth(index) else { return };
    for policy in container.child("resizePolicy").items() {
        let restart = policy.child("restartPolicy");
        if restart.text() == "RestartContainer" {
            let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
            restart.invalid(errors, detail);
        }
    }
}

fn validate_common(container: &At, around: &Surroundings<'_>, errors: &mut ErrorList) {
    container.child("name").needed_and_obeys(errors, dns_label);
    container.child("image").needed(errors);
    let message_policy = container.child("terminationMessagePolicy");
    message_policy.needed_one_of(errors, &["File", "FallbackToLogsOnError"]);
    validate_ports(&container.child("ports"), errors);
    validate_env(&container.child("env"), errors);
    validate_env_from(&container.child("envFrom"), errors);
    validate_mounts(container, around.volumes, errors);
    validate_devices(container, around.volumes, errors);
    let pull_policy = container.child("imagePullPolicy");
    pull_policy.needed_one_of(errors, &["Always", "IfNotPresent", "Never"]);
    let resources = container.child("resources");
    validate_requirements(&resources, Holder::Container, &around.claims, errors);
    resize_policy(&container.child("resizePolicy"), around.restart_policy, errors);
    validate_container_security(&container.child("securityContext"), around.host_users, errors);
}

/// Upstream reports most faults of a policy at the list.
fn resize_policy(policies: &At, restart_policy: &str, errors: &mut ErrorList) {
    let of_list =
        |policy: &At, field: &str, supported: &[&str], errors: &mut ErrorList| match policy
            .text_of(field)
        {
            "" => policies.required(errors, ""),
            text if supported.contains(&text) => {}
            text => errors.not_supported(&policies.path, text, supported),
        };
    let mut seen = HashSet::new();
    for policy in policies.items() {
        let name = policy.text_of("resourceName");
        if !seen.insert(name) {
            errors.duplicate(&policy.path, name);
        }
        of_list(&policy, "resourceName", &["cpu", "memory"], errors);
        of_list(&policy, "restartPolicy", &["NotRequired", "RestartContainer"], errors);
        let restart = policy.text_of("restartPolicy");
        if restart_policy == "Never" && restart != "NotRequired" {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            policies.invalid_as(errors, restart, detail);
        }
    }
}

/// Of an init container's rules nothing more is said as long as it has no policy.
fn init_restart_policy(container: &At, errors: &mut ErrorList) {
    let policy = container.child("restartPolicy");
    match policy.is_set() || container.child("restartPolicyRules").is_empty() {
        true => restart_policy(container, errors),
        false => policy.required(errors, NEEDS_POLICY),
    }
}

const NEEDS_POLICY: &str = "must specify restartPolicy when restart rules are used";

/// A container's own restart policy, and its rules by exit code.
fn restart_policy(container: &At, errors: &mut ErrorList) {
    let (policy, rules) = (container.child("restartPolicy"), container.child("restartPolicyRules"));
    if !policy.is_set() && !rules.is_empty() {
        policy.required(errors, NEEDS_POLICY);
    }
    policy.one_of_if_set(errors, &["Always", "Never", "OnFailure"]);
    if rules.list().len() > RULES_MAX {
        errors.too_many(&rules.path, rules.list().len(), RULES_MAX);
    }
    for rule in rules.items() {
        rule.child("action").one_of(errors, &["Restart", "RestartAllContainers"]);
        let codes = rule.child("exitCodes");
        if !codes.is_set() {
            codes.required(errors, "must be specified");
            continue;
        }
        codes.child("operator").one_of(errors, &["In", "NotIn"]);
        let values = codes.child("values");
        if values.list().len() > EXIT_CODES_MAX {
            errors.too_many(&values.path, values.list().len(), EXIT_CODES_MAX);
        }
    }
}
