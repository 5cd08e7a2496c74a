//! The core group.

mod component_status;
mod config_map;
mod endpoints;
mod event;
mod limit_range;
mod namespace;
mod node;
pub(super) mod persistent_volume;
pub(super) mod persistent_volume_claim;
pub(super) mod pod;
mod pod_template;
mod replication_controller;
mod resource_quota;
mod secret;
pub(super) mod service;
mod service_account;

use std::sync::Arc;

use crate::kind::Strategy;

/// Events of the events.k8s.io group: the same objects under stricter rules.
pub(super) fn strict_event(kind: &str) -> Option<Arc<dyn Strategy>> {
    (kind == "Event").then(|| Arc::new(event::Event { strict: true }) as Arc<dyn Strategy>)
}

pub(super) fn strategy(kind: &str) -> Option<Arc<dyn Strategy>> {
    Some(match kind {
        "ComponentStatus" => Arc::new(component_status::ComponentStatus),
        "ConfigMap" => Arc::new(config_map::ConfigMap),
        "Endpoints" => Arc::new(endpoints::Endpoints),
        "Event" => Arc::new(event::Event { strict: false }),
        "LimitRange" => Arc::new(limit_range::LimitRange),
        "Namespace" => Arc::new(namespace::Namespace),
        "Node" => Arc::new(node::Node),
        "PersistentVolume" => Arc::new(persistent_volume::PersistentVolume),
        "PersistentVolumeClaim" => Arc::new(persistent_volume_claim::PersistentVolumeClaim),
        "Pod" => Arc::new(pod::Pod),
        "PodTemplate" => Arc::new(pod_template::PodTemplate),
        "ReplicationController" => Arc::new(replication_controller::ReplicationController),
        "ResourceQuota" => Arc::new(resource_quota::ResourceQuota),
        "Secret" => Arc::new(secret::Secret),
        "Service" => Arc::new(service::Service),
        "ServiceAccount" => Arc::new(service_account::ServiceAccount),
        _ => return None,
    })
}
