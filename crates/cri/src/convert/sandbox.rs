//! Pod sandboxes.
//!
//! Lost in CRI: limits of the pod in a status, and the network namespace, which runtimes tell among the `info` of a verbose one.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde_json::{Value, json};
use skiff_runtime::{
    IdMapping, LinuxPodSandboxConfig, NamespaceMode, NamespaceOptions, PodSandboxConfig,
    PodSandboxMetadata, PodSandboxState, PodSandboxStatus, PortMapping, Protocol, SeccompProfile,
    UserNamespace,
};

use super::{Enumeration, Unknown, nanos, text, time};
use crate::api;

// === metadata ===

impl From<PodSandboxMetadata> for api::PodSandboxMetadata {
    fn from(from: PodSandboxMetadata) -> Self {
        let PodSandboxMetadata { name, uid, namespace, attempt } = from;
        api::PodSandboxMetadata { name, uid, namespace, attempt }
    }
}

impl From<api::PodSandboxMetadata> for PodSandboxMetadata {
    fn from(from: api::PodSandboxMetadata) -> Self {
        let api::PodSandboxMetadata { name, uid, namespace, attempt } = from;
        PodSandboxMetadata { name, uid, namespace, attempt }
    }
}

// === config ===

impl From<PodSandboxConfig> for api::PodSandboxConfig {
    fn from(from: PodSandboxConfig) -> Self {
        let linux = from.linux;
        let security = api::LinuxSandboxSecurityContext {
            namespace_options: Some(linux.namespaces.into()),
            privileged: linux.privileged,
            seccomp: Some(linux.seccomp.into()),
        };
        api::PodSandboxConfig {
            metadata: Some(from.metadata.into()),
            hostname: from.hostname,
            log_directory: text(&from.log_directory),
            dns_config: from.resolv_conf.as_deref().map(dns_config),
            port_mappings: from.port_mappings.into_iter().map(Into::into).collect(),
            labels: from.labels,
            annotations: from.annotations,
            linux: Some(api::LinuxPodSandboxConfig {
                cgroup_parent: linux.cgroup_parent,
                security_context: Some(security),
                sysctls: linux.sysctls,
                resources: Some(linux.resources.into()),
            }),
        }
    }
}

impl TryFrom<api::PodSandboxConfig> for PodSandboxConfig {
    type Error = Unknown;

    fn try_from(from: api::PodSandboxConfig) -> Result<Self, Unknown> {
        let linux = from.linux.unwrap_or_default();
        let security = linux.security_context.unwrap_or_default();
        Ok(PodSandboxConfig {
            metadata: from.metadata.unwrap_or_default().into(),
            // Said beside the config.
            runtime_handler: String::new(),
            hostname: from.hostname,
            log_directory: from.log_directory.into(),
            resolv_conf: from.dns_config.as_ref().map(resolv_conf),
            port_mappings: from
                .port_mappings
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            labels: from.labels,
            annotations: from.annotations,
            linux: LinuxPodSandboxConfig {
                cgroup_parent: linux.cgroup_parent,
                namespaces: security.namespace_options.unwrap_or_default().try_into()?,
                privileged: security.privileged,
                sysctls: linux.sysctls,
                seccomp: security.seccomp.unwrap_or_default().try_into()?,
                resources: linux.resources.unwrap_or_default().into(),
            },
        })
    }
}

