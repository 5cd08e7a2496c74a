//! The `Available` condition of APIServices that name a Service.
//!
//! APIService, its Service and EndpointSlices -> a [`Verdict`] -> if everything is there, a request for the group-version's
//! discovery document -> the condition, and what the server serves. Counterpart: `remote_available_controller.go`.
//! Differs from upstream: sleeps until something it depends on is written, or a server is due to be asked again.
//! Invariant: a second run with nothing changed writes nothing.

use std::sync::{Arc, Weak};
use std::time::Duration;

use http::header::ETAG;
use serde_json::{Value, json};
use skiff_api::Status;
use skiff_api::codec::decode_stored;
use skiff_api::meta::meta;
use skiff_store::{Expect, Txn};

use super::remote::{Remote, Served};
use super::{GROUP, PREFIX, discovery, refresh};
use crate::objects;
use crate::ownership;
use crate::reply::BoxError;
use crate::server::Server;

const NOTE: &str =
    r#"{"user":"system:apiserver","manager":"kube-apiserver","verb":"availability"}"#;
/// How often a server is asked although nothing was written.
const AGAIN: Duration = Duration::from_secs(30);
const AGAIN_AFTER_FAILURE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);
/// Endpoints are chosen at random: a dead one must not speak for all.
const ATTEMPTS: usize = 3;

/// What objects alone say about a remote server.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Missing {
        reason: &'static str,
        message: String,
    },
    /// Everything is there; ask it, at the address that messages show.
    Ask {
        address: String,
    },
}

/// Keeps the conditions until the server is gone.
pub fn keep(server: &Arc<Server>) {
    let server = Arc::downgrade(server);
    tokio::spawn(async move {
        let mut failures = 0;
        while let Some(asked) = round(&server).await {
            failures = if asked == Asked::Failing { failures + 1 } else { 0 };
            wait(&server, asked, failures).await;
        }
    });
}

/// How a round ended, and so when the next one is due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Nobody,
    Answering,
    Failing,
}

async fn round(server: &Weak<Server>) -> Option<Asked> {
    let server = server.upgrade()?;
    let view = server.aggregator.view();
    let mut ended = Asked::Nobody;
    for remote in view.remotes() {
        let asked = judge(&server, remote).await.unwrap_or_else(|error| {
            tracing::debug!(%error, name = remote.name, "an API service cannot be judged");
            Asked::Failing
        });
        ended = ended.max(asked);
    }
    Some(ended)
}

async fn wait(server: &Weak<Server>, asked: Asked, failures: u32) {
    let changed = async {
        // Held by the notification alone: the server may go away while nobody is asked.
        let Some(changed) = server.upgrade().map(|server| server.aggregator.changed.clone()) else {
            return;
        };
        changed.notified().await;
    };
    let after = match asked {
        Asked::Nobody => return changed.await,
        Asked::Answering => AGAIN,
        Asked::Failing => AGAIN.min(AGAIN_AFTER_FAILURE * 2_u32.saturating_pow(failures.min(8))),
    };
    let _ = tokio::time::timeout(after, changed).await;
}

async fn judge(server: &Server, remote: &Remote) -> Result<Asked, Status> {
    let address = match find(server, remote).await? {
        Verdict::Missing { reason, message } => {
            tell(server, remote, "False", reason, &message).await?;
            return Ok(Asked::Nobody);
        }
        Verdict::Ask { address } => address,
    };
    match ask(remote, &address).await {
        Ok(served) => {
            remote.serves(served);
            tell(server, remote, "True", "Passed", "all checks passed").await?;
            // What lives in this process cannot go away without it.
            Ok(if remote.is_in_process() { Asked::Nobody } else { Asked::Answering })
        }
        Err(error) => {
            remote.serves(Served::default());
            tell(server, remote, "False", "FailedDiscoveryCheck", &error).await?;
            Ok(Asked::Failing)
        }
    }
}

async fn find(server: &Server, remote: &Remote) -> Result<Verdict, Status> {
    if remote.is_in_process() {
        return Ok(Verdict::Ask { address: remote.service.clone() });
    }
    let service =
        objects::find(server, "services/specs", &remote.namespace, &remote.service).await?;
    let slices = objects::all(server, &format!("endpointslices/{}/", remote.namespace)).await?;
    Ok(verdict(remote, service.as_ref(), &slices))
}

// === the pure part ===

fn verdict(remote: &Remote, service: Option<&Value>, slices: &[Value]) -> Verdict {
    let Remote { namespace, service: name, port, .. } = remote;
    let place = format!("service/{name} in {namespace:?}");
    let missing = |reason, message| Verdict::Missing { reason, message };
    let Some(service) = service else {
        return missing("ServiceNotFound", format!("{place} is not present"));
    };
    let spec = &service["spec"];
    let address = spec["clusterIP"].as_str().unwrap_or("").to_owned();
    if spec["type"].as_str().is_some_and(|of| of != "ClusterIP") {
        return Verdict::Ask { address };
    }
    let mut ports = spec["ports"].as_array().into_iter().flatten();
    let Some(found) = ports.find(|entry| entry["port"] == *port) else {
        return missing("ServicePortError", format!("{place} is not listening on port {port}"));
    };
    let port_name = found["name"].as_str().unwrap_or("");
    let own: Vec<&Value> = slices
        .iter()
        .filter(|slice| meta(slice).label("kubernetes.io/service-name") == Some(name.as_str()))
        .collect();
    if own.is_empty() {
        return missing("EndpointsNotFound", format!("cannot find endpointslices for {place}"));
    }
    if !own.iter().any(|slice| has_ready_port(slice, port_name)) {
        let why =
            format!("endpointslices for {place} have no addresses with port name {port_name:?}");
        return missing("MissingEndpoints", why);
    }
    Verdict::Ask { address }
}

