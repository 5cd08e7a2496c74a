//! How long after a create was sent a watcher hears of it, events read as they come.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::{Bytes, Incoming};
use serde_json::{Value, json};

use super::connection::Target;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

pub async fn latencies(target: &Target, namespace: &str, times: usize) -> Result<Vec<Duration>> {
    let path = format!("/api/v1/namespaces/{namespace}/secrets");
    let mut events = Events::open(target, &format!("{path}?watch=1&resourceVersion=0")).await?;
    let mut writer = target.connect().await?;
    let mut latencies = Vec::with_capacity(times);
    for at in 0..times {
        let name = format!("heard-{at}");
        let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
        let sent = Instant::now();
        let created = writer.ask(Method::POST, &path, body.to_string());
        let heard = async {
            events.until(|event| event.pointer("/object/metadata/name") == Some(&json!(name))).await
        };
        let (created, heard) = tokio::join!(created, heard);
        created?;
        heard?;
        latencies.push(sent.elapsed());
    }
    Ok(latencies)
}

/// The events of a watch, line by line.
pub struct Events {
    body: Incoming,
    pending: Vec<u8>,
}

impl Events {
    pub async fn open(target: &Target, path: &str) -> Result<Events> {
        let mut connection = target.connect().await?;
        let response = connection.send(Method::GET, path, Bytes::new()).await?;
        // The connection lives as long as its body is read.
        Ok(Events { body: response.into_body(), pending: Vec::new() })
    }

    /// Reads on until an event is the wanted one; answers when it came.
    pub async fn until(&mut self, mut wanted: impl FnMut(&Value) -> bool) -> Result<Instant> {
        loop {
            while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                if wanted(&serde_json::from_slice(&line)?) {
                    return Ok(Instant::now());
                }
            }
            let frame = self.body.frame().await.ok_or("the watch ended")??;
            if let Ok(data) = frame.into_data() {
                self.pending.extend_from_slice(&data);
            }
        }
    }
}
