//! Everything that is watched: the one list of kinds, with how each is parsed, where it is kept and whom its changes
//! may help.
//!
//! A client in, events of the scheduling task out. Counterpart: `addAllEventHandlers` and the informer factory.
//! Invariant: every kind of the list counts towards what must be complete before the first pod is tried.

use std::borrow::Cow;
use std::fmt::Debug;

use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::devices::{ClaimInfo, ClassInfo, SliceInfo};
use crate::framework::EventKind;
use crate::informer::{self, Change};
use crate::listers::{self, Listed, Lister, Listers};
use crate::node_info::NodeFacts;
use crate::pod_info::PodInfo;
use crate::scheduler::Event;

/// Finished pods hold nothing and are the largest part of a batch cluster's pods.
const UNFINISHED: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// What was heard of a kind that is only looked up.
pub struct ListerChange {
    pub kind: Cow<'static, str>,
    /// Whether this is the kind's whole state.
    pub whole: bool,
    /// What it is to the plugins that decide by it at once.
    pub tells: Option<EventKind>,
    pub apply: Box<dyn FnOnce(&mut Listers) + Send>,
}

/// Starts all watches; answers how many there are.
pub fn start(client: Client, events: mpsc::Sender<Event>, parts: &mut JoinSet<()>) -> usize {
    let mut watch = Watch { client, events, parts, started: 0 };
    watch.start(Some(UNFINISHED), PodInfo::of, Event::Pods);
    watch.start(None, NodeFacts::of, Event::Nodes);
    watch.start(None, ClaimInfo::of, Event::ResourceClaims);

    use EventKind::*;
    watch.listed(listers::namespace, |all| &mut all.namespaces, Some(Namespace));
    watch.listed(listers::service, |all| &mut all.services, None);
    watch.listed(listers::replication_controller, |all| &mut all.replication_controllers, None);
    watch.listed(listers::replica_set, |all| &mut all.replica_sets, None);
    watch.listed(listers::stateful_set, |all| &mut all.stateful_sets, None);
    watch.listed(listers::claim, |all| &mut all.claims, Some(VolumeClaim));
    watch.listed(listers::volume, |all| &mut all.volumes, Some(Volume));
    watch.listed(listers::class, |all| &mut all.classes, Some(StorageClass));
    watch.listed(listers::budget, |all| &mut all.budgets, None);
    watch.listed(listers::csi_node, |all| &mut all.csi_nodes, Some(CsiNode));
    watch.listed(listers::csi_driver, |all| &mut all.csi_drivers, Some(CsiDriver));
    watch.listed(listers::capacity, |all| &mut all.capacities, Some(StorageCapacity));
    watch.listed(listers::attachment, |all| &mut all.attachments, Some(VolumeAttachment));
    watch.listed(ClassInfo::of, |all| &mut all.device_classes, Some(DeviceClass));
    watch.listed(SliceInfo::of, |all| &mut all.resource_slices, Some(ResourceSlice));
    watch.started
}

/// Where every informer watches, and whom it tells.
struct Watch<'a> {
    client: Client,
    events: mpsc::Sender<Event>,
    parts: &'a mut JoinSet<()>,
    started: usize,
}

// === impl Watch ===

impl Watch<'_> {
    fn start<K, T: Send + 'static>(
        &mut self,
        fields: Option<&'static str>,
        parse: fn(K) -> T,
        event: impl Fn(Change<T>) -> Event + Send + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let (client, events) = (self.client.clone(), self.events.clone());
        self.parts.spawn(informer::run(client, fields, parse, event, events));
        self.started += 1;
    }

    fn listed<K, T: Send + 'static>(
        &mut self,
        parse: fn(K) -> Listed<T>,
        lister: fn(&mut Listers) -> &mut Lister<T>,
        tells: Option<EventKind>,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        self.start(None, parse, move |change| {
            Event::Listed(ListerChange {
                kind: K::kind(&()),
                whole: matches!(change, Change::Replaced(_)),
                tells,
                apply: Box::new(move |listers| lister(listers).apply(change)),
            })
        });
    }
}
