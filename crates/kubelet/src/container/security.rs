//! A container's privileges: what the pod's and its own security contexts come to.
//!
//! Consumes both contexts and the image's user, decides, emits the runtime's security context or why the container
//! must not start. Counterpart: `pkg/kubelet/kuberuntime/security_context*.go` and `pkg/securitycontext`.
//! Invariant: the container's own fields win over the pod's.

use std::path::Path;

use k8s_openapi::api::core::v1::{
    Container, PodSecurityContext, SeccompProfile as ApiSeccomp, SecurityContext,
};
use skiff_runtime::{
    Capabilities, Image, LinuxContainerSecurityContext, NamespaceMode, NamespaceOptions,
    SeccompProfile, SupplementalGroupsPolicy,
};

use crate::pod::desired::DesiredPod;

const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

#[derive(Debug, thiserror::Error, PartialEq)]
pub enum SecurityError {
    #[error(
        "container has runAsNonRoot and image will run as root (pod: {pod:?}, container: {container})"
    )]
    ImageRunsAsRoot { pod: String, container: String },
    #[error("container's runAsUser breaks non-root policy (pod: {pod:?}, container: {container})")]
    UserIsRoot { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \
         {pod:?}, container: {container})"
    )]
    UserNotNumeric { pod: String, container: String, user: String },
    #[error("localhost seccomp profile is missing its localhostProfile")]
    NoLocalhostProfile,
}

/// What the node says of seccomp.
pub struct NodeSeccomp<'a> {
    /// Where profiles of the node are.
    pub root: &'a Path,
    /// Who asks for no profile has the runtime's.
    pub default: bool,
}

/// The namespaces of a pod's containers.
pub fn namespaces(pod: &DesiredPod) -> NamespaceOptions {
    let spec = pod.spec();
    let host =
        |on: Option<bool>| if on == Some(true) { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = match (spec.host_pid, spec.share_process_namespace) {
        (Some(true), _) => NamespaceMode::Node,
        (_, Some(true)) => NamespaceMode::Pod,
        _ => NamespaceMode::Container,
    };
    NamespaceOptions {
        network: host(spec.host_network),
        pid,
        ipc: host(spec.host_ipc),
        target_id: None,
        user: None,
    }
}

pub fn security_context(
    pod: &DesiredPod,
    container: &Container,
    image: &Image,
    target_id: Option<String>,
    node: &NodeSeccomp<'_>,
) -> Result<LinuxContainerSecurityContext, SecurityError> {
    let none = SecurityContext::default();
    let own = container.security_context.as_ref().unwrap_or(&none);
    let shared_default = PodSecurityContext::default();
    let shared = pod.security().unwrap_or(&shared_default);
    let run_as_user = own.run_as_user.or(shared.run_as_user);
    verify_non_root(pod, container, own, shared, run_as_user, image)?;

    let privileged = own.privileged.unwrap_or(false);
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| {
        if unmasked { Vec::new() } else { list.iter().map(|p| (*p).to_owned()).collect() }
    };
    let mut namespaces = namespaces(pod);
    if target_id.is_some() {
        namespaces.pid = NamespaceMode::Target;
        namespaces.target_id = target_id;
    }
    let user_given = run_as_user.is_some() || !image.username.is_empty() || image.uid.is_some();
    let run_as_group = own.run_as_group.or(shared.run_as_group);
    Ok(LinuxContainerSecurityContext {
        capabilities: capabilities(own),
        privileged,
        namespaces,
        // A group alone still needs a user; root is what an image without one means.
        run_as_user: run_as_user
            .or((run_as_group.is_some() && !user_given).then_some(0))
            .or(image.uid.filter(|_| run_as_group.is_some())),
        run_as_username: None,
        run_as_group,
        supplemental_groups: supplemental_groups(shared),
        supplemental_groups_policy: match shared.supplemental_groups_policy.as_deref() {
            Some("Strict") => SupplementalGroupsPolicy::Strict,
            _ => SupplementalGroupsPolicy::Merge,
        },
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        seccomp: seccomp(
            own.seccomp_profile.as_ref().or(shared.seccomp_profile.as_ref()),
            privileged,
            node,
        )?,
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READONLY_PATHS),
    })
}

fn supplemental_groups(shared: &PodSecurityContext) -> Vec<i64> {
    let mut groups = shared.supplemental_groups.clone().unwrap_or_default();
    groups.extend(shared.fs_group.filter(|g| !groups.contains(g)));
    groups
}

