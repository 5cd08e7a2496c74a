//! What can be wrong with what a Pod's processes may do: users, profiles, sysctls, namespaces.
//!
//! Counterparts: `validatePodSpecSecurityContext`, `ValidateSecurityContext`, `validateHostUsers`.
//! Differs from upstream: whether a cluster allows privileged containers is not known here. They are
//! reported as [`NOT_ALLOWED`], and the request path waives these faults where they are allowed.

use std::collections::HashSet;

use serde_json::Value;

use super::CONTAINER_LISTS;
use super::system::validate_windows_options;
use crate::field::ErrorList;
use crate::internal::printed;
use crate::kinds::at::At;
use crate::kinds::rules::descending_path;

/// What a cluster may allow or not; the request path waives it where it does.
pub const NOT_ALLOWED: &str = "disallowed by cluster policy";
const NEEDS_APPARMOR_NAME: &str = "must be set when AppArmor type is Localhost";
const PATH_MAX: usize = 4095;
const PROFILE_TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const SYSCTL_FORMAT: &str = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

pub fn validate_pod_security(spec: &At, errors: &mut ErrorList) {
    let context = spec.child("securityContext");
    for id in ["fsGroup", "runAsUser", "runAsGroup"] {
        user_id(&context.child(id), errors);
    }
    context.child("supplementalGroups").items().for_each(|group| user_id(&group, errors));
    // Upstream's internal form keeps this field in the security context.
    if spec.flag_of("shareProcessNamespace") && spec.flag_of("hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        context.child("shareProcessNamespace").invalid_as(errors, true, detail);
    }
    sysctls(spec, &context.child("sysctls"), errors);
    context.child("fsGroupChangePolicy").one_of_if_set(errors, &["Always", "OnRootMismatch"]);
    seccomp_profile(&context.child("seccompProfile"), errors);
    validate_windows_options(&context.child("windowsOptions"), errors);
    apparmor_profile(&context.child("appArmorProfile"), errors);
    context.child("supplementalGroupsPolicy").one_of_if_set(errors, &["Merge", "Strict"]);
    context.child("seLinuxChangePolicy").one_of_if_set(errors, &["Recursive"]);
}

pub fn validate_container_security(context: &At, host_users: bool, errors: &mut ErrorList) {
    if context.flag_of("privileged") {
        context.child("privileged").forbidden(errors, NOT_ALLOWED);
    }
    user_id(&context.child("runAsUser"), errors);
    user_id(&context.child("runAsGroup"), errors);
    let mount = context.child("procMount");
    mount.one_of_if_set(errors, &["Default", "Unmasked"]);
    if host_users && mount.text() == "Unmasked" {
        mount.invalid(errors, "`hostUsers` must be false to use `Unmasked`");
    }
    seccomp_profile(&context.child("seccompProfile"), errors);
    escalation(context, errors);
    validate_windows_options(&context.child("windowsOptions"), errors);
    apparmor_profile(&context.child("appArmorProfile"), errors);
}

fn user_id(id: &At, errors: &mut ErrorList) {
    id.between(errors, 0..=i64::from(i32::MAX));
}

/// Who may do everything cannot be kept from gaining rights.
fn escalation(context: &At, errors: &mut ErrorList) {
    if context.value.get("allowPrivilegeEscalation") != Some(&Value::Bool(false)) {
        return;
    }
    if context.flag_of("privileged") {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        context.invalid(errors, detail);
    }
    let capabilities = context.child("capabilities");
    if capabilities.child("add").list().iter().any(|name| name == "CAP_SYS_ADMIN") {
        let detail =
            "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
        context.invalid(errors, detail);
    }
}

