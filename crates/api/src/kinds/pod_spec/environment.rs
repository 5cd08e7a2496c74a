//! What can be wrong with a container's environment: names, and where values come from.
//!
//! Counterparts: `ValidateEnv`, `ValidateEnvFrom`, `validateObjectFieldSelector` and
//! `validateContainerResourceFieldSelector`, the last two shared with volumes that show the same.

use serde_json::Value;

use super::CONTAINER_LISTS;
use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::rules::{config_key, env_var_name, no_backsteps};
use crate::validation::{dns_label, dns_subdomain, label_key};

pub fn validate_env(env: &At, errors: &mut ErrorList) {
    env.items().for_each(|var| env_var(&var, errors));
}

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
    at.child("name").obeys(errors, dns_subdomain);
    at.child("key").needed_and_obeys(errors, config_key);
}

fn file_ref(at: &At, errors: &mut ErrorList) {
    at.child("key").needed_and_obeys(errors, env_var_name);
    at.child("volumeName").needed_and_obeys(errors, dns_label);
    at.child("path").needed_and_obeys(errors, no_backsteps);
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
        None if at.text_of("apiVersion") != "v1" => {
            let version = at.text_of("apiVersion");
            let detail = format!("error converting fieldPath: unsupported pod version: {version}");
            path.invalid(errors, detail);
        }
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
    divisor(resource.text(), &at.child("divisor"), errors);
}

/// A divisor is a unit of the resource; none, or zero, is the smallest one.
fn divisor(resource: &str, divisor: &At, errors: &mut ErrorList) {
    let (known, of): (&[&str], &str) = match resource.split_once('.').map_or("", |(_, of)| of) {
        "cpu" => (&["1m", "1"], "cpu"),
        "memory" => (SIZES, "memory"),
        "ephemeral-storage" => (SIZES, "local ephemeral storage"),
        of if of.starts_with("hugepages-") => (SIZES, "hugepages"),
        _ => return,
    };
    let unit = divisor.text();
    if !unit.is_empty() && unit != "0" && !known.contains(&unit) {
        let known = if of == "cpu" { "1m and 1".to_owned() } else { known.join(", ") };
        let detail = format!("only divisor's values {known} are supported with the {of} resource");
        divisor.invalid_as(errors, resource, detail);
    }
}

const SIZES: &[&str] =
    &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// Upstream reports how many sources there are at the list.
pub fn validate_env_from(list: &At, errors: &mut ErrorList) {
    for source in list.items() {
        source.child("prefix").obeys_if_set(errors, env_var_name);
        let given = ["configMapRef", "secretRef"].iter().filter(|field| source.has(field));
        let given = given.inspect(|field| {
            source.child(field).child("name").needed_and_obeys(errors, dns_subdomain);
        });
        let detail = match given.count() {
            0 => "must specify one of: `configMapRef` or `secretRef`",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        list.invalid_as(errors, "", detail);
    }
}

/// Variables that are read from a file name an empty directory of the Pod.
pub fn validate_file_key_volumes(spec: &At, errors: &mut ErrorList) {
    let volumes = spec.child("volumes");
    let named = |name: &str| volumes.list().iter().rev().find(|volume| volume["name"] == *name);
    for field in CONTAINER_LISTS {
        for container in spec.child(field).items() {
            for var in container.child("env").items() {
                let source = var.child("valueFrom");
                let source = source.child("fileKeyRef");
                let name = source.child("volumeName");
                match named(name.text()) {
                    _ if !source.is_set() => {}
                    None => errors.not_found(&name.path, name.text()),
                    Some(volume) if volume.get("emptyDir").is_none_or(Value::is_null) => {
                        name.invalid_as(
                            errors,
                            name.text(),
                            "referenced volume must be of type emptyDir",
                        );
                    }
                    Some(_) => {}
                }
            }
        }
    }
}
