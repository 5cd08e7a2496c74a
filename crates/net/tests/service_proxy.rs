//! Services with real packets: a node, pods and an outside neighbour in network namespaces made by each test, and an
//! API server of a few objects in memory.

mod support;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use skiff_net::link::{VethEnd, create_veth};
use skiff_net::proxy::Status;
use skiff_net::{Namespace, PodNetwork, PodNetworkConfig, ServiceProxy, ServiceProxyConfig};
use support::api::FakeApi;
use support::{TestDir, TestNetns, UdpClient, ask_tcp, serve_tcp, serve_udp};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const CLUSTER_IP: [u8; 4] = [10, 96, 0, 50];
const NODE_IP: [u8; 4] = [192, 168, 9, 1];

/// A node with pods, a neighbour at 192.168.9.2 and a running service proxy.
struct Cluster {
    api: FakeApi,
    node: Namespace,
    outside: Namespace,
    pods: Vec<(Namespace, Ipv4Addr)>,
    status: watch::Receiver<Status>,
    proxy: JoinHandle<()>,
    _netns: Vec<TestNetns>,
    _dir: TestDir,
}

impl Cluster {
    /// Pod `i` answers `pod<i>` on TCP and UDP port 8080.
    async fn start(test: &str, pods: usize) -> Self {
        let (node_netns, outside_netns, dir) =
            (TestNetns::new("node"), TestNetns::new("out"), TestDir::new(test));
        let (node, outside) = (node_netns.open(), outside_netns.open());
        let mut netns = vec![node_netns, outside_netns];
        connect_outside(&node, &outside).await;
        let network = pod_network(&node, &dir).await;
        let mut running = Vec::new();
        for i in 0..pods {
            let pod = TestNetns::new("pod");
            let addresses = network.attach(&format!("pod{i}"), &pod.path()).await.unwrap();
            let [IpAddr::V4(address)] = addresses[..] else {
                panic!("one IPv4 address, not {addresses:?}")
            };
            serve_tcp(&pod.open(), 8080, &format!("pod{i}"));
            serve_udp(&pod.open(), 8080, &format!("pod{i}"));
            running.push((pod.open(), address));
            netns.push(pod);
        }
        let config = ServiceProxyConfig {
            node_name: "node".to_string(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/12".parse().unwrap(),
            bridge: "cni0".to_string(),
        };
        let proxy = ServiceProxy::open_in(node.clone(), config).await.unwrap();
        let (api, status) = (FakeApi::default(), proxy.status());
        let proxy = tokio::spawn(proxy.run(api.client()));
        let mut cluster =
            Self { api, node, outside, pods: running, status, proxy, _netns: netns, _dir: dir };
        cluster.status.wait_for(|status| status.synced).await.unwrap();
        cluster
    }

    fn pod(&self, index: usize) -> &Namespace {
        &self.pods[index].0
    }

    /// Creates Service `web` of port 80 with these lines of spec, and waits until it is in the kernel.
    async fn service(&mut self, spec: &str) {
        self.api.apply(&service_yaml("web", CLUSTER_IP.into(), spec));
        self.settled().await;
    }

    /// Makes these pods the Service's endpoints.
    async fn endpoints(&mut self, pods: &[usize]) {
        let lines = pods.iter().map(|i| {
            format!(
                "- {{addresses: ['{}'], nodeName: node, conditions: {{ready: true}}}}\n",
                self.pods[*i].1
            )
        });
        self.slice(&lines.collect::<String>()).await;
    }

    async fn slice(&mut self, endpoints: &str) {
        self.api.apply(&slice_yaml("web", endpoints));
        self.settled().await;
    }

    /// Watch events arrive in order, so changes are visible when a Service created after them is.
    async fn settled(&mut self) {
        let before = self.status.borrow_and_update().syncs;
        let marker = Ipv4Addr::new(10, 97, (before >> 8) as u8, before as u8);
        self.api.apply(&service_yaml(&format!("marker{before}"), marker, ""));
        let services = self.api.count("services");
        let visible = |status: &Status| status.syncs > before && status.services == services;
        let wait =
            tokio::time::timeout(Duration::from_secs(10), self.status.wait_for(visible)).await;
        wait.expect("the change reaches the kernel within seconds").expect("the proxy is running");
        // Slices come through a stream of their own.
        tokio::time::sleep(Duration::from_millis(30)).await;
    }

    /// The distinct answers to many requests, without the address of the peer.
    fn answers(&self, from: &Namespace, to: [u8; 4], port: u16) -> BTreeSet<String> {
        (0..40).map(|_| first_word(&ask_tcp(from, to, port).unwrap())).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.proxy.abort();
    }
}

async fn pod_network(node: &Namespace, dir: &TestDir) -> PodNetwork {
    let config = PodNetworkConfig {
        bridge: "cni0".to_string(),
        pod_cidr: "10.42.1.0/24".parse().unwrap(),
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        mtu: 1500,
        state_dir: dir.0.clone(),
    };
    node.set_up(node.require_link("lo").await.unwrap().index).await.unwrap();
    PodNetwork::open_in(node.clone(), config).await.unwrap()
}

async fn connect_outside(node: &Namespace, outside: &Namespace) {
    let near = VethEnd { namespace: node, name: "uplink", mac: None };
    create_veth(near, VethEnd { namespace: outside, name: "eth0", mac: None }, None, 1500)
        .await
        .unwrap();
    for (namespace, name, address) in
        [(node, "uplink", "192.168.9.1/24"), (outside, "eth0", "192.168.9.2/24")]
    {
        let link = namespace.require_link(name).await.unwrap();
        namespace.add_address(link.index, address.parse().unwrap()).await.unwrap();
        namespace.set_up(link.index).await.unwrap();
    }
    // The neighbour knows no pods: what is for Services and external addresses it sends to the node. The node in turn
    // has a route to external addresses, as a default route would be.
    let route = async |from: &Namespace, link: &str, to: &str, gateway: Ipv4Addr| {
        let index = from.require_link(link).await.unwrap().index;
        from.add_route(to.parse().unwrap(), Some(gateway.into()), index).await.unwrap();
    };
    route(outside, "eth0", "10.96.0.0/12", NODE_IP.into()).await;
    route(outside, "eth0", "203.0.113.0/24", NODE_IP.into()).await;
    route(node, "uplink", "203.0.113.0/24", Ipv4Addr::new(192, 168, 9, 2)).await;
}

fn service_yaml(name: &str, cluster_ip: Ipv4Addr, spec: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  clusterIP: {cluster_ip}
  clusterIPs: ['{cluster_ip}']
  ports:
  - {{name: tcp, port: 80, nodePort: 30080, protocol: TCP}}
  - {{name: udp, port: 80, nodePort: 30080, protocol: UDP}}
{spec}"
    )
    .replace(", nodePort: 30080", if name == "web" { ", nodePort: 30080" } else { "" })
}

