//! Devices that were allocated to claims: their drivers on this node prepare them for pods.
//!
//! A pod with claims -> `NodePrepareResources` of their drivers -> names of CDI devices for its containers; and back. Counterpart:
//! `pkg/kubelet/cm/dra`. Differs from upstream: health of devices is not followed, and the slices of a driver that has left stay.
//! Invariant: a claim is prepared once for all its pods here, and unprepared after the last of them.

mod messages;
pub mod registration;
mod state;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use k8s_openapi::api::{core::v1::PodResourceClaim, resource::v1::ResourceClaim};
use kube::{Api, Client};
use skiff_grpc::Channel;

use crate::pod::desired::{DesiredContainer, DesiredPod};
use messages::{Claims, Prepared, Unprepared};
use state::{ClaimState, State};

const FILE: &str = "dra_manager_state";
const TIMEOUT: Duration = Duration::from_secs(45);
/// What drivers call what they serve, best first, with the package of its messages.
const SERVICES: [(&str, &str); 2] = [
    ("v1.DRAPlugin", "k8s.io.kubelet.pkg.apis.dra.v1"),
    ("v1beta1.DRAPlugin", "k8s.io.kubelet.pkg.apis.dra.v1beta1"),
];

pub struct ClaimManager {
    file: PathBuf,
    drivers: Mutex<BTreeMap<String, Driver>>,
    state: Mutex<State>,
    /// Held while drivers are asked.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Driver {
    channel: Arc<Channel>,
    package: &'static str,
}

// === impl ClaimManager ===

impl ClaimManager {
    /// Knows what an earlier run has had prepared, by its file in the agent's directory.
    pub fn read(root: &std::path::Path) -> Self {
        let file = root.join(FILE);
        let state = state::read(&file).unwrap_or_else(|error| {
            tracing::warn!(file = %file.display(), %error, "prepared claims are not known");
            State::new()
        });
        ClaimManager {
            file,
            drivers: Mutex::default(),
            state: Mutex::new(state),
            asking: tokio::sync::Mutex::default(),
        }
    }

    pub fn register(&self, name: &str, socket: PathBuf, services: &[String]) -> Result<(), String> {
        let offers = |(service, _): &&(&str, &str)| services.iter().any(|it| it == service);
        let Some((_, package)) = SERVICES.iter().find(offers) else {
            let known = SERVICES.map(|(service, _)| service);
            return Err(format!(
                "invalid supported gRPC versions of DRA driver plugin {name} at endpoint {}: none of services supported by the \
                 plugin ({services:?}) are supported by the kubelet ({known:?})",
                socket.display()
            ));
        };
        let driver = Driver { channel: Arc::new(Channel::unix(socket)), package };
        self.drivers.lock().expect("no holder panics").insert(name.to_owned(), driver);
        Ok(())
    }

    pub fn unregister(&self, name: &str) {
        self.drivers.lock().expect("no holder panics").remove(name);
    }

    /// Whether the pod has claims that were brought here.
    pub fn holds(&self, pod_uid: &str) -> bool {
        self.look(|state| state.values().any(|claim| claim.pods.contains(pod_uid)))
    }

    /// Uids of all pods that have.
    pub fn pods(&self) -> BTreeSet<String> {
        self.look(|state| state.values().flat_map(|claim| claim.pods.iter().cloned()).collect())
    }

    /// Has all claims of the pod prepared that are not.
    pub async fn prepare(&self, client: &Client, pod: &DesiredPod) -> Result<(), String> {
        let entries = pod.spec().resource_claims.as_deref().unwrap_or_default();
        if entries.is_empty() {
            return Ok(());
        }
        let _alone = self.asking.lock().await;
        let mut wanted = Vec::new();
        for entry in entries {
            if let Some(name) = claim_name(pod, entry)? {
                let claim = read_claim(client, pod, entry, &name).await?;
                let drivers = drivers_of(&claim)?;
                for driver in &drivers {
                    self.driver(driver)?;
                }
                wanted.push((claim.metadata.uid.unwrap_or_default(), name, drivers));
            }
        }
        for (uid, name, drivers) in wanted {
            self.prepare_claim(pod, &uid, &name, &drivers)
                .await
                .map_err(|why| format!("prepare dynamic resources: {why}"))?;
        }
        Ok(())
    }

