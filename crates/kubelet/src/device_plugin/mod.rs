//! Devices that plugins offer as resources of the node.
//!
//! What plugins register and list -> capacity of the node; a pod that asks for devices -> which ones its containers get, and what
//! comes with them. Counterpart: `pkg/kubelet/cm/devicemanager`. Differs from upstream: NUMA nodes are recorded and not aligned to.
//! Invariant: one pod is served at a time, so that no device is promised twice; pods without such resources never wait.

mod cdi;
mod checkpoint;
pub mod inventory;
mod messages;
pub mod pod_resources;
pub mod registration;
pub mod registry;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Container, Pod};
use skiff_api::scheduling::resources::value;
use skiff_grpc::Channel;
use skiff_runtime::{Device, Mount};
use tokio::sync::watch;

use crate::allocation::Rejection;
use inventory::{Choice, Count, Endpoint, Ids, Inventory, Plugin, Wish};
use messages::{
    AllocateRequest, AllocateResponse, ContainerPreferredAllocationRequest, DeviceIds,
    PreferredAllocationRequest, PreferredAllocationResponse,
};

const PRE_START_TIMEOUT: Duration = Duration::from_secs(30);

pub struct DeviceManager {
    dir: PathBuf,
    inventory: Mutex<Inventory>,
    /// Told of every change of what the node has.
    changed: watch::Sender<()>,
    /// Held while a pod's devices are chosen and its plugins asked.
    allocating: tokio::sync::Mutex<()>,
    generation: AtomicU64,
}

/// What comes with a container's devices.
#[derive(Debug, Default, PartialEq)]
pub struct DeviceOptions {
    pub envs: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub annotations: BTreeMap<String, String>,
    /// By their qualified names, until they are resolved.
    cdi_devices: Vec<String>,
}

// === impl DeviceManager ===

impl DeviceManager {
    /// Knows what an earlier run has given out, by the file in `dir`.
    pub fn read(dir: PathBuf) -> Self {
        let inventory = checkpoint::read(&dir).unwrap_or_else(|error| {
            tracing::warn!(dir = %dir.display(), %error, "allocated devices are not known");
            Inventory::default()
        });
        DeviceManager {
            dir,
            inventory: Mutex::new(inventory),
            changed: watch::Sender::default(),
            allocating: tokio::sync::Mutex::default(),
            generation: AtomicU64::default(),
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What the node has of each resource, also of those whose plugins are gone.
    pub fn counts(&self) -> Vec<Count> {
        self.look(|inventory| inventory.counts(Instant::now()))
    }

    /// Gives the pod's containers what they ask for; one that `runs` has it already.
    pub async fn allocate(&self, pod: &Pod, runs: bool) -> Result<(), Rejection> {
        let wishes = self.wishes(pod);
        if wishes.is_empty() {
            return Ok(());
        }
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let _alone = self.allocating.lock().await;
        let mut reusable: BTreeMap<&str, Ids> = BTreeMap::new();
        for (container, resource, count) in &wishes {
            let wish = Wish { uid, container: &container.name, resource, count: *count };
            let mine = reusable.entry(resource.as_str()).or_default();
            match self.allocate_one(wish, mine).await {
                Err(_) if runs => continue,
                done => done.map_err(rejection)?,
            }
            let has =
                self.look(|it| it.allocated(uid, wish.container, resource).map(|it| it.all()));
            match is_init(pod, container) {
                true => mine.extend(has.unwrap_or_default()),
                false => mine.retain(|id| !has.as_ref().is_some_and(|has| has.contains(id))),
            }
        }
        self.try_record().map_err(|error| rejection(error.to_string()))
    }

    /// Containers with their resources of plugins, init containers first.
    fn wishes<'p>(&self, pod: &'p Pod) -> Vec<(&'p Container, String, usize)> {
        let spec = pod.spec.as_ref().expect("a pod bound to a node has a spec");
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        let limits = containers.flat_map(|container| {
            let limits = container.resources.as_ref().and_then(|it| it.limits.as_ref());
            limits.into_iter().flatten().map(move |(name, count)| (container, name, count))
        });
        // Only names with a domain can be a plugin's.
        let mut wishes = limits.filter(|(_, name, _)| name.contains('/')).peekable();
        if wishes.peek().is_none() {
            return Vec::new();
        }
        let inventory = self.inventory.lock().expect("no holder panics");
        let known = wishes.filter(|(_, name, _)| inventory.knows(name));
        let count = |count| usize::try_from(value(count).unwrap_or(0)).unwrap_or(0);
        known.map(|(container, name, many)| (container, name.clone(), count(many))).collect()
    }

    async fn allocate_one(&self, wish: Wish<'_>, reusable: &Ids) -> Result<(), String> {
        let Some(choice) = self.look(|inventory| inventory.choose(wish, reusable))? else {
            return Ok(());
        };
        let endpoint = self.endpoint(wish.resource);
        let endpoint =
            endpoint.ok_or_else(|| format!("unknown Device Plugin {}", wish.resource))?;
        let ids = choose_preferred(&endpoint, choice, wish.count).await?;
        let containers = vec![DeviceIds { ids: ids.iter().cloned().collect() }];
        let path = "/v1beta1.DevicePlugin/Allocate";
        let answer: AllocateResponse = endpoint
            .channel
            .unary(path, &AllocateRequest { containers }, None)
            .await
            .map_err(|error| error.to_string())?;
        let response = answer.containers.into_iter().next();
        let response = response.ok_or("no containers return in allocation response")?;
        self.update(|inventory| inventory.give(wish, ids, response));
        Ok(())
    }

    /// The pod needs its devices no more.
    pub fn release(&self, uid: &str) {
        let had = self.inventory.lock().expect("no holder panics").pods.remove(uid).is_some();
        if had {
            self.record();
        }
    }

    /// Forgets what pods had that are gone.
    pub fn keep_only(&self, uids: &BTreeSet<String>) {
        self.update(|inventory| inventory.pods.retain(|uid, _| uids.contains(uid)));
        if self.dir.exists() {
            self.record();
        }
    }

    /// What comes with the container's devices, after its plugins have made them ready.
    pub async fn prepare(&self, uid: &str, container: &str) -> Result<DeviceOptions, String> {
        let allocated = self
            .look(|inventory| inventory.pods.get(uid).and_then(|pod| pod.get(container)).cloned());
        let mut options = DeviceOptions::default();
        for (resource, allocated) in allocated.unwrap_or_default() {
            let endpoint = self.endpoint(&resource).filter(|it| it.options.pre_start_required);
            if let Some(endpoint) = endpoint {
                let ids = allocated.all().into_iter().collect();
                pre_start(&endpoint.channel, ids).await?;
            }
            options.add(allocated.response);
        }
        let names = std::mem::take(&mut options.cdi_devices);
        options.add_cdi_devices(&names)?;
        Ok(options)
    }

    fn endpoint(&self, resource: &str) -> Option<Endpoint> {
        self.look(|inventory| match &inventory.resources.get(resource)?.plugin {
            Plugin::Connected(endpoint) => Some(endpoint.clone()),
            Plugin::Left(_) | Plugin::Forgotten => None,
        })
    }

    fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::Relaxed)
    }

    fn look<T>(&self, read: impl FnOnce(&Inventory) -> T) -> T {
        read(&self.inventory.lock().expect("no holder panics"))
    }

    fn update<T>(&self, change: impl FnOnce(&mut Inventory) -> T) -> T {
        let done = change(&mut self.inventory.lock().expect("no holder panics"));
        self.changed.send_replace(());
        done
    }

    fn try_record(&self) -> std::io::Result<()> {
        self.look(|inventory| checkpoint::write(inventory, &self.dir))
    }

    fn record(&self) {
        if let Err(error) = self.try_record() {
            tracing::warn!(%error, "allocated devices not recorded");
        }
    }
}

