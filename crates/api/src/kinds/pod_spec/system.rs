//! What can be wrong with a Pod of one operating system: options of Windows, and fields that the
//! other system has no meaning for.
//!
//! Counterparts: `validateOS`, `validateLinux`, `validateWindows`,
//! `validateWindowsSecurityContextOptions`, `validateWindowsHostProcessPod`.

use serde_json::Value;

use super::CONTAINER_LISTS;
use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::validation::dns_subdomain;

const CREDENTIALS_MAX_KIB: usize = 64;
const DOMAIN_MAX: usize = 256;
const USER_MAX: usize = 104;

pub fn validate_os(spec: &At, errors: &mut ErrorList) {
    let os = spec.child("os");
    if !os.is_set() {
        return;
    }
    match os.text_of("name") {
        "" => os.child("name").required(errors, ""),
        "linux" => refuse(spec, LINUX, "windows options cannot be set for a linux pod", errors),
        "windows" => refuse(spec, WINDOWS, "cannot be set for a windows pod", errors),
        name => errors.not_supported(&os.path, name, &["linux", "windows"]),
    }
}

/// Fields that one operating system has no meaning for, in upstream's order: of the Pod, each by
/// the step before it (empty for the spec itself), and of a container's security context.
struct Foreign {
    pod: &'static [(&'static str, &'static str)],
    container: &'static [&'static str],
}

const LINUX: &Foreign =
    &Foreign { pod: &[("securityContext", "windowsOptions")], container: &["windowsOptions"] };

const WINDOWS: &Foreign = &Foreign {
    pod: &[
        ("securityContext", "appArmorProfile"),
        ("securityContext", "seLinuxOptions"),
        ("", "hostUsers"),
        ("", "hostPID"),
        ("", "hostIPC"),
        ("securityContext", "seccompProfile"),
        ("securityContext", "fsGroup"),
        ("securityContext", "fsGroupChangePolicy"),
        ("securityContext", "sysctls"),
        ("", "shareProcessNamespace"),
        ("securityContext", "runAsUser"),
        ("securityContext", "runAsGroup"),
        ("securityContext", "supplementalGroups"),
        ("securityContext", "supplementalGroupsPolicy"),
        ("securityContext", "seLinuxChangePolicy"),
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
    for (holder, field) in foreign.pod {
        let context = spec.child("securityContext");
        let at = if holder.is_empty() { spec.child(field) } else { context.child(field) };
        let off = matches!(*field, "hostPID" | "hostIPC") && !at.flag();
        if at.is_set() && !off {
            at.forbidden(errors, detail);
        }
    }
    for list in CONTAINER_LISTS {
        for container in spec.child(list).items() {
            let context = container.child("securityContext");
            for field in foreign.container.iter().filter(|field| context.has(field)) {
                context.child(field).forbidden(errors, detail);
            }
        }
    }
}

// === options of Windows ===

pub fn validate_windows_options(options: &At, errors: &mut ErrorList) {
    options.child("gmsaCredentialSpecName").obeys_if_given(errors, dns_subdomain);
    let credentials = options.child("gmsaCredentialSpec");
    match credentials.text().len() {
        _ if !credentials.is_set() => {}
        0 => credentials.invalid(errors, "gmsaCredentialSpec cannot be an empty string"),
        length if length > CREDENTIALS_MAX_KIB * 1024 => {
            let detail = format!("gmsaCredentialSpec size must be under {CREDENTIALS_MAX_KIB} KiB");
            credentials.invalid(errors, detail);
        }
        _ => {}
    }
    options.child("runAsUserName").obeys_if_given(errors, windows_user);
}

/// `DOMAIN\\user` or `user`.
fn windows_user(text: &str) -> Vec<String> {
    let alone = |fault: &str| vec![format!("runAsUserName {fault}")];
    if text.is_empty() {
        return alone("cannot be an empty string");
    }
    if text.chars().any(|character| character.is_ascii_control()) {
        return alone("cannot contain control characters");
    }
    let (domain, user) = match text.split('\\').collect::<Vec<_>>()[..] {
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => return alone("cannot contain more than one backslash"),
    };
    let mut faults = Vec::new();
    if domain.is_some_and(|domain| domain.len() >= DOMAIN_MAX) {
        faults.push(format!("Domain length must be under {DOMAIN_MAX} characters"));
    }
    if domain.is_some_and(|domain| !is_net_bios(domain) && !is_dns(domain)) {
        faults.push("Domain doesn't match the NetBios nor the DNS format".to_owned());
    }
    match user.len() {
        0 => faults.push("User cannot be empty".to_owned()),
        length if length > USER_MAX => {
            faults.push(format!("User length must not be longer than {USER_MAX} characters"));
        }
        _ => {}
    }
    if !user.is_empty() && user.chars().all(|character| matches!(character, '.' | ' ')) {
        faults.push("User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(|character| r#""/\:;|=,+*?<>@[]"#.contains(character)) {
        faults.push(r#"User cannot contain the following characters: "/\:;|=,+*?<>@[]"#.to_owned());
    }
    faults.into_iter().map(|fault| format!("runAsUserName's {fault}")).collect()
}

fn is_net_bios(domain: &str) -> bool {
    (1..=15).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && !domain.contains(|character| r#"\/:*?"<>|"#.contains(character))
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    })
}

/// Containers that run as processes of the host: all of a Pod's or none, with the host's network,
/// and only where privileged containers are allowed.
pub fn validate_host_processes(spec: &At, errors: &mut ErrorList) {
    let asked = |holder: &At| {
        let context = holder.child("securityContext");
        context.child("windowsOptions").child("hostProcess").value.as_bool()
    };
    let of_pod = asked(spec);
    let (mut all, mut on_host) = (0, 0);
    for list in CONTAINER_LISTS {
        for container in spec.child(list).items() {
            let own = asked(&container);
            if let (Some(pod), Some(own)) = (of_pod, own)
                && pod != own
            {
                let context = container.child("securityContext");
                let options = context.child("windowsOptions");
                let detail = format!(
                    "pod hostProcess value must be identical if both are specified, was {pod}"
                );
                options.child("hostProcess").invalid(errors, detail);
            }
            all += 1;
            on_host += usize::from(own.or(of_pod) == Some(true));
        }
    }
    if on_host == 0 {
        return;
    }
    if on_host != all {
        let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        spec.invalid_as(errors, "", detail);
    }
    if !spec.flag_of("hostNetwork") {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        spec.child("hostNetwork").invalid_as(errors, Value::Bool(false), detail);
    }
    let detail = format!("hostProcess containers are {}", super::security::NOT_ALLOWED);
    spec.forbidden(errors, detail);
}
