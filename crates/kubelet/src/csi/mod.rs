//! CSI drivers of this node: who is registered, and which of their volumes are in use here.
//!
//! Drivers that register -> [`Drivers`] -> what volumes are mounted with, the CSINode object and `status.volumesInUse`.
//! Counterpart: the driver store of `pkg/volume/csi`.
//! Invariant: a volume's stages are changed by one pod at a time; a volume counts as in use before anything is done with it.

mod client;
mod csi_node;
pub mod messages;
pub mod registration;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
};

use tokio::sync::{OwnedMutexGuard, mpsc, watch};

pub use client::Endpoint;
pub use messages::{
    AccessMode, AccessType, Capabilities, Capability, CapacityRange, ExpandVolume, MountVolume,
    PublishVolume, StageVolume, Texts, UsageUnit, VolumeAccessMode, VolumeCapability, VolumeStats,
};

/// Driver and handle name a volume wherever it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeId {
    pub driver: String,
    pub handle: String,
}

type InUse = BTreeMap<VolumeId, BTreeSet<String>>;

pub struct Drivers {
    endpoints: Mutex<BTreeMap<String, Endpoint>>,
    /// Uids of pods that asked for a driver in vain.
    waiting: Mutex<BTreeSet<String>>,
    /// Tells a pod to try again.
    changed: mpsc::UnboundedSender<String>,
    locks: Mutex<HashMap<VolumeId, Arc<tokio::sync::Mutex<()>>>>,
    /// Volumes that need to stay attached, with the uids of the pods they are for.
    in_use: watch::Sender<InUse>,
}

// === impl VolumeId ===

impl VolumeId {
    /// As node statuses write it.
    pub fn unique_name(&self) -> String {
        skiff_api::csi::unique_volume_name(&self.driver, &self.handle)
    }

    pub fn attachment_name(&self, node: &str) -> String {
        skiff_api::csi::attachment_name(&self.driver, &self.handle, node)
    }
}

// === impl Drivers ===

impl Drivers {
    /// `changed` receives the uids of pods that wait for a driver, when one has come.
    pub fn new(changed: mpsc::UnboundedSender<String>) -> Self {
        Drivers {
            endpoints: Mutex::default(),
            waiting: Mutex::default(),
            changed,
            locks: Mutex::default(),
            in_use: watch::Sender::default(),
        }
    }

    pub fn find(&self, name: &str) -> Option<Endpoint> {
        self.endpoints.lock().expect("no holder panics").get(name).cloned()
    }

    /// The driver of that name; without one the pod is told when any comes.
    pub fn get(&self, name: &str, pod_uid: &str) -> Option<Endpoint> {
        let found = self.find(name);
        if found.is_none() {
            self.waiting.lock().expect("no holder panics").insert(pod_uid.to_owned());
        }
        found
    }

    fn register(&self, name: &str, endpoint: Endpoint) {
        self.endpoints.lock().expect("no holder panics").insert(name.to_owned(), endpoint);
        for uid in std::mem::take(&mut *self.waiting.lock().expect("no holder panics")) {
            // The receiver is gone only when the agent shuts down.
            let _ = self.changed.send(uid);
        }
    }

    fn unregister(&self, name: &str) {
        self.endpoints.lock().expect("no holder panics").remove(name);
    }

    /// Whoever holds this is alone with the volume.
    pub async fn lock(&self, volume: &VolumeId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().expect("no holder panics");
            // Those that nobody holds or waits for are not kept.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(volume.clone()).or_default().clone()
        };
        lock.lock_owned().await
    }

    pub fn use_volume(&self, volume: &VolumeId, pod_uid: &str) {
        self.in_use.send_if_modified(|in_use| {
            let users = in_use.entry(volume.clone()).or_default();
            users.insert(pod_uid.to_owned()) && users.len() == 1
        });
    }

    pub fn release_volume(&self, volume: &VolumeId, pod_uid: &str) {
        self.in_use.send_if_modified(|in_use| {
            let Some(users) = in_use.get_mut(volume) else { return false };
            users.remove(pod_uid);
            let last = users.is_empty();
            if last {
                in_use.remove(volume);
            }
            last
        });
    }

    /// By their unique names.
    pub fn volumes_in_use(&self) -> Vec<String> {
        self.in_use.borrow().keys().map(VolumeId::unique_name).collect()
    }

    /// Tells when the answer of [`Drivers::volumes_in_use`] is another.
    pub fn watch_in_use(&self) -> watch::Receiver<impl Sized + use<>> {
        self.in_use.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(handle: &str) -> VolumeId {
        VolumeId { driver: "disk.example.com".into(), handle: handle.into() }
    }

    #[test]
    fn a_volume_is_in_use_until_its_last_pod_lets_go() {
        let drivers = Drivers::new(mpsc::unbounded_channel().0);
        let mut changes = drivers.watch_in_use();
        drivers.use_volume(&volume("v"), "a");
        drivers.use_volume(&volume("v"), "b");
        drivers.release_volume(&volume("v"), "a");
        assert_eq!(drivers.volumes_in_use(), ["kubernetes.io/csi/disk.example.com^v"]);
        assert!(changes.has_changed().expect("it lives"));
        changes.mark_unchanged();
        drivers.release_volume(&volume("v"), "a");
        assert!(!changes.has_changed().expect("it lives"), "an echo changes nothing");
        drivers.release_volume(&volume("v"), "b");
        assert!(drivers.volumes_in_use().is_empty() && changes.has_changed().expect("it lives"));
    }

    #[test]
    fn who_waits_for_a_driver_is_told_once_when_it_comes() {
        let (sender, mut told) = mpsc::unbounded_channel();
        let drivers = Drivers::new(sender);
        assert_eq!(drivers.get("disk.example.com", "a"), None);
        drivers.register("disk.example.com", Endpoint("/csi.sock".into()));
        assert_eq!(told.try_recv().ok().as_deref(), Some("a"));
        drivers.register("disk.example.com", Endpoint("/csi.sock".into()));
        assert!(told.try_recv().is_err());
        drivers.unregister("disk.example.com");
        assert_eq!(drivers.get("disk.example.com", "a"), None);
    }

    #[tokio::test]
    async fn a_volume_is_changed_by_one_at_a_time() {
        let drivers = Drivers::new(mpsc::unbounded_channel().0);
        let held = drivers.lock(&volume("v")).await;
        drop(drivers.lock(&volume("other")).await);
        let volume = volume("v");
        let mut second = std::pin::pin!(drivers.lock(&volume));
        assert!(futures::poll!(&mut second).is_pending());
        drop(held);
        assert!(futures::poll!(&mut second).is_ready());
    }
}
