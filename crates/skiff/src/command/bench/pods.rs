//! Pods on a real node: how soon one runs, how soon many run, and how long a command in one takes.
//!
//! A start is counted from the request of its create to the watch event that shows the pod Running; a command from the first
//! byte of a new connection to the status of its end. Needs an image that the node has.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};
use skiff_streams::client::{ExecClient, Transport};
use skiff_streams::{CommandStatus, StreamOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::connection::Target;
use super::watch::Events;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const PROTOCOL: &str = "v5.channel.k8s.io";

/// The pods of one namespace, all of one image.
pub struct Pods<'a> {
    pub target: &'a Target,
    pub namespace: &'a str,
    pub image: &'a str,
}

// === impl Pods ===

impl Pods<'_> {
    /// One pod after the other, so that each start is measured on an idle node.
    pub async fn starts(&self, times: usize) -> Result<Vec<Duration>> {
        let mut events = self.events().await?;
        let mut client = self.target.connect().await?;
        let mut took = Vec::with_capacity(times);
        for at in 0..times {
            let name = format!("started-{at}");
            let sent = Instant::now();
            client.ask(Method::POST, &self.path(), self.pod(&name)).await?;
            let running = events.until(|event| running(event) == Some(&name)).await?;
            took.push(running - sent);
            client.ask(Method::DELETE, &self.path_of(&name), at_once()).await?;
            events.until(|event| deleted(event) == Some(&name)).await?;
        }
        Ok(took)
    }

    /// Many at once; answers how long after the first create each of them ran.
    pub async fn burst(&self, count: usize) -> Result<Vec<Duration>> {
        let mut events = self.events().await?;
        let mut client = self.target.connect().await?;
        let began = Instant::now();
        for at in 0..count {
            let pod = self.pod(&format!("many-{at}"));
            client.ask(Method::POST, &self.path(), pod).await?;
        }
        let mut waiting: HashSet<String> = (0..count).map(|at| format!("many-{at}")).collect();
        let mut took = Vec::with_capacity(count);
        while !waiting.is_empty() {
            let mut seen = String::new();
            let at = events
                .until(|event| {
                    running(event).is_some_and(|name| {
                        seen.clear();
                        seen.push_str(name);
                        waiting.contains(name)
                    })
                })
                .await?;
            waiting.remove(&seen);
            took.push(at - began);
        }
        client.ask(Method::DELETE, &self.path(), at_once()).await?;
        Ok(took)
    }

    /// The same command over and over in one pod, each time over a connection of its own.
    pub async fn commands(&self, command: &str, times: usize) -> Result<Vec<Duration>> {
        let mut events = self.events().await?;
        let mut client = self.target.connect().await?;
        client.ask(Method::POST, &self.path(), self.pod("commanded")).await?;
        events.until(|event| running(event) == Some("commanded")).await?;
        let query = format!("command={command}&stdout=true&stderr=true");
        let path = format!("{}/exec?{query}", self.path_of("commanded"));
        let mut took = Vec::with_capacity(times);
        for _ in 0..times {
            let sent = Instant::now();
            let status = self.command(&path, &query).await?;
            if status != CommandStatus::Success {
                return Err(format!("{command}: {status:?}").into());
            }
            took.push(sent.elapsed());
        }
        client.ask(Method::DELETE, &self.path_of("commanded"), at_once()).await?;
        Ok(took)
    }

    /// So many `cat`s at once in one pod, each of which must echo a line while all are open; answers how long each took from
    /// its connection to its echo.
    pub async fn sessions(&self, count: usize) -> Result<Vec<Duration>> {
        let mut events = self.events().await?;
        let mut client = self.target.connect().await?;
        client.ask(Method::POST, &self.path(), self.pod("crowded")).await?;
        events.until(|event| running(event) == Some("crowded")).await?;
        let query = "command=cat&stdin=true&stdout=true";
        let path = format!("{}/exec?{query}", self.path_of("crowded"));
        let mut opening = JoinSet::new();
        for _ in 0..count {
            opening.spawn(echo(self.target.clone(), path.clone(), query));
        }
        let (mut took, mut open) = (Vec::with_capacity(count), Vec::with_capacity(count));
        while let Some(session) = opening.join_next().await {
            let (session, echoed) = session?.map_err(|error| error.to_string())?;
            open.push(session);
            took.push(echoed);
        }
        for mut session in open {
            drop(session.stdin.take());
            let status = session.status().await?;
            if status != CommandStatus::Success {
                return Err(format!("cat: {status:?}").into());
            }
        }
        client.ask(Method::DELETE, &self.path_of("crowded"), at_once()).await?;
        Ok(took)
    }

    async fn command(&self, path: &str, query: &str) -> Result<CommandStatus> {
        let io = self.target.dial().await?;
        let options = StreamOptions::from_query(query)?;
        let mut running =
            ExecClient::connect(io, path, Transport::WebSocket, PROTOCOL, options).await?;
        Ok(running.status().await?)
    }

    async fn events(&self) -> Result<Events> {
        Events::open(self.target, &format!("{}?watch=1&resourceVersion=0", self.path())).await
    }

    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/pods", self.namespace)
    }

    fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.path())
    }

    /// The grace period is not left out: the default would keep a deleted pod for thirty seconds.
    fn pod(&self, name: &str) -> String {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name },
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "c", "image": self.image, "imagePullPolicy": "IfNotPresent",
                }],
            },
        })
        .to_string()
    }
}

/// A session in which a line was sent and came back.
async fn echo(
    target: Target,
    path: String,
    query: &str,
) -> std::result::Result<(ExecClient, Duration), Box<dyn std::error::Error + Send + Sync>> {
    let sent = Instant::now();
    let io = target.dial().await?;
    let options = StreamOptions::from_query(query)?;
    let mut session =
        ExecClient::connect(io, &path, Transport::WebSocket, PROTOCOL, options).await?;
    let stdin = session.stdin.as_mut().ok_or("no standard input")?;
    stdin.write_all(b"echo\n").await?;
    stdin.flush().await?;
    let mut line = [0; 5];
    session.stdout.as_mut().ok_or("no standard output")?.read_exact(&mut line).await?;
    match &line {
        b"echo\n" => Ok((session, sent.elapsed())),
        other => Err(format!("{:?} came back", String::from_utf8_lossy(other)).into()),
    }
}

fn at_once() -> String {
    json!({ "gracePeriodSeconds": 0 }).to_string()
}

/// The name of the pod that an event shows Running.
fn running(event: &Value) -> Option<&str> {
    let phase = event.pointer("/object/status/phase")?.as_str()?;
    (phase == "Running").then(|| event.pointer("/object/metadata/name")?.as_str())?
}

/// The name of the pod that an event shows gone.
fn deleted(event: &Value) -> Option<&str> {
    (event["type"] == "DELETED").then(|| event.pointer("/object/metadata/name")?.as_str())?
}
