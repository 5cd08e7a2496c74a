//! DNS questions asked as a resolver in this pod would: name servers and search list of
//! `/etc/resolv.conf`.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::http::{Answer, Call};

const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Deserialize)]
struct Question {
    #[serde(rename = "type")]
    of: String,
    name: String,
}

struct Resolver {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    ndots: usize,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

pub async fn api(call: &Call) -> Answer {
    let question: Question = match serde_json::from_slice(&call.body) {
        Ok(question) => question,
        Err(error) => return Answer::error(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match ask(&question).await {
        Ok(result) => Answer::json(&json!({ "result": result })),
        Err(error) => Answer::error(StatusCode::BAD_GATEWAY, &error.to_string()),
    }
}

async fn ask(question: &Question) -> Result<String, Failure> {
    let of = RecordType::from_str(&question.of.to_uppercase())?;
    let resolver = Resolver::read(&std::fs::read_to_string("/etc/resolv.conf")?);
    let mut last = None;
    for name in resolver.candidates(&question.name) {
        let answer = resolver.query(&name, of).await?;
        if !answer.answers.is_empty() {
            return Ok(shown(&answer));
        }
        last = Some(shown(&answer));
    }
    last.ok_or_else(|| "there is nothing to ask for".into())
}

impl Resolver {
    fn read(text: &str) -> Resolver {
        let mut resolver = Resolver { servers: Vec::new(), search: Vec::new(), ndots: 1 };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    resolver
                        .servers
                        .extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
                }
                Some("search") => resolver.search = words.map(str::to_owned).collect(),
                Some("options") => {
                    let dots = words.find_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                    resolver.ndots = dots.unwrap_or(resolver.ndots);
                }
                _ => {}
            }
        }
        resolver
    }

    /// The full names to try, in order.
    fn candidates(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let searched = self.search.iter().map(|domain| format!("{name}.{domain}."));
        let absolute = std::iter::once(format!("{name}."));
        match name.matches('.').count() >= self.ndots {
            true => absolute.chain(searched).collect(),
            false => searched.chain(absolute).collect(),
        }
    }

    async fn query(&self, name: &str, of: RecordType) -> Result<Message, Failure> {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_str(name)?, of));
        let wire = message.to_vec()?;
        let mut failure: Failure = "no name server is configured".into();
        for server in &self.servers {
            match exchange(SocketAddr::new(*server, 53), &wire).await {
                Ok(answer) => return Ok(Message::from_vec(&answer)?),
                Err(error) => failure = format!("{server}: {error}").into(),
            }
        }
        Err(failure)
    }
}

async fn exchange(server: SocketAddr, wire: &[u8]) -> Result<Vec<u8>, Failure> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(wire).await?;
    let mut buffer = vec![0; 4096];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await??;
    buffer.truncate(length);
    Ok(buffer)
}

/// In the manner of dig.
fn shown(message: &Message) -> String {
    let mut lines = vec![format!(";; status: {}", status(message.metadata.response_code))];
    lines.extend(message.queries.iter().map(|query| format!(";{query}")));
    lines.extend(message.answers.iter().map(|record| record.to_string()));
    lines.join("\n")
}

fn status(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "NOERROR".into(),
        ResponseCode::NXDomain => "NXDOMAIN".into(),
        ResponseCode::ServFail => "SERVFAIL".into(),
        other => format!("{other:?}").to_uppercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_searched_for_first() {
        let text = "nameserver 10.96.0.10\nsearch a.svc.x svc.x\noptions ndots:5\n";
        let resolver = Resolver::read(text);
        assert_eq!(resolver.candidates("web"), ["web.a.svc.x.", "web.svc.x.", "web."]);
        assert_eq!(resolver.candidates("web."), ["web."]);
    }
}
