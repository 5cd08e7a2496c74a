//! How long the server takes to answer a cluster name: 10,000 Services in the zone, one client on loopback.
//!
//! `cargo run --release -p skiff-dns --example query_latency`

#[path = "../../net/tests/support/api.rs"]
#[allow(dead_code)] // Written for tests, which use more of it.
mod api;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use skiff_dns::{DnsConfig, DnsServer};
use tokio::net::UdpSocket;

const SERVICES: u32 = 10_000;
const QUERIES: usize = 20_000;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let api = api::FakeApi::default();
    for i in 0..SERVICES {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + i);
        api.apply(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: svc-{i}}}, spec: {{clusterIP: {address}}}}}"
        ));
    }
    let server = DnsServer::bind(&[SocketAddr::from((Ipv4Addr::LOCALHOST, 0))]).await?;
    let (address, mut status) = (server.local_addresses()[0], server.status());
    let started = Instant::now();
    tokio::spawn(server.run(api.client(), DnsConfig::default()));
    status.wait_for(|status| status.synced).await?;
    println!("{SERVICES} services listed and indexed in {:?}", started.elapsed());

    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect(address).await?;
    let (mut times, mut buffer) = (Vec::with_capacity(QUERIES), [0; 512]);
    for i in 0..QUERIES {
        let mut message = Message::new(i as u16, MessageType::Query, OpCode::Query);
        let name = format!("svc-{}.default.svc.cluster.local.", i % SERVICES as usize);
        message.add_query(Query::query(Name::from_ascii(name)?, RecordType::A));
        let bytes = message.to_vec()?;
        let asked = Instant::now();
        socket.send(&bytes).await?;
        socket.recv(&mut buffer).await?;
        times.push(asked.elapsed());
    }
    times.sort();
    println!("round trip p50 {:?}, p99 {:?}", times[QUERIES / 2], times[QUERIES * 99 / 100]);
    Ok(())
}
