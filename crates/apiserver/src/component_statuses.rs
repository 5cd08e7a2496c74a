//! `componentstatuses`: whether the parts of the control plane work.
//!
//! Name of a part -> one condition. A part that runs in this process is healthy as long as it runs; another is asked where
//! upstream asks it, on its port of this machine. Counterpart: `registry/core/componentstatus`.
//! Invariant: nothing is stored, so there is nothing to watch and no revision.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::Request;
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use skiff_api::{GroupResource, KindDef, Status};

use crate::call::Call;
use crate::reply::{BoxError, List, Reply, empty};
use crate::verbs::selection::Selection;
use crate::webhook::{self, Destination, Trust};
use crate::{health, objects};

/// Parts that may run elsewhere, and the port on which upstream's say that they are healthy.
const ELSEWHERE: &[(&str, u16)] = &[("scheduler", 10259), ("controller-manager", 10257)];
const STORE: &str = "etcd-0";
/// How long a part may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST_ANSWER: usize = 64 << 10;

/// The parts that run in this process.
#[derive(Default)]
pub struct Components {
    running: Mutex<HashMap<&'static str, Weak<()>>>,
}

/// A part that runs. Drop it when it ends.
pub struct Component {
    _alive: Arc<()>,
}

pub async fn list(call: &Call, kind: Arc<KindDef>) -> Result<Reply, Status> {
    let selection = Selection::read(call, &kind)?;
    let names = ELSEWHERE.iter().map(|(name, _)| *name).chain([STORE]);
    let all = join_all(names.map(|name| status(call, name))).await;
    let scanner = selection.scanner();
    let items = all
        .iter()
        .map(|status| objects::plain_bytes(&kind, status))
        .filter(|item| scanner.matches(item))
        .collect();
    let (resource_version, continue_token) = (String::new(), String::new());
    Ok(Reply::List(List { kind, items, resource_version, continue_token, remaining: None }))
}

pub async fn get(call: &Call, kind: Arc<KindDef>) -> Result<Reply, Status> {
    let name = call.info.name.as_str();
    if name != STORE && !ELSEWHERE.iter().any(|(known, _)| *known == name) {
        // Upstream names the kind here where it names the resource everywhere else.
        return Err(Status::not_found(&GroupResource::new("", "componentstatus"), name));
    }
    let bytes = objects::plain_bytes(&kind, &status(call, name).await);
    Ok(Reply::object(kind, bytes))
}

async fn status(call: &Call, name: &str) -> Value {
    let (healthy, message) = match check(call, name).await {
        Ok(()) => ("True", "ok".to_owned()),
        Err(why) => ("False", why),
    };
    json!({
        "kind": "ComponentStatus",
        "apiVersion": "v1",
        "metadata": { "name": name },
        "conditions": [{ "type": "Healthy", "status": healthy, "message": message }],
    })
}

async fn check(call: &Call, name: &str) -> Result<(), String> {
    let elsewhere = ELSEWHERE.iter().find(|(known, _)| *known == name);
    match elsewhere {
        None => health::store(&call.server).await,
        Some((name, _)) if call.server.components.is_running(name) => Ok(()),
        Some((_, port)) => {
            let asked = tokio::time::timeout(PATIENCE, ask(*port)).await;
            let answer = asked.map_err(|_| "context deadline exceeded".into()).flatten();
            answer
                .map_err(|why: BoxError| format!("Get \"https://127.0.0.1:{port}/healthz\": {why}"))
        }
    }
}

/// Asks a part on this machine, whatever certificate it shows.
async fn ask(port: u16) -> Result<(), BoxError> {
    let host = "127.0.0.1".to_owned();
    let tls = Arc::new(webhook::client_tls(&Trust::Anything, None)?);
    let destination = Destination { host: host.clone(), port, tls: Some((host, tls)) };
    let io = TokioIo::new(webhook::dial(&destination).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    tokio::spawn(connection);
    let request = Request::get("/healthz").header("host", "127.0.0.1").body(empty())?;
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body: Bytes = Limited::new(body, LONGEST_ANSWER).collect().await?.to_bytes();
    match parts.status.is_success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&body).into_owned().into()),
    }
}

// === impl Components ===

impl Components {
    pub fn runs(&self, name: &'static str) -> Component {
        let alive = Arc::new(());
        let mut running = self.running.lock().expect("no panic while held");
        running.insert(name, Arc::downgrade(&alive));
        Component { _alive: alive }
    }

    fn is_running(&self, name: &str) -> bool {
        let running = self.running.lock().expect("no panic while held");
        running.get(name).is_some_and(|alive| alive.strong_count() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_has_ended_no_longer_runs() {
        let components = Components::default();
        let scheduler = components.runs("scheduler");
        assert!(components.is_running("scheduler"));
        drop(scheduler);
        assert!(!components.is_running("scheduler"));
    }
}