fn capabilities(own: &SecurityContext) -> Capabilities {
    let caps = own.capabilities.clone().unwrap_or_default();
    Capabilities {
        add: caps.add.unwrap_or_default(),
        drop: caps.drop.unwrap_or_default(),
        add_ambient: Vec::new(),
    }
}

fn seccomp(
    profile: Option<&ApiSeccomp>,
    privileged: bool,
    node: &NodeSeccomp<'_>,
) -> Result<SeccompProfile, SecurityError> {
    let Some(profile) = profile.filter(|_| !privileged) else {
        return Ok(match node.default && !privileged {
            true => SeccompProfile::RuntimeDefault,
            false => SeccompProfile::Unconfined,
        });
    };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(SeccompProfile::RuntimeDefault),
        "Localhost" => {
            let name =
                profile.localhost_profile.as_ref().ok_or(SecurityError::NoLocalhostProfile)?;
            Ok(SeccompProfile::Localhost(node.root.join(name)))
        }
        _ => Ok(SeccompProfile::Unconfined),
    }
}

fn verify_non_root(
    pod: &DesiredPod,
    container: &Container,
    own: &SecurityContext,
    shared: &PodSecurityContext,
    run_as_user: Option<i64>,
    image: &Image,
) -> Result<(), SecurityError> {
    if own.run_as_non_root.or(shared.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let names = || (pod.key.to_string(), container.name.clone());
    match run_as_user {
        Some(0) => {
            let (pod, container) = names();
            Err(SecurityError::UserIsRoot { pod, container })
        }
        Some(_) => Ok(()),
        None if image.uid.is_some_and(|uid| uid != 0) => Ok(()),
        None if image.username.is_empty() => {
            let (pod, container) = names();
            Err(SecurityError::ImageRunsAsRoot { pod, container })
        }
        None => {
            let (pod, container) = names();
            Err(SecurityError::UserNotNumeric { pod, container, user: image.username.clone() })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn decide(
        shared: Value,
        own: Value,
        image: Image,
    ) -> Result<LinuxContainerSecurityContext, SecurityError> {
        let pod = json!({
            "metadata": { "name": "p", "namespace": "ns", "uid": "u" },
            "spec": { "securityContext": shared, "containers": [{ "name": "c", "securityContext": own }] },
        });
        let pod = DesiredPod::new(Arc::new(serde_json::from_value(pod).expect("a pod")));
        security_context(
            &pod,
            &pod.containers[0].spec,
            &image,
            None,
            &NodeSeccomp { root: Path::new("/seccomp"), default: false },
        )
    }

    #[test]
    fn the_containers_own_fields_win() {
        let shared = json!({
            "runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4],
            "seccompProfile": { "type": "RuntimeDefault" },
        });
        let context = decide(shared, json!({ "runAsUser": 9 }), Image::default()).expect("decided");
        assert_eq!((context.run_as_user, context.run_as_group), (Some(9), Some(2)));
        assert_eq!(context.supplemental_groups, [4, 3]);
        assert_eq!(context.seccomp, SeccompProfile::RuntimeDefault);
        assert!(!context.masked_paths.is_empty() && !context.no_new_privs);
    }

    #[test]
    fn privileged_sees_everything() {
        let own = json!({ "privileged": true, "seccompProfile": { "type": "RuntimeDefault" } });
        let context = decide(json!({}), own, Image::default()).expect("decided");
        assert!(context.privileged && context.masked_paths.is_empty());
        assert_eq!(context.seccomp, SeccompProfile::Unconfined);
    }

    #[test]
    fn non_root_is_verified() {
        let named = Image { username: "www".into(), ..Image::default() };
        let numbered = Image { uid: Some(101), ..Image::default() };
        let wanted = || json!({ "runAsNonRoot": true });
        assert!(decide(wanted(), json!({}), numbered).is_ok());
        assert!(decide(wanted(), json!({ "runAsUser": 5 }), Image::default()).is_ok());
        for (own, image, text) in [
            (json!({}), Image::default(), "image will run as root"),
            (json!({ "runAsUser": 0 }), Image::default(), "breaks non-root policy"),
            (json!({}), named, "non-numeric user (www)"),
        ] {
            let error = decide(wanted(), own, image).expect_err("refused").to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