    async fn prepare_claim(
        &self,
        pod: &DesiredPod,
        uid: &str,
        name: &str,
        drivers: &BTreeSet<String>,
    ) -> Result<(), String> {
        let mut claim = self.update(|state| {
            let claim = state.entry(uid.to_owned()).or_insert_with(|| ClaimState {
                namespace: pod.key.namespace.clone(),
                name: name.to_owned(),
                pods: BTreeSet::new(),
                prepared: false,
                devices: drivers.iter().map(|driver| (driver.clone(), Vec::new())).collect(),
            });
            claim.pods.insert(pod.key.uid.clone());
            claim.clone()
        })?;
        if claim.prepared {
            return Ok(());
        }
        let request = Claims { claims: vec![claim.message(uid)] };
        for driver in drivers {
            let answer: Prepared = self.call(driver, "NodePrepareResources", &request).await?;
            let prepared = answer.claims.get(uid);
            let prepared = prepared.ok_or("NodePrepareResources skipped 1 ResourceClaims")?;
            if !prepared.error.is_empty() {
                let why = &prepared.error;
                return Err(format!("NodePrepareResources failed for ResourceClaim {name}: {why}"));
            }
            claim.devices.insert(driver.clone(), prepared.devices.clone());
        }
        claim.prepared = true;
        self.update(|state| state.insert(uid.to_owned(), claim)).map(drop)
    }

    /// Lets go of all claims of the pod; what no other pod here has is unprepared.
    pub async fn unprepare(&self, pod_uid: &str) -> Result<(), String> {
        if !self.holds(pod_uid) {
            return Ok(());
        }
        let _alone = self.asking.lock().await;
        let claims = self.look(|state| {
            let of_pod = state.iter().filter(|(_, claim)| claim.pods.contains(pod_uid));
            of_pod.map(|(uid, claim)| (uid.clone(), claim.clone())).collect::<Vec<_>>()
        });
        for (uid, claim) in claims {
            if claim.pods.len() == 1 {
                self.unprepare_claim(&uid, &claim)
                    .await
                    .map_err(|why| format!("unprepare dynamic resources: {why}"))?;
                self.update(|state| state.remove(&uid))?;
            } else {
                self.update(|state| {
                    state.get_mut(&uid).is_some_and(|claim| claim.pods.remove(pod_uid))
                })?;
            }
        }
        Ok(())
    }

    async fn unprepare_claim(&self, uid: &str, claim: &ClaimState) -> Result<(), String> {
        let request = Claims { claims: vec![claim.message(uid)] };
        for driver in claim.devices.keys() {
            let answer: Unprepared = self.call(driver, "NodeUnprepareResources", &request).await?;
            let done = answer.claims.get(uid);
            let done = done.ok_or("NodeUnprepareResources skipped 1 ResourceClaims")?;
            if !done.error.is_empty() {
                let (name, why) = (&claim.name, &done.error);
                return Err(format!(
                    "NodeUnprepareResources failed for ResourceClaim {name}: {why}"
                ));
            }
        }
        Ok(())
    }

    /// Names of the CDI devices that the container's claims have brought.
    pub fn cdi_devices(
        &self,
        pod: &DesiredPod,
        container: &DesiredContainer,
    ) -> Result<Vec<String>, String> {
        let asked = container.spec.resources.as_ref().and_then(|it| it.claims.as_deref());
        let entries = pod.spec().resource_claims.as_deref().unwrap_or_default();
        let mut found: Vec<String> = Vec::new();
        for wish in asked.unwrap_or_default() {
            let Some(entry) = entries.iter().find(|entry| entry.name == wish.name) else {
                continue;
            };
            let Some(name) = claim_name(pod, entry)? else { continue };
            let request = wish.request.as_deref().unwrap_or_default();
            let ids: Option<Vec<String>> = self.look(|state| {
                let mut claims = state.values();
                let claim =
                    claims.find(|it| it.name == name && it.namespace == pod.key.namespace)?;
                Some(claim.cdi_devices(request).cloned().collect())
            });
            let ids = ids.ok_or_else(|| format!("ResourceClaim {name} is not prepared"))?;
            found.extend(ids.into_iter().filter(|id| !found.contains(id)).collect::<Vec<_>>());
        }
        Ok(found)
    }

