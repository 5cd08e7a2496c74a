//! What can be wrong with the places where a container sees volumes: as files, or as block devices.
//!
//! Counterparts: `ValidateVolumeMounts`, `ValidateVolumeDevices`.

use std::collections::HashSet;

use serde_json::Value;

use super::Volumes;
use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::rules::{descending_path, no_backsteps};

/// Upstream reports some faults of a mount at the list instead of at its entry.
pub fn validate_mounts(container: &At, volumes: &Volumes<'_>, errors: &mut ErrorList) {
    let list = container.child("volumeMounts");
    let devices = container.child("volumeDevices");
    let mut paths = HashSet::new();
    for mount in list.items() {
        let (name, path) = (mount.child("name"), mount.child("mountPath"));
        name.needed(errors);
        if !volumes.contains_key(name.text()) {
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
        recursive_read_only(&mount, &list, errors);
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

fn recursive_read_only(mount: &At, list: &At, errors: &mut ErrorList) {
    let Some(value) = mount.value.get("recursiveReadOnly") else { return };
    let list = At::new(value, list.path);
    let mode = list.under("recursiveReadOnly");
    match mode.text() {
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !mount.flag_of("readOnly") {
                mode.forbidden(errors, "may only be specified when readOnly is true");
            }
            if !matches!(mount.text_of("mountPropagation"), "" | "None") {
                let detail = "may only be specified when mountPropagation is None or not specified";
                mode.forbidden(errors, detail);
            }
        }
        _ => mode.not_supported(errors, &["Disabled", "Enabled", "IfPossible"]),
    }
}

/// A volume that a container sees as a device; only claims can be seen so.
pub fn validate_devices(container: &At, volumes: &Volumes<'_>, errors: &mut ErrorList) {
    let (mut names, mut paths) = (HashSet::new(), HashSet::new());
    for device in container.child("volumeDevices").items() {
        let (name, path) = (device.child("name"), device.child("devicePath"));
        name.needed(errors);
        if names.contains(name.text()) {
            name.invalid(errors, "must be unique");
        }
        match volumes.get(name.text()) {
            None => errors.not_found(&name.path, name.text()),
            Some(volume) if !is_claim(volume) => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                name.invalid(errors, detail);
            }
            Some(_) => {}
        }
        path.needed(errors);
        if paths.contains(path.text()) {
            path.invalid_as(errors, path.text(), "must be unique");
        }
        match no_backsteps(path.text()).is_empty() {
            true => drop(paths.insert(path.text())),
            false => path.invalid(errors, "can not contain backsteps ('..')"),
        }
        let mounts = container.child("volumeMounts");
        let mounted = |field: &str, text: &str| mounts.list().iter().any(|m| m[field] == *text);
        if mounted("name", name.text()) {
            name.invalid(errors, "must not already exist in volumeMounts");
        }
        if mounted("mountPath", path.text()) {
            path.invalid(errors, "must not already exist as a path in volumeMounts");
        }
        if !name.is_empty() {
            names.insert(name.text());
        }
    }
}

fn is_claim(volume: &Value) -> bool {
    let has = |source: &str| volume.get(source).is_some_and(|source| !source.is_null());
    has("persistentVolumeClaim") || has("ephemeral")
}