fn rejection(why: String) -> Rejection {
    Rejection {
        reason: "UnexpectedAdmissionError".into(),
        message: format!("Allocate failed due to {why}, which is unexpected"),
    }
}

/// One that ends before the others begin; a sidecar keeps what it has.
fn is_init(pod: &Pod, container: &Container) -> bool {
    let spec = pod.spec.as_ref().expect("a pod bound to a node has a spec");
    let mut init = spec.init_containers.iter().flatten();
    init.any(|it| it.name == container.name && it.restart_policy.as_deref() != Some("Always"))
}

/// The plugin may say which of the free devices go best together; what it leaves open is filled up.
async fn choose_preferred(
    endpoint: &Endpoint,
    choice: Choice,
    count: usize,
) -> Result<Ids, String> {
    let Choice { taken: mut chosen, available, needed } = choice;
    let mut preferred = Vec::new();
    if endpoint.options.get_preferred_allocation_available && needed > 0 {
        let of = |ids: &mut dyn Iterator<Item = &String>| ids.cloned().collect();
        let request = ContainerPreferredAllocationRequest {
            available: of(&mut available.union(&chosen)),
            must_include: of(&mut chosen.iter()),
            size: i32::try_from(count).unwrap_or(i32::MAX),
        };
        let request = PreferredAllocationRequest { containers: vec![request] };
        let path = "/v1beta1.DevicePlugin/GetPreferredAllocation";
        let answer: PreferredAllocationResponse =
            endpoint.channel.unary(path, &request, None).await.map_err(|error| {
                format!("device plugin GetPreferredAllocation rpc failed with err: {error}")
            })?;
        preferred = answer.containers.into_iter().next().unwrap_or_default().ids;
    }
    preferred.retain(|id| available.contains(id));
    for id in preferred.into_iter().chain(available) {
        if chosen.len() == count {
            break;
        }
        chosen.insert(id);
    }
    Ok(chosen)
}

async fn pre_start(channel: &Channel, ids: Vec<String>) -> Result<(), String> {
    let path = "/v1beta1.DevicePlugin/PreStartContainer";
    let done = channel.unary(path, &DeviceIds { ids }, Some(PRE_START_TIMEOUT)).await;
    done.map_err(|error| format!("device plugin PreStartContainer rpc failed with err: {error}"))
}

// === impl DeviceOptions ===

impl DeviceOptions {
    /// By their qualified names.
    pub fn add_cdi_devices(&mut self, names: &[String]) -> Result<(), String> {
        cdi::resolve(names, &cdi::DIRECTORIES, self)
    }

    /// Of two plugins that say something of the same thing the first counts.
    fn add(&mut self, response: messages::ContainerAllocateResponse) {
        for (name, text) in response.envs {
            if self.envs.iter().all(|(known, _)| *known != name) {
                self.envs.push((name, text));
            }
        }
        for mount in response.mounts {
            let at = PathBuf::from(&mount.container_path);
            if self.mounts.iter().all(|known| known.container_path != at) {
                self.mounts.push(Mount {
                    container_path: at,
                    host_path: mount.host_path.into(),
                    readonly: mount.read_only,
                    ..Mount::default()
                });
            }
        }
        for device in response.devices {
            let at = PathBuf::from(&device.container_path);
            if self.devices.iter().all(|known| known.container_path != at) {
                self.devices.push(Device {
                    container_path: at,
                    host_path: device.host_path.into(),
                    permissions: device.permissions,
                });
            }
        }
        for (key, text) in response.annotations {
            self.annotations.entry(key).or_insert(text);
        }
        self.cdi_devices.extend(response.cdi_devices.into_iter().map(|device| device.name));
    }
}