    fn driver(&self, name: &str) -> Result<Driver, String> {
        let drivers = self.drivers.lock().expect("no holder panics");
        drivers.get(name).cloned().ok_or_else(|| format!("DRA driver {name} is not registered"))
    }

    async fn call<A: prost::Message + Default>(
        &self,
        driver: &str,
        method: &str,
        request: &Claims,
    ) -> Result<A, String> {
        let Driver { channel, package } = self.driver(driver)?;
        let path = format!("/{package}.DRAPlugin/{method}");
        let answer = channel.unary(&path, request, Some(TIMEOUT)).await;
        answer.map_err(|error| format!("{method}: {error}"))
    }

    fn look<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.lock().expect("no holder panics"))
    }

    /// Changes what is known, on disk too.
    fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> Result<T, String> {
        let mut state = self.state.lock().expect("no holder panics");
        let done = change(&mut state);
        let written = state::write(&state, &self.file);
        written.map_err(|error| format!("checkpoint ResourceClaim state: {error}"))?;
        Ok(done)
    }
}

/// The claim of an entry: named, or made for the pod; none where none was called for.
fn claim_name(pod: &DesiredPod, entry: &PodResourceClaim) -> Result<Option<String>, String> {
    if let Some(name) = &entry.resource_claim_name {
        return Ok(Some(name.clone()));
    }
    let status = pod.object.status.as_ref();
    let made = status.and_then(|status| status.resource_claim_statuses.as_ref());
    let made = made.into_iter().flatten().find(|made| made.name == entry.name);
    let made = made.ok_or_else(|| {
        format!("pod claim name \"{}\": ResourceClaim not created yet", entry.name)
    })?;
    Ok(made.resource_claim_name.clone())
}

async fn read_claim(
    client: &Client,
    pod: &DesiredPod,
    entry: &PodResourceClaim,
    name: &str,
) -> Result<ResourceClaim, String> {
    let claims: Api<ResourceClaim> = Api::namespaced(client.clone(), &pod.key.namespace);
    let claim = claims.get(name).await;
    let claim = claim.map_err(|error| format!("fetch ResourceClaim {name}: {error}"))?;
    let mut owners = claim.metadata.owner_references.iter().flatten();
    let owned = owners.any(|it| it.controller == Some(true) && it.uid == pod.key.uid);
    let (pod_name, pod_uid) = (&pod.key.name, &pod.key.uid);
    if entry.resource_claim_name.is_none() && !owned {
        let namespace = &pod.key.namespace;
        return Err(format!(
            "ResourceClaim {namespace}/{name} was not created for pod {namespace}/{pod_name} (pod is not owner)"
        ));
    }
    let users = claim.status.as_ref().and_then(|status| status.reserved_for.as_deref());
    if !users.unwrap_or_default().iter().any(|user| user.uid == *pod_uid) {
        let uid = claim.metadata.uid.as_deref().unwrap_or_default();
        return Err(format!(
            "pod {pod_name} ({pod_uid}) is not allowed to use ResourceClaim {name} ({uid})"
        ));
    }
    Ok(claim)
}

fn drivers_of(claim: &ResourceClaim) -> Result<BTreeSet<String>, String> {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    let allocation = allocation.ok_or_else(|| format!("ResourceClaim {name}: not allocated"))?;
    let results = allocation.devices.as_ref().and_then(|devices| devices.results.as_deref());
    Ok(results.unwrap_or_default().iter().map(|result| result.driver.clone()).collect())
}