fn has_ready_port(slice: &Value, name: &str) -> bool {
    let list = |field: &str| slice[field].as_array().into_iter().flatten();
    list("endpoints").any(|endpoint| endpoint["conditions"]["ready"] != false)
        && list("ports")
            .any(|port| port["name"].as_str().unwrap_or("") == name && port["port"].is_number())
}

// === asking ===

async fn ask(remote: &Remote, address: &str) -> Result<Served, String> {
    let url = format!("https://{address}:{}{}", remote.port, remote.discovery_path());
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        match tokio::time::timeout(PATIENCE, discover(remote, &url)).await {
            Ok(Ok(served)) => return Ok(served),
            Ok(Err(error)) => {
                last = format!("failing or missing response from {url}: {error}");
            }
            Err(_) => last = format!("timed out waiting for {url}"),
        }
    }
    Err(last)
}

async fn discover(remote: &Remote, url: &str) -> Result<Served, BoxError> {
    let (code, _, bytes) = remote.fetch(&remote.discovery_path(), "application/json").await?;
    if !code.is_success() {
        return Err(format!("bad status from {url}: {}", code.as_u16()).into());
    }
    let list: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let resources = Some(discovery::aggregated_resources(&list, &remote.group, &remote.version));
    let document = format!("/openapi/v3{}", remote.discovery_path());
    let openapi = remote.fetch(&document, "application/json").await.ok();
    let openapi = openapi.filter(|(code, ..)| code.is_success()).map(|(_, headers, bytes)| {
        let told = headers.get(ETAG).and_then(|tag| tag.to_str().ok());
        told.map_or_else(|| bytes.len().to_string(), |tag| tag.trim_matches('"').to_owned())
    });
    Ok(Served { resources, openapi })
}

// === telling ===

/// Writes the condition of a remote server unless it is there already.
async fn tell(
    server: &Server,
    remote: &Remote,
    status: &str,
    reason: &str,
    message: &str,
) -> Result<(), Status> {
    remote.set_available(status == "True");
    let condition =
        json!({ "type": "Available", "status": status, "reason": reason, "message": message });
    match write(server, &remote.name, condition, true).await? {
        true => refresh(server).await,
        false => Ok(()),
    }
}

/// An APIService that ceased to name a Service is served here.
pub async fn tell_local(server: &Server, object: &Value) -> Result<(), Status> {
    let condition = json!({ "type": "Available", "status": "True", "reason": "Local",
        "message": "Local APIServices are always available" });
    if with_condition(object, condition.clone()).is_some() {
        write(server, meta(object).name(), condition, false).await?;
    }
    Ok(())
}

/// Whether anything was written. Whoever was faster has woken the next round.
async fn write(
    server: &Server,
    name: &str,
    condition: Value,
    remote: bool,
) -> Result<bool, Status> {
    let Some(entry) = objects::read(server, &format!("{PREFIX}{name}")).await? else {
        return Ok(false);
    };
    let old = decode_stored(&entry.value)?;
    if old["spec"]["service"].is_object() != remote {
        return Ok(false);
    }
    let Some(mut object) = with_condition(&old, condition) else { return Ok(false) };
    let kinds = server.kinds();
    let kind = kinds.get(GROUP, "v1", "apiservices").ok_or_else(Status::no_such_path)?;
    ownership::track_own(kind, Some(&old), &mut object, "status");
    let value = objects::encode(kind, &mut object);
    let txn = Txn::put(entry.key.clone(), value, Expect::Mod(entry.mod_revision)).note(NOTE);
    match server.store.commit(txn).await {
        Ok(_) | Err(skiff_store::Error::Conflict { .. }) => Ok(true),
        Err(error) => Err(objects::store_status(error)),
    }
}

/// The object with the condition, if that changes anything. The time of a transition stays while the status does.
fn with_condition(old: &Value, mut condition: Value) -> Option<Value> {
    let have = old["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let before = have.iter().find(|have| have["type"] == condition["type"]);
    let same = |field: &str| before.is_some_and(|before| before[field] == condition[field]);
    if ["status", "reason", "message"].into_iter().all(same) {
        return None;
    }
    let since = match (before, same("status")) {
        (Some(before), true) => before["lastTransitionTime"].clone(),
        _ => skiff_api::time::format(skiff_api::time::now()).into(),
    };
    condition["lastTransitionTime"] = since;
    let mut conditions: Vec<Value> =
        have.iter().filter(|have| have["type"] != condition["type"]).cloned().collect();
    conditions.push(condition);
    let mut object = old.clone();
    object["status"]["conditions"] = conditions.into();
    Some(object)
}

/// One sample per APIService that is not served here.
pub fn expose(server: &Server, out: &mut crate::metrics::exposition::Exposition) {
    let name = "aggregator_unavailable_apiservice";
    out.family(name, "gauge", "[ALPHA] Gauge of APIServices which are marked as unavailable broken down by APIService name.");
    for remote in server.aggregator.view().remotes() {
        out.sample(name, &format!("name=\"{}\"", remote.name), u8::from(!remote.available()));
    }
}
