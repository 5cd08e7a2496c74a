//! The whole server on loopback sockets, following an API server of a few objects in memory.

// The one fake API server of the node's network crates.
#[path = "../../net/tests/support/api.rs"]
#[allow(dead_code)] // Each test uses its own part.
mod api;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use api::FakeApi;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use skiff_dns::{DnsConfig, DnsServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.50, clusterIPs: [10.96.0.50]}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: example.com}
---
apiVersion: v1
kind: Service
metadata: {name: many}
spec: {clusterIP: None}
";

struct Server {
    address: SocketAddr,
    api: FakeApi,
    task: JoinHandle<()>,
    resolv_conf: std::path::PathBuf,
}

impl Server {
    /// `resolv_conf` is the content of the file that lists upstream servers.
    async fn start(test: &str, resolv_conf: &str) -> Self {
        let api = FakeApi::default();
        api.apply(OBJECTS);
        let path = std::env::temp_dir().join(format!("skiff-dns-{}-{test}", std::process::id()));
        std::fs::write(&path, resolv_conf).unwrap();
        let server = DnsServer::bind(&[SocketAddr::from((Ipv4Addr::LOCALHOST, 0))]).await.unwrap();
        let (address, mut status) = (server.local_addresses()[0], server.status());
        let config = DnsConfig { resolv_conf: path.clone(), ..DnsConfig::default() };
        let run = server.run(api.client(), config);
        let task = tokio::spawn(async move { run.await.unwrap() });
        timeout(Duration::from_secs(10), status.wait_for(|status| status.synced))
            .await
            .unwrap()
            .unwrap();
        Self { address, api, task, resolv_conf: path }
    }

    async fn udp(&self, query: &Message) -> Message {
        let reply = self.exchange(&query.to_vec().unwrap()).await.expect("a reply within seconds");
        Message::from_vec(&reply).unwrap()
    }

    async fn exchange(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(bytes, self.address).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let length = timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await.ok()?.unwrap();
        buffer.truncate(length);
        Some(buffer)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.resolv_conf);
    }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn ask_stream(stream: &mut TcpStream, query: &Message) -> Message {
    let bytes = query.to_vec().unwrap();
    stream.write_all(&[&(bytes.len() as u16).to_be_bytes(), &bytes[..]].concat()).await.unwrap();
    let mut reply = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut reply).await.unwrap();
    Message::from_vec(&reply).unwrap()
}

