//! Names of other zones: asked of the upstream servers of a resolv.conf.
//!
//! A query's bytes come in, an upstream's answer comes out, with the query's own id. The healthiest server is asked
//! first; another joins the race when it is slow. Counterpart: plugin/forward of CoreDNS.
//!
//! Invariant: an answer counts only if it comes from the server asked, with the random id and the question it was sent.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

/// How long a server may be silent before the next one is asked as well.
const HEAD_START: Duration = Duration::from_millis(200);
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);
const DNS_PORT: u16 = 53;

/// The upstream servers, in the order of the file.
#[derive(Debug, Default)]
pub struct Forwarder {
    servers: Vec<Server>,
}

#[derive(Debug)]
struct Server {
    address: SocketAddr,
    /// Failures since the last answer.
    failures: AtomicU32,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no upstream server is configured")]
    NoServer,
    #[error("no upstream server answered")]
    NoAnswer,
}

// === impl Forwarder ===

impl Forwarder {
    /// The servers of a resolv.conf, without those that are this server itself. A missing file has none.
    pub fn from_resolv_conf(path: &Path, own: &[SocketAddr]) -> io::Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        Ok(Self::new(name_servers(&text).filter(|address| !own.contains(address))))
    }

    pub fn new(servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        let server = |address| Server { address, failures: AtomicU32::new(0) };
        Self { servers: servers.into_iter().map(server).collect() }
    }

    /// The first useful answer to `query`, whose encoding is `bytes`.
    pub async fn resolve(&self, query: &Message, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        if self.servers.is_empty() {
            return Err(Error::NoServer);
        }
        let mut order: Vec<_> = self.servers.iter().collect();
        order.sort_by_key(|server| server.failures.load(Ordering::Relaxed));
        let turns = (0u32..).map(|position| HEAD_START * position);
        let mut asked: FuturesUnordered<_> = order
            .into_iter()
            .zip(turns)
            .map(|(server, turn)| server.ask_after(turn, query, bytes))
            .collect();
        let mut refusal = None;
        while let Some(answer) = asked.next().await {
            match answer {
                Some(Reply { bytes, useful: true }) => return Ok(bytes),
                Some(Reply { bytes, useful: false }) => refusal = Some(bytes),
                None => {}
            }
        }
        refusal.ok_or(Error::NoAnswer)
    }
}

fn name_servers(text: &str) -> impl Iterator<Item = SocketAddr> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = lines.filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok());
    addresses.map(|address| SocketAddr::new(address, DNS_PORT))
}

struct Reply {
    bytes: Vec<u8>,
    /// Not a refusal or failure, which another server may do better than.
    useful: bool,
}

// === impl Server ===

impl Server {
    async fn ask_after(&self, pause: Duration, query: &Message, bytes: &[u8]) -> Option<Reply> {
        sleep(pause).await;
        self.ask(query, bytes).await
    }

    async fn ask(&self, query: &Message, bytes: &[u8]) -> Option<Reply> {
        let reply = self.exchange(query, bytes).await;
        match &reply {
            Some(reply) if reply.useful => self.failures.store(0, Ordering::Relaxed),
            _ => {
                self.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        reply
    }

    async fn exchange(&self, query: &Message, bytes: &[u8]) -> Option<Reply> {
        let mut asked = bytes.to_vec();
        let id = u16::try_from(getrandom::u32().ok()? & 0xffff).ok()?;
        asked.get_mut(..2)?.copy_from_slice(&id.to_be_bytes());
        let by_udp =
            timeout(SERVER_TIMEOUT, ask_udp(self.address, &asked, id, query)).await.ok()?.ok()?;
        let (mut reply, message) = match by_udp {
            (_, message) if message.metadata.truncation => {
                timeout(SERVER_TIMEOUT, ask_tcp(self.address, &asked, id, query))
                    .await
                    .ok()?
                    .ok()?
            }
            whole => whole,
        };
        reply.get_mut(..2)?.copy_from_slice(&query.metadata.id.to_be_bytes());
        let useful = !matches!(
            message.metadata.response_code,
            ResponseCode::ServFail | ResponseCode::Refused
        );
        Some(Reply { bytes: reply, useful })
    }
}

async fn ask_udp(
    server: SocketAddr,
    asked: &[u8],
    id: u16,
    query: &Message,
) -> io::Result<(Vec<u8>, Message)> {
    // A socket per question: its random port is part of what a forger would have to guess.
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(asked).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(message) = accept(&buffer[..length], id, query) {
            buffer.truncate(length);
            return Ok((buffer, message));
        }
    }
}

async fn ask_tcp(
    server: SocketAddr,
    asked: &[u8],
    id: u16,
    query: &Message,
) -> io::Result<(Vec<u8>, Message)> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(asked.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), asked].concat()).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    let message = accept(&buffer, id, query)
        .ok_or_else(|| io::Error::other("not an answer to the question"))?;
    Ok((buffer, message))
}

