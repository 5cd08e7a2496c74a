//! The pod network with real packets, in network namespaces that each test makes and removes.

mod support;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use skiff_net::link::{VethEnd, create_veth};
use skiff_net::pod::Error;
use skiff_net::{HostPort, Namespace, PodNetwork, PodNetworkConfig, Protocol};
use support::{TestDir, TestNetns, ask_tcp, serve_tcp};

/// A node with a pod network.
struct Node {
    _netns: TestNetns,
    namespace: Namespace,
    config: PodNetworkConfig,
    _dir: TestDir,
}

impl Node {
    fn new(test: &str) -> Self {
        let (netns, dir) = (TestNetns::new("node"), TestDir::new(test));
        let config = PodNetworkConfig {
            bridge: "cni0".to_string(),
            pod_cidr: "10.42.1.0/24".parse().unwrap(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            mtu: 1450,
            state_dir: dir.0.clone(),
        };
        let namespace = netns.open();
        Self { _netns: netns, namespace, config, _dir: dir }
    }

    async fn network(&self) -> PodNetwork {
        let lo = self.namespace.require_link("lo").await.unwrap();
        self.namespace.set_up(lo.index).await.unwrap();
        PodNetwork::open_in(self.namespace.clone(), self.config.clone()).await.unwrap()
    }
}

fn v4(addresses: &[IpAddr]) -> Ipv4Addr {
    match addresses {
        [IpAddr::V4(address)] => *address,
        other => panic!("expected one IPv4 address, got {other:?}"),
    }
}

fn tcp(host_port: u16, container_port: u16) -> HostPort {
    HostPort { protocol: Protocol::Tcp, host_ip: None, host_port, container_port }
}

root_test! {
    async fn pods_reach_each_other_the_node_and_keep_their_addresses() {
        let node = Node::new("reach");
        let network = node.network().await;
        let (a, b) = (TestNetns::new("a"), TestNetns::new("b"));
        let started = Instant::now();
        let address_a = v4(&network.attach("sandbox-a", &a.path()).await.unwrap());
        let took = started.elapsed();
        let address_b = v4(&network.attach("sandbox-b", &b.path()).await.unwrap());
        eprintln!("first attach took {took:?}");
        serve_tcp(&b.open(), 80, "b");
        serve_tcp(&node.namespace, 81, "node");

        assert_eq!(ask_tcp(&a.open(), address_b, 80).unwrap(), format!("b {address_a}"), "no translation between pods");
        assert_eq!(ask_tcp(&a.open(), network.gateway(), 81).unwrap(), format!("node {address_a}"));
        assert_eq!(ask_tcp(&node.namespace, address_b, 80).unwrap(), format!("b {}", network.gateway()));
        assert_eq!(v4(&network.attach("sandbox-a", &a.path()).await.unwrap()), address_a, "attach again is a no-op");
        assert!(ask_tcp(&a.open(), Ipv4Addr::LOCALHOST, 81).is_err());
    }
}

root_test! {
    async fn a_restart_keeps_live_addresses_and_frees_dead_ones() {
        let node = Node::new("restart");
        let (a, b) = (TestNetns::new("a"), TestNetns::new("b"));
        let (address_a, address_b) = {
            let network = node.network().await;
            let a = v4(&network.attach("a", &a.path()).await.unwrap());
            network.publish("a", &[tcp(8080, 80)]).await.unwrap();
            (a, v4(&network.attach("b", &b.path()).await.unwrap()))
        };
        serve_tcp(&a.open(), 80, "a");

        let network = node.network().await;
        assert_eq!(ask_tcp(&node.namespace, network.gateway(), 8080).unwrap(), format!("a {}", network.gateway()));
        network.retain(&HashSet::from(["a".to_string()])).await.unwrap();
        assert_eq!(v4(&network.attach("a", &a.path()).await.unwrap()), address_a);
        assert!(network.addresses("b").is_empty());
        assert_eq!(node.namespace.links().await.unwrap().iter().filter(|link| link.master.is_some()).count(), 1);
        let c = TestNetns::new("c");
        assert_ne!(v4(&network.attach("c", &c.path()).await.unwrap()), address_a);

        network.retain(&HashSet::new()).await.unwrap();
        assert!(ask_tcp(&node.namespace, network.gateway(), 8080).is_err(), "the host port went with its pod");
        assert_ne!(address_a, address_b);
    }
}

root_test! {
    async fn host_ports_lead_to_the_pod_from_outside_the_node_the_pod_and_loopback() {
        let node = Node::new("hostports");
        let network = node.network().await;
        let (pod, outside) = (TestNetns::new("pod"), TestNetns::new("outside"));
        let address = v4(&network.attach("pod", &pod.path()).await.unwrap());
        serve_tcp(&pod.open(), 80, "pod");
        connect_outside(&node.namespace, &outside.open()).await;
        network.publish("pod", &[tcp(8080, 80)]).await.unwrap();

        assert_eq!(ask_tcp(&outside.open(), [192, 168, 7, 1], 8080).unwrap(), "pod 192.168.7.2", "the source is kept");
        assert_eq!(ask_tcp(&node.namespace, [127, 0, 0, 1], 8080).unwrap(), "pod 10.42.1.1");
        assert_eq!(ask_tcp(&pod.open(), network.gateway(), 8080).unwrap(), "pod 10.42.1.1", "hairpin");
        serve_tcp(&outside.open(), 90, "outside");
        assert_eq!(ask_tcp(&pod.open(), [192, 168, 7, 2], 90).unwrap(), "outside 192.168.7.1", "masqueraded");

        let other = TestNetns::new("other");
        network.attach("other", &other.path()).await.unwrap();
        let refused = network.publish("other", &[tcp(8080, 81)]).await;
        assert!(matches!(refused, Err(Error::HostPortTaken { holder, .. }) if holder == address), "{refused:?}");
        let only_loopback = HostPort { host_ip: Some(Ipv4Addr::LOCALHOST), ..tcp(8081, 80) };
        network.publish("pod", &[only_loopback]).await.unwrap();
        assert!(ask_tcp(&outside.open(), [192, 168, 7, 1], 8080).is_err());
        assert!(ask_tcp(&outside.open(), [192, 168, 7, 1], 8081).is_err());
        assert_eq!(ask_tcp(&node.namespace, [127, 0, 0, 1], 8081).unwrap(), "pod 10.42.1.1");
    }
}

root_test! {
    async fn a_failed_attach_holds_no_address() {
        let node = Node::new("failed");
        let network = node.network().await;
        let missing = std::path::Path::new("/run/netns/skiff-test-there-is-none");
        assert!(network.attach("a", missing).await.is_err());
        assert!(network.addresses("a").is_empty());
        assert!(matches!(network.publish("a", &[]).await, Err(Error::NotAttached { .. })));
        network.detach("a").await.unwrap();
    }
}

root_test! {
    async fn many_pods_attach_at_once() {
        let node = Node::new("many");
        let network = node.network().await;
        let pods: Vec<_> = (0..24).map(|_| TestNetns::new("pod")).collect();
        let started = Instant::now();
        let attaches = pods.iter().enumerate().map(|(i, pod)| {
            let (network, path) = (&network, pod.path());
            async move { network.attach(&format!("pod-{i}"), &path).await.unwrap() }
        });
        let addresses: HashSet<_> = futures::future::join_all(attaches).await.into_iter().flatten().collect();
        eprintln!("{:?} per attach", started.elapsed() / 24);
        assert_eq!(addresses.len(), 24);
    }
}

/// A neighbour of the node that is no pod: 192.168.7.2, without a route to pods.
async fn connect_outside(node: &Namespace, outside: &Namespace) {
    let near = VethEnd { namespace: node, name: "uplink", mac: None };
    create_veth(near, VethEnd { namespace: outside, name: "eth0", mac: None }, None, 1500)
        .await
        .unwrap();
    for (namespace, name, address) in
        [(node, "uplink", "192.168.7.1/24"), (outside, "eth0", "192.168.7.2/24")]
    {
        let link = namespace.require_link(name).await.unwrap();
        namespace.add_address(link.index, address.parse().unwrap()).await.unwrap();
        namespace.set_up(link.index).await.unwrap();
    }
}