#[tokio::test]
async fn cluster_names_over_udp() {
    let server = Server::start("udp", "").await;
    let reply = server.udp(&query("web.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!((reply.metadata.id, reply.metadata.response_code), (0x1234, ResponseCode::NoError));
    assert!(
        reply.metadata.authoritative
            && reply.metadata.recursion_available
            && reply.metadata.recursion_desired
    );
    assert_eq!(
        (reply.answers[0].ttl, reply.answers[0].data.to_string()),
        (30, "10.96.0.50".to_string())
    );

    let missing = server.udp(&query("none.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(
        (missing.metadata.response_code, missing.authorities.len()),
        (ResponseCode::NXDomain, 1)
    );
    let other_type = server.udp(&query("web.default.svc.cluster.local.", RecordType::AAAA)).await;
    assert_eq!(
        (other_type.metadata.response_code, other_type.authorities.len()),
        (ResponseCode::NoError, 1)
    );
    assert!(other_type.answers.is_empty());
}

#[tokio::test]
async fn a_change_is_answered_as_soon_as_it_is_seen() {
    let server = Server::start("change", "").await;
    server.api.delete("services", "web");
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        let reply = server.udp(&query("web.default.svc.cluster.local.", RecordType::A)).await;
        if reply.metadata.response_code == ResponseCode::NXDomain {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("a deleted Service is still answered");
}

#[tokio::test]
async fn a_long_answer_is_truncated_by_udp_and_whole_by_tcp() {
    let server = Server::start("long", "").await;
    let endpoints: String =
        (1..=120).map(|i| format!("- {{addresses: [10.42.1.{i}]}}\n")).collect();
    server.api.apply(&format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: many-1, labels: {{kubernetes.io/service-name: many}}}}
addressType: IPv4
ports: []
endpoints:
{endpoints}"
    ));
    let mut question = query("many.default.svc.cluster.local.", RecordType::A);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while ask_stream(&mut stream, &question).await.answers.len() != 120 {
        assert!(Instant::now() < deadline, "the endpoints never show");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let cut = server.udp(&question).await;
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    question.set_edns(edns);
    let cut = server.udp(&question).await;
    assert!(cut.metadata.truncation, "1,232 bytes is the most that is sent");
    assert_eq!(cut.edns.expect("EDNS is answered with EDNS").max_payload(), 1232);
}

#[tokio::test]
async fn other_names_are_refused_at_once_without_upstream_servers() {
    let server = Server::start("refused", "nameserver not-an-address\n").await;
    let started = Instant::now();
    let reply = server.udp(&query("example.com.", RecordType::A)).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    assert!(started.elapsed() < Duration::from_secs(1));
    let alias = server.udp(&query("outside.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(alias.answers[0].data.to_string(), "example.com.");
}

#[tokio::test]
async fn what_is_no_proper_query_gets_the_proper_error() {
    let server = Server::start("errors", "").await;
    let code = async |message: &Message| server.udp(message).await.metadata.response_code;
    let mut update = query("web.default.svc.cluster.local.", RecordType::A);
    update.metadata.op_code = OpCode::Status;
    assert_eq!(code(&update).await, ResponseCode::NotImp);
    assert_eq!(code(&query("cluster.local.", RecordType::AXFR)).await, ResponseCode::Refused);
    let mut two = query("a.cluster.local.", RecordType::A);
    two.add_query(Query::query(Name::from_ascii("b.cluster.local.").unwrap(), RecordType::A));
    assert_eq!(code(&two).await, ResponseCode::FormErr);
    let mut newer = query("web.default.svc.cluster.local.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.set_edns(edns);
    // BADVERS and BADSIG are one number; which is meant, the record that carries it tells.
    assert_eq!(u16::from(code(&newer).await), u16::from(ResponseCode::BADVERS));
    let cut = server
        .exchange(&query("web.default.svc.cluster.local.", RecordType::A).to_vec().unwrap()[..20])
        .await;
    assert_eq!(
        Message::from_vec(&cut.unwrap()).unwrap().metadata.response_code,
        ResponseCode::FormErr
    );
}

/// Bytes that are nothing, and queries with bytes changed: after all of them, the server still answers.
#[tokio::test]
async fn no_datagram_stops_the_server() {
    let server = Server::start("noise", "").await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let good =
        query("_http._tcp.web.default.svc.cluster.local.", RecordType::SRV).to_vec().unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..20_000 {
        let mut bytes =
            if round % 2 == 0 { good.clone() } else { vec![0; random() as usize % 200] };
        let changes = if round % 2 == 0 { 1 + random() as usize % 6 } else { bytes.len() };
        for _ in 0..changes {
            let at = random() as usize % bytes.len();
            bytes[at] = random() as u8;
        }
        bytes.truncate(random() as usize % (bytes.len() + 1) + bytes.len() / 2);
        socket.send_to(&bytes, server.address).await.unwrap();
        if round % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let reply = server.udp(&query("web.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(reply.answers.len(), 1);
    assert!(!server.task.is_finished());
}

#[tokio::test]
async fn a_taken_address_is_named_in_the_error() {
    let first = DnsServer::bind(&[SocketAddr::from((Ipv4Addr::LOCALHOST, 0))]).await.unwrap();
    let taken = first.local_addresses()[0];
    let error = DnsServer::bind(&[taken]).await.err().expect("the address is taken");
    assert_eq!(error.to_string(), format!("cannot listen on {taken}"));
}
