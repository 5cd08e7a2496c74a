//! `/etc/resolv.conf` of a pod, by its DNS policy.
//!
//! Consumes the pod's DNS policy and config, the cluster's settings and the node's own file, emits text.
//! Counterpart: `pkg/kubelet/network/dns`.
//! Invariant: what the pod's own `dnsConfig` says comes after what the policy gives, and wins for options.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodDNSConfig;

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

pub struct DnsContext<'a> {
    pub cluster_dns: &'a [IpAddr],
    pub cluster_domain: &'a str,
    /// Content of the node's file.
    pub node_resolv_conf: &'a str,
}

#[derive(Default)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

pub fn resolv_conf(
    policy: Option<&str>,
    config: Option<&PodDNSConfig>,
    namespace: &str,
    host_network: bool,
    ctx: &DnsContext<'_>,
) -> String {
    let on_cluster = match policy.unwrap_or("ClusterFirst") {
        "ClusterFirst" => !host_network,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut resolver = match policy {
        Some("None") => Resolver::default(),
        _ if on_cluster && !ctx.cluster_dns.is_empty() => Resolver::cluster(namespace, ctx),
        _ => Resolver::parse(ctx.node_resolv_conf),
    };
    if let Some(config) = config {
        resolver.add(config);
    }
    resolver.text()
}

// === impl Resolver ===

impl Resolver {
    fn cluster(namespace: &str, ctx: &DnsContext<'_>) -> Self {
        let domain = ctx.cluster_domain;
        let mut searches =
            vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
        searches.extend(Resolver::parse(ctx.node_resolv_conf).searches);
        Resolver {
            nameservers: ctx.cluster_dns.iter().map(IpAddr::to_string).collect(),
            searches,
            options: vec!["ndots:5".into()],
        }
    }

    fn parse(text: &str) -> Self {
        let mut resolver = Resolver::default();
        for line in text.lines().filter(|l| !l.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => resolver.nameservers.extend(words.next()),
                Some("search") => resolver.searches = words.filter(|w| w != ".").collect(),
                Some("options") => resolver.options.extend(words),
                _ => {}
            }
        }
        resolver
    }

    fn add(&mut self, config: &PodDNSConfig) {
        self.nameservers.extend(config.nameservers.iter().flatten().cloned());
        self.searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            self.options.retain(|o| o.split(':').next() != Some(name));
            self.options.push(match &option.value {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.clone(),
            });
        }
    }

    fn text(mut self) -> String {
        keep_first(&mut self.nameservers, MAX_NAMESERVERS);
        keep_first(&mut self.searches, MAX_SEARCHES);
        let mut text = String::new();
        if !self.searches.is_empty() {
            text += &format!("search {}\n", self.searches.join(" "));
        }
        for server in &self.nameservers {
            text += &format!("nameserver {server}\n");
        }
        if !self.options.is_empty() {
            text += &format!("options {}\n", self.options.join(" "));
        }
        text
    }
}

/// The first mention of each, up to `most`.
fn keep_first(list: &mut Vec<String>, most: usize) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
    list.truncate(most);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NODE: &str = "# node\nnameserver 192.0.2.1\nsearch corp.example\noptions timeout:2\n";
    const CLUSTER: &str = "search web.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver \
                           10.96.0.10\noptions ndots:5\n";

    fn check(policy: &str, config: serde_json::Value, host_network: bool, expected: &str) {
        let config: PodDNSConfig = serde_json::from_value(config).expect("a config");
        let cluster_dns = ["10.96.0.10".parse().expect("an address")];
        let ctx = DnsContext {
            cluster_dns: &cluster_dns,
            cluster_domain: "cluster.local",
            node_resolv_conf: NODE,
        };
        assert_eq!(
            resolv_conf(Some(policy), Some(&config), "web", host_network, &ctx),
            expected,
            "{policy}"
        );
    }

    #[test]
    fn each_policy() {
        let node = "search corp.example\nnameserver 192.0.2.1\noptions timeout:2\n";
        check("ClusterFirst", json!({}), false, CLUSTER);
        check("ClusterFirst", json!({}), true, node);
        check("ClusterFirstWithHostNet", json!({}), true, CLUSTER);
        check("Default", json!({}), false, node);
        let own = json!({"nameservers": ["9.9.9.9"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}]});
        check("None", own, false, "search a.b\nnameserver 9.9.9.9\noptions ndots:2\n");
    }

    #[test]
    fn own_options_win() {
        let own = json!({"options": [{"name": "ndots", "value": "1"}, {"name": "edns0"}]});
        check("ClusterFirst", own, false, &CLUSTER.replace("ndots:5", "ndots:1 edns0"));
    }
}
