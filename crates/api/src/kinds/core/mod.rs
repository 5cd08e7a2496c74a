//! The core group.

mod config_map;
mod endpoints;
mod event;
mod namespace;
mod node;
mod persistent_volume;
mod persistent_volume_claim;
pub(super) mod pod;
mod pod_template;
mod replication_controller;
mod secret;
mod service;

use std::sync::Arc;

use crate::kind::Strategy;

pub(super) fn strategy(kind: &str) -> Option<Arc<dyn Strategy>> {
    Some(match kind {
        "ConfigMap" => Arc::new(config_map::ConfigMap),
        "Endpoints" => Arc::new(endpoints::Endpoints),
        "Event" => Arc::new(event::Event),
        "Namespace" => Arc::new(namespace::Namespace),
        "Node" => Arc::new(node::Node),
        "PersistentVolume" => Arc::new(persistent_volume::PersistentVolume),
        "PersistentVolumeClaim" => Arc::new(persistent_volume_claim::PersistentVolumeClaim),
        "Pod" => Arc::new(pod::Pod),
        "PodTemplate" => Arc::new(pod_template::PodTemplate),
        "ReplicationController" => Arc::new(replication_controller::ReplicationController),
        "Secret" => Arc::new(secret::Secret),
        "Service" => Arc::new(service::Service),
        _ => return None,
    })
}
