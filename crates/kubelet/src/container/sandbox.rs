//! The sandbox a pod asks for.
//!
//! Consumes the pod and the node's settings, emits a [`PodSandboxConfig`]. Counterpart:
//! `pkg/kubelet/kuberuntime/kuberuntime_sandbox.go`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ContainerPort;
use skiff_runtime::{
    LinuxContainerResources, LinuxPodSandboxConfig, NamespaceOptions, PodSandboxConfig,
    PodSandboxMetadata, PortMapping, Protocol, SeccompProfile, UserNamespace,
};

use super::{
    dns::{DnsContext, resolv_conf},
    hosts::host_name,
    resources::{cgroup_parent, pod_resources},
    security::namespaces,
};
use crate::{config::KubeletConfig, pod::desired::DesiredPod};

pub const POD_NAME_LABEL: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
pub const POD_UID_LABEL: &str = "io.kubernetes.pod.uid";

/// `node_resolv_conf` is the content of the node's own file, `user` the pod's users if they are not the node's.
pub fn sandbox_config(
    pod: &DesiredPod,
    attempt: u32,
    config: &KubeletConfig,
    node_resolv_conf: &str,
    user: Option<UserNamespace>,
) -> PodSandboxConfig {
    let key = &pod.key;
    let spec = pod.spec();
    let dns = DnsContext {
        cluster_dns: &config.cluster_dns,
        cluster_domain: &config.cluster_domain,
        node_resolv_conf,
    };
    let resolv_conf = resolv_conf(
        spec.dns_policy.as_deref(),
        spec.dns_config.as_ref(),
        &key.namespace,
        pod.host_network(),
        &dns,
    );
    let sysctls = pod.security().and_then(|s| s.sysctls.clone()).unwrap_or_default();
    let mut labels = pod.labels();
    labels.extend(identity(pod));
    PodSandboxConfig {
        metadata: PodSandboxMetadata {
            name: key.name.clone(),
            uid: key.uid.clone(),
            namespace: key.namespace.clone(),
            attempt,
        },
        runtime_handler: String::new(),
        hostname: host_name(spec, &key.name, &key.namespace, &config.cluster_domain).hostname,
        log_directory: config.pod_log_dir(&key.namespace, &key.name, &key.uid),
        resolv_conf: Some(resolv_conf),
        port_mappings: if pod.host_network() { Vec::new() } else { port_mappings(pod) },
        labels,
        annotations: pod.annotations(),
        linux: LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent(pod.qos, &key.uid),
            namespaces: NamespaceOptions { user, ..namespaces(pod) },
            privileged: has_privileged(pod),
            sysctls: sysctls.into_iter().map(|s| (s.name, s.value)).collect(),
            seccomp: SeccompProfile::RuntimeDefault,
            resources: LinuxContainerResources {
                pids_limit: config.pod_pids_limit.unwrap_or(0),
                ..pod_resources(spec)
            },
        },
    }
}

/// The labels by which a sandbox or container is matched to its pod again.
pub fn identity(pod: &DesiredPod) -> BTreeMap<String, String> {
    let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    BTreeMap::from([
        label(POD_NAME_LABEL, &pod.key.name),
        label(POD_NAMESPACE_LABEL, &pod.key.namespace),
        label(POD_UID_LABEL, &pod.key.uid),
    ])
}

fn has_privileged(pod: &DesiredPod) -> bool {
    let mut contexts = pod.containers.iter().filter_map(|c| c.spec.security_context.as_ref());
    contexts.any(|context| context.privileged == Some(true))
}

fn port_mappings(pod: &DesiredPod) -> Vec<PortMapping> {
    let ports = pod.containers.iter().flat_map(|c| c.spec.ports.iter().flatten());
    ports.filter_map(port_mapping).collect()
}

fn port_mapping(port: &ContainerPort) -> Option<PortMapping> {
    Some(PortMapping {
        protocol: match port.protocol.as_deref() {
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            _ => Protocol::Tcp,
        },
        container_port: u16::try_from(port.container_port).ok()?,
        host_port: u16::try_from(port.host_port.filter(|p| *p > 0)?).ok()?,
        host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
    })
}
