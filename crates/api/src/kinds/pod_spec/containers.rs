//! What can be wrong with the containers of a PodSpec: names, images, ports, environment, mounts.
//!
//! Counterpart: `validateContainers`, `validateInitContainers` and what they reach.

use std::collections::HashSet;

use serde_json::Value;

use super::Volumes;
use super::handlers::{validate_lifecycle, validate_probes};
use super::security::validate_container_security;
use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::resources::validate_requirements;
use crate::kinds::rules::{config_key, descending_path, env_var_name, no_backsteps};
use crate::validation::{dns_label, label_key, port_name};

/// What containers are held against.
pub struct Surroundings<'a> {
    pub volumes: &'a Volumes<'a>,
    pub grace: i64,
    pub host_network: bool,
    pub host_users: bool,
}

pub fn validate_containers(spec: &At, around: &Surroundings<'_>, errors: &mut ErrorList) {
    let containers = spec.child("containers");
    if containers.is_empty() {
        containers.required(errors, "");
        return;
    }
    let mut names = HashSet::new();
    for container in containers.items() {
        validate_common(&container, around, errors);
        unique_name(&container, &mut names, errors);
        validate_lifecycle(&container.child("lifecycle"), around.grace, errors);
        validate_probes(&container, around.grace, errors);
    }
    unique_host_ports(&containers, errors);
}

pub fn validate_init_containers(spec: &At, around: &Surroundings<'_>, errors: &mut ErrorList) {
    let main = spec.child("containers");
    let mut names: HashSet<&str> = main.list().iter().filter_map(|c| c["name"].as_str()).collect();
    for container in spec.child("initContainers").items() {
        validate_common(&container, around, errors);
        unique_name(&container, &mut names, errors);
        match container.text_of("restartPolicy") {
            "Always" => {
                validate_lifecycle(&container.child("lifecycle"), around.grace, errors);
                validate_probes(&container, around.grace, errors);
            }
            _ => refuse_sidecar_fields(&container, errors),
        }
    }
}

fn refuse_sidecar_fields(container: &At, errors: &mut ErrorList) {
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if container.has(field) {
            let detail = "may not be set for init containers without restartPolicy=Always";
            container.child(field).forbidden(errors, detail);
        }
    }
}

fn unique_name<'v>(container: &At<'v, '_>, names: &mut HashSet<&'v str>, errors: &mut ErrorList) {
    let name = container.text_of("name");
    if !name.is_empty() && !names.insert(name) {
        container.child("name").duplicate(errors);
    }
}

fn validate_common(container: &At, around: &Surroundings<'_>, errors: &mut ErrorList) {
    container.child("name").needed_and_obeys(errors, dns_label);
    let image = container.child("image");
    if image.needed(errors) && image.text().trim() != image.text() {
        image.invalid(errors, "must not have leading or trailing whitespace");
    }
    let message_policy = container.child("terminationMessagePolicy");
    message_policy.needed_one_of(errors, &["File", "FallbackToLogsOnError"]);
    ports(&container.child("ports"), errors);
    container.child("env").items().for_each(|var| env_var(&var, errors));
    container.child("envFrom").items().for_each(|source| env_source(&source, errors));
    mounts(container, around.volumes, errors);
    devices(container, around.volumes, errors);
    let pull_policy = container.child("imagePullPolicy");
    pull_policy.needed_one_of(errors, &["Always", "IfNotPresent", "Never"]);
    validate_requirements(&container.child("resources"), errors);
    resize_policy(&container.child("resizePolicy"), errors);
    container.child("restartPolicy").one_of_if_set(errors, &["Always", "Never", "OnFailure"]);
    validate_container_security(&container.child("securityContext"), around.host_users, errors);
}

fn resize_policy(policies: &At, errors: &mut ErrorList) {
    let mut seen = HashSet::new();
    for policy in policies.items() {
        let name = policy.text_of("resourceName");
        if !seen.insert(name) {
            errors.duplicate(&policies.path, name);
        }
        policy.child("resourceName").one_of(errors, &["cpu", "memory"]);
        policy.child("restartPolicy").one_of(errors, &["NotRequired", "RestartContainer"]);
    }
}

// === ports ===

fn ports(ports: &At, errors: &mut ErrorList) {
    let mut names = HashSet::new();
    for port in ports.items() {
        let name = port.child("name");
        let faults = if name.is_empty() { Vec::new() } else { port_name(name.text()) };
        if faults.is_empty() && !name.is_empty() && !names.insert(name.text()) {
            name.duplicate(errors);
        }
        faults.into_iter().for_each(|fault| name.invalid(errors, fault));
        match port.child("containerPort") {
            number if number.int() == 0 => number.required(errors, ""),
            number => number.port(errors),
        }
        if port.child("hostPort").int() != 0 {
            port.child("hostPort").port(errors);
        }
        port.child("protocol").needed_one_of(errors, &["SCTP", "TCP", "UDP"]);
    }
}

