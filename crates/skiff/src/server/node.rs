//! The node in this process: runtime, pod network, kubelet, service proxy and DNS.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use skiff_apiserver::ApiServer;
use skiff_cri::CriServer;
use skiff_dns::{DnsConfig, DnsServer};
use skiff_kubelet::{Kubelet, KubeletConfig};
use skiff_net::{ServiceProxy, ServiceProxyConfig};
use tokio::net::TcpListener;

use super::flags::RuntimeTerms;
use super::identity::Clients;
use super::runtime::NodeRuntime;
use super::terms::Terms;
use super::{Parts, Result, dns_metrics, serving, system_objects};
use crate::node_socket::{Health, Images};

pub const BRIDGE: &str = "skiff0";
const DNS_PORT: u16 = 53;

pub struct Node {
    name: String,
    images: Images,
    cri: Option<CriServer>,
    kubelet: Kubelet,
    kubelet_listener: TcpListener,
    proxy: ServiceProxy,
    dns: DnsServer,
    dns_address: SocketAddr,
    dns_metrics: TcpListener,
}

impl Node {
    /// Opens everything, and finds again what ran before; nothing runs yet.
    pub async fn open(terms: &Terms, api: &ApiServer, clients: &Clients) -> Result<Node> {
        let NodeRuntime { runtime, name, images, dns, cri } = NodeRuntime::open(terms).await?;
        let proxy = ServiceProxy::open(ServiceProxyConfig {
            node_name: terms.node_name.clone(),
            cluster_cidr: terms.cluster_cidr,
            service_cidr: terms.service_cidr,
            bridge: BRIDGE.to_owned(),
        })
        .await?;
        let dns_address = SocketAddr::new(dns, DNS_PORT);
        let dns = DnsServer::bind(&[dns_address]).await?;
        let dns_metrics = TcpListener::bind((dns_address.ip(), dns_metrics::PORT)).await?;
        let client = clients.node(&terms.node_name);
        let config = kubelet_config(terms, api, name)?;
        let kubelet_address = (config.address.unwrap_or(terms.node_ip), config.port);
        let kubelet = Kubelet::build(config, client, runtime)?;
        let kubelet_listener = TcpListener::bind(kubelet_address).await?;
        Ok(Node {
            name: terms.node_name.clone(),
            images,
            cri,
            kubelet,
            kubelet_listener,
            proxy,
            dns,
            dns_address,
            dns_metrics,
        })
    }

    pub fn images(&self) -> Images {
        self.images.clone()
    }

    /// Runs every part; returns when the node is Ready, and Services and DNS work.
    pub async fn run(
        self,
        terms: &Terms,
        parts: &mut Parts,
        clients: &Clients,
        health: &Arc<Health>,
    ) -> Result<()> {
        let mut kubelet = self.kubelet;
        kubelet.serve(self.kubelet_listener)?;
        parts.spawn(kubelet.run(parts.token().cancelled_owned()));

        if let Some(cri) = self.cri {
            parts.spawn(cri.serve(parts.token()));
        }
        system_objects::apply_dns(clients.system(), terms, self.dns_address).await?;
        system_objects::apply_storage(clients.system()).await?;
        let mut proxied = self.proxy.status();
        parts.spawn_until_stop(self.proxy.run(clients.user("system:kube-proxy")));
        let mut answered = self.dns.status();
        parts.spawn_until_stop(dns_metrics::serve(self.dns_metrics, self.dns.metrics()));
        parts.spawn_until_stop(answer_dns(self.dns, clients, terms.cluster_domain.clone()));

        wait_until_ready(clients.node(&self.name), &self.name).await?;
        system_objects::label_control_plane(clients.system(), &self.name).await?;
        proxied.wait_for(|status| status.synced).await?;
        answered.wait_for(|status| status.synced).await?;
        health.node.store(true, Ordering::Relaxed);
        Ok(())
    }
}

fn answer_dns(
    dns: DnsServer,
    clients: &Clients,
    cluster_domain: String,
) -> impl Future<Output = ()> + Send + 'static {
    let client = clients.user(system_objects::DNS_USER);
    async move {
        let config = DnsConfig { cluster_domain, ..DnsConfig::default() };
        if let Err(error) = dns.run(client, config).await {
            tracing::error!(%error, "DNS can no longer be answered");
        }
    }
}

fn kubelet_config(terms: &Terms, api: &ApiServer, runtime: String) -> Result<KubeletConfig> {
    let dir = terms.data_dir.join("node");
    let mut config = KubeletConfig::new(&terms.node_name, vec![terms.node_ip]);
    config.container_runtime = runtime;
    config.root_dir = terms.kubelet_dir.clone();
    config.log_dir = dir.join("logs/pods");
    config.cluster_dns = vec![IpAddr::V4(terms.cluster_dns)];
    config.cluster_domain = terms.cluster_domain.clone();
    config.pod_cidr = Some(terms.pod_cidr.to_string());
    config.serving = Some(serving::kubelet(api, &terms.node_name, terms.node_ip)?);
    let plain = config.clone();
    terms.images.apply(&mut config);
    config.eviction = terms.eviction.clone();
    config.shutdown = terms.shutdown;
    config.max_pods = terms.max_pods;
    config.static_pod_path = terms.static_pod_path.clone();
    if let RuntimeTerms::Remote { endpoint, runtime, images } = &terms.runtime {
        config.container_runtime_endpoint = endpoint.clone();
        if images != runtime {
            config.image_service_endpoint = format!("unix://{}", images.display());
        }
    }
    match &terms.kubelet_configuration {
        Some(file) => Ok(file.apply(config, &plain)?),
        None => Ok(config),
    }
}

/// Waits for the kubelet's first good report of itself.
async fn wait_until_ready(client: Client, name: &str) -> Result<()> {
    let nodes: Api<NodeObject> = Api::all(client);
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut changes = std::pin::pin!(watcher(nodes, only).default_backoff().applied_objects());
    while let Some(node) = changes.next().await {
        match node {
            Ok(node) if is_ready(&node) => return Ok(()),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "watching the node"),
        }
    }
    Err("the watch of the node ended".into())
}

fn is_ready(node: &NodeObject) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