fn slice_yaml(service: &str, endpoints: &str) -> String {
    format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {service}-1, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: IPv4
ports:
- {{name: tcp, port: 8080, protocol: TCP}}
- {{name: udp, port: 8080, protocol: UDP}}
endpoints:
{}",
        if endpoints.is_empty() { "[]" } else { endpoints }
    )
    .replace("endpoints:\n[]", "endpoints: []")
}

fn first_word(answer: &str) -> String {
    answer.split(' ').next().unwrap_or_default().to_string()
}

fn names(pods: &[usize]) -> BTreeSet<String> {
    pods.iter().map(|i| format!("pod{i}")).collect()
}

root_test! {
    async fn every_frontend_spreads_over_the_endpoints() {
        let mut cluster = Cluster::start("spread", 3).await;
        cluster.service("  externalIPs: [203.0.113.7]").await;
        cluster.endpoints(&[0, 1, 2]).await;
        let all = names(&[0, 1, 2]);
        assert_eq!(cluster.answers(cluster.pod(0), CLUSTER_IP, 80), all, "a pod, by cluster address");
        assert_eq!(cluster.answers(&cluster.node, CLUSTER_IP, 80), all, "the node, by cluster address");
        assert_eq!(cluster.answers(&cluster.outside, CLUSTER_IP, 80), all, "a neighbour, by cluster address");
        assert_eq!(cluster.answers(&cluster.outside, NODE_IP, 30080), all, "a neighbour, by node port");
        assert_eq!(cluster.answers(&cluster.node, [127, 0, 0, 1], 30080), all, "the node, by node port on loopback");
        assert_eq!(cluster.answers(cluster.pod(0), NODE_IP, 30080), all, "a pod, by node port");
        assert_eq!(cluster.answers(&cluster.outside, [203, 0, 113, 7], 80), all, "a neighbour, by external address");
    }
}

root_test! {
    async fn sources_are_kept_where_replies_find_back_and_replaced_where_not() {
        let mut cluster = Cluster::start("sources", 2).await;
        cluster.service("  type: NodePort\n").await;
        cluster.endpoints(&[1]).await;
        let pod0 = cluster.pods[0].1;
        assert_eq!(ask_tcp(cluster.pod(0), CLUSTER_IP, 80).unwrap(), format!("pod1 {pod0}"));
        assert_eq!(ask_tcp(cluster.pod(1), CLUSTER_IP, 80).unwrap(), "pod1 10.42.1.1", "hairpin");
        assert_eq!(ask_tcp(&cluster.outside, NODE_IP, 30080).unwrap(), "pod1 10.42.1.1");
        cluster.service("  type: NodePort\n  externalTrafficPolicy: Local\n").await;
        assert_eq!(ask_tcp(&cluster.outside, NODE_IP, 30080).unwrap(), "pod1 192.168.9.2");
    }
}