fn unique_host_ports(containers: &At, errors: &mut ErrorList) {
    let mut taken = HashSet::new();
    for container in containers.items() {
        for port in container.child("ports").items() {
            let number = port.child("hostPort").int();
            let key = format!("{}/{}/{number}", port.text_of("protocol"), port.text_of("hostIP"));
            if number != 0 && !taken.insert(key.clone()) {
                errors.duplicate(&port.child("hostPort").path, key);
            }
        }
    }
}

/// With the node's network a container's port is the node's port.
pub fn validate_host_network_ports(spec: &At, errors: &mut ErrorList) {
    for field in ["containers", "initContainers"] {
        for container in spec.child(field).items() {
            for port in container.child("ports").items() {
                let host = port.child("hostPort");
                if host.int() != port.child("containerPort").int() {
                    let detail = "must match `containerPort` when `hostNetwork` is true";
                    host.invalid_as(errors, host.int(), detail);
                }
            }
        }
    }
}

// === environment ===

fn env_var(var: &At, errors: &mut ErrorList) {
    var.child("name").needed_and_obeys(errors, env_var_name);
    let source = var.child("valueFrom");
    if source.is_set() {
        value_source(&source, !var.text_of("value").is_empty(), errors);
    }
}

fn value_source(source: &At, has_value: bool, errors: &mut ErrorList) {
    let mut given = 0;
    for (field, rule) in VALUE_SOURCES {
        if source.has(field) {
            given += 1;
            rule(&source.child(field), errors);
        }
    }
    let detail = match given {
        0 => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        }
        _ if has_value => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    source.invalid_as(errors, "", detail);
}

type Rule = fn(&At, &mut ErrorList);

const VALUE_SOURCES: &[(&str, Rule)] = &[
    ("fieldRef", |at, errors| validate_field_ref(at, ENV_FIELDS, errors)),
    ("resourceFieldRef", |at, errors| validate_resource_ref(at, false, errors)),
    ("configMapKeyRef", key_ref),
    ("secretKeyRef", key_ref),
    ("fileKeyRef", file_ref),
];

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// What a `fieldRef` may name at all; where it stands allows a part of it.
const FIELD_LABELS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];

const ENV_RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

fn key_ref(at: &At, errors: &mut ErrorList) {
    at.child("key").needed_and_obeys(errors, config_key);
}

fn file_ref(at: &At, errors: &mut ErrorList) {
    at.child("key").needed_and_obeys(errors, env_var_name);
    at.child("volumeName").needed(errors);
    let path = at.child("path");
    if path.needed(errors) {
        path.obeys(errors, descending_path);
    }
}

pub fn validate_field_ref(at: &At, supported: &[&str], errors: &mut ErrorList) {
    at.child("apiVersion").needed(errors);
    let path = at.child("fieldPath");
    if !path.needed(errors) {
        return;
    }
    let text = path.text();
    match text.strip_suffix("']").and_then(|rest| rest.split_once("['")) {
        Some((map @ ("metadata.annotations" | "metadata.labels"), key)) => {
            let key =
                if map.ends_with("annotations") { key.to_lowercase() } else { key.to_owned() };
            label_key(&key).into_iter().for_each(|fault| path.invalid_as(errors, text, fault));
        }
        Some((other, _)) => path.invalid_as(errors, other, "does not support subscript"),
        None if !FIELD_LABELS.contains(&text) => {
            let detail = format!("error converting fieldPath: field label not supported: {text}");
            path.invalid(errors, detail);
        }
        None => path.one_of(errors, supported),
    }
}

/// `of_volume`: a volume's file names the container it is about.
pub fn validate_resource_ref(at: &At, of_volume: bool, errors: &mut ErrorList) {
    if of_volume && at.text_of("containerName").is_empty() {
        at.child("containerName").required(errors, "");
        return;
    }
    let resource = at.child("resource");
    if !resource.needed(errors) {
        return;
    }
    let huge = ["limits.hugepages-", "requests.hugepages-"];
    if !huge.iter().any(|prefix| resource.text().starts_with(prefix)) {
        resource.one_of(errors, ENV_RESOURCES);
    }
    let (known, of): (&[&str], &str) = match resource.text().rsplit('.').next().unwrap_or("") {
        "cpu" => (&["1m", "1"], "cpu"),
        "memory" => (SIZES, "memory"),
        "ephemeral-storage" => (SIZES, "local ephemeral storage"),
        _ => return,
    };
    let divisor = at.text_of("divisor");
    if !divisor.is_empty() && divisor != "0" && !known.contains(&divisor) {
        let known = if of == "cpu" { "1m and 1".to_owned() } else { known.join(", ") };
        let detail = format!("only divisor's values {known} are supported with the {of} resource");
        at.child("divisor").invalid_as(errors, resource.text(), detail);
    }
}