fn dns_config(resolv_conf: &str) -> api::DnsConfig {
    let mut dns = api::DnsConfig::default();
    for line in resolv_conf.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.servers.extend(words),
            Some("search") => dns.searches = words.collect(),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

fn resolv_conf(dns: &api::DnsConfig) -> String {
    let mut lines: Vec<String> =
        dns.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    for (key, words) in [("search", &dns.searches), ("options", &dns.options)] {
        lines.extend((!words.is_empty()).then(|| format!("{key} {}\n", words.join(" "))));
    }
    lines.concat()
}

impl From<PortMapping> for api::PortMapping {
    fn from(from: PortMapping) -> Self {
        api::PortMapping {
            protocol: from.protocol.number(),
            container_port: from.container_port.into(),
            host_port: from.host_port.into(),
            host_ip: from.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        }
    }
}

impl TryFrom<api::PortMapping> for PortMapping {
    type Error = Unknown;

    fn try_from(from: api::PortMapping) -> Result<Self, Unknown> {
        let port = |value: i32| u16::try_from(value).map_err(|_| Unknown { what: "port", value });
        Ok(PortMapping {
            protocol: Protocol::named(from.protocol)?,
            container_port: port(from.container_port)?,
            host_port: port(from.host_port)?,
            host_ip: from.host_ip.parse().ok(),
        })
    }
}

impl From<NamespaceOptions> for api::NamespaceOption {
    fn from(from: NamespaceOptions) -> Self {
        api::NamespaceOption {
            network: from.network.number(),
            pid: from.pid.number(),
            ipc: from.ipc.number(),
            target_id: from.target_id.unwrap_or_default(),
            userns_options: from.user.map(Into::into),
        }
    }
}

impl TryFrom<api::NamespaceOption> for NamespaceOptions {
    type Error = Unknown;

    fn try_from(from: api::NamespaceOption) -> Result<Self, Unknown> {
        Ok(NamespaceOptions {
            network: NamespaceMode::named(from.network)?,
            pid: NamespaceMode::named(from.pid)?,
            ipc: NamespaceMode::named(from.ipc)?,
            target_id: Some(from.target_id).filter(|id| !id.is_empty()),
            user: from.userns_options.map(users).transpose()?.flatten(),
        })
    }
}

impl From<UserNamespace> for api::UserNamespace {
    fn from(from: UserNamespace) -> Self {
        api::UserNamespace {
            mode: NamespaceMode::Pod.number(),
            uids: from.uids.into_iter().map(Into::into).collect(),
            gids: from.gids.into_iter().map(Into::into).collect(),
        }
    }
}

/// Running a pod that asks for users of its own as the node's would silently take its protection away.
fn users(from: api::UserNamespace) -> Result<Option<UserNamespace>, Unknown> {
    let unknown =
        Unknown { what: "mode of a user namespace with these mappings", value: from.mode };
    let mapped = !from.uids.is_empty() && !from.gids.is_empty();
    match NamespaceMode::named(from.mode)? {
        NamespaceMode::Node => Ok(None),
        NamespaceMode::Pod if mapped => Ok(Some(UserNamespace {
            uids: from.uids.into_iter().map(Into::into).collect(),
            gids: from.gids.into_iter().map(Into::into).collect(),
        })),
        _ => Err(unknown),
    }
}

impl From<IdMapping> for api::IdMapping {
    fn from(IdMapping { container_id, host_id, length }: IdMapping) -> Self {
        api::IdMapping { host_id, container_id, length }
    }
}

impl From<api::IdMapping> for IdMapping {
    fn from(api::IdMapping { host_id, container_id, length }: api::IdMapping) -> Self {
        IdMapping { container_id, host_id, length }
    }
}

const RUNTIME_DEFAULT: i32 = 0;
const UNCONFINED: i32 = 1;
const LOCALHOST: i32 = 2;

impl From<SeccompProfile> for api::SecurityProfile {
    fn from(from: SeccompProfile) -> Self {
        let (profile_type, localhost_ref) = match from {
            SeccompProfile::RuntimeDefault => (RUNTIME_DEFAULT, String::new()),
            SeccompProfile::Unconfined => (UNCONFINED, String::new()),
            SeccompProfile::Localhost(path) => (LOCALHOST, text(&path)),
        };
        api::SecurityProfile { profile_type, localhost_ref }
    }
}

impl TryFrom<api::SecurityProfile> for SeccompProfile {
    type Error = Unknown;

    fn try_from(from: api::SecurityProfile) -> Result<Self, Unknown> {
        match from.profile_type {
            RUNTIME_DEFAULT => Ok(SeccompProfile::RuntimeDefault),
            UNCONFINED => Ok(SeccompProfile::Unconfined),
            LOCALHOST => Ok(SeccompProfile::Localhost(from.localhost_ref.into())),
            value => Err(Unknown { what: "ProfileType", value }),
        }
    }
}

// === status ===

impl From<PodSandboxStatus> for api::PodSandboxStatus {
    fn from(from: PodSandboxStatus) -> Self {
        let mut ips = from.ips.iter().map(ToString::to_string);
        let network = api::PodSandboxNetworkStatus {
            ip: ips.next().unwrap_or_default(),
            additional_ips: ips.map(|ip| api::PodIp { ip }).collect(),
        };
        let namespaces = api::Namespace { options: Some(from.namespaces.into()) };
        api::PodSandboxStatus {
            id: from.id,
            metadata: Some(from.metadata.into()),
            state: from.state.number(),
            created_at: nanos(from.created_at),
            network: Some(network),
            linux: Some(api::LinuxPodSandboxStatus { namespaces: Some(namespaces) }),
            labels: from.labels,
            annotations: from.annotations,
            runtime_handler: String::new(),
        }
    }
}

impl From<PodSandboxStatus> for api::PodSandbox {
    fn from(from: PodSandboxStatus) -> Self {
        api::PodSandbox {
            id: from.id,
            metadata: Some(from.metadata.into()),
            state: from.state.number(),
            created_at: nanos(from.created_at),
            labels: from.labels,
            annotations: from.annotations,
            runtime_handler: String::new(),
        }
    }
}

impl From<api::PodSandboxStatusResponse> for PodSandboxStatus {
    fn from(from: api::PodSandboxStatusResponse) -> Self {
        let netns = netns(&from.info);
        let from = from.status.unwrap_or_default();
        let network = from.network.unwrap_or_default();
        let ips = std::iter::once(network.ip)
            .chain(network.additional_ips.into_iter().map(|one| one.ip))
            .filter_map(|ip| ip.parse::<IpAddr>().ok());
        let namespaces = from.linux.and_then(|linux| linux.namespaces).unwrap_or_default().options;
        // A state we do not know is none in which containers may be started.
        let state = PodSandboxState::named(from.state).unwrap_or(PodSandboxState::NotReady);
        let namespaces = NamespaceOptions::try_from(namespaces.unwrap_or_default());
        let namespaces = namespaces.unwrap_or_default();
        let own_network = namespaces.network != NamespaceMode::Node;
        PodSandboxStatus {
            id: from.id,
            metadata: from.metadata.unwrap_or_default().into(),
            state,
            created_at: time(from.created_at),
            ips: ips.collect(),
            netns: netns.filter(|_| own_network && state == PodSandboxState::Ready),
            namespaces,
            labels: from.labels,
            annotations: from.annotations,
            resources: Default::default(),
        }
    }
}

/// What a verbose status says beside the status, in the words of containerd and CRI-O.
pub fn info_of(status: &PodSandboxStatus) -> BTreeMap<String, String> {
    let path = status.netns.as_ref().map(|path| text(path));
    let namespaces: Vec<Value> =
        path.into_iter().map(|path| json!({ "type": "network", "path": path })).collect();
    let info = json!({ "runtimeSpec": { "linux": { "namespaces": namespaces } } });
    BTreeMap::from([("info".to_owned(), info.to_string())])
}

/// By the sandbox's own process, which needs no mount of the runtime's, or by the path in its OCI specification.
fn netns(info: &BTreeMap<String, String>) -> Option<PathBuf> {
    let info: Value = serde_json::from_str(info.get("info")?).ok()?;
    if let Some(pid) = info["pid"].as_u64().filter(|pid| *pid > 0) {
        return Some(format!("/proc/{pid}/ns/net").into());
    }
    let namespaces = info.pointer("/runtimeSpec/linux/namespaces")?.as_array()?;
    let network = namespaces.iter().find(|namespace| namespace["type"] == "network")?;
    network["path"].as_str().filter(|path| !path.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_comes_back_as_it_was() {
        let mut config = PodSandboxConfig {
            hostname: "web-0".into(),
            log_directory: "/var/log/pods/x".into(),
            resolv_conf: Some("nameserver 10.96.0.10\nsearch a b\noptions ndots:5\n".into()),
            port_mappings: vec![PortMapping {
                protocol: Protocol::Udp,
                container_port: 53,
                host_port: 5353,
                host_ip: "127.0.0.1".parse().ok(),
            }],
            labels: [("app".to_owned(), "web".to_owned())].into(),
            ..PodSandboxConfig::default()
        };
        config.metadata.uid = "u".into();
        config.linux.namespaces.pid = NamespaceMode::Node;
        config.linux.seccomp = SeccompProfile::Localhost("/p.json".into());
        let mapping = IdMapping { container_id: 0, host_id: 65536, length: 65536 };
        config.linux.namespaces.user =
            Some(UserNamespace { uids: vec![mapping], gids: vec![mapping] });
        config.linux.privileged = true;
        config.linux.resources.cpu_shares = 512;
        let sent = api::PodSandboxConfig::from(config.clone());
        assert_eq!(PodSandboxConfig::try_from(sent), Ok(config));
    }

    #[test]
    fn users_of_its_own_without_mappings_are_refused() {
        let asked = |mode| {
            let userns_options = Some(api::UserNamespace { mode, ..Default::default() });
            NamespaceOptions::try_from(api::NamespaceOption {
                userns_options,
                ..Default::default()
            })
        };
        assert!(asked(NamespaceMode::Pod.number()).is_err());
        assert_eq!(asked(NamespaceMode::Node.number()).map(|options| options.user), Ok(None));
    }

    #[test]
    fn the_network_namespace_is_found_in_what_runtimes_tell() {
        let netns = |info: &str| netns(&[("info".to_owned(), info.to_owned())].into());
        assert_eq!(netns(r#"{"pid": 7}"#), Some("/proc/7/ns/net".into()));
        let by_path = r#"{"pid": 0, "runtimeSpec": {"linux": {"namespaces": [
            {"type": "pid"}, {"type": "network", "path": "/run/netns/a"}]}}}"#;
        assert_eq!(netns(by_path), Some("/run/netns/a".into()));
        assert_eq!(netns("{}"), None);
        assert_eq!(netns("no JSON"), None);
    }
}
