//! A pod's host name, `/etc/hosts` and `/etc/hostname`.
//!
//! Consumes the pod's spec and addresses, emits texts. Counterpart: `managedHostsFileContent` and
//! `GeneratePodHostNameAndDomain` of `pkg/kubelet/kubelet_pods.go`.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostAlias, PodSpec};

const MAX_HOSTNAME: usize = 63;

/// The host name, and the domain if the pod asked for one.
pub struct HostName {
    pub hostname: String,
    pub domain: Option<String>,
}

pub fn host_name(
    spec: &PodSpec,
    pod_name: &str,
    namespace: &str,
    cluster_domain: &str,
) -> HostName {
    if let Some(name) = spec.hostname_override.clone().filter(|n| !n.is_empty()) {
        return HostName { hostname: name, domain: None };
    }
    let wanted = spec.hostname.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_name);
    let cut: String = wanted.chars().take(MAX_HOSTNAME).collect();
    let hostname = cut.trim_end_matches(['-', '.']).to_owned();
    let subdomain = spec.subdomain.as_deref().filter(|s| !s.is_empty());
    let domain = subdomain.map(|s| format!("{s}.{namespace}.svc.{cluster_domain}"));
    match domain {
        Some(domain) if spec.set_hostname_as_fqdn == Some(true) => {
            HostName { hostname: format!("{hostname}.{domain}"), domain: None }
        }
        domain => HostName { hostname, domain },
    }
}

pub fn hosts_file(ips: &[IpAddr], name: &HostName, aliases: &[HostAlias]) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        match &name.domain {
            Some(domain) => {
                text += &format!("{ip}\t{}.{domain}\t{}\n", name.hostname, name.hostname)
            }
            None => text += &format!("{ip}\t{}\n", name.hostname),
        }
    }
    text + &alias_lines(aliases)
}

/// On the host's network the pod sees the node's own names.
pub fn host_network_hosts_file(node_file: &str, aliases: &[HostAlias]) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{node_file}{}", alias_lines(aliases))
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let line = |a: &HostAlias| {
        format!(
            "{}\t{}\n",
            a.ip,
            a.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t")
        )
    };
    format!("\n# Entries added by HostAliases.\n{}", aliases.iter().map(line).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn name(spec: serde_json::Value) -> (String, Option<String>) {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let spec: PodSpec = serde_json::from_value(spec).expect("a spec");
        let name = host_name(&spec, "web-0", "shop", "cluster.local");
        (name.hostname, name.domain)
    }

    #[test]
    fn names() {
        let domain = "db.shop.svc.cluster.local";
        assert_eq!(name(json!({})), ("web-0".into(), None));
        assert_eq!(
            name(json!({"hostname": "h", "subdomain": "db"})),
            ("h".into(), Some(domain.into()))
        );
        let whole = json!({"subdomain": "db", "setHostnameAsFQDN": true});
        assert_eq!(name(whole), (format!("web-0.{domain}"), None));
        assert_eq!(name(json!({"hostname": "x".repeat(62) + "-yz"})).0, "x".repeat(62));
    }

    #[test]
    fn files() {
        let name =
            HostName { hostname: "web-0".into(), domain: Some("db.shop.svc.cluster.local".into()) };
        let alias =
            HostAlias { ip: "1.2.3.4".into(), hostnames: Some(vec!["a".into(), "b".into()]) };
        let text = hosts_file(&["10.0.0.7".parse().expect("an address")], &name, &[alias]);
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with(
            "10.0.0.7\tweb-0.db.shop.svc.cluster.local\tweb-0\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
        ));
    }
}
