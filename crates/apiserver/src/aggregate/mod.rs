//! Aggregation: group-versions that an APIService hands to a server behind a Service.
//!
//! APIService objects -> [`View`] (which group-version goes where, and in which order groups are shown) -> [`proxy`],
//! [`discovery`] and the `Available` condition of [`availability`]. Counterpart: `kube-aggregator`.
//! Invariant: while no APIService names a Service, a request pays one atomic load and no more.

pub mod availability;
pub mod discovery;
pub mod proxy;
mod remote;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use serde_json::Value;
use skiff_api::codec::decode_stored;
use skiff_api::meta::meta;
use skiff_api::{KindDef, Status};
use skiff_store::RangeRequest;
use tokio::sync::Notify;

use crate::objects;
use crate::request_info::RequestInfo;
use crate::server::Server;
pub use remote::{Backend, Remote};

const GROUP: &str = "apiregistration.k8s.io";
const PREFIX: &str = "/registry/apiregistration.k8s.io/apiservices/";
const AUTO_MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// What the server knows of its APIServices.
#[derive(Default)]
pub struct Aggregator {
    view: ArcSwap<View>,
    /// Servers in this process, by the namespace and name of the Service they stand for.
    backends: Mutex<HashMap<(String, String), Arc<dyn Backend>>>,
    /// Something that availability depends on was written.
    changed: Arc<Notify>,
    /// Held while objects are read and taken over, so that an older state never replaces a newer one.
    refreshing: tokio::sync::Mutex<()>,
}

/// The stored APIServices, in the order of their priorities.
#[derive(Default)]
pub struct View {
    pub services: Vec<ApiService>,
    remote: HashMap<(String, String), Arc<Remote>>,
}

#[derive(Clone)]
pub struct ApiService {
    pub group: String,
    pub version: String,
    group_priority: i64,
    version_priority: i64,
    /// Made by this server for what it serves itself, and removed by it.
    managed: bool,
}

// === impl Aggregator ===

impl Aggregator {
    /// The view as of now; held for one request.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// The server that the request belongs to, if it is not this one.
    pub fn remote(&self, info: &RequestInfo) -> Option<Arc<Remote>> {
        let view = self.view.load();
        if view.remote.is_empty() || info.version.is_empty() {
            return None;
        }
        view.remote.get(&(info.group.clone(), info.version.clone())).cloned()
    }

    /// A server in this process answers for a Service. APIServices that name it find it from the next refresh on.
    pub fn register(&self, namespace: &str, service: &str, backend: Arc<dyn Backend>) {
        let mut backends = self.backends.lock().expect("no panic while held");
        backends.insert((namespace.to_owned(), service.to_owned()), backend);
    }

    fn backend(&self, namespace: &str, service: &str) -> Option<Arc<dyn Backend>> {
        let backends = self.backends.lock().expect("no panic while held");
        backends.get(&(namespace.to_owned(), service.to_owned())).cloned()
    }

    /// Something was written.
    pub async fn committed(&self, server: &Server, kind: &KindDef) {
        let of_interest = match (kind.group.as_str(), kind.resource.as_str()) {
            (GROUP, "apiservices") => {
                let _ = refresh(server)
                    .await
                    .inspect_err(|error| tracing::warn!(%error, "API services cannot be read"));
                true
            }
            ("", "services") | ("discovery.k8s.io", "endpointslices") => {
                !self.view.load().remote.is_empty()
            }
            _ => false,
        };
        if of_interest {
            self.changed.notify_one();
        }
    }
}

impl Drop for Aggregator {
    /// Wakes the keeper, which finds its server gone.
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

/// Takes over the APIServices as they are stored.
pub async fn refresh(server: &Server) -> Result<(), Status> {
    let _one_at_a_time = server.aggregator.refreshing.lock().await;
    let found = server.store.range(RangeRequest::prefix(PREFIX)).await;
    let found = found.map_err(objects::store_status)?;
    let objects: Result<Vec<Value>, Status> =
        found.entries.iter().map(|entry| decode_stored(&entry.value)).collect();
    let objects = objects?;
    let view = View::read(server, &objects, &server.aggregator.view());
    server.aggregator.view.store(Arc::new(view));
    for object in objects.iter().filter(|object| !object["spec"]["service"].is_object()) {
        availability::tell_local(server, object).await?;
    }
    Ok(())
}

// === impl View ===

impl View {
    /// Connections to servers whose APIService did not change are kept.
    fn read(server: &Server, objects: &[Value], old: &View) -> View {
        let mut services: Vec<ApiService> = objects.iter().map(ApiService::read).collect();
        services.sort_by(ApiService::compare);
        let remote = objects
            .iter()
            .filter(|object| object["spec"]["service"].is_object())
            .map(|object| {
                let service = ApiService::read(object);
                let place = (service.group, service.version);
                let known = old.remote.get(&place);
                let remote = Remote::read(server, object, known.map(Arc::as_ref));
                (place, Arc::new(remote))
            })
            .collect();
        View { services, remote }
    }

    pub fn remotes(&self) -> impl Iterator<Item = &Arc<Remote>> {
        self.remote.values()
    }

    pub fn at(&self, group: &str, version: &str) -> Option<&Arc<Remote>> {
        self.remote.get(&(group.to_owned(), version.to_owned()))
    }

    /// How far up a group is shown; what was not told stands where custom resources do. The group of the APIServices
    /// themselves, for which there is none, comes first.
    fn group_priority(&self, group: &str) -> i64 {
        const OF_CUSTOM_RESOURCES: i64 = 1000;
        if group == "apiregistration.k8s.io" {
            return i64::MAX;
        }
        let of_group = self.services.iter().filter(|service| service.group == group);
        of_group.map(|service| service.group_priority).max().unwrap_or(OF_CUSTOM_RESOURCES)
    }
}

// === impl ApiService ===

impl ApiService {
    fn read(object: &Value) -> ApiService {
        let spec = &object["spec"];
        ApiService {
            group: spec["group"].as_str().unwrap_or("").to_owned(),
            version: spec["version"].as_str().unwrap_or("").to_owned(),
            group_priority: spec["groupPriorityMinimum"].as_i64().unwrap_or(0),
            version_priority: spec["versionPriority"].as_i64().unwrap_or(0),
            managed: meta(object).label(AUTO_MANAGED).is_some(),
        }
    }

    /// High priorities first, then by how new and stable the version is.
    fn compare(&self, other: &ApiService) -> std::cmp::Ordering {
        use skiff_api::discovery::version_rank;
        let by_group =
            (other.group_priority, &self.group).cmp(&(self.group_priority, &other.group));
        by_group
            .then(other.version_priority.cmp(&self.version_priority))
            .then_with(|| version_rank(&other.version).cmp(&version_rank(&self.version)))
    }
}