fn seccomp_profile(profile: &At, errors: &mut ErrorList) {
    if !profile.is_set() {
        return;
    }
    let kind = profile.child("type");
    match kind.text() {
        "" => kind.required(errors, "type is required when seccompProfile is set"),
        _ => kind.one_of(errors, PROFILE_TYPES),
    }
    let name = profile.child("localhostProfile");
    match (kind.text() == "Localhost", name.is_set()) {
        (true, false) => name.required(errors, "must be set when seccomp type is Localhost"),
        (true, true) => name.obeys(errors, descending_path),
        (false, true) => {
            let detail = "can only be set when seccomp type is Localhost";
            errors.invalid_printed(
                &name.path,
                printed("core.SeccompProfile", profile.value),
                detail,
            );
        }
        (false, false) => {}
    }
}

fn apparmor_profile(profile: &At, errors: &mut ErrorList) {
    let (kind, name) = (profile.child("type"), profile.child("localhostProfile"));
    match kind.text() {
        _ if !profile.is_set() => {}
        "Localhost" if name.is_set() => apparmor_name(&name, errors),
        "Localhost" => name.required(errors, NEEDS_APPARMOR_NAME),
        "RuntimeDefault" | "Unconfined" if name.is_set() => {
            name.invalid(errors, "can only be set when AppArmor type is Localhost");
        }
        "RuntimeDefault" | "Unconfined" => {}
        "" => kind.required(errors, "type is required when appArmorProfile is set"),
        _ => kind.not_supported(errors, PROFILE_TYPES),
    }
}

fn apparmor_name(name: &At, errors: &mut ErrorList) {
    if name.text().trim() != name.text() {
        name.invalid(errors, "must not be padded with whitespace");
    } else if name.is_empty() {
        name.required(errors, NEEDS_APPARMOR_NAME);
    }
    if name.text().len() > PATH_MAX {
        errors.too_long(&name.path, PATH_MAX);
    }
}

// === profiles in annotations, as before they had fields ===

pub const APPARMOR_PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
pub const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub const SECCOMP_PREFIX: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// Type and local name that an annotation speaks of.
pub fn profile_of_annotation(text: &str) -> Option<(&'static str, Option<&str>)> {
    match text {
        "unconfined" => Some(("Unconfined", None)),
        "runtime/default" | "docker/default" => Some(("RuntimeDefault", None)),
        _ => text.strip_prefix("localhost/").map(|name| ("Localhost", Some(name))),
    }
}

/// The texts of annotations about profiles, whatever the fields say.
pub fn validate_profile_annotations(annotations: &At, spec: &At, errors: &mut ErrorList) {
    for (key, text) in texts(annotations).filter(|(key, _)| *key == SECCOMP_POD) {
        seccomp_text(&annotations.child(key), text, errors);
    }
    for (key, text) in texts(annotations).filter(|(key, _)| key.starts_with(SECCOMP_PREFIX)) {
        seccomp_text(&annotations.child(key), text, errors);
    }
    for (key, text) in texts(annotations) {
        let Some(name) = key.strip_prefix(APPARMOR_PREFIX) else { continue };
        let at = annotations.path.key(key);
        if !containers(spec).any(|container| container["name"] == *name) {
            errors.invalid(&at, name, "container not found");
        }
        let known = ["", "runtime/default", "unconfined"].contains(&text);
        if !known && !text.starts_with("localhost/") {
            errors.invalid(&at, text, format!("invalid AppArmor profile name: {text:?}"));
        }
    }
}

fn seccomp_text(at: &At, text: &str, errors: &mut ErrorList) {
    match profile_of_annotation(text) {
        Some((_, Some(name))) => {
            descending_path(name).into_iter().for_each(|fault| at.invalid_as(errors, name, fault));
        }
        Some(_) => {}
        None => at.invalid_as(errors, text, "must be a valid seccomp profile"),
    }
}

fn texts<'v>(annotations: &At<'v, '_>) -> impl Iterator<Item = (&'v str, &'v str)> {
    let map = annotations.map().into_iter().flatten();
    map.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
}

fn containers<'v>(spec: &At<'v, '_>) -> impl Iterator<Item = &'v Value> {
    CONTAINER_LISTS.into_iter().flat_map(|list| spec.child(list).list())
}

