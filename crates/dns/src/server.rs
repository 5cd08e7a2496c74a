//! The name server: sockets, messages, and the watch that keeps the zone current.
//!
//! A datagram or a TCP frame comes in, one response goes out. Counterpart: the server and the errors, loadbalance and
//! ready plugins of CoreDNS.
//!
//! Invariant: a query for a cluster name is answered without waiting for anything but the zone's lock.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use kube::Client;
use skiff_services::{Catalog, changes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::forward::{self, Forwarder};
use crate::metrics::Metrics;
use crate::records::Recorder;
use crate::zone::{Answer, Zone};

/// What a UDP response may take where the client announces more: it then needs no fragments on any usual path.
const UDP_LIMIT: u16 = 1232;
/// What every client takes.
const UDP_MINIMUM: u16 = 512;
/// Queries waiting for upstream servers, and open TCP connections; more are turned away.
const MAX_WAITING: usize = 1000;
const TCP_IDLE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// Such as `cluster.local`.
    pub cluster_domain: String,
    /// Lists the servers for all other names.
    pub resolv_conf: PathBuf,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            cluster_domain: "cluster.local".to_string(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}")]
    Bind {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("invalid cluster domain {domain:?}")]
    ClusterDomain { domain: String },
}

/// How the server is doing, for readiness.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    /// All Services and EndpointSlices have been listed once. Until then, cluster names are answered with SERVFAIL.
    pub synced: bool,
}

/// Sockets that are listening, and nothing more yet.
pub struct DnsServer {
    udp: Vec<Arc<UdpSocket>>,
    tcp: Vec<TcpListener>,
    status: watch::Sender<Status>,
    metrics: Arc<Metrics>,
}