root_test! {
    async fn pods_of_one_node_are_served_with_and_without_bridge_netfilter() {
        let mut cluster = Cluster::start("bridge-netfilter", 2).await;
        cluster.service("").await;
        cluster.endpoints(&[0, 1]).await;
        for value in ["0", "1"] {
            if cluster.node.set_sysctl("net.bridge.bridge-nf-call-iptables", value).is_err() {
                eprintln!("br_netfilter is not loaded: only the case without it was tested");
            }
            assert_eq!(cluster.answers(cluster.pod(0), CLUSTER_IP, 80), names(&[0, 1]), "from pod0, {value}");
            assert_eq!(cluster.answers(cluster.pod(1), NODE_IP, 30080), names(&[0, 1]), "from pod1, {value}");
        }
    }
}

root_test! {
    async fn local_traffic_policy_binds_outsiders_only() {
        let mut cluster = Cluster::start("local-policy", 3).await;
        let spec = "  type: LoadBalancer\n  externalTrafficPolicy: Local\n  externalIPs: [203.0.113.7]\n";
        cluster.service(spec).await;
        let [a, b, _] = [0, 1, 2].map(|i| cluster.pods[i].1);
        cluster.slice(&format!("- {{addresses: ['{a}'], nodeName: node}}\n- {{addresses: ['{b}'], nodeName: other}}\n")).await;
        assert_eq!(cluster.answers(&cluster.outside, NODE_IP, 30080), names(&[0]));
        assert_eq!(cluster.answers(&cluster.outside, [203, 0, 113, 7], 80), names(&[0]));
        for inside in [cluster.pod(2), &cluster.node] {
            assert_eq!(cluster.answers(inside, NODE_IP, 30080), names(&[0, 1]));
            assert_eq!(cluster.answers(inside, [203, 0, 113, 7], 80), names(&[0, 1]));
        }
    }
}

root_test! {
    async fn without_endpoints_clients_are_told_at_once() {
        let mut cluster = Cluster::start("reject", 1).await;
        cluster.service("  externalIPs: [203.0.113.7]").await;
        let refused = |from: &Namespace, to: [u8; 4], port| {
            let error = ask_tcp(from, to, port).expect_err("nothing answers");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to:?}:{port}: {error}");
        };
        for from in [cluster.pod(0), &cluster.node, &cluster.outside] {
            refused(from, CLUSTER_IP, 80);
            refused(from, NODE_IP, 30080);
            refused(from, [203, 0, 113, 7], 80);
            refused(from, [10, 96, 200, 200], 80);
        }
        let udp = UdpClient::new(cluster.pod(0), CLUSTER_IP, 80);
        assert_eq!(udp.ask().unwrap_err().kind(), ErrorKind::ConnectionRefused);

        cluster.endpoints(&[0]).await;
        assert_eq!(cluster.answers(&cluster.node, CLUSTER_IP, 80), names(&[0]));
        cluster.api.delete("services", "web");
        cluster.settled().await;
        refused(&cluster.node, CLUSTER_IP, 80);
    }
}

root_test! {
    async fn endpoints_come_and_go_one_by_one() {
        let mut cluster = Cluster::start("changes", 4).await;
        cluster.service("").await;
        for now in [&[0][..], &[0, 1, 2, 3], &[1, 3], &[0, 3], &[2], &[], &[1, 2]] {
            cluster.endpoints(now).await;
            if now.is_empty() {
                assert!(ask_tcp(cluster.pod(0), CLUSTER_IP, 80).is_err());
            } else {
                assert_eq!(cluster.answers(cluster.pod(0), CLUSTER_IP, 80), names(now));
            }
        }
    }
}

root_test! {
    async fn a_client_with_affinity_stays_until_its_endpoint_is_gone() {
        let mut cluster = Cluster::start("affinity", 3).await;
        cluster.service("  sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}\n").await;
        cluster.endpoints(&[0, 1, 2]).await;
        let first = cluster.answers(cluster.pod(0), CLUSTER_IP, 80);
        assert_eq!(first.len(), 1, "{first:?}");
        let by_node_port = cluster.answers(&cluster.outside, NODE_IP, 30080);
        assert_eq!(by_node_port.len(), 1, "{by_node_port:?}");

        let left: Vec<_> = (0..3).filter(|i| !first.contains(&format!("pod{i}"))).collect();
        cluster.endpoints(&left).await;
        let second = cluster.answers(cluster.pod(0), CLUSTER_IP, 80);
        assert!(second.len() == 1 && second != first, "{second:?} after {first:?}");
        cluster.endpoints(&[0, 1, 2]).await;
        assert_eq!(cluster.answers(cluster.pod(0), CLUSTER_IP, 80), second, "others coming back changes nothing");
    }
}

