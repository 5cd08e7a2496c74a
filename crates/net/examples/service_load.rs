//! How long the kernel's rules take for 10,000 Services with two endpoints each: the first sync, and one change.
//!
//! `cargo run --release -p skiff-net --example service_load`, as root: it works in a network namespace of its own.

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::Ipv4Addr;
use std::time::Instant;

use skiff_net::{ServiceProxy, ServiceProxyConfig};
use support::TestNetns;
use support::api::FakeApi;

const SERVICES: u32 = 10_000;
const CHANGES: u32 = 200;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let netns = TestNetns::new("load");
    let node = netns.open();
    node.set_up(node.require_link("lo").await?.index).await?;
    node.ensure_bridge("cni0", None, 1500).await?;

    let api = FakeApi::default();
    for service in 0..SERVICES {
        api.apply(&service_yaml(service));
        api.apply(&slice_yaml(service, 2));
    }
    let config = ServiceProxyConfig {
        node_name: "node".to_string(),
        cluster_cidr: "10.0.0.0/12".parse()?,
        service_cidr: "10.96.0.0/12".parse()?,
        bridge: "cni0".to_string(),
    };
    let proxy = ServiceProxy::open_in(node, config).await?;
    let mut status = proxy.status();
    let started = Instant::now();
    let running = tokio::spawn(proxy.run(api.client()));
    status.wait_for(|status| status.synced).await?;
    println!("{SERVICES} services, from an empty cache to the kernel: {:?}", started.elapsed());
    println!("of which planning and one transaction: {:?}", status.borrow().last_sync);

    let (mut whole, mut sync) = (Vec::new(), Vec::new());
    for change in 0..CHANGES {
        let before = status.borrow_and_update().syncs;
        let changed = Instant::now();
        api.apply(&slice_yaml(change * 37 % SERVICES, 3));
        status.wait_for(|status| status.syncs > before).await?;
        whole.push(changed.elapsed());
        sync.push(status.borrow().last_sync);
    }
    whole.sort();
    sync.sort();
    let middle = CHANGES as usize / 2;
    println!("one more endpoint, from the write to the kernel: p50 {:?}", whole[middle]);
    println!("of which planning and one transaction: p50 {:?}", sync[middle]);
    running.abort();
    Ok(())
}

fn service_yaml(service: u32) -> String {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + service);
    let spec = format!("{{clusterIP: {address}, clusterIPs: [{address}], ports: [{{port: 80}}]}}");
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: svc-{service}}}, spec: {spec}}}")
}

fn slice_yaml(service: u32, endpoints: u32) -> String {
    let endpoint = |i| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 1, 0, 0)) + service * 4 + i);
    let endpoints: String =
        (0..endpoints).map(|i| format!("{{addresses: [{}]}},", endpoint(i))).collect();
    let metadata =
        format!("{{name: svc-{service}-1, labels: {{kubernetes.io/service-name: svc-{service}}}}}");
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {metadata}, addressType: IPv4, \
         ports: [{{name: '', port: 8080}}], endpoints: [{endpoints}]}}"
    )
}