/// The message, if it answers what was asked.
fn accept(bytes: &[u8], id: u16, query: &Message) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    let metadata = &message.metadata;
    let answers = metadata.id == id && metadata.message_type == MessageType::Response;
    (answers && message.queries == query.queries).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{OpCode, Query};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record, RecordType};

    fn query() -> (Message, Vec<u8>) {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii("example.com.").unwrap(), RecordType::A));
        let bytes = message.to_vec().unwrap();
        (message, bytes)
    }

    /// A server on loopback that answers every datagram by `respond`; what it returns is sent as it is.
    async fn server(respond: fn(Message) -> Vec<Message>) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
                for answer in respond(Message::from_vec(&buffer[..length]).unwrap()) {
                    socket.send_to(&answer.to_vec().unwrap(), peer).await.unwrap();
                }
            }
        });
        address
    }

    fn answer(query: &Message, last: u8) -> Message {
        let mut answer = query.clone().into_response();
        let data = RData::A(A::new(192, 0, 2, last));
        answer.add_answer(Record::from_rdata(query.queries[0].name().clone(), 60, data));
        answer
    }

    fn refuse(query: Message) -> Vec<Message> {
        let mut answer = query.into_response();
        answer.metadata.response_code = ResponseCode::Refused;
        vec![answer]
    }

    async fn resolve(servers: &[SocketAddr]) -> Result<Message, Error> {
        let (message, bytes) = query();
        let forwarder = Forwarder::new(servers.iter().copied());
        Ok(Message::from_vec(&forwarder.resolve(&message, &bytes).await?).unwrap())
    }

    #[tokio::test]
    async fn the_answer_carries_the_id_of_the_query() {
        let good = server(|query| vec![answer(&query, 1)]).await;
        let message = resolve(&[good]).await.unwrap();
        assert_eq!((message.metadata.id, message.answers.len()), (7, 1));
    }

    #[tokio::test]
    async fn forged_answers_are_ignored() {
        let forged = server(|query| {
            let mut other_id = answer(&query, 2);
            other_id.metadata.id = other_id.metadata.id.wrapping_add(1);
            let mut other_name = answer(&query, 3);
            other_name.queries[0].set_name(Name::from_ascii("evil.example.").unwrap());
            vec![other_id, other_name, query.clone(), answer(&query, 1)]
        });
        let message = resolve(&[forged.await]).await.unwrap();
        assert_eq!(message.answers[0].data, RData::A(A::new(192, 0, 2, 1)));
    }

    #[tokio::test]
    async fn a_silent_or_refusing_server_is_made_up_for() {
        let silent = server(|_| Vec::new()).await;
        let refusing = server(refuse).await;
        let good = server(|query| vec![answer(&query, 1)]).await;
        assert_eq!(resolve(&[silent, refusing, good]).await.unwrap().answers.len(), 1);
        let refused = resolve(&[refusing]).await.unwrap();
        assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
        assert!(matches!(resolve(&[]).await, Err(Error::NoServer)));
    }

    #[test]
    fn name_servers_of_a_resolv_conf() {
        let text = "search example.com\nnameserver 192.0.2.1\n# nameserver 192.0.2.2\n nameserver\t::1 x\nnameserver y\n";
        let found: Vec<_> = name_servers(text).map(|address| address.to_string()).collect();
        assert_eq!(found, ["192.0.2.1:53", "[::1]:53"]);
    }
}