/// What answers questions; shared by all sockets.
struct Responder {
    zone: RwLock<Zone>,
    forwarder: Forwarder,
    waiting: Arc<Semaphore>,
    status: watch::Receiver<Status>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// What to do with a query: send this, or ask upstream first.
enum Outcome {
    Reply(Vec<u8>),
    Forward(Message),
    /// Not a query; answering could start a loop.
    Ignore,
}

// === impl DnsServer ===

impl DnsServer {
    /// Listens on UDP and TCP at every address, in the calling thread's network namespace.
    pub async fn bind(addresses: &[SocketAddr]) -> Result<Self, Error> {
        let (mut udp, mut tcp) = (Vec::new(), Vec::new());
        for address in addresses.iter().copied() {
            let failed = |source| Error::Bind { address, source };
            let socket = UdpSocket::bind(address).await.map_err(failed)?;
            // Port 0 asks for any port: TCP then takes the one UDP got.
            let chosen = socket.local_addr().map_err(failed)?;
            udp.push(Arc::new(socket));
            tcp.push(TcpListener::bind(chosen).await.map_err(failed)?);
        }
        Ok(Self { udp, tcp, status: watch::Sender::default(), metrics: Arc::default() })
    }

    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.udp.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// Serves until the future is dropped.
    pub async fn run(self, client: Client, config: DnsConfig) -> Result<(), Error> {
        let origin = parse_domain(&config.cluster_domain)?;
        let own = self.local_addresses();
        let forwarder = Forwarder::from_resolv_conf(&config.resolv_conf, &own).unwrap_or_else(|error| {
            warn!(path = %config.resolv_conf.display(), %error, "no upstream servers: only cluster names resolve");
            Forwarder::default()
        });
        let responder = Arc::new(Responder {
            zone: RwLock::new(Zone::new(&origin)),
            forwarder,
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            status: self.status.subscribe(),
            metrics: self.metrics,
        });
        let mut tasks = JoinSet::new();
        for socket in self.udp {
            tasks.spawn(serve_udp(socket, responder.clone()));
        }
        for listener in self.tcp {
            tasks.spawn(serve_tcp(listener, responder.clone()));
        }
        follow(client, &origin, &responder, self.status).await;
        Ok(())
    }
}

fn parse_domain(domain: &str) -> Result<Name, Error> {
    let invalid = || Error::ClusterDomain { domain: domain.to_string() };
    let mut name = Name::from_ascii(domain).map_err(|_| invalid())?;
    name.set_fqdn(true);
    if name.is_root() { Err(invalid()) } else { Ok(name) }
}

// === the zone's source ===

/// Keeps the zone current with the API server's Services and EndpointSlices.
async fn follow(
    client: Client,
    origin: &Name,
    responder: &Responder,
    status: watch::Sender<Status>,
) {
    let mut changes = std::pin::pin!(changes(client));
    let mut catalog = Catalog::new(Recorder { zone: origin.clone() });
    while let Some(change) = changes.next().await {
        catalog.apply(change);
        while let Some(Some(change)) = changes.next().now_or_never() {
            catalog.apply(change);
        }
        if !catalog.complete() {
            continue;
        }
        let changes = catalog.take_changes();
        debug!(services = changes.len(), "zone updated");
        let mut zone = responder.zone.write().expect("no change of the zone panics");
        changes.into_iter().for_each(|(service, records)| zone.set(&service, records));
        drop(zone);
        status.send_if_modified(|status| !std::mem::replace(&mut status.synced, true));
    }
}

// === transports ===

async fn serve_udp(socket: Arc<UdpSocket>, responder: Arc<Responder>) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // An ICMP error of an earlier reply shows up here; it concerns that client alone.
                debug!(%error, "cannot receive");
                continue;
            }
        };
        let asked = Instant::now();
        match responder.answer(&buffer[..length], Transport::Udp) {
            Outcome::Reply(reply) => {
                responder.metrics.answered(&reply, asked.elapsed());
                send(&socket, &reply, peer).await;
            }
            Outcome::Ignore => {}
            Outcome::Forward(query) => {
                let (socket, responder, bytes) =
                    (socket.clone(), responder.clone(), buffer[..length].to_vec());
                tokio::spawn(async move {
                    let reply = responder.forward(&query, &bytes, Transport::Udp).await;
                    responder.metrics.answered(&reply, asked.elapsed());
                    send(&socket, &reply, peer).await;
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, reply: &[u8], peer: SocketAddr) {
    if let Err(error) = socket.send_to(reply, peer).await {
        debug!(%peer, %error, "cannot reply");
    }
}

async fn serve_tcp(listener: TcpListener, responder: Arc<Responder>) {
    let open = Arc::new(Semaphore::new(MAX_WAITING));
    loop {
        let permit = open.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, peer)) => {
                let responder = responder.clone();
                tokio::spawn(async move {
                    if let Err(error) = serve_stream(stream, &responder).await {
                        debug!(%peer, %error, "connection ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Answers the queries of one connection, in order, until the client is done or silent.
async fn serve_stream(mut stream: TcpStream, responder: &Responder) -> io::Result<()> {
    loop {
        let Ok(length) = timeout(TCP_IDLE, stream.read_u16()).await else {
            return Ok(());
        };
        let mut query = match length {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            length => vec![0; usize::from(length?)],
        };
        timeout(TCP_IDLE, stream.read_exact(&mut query)).await.map_err(io::Error::other)??;
        let asked = Instant::now();
        let reply = match responder.answer(&query, Transport::Tcp) {
            Outcome::Reply(reply) => reply,
            Outcome::Forward(message) => responder.forward(&message, &query, Transport::Tcp).await,
            Outcome::Ignore => return Ok(()),
        };
        responder.metrics.answered(&reply, asked.elapsed());
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), &reply[..]].concat()).await?;
    }
}

// === impl Responder ===

impl Responder {
    fn answer(&self, bytes: &[u8], transport: Transport) -> Outcome {
        let query = match Message::from_vec(bytes) {
            Ok(query) => query,
            Err(_) => return malformed(bytes),
        };
        if query.metadata.message_type == MessageType::Response {
            return Outcome::Ignore;
        }
        self.metrics.asked(transport, query.queries.first().map(Query::query_type));
        let mut response = response_to(&query);
        match self.fill(&query, &mut response) {
            Some(()) => Outcome::Reply(encode(response, &query, transport)),
            None => Outcome::Forward(query),
        }
    }

    /// Writes the answer into `response`; None if upstream servers are to be asked.
    fn fill(&self, query: &Message, response: &mut Message) -> Option<()> {
        let refuse = |response: &mut Message, code| {
            response.metadata.response_code = code;
            Some(())
        };
        if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return refuse(response, ResponseCode::BADVERS);
        }
        if query.metadata.op_code != OpCode::Query {
            return refuse(response, ResponseCode::NotImp);
        }
        let [question] = &query.queries[..] else {
            return refuse(response, ResponseCode::FormErr);
        };
        if question.query_class() != DNSClass::IN {
            return refuse(response, ResponseCode::Refused);
        }
        if matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR) {
            return refuse(response, ResponseCode::Refused);
        }
        let zone = self.zone.read().expect("no change of the zone panics");
        let answer = zone.answer(question.name(), question.query_type());
        if answer != Answer::NotOurs && !self.status.borrow().synced {
            // Not knowing is not the same as not existing.
            return refuse(response, ResponseCode::ServFail);
        }
        response.metadata.authoritative = true;
        match answer {
            Answer::Records { answers, additionals } => {
                response.add_answers(answers);
                response.add_additionals(additionals);
            }
            Answer::NoData => {
                response.add_authority(zone.soa());
            }
            Answer::NxDomain => {
                response.metadata.response_code = ResponseCode::NXDomain;
                response.add_authority(zone.soa());
            }
            Answer::Alias { .. } | Answer::NotOurs => return None,
        }
        Some(())
    }

    /// Answers through an upstream server.
    async fn forward(&self, query: &Message, bytes: &[u8], transport: Transport) -> Vec<u8> {
        let Ok(_permit) = self.waiting.try_acquire() else {
            return failure(query, ResponseCode::ServFail, transport);
        };
        let question = &query.queries[0];
        let answer = {
            let zone = self.zone.read().expect("no change of the zone panics");
            zone.answer(question.name(), question.query_type())
        };
        if let Answer::Alias { answers, target } = answer {
            return self.complete_alias(query, answers, target, transport).await;
        }
        match self.forwarder.resolve(query, bytes).await {
            Ok(reply) => fit(reply, query, transport),
            Err(forward::Error::NoServer) => failure(query, ResponseCode::Refused, transport),
            Err(forward::Error::NoAnswer) => failure(query, ResponseCode::ServFail, transport),
        }
    }

    /// Follows an ExternalName: the alias is ours, what it stands for is upstream's.
    async fn complete_alias(
        &self,
        query: &Message,
        alias: Vec<Record>,
        target: Name,
        transport: Transport,
    ) -> Vec<u8> {
        let mut asked = query.clone();
        asked.queries = vec![Query::query(target, query.queries[0].query_type())];
        let mut response = response_to(query);
        response.add_answers(alias);
        let found = match asked.to_vec() {
            Ok(bytes) => self.forwarder.resolve(&asked, &bytes).await.ok(),
            Err(_) => None,
        };
        if let Some(found) = found.and_then(|bytes| Message::from_vec(&bytes).ok()) {
            response.metadata.response_code = found.metadata.response_code;
            response.add_answers(found.answers);
        }
        encode(response, query, transport)
    }
}

// === messages ===

fn response_to(query: &Message) -> Message {
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.add_queries(query.queries.iter().cloned());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_LIMIT);
        response.set_edns(edns);
    }
    response
}

fn failure(query: &Message, code: ResponseCode, transport: Transport) -> Vec<u8> {
    let mut response = response_to(query);
    response.metadata.response_code = code;
    encode(response, query, transport)
}

/// The response's bytes, cut down to what the transport carries.
fn encode(response: Message, query: &Message, transport: Transport) -> Vec<u8> {
    let limit = limit(query, transport);
    match response.to_vec() {
        Ok(bytes) if bytes.len() <= limit => bytes,
        // An empty answer with the truncation bit sends the client to TCP; there, nothing is too long but nonsense.
        _ => response.truncate().to_vec().unwrap_or_default(),
    }
}

/// An upstream's answer may be longer than what this client takes.
fn fit(reply: Vec<u8>, query: &Message, transport: Transport) -> Vec<u8> {
    if reply.len() <= limit(query, transport) {
        return reply;
    }
    match Message::from_vec(&reply) {
        Ok(message) => encode(message, query, transport),
        Err(_) => failure(query, ResponseCode::ServFail, transport),
    }
}

fn limit(query: &Message, transport: Transport) -> usize {
    match transport {
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp => usize::from(query.max_payload().clamp(UDP_MINIMUM, UDP_LIMIT)),
    }
}

/// FORMERR to whatever has a header of a query; silence to anything else.
fn malformed(bytes: &[u8]) -> Outcome {
    let (Some(id), Some(flags)) = (bytes.get(..2), bytes.get(2)) else {
        return Outcome::Ignore;
    };
    if bytes.len() < 12 || flags & 0x80 != 0 {
        return Outcome::Ignore;
    }
    let id = u16::from_be_bytes([id[0], id[1]]);
    let response = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    response.to_vec().map_or(Outcome::Ignore, Outcome::Reply)
}