root_test! {
    async fn a_udp_flow_moves_on_when_its_endpoint_is_gone() {
        let mut cluster = Cluster::start("udp", 3).await;
        cluster.service("").await;
        cluster.endpoints(&[1]).await;
        let client = UdpClient::new(cluster.pod(0), CLUSTER_IP, 80);
        let node_port = UdpClient::new(&cluster.outside, NODE_IP, 30080);
        assert_eq!((client.ask().unwrap(), node_port.ask().unwrap()), ("pod1".to_string(), "pod1".to_string()));
        cluster.endpoints(&[2]).await;
        assert_eq!((client.ask().unwrap(), node_port.ask().unwrap()), ("pod2".to_string(), "pod2".to_string()));
    }
}

root_test! {
    async fn only_endpoints_that_serve_are_used() {
        let mut cluster = Cluster::start("phases", 3).await;
        cluster.service("").await;
        let [a, b, c] = [0, 1, 2].map(|i| cluster.pods[i].1);
        let not_ready = format!("- {{addresses: ['{a}'], conditions: {{ready: false}}}}\n");
        let draining =
            format!("- {{addresses: ['{b}'], conditions: {{ready: false, serving: true, terminating: true}}}}\n");
        let ready = format!("- {{addresses: ['{c}'], conditions: {{}}}}\n");
        cluster.slice(&format!("{not_ready}{draining}{ready}")).await;
        assert_eq!(cluster.answers(&cluster.node, CLUSTER_IP, 80), names(&[2]));
        cluster.slice(&format!("{not_ready}{draining}")).await;
        assert_eq!(cluster.answers(&cluster.node, CLUSTER_IP, 80), names(&[1]), "draining, for want of a ready one");
        cluster.slice(&not_ready).await;
        assert!(ask_tcp(&cluster.node, CLUSTER_IP, 80).is_err());
    }
}

root_test! {
    async fn a_proxy_that_starts_again_takes_over_the_table() {
        let mut cluster = Cluster::start("restart", 2).await;
        cluster.service("").await;
        cluster.endpoints(&[0]).await;
        cluster.proxy.abort();
        cluster.api.apply(&slice_yaml("web", &format!("- {{addresses: ['{}']}}\n", cluster.pods[1].1)));
        assert_eq!(cluster.answers(&cluster.node, CLUSTER_IP, 80), names(&[0]), "rules outlive their proxy");

        let config = ServiceProxyConfig {
            node_name: "node".to_string(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/12".parse().unwrap(),
            bridge: "cni0".to_string(),
        };
        let proxy = ServiceProxy::open_in(cluster.node.clone(), config).await.unwrap();
        cluster.status = proxy.status();
        cluster.proxy = tokio::spawn(proxy.run(cluster.api.client()));
        cluster.status.wait_for(|status| status.synced).await.unwrap();
        assert_eq!(cluster.answers(&cluster.node, CLUSTER_IP, 80), names(&[1]));
    }
}

root_test! {
    async fn a_table_that_someone_else_removed_is_written_again() {
        let mut cluster = Cluster::start("removed", 2).await;
        cluster.service("").await;
        cluster.endpoints(&[0]).await;
        let tables = nlink::netlink::Connection::<nlink::Nftables>::new_in(nlink_target(&cluster)).unwrap();
        tables.del_table("skiff-services", nlink::netlink::nftables::Family::Ip).await.unwrap();
        cluster.api.apply(&slice_yaml("web", &format!("- {{addresses: ['{}']}}\n", cluster.pods[1].1)));
        let failed = |status: &Status| status.failure.is_some();
        tokio::time::timeout(Duration::from_secs(10), cluster.status.wait_for(failed)).await.unwrap().unwrap();
        tokio::time::timeout(Duration::from_secs(10), cluster.status.wait_for(|status| status.synced)).await.unwrap().unwrap();
        assert_eq!(cluster.answers(cluster.pod(0), CLUSTER_IP, 80), names(&[1]));
    }
}

fn nlink_target(cluster: &Cluster) -> nlink::netlink::namespace::NetnsRef {
    nlink::netlink::namespace::NetnsRef::Path(cluster._netns[0].path())
}
