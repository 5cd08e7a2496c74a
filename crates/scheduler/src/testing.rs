//! How tests write objects down: as the YAML a user would; and a whole scene of them as a cycle sees it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::{
    CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::cache::Cache;
use crate::devices::{ClaimInfo, ClassInfo, SliceInfo};
use crate::framework::{Cycle, Extension};
use crate::informer::Change;
use crate::listers::{self, Listed, Lister, Listers};
use crate::node_info::NodeFacts;
use crate::nominations::Nominations;
use crate::pod_info::PodInfo;
use crate::profile::Profile;

/// Parses a test object. Panics on bad YAML, since the test itself is then wrong.
pub fn yaml<T: DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("bad test object: {error}\n{text}"))
}

/// What a test writes down.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Scene {
    nodes: Vec<Node>,
    placed: Vec<Pod>,
    nominated: Vec<Pod>,
    budgets: Vec<PodDisruptionBudget>,
    csi_nodes: Vec<CSINode>,
    csi_drivers: Vec<CSIDriver>,
    capacities: Vec<CSIStorageCapacity>,
    attachments: Vec<VolumeAttachment>,
    pod: Pod,
    namespaces: Vec<Namespace>,
    claims: Vec<PersistentVolumeClaim>,
    volumes: Vec<PersistentVolume>,
    classes: Vec<StorageClass>,
    services: Vec<Service>,
    resource_claims: Vec<ResourceClaim>,
    device_classes: Vec<DeviceClass>,
    resource_slices: Vec<ResourceSlice>,
}

#[derive(Default)]
pub struct Stage {
    pub cache: Cache,
    pub listers: Listers,
    pub nominations: Nominations,
    pub profile: Profile,
    pub pod: Arc<PodInfo>,
}

impl Stage {
    pub fn cycle(&self) -> Cycle<'_> {
        Cycle {
            pod: &self.pod,
            cache: &self.cache,
            listers: &self.listers,
            nominations: &self.nominations,
            profile: &self.profile,
            extension: Extension::default(),
        }
    }
}

pub fn stage(scene: &str) -> Stage {
    let scene: Scene = yaml(scene);
    let mut stage = Stage { pod: info(scene.pod, "incoming"), ..Stage::default() };
    for node in scene.nodes {
        stage.cache.set_node(NodeFacts::of(roomy(node)));
    }
    for (at, pod) in scene.placed.into_iter().enumerate() {
        stage.cache.set_pod(info(pod, &format!("placed-{at}")));
    }
    for (at, pod) in scene.nominated.into_iter().enumerate() {
        let pod = info(pod, &format!("nominated-{at}"));
        stage.nominations.heard(&pod, None);
    }
    let listers = &mut stage.listers;
    set(&mut listers.namespaces, scene.namespaces, listers::namespace);
    set(&mut listers.claims, scene.claims, |mut claim: PersistentVolumeClaim| {
        claim.metadata.namespace = Some("default".into());
        listers::claim(claim)
    });
    set(&mut listers.volumes, scene.volumes, listers::volume);
    set(&mut listers.classes, scene.classes, listers::class);
    set(&mut listers.services, scene.services, listers::service);
    set(&mut listers.csi_nodes, scene.csi_nodes, listers::csi_node);
    set(&mut listers.csi_drivers, scene.csi_drivers, listers::csi_driver);
    set(&mut listers.capacities, scene.capacities, listers::capacity);
    set(&mut listers.attachments, scene.attachments, listers::attachment);
    set(&mut listers.device_classes, scene.device_classes, ClassInfo::of);
    set(&mut listers.resource_slices, scene.resource_slices, SliceInfo::of);
    set(&mut listers.resource_claims, scene.resource_claims, |mut claim: ResourceClaim| {
        claim.metadata.namespace = Some("default".into());
        claim.metadata.uid.get_or_insert_with(|| claim.metadata.name.clone().unwrap_or_default());
        ClaimInfo::of(claim)
    });
    set(&mut listers.budgets, scene.budgets, |mut budget: PodDisruptionBudget| {
        budget.metadata.namespace = Some("default".into());
        listers::budget(budget)
    });
    stage.cache.settle();
    stage
}

fn set<K, T>(lister: &mut Lister<T>, objects: Vec<K>, parse: impl Fn(K) -> Listed<T>) {
    objects.into_iter().for_each(|object| lister.apply(Change::Set(parse(object))));
}

/// Nodes of examples have room unless the example says how much.
fn roomy(mut node: Node) -> Node {
    let status = node.status.get_or_insert_default();
    if status.allocatable.is_none() {
        status.allocatable = Some(yaml("{cpu: '8', memory: 16Gi, pods: '110'}"));
    }
    node
}

pub fn info(mut pod: Pod, uid: &str) -> Arc<PodInfo> {
    pod.metadata.namespace.get_or_insert_with(|| "default".into());
    pod.metadata.name.get_or_insert_with(|| uid.to_owned());
    pod.metadata.uid = Some(uid.to_owned());
    PodInfo::of(pod)
}