/// An annotation may repeat the field, and not contradict it.
pub fn validate_profiles_agree(annotations: &At, spec: &At, errors: &mut ErrorList) {
    let pod = spec.child("securityContext");
    let seccomp = profile_of_annotation(annotations.text_of(SECCOMP_POD));
    agrees("seccomp", seccomp, &pod.child("seccompProfile"), &pod.child("seccompProfile"), errors);
    for (of, prefix, field) in [
        ("seccomp", SECCOMP_PREFIX, "seccompProfile"),
        ("apparmor", APPARMOR_PREFIX, "appArmorProfile"),
    ] {
        for list in CONTAINER_LISTS {
            for container in spec.child(list).items() {
                let key = format!("{prefix}{}", container.text_of("name"));
                let annotation = profile_of_annotation(annotations.text_of(&key));
                let context = container.child("securityContext");
                let own = context.child(field);
                let inherited = pod.child(field);
                let profile = if own.is_set() || of == "seccomp" { &own } else { &inherited };
                agrees(of, annotation, profile, &own, errors);
            }
        }
    }
}

fn agrees(
    of: &str,
    annotation: Option<(&str, Option<&str>)>,
    profile: &At,
    at: &At,
    errors: &mut ErrorList,
) {
    let Some((kind, name)) = annotation.filter(|_| profile.is_set()) else { return };
    if profile.text_of("type") != kind {
        let detail = format!("{of} type in annotation and field must match");
        at.child("type").forbidden(errors, detail);
    } else if name.is_some_and(|name| name != profile.text_of("localhostProfile")) {
        let detail = format!("{of} profile in annotation and field must match");
        at.child("localhostProfile").forbidden(errors, detail);
    }
}

// === sysctls ===

fn sysctls(spec: &At, sysctls: &At, errors: &mut ErrorList) {
    let mut names = HashSet::new();
    for sysctl in sysctls.items() {
        let name = sysctl.child("name");
        if name.is_empty() {
            name.required(errors, "");
        } else if !is_sysctl_name(name.text()) {
            name.invalid(errors, SYSCTL_FORMAT);
        } else if !names.insert(name.text()) {
            name.duplicate(errors);
        }
        host_sysctl(spec, &name, errors);
    }
}

fn is_sysctl_name(name: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let part = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().copied().is_some_and(alphanumeric)
            && bytes.last().copied().is_some_and(alphanumeric)
            && bytes.iter().all(|byte| alphanumeric(*byte) || b"-_".contains(byte))
    };
    name.len() <= 253 && name.split(['.', '/']).all(part)
}

/// A setting of a namespace that the Pod shares with its node is not the Pod's to change.
fn host_sysctl(spec: &At, name: &At, errors: &mut ErrorList) {
    let text = name.text().replace('/', ".");
    let of_ipc = text.starts_with("kernel.shm")
        || text.starts_with("kernel.msg")
        || text.starts_with("fs.mqueue.")
        || text == "kernel.sem";
    for (holds, field) in [(text.starts_with("net."), "hostNetwork"), (of_ipc, "hostIPC")] {
        if holds && spec.flag_of(field) {
            name.invalid(errors, format!("may not be specified when '{field}' is true"));
        }
    }
}

// === host namespaces ===

/// A Pod with users of its own cannot share what belongs to the node's users.
pub fn validate_host_users(spec: &At, errors: &mut ErrorList) {
    if spec.value.get("hostUsers") != Some(&Value::Bool(false)) {
        return;
    }
    for (field, shown) in
        [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")]
    {
        if spec.flag_of(field) {
            spec.child(shown).forbidden(errors, "when `hostUsers` is false");
        }
    }
    for field in CONTAINER_LISTS {
        for container in spec.child(field).items() {
            let devices = container.child("volumeDevices");
            if !devices.is_empty() {
                devices.forbidden(errors, "when `hostUsers` is false");
            }
        }
    }
}
