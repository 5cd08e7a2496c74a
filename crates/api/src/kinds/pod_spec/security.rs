//! What can be wrong with what a Pod's processes may do: users, profiles, sysctls, the system's kind.
//!
//! Counterparts: `validatePodSpecSecurityContext`, `ValidateSecurityContext`, `validateHostUsers`,
//! `validateWindows`. Differs from upstream: privileged containers are always allowed, as they are
//! by every distribution.

use std::collections::HashSet;

use serde_json::Value;

use crate::field::ErrorList;
use crate::internal::printed;
use crate::kinds::at::At;
use crate::kinds::rules::descending_path;

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
    context.child("supplementalGroupsPolicy").one_of_if_set(errors, &["Merge", "Strict"]);
    context.child("seLinuxChangePolicy").one_of_if_set(errors, &["MountOption", "Recursive"]);
    profile(&context.child("seccompProfile"), "seccomp", errors);
    profile(&context.child("appArmorProfile"), "apparmor", errors);
}

pub fn validate_container_security(context: &At, host_users: bool, errors: &mut ErrorList) {
    user_id(&context.child("runAsUser"), errors);
    user_id(&context.child("runAsGroup"), errors);
    let mount = context.child("procMount");
    mount.one_of_if_set(errors, &["Default", "Unmasked"]);
    if host_users && mount.text() == "Unmasked" {
        mount.invalid(errors, "`hostUsers` must be false to use `Unmasked`");
    }
    profile(&context.child("seccompProfile"), "seccomp", errors);
    escalation(context, errors);
    profile(&context.child("appArmorProfile"), "apparmor", errors);
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

/// A seccomp or AppArmor profile: a type, and a name where the type is `Localhost`.
fn profile(profile: &At, of: &str, errors: &mut ErrorList) {
    if !profile.is_set() {
        return;
    }
    let kind = profile.child("type");
    match kind.text() {
        "" if of == "seccomp" => {
            kind.required(errors, "type is required when seccompProfile is set")
        }
        "" => kind.required(errors, "type is required when appArmorProfile is set"),
        _ => kind.one_of(errors, PROFILE_TYPES),
    }
    let name = profile.child("localhostProfile");
    match (kind.text() == "Localhost", name.is_set()) {
        (true, false) => {
            name.required(errors, &format!("must be set when {of} type is Localhost"));
        }
        (true, true) if of == "seccomp" => name.obeys(errors, descending_path),
        (true, true) => apparmor_name(&name, errors),
        (false, true) => {
            let detail = format!("can only be set when {of} type is Localhost");
            let shown = printed("core.SeccompProfile", profile.value);
            errors.invalid_printed(&name.path, shown, detail);
        }
        (false, false) => {}
    }
}

fn apparmor_name(name: &At, errors: &mut ErrorList) {
    const LONGEST: usize = 4095 - "localhost/".len();
    if name.text().trim() != name.text() {
        name.invalid(errors, "must not be padded with whitespace");
    } else if name.is_empty() {
        name.required(errors, "must be set when apparmor type is Localhost");
    }
    if name.text().len() > LONGEST {
        errors.too_long(&name.path, LONGEST);
    }
}

// === profiles in annotations, as before they had fields ===

pub const APPARMOR_PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_PREFIX: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// Type and local name that an annotation speaks of.
pub fn profile_of_annotation(text: &str) -> Option<(&'static str, Option<&str>)> {
    match text {
        "unconfined" => Some(("Unconfined", None)),
        "runtime/default" | "docker/default" => Some(("RuntimeDefault", None)),
        _ => text.strip_prefix("localhost/").map(|name| ("Localhost", Some(name))),
    }
}

/// A seccomp annotation may repeat the field, and not contradict it.
pub fn validate_seccomp_annotations(annotations: &At, spec: &At, errors: &mut ErrorList) {
    let pod = spec.child("securityContext");
    seccomp_agrees(annotations.text_of(SECCOMP_POD), &pod.child("seccompProfile"), errors);
    for field in ["initContainers", "containers"] {
        for container in spec.child(field).items() {
            let key = format!("{SECCOMP_PREFIX}{}", container.text_of("name"));
            let context = container.child("securityContext");
            seccomp_agrees(annotations.text_of(&key), &context.child("seccompProfile"), errors);
        }
    }
}

fn seccomp_agrees(annotation: &str, profile: &At, errors: &mut ErrorList) {
    let Some((of, name)) = profile_of_annotation(annotation) else { return };
    if !profile.is_set() {
        return;
    }
    if profile.text_of("type") != of {
        let detail = "seccomp type in annotation and field must match";
        profile.child("type").forbidden(errors, detail);
    } else if name.is_some_and(|name| name != profile.text_of("localhostProfile")) {
        let detail = "seccomp profile in annotation and field must match";
        profile.child("localhostProfile").forbidden(errors, detail);
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

// === host namespaces and operating system ===

/// A Pod with users of its own cannot share what belongs to the node's users.
pub fn validate_host_users(spec: &At, errors: &mut ErrorList) {
    if spec.value.get("hostUsers") != Some(&Value::Bool(false)) {
        return;
    }
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec.flag_of(field) {
            spec.child(field).forbidden(errors, "when `hostUsers` is false");
        }
    }
    for field in ["containers", "initContainers"] {
        for container in spec.child(field).items() {
            let devices = container.child("volumeDevices");
            if !devices.is_empty() {
                devices.forbidden(errors, "when `hostUsers` is false");
            }
        }
    }
}

pub fn validate_os(spec: &At, errors: &mut ErrorList) {
    let os = spec.child("os");
    if !os.is_set() {
        return;
    }
    match os.text_of("name") {
        "" => os.child("name").required(errors, "cannot be empty"),
        "linux" => refuse(spec, LINUX, "windows options cannot be set for a linux pod", errors),
        "windows" => refuse(spec, WINDOWS, "cannot be set for a windows pod", errors),
        name => errors.not_supported(&os.path, name, &["linux", "windows"]),
    }
}

/// Fields that one operating system has no meaning for: of the spec, of its security context, of a
/// container's.
struct Foreign {
    spec: &'static [&'static str],
    pod: &'static [&'static str],
    container: &'static [&'static str],
}

const LINUX: &Foreign =
    &Foreign { spec: &[], pod: &["windowsOptions"], container: &["windowsOptions"] };

const WINDOWS: &Foreign = &Foreign {
    spec: &["hostPID", "hostIPC", "hostUsers"],
    pod: &[
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "fsGroup",
        "fsGroupChangePolicy",
        "sysctls",
        "runAsUser",
        "runAsGroup",
        "supplementalGroups",
        "supplementalGroupsPolicy",
    ],
    container: &[
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "capabilities",
        "readOnlyRootFilesystem",
        "privileged",
        "allowPrivilegeEscalation",
        "procMount",
        "runAsUser",
        "runAsGroup",
    ],
};

fn refuse(spec: &At, foreign: &Foreign, detail: &str, errors: &mut ErrorList) {
    let mut each = |holder: &At, fields: &[&str]| {
        for field in fields {
            let at = holder.child(field);
            if at.is_set() && at.value != &Value::Bool(false) {
                at.forbidden(errors, detail);
            }
        }
    };
    each(spec, foreign.spec);
    each(&spec.child("securityContext"), foreign.pod);
    for field in ["containers", "initContainers"] {
        for container in spec.child(field).items() {
            each(&container.child("securityContext"), foreign.container);
        }
    }
}