const SIZES: &[&str] =
    &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

fn env_source(source: &At, errors: &mut ErrorList) {
    source.child("prefix").obeys_if_set(errors, env_var_name);
    match (source.has("configMapRef"), source.has("secretRef")) {
        (false, false) => {
            source.invalid_as(errors, "", "must specify one of: `configMapRef` or `secretRef`");
        }
        (true, true) => {
            source.invalid_as(errors, "", "may not have more than one field specified at a time");
        }
        _ => {}
    }
}

// === mounts ===

/// Upstream reports some faults of a mount at the list instead of at its entry.
fn mounts(container: &At, volumes: &Volumes<'_>, errors: &mut ErrorList) {
    let list = container.child("volumeMounts");
    let devices = container.child("volumeDevices");
    let mut paths = HashSet::new();
    for mount in list.items() {
        let (name, path) = (mount.child("name"), mount.child("mountPath"));
        if name.needed(errors) && !volumes.contains_key(name.text()) {
            errors.not_found(&name.path, name.text());
        }
        path.needed(errors);
        if !paths.insert(path.text()) {
            path.invalid(errors, "must be unique");
        }
        if devices.list().iter().any(|device| device["name"] == name.text()) {
            name.invalid(errors, "must not already exist in volumeDevices");
        }
        if devices.list().iter().any(|device| device["devicePath"] == path.text()) {
            path.invalid(errors, "must not already exist as a path in volumeDevices");
        }
        sub_paths(&mount, &list, errors);
        propagation(&mount, &list, container, errors);
        recursive_read_only(&mount, errors);
    }
}

fn sub_paths(mount: &At, list: &At, errors: &mut ErrorList) {
    let at_list = |name| At::new(mount.value.get(name).unwrap_or(&Value::Null), list.path);
    at_list("subPath").under("subPath").obeys_if_set(errors, descending_path);
    let expression = mount.child("subPathExpr");
    if !expression.is_empty() {
        if !mount.text_of("subPath").is_empty() {
            expression.invalid(errors, "subPathExpr and subPath are mutually exclusive");
        }
        at_list("subPathExpr").under("subPathExpr").obeys(errors, descending_path);
    }
}

fn propagation(mount: &At, list: &At, container: &At, errors: &mut ErrorList) {
    let Some(value) = mount.value.get("mountPropagation") else { return };
    let list = At::new(value, list.path);
    let at = list.under("mountPropagation");
    at.one_of(errors, &["Bidirectional", "HostToContainer", "None"]);
    let privileged = container.child("securityContext").flag_of("privileged");
    if at.text() == "Bidirectional" && !privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        at.forbidden(errors, detail);
    }
}

fn recursive_read_only(mount: &At, errors: &mut ErrorList) {
    let mode = mount.child("recursiveReadOnly");
    match mode.text() {
        "" | "Disabled" => {}
        "Enabled" | "IfPossible" if !mount.flag_of("readOnly") => {
            mode.forbidden(errors, "may only be specified when readOnly is true");
        }
        "Enabled" | "IfPossible" => {
            let propagation = mount.text_of("mountPropagation");
            if !matches!(propagation, "" | "None") {
                mode.forbidden(
                    errors,
                    "may only be specified when mountPropagation is None or not specified",
                );
            }
        }
        _ => mode.not_supported(errors, &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn devices(container: &At, volumes: &Volumes<'_>, errors: &mut ErrorList) {
    let (mut names, mut paths) = (HashSet::new(), HashSet::new());
    for device in container.child("volumeDevices").items() {
        let (name, path) = (device.child("name"), device.child("devicePath"));
        name.needed(errors);
        if !names.insert(name.text()) {
            name.invalid(errors, "must be unique");
        }
        match volumes.get(name.text()) {
            None => errors.not_found(&name.path, name.text()),
            Some(volume)
                if volume.get("persistentVolumeClaim").is_none()
                    && volume.get("ephemeral").is_none() =>
            {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                name.invalid(errors, detail);
            }
            Some(_) => {}
        }
        path.needed(errors);
        if !paths.insert(path.text()) {
            path.invalid(errors, "must be unique");
        } else if !no_backsteps(path.text()).is_empty() {
            path.invalid(errors, "can not contain backsteps ('..')");
        }
    }
}
